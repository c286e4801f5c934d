"""Domains learned from charged histograms: atoms are found, nothing is invented, noise does not pile up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from tabveil.columns import Boolean, Categorical, Column, Integer
from tabveil.domains import (
    BRANCHES,
    CELLS,
    FLAT,
    LEARNED_LEVELS,
    MOST_BRANCHES,
    Pieces,
    _cleared,
    binned,
    branches,
    cells_for,
    evenly,
    level_label,
    levels,
    refine,
    settled,
    start_axes,
    without_rare,
)
from tabveil.encoding import Axis
from tabveil.ledger import Receipt
from tabveil.mechanisms import PrivateRows
from tabveil.schema import Schema
from tabveil.tables import open_table

WIDE = Integer(name="n", low=0, high=9_999_999, missing=("",))


def exact(values: list[object], column: Column = WIDE) -> PrivateRows:
    """Rows whose counts are exact, nothing charged."""
    frame = pd.DataFrame({column.name: pd.Series(values, dtype=object)})
    return PrivateRows(open_table(frame), Schema(columns=(column,)), Receipt.uncharged())


@pytest.mark.parametrize(
    ("values", "expected"),
    [(1, 1), (FLAT, 1), (FLAT + 1, 2), (BRANCHES**2, 2), (BRANCHES**2 + 1, 3), (BRANCHES**3, 3), (2**53, 14)],
)
def test_levels_follow_from_the_schema_and_reach_single_values(values: int, expected: int) -> None:
    column = Integer(name="n", low=1, high=values)
    assert levels(column) == expected
    width = values
    for _ in range(expected):
        width = -(-width // (BRANCHES if expected > 1 else FLAT))
    assert width == 1


def test_listed_values_need_no_levels() -> None:
    assert levels(Boolean(name="b")) == levels(Categorical(name="c", categories=("x",))) == 0


@given(st.integers(0, 2**53), st.integers(1, 2**53), st.integers(1, 300))
def test_split_leaves_no_gap(low: int, width: int, branches: int) -> None:
    edges = evenly(low, low + width, branches)
    assert edges[0] == low
    assert edges[-1] == low + width
    assert (np.diff(edges) > 0).all()
    assert len(edges) - 1 == min(branches, width)


def test_inflated_values_become_pieces_of_their_own() -> None:
    values = [0] * 500 + [1_234_567] * 200 + list(range(0, 9_000_000, 30_000)) + [None] * 50
    pieces = refine(WIDE, exact(values), sigma=1.0)
    widths = np.diff(pieces.edges)
    for atom in (0, 1_234_567):
        at = np.searchsorted(pieces.edges, atom, side="right") - 1
        assert widths[at] == 1
        assert pieces.counts[at] == pytest.approx(values.count(atom), abs=2)
    assert pieces.counts.sum() == pytest.approx(len(values) - 50)
    assert pieces.edges[0] == 0
    assert pieces.edges[-1] == WIDE.units


def test_no_more_histograms_than_charged() -> None:
    asked: list[str] = []

    class Noting(Receipt):
        def require(self) -> None:
            pass

        def take(self, label: str):  # type: ignore[no-untyped-def]
            asked.append(label)
            return Receipt.uncharged().take(label)

    for values in ([], [5], [0] * 1000, list(range(1000))):
        asked.clear()
        frame = pd.DataFrame({"n": pd.Series(values, dtype=object)})
        rows = PrivateRows(open_table(frame), Schema(columns=(WIDE,)), Noting((), dataset=None, head=""))
        refine(WIDE, rows, sigma=1.0)
        assert asked == [level_label(WIDE, i) for i in range(len(asked))]
        assert 1 <= len(asked) <= levels(WIDE)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=6), st.floats(0.01, 100))
def test_settled_counts_are_the_nearest_with_their_total(values: list[float], total: float) -> None:
    x = np.maximum(np.array(values), 0.0)
    y = settled(np.array(values), total)
    assert (y >= 0).all()
    assert y.sum() == pytest.approx(total)
    if x.sum() <= total:  # a shortage is made up in proportion: empty pieces stay empty
        assert not x.any() or (y[x == 0] == 0).all()
        return
    start = np.full(len(x), total / len(x))
    best = minimize(
        lambda z: ((z - x) ** 2).sum(), start, jac=lambda z: 2 * (z - x), bounds=[(0, None)] * len(x), method="SLSQP",
        constraints={"type": "eq", "fun": lambda z: z.sum() - total},
    )  # fmt: skip
    assert ((y - x) ** 2).sum() <= best.fun + 1e-6 * (1 + abs(best.fun))


def test_a_tail_of_noise_is_not_populated() -> None:
    """All rows in the lowest sixteenth, noise 50 elsewhere: nothing may appear far away."""
    noise = np.random.default_rng(1).normal(scale=50, size=16)
    cleared = _cleared(noise + np.where(np.arange(16) == 0, 5_000, 0), 50.0)
    assert (cleared[1:] == 0).all()
    assert (_cleared(noise, 50.0) == noise).all()  # nothing stands out: nothing is known


def test_settled_takes_noise_off_empty_pieces() -> None:
    """One atom of 2,000 among 255 empty pieces under noise 50: clipping at zero would invent about 5,000 rows."""
    noise = np.random.default_rng(0).normal(scale=50, size=256)
    noisy = noise + np.where(np.arange(256) == 9, 2_000, 0)
    assert np.maximum(noisy, 0).sum() > 6_000
    projected = settled(noisy, 2_000.0)
    assert projected[9] > 1_700
    assert (settled(noisy, -5.0) == 0).all()


def test_binning_keeps_atoms_alone_and_the_rest_even() -> None:
    column = Integer(name="n", low=0, high=99, missing=("",))
    counts = np.full(100, 10.0)
    counts[40] = 1_000
    axis = binned(column, Pieces(np.arange(101), counts), 20)
    assert (axis.cell == axis.cell[40]).sum() == 1
    mass = np.bincount(axis.cell[:100], weights=counts)
    assert np.delete(mass, axis.cell[40]).max() < 2.2 * counts.sum() / 20
    assert axis.cell[100] == axis.size - 1  # missing has the last cell to itself
    assert (np.diff(axis.cell) >= 0).all()


def test_binning_survives_no_mass_at_all() -> None:
    axis = binned(Integer(name="n", low=0, high=9), Pieces(np.arange(11), np.zeros(10)), 4)
    assert axis.size >= 1
    assert set(axis.draw(np.zeros(1000, dtype=np.int64), np.random.default_rng(0))) <= set(range(10))


def test_rare_categories_share_a_cell_and_are_drawn_by_their_counts() -> None:
    column = Categorical(name="c", categories=("a", "b", "c", "d", "e"))
    counts = np.array([500.0, 3.0, 400.0, -20.0, 1.0])
    axis, groups = without_rare(Axis.singles(column), counts, 30.0)
    assert groups.tolist() == [0, 2, 1, 2, 2]
    drawn = np.bincount(axis.draw(np.full(4_000, 2), np.random.default_rng(0)), minlength=5)
    assert drawn[3] == 0
    assert drawn[1] == pytest.approx(3_000, abs=200)


def test_rare_bins_join_their_neighbours() -> None:
    column = Integer(name="n", low=0, high=4, missing=("",))
    _, groups = without_rare(Axis.singles(column), np.array([50.0, 2, 3, 60, 4, 1]), 30.0)
    assert groups.tolist() == [0, 1, 1, 1, 1, 2]


@given(st.floats(0, 1e7), st.floats(0.1, 1e6))
def test_cells_grow_with_rows_and_shrink_with_noise(rows: float, sigma: float) -> None:
    assert CELLS[0] <= cells_for(rows, sigma) <= cells_for(2 * rows, sigma) <= CELLS[1]
    assert cells_for(rows, 2 * sigma) <= cells_for(rows, sigma)


def test_start_axes_cover_every_code() -> None:
    columns = (WIDE, Categorical(name="c", categories=("a", "b"), catch_all="rest"), Boolean(name="f"))
    frame = pd.DataFrame({"n": [1, 2, None, 9_999_999], "c": ["a", "b", "z", "a"], "f": [True, False, True, True]})
    schema = Schema(columns=columns)
    axes = start_axes(columns, PrivateRows(open_table(frame), schema, Receipt.uncharged()), sigma=1.0, cells=8)
    for axis in axes:
        top = axis.edges[-1] + axis.column.nullable
        codes = np.unique(np.linspace(0, top - 1, 1000).astype(np.int64))
        assert (axis.cells(codes) >= 0).all()


# ------------------------------------------------------------------------------------------------------ learned columns
def test_cells_of_a_learned_column_that_do_not_stand_out_are_never_drawn() -> None:
    learned = Categorical(name="c", categories=("a", "b"), catch_all="other", missing=("",), source="charged")
    counts = np.array([900.0, 300.0, 12.0, -5.0])
    axis, groups = without_rare(Axis.singles(learned), counts, 30.0)
    assert axis.size == 2
    assert groups.tolist() == [0, 1, 0, 0]
    drawn = axis.draw(np.repeat([0, 1], 5_000), np.random.default_rng(0))
    assert set(drawn.tolist()) == {0, 1}
    seen, groups = without_rare(Axis.singles(learned), np.array([900.0, 300.0, 120.0, 60.0]), 30.0)
    assert groups.tolist() == [0, 1, 2, 3]
    declared = Categorical(name="c", categories=("a", "b"), catch_all="other", missing=("",))
    kept, groups = without_rare(Axis.singles(declared), counts, 30.0)
    assert groups.tolist() == [0, 1, 2, 2]
    assert seen.size == 4
    assert kept.size == 3


def test_a_learned_number_that_is_hardly_ever_missing_is_never_missing() -> None:
    learned = Integer(name="n", low=0, high=3, missing=("",), source="charged")
    axis, groups = without_rare(Axis.singles(learned), np.array([40.0, 50.0, 60.0, 40.0, 2.0]), 30.0)
    assert groups.tolist() == [0, 1, 2, 3, 2]
    drawn = axis.draw(np.repeat(np.arange(4), 1_000), np.random.default_rng(0))
    assert set(drawn.tolist()) == {0, 1, 2, 3}
    _, nothing = without_rare(Axis.singles(learned), np.zeros(5), 30.0)
    assert nothing.max() <= 1


@pytest.mark.parametrize("high", [0, 40, 10**6, 10**9, 10**12, 2**52])
def test_a_learned_column_has_its_levels_whatever_it_turned_out_to_be(high: int) -> None:
    column = Integer(name="n", low=0, high=high, source="charged")
    assert levels(column) == levels(Integer(name="n", learn=True)) == LEARNED_LEVELS
    reached = branches(column) ** LEARNED_LEVELS
    assert reached >= column.units or branches(column) == MOST_BRANCHES
