"""The ledger: what may be spent on a dataset, what has been spent, and proof that neither was tampered with.

An account belongs to a dataset, not to a generator, and has a cap (epsilon, delta). A charge is reserved, committed,
and only then may rows be read, through the receipt that the commit gives. Reserved and committed charges count alike;
released ones cost nothing. Every decision is taken inside one serialised transaction, so that any number of processes
never overspend together. Entries form a hash chain; `verify` recomputes every hash, state and admission.

**Theorem.** All outputs of all charges of an account together are (epsilon, delta)-DP at its cap, even where each
charge was chosen after seeing earlier outputs: Rényi filters (Feldman & Zrnic 2021, Theorem 4.3) of several fixed
orders and the pure filter (Rogers, Roth, Ullman, Vadhan 2016), shares of delta summed; or one charge that takes the
whole account. `_ledger_rules` has the argument in full, docs/accounting.md retells it.

Privacy: the ledger sees events, labels and times, never a table. A refused charge leaves the data unread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import sqlalchemy as sa
from dp_accounting import NonPrivateDpEvent, ZCDpEvent

from tabveil import accounting
from tabveil._ledger_chain import Chain, History, Resumable, replay
from tabveil._ledger_rules import Cap, State
from tabveil._ledger_statement import ADAPTIVE_THEOREM, recipe_of, statement_of
from tabveil._ledger_store import Store
from tabveil.accounting import DpEvent, Spend, check_label
from tabveil.errors import LedgerError, TabveilError, UnchargedError, UsageError, VerificationError
from tabveil.records import PrivacyStatement

__all__ = ["ADAPTIVE_THEOREM", "EXPIRY_SECONDS", "FORMAT", "Ledger", "Receipt", "Reservation", "Resumable"]

EXPIRY_SECONDS = 3600
"""A reservation that is neither committed nor released counts as spent for this long, then is released."""

FORMAT = "tabveil-ledger/1"
"""Format of `Ledger.export`."""


# ------------------------------------------------------------------------------------------------------------- receipt
class Receipt:
    """The right to run what a committed charge pays for, each spend at most as often as it was charged.

    A mechanism takes its noise from here, so that what runs is what was charged. Not to be copied: a copy would pay
    twice.

    Attributes:
      dataset: the account that paid, None where nothing was charged.
      spends: what was charged.
      head: hash of the ledger entry of the commit, "" where nothing was charged.
    """

    def __init__(self, spends: Sequence[Spend], *, dataset: str | None, head: str) -> None:
        self.dataset = dataset
        self.spends = tuple(spends)
        self.head = head
        self._left = [s.count for s in self.spends]
        self._pools = [_pool(s) for s in self.spends]
        self._lock = threading.Lock()
        self._process = os.getpid()

    def _check_process(self) -> None:
        """Raise UnchargedError in a forked process: it holds a copy of the receipt, which would pay a second time."""
        if os.getpid() != self._process:
            raise UnchargedError("A receipt pays in the process that charged it: charge, or resume, in this one.")

    @classmethod
    def uncharged(cls, spends: Iterable[Spend] = ()) -> Receipt:
        """A receipt for a fit that promises nothing (epsilon inf): it hands out NonPrivateDpEvent for every label."""
        return _Uncharged(tuple(spends), dataset=None, head="")

    def __repr__(self) -> str:
        return f"Receipt({self.dataset!r}, {len(self.spends)} spends)"

    def take(self, label: str) -> DpEvent:
        """The event charged under `label`, one time fewer left.

        Raises:
          UnchargedError: nothing of that label was charged, or it was taken as often as it was charged.
        """
        self._check_process()
        with self._lock:
            for i, spend in enumerate(self.spends):
                if spend.label == label and self._left[i] > 0:
                    self._left[i] -= 1
                    self._pools[i] = Fraction(0) if self._pools[i] is not None else None
                    return spend.event
        raise UnchargedError(f"Nothing is left of the charge for {label!r}.")

    def require(self) -> None:
        """Raise UnchargedError unless something of the charge is left to be taken."""
        with self._lock:
            if not any(self._left) and not any(self._pools):
                raise UnchargedError("Nothing is left of the charge: rows are read for charged answers only.")

    def take_from(self, label: str, event: DpEvent) -> DpEvent:
        """`event`, paid from the zCDP pool charged under `label` as ZCDpEvent(rho): the pool shrinks by zcdp(event).

        A pool pays for events chosen along the way, as AIM chooses them: zCDP bounds every Rényi order at once, so the
        filter theorem covers choices that depend on earlier outputs. Arithmetic is exact.

        Raises:
          UnchargedError: no such pool, too little left in it, or an event without a zCDP cost.
        """
        self._check_process()
        try:
            cost = accounting.zcdp(event).value
        except UsageError as error:
            raise UnchargedError(f"An event taken from the pool {label!r} has no zCDP cost.") from error
        with self._lock:
            for i, spend in enumerate(self.spends):
                left = self._pools[i]
                if spend.label == label and left is not None and cost <= left:
                    self._pools[i] = left - cost
                    self._left[i] = 0
                    return event
        raise UnchargedError(f"The pool charged for {label!r} does not cover this event.")

    def claim(self, label: str, count: int) -> int:
        """How many of the next `count` uses of `label` may be taken: fewer where fewer are left, 0 where none is.

        Of a charge that may be resumed they are durably marked as used in the ledger before this returns.
        """
        self._check_process()
        with self._lock:
            return min(count, sum(n for s, n in zip(self.spends, self._left, strict=True) if s.label == label))

    def __copy__(self) -> NoReturn:
        raise TypeError("A receipt cannot be copied: the copy would pay a second time.")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("A receipt cannot be copied: the copy would pay a second time.")

    def __reduce__(self) -> NoReturn:
        raise TypeError("A receipt cannot be stored: it would pay a second time.")


class _Uncharged(Receipt):
    def take(self, label: str) -> DpEvent:
        event: DpEvent = NonPrivateDpEvent()
        return event

    def claim(self, label: str, count: int) -> int:
        return count

    def require(self) -> None:
        return

    def take_from(self, label: str, event: DpEvent) -> DpEvent:
        return self.take(label)


class _Claimed(Receipt):
    """The receipt of a charge that may be resumed: some labels are marked as used in the ledger before they are taken.

    However often the charge is resumed, from whatever copy of a checkpoint, by however many processes at once: the
    ledger marks each use once, in one serialised transaction, so that all of them together never use more than was
    paid for.
    """

    def __init__(self, ledger: Ledger, paid: Receipt, *, seq: int, labels: Sequence[str], resumed: bool) -> None:
        super().__init__(paid.spends, dataset=paid.dataset, head=paid.head)
        self._ledger, self._seq, self._labels = ledger, seq, frozenset(labels)
        shut = _shut(self.spends, self._labels, resumed=resumed)
        self._left = [0 if s else n for s, n in zip(shut, self._left, strict=True)]
        self._pools = [None if s else p for s, p in zip(shut, self._pools, strict=True)]

    def claim(self, label: str, count: int) -> int:
        if label not in self._labels:
            return super().claim(label, count)
        self._check_process()
        position = next(i for i, s in enumerate(self.spends) if s.label == label)
        with self._lock:
            missing = count - self._left[position]
            if missing > 0:
                self._left[position] += self._ledger._claim(str(self.dataset), self._seq, (label, missing))
            return min(count, self._left[position])

    def take(self, label: str) -> DpEvent:
        self.claim(label, 1)
        return super().take(label)

    def require(self) -> None:
        with self._lock:
            if any(self._left) or any(self._pools):
                return
        if not any(self.claim(label, 1) for label in sorted(self._labels)):
            super().require()


def _shut(spends: Iterable[Spend], labels: Collection[str], *, resumed: bool) -> list[bool]:
    """Which spends are not to be taken as they are: those to be claimed first, and in a resumed charge all others too,
    since the process that charged may have taken them.
    """
    return [resumed or s.label in labels for s in spends]


def _pool(spend: Spend) -> Fraction | None:
    """Rho of a spend that is a pool."""
    event: Any = spend.event
    return spend.count * Fraction(event.rho) if isinstance(event, ZCDpEvent) and event.xi == 0 else None


class Reservation:
    """A charge that is set aside: `commit` it before reading; leaving the `with` block without commit releases it."""

    def __init__(self, ledger: Ledger, dataset: str, spends: tuple[Spend, ...], label: str) -> None:
        self._ledger, self._dataset, self._spends, self._label = ledger, dataset, spends, label
        self._seq: int | None = None

    def __enter__(self) -> Self:
        if self._seq is not None:
            raise LedgerError("A reservation can be entered only once at a time.")
        self._seq = self._ledger._reserve(self._dataset, self._spends, self._label)
        return self

    def commit(self, *, resumable: Resumable | None = None) -> Receipt:
        """Make the charge final and get the right to run it; `resumable` as for `Ledger.charge`.

        Raises:
          LedgerError: outside its `with` block, committed before, or expired and released meanwhile.
        """
        if self._seq is None:
            raise LedgerError("Only an open reservation can be committed: use it in a with block, once.")
        with self._ledger._writing(self._dataset) as chain:
            head = chain.commit(self._seq, resumable)
        seq, self._seq = self._seq, None
        return self._ledger._receipt(Receipt(self._spends, dataset=self._dataset, head=head), seq, resumable)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        seq, self._seq = self._seq, None
        if seq is None:
            return
        try:
            with self._ledger._writing(self._dataset) as chain:
                chain.release(seq, reason="not committed")
        except TabveilError:
            # it expires by itself; an error of the block itself must not be hidden
            if error is None:
                raise


# -------------------------------------------------------------------------------------------------------------- ledger
class Ledger:
    """Accounts per dataset, in a SQLite file, in memory, or in PostgreSQL.

    Args:
      path_or_url: path of a SQLite file, ":memory:", or a postgresql:// URL.
      create: make the file or tables where they are missing; with False a missing ledger is an error.
      expiry_seconds: how long a reservation counts that is neither committed nor released.

    Raises:
      UsageError: a number out of range, or the URL of another database.
      MissingDependencyError: PostgreSQL without its driver.
      LedgerError: unreachable, missing, or not a ledger.
      StorageError: the disk is full.
    """

    def __init__(
        self, path_or_url: str | Path = ":memory:", *, create: bool = True, expiry_seconds: float = EXPIRY_SECONDS
    ) -> None:
        if not 0 < expiry_seconds <= 365 * 86400:
            raise UsageError("expiry_seconds must be a number above 0, at most a year.")
        self._store = Store(path_or_url, create=create)
        self._expiry = expiry_seconds

    def __repr__(self) -> str:
        return f"Ledger({self._store.url.render_as_string(hide_password=True)!r})"

    def open(self, dataset: str, *, epsilon: float, delta: float, unit: str = "row") -> None:
        """Open the account of a dataset with a cap for all who ever use it; the same cap again changes nothing.

        Args:
          dataset: name, 1 to 200 characters.
          epsilon: cap, above 0.
          delta: cap, 0 or from 1e-300 to below 1; should be well below 1 / rows.
          unit: the privacy unit in words, as Schema.unit gives it.

        Raises:
          UsageError: a number or name out of range.
          LedgerError: the account is open with another cap or unit.
        """
        cap = Cap.new(epsilon, delta, unit)
        with self._writing(check_label(dataset), add=True) as chain:
            if chain.cap is None:
                chain.append("open", State(), **cap.to_dict())
            elif (chain.cap.epsilon, chain.cap.delta, chain.cap.unit) != (cap.epsilon, cap.delta, cap.unit):
                raise LedgerError(f"The account {dataset!r} is already open with another cap or unit; a cap is final.")

    def datasets(self) -> list[str]:
        """Names of all accounts, in the order in which they were first used."""
        with self._store.reading() as connection:
            return self._store.datasets(connection)

    # -------------------------------------------------------------------------------------------------------- spending
    def reserve(self, dataset: str, spends: DpEvent | Iterable[Spend], *, label: str) -> Reservation:
        """Set a charge aside, as a context manager with `commit()`; released on exit without commit.

        Args:
          dataset: the account.
          spends: what is asked for; a bare event is one spend under `label`.
          label: what it is for, 1 to 200 characters.

        Raises:
          UsageError: nothing asked for, or an event nobody can price.
          BudgetExceededError, LedgerError: on entering, if the account cannot pay or does not exist.
        """
        listed = (Spend(label, spends),) if isinstance(spends, DpEvent) else tuple(spends)
        if not listed or not all(isinstance(s, Spend) for s in listed):
            raise UsageError("A charge needs an event or at least one Spend.")
        return Reservation(self, check_label(dataset), listed, check_label(label))

    def charge(
        self, dataset: str, spends: DpEvent | Iterable[Spend], *, label: str, resumable: Resumable | None = None
    ) -> Receipt:
        """Reserve and commit at once; arguments and errors as for `reserve`. Nothing may be read before it returns.

        Args:
          dataset: as for `reserve`.
          spends: as for `reserve`.
          label: as for `reserve`.
          resumable: lets `resume` go on with the charge after this process is gone. Its labels cost one entry of the
            ledger each time they are claimed (`Receipt.claim`).

        Raises:
          LedgerError: also where another charge of the account has the same key.
        """
        asked = self.reserve(dataset, spends, label=label)._spends
        self._price(dataset, asked)
        with self._writing(dataset) as chain:
            seq = chain.reserve(asked, label=label, seconds=self._expiry)
            head = chain.commit(seq, resumable)
        return self._receipt(Receipt(asked, dataset=dataset, head=head), seq, resumable)

    def resume(self, dataset: str, key: str) -> Receipt:
        """A receipt for what no process has claimed yet of the resumable labels of an earlier charge: costs nothing.

        Raises:
          LedgerError: the account has no charge of that key.
        """
        history = self._history(dataset)
        found = next((o for o in history.open if o.key == key), None)
        if found is None:
            raise LedgerError(f"The account {dataset!r} has no charge to be resumed under this key.")
        spends = next(c.spends for c in history.charges if c.seq == found.seq)
        paid = Receipt(spends, dataset=dataset, head=found.head)
        return _Claimed(self, paid, seq=found.seq, labels=[label for label, _ in found.left], resumed=True)

    def _receipt(self, paid: Receipt, seq: int, resumable: Resumable | None) -> Receipt:
        if resumable is None:
            return paid
        return _Claimed(self, paid, seq=seq, labels=resumable.labels, resumed=False)

    def _claim(self, dataset: str, seq: int, asked: tuple[str, int]) -> int:
        with self._writing(dataset) as chain:
            return chain.claim(seq, *asked)

    def record(self, dataset: str, *, label: str) -> str:
        """Note a run that promises nothing (epsilon inf); returns the note's hash.

        It needs no account, costs nothing under a cap, and is named in every later statement of the dataset.
        """
        with self._writing(check_label(dataset), add=True) as chain:
            return chain.append("note", chain.state, label=check_label(label), promise="none").hash

    def _reserve(self, dataset: str, spends: tuple[Spend, ...], label: str) -> int:
        self._price(dataset, spends)
        with self._writing(dataset) as chain:
            return chain.reserve(spends, label=label, seconds=self._expiry)

    def _price(self, dataset: str, spends: Sequence[Spend]) -> None:
        """Compute what only a first charge needs before the lock is taken; the accountant remembers it."""
        with self._store.reading() as connection:
            chain = self._chain(connection, dataset, add=False)
            cap, untouched = chain.cap, chain.state.untouched
        if untouched and cap is not None:
            accounting.bounds(accounting.event_of(spends), cap.delta)

    @contextmanager
    def _writing(self, dataset: str, *, add: bool = False) -> Iterator[Chain]:
        with self._store.writing() as connection:
            yield self._chain(connection, dataset, add=add)

    def _chain(self, connection: sa.Connection, dataset: str, *, add: bool) -> Chain:
        account = self._store.account(connection, dataset)
        if account is None and add:
            account = self._store.add_account(connection, dataset)
        if account is None:
            raise _no_account(dataset)
        return Chain(self._store, connection, account=account, dataset=dataset)

    # --------------------------------------------------------------------------------------------------------- reading
    def statement(self, dataset: str) -> PrivacyStatement:
        """What the committed charges of a dataset promise together.

        `epsilon` is 0 before the first charge. Of one charge it is that charge's own. Of several it is the smallest cap
        whose filters would have admitted them: a theorem for charges that did not depend on each other's outputs,
        bookkeeping for charges that did, for which the account's cap is the theorem; `theorem` and `outside` say so.
        A dataset that has only runs without a promise gets epsilon inf.

        Raises:
          LedgerError: no such dataset.
          VerificationError: the chain is broken.
        """
        return statement_of(dataset, self._history(dataset))

    def export(self, dataset: str) -> dict[str, Any]:
        """All an outsider needs to recompute the chain and epsilon with dp-accounting alone (docs/recompute.py).

        Plain JSON values. `entries` hold the exact payloads, each hash being SHA-256 of the hash before it and the
        payload; `spent` says how epsilon is recomputed. Raises as `statement` does.
        """
        with self._store.reading() as connection:
            account = self._store.account(connection, dataset)
            entries = [] if account is None else self._store.entries(connection, account)
        history = replay(dataset, entries, audit=False)
        if not entries:
            raise _no_account(dataset)
        return {
            "format": FORMAT,
            "dataset": dataset,
            "cap": None if history.cap is None else history.cap.to_dict(),
            "entries": [{"seq": e.seq, "payload": e.payload, "hash": e.hash} for e in entries],
            "head": history.head,
            "events": [s.to_dict() for c in history.paid for s in c.spends],
            "spent": recipe_of(history),
            "statement": statement_of(dataset, history).to_dict(),
        }

    def verify(self, dataset: str | None = None, *, head: str | None = None) -> dict[str, str]:
        """Recompute every hash, number, state, cost and admission; returns the last hash of each account checked.

        Args:
          dataset: one account; by default all of them.
          head: a hash noted earlier, for instance in a release's manifest, that must still be in the account's chain:
            the only way to notice that entries were cut off at the end.

        Raises:
          VerificationError: anything that does not match what the ledger says of itself.
          LedgerError: unreadable, or no such dataset.
        """
        if head is not None and dataset is None:
            raise UsageError("An anchor belongs to one dataset: name it.")
        with self._store.reading() as connection:
            self._store.check(connection)
            chains = self._store.chains(connection)
        if dataset is not None and dataset not in chains:
            raise _no_account(dataset)
        wanted = chains if dataset is None else {dataset: chains[dataset]}
        heads = {name: replay(name, entries).head for name, entries in wanted.items()}
        if dataset is not None and head is not None and head not in {e.hash for e in chains[dataset]}:
            raise VerificationError(f"The account {dataset!r} no longer holds an entry that was there before.")
        return heads

    def _history(self, dataset: str) -> History:
        with self._store.reading() as connection:
            account = self._store.account(connection, dataset)
            entries = [] if account is None else self._store.entries(connection, account)
        if not entries:
            raise _no_account(dataset)
        return replay(dataset, entries, audit=False)


def _no_account(dataset: str) -> LedgerError:
    return LedgerError(f"There is no account {dataset!r}: open it with a cap first.")
