"""Whatever is wrong: one sentence without a cell value, nothing half-written, nothing paid for that was not used."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from e2e.conftest import ROWS, SCHEMA, SENTINEL, Desk, Outcome
from tabveil import _cli_output, pipeline, release
from tabveil.generators.independent import Independent
from tabveil.schema import Schema

Refused = Callable[..., Outcome]


def _with(frame: pd.DataFrame, column: str, value: Any, *, row: int = 7) -> pd.DataFrame:
    """The table with one cell replaced."""
    changed = frame.astype({column: object})
    changed.loc[row, column] = value
    return changed


def _text(desk: Desk) -> str:
    return (desk.folder / "table.csv").read_text()


# ---------------------------------------------------------------------------------------------------- files and columns

BROKEN_FILES: dict[str, tuple[Callable[[str], bytes], tuple[str, ...]]] = {
    "empty": (lambda text: b"", ("is empty",)),
    "only a header": (lambda text: text.split("\n")[0].encode() + b"\n", ("no rows",)),
    "semicolons": (lambda text: text.replace(",", ";").encode(), ("semicolons", "delimiter")),
    "tabs": (lambda text: text.replace(",", "\t").encode(), ("tabs",)),
    "bars and commas": (lambda text: text.replace(",", "|,").encode(), ("lacks columns 'age', 'color'",)),
    "no header": (lambda text: text.split("\n", 1)[1].replace("red", SENTINEL).encode(), ()),
    "missing column": (
        lambda text: pd.read_csv(_io(text)).drop(columns="color").to_csv(index=False).encode(),
        ("'color'",),
    ),
    "column too many": (lambda text: text.replace("\n", f",{SENTINEL}\n").encode(), ("1 column that the schema",)),
    "duplicate column": (lambda text: text.replace("color", "age", 1).encode(), ("number 1, 2", "share a name")),
    "short row": (lambda text: f"{text}{SENTINEL}\n".encode(), ("fewer cells", f"row {ROWS + 1} ")),
    "open quote": (lambda text: f'{text}1,"{SENTINEL},2\n'.encode(), ("quote",)),
    "not UTF-8": (lambda text: text.replace("red", SENTINEL + "ä", 1).encode("latin-1"), ("UTF-8",)),
    "a long line": (lambda text: f"{text}1,{'x' * 9 * 2**20}{SENTINEL},2\n".encode(), ("holds a row longer than",)),
    "a long header": (lambda text: b"y" * 9 * 2**20, ("holds a row longer than",)),
    "binary": (lambda text: bytes(range(256)) * 40, ("UTF-8",)),
}


def _io(text: str) -> Any:
    import io

    return io.StringIO(text)


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_broken_file_is_refused(desk: Desk, refused: Refused, case: str) -> None:
    broken, words = BROKEN_FILES[case]
    (desk.folder / "table.csv").write_bytes(broken(_text(desk)))
    refused(desk.synthesize(), 4, *words)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.csv.gz", b"\x1f\x8b\x08\x00" + b"\x00" * 40),
        ("damaged.parquet", b"PAR1" + SENTINEL.encode() * 20 + b"PAR1"),
        ("nosuch.csv", None),
        ("nosuch.parquet", None),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(desk: Desk, refused: Refused, name: str, content: bytes | None) -> None:
    if content is not None:
        (desk.folder / name).write_bytes(content)
    refused(desk.synthesize(table=name), 4, name)


def test_an_unknown_format_is_a_wrong_argument(desk: Desk, refused: Refused) -> None:
    (desk.folder / "table.xlsx").write_bytes(b"PK")
    refused(desk.synthesize(table="table.xlsx"), 2, "table.xlsx")


def test_a_database_without_the_table_is_refused(desk: Desk, refused: Refused) -> None:
    import sqlalchemy as sa

    desk.frame.to_sql("people", sa.create_engine(f"sqlite:///{desk.folder}/data.db"), index=False)
    url = f"sqlite:///{desk.folder}/data.db"
    refused(desk.synthesize("--table", "persons", table=url), 4, "'persons'")
    refused(desk.synthesize(table=url), 2, "'table'")
    refused(desk.synthesize("--table", "people", table=url + "x"), 4, "does not exist")


# --------------------------------------------------------------------------------------------------------------- values

BAD_CELLS = {
    "undeclared category": ("color", SENTINEL, SCHEMA, "'color'"),
    "empty category": ("color", "", SCHEMA, "'color'"),
    "outside the bounds, refused": ("age", 86420, SCHEMA.replace("high: 99", "high: 99, invalid: refuse"), "'age'"),
    "text for a number that is never missing": ("age", SENTINEL, SCHEMA, "'age'"),
    "missing for a number that is never missing": ("age", None, SCHEMA, "'age'"),
    "text for a decimal, refused": ("income", SENTINEL, SCHEMA.replace("['']", "[''], invalid: refuse"), "'income'"),
}


@pytest.mark.parametrize("case", BAD_CELLS)
def test_a_refused_value_stops_before_the_charge(desk: Desk, refused: Refused, case: str) -> None:
    column, value, schema, word = BAD_CELLS[case]
    desk.schema(schema)
    desk.write(_with(desk.frame, column, value))
    outcome = refused(desk.synthesize(), 4, word, "Nothing was charged.")
    assert str(value) not in outcome.err.replace("''", "") or value in ("", None)
    assert desk.entries() == ["open", "reserve", "release"]


ACCEPTED_CELLS = {
    "clipped": ("age", 86420, SCHEMA),
    "clipped below": ("age", -3, SCHEMA),
    "made missing": ("income", 86420, SCHEMA.replace("['']", "[''], invalid: missing")),
    "text made missing": ("income", SENTINEL, SCHEMA),
    "put into the catch-all": ("color", SENTINEL, SCHEMA.replace("blue]", "blue], catch_all: other")),
}


@pytest.mark.parametrize("case", ACCEPTED_CELLS)
def test_other_values_are_treated_as_the_schema_says_and_never_published(desk: Desk, case: str) -> None:
    column, value, schema = ACCEPTED_CELLS[case]
    desk.schema(schema)
    desk.write(_with(desk.frame, column, value))
    outcome = desk.synthesize()
    assert (outcome.code, outcome.err) == (0, "")
    rows = pd.read_parquet(desk.folder / "release" / "synthetic.parquet")
    assert rows["age"].between(0, 99).all()
    assert rows["income"].dropna().between(0, 100).all()
    assert set(rows["color"]) <= {"red", "green", "blue", "other"}
    for path in (p for p in (desk.folder / "release").rglob("*") if p.is_file()):
        assert SENTINEL.encode() not in path.read_bytes(), path.name


def test_a_column_missing_in_every_row_is_refused(desk: Desk, refused: Refused) -> None:
    desk.write(desk.frame.assign(income=None))
    refused(desk.synthesize(), 4, "'income'", "missing in every row")


def test_a_privacy_unit_missing_in_every_row_is_refused(desk: Desk, refused: Refused) -> None:
    desk.schema(
        SCHEMA.replace("target: income", "privacy_unit: id\nmax_rows_per_unit: 2\ntarget: income")
        + "- {name: id, kind: identifier}\n"
    )
    unit = Schema.from_yaml(desk.folder / "schema.yaml").unit
    desk.ledger.open("persons", epsilon=1, delta=1e-5, unit=unit)
    desk.write(desk.frame.assign(id=""))
    refused(desk.synthesize(dataset="persons"), 4, "'id'", "missing in every row")


def test_a_schema_for_another_table_is_refused(desk: Desk, refused: Refused) -> None:
    desk.schema(SCHEMA.replace("age", "weight").replace("color", "shape").replace("income", "length"))
    refused(desk.synthesize(), 4, "None of the table's 3 columns")


# -------------------------------------------------------------------------------------------------------------- options

BAD_OPTIONS: dict[str, tuple[dict[str, str], int, str]] = {
    "epsilon zero": ({"epsilon": "0"}, 2, "epsilon"),
    "epsilon negative": ({"epsilon": "-1"}, 2, "epsilon"),
    "epsilon NaN": ({"epsilon": "nan"}, 2, "epsilon"),
    "epsilon minus infinity": ({"epsilon": "-inf"}, 2, "epsilon"),
    "epsilon a word": ({"epsilon": "much"}, 2, "--epsilon"),
    "no epsilon": ({"epsilon": ""}, 2, "--epsilon"),
    "no delta": ({"delta": ""}, 2, "delta must be given"),
    "delta one": ({"delta": "1"}, 2, "delta"),
    "delta NaN": ({"delta": "nan"}, 2, "delta"),
    "delta above 1 / public_rows": ({"delta": "0.006"}, 2, "1 / public_rows"),
    "no ledger": ({"ledger": ""}, 2, "ledger"),
    "no dataset": ({"dataset": ""}, 2, "dataset"),
    "no such ledger": ({"ledger": "nosuch.db"}, 6, "nosuch.db"),
    "no such account": ({"dataset": "persons"}, 6, "'persons'"),
    "a ledger that is none": ({"ledger": "table.csv"}, 6, "not a ledger"),
    "no such schema": ({"schema": "nosuch.yaml"}, 3, "nosuch.yaml"),
    "a schema that is none": ({"schema": "table.csv"}, 3, "table.csv"),
    "no such generator": ({"generator": "gan"}, 2, "'gan'"),
    "no such option": ({"option": "bins=3"}, 2, "bins"),
    "an option out of range": ({"option": "cells=1"}, 2, "cells"),
    "half an option": ({"option": "cells"}, 2, "NAME=VALUE"),
    "no rows": ({"rows": "0"}, 2, "rows"),
    "negative rows": ({"rows": "-5"}, 2, "rows"),
    "a negative seed": ({"random-state": "-1"}, 2, "random_state"),
    "a holdout that is not there": ({"holdout": "nosuch.csv"}, 4, "nosuch.csv"),
    "a folder that is not empty": ({"out": "."}, 2, "is there already"),
    "a folder that is a file": ({"out": "table.csv"}, 2, "is there already"),
    "a folder in a file": ({"out": "table.csv/release"}, 9, "table.csv/release"),
    "no folder": ({"out": ""}, 2, "--out"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_wrong_option_is_refused_before_anything_is_reserved(desk: Desk, refused: Refused, case: str) -> None:
    changed, code, word = BAD_OPTIONS[case]
    refused(desk.synthesize(**changed), code, word)
    assert desk.entries() == ["open"]


def test_a_draft_is_refused(desk: Desk, refused: Refused) -> None:
    desk.run("schema", "draft", "table.csv", "-o", "draft.yaml")
    refused(desk.synthesize(schema="draft.yaml"), 3, "draft", "approve")


def test_a_holdout_of_another_table_is_refused(desk: Desk, refused: Refused) -> None:
    desk.write(desk.frame.drop(columns="age"), "holdout.csv")
    refused(desk.synthesize(holdout="holdout.csv"), 4, "'age'")


def test_an_account_for_another_unit_is_refused(desk: Desk, refused: Refused) -> None:
    desk.ledger.open("patients", epsilon=3, delta=1e-5, unit="patient")
    refused(desk.synthesize(dataset="patients"), 6, "patient", "row")
    assert desk.entries("patients") == ["open"]


def test_a_spent_budget_is_refused_and_says_what_is_left(desk: Desk, refused: Refused) -> None:
    assert desk.synthesize(epsilon="2").code == 0
    entries = desk.entries()
    desk.write(_with(desk.frame, "color", SENTINEL))  # not read: nothing is said of it
    outcome = refused(desk.synthesize(out="second", epsilon="2"), 5, "'people'", charged=True)
    assert "asks for epsilon" in outcome.err
    assert "of 3 is spent" in outcome.err
    assert desk.entries() == entries


# ---------------------------------------------------------------------------------------------------------- a full disk


def test_a_full_disk_is_found_before_the_charge(desk: Desk, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    refused(desk.synthesize(), 9, "1 MiB free")
    assert desk.entries() == ["open"]


@contextlib.contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """Every write beyond `size` bytes of a file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_after_the_charge_keeps_the_paid_model(desk: Desk) -> None:
    with _largest_file(200_000):
        outcome = desk.synthesize(rows="50000")
    assert outcome.code == 9
    assert outcome.err.count("\n") == 1
    assert "'release/synthetic." in outcome.err
    assert "had been charged" in outcome.err
    assert "release.rescued-model" in outcome.err
    assert outcome.left == {f"release.rescued-model{f}" for f in ("", "/arrays.npz", "/model.json")}
    assert desk.run("sample", "release.rescued-model", "-o", "rows.csv", "-n", "5").code == 0
    assert len(pd.read_csv(desk.folder / "rows.csv")) == 5


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk of its own")
def test_a_disk_that_is_really_full(desk: Desk) -> None:
    small = desk.folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        assert desk.synthesize(out="small").code == 9
        assert desk.synthesize(out="small/release", rows="2000000").code == 9
        assert desk.entries() == ["open"]
        (small / "ballast").write_bytes(bytes(3 * 2**20))
        outcome = desk.synthesize(out="small/release", rows="10000")
        assert outcome.code == 0, outcome.err
        (small / "ballast").write_bytes(bytes((small / "ballast").stat().st_size))
        with contextlib.suppress(OSError), (small / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        outcome = desk.run("sample", "small/release", "-o", "small/rows.csv", "-n", "1000")
        assert (outcome.code, outcome.err.count("\n")) == (9, 1)
        assert "full" in outcome.err
        assert not list(small.glob(".tabveil*"))
        assert not (small / "rows.csv").exists()
    finally:
        subprocess.run(["umount", small], check=True)


# --------------------------------------------------------------------------------------------------------- interruption


def _interrupting(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Ctrl-C at the moment `owner.name` is called."""

    def pressed(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(5)  # the handler runs before this ends
        raise AssertionError("not interrupted")

    monkeypatch.setattr(owner, name, pressed)


def test_ctrl_c_before_the_charge_costs_nothing(desk: Desk, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    _interrupting(monkeypatch, pipeline, "check_values")
    refused(desk.synthesize(), 130, "Interrupted", "Nothing was charged.")
    assert desk.entries() == ["open", "reserve", "release"]


def test_ctrl_c_during_the_fit_leaves_nothing_and_says_it_is_paid(
    desk: Desk, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupting(monkeypatch, Independent, "_learn")
    refused(desk.synthesize(), 130, "Interrupted", "had been charged", charged=True)


@pytest.mark.parametrize(
    ("owner", "name"), [(Independent, "sample"), (pipeline, "write_synthetic"), (pipeline, "seal")]
)
def test_ctrl_c_after_the_fit_keeps_the_paid_model(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    _interrupting(monkeypatch, owner, name)
    outcome = desk.synthesize()
    assert (outcome.code, outcome.err.count("\n")) == (130, 1)
    assert "rescued-model" in outcome.err
    assert {p.split("/")[0] for p in outcome.left} == {"release.rescued-model"}


def test_a_rescued_model_never_replaces_another(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk.folder / "release.rescued-model").mkdir()
    _interrupting(monkeypatch, pipeline, "seal")
    assert desk.synthesize().code == 130
    assert len(list(desk.folder.glob("release*.rescued-model"))) == 2
    assert not any((desk.folder / "release.rescued-model").iterdir())


def test_a_second_ctrl_c_does_not_disturb_tidying_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    original = release.shutil.rmtree

    def pressed_again(*args: Any, **kwargs: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        original(*args, **kwargs)

    monkeypatch.setattr(release.shutil, "rmtree", pressed_again)
    _interrupting(monkeypatch, pipeline, "check_values")
    outcome = desk.synthesize()
    assert (outcome.code, outcome.left) == (130, frozenset())


def test_an_interrupt_that_leaves_a_thread_stuck_ends_the_run_all_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an interrupt inside `threading.Condition.__enter__` does: the lock is never freed, and a pool waits for it."""
    freed = threading.Event()

    def stuck(*_: Any, **__: Any) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(freed.wait)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(_cli_output, "PATIENCE", 0.05)
    monkeypatch.setattr(pipeline, "check_values", stuck)
    rescue = threading.Timer(20, freed.set)
    rescue.start()
    outcome = desk.synthesize()
    assert not freed.is_set()
    rescue.cancel()
    freed.set()
    assert (outcome.code, outcome.left, outcome.err.count("\n")) == (130, frozenset(), 1)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_caller_keeps_his_alarm(desk: Desk) -> None:
    def rung(*_: object) -> None:
        raise AssertionError("the alarm rang")

    old = signal.signal(signal.SIGALRM, rung)
    try:
        signal.setitimer(signal.ITIMER_REAL, 500, 7)
        assert desk.synthesize().code == 0
        left, every = signal.getitimer(signal.ITIMER_REAL)
        assert signal.getsignal(signal.SIGALRM) is rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert 400 < left <= 500
    assert every == pytest.approx(7)


def test_an_interrupt_that_a_library_turns_into_an_error_of_its_own_is_still_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(*_: Any, **__: Any) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise RuntimeError("release unlocked lock")

    monkeypatch.setattr(pipeline, "check_values", lock)
    outcome = desk.synthesize()
    assert (outcome.code, outcome.left) == (130, frozenset())
    assert outcome.err.startswith("tabveil: Interrupted.")


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 0.1), (signal.SIGTERM, 1.0)])
def test_a_signal_from_outside_at_any_moment(desk: Desk, number: signal.Signals, seconds: float) -> None:
    """A real process that is busy for long with reading and drawing rows, `seconds` after it opened the ledger; what it
    is at then differs between machines, what must hold does not.
    """
    desk.write(pd.concat([desk.frame] * 12_000))
    ledger = desk.folder / "ledger.db"
    opened, before = ledger.stat().st_mtime_ns, desk.names()
    command = "synthesize table.csv -s schema.yaml -e 1 -d 1e-5 -l ledger.db --dataset people -o release -n 5000000"
    process = subprocess.Popen(
        [sys.executable, "-m", "tabveil", *command.split()],
        cwd=desk.folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while ledger.stat().st_mtime_ns == opened and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.startswith("tabveil: Interrupted.")
    assert (out, err.count("\n")) == ("", 1)
    kept = {p.split("/")[0] for p in desk.names() - before}
    assert kept <= {"release.rescued-model"}
    assert ("commit" in desk.entries()) == ("had been charged" in err)


# ------------------------------------------------------------------------------------------------------------ surprises


def _exploding(*_: Any, **__: Any) -> None:
    raise ValueError(f"row 7 holds {SENTINEL}")


def test_an_unexpected_error_is_named_by_its_type_alone(
    desk: Desk, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "check_values", _exploding)
    refused(desk.synthesize(), 70, "ValueError", "TABVEIL_DEBUG=1", "Nothing was charged.")


def test_debugging_shows_the_traceback_and_says_so_beforehand(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "check_values", _exploding)
    monkeypatch.setenv("TABVEIL_DEBUG", "1")
    outcome = desk.synthesize()
    assert outcome.code == 70
    assert "Traceback" in outcome.err
    assert SENTINEL in outcome.err


def test_an_unexpected_error_after_the_fit_keeps_the_paid_model(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "seal", _exploding)
    outcome = desk.synthesize()
    assert outcome.code == 70
    assert "rescued-model" in outcome.err
    assert SENTINEL not in outcome.err


def test_warnings_of_libraries_are_not_shown(desk: Desk) -> None:
    script = textwrap.dedent(f"""
        import sys, warnings
        from tabveil import pipeline
        from tabveil._cli_output import run
        from tabveil.cli import app
        def warn(*_, **__): warnings.warn("cell {SENTINEL}")
        pipeline.check_values = warn
        sys.exit(run(app, sys.argv[1:]))
    """)
    command = "synthesize table.csv -s schema.yaml -e inf -o release -g independent".split()
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        cwd=desk.folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert SENTINEL not in done.stdout + done.stderr


def test_folders_made_on_the_way_are_taken_away_again(desk: Desk, refused: Refused) -> None:
    desk.write(_with(desk.frame, "color", SENTINEL))
    refused(desk.synthesize(out="a/b/release"), 4)
    desk.write(desk.frame)
    assert desk.synthesize(out="a/b/release").code == 0


def test_the_input_is_left_as_it_was(desk: Desk) -> None:
    path: Path = desk.folder / "table.csv"
    content = path.read_bytes()
    assert desk.synthesize().code == 0
    assert path.read_bytes() == content
