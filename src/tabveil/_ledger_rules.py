"""The rules of an account as pure functions: its filters, what a charge costs under each, how its state moves.

`ledger` applies them inside one serialised transaction and `verify` replays them; nothing here touches a database.

**Why the cap holds when later charges depend on earlier outputs.** Let the cap be (epsilon, delta).

1. Filters. A Rényi filter of order alpha_j admits a charge while the sum of Rényi divergences of that order stays at or
   below level_j. Whatever is chosen from earlier outputs, what it lets through is (alpha_j, level_j)-RDP (Feldman &
   Zrnic 2021, "Individual privacy accounting via a Rényi filter", Theorem 4.3; Lécuyer 2021, "Practical privacy
   filters and odometers with Rényi differential privacy"). level_j is the largest that the tight conversion (Canonne,
   Kamath, Steinke 2020, Proposition 12) turns into epsilon at share delta_j. The pure filter admits while the sum of
   pure epsilons stays at or below epsilon; its share is 0 (Rogers, Roth, Ullman, Vadhan 2016, "Privacy odometers and
   filters: pay-as-you-go composition"). Orders, levels and shares depend on (epsilon, delta) alone, are fixed when the
   account is opened, and the shares sum to at most delta.
2. Several filters at once. A charge is admitted if some filter admits the whole history with it. Let M be the session
   and M_j the session halted by filter j alone; M_j is (epsilon, delta_j)-DP. Costs only add up, so the filter that
   admits a transcript's last charge admits each earlier one: call a complete transcript j's if j is the first filter
   that admits its whole history. On j's transcripts M and M_j act alike. For neighbours P, Q and an event E, with E_j
   its part among j's transcripts, P_M(E) = sum_j P_Mj(E_j) <= sum_j (e^epsilon Q_Mj(E_j) + delta_j)
   <= e^epsilon Q_M(E) + delta.
   Events that go wrong with some probability (DeltaDpEvent) are left out of those costs; their deltas are added up by a
   filter of their own, which must admit the history too, and whose level is its share of delta. Up to the chance that
   one of them goes wrong, at most that share whatever is chosen adaptively (the sum is bounded on every transcript),
   the session is one without them, to which the above applies: the shares, this one included, sum to at most delta. An
   account opened without such a filter admits no such event but in a charge for the whole account.
3. Sessions that overlap in time. Charges are committed before anything is read, so at every moment what has run costs
   at most what is committed; interleaving changes nothing (Haney et al. 2023, "Concurrent composition for interactive
   differential privacy with adaptive privacy-loss parameters").
4. One charge for the whole account. The first charge is chosen before any output exists and its events are fixed, so
   the accountant's epsilon (`accounting.epsilon`, privacy loss distributions included) is valid for it. If it fits
   under the cap in that way but under no filter, it is admitted as "whole": nothing else is ever admitted beside it.
   Which of the two regimes rules is settled by the first charge, before any output, so a session obeys one of them
   from its first to its last charge.

Privacy: sums are exact whole numbers of 1e-40, costs rounded up and levels down, so that no positive cost, however
small, slips into an exhausted account.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, Self

from tabveil import accounting
from tabveil._accounting_curves import Bound, best_order, line_total, pure_total, rdp_bound, rdp_curve
from tabveil._accounting_events import Leaves, line_of, without_deltas
from tabveil.accounting import Spend, event_of, float_down, float_up, leaves
from tabveil.errors import UsageError, VerificationError
from tabveil.records import RELATION, rounded_up

UNIT = 10**40
"""Costs are whole numbers of 1/UNIT."""

Costs = dict[str, int | None]
"""Filter name -> cost in 1/UNIT, rounded up; None is infinite."""

Regime = Literal["filter", "whole"]

MAIN_SHARE = Fraction(9, 10)
"""Share of delta for the order that suits Gaussian noise best; the other orders, for other mixtures, split the rest."""

FAILURES = "deltas"
"""Name of the filter that adds up the deltas of DeltaDpEvents; its costs are probabilities."""

FAILURE_SHARE = Fraction(1, 20)
"""Share of delta for events that go wrong with some probability."""

LARGEST_ORDER = 4096.0
SMALLEST_DELTA = 1e-200


# -------------------------------------------------------------------------------------------------------------- amounts
def _up(value: Fraction | float | None) -> int | None:
    """In units, rounded up; None where infinite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return math.ceil(Fraction(value) * UNIT)


def _text(units: int | None) -> str:
    """Units as decimal text, exact."""
    if units is None:
        return "inf"
    return f"{units // UNIT}.{units % UNIT:040d}".rstrip("0").rstrip(".")


def _units(text: str) -> int | None:
    """Undo `_text`; raises ValueError on anything `_text` does not give."""
    value = None if text == "inf" else int(Fraction(text) * UNIT)
    if _text(value) != text:
        raise ValueError("not an amount")
    return value


def added(amounts: Iterable[Costs]) -> Costs:
    """Costs summed filter by filter."""
    total: Costs = {}
    for costs in amounts:
        for name, units in costs.items():
            sofar = total.get(name, 0)
            total[name] = None if units is None or sofar is None else sofar + units
    return total


# -------------------------------------------------------------------------------------------------------------- filters
@dataclass(frozen=True)
class Filter:
    """One privacy filter of an account.

    Attributes:
      name: key of its costs.
      order: Rényi order above 1; None for the sum of pure epsilons, and for the sum of deltas (named FAILURES).
      delta: its share of the account's delta.
      level: the sum of costs it admits, in 1/UNIT, rounded down.
    """

    name: str
    order: float | None
    delta: float
    level: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "order": self.order, "delta": self.delta, "level": _text(self.level)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` gave; raises ValueError, KeyError or TypeError on anything else."""
        level = _units(data["level"])
        if level is None:
            raise ValueError("an infinite level")
        return cls(str(data["name"]), data["order"], float(data["delta"]), level)


def _largest_level(order: float | None, delta: float, epsilon: float, *, spare: float = 0.0) -> int:
    """The largest sum of costs, less `spare`, that means at most `epsilon` at `delta`."""
    if order is None:
        return math.floor(Fraction(epsilon) * UNIT)
    level = epsilon - math.log1p(-1 / order) + math.log(delta * order) / (order - 1)
    return max(0, math.floor(Fraction(level - spare) * UNIT))


def _tidy(order: float) -> float:
    """A nearby order that Poisson sampling is quick to price: whole, or an eighth where small."""
    order = round(order) if order >= 8 else max(round(order * 8) / 8, 1.125)
    return float(min(order, LARGEST_ORDER))


def filters_for(epsilon: float, delta: float) -> tuple[Filter, ...]:
    """The filters of an account with this cap: pure epsilons and, for delta > 0, three Rényi orders.

    The first order is the best one for Gaussian noise that fills the account. The second, 0.7 times as far from 1,
    suits Poisson-sampled noise, whose divergences soar at large orders; the third, twice as far, suits pure events. A
    fifth filter, which has to admit a charge beside one of these, adds up the deltas of events that have one of their
    own.
    """
    pure = Filter("pure", None, 0.0, _largest_level(None, 0.0, epsilon))
    if delta == 0:
        return (pure,)
    main = delta * float(MAIN_SHARE)
    order = best_order(float_down(accounting.rho_budget(epsilon, main).value), main)
    orders = dict.fromkeys(_tidy(a) for a in (order, 1 + (order - 1) * 0.7, 1 + (order - 1) * 2))
    failures = float_down(Fraction(delta) * FAILURE_SHARE)
    rest = float_down((Fraction(delta) - Fraction(main) - Fraction(failures)) / max(1, len(orders) - 1))
    shares = [main, *[rest] * (len(orders) - 1)]
    renyi = [
        Filter(f"renyi-{a:g}", a, share, _largest_level(a, share, epsilon, spare=1e-12 * (1 + epsilon)))
        for a, share in zip(orders, shares, strict=True)
    ]
    return (pure, *renyi, Filter(FAILURES, None, failures, math.floor(Fraction(failures) * UNIT)))


def costs_of(parts: Leaves, filters: Iterable[Filter]) -> Costs:
    """What a composed event costs under each filter; without a filter for its deltas, one that has any costs
    infinity.
    """
    rest, failing = without_deltas(parts)
    names = {f.name: f for f in filters}
    if failing and FAILURES not in names:
        return dict.fromkeys(names, None)
    return {name: _up(failing if name == FAILURES else _cost(rest, f)) for name, f in names.items()}


def _cost(parts: Leaves, filter_: Filter) -> Fraction | None:
    return pure_total(parts) if filter_.order is None else _divergence(parts, filter_.order)


def _divergence(parts: Leaves, order: float) -> Fraction | None:
    """Rényi divergence of one order, exact where it is a line, else rounded up; None where infinite or unknown."""
    straight = line_total(tuple((e, n) for e, n in parts if line_of(e) is not None)) or (Fraction(0), Fraction(0))
    curved = tuple((e, n) for e, n in parts if line_of(e) is None)
    curve = rdp_curve(curved, [order])
    if curve is None or not math.isfinite(curve[0]):
        return None
    return straight[0] + straight[1] * Fraction(order) + Fraction(float(curve[0]))


@dataclass(frozen=True)
class Cap:
    """What an account may ever cost.

    Attributes:
      epsilon, delta: the cap.
      unit: the privacy unit in words.
      filters: fixed when the account was opened.
    """

    epsilon: float
    delta: float
    unit: str
    filters: tuple[Filter, ...]

    @classmethod
    def new(cls, epsilon: float, delta: float, unit: str) -> Self:
        """A cap with its filters; raises UsageError on numbers out of range."""
        epsilon, delta = accounting.check_epsilon(epsilon), accounting.check_delta(delta)
        if 0 < delta < SMALLEST_DELTA:
            raise UsageError(f"The delta of an account must be 0 or at least {SMALLEST_DELTA:g}.")
        return cls(epsilon, delta, accounting.check_label(unit), filters_for(epsilon, delta))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = {"epsilon": self.epsilon, "delta": self.delta, "unit": self.unit, "relation": RELATION}
        return {**plain, "filters": [f.to_dict() for f in self.filters]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` gave, checked.

        Raises:
          VerificationError: another relation, a filter that admits more than the cap, or shares above delta.
        """
        if data["relation"] != RELATION:
            raise VerificationError("The account is kept under another neighbouring relation.")
        filters = tuple(Filter.from_dict(f) for f in data["filters"])
        cap = cls(float(data["epsilon"]), float(data["delta"]), str(data["unit"]), filters)
        cap._check()
        return cap

    def _check(self) -> None:
        if sum(Fraction(f.delta) for f in self.filters) > Fraction(self.delta):
            raise VerificationError("The filters of the account share out more than its delta.")
        for f in self.filters:
            if f.delta < 0 or f.delta <= 0 < (f.order or 0) or f.level > self._largest(f):
                raise VerificationError("A filter of the account admits more than its cap.")

    def _largest(self, filter_: Filter) -> int:
        """The largest level that `filter_` may have under this cap."""
        if filter_.name == FAILURES:
            return math.floor(Fraction(filter_.delta) * UNIT)
        return _largest_level(filter_.order, filter_.delta, self.epsilon)


# ---------------------------------------------------------------------------------------------------------------- state
@dataclass(frozen=True)
class Claim:
    """A reservation that is neither committed nor released: it counts as spent."""

    seq: int
    expires: int
    regime: Regime
    costs: Costs


@dataclass(frozen=True)
class State:
    """An account after some entry.

    Attributes:
      commits: number of committed charges.
      whole: one of them takes the whole account.
      spent: their costs.
      pending: reservations still open.
    """

    commits: int = 0
    whole: bool = False
    spent: Costs = field(default_factory=dict)
    pending: tuple[Claim, ...] = ()

    @property
    def claimed(self) -> Costs:
        """Committed and reserved costs together."""
        return added([self.spent, *[c.costs for c in self.pending]])

    @property
    def exclusive(self) -> bool:
        """Whether one charge, committed or reserved, takes the whole account."""
        return self.whole or any(c.regime == "whole" for c in self.pending)

    @property
    def untouched(self) -> bool:
        """Whether nothing is committed or reserved."""
        return self.commits == 0 and not self.pending

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        pending = [
            {"seq": c.seq, "expires": c.expires, "regime": c.regime, "costs": costs_to_dict(c.costs)}
            for c in self.pending
        ]
        spent = costs_to_dict(self.spent)
        return {"commits": self.commits, "whole": self.whole, "spent": spent, "pending": pending}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` gave."""
        pending = (Claim(c["seq"], c["expires"], c["regime"], costs_from_dict(c["costs"])) for c in data["pending"])
        return cls(data["commits"], data["whole"], costs_from_dict(data["spent"]), tuple(pending))


def costs_to_dict(costs: Costs) -> dict[str, str]:
    """Costs as decimal text."""
    return {name: _text(units) for name, units in costs.items()}


def costs_from_dict(data: Mapping[str, str]) -> Costs:
    """Undo `costs_to_dict`."""
    return {name: _units(text) for name, text in data.items()}


def fits(cap: Cap, total: Costs) -> bool:
    """Whether some filter of the account admits this sum of costs, and the filter of deltas does too."""
    kept = {f.name: (u := total[f.name]) is not None and u <= f.level for f in cap.filters}
    return kept.pop(FAILURES, True) and any(kept.values())


def admitted(cap: Cap, state: State, spends: Sequence[Spend]) -> tuple[Regime, Costs] | None:
    """How the account admits `spends` now, and what they cost under its filters; None where it does not.

    See the module's text for why this keeps the cap.
    """
    parts = leaves(event_of(spends))
    costs = costs_of(parts, cap.filters)
    if state.exclusive:
        return None
    if fits(cap, added([state.claimed, costs])):
        return "filter", costs
    if state.untouched and accounting.epsilon(event_of(spends), cap.delta) <= cap.epsilon:
        return "whole", costs
    return None


def refusal(cap: Cap, spends: Sequence[Spend], charges: Sequence[Sequence[Spend]], *, names: tuple[str, str]) -> str:
    """Why `spends` do not fit beside `charges`, committed or reserved; `names` are the account's and the charge's."""
    asks = accounting.epsilon(event_of(spends), cap.delta)
    spent = bookkeeping(cap, charges).epsilon
    why = _about_deltas(cap, [*charges, spends]) or "the two do not fit under the cap together"
    return (
        f"The account {names[0]!r} cannot pay for {names[1]!r}: it asks for epsilon {rounded_up(asks)}, and "
        f"{rounded_up(spent)} of {cap.epsilon:g} is spent or reserved (delta {cap.delta:g}); {why}."
    )


def _about_deltas(cap: Cap, charges: Sequence[Sequence[Spend]]) -> str:
    """How far the deltas of `charges` together pass the filter that adds them up; empty where they do not."""
    failing = without_deltas(leaves(event_of([s for c in charges for s in c])))[1]
    share = next((f for f in cap.filters if f.name == FAILURES), None)
    if not failing or (share is not None and (_up(failing) or 0) <= share.level):
        return ""
    asked = f"the thresholds of learned categories would take delta {rounded_up(float_up(failing))} in all"
    if share is None:
        return f"{asked}, which this account, opened by an earlier version, has for a single charge only"
    return f"{asked}, and an account of several charges has {share.delta:g} for them: declare the categories"


def bookkeeping(cap: Cap, charges: Sequence[Sequence[Spend]]) -> Bound:
    """Epsilon of what has been charged so far, at the cap's delta, and how it is recomputed.

    Of one charge it is the accountant's. Of several it is the smallest cap whose filters would have admitted them all:
    the account's own filters are tried and, with the main share of delta, every order of `accounting.ORDERS`.
    """
    if len(charges) < 2:
        return accounting.bounds(event_of([s for c in charges for s in c]), cap.delta)[0]
    parts, failing = without_deltas(leaves(event_of([s for c in charges for s in c])))
    if failing > max((f.delta for f in cap.filters if f.name == FAILURES), default=0.0):
        return Bound("basic", math.inf, 0.0)
    found = [rdp_bound(parts, f.delta, [f.order]) for f in cap.filters if f.order is not None]
    if cap.delta > 0:
        found.append(rdp_bound(parts, cap.delta * float(MAIN_SHARE)))
    pure = pure_total(parts)
    if pure is not None:
        found.append(Bound("basic", float_up(pure), 0.0))
    return min((b for b in found if b is not None), key=lambda b: b.epsilon, default=Bound("basic", math.inf, 0.0))
