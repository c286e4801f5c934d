"""Records in, one plain dict out: the report, of which HTML, Markdown and JSON are three ways to show it.

The dict has a published JSON Schema (`document.schema.json`, `json_schema()`), so that other tools may read it. Two
editions are made here and nowhere else: the release edition is built without anything that is INTERNAL, so that no
renderer, search or mistake can find it later.

Privacy: takes finished records, never rows. What was computed from real rows outside the budget (scores, findings,
real shares of a chart, bounds of a draft schema, seconds, notes of a measurement) is dropped from the release edition
at build time: releasing such figures undoes what differential privacy bought (Ganev and De Cristofaro 2023, arXiv
2312.05114).
"""

from __future__ import annotations

import copy
import html as escaping
import importlib.resources
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tabveil import _atomic
from tabveil.errors import UsageError
from tabveil.records import Finding, Judgement, MarginalChart, Measurement, PrivacyStatement, Provenance, Score
from tabveil.report import _ledger, _promise, html, markdown

Edition = Literal["internal", "release"]
Document = dict[str, Any]

VERSION = 1
"""Version of the dict, under the key `tabveil_report`."""

SHOWN_CATEGORIES = 12
"""Categories of a column that the schema table names; the rest is counted."""

WITHHELD = (
    "They were computed from real rows, outside any privacy budget. Whoever publishes them gives away more than was "
    "promised: outliers have been rebuilt from published similarity figures (Ganev and De Cristofaro 2023, arXiv "
    "2312.05114). They are in the internal edition."
)

OF_THE_PROMISE = (
    "The promise is about one {unit} being there or not. What holds for many people (a disease is common in a region, "
    "a job pays badly) is what the table is made to show, and can be concluded about somebody who is not in it too.",
    "The promise is about everything computed from what was charged. Other releases from the same rows count only if "
    "they were charged to the same account.",
    "The promise rests on what the schema declares being public knowledge, on the code doing what it says, and on "
    "nobody watching the computation itself (timing, memory, power).",
)
OF_THE_TABLE = (
    "Synthetic rows describe nobody. A row that looks like somebody's is chance or what the whole table suggests.",
    "Rare combinations are what privacy noise hides first: check small groups before drawing conclusions on them.",
)
NOT_PRIVATE = (
    "Nothing keeps a generator without privacy from repeating real rows.",
    "An attack that failed shows that this attack failed, and no more.",
)


def build(
    *,
    statement: PrivacyStatement,
    ledger: Mapping[str, Any] | None = None,
    schema_summary: Mapping[str, Any],
    provenance: Provenance | None = None,
    scores: Sequence[Score] = (),
    findings: Sequence[Finding] = (),
    measurements: Sequence[Measurement] = (),
    judgements: Sequence[Judgement] = (),
    charts: Sequence[MarginalChart] = (),
    edition: Edition,
    title: str = "",
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The report as a JSON-able dict.

    Args:
      statement: what is promised.
      ledger: the account as `Ledger.export` writes it, where one paid.
      schema_summary: `Schema.to_dict()`; a "digest" beside it is shown too.
      provenance: how the table came to be.
      scores: what was measured of utility, in the order to be shown.
      findings: what attacks found.
      measurements: what was counted of both tables.
      judgements: what profiles make of findings and measurements.
      charts: what each column looks like.
      edition: "internal" shows everything and says INTERNAL; "release" leaves out all that is internal.
      title: of the report; by default one is made from the schema's name.
      notes: sentences on what was not measured; internal, since why not may depend on rows.

    Raises:
      UsageError: no such edition.
    """
    if edition not in ("internal", "release"):
        raise UsageError("A report's edition must be internal or release.")
    shown = _Shown(edition, drafted=_drafted(schema_summary))
    return {
        "tabveil_report": VERSION,
        "title": title or f"Synthetic table {schema_summary.get('name', 'table')}: privacy and utility",
        "edition": edition,
        "stamps": _promise.stamps(statement, edition=edition),
        "promise": _promise.promise(statement),
        "budget": _promise.budget(statement),
        "ledger": None if ledger is None else _ledger.summary(ledger),
        "recompute": _ledger.recompute() if statement.events else [],
        "charts": [shown.chart(c) for c in charts if shown.may_show(c)],
        "utility": [s.to_dict() for s in scores if shown.all or not s.internal],
        "findings": [f.to_dict() for f in findings if shown.all or not f.internal],
        "measurements": [m.to_dict() for m in measurements if shown.all or not m.internal],
        "judgements": [j.to_dict() for j in judgements if shown.all or not j.internal],
        "withheld": shown.withheld(scores, (*findings, *measurements, *judgements), charts),
        "notes": list(notes) if shown.all else [],
        "schema": shown.schema(schema_summary),
        "provenance": None if provenance is None else shown.provenance(provenance),
        "limitations": _limitations(statement),
    }


def _limitations(statement: PrivacyStatement) -> list[str]:
    if not statement.private:
        return list(NOT_PRIVATE)
    return [*(sentence.format(unit=statement.unit) for sentence in OF_THE_PROMISE), *OF_THE_TABLE]


def _drafted(schema: Mapping[str, Any]) -> frozenset[str]:
    """Columns whose bounds or categories were read from rows."""
    return frozenset(c["name"] for c in schema.get("columns", ()) if c.get("source") == "draft")


class _Shown:
    """What an edition may show."""

    def __init__(self, edition: Edition, *, drafted: frozenset[str]) -> None:
        self.all = edition == "internal"
        self.drafted = drafted

    def may_show(self, chart: MarginalChart) -> bool:
        """Bins of a drafted column come from rows: a release has no chart of it."""
        return self.all or chart.column not in self.drafted

    def chart(self, chart: MarginalChart) -> dict[str, Any]:
        data = {k: v for k, v in chart.to_dict().items() if k != "internal"}
        for series in ("synthetic", "real", "holdout"):
            kept = self.all or series == "synthetic"
            data[series] = [round(share, 6) for share in data[series]] if kept else []
        return data

    def withheld(
        self,
        scores: Sequence[Score],
        findings: Sequence[Finding | Measurement | Judgement],
        charts: Sequence[MarginalChart],
    ) -> dict[str, Any] | None:
        """How many figures a release leaves out, and why; None where nothing is left out."""
        counts = {
            "scores": sum(s.internal for s in scores),
            "findings": sum(f.internal for f in findings),
            "charts": sum(bool(c.real or c.holdout) or c.column in self.drafted for c in charts),
        }
        return None if self.all or not any(counts.values()) else {**counts, "why": WITHHELD}

    def provenance(self, provenance: Provenance) -> dict[str, Any]:
        """A release does not say how long things took: that depends on the number of rows."""
        return provenance.to_dict() | ({} if self.all else {"seconds": {}})

    def schema(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        head = ("name", "description", "public_rows", "privacy_unit", "max_rows_per_unit", "target", "draft")
        return {
            **{key: schema.get(key) for key in (*head, "approved_by", "approved_on", "digest")},
            "columns": [self._column(c) for c in schema.get("columns", ())],
        }

    def _column(self, column: Mapping[str, Any]) -> dict[str, Any]:
        hidden = not self.all and column["name"] in self.drafted
        return {
            "name": column["name"],
            "kind": column["kind"],
            "domain": "withheld: read from rows, not declared" if hidden else _domain(column),
            "nullable": bool(column.get("missing")),
            "source": column.get("source", "declared"),
            "note": "" if hidden else column.get("note", ""),
        }


def _domain(column: Mapping[str, Any]) -> str:
    """What a column's values can be, in words."""
    if "categories" in column:
        return _listed([*column["categories"], *([column["catch_all"]] if column.get("catch_all") else [])])
    if column["kind"] == "identifier":
        return f"made up anew: {column.get('pattern', '')}"
    if "low" not in column:
        return "true or false"
    digits = column.get("decimals")
    step = column.get("resolution")
    detail = f", {digits} decimals" if digits is not None else f", every {step} s" if step not in (None, 1) else ""
    return f"{column['low']} to {column['high']}{detail}"


def _listed(categories: Sequence[str]) -> str:
    shown = ", ".join(categories[:SHOWN_CATEGORIES])
    more = len(categories) - SHOWN_CATEGORIES
    return f"{len(categories)}: {shown}" + (f" and {more} more" if more > 0 else "")


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every report obeys."""
    text = importlib.resources.files("tabveil.report").joinpath("document.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


class Report:
    """A report, ready to be shown or saved.

    Args:
      document: what `build` gave, or what was loaded from a report's JSON.

    Raises:
      UsageError: `document` is no report of this version.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        if not isinstance(document, Mapping) or document.get("tabveil_report") != VERSION:
            raise UsageError(f"This is no tabveil report of format {VERSION}.")
        self._document = copy.deepcopy(dict(document))

    def __repr__(self) -> str:
        return f"Report({self._document['edition']} edition)"

    @property
    def dict(self) -> Document:
        """The report as plain values, a copy."""
        return copy.deepcopy(self._document)

    def html(self) -> str:
        """One HTML page that needs no network, no script and no other file."""
        return html.render(self._document)

    def markdown(self) -> str:
        """The report as Markdown, without charts."""
        return markdown.render(self._document)

    def json(self) -> str:
        """The report as indented JSON, for other tools."""
        return json.dumps(self._document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as the suffix says (.html, .md or .json), whole or not at all.

        Raises:
          UsageError: another suffix.
          StorageError: the file cannot be written.
        """
        makers = {".html": self.html, ".htm": self.html, ".md": self.markdown, ".json": self.json}
        suffix = Path(path).suffix.lower()
        if suffix not in makers:
            raise UsageError("A report is saved as .html, .md or .json: name the file accordingly.")
        _atomic.write_text(path, makers[suffix]())

    def _repr_html_(self) -> str:
        """For notebooks: the page in a frame of its own, where its styles stay."""
        page = escaping.escape(self.html(), quote=True)
        return f'<iframe sandbox srcdoc="{page}" title="tabveil report" width="100%" height="900"></iframe>'
