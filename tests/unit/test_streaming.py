"""Rows beyond memory: what is read anew for every pass is counted as what is kept, and is the same each time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tabveil import _counting, mechanisms
from tabveil._counting import Cutter, Tally, joined
from tabveil.accounting import DiscreteGaussianDpEvent, ExponentialMechanismDpEvent, Spend
from tabveil.columns import Boolean, Categorical, Column, Date, Decimal, Identifier, Integer
from tabveil.encoding import Axis, size
from tabveil.errors import DataError, UnchargedError
from tabveil.ledger import Ledger, Receipt
from tabveil.mechanisms import Contest, PrivateRows, Question
from tabveil.schema import Schema
from tabveil.tables import Table, open_table, write_table
from tabveil.units import bounded_contributions, bounded_in_parts, fresh_secrets, unit_names

ALPHA = 1e-9
COLUMNS: tuple[Column, ...] = (
    Categorical(name="colour", categories=("red", "green", "blue"), catch_all="other"),
    Boolean(name="flag", missing=("",), invalid="missing"),
    Integer(name="age", low=0, high=110, missing=("", "NA")),
    Decimal(name="pay", low=-5.0, high=99_999.99, decimals=2, missing=("",)),
    Date(name="day", low=pd.Timestamp("2020-01-01").date(), high=pd.Timestamp("2024-12-31").date(), missing=("",)),
)
SCHEMA = Schema(columns=COLUMNS)
PERSON = Identifier(name="person")
PERSONS = Schema(columns=(PERSON, *COLUMNS), privacy_unit="person", max_rows_per_unit=2)


def people(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "person": [f"p{i}" for i in rng.integers(0, max(rows // 4, 1), rows)],
            "colour": rng.choice(["red", "green", "blue", "mauve"], rows),
            "flag": pd.array(rng.random(rows) < 0.3, dtype="boolean"),
            "age": pd.array(rng.integers(0, 111, rows), dtype="Int64"),
            "pay": np.round(rng.gamma(2, 900, rows), 2),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1800, rows), unit="D"),
        }
    )
    for name in ("flag", "age", "pay", "day"):
        frame.loc[rng.random(rows) < 0.1, name] = None
    return frame


def grid(column: Column, edges: list[int], cell: list[int]) -> Axis:
    return Axis(column, np.array(edges), np.array(cell), np.ones(len(cell)))


AXES = (
    Axis.singles(COLUMNS[0]),
    Axis.singles(COLUMNS[1]),
    grid(COLUMNS[2], [0, 20, 40, 90, 111], [-1, 0, 1, 0, 2]),  # some in no cell
    grid(COLUMNS[3], [0, 1, 100_000, 300_000, COLUMNS[3].units], [0, 1, 2, 3, -1]),  # type: ignore[attr-defined]
    grid(COLUMNS[4], [10, 500, 1_000], [1, 0, 2]),  # days before and after are in no cell
)
PAIRS = [(AXES[a], AXES[b]) for a in range(5) for b in range(a)]
TRIPLES = [(AXES[2], AXES[0], AXES[4]), (AXES[1], AXES[3], AXES[0])]
EVERYTHING = [*((a,) for a in AXES), *PAIRS, *TRIPLES]


def opened(frame: pd.DataFrame, form: str, folder: Path, chunk_rows: int) -> Table:
    if form == "frame":
        return open_table(frame, chunk_rows=chunk_rows)
    if form == "sql":
        url = f"sqlite:///{folder / 'rows.db'}"
        frame.assign(day=frame["day"].dt.strftime("%Y-%m-%d")).to_sql("t", sa.create_engine(url), index=False)
        return open_table(url, table="t", chunk_rows=chunk_rows)
    path = folder / f"rows.{form}"
    write_table(frame, path, decimals={"pay": 2}, date_formats={"day": "%Y-%m-%d"})
    return open_table(path, chunk_rows=chunk_rows)


def exact(table: Table, schema: Schema = SCHEMA) -> PrivateRows:
    return PrivateRows(table, schema, Receipt.uncharged())


def brute(frame: pd.DataFrame, axes: tuple[Axis, ...]) -> np.ndarray:
    from tabveil.encoding import encode

    cells = np.array([a.cells(encode(a.column, frame[a.column.name])) for a in axes])
    counts = np.zeros([a.size for a in axes], dtype=np.int64)
    np.add.at(counts, tuple(cells[:, (cells >= 0).all(axis=0)]), 1)
    return counts


# ------------------------------------------------------------------------------------------------------------ counting


@st.composite
def axes_of_one(draw: st.DrawFn) -> Axis:
    values = draw(st.integers(1, 60))
    column = Integer(name="n", low=0, high=values - 1, missing=draw(st.sampled_from([(), ("",)])))
    edges = sorted(draw(st.sets(st.integers(0, values), min_size=2, max_size=8)))
    leaves = len(edges) - 1 + column.nullable
    cell = draw(st.lists(st.integers(-1, 4), max_size=leaves))
    return grid(column, edges, (cell + [0] * leaves)[:leaves])


@settings(max_examples=150, deadline=None)
@given(axes_of_one(), st.sampled_from([0, 2**18]))
def test_a_cutter_finds_the_axis_own_cells(axis: Axis, lookup: int) -> None:
    codes = np.arange(size(axis.column) + axis.column.nullable)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_counting, "LOOKUP", lookup)
        cutter = Cutter(axis)
        found = cutter(codes).astype(int)
    expected = axis.cells(codes)
    assert (np.where(expected < 0, axis.size, expected) == found).all()
    assert found.max(initial=0) < max(cutter.width, 1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_tally_counts_every_marginal_exactly(data: st.DataObject) -> None:
    axes = data.draw(st.lists(axes_of_one(), min_size=1, max_size=5))
    orders = st.lists(st.permutations(range(len(axes))), min_size=1, max_size=6)
    marginals = [
        tuple(axes[i] for i in order[: data.draw(st.integers(1, min(3, len(axes))))]) for order in data.draw(orders)
    ]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    rows = data.draw(st.sampled_from([0, 1, 50]))
    codes = {id(a): rng.integers(0, size(a.column) + a.column.nullable, rows) for a in axes}
    threaded, together = data.draw(st.sampled_from([(0, 2**16), (2**17, 1), (2**17, 300)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_counting, "THREADED_ROWS", threaded)
        patch.setattr(_counting, "TOGETHER", together)
        with Tally(marginals) as tally:
            for part in np.array_split(np.arange(rows), 3):
                tally.add([cutter(codes[id(cutter.axis)][part]) for cutter in tally.cutters])
    for marginal, counts in tally.results():
        cells = np.array([a.cells(codes[id(a)]) for a in marginal])
        expected = np.zeros([a.size for a in marginal], dtype=np.int64)
        np.add.at(expected, tuple(cells[:, (cells >= 0).all(axis=0)]), 1)
        assert (counts == expected).all()


def test_an_error_in_a_counting_thread_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_counting, "THREADED_ROWS", 0)
    tally = Tally([(AXES[0],)])
    tally._totals = []

    def count() -> None:
        with tally:
            tally.add([np.zeros(3, dtype=np.uint8)])

    with pytest.raises(IndexError):
        count()


def test_marginals_are_joined_while_they_stay_small() -> None:
    widths = dict.fromkeys(range(15), 8)
    triples = [(a, b, c) for a in range(15) for b in range(a) for c in range(b)]
    sets = joined(triples, widths)
    assert all(any(set(t) <= set(s) for s in sets) for t in triples)
    assert max(8 ** len(s) for s in sets) <= _counting.TOGETHER
    assert len(sets) < len(triples) / 3
    pairs = [(a, b) for a in range(120) for b in range(a)]
    wide = joined(pairs, {a: 2 + a % 9 for a in range(120)})
    assert _counting.RECENT < len(wide) < len(pairs) / 6
    assert {(a, b) for s in wide for a in s for b in s if a > b} == set(pairs)
    assert joined([(0, 1)], {0: 1_000, 1: 1_000}) == [(0, 1)]  # too large for any company, counted all the same
    assert max(map(len, joined([(i,) for i in range(200)], dict.fromkeys(range(200), 1)))) <= _counting.MOST_AXES


# ----------------------------------------------------------------------------------------- streamed as kept in memory


@settings(max_examples=8, deadline=None)
@given(
    form=st.sampled_from(["frame", "csv", "parquet", "sql"]),
    rows=st.sampled_from([0, 1, 7, 120]),
    chunk_rows=st.sampled_from([3, 64, 1_000]),
    block=st.sampled_from([1, 50, 2**20]),
)
def test_streamed_counts_are_those_of_memory(form: str, rows: int, chunk_rows: int, block: int) -> None:
    frame = people(rows, seed=rows)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        table = opened(frame, form, Path(folder), chunk_rows)
        kept = exact(table)
        kept.tabulate(EVERYTHING)
        patch.setattr(mechanisms, "_BLOCK", block)
        patch.setattr(mechanisms, "MEMORY", -1)
        once, each = exact(table), exact(table)
        once.tabulate(EVERYTHING)
        for axes in EVERYTHING:
            expected = brute(frame, axes)
            assert (kept.counts(axes, label="any") == expected).all()
            assert (once.counts(axes, label="any") == expected).all()
        for axes in EVERYTHING[::4]:
            assert (each.counts(axes, label="any") == brute(frame, axes)).all()
        assert once._codes is None
        assert kept._codes is not None


def test_a_streamed_row_counts_once_and_a_choice_sees_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = people(500)
    estimates = tuple(np.full([a.size for a in axes], 3.7) for axes in PAIRS)
    contest = Contest(tuple(PAIRS), estimates, np.arange(len(PAIRS)) / 3)
    expected = exact(open_table(frame))._score(contest)
    monkeypatch.setattr(mechanisms, "MEMORY", -1)
    for cached in (2**26, 40, 1):  # with room for all, for a few, for none at all
        monkeypatch.setattr(mechanisms, "CACHED_CELLS", cached)
        assert (exact(open_table(frame, chunk_rows=99))._score(contest) == expected).all()


class Counted(Table):
    """Notes each reading and what it read."""

    def __init__(self, inner: Table, *, repeatable: bool = True) -> None:
        super().__init__(inner.columns, chunk_rows=inner.chunk_rows)
        self.inner, self.readings = inner, list[list[str]]()
        self.repeatable = repeatable  # type: ignore[misc]

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        self.readings.append(columns)
        return self.inner.chunks(columns)


def test_a_table_of_marginals_is_one_pass_over_the_columns_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "MEMORY", -1)
    table = Counted(open_table(people(300), chunk_rows=50))
    rows = exact(table)
    rows.tabulate([(AXES[0], AXES[2]), (AXES[2],)])
    assert table.readings[1:] == [["colour", "age"]]  # the first was given up: too large for memory
    rows.counts([AXES[0], AXES[2]], label="any")
    rows.counts([AXES[2]], label="any")
    rows.tabulate([(AXES[2],)])
    assert len(table.readings) == 2
    contest = Contest(tuple(PAIRS), tuple(np.zeros([a.size for a in p]) for p in PAIRS), np.zeros(len(PAIRS)))
    rows.choose(contest, [0, 1], label="any")
    assert len(table.readings) == 3
    rows.forget([AXES[2]])
    rows.counts([AXES[2]], label="any")
    assert table.readings[3:] == [["age"]]


def test_cells_asked_for_one_by_one_are_kept_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "MEMORY", -1)
    for room, readings in ((10**6, 3), (0, 4)):
        monkeypatch.setattr(mechanisms, "CELL_MEMORY", room)
        table = Counted(open_table(people(300), chunk_rows=50))
        rows = exact(table)
        for axes in ((AXES[0],), (AXES[0], AXES[2]), (AXES[2], AXES[0])):
            assert (rows.counts(axes, label="any") == brute(people(300), axes)).all()
        assert len(table.readings) == readings


def test_more_marginals_than_fit_are_counted_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "CACHED_CELLS", 10)
    rows = exact(open_table(people(300)))
    rows.tabulate(EVERYTHING)
    assert 0 < sum(c.size for _, c in rows._known.values()) <= 10
    for axes in EVERYTHING:
        assert (rows.counts(axes, label="any") == brute(people(300), axes)).all()


# ------------------------------------------------------------------------------------------------------------- charges


class Unreadable(Exception):
    """Raised by a table that must not be read."""


class Trap:
    def __getattr__(self, name: str) -> object:
        raise Unreadable(name)


def test_tabulating_reads_nothing_once_the_charge_is_used_up() -> None:
    ledger = Ledger(":memory:")
    ledger.open("t", epsilon=10.0, delta=1e-6)
    spends = [Spend("counts", DiscreteGaussianDpEvent(5.0)), Spend("choice", ExponentialMechanismDpEvent(0.1))]
    receipt = ledger.charge("t", spends, label="test")
    rows = PrivateRows(Trap(), SCHEMA, receipt)  # type: ignore[arg-type]
    with pytest.raises(Unreadable):
        rows.tabulate([(AXES[0],)])
    receipt.take("counts")
    receipt.take("choice")
    with pytest.raises(UnchargedError):
        rows.tabulate([(AXES[0],)])


def test_tabulating_gives_nothing_out() -> None:
    rows = exact(open_table(people(300)))
    assert rows.tabulate([(AXES[0],)]) is None  # type: ignore[func-returns-value]
    assert {n for n in vars(rows) if not n.startswith("_")} == set()


def test_tabulated_counts_carry_the_charged_noise() -> None:
    """alpha = 1e-9, n = 20,000 cells: the variance of their noise is sigma^2, a sigma 10 % off is rejected."""
    ledger = Ledger(":memory:")
    ledger.open("t", epsilon=1e6, delta=1e-6)
    column, sigma, repeats = Integer(name="age", low=0, high=998, missing=("",)), 6.0, 20
    axis = Axis.singles(column)
    spends = [Spend("counts", DiscreteGaussianDpEvent(sigma), repeats)]
    frame = people(300)[["age"]]
    rows = PrivateRows(open_table(frame), Schema(columns=(column,)), ledger.charge("t", spends, label="test"))
    rows.tabulate([(axis,)])
    true = brute(frame, (axis,))
    noise = np.concatenate([rows.counts([axis], label="counts") - true for _ in range(repeats)])
    squares = float((noise.astype(float) ** 2).sum())
    for factor, agrees in ((1.0, True), (0.9, False), (1.1, False)):
        tail = stats.chi2.sf(squares / (sigma * factor) ** 2, len(noise))
        assert bool(2 * min(tail, 1 - tail) > ALPHA) is agrees


# ----------------------------------------------------------------------------------------------- one person, many rows


def together(frame: pd.DataFrame, **options: Any) -> PrivateRows:
    return exact(open_table(frame, **options), PERSONS)


def test_the_same_rows_are_kept_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap A17. 600 rows of 150 persons, 2 rows of each kept: that two fresh choices kept the same rows of every person
    with more than two has a chance below 1e-30.
    """
    monkeypatch.setattr(mechanisms, "MEMORY", -1)
    monkeypatch.setattr(mechanisms, "CELL_MEMORY", 0)
    frame = people(600)
    number = pd.Series(np.arange(600), name="age")
    column = Integer(name="age", low=0, high=599)
    schema = Schema(columns=(PERSON, column), privacy_unit="person", max_rows_per_unit=2)
    rows = exact(open_table(frame[["person"]].assign(age=number), chunk_rows=70), schema)
    axis = Axis.singles(column)
    passes = [rows.counts([axis], label="any") for _ in range(4)]
    assert all((p == passes[0]).all() for p in passes)
    kept = frame["person"][passes[0] == 1].value_counts()
    assert (kept == np.minimum(frame["person"].value_counts(), 2)[kept.index]).all()
    assert set(kept.index) == set(frame["person"])


@pytest.mark.parametrize("chunk", [1, 7, 600])
def test_a_streamed_person_is_bounded_over_all_chunks_and_types(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "MEMORY", -1)
    frame = people(600)
    expected = np.minimum(frame["person"].value_counts(), 2).sum()
    assert together(frame, chunk_rows=chunk).counts([AXES[0]], label="any").sum() == expected
    one = frame.head(6).assign(person=[1, 1.0, "1", None, "", np.nan])
    assert together(one, chunk_rows=chunk).counts([AXES[0]], label="any").sum() == 4


class Shuffled(Table):
    """A database's right: the same rows in another order every time."""

    def __init__(self, frame: pd.DataFrame) -> None:
        super().__init__(frame.columns, chunk_rows=50)
        self.frame, self.times = frame, 0

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        self.times += 1
        order = np.random.default_rng(self.times).permutation(len(self.frame))
        return open_table(self.frame.iloc[order].reset_index(drop=True), chunk_rows=50).chunks(columns)


def test_persons_are_bounded_where_rows_come_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap A17: rows kept by position are other rows once the order changes; such a source stays in memory."""
    monkeypatch.setattr(mechanisms, "MEMORY", -1)
    frame = pd.DataFrame({"person": ["greedy"] * 300 + [f"p{i}" for i in range(300)]}).assign(
        **{c: people(600)[c] for c in people(1).columns[1:]}
    )
    frame["flag"] = pd.array([True] * 300 + [False] * 300, dtype="boolean")
    rows = exact(Shuffled(frame), PERSONS)
    for _ in range(2):
        assert rows.counts([AXES[1]], label="any").tolist() == [300, 2, 0]


def test_learning_bounds_persons_where_rows_come_in_any_order() -> None:
    """Trap A17: what is surveyed before bounds are known and what is counted after are the same rows of a person."""
    frame = pd.DataFrame({"person": ["greedy"] * 300 + [f"p{i}" for i in range(300)]}).assign(
        **{c: people(600)[c] for c in people(1).columns[1:]}
    )
    frame["flag"] = pd.array([True] * 300 + [False] * 300, dtype="boolean")
    rows = exact(Shuffled(frame), PERSONS)
    question = Question("flag", 2, lambda v: v.to_numpy(dtype=np.int64), "any")
    found = [[int(c) for c in rows.survey([question])[0]] for _ in range(3)]
    found.append(rows.under(PERSONS).counts([AXES[1]], label="any").tolist())
    assert [*found[:3], found[3]] == [[300, 2], [300, 2], [300, 2], [300, 2, 0]]


@pytest.mark.parametrize("memory", [2**29, 150, -1])
def test_surveys_and_passes_share_the_rows_they_keep(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "MEMORY", memory)
    frame = people(600)
    rows = exact(open_table(frame, chunk_rows=7), PERSONS)
    question = Question("flag", 3, lambda v: v.astype("Int64").fillna(2).to_numpy(dtype=np.int64), "any")
    surveyed = rows.survey([question])[0]
    assert surveyed.sum() == np.minimum(frame["person"].value_counts(), 2).sum()
    for _ in range(2):
        assert rows.under(PERSONS).counts([AXES[1]], label="any").tolist() == surveyed.tolist()


def test_unit_names_are_equal_for_equal_texts_alone_and_differ_between_fits() -> None:
    texts = np.array([f"p{i % 500}" for i in range(5_000)] + ["\ud800", "\udfff", "", "", "a\0b", "a\0c"], dtype=object)
    secrets = fresh_secrets()
    high, low = unit_names(texts, secrets)
    names = list(zip(high.tolist(), low.tolist(), strict=True))
    assert len(set(names)) == len(set(texts)) == len(set(zip(names, texts, strict=True))) == 505
    assert len(bounded_contributions(texts, 1)) == 505
    other = unit_names(texts, fresh_secrets())
    assert not np.intersect1d(high, other[0]).size
    assert all(len(s) == 16 for s in secrets)


def test_rows_kept_in_parts_are_chosen_evenly_and_afresh() -> None:
    """alpha = 1e-9, n = 60,000 choices of 2 of 5 rows; a row 10 % too likely is rejected."""
    rng = np.random.default_rng(1)
    high, low = (np.repeat(rng.integers(0, 2**64, 60_000, dtype=np.uint64), 5) for _ in range(2))
    high[5:10], low[5:10] = high[0], low[0] + np.uint64(1)  # one half alike is another unit
    kept = bounded_in_parts(high, low, 2)
    assert (kept.reshape(-1, 5).sum(axis=1) == 2).all()
    counts = kept.reshape(-1, 5).sum(axis=0)
    assert stats.chisquare(counts).pvalue > ALPHA
    tilted = np.array([1.1, 0.975, 0.975, 0.975, 0.975])
    assert stats.chisquare(counts, counts.sum() * tilted / tilted.sum()).pvalue < ALPHA
    assert not np.array_equal(kept, bounded_in_parts(high, low, 2))


@pytest.mark.parametrize("unit", [None, "who"])
@pytest.mark.parametrize("again", ["survey", "categories", "counts", "stream"])
@pytest.mark.parametrize("how", ["shorter", "another order"])
def test_a_file_written_to_while_bounds_are_learned_is_refused(how: str, again: str, unit: str | None) -> None:
    """Rows are kept by position: of a file in another order, of the same length too, other rows would be kept."""
    columns = (Identifier(name="who"), Integer(name="n", low=0, high=99), Categorical(name="c", learn=True))
    schema = Schema(columns=columns, privacy_unit=unit, max_rows_per_unit=1 if unit else None)
    frame = pd.DataFrame({"who": ["a"] * 50 + ["b"] * 50, "n": range(100), "c": ["x", "y"] * 50})
    question = Question("n", 1, lambda v: np.zeros(len(v), dtype=np.int64), "any")
    known = Schema(columns=columns[:2], privacy_unit=unit, max_rows_per_unit=1 if unit else None)
    passes: dict[str, Callable[[PrivateRows], object]] = {
        "survey": lambda rows: rows.survey([question]),
        "categories": lambda rows: rows.categories([columns[2]], labels=["any"]),
        "counts": lambda rows: rows.under(known).counts([Axis.singles(columns[1])], label="any"),
    }
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "t.csv"
        frame.to_csv(path, index=False)
        os.utime(path, ns=(1, 1))
        rows = PrivateRows(open_table(path), schema, Receipt.uncharged())
        rows.survey([question])
        rows.survey([question])
        (frame.head(98) if how == "shorter" else frame.iloc[::-1]).to_csv(path, index=False)
        if again == "stream":
            patch.setattr(mechanisms, "MEMORY", 0)
        with pytest.raises(DataError, match="written to"):
            passes.get(again, passes["counts"])(rows)


def test_a_file_that_is_written_to_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "MEMORY", -1)
    for schema in (SCHEMA, PERSONS):
        for more in (people(400), people(200)):
            write_table(people(300), tmp_path / "t.parquet")
            rows = exact(open_table(tmp_path / "t.parquet"), schema)
            rows.tabulate([(AXES[0],)])
            write_table(more, tmp_path / "t.parquet")
            with pytest.raises(DataError, match="written to"):
                rows.tabulate([(AXES[1],)])
    frame = people(300)
    rows = exact(Counted(open_table(frame)), SCHEMA)
    rows.tabulate([(AXES[0],)])
    rows._table.inner = open_table(people(299))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="written to"):
        rows.tabulate([(AXES[1],)])


# -------------------------------------------------------------------------------------------------------------- memory


def peak_of(body: str, *arguments: str) -> float:
    """Mebibytes that a child needs above what its imports do."""
    code = """
        import sys
        import numpy as np, pandas as pd
        from tabveil import mechanisms
        from tabveil.encoding import Axis
        from tabveil.ledger import Receipt
        from tabveil.schema import Schema
        from tabveil.columns import Integer
        from tabveil.tables import open_table
        def peak():  # of this process alone: what getrusage says is inherited
            return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
    """
    run = [sys.executable, "-c", textwrap.dedent(code) + textwrap.dedent(body), *arguments]
    done = subprocess.run(run, check=True, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    return float(done.stdout)


def test_a_million_rows_are_counted_in_bounded_memory(tmp_path: Path) -> None:
    """12 columns of 8 bytes a code: 92 MiB of codes for a million rows, of which nothing is kept."""
    path = tmp_path / "long.parquet"
    rng = np.random.default_rng(0)
    write_table(pd.DataFrame({f"c{i}": rng.integers(0, 2**40, 1_000_000) for i in range(12)}), path)
    body = """
        mechanisms.MEMORY = int(sys.argv[2])
        columns = [Integer(name=f"c{i}", low=0, high=2**40) for i in range(12)]
        edges = np.linspace(0, 2**40 + 1, 9).astype(np.int64)
        axes = [Axis(c, edges, np.arange(8), np.ones(8)) for c in columns]
        table = open_table(sys.argv[1])
        for chunk in table.compact(table.columns): break  # what the reader itself takes is there before
        before = peak()
        rows = mechanisms.PrivateRows(table, Schema(columns=tuple(columns)), Receipt.uncharged())
        rows.tabulate([(a, b) for a in axes for b in axes if a is not b])
        assert rows.counts(axes[:2], label="any").sum() == 1_000_000
        print(peak() - before)
    """
    streamed = peak_of(body, str(path), str(2**20))
    whole = peak_of(body, str(path), str(2**40))
    assert whole > 90
    assert streamed < 75


def test_a_database_is_read_through_a_cursor(tmp_path: Path) -> None:
    """400,000 rows: all of them at once take more than 60 MiB as Python objects, a chunk of 5,000 less than 1."""
    url = f"sqlite:///{tmp_path / 'long.db'}"
    frame = pd.DataFrame({"c0": np.arange(400_000) + 2**33, "c1": np.arange(400_000) / 7})
    frame.to_sql("t", sa.create_engine(url), index=False, chunksize=10_000)
    body = """
        table = open_table(sys.argv[1], table="t", chunk_rows=int(sys.argv[2]))
        next(open_table(sys.argv[1], table="t", chunk_rows=10).chunks())
        before = peak()
        print(sum(len(chunk) for chunk in table.chunks()) - 400_000 + peak() - before)
    """
    assert peak_of(body, url, "5000") < 15
    assert peak_of(body, url, "400000") > 40


def test_a_column_of_text_is_read_alike_in_both_ways(tmp_path: Path) -> None:
    """Trap A2: the compact reading changes no code, whatever repeats, is missing, or is listed and never held."""
    import pyarrow as pa

    words = ["red", "red", "", None, "mauve", "green", "1", "1.0"]
    texts = pa.array(["red", "mauve", "green", "", "1", "1.0", "red", None])
    listed = pa.DictionaryArray.from_arrays(pa.array([0, 6, 3, 7, 1, 2, 4, 5]), texts)
    sources: list[Callable[[], Table]] = [
        lambda: open_table(pa.table({"colour": pa.array(words)}), chunk_rows=3),
        lambda: open_table(pa.table({"colour": listed}), chunk_rows=3),
        lambda: open_table(tmp_path / "w.parquet", chunk_rows=3),
        lambda: open_table(tmp_path / "w.csv", chunk_rows=3),
    ]
    frame = pd.DataFrame({"colour": pd.Series(words, dtype=object)})
    write_table(frame, tmp_path / "w.parquet")
    write_table(frame, tmp_path / "w.csv")
    from tabveil.encoding import encode

    for source in sources:
        plain = np.concatenate([encode(COLUMNS[0], c["colour"]) for c in source().chunks()])
        compact = np.concatenate([encode(COLUMNS[0], c["colour"]) for c in source().compact(["colour"])])
        assert compact.tolist() == plain.tolist() == [0, 0, 3, 3, 3, 1, 3, 3]
