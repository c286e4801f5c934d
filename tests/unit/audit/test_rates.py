"""Counts to findings: values worked out by hand, and coverage by exact summation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tabveil.audit.rates import Count, beyond, ceiling, finding, interval, risk, wilson
from tabveil.errors import UsageError
from tabveil.records import Finding


def made(attack: Count, baseline: float | Count) -> Finding:
    return finding(
        auditor="a", name="n", attack=attack, baseline=baseline, control=Count(1, 4), confidence=0.95, verdict="v"
    )


def test_interval_by_hand() -> None:
    # no hit in n: the upper end solves (1 - p)^n = 0.025; all hits: the lower end solves p^n = 0.025
    assert interval(Count(0, 10), 0.95) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert interval(Count(10, 10), 0.95) == pytest.approx((0.025**0.1, 1.0))
    # the table of Clopper and Pearson (1934) gives 0.187 and 0.813 for 5 of 10
    assert interval(Count(5, 10), 0.95) == pytest.approx((0.187, 0.813), abs=5e-4)
    assert interval(Count(0, 0), 0.95) == (0.0, 1.0)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 1 - 1e-9])
@pytest.mark.parametrize("tries", [1, 20, 300])
def test_interval_covers_every_truth_and_each_end_errs_half_as_often(tries: int, confidence: float) -> None:
    """Exact: the chances of all counts whose interval leaves out the truth are summed, no draw is made."""
    ends = np.array([interval(Count(hits, tries), confidence) for hits in range(tries + 1)])
    for truth in (1e-6, 0.01, 0.1, 0.5, 0.731, 0.99):
        chance = stats.binom.pmf(np.arange(tries + 1), tries, truth)
        tail = (1 - confidence) / 2 * (1 + 1e-6)
        assert chance[ends[:, 0] > truth].sum() <= tail
        assert chance[ends[:, 1] < truth].sum() <= tail


def test_interval_is_no_wider_than_it_must_be() -> None:
    """One hit less, and the lower end would err too often: a 10 % wider interval is not what is computed."""
    low, high = interval(Count(731, 1000), 0.95)
    assert stats.binom.sf(730, 1000, low) == pytest.approx(0.025)
    assert stats.binom.cdf(731, 1000, high) == pytest.approx(0.025)


def test_ceiling_is_what_a_perfect_attack_shows() -> None:
    assert ceiling(2000, 0.975) == pytest.approx(0.0125 ** (1 / 2000))
    assert ceiling(0, 0.95) == 0.0


def test_finding_holds_its_counts_and_is_internal() -> None:
    found = made(Count(9, 10), 0.5)
    assert (found.value, found.baseline, found.control, found.confidence) == (0.9, 0.5, 0.25, 0.95)
    assert found.ceiling == pytest.approx(0.025**0.1)
    assert found.interval == interval(Count(9, 10), 0.95)
    assert found.internal
    assert beyond(found)
    assert not beyond(made(Count(7, 10), 0.5))


def test_a_counted_baseline_is_the_most_it_may_be() -> None:
    found = made(Count(30, 100), Count(20, 100))
    assert found.baseline == interval(Count(20, 100), 0.95)[1]
    assert not beyond(found)
    assert beyond(made(Count(60, 100), Count(20, 100)))


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_equal_rates_are_seldom_beyond(rate: float) -> None:
    """Exact: two counts of 200 tries with one rate; the chance that the first looks larger is below 1 - confidence."""
    chance = stats.binom.pmf(np.arange(201), 200, rate)
    wrong = sum(
        chance[a] * chance[b]
        for a in range(201)
        for b in range(a + 1)
        if chance[a] * chance[b] > 1e-12 and beyond(made(Count(a, 200), Count(b, 200)))
    )
    assert 0 <= wrong <= 0.05


def test_counts() -> None:
    assert (Count(1, 4) + Count(2, 4)) == Count(3, 8)
    assert Count(1, 4).misses == Count(3, 4)
    assert (Count(0, 0).rate, Count(1, 4).rate) == (0.0, 0.25)
    for wrong in ((-1, 3), (4, 3)):
        with pytest.raises(UsageError, match="0 <= hits <= tries"):
            Count(*wrong)
    for wrong_confidence in (0.0, 1.0, 1.5):
        with pytest.raises(UsageError, match="between 0 and 1"):
            interval(Count(1, 2), wrong_confidence)


def test_wilson_by_hand() -> None:
    """z = 1.959964: centre (h + z^2 / 2) / (n + z^2)."""
    z = stats.norm.isf(0.025)
    low, high = wilson(Count(300, 1000), 0.95)
    assert (low + high) / 2 == pytest.approx((300 + z**2 / 2) / (1000 + z**2))
    for edge in (low, high):  # both solve |p - h / n| = z sqrt(p (1 - p) / n)
        assert abs(edge - 0.3) == pytest.approx(z * np.sqrt(edge * (1 - edge) / 1000))
    assert wilson(Count(0, 0), 0.95) == (0.0, 1.0)
    assert wilson(Count(10, 10), 0.95)[1] == 1.0
    with pytest.raises(UsageError):
        wilson(Count(1, 2), 1.0)


def test_risk_is_that_of_anonymeter() -> None:
    """privacy.md, C3: 300 against 200 of 1,000 give 0.1247, and 0.0447 to either side."""
    found = risk(Count(300, 1000), Count(200, 1000), 0.95)
    assert found.value == pytest.approx(0.1247, abs=5e-5)
    assert found.interval == pytest.approx((0.1247 - 0.0447, 0.1247 + 0.0447), abs=1e-4)


def test_risk_is_defined_for_every_count() -> None:
    """Where anonymeter takes the root of a negative number, and where the control always worked."""
    for attack in (Count(0, 0), Count(0, 5), Count(5, 5)):
        for control in (Count(0, 0), Count(0, 5), Count(5, 5)):
            found = risk(attack, control, 0.95)
            assert 0 <= found.interval[0] <= found.value <= found.interval[1] <= 1
    assert risk(Count(1000, 1000), Count(0, 1000), 0.95).value > 0.99
    assert risk(Count(0, 1000), Count(500, 1000), 0.95).value == 0
