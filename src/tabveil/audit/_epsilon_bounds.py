"""Lower bounds on epsilon from what an attack got, and what an epsilon lets any attack get; `rates` offers them.

A mechanism that is (epsilon, delta)-DP lets no rule tell runs with the target from runs without it at rates beyond

    TPR <= e^epsilon FPR + delta   and   TNR <= e^epsilon FNR + delta

(Wasserman and Zhou 2010; Kairouz, Oh, Viswanath 2015). Rates that are surely beyond contradict a claim.

Two tests, both exact for any sizes:

- "ratio": the lower Clopper-Pearson end of TPR and the upper one of FPR, each wrong with a chance of at most alpha / 2.
  TNR and FNR are 1 less these two, and so are their ends: *both* lines above rest on the same two ends, so that the
  larger of both bounds errs with at most alpha. Nothing more needs to be split.
- "accuracy": adding up both lines gives (TPR + TNR) / 2 <= (e^epsilon + delta) / (1 + e^epsilon) at most, which
  randomised response reaches; with as many runs on one side as on the other, the number of right answers then scatters
  no more than a binomial one (Hoeffding 1956, Theorem 5; needs alpha < 1/4), and one end takes all of alpha.

"ratio" finds rules that are seldom but nearly always right, "accuracy" those that are right a little more often than
wrong. Where scores are given, half of them choose the threshold and the test, and the other half is counted.

What must be independent: runs of the mechanism. Rows that were attacked in one run are not independent tries; for these
there is `one_run_epsilon`, whose proof needs that a fair coin of its own put each canary in.

Privacy: sees counts and scores, never a row; both are INTERNAL, and so is every bound made of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from tabveil.audit._counts import Count, checked, interval
from tabveil.errors import UsageError

Floats = NDArray[np.float64]
Method = Literal["ratio", "accuracy", "gaussian", "one run"]

FEWEST = 4
"""Runs on a side below which nothing is bounded: half of them choose the threshold."""

CUTS = 400
"""Thresholds tried, at most."""

MOST_MU = 10.0
"""mu is turned into an epsilon up to here."""


@dataclass(frozen=True)
class EpsilonBound:
    """What an attack shows of an epsilon.

    Attributes:
      estimate: epsilon as counted, without regard to chance; from 0 up.
      low: epsilon is at least this, but for a chance of at most 1 - confidence; from 0 up. 0 shows nothing.
      ceiling: what `low` would have been for an attack that is always right, on as many runs.
      confidence: of all that was tried together.
      delta: at which epsilon is meant.
      method: which test.
    """

    estimate: float
    low: float
    ceiling: float
    confidence: float
    delta: float
    method: Method

    @property
    def interval(self) -> tuple[float, float]:
        """From `low` to infinity: no attack shows that epsilon is small."""
        return self.low, math.inf


@dataclass(frozen=True)
class MuBound:
    """What an attack shows of mu, the parameter of Gaussian differential privacy; fields as in `EpsilonBound`."""

    estimate: float
    low: float
    ceiling: float
    confidence: float

    def epsilon(self, delta: float) -> EpsilonBound:
        """The same in epsilons at `delta`, above 0."""
        estimate, low, most = (gaussian_epsilon(mu, delta) for mu in (self.estimate, self.low, self.ceiling))
        return EpsilonBound(estimate, low, most, self.confidence, delta, "gaussian")


# ------------------------------------------------------------------------------------------------------ counts
def epsilon_of_counts(
    hits: Count,
    alarms: Count,
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    method: Literal["ratio", "accuracy"] = "ratio",
) -> EpsilonBound:
    """The epsilon that a rule shows which was fixed before these runs were looked at.

    Args:
      hits: runs with the target that the rule took for such, of all runs with it.
      alarms: runs without the target that the rule took for runs with it, of all runs without.
      delta: from 0 to below 1.
      confidence: strictly between 0 and 1; at least 3/4 for "accuracy".
      method: which test, chosen before the runs were looked at, too; "accuracy" needs as many runs on each side.

    Raises:
      UsageError: a number out of range, or sides of different sizes for "accuracy".
    """
    alpha = 1 - checked(confidence)
    _check_delta(delta)
    if method == "accuracy" and (alarms.tries != hits.tries or alpha > 0.25):
        raise UsageError("Accuracy needs as many runs on each side, and a confidence of at least 3/4.")
    test = _ratio if method == "ratio" else _accuracy
    low = test(_ints(hits), _ints(alarms), delta, alpha)
    most = test(_all(hits.tries), _none(alarms.tries), delta, alpha)
    estimate = _estimate(hits, alarms, delta, method)
    return EpsilonBound(estimate, float(low[0]), float(most[0]), confidence, delta, method)


@dataclass(frozen=True, eq=False)
class _Ints:
    """Hits of several rules, shape (rules,), out of as many tries."""

    hits: NDArray[np.int64]
    tries: int


def _ints(count: Count) -> _Ints:
    return _Ints(np.array([count.hits]), count.tries)


def _all(tries: int) -> _Ints:
    return _Ints(np.array([tries]), tries)


def _none(tries: int) -> _Ints:
    return _Ints(np.array([0]), tries)


def _ratio(hits: _Ints, alarms: _Ints, delta: float, alpha: float) -> Floats:
    """What both lines show, shape (rules,)."""
    return _shown(_least(hits.hits, hits.tries, alpha / 2), _most(alarms.hits, alarms.tries, alpha / 2), delta)


def _accuracy(hits: _Ints, alarms: _Ints, delta: float, alpha: float) -> Floats:
    """What the share of right answers shows, shape (rules,)."""
    least = _least(hits.hits + alarms.tries - alarms.hits, hits.tries + alarms.tries, alpha)
    return _log_ratio(least, 1 - least, delta)


def _least(hits: NDArray[np.int64], tries: int, tail: float) -> Floats:
    """Lower ends of Clopper and Pearson, each wrong with a chance of at most `tail`."""
    low: Floats = np.where(hits > 0, special.betaincinv(np.maximum(hits, 1), tries - hits + 1.0, tail), 0.0)
    return low


def _most(hits: NDArray[np.int64], tries: int, tail: float) -> Floats:
    """Upper ends."""
    return 1 - _least(tries - hits, tries, tail)


def _shown(found: Floats, alarmed: Floats, delta: float) -> Floats:
    """The least epsilon that allows such a TPR beside such an FPR."""
    return np.maximum(_log_ratio(found, alarmed, delta), _log_ratio(1 - alarmed, 1 - found, delta))


def _log_ratio(often: Floats, seldom: Floats, delta: float) -> Floats:
    """ln((often - delta) / seldom), and at least 0."""
    with np.errstate(divide="ignore"):
        shown: Floats = np.log(np.maximum(often - delta, 0.0)) - np.log(seldom)
    return np.maximum(shown, 0.0)


def _estimate(hits: Count, alarms: Count, delta: float, method: str) -> float:
    """As counted; a rate of 0 or 1 counts as half a try away from it, so that nothing is infinite."""
    if not (hits.tries and alarms.tries):
        return 0.0
    if method == "accuracy":
        right = _inside(hits + alarms.misses)
        return float(_log_ratio(right, 1 - right, delta)[0])
    return float(_shown(_inside(hits), _inside(alarms), delta)[0])


def _inside(count: Count) -> Floats:
    return np.array([min(max(count.rate, 0.5 / count.tries), 1 - 0.5 / count.tries)])


def _check_delta(delta: float) -> None:
    if not 0 <= delta < 1:
        raise UsageError("delta is a number from 0 to below 1.")


# ------------------------------------------------------------------------------------------------------ scores
def empirical_epsilon(
    inside: Floats, outside: Floats, *, delta: float = 0.0, confidence: float = 0.95, tried: int = 1
) -> EpsilonBound:
    """The epsilon that scores of independent runs show.

    Every other run chooses the threshold and the test ("ratio" or "accuracy"); the rest is counted.

    Args:
      inside: scores of runs with the target, high where it seems to be in, shape (n,), in an order that does not depend
        on the scores; infinite ones are fine.
      outside: scores of runs without the target, shape (m,).
      delta: from 0 to below 1.
      confidence: strictly between 0 and 1, at least 3/4, of all attacks and targets together.
      tried: how many attacks and targets there were, of which this may be the best (Bonferroni).

    Returns:
      A bound of 0 where a side has fewer than FEWEST runs.

    Raises:
      UsageError: a number out of range, or a score that is not a number.
    """
    inside, outside = _scores(inside), _scores(outside)
    alpha = _shared(confidence, tried)
    _check_delta(delta)
    if min(len(inside), len(outside)) < FEWEST:
        return EpsilonBound(0.0, 0.0, 0.0, confidence, delta, "ratio")
    cut, method = _rule(inside[1::2], outside[1::2], delta, alpha)
    hits, alarms = _counted(inside[::2], outside[::2], cut, method)
    found = epsilon_of_counts(hits, alarms, delta=delta, confidence=1 - alpha, method=method)
    sides = len(inside[::2]), len(outside[::2])
    return replace(found, ceiling=_ceiling(*sides, delta, alpha), confidence=confidence)


def _rule(inside: Floats, outside: Floats, delta: float, alpha: float) -> tuple[float, Literal["ratio", "accuracy"]]:
    """Threshold and test that show most on these runs, which are not counted again."""
    cuts = _cuts(np.concatenate([inside, outside]))
    fewer = min(len(inside), len(outside))
    for chance in (alpha, 0.25):  # where so few runs show nothing, they may at that confidence
        ratio = _ratio(_beyond(inside, cuts), _beyond(outside, cuts), delta, chance)
        accuracy = _accuracy(_beyond(inside[:fewer], cuts), _beyond(outside[:fewer], cuts), delta, chance)
        if max(ratio.max(), accuracy.max()) > 0:
            break
    if ratio.max() >= accuracy.max():
        return float(cuts[ratio.argmax()]), "ratio"
    return float(cuts[accuracy.argmax()]), "accuracy"


def _cuts(scores: Floats) -> Floats:
    """Scores to be tried as thresholds: all, or CUTS of them, close together at both ends."""
    found = np.unique(scores)
    if len(found) <= CUTS:
        return found
    ends = np.geomspace(1, len(found) // 2, CUTS // 4)
    at = np.concatenate([ends, len(found) - ends, np.linspace(0, len(found) - 1, CUTS // 2)])
    return found[np.unique(at.astype(np.int64))]


def _beyond(scores: Floats, cuts: Floats) -> _Ints:
    """How many scores lie above each of `cuts`."""
    return _Ints(len(scores) - np.searchsorted(np.sort(scores), cuts, side="right"), len(scores))


def _counted(inside: Floats, outside: Floats, cut: float, method: str) -> tuple[Count, Count]:
    """Runs above the cut; "accuracy" counts as many on each side."""
    most = min(len(inside), len(outside)) if method == "accuracy" else None
    return above(inside[:most], cut), above(outside[:most], cut)


def above(scores: Floats, cut: float) -> Count:
    """How many of the scores, shape (n,), lie above `cut`."""
    return Count(int((scores > cut).sum()), len(scores))


def _ceiling(inside: int, outside: int, delta: float, alpha: float) -> float:
    """What so many counted runs show of an attack that is always right: whichever test shows more."""
    fewer = min(inside, outside)
    ratio = _ratio(_all(inside), _none(outside), delta, alpha)
    return float(max(ratio, _accuracy(_all(fewer), _none(fewer), delta, alpha))[0])


def _scores(values: Floats) -> Floats:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or np.isnan(scores).any():
        raise UsageError("Scores are numbers, one for each run.")
    return scores


def _shared(confidence: float, tried: int) -> float:
    """The chance of error that is left to each of so many (Bonferroni)."""
    if tried < 1:
        raise UsageError("At least one attack was tried.")
    return (1 - checked(confidence)) / tried


# -------------------------------------------------------------------------------------------------- Gaussian curves
def mu_of_counts(hits: Count, alarms: Count, *, confidence: float = 0.95) -> MuBound:
    """mu of Gaussian differential privacy that a rule shows which was fixed before these runs were looked at:
    PhiInv(1 - FPR) - PhiInv(FNR), at the Clopper-Pearson ends (Dong, Roth, Su 2022, Gaussian differential privacy;
    Nasr et al. 2023, Tight auditing of differentially private machine learning, section 5).

    Valid only where the trade-off between both errors is Gaussian, as for one Gaussian mechanism or, nearly, for many
    composed. A mechanism that is (epsilon, delta)-DP in another way may go beyond any mu without breaking its promise:
    randomised response and Laplace noise do. Show it beside `epsilon_of_counts`, never instead.

    Args:
      hits: runs with the target that the rule took for such, of all runs with it.
      alarms: runs without the target that the rule took for runs with it.
      confidence: strictly between 0 and 1.

    Raises:
      UsageError: `confidence` is not between 0 and 1.
    """
    halves = (Count(2 * c.hits + 1, 2 * c.tries + 2).rate for c in (hits, alarms))
    estimate = _between(*halves)
    low = _between(interval(hits, confidence)[0], interval(alarms, confidence)[1])
    perfect = Count(hits.tries, hits.tries), Count(0, alarms.tries)
    most = _between(interval(perfect[0], confidence)[0], interval(perfect[1], confidence)[1])
    return MuBound(estimate, low, most, confidence)


def gaussian_mu(inside: Floats, outside: Floats, *, confidence: float = 0.95, tried: int = 1) -> MuBound:
    """mu that scores of independent runs show; valid only where the trade-off is Gaussian (`mu_of_counts`).

    Every other run sets the threshold, their median, where a Gaussian trade-off shows as much as anywhere; the rest is
    counted.

    Args:
      inside: scores of runs with the target, shape (n,), in an order that does not depend on the scores.
      outside: scores of runs without the target, shape (m,).
      confidence: strictly between 0 and 1, of all attacks and targets together.
      tried: how many of them there were, of which this may be the best (Bonferroni).

    Raises:
      UsageError: a number out of range, or a score that is not a number.
    """
    inside, outside = _scores(inside), _scores(outside)
    alpha = _shared(confidence, tried)
    if min(len(inside), len(outside)) < FEWEST:
        return MuBound(0.0, 0.0, 0.0, confidence)
    cut = float(np.median(np.concatenate([inside[1::2], outside[1::2]])))
    found = mu_of_counts(above(inside[::2], cut), above(outside[::2], cut), confidence=1 - alpha)
    return replace(found, confidence=confidence)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon at `delta` of a Gaussian mechanism whose noise has 1 / mu of its sensitivity; mu is cut at MOST_MU."""
    from dp_accounting import GaussianDpEvent

    from tabveil import accounting

    return 0.0 if mu <= 1e-6 else accounting.epsilon(GaussianDpEvent(1 / min(mu, MOST_MU)), delta)


def _between(found: float, alarmed: float) -> float:
    return max(0.0, float(special.ndtri(found) - special.ndtri(alarmed))) if found > 0 else 0.0


# --------------------------------------------------------------------------------------------------------- one run
def one_run_epsilon(
    right: int, guesses: int, *, canaries: int, delta: float = 0.0, confidence: float = 0.95
) -> EpsilonBound:
    """The epsilon that guesses about the canaries of a single run show (Steinke, Nasr, Jagielski 2023, Privacy auditing
    with one (1) training run, Theorem 5.2).

    Each canary was put in by a fair coin of its own; the attacker saw what came out, and said "in" or "out" of as many
    canaries as he liked. He may know everything but the coins, and his guesses may depend on each other.

    Args:
      right: right guesses.
      guesses: how many he made, a number fixed beforehand.
      canaries: how many there were, guessed or not; matters for delta > 0.
      delta: from 0 to below 1.
      confidence: strictly between 0 and 1.

    Raises:
      UsageError: not 0 <= right <= guesses <= canaries, or a number out of range.
    """
    if not 0 <= right <= guesses <= canaries:
        raise UsageError("Guesses need 0 <= right <= guesses <= canaries.")
    alpha = 1 - checked(confidence)
    _check_delta(delta)
    low, most = (_one_run(_Guesses(n, guesses, canaries, delta), alpha) for n in (right, guesses))
    share = _inside(Count(right, guesses)) if guesses else np.array([0.5])
    estimate = float(_log_ratio(share, 1 - share, delta)[0])
    return EpsilonBound(estimate, low, most, confidence, delta, "one run")


@dataclass(frozen=True)
class _Guesses:
    """Right guesses out of all, of how many canaries, at which delta."""

    right: int
    guesses: int
    canaries: int
    delta: float

    def chance(self, epsilon: float) -> float:
        """The most likely that so many are right where epsilon holds: of as many answers of randomised response, and
        for delta what `2 * canaries * delta` can move from just below to there.
        """
        answer = float(special.expit(epsilon))
        chance = float(stats.binom.sf(self.right - 1, self.guesses, answer))
        if self.delta == 0 or not self.right:
            return chance
        below = np.cumsum(stats.binom.pmf(np.arange(self.right - 1, -1, -1), self.guesses, answer))
        moved = float((below / np.arange(1, self.right + 1)).max())
        return min(1.0, chance + 2 * self.canaries * self.delta * moved)


def _one_run(guesses: _Guesses, alpha: float) -> float:
    """The first epsilon that is not refuted: all below are, so that the true one is, with a chance of at most alpha,
    below what is returned.
    """
    # There, nothing but right answers is more likely than alpha: (1 + e^-most)^-guesses > alpha.
    most = max(0.0, math.log(max(guesses.guesses, 1) / -math.log(alpha))) + 1
    tried = np.linspace(0.0, most, 65)
    kept = next(i for i, e in enumerate(tried) if guesses.chance(float(e)) > alpha)
    if not kept:
        return 0.0
    low, high = float(tried[kept - 1]), float(tried[kept])
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if guesses.chance(middle) > alpha else (middle, high)
    return low


# ---------------------------------------------------------------------------------------------------- from claims
def most_recognised(epsilon: float, delta: float, false_alarms: float) -> float:
    """The largest share of members any attack can recognise under (epsilon, delta)-DP, at such a share of false alarms.

    Kairouz, Oh, Viswanath 2015, The composition theorem for differential privacy, Theorem 2.1. What is surely more
    contradicts the claim.

    Args:
      epsilon: from 0 up; infinite gives 1.
      delta: from 0 to 1.
      false_alarms: 0 to 1.
    """
    if math.isinf(epsilon):
        return 1.0
    other = 1 - math.exp(-epsilon) * (1 - delta - false_alarms)
    return float(min(1.0, math.exp(min(epsilon, 700.0)) * false_alarms + delta, max(other, false_alarms)))


def most_auc(epsilon: float, delta: float = 0.0) -> float:
    """The largest area under the ROC curve of any attack under (epsilon, delta)-DP: that below `most_recognised`.

    Args:
      epsilon: from 0 up.
      delta: from 0 to 1.
    """
    right = float(special.expit(epsilon))
    # Corners at (0, delta), (bend, 1 - bend) and (1 - delta, 1).
    bend = (1 - right) * (1 - delta)
    return float(bend * (delta + 1 - bend) / 2 + (1 - delta - bend) * (2 - bend) / 2 + delta)


def most_auc_gaussian(mu: float) -> float:
    """The largest area under the ROC curve of any attack under mu-Gaussian differential privacy: Phi(mu / sqrt 2)."""
    return float(special.ndtr(mu / math.sqrt(2)))
