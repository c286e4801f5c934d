"""Exact counts of many marginals in one pass over blocks of cells.

Marginals that overlap are counted together in one joint histogram where it stays small enough for the processor's
cache, and summed out of it at the end. A joint histogram takes an index and a `np.bincount` per block; two threads
share the histograms, since both let go of the interpreter's lock. `benchmarks/README.md` compares it with SQL engines.

Privacy: arithmetic on cells that `mechanisms` read; what is counted here is exact and must not leave `mechanisms`. A
row adds 1 to one cell of a marginal, or to none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tabveil.encoding import Axis, Codes, size

TOGETHER = 2**16
"""Marginals are counted together while their joint histogram has at most this many cells: half a megabyte."""

THREADED_ROWS = 2**17
"""Blocks with fewer rows are counted at once: handing them over would take longer."""

THREADS = 2

MOST_AXES = 16
"""Axes counted together at most: axes of a single cell cost none, and numpy has no more than 64."""

RECENT = 128
"""Joint histograms that may still grow: with hundreds of columns, to try them all would take longer than to count."""

LOOKUP = 2**18
"""A table from codes to cells is made for columns with at most this many values, and no more than four per row."""

Cells = NDArray[np.unsignedinteger[Any]]
Marginal = tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Cutter:
    """Cells of an axis in the narrowest type. Codes outside all cells get one more cell, `axis.size`, so that a row
    which one axis leaves out still counts in marginals without it.
    """

    axis: Axis

    @cached_property
    def width(self) -> int:
        """Number of cells, the one for codes outside counted where there can be any."""
        axis = self.axis
        whole = axis.edges[0] <= 0 and axis.edges[-1] >= size(axis.column) and (axis.cell >= 0).all()
        return axis.size + (not whole)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Smallest whole-number type that holds every cell."""
        return np.dtype(np.min_scalar_type(max(self.width - 1, 0)))

    def __call__(self, codes: Codes) -> Cells:
        """Cell of each code, shape (rows,), from 0 to `width` - 1."""
        if "_table" in self.__dict__ or size(self.axis.column) <= min(LOOKUP, 4 * len(codes)):
            return self._table[codes]
        starts, cells = self._leaves
        return cells[np.searchsorted(starts, codes, side="right")]

    @cached_property
    def _table(self) -> Cells:
        starts, cells = self._leaves
        codes = np.arange(size(self.axis.column) + self.axis.column.nullable)
        return cells[np.searchsorted(starts, codes, side="right")]

    @cached_property
    def _leaves(self) -> tuple[NDArray[np.int64], Cells]:
        """Where runs of codes of one cell start, rising, and the cell before the first start and from each start on."""
        axis, values = self.axis, size(self.axis.column)
        counted = axis.cell[:-1] if axis.column.nullable else axis.cell
        starts, cells = axis.edges, [-1, *counted, -1]
        if axis.column.nullable:
            starts = np.append(starts[starts < values], values)
            cells = [*cells[: len(starts)], axis.cell[-1]]
        found = np.asarray(cells)
        return starts, np.where(found < 0, axis.size, found).astype(self.dtype)


def joined(marginals: Sequence[Sequence[int]], widths: Mapping[int, int]) -> list[tuple[int, ...]]:
    """Sets of axes whose joint histograms hold all `marginals`, each at most TOGETHER cells or one marginal itself.

    First fit: a marginal that no set holds yet goes into the first of the last RECENT sets that stays small with it.
    """

    def cells(axes: Sequence[int] | set[int]) -> int:
        return math.prod(widths[a] for a in axes)

    def small(axes: set[int]) -> bool:
        return len(axes) <= MOST_AXES and cells(axes) <= TOGETHER

    sets: list[set[int]] = []
    holding: dict[int, set[int]] = {a: set() for a in widths}
    for marginal in sorted(marginals, key=cells, reverse=True):
        wanted = set(marginal)
        if set.intersection(*(holding[a] for a in wanted)):
            continue
        recent = range(max(0, len(sets) - RECENT), len(sets))
        home = next((i for i in recent if small(sets[i] | wanted)), len(sets))
        if home == len(sets):
            sets.append(set())
        sets[home] |= wanted
        for a in wanted:
            holding[a].add(home)
    return [tuple(sorted(s)) for s in sets]


class Tally:
    """Counts of `marginals`, filled block by block inside a `with` block.

    Args:
      marginals: the axes of each; cells outside an axis are left out of its marginals.
    """

    def __init__(self, marginals: Sequence[Marginal]) -> None:
        self._marginals = [tuple(m) for m in marginals]
        self.axes = list({id(a): a for m in self._marginals for a in m}.values())
        self.cutters = [Cutter(a) for a in self.axes]
        self._at = {id(a): i for i, a in enumerate(self.axes)}
        self._widths = {i: c.width for i, c in enumerate(self.cutters)}
        self._joint = joined([[self._at[id(a)] for a in m] for m in self._marginals], self._widths)
        self._holding = {i: {n for n, j in enumerate(self._joint) if i in j} for i in self._widths}
        self._totals = [np.zeros(self._cells(j), dtype=np.int64) for j in self._joint]
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self._wait()

    def _cells(self, joint: Sequence[int]) -> int:
        return math.prod(self._widths[i] for i in joint)

    def add(self, block: Sequence[Cells]) -> None:
        """Count the rows of `block`: for each of `axes`, in order, the cells that its cutter found."""
        self._wait()
        if len(block[0]) < THREADED_ROWS:
            for number in range(len(self._joint)):
                self._count(number, block)
            return
        self._pool = self._pool or ThreadPoolExecutor(THREADS)
        self._waiting = [self._pool.submit(self._count, i, block) for i in range(len(self._joint))]

    def _wait(self) -> None:
        for done in self._waiting:
            done.result()
        self._waiting = []

    def _count(self, number: int, block: Sequence[Cells]) -> None:
        axes, total = self._joint[number], self._totals[number]
        kind = np.min_scalar_type(len(total))
        index = block[axes[0]].astype(kind)
        for axis in axes[1:]:
            index *= kind.type(self._widths[axis])
            index += block[axis]
        total += np.bincount(index, minlength=len(total))

    def results(self) -> Iterator[tuple[Marginal, NDArray[np.int64]]]:
        """Each marginal with its counts, one array axis per Axis, in the order asked."""
        for marginal in self._marginals:
            wanted = [self._at[id(a)] for a in marginal]
            number = min(set.intersection(*(self._holding[i] for i in wanted)))
            axes = self._joint[number]
            total = self._totals[number].reshape([self._widths[i] for i in axes])
            summed = total.sum(axis=tuple(p for p, i in enumerate(axes) if i not in wanted))
            left = [i for i in axes if i in wanted]
            ordered = summed.transpose([left.index(i) for i in wanted])
            yield marginal, np.ascontiguousarray(ordered[tuple(slice(a.size) for a in marginal)])
