"""Estimation step by step against a naive second implementation, and where its shortcuts could go wrong."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from tabveil import estimation
from tabveil.estimation import estimate, merged, reductions
from tabveil.graphical_model import Factor, GraphicalModel, Measurement, junction_tree, model_cells

SIZES = (5, 2, 4, 3)
CLIQUES = [(0, 1, 2), (1, 3), (0, 2), (2, 3), (1,), (0, 2)]


def measurements(sigma: float = 0.1, seed: int = 0) -> list[Measurement]:
    """Noisy marginals of one random table of 1,000 rows."""
    rng = np.random.default_rng(seed)
    joint = 1000 * rng.dirichlet(np.full(math.prod(SIZES), 0.3)).reshape(SIZES)
    found = []
    for clique in CLIQUES:
        table = joint.sum(axis=tuple(a for a in range(4) if a not in clique))
        found.append(Measurement(clique, table + sigma * rng.normal(size=table.shape), sigma))
    return found


def loss(model: GraphicalModel, measured: list[Measurement]) -> float:
    """The objective, measurement by measurement."""
    gaps = [(model.marginal(m.attributes) - m.counts) / m.sigma for m in measured]
    return 0.5 * sum(float((g**2).sum()) for g in gaps)


@pytest.mark.parametrize("clique", [(0, 1, 2, 3), (1, 3)])
def test_reductions_give_every_marginal_that_is_wanted(clique: tuple[int, ...]) -> None:
    wanted = [c for size in (1, 2, 3) for c in combinations(clique, size)]
    table = np.random.default_rng(1).random([SIZES[a] for a in clique])
    known: list[tuple[tuple[int, ...], np.ndarray]] = []
    for step in reductions(clique, wanted, SIZES):
        above, source = (clique, table) if step.source < 0 else known[step.source]
        left = source.sum(axis=tuple(i for i, a in enumerate(above) if a not in step.attributes))
        known.append((step.attributes, left))
    found = dict(known)
    for w in wanted:
        np.testing.assert_allclose(found[w], table.sum(axis=tuple(i for i, a in enumerate(clique) if a not in w)))


def test_marginals_that_overlap_share_a_part() -> None:
    sizes = (4, 4, 4, 4, 4, 4, 4)
    wanted = [(0, 1, 2), (0, 1, 3), (0, 2, 3), (4, 5, 6)]
    steps = reductions(tuple(range(7)), wanted, sizes)
    assert (0, 1, 2, 3) in [s.attributes for s in steps]
    from_the_table = [s.attributes for s in steps if s.source < 0]
    assert sorted(from_the_table) == [(0, 1, 2, 3), (4, 5, 6)]


def test_measurements_of_one_marginal_are_averaged_by_inverse_variance() -> None:
    a, b = Measurement((0,), np.array([1.0, 2.0]), 1.0), Measurement((0,), np.array([5.0, 6.0]), 2.0)
    (target,) = merged([a, b]).values()
    np.testing.assert_allclose(target.counts, [1.8, 2.8])
    assert target.weight == pytest.approx(1.25)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_loss_ends_at_its_least_value(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No small move of any potential lowers it: central differences at the solution are those of rounding."""
    monkeypatch.setattr(estimation, "SHARED_CELLS", 0)
    monkeypatch.setattr(estimation, "THREADS", threads)
    measured = measurements(sigma=2.0)
    model = estimate(SIZES, measured, iterations=20_000)
    least = loss(model, measured)
    assert least < 0.5 * sum(m.counts.size for m in measured)
    rng = np.random.default_rng(2)
    for _ in range(50):
        i = int(rng.integers(len(model.potentials)))
        moved = [p + 0.05 * rng.normal(size=p.shape) * (k == i) for k, p in enumerate(model.potentials)]
        assert loss(GraphicalModel(SIZES, model.tree, moved, model.total), measured) > least - 1e-3


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = estimate(SIZES, measurements(), iterations=200)
    monkeypatch.setattr(estimation, "SHARED_CELLS", 0)
    monkeypatch.setattr(estimation, "THREADS", 2)
    shared = estimate(SIZES, measurements(), iterations=200)
    for one, other in zip(alone.potentials, shared.potentials, strict=True):
        np.testing.assert_array_equal(one, other)


def test_attributes_keep_their_places_whatever_their_sizes() -> None:
    rng = np.random.default_rng(3)
    order = [2, 0, 3, 1]
    there = [Measurement(tuple(order.index(a) for a in m.attributes), m.counts, m.sigma) for m in measurements()]
    ours = estimate(SIZES, measurements(), iterations=3000)
    theirs = estimate([SIZES[a] for a in order], there, iterations=3000)
    pair = tuple(rng.permutation(4)[:2].tolist())
    np.testing.assert_allclose(
        ours.marginal(pair), theirs.marginal(tuple(order.index(a) for a in pair)), rtol=1e-3, atol=0.05
    )


def test_a_start_that_cannot_be_computed_with_is_left() -> None:
    """Two cliques that contradict each other on what they share leave nothing of their product."""
    measured = [Measurement((0, 1), np.full((5, 2), 10.0), 1.0), Measurement((1, 2), np.full((2, 4), 12.5), 1.0)]
    usual = estimate(SIZES, measured)
    far = []
    for i, clique in enumerate(c for c in usual.tree.cliques if 1 in c):
        axes = [1 if a != 1 else 2 for a in clique]
        far.append(np.zeros([SIZES[a] for a in clique]) + np.array([0.0, -1e4][:: 1 - 2 * (i % 2)]).reshape(axes))
    cliques = iter(far)
    potentials = [next(cliques) if 1 in c else p for c, p in zip(usual.tree.cliques, usual.potentials, strict=True)]
    model = estimate(SIZES, measured, start=GraphicalModel(SIZES, usual.tree, potentials, usual.total))
    np.testing.assert_allclose(model.marginal((0, 1)), 10.0, rtol=1e-3)


def test_steps_far_too_long_only_cost_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = loss(estimate(SIZES, measurements(), iterations=4000), measurements())
    monkeypatch.setattr(estimation, "FIRST_STEP", 1e9)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        model = estimate(SIZES, measurements(), iterations=4000)
    assert loss(model, measurements()) < 3 * usual + 1


def test_a_warm_start_carries_factors_once() -> None:
    """A factor's weights are the base measure: started from a model that holds them, they must not count twice."""
    factor = Factor((1, 3), np.array([[1.0, 0.5, 0.0], [0.2, 1.0, 1.0]]))
    none = [Measurement((0,), np.full(5, 200.0), 1.0)]
    cold = estimate(SIZES, none, factors=[factor])
    warm = estimate(SIZES, [*none, Measurement((2,), np.full(4, 250.0), 1.0)], factors=[factor], start=cold)
    expected = 1000 * factor.weights / factor.weights.sum()
    np.testing.assert_allclose(cold.marginal((1, 3)), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(warm.marginal((1, 3)), expected, rtol=1e-6, atol=1e-9)


def test_model_cells_are_those_of_the_junction_tree() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        columns = int(rng.integers(1, 12))
        sizes = rng.integers(1, 9, columns).tolist()
        cliques = [
            rng.choice(columns, int(rng.integers(1, min(columns, 3) + 1)), replace=False).tolist()
            for _ in range(rng.integers(0, 9))
        ]
        assert model_cells(sizes, cliques) == junction_tree(sizes, cliques).cells(sizes)


def test_attributes_of_one_cell_do_not_run_together() -> None:
    """A tree over 200 attributes of a single cell keeps its pairs: no clique grows beyond numpy's 64 axes."""
    pairs = [(i, i + 1) for i in range(199)] + [(i, i + 2) for i in range(0, 198, 2)]
    assert max(len(c) for c in junction_tree([1] * 200, pairs).cliques) <= 3
