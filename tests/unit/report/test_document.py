"""The dict: obeys its published schema, and a release edition holds nothing that is internal."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tabveil import _atomic
from tabveil.errors import StorageError, UsageError
from tabveil.ledger import Ledger
from tabveil.records import Finding, Judgement, MarginalChart, Measurement, PrivacyStatement, Provenance, Score
from tabveil.report import Report, build, json_schema
from tabveil.schema import Schema

Build = Callable[..., dict[str, Any]]


def check(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(json.dumps(document, allow_nan=False)))


def test_the_published_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("edition", ["internal", "release"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"scores": (), "findings": (), "charts": (), "notes": (), "provenance": None},
        {"schema_summary": {"name": "bare", "columns": []}},
    ],
)
def test_reports_obey_it(report: Build, edition: str, changed: dict[str, Any]) -> None:
    check(report(edition, **changed))


def test_what_is_not_private_obeys_it_too(report: Build, statement: Callable[..., PrivacyStatement]) -> None:
    for changed in ({"epsilon": math.inf, "delta": 0.0, "events": (), "dataset": None}, {"release": False}):
        for edition in ("internal", "release"):
            made = report(edition, statement=statement(**changed))
            check(made)
            assert made["stamps"][0]["text"] in ("NOT PRIVATE", "NOT A RELEASE")


def test_the_schema_refuses_an_internal_figure_in_a_release(report: Build) -> None:
    internal, release = report("internal"), report("release")
    for key in ("utility", "findings", "measurements", "judgements", "charts", "notes", "provenance"):
        with pytest.raises(jsonschema.ValidationError):
            check({**release, key: internal[key]})
    with pytest.raises(jsonschema.ValidationError):
        check({**internal, "stamps": []})


# ----------------------------------------------------------------------------------------------------------- editions

SENTINEL = 0.7391846
TRACES = ("0.7392", "73.9 %", "7391846", "73.91846", "SECRET")


def planted() -> dict[str, Any]:
    """Internal records that carry the sentinel in every field that can hold a number or a sentence."""
    return {
        "scores": (
            Score("m", "SECRET name", SENTINEL, "min", 0.0, 1.0, {"real": SENTINEL}, {"worst: SECRET": SENTINEL}),
            Score("m", "public size", 0.25, "max", 0.0, 1.0, internal=False),
        ),
        "findings": (
            Finding("a", "SECRET", *(SENTINEL, (SENTINEL,), 0.95), *(SENTINEL,) * 3, "SECRET verdict"),
            Finding(
                *("b", "SECRET", SENTINEL, (SENTINEL, SENTINEL), 0.95, SENTINEL, SENTINEL, SENTINEL, "SECRET"),
                threat_model="SECRET",
                targets="SECRET",
                cost="SECRET",
                false_alarms=(SENTINEL,),
                recognised=(SENTINEL,),
            ),
        ),
        "measurements": (
            Measurement(
                *("anonymity", "k-anonymity", "SECRET table", ("SECRET",), "SECRET", SENTINEL, "max", "SECRET"),
                source="SECRET",
                details={"rows": 10 * SENTINEL, "unique_rows": SENTINEL, "rows_below_11": SENTINEL, "SECRET": SENTINEL},
                notes=("SECRET",),
            ),
        ),
        "judgements": (
            Judgement("wp29", "1", "SECRET", "not met", "a", SENTINEL, SENTINEL, "SECRET", "SECRET", ("SECRET",)),
            Judgement("mine", "1", "SECRET", "not answered", "anonymity", SENTINEL, None, "SECRET", "SECRET"),
        ),
        "charts": (
            MarginalChart(
                "age", "integer", ("0", "1"), (0.5, 0.5), (SENTINEL, 1 - SENTINEL), (SENTINEL,) * 2, (0, 1, 2)
            ),
            MarginalChart("sex", "categorical", ("F",), (0.5,), (SENTINEL,), ()),
        ),
        "notes": ("SECRET note",),
        "provenance": Provenance("0.1.0", "3.11", {}, "mst", {}, {"SECRET fit": SENTINEL}, "2026-11-21", 10),
    }


def shown(document: dict[str, Any]) -> str:
    made = Report(document)
    return "\n".join([made.html(), made.markdown(), made.json(), made._repr_html_(), repr(made), json.dumps(document)])


def test_an_internal_figure_is_nowhere_in_a_release(report: Build) -> None:
    text = shown(report("release", **planted()))
    assert [trace for trace in TRACES if trace in text] == []
    assert "public size" in text


def test_the_same_figures_are_all_over_the_internal_edition(report: Build) -> None:
    text = shown(report("internal", **planted()))
    assert [trace for trace in TRACES if trace not in text] == ["73.91846"]


def test_a_release_says_how_much_it_withholds_and_why(report: Build) -> None:
    made = report("release", **planted())
    assert made["withheld"] == {"scores": 1, "findings": 5, "charts": 2, "why": made["withheld"]["why"]}
    page = Report(made).html()
    assert "1 utility figures withheld." in page
    assert "5 attack results withheld." in page
    assert "2 comparisons with real rows withheld." in page
    assert "2312.05114" in page
    assert "Utility was not measured" not in page
    assert report("internal", **planted())["withheld"] is None
    assert report("release", scores=(), findings=(), measurements=(), judgements=(), charts=())["withheld"] is None


def test_a_release_says_nothing_of_a_draft_that_was_read_from_rows(
    report: Build, schema: Callable[..., Schema]
) -> None:
    """Bounds and categories of a drafted column are rows in disguise; so are the bins of its chart."""
    made = schema()
    columns = [
        dataclasses.replace(c, source="draft", note="SECRET range") if c.name == "age" else c for c in made.columns
    ]
    summary = dataclasses.replace(made, columns=tuple(columns), draft=True).to_dict()
    charts = (MarginalChart("age", "integer", ("SECRET",), (SENTINEL,), (), (), (0, 1), internal=False),)
    text = shown(report("release", schema_summary=summary, charts=charts, scores=(), findings=()))
    assert [trace for trace in (*TRACES, "0 to 120") if trace in text] == []
    assert "withheld: read from rows" in text
    assert "0 to 120" in shown(report("internal", schema_summary=summary))


def test_an_edition_must_be_one_of_two(report: Build) -> None:
    with pytest.raises(UsageError, match="internal or release"):
        report("public")


# -------------------------------------------------------------------------------------------------------------- parts


def test_the_schema_in_words(report: Build) -> None:
    domains = {c["name"]: c["domain"] for c in report()["schema"]["columns"]}
    assert domains["id"] == "made up anew: P{n:06d}"
    assert domains["age"] == "0 to 120"
    assert domains["weight"] == "0.0 to 300.0, 1 decimals"
    assert domains["sex"] == "3: F, M, other"
    assert domains["smoker"] == "true or false"
    assert domains["visit"] == "2020-01-01 to 2025-12-31"
    assert domains["code"].startswith("500: c0, c1,")
    assert domains["code"].endswith("c11 and 488 more")


def test_a_real_account(report: Build, statement: Callable[..., PrivacyStatement]) -> None:
    from tabveil.accounting import Spend

    made = statement()
    ledger = Ledger(":memory:")
    ledger.open("patients-2026", epsilon=3.0, delta=1e-6)
    ledger.charge("patients-2026", [Spend.from_dict(e) for e in made.events], label="mst fit")
    with ledger.reserve("patients-2026", [Spend.from_dict(made.events[0])], label="gave up"):
        pass
    ledger.record("patients-2026", label="ctgan, not private")
    export = ledger.export("patients-2026")
    document = report("release", ledger=export)
    check(document)
    account = document["ledger"]
    assert (account["cap"], account["delta"], account["charges"]) == (3.0, 1e-6, 1)
    assert account["spent"] == ledger.statement("patients-2026").epsilon
    assert account["head"] == export["head"] == account["entries"][-1]["hash"]
    kinds = [(e["kind"], e["label"], e["events"]) for e in account["entries"]]
    times = sum(e["count"] for e in made.events)
    assert kinds == [
        ("opened", "", 0),
        ("reserved", "mst fit", 0),
        ("charged", "mst fit", times),
        ("reserved", "gave up", 0),
        ("given back, unread", "gave up", 0),
        ("run without a promise", "ctgan, not private", 0),
    ]
    page = Report(document).html()
    assert all(f'title="{e["hash"]}"' in page for e in account["entries"])
    assert "ctgan, not private" in Report(document).markdown()


def test_an_account_of_another_shape_is_shown_as_far_as_it_goes(report: Build) -> None:
    document = report("release", ledger={"entries": [{"seq": 0, "hash": "ab"}, {}]})
    check(document)
    assert Report(document).html()
    assert Report(document).markdown()


def test_a_title_is_made_where_none_is_given(report: Build) -> None:
    assert report()["title"] == "Synthetic table patients: privacy and utility"
    assert report(title="Own")["title"] == "Own"


# ------------------------------------------------------------------------------------------------------------- Report


def test_json_there_and_back_shows_the_same(report: Build) -> None:
    for edition in ("internal", "release"):
        made = Report(report(edition))
        again = Report(json.loads(made.json()))
        assert again.dict == made.dict
        assert again.html() == made.html()
        assert again.markdown() == made.markdown()


def test_a_report_is_a_copy(report: Build) -> None:
    document = report()
    made = Report(document)
    document["title"] = "changed"
    made.dict["title"] = "changed"
    assert made.dict["title"] != "changed"


def test_what_is_no_report_is_refused() -> None:
    for wrong in ({}, {"tabveil_report": 2}, [], None):
        with pytest.raises(UsageError, match="no tabveil report"):
            Report(wrong)


def test_save_by_suffix(report: Build, tmp_path: Path) -> None:
    made = Report(report())
    for name, text in (("r.html", made.html()), ("r.MD", made.markdown()), ("r.json", made.json())):
        made.save(tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8") == text
    with pytest.raises(UsageError, match="\\.html, \\.md or \\.json"):
        made.save(tmp_path / "r.pdf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.MD", "r.html", "r.json"]


def test_a_full_disk_leaves_the_old_report(report: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_atomic.os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        Report(report()).save(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_a_notebook_gets_a_frame_that_runs_nothing(report: Build) -> None:
    frame = Report(report())._repr_html_()
    assert frame.startswith('<iframe sandbox srcdoc="&lt;!DOCTYPE html&gt;')
    assert frame.count("<") == frame.count(">") == 2


def test_reports_need_neither_pandas_nor_numpy() -> None:
    code = (
        "import sys, tabveil.report; print([m for m in ('numpy', 'pandas', 'sklearn', 'pyarrow') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert found.stdout.strip() == "[]"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_build_takes_what_stages_give(
    statement: Callable[..., PrivacyStatement], schema: Callable[..., Schema]
) -> None:
    made = build(statement=statement(), schema_summary=schema().to_dict(), edition="release")
    check(made)
    assert Report(made).html().startswith("<!DOCTYPE html>")
