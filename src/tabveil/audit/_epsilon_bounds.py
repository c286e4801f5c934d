"""Lower bounds on epsilon from counts and scores of independent runs; `rates` offers them.

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
there is `one_run_epsilon`.

Privacy: sees counts and scores, never a row; both are INTERNAL, and so is every bound made of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tabveil.audit._counts import Count, Floats, above, check_delta, checked, scores_of, shared
from tabveil.errors import UsageError

Method = Literal["ratio", "accuracy", "gaussian", "one run"]

FEWEST = 4
"""Runs on a side below which nothing is bounded: half of them choose the threshold."""

CUTS = 400
"""Thresholds tried, at most."""

CAREFUL = 0.1
"""Chances of error are so much smaller where a threshold is chosen: the best of many on one half was lucky there, the
more so the fewer scores lie beyond it."""

MOST_ALPHA = 0.25
"""Up to which chance of error "accuracy" is proved."""


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
    check_delta(delta)
    if method == "accuracy" and (alarms.tries != hits.tries or alpha > MOST_ALPHA):
        raise UsageError("Accuracy needs as many runs on each side, and a confidence of at least 3/4.")
    test = _ratio if method == "ratio" else _accuracy
    low = at_least_0(test(_ints(hits), _ints(alarms), delta, alpha))
    most = at_least_0(test(_all(hits.tries), _none(alarms.tries), delta, alpha))
    return EpsilonBound(_estimate(hits, alarms, delta, method), low, most, confidence, delta, method)


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
    return log_ratio(least, 1 - least, delta)


def _least(hits: NDArray[np.int64], tries: int, tail: float) -> Floats:
    """Lower ends of Clopper and Pearson, each wrong with a chance of at most `tail`."""
    low: Floats = np.where(hits > 0, special.betaincinv(np.maximum(hits, 1), tries - hits + 1.0, tail), 0.0)
    return low


def _most(hits: NDArray[np.int64], tries: int, tail: float) -> Floats:
    """Upper ends."""
    return 1 - _least(tries - hits, tries, tail)


def _shown(found: Floats, alarmed: Floats, delta: float) -> Floats:
    """The least epsilon that allows such a TPR beside such an FPR."""
    return np.maximum(log_ratio(found, alarmed, delta), log_ratio(1 - alarmed, 1 - found, delta))


def log_ratio(often: Floats, seldom: Floats, delta: float) -> Floats:
    """ln((often - delta) / seldom), below 0 where that is no sign of anything."""
    with np.errstate(divide="ignore"):
        shown: Floats = np.log(np.maximum(often - delta, 0.0)) - np.log(seldom)
    return shown


def _estimate(hits: Count, alarms: Count, delta: float, method: str) -> float:
    """As counted; a rate of 0 or 1 counts as half a try away from it, so that nothing is infinite."""
    if not (hits.tries and alarms.tries):
        return 0.0
    if method == "accuracy":
        right = inside_of(hits + alarms.misses)
        return at_least_0(log_ratio(right, 1 - right, delta))
    return at_least_0(_shown(inside_of(hits), inside_of(alarms), delta))


def at_least_0(shown: Floats) -> float:
    """What a single rule shows, as an epsilon."""
    return max(0.0, float(shown[0]))


def inside_of(count: Count) -> Floats:
    """The rate, at least half a try from 0 and 1."""
    return np.array([min(max(count.rate, 0.5 / count.tries), 1 - 0.5 / count.tries)])


# ------------------------------------------------------------------------------------------------------ scores
def empirical_epsilon(
    inside: Floats,
    outside: Floats,
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    tried: int = 1,
    known: tuple[Floats, Floats] | None = None,
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
      known: scores of other runs, with the target and without, that choose in place of every other run; then all runs
        are counted.

    Returns:
      A bound of 0 where a side has fewer than FEWEST runs, or none that chooses.

    Raises:
      UsageError: a number out of range, or a score that is not a number.
    """
    inside, outside = scores_of(inside), scores_of(outside)
    alpha = shared(confidence, tried)
    check_delta(delta)
    if alpha > MOST_ALPHA:
        raise UsageError("Accuracy needs a confidence of at least 3/4.")
    learned = (inside[1::2], outside[1::2]) if known is None else (scores_of(known[0]), scores_of(known[1]))
    if min(len(inside), len(outside)) < FEWEST or not min(map(len, learned)):
        return EpsilonBound(0.0, 0.0, 0.0, confidence, delta, "ratio")
    counted = (inside[::2], outside[::2]) if known is None else (inside, outside)
    cut, method = _rule(*learned, delta, alpha)
    hits, alarms = _counted(*counted, cut, method)
    found = epsilon_of_counts(hits, alarms, delta=delta, confidence=1 - alpha, method=method)
    sides = len(counted[0]), len(counted[1])
    return replace(found, ceiling=_ceiling(*sides, delta, alpha), confidence=confidence)


def _rule(inside: Floats, outside: Floats, delta: float, alpha: float) -> tuple[float, Literal["ratio", "accuracy"]]:
    """Threshold and test that show most on these runs, which are not counted again."""
    cuts, fewer = _cuts(inside, outside), min(len(inside), len(outside))
    for chance in (CAREFUL * alpha, alpha, MOST_ALPHA):  # where nothing is that sure, what is most likely
        ratio = _ratio(_beyond(inside, cuts), _beyond(outside, cuts), delta, chance)
        accuracy = _accuracy(_beyond(inside[:fewer], cuts), _beyond(outside[:fewer], cuts), delta, chance)
        if max(ratio.max(), accuracy.max()) > 0:
            break
    if ratio.max() > accuracy.max():
        return _amid(float(cuts[ratio.argmax()]), inside, outside), "ratio"
    return _amid(float(cuts[accuracy.argmax()]), inside, outside), "accuracy"


def _amid(cut: float, inside: Floats, outside: Floats) -> float:
    """Halfway from `cut` to the next score above it: where a gap parts the sides, other runs scatter about its ends."""
    both = np.concatenate([inside, outside])
    above = float(both[both > cut].min(initial=math.inf))
    amid = cut / 2 + above / 2
    # The same runs lie above either; an infinite end leaves no middle.
    return amid if cut <= amid < above and math.isfinite(amid) else cut


def _cuts(inside: Floats, outside: Floats) -> Floats:
    """Scores to be tried as thresholds: all where they are few, else what 0.5 % to 99.5 % of either side lie below."""
    both = np.unique(np.concatenate([inside, outside]))
    if len(both) <= CUTS:
        return both
    shares = np.linspace(0.005, 0.995, CUTS // 2)
    # Scores that are there, no means of two: these may be infinite.
    return np.unique([np.quantile(side, shares, method="inverted_cdf") for side in (inside, outside)])


def _beyond(scores: Floats, cuts: Floats) -> _Ints:
    """How many scores lie above each of `cuts`."""
    return _Ints(len(scores) - np.searchsorted(np.sort(scores), cuts, side="right"), len(scores))


def _counted(inside: Floats, outside: Floats, cut: float, method: str) -> tuple[Count, Count]:
    """Runs above the cut; "accuracy" counts as many on each side."""
    most = min(len(inside), len(outside)) if method == "accuracy" else None
    return above(inside[:most], cut), above(outside[:most], cut)


def _ceiling(inside: int, outside: int, delta: float, alpha: float) -> float:
    """What so many counted runs show of an attack that is always right: whichever test shows more."""
    fewer = min(inside, outside)
    ratio = _ratio(_all(inside), _none(outside), delta, alpha)
    return at_least_0(np.maximum(ratio, _accuracy(_all(fewer), _none(fewer), delta, alpha)))
