"""ROC curves and their areas, from scores; `rates` offers them.

Privacy: sees scores, never a row. Scores of real rows are INTERNAL, and so is every curve made of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tabveil.audit._counts import Count, Floats, ceiling, checked, interval, scores_of
from tabveil.errors import UsageError

SHARES = (0.001, 0.01, 0.1)
"""Shares of false alarms that every curve has a point at, where there are outsiders enough to see them."""


@dataclass(frozen=True)
class Area:
    """An area under a ROC curve: the chance that a member's score is above an outsider's, a tie counting half.

    Attributes:
      value: over all pairs, or the mean over fits.
      interval: covers the true area with at least `confidence`; holds `value`.
      ceiling: where the interval of an attack that is always right would start.
      confidence: of the interval.
    """

    value: float
    interval: tuple[float, float]
    ceiling: float
    confidence: float


def auc(inside: Floats, outside: Floats, *, confidence: float = 0.95) -> Area:
    """The area under the ROC curve of scores that are independent of each other, such as one of each fit.

    The value is that of Mann and Whitney (1947), over all pairs. The interval is Clopper and Pearson's over pairs
    that share no score: these are independent, so that it is exact whatever law the scores have. For some laws (all
    outsiders alike) no interval is shorter: the area over all pairs then scatters as one over so many coins (Birnbaum
    and Klose 1957), and what DeLong's and the bootstrap's intervals gain, they gain by approximation.

    Scores of rows of the same fit depend on each other: give `auc_over_fits` the area of each.

    Args:
      inside: scores of members, high where they seem to be in, shape (n,), in an order that does not depend on them.
      outside: scores of outsiders, shape (m,).
      confidence: strictly between 0 and 1.

    Raises:
      UsageError: `confidence` is not between 0 and 1, or a score is not a number.
    """
    inside, outside = scores_of(inside), scores_of(outside)
    won = pairs(inside, outside)
    low, high = interval(won, confidence)
    value = _all_pairs(inside, outside)
    return Area(value, (min(low, value), max(high, value)), ceiling(won.tries, confidence), confidence)


def pairs(inside: Floats, outside: Floats) -> Count:
    """How often the one is above the other, in pairs that share no score; of ties, every other one counts.

    An odd pair at the end is left out, so that of ties no more than half count.
    """
    count = min(len(inside), len(outside)) // 2 * 2
    first, second = inside[:count], outside[:count]
    won = np.where(first == second, np.arange(count) % 2 == 0, first > second)
    return Count(int(won.sum()), count)


def _all_pairs(inside: Floats, outside: Floats) -> float:
    if not (len(inside) and len(outside)):
        return 0.5
    ordered = np.sort(outside)
    below, up_to = (np.searchsorted(ordered, inside, side=side) for side in ("left", "right"))
    return float((below + up_to).mean()) / (2 * len(outside))


def auc_over_fits(areas: Floats, *, confidence: float = 0.95) -> Area:
    """The mean of numbers from 0 to 1, one for each independent fit, whatever law they have and however rows depend on
    each other within a fit: an interval by betting (Waudby-Smith and Ramdas 2024, Estimating means of bounded random
    variables by betting, Theorem 3).

    Args:
      areas: one for each fit, 0 to 1, shape (fits,).
      confidence: strictly between 0 and 1.

    Raises:
      UsageError: `confidence` is not between 0 and 1, or an area not from 0 to 1.
    """
    areas = scores_of(areas)
    if len(areas) and not (0 <= areas.min() and areas.max() <= 1):
        raise UsageError("Areas are from 0 to 1.")
    value = float(areas.mean()) if len(areas) else 0.5
    low, high = _bets(areas, 1 - checked(confidence))
    most = _bets(np.ones(len(areas)), 1 - confidence)[0]
    return Area(value, (min(low, value), max(high, value)), most, confidence)


def roc(inside: Floats, outside: Floats, *, points: int = 200) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The ROC curve: shares of outsiders above a falling threshold, and the shares of members above it.

    At each share of false alarms stands what the lowest threshold recognises that raises no more: a picture, whose
    thresholds were not fixed beforehand.

    Args:
      inside: scores of members, shape (n,).
      outside: scores of outsiders, shape (m,).
      points: at most so many, 10 or more.

    Returns:
      False alarms and recognised, of equal lengths; both never fall, from 0 false alarms to 1 and 1, with SHARES
      between them where one outsider is no more than that.

    Raises:
      UsageError: fewer than 10 points, or a score is not a number.
    """
    inside, outside = scores_of(inside), scores_of(outside)
    if points < 10:
        raise UsageError("A curve has at least 10 points.")
    if not (len(inside) and len(outside)):
        return (), ()
    alarms = _shown_at(len(outside), points)
    falling = np.sort(outside)[::-1]
    allowed = np.floor(alarms * len(outside) * (1 + 1e-12)).astype(np.int64)
    cuts = np.append(falling, -np.inf)[np.minimum(allowed, len(outside))]
    found = 1 - np.searchsorted(np.sort(inside), cuts, side="right") / len(inside)
    found[allowed >= len(outside)] = 1.0
    return tuple(alarms.tolist()), tuple(found.tolist())


def _shown_at(outsiders: int, points: int) -> Floats:
    """Shares of false alarms, from 0 to 1: half of them evenly, half on a log axis, SHARES among them."""
    few = (points - 2 - len(SHARES)) // 2
    some = np.concatenate([np.geomspace(1 / outsiders, 1, few), np.linspace(0, 1, few), SHARES])
    shares = np.unique(np.append(some[(some * outsiders >= 1 - 1e-9) | (some == 0)], (0.0, 1.0)))
    return shares


def recognised_at(inside: Floats, outside: Floats, *, share: float) -> tuple[Count, Count]:
    """How many members a threshold recognises that aims at such a share of false alarms, and its false alarms.

    Every other score chooses the threshold, the lowest that at most that share of outsiders reach; the rest is counted.
    On these the share may be another: show the alarms beside the hits.

    Args:
      inside: scores of members, shape (n,).
      outside: scores of outsiders, shape (m,).
      share: of false alarms aimed at, from 0 to 1.

    Raises:
      UsageError: a share out of range, or a score is not a number.
    """
    inside, outside = scores_of(inside), scores_of(outside)
    if not 0 <= share <= 1:
        raise UsageError("A share of false alarms is from 0 to 1.")
    cut = threshold_at(inside[1::2], outside[1::2], share=share)
    return _reached(inside[::2], cut), _reached(outside[::2], cut)


def threshold_at(inside: Floats, outside: Floats, *, share: float) -> float:
    """The lowest score that at most that share of outsiders reach; infinite where there is none."""
    tried = np.unique(np.concatenate([inside, outside, [np.inf]]))
    alarms = len(outside) - np.searchsorted(np.sort(outside), tried, side="left")
    return float(tried[alarms <= share * len(outside)][0])


def _reached(scores: Floats, cut: float) -> Count:
    return Count(int((scores >= cut).sum()), len(scores))


def _bets(areas: Floats, alpha: float) -> tuple[float, float]:
    """Ends of the interval of means against which nobody, betting half on more and half on less, has ever held 1 /
    alpha times his stake.

    Who bets on more wins less the higher the mean, so that all means up to the last refuted one are refuted.
    """
    means = np.linspace(0, 1, 1001)
    more, less = np.zeros((2, len(means)))
    most_more, most_less = np.zeros((2, len(means)))
    for stake, area in zip(_stakes(areas, alpha), areas, strict=True):
        more += np.log1p(np.minimum(stake, 0.5 / np.maximum(means, 1e-9)) * (area - means))
        less += np.log1p(np.minimum(stake, 0.5 / np.maximum(1 - means, 1e-9)) * (means - area))
        most_more, most_less = np.maximum(most_more, more), np.maximum(most_less, less)
    needed = np.log(2 / alpha)
    low, high = means[most_more >= needed], means[most_less >= needed]
    return float(low[-1]) if len(low) else 0.0, float(high[0]) if len(high) else 1.0


def _stakes(areas: Floats, alpha: float) -> Floats:
    """How much is bet on each, from those before it (predictable plug-in, section 4.2 there)."""
    times = np.arange(1, len(areas) + 1)
    running = (0.5 + np.cumsum(areas)) / (times + 1)
    spread = (0.25 + np.cumsum((areas - running) ** 2)) / (times + 1)
    before = np.concatenate([[0.25], spread[:-1]])
    bets: Floats = np.sqrt(2 * np.log(2 / alpha) / (before * times * np.log1p(times)))
    return bets
