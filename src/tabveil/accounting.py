"""From privacy events to epsilon, and from a target epsilon to noise.

A mechanism's price is an event (a value: what was done, with which noise), never an epsilon: events compose, epsilons
only add up. Epsilon comes out at the end, as the smallest of several valid bounds:

- "pld": privacy loss distributions of dominating pairs, composed on a pessimistic grid (dp-accounting; Zhu, Dong, Wang
  2022). Discrete Gaussian noise is priced as such, not as continuous noise.
- "rdp": Rényi divergences of all orders (dp-accounting; Mironov 2017) under the tight conversion (Canonne, Kamath,
  Steinke 2020, Proposition 12). Cross-check and fall-back of "pld".
- "basic": the sum of pure epsilons, in exact fractions (Dwork & Roth 2014, Theorem 3.16); the only one for delta 0.

Central-limit (GDP) approximations are not used: they report too little (privacy.md, B2).

Neighbouring tables differ by adding or removing one unit (records.RELATION). All bounds hold for mechanisms chosen one
after the other from earlier outputs, as long as the events were fixed in advance; where the events themselves depend on
outputs, `ledger` bounds them by a filter.

Privacy: no data passes here. Every number shown is an upper bound, rounded up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal

from dp_accounting import NonPrivateDpEvent, PoissonSampledDpEvent

from tabveil._accounting_curves import (
    INTERVAL,
    ORDERS,
    Bound,
    Conversion,
    best_order,
    convert,
    line_total,
    pld_bound,
    pure_total,
    rdp_bound,
    rdp_curve,
)
from tabveil._accounting_events import (
    DeltaDpEvent,
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    DpEvent,
    ExponentialMechanismDpEvent,
    Leaves,
    Spend,
    check_label,
    event_from_dict,
    event_of,
    event_to_dict,
    leaves,
    pure_of,
    without_deltas,
)
from tabveil._amounts import Epsilon, Rho, Sigma, float_down, float_up
from tabveil.errors import UsageError

__all__ = [
    "ACCOUNTANT",
    "COMPOSITION",
    "INTERVAL",
    "ORDERS",
    "Bound",
    "DeltaDpEvent",
    "DiscreteGaussianDpEvent",
    "DiscreteLaplaceDpEvent",
    "DpEvent",
    "Epsilon",
    "ExponentialMechanismDpEvent",
    "Rho",
    "Sigma",
    "Spend",
    "bounds",
    "calibrate",
    "check_delta",
    "check_epsilon",
    "check_label",
    "epsilon",
    "epsilons",
    "event_from_dict",
    "event_of",
    "event_to_dict",
    "float_down",
    "float_up",
    "leaves",
    "rdp_epsilon",
    "rho_budget",
    "rho_of",
    "sigma_of",
    "without_deltas",
    "zcdp",
    "zcdp_epsilon",
]

ACCOUNTANT = (
    "smallest valid bound of dp-accounting 0.6: privacy loss distributions (pessimistic grid of 1e-4 or finer where "
    "losses are small) and Rényi divergences (tight conversion); the sum of pure epsilons where delta is 0"
)
"""Which accountant gives the epsilon of one charge, for a PrivacyStatement."""

COMPOSITION = (
    "adaptive composition of mechanisms with events fixed in advance: dominating pairs (Zhu, Dong, Wang 2022), Rényi "
    "divergences (Mironov 2017, Proposition 1) or, for delta 0, basic composition (Dwork & Roth 2014, Theorem 3.16)"
)
"""The theorem the epsilon of one charge rests on, for a PrivacyStatement."""

MARGIN = 1e-6
"""A calibrated charge stays this share below its target, so that another machine's rounding does not refuse it."""


# ----------------------------------------------------------------------------------------------------- event to epsilon
def check_delta(delta: float) -> float:
    """`delta` if it is 0 or a number from 1e-300 to below 1; UsageError if not."""
    bad = isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 <= delta < 1
    if bad or 0 < delta < 1e-300:
        raise UsageError("delta must be 0, or a number from 1e-300 to below 1.")
    return float(delta)


def check_epsilon(epsilon: float) -> float:
    """`epsilon` if it is a finite number of at least 1e-15; UsageError if not."""
    bad = isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 1e-15 <= epsilon <= 1e15
    if bad:
        raise UsageError("epsilon must be a number above 0 (from 1e-15 to 1e15).")
    return float(epsilon)


def bounds(event: DpEvent, delta: float) -> tuple[Bound, ...]:
    """Every valid bound on epsilon of `event` at `delta`, the smallest first.

    Args:
      event: any tree of supported events.
      delta: 0, or from 1e-300 to below 1.

    Raises:
      UsageError: an unknown event, a number out of range, or an event that no accountant can price.
    """
    return _bounds(leaves(event), check_delta(delta))


@functools.lru_cache(maxsize=512)
def _bounds(parts: Leaves, delta: float) -> tuple[Bound, ...]:
    if any(isinstance(event, NonPrivateDpEvent) for event, _ in parts):
        return (Bound("basic", math.inf, delta),)
    parts, failing = without_deltas(parts)
    if failing > delta:
        return (Bound("basic", math.inf, delta),)
    delta = float_down(Fraction(delta) - failing)
    if not parts:
        return (Bound("basic", 0.0, delta),)
    pure = pure_total(parts)
    found = [] if pure is None else [Bound("basic", float_up(pure), delta)]
    if delta > 0:
        found += [b for b in (pld_bound(parts, delta), _renyi(parts, delta)) if b is not None]
    elif pure is None:
        found = [Bound("basic", math.inf, delta)]
    if not found:
        raise UsageError("No accountant can price these events at this delta.")
    return tuple(sorted(found, key=lambda b: b.epsilon))


def _renyi(parts: Leaves, delta: float) -> Bound | None:
    """The Rényi bound, or the one that leaves sampling out of account where that is smaller: at tiny epsilons, which
    the orders of sampled events do not reach.
    """
    found = [b for b in (rdp_bound(p, delta) for p in {parts, _unsampled(parts)}) if b is not None]
    return min(found, key=lambda b: b.epsilon, default=None)


def epsilon(event: DpEvent, delta: float) -> float:
    """The smallest valid bound on epsilon of `event` at `delta`; inf where nothing is promised.

    With delta 0 it is the sum of pure epsilons, inf where an event (any Gaussian) has none. Deltas of DeltaDpEvents are
    taken off `delta` first; inf where they exceed it.

    Raises:
      UsageError: as for `bounds`.
    """
    return bounds(event, delta)[0].epsilon


def epsilons(event: DpEvent, delta: float) -> dict[str, float]:
    """Each accountant's bound under its name ("pld", "rdp", "basic"); a name is absent where it gives none."""
    return {b.accountant: b.epsilon for b in bounds(event, delta)}


def rdp_epsilon(
    event: DpEvent, delta: float, *, orders: Sequence[float] | None = None, conversion: Conversion = "tight"
) -> float:
    """The Rényi bound alone, for comparing with published numbers.

    Args:
      event: any tree of events with Rényi curves.
      delta: above 0.
      orders: Rényi orders above 1; by default ORDERS.
      conversion: "tight" (Canonne, Kamath, Steinke 2020, Proposition 12) or "classic" (Mironov 2017, Proposition 3,
        which TF-privacy's tutorial used). Three conversions of one curve give three different numbers: say which.

    Raises:
      UsageError: an event without a Rényi curve, or a number out of range.
    """
    if check_delta(delta) == 0 or any(a <= 1 for a in orders or ()):
        raise UsageError("A Rényi bound needs a delta above 0 and orders above 1.")
    parts, failing = without_deltas(leaves(event))
    curve = rdp_curve(parts, orders or ORDERS)
    if curve is None:
        raise UsageError("Some of these events have no Rényi curve.")
    left = float_down(Fraction(delta) - failing)
    return convert(orders or ORDERS, curve, left, conversion)[0] if left > 0 else math.inf


# -------------------------------------------------------------------------------------------------------------- zCDP
def zcdp(event: DpEvent) -> Rho:
    """The exact rho of `event`: the sum over its parts.

    Discrete and continuous Gaussian sensitivity^2 / (2 sigma^2); exponential mechanism epsilon^2 / 8; other pure
    epsilons epsilon^2 / 2 (Bun & Steinke 2016; Canonne, Kamath, Steinke 2020; Cesar & Rogers 2021).

    Raises:
      UsageError: an event that is not zCDP (Poisson sampling), or zCDP only with an offset xi.
    """
    parts = leaves(event)
    line = line_total(tuple((_pure_line(e), n) for e, n in parts))
    if line is None or line[0] != 0:
        raise UsageError("Some of these events have no zCDP bound.")
    return Rho(line[1])


def _pure_line(event: DpEvent) -> DpEvent:
    """Laplace noise has a curve below its line; for zCDP the line is asked for."""
    pure = pure_of(event)
    if pure is None or isinstance(event, ExponentialMechanismDpEvent | DiscreteLaplaceDpEvent):
        return event
    return DiscreteLaplaceDpEvent(float_down(1 / pure))


def zcdp_epsilon(rho: Rho, delta: float, *, conversion: Literal["tight", "simple"] = "tight") -> float:
    """Epsilon at `delta` of rho-zCDP, rounded up.

    Args:
      rho: the zCDP bound.
      delta: above 0.
      conversion: "tight": the best order of Canonne, Kamath, Steinke 2020, Corollary 13;
        "simple": rho + 2 sqrt(rho ln(1/delta)) (Bun & Steinke 2016, Proposition 1.3).

    Raises:
      UsageError: delta 0 or out of range.
    """
    if check_delta(delta) == 0:
        raise UsageError("zCDP gives no epsilon at delta 0.")
    amount = float(rho)
    if conversion == "simple":
        return (amount + 2 * math.sqrt(amount * math.log(1 / delta))) * (1 + 1e-15)
    return _tight(amount, delta)


def _tight(rho: float, delta: float) -> float:
    """As dp-accounting's conversion, but not 0 where its total-variation argument would say so: smooth for solving."""
    order = best_order(rho, delta)
    value = rho * order + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    return max(value, 0.0) + 1e-13 * (1 + abs(value))


def rho_budget(epsilon: float, delta: float) -> Rho:
    """The largest rho, to double precision, whose tight conversion at `delta` is at most `epsilon`.

    Raises:
      UsageError: epsilon not above 0, or delta not above 0.
    """
    target = check_epsilon(epsilon)
    if check_delta(delta) == 0:
        raise UsageError("A rho budget needs a delta above 0.")
    low, high = 0.0, target
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _tight(middle, delta) <= target else (low, middle)
    return Rho(low)


def rho_of(sigma: Sigma, sensitivity: int = 1) -> Rho:
    """What Gaussian noise of `sigma` costs: sensitivity^2 / (2 sigma^2), exact."""
    return Rho(Fraction(sensitivity) ** 2 / (2 * sigma.value**2))


def sigma_of(rho: Rho, sensitivity: int = 1) -> Sigma:
    """The least noise, to double precision, that costs at most `rho`; UsageError where rho is 0."""
    if rho.value == 0:
        raise UsageError("No noise is wide enough for a rho of 0.")
    guess = sensitivity / math.sqrt(2 * float_down(rho.value)) if float_down(rho.value) > 0 else math.inf
    if not math.isfinite(guess):
        raise UsageError("No noise is wide enough for so small a rho.")
    while rho_of(Sigma(guess), sensitivity) > rho:
        guess = math.nextafter(guess, math.inf)
    return Sigma(guess)


# --------------------------------------------------------------------------------------------------------- calibration
def calibrate(make_event: Callable[[float], DpEvent], epsilon: float, delta: float) -> float:
    """The smallest noise scale whose event costs at most `epsilon` at `delta`.

    The scale returned has been priced: `accounting.epsilon(make_event(scale), delta)` is at most `epsilon`, always,
    and a scale 0.1 % smaller would cost more (where cost falls smoothly with the scale). The search starts from the
    Rényi and zCDP bounds, which cost nothing to compute, and stays near their solution: tiny noise, where privacy loss
    distributions grow beyond memory, is never tried.

    Args:
      make_event: the event at a noise scale; a larger scale must not cost more.
      epsilon: target, from 1e-15.
      delta: 0, or from 1e-300 to below 1.

    Raises:
      UsageError: no scale from 1e-9 to 1e12 costs that little, or every one does.
    """
    target = check_epsilon(epsilon) * (1 - MARGIN)
    check_delta(delta)
    if delta == 0:
        return _bracket(lambda scale: _cheap(make_event(scale), delta), target, ratio=1 + 1e-12)[1]
    _, start = _bracket(lambda scale: _cheap(make_event(scale), delta), target, ratio=1.05)
    return _descend(lambda scale: _bounds(leaves(make_event(scale)), delta)[0].epsilon, target, start)


def _cheap(event: DpEvent, delta: float) -> float:
    """A valid bound that needs no privacy loss distribution, unless there is no other."""
    parts, failing = without_deltas(leaves(event))
    delta = float_down(Fraction(delta) - failing)
    if delta < 0:
        return math.inf
    pure = pure_total(parts)
    basic = math.inf if pure is None else float_up(pure)
    if delta == 0:
        return basic
    found = [b for b in (_line_bound(parts, delta), _line_bound(_unsampled(parts), delta)) if b is not None]
    if not found and pure is None:
        return _bounds(parts, delta)[0].epsilon
    return min(basic, *(b.epsilon for b in found)) if found else basic


def _line_bound(parts: Leaves, delta: float) -> Bound | None:
    """The Rényi bound from a few orders and, where the curves are lines, the best one."""
    line = line_total(parts)
    orders = _FEW_ORDERS if line is None else (*_FEW_ORDERS, best_order(float_up(line[1]), delta))
    return rdp_bound(parts, delta, orders)


def _unsampled(parts: Leaves) -> Leaves:
    """`parts` as if every unit took part in each of them: with Poisson sampling a Rényi divergence is at most that of
    the mechanism itself, in both directions.

    Let S be the drawn units besides the one that is added, P_S the law of the answer without it and Q_S with it. The
    answers of two neighbours are mixtures over S, with the same weights, of P_S and of (1 - q) P_S + q Q_S. Rényi
    divergence of an order is jointly quasi-convex (van Erven & Harremoës 2014, Theorem 13): that of two mixtures is at
    most the greatest between parts, so at most that of (1 - q) P_S + q Q_S and P_S, and that at most the greater of
    D(P_S, P_S) = 0 and D(Q_S, P_S); the other way around alike. Both are within the mechanism's own curve.
    """
    return tuple((e.event if isinstance(e, PoissonSampledDpEvent) else e, times) for e, times in parts)


_FEW_ORDERS = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 256.0)


def _bracket(cost: Callable[[float], float], target: float, *, ratio: float) -> tuple[float, float]:
    """Scales low < high <= low * ratio with cost(high) <= target < cost(low), by doubling and bisection."""
    low = high = 1.0
    while cost(high) > target:
        low, high = high, high * 2
        if high > 1e12:
            raise UsageError("No noise makes this plan cost so little: raise epsilon or ask for less.")
    while low == high or cost(low) <= target:
        low, high = low / 2, low
        if low < 1e-9:
            raise UsageError("The cost of this plan does not depend on its noise scale.")
    while high > low * ratio:
        middle = math.sqrt(low * high)
        if not low < middle < high:
            break
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return low, high


def _descend(cost: Callable[[float], float], target: float, start: float) -> float:
    """From an affordable scale down to the smallest: interpolation on logarithms inside a closing bracket."""
    high, at_high = start, cost(start)
    low, at_low = 0.0, math.inf
    for step in range(30):
        if at_high >= target * (1 - 1e-4) or high <= low * (1 + 1e-5):
            break
        if low == 0:
            guess = high * max(at_high / target, 0.25) ** 0.9
        elif step % 3 == 2 or at_high <= 0 or not math.isfinite(at_low):
            guess = math.sqrt(low * high)
        else:
            share = math.log(target * (1 - 3e-5) / at_high) / math.log(at_low / at_high)
            guess = high * (low / high) ** min(max(share, 0.001), 0.999)
        at_guess = cost(guess)
        if at_guess <= target:
            high, at_high = guess, at_guess
        else:
            low, at_low = guess, at_guess
    return high
