"""Privacy loss distributions and Rényi curves of composed events, through dp-accounting.

`accounting` chooses among the bounds computed here; import from there. Every bound is a `Bound` that says how an
outsider recomputes it with dp-accounting alone.

Privacy: no data passes here. Each bound is valid on its own, so their minimum is. Where a library's number may be too
small by rounding, it is raised by more than that rounding; where it fails, it gives no bound at all.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from dp_accounting import (
    GaussianDpEvent,
    LaplaceDpEvent,
    PoissonSampledDpEvent,
    TruncatedSubsampledGaussianDpEvent,
)
from dp_accounting.pld import pld_pmf, privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS
from numpy.typing import NDArray

from tabveil._accounting_events import (
    DiscreteGaussianDpEvent,
    ExponentialMechanismDpEvent,
    Leaves,
    collapsed,
    line_of,
    pure_of,
)
from tabveil._amounts import float_up

Curve = NDArray[np.float64]
Conversion = Literal["tight", "classic"]

ORDERS: tuple[float, ...] = tuple(float(a) for a in DEFAULT_RDP_ORDERS)
"""Rényi orders tried: dp-accounting's own, 1.1 to 1024."""

INTERVAL = 1e-4
"""Grid of privacy losses: 1e-4 keeps PLD within 1e-5 of the limit in ordinary cases (privacy.md, B2)."""

ROUNDED = 1e-4
"""A grid coarser than INTERVAL may add this share to the variance of all losses: about half of it to epsilon."""

COARSE_INTERVAL = 3.2e-3
"""As coarse as a grid gets by choice."""

LARGEST_INTERVAL = 0.02
"""Coarser grids are not worth computing: then PLD gives no bound and RDP does."""

MOST_POINTS = 400_000
"""Most points of a grid; keeps memory below 0.3 GB where small noise would need many GB."""

LARGEST_SIGMA = 10_000.0
"""Discrete Gaussians wider than this have too many atoms to list; RDP prices them."""

LARGEST_SAMPLED_ORDER = 2048.0
"""Rényi orders above this are not computed for Poisson sampling: the sum has as many terms as the order."""

# dp-accounting warns of every order whose sum does not converge; such an order gives no bound here, and is expected
logging.getLogger("absl").addFilter(lambda record: "_compute_log_a_frac failed" not in record.getMessage())

_FAILURES = (ArithmeticError, ValueError, MemoryError, IndexError)


@dataclass(frozen=True)
class Bound:
    """One valid upper bound on epsilon, and how to recompute it.

    Attributes:
      accountant: "pld" (privacy loss distributions), "rdp" (Rényi), "basic" (sum of pure epsilons).
      epsilon: the bound.
      delta: where the accountant was asked: slightly below the delta the bound is for where rounding calls for it.
      order: Rényi order, for "rdp".
      interval: grid of losses, for "pld".
      rounding: what was added to the accountant's number to cover its rounding.
    """

    accountant: Literal["pld", "rdp", "basic"]
    epsilon: float
    delta: float
    order: float | None = None
    interval: float | None = None
    rounding: float = 0.0


# --------------------------------------------------------------------------------------------------------------- basic
def pure_total(leaves: Leaves) -> Fraction | None:
    """Sum of pure epsilons, exact; None where an event has none (Dwork & Roth 2014, Theorem 3.16)."""
    total = Fraction(0)
    for event, times in leaves:
        pure = pure_of(event)
        if pure is None:
            return None
        total += times * pure
    return total


def line_total(leaves: Leaves) -> tuple[Fraction, Fraction] | None:
    """(xi, rho) of the composition, exact; None where some event has no line."""
    lines = [(line_of(event), times) for event, times in leaves]
    if any(line is None for line, _ in lines):
        return None
    xi = sum((line[0] * times for line, times in lines if line), Fraction(0))
    return xi, sum((line[1] * times for line, times in lines if line), Fraction(0))


# --------------------------------------------------------------------------------------------------------------- Rényi
def rdp_curve(leaves: Leaves, orders: Sequence[float], *, raised: bool = True) -> Curve | None:
    """Rényi divergence at each order; None where an event has no Rényi curve; inf where a sum fails.

    Args:
      leaves: what is composed.
      orders: each above 1.
      raised: add more than the rounding of dp-accounting's logarithms, which are exact to about 1e-15.
    """
    curved = tuple((e, n) for e, n in leaves if line_of(e) is None)
    if any(not isinstance(e, PoissonSampledDpEvent | LaplaceDpEvent) for e, _ in curved):
        return None
    xi, rho = line_total(tuple((e, n) for e, n in leaves if line_of(e) is not None)) or (Fraction(0), Fraction(0))
    alphas = np.asarray(orders, dtype=np.float64)
    total = float_up(xi) + float_up(rho) * alphas
    for event, times in curved:
        values = np.asarray(_leaf_curve(event, tuple(orders)))
        total = total + times * (values + raised * 1e-14 / (alphas - 1))
    return np.asarray(total * (1 + raised * 1e-12), dtype=np.float64)


@functools.lru_cache(maxsize=256)
def _leaf_curve(event: Any, orders: tuple[float, ...]) -> tuple[float, ...]:
    """Curve of one Laplace or Poisson-sampled Gaussian event (Mironov 2017; Mironov, Talwar, Zhang 2019).

    dp-accounting hands out epsilons, not curves: the curve is read from inside its accountant, and a test compares the
    two. A value at or below 0 is rounding and gives no bound.
    """
    most = LARGEST_SAMPLED_ORDER if isinstance(event, PoissonSampledDpEvent) else math.inf
    alphas = np.asarray([a for a in orders if a <= most], dtype=np.float64)
    try:
        values = np.asarray(RdpAccountant(alphas).compose(event)._rdp, dtype=np.float64)
    except _FAILURES:
        values = np.full(len(alphas), np.inf)
    found = dict(zip(alphas.tolist(), np.where(values > 0, values, np.inf).tolist(), strict=True))
    return tuple(found.get(float(a), math.inf) for a in orders)


def convert(orders: Sequence[float], curve: Iterable[float], delta: float, how: Conversion) -> tuple[float, float]:
    """(epsilon, best order) at `delta` of a Rényi curve; (inf, nan) where no order gives a bound.

    Args:
      orders: each above 1.
      curve: Rényi divergence at each order.
      delta: above 0.
      how: "tight": Canonne, Kamath, Steinke 2020, Proposition 12, as dp-accounting has it;
        "classic": Mironov 2017, Proposition 3: divergence + ln(1/delta) / (order - 1).
    """
    pairs = [(float(a), float(r)) for a, r in zip(orders, curve, strict=True) if 0 <= r < math.inf]
    if not pairs:
        return math.inf, math.nan
    if how == "classic":
        return min((r - math.log(delta) / (a - 1), a) for a, r in pairs)
    epsilon, order = compute_epsilon([a for a, _ in pairs], [r for _, r in pairs], delta)
    return float(epsilon), float(order)


def best_order(rho: float, delta: float) -> float:
    """The order at which the tight conversion of the line rho * order is smallest."""
    low, high = math.log(0.02), math.log(1e12)
    for _ in range(80):
        a = 1 + math.exp((low + high) / 2)
        # the derivative in the order, times (a - 1)^2; it changes sign once
        if rho * (a - 1) ** 2 + math.log(delta * a) > 0:
            high = (low + high) / 2
        else:
            low = (low + high) / 2
    return 1 + math.exp(high)


def rdp_bound(leaves: Leaves, delta: float, orders: Sequence[float] | None = None) -> Bound | None:
    """The Rényi bound at `delta` > 0: the smallest over `orders`, by default ORDERS and a line's own best order."""
    line = line_total(leaves)
    if orders is None:
        orders = ORDERS if line is None else (*ORDERS, best_order(float_up(line[1]), delta))
    curve, plain = rdp_curve(leaves, orders), rdp_curve(leaves, orders, raised=False)
    if curve is None or plain is None:
        return None
    epsilon, order = convert(orders, curve, delta, "tight")
    if not math.isfinite(epsilon):
        return None
    library = convert([order], [plain[list(orders).index(order)]], delta, "tight")[0]
    raised = epsilon + 1e-13 * (1 + epsilon)
    return Bound("rdp", raised, delta, order=order, rounding=raised - library)


# ----------------------------------------------------------------------------------------- privacy loss distributions
def pld_bound(leaves: Leaves, delta: float) -> Bound | None:
    """The bound from composing dominating pairs (Zhu, Dong, Wang 2022), None where PLD does not apply or would not fit.

    The convolutions' rounding moves delta by about 1e-15 plus 2e-18 per composition (measured against the closed form
    of up to a million Gaussians); asking at `delta` less 1e-13 plus 1e-16 per composition covers it.
    """
    asked = delta - 1e-13 * (1 + sum(n for _, n in leaves) / 1000)
    parts = _parts(leaves)
    if parts is None or asked < 0.99 * delta:
        return None
    try:
        interval = _interval(parts)
        if interval is None:
            return None
        # an overflow might hide in a number that looks fine: it counts as failure
        with np.errstate(over="raise", invalid="raise"):
            epsilon = float(_composed(parts, interval).get_epsilon_for_delta(asked))
    except _FAILURES:
        return None
    if not 0 <= epsilon < math.inf:
        return None
    raised = epsilon + 1e-13 * (1 + epsilon)
    return Bound("pld", raised, asked, interval=interval, rounding=raised - epsilon)


def _parts(leaves: Leaves) -> Leaves | None:
    """`leaves` with all Gaussians as one; None where some event has no dominating pair here.

    A discrete Gaussian of sensitivity 1 moves one coordinate by one, so one scalar pair dominates it; of a larger
    sensitivity the vector may move in many ways, for which no dominating pair is published.
    """
    for event, _ in leaves:
        if isinstance(event, DiscreteGaussianDpEvent):
            if event.sensitivity != 1 or event.sigma > LARGEST_SIGMA:
                return None
        elif not isinstance(event, _PAIRED) and pure_of(event) is None:
            return None
    gaussians = [(e, n) for e, n in leaves if isinstance(e, GaussianDpEvent)]
    rest = [(e, n) for e, n in leaves if not isinstance(e, GaussianDpEvent)]
    return (*([(collapsed(gaussians), 1)] if gaussians else []), *rest)


_PAIRED = (GaussianDpEvent, LaplaceDpEvent, PoissonSampledDpEvent, TruncatedSubsampledGaussianDpEvent)


def _interval(parts: Leaves) -> float | None:
    """Grid for `parts`: INTERVAL times a power of two; None where no grid is both fine and small enough.

    A grid adds at most interval^2 / 4 of variance per composition. Where Gaussians are sampled (dp-accounting takes a
    second at INTERVAL) it is coarser while that stays below ROUNDED of the losses' own, which says nothing beside a
    bounded loss, whose atoms a grid moves; finer where it would pass a hundredth; coarser again where losses are so
    large that the grid would not fit. Whatever the grid, the bound holds: rounding is upwards.
    """
    likes = tuple((_like(e), n) for e, n in parts)
    second = rdp_curve(likes, [2.0])
    whole = rdp_bound(likes, 1e-15)
    reaches = [rdp_bound(((e, 1),), 1e-22) for e, _ in likes]
    if second is None or whole is None or None in reaches:
        return None
    reach = max(whole.epsilon, *(r.epsilon for r in reaches if r))
    loss = float(second[0]) / sum(n for _, n in parts)  # its variance, for small losses
    kinds = {type(e) for e, _ in parts}
    sampled = PoissonSampledDpEvent in kinds and kinds <= {PoissonSampledDpEvent, GaussianDpEvent}
    coarse = min(COARSE_INTERVAL, math.sqrt(4 * ROUNDED * loss)) if sampled else 0.0
    power = math.floor(math.log2(max(coarse, min(INTERVAL, math.sqrt(0.02 * loss))) / INTERVAL))
    power = max(power, math.ceil(math.log2(2 * reach / MOST_POINTS / INTERVAL)))
    interval = math.ldexp(INTERVAL, power)
    return interval if interval <= LARGEST_INTERVAL else None


def _like(event: Any) -> Any:
    """An event of about the same losses that has a Rényi curve; for choosing a grid only."""
    if isinstance(event, TruncatedSubsampledGaussianDpEvent):
        return PoissonSampledDpEvent(event.sampling_probability, GaussianDpEvent(event.noise_multiplier))
    return event


def _composed(parts: Leaves, interval: float) -> Any:
    return functools.reduce(lambda a, b: a.compose(b), [_repeated(e, n, interval) for e, n in parts])


@functools.lru_cache(maxsize=64)
def _repeated(event: Any, times: int, interval: float) -> Any:
    single = _single(event, interval)
    return single if times == 1 else single.self_compose(times)


def _single(event: Any, interval: float) -> Any:
    """Privacy loss distribution of one event, pessimistic, by connecting the dots (Doroshenko et al. 2022)."""
    grid = {"value_discretization_interval": interval, "use_connect_dots": True}
    make = privacy_loss_distribution
    if isinstance(event, GaussianDpEvent):
        return make.from_gaussian_mechanism(event.noise_multiplier, **grid)
    if isinstance(event, PoissonSampledDpEvent):
        sigma, q = event.event.noise_multiplier, event.sampling_probability
        return make.from_gaussian_mechanism(sigma, sampling_prob=q, **grid)
    if isinstance(event, LaplaceDpEvent):
        return make.from_laplace_mechanism(event.noise_multiplier, **grid)
    if isinstance(event, DiscreteGaussianDpEvent):
        return make.from_discrete_gaussian_mechanism(event.sigma, **grid)
    if isinstance(event, TruncatedSubsampledGaussianDpEvent):
        return make.from_truncated_subsampled_gaussian_mechanism(
            dataset_size=event.dataset_size,
            sampling_probability=event.sampling_probability,
            truncated_batch_size=event.truncated_batch_size,
            noise_multiplier=event.noise_multiplier,
            value_discretization_interval=interval,
        )
    if isinstance(event, ExponentialMechanismDpEvent):
        return _bounded_range(float(event.epsilon), interval)
    # discrete Laplace moved by one is randomised response, which dominates all pure DP (Kairouz, Oh, Viswanath 2015)
    return make.from_discrete_laplace_mechanism(float_up(pure_of(event) or Fraction(0)), **grid)


def _bounded_range(epsilon: float, interval: float) -> Any:
    """Privacy loss distribution that dominates every mechanism whose privacy loss has range `epsilon`.

    If the log-ratio of the outputs on two neighbours lies in [t - epsilon, t], the hockey-stick divergence, a mean of
    convex functions of the ratio, is largest for a ratio on the two ends only (Dong, Durfee, Rogers 2020, "Optimal
    differential privacy composition for exponential mechanisms": generalised randomised response). The supremum over t
    is, for |e| <= epsilon, delta(e) = (1 - exp((e - epsilon) / 2))^2 / (1 - exp(-epsilon)), reached at
    t = (epsilon + e) / 2. It is the same with neighbours exchanged.
    """
    top = math.ceil(epsilon / interval)
    losses = [n * interval for n in range(-top, top + 1)]
    deltas = [_bounded_range_delta(epsilon, loss) for loss in losses]
    pmf = pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, -top, top, deltas)
    return privacy_loss_distribution.PrivacyLossDistribution(pmf)


def _bounded_range_delta(epsilon: float, loss: float) -> float:
    if loss >= epsilon:
        return 0.0
    if loss <= -epsilon:
        return -math.expm1(loss)
    return math.expm1((loss - epsilon) / 2) ** 2 / -math.expm1(-epsilon)
