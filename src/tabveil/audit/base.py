"""What every auditor is: tables in, `Finding`s out, each beside the numbers that give it meaning.

What is only counted (how many rows share a combination of values) has neither baseline nor chance of error: it comes
out of `Auditor.measure` as `Measurement`s.

Tables become codes here, and rows that show the same in every learned column get the same number, so that all
auditors mean the same by a copy. Rows are chosen by a salted hash of their content: repeatable under `random_state`,
whatever order a table is stored in.

Privacy: reads real rows outside any budget. Every finding is INTERNAL: not covered by epsilon, and dropped from the
release edition of a report (Ganev and De Cristofaro 2023, arXiv 2312.05114). No cell value reaches a finding, an error
or a repr.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil.columns import Column
from tabveil.encoding import INVALID, Codes, numbered, parse, size
from tabveil.errors import UsageError
from tabveil.records import Finding, Measurement
from tabveil.schema import Schema
from tabveil.units import units_of

ALPHA = 0.05
"""Chance that an auditor's findings, all taken together, say too much; shared out evenly among them."""

Refit = Callable[[pd.DataFrame, int], pd.DataFrame]
"""Fits the generator under audit anew, to the rows given, and samples as many rows as the release has. The number tells
fits apart: equal numbers may, but need not, give equal rows. It may run in another process, so it must pickle. One
whose noise no number fixes may say so by an attribute `fresh_noise` that is true: fits that are all alike then count
against what is promised."""

Tell = Callable[[str, float], None]
"""Told what is being done and which share of it is, 0 to 1."""


def untold(stage: str, share: float) -> None:
    """A `Tell` that tells nobody."""


_ROLES = ("train", "holdout", "synthetic")
_UINT64 = np.uint64


@dataclass(frozen=True, eq=False, repr=False)
class AuditInput:
    """The tables of one audit.

    Attributes:
      synthetic: the rows an attacker has; may have none.
      train: the rows a generator was fitted to; may have none.
      holdout: real rows that no fit has seen, or None; a holdout without rows counts as None.
      schema: what the columns are.
      random_state: repeats every choice of rows, a whole number from 0 up; None chooses anew.
      population: rows of all the people that the training rows are some of, where somebody has them; only
        `Auditor.measure` looks at them, and they need no more columns than it asks for.
      refit: fits the generator anew, for auditors that play the privacy game; without it they have no finding.
      store: a folder in which auditors that fit often keep what each fit gave, so that a killed audit goes on; what is
        there is of use to the same audit only, and INTERNAL.
      tell: told of the progress of long work.
      promise: the epsilon and the delta that every fit of `refit` promises for adding or removing one row; None where
        nothing is promised.

    Each other frame holds at least the schema's learned columns; all are in decoded typed form or raw text, and columns
    that nothing asks for are ignored.

    Raises:
      DataError: a frame lacks a learned column or has one twice.
      UsageError: `random_state` is neither None nor a whole number from 0 up.
    """

    synthetic: pd.DataFrame
    train: pd.DataFrame
    holdout: pd.DataFrame | None
    schema: Schema
    random_state: int | None = 0
    population: pd.DataFrame | None = None
    refit: Refit | None = None
    store: Path | None = None
    tell: Tell = untold
    promise: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.holdout is not None and not len(self.holdout):
            object.__setattr__(self, "holdout", None)
        for role, frame in self._frames.items():
            self.schema.check_learned(frame.columns.tolist(), role=role)
        state = self.random_state
        if state is not None and (isinstance(state, bool) or not isinstance(state, int | np.integer) or state < 0):
            raise UsageError("random_state must be a whole number from 0 up, or None.")
        object.__setattr__(self, "random_state", None if state is None else int(state))

    def __repr__(self) -> str:
        return f"AuditInput({self.schema!r})"

    @property
    def _frames(self) -> dict[str, pd.DataFrame]:
        frames = {role: getattr(self, role) for role in _ROLES}
        return {role: frame for role, frame in frames.items() if frame is not None}

    @cached_property
    def codes(self) -> dict[str, tuple[Codes, ...]]:
        """Each table that is there, by role, as codes of its learned columns, each of shape (rows,): 0 to size - 1 as
        in `encoding`, `size` for a missing cell, `size + 1` for a value that the column does not allow.
        """
        columns = self.schema.learned
        return {r: tuple(column_codes(c, frame[c.name]) for c in columns) for r, frame in self._frames.items()}

    @cached_property
    def groups(self) -> dict[str, Codes]:
        """Each table that is there, by role, as one number per row: rows that are copies of each other, in whichever
        table, have the same, from 0 up.
        """
        group = np.zeros(sum(len(frame) for frame in self._frames.values()), dtype=np.int64)
        for pieces in zip(*self.codes.values(), strict=True):
            code = pd.factorize(np.concatenate(pieces))[0].astype(np.int64)
            # Both are below the number of rows, so that this does not overflow.
            group = pd.factorize(group * len(group) + code)[0].astype(np.int64)
        ends = np.cumsum([len(frame) for frame in self._frames.values()])
        return dict(zip(self._frames, np.split(group, ends[:-1]), strict=True))

    @cached_property
    def once(self) -> dict[str, NDArray[np.int64]]:
        """Of the real tables that are there, by role, positions of the rows that occur once in both together, rising:
        which table such a row is in is chance, as in a random split.
        """
        real = {role: self.groups[role] for role in ("train", "holdout") if role in self.groups}
        times = np.bincount(np.concatenate(list(real.values())))
        return {role: np.flatnonzero(times[group] == 1) for role, group in real.items()}

    def units(self, role: str) -> NDArray[np.int64] | None:
        """Each row's privacy unit in the table `role`, numbered from 0 as they are met, shape (rows,): as fits tell
        them apart, rows without a name being one. None where the schema, or the table, names none.
        """
        unit, frame = self.schema.privacy_unit, self._frames[role]
        if unit is None or unit not in frame:
            return None
        return numbered(units_of(frame[unit]))[0]

    def shuffled(self, role: str, rows: NDArray[np.int64], *, purpose: str) -> NDArray[np.int64]:
        """The positions `rows` of the table `role`, in an order that depends on the rows' content and on `purpose`.

        The first n of distinct rows are then a random sample of n; copies of one row stay next to each other.
        """
        entropy = None if self.random_state is None else [self.random_state, zlib.crc32(purpose.encode())]
        salt = np.random.SeedSequence(entropy).generate_state(1, _UINT64)[0]
        hashes = np.full(len(rows), salt, dtype=_UINT64)
        for column in self.codes[role]:
            hashes = _mix(hashes ^ column[rows].astype(_UINT64))
        return rows[np.argsort(hashes, kind="stable")]


def column_codes(column: Column, values: pd.Series) -> Codes:
    """Codes of one column's cells, shape (rows,): 0 to size - 1, `size` for missing, `size + 1` for not allowed."""
    codes = parse(column, values)[0]
    codes[codes == INVALID] = size(column) + 1
    return codes


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The SplitMix64 finaliser (Steele, Lea and Flood 2014): every bit of the input moves every bit of the output."""
    x = x + _UINT64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> _UINT64(30))) * _UINT64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _UINT64(27))) * _UINT64(0x94D049BB133111EB)
    return x ^ (x >> _UINT64(31))


def lacking(data: AuditInput, *, roles: Sequence[str], what: str) -> str:
    """A sentence on which of the tables `roles` has no row, so that `what` was not measured; "" where all have."""
    words = {"train": "training", "holdout": "held-out", "synthetic": "synthetic"}
    for role in roles:
        frame = getattr(data, role)
        if frame is None or not len(frame):
            return f"{what} was not measured: there are no {words[role]} rows."
    return ""


class Auditor(ABC):
    """Base of all auditors: one subclass per file, registered under the file's name.

    Attributes:
      refits: whether it plays the privacy game, for which it needs `AuditInput.refit` and no holdout.
      needs_tables: whether what it finds is about the tables; one that fits made-up tables only is not held to them.
      needs_environment: the environment (`tabveil.environments`) that it works in, "" for none; where that was not
        made, it is none of the auditors that run by default.
      takes: what it needs to say anything, in words that follow "needs": for whoever misses its numbers.
    """

    refits: ClassVar[bool] = False
    needs_tables: ClassVar[bool] = True
    needs_environment: ClassVar[str] = ""
    takes: ClassVar[str] = ""

    @abstractmethod
    def compute(self, data: AuditInput) -> list[Finding]:
        """Findings about `data.synthetic`, each INTERNAL; none where `why_not` gives a reason.

        A finding shows something only where its interval starts above its baseline (`rates.beyond`); on a table made
        without looking at the training rows, that happens with a chance of at most ALPHA for all findings together.
        """

    @abstractmethod
    def why_not(self, data: AuditInput) -> str:
        """A sentence on why this auditor has no finding for such tables, "" where it has."""

    def measure(self, data: AuditInput) -> list[Measurement]:
        """What is counted rather than attacked: numbers without baseline, interval or verdict, each INTERNAL.

        None by default: most auditors attack. Tables without rows give none, and nothing here needs a holdout.
        """
        return []

    def plan(self, data: AuditInput) -> str:
        """A sentence on what `compute` will cost, before it starts: "" where that is seconds."""
        return ""

    @classmethod
    def plugin_name(cls) -> str:
        """The name this auditor is registered under: its file's."""
        return cls.__module__.rsplit(".", 1)[-1]
