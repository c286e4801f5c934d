"""The Markdown: tables keep their shape and nothing a stranger wrote becomes markup."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from tabveil.records import Judgement, MarginalChart, Measurement, PrivacyStatement, Score
from tabveil.report import Report
from tabveil.report.markdown import escape

Build = Callable[..., dict[str, Any]]

HOSTILE = (
    "a|b",
    "new\nline",
    "<script>alert(1)</script>",
    "[x](javascript:1)",
    "`code`",
    "**b** _i_ # h",
    "\\|",
    "&lt;",
    "$x$",
)


def tables(text: str) -> list[list[str]]:
    blocks = [b.split("\n") for b in text.split("\n\n")]
    return [b for b in blocks if b[0].startswith("|")]


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) - 1


@pytest.mark.parametrize("text", HOSTILE)
def test_tables_keep_their_shape(report: Build, text: str) -> None:
    score = Score(text, text, 0.5, "max", 0.0, 1.0, {"real": 0.6})
    chart = MarginalChart(text, "categorical", (text,), (1.0,), (1.0,), ())
    counted = Measurement("anonymity", text, text, (text,), text, 2.0, "max", text, text)
    judged = Judgement(text, "1", text, "met", "anonymity", 1.0, None, text, text)
    given = {"scores": (score,), "charts": (chart,), "measurements": (counted,), "judgements": (judged,)}
    made = Report(report(**given, title=text, notes=(text,))).markdown()
    assert len(tables(made)) == 7
    for table in tables(made):
        assert len({cells(line) for line in table}) == 1, table
    assert "<" not in made.replace("&lt;", "")
    assert escape(text) in made


def test_escape() -> None:
    assert escape("a|b*c_d`e<f>&[g](h)\n#") == r"a\|b\*c\_d\`e&lt;f&gt;&amp;\[g\]\(h\)\\n\#"
    assert escape("see https://evil.example or www.evil") == "see https&#58;//evil.example or www&#46;evil"


@pytest.mark.parametrize("edition", ["internal", "release"])
def test_it_says_what_the_page_says(report: Build, statement: Callable[..., PrivacyStatement], edition: str) -> None:
    document = report(edition)
    made = Report(document).markdown()
    assert escape(statement().sentence()) in made
    assert [int(n) for n in re.findall(r"^## (\d+) ", made, re.MULTILINE)] == list(range(1, 11))
    for sentence in (*document["promise"]["meaning"], *document["limitations"]):
        assert escape(sentence) in made
    assert ("0.0337" in made) == (edition == "internal")
    assert ("withheld" in made) == (edition == "release")


def test_stamps_stand_first_and_last(report: Build, statement: Callable[..., PrivacyStatement]) -> None:
    made = Report(report(statement=statement(epsilon=math.inf))).markdown().strip()
    assert made.startswith("> **NOT PRIVATE.**")
    assert made.splitlines()[-1].startswith("> **INTERNAL.**")


def test_an_empty_report_is_whole_sentences(report: Build) -> None:
    made = Report(
        report("release", scores=(), findings=(), measurements=(), judgements=(), charts=(), provenance=None)
    ).markdown()
    for sentence in ("Utility was not measured.", "No attack was run", "No column was drawn.", "No record of how"):
        assert sentence in made
