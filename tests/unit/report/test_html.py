"""The page: whatever columns are called it stays one inert, offline, accessible document."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import pytest

from tabveil.records import Finding, Judgement, MarginalChart, Measurement, PrivacyStatement, Score
from tabveil.report import Report, _audit
from tabveil.report import html as renderer
from tabveil.schema import Schema

Build = Callable[..., dict[str, Any]]

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quotes' & <b>bold</b>",
    "emoji 🎉👩\u200d👧",
    "x" * 300,
    "שם עברי (סוגריים)",
    "a\u202eevil\u202c\u2066",
    "pipe|new\nline\ttab\x00",
    "{{ 7*7 }}{% raw %}",
    "]]></style></svg><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "' onmouseover='alert(1)",
)
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements in order, each with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def hostile(report: Build, statement: Callable[..., PrivacyStatement], schema: Callable[..., Schema]) -> Build:
    """A report in which everything that can be a stranger's text is one of HOSTILE."""

    def make(edition: str, text: str) -> dict[str, Any]:
        named = [dataclasses.replace(c, name=f"{text}{i}", note=text) for i, c in enumerate(schema().columns)]
        summary = {**schema().to_dict(), **Schema(columns=tuple(named), name=text, description=text).to_dict()}
        events = tuple({**e, "label": text[:200]} for e in statement().events)
        unit = f"person named by {text!r}"
        charts = (
            MarginalChart(text, "integer", ("0", "1"), (0.5, 0.5), (0.5, 0.5), (), (0, 1, 2)),
            MarginalChart(text, "categorical", (text, text + "!"), (0.5, 0.5), (0.4, 0.6), (0.4, 0.6)),
        )
        score = Score("m", text, 0.5, "max", 0.0, 1.0, {text: 0.5, "real": 0.6}, {f"worst: {text}": 0.1, text: 1.0})
        findings = (
            Finding("attribute", text, 0.5, (0.4, 0.6), 0.95, 0.3, 0.3, 1.0, text, threat_model=text, targets=text),
            Finding(
                "x", text, 0.5, (0.4, 0.6), 0.95, 0.3, 0.3, 1.0, "", false_alarms=(0.1, 1.0), recognised=(0.2, 1.0)
            ),
        )
        sizes = {"rows": 10.0, "unique_rows": 1.0, "rows_below_5": 2.0, "rows_below_11": 5.0}
        counted = Measurement("anonymity", "k-anonymity", "real", (text,), text, 2.0, "max", text, text, sizes)
        judged = [Judgement(name, "1", text, "not met", "anonymity", 1.0, 11.0, text, text) for name in ("wp29", text)]
        return report(
            edition,
            findings=findings,
            measurements=(counted,),
            judgements=judged,
            statement=statement(events=events, unit=unit, outside=(text,), dataset=text),
            schema_summary={**summary, "approved_by": text, "approved_on": "2026-01-01", "draft": False},
            charts=charts,
            scores=(score,),
            title=text,
            notes=(text,),
        )

    return make


@pytest.mark.parametrize("edition", ["internal", "release"])
@pytest.mark.parametrize("text", HOSTILE)
def test_a_strangers_text_is_text(hostile: Build, edition: str, text: str) -> None:
    """No element, no attribute, no style comes from it, and where it can be shown it is shown in full."""
    plain = Page(Report(hostile(edition, "plain")).html())
    page = Page(Report(hostile(edition, text)).html())
    assert page.open == plain.open == []
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(a) for _, a in page.elements] == [sorted(a) for _, a in plain.elements]
    assert not any(name.startswith("on") or name == "style" for _, a in page.elements for name in a)
    assert renderer._shown(text) in "".join(page.text)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", "".join(page.text))


@pytest.mark.parametrize("edition", ["internal", "release"])
def test_the_page_needs_nothing_and_runs_nothing(report: Build, edition: str) -> None:
    text = Report(report(edition)).html()
    page = Page(text)
    assert {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    } == set()
    assert re.findall(r"(?:https?:)?//[a-z]|url\(|@import|data:", text) == []
    hrefs = [a["href"] for _, a in page.elements if "href" in a]
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert hrefs
    assert all(h is not None and h.startswith("#") and h[1:] in ids for h in hrefs)
    assert not any("src" in a for _, a in page.elements)


def test_the_policy_allows_this_style_and_nothing_else(report: Build) -> None:
    for edition in ("internal", "release"):
        text = Report(report(edition)).html()
        policy = next(a["content"] for a in Page(text).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
        style = text.partition("<style>")[2].partition("</style>")[0]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        assert ' style="' not in text


def test_attacks_are_drawn_and_told(report: Build) -> None:
    """A leak is coloured; the curve's place follows its numbers; a threshold and the profile that asks it are named."""
    page = Report(report()).html()
    assert page.count('class="found"') == 2, "the legend and one attack"
    spots = _audit.curves(report()["findings"], report()["promise"])[0]["path"]
    assert spots == "M66.7 200.0L66.7 86.7L133.3 34.9L200.0 0.0"
    for said in ("cms-11: 11", "4.0 %, k = 3", "Somebody has the table.", "200 random rows", "The three questions"):
        assert said in page
    told = (
        "ROC curve of rows told apart: random rows: area 0.6200; at 1 % false alarms 0.0500 of members are recognised"
    )
    assert told in page


@pytest.mark.parametrize(
    ("low", "ceiling", "outcome"), [(1.5, 2.5, "contradicted"), (0.2, 2.5, "not contradicted"), (0, 0, "not answered")]
)
def test_what_is_claimed_is_judged_in_words_and_not_drawn(
    report: Build, low: float, ceiling: float, outcome: str
) -> None:
    numbers = (2.0, (low, math.inf), 0.95, 1.0, 0.3, ceiling, "Told so.")
    document = report(findings=(Finding("shadow", "what one row changes", *numbers, baseline_of="claim"),))
    assert _audit.intervals(document["findings"]) is None
    page = Report(document).html()
    assert "Is what is claimed contradicted?" in page
    assert re.findall(r'<span class="outcome [a-z-]+">([a-z ]+)</span></p><p class="small">Told so', page) == [outcome]
    assert '<br><span class="soft small">claimed</span>' in page
    assert "1 (claimed)" in Report(document).markdown()
    assert "Is what is claimed contradicted?" not in Report(report()).html()


def test_an_older_report_without_an_audit_is_shown(report: Build) -> None:
    document = report()
    del document["measurements"], document["judgements"]
    document["findings"] = [{k: v for k, v in f.items() if k in OLD} for f in document["findings"]]
    page = Report(document).html()
    assert "Exposed." in page
    assert "The three questions" not in page
    assert "Exposed." in Report(document).markdown()


OLD = ("auditor", "name", "value", "interval", "confidence", "baseline", "control", "ceiling", "verdict", "internal")
"""What a finding had before it said who attacks whom."""


def test_it_can_be_read_without_seeing_it(report: Build) -> None:
    page = Page(Report(report()).html())
    assert page.all("html")[0]["lang"] == "en"
    for drawing in page.all("svg"):
        assert drawing.get("role") == "img" or drawing.get("aria-hidden") == "true"
    assert len(page.all("title")) > len(page.all("svg")) / 2
    assert all(a.get("scope") in ("col", "row", "rowgroup") for a in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert len([level for level in levels if level == 2]) == 10
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_what_a_chart_shows_is_said_in_words(report: Build) -> None:
    text = "".join(Page(Report(report()).html()).text)
    assert "Fullest: F: synthetic 60.0 %, train 50.0 %." in text
    assert "distance to train 0.1000" in text
    assert "synthetic 10.0 % missing; train 10.0 % missing" in text
    assert "bins of unequal width" in text


@pytest.mark.parametrize(
    ("changed", "edition", "bands"),
    [
        ({}, "internal", ["INTERNAL"]),
        ({}, "release", ["RELEASE EDITION"]),
        ({"epsilon": math.inf}, "release", ["NOT PRIVATE"]),
        ({"release": False}, "internal", ["NOT A RELEASE", "INTERNAL"]),
    ],
)
def test_stamps_stand_first_and_last_and_on_every_printed_page(
    report: Build, statement: Callable[..., PrivacyStatement], changed: dict[str, Any], edition: str, bands: list[str]
) -> None:
    text = Report(report(edition, statement=statement(**changed))).html()
    body = text.partition("<body>")[2]
    assert re.findall(r'<div class="band[^>]*><div><strong>([A-Z ]+)</strong>', body) == bands * 2
    assert body.index(bands[0]) < body.index("<h1>")
    printed = re.findall(r'@page \{ @top-center \{ content: "([^"]*)"', text)
    assert printed == ([] if bands == ["RELEASE EDITION"] else [" · ".join(bands)])


def test_a_private_table_has_its_promise_and_a_public_one_has_none(
    report: Build, statement: Callable[..., PrivacyStatement]
) -> None:
    private = "".join(Page(Report(report("release")).html()).text)
    assert statement().sentence() in private
    assert "What no attack can exceed" in private
    public = "".join(Page(Report(report("release", statement=statement(epsilon=math.inf))).html()).text)
    assert "no privacy is promised" in public
    assert "What no attack can exceed" not in public
    assert "times as likely" not in public


def test_every_score_stands_beside_its_references(report: Build) -> None:
    page = Report(report()).html()
    row = next(r for r in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if "2-way total variation" in r)
    shown = re.sub(r"<[^>]+>", " ", row)
    positions = [shown.index(v) for v in ("lower", "0.0337", "0.0238", "holdout", "0.0205", "0.0777")]
    assert positions == sorted(positions)
    assert "from best to worst: bootstrap 0.0205, holdout 0.0238, synthetic 0.0337, independent 0.0777" in shown


def test_a_value_without_a_number_is_said_not_drawn(report: Build) -> None:
    page = Report(report()).html()
    row = next(r for r in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if "R2 for sex" in r)
    assert "not defined" in row
    assert "<circle" not in row


def test_a_missing_key_is_an_error_not_a_blank(report: Build) -> None:
    document = report()
    del document["promise"]["unit"]
    with pytest.raises(jinja2.UndefinedError):
        renderer.render(document)


# --------------------------------------------------------------------------------------------------------- contrast


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def _themes() -> list[dict[str, str]]:
    css = Path(renderer.__file__).with_name("templates").joinpath("style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    light, dark, printed = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", b)) for b in blocks)
    return [light, {**light, **dark}, {**light, **printed}]


@pytest.mark.parametrize("theme", range(3), ids=["light", "dark", "print"])
def test_contrast_is_aa(theme: int) -> None:
    """WCAG 2.1: 4.5 for text, 3 for lines and marks that carry meaning."""
    colours = _themes()[theme]
    for text in ("ink", "soft", "link"):
        for ground in ("page", "panel"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for band in ("grave", "amber", "plain"):
        assert _contrast(colours["on-band"], colours[band]) >= 4.5, band
    for mark in ("syn", "real", "hold", "floor"):
        assert _contrast(colours[mark], colours["page"]) >= 3, mark
