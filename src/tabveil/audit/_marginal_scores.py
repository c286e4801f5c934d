"""How much a row looks like one of those whose marginals a generator kept: scores of the attacks on marginals.

A generator that keeps marginals (MST, AIM, PrivBayes) repeats how often each of its cells occurred among the training
rows; a row of a rare cell that is there made it so. No score knows which asked row was in train. A cell is a
combination of values of a marginal's columns, numbers in bins that are public or the model's own; a feature is one cell
of one marginal, and a row has one feature of each marginal.

Privacy: reads real rows outside any budget; a score is about one person and leaves this package only as a count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg

from tabveil.audit._membership_scores import Floats, Rows, Table, bins
from tabveil.columns import Column
from tabveil.encoding import Axis, Codes

Clique = tuple[int, ...]
"""A marginal: positions of its columns, rising."""

WIDE = 1_000
"""No more marginals than this are compared at once."""

UP_TO = 4
"""Columns of the largest marginals that an attacker makes up himself."""

RIDGE = 0.003
"""Added to every feature's variance where correlations are undone (measured: docs/audit.md)."""

STEPS = 100
"""Most steps of conjugate gradients."""

_ROOM = 2**40
"""Combinations of values are numbered anew before their numbers grow beyond this."""


@dataclass(frozen=True, eq=False, repr=False)
class Cells:
    """What the attacker has, and whom he asks about: each a column of small numbers by position, shape (rows,).

    Attributes:
      synthetic: shape (m,), m >= 1.
      reference: real rows that no fit has seen and nobody asks about, shape (r,), r >= 1.
      asked: shape (n,).
    """

    synthetic: Table
    reference: Table
    asked: Table

    @classmethod
    def of(cls, columns: Sequence[Column], tables: Sequence[Table], *, axes: Mapping[str, Axis]) -> Cells:
        """Synthetic, reference and asked codes as cells: of the axis that has a column's name, else of public bins."""
        return cls(*(tuple(_cells(c, codes, axes) for c, codes in zip(columns, t, strict=True)) for t in tables))

    @cached_property
    def together(self) -> Table:
        """The three tables, one below the other."""
        tables = zip(self.synthetic, self.reference, self.asked, strict=True)
        return tuple(np.concatenate(columns) for columns in tables)

    @property
    def ends(self) -> tuple[int, int]:
        """Where the second and the third table begin in `together`."""
        first = len(self.synthetic[0])
        return first, first + len(self.reference[0])


def _cells(column: Column, codes: Codes, axes: Mapping[str, Axis]) -> Codes:
    """A column's cells from 0 up; with an axis, 0 is what none of its cells holds."""
    return axes[column.name].cells(codes) + 1 if column.name in axes else bins(column, codes)


# ----------------------------------------------------------------------------------------------------- which marginals


def spanning_tree(cells: Cells) -> list[Clique]:
    """Pairs that join all columns and on which synthetic rows depend most (Chow and Liu 1968): what MST is after.

    The one column where there is only one. TAMIS (Andrey, Le Bars and Tommasi 2025) reads the tree from the synthetic
    rows likewise, and needs no shadow fits for it.
    """
    weight = dependence(cells)
    component = np.arange(len(cells.synthetic))
    edges: list[Clique] = []
    for a, b in sorted(weight, key=lambda pair: -weight[pair]):
        if component[a] != component[b]:
            edges.append((a, b))
            component[component == component[b]] = component[a]
    return edges or [(0,)]


def strongest(cells: Cells) -> list[Clique]:
    """Pairs, then triples, up to UP_TO columns, each the most dependent first, WIDE in all.

    AIM and PrivBayes choose among these. How dependent a larger marginal is, its pairs say.
    """
    weight = dependence(cells)
    chosen: list[Clique] = []
    for size in range(2, UP_TO + 1):
        if len(chosen) < WIDE:
            sets = combinations(range(len(cells.synthetic)), size)
            strength = {s: sum(weight[pair] for pair in combinations(s, 2)) for s in sets}
            chosen += sorted(strength, key=lambda s: -strength[s])
    return chosen[:WIDE] or [(0,)]


def parts(marginals: Sequence[Clique]) -> list[Clique]:
    """The given marginals, then what follows from them: those of up to UP_TO of their columns; WIDE in all."""
    sizes = range(UP_TO, 0, -1)
    inside = (p for size in sizes for m in marginals for p in combinations(m, min(size, len(m))))
    return list(dict.fromkeys([*marginals, *inside]))[:WIDE]


def dependence(cells: Cells) -> dict[Clique, float]:
    """Mutual information of each pair of columns among synthetic rows, in nats, less what chance adds to it.

    Miller (1955), Note on the bias of information estimates: half a degree of freedom a row.
    """
    columns = [pd.factorize(c)[0] for c in cells.synthetic]
    sizes = [int(c.max()) + 1 for c in columns]
    return {
        (a, b): _information(columns[a] * sizes[b] + columns[b], (sizes[a], sizes[b]))
        for a, b in combinations(range(len(columns)), 2)
    }


def _information(joint: Rows, shape: tuple[int, int]) -> float:
    seen, count = np.unique(joint, return_counts=True)
    first, second = np.divmod(seen, shape[1])
    ones = np.bincount(first, count, shape[0])[first] * np.bincount(second, count, shape[1])[second]
    free = len(seen) - sum(shape) + 1
    return float((count / len(joint) * np.log(count / ones * len(joint))).sum() - free / (2 * len(joint)))


# ------------------------------------------------------------------------------------------------------------ features


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """The features of `k` marginals.

    Attributes:
      made: share of synthetic rows that have each feature, shape (features,).
      real: reference rows that have it, shape (features,).
      reference: each reference row's features, shape (r, k).
      asked: each asked row's, shape (n, k).
      synthetic_rows: m.
    """

    made: Floats
    real: Floats
    reference: Rows
    asked: Rows
    synthetic_rows: int

    @classmethod
    def of(cls, cells: Cells, marginals: Sequence[Clique]) -> Features:
        """Counted; memory grows with reference and asked rows times marginals, not with synthetic rows."""
        made, real, reference, asked, start = [], [], [], [], 0
        for marginal in marginals:
            feature = _numbered([cells.together[a] for a in marginal])
            count = int(feature.max()) + 1
            ours, known, others = np.split(feature, cells.ends)
            made.append(np.bincount(ours, minlength=count) / len(ours))
            real.append(np.bincount(known, minlength=count).astype(np.float64))
            reference.append(known + start)
            asked.append(others + start)
            start += count
        return cls(
            made=np.concatenate(made),
            real=np.concatenate(real),
            reference=np.column_stack(reference),
            asked=np.column_stack(asked),
            synthetic_rows=len(cells.synthetic[0]),
        )


def _numbered(columns: Sequence[Codes]) -> Rows:
    """Rows that agree in all columns have the same number, from 0 up; the numbers do not depend on the rows' order."""
    key, places = np.zeros(len(columns[0]), dtype=np.int64), 1
    for column in columns:
        size = int(column.max()) + 1
        if places * size > _ROOM:
            key = pd.factorize(key, sort=True)[0].astype(np.int64)
            places = int(key.max()) + 1
        key, places = key * size + column, places * size
    numbers: Rows = pd.factorize(key, sort=True)[0].astype(np.int64)
    return numbers


# -------------------------------------------------------------------------------------------------------------- attacks


def ratio(features: Features) -> Floats:
    """Mean over marginals of the synthetic density over the reference density of the row's cell, shape (n,).

    MAMA-MIA (Golob, Pentyala, Maratkhan and De Cock 2024, arXiv 2410.05506), with equal weights.
    """
    expected = (features.real + 1) / (len(features.reference) + 1)
    ratios: Floats = (features.made / expected)[features.asked].mean(axis=1)
    return ratios


def log_ratios(features: Features) -> Floats:
    """Logarithm of that ratio for each marginal, half a row added to both counts, shape (n, k).

    A sum over marginals is a likelihood ratio as if they were independent. An empty cell, which rules a member out
    where nothing blurs the counts, weighs heavily.
    """
    made = (features.made * features.synthetic_rows + 0.5) / (features.synthetic_rows + 1)
    real = (features.real + 0.5) / (len(features.reference) + 1)
    logs: Floats = np.log(made / real)[features.asked]
    return logs


def tracing(features: Features) -> Floats:
    """How far the row leans to where synthetic features depart from reference ones, shape (n,).

    The most powerful test where the gap is Gaussian: (row - mean)' C^-1 gap, with C the covariance of a row's features
    (Sankararaman, Obozinski, Jordan and Halperin 2009; Dwork, Smith, Steinke, Ullman and Vadhan 2015). Marginals that
    overlap say the same twice; C undoes that. Solved by conjugate gradients with a ridge, C being as large as features
    are many.
    """
    rows, marginals = features.reference.shape
    ends = np.arange(0, rows * marginals + 1, marginals)
    size = len(features.made)
    known = sparse.csr_matrix((np.ones(rows * marginals), features.reference.ravel(), ends), shape=(rows, size))
    across, mean = known.T.tocsr(), features.real / rows

    def spread(weights: Floats) -> Floats:
        product: Floats = across @ (known @ weights) / rows - mean * (mean @ weights) + RIDGE * weights
        return product

    gap = features.made - mean
    weights = cg(LinearOperator((size, size), matvec=spread), gap, rtol=1e-3, maxiter=STEPS)[0]
    leaning: Floats = weights[features.asked].sum(axis=1)
    return leaning
