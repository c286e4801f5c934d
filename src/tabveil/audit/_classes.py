"""Rows as small numbers, and rows that agree as classes: what every anonymity measure counts.

How cells are read is a `Policy`, and public: which columns an attacker knows, how numbers are cut into bins, what a
missing cell means. Bins lie between the schema's bounds or at edges that a person names; rows are never asked where to
cut. A number beyond its bounds is read as its column says (by default as the bound); a value the column does not allow
is one value of its own.

Privacy: reads real rows outside any budget, to number them; whatever is counted from these numbers is INTERNAL. No cell
value is kept: a class is a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil.audit.base import column_codes
from tabveil.columns import Column, Grid
from tabveil.encoding import Codes, Floats, parse, size
from tabveil.errors import DataError, UsageError
from tabveil.schema import Schema

BINS = 20
"""Bins of a column of numbers or dates where nobody says: five years for an age of 0 to 99. A judgement."""

MOST_BINS = 1_000
"""More are refused: step times bins must stay within 63 bits."""

LARGEST = 4
"""Size of the largest subset of quasi-identifiers that is tried, where nobody says."""

_ROOM = 4
"""Numbers are counted in a list while it has at most so many places per row, else by hashing."""

_SMALL = 4096
"""Keys that are to grow are renumbered without gaps where they have more places: the next step may then be a list."""

_FITS = 2**62

Missing = Literal["value", "drop"]
Cut = int | Sequence[Any] | None
Numbers = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What an attacker knows and how cells are read; nothing in it comes from rows.

    Attributes:
      quasi_identifiers: names of the columns he knows, at least one.
      sensitive: names of the columns he wants to learn, none of them a quasi-identifier.
      bins: how columns of numbers and dates are cut: into so many bins of equal width between their bounds (1 to
        MOST_BINS; a column with no more values than that stays as it is), or not at all (None). A mapping says it by
        name, where a list of values, ascending, is where each next bin begins; columns it does not name get BINS.
      missing: "value": a missing cell is a value like any other. "drop": rows with a missing quasi-identifier are left
        out, and rows with a missing sensitive cell from what is said of that column. Ordered distances have no place
        for it, and leave it out either way.
      largest: size of the largest subset tried, 1 or more.
    """

    quasi_identifiers: tuple[str, ...]
    sensitive: tuple[str, ...] = ()
    bins: int | Mapping[str, Cut] | None = BINS
    missing: Missing = "value"
    largest: int = LARGEST

    def __post_init__(self) -> None:
        for role in ("quasi_identifiers", "sensitive"):
            names = getattr(self, role)
            if isinstance(names, str):
                raise UsageError(f"A policy's {role!r} must be a list of column names.")
            object.__setattr__(self, role, tuple(names))
        if not self.quasi_identifiers:
            raise UsageError(
                "Anonymity is about quasi-identifiers and none is named: declare 'quasi_identifiers' in the schema, or "
                "name them in the policy."
            )
        if self.missing not in ("value", "drop"):
            raise UsageError("A policy's 'missing' must be 'value' or 'drop'.")
        if not _whole(self.largest, most=64):
            raise UsageError("A policy's 'largest' must be a whole number from 1 up: the size of a subset of columns.")
        if not isinstance(self.bins, Mapping) and self.bins is not None and not _whole(self.bins, most=MOST_BINS):
            raise UsageError(f"A policy's 'bins' must be 1 to {MOST_BINS:,}, None, or a mapping by column.")

    def cut(self, name: str) -> Cut:
        """How the column called `name` is cut."""
        return self.bins.get(name, BINS) if isinstance(self.bins, Mapping) else self.bins


def _whole(value: object, *, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


# ------------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, eq=False)
class Reader:
    """One column's cells as bins: 0 to `bins` - 1, then one number for missing and one for what is not allowed."""

    column: Column
    edges: Codes | None
    bins: int

    @classmethod
    def of(cls, column: Column, cut: Cut) -> Reader:
        """The reader of `column` under its cut.

        Raises:
          UsageError: the cut is neither a number of bins nor ascending edges inside the column's bounds.
          SchemaError: the column's bounds or categories are still to be learned.
        """
        column.require_known()
        if not isinstance(column, Grid) or cut is None:
            return cls(column, None, size(column))
        if not isinstance(cut, int):
            edges = _edges(column, cut)
            return cls(column, edges, len(edges) + 1)
        if not _whole(cut, most=MOST_BINS):
            raise UsageError(f"Column {column.name!r}: 'bins' must be 1 to {MOST_BINS:,}, a list of edges or None.")
        return cls(column, None, min(cut, size(column)))

    @property
    def missing(self) -> int:
        """The number of a missing cell; what is not allowed is one more."""
        return self.bins

    @property
    def cut(self) -> bool:
        """Whether different values share a number."""
        return self.edges is not None or self.bins != size(self.column)

    def read(self, values: pd.Series) -> Numbers:
        """Numbers of cells, shape (rows,), each 0 to bins + 1, in the smallest integers that hold them."""
        steps, values_ = column_codes(self.column, values), size(self.column)
        if self.edges is not None:
            bins = np.searchsorted(self.edges, steps, side="right")
        else:
            bins = steps * self.bins // values_ if self.cut else steps
        numbers = np.where(steps < values_, bins, steps - values_ + self.bins)
        return numbers.astype(np.min_scalar_type(-(self.bins + 2)))

    def note(self) -> str:
        """What is done to the column's numbers, for a reader; "" where nothing is."""
        bounds = {"declared": "declared bounds", "draft": "bounds that were read from rows (draft)"}
        if not self.cut:
            return ""
        if self.edges is not None:
            return f"cut at {len(self.edges)} named edges"
        between = bounds.get(self.column.source, "bounds bought under a budget")
        return f"cut into {self.bins} bins of equal width between {between}"


def _edges(column: Grid, cut: Sequence[Any]) -> Codes:
    """Steps at which the next bin begins, ascending."""
    listed = isinstance(cut, Sequence) and not isinstance(cut, str | bytes)
    steps, wrong = parse(column, pd.Series(list(cut) if listed else [], dtype=object))
    usable = 0 < len(steps) < MOST_BINS and not wrong.any() and steps[-1] < size(column) and (np.diff(steps) > 0).all()
    if not usable:
        raise UsageError(
            f"Column {column.name!r}: edges must be a list of {column.kind} values inside its bounds, each above the "
            "one before."
        )
    return steps


@dataclass(frozen=True, eq=False, repr=False)
class Cells:
    """A table as small numbers.

    Attributes:
      known: of each quasi-identifier, shape (rows,).
      hidden: of each sensitive column, shape (rows,); empty where they were not read.
      left_out: rows that are not among them, for a missing quasi-identifier.
    """

    known: tuple[Numbers, ...]
    hidden: tuple[Numbers, ...]
    left_out: int

    def __len__(self) -> int:
        return len(self.known[0])


class View:
    """A schema's columns under a policy.

    Raises:
      UsageError: a name is no learned column of the schema, comes twice, or is both known and sensitive.
    """

    def __init__(self, schema: Schema, policy: Policy) -> None:
        self.policy = policy
        _check(schema, policy)
        self.known = tuple(Reader.of(schema[n], policy.cut(n)) for n in policy.quasi_identifiers)
        self.hidden = tuple(Reader.of(schema[n], policy.cut(n)) for n in policy.sensitive)

    def read(self, frame: pd.DataFrame, *, role: str, hidden: bool = True) -> Cells:
        """The rows of the table called `role`; sensitive columns only where `hidden`.

        Raises:
          DataError: a column that is read is not in the table, or twice.
        """
        readers = self.known + (self.hidden if hidden else ())
        for reader in readers:
            times = frame.columns.tolist().count(reader.column.name)
            if times != 1:
                said = "has more than once" if times else "lacks"
                raise DataError(f"The {role} table {said} column {reader.column.name!r}: the audit is told to read it.")
        numbers = tuple(r.read(frame[r.column.name]) for r in readers)
        kept = np.ones(len(frame), dtype=bool)
        if self.policy.missing == "drop":
            for reader, known in zip(self.known, numbers, strict=False):
                kept &= known != reader.missing
        if not kept.all():
            numbers = tuple(n[kept] for n in numbers)
        return Cells(numbers[: len(self.known)], numbers[len(self.known) :], int((~kept).sum()))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each quasi-identifier may have."""
        return tuple(r.bins + 2 for r in self.known)

    def notes(self, *readers: Reader) -> tuple[str, ...]:
        """How the cells of `readers` are read, one sentence for each way."""
        ways: dict[str, list[str]] = {}
        for reader in readers:
            ways.setdefault(reader.note(), []).append(repr(reader.column.name))
        said = [f"{', '.join(names)}: {way}." for way, names in ways.items() if way]
        missing = "a value like any other" if self.policy.missing == "value" else "left out with its row"
        return (*said, f"A missing cell is {missing}.")


def _check(schema: Schema, policy: Policy) -> None:
    learned = {c.name for c in schema.learned}
    names = policy.quasi_identifiers + policy.sensitive
    for name in names:
        if name not in learned:
            raise UsageError(
                f"{str(name)[:60]!r} cannot be a quasi-identifier or sensitive: it must be a column of schema "
                f"{schema.name!r} that is no identifier."
            )
        if names.count(name) > 1:
            raise UsageError(f"Column {name!r} is named twice: name it once, as quasi-identifier or as sensitive.")
    if isinstance(policy.bins, Mapping):
        for name in policy.bins:
            if name not in names or not isinstance(schema[name], Grid):
                raise UsageError(
                    f"'bins' names {str(name)[:60]!r}: only quasi-identifiers and sensitive columns of numbers or "
                    "dates are cut."
                )


# ------------------------------------------------------------------------------------------------------------- classes


def _joined(key: Codes, domain: int, *, code: Numbers, places: int) -> tuple[Codes, int]:
    """One number for each pair of a key below `domain` and a code below `places`, and what it is below."""
    if domain * places > _FITS:
        key, domain = packed(key, domain)
    if domain * places > _FITS:
        code, places = packed(code.astype(np.int64), places)
    return key * places + code, domain * places


def packed(key: Codes, domain: int) -> tuple[Codes, int]:
    """Keys below `domain` renumbered from 0 up without gaps, shape (n,), and how many there are."""
    if domain <= _ROOM * len(key) + 1024:
        found = np.bincount(key, minlength=domain) > 0
        return (np.cumsum(found) - 1)[key], int(found.sum())
    numbers, different = pd.factorize(key)
    return np.asarray(numbers, dtype=np.int64), len(different)


@dataclass(frozen=True, eq=False, repr=False)
class Classes:
    """The classes that rows of several tables fall into: rows of one class agree in every quasi-identifier.

    Attributes:
      codes: what a class shows in each quasi-identifier, shape (classes,).
      sizes: codes of each lie below this.
      of: the class of each row, by table, shape (rows,).
      rows: how many rows of a table are in each class, by table, shape (classes,); at least one table has some.
    """

    codes: tuple[Numbers, ...]
    sizes: tuple[int, ...]
    of: Mapping[str, Codes]
    rows: Mapping[str, Codes]

    @classmethod
    def joint(cls, tables: Mapping[str, tuple[Numbers, ...]], sizes: tuple[int, ...]) -> Classes:
        """The classes of tables given by the codes of their quasi-identifiers, numbered alike in all."""
        codes = tuple(np.concatenate(pieces) for pieces in zip(*tables.values(), strict=True))
        number, count = _numbered(codes, sizes)
        example = np.zeros(count, dtype=np.int64)
        example[number] = np.arange(len(number))
        ends = np.cumsum([len(known[0]) for known in tables.values()])[:-1]
        of = dict(zip(tables, np.split(number, ends), strict=True))
        rows = {name: np.bincount(part, minlength=count) for name, part in of.items()}
        return cls(tuple(c[example] for c in codes), sizes, of, rows)

    def within(self, subset: Sequence[int]) -> Classes:
        """The coarser classes of rows that agree in the quasi-identifiers at these positions."""
        codes, sizes = tuple(self.codes[i] for i in subset), tuple(self.sizes[i] for i in subset)
        coarse, count = _numbered(codes, sizes)
        example = np.zeros(count, dtype=np.int64)
        example[coarse] = np.arange(len(coarse))
        rows = {name: _added(coarse, count, rows=rows) for name, rows in self.rows.items()}
        return Classes(tuple(c[example] for c in codes), sizes, {t: coarse[of] for t, of in self.of.items()}, rows)

    def subsets(self, largest: int, tables: Sequence[str]) -> Iterator[tuple[tuple[int, ...], tuple[Floats, ...]]]:
        """Each subset of at most `largest` quasi-identifiers once, ascending, in no order among subsets, with rows per
        class of each of `tables` under it: whole numbers, aligned with each other; a class may have no row.
        """
        kept = np.add.reduce([self.rows[t] for t in tables]) > 0
        # Columns of many values come first, so that the last step, of which there are most, adds few places to a key.
        order = sorted(range(len(self.sizes)), key=lambda i: -self.sizes[i])
        codes, sizes = [self.codes[i][kept] for i in order], [self.sizes[i] for i in order]
        search = _Search(codes, sizes, [self.rows[t][kept] for t in tables], largest)
        for subset, rows in search.grown((), key=np.zeros(int(kept.sum()), dtype=np.int64), domain=1):
            yield tuple(sorted(order[i] for i in subset)), rows


def _numbered(codes: Sequence[Numbers], sizes: Sequence[int]) -> tuple[Codes, int]:
    key, domain = np.zeros(len(codes[0]), dtype=np.int64), 1
    for code, places in zip(codes, sizes, strict=True):
        key, domain = _joined(key, domain, code=code, places=places)
    return packed(key, domain)


def _added(key: Codes, count: int, *, rows: Codes) -> Codes:
    """Rows added up by key. Sums in doubles are exact below 2^53."""
    return np.bincount(key, weights=rows, minlength=count).astype(np.int64)


@dataclass(frozen=True, eq=False, repr=False)
class _Search:
    codes: Sequence[Numbers]
    sizes: Sequence[int]
    rows: Sequence[Codes]
    largest: int

    def grown(
        self, subset: tuple[int, ...], *, key: Codes, domain: int
    ) -> Iterator[tuple[tuple[int, ...], tuple[Floats, ...]]]:
        """`subset` with one more column, and these with more: keys of a subset are made from those of its beginning."""
        for more in range(subset[-1] + 1 if subset else 0, len(self.codes)):
            finer, places = _joined(key, domain, code=self.codes[more], places=self.sizes[more])
            grows = len(subset) + 1 < self.largest
            if places > (_SMALL if grows else _ROOM * len(key) + 1024):
                finer, places = packed(finer, places)
            counts = (np.bincount(finer, weights=rows, minlength=places) for rows in self.rows)
            yield (*subset, more), tuple(np.asarray(rows, dtype=np.float64) for rows in counts)
            if grows:
                yield from self.grown((*subset, more), key=finer, domain=places)
