"""Chains of inequalities x1 <= x2 <= ... between columns cut into cells: how likely they hold, and draws that obey.

Given its cell, a column's value follows its leaves: a leaf by its share, then evenly within it. All leaf edges of a
chain's columns together cut the line into segments, in each of which every column is even. Values in different
segments are ordered by them; r columns in one segment of n points form a run, and the ordered r-tuples of n points are
counted and drawn as r-subsets (of n points, and one more for each tie that is allowed). Summing over runs from the last
column to the first gives the probability that a chain holds; drawing runs from the first to the last by
those sums gives the exact conditional law. A missing member ends a chain: what stands before and after it is free.

Privacy: post-processing of axes, which hold public knowledge and charged counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabveil.encoding import Axis, Codes, Floats, size

EVEN = 1e-9
"""This share of every cell is spread over all its values: what bounds allow stays possible where counts saw nothing."""

BLOCK = 2_000_000
"""Numbers in one working array."""

FAR = 2**61
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Line:
    """One column on the common segments.

    Attributes:
      cell, share: shape (segments,), the cell that holds each segment (-1: none) and its share of that cell.
      missing: shape (cells,), how likely missing is within each cell.
    """

    cell: Ints
    share: Floats
    missing: Floats


class _Sums:
    """For each combination of cells, what the columns from each position on weigh; filled from the last position.

    Attributes:
      runs: per position shape (combinations, segments), where a run begins there in that segment.
      above: the same summed over all later segments.
      missing: per position shape (combinations,), where the column is missing.
    """

    def __init__(self, positions: int) -> None:
        self.positions = positions
        self.runs: dict[int, Floats] = {}
        self.above: dict[int, Floats] = {}
        self.missing: dict[int, Floats] = {}

    def put(self, position: int, runs: Floats, missing: Floats) -> None:
        """Set one position."""
        self.runs[position], self.missing[position] = runs, missing
        self.above[position] = np.maximum(runs[:, ::-1].cumsum(axis=1)[:, ::-1] - runs, 0.0)

    def beyond(self, position: int, at: tuple[Any, Any] = (slice(None), slice(None))) -> Floats:
        """Weight of the columns from `position` on, all beyond a segment: [combination, segment], or those of `at`."""
        if position == self.positions:
            return np.ones(1)
        rows = at[0] if isinstance(at[0], np.ndarray) else (slice(None), None)
        return np.asarray(self.above[position][at] + self.missing[position][rows])

    def total(self, position: int) -> Floats:
        """The same with nothing to lie beyond, shape (combinations,)."""
        if position == self.positions:
            return np.ones(1)
        return np.asarray(self.runs[position].sum(axis=1) + self.missing[position])


class Chain:
    """Columns each at most (or strictly below, where `strict` says so) the next.

    Args:
      axes: the columns as cut into cells, at least two, in rising order.
      origins: where code 0 of each lies on the common line.
      strict: for each pair of neighbours, whether they must differ.
    """

    def __init__(self, axes: Sequence[Axis], origins: Sequence[int], strict: Sequence[bool]) -> None:
        self.axes, self.origins, self.strict = tuple(axes), tuple(origins), tuple(strict)
        self.sizes = tuple(a.size for a in axes)
        self._edges = np.unique(np.concatenate([a.edges + o for a, o in zip(axes, origins, strict=True)]))
        self._widths = np.diff(self._edges)

    @cached_property
    def _lines(self) -> list[_Line]:
        return [self._line(a, o) for a, o in zip(self.axes, self.origins, strict=True)]

    def _line(self, axis: Axis, origin: int) -> _Line:
        pieces = len(axis.edges) - 1
        share = spread(axis)
        leaf = np.searchsorted(axis.edges + origin, self._edges[:-1], side="right") - 1
        inside = (leaf >= 0) & (leaf < pieces)
        leaf = np.where(inside, leaf, 0)
        part = self._widths / np.diff(axis.edges)[leaf]
        missing: Floats = np.bincount(
            np.maximum(axis.cell[pieces:], 0), weights=share[pieces:], minlength=axis.size
        ).astype(np.float64)
        return _Line(np.where(inside, axis.cell[leaf], -1), np.where(inside, share[leaf] * part, 0.0), missing)

    @cached_property
    def _spans(self) -> list[tuple[Ints, Ints]]:
        """Per column the least and greatest value of each cell; FAR and -FAR for a cell that only is missing."""
        spans = []
        for axis, origin in zip(self.axes, self.origins, strict=True):
            low, high = np.full(axis.size, FAR), np.full(axis.size, -FAR)
            cell = axis.cell[: len(axis.edges) - 1]
            np.minimum.at(low, cell[cell >= 0], (axis.edges[:-1] + origin)[cell >= 0])
            np.maximum.at(high, cell[cell >= 0], (axis.edges[1:] + origin - 1)[cell >= 0])
            spans.append((low, high))
        return spans

    def certain(self, cells: Ints) -> NDArray[np.bool_]:
        """Whether the chain holds for every value in `cells`, shape (rows, columns)."""
        found = np.ones(len(cells), dtype=np.bool_)
        for i, strict in enumerate(self.strict):
            found &= self._spans[i][1][cells[:, i]] + strict <= self._spans[i + 1][0][cells[:, i + 1]]
        return found

    def weights(self) -> Floats:
        """P(the chain holds | cells) for every combination of cells, shape `sizes`."""
        flat = np.ones(math.prod(self.sizes))
        step = max(1, BLOCK // len(self.sizes))
        for start in range(0, len(flat), step):
            cells = np.stack(np.unravel_index(np.arange(start, min(start + step, len(flat))), self.sizes), axis=1)
            open_ = np.flatnonzero(~self.certain(cells))
            flat[start + open_] = self._holding(cells[open_])
        return flat.reshape(self.sizes)

    def _holding(self, cells: Ints) -> Floats:
        step = max(1, BLOCK // len(self._widths))
        parts = [self._sums(cells[i : i + step]).total(0) for i in range(0, len(cells), step)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _sums(self, cells: Ints) -> _Sums:
        """Sums from the last column to the first, for each row of `cells`."""
        count = len(self.axes)
        share = [np.where(n.cell == cells[:, [i]], n.share, 0.0) for i, n in enumerate(self._lines)]
        sums = _Sums(count)
        for p in range(count - 1, -1, -1):
            runs, product = np.zeros_like(share[p]), np.ones_like(share[p])
            for end in range(p + 1, count + 1):
                product = product * share[end - 1]
                runs += product * self._ordered(p, end, self._widths) * sums.beyond(end)
            sums.put(p, runs, self._lines[p].missing[cells[:, p]] * sums.total(p + 1))
        return sums

    def _ties(self, start: int, end: int) -> int:
        """How many neighbours among the columns start to end - 1 may be equal."""
        return sum(not s for s in self.strict[start : end - 1])

    def _ordered(self, start: int, end: int, width: Ints) -> Floats:
        """P(columns start to end - 1 are ordered | all even over the same `width` points)."""
        points = width + self._ties(start, end)
        chance = np.ones(len(width))
        for i in range(end - start):
            chance = chance * np.maximum(points - i, 0) / ((i + 1.0) * width)
        return chance

    def draw(self, cells: Ints, rng: np.random.Generator) -> Codes:
        """Codes drawn given their cells, shape (rows, columns), under the condition that the chain holds.

        Where it cannot hold, each column is drawn on its own.
        """
        codes = np.stack([a.draw(cells[:, i], rng) for i, a in enumerate(self.axes)], axis=1)
        rows = np.flatnonzero(~self.certain(cells))
        if not len(rows):
            return codes
        combination, which = np.unique(np.ravel_multi_index(cells[rows].T, self.sizes), return_inverse=True)
        distinct = np.stack(np.unravel_index(combination, self.sizes), axis=1)
        order = np.argsort(which, kind="stable")
        step = max(1, BLOCK // len(self._widths))
        for start in range(0, len(distinct), step):
            first, last = np.searchsorted(which[order], [start, start + step])
            block = order[first:last]
            sums = self._sums(distinct[start : start + step])
            possible = sums.total(0)[which[block] - start] > 0
            block = block[possible]
            drawn = _Walk(self, distinct[start : start + step], sums).draw(which[block] - start, rng)
            codes[rows[block]] = drawn
        return codes


class _Walk:
    """Draws runs from the first column to the last."""

    def __init__(self, chain: Chain, cells: Ints, sums: _Sums) -> None:
        self._chain, self._cells, self._sums = chain, cells, sums

    def draw(self, which: Ints, rng: np.random.Generator) -> Codes:
        """Codes for rows whose combination of cells is `which`, shape (rows, columns)."""
        chain, count = self._chain, len(self._chain.axes)
        codes = np.zeros((len(which), count), dtype=np.int64)
        behind, ready = np.full(len(which), -1), np.zeros(len(which), dtype=np.int64)
        for p in range(count):
            rows = np.flatnonzero(ready == p)
            segment = self._segment(p, (which[rows], behind[rows]), rng)
            gone = segment < 0
            codes[rows[gone], p] = size(chain.axes[p].column)
            behind[rows], ready[rows] = segment, p + 1
            kept, segment = rows[~gone], segment[~gone]
            ends = self._end(p, (which[kept], segment), rng)
            for end in range(p + 1, count + 1):
                chosen = ends == end
                codes[kept[chosen], p:end] = self._values(p, end, segment[chosen], rng)
            ready[kept] = ends
        return codes

    def _segment(self, p: int, at: tuple[Ints, Ints], rng: np.random.Generator) -> Ints:
        """Where a run beginning at column `p` lies, beyond the segment at[1] (-1: anywhere); -1 for missing."""
        which, behind = at
        runs, sums = self._sums.runs[p], self._sums
        whole = np.where(runs.sum(axis=1) > 0, runs.sum(axis=1), 1.0)
        ends = np.cumsum(runs / whole[:, None], axis=1)
        passed = np.where(behind >= 0, ends[which, behind], 0.0)
        tail = ends[which, -1] - passed
        missing = sums.missing[p][which] / whole[which]
        spot = rng.random(len(which)) * (tail + missing)
        flat = (ends + 2.0 * np.arange(len(ends))[:, None]).ravel()
        found = np.searchsorted(flat, passed + spot + 2.0 * which, side="right") - which * runs.shape[1]
        last = runs.shape[1] - 1 - (runs[:, ::-1] > 0).argmax(axis=1)
        gone = (missing > 0) & (spot >= tail)
        return np.asarray(np.where(gone, -1, np.minimum(found, last[which])))

    def _end(self, p: int, at: tuple[Ints, Ints], rng: np.random.Generator) -> Ints:
        """The column before which a run that begins at `p`, in the combination and segment of `at`, ends."""
        chain, (which, segment) = self._chain, at
        product, weights = np.ones(len(which)), []
        for end in range(p + 1, len(chain.axes) + 1):
            line = chain._lines[end - 1]
            product = product * np.where(line.cell[segment] == self._cells[which, end - 1], line.share[segment], 0.0)
            chance = chain._ordered(p, end, chain._widths[segment])
            weights.append(product * chance * self._sums.beyond(end, at))
        ends = np.cumsum(weights, axis=0)
        spot = rng.random(len(which)) * ends[-1]
        return np.asarray(p + 1 + (ends[:-1] <= spot).sum(axis=0), dtype=np.int64)

    def _values(self, start: int, end: int, segment: Ints, rng: np.random.Generator) -> Codes:
        """Ordered points of a segment for the columns start to end - 1, as codes."""
        chain = self._chain
        ties = np.cumsum([0, *(not s for s in chain.strict[start : end - 1])])
        points = chain._widths[segment] + ties[-1]
        values = subsets(points, end - start, rng) - ties + chain._edges[segment][:, None]
        return np.asarray(values - np.array(chain.origins[start:end]))


def subsets(points: Ints, count: int, rng: np.random.Generator) -> Ints:
    """For each row an even draw of `count` of the numbers 0 to points - 1, rising (Floyd; Bentley & Floyd 1987)."""
    chosen = np.zeros((len(points), count), dtype=np.int64)
    for i in range(count):
        top = points - count + i
        drawn = rng.integers(0, top + 1)
        taken = (chosen[:, :i] == drawn[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, top, drawn)
    return np.sort(chosen, axis=1)


def between(axis: Axis, cells: Codes, span: tuple[Codes, Codes], rng: np.random.Generator) -> Codes:
    """Codes drawn for `cells`, shape (rows,), given that each is missing or in its `span`, least and greatest code.

    What `axis.draw` puts inside is kept and the rest drawn from the part inside: together the conditional law. Where a
    cell has nothing inside, a code outside stays.
    """
    codes = axis.draw(cells, rng)
    low, high = span
    outside = np.flatnonzero((codes != size(axis.column)) & ((codes < low) | (codes > high)))
    step = max(1, BLOCK // axis.leaves)
    for rows in (outside[i : i + step] for i in range(0, len(outside), step)):
        codes[rows] = _inside(axis, cells[rows], (low[rows], high[rows]), codes[rows], rng)
    return codes


def _inside(axis: Axis, cells: Codes, span: tuple[Codes, Codes], otherwise: Codes, rng: np.random.Generator) -> Codes:
    """Codes from the part of each cell that lies in its span; `otherwise` where there is none."""
    pieces = len(axis.edges) - 1
    least = np.maximum(axis.edges[:-1], span[0][:, None])
    room = np.maximum(np.minimum(axis.edges[1:] - 1, span[1][:, None]) - least + 1, 0)
    part = np.hstack([room / np.diff(axis.edges), np.ones((len(cells), axis.leaves - pieces))])
    weight = np.where(axis.cell == cells[:, None], part * spread(axis), 0.0)
    ends = np.cumsum(weight, axis=1)
    spot = rng.random(len(cells)) * ends[:, -1]
    last = axis.leaves - 1 - (weight[:, ::-1] > 0).argmax(axis=1)
    leaf = np.minimum((ends <= spot[:, None]).sum(axis=1), last)
    rows, shown = np.arange(len(cells)), np.minimum(leaf, pieces - 1)
    codes = least[rows, shown] + rng.integers(0, np.maximum(room[rows, shown], 1))
    return np.where(ends[:, -1] > 0, np.where(leaf < pieces, codes, size(axis.column)), otherwise)


def spread(axis: Axis) -> Floats:
    """The share of each leaf in its cell, EVEN of it spread over all values."""
    widths = np.append(np.diff(axis.edges), np.ones(axis.leaves - len(axis.edges) + 1))
    counted = axis.cell >= 0
    wide = np.bincount(np.maximum(axis.cell, 0), weights=np.where(counted, widths, 0.0), minlength=axis.size)
    even = np.where(counted, widths / np.maximum(wide, 1.0)[np.maximum(axis.cell, 0)], 0.0)
    return (1 - EVEN) * axis.shares + EVEN * even
