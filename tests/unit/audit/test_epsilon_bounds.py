"""Epsilon from counts and scores: the reference's numbers, coverage by exact summation, and how much of the truth is
reached.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tabveil.audit._one_run import _Guesses
from tabveil.audit.rates import (
    Count,
    empirical_epsilon,
    epsilon_of_counts,
    gaussian_mu,
    most_auc,
    most_auc_gaussian,
    most_recognised,
    mu_of_counts,
    one_run_epsilon,
)
from tabveil.errors import UsageError

Floats = NDArray[np.float64]
ALPHA = 1e-9


def answered(epsilon: float, delta: float) -> float:
    """How often the best (epsilon, delta)-DP answer to a coin is right: randomised response, open with delta."""
    return (math.exp(epsilon) + delta) / (1 + math.exp(epsilon))


def responses(rng: np.random.Generator, runs: int, right: float) -> tuple[Floats, Floats]:
    return (rng.random(runs) < right) * 1.0, (rng.random(runs) >= right) * 1.0


# -------------------------------------------------------------------------------------------------------- reference
@pytest.mark.parametrize(("runs", "shown"), [(100, 3.281), (200, 3.984), (500, 4.906), (1000, 5.601), (5000, 7.212)])
def test_a_perfect_attack_shows_the_ceiling_of_the_reference(runs: int, shown: float) -> None:
    found = epsilon_of_counts(Count(runs, runs), Count(0, runs))
    assert found.low == pytest.approx(shown, abs=5e-4)
    assert found.ceiling == found.low
    assert found.interval == (found.low, math.inf)


@pytest.mark.parametrize(("hits", "shown"), [(900, 1.990), (550, 0.074), (520, 0.0)])
def test_counts_show_what_the_reference_says(hits: int, shown: float) -> None:
    """privacy.md, C2: Clopper-Pearson intervals of 95 % of both rates."""
    found = epsilon_of_counts(Count(hits, 1000), Count(1000 - hits, 1000))
    assert found.low == pytest.approx(shown, abs=5e-4)
    assert found.estimate == pytest.approx(math.log(hits / (1000 - hits)))
    assert found.ceiling == pytest.approx(5.601, abs=5e-4)


def test_mu_is_what_the_reference_says() -> None:
    found = mu_of_counts(Count(900, 1000), Count(100, 1000))
    assert found.low == pytest.approx(2.347, abs=5e-4)
    assert found.epsilon(1e-5).low == pytest.approx(12.20, abs=5e-3)
    assert found.estimate == pytest.approx(2 * stats.norm.ppf(0.9), abs=0.01)
    assert found.ceiling == mu_of_counts(Count(1000, 1000), Count(0, 1000)).low


@pytest.mark.parametrize(
    ("right", "guesses", "shown"),
    [(100, 100, 3.493), (1000, 1000, 5.809), (600, 1000, 0.297), (550, 1000, 0.094), (530, 1000, 0.014),
     (130, 200, 0.366)],
)  # fmt: skip
def test_one_run_shows_what_the_reference_says(right: int, guesses: int, shown: float) -> None:
    found = one_run_epsilon(right, guesses, canaries=guesses)
    assert found.low == pytest.approx(shown, abs=1e-3)
    assert found.ceiling == one_run_epsilon(guesses, guesses, canaries=guesses).low


def test_one_run_with_delta_shows_what_the_paper_says() -> None:
    """Steinke et al. 2023, Appendix D: 75 of 100 guesses about 1,000 canaries at delta 1e-4 show 0.673."""
    assert one_run_epsilon(75, 100, canaries=1000, delta=1e-4).low == pytest.approx(0.673, abs=5e-4)


# --------------------------------------------------------------------------------------------------------- coverage
@functools.cache
def shown(method: str, sides: tuple[int, int], delta: float) -> Floats:
    """The bound of every pair of counts at 95 %, shape (hits, alarms)."""
    return np.array(
        [
            [
                epsilon_of_counts(Count(h, sides[0]), Count(a, sides[1]), delta=delta, method=method).low  # type: ignore[arg-type]
                for a in range(sides[1] + 1)
            ]
            for h in range(sides[0] + 1)
        ]
    )


@pytest.mark.parametrize("delta", [0.0, 0.2])
@pytest.mark.parametrize(("method", "sides"), [("ratio", (40, 25)), ("accuracy", (40, 40))])
def test_bounds_err_no_more_often_than_they_say_on_every_curve(
    method: str, sides: tuple[int, int], delta: float
) -> None:
    """Exact: for each (epsilon, delta), the chances of all counts whose bound is above epsilon are summed, at 101
    places of the curve of the most that it allows: bounds grow with hits and fall with alarms, so no rates are worse.
    """
    low = shown(method, sides, delta)
    hits, alarms = (np.arange(n + 1) for n in sides)
    assert (np.diff(low, axis=0) >= 0).all()
    assert (np.diff(low, axis=1) <= 0).all()
    for epsilon in (0.0, 0.3, 1.0, 2.0, 4.0):
        for rate in (*np.linspace(0, 1, 100), 1 - answered(epsilon, delta)):
            found = stats.binom.pmf(hits, sides[0], most_recognised(epsilon, delta, rate))
            wrong = found @ (low > epsilon + 1e-9) @ stats.binom.pmf(alarms, sides[1], rate)
            assert wrong <= 0.05, (epsilon, rate)


def test_accuracy_is_no_more_careful_than_it_must_be() -> None:
    """Exact: on randomised response, 1,000 runs a side, it errs with 3.9 to 5 %; one right answer less shows less."""
    for epsilon in (0.1, 0.5, 1.0, 2.0, 3.0):
        right = np.arange(1000, 2001)
        low = np.array([_of_right(int(r), 1000) for r in right[::10]])
        first = int(right[::10][np.argmax(low > epsilon)])
        least = next(r for r in range(first - 10, first + 1) if _of_right(r, 1000) > epsilon)
        assert 0.035 < stats.binom.sf(least - 1, 2000, answered(epsilon, 0.0)) <= 0.05


def _of_right(right: int, runs: int, delta: float = 0.0) -> float:
    hits = right // 2
    found = epsilon_of_counts(Count(hits, runs), Count(runs - right + hits, runs), delta=delta, method="accuracy")
    return found.low


def test_bounds_from_scores_err_no_more_often_than_they_say() -> None:
    """400 audits of 200 runs a side whose scores show nothing: each bound above 0 is an error, with a chance of at most
    5 %; more than 52 have one below alpha = 1e-9. A threshold that was chosen on what is counted errs over 100 times.
    """
    rng = np.random.default_rng(0)
    assert stats.binom.sf(52, 400, 0.05) < ALPHA
    wrong = sum(empirical_epsilon(*rng.standard_normal((2, 200))).low > 0 for _ in range(400))
    assert wrong <= 52


@pytest.mark.parametrize("delta", [0.0, 0.05])
@pytest.mark.parametrize("epsilon", [0.6, 1.0, 3.0])
def test_randomised_response_is_not_over_estimated_and_shows_four_fifths(epsilon: float, delta: float) -> None:
    """300 audits of 1,000 runs a side: more than 42 errors of 5 % have a chance below alpha = 1e-9; half of the audits
    must show at least four fifths of the truth.
    """
    rng = np.random.default_rng(1)
    assert stats.binom.sf(42, 300, 0.05) < ALPHA
    right = answered(epsilon, delta)
    found = np.array([empirical_epsilon(*responses(rng, 1000, right), delta=delta).low for _ in range(300)])
    assert (found > epsilon).sum() <= 42
    assert np.median(found) > (0.8 if epsilon > 0.6 else 0.77) * epsilon


@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.01])
@pytest.mark.parametrize("epsilon", [0.4, 0.5, 1.0, 2.0, 4.0, 6.0, 7.0])
def test_four_fifths_are_reached_at_a_thousand_counted_runs_a_side(epsilon: float, delta: float) -> None:
    """Exact: the bound at the median number of right answers of randomised response."""
    right = int(stats.binom.median(2000, answered(epsilon, delta)))
    assert 0.8 * epsilon <= _of_right(right, 1000, delta) < epsilon


def test_ratio_reaches_four_fifths_from_three_quarters_on() -> None:
    for epsilon in (0.75, 1.0, 2.0, 4.0, 6.0):
        hits = round(1000 * answered(epsilon, 0.0))
        assert 0.8 * epsilon <= epsilon_of_counts(Count(hits, 1000), Count(1000 - hits, 1000)).low < epsilon


@functools.cache
def one_run(canaries: int, delta: float) -> Floats:
    return np.array([one_run_epsilon(v, canaries, canaries=canaries, delta=delta).low for v in range(canaries + 1)])


@pytest.mark.parametrize("delta", [0.0, 1e-4, 0.05])
def test_one_run_errs_no_more_often_than_it_says(delta: float) -> None:
    """Exact: 100 canaries, each a randomised response that is open with delta; or all open at once, with delta."""
    low, right = one_run(100, delta), np.arange(101)
    for epsilon in (0.0, 0.2, 0.5, 1.0, 2.0, 4.0):
        each = stats.binom.pmf(right, 100, answered(epsilon, delta))
        together = (1 - delta) * stats.binom.pmf(right, 100, answered(epsilon, 0.0)) + delta * (right == 100)
        assert each[low > epsilon + 1e-6].sum() <= 0.05
        assert together[low > epsilon + 1e-6].sum() <= 0.05


@pytest.mark.parametrize("delta", [0.0, 1e-6])
@pytest.mark.parametrize("epsilon", [0.6, 1.0, 2.0, 4.0, 6.0])
def test_one_run_of_a_thousand_canaries_shows_four_fifths(epsilon: float, delta: float) -> None:
    """Exact: the bound at the median number of right guesses."""
    right = int(stats.binom.median(1000, answered(epsilon, delta)))
    assert 0.8 * epsilon <= one_run_epsilon(right, 1000, canaries=1000, delta=delta).low < epsilon


@pytest.mark.parametrize(("right", "guesses", "canaries", "delta"), [
    (75, 100, 1000, 1e-4), (95, 100, 100, 1e-3), (880, 1000, 1000, 1e-4), (60, 60, 5000, 1e-5), (1, 1, 1, 0.0),
])  # fmt: skip
def test_one_run_refutes_all_that_is_below(right: int, guesses: int, canaries: int, delta: float) -> None:
    low = one_run_epsilon(right, guesses, canaries=canaries, delta=delta).low
    made = _Guesses(right, guesses, canaries, delta)
    assert all(made.chance(float(e)) <= 0.05 for e in np.linspace(0, low, 2000) if low)
    assert made.chance(low + 1e-6) > 0.05


# ------------------------------------------------------------------------------------------------------- properties
def test_both_sides_count() -> None:
    """A rule that misses hardly anybody shows what its mirror image shows, which raises hardly an alarm."""
    for method in ("ratio", "accuracy"):
        one = epsilon_of_counts(Count(990, 1000), Count(600, 1000), method=method)  # type: ignore[arg-type]
        other = epsilon_of_counts(Count(400, 1000), Count(10, 1000), method=method)  # type: ignore[arg-type]
        assert one.low == pytest.approx(other.low)
        assert one.estimate == pytest.approx(other.estimate)
    assert epsilon_of_counts(Count(400, 1000), Count(10, 1000)).low > 2.5


def test_what_was_tried_shares_the_chance_of_error() -> None:
    inside, outside = responses(np.random.default_rng(2), 500, 0.8)
    alone = empirical_epsilon(inside, outside, confidence=1 - 0.05 / 20)
    best = empirical_epsilon(inside, outside, tried=20)
    assert (best.low, best.ceiling) == pytest.approx((alone.low, alone.ceiling))
    assert best.confidence == 0.95
    assert best.low < empirical_epsilon(inside, outside).low
    assert gaussian_mu(inside, outside, tried=20).low < gaussian_mu(inside, outside).low


def test_perfect_scores_reach_the_ceiling_and_no_score_does_more() -> None:
    inside, outside = np.arange(300.0) + 1000, np.arange(200.0)
    found = empirical_epsilon(inside, outside)
    assert found.low == pytest.approx(found.ceiling)
    assert found.method == "accuracy"
    assert found.ceiling == pytest.approx(-math.log(0.05 ** (-1 / 200) - 1))
    assert empirical_epsilon(np.full(300, np.inf), np.full(200, -np.inf)).low == pytest.approx(found.low)
    assert empirical_epsilon(outside, inside).low == 0
    assert gaussian_mu(inside, outside).low == pytest.approx(gaussian_mu(inside, outside).ceiling)


def test_seldom_but_sure_signs_are_found() -> None:
    """2,000 runs a side, one in five of those inside gives itself away, one in fifty outside seems to."""
    rng = np.random.default_rng(3)
    found = empirical_epsilon(rng.random(2000) < 0.2, rng.random(2000) < 0.02)
    assert found.method == "ratio"
    assert 1.5 < found.low < math.log(10)


def test_runs_known_beforehand_choose_and_all_others_count() -> None:
    ones, zeros = np.ones(20), np.zeros(20)
    every = empirical_epsilon(ones, zeros, known=(ones[:4], zeros[:4]))
    assert every.low == every.ceiling == empirical_epsilon(np.ones(40), np.zeros(40)).low
    # A threshold that says nothing of the runs that count: these do not move it.
    assert empirical_epsilon(ones, zeros, known=(ones + 4, zeros + 4)).low == 0
    assert empirical_epsilon(ones, zeros, known=(ones[:0], zeros)).ceiling == 0


def test_a_threshold_stands_amid_a_gap() -> None:
    """At its lower end, most of the other runs without the target would lie above it."""
    rng = np.random.default_rng(0)
    outside = np.concatenate([np.zeros(20), rng.normal(0.01, 0.001, 20)])
    bound = empirical_epsilon(np.ones(20), outside[20:], known=(np.ones(20), outside[:20]))
    assert bound.low == bound.ceiling > 2
    for far in (np.inf, 1e308):
        assert empirical_epsilon(np.full(20, far), np.full(20, -far)).low > 1


def test_scores_that_leave_nothing_to_count_show_nothing() -> None:
    for sides in (([], []), ([1.0] * 3, [0.0] * 300), ([1.0] * 50, [1.0] * 50)):
        inside, outside = (np.asarray(s, dtype=float) for s in sides)
        assert empirical_epsilon(inside, outside).low == 0
        assert gaussian_mu(inside, outside).low == 0
    for method in ("ratio", "accuracy"):
        assert epsilon_of_counts(Count(0, 0), Count(0, 0), method=method).ceiling == 0  # type: ignore[arg-type]
    none = one_run_epsilon(0, 0, canaries=10)
    assert (none.estimate, none.low, none.ceiling) == (0, 0, 0)


def test_numbers_out_of_range_are_refused() -> None:
    one, nine = Count(1, 1), np.zeros(9)
    for call in (
        lambda: epsilon_of_counts(one, one, delta=1.0),
        lambda: epsilon_of_counts(one, one, confidence=1.0),
        lambda: epsilon_of_counts(one, Count(1, 2), method="accuracy"),
        lambda: empirical_epsilon(nine, nine, tried=0),
        lambda: empirical_epsilon(nine, nine, confidence=0.7),
        lambda: empirical_epsilon(nine, np.array([np.nan] * 9)),
        lambda: one_run_epsilon(3, 2, canaries=2),
        lambda: one_run_epsilon(1, 3, canaries=2),
    ):
        with pytest.raises(UsageError):
            call()


# ----------------------------------------------------------------------------------------------------------- limits
def test_limits_are_those_of_the_reference() -> None:
    """privacy.md, C2."""
    assert most_recognised(1, 0, 0.01) == pytest.approx(0.0272, abs=5e-5)
    assert most_recognised(3, 0, 0.01) == pytest.approx(0.201, abs=5e-4)
    assert most_recognised(8, 0, 0.001) == pytest.approx(0.9997, abs=5e-5)
    assert [most_auc(e) for e in (1, 2, 3, 4)] == pytest.approx([0.731, 0.881, 0.953, 0.982], abs=5e-4)
    assert [most_auc_gaussian(m) for m in (0.5, 1)] == pytest.approx([0.638, 0.760], abs=5e-4)


@pytest.mark.parametrize("delta", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("epsilon", [0.0, 1.0, 5.0])
def test_the_area_is_that_below_the_curve(epsilon: float, delta: float) -> None:
    alarms = np.linspace(0, 1, 20001)
    curve = [most_recognised(epsilon, delta, a) for a in alarms.tolist()]
    assert most_auc(epsilon, delta) == pytest.approx(np.trapezoid(curve, alarms), abs=1e-4)
    assert (np.diff(curve) >= -1e-12).all()


def test_randomised_response_reaches_the_limit() -> None:
    for epsilon, delta in ((0.5, 0.0), (2.0, 0.1)):
        right = answered(epsilon, delta)
        assert most_recognised(epsilon, delta, 1 - right) == pytest.approx(right)
    assert most_recognised(math.inf, 0.0, 0.01) == 1
    assert most_recognised(1000.0, 0.0, 0.0) == 0
