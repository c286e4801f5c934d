"""A column read as several tokens: the cell of a number and the place within it; weeks, weekday and hour of a date.

    axis, spelling = spelled(coarse, shares)
    tokens = spelling.tokens[axis.cells(codes)]

A coarse cell says little of a number: two columns that nearly agree would agree in their cells and in nothing else. So
an axis is cut finer, and each of its finer cells is *spelled* by several tokens, each of few values: the coarse cell
first, then the place within it (pieces of about equal mass), then for dates the weekday and for points in time the hour
of the day. A spelling is one to one, and not every combination is a spelling: of a week that the bounds cut some days
are none. What is left within a finer cell follows the axis' leaves.

Privacy: a function of public definitions and of axes and shares that come from charged counts. No row is seen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeGuard

import numpy as np

from tabveil.columns import Categorical, Column, Date, Datetime, Grid
from tabveil.encoding import Axis, Codes, Floats, second_zero, size

Dated = Date | Datetime

PLACES = 16
"""Most pieces that a cell of a number column is cut into."""

FEW = 4
"""Cells with fewer pieces than this tell hardly less than their values."""

LEAST_WIDE = 0.1
"""A column gets places where at least this share of its rows is in cells of at least FEW pieces, of dates of 2."""

DAY, WEEK = 86_400, 7 * 86_400
"""In seconds."""

MONDAY = 3 * DAY
"""From the Monday before 1970, a Thursday."""

RAKING = 5
"""Rounds of `raked`."""

LEAST_WEEKS = 2
"""A column of dates that spans less is read as numbers are."""

MOST_LEAVES = 2**18
"""Days, or hours, beyond which a column of dates is not cut at them: 717 years of days, 30 of hours."""

MOST_TOKENS = 128
"""Of a table: what a network holds and learns grows with their square."""

LEAST = 1e-6
"""No spelling is expected less often than this, after what is before its last token."""


# ---------------------------------------------------------------------------------------------------------- spellings
@dataclass(frozen=True, eq=False)
class Spelling:
    """How the cells of an axis are spelled.

    Attributes:
      tokens: shape (cells, tokens), rows that differ; the first token's values are all used.
      sizes: shape (tokens,), how many values each token has.
    """

    tokens: Codes
    sizes: tuple[int, ...]

    @classmethod
    def whole(cls, cells: int) -> Spelling:
        """Every cell its own token."""
        return cls(np.arange(cells)[:, None], (cells,))

    @cached_property
    def _begins(self) -> list[Codes]:
        """Of each number of tokens, from none to all, a number for what each cell begins with; shape (cells,)."""
        cells, count = self.tokens.shape
        some = [_numbers(self.tokens[:, :n], self.sizes[:n])[1] for n in range(1, count)]
        return [np.zeros(cells, dtype=np.int64), *some, np.arange(cells)]

    @cached_property
    def steps(self) -> tuple[Codes, ...]:
        """For each token: what a beginning becomes with it, shape (beginnings, values), -1 where it becomes nothing;
        the last step gives cells.
        """
        found = []
        for n, values in enumerate(self.sizes):
            before, after = self._begins[n], self._begins[n + 1]
            step = np.full((int(before.max(initial=0)) + 1, values), -1, dtype=np.int64)
            step[before, self.tokens[:, n]] = after
            found.append(step)
        return tuple(found)

    def chances(self, shares: Floats) -> tuple[Floats, ...]:
        """For each token: how likely its values are after a beginning, where cells have `shares`; as `steps`.
        Beginnings that never occur are followed by anything.
        """
        found = []
        for n, step in enumerate(self.steps):
            mass = np.zeros(step.shape)
            np.add.at(mass, (self._begins[n], self.tokens[:, n]), shares)
            mass = np.where((step >= 0) & (mass.sum(1, keepdims=True) <= 0), 1.0, mass)
            found.append(mass / mass.sum(1, keepdims=True))
        return tuple(found)

    def margins(self, shares: Floats) -> tuple[Floats, ...]:
        """For each token how likely its values are, shape (values,), where cells have `shares`."""
        return tuple(
            np.bincount(self.tokens[:, n], shares, minlength=values).astype(np.float64)
            for n, values in enumerate(self.sizes)
        )

    def lifts(self, shares: Floats) -> tuple[Floats, ...]:
        """For each token: logarithm of how much likelier its values are after a beginning than anyhow, as `steps`;
        minus infinity where there is no such spelling, 0 for the first token.
        """
        found = [np.zeros(self.steps[0].shape)]
        pairs = zip(self.steps, self.chances(shares), self.margins(shares), strict=True)
        for step, chances, margin in list(pairs)[1:]:
            lift = np.log(np.maximum(chances, LEAST)) - np.log(np.maximum(margin, LEAST))
            found.append(np.where(step >= 0, lift, -np.inf))
        return tuple(found)

    def along(self, tables: Sequence[Floats]) -> Floats:
        """Product of what `tables`, one for each token as `steps`, say along each cell's spelling; shape (cells,)."""
        found = np.ones(len(self.tokens))
        for n, table in enumerate(tables):
            found = found * table[self._begins[n], self.tokens[:, n]]
        return found

    def masks(self, evidence: Floats) -> tuple[Floats, ...]:
        """For each token: weights by which its chances are multiplied, as `steps`, from 0 to 1; along a spelling they
        multiply to the cell's `evidence`.

        A beginning counts as its best cell, so that little is thrown away.
        """
        best = [np.zeros(int(b.max(initial=0)) + 1) for b in self._begins]
        for most, begin in zip(best, self._begins, strict=True):
            np.maximum.at(most, begin, evidence)
        best[0] = np.ones(1)
        found = []
        for n, step in enumerate(self.steps):
            after = np.where(step >= 0, best[n + 1][step], 0.0)
            found.append(np.divide(after, best[n][:, None], out=np.zeros_like(after), where=best[n][:, None] > 0))
        return tuple(found)


# --------------------------------------------------------------------------------------------------------------- axes
@dataclass(frozen=True, eq=False)
class Written:
    """Columns cut as finely as their tokens tell.

    Attributes:
      axes: one per column.
      spellings: of their cells.
      shares: how likely these are, one array per column.
    """

    axes: tuple[Axis, ...]
    spellings: tuple[Spelling, ...]
    shares: tuple[Floats, ...]

    @classmethod
    def of(cls, axes: Sequence[Axis], shares: Sequence[Floats], *, parts: bool = True, places: bool = True) -> Written:
        """Coarse `axes`, whose cells have `shares`, as `spelled`; where not `parts`, every cell one token.

        Without `places` only dates are more than one. Where that makes more than MOST_TOKENS, numbers stay as they are,
        and dates too if there are still more.
        """
        numbers = ((True, False) if places else (False,)) if parts else ()
        for too in numbers:
            apart = [calendar(a.column) or (too and isinstance(a.column, Grid)) for a in axes]
            found = cls._of(axes, shares, apart, places=places)
            if len(found.sizes) <= MOST_TOKENS:
                return found
        return cls._of(axes, shares, [False] * len(axes), places=places)

    @classmethod
    def _of(cls, axes: Sequence[Axis], shares: Sequence[Floats], apart: Sequence[bool], *, places: bool) -> Written:
        fine, spellings, own = [], [], []
        for axis, share, several in zip(axes, shares, apart, strict=True):
            finer, spelling = spelled(axis, share, places=places) if several else (axis, Spelling.whole(axis.size))
            fine.append(finer)
            spellings.append(spelling)
            own.append(share if len(spelling.sizes) == 1 else _joint(finer, share, spelling))
        return cls(tuple(fine), tuple(spellings), tuple(own))

    def drawn(self, coarse: Codes, rng: np.random.Generator) -> Codes:
        """Tokens, shape (rows, tokens), drawn given the first of each column: `coarse`, shape (rows, columns)."""
        found = []
        for cells, axis, spelling, shares in zip(coarse.T, self.axes, self.spellings, self.shares, strict=True):
            within = replace(axis, cell=spelling.tokens[axis.cell, 0], weight=axis.shares * shares[axis.cell])
            found.append(
                spelling.tokens[axis.cells(within.draw(cells, rng))] if len(spelling.sizes) > 1 else cells[:, None]
            )
        return np.concatenate(found, axis=1)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each token has."""
        return tuple(n for s in self.spellings for n in s.sizes)

    @property
    def margins(self) -> list[Floats]:
        """How likely each token's values are."""
        return [m for s, p in zip(self.spellings, self.shares, strict=True) for m in s.margins(p)]

    @property
    def columns(self) -> tuple[int, ...]:
        """The column of each token; nothing where every column is one."""
        found = tuple(i for i, s in enumerate(self.spellings) for _ in s.sizes)
        return () if len(found) == len(self.spellings) else found

    @property
    def ordered(self) -> tuple[bool, ...]:
        """Whether a token's neighbouring values are alike."""
        kinds = [
            isinstance(c, Grid) or (isinstance(c, Categorical) and c.ordered) for c in (a.column for a in self.axes)
        ]
        return tuple(kind for kind, s in zip(kinds, self.spellings, strict=True) for _ in s.sizes)


def spelled(axis: Axis, shares: Floats, *, places: bool = True) -> tuple[Axis, Spelling]:
    """The axis cut finer, and how its new cells are spelled; as it is, one token a cell, where no token would help.

    Args:
      axis: coarse.
      shares: how likely each of its cells is, shape (cells,).
      places: whether places within cells are told apart.
    """
    if not isinstance(axis.column, Grid):
        return axis, Spelling.whole(axis.size)
    fine, place, later = _of_dates(axis, axis.column) if calendar(axis.column) else _of_numbers(axis)
    if places and _wide(fine, place, shares, 2 if later else FEW):
        later = [place, *later]
    if not later:
        return axis, Spelling.whole(axis.size)
    return _joined(axis, fine, np.stack([fine.cell, *later], axis=1))


def _of_numbers(axis: Axis) -> tuple[Axis, Codes, list[Codes]]:
    """The axis with leaves that lie within tokens, and for each leaf its place and what comes after that."""
    cuts = _places(axis)
    fine = cut(axis, cuts)
    return fine, _numbered(fine, cuts), []


def _of_dates(axis: Axis, column: Dated) -> tuple[Axis, Codes, list[Codes]]:
    """`_of_numbers` of a column of dates, whose places are of whole weeks."""
    weeks = _first_codes(column, WEEK, _places(axis))
    fine = cut(axis, np.union1d(weeks, day_edges(column)))
    return fine, _numbered(fine, weeks), _calendar(fine, column)


def _joint(axis: Axis, shares: Floats, spelling: Spelling) -> Floats:
    """How likely the cells of a `spelled` axis are where the cells that it was made of have `shares`."""
    mass = np.bincount(axis.cell, axis.weight, minlength=axis.size)
    return np.asarray(shares[spelling.tokens[:, 0]] * mass)


def cut(axis: Axis, edges: Codes) -> Axis:
    """The axis with leaves cut at `edges` too; weights are shares of the cells."""
    inner = np.union1d(axis.edges, edges[(edges > axis.edges[0]) & (edges < axis.edges[-1])])
    old = np.searchsorted(axis.edges, inner[:-1], side="right") - 1
    weight = axis.shares[old] * (np.diff(inner) / np.diff(axis.edges)[old])
    if axis.column.nullable:
        old, weight = np.append(old, axis.leaves - 1), np.append(weight, axis.shares[-1])
    return Axis(axis.column, inner, axis.cell[old], weight)


def _joined(axis: Axis, fine: Axis, tokens: Codes) -> tuple[Axis, Spelling]:
    """Leaves with one row of `tokens` become one cell."""
    sizes = (axis.size, *(int(most) + 1 for most in tokens[:, 1:].max(0)))
    leaf, cell = _numbers(tokens, sizes)
    return replace(fine, cell=cell), Spelling(tokens[leaf], sizes)


def _numbers(tokens: Codes, sizes: tuple[int, ...]) -> tuple[Codes, Codes]:
    """Different rows of `tokens`, in their order: where each is first, and which each row is."""
    _, first, which = np.unique(np.ravel_multi_index(tuple(tokens.T), sizes), return_index=True, return_inverse=True)
    return first, which.astype(np.int64)


def _places(axis: Axis) -> Codes:
    """First codes of the second and later pieces of cells: at most PLACES of about equal mass in each cell."""
    present = axis.leaves - axis.column.nullable
    mass = np.concatenate([[0.0], np.cumsum(axis.shares[:present])])  # each cell adds 1
    wanted = np.arange(1, round(mass[-1]) * PLACES)
    wanted = wanted[wanted % PLACES > 0] / PLACES
    return np.unique(np.round(np.interp(wanted, mass, axis.edges)).astype(np.int64))


def _numbered(fine: Axis, cuts: Codes) -> Codes:
    """Which piece of its cell each leaf is in, from 1; 0 where a cell is one piece."""
    present = len(fine.edges) - 1
    piece, cell = np.searchsorted(cuts, fine.edges[:-1], side="right"), fine.cell[:present]
    first = np.full(fine.size, np.iinfo(np.int64).max)
    last = np.full(fine.size, -1)
    np.minimum.at(first, cell, piece)
    np.maximum.at(last, cell, piece)
    found = np.where(last[cell] > first[cell], piece - first[cell] + 1, 0)
    if not fine.column.nullable:
        return found
    missing = fine.cell[-1]  # a missing cell that was never seen is part of another
    return np.append(found, int(last[missing] > first[missing]))


def _wide(fine: Axis, places: Codes, shares: Floats, least: int) -> bool:
    """Whether enough rows are in cells of at least so many pieces."""
    pieces = np.zeros(fine.size, dtype=np.int64)
    np.maximum.at(pieces, fine.cell, places)
    return float(shares[: fine.size][pieces >= least].sum()) >= LEAST_WIDE


# ----------------------------------------------------------------------------------------------------------- calendar
def calendar(column: Column) -> TypeGuard[Dated]:
    """Whether the column's values have weekdays that tell something: dates and times over LEAST_WEEKS, every day at
    least.
    """
    if not isinstance(column, Date | Datetime) or _step(column) > DAY:
        return False
    span = column.units * _step(column)
    return LEAST_WEEKS * WEEK <= span <= MOST_LEAVES * DAY


def _hours(column: Dated) -> bool:
    """Whether hours of the day are told apart."""
    return isinstance(column, Datetime) and _step(column) < DAY and column.units * _step(column) <= MOST_LEAVES * 3_600


def _step(column: Dated) -> int:
    """Seconds of one step."""
    return column.resolution if isinstance(column, Datetime) else DAY


def _first_codes(column: Dated, period: int, codes: Codes | None = None) -> Codes:
    """First code of every period of so many seconds, counted from a Monday; of those in which `codes` are, if given."""
    start, step, units = second_zero(column) + MONDAY, _step(column), size(column)
    if codes is None:
        periods = np.arange(start // period, (start + (units - 1) * step) // period + 1)
    else:
        periods = np.unique((start + codes * step) // period)
    first = -(-(periods * period - start) // step)
    return np.asarray(first[(first > 0) & (first < units)], dtype=np.int64)


def day_edges(column: Dated) -> Codes:
    """Codes at which a day begins, or an hour where hours are told apart."""
    return _first_codes(column, 3_600 if _hours(column) else DAY)


def week_edges(column: Dated) -> Codes:
    """Codes at which a week begins."""
    return _first_codes(column, WEEK)


def _calendar(fine: Axis, column: Dated) -> list[Codes]:
    """Weekday of each leaf, from Monday, 0; and its hour. A missing leaf has one more of each."""
    moment = second_zero(column) + MONDAY + fine.edges[:-1] * _step(column)
    parts = [(moment // DAY % 7, 7)]
    if _hours(column):
        parts.append((moment % DAY // 3_600, 24))
    return [np.append(part, none) if column.nullable else part for part, none in parts]


def calendar_parts(column: Column) -> tuple[str, ...]:
    """What may have to be counted of a column of dates beside its cells, by public knowledge alone: the same before and
    after bounds are learned.
    """
    if not isinstance(column, Date | Datetime):
        return ()
    if column.unknown or column.source != "declared":
        return ("weekdays", "hours") if isinstance(column, Datetime) else ("weekdays",)
    return (("weekdays", "hours") if _hours(column) else ("weekdays",)) if calendar(column) else ()


def calendar_axes(column: Column) -> list[Axis]:
    """What is counted of it, in the order of `calendar_parts`: weekdays, then hours."""
    if not calendar(column):
        return []
    edges = np.concatenate([[0], day_edges(column), [size(column)]])
    leaves = len(edges) - 1 + column.nullable
    even = Axis(column, edges, np.zeros(leaves, dtype=np.int64), np.ones(leaves))
    return [replace(even, cell=part) for part in _calendar(even, column)]


def raked(axis: Axis, shares: Floats, counts: Sequence[Floats]) -> Axis:
    """The axis cut at days, or hours, with weights under which its `calendar_axes` have these counts as nearly as its
    cells' `shares` allow.

    Args:
      axis: of a column of dates; any other stays as it is.
      shares: how likely its cells are.
      counts: at least 0, one array for each of the column's `calendar_axes`.
    """
    if not calendar(axis.column):
        return axis
    fine = cut(axis, day_edges(axis.column))
    parts = _calendar(fine, axis.column)
    for _ in range(RAKING):
        for part, wanted in zip(parts, counts, strict=True):
            mass = fine.shares * shares[fine.cell]
            found = np.bincount(part, mass, minlength=len(wanted)) * wanted.sum()
            fine = replace(
                fine, weight=mass * np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 0)[part]
            )
    return fine
