"""Mean 1-, 2- and 3-way total variation distance between the synthetic table and real rows.

For a set of columns both tables are counted into the same cells and the distance is half the sum of absolute
differences of shares: 0 for equal tables, 1 for tables with nothing in common. Numbers and dates fall into quantile
bins of train (20 for one column, 8 for two or three), categories are their own cells; missing is a cell, and so is a
value that the column does not allow. It is the k-marginal measure of SDNist (NIST) and of the marginal-based
synthesis literature (McKenna, Miklau and Sheldon 2021, "Winning the NIST Contest"), beside the sampling floor that
those leave out.

Privacy: bins and distances come from real rows outside any budget: INTERNAL. `charts` for a release edition looks at
the synthetic table and the schema only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tabveil.columns import Column, Grid
from tabveil.encoding import size
from tabveil.metrics._charts import charts
from tabveil.metrics.base import REFERENCE_ROWS, Coded, Metric, MetricInput
from tabveil.records import Score

__all__ = ["Marginals", "charts"]

BINS = {1: 20, 2: 8, 3: 8}
"""Quantile bins of a numeric column, by how many columns are looked at together."""

MAX_SUBSETS = {1: math.inf, 2: 300, 3: 200}
"""At most so many sets of columns are looked at, a random choice where there are more."""

WORST = 5
"""How many of the worst sets of columns a score names."""

_MAX_CELLS = 2**20
"""Counts of more cells than this go through the cells that occur."""

Subset = tuple[int, ...]
Floats = NDArray[np.float64]


class Marginals(Metric):
    """1-, 2- and 3-way total variation distance to train and to the holdout."""

    goal = "min"

    def compute(self, data: MetricInput) -> list[Score]:
        """Up to six scores: one, two and three columns together, against train and against the holdout."""
        compared = data.alike(("synthetic", "holdout", "real", "independent", "bootstrap"))
        targets = {r: data.coded[r].take(REFERENCE_ROWS) for r in ("train", "holdout") if r in data.coded}
        scores = []
        for ways in range(1, min(3, len(data.schema.learned)) + 1):
            chosen = subsets(len(data.schema.learned), ways, data.rng(f"{ways} columns"))
            stack = Stack.of([*compared.values(), *targets.values()], _cuts(data.coded["train"], BINS[ways]))
            shares = (stack.shares(s) for s in chosen)
            distances = np.stack([_distances(s, against=len(targets)) for s in shares])
            for at, target in enumerate(targets):
                table = dict(zip(compared, distances[:, at].T, strict=True))
                names = [" × ".join(data.schema.learned[i].name for i in s) for s in chosen]
                scores.append(_score(table, target=target, names=names, ways=ways, rows=compared["real"].rows))
        return sorted(scores, key=lambda s: s.name.endswith("holdout"))


def subsets(columns: int, ways: int, rng: np.random.Generator) -> list[Subset]:
    """Sets of `ways` out of `columns` columns: all of them, or MAX_SUBSETS[ways] different ones drawn at random."""
    if math.comb(columns, ways) <= MAX_SUBSETS[ways]:
        return list(itertools.combinations(range(columns), ways))
    drawn: dict[Subset, None] = {}
    while len(drawn) < MAX_SUBSETS[ways]:
        drawn[tuple(sorted(rng.choice(columns, size=ways, replace=False).tolist()))] = None
    return list(drawn)


def _score(table: dict[str, Floats], *, target: str, names: Sequence[str], ways: int, rows: int) -> Score:
    """The mean over sets of columns for each compared table; a table is no reference for itself."""
    own = "real" if target == "train" else "holdout"
    each = table["synthetic"]
    worst = np.argsort(-each, kind="stable")[:WORST]
    return Score(
        metric="marginals",
        name=f"{ways}-way total variation distance to {target}",
        value=float(each.mean()),
        goal="min",
        low=0.0,
        high=1.0,
        references={role: float(v.mean()) for role, v in table.items() if role not in ("synthetic", own)},
        details={"rows compared": float(rows), "sets of columns": float(len(names))}
        | {f"worst: {names[i]}": float(each[i]) for i in worst},
    )


def _distances(shares: Floats, *, against: int) -> Floats:
    """Total variation distances of the first tables to each of the last ones, shape (against, tables - against)."""
    compared, targets = shares[:-against], shares[-against:]
    distances = 0.5 * np.abs(targets[:, None, :] - compared[None, :, :]).sum(axis=-1)
    empty = compared.sum(axis=-1) == 0
    return np.where(empty, 1.0, np.clip(distances, 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class Cut:
    """How one column's codes become bins: `edges` between bins of a grid, None for a column that keeps its codes."""

    column: Column
    edges: NDArray[np.float64] | None

    @property
    def bins(self) -> int:
        """Number of bins, those for missing cells and for values that are not allowed included."""
        return 2 + (size(self.column) if self.edges is None else len(self.edges) + 1)

    def __call__(self, codes: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        """The bin of each code, shape (rows,)."""
        if self.edges is None:
            return codes
        top = size(self.column)
        bins = np.searchsorted(self.edges, codes, side="right")
        bins[codes == top] = self.bins - 2
        bins[codes > top] = self.bins - 1
        return bins.astype(np.min_scalar_type(self.bins))


def _cuts(train: Coded, bins: int) -> list[Cut]:
    """Quantiles of train for numbers and dates, the labels themselves for the rest."""
    return [
        Cut(column, _edges(codes[codes < size(column)], bins) if isinstance(column, Grid) else None)
        for column, codes in zip(train.columns, train.codes, strict=True)
    ]


def _edges(codes: NDArray[np.unsignedinteger], bins: int) -> Floats:
    if not len(codes):
        return np.empty(0)
    return np.unique(np.quantile(codes, np.linspace(0, 1, bins + 1)))[1:-1]


@dataclass(frozen=True, eq=False)
class Stack:
    """Several tables in one, so that one count serves all.

    Attributes:
      owner: which table each row is of, shape (rows,).
      rows: rows of each table, shape (tables,).
      bins: each column's bins, shape (rows,).
      sizes: number of bins of each column.
    """

    owner: NDArray[np.int64]
    rows: NDArray[np.int64]
    bins: tuple[NDArray[np.unsignedinteger], ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, tables: Sequence[Coded], cuts: Sequence[Cut]) -> Stack:
        """Tables of the same columns, one under the other."""
        rows = np.array([t.rows for t in tables])
        bins = tuple(np.concatenate([cut(t.codes[i]) for t in tables]) for i, cut in enumerate(cuts))
        return cls(np.repeat(np.arange(len(tables)), rows), rows, bins, tuple(c.bins for c in cuts))

    def shares(self, subset: Subset) -> Floats:
        """Share of each table's rows in each cell, shape (tables, cells); all 0 for a table without rows.

        Cells are those of the product of the columns' bins or, where that is large, those that occur in any table.
        """
        cell, cells = np.zeros(len(self.owner), dtype=np.int64), 1
        for i in subset:
            cell = cell * self.sizes[i] + self.bins[i]
            cells *= self.sizes[i]
            if cells * len(self.rows) > _MAX_CELLS:
                found, cell = np.unique(cell, return_inverse=True)
                cells = len(found)
        counts = np.bincount(self.owner * cells + cell, minlength=len(self.rows) * cells)
        shares: Floats = counts.reshape(len(self.rows), cells) / np.maximum(self.rows, 1)[:, None]
        return shares
