"""The vectorised exact samplers against the laws they claim and against OpenDP's samplers.

Every law test has alpha = 1e-9 and n = 200,000 draws, and must reject a scale 10 % too small and 10 % too large.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import opendp.prelude as dp
import pytest
from scipy import stats

from tabveil.samplers import (
    MAX_SIGMA,
    MIN_SIGMA,
    bernoulli_exp,
    discrete_gaussian,
    discrete_laplace,
    representable,
    system_bits,
    uniform,
    variance,
)

ALPHA = 1e-9
DRAWS = 200_000
dp.enable_features("contrib")


def gaussian_law(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    support = np.arange(-math.ceil(12 * sigma) - 2, math.ceil(12 * sigma) + 3)
    p = np.exp(-(support**2) / (2 * sigma**2))
    return support, p / p.sum()


def laplace_law(scale: float) -> tuple[np.ndarray, np.ndarray]:
    support = np.arange(-math.ceil(45 * scale), math.ceil(45 * scale) + 1)
    p = np.exp(-np.abs(support) / scale)
    return support, p / p.sum()


def p_value(draws: np.ndarray, law: tuple[np.ndarray, np.ndarray]) -> float:
    """Pearson's chi-square over about 60 bins of whole numbers, tails joined until 10 draws are expected."""
    support, p = law
    bins = np.minimum((np.cumsum(p) * 60).astype(int), 59)
    counts = np.bincount(bins[np.clip(draws - support[0], 0, len(support) - 1)], minlength=60)
    expected = np.bincount(bins, weights=p, minlength=60) * len(draws)
    used = expected >= 10
    statistic = ((counts - expected)[used] ** 2 / expected[used]).sum()
    return float(stats.chi2.sf(statistic, used.sum() - 1))


@pytest.mark.parametrize("sigma", [MIN_SIGMA, 0.8, 1.0, 3.7, 18.9, 120.5, MAX_SIGMA])
def test_gaussian_has_its_law(sigma: float) -> None:
    draws = discrete_gaussian(DRAWS, sigma)
    assert len(draws) == DRAWS
    assert p_value(draws, gaussian_law(sigma)) > ALPHA
    for wrong in (0.9, 1.1):
        assert p_value(draws, gaussian_law(sigma * wrong)) < ALPHA


@pytest.mark.parametrize("scale", [1, 2, 7, 300])
def test_laplace_has_its_law(scale: int) -> None:
    draws = discrete_laplace(DRAWS, scale)
    assert p_value(draws, laplace_law(scale)) > ALPHA
    for wrong in (0.9, 1.1):
        assert p_value(draws, laplace_law(scale * wrong)) < ALPHA


def two_sample(a: np.ndarray, b: np.ndarray) -> float:
    """Chi-square for two samples of one law, over bins with 20 draws or more together."""
    edges = np.unique(np.quantile(np.concatenate([a, b]), np.linspace(0, 1, 41)))
    table = np.array([np.histogram(x, bins=np.append(edges, np.inf))[0] for x in (a, b)])
    return float(stats.chi2_contingency(table[:, table.sum(axis=0) >= 20]).pvalue)


@pytest.mark.parametrize("sigma", [1.5, 18.9])
def test_gaussian_agrees_with_opendp(sigma: float) -> None:
    """Two-sample chi-square, alpha = 1e-9, n = 60,000 each; a scale 10 % off in either direction is rejected."""
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")
    oracle = np.asarray(dp.m.make_gaussian(*space, scale=sigma)([0] * 60_000))
    assert two_sample(discrete_gaussian(60_000, sigma), oracle) > ALPHA
    for wrong in (0.9, 1.1):
        assert two_sample(discrete_gaussian(60_000, sigma * wrong), oracle) < ALPHA


def test_support_does_not_depend_on_the_count_it_is_added_to() -> None:
    """Trap A13: noise is whole numbers, so that counts k and k + 1 have the same outcomes."""
    draws = discrete_gaussian(1_000_000, 3.0)
    assert draws.dtype == np.int64
    assert set(range(-9, 10)) <= set(np.unique(draws).tolist())


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3456, 18.16238746, 999.9])
def test_variance_is_never_below_sigma_squared_and_hardly_above(sigma: float) -> None:
    top, bottom = variance(sigma)
    assert 1.0 <= top / bottom / sigma**2 < 1 + 1e-5
    charged = representable(sigma)
    assert variance(charged) == (top, bottom)
    assert sigma <= charged
    assert Fraction(charged) ** 2 <= Fraction(top, bottom)  # drawn with no less noise than charged


def test_coins_have_their_probability() -> None:
    """alpha = 1e-9, n = 1,000,000 flips; 10 % off is rejected."""
    for top, bottom in ((1, 1), (1, 3), (999, 1000), (0, 5)):
        n = 1_000_000
        heads = int(bernoulli_exp(np.full(n, top, np.uint64), np.full(n, bottom, np.uint64), system_bits).sum())
        p = math.exp(-top / bottom)
        assert stats.binomtest(heads, n, min(p, 1.0)).pvalue > ALPHA
        assert stats.binomtest(heads, n, p * 0.9).pvalue < ALPHA


def test_uniform_rejects_the_words_that_would_bias_it() -> None:
    words = iter([np.array([0, 5], np.uint64), np.array([7], np.uint64)])
    # 2^64 mod 3 = 1: the word 0 must be thrown away and drawn again
    assert uniform(np.array([3, 3], np.uint64), lambda n: next(words)).tolist() == [1, 2]


def test_entropy_comes_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = __import__("os").urandom
    monkeypatch.setattr("tabveil.samplers.os.urandom", lambda n: asked.append(n) or real(n))
    np.random.seed(0)  # noqa: NPY002  (the point: a global seed changes nothing)
    first = discrete_gaussian(1000, 10.0)
    np.random.seed(0)  # noqa: NPY002
    assert asked
    assert (first != discrete_gaussian(1000, 10.0)).any()


@pytest.mark.parametrize("sigma", [0.0, 0.49, 1000.1, math.inf, math.nan])
def test_out_of_range_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        discrete_gaussian(10, sigma)
