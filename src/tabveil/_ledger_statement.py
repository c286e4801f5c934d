"""What an account's history promises, in a PrivacyStatement and as a recipe for recomputing its epsilon.

`ledger` hands these out; import from there.

Privacy: built from events, labels and times. Where a number is bookkeeping and not a theorem, the words beside it say
so.
"""

from __future__ import annotations

from typing import Any

from tabveil import accounting
from tabveil._ledger_chain import History
from tabveil._ledger_rules import Cap, bookkeeping
from tabveil.accounting import Bound
from tabveil.records import RELATION, PrivacyStatement

ADAPTIVE_THEOREM = (
    "All charges of the account together are (epsilon, delta)-DP at the cap, also where later charges depend on "
    "earlier outputs: Rényi filters of fixed orders (Feldman & Zrnic 2021, Theorem 4.3) and the pure filter (Rogers, "
    "Roth, Ullman, Vadhan 2016), their shares of delta summed."
)
"""The theorem behind an account's cap."""


def statement_of(dataset: str, history: History) -> PrivacyStatement:
    """What the committed charges promise; see `Ledger.statement`."""
    cap = history.cap
    bound = spent_by(history)
    return PrivacyStatement(
        epsilon=bound.epsilon,
        delta=0.0 if cap is None else cap.delta,
        unit="row" if cap is None else cap.unit,
        relation=RELATION,
        events=tuple(s.to_dict() for c in history.paid for s in c.spends),
        accountant=_accountant(bound),
        theorem=_theorem(cap, len(history.paid)),
        dataset=dataset,
        outside=(*_caveat(cap, len(history.paid)), *(_note(label, when) for label, when in history.notes)),
    )


def spent_by(history: History) -> Bound:
    """Epsilon of the committed charges and how it is recomputed; inf without an account."""
    if history.cap is None:
        return Bound("basic", float("inf"), 0.0)
    return bookkeeping(history.cap, [c.spends for c in history.paid])


def recipe_of(history: History) -> dict[str, Any]:
    """How `docs/recompute.py` gets the epsilon of what is spent."""
    bound = spent_by(history)
    return {
        "epsilon": bound.epsilon if history.cap is not None else "inf",
        "charges": len(history.paid),
        "accountant": bound.accountant,
        "delta": bound.delta,
        "order": bound.order,
        "interval": bound.interval,
        "rounding": bound.rounding,
    }


def _accountant(bound: Bound) -> str:
    if bound.accountant == "pld":
        return f"dp-accounting, privacy loss distributions on a pessimistic grid of {bound.interval:g}"
    if bound.accountant == "rdp":
        return (
            f"dp-accounting, Rényi divergence of order {bound.order:.6g} at delta {bound.delta:.6g}, tight conversion "
            "(Canonne, Kamath, Steinke 2020, Proposition 12)"
        )
    return "sum of pure epsilons, exact"


def _theorem(cap: Cap | None, charges: int) -> str:
    if cap is None:
        return "none: no account was opened"
    if charges == 0:
        return "nothing has been charged"
    if charges == 1:
        return accounting.COMPOSITION
    return (
        f"{ADAPTIVE_THEOREM} That cap is epsilon {cap.epsilon:g} at delta {cap.delta:g}. The epsilon shown here is the "
        "smallest cap that would have admitted the same charges: by Rényi composition (Mironov 2017, Proposition 1) it "
        "holds for charges that were planned beforehand."
    )


def _caveat(cap: Cap | None, charges: int) -> tuple[str, ...]:
    if cap is None or charges < 2:
        return ()
    return (
        "Where a charge was chosen after looking at earlier outputs, the promise for all of them together is the "
        f"account's cap, epsilon {cap.epsilon:g} at delta {cap.delta:g}, not the epsilon spent so far.",
    )


def _note(label: str, when: str) -> str:
    return f"A run that promises nothing was recorded on this dataset on {when[:10]}: {label}."
