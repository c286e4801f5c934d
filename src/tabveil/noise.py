"""Privacy noise of exactly the size that was charged: the only file that draws it, by OpenDP or `samplers`.

Histograms get discrete Gaussian or discrete Laplace noise, choices Gumbel noise, sums over samples rounded Gaussians.

Privacy: histograms and choices take the event that was charged for them. What OpenDP draws is refused where its own
price of it is above the charge; what `samplers` draws (long histograms, and all under a test's seed) has a spread of at
least the charged one, and no second opinion. Sums are given their deviation by `mechanisms`, which checks the event.
Entropy is the operating system's; a test may seed it, and what is then made says NOT A RELEASE (trap A12).
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import opendp.prelude as dp
import pandas as pd
from dp_accounting import DpEvent
from numpy.typing import NDArray
from scipy import special

from tabveil.accounting import (
    DeltaDpEvent,
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    ExponentialMechanismDpEvent,
)
from tabveil.columns import writable
from tabveil.errors import UnchargedError
from tabveil.samplers import (
    MAX_SIGMA,
    MIN_SIGMA,
    Words,
    discrete_gaussian,
    gaussian,
    representable,
    system_bits,
)

Floats = NDArray[np.float64]

dp.enable_features("contrib")

OPENDP_CELLS = 512
"""Vectors longer than this are drawn by `samplers`, which takes a tenth of OpenDP's time per cell."""

_seed: ContextVar[np.random.Generator | None] = ContextVar("seed", default=None)


@contextlib.contextmanager
def seeded_noise_for_tests(seed: int) -> Iterator[None]:
    """Inside, privacy noise repeats. Every statement made inside says NOT A RELEASE (trap A12)."""
    token = _seed.set(np.random.default_rng(seed))
    try:
        yield
    finally:
        _seed.reset(token)


def noise_is_seeded() -> bool:
    """Whether a test has replaced the operating system's entropy."""
    return _seed.get() is not None


def secret_words(count: int) -> Words:
    """Words of the operating system's entropy, 64 bits each, as the noise is drawn from; never to be shown or kept."""
    generator = _seed.get()
    return system_bits(count) if generator is None else generator.integers(0, 2**64, count, dtype=np.uint64)


def gaussian_noise(cells: int, event: DiscreteGaussianDpEvent) -> NDArray[np.int64]:
    """Discrete Gaussian noise of `event.sigma` for `cells` cells, from OpenDP or, where that would dominate, from
    `samplers`.
    """
    vectorised = cells > OPENDP_CELLS and MIN_SIGMA <= event.sigma <= MAX_SIGMA
    if vectorised or (noise_is_seeded() and MIN_SIGMA <= event.sigma <= MAX_SIGMA):
        return discrete_gaussian(cells, event.sigma, secret_words)
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")
    price = event.sensitivity**2 / (2 * event.sigma**2)
    return _added(dp.m.make_gaussian(*space, scale=float(event.sigma)), cells, (event.sensitivity, price))


def laplace_noise(cells: int, event: DiscreteLaplaceDpEvent) -> NDArray[np.int64]:
    """Discrete Laplace noise of `event.scale` for `cells` cells, from OpenDP."""
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64")
    price = event.sensitivity / event.scale
    return _added(dp.m.make_laplace(*space, scale=float(event.scale)), cells, (event.sensitivity, price))


def _added(measurement: dp.Measurement, cells: int, charged: tuple[int, float]) -> NDArray[np.int64]:
    """Noise for `cells` cells, once OpenDP's own price at the charged sensitivity is at most the charged one."""
    sensitivity, price = charged
    if not _price(measurement, sensitivity) <= price * (1 + 1e-9):
        raise UnchargedError("The noise library's price for these counts is above what was charged.")
    return np.asarray(measurement([0] * cells), dtype=np.int64)


def _price(measurement: dp.Measurement, sensitivity: int) -> float:
    """What OpenDP itself says the measurement costs."""
    return float(measurement.map(sensitivity))


@functools.lru_cache(maxsize=256)
def _noisy_max(scale: float) -> dp.Measurement:
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.linf_distance(T="i64")
    return dp.m.make_noisy_max(*space, dp.zero_concentrated_divergence(), scale=scale)


def noisy_argmax(scores: NDArray[np.int64], sensitivity: int, event: ExponentialMechanismDpEvent) -> int:
    """Position of the largest score after Gumbel noise, the exponential mechanism, by OpenDP's report-noisy-max.

    OpenDP adds Gumbel noise where zCDP is asked for and exponential noise where pure DP is; only the former has a
    privacy loss of range epsilon, which is what `event` is charged for (Cesar & Rogers 2021; McSherry & Talwar 2007).

    Args:
      scores: shape (candidates,), whole numbers.
      sensitivity: how far one unit can move any one score.
      event: what was charged.

    Raises:
      UnchargedError: OpenDP's own price for the noise is above the charge.
    """
    generator = _seed.get()
    scale = math.nextafter(2 * sensitivity / event.epsilon * (1 + 1e-12), math.inf)
    if generator is not None:
        return int(np.argmax(scores + scale * generator.gumbel(size=len(scores))))
    measurement = _noisy_max(scale)
    if _price(measurement, sensitivity) > event.epsilon**2 / 8 * (1 + 1e-12):
        raise UnchargedError("The noise library's price for this choice is above what was charged.")
    return int(measurement(scores.tolist()))


def noise_like(counts: NDArray[np.int64], event: DpEvent) -> NDArray[np.int64]:
    """The charged noise for each of `counts`, of their shape; none where nothing is private."""
    if isinstance(event, DiscreteGaussianDpEvent):
        return gaussian_noise(counts.size, event).reshape(counts.shape)
    if isinstance(event, DiscreteLaplaceDpEvent):
        return laplace_noise(counts.size, event).reshape(counts.shape)
    return np.zeros_like(counts)


def selected(counts: pd.Series, charged: tuple[DiscreteGaussianDpEvent, DeltaDpEvent] | None) -> tuple[str, ...]:
    """The texts whose noisy count reaches the threshold, sorted: partition selection (Korolova, Kenthapadi, Mishra,
    Ntoulas 2009; Desfontaines, Voss, Gipson, Mandayam 2022).

    Args:
      counts: how many kept rows hold each text that occurs.
      charged: noise for every count, and the chance that a text of one unit alone is released; None: all are released.

    Privacy: counts of texts that both neighbours hold are a Gaussian mechanism whose output is cut at the threshold. A
      text that only one of them holds is released with probability at most delta, all such texts together.
    """
    texts = sorted(t for t in counts.index if writable(t))
    if charged is None or not texts:
        return tuple(texts)
    gaussian, failure = charged
    noisy = counts[texts].to_numpy() + gaussian_noise(len(texts), gaussian)
    least = threshold(gaussian, failure.delta)
    return tuple(t for t, n in zip(texts, noisy.tolist(), strict=True) if n >= least)


def threshold(gaussian: DiscreteGaussianDpEvent, delta: float) -> int:
    """The least noisy count that is released, rounded up: texts of one unit alone reach it with probability at most
    delta.

    A unit has at most k rows, so at most k texts of its own, each counted at most k times: k * P(noise >= T - k) must
    be at most delta. P(X >= m) of the discrete Gaussian is at most P(Y >= m - 1) of the continuous one (Canonne,
    Kamath, Steinke 2020, Proposition 25).
    """
    k, sigma = gaussian.sensitivity, float(gaussian.sigma)
    if MIN_SIGMA <= sigma <= MAX_SIGMA:
        sigma = max(sigma, representable(sigma))  # the sampler's own, which is never below
    quantile = -float(special.ndtri(delta / k * (1 - 1e-9)))
    return k + 1 + math.ceil(max(quantile, 0.0) * sigma * (1 + 1e-9))


def counting_event(amount: float, contributions: int, *, pure: bool) -> DpEvent:
    """The event of one histogram that costs `amount`: epsilon and discrete Laplace noise where `pure`, else rho and
    discrete Gaussian noise of a standard deviation that is drawn exactly.
    """
    if pure:
        return DiscreteLaplaceDpEvent(contributions / amount, contributions)
    sigma = contributions / math.sqrt(2 * amount)
    drawn_exactly = representable(sigma) if MIN_SIGMA <= sigma <= MAX_SIGMA else sigma
    return DiscreteGaussianDpEvent(drawn_exactly, contributions)


def rounded_noise(count: int, deviation: float) -> Floats:
    """`count` Gaussians of standard deviation `deviation`, rounded to whole numbers.

    Privacy: a Gaussian mechanism on whole numbers whose output is rounded is that mechanism and post-processing, and
      rounding n + x is adding n to the rounded x, exactly, while both stay below 2^53. So the support of what is
      released is all whole numbers whatever the rows, and the last bits of doubles, which attacks on floating-point
      noise read (Mironov 2012; Haney et al. 2022), are gone: what is left is that a whole number's probability is
      off by a relative 1e-7 or so in double precision.
    """
    return np.rint(gaussian(count, secret_words) * deviation)


@dataclass(frozen=True, eq=False)
class RoundedNoise:
    """Noise in whole steps of a grid, drawn or being drawn."""

    grid: float
    steps: Floats | Future[Floats]

    def added_to(self, total: Floats) -> Floats:
        """`total` rounded to the grid, plus the noise."""
        steps = self.steps.result() if isinstance(self.steps, Future) else self.steps
        return np.asarray((np.rint(total / self.grid) + steps) * self.grid, dtype=np.float64)
