"""Counts of hits, and the intervals of their rates; `rates` offers them.

Privacy: sees counts, never a row. Counts of real rows are INTERNAL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tabveil.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Count:
    """So many hits out of so many tries.

    Raises:
      UsageError: not 0 <= hits <= tries.
    """

    hits: int
    tries: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.tries:
            raise UsageError("A count needs 0 <= hits <= tries.")

    @property
    def rate(self) -> float:
        """Share of hits, 0 to 1; 0 where nothing was tried."""
        return self.hits / self.tries if self.tries else 0.0

    def __add__(self, other: Count) -> Count:
        return Count(self.hits + other.hits, self.tries + other.tries)

    @property
    def misses(self) -> Count:
        """The same tries, counted the other way round."""
        return Count(self.tries - self.hits, self.tries)


@dataclass(frozen=True)
class Risk:
    """How much more often an attack works on people in the table than on others, as a share of what was left to find.

    Attributes:
      value: from 0 to 1.
      interval: around it, each end from 0 to 1.
      confidence: of the interval, by normal approximation.
    """

    value: float
    interval: tuple[float, float]
    confidence: float


def checked(confidence: float) -> float:
    """`confidence` if it is strictly between 0 and 1; UsageError if not."""
    if not 0 < confidence < 1:
        raise UsageError("A confidence is a number between 0 and 1.")
    return confidence


def check_delta(delta: float) -> None:
    """UsageError if `delta` is not from 0 to below 1."""
    if not 0 <= delta < 1:
        raise UsageError("delta is a number from 0 to below 1.")


def shared(confidence: float, tried: int) -> float:
    """The chance of error that is left to each of so many (Bonferroni)."""
    if tried < 1:
        raise UsageError("At least one attack was tried.")
    return (1 - checked(confidence)) / tried


def scores_of(values: Floats) -> Floats:
    """Scores as doubles, shape (n,); UsageError if one is not a number."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or np.isnan(scores).any():
        raise UsageError("Scores are numbers, one for each run.")
    return scores


def above(scores: Floats, cut: float) -> Count:
    """How many of the scores, shape (n,), lie above `cut`."""
    return Count(int((scores > cut).sum()), len(scores))


def interval(count: Count, confidence: float) -> tuple[float, float]:
    """The interval of Clopper and Pearson (1934) for a rate: covers the true one with at least `confidence`.

    Each end is wrong with a chance of at most (1 - confidence) / 2. Tries must be
    independent; where their chances differ it covers the mean chance, since their sum scatters less than a binomial one
    (Hoeffding 1956, On the distribution of the number of successes in independent trials).

    Args:
      count: hits and tries; without a try the interval is 0 to 1.
      confidence: strictly between 0 and 1.

    Raises:
      UsageError: `confidence` is not between 0 and 1.
    """
    tail = (1 - checked(confidence)) / 2
    low = float(special.betaincinv(count.hits, count.misses.hits + 1, tail)) if count.hits else 0.0
    high = float(special.betainccinv(count.hits + 1, count.misses.hits, tail)) if count.misses.hits else 1.0
    return low, high


def ceiling(tries: int, confidence: float) -> float:
    """The largest rate that so many tries can show: where the interval starts when every try is a hit."""
    return interval(Count(tries, tries), confidence)[0]


def wilson(count: Count, confidence: float) -> tuple[float, float]:
    """The interval of Wilson (1927) for a rate: `confidence` on average over rates, not for each (`interval` is).

    For numbers that are compared with anonymeter's. Its centre lies between the rate and a half, so that it is
    defined for 0 hits, for nothing but hits, and without a try (0 to 1).

    Raises:
      UsageError: `confidence` is not between 0 and 1.
    """
    centre, half = _wilson(count, checked(confidence))
    return max(0.0, centre - half), min(1.0, centre + half)


def risk(attack: Count, control: Count, confidence: float) -> Risk:
    """(attack - control) / (1 - control), of Wilson centres, with the error of both (Giomi et al. 2023, A unified
    framework for quantifying privacy risk in synthetic data, section 3; the semantics of anonymeter).

    Args:
      attack: how often it worked on training rows, main attack.
      control: how often it worked on held-out rows.
      confidence: of the interval, by the rule of error propagation: an approximation, as anonymeter's.

    Raises:
      UsageError: `confidence` is not between 0 and 1.
    """
    (got, wrong), (others, spread) = (_wilson(c, checked(confidence)) for c in (attack, control))
    # A Wilson centre is below 1, also where every try was a hit.
    value = (got - others) / (1 - others)
    error = math.hypot(wrong / (1 - others), spread * (1 - got) / (1 - others) ** 2)
    low, middle, high = (min(1.0, max(0.0, v)) for v in (value - error, value, value + error))
    return Risk(middle, (low, high), confidence)


def _wilson(count: Count, confidence: float) -> tuple[float, float]:
    """Centre and half width."""
    z = -float(special.ndtri((1 - confidence) / 2))
    scatter = count.hits * count.misses.hits / max(count.tries, 1)
    wide = count.tries + z**2
    return (count.hits + z**2 / 2) / wide, z * math.sqrt(scatter + z**2 / 4) / wide
