"""The order of the stages, and what a release folder is made of."""

from __future__ import annotations

import datetime as dt
import errno
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tabveil
from tabveil import pipeline, release
from tabveil.columns import Boolean, Categorical, Column, Date, Datetime, Decimal, Identifier, Integer
from tabveil.curating import Payer, check_values
from tabveil.encoding import conform, decode, size
from tabveil.errors import (
    BudgetExceededError,
    DataError,
    LedgerError,
    SchemaError,
    StorageError,
    UnchargedError,
    UsageError,
)
from tabveil.generators.base import create
from tabveil.ledger import Ledger
from tabveil.release import Manifest, files_of, new_folder, space_for, spelled, write_rows
from tabveil.schema import Schema
from tabveil.tables import Table, open_table
from tabveil.verification import _exact, _exact_text, _strict

SCHEMA = Schema(
    columns=(Integer(name="age", low=0, high=99), Categorical(name="sex", categories=("F", "M"))), public_rows=60
)
FRAME = pd.DataFrame({"age": [20, 30, 40] * 20, "sex": ["F", "M"] * 30})


def _ledger(unit: str = "row") -> Ledger:
    ledger = Ledger()
    ledger.open("d", epsilon=3.0, delta=1e-3, unit=unit)
    return ledger


def _kinds(ledger: Ledger) -> list[str]:
    return [json.loads(e["payload"])["kind"] for e in ledger.export("d")["entries"]]


PAID: dict[str, Any] = {"generator": "independent", "epsilon": 1.0, "delta": 1e-3, "dataset": "d"}


class _Spy(Table):
    """Notes what the ledger says whenever rows are asked for."""

    def __init__(self, frame: pd.DataFrame, ledger: Ledger) -> None:
        super().__init__(frame.columns, chunk_rows=25)
        self._inner, self._ledger = open_table(frame, chunk_rows=25), ledger
        self.seen: list[str] = []

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        self.seen.append(_kinds(self._ledger)[-1])
        return self._inner.chunks(columns)


# ------------------------------------------------------------------------------------------------------------ the order


def test_values_are_checked_under_a_reservation_and_the_fit_reads_after_the_commit(tmp_path: Path) -> None:
    ledger = _ledger()
    table = _Spy(FRAME, ledger)
    made = pipeline.synthesize(table, SCHEMA, **PAID, ledger=ledger, out=tmp_path / "r")
    assert table.seen == ["reserve", "commit"]
    assert _kinds(ledger) == ["open", "reserve", "commit"]
    assert made.statement.epsilon == pytest.approx(ledger.statement("d").epsilon)
    assert made.digest == json.loads((tmp_path / "r" / "manifest.json").read_text())["sha256"]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"epsilon": 5.0}, BudgetExceededError),
        ({"dataset": "nosuch"}, LedgerError),
        ({"delta": 0.5}, UsageError),
        ({"rows": 0}, UsageError),
        ({"rows": 2.5}, UsageError),
        ({"random_state": -1}, UsageError),
        ({"options": {"bins": 3}}, UsageError),
        ({"holdout": FRAME[["age"]]}, DataError),
    ],
)
def test_nothing_is_read_where_the_run_cannot_be(tmp_path: Path, changed: dict[str, Any], error: type) -> None:
    ledger = _ledger()
    table = _Spy(FRAME, ledger)
    with pytest.raises(error):
        pipeline.synthesize(table, SCHEMA, **{**PAID, **changed}, ledger=ledger, out=tmp_path / "r")
    assert (table.seen, _kinds(ledger), list(tmp_path.iterdir())) == ([], ["open"], [])


def test_nothing_is_read_under_a_draft_or_for_another_unit(tmp_path: Path) -> None:
    ledger = _ledger(unit="patient")
    table = _Spy(FRAME, ledger)
    with pytest.raises(LedgerError, match="patient"):
        pipeline.synthesize(table, SCHEMA, **PAID, ledger=ledger, out=tmp_path / "r")
    with pytest.raises(SchemaError, match="draft"):
        pipeline.synthesize(table, Schema.draft(FRAME), **PAID, ledger=ledger, out=tmp_path / "r")
    assert table.seen == []


def test_a_place_that_is_taken_is_found_before_anything_is_reserved(tmp_path: Path) -> None:
    ledger = _ledger()
    (tmp_path / "r-internal").mkdir()
    (tmp_path / "r-internal" / "kept").touch()
    with pytest.raises(UsageError, match="r-internal"):
        pipeline.synthesize(FRAME, SCHEMA, **PAID, ledger=ledger, out=tmp_path / "r", evaluate=True)
    assert _kinds(ledger) == ["open"]
    (tmp_path / "r").mkdir()  # an empty folder is as good as none
    assert pipeline.synthesize(FRAME, SCHEMA, **PAID, ledger=ledger, out=tmp_path / "r").folder == tmp_path / "r"


def test_a_ledger_without_dataset_is_a_mistake_also_where_nothing_is_paid(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="belong together"):
        pipeline.synthesize(FRAME, SCHEMA, epsilon=math.inf, ledger=_ledger(), out=tmp_path / "r")


def test_progress_tells_the_stages_in_order(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    pipeline.synthesize(
        FRAME, SCHEMA, **PAID, ledger=_ledger(), out=tmp_path / "r", progress=lambda *t: told.append(t), evaluate=True
    )
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert [s for s in stages if s in {"checking values", "fitting", "sampling", "writing", "measuring"}] == [
        "checking values",
        "fitting",
        "sampling",
        "writing",
        "measuring",
    ]
    assert all(0 <= share <= 1 for _, share in told)


def test_two_releases_with_one_random_state_differ_by_noise_alone(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.open("d", epsilon=10.0, delta=1e-3)
    for name in ("a", "b"):
        pipeline.synthesize(FRAME, SCHEMA, **PAID, ledger=ledger, out=tmp_path / name, random_state=1)
    # one fit each; 100 cells of ages with noise of standard deviation above 2: that both fits draw the same 60 ages
    # has a chance far below alpha = 1e-9
    first, second = (pd.read_parquet(tmp_path / n / "synthetic.parquet") for n in ("a", "b"))
    assert not first.equals(second)
    rows = tmp_path / "again.parquet"
    pipeline.sample(tmp_path / "a", rows, random_state=1)
    pd.testing.assert_frame_equal(pd.read_parquet(rows), first)


def test_the_public_names_are_the_pipelines() -> None:
    assert tabveil.synthesize is pipeline.synthesize
    assert tabveil.evaluate is pipeline.evaluate
    assert tabveil.report is pipeline.report


def test_evaluate_takes_files_and_names_and_marks_all_internal(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    SCHEMA.to_yaml(tmp_path / "s.yaml")
    scores = tabveil.evaluate(FRAME, train=tmp_path / "t.csv", schema=tmp_path / "s.yaml", metrics=["marginals"])
    assert {s.metric for s in scores} == {"marginals"}
    assert all(s.internal and s.value == 0 for s in scores if s.name.endswith("train"))


# ----------------------------------------------------------------------------------------------------- paying, checking


def test_a_reservation_pays_only_for_what_it_was_made_for() -> None:
    ledger = _ledger()
    plan = create("independent", epsilon=1.0, delta=1e-3).plan(SCHEMA)
    with ledger.reserve("d", plan.spends, label="x") as reservation:
        payer = Payer(ledger, reservation, plan.spends)
        for wrong in (plan.spends[1:], (*plan.spends, plan.spends[0]), plan.event):
            with pytest.raises(UnchargedError):
                payer.charge("d", wrong, label="x")
        receipt = payer.charge("d", plan.spends, label="x")
        assert receipt.spends == plan.spends
        with pytest.raises(LedgerError):
            payer.charge("d", plan.spends, label="x")
    assert _kinds(ledger) == ["open", "reserve", "commit"]


@pytest.mark.parametrize(
    ("charged", "words"), [(False, "Nothing was charged"), (None, "was being charged"), (True, "had been charged")]
)
def test_an_error_says_whether_the_account_was_charged(charged: bool | None, words: str) -> None:
    ledger = _ledger()
    spends = create("independent", epsilon=1.0, delta=1e-3).plan(SCHEMA).spends
    with ledger.reserve("d", spends, label="x") as reservation:
        payer = Payer(ledger, reservation, spends)
        payer._charged = charged
        error = ValueError()
        payer.annotate(error, "d")
    assert words in error.__notes__[0]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (FRAME.iloc[:0], "no rows"),
        (FRAME.assign(sex="X"), "'sex'"),
        (FRAME.assign(sex=FRAME["sex"].where(FRAME.index < 59)), "'sex'"),
        (FRAME.assign(age="old"), "'age'"),
    ],
)
def test_the_curators_check_refuses(frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_values(open_table(frame, chunk_rows=7), SCHEMA)


def test_the_curators_check_looks_at_every_chunk_and_passes_what_a_fit_takes() -> None:
    check_values(open_table(FRAME, chunk_rows=7), SCHEMA)
    nullable = replace(SCHEMA, columns=(Integer(name="age", low=0, high=99, missing=("",)), SCHEMA["sex"]))
    ages = FRAME["age"].astype("Int64")
    check_values(FRAME.assign(age=ages.where(FRAME.index == 59)), nullable)
    with pytest.raises(DataError, match="'age' is missing in every row"):
        check_values(FRAME.assign(age=None), nullable)


def test_splitting_keeps_every_row_once_and_their_order() -> None:
    train, held = pipeline.split(FRAME, share=0.2, random_state=0)
    assert (len(train), len(held)) == (48, 12)
    assert sorted([*train.index, *held.index]) == list(FRAME.index)
    assert train.index.is_monotonic_increasing
    assert not train.equals(pipeline.split(FRAME, share=0.2, random_state=1)[0])


# ----------------------------------------------------------------------------------------------------------- the folder


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "c" / "d"):
        raise KeyboardInterrupt
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_error_names_the_release_and_not_the_hidden_folder(tmp_path: Path, number: int) -> None:
    with pytest.raises(StorageError) as caught, new_folder(tmp_path / "r"):
        raise OSError(number, os.strerror(number), "secret")
    assert "'" + str(tmp_path / "r") + "'" in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(StorageError) as caught, new_folder(tmp_path / "r") as folder:
        raise StorageError(f"'{folder}/x' cannot be written: full. Nothing was left behind.")
    assert str(caught.value) == f"'{tmp_path}/r/x' cannot be written: full."
    assert list(tmp_path.iterdir()) == []


def test_too_little_disk_is_said_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="make room"), new_folder(tmp_path / "r", needed=2**60):
        raise AssertionError("not reached")
    assert list(tmp_path.iterdir()) == []


def test_the_space_a_release_needs_is_known_from_public_numbers() -> None:
    assert space_for(SCHEMA, None) == space_for(SCHEMA, 60) < space_for(SCHEMA, 61)
    assert space_for(replace(SCHEMA, public_rows=None), None) == release.BYTES_BESIDE


def test_a_link_to_an_empty_folder_is_filled_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with new_folder(tmp_path / "link") as folder:
        (folder / "file").touch()
    assert (tmp_path / "link").is_symlink()
    assert files_of(tmp_path / "real") == ["file"]


def test_a_folder_that_cannot_be_replaced_is_found_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any) -> None:
        raise OSError(errno.EBUSY, "busy")

    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(os, "rename", busy)
    with pytest.raises(StorageError, match="busy"), new_folder(tmp_path / "mounted"):
        raise AssertionError("not reached")
    assert [p.name for p in tmp_path.iterdir()] == ["mounted"]


def test_a_manifest_is_its_own_witness() -> None:
    manifest = Manifest(1, "", {"rows": 3}, math.inf, 0.0, "s", None, "", {"a": "b"}).sealed()
    assert Manifest.from_dict(json.loads(manifest.text())) == manifest
    assert manifest.sealed() == manifest
    assert replace(manifest, delta=1e-9).sealed().sha256 != manifest.sha256


# --------------------------------------------------------------------------------------------- text a schema reads back

MISSING: st.SearchStrategy[tuple[str, ...]] = st.sampled_from([(), ("",), ("?",), ("NA", "-"), ("", "?")])
COLUMNS: st.SearchStrategy[Sequence[Column]] = st.tuples(
    st.builds(Integer, name=st.just("whole"), low=st.integers(-9, 0), high=st.integers(0, 9), missing=MISSING),
    st.builds(
        Decimal,
        name=st.just("number"),
        low=st.sampled_from([-1.0, 0.0]),
        high=st.sampled_from([0.5, 99.99]),
        decimals=st.integers(0, 6),
        missing=MISSING,
    ),
    st.builds(
        Boolean,
        name=st.just("truth"),
        true=st.sampled_from([("true",), ("J", "true"), ("1",), ("Ja",)]),
        false=st.sampled_from([("false",), ("N",), ("0", "false")]),
        missing=MISSING,
    ),
    st.builds(
        Categorical,
        name=st.just("word"),
        categories=st.sampled_from([("a",), ("true", "1", "1.0"), ("x,y", 'q"', "z\nz", " b ", "ü")]),
        catch_all=st.sampled_from([None, "other"]),
        missing=MISSING,
    ),
    st.builds(
        Date,
        name=st.just("day"),
        low=st.just(dt.date(1700, 1, 1)),
        high=st.just(dt.date(2999, 12, 31)),
        format=st.sampled_from(["%Y-%m-%d", "%d.%m.%Y"]),
        missing=MISSING,
    ),
    st.builds(
        Datetime,
        name=st.just("moment"),
        low=st.just(dt.datetime(1700, 1, 1)),
        high=st.just(dt.datetime(2999, 12, 31)),
        resolution=st.sampled_from([1, 60, 3600]),
        missing=MISSING,
    ),
)


def _drawn(columns: Sequence[Column], rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.concat([decode(c, rng.integers(0, size(c) + c.nullable, rows)) for c in columns], axis=1)


@settings(max_examples=25)
@given(columns=COLUMNS, rows=st.integers(0, 9), seed=st.integers(0, 99))
def test_what_is_written_reads_back_under_the_same_schema(
    tmp_path_factory: pytest.TempPathFactory, columns: Sequence[Column], rows: int, seed: int
) -> None:
    schema = Schema(columns=(*columns, Identifier(name="id", pattern="P{n:03d}")))
    frame = _drawn(columns, rows, seed).assign(id=[f"P{n:03d}" for n in range(1, rows + 1)])
    folder = tmp_path_factory.mktemp("spelled")
    for name in ("t.csv", "t.parquet"):
        write_rows(frame, schema, folder / name)
    text, typed = (pd.concat(list(open_table(folder / n).chunks())) for n in ("t.csv", "t.parquet"))
    pd.testing.assert_frame_equal(conform(columns, text), frame[[c.name for c in columns]])
    for column in schema.columns if rows else ():
        codes = _strict(column, text[column.name], first=1, typed=False)
        assert codes is not None, column.name
        np.testing.assert_array_equal(codes, _strict(column, typed[column.name], first=1, typed=True))


def test_spelling_leaves_the_frame_alone() -> None:
    schema = Schema(columns=(Integer(name="a", low=0, high=1, missing=("?",)),))
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64")})
    assert spelled(frame, schema)["a"].tolist() == ["1", "?"]
    assert frame["a"].tolist() == [1, pd.NA]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (Integer(name="a", low=0, high=9), pd.Series([1.0, 2.0])),
        (Decimal(name="a", low=0, high=9, decimals=1), pd.Series([1, 2])),
        (Decimal(name="a", low=0, high=9, decimals=1), pd.Series([0.15])),
        (Decimal(name="a", low=0, high=9, decimals=1), pd.Series(["0.1"], dtype=object)),
        (Boolean(name="a"), pd.Series(["true"], dtype=object)),
        (Boolean(name="a"), pd.Series([1, 0])),
        (Date(name="a", low=dt.date(2020, 1, 1), high=dt.date(2020, 12, 31)), pd.Series(["2020-02-01"], dtype=object)),
        (
            Date(name="a", low=dt.date(2020, 1, 1), high=dt.date(2020, 12, 31)),
            pd.Series([pd.Timestamp(2020, 2, 1, 5)]),
        ),
        (
            Datetime(name="a", low=dt.datetime(2020, 1, 1), high=dt.datetime(2020, 12, 31)),
            pd.Series([pd.Timestamp("2020-02-01 00:00:00.5")]),
        ),
        (Categorical(name="a", categories=("1", "2")), pd.Series([1, 2])),
    ],
)
def test_a_typed_file_is_held_to_its_types_and_its_grid(column: Column, values: pd.Series) -> None:
    assert _strict(column, values, first=1, typed=True) is None


def test_text_is_held_to_the_grid() -> None:
    column = Decimal(name="a", low=0, high=9, decimals=1)
    assert _strict(column, pd.Series(["0.1", "9.0"], dtype=object), first=1, typed=False) is not None
    assert _strict(column, pd.Series(["0.11"], dtype=object), first=1, typed=False) is None
    assert _strict(column, pd.Series(["9.1"], dtype=object), first=1, typed=False) is None
    assert not _exact_text(column, pd.Series(["0.12"]), np.array([1]))
    assert _exact(column, pd.Series([0.1]), np.array([1]))


def test_identifiers_count_on() -> None:
    column = Identifier(name="id", pattern="{n}")
    assert _strict(column, pd.Series(["3", "4"], dtype=object), first=3, typed=True) is not None
    assert _strict(column, pd.Series(["3", "4"], dtype=object), first=1, typed=True) is None
