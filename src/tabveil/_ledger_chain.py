"""One account's chain of entries: how it grows inside a transaction, and how it is read back and checked.

Kinds of entry: "open" (the cap), "reserve" (spends, their costs, how they were admitted), "commit" and "release" (of a
reservation), "claim" (part of a committed charge is about to be used), "note" (a run that promises nothing). Every
payload carries the state of the account after it, so that a charge needs the last entry only; `replay` recomputes every
state from the entries before it.

Privacy: entries hold events, labels and times; no cell of a table.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

import tabveil
from tabveil import accounting
from tabveil._ledger_rules import (
    Cap,
    Claim,
    Costs,
    State,
    added,
    admitted,
    costs_from_dict,
    costs_of,
    costs_to_dict,
    fits,
    refusal,
)
from tabveil._ledger_store import GENESIS, Entry, Store, canonical, chained
from tabveil.accounting import Spend
from tabveil.errors import BudgetExceededError, LedgerError, TabveilError, UsageError, VerificationError


@dataclass(frozen=True)
class Charge:
    """A reservation as it was asked for.

    Attributes:
      seq: its entry.
      label, time: what for and when.
      spends: what was asked for.
    """

    seq: int
    label: str
    time: str
    spends: tuple[Spend, ...]


@dataclass(frozen=True)
class Resumable:
    """What lets a later process go on with a charge, once: said when it is committed.

    Attributes:
      key: 1 to 200 characters that no other charge of the account has; whoever knows it may ask for what is left.
      labels: the spends that are marked as used in the ledger before they are used; the others cannot be resumed.
    """

    key: str
    labels: tuple[str, ...]

    def left_of(self, spends: Sequence[Spend]) -> tuple[tuple[str, int], ...]:
        """How often each label may be claimed in all; UsageError unless each is that of exactly one of `spends`."""
        accounting.check_label(self.key)
        counts = [[s.count for s in spends if s.label == label] for label in self.labels]
        if not self.labels or any(len(c) != 1 for c in counts) or len(set(self.labels)) < len(self.labels):
            raise UsageError("What is to be resumed must be labels of single spends of the charge, each once.")
        return tuple((label, c[0]) for label, c in zip(self.labels, counts, strict=True))


@dataclass(frozen=True)
class Open:
    """A committed charge that may be resumed.

    Attributes:
      seq: the entry of its reservation.
      key: as given.
      left: what has not been claimed yet, label by label.
      head: hash of its commit.
    """

    seq: int
    key: str
    left: tuple[tuple[str, int], ...]
    head: str

    def claimed(self, label: str, count: int) -> Open:
        """After `count` more of `label`; VerificationError where that is more than is left."""
        left = dict(self.left)
        if label not in left or not 0 < count <= left[label]:
            raise VerificationError("More of a charge was claimed than was paid for.")
        return replace(self, left=tuple({**left, label: left[label] - count}.items()))


@dataclass(frozen=True)
class History:
    """What a chain says, first to last.

    Attributes:
      cap: None before the account was opened.
      opened: its entry.
      state: after the last entry.
      charges: every reservation by its entry, whatever became of it.
      committed: the entries of those that were committed.
      open: the committed charges that may be resumed, and what is left of each.
      notes: label and time of each run that promises nothing.
      head: hash of the last entry.
    """

    cap: Cap | None = None
    opened: int | None = None
    state: State = field(default_factory=State)
    charges: tuple[Charge, ...] = ()
    committed: tuple[int, ...] = ()
    open: tuple[Open, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    head: str = GENESIS

    @property
    def paid(self) -> tuple[Charge, ...]:
        """The committed charges."""
        return tuple(c for c in self.charges if c.seq in self.committed)

    @property
    def active(self) -> tuple[Charge, ...]:
        """The charges that count: committed, or reserved and still open."""
        pending = {c.seq for c in self.state.pending}
        return tuple(c for c in self.charges if c.seq in self.committed or c.seq in pending)


# ------------------------------------------------------------------------------------------------------------- reading
def replay(dataset: str, entries: Sequence[Entry], *, audit: bool = True) -> History:
    """Read a chain back: every hash, number, state and admission is recomputed.

    Args:
      dataset: the account the entries belong to.
      entries: all of them, in order.
      audit: also recompute what every charge costs (which may take a second where privacy loss distributions are
        needed); else the recorded costs are taken as they are.

    Raises:
      VerificationError: anything that does not fit together.
    """
    history = History()
    for number, entry in enumerate(entries):
        try:
            history = _next(dataset, history, (number, entry), audit)
        except VerificationError:
            raise
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            RecursionError,
            TabveilError,
        ) as error:
            raise VerificationError(f"Entry {number} of the account {dataset!r} is damaged.") from error
    return history


def _next(dataset: str, history: History, numbered: tuple[int, Entry], audit: bool) -> History:
    number, entry = numbered
    if entry.seq != number:
        raise VerificationError(f"Entry {number} of the account {dataset!r} is missing.")
    data = json.loads(entry.payload)
    if chained(history.head, entry.payload) != entry.hash or canonical(data) != entry.payload:
        raise VerificationError(f"The chain of the account {dataset!r} is broken at entry {number}.")
    if (data["dataset"], data["seq"]) != (dataset, number):
        raise VerificationError(f"Entry {number} of the account {dataset!r} belongs elsewhere.")
    after = _STEPS[data["kind"]](replace(history, head=entry.hash), data, audit)
    if (after.state.to_dict(), after.opened) != (data["state"], data["opened"]):
        raise VerificationError(f"Entry {number} of the account {dataset!r} records a wrong total.")
    return after


def _step_open(history: History, data: dict[str, Any], audit: bool) -> History:
    if history.cap is not None:
        raise VerificationError("An account was opened twice.")
    return replace(history, cap=Cap.from_dict(data), opened=data["seq"])


def _step_note(history: History, data: dict[str, Any], audit: bool) -> History:
    return replace(history, notes=(*history.notes, (str(data["label"]), str(data["time"]))))


def _step_reserve(history: History, data: dict[str, Any], audit: bool) -> History:
    spends = tuple(Spend.from_dict(s) for s in data["spends"])
    claim = Claim(data["seq"], data["expires"], data["regime"], costs_from_dict(data["costs"]))
    if history.cap is None or not _admissible(history.cap, history.state, claim, spends if audit else None):
        raise VerificationError(f"Entry {data['seq']} was admitted although the account could not pay.")
    charge = Charge(data["seq"], str(data["label"]), str(data["time"]), spends)
    state = replace(history.state, pending=(*history.state.pending, claim))
    return replace(history, state=state, charges=(*history.charges, charge))


def _admissible(cap: Cap, state: State, claim: Claim, spends: Sequence[Spend] | None) -> bool:
    """Whether the rules admitted a claim; with `spends`, also whether it costs no more than it says."""
    if state.exclusive:
        return False
    if claim.regime == "filter":
        fine = fits(cap, added([state.claimed, claim.costs]))
    else:
        fine = claim.regime == "whole" and state.untouched
    if spends is None or not fine:
        return fine
    event = accounting.event_of(spends)
    honest = _covers(claim.costs, costs_of(accounting.leaves(event), cap.filters))
    return honest and (claim.regime == "filter" or accounting.epsilon(event, cap.delta) <= cap.epsilon * (1 + 1e-6))


def _covers(recorded: Costs, recomputed: Costs) -> bool:
    """Whether no recorded cost is below the recomputed one, but for the last digits of another machine's logarithms."""
    if recorded.keys() != recomputed.keys():
        return False
    pairs = [(recorded[name], recomputed[name]) for name in recorded]
    return all(a is None or (b is not None and a >= b - b // 10**9) for a, b in pairs)


def _step_commit(history: History, data: dict[str, Any], audit: bool) -> History:
    claim = _claim(history.state, data["ref"])
    state = _committed(history.state, claim)
    after = replace(history, state=state, committed=(*history.committed, claim.seq))
    if "resumable" not in data:
        return after
    asked = Resumable(data["resumable"]["key"], tuple(data["resumable"]["labels"]))
    spends = next(c.spends for c in history.charges if c.seq == claim.seq)
    if any(o.key == asked.key for o in history.open):
        raise VerificationError("Two charges have one key.")
    return replace(after, open=(*after.open, Open(claim.seq, asked.key, asked.left_of(spends), history.head)))


def _step_claim(history: History, data: dict[str, Any], audit: bool) -> History:
    if data["ref"] not in {o.seq for o in history.open}:
        raise VerificationError("A claim is of no charge that may be resumed.")
    after = (o.claimed(data["label"], data["count"]) if o.seq == data["ref"] else o for o in history.open)
    return replace(history, open=tuple(after))


def _step_release(history: History, data: dict[str, Any], audit: bool) -> History:
    return replace(history, state=_released(history.state, _claim(history.state, data["ref"])))


_STEPS: dict[str, Callable[[History, dict[str, Any], bool], History]] = {
    "open": _step_open,
    "note": _step_note,
    "reserve": _step_reserve,
    "commit": _step_commit,
    "release": _step_release,
    "claim": _step_claim,
}


def _claim(state: State, seq: int) -> Claim:
    for claim in state.pending:
        if claim.seq == seq:
            return claim
    raise LedgerError("The reservation has expired or was closed before: reserve again; nothing was charged.")


def _released(state: State, claim: Claim) -> State:
    return replace(state, pending=tuple(c for c in state.pending if c.seq != claim.seq))


def _committed(state: State, claim: Claim) -> State:
    return replace(
        _released(state, claim),
        commits=state.commits + 1,
        whole=state.whole or claim.regime == "whole",
        spent=added([state.spent, claim.costs]),
    )


# ------------------------------------------------------------------------------------------------------------- growing
_WHOLE = "Its first charge was so close to the cap that it takes the whole account."


class Chain:
    """An account inside one writing (or reading) transaction.

    Attributes:
      state: after the last entry.
      cap: None before the account is opened.

    Raises:
      VerificationError: the last entry does not match its hash.
    """

    def __init__(self, store: Store, connection: sa.Connection, *, account: int, dataset: str) -> None:
        self._store, self._connection = store, connection
        self._account, self._dataset = account, dataset
        self._head = store.head(connection, account)
        self.state = State()
        self.cap: Cap | None = None
        self._opened: int | None = None
        if self._head is not None:
            self._read_head(self._head)

    def _read_head(self, head: Entry) -> None:
        before = self._store.entry(self._connection, self._account, head.seq - 1) if head.seq else None
        try:
            intact = chained(before.hash if before else GENESIS, head.payload) == head.hash
            self.state = State.from_dict(head.data["state"])
            self._opened = head.data["opened"]
        except (KeyError, TypeError, ValueError, AttributeError):
            intact = False
        if not intact:
            raise VerificationError(f"The chain of the account {self._dataset!r} is broken: run verify.")
        if self._opened is not None:
            opening = self._store.entry(self._connection, self._account, self._opened)
            self.cap = None if opening is None else _cap(opening.payload)

    def append(self, kind: str, state: State, **fields: Any) -> Entry:
        """Add an entry that leaves the account in `state`."""
        seq = 0 if self._head is None else self._head.seq + 1
        if kind == "open":
            self._opened = seq
        stamp = datetime.datetime.fromtimestamp(int(self._store.now(self._connection)), datetime.UTC)
        data = {
            "kind": kind,
            "dataset": self._dataset,
            "seq": seq,
            "opened": self._opened,
            "time": stamp.isoformat(),
            "state": state.to_dict(),
            "made_with": _versions(),
            **fields,
        }
        payload = canonical(data)
        entry = Entry(seq, payload, chained(self._head.hash if self._head else GENESIS, payload))
        self._store.append(self._connection, self._account, entry)
        self._head, self.state = entry, state
        return entry

    def reserve(self, spends: Sequence[Spend], *, label: str, seconds: float) -> int:
        """Add a reservation that expires after `seconds`; returns its entry's number.

        Raises:
          BudgetExceededError: the account cannot pay.
        """
        now = self._store.now(self._connection)
        self._release_expired(now)
        if self.cap is None:
            raise LedgerError(f"There is no account {self._dataset!r}: open it with a cap first.")
        verdict = admitted(self.cap, self.state, spends)
        if verdict is None:
            active = [c.spends for c in self._history().active]
            text = refusal(self.cap, spends, active, names=(self._dataset, label))
            raise BudgetExceededError(f"{text} {_WHOLE}" if self.state.exclusive else text)
        regime, costs = verdict
        seq = 0 if self._head is None else self._head.seq + 1
        claim = Claim(seq, math.ceil(now + seconds), regime, costs)
        state = replace(self.state, pending=(*self.state.pending, claim))
        self.append(
            "reserve",
            state,
            label=label,
            spends=[s.to_dict() for s in spends],
            costs=costs_to_dict(costs),
            regime=regime,
            expires=claim.expires,
        )
        return seq

    def commit(self, seq: int, resumable: Resumable | None = None) -> str:
        """Make a reservation final; returns the hash of the commit; LedgerError where it has expired or is closed, or
        where another charge has the key.
        """
        claim = _claim(self.state, seq)
        if claim.expires <= self._store.now(self._connection):
            raise LedgerError("The reservation has expired: reserve again; nothing was charged.")
        fields: dict[str, Any] = {}
        if resumable is not None:
            self._check_resumable(seq, resumable)
            fields = {"resumable": {"key": resumable.key, "labels": list(resumable.labels)}}
        return self.append("commit", _committed(self.state, claim), ref=seq, **fields).hash

    def _check_resumable(self, seq: int, resumable: Resumable) -> None:
        history = self._history()
        resumable.left_of(next(c.spends for c in history.charges if c.seq == seq))
        if any(o.key == resumable.key for o in history.open):
            raise LedgerError("A charge of this account has the same key already: resume it, or take another key.")

    def claim(self, seq: int, label: str, count: int) -> int:
        """Mark up to `count` uses of `label` of a committed charge as used; returns how many were left to be marked."""
        charge = next((o for o in self._history().open if o.seq == seq), None)
        granted = min(count, 0 if charge is None else dict(charge.left).get(label, 0))
        if granted > 0:
            self.append("claim", self.state, ref=seq, label=label, count=granted)
        return granted

    def release(self, seq: int, *, reason: str) -> None:
        """Give a reservation back; nothing happens where it is closed already."""
        if any(c.seq == seq for c in self.state.pending):
            self.append("release", _released(self.state, _claim(self.state, seq)), ref=seq, reason=reason)

    def _release_expired(self, now: float) -> None:
        """Close what has expired in the chain itself, so that no clock set back can revive it."""
        for claim in self.state.pending:
            if claim.expires <= now:
                self.release(claim.seq, reason="expired")

    def _history(self) -> History:
        return replay(self._dataset, self._store.entries(self._connection, self._account), audit=False)


@functools.lru_cache(maxsize=64)
def _cap(payload: str) -> Cap:
    try:
        return Cap.from_dict(json.loads(payload))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError("The entry that opened the account is damaged.") from error


@functools.cache
def _versions() -> dict[str, str]:
    return {"tabveil": tabveil.__version__, "dp-accounting": importlib.metadata.version("dp-accounting")}
