"""Rows of which some cells are known, completed from a graphical model: exactly its law given what is known.

In a row, unknown attributes that share a clique hang together; each such *island* depends on the known attributes of
its own cliques only. Rows are grouped by island, then by those known cells; messages go up an island's part of the
junction tree for all distinct known cells at once, and values are drawn on the way down: belief propagation with
evidence put into the tables first (Koller & Friedman 2009, 9.3.2 and 10.3.3).

Privacy: post-processing of a fitted model. What is known comes from whoever asks, and nothing of it is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tabveil.graphical_model import Array, Clique, GraphicalModel, Ints, JunctionTree, log_sum, one_by_one

UNKNOWN = -1

BATCH_CELLS = 2**21
"""Most table cells computed at a time (16 MB per copy, a handful of copies), unless one row's island has more."""

Draw = Callable[[Array, Ints, np.random.Generator], Ints]
"""Columns of a table of weights for rows of it: `graphical_model.one_by_one` or `systematic`."""


def completed(
    model: GraphicalModel, known: Ints, rng: np.random.Generator, *, draws: int = 1, draw: Draw = one_by_one
) -> Ints:
    """`known` with its unknown cells drawn from the model given the known ones, `draws` times.

    Args:
      model: must give each row's known cells a positive probability (`GraphicalModel.floored` does).
      known: shape (rows, attributes), UNKNOWN where nothing is known.
      rng: source of chance.
      draws: how many completions; each is drawn by itself.
      draw: independently row by row, or systematically among rows that know the same.

    Returns:
      Shape (draws, rows, attributes). Beside it at most about BATCH_CELLS table cells are held at a time.
    """
    out = np.repeat(known[None], draws, axis=0)
    for unknown, rows in _rows_by_island(model.tree, known).items():
        _Island(model, unknown).fill(out, rows, rng, draw)
    return out


def _rows_by_island(tree: JunctionTree, known: Ints) -> dict[Clique, Ints]:
    """For every island that some row has, the rows that have it."""
    patterns, which = np.unique(known == UNKNOWN, axis=0, return_inverse=True)
    rows = np.split(np.argsort(which.ravel(), kind="stable"), np.cumsum(np.bincount(which.ravel()))[:-1])
    near = _neighbours(tree, known.shape[1])
    found: dict[Clique, list[Ints]] = defaultdict(list)
    for pattern, members in zip(patterns, rows, strict=False):
        for island in _islands(near, set(np.flatnonzero(pattern).tolist())):
            found[island].append(members)
    return {island: np.concatenate(members) for island, members in found.items()}


def _neighbours(tree: JunctionTree, attributes: int) -> list[set[int]]:
    near: list[set[int]] = [set() for _ in range(attributes)]
    for clique in tree.cliques:
        for a in clique:
            near[a] |= set(clique)
    return near


def _islands(near: Sequence[set[int]], unknown: set[int]) -> list[Clique]:
    """Connected parts of `unknown`, each rising."""
    found = []
    while unknown:
        island, fresh = set[int](), {unknown.pop()}
        while fresh:
            island |= fresh
            unknown -= fresh
            fresh = set().union(*(near[a] for a in fresh)) & unknown
        found.append(tuple(sorted(island)))
    return found


@dataclass(frozen=True, eq=False)
class _Island:
    """Unknown attributes that hang together, and the cliques that hold them: a subtree of the junction tree."""

    model: GraphicalModel
    unknown: Clique

    @cached_property
    def cliques(self) -> list[int]:
        """Cliques with an unknown attribute, every one but the first after its parent."""
        return [i for i, c in enumerate(self.model.tree.cliques) if set(c) & set(self.unknown)]

    @cached_property
    def known(self) -> Clique:
        """Attributes of these cliques that are known."""
        held = {a for i in self.cliques for a in self.model.tree.cliques[i]}
        return tuple(sorted(held - set(self.unknown)))

    @cached_property
    def cells(self) -> int:
        """Table cells that one row needs."""
        return sum(int(np.prod([self.model.sizes[a] for a in self._free(i)])) for i in self.cliques)

    def _free(self, i: int) -> Clique:
        return tuple(a for a in self.model.tree.cliques[i] if a in self.unknown)

    def _shared(self, i: int) -> Clique:
        return tuple(a for a in self.model.tree.separators[i] if a in self.unknown) if i != self.cliques[0] else ()

    def fill(self, out: Ints, rows: Ints, rng: np.random.Generator, draw: Draw) -> None:
        """Draw the island's attributes in `rows` of every completion in `out`."""
        known = out[0][rows][:, list(self.known)]
        first, which = _distinct(known, [self.model.sizes[a] for a in self.known])
        order = np.argsort(which, kind="stable")
        step = max(1, BATCH_CELLS // self.cells)
        for start in range(0, len(first), step):
            low, high = np.searchsorted(which[order], [start, start + step])
            tables = self._tables(known[first[start : start + step]])
            for table in out:
                part = order[low:high]
                self._descend(tables, (table, rows[part], which[part] - start), (rng, draw))

    def _tables(self, known: Ints) -> dict[int, Array]:
        """Log tables over each clique's unknown attributes, what is below multiplied in; the first axis counts the rows
        of `known` (or is 1 where they make no difference).
        """
        logs = {i: self._given(i, known) for i in self.cliques}
        for i in reversed(self.cliques[1:]):
            free, shared, parent = self._free(i), self._shared(i), self.model.tree.parents[i]
            message = log_sum(logs[i], tuple(j + 1 for j, a in enumerate(free) if a not in shared))
            sizes = [self.model.sizes[a] if a in shared else 1 for a in self._free(parent)]
            logs[parent] = logs[parent] + message.reshape(len(message), *sizes)
        return logs

    def _given(self, i: int, known: Ints) -> Array:
        """Clique i's potential at the known cells, shape (rows of `known` or 1, unknown sizes)."""
        clique, free = self.model.tree.cliques[i], self._free(i)
        fixed = tuple(a for a in clique if a not in free)
        table = np.transpose(self.model.potentials[i], [clique.index(a) for a in (*fixed, *free)])
        return table[tuple(known[:, self.known.index(a)] for a in fixed)] if fixed else table[None]

    def _descend(
        self, tables: dict[int, Array], into: tuple[Ints, Ints, Ints], chance: tuple[np.random.Generator, Draw]
    ) -> None:
        """Draw from the root down; `into` is the completion, its rows, and which known cells each has."""
        out, rows, which = into
        sizes = self.model.sizes
        for i in self.cliques:
            free, shared = self._free(i), self._shared(i)
            fresh = tuple(a for a in free if a not in shared)
            if not fresh:
                continue
            table = np.transpose(tables[i], [0, *(free.index(a) + 1 for a in (*shared, *fresh))])
            given = which if len(table) > 1 else np.zeros_like(which)
            for a in shared:
                given = given * sizes[a] + out[rows, a]
            drawn = chance[1](_weights(table.reshape(-1, int(np.prod([sizes[a] for a in fresh])))), given, chance[0])
            for a in reversed(fresh):
                drawn, out[rows, a] = np.divmod(drawn, sizes[a])


def _weights(logs: Array) -> Array:
    """Each row's largest weight 1; rows that cannot be reached all 0."""
    top = logs.max(axis=1, keepdims=True)
    return np.asarray(np.exp(logs - np.where(np.isfinite(top), top, 0.0)))


def _distinct(cells: Ints, sizes: Sequence[int]) -> tuple[Ints, Ints]:
    """Row number of one of each kind of equal rows of `cells`, and each row's kind."""
    key = np.zeros(len(cells), dtype=np.int64)
    kinds = 1
    for column, size in enumerate(sizes):
        if kinds * size > 2**62:  # count afresh what there is, before the number overflows
            key = np.unique(key, return_inverse=True)[1].ravel()
            kinds = len(cells)
        key, kinds = key * size + cells[:, column], kinds * size
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    return first, which.ravel()
