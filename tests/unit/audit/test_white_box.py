"""What the white-box audits share: tests of independence err as seldom as they say, however few the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tabveil.audit._white_box import as_deviation, successive, uncorrelated

ALPHA = 1e-9
TRIES = 20_000


def often(seen: list[float], size: float) -> bool:
    """More p-values of at most `size` than TRIES fair ones show with a chance of ALPHA."""
    return sum(p <= size for p in seen) > stats.binom.isf(ALPHA, TRIES, size)


@pytest.mark.parametrize("pairs", [1, 3, 9])
def test_products_of_few_pairs_err_as_seldom_as_they_say(pairs: int) -> None:
    """20,000 tests at 0.001, alpha 1e-9; the normal law of the mean product gives three times as many at nine pairs."""
    rng = np.random.default_rng(pairs)
    both = rng.normal(size=(TRIES, 2, pairs))
    seen = [uncorrelated(one, other) for one, other in both]
    assert not often(seen, 0.001)
    assert not often([1 - p for p in seen], 0.001)
    assert often([2 * float(stats.norm.sf(abs((a * b).sum()) / pairs**0.5)) for a, b in both], 0.001)


@pytest.mark.parametrize("shape", [(2,), (4,), (10,), (5, 2)])
def test_products_of_few_neighbours_err_as_seldom_as_they_say(shape: tuple[int, ...]) -> None:
    """20,000 tests at 0.001, alpha 1e-9; the normal law of the mean product gives more."""
    both = np.random.default_rng(len(shape)).normal(size=(TRIES, *shape))
    seen = [successive(values) for values in both]
    assert not often(seen, 0.001)
    assert not often([1 - p for p in seen], 0.001)
    products = (both[:, 1:] * both[:, :-1]).reshape(TRIES, -1)
    assert often((2 * stats.norm.sf(np.abs(products.sum(1)) / products.shape[1] ** 0.5)).tolist(), 0.001)


def test_every_product_of_neighbours_counts() -> None:
    values = np.array([1.0, 2.0, 5.0, 3.0, 4.0])
    total, around = 1 * 2 + 2 * 5 + 5 * 3 + 3 * 4, np.hypot(1 + 5, 5 + 4)
    assert successive(values) == pytest.approx(2 * stats.norm.sf(total / around))
    assert successive(values[:1]) == successive(values[:0]) == uncorrelated(values[:0], values[:0]) == 1.0


def test_numbers_that_depend_by_a_third_are_found() -> None:
    """2,000 pairs and 2,000 neighbours with a correlation of 0.3: 13 deviations where 6 are 1e-9."""
    rng = np.random.default_rng(5)
    noise = rng.normal(size=2_001)
    chained = 0.3 * noise[:-1] + noise[1:]
    assert uncorrelated(noise[:-1], 0.3 * noise[:-1] + noise[1:]) < ALPHA
    assert successive(chained / chained.std()) < ALPHA
    assert as_deviation(2 * float(stats.norm.sf(3.0))) == pytest.approx(3.0)
