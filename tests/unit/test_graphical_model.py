"""Graphical models against brute force on a 2 x 3 x 4 x 5 domain, and against mbi as an oracle."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from scipy import stats

from tabveil.errors import UsageError
from tabveil.estimation import estimate, estimate_total
from tabveil.graphical_model import GraphicalModel, Measurement, junction_tree, model_cells

SIZES = (2, 3, 4, 5)
CLIQUES = {
    "chain": [(0, 1), (1, 2), (2, 3)],
    "star": [(0, 3), (1, 3), (2, 3)],
    "cyclic": [(0, 1), (1, 2), (2, 3), (3, 0)],
    "permuted": [(3, 1), (2, 0, 1), (3, 2)],
    "duplicated": [(0, 1), (0, 1), (1, 0), (2,), (2,)],
    "singletons": [(0,), (1,), (2,), (3,)],
    "missing attribute": [(0, 1), (3, 0)],
    "two components": [(0, 2), (1, 3)],
    "nested": [(0, 1, 2), (0, 1), (2,), (2, 3)],
    "whole": [(0, 1, 2, 3)],
    "none": [],
}


def random_model(cliques: list[tuple[int, ...]], seed: int = 0) -> GraphicalModel:
    rng = np.random.default_rng(seed)
    tree = junction_tree(SIZES, cliques)
    return GraphicalModel(SIZES, tree, [rng.normal(size=[SIZES[a] for a in c]) for c in tree.cliques], 1000.0)


def brute_force(model: GraphicalModel) -> np.ndarray:
    """The joint table, potentials multiplied out over every cell of the domain."""
    log = np.zeros(model.sizes)
    for clique, potential in zip(model.tree.cliques, model.potentials, strict=True):
        shape = [model.sizes[a] if a in clique else 1 for a in range(len(model.sizes))]
        log = log + potential.reshape(shape)
    p = np.exp(log - log.max())
    return p * model.total / p.sum()


def project(joint: np.ndarray, attributes: tuple[int, ...]) -> np.ndarray:
    table = joint.sum(axis=tuple(a for a in range(joint.ndim) if a not in attributes))
    return np.transpose(table, [sorted(attributes).index(a) for a in attributes])


@pytest.mark.parametrize("cliques", CLIQUES.values(), ids=CLIQUES.keys())
def test_junction_tree_covers_every_clique_and_runs_through(cliques: list[tuple[int, ...]]) -> None:
    tree = junction_tree(SIZES, cliques)
    assert all(tree.home(c) >= 0 for c in cliques)
    assert set().union(*tree.cliques) == set(range(len(SIZES)))
    for a in range(len(SIZES)):  # running intersection: cliques holding an attribute hang together
        holding = [i for i, c in enumerate(tree.cliques) if a in c]
        tops = [i for i in holding if tree.parents[i] < 0 or a not in tree.cliques[tree.parents[i]]]
        assert len(tops) == 1
    assert all(p < i for i, p in enumerate(tree.parents))


@pytest.mark.parametrize("cliques", CLIQUES.values(), ids=CLIQUES.keys())
def test_every_marginal_equals_brute_force(cliques: list[tuple[int, ...]]) -> None:
    model = random_model(cliques)
    joint = brute_force(model)
    for size in range(1, 5):
        for subset in combinations(range(4), size):
            for attributes in permutations(subset):
                np.testing.assert_allclose(model.marginal(attributes), project(joint, attributes), rtol=1e-9)
    for pair, table in model.pairs().items():
        np.testing.assert_allclose(table, project(joint, pair), rtol=1e-9)


@pytest.mark.parametrize("cliques", CLIQUES.values(), ids=CLIQUES.keys())
def test_potentials_and_beliefs_are_two_views_of_one_model(cliques: list[tuple[int, ...]]) -> None:
    model = random_model(cliques)
    np.testing.assert_allclose(brute_force(model.from_beliefs(model.beliefs)), brute_force(model), rtol=1e-9)


def test_cells_of_probability_zero_stay_at_zero() -> None:
    model = random_model([(0, 1), (1, 2)])
    potentials = list(model.potentials)
    home = model.tree.home((0, 1))
    potentials[home] = potentials[home].copy()
    potentials[home][:, 1] = -np.inf
    masked = GraphicalModel(SIZES, model.tree, potentials, model.total)
    np.testing.assert_allclose(masked.marginal((1,))[1], 0.0)
    np.testing.assert_allclose(
        masked.marginal((0, 1, 2)), project(brute_force(masked), (0, 1, 2)), rtol=1e-9, atol=1e-12
    )
    assert not (masked.sample(1000, np.random.default_rng(0))[:, 1] == 1).any()


def noisy(cliques: list[tuple[int, ...]], sigma: float) -> list[Measurement]:
    rng = np.random.default_rng(1)
    joint = brute_force(random_model([(0, 1, 2, 3)], seed=2))
    return [
        Measurement(c, project(joint, c) + sigma * rng.normal(size=[SIZES[a] for a in c]), max(sigma, 1.0))
        for c in cliques
    ]


@pytest.mark.parametrize("cliques", [c for c in CLIQUES.values() if c], ids=[k for k, c in CLIQUES.items() if c])
def test_noiseless_marginals_are_reproduced(cliques: list[tuple[int, ...]]) -> None:
    measured = noisy(cliques, 0.0)
    model = estimate(SIZES, measured, iterations=5000)
    for m in measured:
        np.testing.assert_allclose(model.marginal(m.attributes), m.counts, atol=0.5)


@pytest.mark.parametrize("cliques", [c for c in CLIQUES.values() if c], ids=[k for k, c in CLIQUES.items() if c])
def test_no_feasible_direction_lowers_the_loss(cliques: list[tuple[int, ...]]) -> None:
    """First-order optimality over the marginal polytope: no vertex (one cell holding all rows) is downhill (Frank &
    Wolfe)."""
    measured = noisy(cliques, 30.0)
    model = estimate(SIZES, measured, iterations=5000)
    downhill = np.zeros(SIZES)
    loss, here = 0.0, 0.0
    for m in (m.sorted() for m in measured):
        gap = (model.marginal(m.attributes) - m.counts) / m.sigma**2
        shape = [SIZES[a] if a in m.attributes else 1 for a in range(4)]
        downhill = downhill + gap.reshape(shape)
        here += float((gap * model.marginal(m.attributes)).sum())
        loss += 0.5 * float((gap**2).sum()) * m.sigma**2
    assert here - model.total * downhill.min() < 0.01 * loss + 1.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["chain", "cyclic", "nested"])  # each structure is a program that jax compiles anew
def test_estimate_agrees_with_mbi(name: str) -> None:
    mbi = pytest.importorskip("mbi")
    measured = noisy(CLIQUES[name], 30.0)
    total = estimate_total(measured)
    theirs = mbi.estimation.MirrorDescent().estimate(
        mbi.Domain(list("abcd"), SIZES),
        [mbi.LinearMeasurement(m.counts.ravel(), tuple("abcd"[a] for a in m.attributes), m.sigma) for m in measured],
        known_total=total,
        iters=2000,
    )
    ours = estimate(SIZES, measured, total=total, iterations=5000)
    for m in measured:
        peer = np.asarray(theirs.project(tuple("abcd"[a] for a in m.attributes)).datavector(flatten=False))
        np.testing.assert_allclose(ours.marginal(m.attributes), peer, atol=0.01 * total)


def test_a_warm_start_gives_the_same_model() -> None:
    measured = noisy(CLIQUES["cyclic"], 30.0)
    cold = estimate(SIZES, measured, iterations=5000)
    warm = estimate(SIZES, measured, iterations=5000, start=estimate(SIZES, measured[:2], total=cold.total))
    for m in measured:
        np.testing.assert_allclose(warm.marginal(m.attributes), cold.marginal(m.attributes), atol=0.01 * cold.total)


def test_total_weighs_measurements_by_their_noise() -> None:
    a = Measurement((0,), np.array([40.0, 60.0]), 1.0)
    b = Measurement((1,), np.array([100.0, 100.0, 100.0]), 10.0)
    expected = (100 / 2 + 300 / 300) / (1 / 2 + 1 / 300)
    assert estimate_total([a, b]) == pytest.approx(expected)
    assert estimate_total([Measurement((0,), np.array([-9.0, -9.0]), 1.0)]) == 1.0


def test_mistakes_are_sentences() -> None:
    with pytest.raises(UsageError, match="do not fit"):
        estimate(SIZES, [Measurement((0,), np.zeros(3), 1.0)])
    with pytest.raises(UsageError, match="total"):
        estimate(SIZES, [])
    np.testing.assert_allclose(estimate(SIZES, [], total=7.0).marginal((1,)), 7 / 3)


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """p-value of Pearson's test over the cells expected at least 5 times."""
    big = expected >= 5
    counts, expected = counts[big], expected[big]
    return float(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), len(expected) - 1))


@pytest.mark.parametrize("name", ["chain", "cyclic", "two components", "whole", "none"])
def test_samples_have_the_models_law(name: str) -> None:
    """alpha = 1e-9 per case, n = 1,000,000 rows. Rows are drawn systematically, which can only shrink the
    statistic."""
    model = random_model(CLIQUES[name])
    rows = model.sample(1_000_000, np.random.default_rng(5))
    counts = np.bincount(np.ravel_multi_index(rows.T, SIZES), minlength=120).reshape(SIZES)
    joint = brute_force(model) / model.total
    assert chi_square(counts, joint * len(rows)) > 1e-9
    tilted = joint * np.where(np.arange(5) == 0, 1.1, 1.0)  # the mutant: one value 10 % too likely
    assert chi_square(counts, tilted / tilted.sum() * len(rows)) < 1e-9


def test_single_rows_have_the_models_law_too() -> None:
    """Systematic sampling must not tie the first row to anything: 40,000 samples of one row, alpha = 1e-9."""
    model = random_model(CLIQUES["chain"])
    rng = np.random.default_rng(6)
    rows = np.vstack([model.sample(1, rng) for _ in range(40_000)])
    counts = np.bincount(np.ravel_multi_index(rows.T, SIZES), minlength=120).reshape(SIZES)
    assert chi_square(counts, brute_force(model) / model.total * len(rows)) > 1e-9


def test_sample_sizes_and_repeatability() -> None:
    model = random_model(CLIQUES["chain"])
    assert model.sample(0, np.random.default_rng(0)).shape == (0, 4)
    first, second = (model.sample(500, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_model_is_as_large_as_was_foretold_however_attributes_are_numbered() -> None:
    """Equal sizes and many ties: `estimate` numbers attributes by size, `model_cells` as they come."""
    rng = np.random.default_rng(8)
    for _ in range(200):
        sizes = rng.choice([2, 5, 8], size=9).tolist()
        cliques = [tuple(sorted(rng.choice(9, size=3, replace=False).tolist())) for _ in range(8)]
        order = sorted(range(9), key=lambda a: (sizes[a], a))
        renumbered = [tuple(sorted(order.index(a) for a in c)) for c in cliques]
        tree = junction_tree([sizes[a] for a in order], renumbered)
        assert tree.cells([sizes[a] for a in order]) == model_cells(sizes, cliques)
