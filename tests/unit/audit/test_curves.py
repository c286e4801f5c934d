"""ROC curves and areas: by hand, by brute force, and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tabveil.audit.rates import SHARES, Count, auc, auc_over_fits, interval, pairs, recognised_at, roc
from tabveil.errors import UsageError

ALPHA = 1e-9


def test_area_is_the_share_of_pairs_won() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 9, 60) + 1.0, rng.integers(0, 9, 41).astype(float)
    won = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    found = auc(inside, outside)
    assert found.value == pytest.approx(won.mean())
    assert found.interval[0] <= found.value <= found.interval[1]
    assert found.ceiling == pytest.approx(0.025 ** (1 / 40))
    assert auc(outside, inside).value == pytest.approx(1 - won.mean())


def test_interval_is_exact_over_pairs_and_holds_the_value() -> None:
    inside, outside = np.array([3.0, 1.0, 5.0, 2.0]), np.array([2.0, 2.0, 4.0, 1.0])
    assert pairs(inside, outside) == Count(3, 4)
    assert auc(inside, outside).interval == interval(Count(3, 4), 0.95)
    lucky = auc(np.array([1.0, 0.0] * 50), np.array([0.0, 1.0] * 50)[::-1].copy())
    assert lucky.interval[0] <= lucky.value == 0.5


def test_ties_count_half() -> None:
    for count in (7, 8, 100):
        assert pairs(np.zeros(count), np.zeros(count)).rate == 0.5
        assert auc(np.zeros(count), np.zeros(count)).value == 0.5
    assert pairs(np.zeros(0), np.zeros(3)) == Count(0, 0)
    assert auc(np.zeros(0), np.zeros(3)).interval == (0.0, 1.0)


def test_area_covers_where_it_scatters_most() -> None:
    """All outsiders alike: the area over all pairs scatters as one over so many coins (40 runs a side; 1,000 audits;
    more than 97 errors of at most 5 % have a chance below alpha = 1e-9). Mann and Whitney's normal interval for equal
    laws is too narrow here by a factor of 1.7, and errs over 200 times.
    """
    rng, truth = np.random.default_rng(0), 0.9
    found = [auc((rng.random(40) < truth) * 2.0, np.ones(40)) for _ in range(1000)]
    wrong = sum(not f.interval[0] <= truth <= f.interval[1] for f in found)
    assert stats.binom.sf(97, 1_000, 0.05) < ALPHA
    assert wrong <= 97


def test_area_over_fits_covers_and_narrows() -> None:
    """400 audits of 64 fits: more than 52 errors of at most 5 % have a chance below alpha = 1e-9."""
    rng = np.random.default_rng(0)
    wrong = 0
    for audit in range(400):
        areas, truth = (rng.beta(7, 3, 64), 0.7) if audit % 2 else ((rng.random(64) < 0.9) * 1.0, 0.9)
        low, high = auc_over_fits(areas).interval
        wrong += not low <= truth <= high
    assert stats.binom.sf(52, 400, 0.05) < ALPHA
    assert wrong <= 52
    close = auc_over_fits(0.7 + 0.02 * rng.standard_normal(256))
    assert close.interval[1] - close.interval[0] < 0.08
    assert close.interval[0] < 0.7 < close.interval[1]


def test_fits_without_scatter_and_without_fits() -> None:
    one = auc_over_fits(np.ones(64))
    assert (one.value, one.interval[1]) == (1.0, 1.0)
    assert one.interval[0] == one.ceiling > 0.85
    none = auc_over_fits(np.zeros(0))
    assert (none.value, none.interval, none.ceiling) == (0.5, (0.0, 1.0), 0.0)
    assert auc_over_fits(np.zeros(64)).interval[0] == 0


def test_curve_says_what_is_recognised_at_most_at_so_many_alarms() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 50, 700) + 5.0, rng.integers(0, 50, 2000).astype(float)
    alarms, found = roc(inside, outside)
    assert len(alarms) == len(found) <= 200
    assert (alarms[0], alarms[-1], found[-1]) == (0.0, 1.0, 1.0)
    assert (np.diff(alarms) > 0).all()
    assert (np.diff(found) >= 0).all()
    assert set(SHARES) <= set(alarms)
    for share, most in zip(alarms, found, strict=True):
        right = max((inside > c).mean() for c in (-1, *range(60)) if (outside > c).mean() <= share + 1e-9)
        assert most == pytest.approx(right)


def test_curve_of_few_outsiders_has_no_point_they_cannot_show() -> None:
    alarms, found = roc(np.arange(50.0), np.arange(50.0), points=20)
    assert len(alarms) <= 20
    assert alarms[1] >= 0.02 - 1e-12
    assert found[1] == pytest.approx(alarms[1])
    assert roc(np.zeros(0), np.zeros(4)) == ((), ())
    assert roc(np.array([np.inf]), np.array([-np.inf]))[1] == (1.0,) * len(roc(np.array([np.inf]), np.array([1.0]))[0])
    with pytest.raises(UsageError):
        roc(np.zeros(4), np.zeros(4), points=9)


def test_recognised_at_counts_the_half_that_chose_nothing() -> None:
    """The choosing half has its best at 5, the counted half at 9."""
    inside, outside = np.array([9.0, 5.0] * 50), np.array([1.0, 4.0] * 50)
    assert recognised_at(inside, outside, share=0.01) == (Count(50, 50), Count(0, 50))
    outside[::2] = 9.0
    assert recognised_at(inside, outside, share=0.01) == (Count(50, 50), Count(50, 50))
    assert recognised_at(outside, outside, share=0.01) == (Count(0, 50), Count(0, 50))  # all would be alarms
    with pytest.raises(UsageError):
        recognised_at(inside, outside, share=1.1)


def test_scores_must_be_numbers() -> None:
    bad = np.array([np.nan, 1.0])
    for call in (lambda: auc(bad, bad), lambda: roc(bad, bad), lambda: auc_over_fits(np.array([1.5]))):
        with pytest.raises(UsageError):
            call()
