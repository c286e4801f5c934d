"""Every command, as a person and as a script uses it."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tabveil
from e2e.conftest import ROWS, SCHEMA, Desk, Outcome, people
from tabveil import _demo, auditing, errors, pipeline
from tabveil._cli_output import EXIT_CODES
from tabveil.audit.shadow import Shadow
from tabveil.cli import app
from tabveil.generators import generators
from tabveil.refitting import Refitting
from tabveil.schema import Schema

COMMANDS = [
    (),
    ("demo",),
    ("plan",),
    ("synthesize",),
    ("sample",),
    ("impute",),
    ("evaluate",),
    ("audit",),
    ("auditors",),
    ("report",),
    ("verify",),
    ("generators",),
    ("schema",),
    ("schema", "draft"),
    ("schema", "approve"),
    ("schema", "show"),
    ("schema", "check"),
    ("ledger",),
    ("ledger", "open"),
    ("ledger", "show"),
    ("ledger", "verify"),
    ("ledger", "export"),
    ("ledger", "list"),
    ("env",),
    ("env", "list"),
    ("env", "create"),
    ("env", "remove"),
]
DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


# ----------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_a_place_in_the_docs(desk: Desk, command: tuple[str, ...]) -> None:
    outcome = desk.run(*command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Usage: tabveil" in outcome.out
    if command and command[-1] not in ("schema", "ledger", "env"):
        assert "--json" in outcome.out
        assert f"tabveil {' '.join(command)}" in DOCS.read_text(encoding="utf-8")


def test_the_exit_codes_of_the_help_and_the_docs_are_those_of_the_errors(desk: Desk) -> None:
    own = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.TabveilError)}
    codes = {0, 1, *own, errors.INTERRUPTED_EXIT_CODE, errors.INTERNAL_EXIT_CODE}
    assert {int(n) for n in re.findall(r"(?:^|: |· |\n)(\d+) ", EXIT_CODES)} == codes
    assert {int(n) for n in re.findall(r"^\| (\d+) \|", DOCS.read_text(encoding="utf-8"), re.M)} == codes
    assert "130 interrupted" in " ".join(desk.run("--help").out.split())


def test_help_is_there_at_once() -> None:
    """Half a second on an idle machine; what is asserted is that no library of the pipeline is loaded."""
    script = (
        "import sys; from tabveil.cli import app; from tabveil._cli_output import run; run(app, ['--help']);"
        "sys.exit(sum(m in sys.modules for m in ('numpy', 'pandas', 'pyarrow', 'sqlalchemy', 'opendp', 'sklearn')))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0
    assert time.monotonic() - start < 5


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_without_a_command_the_help_is_shown(desk: Desk) -> None:
    outcome = desk.run()
    assert outcome.code == 0
    assert "synthesize" in outcome.out


def test_the_version(desk: Desk) -> None:
    assert desk.run("--version").out == f"tabveil {tabveil.__version__}\n"


@pytest.mark.parametrize("arguments", [("nosuch",), ("schema",), ("ledger", "nosuch"), ("verify",), ("--nosuch",)])
def test_what_cannot_be_parsed_is_one_line(desk: Desk, arguments: tuple[str, ...]) -> None:
    outcome = desk.run(*arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith("tabveil: ")


def test_as_a_module_with_its_real_exit_code(desk: Desk) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tabveil", "verify", "nosuch"], env=_environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("tabveil: ")


# ----------------------------------------------------------------------------------------------------------------- plan


def plan(desk: Desk, *more: str, **changed: str) -> Outcome:
    """`tabveil plan` as it works on the desk, unless something is changed; "" leaves an option out."""
    given = {"schema": "schema.yaml", "epsilon": "1", "delta": "1e-5", **changed}
    return desk.run("plan", *[part for k, v in given.items() if v for part in (f"--{k}", v)], *more)


@pytest.mark.parametrize("name", generators.names())
def test_a_plan_says_the_price_of_every_generator_without_a_table(desk: Desk, name: str) -> None:
    if name in ("tvae", "ctgan", "pretrained_lm"):
        pytest.importorskip("torch", reason="the extra deep is not installed")
    (desk.folder / "table.csv").unlink()
    outcome = plan(desk, "--no-time", "--json", generator=name)
    assert (outcome.code, outcome.err, outcome.left) == (0, "", frozenset())
    assert 0 < outcome.json["cost"] <= 1
    assert outcome.json["generator"] == name
    assert outcome.json["rows"] == ROWS
    assert {"label", "count", "mechanism", "noise", "rate", "signal", "event"} == set(outcome.json["spends"][0])
    assert desk.entries() == ["open"]


def test_a_plan_is_what_the_fit_then_costs(desk: Desk) -> None:
    planned = plan(desk, "--json", "--no-time", generator="independent").json
    paid = desk.synthesize("--json").json["statement"]
    assert planned["cost"] == paid["epsilon"]
    assert [s["event"]["type"] for s in planned["spends"]] == [e["type"] for e in paid["events"]]


def test_a_plan_tells_a_person_what_to_do(desk: Desk) -> None:
    outcome = plan(desk, generator="independent")
    assert outcome.code == 0
    for words in ("Charged before a row is read", "counts of 'age'", "Gaussian", "Time: about", "made-up rows"):
        assert words in outcome.out
    small = plan(desk, "--no-time", epsilon="0.01")
    assert small.code == 0
    assert "Too little to learn from" in small.out
    assert "give it an epsilon of about" in " ".join(small.out.split())
    assert plan(desk, "--no-time", "--json", epsilon="0.01").json["enough"] is False
    open_ended = plan(desk, epsilon="inf", delta="", generator="independent")
    assert "NOT PRIVATE" in open_ended.out
    assert plan(desk, "--json", "--no-time", epsilon="inf", delta="").json["cost"] == "inf"
    assert "chooses" in plan(desk, "--no-time", generator="auto").out


def test_a_plan_without_a_public_row_count(desk: Desk) -> None:
    desk.schema(SCHEMA.replace(f"public_rows: {ROWS}\n", ""))
    silent = plan(desk, "--json", generator="independent").json
    assert (silent["rows"], silent["enough"], silent["seconds"]) == (None, None, None)
    assumed = plan(desk, "--json", "--rows", "5000", generator="independent").json
    assert (assumed["rows"], assumed["rows_are"], assumed["enough"]) == (5000, "assumed", True)
    assert assumed["seconds"] > 0
    assert assumed["cost"] == silent["cost"]


@pytest.mark.parametrize(
    ("changed", "more", "code", "words"),
    [
        ({"epsilon": "-1"}, (), 2, "above 0"),
        ({"epsilon": "nan"}, (), 2, "above 0"),
        ({"delta": ""}, (), 2, "delta must be given"),
        ({"delta": "0.5"}, (), 2, "1 / public_rows"),
        ({"delta": "0", "generator": "tvae"}, (), 2, "delta above 0"),
        ({"generator": "nosuch"}, (), 2, "choose one of"),
        ({"schema": "nosuch.yaml"}, (), 3, "nosuch.yaml"),
        ({}, ("--rows", "7"), 2, "another row count"),
        ({}, ("--rows", "many"), 2, "integer"),
        ({}, ("--option", "nosuch=1"), 2, "no option nosuch"),
        ({}, ("--option", "cells"), 2, "NAME=VALUE"),
        ({}, ("table.csv",), 2, "unexpected"),
    ],
)
def test_what_a_plan_refuses_is_one_line(
    desk: Desk, changed: dict[str, str], more: tuple[str, ...], code: int, words: str
) -> None:
    outcome = plan(desk, *more, **changed)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, "", 1), outcome.err
    assert outcome.err.startswith("tabveil: ")
    assert words in outcome.err


def test_a_plan_under_a_draft_is_refused(desk: Desk) -> None:
    desk.run("schema", "draft", "table.csv", "-o", "draft.yaml")
    outcome = plan(desk, schema="draft.yaml")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (3, "", 1)
    assert plan(desk, schema="draft.yaml", epsilon="inf", delta="", generator="independent").code == 0


# -------------------------------------------------------------------------------------------------------------- schemas


def test_from_a_draft_to_a_release(desk: Desk) -> None:
    drafted = desk.run("schema", "draft", "table.csv", "-o", "new.yaml", "--json")
    assert drafted.code == 0
    assert "READ FROM THE ROWS" in drafted.err
    assert drafted.json == {"file": "new.yaml", "name": "table", "columns": 3, "draft": True}
    assert "(DRAFT)" in desk.run("schema", "show", "new.yaml").out
    assert "draft" in desk.run("schema", "check", "new.yaml").err
    approved = desk.run("schema", "approve", "new.yaml", "--by", "A. Curator", "--json")
    assert approved.json["approved_by"] == "A. Curator"
    assert approved.json["digest"] == Schema.from_yaml(desk.folder / "new.yaml").digest
    assert desk.synthesize(schema="new.yaml").code == 0


def test_a_draft_never_replaces_a_file_unasked(desk: Desk) -> None:
    outcome = desk.run("schema", "draft", "table.csv", "-o", "schema.yaml")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert (desk.folder / "schema.yaml").read_text() == SCHEMA
    assert desk.run("schema", "draft", "table.csv", "-o", "schema.yaml", "--force", "--name", "them").code == 0
    assert Schema.from_yaml(desk.folder / "schema.yaml").name == "them"


def test_approval_can_go_to_another_file(desk: Desk) -> None:
    desk.run("schema", "draft", "table.csv", "-o", "draft.yaml")
    assert desk.run("schema", "approve", "draft.yaml", "--by", "A", "-o", "final.yaml").code == 0
    assert Schema.from_yaml(desk.folder / "draft.yaml").draft
    assert not Schema.from_yaml(desk.folder / "final.yaml").draft


def test_showing_a_schema(desk: Desk) -> None:
    shown = desk.run("schema", "show", "schema.yaml").out
    for words in ("protects each row", "0 to 99", "3 categories", "public row count 200", "never"):
        assert words in shown
    assert Schema.from_dict(desk.run("schema", "show", "schema.yaml", "--json").json).names == (
        "age",
        "color",
        "income",
    )


def test_checking_a_schema_and_a_table(desk: Desk) -> None:
    assert desk.run("schema", "check", "schema.yaml", "table.csv", "--values").code == 0
    desk.write(desk.frame.assign(color="purple"))
    assert desk.run("schema", "check", "schema.yaml", "table.csv", "--json").json["checks"][-1].endswith("its columns")
    assert desk.run("schema", "check", "schema.yaml", "table.csv", "--values").code == 4
    desk.schema(SCHEMA.replace("high: 99", "high: -1"))
    assert desk.run("schema", "check", "schema.yaml").code == 3


# --------------------------------------------------------------------------------------------------------------- tables


@pytest.fixture
def sources(desk: Desk) -> dict[str, tuple[str, ...]]:
    """The table in every form that is read: table argument and further options."""
    import sqlalchemy as sa

    (desk.folder / "table.csv.gz").write_bytes(gzip.compress((desk.folder / "table.csv").read_bytes()))
    desk.frame.to_csv(desk.folder / "table.tsv", sep="\t", index=False)
    desk.frame.to_csv(desk.folder / "bars.csv", sep="|", index=False)
    desk.frame.to_parquet(desk.folder / "table.parquet")
    url = f"sqlite:///{desk.folder}/data.db"
    desk.frame.to_sql("people", sa.create_engine(url), index=False)
    return {
        "csv": ("table.csv",),
        "gzip": ("table.csv.gz",),
        "tsv": ("table.tsv",),
        "another delimiter": ("bars.csv", "--delimiter", "|"),
        "parquet": ("table.parquet",),
        "sql": (url, "--table", "people"),
    }


def test_a_table_in_any_form_gives_the_same_release(desk: Desk, sources: dict[str, tuple[str, ...]]) -> None:
    """Without noise (epsilon inf) and with one random state the fit of the same rows is the same."""
    digests = {}
    for name, (table, *more) in sources.items():
        outcome = desk.synthesize(
            *more, "--random-state", "5", table=table, epsilon="inf", delta="", ledger="", dataset="", out=f"by {name}"
        )
        assert outcome.code == 0, outcome.err
        assert outcome.err.startswith("NOT PRIVATE")
        digests[name] = (desk.folder / f"by {name}" / "synthetic.csv").read_bytes()
    assert len(set(digests.values())) == 1


def test_synthesize_tells_a_person_what_is_promised(desk: Desk) -> None:
    outcome = desk.synthesize()
    assert (outcome.code, outcome.err) == (0, "")
    assert "Adding or removing one row" in outcome.out
    assert "tabveil verify" in outcome.out
    assert "INTERNAL" not in outcome.out
    assert not (desk.folder / "release-internal").exists()


def test_synthesize_tells_a_script_everything(desk: Desk) -> None:
    outcome = desk.synthesize("--json", "-n", "50", "--option", "cells=16")
    data = outcome.json
    assert (outcome.err, data["rows"], data["generator"], data["stamp"]) == ("", 50, "independent", "")
    assert data["statement"]["epsilon"] <= 1
    manifest = json.loads((desk.folder / "release" / "manifest.json").read_text())
    assert manifest["sha256"] == data["manifest_sha256"]
    assert manifest["provenance"]["options"]["cells"] == 16
    assert desk.run("verify", "release", "--ledger", "ledger.db", "--json").json["verified"]


def test_auto_tells_which_generator_it_chose_and_why(desk: Desk) -> None:
    outcome = desk.synthesize(generator="auto")
    options = json.loads((desk.folder / "release" / "manifest.json").read_text())["provenance"]["options"]
    assert f"by auto, which chose {options['chosen']}: {options['because']}" in outcome.out
    for page in ("report.md", "report.html"):
        assert f"chosen = {options['chosen']}" in (desk.folder / "release" / page).read_text()
    assert desk.run("verify", "release", "--ledger", "ledger.db").code == 0
    free = {"epsilon": "inf", "delta": "", "ledger": "", "dataset": "", "out": "open"}
    assert desk.synthesize("--json", generator="auto", **free).json["options"]["chosen"] == "aim"


def test_auto_says_that_it_assumes_the_row_count_where_that_is_private(desk: Desk) -> None:
    desk.schema(SCHEMA.replace(f"public_rows: {ROWS}\n", ""))
    outcome = desk.synthesize(generator="auto")
    assert outcome.code == 0, outcome.err
    for text in (outcome.out, *((desk.folder / "release" / p).read_text() for p in ("report.md", "report.html"))):
        assert "The schema declares no row count: 3,000 rows are assumed" in text


def test_measuring_goes_into_a_folder_of_its_own(desk: Desk) -> None:
    desk.write(desk.frame.sample(60, random_state=1), "holdout.csv")
    outcome = desk.synthesize("--json", holdout="holdout.csv")
    assert outcome.code == 0, outcome.err
    data = outcome.json
    assert data["internal_folder"] == "release-internal"
    assert all(s["internal"] for s in data["scores"])
    assert any("holdout" in s["references"] for s in data["scores"])
    internal = json.loads((desk.folder / "release-internal" / "report.json").read_text())
    assert internal["edition"] == "internal"
    assert internal["provenance"]["seconds"]
    assert desk.run("verify", "release").code == 0
    assert sorted(p.name for p in (desk.folder / "release-internal").iterdir()) == ["report.html", "report.json"]


def test_what_cannot_be_measured_is_said_and_the_rest_is_shown(desk: Desk) -> None:
    desk.schema(SCHEMA.replace("target: income\n", ""))
    outcome = desk.synthesize("--evaluate")
    assert outcome.code == 0
    assert "no target" in outcome.err
    assert "INTERNAL: read real rows" in outcome.out
    assert "independent" in outcome.out.split("\n")[1]


def test_a_failure_while_measuring_leaves_the_release(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline.measuring, "scores", broken)
    outcome = desk.synthesize("--evaluate")
    assert outcome.code == 70
    assert "is complete; only measuring" in outcome.err
    assert not (desk.folder / "release-internal").exists()
    assert desk.run("verify", "release").code == 0


def test_a_private_row_count_is_estimated(desk: Desk) -> None:
    desk.schema(SCHEMA.replace(f"public_rows: {ROWS}\n", ""))
    outcome = desk.synthesize("--json")
    assert outcome.code == 0
    # one fit of 200 rows, standard deviation 13: beyond these bounds with a chance below alpha = 1e-9
    assert 100 < outcome.json["rows"] < 300
    assert desk.run("verify", "release").code == 0


def test_spending_is_shown(desk: Desk) -> None:
    assert desk.synthesize().code == 0
    shown = desk.run("ledger", "show", "-l", "ledger.db").out
    assert "of 3 is spent" in shown
    assert "independent fit" in shown


# --------------------------------------------------------------------------------------------- sample, evaluate, report


def test_more_rows_cost_nothing(desk: Desk) -> None:
    desk.synthesize()
    entries = desk.entries()
    for name in ("more.csv", "more.csv.gz", "more.tsv", "more.parquet"):
        outcome = desk.run("sample", "release", "-o", name, "-n", "70", "--random-state", "1", "--json")
        assert outcome.json["rows"] == 70
    assert desk.entries() == entries
    same = pd.read_csv(desk.folder / "more.csv")
    pd.testing.assert_frame_equal(same, pd.read_parquet(desk.folder / "more.parquet"), check_dtype=False)
    assert desk.run("sample", "release/model", "-o", "all.csv").code == 0
    assert len(pd.read_csv(desk.folder / "all.csv")) == ROWS


def test_rows_under_conditions_and_with_a_balanced_label(desk: Desk) -> None:
    desk.synthesize()
    asked = ("--where", "age=40..", "--where", "color=red|blue", "--balance", "color=red:0.25|blue:0.75")
    outcome = desk.run("sample", "release", "-o", "more.csv", "-n", "80", *asked, "--json")
    rows = pd.read_csv(desk.folder / "more.csv")
    assert rows["age"].min() >= 40
    assert rows["color"].value_counts().to_dict() == {"blue": 60, "red": 20}
    assert [v["rows"] for v in outcome.json["balance"]["values"]] == [20, 60]
    shown = desk.run("sample", "release", "-o", "again.csv", "--balance", "color")
    assert "model's share" in shown.out
    refused = desk.run("sample", "release", "-o", "no.csv", "--where", "color=Qx7-sentinel-Zk")
    assert (refused.code, refused.err.count("\n"), refused.left) == (2, 1, frozenset())
    assert "Qx7" not in refused.err
    assert desk.run("sample", "release", "-o", "no.csv", "--where", "age").code == 2


def test_missing_cells_of_a_table_are_filled(desk: Desk) -> None:
    desk.synthesize()
    desk.write(pd.DataFrame({"age": [20, None, 70], "income": [None, 30.5, None]}), "mine.csv")
    outcome = desk.run("impute", "release", "mine.csv", "-o", "full.csv", "-m", "2", "--json")
    assert outcome.json == {"files": ["full.1.csv", "full.2.csv"], "rows": 3}
    for name in outcome.json["files"]:
        rows = pd.read_csv(desk.folder / name)
        assert not rows.isna().any().any()
        assert (rows["age"][0], rows["income"][1]) == (20, 30.5)
    assert desk.run("impute", "release", "mine.csv", "-o", "full.csv", "-m", "2").code == 2
    desk.write(pd.DataFrame({"color": ["Qx7-sentinel-Zk"]}), "bad.csv")
    refused = desk.run("impute", "release", "bad.csv", "-o", "bad-full.csv")
    assert (refused.code, refused.left) == (4, frozenset())
    assert "Qx7" not in refused.err


def test_sampling_refuses_what_is_no_model_or_would_overwrite(desk: Desk) -> None:
    assert desk.run("sample", ".", "-o", "more.csv").code == 4
    desk.synthesize()
    outcome = desk.run("sample", "release", "-o", "table.csv")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert desk.run("sample", "release", "-o", "more.xlsx").code == 2
    assert desk.run("sample", "release", "-o", "no/such/more.csv").code == 9
    assert desk.run("sample", "release", "-o", "more.csv", "-n", "-1").code == 2


def test_a_sample_that_is_not_private_has_the_stamp_beside_it(desk: Desk) -> None:
    desk.synthesize(epsilon="inf", delta="", ledger="", dataset="")
    outcome = desk.run("sample", "release", "-o", "more.csv", "--json")
    assert outcome.json["stamp"] == "NOT PRIVATE"
    assert outcome.err.startswith("NOT PRIVATE")
    assert "NOT PRIVATE" in (desk.folder / "more.csv.NOT_PRIVATE.txt").read_text()


def test_evaluating_a_release_or_a_table(desk: Desk) -> None:
    desk.synthesize()
    by_release = desk.run("evaluate", "release", "--train", "table.csv", "--json")
    by_table = desk.run("evaluate", "release/synthetic.csv", "--train", "table.csv", "-s", "schema.yaml", "--json")
    assert by_release.json["internal"]
    assert by_release.json["scores"] == by_table.json["scores"] != []
    one = desk.run("evaluate", "release", "--train", "table.csv", "--metric", "marginals")
    assert "3-way" in one.out
    assert desk.run("evaluate", "table.csv", "--train", "table.csv").code == 2
    assert desk.run("evaluate", "release", "--train", "table.csv", "--metric", "nosuch").code == 2
    assert desk.run("evaluate", "release", "--train", "nosuch.csv").code == 4


def test_an_audit_of_a_release_or_a_table_and_its_report(desk: Desk) -> None:
    held = people(400).iloc[200:]
    desk.write(held, "held.csv")
    desk.schema(SCHEMA + "quasi_identifiers: [age, color]\n")
    desk.synthesize()
    given = ("--train", "table.csv", "--holdout", "held.csv", "--profile", "wp29", "--profile", "cms-11")
    outcome = desk.run("audit", "release", *given, "-o", "audit.json", "--json")
    assert (outcome.code, outcome.left) == (0, {"audit.json"}), outcome.err
    written = json.loads((desk.folder / "audit.json").read_text())
    assert written == {k: v for k, v in outcome.json.items() if k != "file"}
    assert written["stamp"] == "INTERNAL"
    assert {f["auditor"] for f in written["findings"]} >= {"copies", "membership", "attribute"}
    assert {j["profile"] for j in written["judgements"]} == {"wp29", "cms-11"}
    assert "k-anonymity" in {m["name"] for m in written["measurements"]}
    table = desk.run("audit", "release/synthetic.csv", *given, "-s", "schema.yaml", "-o", "b.json", "--json")
    assert table.json["findings"] == written["findings"]
    shown = desk.run("audit", "release", *given, "-o", "audit.json", "--auditor", "copies")
    assert "copies: synthetic rows that are exact copies of a training row" in shown.out
    assert "membership: training rows" not in shown.out

    tables = given[:4]
    assert desk.run("report", "release", *tables, "--audit", "audit.json", "-o", "r.json").code == 0
    report = json.loads((desk.folder / "r.json").read_text())
    assert [f["auditor"] for f in report["findings"]] == ["copies"]
    assert {j["profile"] for j in report["judgements"]} == {"wp29", "cms-11"}
    refused = [
        desk.run("report", "release", *tables, "--audit", "b.json", "-o", "r.html"),
        desk.run("report", "release", *tables[:2], "--audit", "audit.json", "-o", "r.html"),
        desk.run("report", "release", "--audit", "audit.json", "-o", "r.html"),
        desk.run("audit", "table.csv", *given, "-o", "c.json"),
        desk.run("audit", "release", *given, "-o", "audit.html"),
        desk.run("audit", "release", *given, "-o", "c.json", "--auditor", "nosuch"),
        desk.run("audit", "release", *given, "-o", "c.json", "--profile", "nosuch"),
    ]
    assert [(r.code, r.out, r.err.count("\n"), r.left) for r in refused] == [(2, "", 1, frozenset())] * 7
    assert "another release" in refused[0].err
    (desk.folder / "broken.json").write_text('{"tabveil_audit": 1, "findings": [{}]}')
    assert desk.run("report", "release", *tables, "--audit", "broken.json", "-o", "r.html").code == 7
    (desk.folder / "folder.json").mkdir()
    for out in ("folder.json", "nowhere/a.json"):
        outcome = desk.run("audit", "release", *given, "-o", out)
        assert (outcome.code, outcome.err.count("\n"), outcome.left) == (9, 1, frozenset())


def test_the_privacy_game_fits_a_release_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the generator, the options and the epsilon of the release; the account that paid for it is left alone."""
    monkeypatch.setitem(Shadow.__init__.__kwdefaults__, "fits", 16)
    desk.synthesize(generator="mst", option="extra_pairs=1")
    before, made = desk.entries(), []
    real = Refitting.__call__

    def fitted(again: Refitting, frame: pd.DataFrame, seed: int) -> pd.DataFrame:
        made.append((again.generator, again.epsilon, dict(again.options), len(frame)))
        return real(again, frame, seed)

    monkeypatch.setattr(Refitting, "__call__", fitted)
    command = ("audit", "release", "--train", "table.csv", "-o", "audit.json", "--auditor", "shadow", "--json")
    outcome = desk.run(*command, "--refit")
    assert outcome.code == 0, outcome.err
    assert "64 fits of the generator" in outcome.err
    assert {m[:2] for m in made} == {("mst", 1.0)}
    assert all(m[2]["extra_pairs"] == 1 for m in made)
    assert len(outcome.json["findings"]) == 6
    assert desk.entries() == before
    assert not any(p.startswith("audit.json.parts") for p in desk.names())
    assert not desk.run(*command).json["findings"], "nobody asked for more fits"
    assert desk.run("audit", "release/synthetic.csv", *command[2:], "-s", "schema.yaml", "--refit").code == 2


def test_the_auditors_are_listed(desk: Desk) -> None:
    listed = desk.run("auditors", "--json").json["auditors"]
    assert [a["name"] for a in listed] == tabveil.names("auditors")
    assert {"anonymity", "attribute", "copies", "membership"} <= {a["name"] for a in listed}
    assert "rates" not in {a["name"] for a in listed}
    assert all(a["tries"].endswith(".") for a in listed)
    assert "told from held-out rows" in desk.run("auditors").out


def test_an_interrupted_audit_goes_on_where_it_stopped(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The auditors that ended are not run again; with other rows they are."""
    desk.synthesize()
    desk.write(people(400).iloc[200:], "held.csv")
    command = ("audit", "release", "--train", "table.csv", "--holdout", "held.csv", "-o", "audit.json", "--json")
    whole = desk.run(*command).json
    ran = []
    real = auditing._audited

    def audited(auditor: Any, data: Any) -> Any:
        ran.append(auditor.plugin_name())
        if auditor.plugin_name() == "membership" and len(ran) < 5:
            raise KeyboardInterrupt
        return real(auditor, data)

    monkeypatch.setattr(auditing, "_audited", audited)
    outcome = desk.run(*command)
    assert (outcome.code, outcome.out) == (130, "")
    assert "goes on from there" in outcome.err
    kept = [p for p in desk.names() if p.startswith("audit.json.parts/")]
    done = ran[:-1]
    assert {Path(p).stem for p in kept if p.endswith(".json")} == set(done)
    ran.clear()
    ran += ["earlier"] * 5
    again = desk.run(*command).json
    assert not set(done) & set(ran)
    assert again["findings"] == whole["findings"]
    assert not any(p.startswith("audit.json.parts") for p in desk.names())


def test_reports_in_both_editions(desk: Desk) -> None:
    desk.synthesize()
    assert desk.run("report", "release", "-o", "report.html", "--json").json["edition"] == "release"
    assert (desk.folder / "report.html").read_bytes() == (desk.folder / "release" / "report.html").read_bytes()
    outcome = desk.run("report", "release", "-o", "inside.json", "--train", "table.csv")
    assert "internal edition" in outcome.out
    document = json.loads((desk.folder / "inside.json").read_text())
    assert (document["edition"], bool(document["utility"])) == ("internal", True)
    assert desk.run("report", "release", "-o", "report.pdf").code == 2
    assert desk.run("report", "release", "-o", "report.md", "--holdout", "table.csv").code == 2
    (desk.folder / "release" / "statement.json").write_text("{}")
    assert desk.run("report", "release", "-o", "report.md").code == 7


def test_generators_are_listed_with_what_makes_them_private(desk: Desk) -> None:
    listed = {g["name"]: g for g in desk.run("generators", "--json").json["generators"]}
    assert sorted(listed) == generators.names()
    assert "cells" in listed["mst"]["options"]
    assert all(g["guarantee"] or g["needs"] for g in listed.values())
    assert "mst" in desk.run("generators").out


# --------------------------------------------------------------------------------------------------------------- ledger


def test_an_account_from_opening_to_export(desk: Desk) -> None:
    opened = desk.run("ledger", "open", "more", "-l", "new.db", "-e", "2", "-d", "1e-6", "--json")
    assert opened.json == {"dataset": "more", "epsilon": 2.0, "delta": 1e-6, "unit": "row"}
    assert desk.run("ledger", "open", "more", "-l", "new.db", "-e", "2", "-d", "1e-6").code == 0
    assert desk.run("ledger", "open", "more", "-l", "new.db", "-e", "9", "-d", "1e-6").code == 6
    assert desk.run("ledger", "list", "-l", "new.db", "--json").json == {"datasets": ["more"]}
    verified = desk.run("ledger", "verify", "more", "-l", "new.db", "--json").json
    shown = desk.run("ledger", "show", "more", "-l", "new.db", "--json").json["accounts"][0]
    assert verified == {"verified": True, "heads": {"more": shown["head"]}}
    assert (shown["spent"], shown["epsilon"], shown["charges"]) == (0.0, 2.0, [])
    exported = desk.run("ledger", "export", "more", "-l", "new.db").json
    assert exported["head"] == shown["head"]
    assert desk.run("ledger", "export", "more", "-l", "new.db", "-o", "more.json").code == 0
    assert json.loads((desk.folder / "more.json").read_text()) == exported


def test_the_ledger_can_be_named_by_the_environment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABVEIL_LEDGER", "ledger.db")
    assert desk.run("ledger", "list").out == "people\n"
    assert desk.synthesize(ledger="").code == 0
    assert desk.synthesize(epsilon="inf", delta="", ledger="", dataset="", out="open").code == 0


def test_a_run_that_is_not_private_is_on_record_where_a_ledger_is_named(desk: Desk) -> None:
    assert desk.synthesize(epsilon="inf", delta="").code == 0
    assert desk.entries() == ["open", "note"]
    assert "not private" in desk.run("ledger", "show", "-l", "ledger.db").out
    assert desk.run("verify", "release", "-l", "ledger.db").code == 0


def test_an_account_for_persons_takes_its_unit_from_the_schema(desk: Desk) -> None:
    desk.schema(
        SCHEMA.replace("target: income", "privacy_unit: id\nmax_rows_per_unit: 2\ntarget: income")
        + "- {name: id, kind: identifier, pattern: 'P{n}'}\n"
    )
    desk.write(desk.frame.assign(id=[f"person {i // 3}" for i in range(ROWS)]))
    assert (
        "person named by 'id'"
        in desk.run("ledger", "open", "persons", "-l", "ledger.db", "-e", "1", "-d", "1e-5", "-s", "schema.yaml").out
    )
    outcome = desk.synthesize(dataset="persons")
    assert outcome.code == 0, outcome.err
    assert "person named by 'id'" in outcome.out
    assert desk.run("verify", "release").code == 0
    assert pd.read_csv(desk.folder / "release" / "synthetic.csv")["id"].tolist()[:2] == ["P1", "P2"]


def test_a_ledger_that_is_not_there_is_not_made(desk: Desk) -> None:
    for command in (("list",), ("show",), ("verify",), ("export", "people")):
        outcome = desk.run("ledger", *command, "-l", "nosuch.db")
        assert (outcome.code, outcome.left, outcome.err.count("\n")) == (6, frozenset(), 1)


def test_a_flipped_byte_in_the_ledger_is_found(desk: Desk) -> None:
    desk.synthesize()
    path = desk.folder / "ledger.db"
    content = path.read_bytes()
    spot = content.index(b'"sensitivity"')
    path.write_bytes(content[:spot] + b"#" + content[spot + 1 :])
    outcome = desk.run("ledger", "verify", "-l", "ledger.db")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (7, "", 1)


# ----------------------------------------------------------------------------------------------------------------- demo


def test_the_demo_makes_a_release_that_verifies_and_can_be_run_again(desk: Desk) -> None:
    pytest.importorskip("statsmodels")
    outcome = desk.run("demo", "-o", "demo release")
    assert (outcome.code, outcome.err) == (0, "")
    last = outcome.out.rstrip("\n").rsplit(": ", 1)[1]
    assert Path(last) == desk.folder / "demo release-internal" / "report.html"
    assert "INTERNAL" in Path(last).read_text(encoding="utf-8")
    assert desk.run("verify", "demo release", "--ledger", "demo release-ledger.db").code == 0
    again = desk.run("demo", "-o", "demo release", "--json")
    assert again.code == 0
    assert again.json["rows"] == 16_152
    assert desk.run("verify", "demo release", "--ledger", "demo release-ledger.db").code == 0


def test_the_demo_replaces_nothing_but_a_demo(desk: Desk) -> None:
    pytest.importorskip("statsmodels")
    desk.synthesize()
    outcome = desk.run("demo", "-o", "release")
    assert (outcome.code, outcome.left) == (2, frozenset())
    assert desk.run("verify", "release").code == 0


def test_the_demo_without_its_package_says_what_to_install(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(_demo.importlib, "import_module", absent)
    outcome = desk.run("demo")
    assert (outcome.code, outcome.left) == (8, frozenset())
    assert "tabveil[demo]" in outcome.err


def test_the_app_is_what_the_package_installs() -> None:
    assert {c.name or c.callback.__name__ for c in app.registered_commands if c.callback} == {
        c[0] for c in COMMANDS if len(c) == 1 and c[0] not in ("schema", "ledger", "env")
    }
