"""How likely is what came out under the noise that was charged? Laws of answers, and tests of them.

Privacy: arithmetic on answers about made-up rows.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from dp_accounting import DpEvent
from numpy.typing import NDArray
from scipy import special, stats

from tabveil import accounting
from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent
from tabveil.audit._white_box import two_sided

Floats = NDArray[np.float64]
Noise = DiscreteGaussianDpEvent | DiscreteLaplaceDpEvent

WIDEST = 12.0
"""Standard deviations of a discrete Gaussian beyond which nothing is summed: 1e-32 of its mass."""

SMALL = 0.05
"""An epsilon beside which a delta is as good as the total variation distance, up to a thousandth."""

HALVINGS = 8
"""Deltas asked for."""


def log_mass(noise: Noise, values: Floats) -> Floats:
    """Logarithm of the probability of whole numbers, up to a constant that depends on the noise alone."""
    if isinstance(noise, DiscreteGaussianDpEvent):
        return np.asarray(-(values**2) / (2 * float(noise.sigma) ** 2))
    return np.asarray(-np.abs(values) / float(noise.scale))


def deviates(noise: Noise, values: Floats, coins: Floats) -> Floats:
    """Normal deviates of whole numbers: standard normal and independent where the numbers have the law of `noise` and
    the coins are uniform (the randomised probability integral transform; Smith 1985, Czado, Gneiting, Held 2009).

    Args:
      noise: what was charged.
      values: shape (n,), rounded down where they are not whole.
      coins: shape (n,), in [0, 1).
    """
    whole = np.floor(values).astype(np.int64)
    below, up_to = _below(noise, whole), _below(noise, whole + 1)
    found: Floats = special.ndtri(np.clip(below + coins * (up_to - below), 1e-300, 1 - 1e-16))
    return found


def collision(noise: Noise) -> float:
    """The chance that two independent draws are equal."""
    if isinstance(noise, DiscreteGaussianDpEvent):
        return float((np.diff(_gaussian_table(float(noise.sigma))) ** 2).sum())
    q = math.exp(-1 / float(noise.scale))
    return (1 - q) * (1 + q**2) / (1 + q) ** 3


def at_least(noise: Noise, values: Floats) -> Floats:
    """P(X >= value) of whole numbers."""
    return 1 - _below(noise, np.ceil(values).astype(np.int64))


@lru_cache(maxsize=256)
def least_threshold(noise: DiscreteGaussianDpEvent, delta: float) -> int:
    """The least noisy count from which texts may be released, so that some of a unit's own are with a chance of at most
    `delta`: whatever j texts its k rows hold, j * P(k / j + X >= threshold) is at most delta.
    """
    k = noise.sensitivity
    texts = np.arange(1, k + 1)
    tried = np.arange(1, math.ceil(WIDEST * float(noise.sigma)) + k + 2)
    chances = np.array([texts * at_least(noise, t - np.floor(k / texts)) for t in tried]).max(axis=1)
    return int(tried[np.argmax(chances <= delta)])


def _below(noise: Noise, whole: NDArray[np.int64]) -> Floats:
    """P(X < whole)."""
    if isinstance(noise, DiscreteGaussianDpEvent):
        table = _gaussian_table(float(noise.sigma))
        return table[np.clip(whole + len(table) // 2, 0, len(table) - 1)]
    q = math.exp(-1 / float(noise.scale))
    low, high = np.minimum(whole, 0), np.maximum(whole, 0)
    return np.where(whole <= 0, q ** (1.0 - low) / (1 + q), 1 - q**high / (1 + q))


@lru_cache(maxsize=256)
def _gaussian_table(sigma: float) -> Floats:
    """P(X < i - half) for i from 0 to 2 * half."""
    half = math.ceil(WIDEST * sigma) + 2
    mass = np.exp(-(np.arange(-half, half, dtype=np.float64) ** 2) / (2 * sigma**2))
    return np.concatenate([[0.0], np.cumsum(mass) / mass.sum()])


# ------------------------------------------------------------------------------------------------------ tests
def normal(values: Floats) -> float:
    """P-value of independent standard normal deviates, by the whole law (Kolmogorov and Smirnov)."""
    return float(stats.kstest(values, "norm").pvalue) if len(values) else 1.0


def scale(values: Floats) -> float:
    """P-value of their sum of squares, both ways."""
    law = stats.chi2(len(values))
    squares = float((values**2).sum())
    return min(1.0, 2 * float(min(law.sf(squares), law.cdf(squares)))) if len(values) else 1.0


def centre(values: Floats) -> float:
    """P-value of their sum, both ways."""
    return two_sided(float(values.sum()) / math.sqrt(len(values))) if len(values) else 1.0


def charged(event: DpEvent) -> list[tuple[float, float]]:
    """What an event that was charged keeps, as (epsilon, delta): deltas around the least that goes with a small epsilon
    (HALVINGS of the interval from 0 to 1), where `most_right` is smallest.
    """
    low, high, found = 0.0, 1.0, []
    for _ in range(HALVINGS):
        delta = (low + high) / 2
        found.append((accounting.epsilon(event, delta), delta))
        low, high = (delta, high) if found[-1][0] > SMALL else (low, delta)
    return found


def variance(noise: Noise) -> float:
    """Of one cell's noise, as of the continuous law."""
    sigma, spread = getattr(noise, "sigma", None), getattr(noise, "scale", 0.0)
    return float(sigma) ** 2 if sigma is not None else 2 * float(spread) ** 2
