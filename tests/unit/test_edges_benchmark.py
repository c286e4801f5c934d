"""The alternatives of benchmarks/edges.py are what their papers say: at a huge budget they find what is there."""

from __future__ import annotations

import argparse
import importlib
import itertools
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from tabveil import domains
from tabveil.columns import Categorical, Decimal, Integer
from tabveil.encoding import Axis
from tabveil.generators import aim, mst
from tabveil.schema import Schema

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HUGE = 1e9
UNITS = 10_000
ATOMS = (0, 5_013, 5_014, 9_999)


@pytest.fixture
def edges(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("edges")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def codes_with_atoms(rng: np.random.Generator) -> np.ndarray:
    even = rng.integers(0, UNITS, 2_000)
    return np.sort(np.concatenate([even, np.repeat(ATOMS, (5_000, 800, 700, 900))]))


# ----------------------------------------------------------------------------------------------------------- quantiles
@pytest.mark.parametrize("cells", [2, 7, 16, 40])
def test_quantiles_at_a_huge_budget_are_the_exact_ones(edges: ModuleType, rng: np.random.Generator, cells: int) -> None:
    codes = np.sort(rng.choice(UNITS, 40 * cells, replace=False))
    found = edges.quantiles(codes, UNITS, cells=cells, rho=HUGE, rng=rng)
    assert np.diff(np.searchsorted(codes, found)).tolist() == [40] * cells


def test_quantiles_stay_on_the_grid_where_values_are_few(edges: ModuleType, rng: np.random.Generator) -> None:
    codes = np.sort(np.repeat([0, 2], (500, 3)))
    for _ in range(50):
        found = edges.quantiles(codes, 3, cells=32, rho=1e-4, rng=rng)
        assert found[0] == 0
        assert found[-1] == 3
        assert (np.diff(found) > 0).all()


@pytest.mark.statistical
def test_an_edge_misses_its_rank_by_the_law_of_the_exponential_mechanism(
    edges: ModuleType, rng: np.random.Generator
) -> None:
    """20,000 draws of a median of 9 rows on 10 edges, alpha = 1e-9, beside the law summed up exactly; a law of a 10 %
    larger epsilon is rejected.
    """
    codes = np.arange(9)
    cuts = edges.Candidates.cuts(codes, (0, 9))
    drawn = [edges.quantile(cuts, 4.5, 0.5, epsilon=0.5, rng=rng) for _ in range(20_000)]

    def p_value(epsilon: float) -> float:
        weights = np.exp(-epsilon / (2 * 0.5) * np.abs(np.arange(10) - 4.5))
        expected = 20_000 * weights / weights.sum()
        return float(stats.chisquare(np.bincount(drawn, minlength=10), expected).pvalue)

    assert p_value(0.5) > 1e-9
    assert p_value(0.55) < 1e-9


def test_a_value_that_many_rows_hold_is_chosen_as_a_bound(edges: ModuleType, rng: np.random.Generator) -> None:
    """Nine rows in ten at 0: the first bound is 0, however wide the empty grid below it is."""
    values = np.sort(np.concatenate([np.zeros(9_000, dtype=np.int64), np.arange(1, 1_001)]))
    among = edges.Candidates.values(values, (-(2**50), 2**50))
    for measure in (edges.EVEN, edges.OCTAVES):
        assert edges.quantile(among, 10.0, 0.001, epsilon=50.0, rng=rng, measure=measure) == 0
        assert edges.quantile(among, 9_990.0, 0.999, epsilon=50.0, rng=rng, measure=measure) in (990, 991)


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["EVEN", "OCTAVES"])
def test_without_rows_a_choice_follows_its_measure(edges: ModuleType, rng: np.random.Generator, name: str) -> None:
    """20,000 draws over 0 to 1,023, alpha = 1e-9 (Kolmogorov, half a step of slack)."""
    among = edges.Candidates.cuts(np.array([], dtype=np.int64), (0, 1_023))
    measure = getattr(edges, name)
    drawn = [edges.quantile(among, 0.0, 0.5, epsilon=1.0, rng=rng, measure=measure) for _ in range(20_000)]
    steps = np.arange(1_024)
    share = np.searchsorted(np.sort(drawn), steps, side="right") / len(drawn)
    ends = measure.at(np.array([-0.5, 1_023.5]))
    expected = (measure.at(steps + 0.5) - ends[0]) / (ends[1] - ends[0])
    assert np.abs(share - expected).max() < stats.kstwo.isf(1e-9, len(drawn))
    other = edges.OCTAVES if name == "EVEN" else edges.EVEN
    assert np.abs(share - other.at(steps + 0.5) / other.at(np.array([1_023.5]))).max() > 0.1


# ------------------------------------------------------------------------------------------------------------ PrivTree
def test_privtree_at_a_huge_budget_separates_atoms(edges: ModuleType, rng: np.random.Generator) -> None:
    codes = codes_with_atoms(rng)
    found = edges.privtree(codes, UNITS, scale=1e-9, theta=600.5, rng=rng)
    for atom in ATOMS:
        assert {atom, atom + 1} <= set(found.tolist())
    held = np.diff(np.searchsorted(codes, found))
    assert (held[np.diff(found) > 1] <= 600).all()


@pytest.mark.statistical
def test_privtree_stops_with_depth_where_nothing_is_there(edges: ModuleType, rng: np.random.Generator) -> None:
    """Without rows the whole is cut with chance 1/2, its parts with chance 1/4 (the decay): two leaves in the mean, of
    variance 2.5. 10,000 trees, alpha = 1e-9; a mean 10 % off is rejected.
    """
    nothing = np.array([], dtype=np.int64)
    leaves = [len(edges.privtree(nothing, 2**20, scale=5.0, theta=0.0, rng=rng)) - 1 for _ in range(10_000)]
    assert abs(np.mean(leaves) - 2) < 6.2 * math.sqrt(2.5 / 10_000) < 0.1


def test_privtree_pieces_are_the_exact_counts_at_a_huge_budget(edges: ModuleType, rng: np.random.Generator) -> None:
    codes = codes_with_atoms(rng)
    pieces = edges.privtree_pieces(codes, UNITS, rho=HUGE, rng=rng)
    assert pieces.counts == pytest.approx(np.diff(np.searchsorted(codes, pieces.edges)), abs=0.01)


@pytest.mark.parametrize("theta", [0.0, 25.0])
def test_privtree_costs_what_it_is_said_to(edges: ModuleType, theta: float) -> None:
    """Exact privacy losses of trees along one path, for counts of every shape that one row moves by one: of range at
    most 4 / lambda, Renyi divergences at most alpha rho, both ways; and the bound is not loose by more than a third.
    """
    rho = 0.02
    scale = edges.privtree_scale(rho)
    decay = scale * math.log(2)
    ranges = []
    for high, shrink in itertools.product((10, 60, 200, 1_000, 5_000), (1.0, 0.9, 0.5, 0.1)):
        counts, depth = np.floor(high * shrink ** np.arange(60)), np.arange(60)
        logs = []
        for one in (0, 1):
            law = stats.laplace(loc=np.maximum(counts + one - decay * depth, theta - decay), scale=scale)
            cut, stop = law.logsf(theta), law.logcdf(theta)
            logs.append(np.append(stop, 0.0) + np.append(0.0, np.cumsum(cut)))
        losses = logs[1] - logs[0]
        ranges.append(losses.max() - losses.min())
        for (p, q), alpha in itertools.product((logs, logs[::-1]), (1.01, 2.0, 8.0, 64.0)):
            divergence = special.logsumexp(alpha * p + (1 - alpha) * q) / (alpha - 1)
            assert divergence <= alpha * rho * (1 + 1e-9) + 1e-12
    assert max(ranges) <= 4 / scale * (1 + 1e-9)
    assert max(ranges) >= 4 / scale / 1.5


# ------------------------------------------------------------------------------------------------------- whole columns
@pytest.mark.parametrize(
    "column", [Integer(name="n", low=0, high=UNITS - 1, missing=("",)), Integer(name="n", low=0, high=UNITS - 1)]
)
def test_every_method_covers_the_grid_in_rising_cells(
    edges: ModuleType, rng: np.random.Generator, column: Integer
) -> None:
    codes = codes_with_atoms(rng)
    for name, method in edges.METHODS.items():
        if method is None:
            continue
        axis = method(edges.Asked(column, codes, 12, 0.01), rng)
        assert isinstance(axis, Axis), name
        assert axis.edges[0] == 0
        assert axis.edges[-1] == UNITS
        assert (np.diff(axis.edges) > 0).all()
        assert len(axis.cell) == len(axis.weight) == len(axis.edges) - 1 + column.nullable
        assert set(np.diff(axis.cell)) <= {0, 1}
        assert axis.cells(np.array([0, UNITS - 1])).tolist() == [0, axis.size - 1 - column.nullable]


def test_methods_get_the_price_of_our_histograms_and_give_back_our_own(edges: ModuleType) -> None:
    """Inside, both generators cut by the method, for the rho of our levels; afterwards by ours again."""
    columns = (
        Integer(name="n", low=0, high=UNITS - 1, missing=("",)),
        Decimal(name="d", low=0.0, high=3.0, decimals=0),
        Categorical(name="c", categories=("a", "b")),
    )
    frame = pd.DataFrame({"n": ["5", "", "7"] * 4, "d": [0.0, 1.0, 3.0] * 4, "c": ["a", "b", "b"] * 4})
    seen = []

    def method(asked: object, rng: np.random.Generator) -> Axis:
        seen.append(asked)
        return edges.by_equal_width(asked, rng)

    with edges.edges_by(method, (Schema(columns=columns), frame, frame)):
        for module in (mst, aim):
            made = module.start_axes(columns, None, sigma=3.0, cells=lambda rows: int(rows))
            assert [a.size for a in made] == [12 + 1, 4, 2]
    assert [(a.column.name, a.cells, a.codes.tolist()) for a in seen] == [("n", 12, [5] * 4 + [7] * 4)] * 2
    assert seen[0].rho == pytest.approx(domains.levels(columns[0]) / (2 * 3.0**2))
    assert mst.start_axes is domains.start_axes
    assert aim.start_axes is domains.start_axes


def test_bounds_at_a_huge_budget_leave_out_a_thousandth(edges: ModuleType, rng: np.random.Generator) -> None:
    column = Integer(name="n", learn=True)
    sought = edges.Searched(column, np.arange(10_000), HUGE)
    low, high = sought.ends(rng, measure=edges.OCTAVES, deep=False)
    assert (low, high) == pytest.approx((10, 9_990), abs=1)
    assert sought.judged(low, high)["clipped"] == pytest.approx(0.002, abs=2e-4)
    assert sought.judged(-5_000, 14_999) == {"clipped": 0.0, "width": 2.0}


def test_fits_held_by_a_file_are_found_by_what_they_are_of(edges: ModuleType, tmp_path: Path) -> None:
    common = importlib.import_module("_common")
    out = argparse.Namespace(out=str(tmp_path / "fits.jsonl"))
    assert edges.held(out.out) == {}
    record = {"table": "t", "generator": "g", "epsilon": 1.0, "method": "m", "score": 0.5, "tvd3": 0.1}
    common.keep(out, record)
    assert edges.held(out.out) == {("t", "g", 1.0, "m"): [record]}
