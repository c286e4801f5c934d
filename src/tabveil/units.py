"""Privacy units: which rows of each are kept, and Poisson samples of them.

Privacy: a unit's fate (which of its rows are kept, whether it is drawn) depends on its own rows and on entropy of its
own, so that adding or removing one leaves all others as they are (trap A17).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil.encoding import Codes, Floats, numbered, texts_of
from tabveil.noise import secret_words
from tabveil.samplers import bernoulli

UNIT_PARTS = 64
"""Units of a larger table are told apart in this many parts, one after the other."""

_ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))


@dataclass(frozen=True, eq=False)
class ClippedSum:
    """A sum of vectors over a Poisson sample of units.

    Attributes:
      rate: the chance of each unit to be drawn, in (0, 1].
      clip: the longest vector, in L2 norm, above 0; inf where nothing is private.
      size: coordinates of a vector.
      most_units: units handed over at a time, for memory alone: the sum does not depend on it.
      total: gives the sum over the units it is handed, shape (size,), finite. Its arguments are the codes of their
        rows, shape (rows, columns), columns as `schema.modelled`, and for each row the position of its unit, from 0,
        rising. Each unit's vector must be a function of that unit's rows alone, no longer than `clip`.
    """

    rate: float
    clip: float
    size: int
    most_units: int
    total: Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]


@dataclass(frozen=True, eq=False)
class UnitRows:
    """Codes in memory, the rows of each unit together.

    Attributes:
      codes: shape (rows, columns), in a narrow type.
      starts: shape (units + 1,): unit i has the rows from starts[i] to starts[i + 1].
    """

    codes: Codes
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, columns: Sequence[Codes], owners: NDArray[np.int64] | None) -> UnitRows:
        """From the codes of every column and each row's unit; without units each row is one."""
        codes = np.stack(columns, axis=1)
        if owners is None:
            return cls(codes, np.arange(len(codes) + 1))
        order = np.argsort(owners, kind="stable")
        first = np.flatnonzero(np.diff(owners[order], prepend=-1, append=owners.max(initial=-1) + 1))
        return cls(codes[order], first)

    def drawn(self, asked: ClippedSum) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """A Poisson sample, `asked.most_units` units at a time: codes of rows, and the position of each row's unit."""
        chosen = np.flatnonzero(bernoulli(len(self.starts) - 1, asked.rate, secret_words))
        for start in range(0, len(chosen), asked.most_units):
            yield self._rows_of(chosen[start : start + asked.most_units])

    def _rows_of(self, units: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        counts = self.starts[units + 1] - self.starts[units]
        owners = np.repeat(np.arange(len(units)), counts)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.codes[self.starts[units][owners] + within].astype(np.int64), owners


def bounded_contributions(units: NDArray[Any], most: int) -> NDArray[np.int64]:
    """Positions of at most `most` rows of every unit, chosen evenly, in rising order.

    Privacy: which rows of a unit are kept depends on that unit's rows and on fresh entropy only, so adding or
      removing a unit changes at most `most` kept rows (trap A17). Rows without a unit count as one unit together,
      which protects them all.
    """
    numbers, _ = numbered(units)
    order = np.lexsort((secret_words(len(units)), numbers))
    ordered = numbers[order]
    start = np.searchsorted(ordered, ordered, side="left")
    return np.sort(order[np.arange(len(units)) - start < most])


def bounded_in_parts(high: NDArray[np.uint64], low: NDArray[np.uint64], most: int) -> NDArray[np.bool_]:
    """Which rows to keep, as `bounded_contributions`, of units named by 128 bits; one part of the units at a time.

    Args:
      high: shape (rows,), one half of each row's unit name, from `unit_names`.
      low: the other half.
      most: rows of one unit.
    """
    part = (high % np.uint64(UNIT_PARTS)).astype(np.uint8)
    kept = np.zeros(len(part), dtype=bool)
    for number in range(UNIT_PARTS):
        rows = np.flatnonzero(part == number)
        order = np.lexsort((low[rows], high[rows]))
        rows = rows[order]
        other = (np.diff(high[rows]) != 0) | (np.diff(low[rows]) != 0)
        kept[rows[bounded_contributions(np.append(0, np.cumsum(other))[: len(rows)], most)]] = True
    return kept


def unit_names(units: NDArray[np.object_], secrets: tuple[str, str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Two 64-bit numbers for every unit's text: SipHash under two secrets.

    Privacy: two units that shared both numbers would share their k rows, and then adding one could push out rows of the
      other: counts would move by 2k. The secrets are drawn anew for every fit, so no table can be written to bring that
      about; one unit meets another of n with a chance of at most n / 2^128, below 2^-94 for 10^10 units. That is far
      below any delta, and what is claimed for delta = 0 leaves it out (docs/generators.md). Tables that fit into memory
      tell units apart by their texts.
    """
    numbers, different = numbered(units)
    try:
        first, second = (pd.util.hash_array(different, hash_key=s, categorize=False) for s in secrets)
    except UnicodeEncodeError:  # half a character, in a frame
        texts = np.array([str(t).encode("utf-8", "surrogatepass") for t in different], dtype=object)
        first, second = (pd.util.hash_array(texts, hash_key=s, categorize=False) for s in secrets)
    return first[numbers], second[numbers]


def fresh_secrets() -> tuple[str, str]:
    """Two keys of 16 letters, 96 random bits each."""
    letters = _ALPHABET[(secret_words(32) % np.uint64(64)).astype(np.int64)]
    return "".join(letters[:16]), "".join(letters[16:])


def units_of(values: pd.Series) -> NDArray[np.object_]:
    """The unit of every row as text; rows without one share the name ""."""
    return np.asarray(texts_of(values).fillna("").to_numpy(dtype=object))


def bounded(units: NDArray[np.object_], most: int) -> NDArray[np.bool_]:
    """Which rows `bounded_contributions` keeps, shape (rows,)."""
    kept = np.zeros(len(units), dtype=bool)
    kept[bounded_contributions(units, most)] = True
    return kept
