"""What every metric is: tables in, `Score`s out, each beside the numbers that give it meaning.

The scales that go with a score are made here, so that all metrics mean the same by them: "holdout" (real rows that no
fit has seen, in place of the synthetic ones), "real" (training rows in its place), "independent" (training rows with
every column shuffled for itself: no model at all) and "bootstrap" (training rows drawn with replacement: the noise of
a perfect sampler). A distance between two samples has a floor that falls with their size, so everything compared has
one size.

Privacy: reads real rows outside any budget. Every score is INTERNAL: not covered by epsilon, and dropped from the
release edition of a report (Ganev and De Cristofaro 2023, arXiv 2312.05114, rebuild outliers from published
similarity metrics). No cell value reaches a score's name, an error or a repr.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil.columns import Column
from tabveil.encoding import INVALID, parse, size
from tabveil.errors import DataError, UsageError
from tabveil.records import Score
from tabveil.schema import Schema

COMPARED_ROWS = 50_000
"""No compared table has more rows than this: time and memory stay bounded, and distances have a low floor there."""

REFERENCE_ROWS = 100_000
"""No table that others are compared with has more rows than this."""

_UINT64 = np.uint64


@dataclass(frozen=True, eq=False, repr=False)
class Coded:
    """A table as codes, its rows in an order that depends on their content and a salt, not on how they were stored.

    Attributes:
      columns: the learned columns.
      codes: for each column its codes, shape (rows,), of the smallest fitting unsigned type: 0 to size - 1 as in
        `encoding`, `size` for a missing cell, `size + 1` for a value that the column does not allow.
    """

    columns: tuple[Column, ...]
    codes: tuple[NDArray[np.unsignedinteger], ...]

    @classmethod
    def of(cls, columns: Sequence[Column], frame: pd.DataFrame, *, salt: int) -> Coded:
        """The codes of `frame` (raw or typed), shuffled by `salt`: the first n rows are a random sample of n rows."""
        codes = tuple(_codes(c, frame[c.name]) for c in columns)
        order = _shuffle(codes, rows=len(frame), salt=salt)
        return cls(tuple(columns), tuple(c[order] for c in codes))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.codes[0])

    def take(self, rows: int | NDArray[np.int64]) -> Coded:
        """The first `rows` rows, or those at the given positions."""
        picked = slice(rows) if isinstance(rows, int) else rows
        return Coded(self.columns, tuple(c[picked] for c in self.codes))

    def bootstrap(self, rows: int, rng: np.random.Generator) -> Coded:
        """`rows` rows drawn with replacement."""
        return self.take(rng.integers(0, self.rows, size=rows))

    def independent(self, rows: int, rng: np.random.Generator) -> Coded:
        """`rows` rows, every column shuffled for itself: right 1-way marginals, no dependence between columns."""
        return Coded(self.columns, tuple(rng.permutation(c)[:rows] for c in self.codes))


def _codes(column: Column, values: pd.Series) -> NDArray[np.unsignedinteger]:
    codes = parse(column, values)[0]
    codes[codes == INVALID] = size(column) + 1
    return codes.astype(np.min_scalar_type(size(column) + 1))


def _shuffle(codes: Sequence[NDArray[np.unsignedinteger]], *, rows: int, salt: int) -> NDArray[np.int64]:
    """Row positions ordered by a salted hash of row content; the k-th copy of a row gets a hash of its own."""
    hashes = np.full(rows, salt, dtype=_UINT64)
    for column in codes:
        hashes = _mix(hashes ^ column.astype(_UINT64))
    order = np.argsort(hashes, kind="stable")
    ranked = hashes[order]
    starts = np.searchsorted(ranked, ranked, side="left")
    copy = (np.arange(rows) - starts).astype(_UINT64)
    return order[np.argsort(_mix(ranked ^ _mix(copy)), kind="stable")]


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The SplitMix64 finaliser (Steele, Lea and Flood 2014): every bit of the input moves every bit of the output."""
    x = x + _UINT64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> _UINT64(30))) * _UINT64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _UINT64(27))) * _UINT64(0x94D049BB133111EB)
    return x ^ (x >> _UINT64(31))


@dataclass(frozen=True, eq=False, repr=False)
class MetricInput:
    """The tables of one evaluation.

    Attributes:
      train: the rows a generator was fitted to; at least one.
      holdout: real rows that no fit has seen, or None; a holdout without rows counts as None.
      synthetic: rows to be judged; may have none.
      schema: what the columns are.
      random_state: repeats subsamples, shuffles and learners; None draws them anew.

    Each frame holds at least the schema's learned columns, in decoded typed form or as raw text; others are ignored.

    Raises:
      DataError: a frame lacks a learned column or has one twice, or train has no rows.
      UsageError: `random_state` is neither None nor a whole number from 0 up.
    """

    train: pd.DataFrame
    holdout: pd.DataFrame | None
    synthetic: pd.DataFrame
    schema: Schema
    random_state: int | None = 0

    def __post_init__(self) -> None:
        if self.holdout is not None and not len(self.holdout):
            object.__setattr__(self, "holdout", None)
        for role in ("train", "holdout", "synthetic"):
            frame = getattr(self, role)
            if frame is not None:
                self.schema.check_learned(frame.columns.tolist(), role=role)
        if not len(self.train):
            raise DataError("The training table has no rows: there is nothing to compare with.")
        state = self.random_state
        if state is not None and (isinstance(state, bool) or not isinstance(state, int | np.integer) or state < 0):
            raise UsageError("random_state must be a whole number from 0 up, or None.")

    def __repr__(self) -> str:
        return f"MetricInput({self.schema!r})"

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator of its own for each purpose, repeatable under `random_state`."""
        if self.random_state is None:
            return np.random.default_rng()
        return np.random.default_rng([int(self.random_state), zlib.crc32(purpose.encode())])

    @cached_property
    def coded(self) -> dict[str, Coded]:
        """Each table that is there ("train", "holdout", "synthetic") as codes, rows shuffled by `random_state`."""
        frames = {"train": self.train, "holdout": self.holdout, "synthetic": self.synthetic}
        return {
            role: Coded.of(self.schema.learned, frame, salt=int(self.rng(role).integers(2**63)))
            for role, frame in frames.items()
            if frame is not None
        }

    def alike(self, roles: Sequence[str]) -> dict[str, Coded]:
        """The tables named by `roles` ("synthetic", "holdout", "real", "independent", "bootstrap"), all of one size.

        The size is that of the smallest of train and of the named tables that has rows, at most COMPARED_ROWS. A
        synthetic table without rows stays as it is; a holdout that is not there is left out.
        """
        train = self.coded["train"]
        own = {r: self.coded[r] for r in ("synthetic", "holdout") if r in roles and r in self.coded}
        rows = min(COMPARED_ROWS, *(t.rows for t in (train, *own.values()) if t.rows))
        made = {"real": train.take, "bootstrap": self._bootstrap, "independent": self._independent}
        return {r: own[r].take(rows) if r in own else made[r](rows) for r in roles if r in own or r in made}

    def _bootstrap(self, rows: int) -> Coded:
        return self.coded["train"].bootstrap(rows, self.rng("bootstrap"))

    def _independent(self, rows: int) -> Coded:
        return self.coded["train"].independent(rows, self.rng("independent"))


class Metric(ABC):
    """Base of all metrics: one subclass per file, registered under the file's name."""

    goal: ClassVar[Literal["min", "max"]]
    """Whether lower or higher is better for what this metric mainly measures; each score says it again for itself."""

    @abstractmethod
    def compute(self, data: MetricInput) -> list[Score]:
        """Scores of `data.synthetic`, each INTERNAL and with references; none where `why_not` gives a reason.

        Raises:
          DataError, UsageError: as `MetricInput`; never for degenerate tables, whose scores are defined.
        """

    def why_not(self, data: MetricInput) -> str:
        """A sentence on why this metric has no score for such tables, "" where it has."""
        return ""

    @classmethod
    def plugin_name(cls) -> str:
        """The name this metric is registered under: its file's."""
        return cls.__module__.rsplit(".", 1)[-1]
