from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tabveil import spelling
from tabveil.columns import Categorical, Date, Datetime, Decimal, Grid, Integer
from tabveil.domains import Pieces, binned, in_weeks
from tabveil.encoding import Axis, decode, size
from tabveil.spelling import Spelling, Written, calendar, calendar_axes, calendar_parts, raked, spelled

AMOUNT = Decimal(name="amount", low=0, high=20, decimals=2, missing=("",), invalid="missing")
DAY = Date(name="day", low=dt.date(2024, 1, 3), high=dt.date(2024, 3, 30), missing=("",), invalid="missing")
TIME = Datetime(name="time", low=dt.datetime(2024, 1, 3, 8, 20), high=dt.datetime(2024, 2, 1, 17, 5), resolution=300)
LONG = Date(name="long", low=dt.date(1950, 1, 1), high=dt.date(2020, 12, 31))
COLUMNS: list[Grid] = [AMOUNT, DAY, TIME, LONG]


def coarse(column: Grid, cells: int) -> Axis:
    """Uneven, with wide leaves, empty ones and a heavy value."""
    rng = np.random.default_rng(0)
    edges = np.unique(np.append(rng.integers(0, column.units, 60), [0, 5, 6, column.units]))
    counts = rng.exponential(10.0, len(edges) - 1) * (rng.random(len(edges) - 1) < 0.8)
    counts[np.flatnonzero(edges == 5)] = 200.0
    return in_weeks(binned(column, Pieces(edges, counts), cells))


def shares_of(axis: Axis) -> np.ndarray:
    found = np.random.default_rng(1).random(axis.size)
    return found / found.sum()


def apart(axis: Axis, shares: np.ndarray) -> tuple[Axis, Spelling, np.ndarray]:
    """One column as it is written."""
    written = Written.of([axis], [shares])
    return written.axes[0], written.spellings[0], written.shares[0]


def law(axis: Axis, shares: np.ndarray) -> np.ndarray:
    """Probability of every code, missing the last."""
    leaf = np.append(np.repeat(np.arange(len(axis.edges) - 1), np.diff(axis.edges)), axis.leaves - 1)
    width = np.append(np.diff(axis.edges), 1)[leaf]
    found = shares[axis.cell[leaf]] * axis.shares[leaf] / width
    return found if axis.column.nullable else found[:-1]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda c: c.name)
def test_a_spelled_axis_has_the_law_of_the_coarse_one(column: Grid) -> None:
    axis = coarse(column, 6)
    shares = shares_of(axis)
    fine, written, own = apart(axis, shares)
    assert fine.size > axis.size
    assert own.sum() == pytest.approx(1.0)
    assert law(fine, own) == pytest.approx(law(axis, shares))
    assert written.margins(own)[0] == pytest.approx(shares)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda c: c.name)
def test_every_code_has_one_spelling_that_begins_with_its_cell(column: Grid) -> None:
    axis = coarse(column, 6)
    fine, written = spelled(axis, shares_of(axis))
    codes = np.arange(size(column) + column.nullable)
    tokens = written.tokens[fine.cells(codes)]
    assert (tokens[:, 0] == axis.cells(codes)).all()
    assert len(np.unique(written.tokens, axis=0)) == fine.size == len(written.tokens)
    assert (written.tokens.max(0) < written.sizes).all()
    begin = np.zeros(len(codes), dtype=np.int64)
    for n, step in enumerate(written.steps):
        begin = step[begin, tokens[:, n]]
        assert (begin >= 0).all()
    assert (begin == fine.cells(codes)).all()


def test_weekdays_and_hours_are_the_calendars() -> None:
    for column in (DAY, TIME, LONG):
        axis = coarse(column, 6)
        fine, written = spelled(axis, shares_of(axis))
        codes = np.arange(size(column))
        tokens, values = written.tokens[fine.cells(codes)], decode(column, codes)
        weekday, hour = (-2, -1) if column is TIME else (-1, None)
        assert (tokens[:, weekday] == values.dt.weekday).all()
        if hour is not None:
            assert (tokens[:, hour] == values.dt.hour).all()
        if column.nullable:
            assert written.tokens[fine.cells(np.array([size(column)]))][0, weekday] == 7


def test_cells_of_dates_are_whole_weeks_of_about_equal_mass() -> None:
    column = Date(name="day", low=dt.date(2024, 1, 1), high=dt.date(2024, 12, 29))
    axis = in_weeks(binned(column, Pieces(np.arange(365), np.ones(364)), 13))
    cells = axis.cells(np.arange(364))
    assert (cells == np.arange(364) // 28).all()


def test_days_that_the_bounds_cut_off_spell_nothing() -> None:
    """DAY begins on a Wednesday: its first week has no Monday and no Tuesday."""
    axis = coarse(DAY, 100)
    _, written, own = apart(axis, shares_of(axis))
    monday, wednesday = 0, 2
    begun = written.steps[0][0, 0]
    for n in range(1, len(written.sizes) - 1):
        begun = written.steps[n][begun, written.tokens[0, n]]
    assert written.steps[-1][begun, monday] == -1
    assert written.lifts(own)[-1][begun, monday] == -np.inf
    assert written.lifts(own)[-1][begun, wednesday] > -np.inf
    assert written.chances(own)[-1][begun, monday] == 0


@pytest.mark.parametrize("column", COLUMNS, ids=lambda c: c.name)
def test_tables_multiply_along_spellings(column: Grid) -> None:
    axis = coarse(column, 6)
    fine, written = spelled(axis, shares_of(axis))
    rng = np.random.default_rng(2)
    shares, evidence = rng.random(fine.size), rng.random(fine.size) * (rng.random(fine.size) < 0.3)
    evidence[rng.integers(fine.size)] = 1.0
    shares /= shares.sum()
    assert written.along(written.chances(shares)) == pytest.approx(shares)
    masks = written.masks(evidence)
    assert written.along(masks) == pytest.approx(evidence)
    assert all((m >= 0).all() and (m <= 1).all() for m in masks)
    margins, lifts = written.margins(shares), written.lifts(shares)
    for n in range(1, len(written.sizes)):
        again = np.exp(lifts[n]) * margins[n]
        assert again.sum(1) == pytest.approx(1.0)


def test_pieces_of_a_cell_have_about_equal_mass() -> None:
    column = Integer(name="n", low=0, high=9_999)
    axis = binned(column, Pieces(np.arange(10_001), np.linspace(1, 3, 10_000)), 10)
    fine, _, own = apart(axis, np.full(axis.size, 1 / axis.size))
    assert fine.size == axis.size * spelling.PLACES
    assert own == pytest.approx(1 / fine.size, rel=0.1)


@pytest.mark.parametrize(
    "column",
    [
        Categorical(name="c", categories=tuple("abcde")),
        Integer(name="few", low=0, high=15),
        Date(name="short", low=dt.date(2024, 1, 1), high=dt.date(2024, 1, 9)),
    ],
    ids=lambda c: c.name,
)
def test_what_tokens_would_not_help_stays_one(column: object) -> None:
    axis = Axis.singles(column)  # type: ignore[arg-type]
    same, written = spelled(axis, np.full(axis.size, 1 / axis.size))
    assert same is axis
    assert written.sizes == (axis.size,)


def test_only_columns_with_days_over_weeks_have_a_calendar() -> None:
    low, high = dt.datetime(2024, 1, 1), dt.datetime(2024, 12, 31)
    assert calendar(Datetime(name="t", low=low, high=high, resolution=3_600))
    assert not calendar(Datetime(name="t", low=low, high=high, resolution=7 * 86_400))
    assert not calendar(Datetime(name="t", low=low, high=dt.datetime(2024, 1, 10)))
    assert not calendar(Integer(name="n", low=0, high=1_000))
    ages = Datetime(name="t", low=dt.datetime(1500, 1, 1), high=high)
    assert len(calendar_axes(ages)) == 1
    assert len(calendar_axes(TIME)) == 2
    assert calendar_axes(AMOUNT) == []


def test_raked_weights_have_the_counted_weekdays_and_hours() -> None:
    axis = in_weeks(binned(TIME, Pieces(np.linspace(0, TIME.units, 10).astype(np.int64), np.ones(9)), 9))
    shares = np.full(axis.size, 1 / axis.size)
    asked = calendar_axes(TIME)
    counted = [np.random.default_rng(3).random(a.size) + 0.1 for a in asked]
    better = raked(axis, shares, counted)
    chances = law(better, shares)
    for part, counts in zip(asked, counted, strict=True):
        found = np.bincount(part.cells(np.arange(TIME.units)), chances)
        assert found == pytest.approx(counts / counts.sum(), abs=0.02)
    assert (better.cells(np.arange(TIME.units)) == axis.cells(np.arange(TIME.units))).all()
    assert raked(coarse(AMOUNT, 6), shares_of(coarse(AMOUNT, 6)), []).column is AMOUNT


def test_what_may_be_counted_is_known_before_bounds_are() -> None:
    """And stays what it was when they are learned: a plan may not follow from rows."""
    assert calendar_parts(TIME) == ("weekdays", "hours")
    assert calendar_parts(DAY) == ("weekdays",)
    assert calendar_parts(AMOUNT) == ()
    short = Datetime(name="t", low=dt.datetime(2024, 1, 1), high=dt.datetime(2024, 1, 2))
    assert calendar_parts(short) == ()
    for column in (Datetime(name="t", learn=True), replace(short, source="charged")):
        assert calendar_parts(column) == ("weekdays", "hours")
    assert calendar_parts(Date(name="d", learn=True)) == ("weekdays",)


@pytest.mark.statistical
def test_later_tokens_are_drawn_by_their_shares() -> None:
    """20,000 rows: chi-square at 1e-9."""
    axes = [coarse(DAY, 6), Axis.singles(Categorical(name="c", categories=("a", "b")))]
    written = Written.of(axes, [shares_of(a) for a in axes], places=False)
    assert written.columns == (0, 0, 1)
    rng = np.random.default_rng(0)
    cells = np.stack([rng.choice(axes[0].size, 20_000, p=shares_of(axes[0])), rng.integers(0, 2, 20_000)], axis=1)
    tokens = written.drawn(cells, rng)
    assert (tokens[:, [0, 2]] == cells).all()
    seen = np.unique(tokens[:, :2], axis=0, return_counts=True)
    place = {tuple(t): i for i, t in enumerate(written.spellings[0].tokens.tolist())}
    at = [place[tuple(t)] for t in seen[0].tolist()]
    assert stats.chisquare(seen[1], 20_000 * written.shares[0][at] / written.shares[0][at].sum()).pvalue > 1e-9


def test_whole_is_one_token() -> None:
    whole = Spelling.whole(3)
    assert whole.chances(np.array([0.2, 0.3, 0.5]))[0].tolist() == [[0.2, 0.3, 0.5]]
    assert whole.masks(np.array([0.0, 0.5, 1.0]))[0].tolist() == [[0.0, 0.5, 1.0]]


def test_a_table_of_many_columns_has_few_tokens() -> None:
    """Numbers stay whole first, and dates where there are too many of them too."""
    numbers = [coarse(AMOUNT, 6)] * 100
    days = [coarse(DAY, 6)] * 60
    sizes = [len(Written.of(a, [shares_of(x) for x in a]).sizes) for a in (numbers, numbers[:50], numbers + days[:5])]
    assert sizes == [100, 100, 100 + 3 * 5]
    many = Written.of(days, [shares_of(x) for x in days])
    assert many.columns == ()
    assert many.axes == tuple(days)
    assert Written.of(days[:2], [shares_of(x) for x in days[:2]]).columns == (0, 0, 0, 1, 1, 1)
