"""What an auditor sees of a training, and how likely that is where coins and noise are as charged.

Privacy: holds what no training tells; INTERNAL, and thrown away with the audit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tabveil._sgd_clipping import CLIP_MARGIN
from tabveil.audit._white_box import Test, successive, uncorrelated
from tabveil.sgd import Schedule

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Observations:
    """What an auditor saw of one training.

    Attributes:
      seen: what came out in each canary's coordinate, in clips, shape (steps, 2 * canaries); the first half has a row.
      drawn: how many times each was in the batch, the same shape.
      sizes: units in each batch, shape (steps,).
      schedule: what the training was charged for.
      grid: what rounding to the grid adds to the noise, a share of it.
    """

    seen: Floats
    drawn: Ints
    sizes: Ints
    schedule: Schedule
    grid: float = 0.0

    @property
    def canaries(self) -> int:
        """How many have a row."""
        return len(self.seen[0]) // 2

    @property
    def residual(self) -> Floats:
        """What should be noise alone, in its charged standard deviations."""
        left: Floats = (self.seen - self.drawn * (1 - CLIP_MARGIN)) / (self.schedule.noise * (1 + self.grid))
        return left


# ------------------------------------------------------------------------------------------------------------- coins
def coin_tests(run: Observations, *, units: int) -> list[Test]:
    """P-values of what was seen of the coins of a table of so many units, each with what a small one says."""
    rate, (steps, canaries) = run.schedule.rate, (len(run.seen), run.canaries)
    drawn = run.drawn[:, :canaries]
    centred = drawn - rate
    lagged = float((centred[1:] * centred[:-1]).sum()) / (rate * (1 - rate) * math.sqrt(max(drawn[1:].size, 1)) or 1.0)
    return [
        ("a unit is in a batch twice", 0.0 if drawn.max(initial=0) > 1 else 1.0),
        ("units are drawn at another rate", _binomial(int(drawn.sum()), drawn.size, rate)),
        ("batch sizes vary too little or too much", _dispersion(run.sizes, units, rate)),
        ("large batches are missing", _tail(run.sizes, units, rate)),
        ("canaries of a batch depend on each other", _dispersion(drawn.sum(1), canaries, rate)),
        ("some canaries are drawn more often than others", _dispersion(drawn.sum(0), steps, rate)),
        ("batches depend on the one before", 2 * float(stats.norm.sf(abs(lagged)))),
    ]


def _binomial(hits: int, tries: int, rate: float) -> float:
    return float(stats.binomtest(min(hits, tries), tries, rate).pvalue)


def _dispersion(counts: Ints, tries: int, rate: float) -> float:
    """P-value of counts that scatter as a binomial law's do, both ways."""
    if rate >= 1 or len(counts) < 2:
        return 1.0
    mean, variance = tries * rate, tries * rate * (1 - rate)
    squares = float(((counts - mean) ** 2).sum()) / variance
    kurtosis = 3 + (1 - 6 * rate * (1 - rate)) / variance
    z = (squares - len(counts)) / math.sqrt(len(counts) * (kurtosis - 1))
    chi = stats.chi2(2 * len(counts) / (kurtosis - 1), scale=(kurtosis - 1) / 2)  # matches mean and variance, and tails
    return float(min(1.0, 2 * min(chi.sf(squares), chi.cdf(squares)))) if math.isfinite(z) else 0.0


def _tail(sizes: Ints, units: int, rate: float) -> float:
    """P-value of as few batches among the largest eighth as there were."""
    edge = int(stats.binom.ppf(7 / 8, units, rate))
    chance = float(stats.binom.sf(edge, units, rate))
    return float(stats.binom.cdf(int((sizes > edge).sum()), len(sizes), chance)) if 0 < chance < 1 else 1.0


# ------------------------------------------------------------------------------------------------------------- noise
def noise_tests(run: Observations) -> list[Test]:
    """P-values of what was seen of the noise, each with what a small one says."""
    left, there = run.residual, run.drawn > 0
    distinct = len(np.unique(left[:, -3:], axis=0))
    return [
        ("steps have the same noise", 0.0 if distinct < len(left) else 1.0),
        ("a canary does not move the sum by one clip under the charged noise", _normal(left[there])),
        ("the noise does not have its law", _normal(left[~there])),
        ("the noise of a step depends on the one before", successive(left)),
        ("coordinates share noise", successive(left.T)),
    ]


def between(one: Observations, other: Observations) -> Test:
    """P-value of the noise of two runs, and what a small one says."""
    steps = min(len(one.seen), len(other.seen))
    return "two runs have the same noise", uncorrelated(one.residual[:steps], other.residual[:steps])


def _normal(values: Floats) -> float:
    return float(stats.kstest(values, "norm").pvalue) if len(values) >= 4 else 1.0
