"""The report as Markdown: the same dict, tables instead of drawings.

Every text is escaped, so that a column name can neither end a table cell nor smuggle in markup or HTML.

Privacy: shows the dict it is given and nothing else; the edition was decided when that was built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabveil.report import _audit, _draw, _view
from tabveil.report._text import brief, number, percent, rounded_up, visible

Document = Mapping[str, Any]

_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~$])")

_LINKS = re.compile(r"://|www\.", re.IGNORECASE)


def escape(text: Any) -> str:
    """`text` so that Markdown shows it as it is, on one line."""
    plain = visible(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LINKS.sub(lambda m: m[0].replace(":", "&#58;").replace(".", "&#46;"), _MARKS.sub(r"\\\1", plain))


def render(document: Document) -> str:
    """The Markdown text for a report dict.

    Args:
      document: what `document.build` gave.
    """
    parts = [
        _head(document),
        _promise(document),
        _outside(document),
        _budget(document),
        _account(document),
        _columns(document),
        _utility(document),
        _attacks(document),
        _schema(document),
        _made(document),
        ["## 10 Limitations", *_bullets(document["limitations"])],
        [_stamps(document)],
    ]
    return "\n\n".join(block for part in parts for block in part if block) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """A table of escaped cells; columns in `right` are numbers."""
    lines = [heads, ["---:" if i in right else "---" for i in range(len(heads))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bullets(sentences: Iterable[str]) -> list[str]:
    return ["\n".join(f"- {escape(s)}" for s in sentences)]


def _pairs(pairs: Iterable[tuple[str, Any]]) -> str:
    return "\n".join(f"- {name}: {escape(value)}" for name, value in pairs if value not in (None, ""))


def _stamps(document: Document) -> str:
    lines = [f"**{escape(s['text'])}.** {escape(s['why'])}" for s in document["stamps"]]
    release = "**RELEASE EDITION.** Holds no figure that was computed from real rows outside the privacy budget."
    return "\n>\n".join(f"> {line}" for line in lines or [release])


def _head(document: Document) -> list[str]:
    made = document["provenance"]
    about = [f"{document['edition'].capitalize()} edition"]
    if made:
        about += [f"generator {made['generator']}", f"{number(made['rows'])} synthetic rows", made["created"]]
    return [_stamps(document), f"# {escape(document['title'])}", escape(" · ".join(about))]


def _promise(document: Document) -> list[str]:
    promise = document["promise"]
    head = ["## 1 What is promised", f"**{escape(promise['sentence'])}**"]
    if not promise["private"]:
        return head
    facts = [
        ("epsilon", rounded_up(promise["epsilon"])),
        ("delta", rounded_up(promise["delta"])),
        ("protected unit", f"one {promise['unit']}"),
        ("neighbouring tables", promise["relation_in_words"]),
        ("accountant", promise["accountant"]),
        ("theorem", promise["theorem"]),
    ]
    return [*head, _pairs(facts), "What that means:", *_bullets(promise["meaning"])]


def _outside(document: Document) -> list[str]:
    sentences = [] if document["promise"]["private"] else ["Anything: no privacy is promised for this table."]
    sentences += document["promise"]["outside"]
    if document["edition"] == "internal":
        sentences.append("This edition: its figures on columns, utility and attacks were computed from real rows.")
    return ["## 2 What is not promised", *_bullets(sentences)]


def _budget(document: Document) -> list[str]:
    budget = document["budget"]
    if not budget["events"]:
        return ["## 3 Where the budget went", "No event was charged."]
    rows = [
        [escape(e["label"]), escape(e["mechanism"]), escape(e["parameters"]), number(e["count"]), percent(e["share"])]
        for e in budget["events"]
    ]
    basis = "Shares of rho (zCDP), which adds up." if budget["basis"] == "rho" else "Shares by number of events."
    check = ""
    if budget["hand_check"] is not None:
        check = (
            f"Check by hand: the events add up to rho = {rounded_up(budget['rho'])}; rho + 2 √(rho · ln(1/delta)) "
            f"gives epsilon ≤ {rounded_up(budget['hand_check'], digits=4)}."
        )
    heads = ["for", "mechanism", "parameters", "times", "share"]
    return ["## 3 Where the budget went", basis, _table(heads, rows, right=frozenset({3, 4})), check]


def _account(document: Document) -> list[str]:
    ledger = document["ledger"]
    head = ["## 4 The account"]
    if ledger is None:
        head.append("No account paid for this table.")
    else:
        cap = [("cap: epsilon", ledger["cap"]), ("spent: epsilon", ledger["spent"])]
        amounts = [(name, rounded_up(value)) for name, value in cap if value is not None]
        head.append(_pairs([("account", ledger["dataset"]), *amounts, ("hash of the newest entry", ledger["head"])]))
        rows = [
            [escape(e["number"]), escape(e["at"]), escape(e["kind"]), escape(e["label"]), escape(e["hash"])]
            for e in ledger["entries"]
        ]
        head += [escape(sentence) for sentence in ledger["caveats"]]
        head.append(_table(["no.", "when", "what", "label", "hash"], rows) if rows else "")
    steps = [f"{i}. {escape(s['text'])} `{s['command']}`" for i, s in enumerate(document["recompute"], 1)]
    return [*head, "\n".join(s.removesuffix(" ``") for s in steps)]


def _withheld(document: Document, what: str, words: str) -> str:
    withheld = document["withheld"]
    count = withheld[what] if withheld else 0
    return f"> **{number(count)} {words} withheld.** {escape(withheld['why'])}" if count else ""


def _columns(document: Document) -> list[str]:
    rows = [
        [escape(c["column"]), escape(c["kind"]), _fullest(c), _distance(c, "real"), _distance(c, "holdout")]
        for c in document["charts"]
    ]
    heads = ["column", "kind", "fullest bins of the synthetic table", "distance to train", "distance to holdout"]
    table = _table(heads, rows, right=frozenset({3, 4})) if rows else "No column was drawn."
    return ["## 5 Columns", _withheld(document, "charts", "comparisons with real rows"), table]


def _fullest(chart: Mapping[str, Any]) -> str:
    order = sorted(range(len(chart["labels"])), key=lambda i: -chart["synthetic"][i])[:3]
    return "; ".join(f"{escape(chart['labels'][i])} {percent(chart['synthetic'][i])}" for i in order)


def _distance(chart: Mapping[str, Any], name: str) -> str:
    away = _draw.distance(chart, name)
    return "–" if away is None else number(away)


def _utility(document: Document) -> list[str]:
    scores = document["utility"]
    blocks = ["## 6 Utility", _withheld(document, "scores", "utility figures")]
    if scores:
        names = _view.references(scores)
        heads = ["measure", "better", "synthetic", *(_view.REFERENCES.get(n, n) for n in names)]
        right = frozenset(range(2, len(heads)))
        blocks.append("\n".join(f"- {_view.REFERENCES.get(n, n)}: {_view.EXPLAINED.get(n, '')}" for n in names))
        for metric, of_metric in _view.metrics(document).items():
            rows = [_score(s, names) for s in of_metric]
            blocks += [f"### {escape(_view.title_case(metric))}", _table(heads, rows, right=right)]
    elif not blocks[1]:
        blocks.append("Utility was not measured.")
    return [*blocks, *(escape(n) for n in document["notes"])]


def _score(score: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    given = score["references"]
    values = [number(given[n]) if n in given else "–" for n in names]
    return [escape(score["name"]), "lower" if score["goal"] == "min" else "higher", number(score["value"]), *values]


def _attacks(document: Document) -> list[str]:
    blocks = ["## 7 Attacks", _withheld(document, "findings", "attack results")]
    rows = [
        [
            escape(f"{f['auditor']}: {f['name']}"),
            number(f["value"]),
            f"{' to '.join(number(e) for e in f['interval'])} ({brief(100 * f['confidence'])} %)",
            number(f["baseline"]) + (" (claimed)" if _audit.claimed(f) else ""),
            *(number(f[k]) for k in ("control", "ceiling")),
            escape(f["verdict"]),
        ]
        for f in document["findings"]
    ]
    heads = ["attack", "result", "interval", "baseline", "control", "ceiling", "verdict"]
    if rows:
        by = _audit.groups(document["findings"], "auditor")
        said = [f"{name}: {' '.join(_audit.about(found))}" for name, found in by.items()]
        blocks += [_table(heads, rows, right=frozenset(range(1, 6))), *_bullets(said)]
    elif not blocks[1]:
        blocks.append("No attack was run on this table.")
    return [*blocks, *_judged(document), *_counted(document)]


def _judged(document: Document) -> list[str]:
    """What each profile makes of the numbers."""
    blocks = []
    for name, judgements in _audit.groups(document.get("judgements", []), "profile").items():
        rows = [
            [
                escape(j["requirement"]),
                j["outcome"],
                *("–" if j[k] is None else number(j[k]) for k in ("value", "threshold")),
                escape(j["sentence"]),
                escape(j["citation"]),
            ]
            for j in judgements
        ]
        heads = ["asked", "outcome", "number", "threshold", "why", "by whom"]
        blocks += [f"### Profile {escape(name)}", _table(heads, rows, right=frozenset({2, 3}))]
    return blocks


def _counted(document: Document) -> list[str]:
    """What was counted, by table."""
    blocks = []
    for table, entries in _audit.groups(document.get("measurements", []), "table").items():
        rows = [
            [
                escape(m["name"]),
                "lower" if m["goal"] == "min" else "higher",
                escape(", ".join(m["columns"])),
                escape(m["sensitive"] or "–"),
                number(m["value"]),
            ]
            for m in entries
        ]
        heads = ["measure", "protects more", "known columns", "sensitive", "value"]
        blocks += [f"### Anonymity: {escape(table)}", _table(heads, rows, right=frozenset({4}))]
    return blocks


def _schema(document: Document) -> list[str]:
    schema = document["schema"]
    rows_ = schema["public_rows"]
    facts = [
        ("table", schema["name"]),
        ("description", schema["description"]),
        ("rows", "private" if rows_ is None else f"{number(rows_)}, declared public"),
        ("protected unit", schema["privacy_unit"] and f"whoever {schema['privacy_unit']} names"),
        ("target", schema["target"]),
        ("approved by", schema["approved_by"]),
        ("SHA-256", schema["digest"]),
    ]
    draft = "**This schema is a draft: nobody has approved it.**" if schema["draft"] else ""
    rows = [
        [escape(c["name"]), escape(c["kind"]), escape(c["domain"]), "yes" if c["nullable"] else "no", c["source"]]
        for c in schema["columns"]
    ]
    heads = ["column", "kind", "values", "may be missing", "source"]
    return ["## 8 Schema", draft, _pairs(facts), _table(heads, rows)]


def _made(document: Document) -> list[str]:
    made = document["provenance"]
    if made is None:
        return ["## 9 How it was made", "No record of how the table was made came with this report."]
    software = [
        f"tabveil {made['tabveil']}",
        f"Python {made['python']}",
        *(f"{n} {v}" for n, v in made["packages"].items()),
    ]
    facts = [
        ("generator", made["generator"]),
        ("options", ", ".join(f"{k} = {v}" for k, v in made["options"].items())),
        ("made", made["created"]),
        ("software", ", ".join(software)),
        ("seconds", ", ".join(f"{k} {brief(v)}" for k, v in made["seconds"].items())),
    ]
    return ["## 9 How it was made", _pairs(facts)]
