"""From a public schema to the coarse domain a model works on, by charged histograms only.

Numbers and dates are refined level by level, all columns in one pass over the rows per level: a column's grid is cut
into at most `BRANCHES` pieces, the pieces whose noisy count is large are cut again, and so on down to single values,
so that inflated values (the zeros of a capital gain) end as pieces of their own. The pieces are then joined, left to
right, into cells of about equal mass; a single value that heavy stays alone, an atom. Within a cell, rows are drawn
back by the pieces' noisy counts. Rare categories share one cell.

How many levels there are follows from the schema alone; how pieces are cut follows from noisy counts that are already
paid for.

Privacy: adaptive composition of charged histograms (`mechanisms.PrivateRows.counts`) with noise fixed in advance; all
else here is post-processing. Bounds, categories and resolutions are the schema's (traps A1, A2).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tabveil.columns import Categorical, Column, Discrete, Grid
from tabveil.encoding import Axis, Floats, size
from tabveil.mechanisms import PrivateRows
from tabveil.spelling import calendar, cut, day_edges, week_edges

BRANCHES = 16
"""Pieces one level cuts a piece into: five levels reach every value of a million-value column."""

LEARNED_LEVELS = 5
"""Histograms that refine a column whose bounds or decimals are bought: their number is settled before its values are
known."""

MOST_BRANCHES = 256
"""Most pieces that one level cuts a piece into."""

FLAT = 32
"""Columns with at most this many values are counted value by value in one level."""

CUT_NOISE = 3.0
"""A piece is cut again only when its count is above this many standard deviations of the noise."""

CLEAR_NOISE = 3.0
"""Of the first, widest pieces those below this many standard deviations of the noise count as empty: a handful of
rows invented far from all others would do more harm to means and models than a tail cut short."""

LEAST_SHARE = 0.001
"""A cell of a number column holds at least about this share of the rows, and a piece is cut again only when it does:
the values that many share (a capital gain of 99,999) tell most, however few of the rows they are."""

CELLS = (4, 64)
"""Least and greatest number of cells a number column is binned into where nobody says."""

PAIR_NOISE = 3.0
"""A pair of columns gets about as many cells as leave this many standard deviations of noise in each cell."""


def levels(column: Column) -> int:
    """How many histograms refining `column` takes: 0 for listed values, else until the pieces are single values.

    It is the same before and after bounds and decimals are learned, bought or not: LEARNED_LEVELS, whatever they
    turn out to be.
    """
    if isinstance(column, Discrete):
        return 0
    if column.unknown or column.source != "declared":
        return LEARNED_LEVELS
    values = size(column)
    return 1 if values <= FLAT else math.ceil(math.log(values) / math.log(BRANCHES) - 1e-9)


def branches(column: Grid) -> int:
    """Pieces one level cuts a piece into, so that `levels` of them end at single values: BRANCHES, more where a learned
    column turned out to have more values than that reaches, at most MOST_BRANCHES.
    """
    needed = math.ceil(math.exp(math.log(column.units) / levels(column)) - 1e-9)
    return min(max(BRANCHES, needed), MOST_BRANCHES)


def level_label(column: Column, level: int) -> str:
    """The label under which one refining histogram is charged."""
    return f"histogram of {brief(column)}, level {level + 1} of {levels(column)}"


def brief(column: Column) -> str:
    """A column's name for a label, at most 120 characters; a longer one is cut and told apart by a hash of the
    whole.
    """
    name = column.name
    if len(name) > 100:
        name = f"{name[:80]}... {hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return repr(name)


@dataclass(frozen=True, eq=False)
class Pieces:
    """A grid column cut into pieces with estimated counts: piece i holds codes edges[i] to edges[i + 1] - 1."""

    edges: NDArray[np.int64]
    counts: Floats


@dataclass(frozen=True, eq=False)
class _Level:
    """One histogram to be counted: the axis, and what is known of its pieces, None before the first level.

    Attributes:
      axis: pieces to be counted, each a cell; the others are in no cell.
      known: counts of all pieces, those to be counted holding 0.
      parents: for each cut piece, where its parts begin, how many they are, and its count.
    """

    axis: Axis
    known: Floats | None = None
    parents: tuple[tuple[int, int, float], ...] = ()


def refine(column: Grid, rows: PrivateRows, *, sigma: float) -> Pieces:
    """Pieces of `column`, cut where the mass is, down to single values.

    Args:
      column: the column.
      rows: private rows; one charged histogram per level, `level_label` names it.
      sigma: the noise of each histogram, for the decision whether to cut.
    """
    return refine_all([column], rows, sigma=sigma)[0]


def refine_all(columns: Sequence[Grid], rows: PrivateRows, *, sigma: float) -> list[Pieces]:
    """`refine` for several columns: one pass over the rows per level, all columns in it."""
    waiting = {i: _first(c) for i, c in enumerate(columns)}
    found: dict[int, Pieces] = {}
    level = 0
    while waiting:
        rows.tabulate([(w.axis,) for w in waiting.values()])
        for i, w in waiting.items():
            found[i] = _counted(w, rows.counts([w.axis], label=level_label(columns[i], level)), sigma)
        rows.forget([w.axis for w in waiting.values()])
        level += 1
        following = {i: _next(columns[i], found[i], level, sigma) for i in waiting}
        waiting = {i: w for i, w in following.items() if w is not None}
    return [found[i] for i in range(len(columns))]


def _first(column: Grid) -> _Level:
    edges = evenly(0, column.units, FLAT if column.units <= FLAT else branches(column))
    leaves = len(edges) - 1
    cell = np.arange(leaves + column.nullable)
    return _Level(Axis(column, edges, cell, np.ones(len(cell))))


def _counted(level: _Level, noisy: NDArray[np.int64], sigma: float) -> Pieces:
    """The pieces with their new counts: non-negative, the parts of a cut piece adding up to its old count."""
    if level.known is None:
        numbers = noisy[: len(level.axis.edges) - 1].astype(np.float64)
        return Pieces(level.axis.edges, settled(_cleared(numbers, sigma), float(numbers.sum())))
    counts, taken = level.known.copy(), 0
    for start, parts, count in level.parents:
        counts[start : start + parts] = settled(noisy[taken : taken + parts].astype(np.float64), count)
        taken += parts
    return Pieces(level.axis.edges, counts)


def _next(column: Grid, pieces: Pieces, level: int, sigma: float) -> _Level | None:
    """The heavy pieces cut; None where there are none, or no further level: the rest of the charge stays unused."""
    floor = max(CUT_NOISE * sigma, LEAST_SHARE * pieces.counts.sum())
    heavy = (pieces.counts > floor) & (np.diff(pieces.edges) > 1)
    return _cut(column, pieces, heavy) if level < levels(column) and heavy.any() else None


def _cleared(counts: Floats, sigma: float) -> Floats:
    """`counts` with those that do not stand out of the noise at 0, where any does."""
    out = counts > CLEAR_NOISE * sigma
    return np.where(out, counts, 0.0) if out.any() else counts


def evenly(low: int, high: int, branches: int) -> NDArray[np.int64]:
    """Edges of at most `branches` nearly equal pieces of the codes low to high - 1, in exact integer arithmetic."""
    width, steps = high - low, min(branches, high - low)
    return np.array([low + width * i // steps for i in range(steps + 1)], dtype=np.int64)


def _cut(column: Grid, pieces: Pieces, heavy: NDArray[np.bool_]) -> _Level:
    """The next histogram: the parts of the heavy pieces."""
    parts = [
        evenly(int(low), int(high), branches(column)) if cut else np.array([low, high])
        for low, high, cut in zip(pieces.edges[:-1], pieces.edges[1:], heavy, strict=True)
    ]
    widths = np.array([len(p) - 1 for p in parts])
    edges = np.concatenate([parts[0][:1], *[p[1:] for p in parts]])
    fresh = np.repeat(heavy, widths)
    missing = [-1] if column.nullable else []
    cell = np.append(np.where(fresh, np.cumsum(fresh) - 1, -1), missing).astype(np.int64)
    starts = np.cumsum(widths) - widths
    parents = [(int(starts[i]), int(widths[i]), float(pieces.counts[i])) for i in np.flatnonzero(heavy)]
    known = np.where(fresh, 0.0, np.repeat(pieces.counts, widths))
    return _Level(Axis(column, edges, cell, np.ones(len(cell))), known, tuple(parents))


def settled(counts: Floats, total: float) -> Floats:
    """Noisy `counts` as non-negative numbers that add up to `total`.

    Most pieces of a fine grid are empty: clipping their noise at zero would pile up rows there. An excess is taken
    off evenly (the nearest point of the simplex, Wang & Carreira-Perpinan 2013, Algorithm 1); a shortage is made up
    in proportion, so that empty pieces stay empty.
    """
    positive = np.maximum(counts, 0.0)
    if total <= 0:
        return np.zeros_like(counts)
    if positive.sum() <= total:
        return positive * (total / positive.sum()) if positive.any() else np.full_like(counts, total / len(counts))
    falling = np.sort(positive)[::-1]
    excess = (np.cumsum(falling) - total) / np.arange(1, len(counts) + 1)
    return np.asarray(np.maximum(positive - excess[np.flatnonzero(falling > excess)[-1]], 0.0))


def binned(column: Grid, pieces: Pieces, cells: int) -> Axis:
    """The axis that joins `pieces` into at most about `cells` cells of equal mass, heavy single values left alone.

    Missing, where the column may be missing, has a cell of its own, the last.
    """
    mass = weight = pieces.counts
    cell = np.arange(len(mass)) if len(mass) == size(column) <= FLAT else _equal_mass(mass, _goal(mass, cells))
    if column.nullable:
        cell, weight = np.append(cell, cell[-1] + 1), np.append(weight, 1.0)
    return Axis(column, pieces.edges, cell, weight)


def in_weeks(axis: Axis) -> Axis:
    """The `binned` axis of a column with a calendar, cut at days (and hours), and joined into about as many cells of
    whole weeks, of about equal mass; any other axis as it is.
    """
    if not calendar(axis.column):
        return axis
    total = np.bincount(axis.cell, axis.weight, minlength=axis.size)
    weeks = week_edges(axis.column)
    fine = cut(axis, np.union1d(weeks, day_edges(axis.column)))
    mass = fine.weight * total[fine.cell]
    week = np.searchsorted(weeks, fine.edges[:-1], side="right")
    weekly = np.bincount(week, mass[: len(week)]).astype(np.float64)
    cell = _equal_mass(weekly, _goal(weekly, axis.size))[week]
    if axis.column.nullable:
        cell = np.append(cell, cell[-1] + 1)
    return Axis(axis.column, fine.edges, cell, mass)


def _goal(mass: Floats, cells: int) -> float:
    """The mass of a cell: an even share of what single pieces that reach it leave over.

    Otherwise a column of zeros but for a tail would have the whole tail in a few cells.
    """
    alone = np.zeros(len(mass), dtype=bool)
    while True:
        goal = max(
            mass[~alone].sum() / max(cells - int(alone.sum()), 1), LEAST_SHARE * mass.sum(), np.finfo(float).tiny
        )
        reached = mass >= goal
        if not (reached & ~alone).any():
            return float(goal)
        alone |= reached


def _equal_mass(mass: Floats, goal: float) -> NDArray[np.int64]:
    """Cell numbers, rising from 0: a cell closes when it reaches `goal`; a piece that reaches it alone stays
    alone.
    """
    cell = np.zeros(len(mass), dtype=np.int64)
    number, held = 0, 0.0
    for i, m in enumerate(mass.tolist()):
        alone = m >= goal
        if i and (held >= goal or (alone and held > 0)):
            number, held = number + 1, 0.0
        cell[i] = number
        held += m
    return cell


def without_rare(axis: Axis, counts: Floats, threshold: float) -> tuple[Axis, NDArray[np.int64]]:
    """The axis with cells below `threshold` joined (listed values into one cell, neighbouring bins with each other),
    and the new cell of each old one.

    Cells joined are drawn back by their noisy counts (McKenna, Miklau, Sheldon 2021, "Winning the NIST contest", 3.3,
    draws them back evenly). The missing cell joins only other listed values. Of a learned column, where nobody has
    said that cells may be missing or that its categories are not all there are, a missing cell or catch-all below
    `threshold` counts as empty: it joins the largest cell and is never drawn.
    """
    if isinstance(axis.column, Categorical) and not axis.column.ordered:
        groups = _rare_together(counts, threshold)
    elif isinstance(axis.column, Discrete):
        groups = np.arange(axis.size)
    else:
        groups = _rare_with_neighbour(counts, threshold, fixed=1 if axis.column.nullable else 0)
    empty = _unseen(axis, counts, threshold)
    groups = _into_largest(groups, counts, empty)
    joined = axis.merged(groups)
    weight = np.maximum(counts[axis.cell], 0.0) if isinstance(axis.column, Discrete) else joined.weight
    return Axis(axis.column, joined.edges, joined.cell, np.where(empty[axis.cell], 0.0, weight)), groups


def _unseen(axis: Axis, counts: Floats, threshold: float) -> NDArray[np.bool_]:
    """Cells of a learned column that mean missing or anything else, and do not stand out."""
    column, unseen = axis.column, np.zeros(len(counts), dtype=bool)
    if column.source != "declared":
        other = isinstance(column, Categorical) and column.catch_all is not None
        unseen[len(unseen) - other - column.nullable :] = True
    unseen &= counts < threshold
    return unseen if not unseen.all() else np.zeros_like(unseen)


def _into_largest(groups: NDArray[np.int64], counts: Floats, empty: NDArray[np.bool_]) -> NDArray[np.int64]:
    """`groups` with the empty cells in the group of the largest other cell, numbered without gaps."""
    if not empty.any():
        return groups
    home = groups[int(np.where(empty, -np.inf, counts).argmax())]
    return np.unique(np.where(empty, home, groups), return_inverse=True)[1].astype(np.int64)


def _rare_together(counts: Floats, threshold: float) -> NDArray[np.int64]:
    rare = counts < threshold
    if rare.sum() < 2:
        return np.arange(len(counts))
    return np.where(rare, (~rare).sum(), np.cumsum(~rare) - 1)


def _rare_with_neighbour(counts: Floats, threshold: float, *, fixed: int) -> NDArray[np.int64]:
    """Ordered cells joined left to right until each group holds `threshold`; the last `fixed` cells stay as they
    are.
    """
    free = len(counts) - fixed
    groups = _at_least(counts[:free], threshold)
    return np.append(groups, groups.max(initial=-1) + 1 + np.arange(fixed)).astype(np.int64)


def _at_least(counts: Floats, threshold: float) -> NDArray[np.int64]:
    group = np.zeros(len(counts), dtype=np.int64)
    number, held = 0, 0.0
    for i, count in enumerate(counts.tolist()):
        group[i] = number
        held += count
        if held >= threshold:
            number, held = number + 1, 0.0
    if held < threshold and number:
        group[group == number] = number - 1
    return group


def cells_for(rows: float, sigma: float, *, noise: float = PAIR_NOISE, most: tuple[int, int] = CELLS) -> int:
    """Cells per number column, so that `rows` rows spread evenly over a pair of such columns stand out of noise
    `sigma`: `noise` standard deviations a cell; at least and at `most` so many.
    """
    return int(np.clip(math.sqrt(max(rows, 0.0) / (noise * sigma)), *most))


def start_axes(
    columns: Sequence[Column], rows: PrivateRows, *, sigma: float, cells: int | Callable[[float], int]
) -> list[Axis]:
    """One axis per column: listed values as they are, numbers refined and binned.

    Args:
      columns: the learned columns.
      rows: private rows, charged for `refine`.
      sigma: noise of each refining histogram.
      cells: how many cells a number column is binned into, or a function that says so from the (noisy) row count.
    """
    grids = [c for c in columns if isinstance(c, Grid)]
    refined = refine_all(grids, rows, sigma=sigma)
    pieces = {c.name: p for c, p in zip(grids, refined, strict=True)}
    total = float(np.median([p.counts.sum() for p in pieces.values()])) if pieces else 0.0
    wanted = cells if isinstance(cells, int) else cells(total)
    return [binned(c, pieces[c.name], wanted) if isinstance(c, Grid) else Axis.singles(c) for c in columns]
