"""What a shadow attack looks at in a synthetic table: numbers about the table, and about what in it is like the target.

- Counting queries (Houssiau et al. 2022, TAPAS, "querybased"; the strongest black box in Annamalai et al. 2024): how
  many rows agree with the target in random sets of 1 to 4 columns. Numbers agree within a share of their declared
  range, all else where it is the same; missing is a value of its own.
- How close rows come to the target: the closest, the five closest, and sums of exp(-distance / bandwidth); Gower's
  distance, as in `_membership_scores`.
- Summaries of the whole table (Stadler, Oprisanu and Troncoso 2022, Groundhog Day, section 5): means and spreads,
  shares of bins, correlations.

Privacy: sees synthetic rows and one real row; what comes out are shares and distances, INTERNAL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil.audit._membership_scores import Floats, Floats32, Table, scaled
from tabveil.audit.base import column_codes
from tabveil.columns import Column, Grid
from tabveil.encoding import Codes, size
from tabveil.schema import Schema

VERSION = 1
"""Of the features; what was kept of another version is not used."""

TOLERANCES = (0.0, 0.02, 0.1)
"""Shares of a declared range within which numbers agree."""

QUERIES = 160
"""Random counting queries of each target, beside those of single columns."""

WIDEST = 4
"""Most columns of one query."""

BANDWIDTHS = (0.02, 0.1, 0.5)
"""Of the sums of closeness, in units of distance."""

DEEPEST = 4
"""Shares of rows that agree in all columns, all but one, ..., so many of them."""

BINS = 10
"""Parts of a range, or of a list of categories, whose shares are taken."""


@dataclass(frozen=True, eq=False, repr=False)
class Target:
    """One row, and what is asked about it.

    Attributes:
      codes: of the row, one per learned column.
      columns: of each query, shape (QUERIES, WIDEST), numbers of columns; what a query leaves out has number d.
      tolerance: of each query, shape (QUERIES,), an index of TOLERANCES.
    """

    codes: tuple[int, ...]
    columns: NDArray[np.int64]
    tolerance: NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class Questions:
    """What is asked of each synthetic table.

    Attributes:
      schema: names the learned columns.
      targets: the rows that are asked about.
    """

    schema: Schema
    targets: tuple[Target, ...]

    def answers(self, table: pd.DataFrame) -> tuple[str, tuple[Floats, ...]]:
        """A digest of the learned columns of a table, and its features.

        Returns:
          The digest, and one array of features about the table, then one about each target.

        Raises:
          DataError: the table lacks a learned column.
        """
        columns = self.schema.learned
        self.schema.check_learned(table.columns.tolist(), role="synthetic")
        codes = tuple(column_codes(c, table[c.name]) for c in columns)
        digest = hashlib.sha256(b"".join(c.tobytes() for c in codes)).hexdigest()[:16]
        places = scaled(columns, codes)
        about = [_about_target(columns, codes, places, t) for t in self.targets]
        return digest, (_summary(columns, codes, places), *about)


DIRECT = ("closest", "five closest", *(f"closeness {h:g}" for h in BANDWIDTHS), "agreeing", "nearly agreeing")
"""Features about a target that are scores by themselves, in the order they come first in its array; higher is in."""


def target(codes: Sequence[int], entropy: Sequence[int]) -> Target:
    """A target with queries drawn from `entropy`: each of 1 to WIDEST columns, as many as there are."""
    d = len(codes)
    draws = np.random.SeedSequence(list(entropy)).generate_state(QUERIES * (d + 2), np.uint32).reshape(QUERIES, d + 2)
    width = 1 + draws[:, d] % min(WIDEST, d)
    columns = np.full((QUERIES, WIDEST), d)
    order = draws[:, :d].argsort(axis=1, kind="stable")[:, :WIDEST]
    taken = np.arange(order.shape[1]) < width[:, None]
    columns[:, : order.shape[1]] = np.where(taken, order, d)
    return Target(tuple(map(int, codes)), columns, (draws[:, d + 1] % len(TOLERANCES)).astype(np.int64))


# ------------------------------------------------------------------------------------------------------- about a target


def _about_target(columns: Sequence[Column], codes: Table, places: list[Floats32], asked: Target) -> Floats:
    agree = _agreement(columns, codes, asked.codes)
    own = scaled(tuple(columns), tuple(np.array([c]) for c in asked.codes))
    deep = _depth(agree)
    found: Floats = np.concatenate([_closeness(places, own), deep[0, :2], _queries(agree, asked), deep.ravel()])
    return found


def _agreement(columns: Sequence[Column], codes: Table, asked: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether each cell agrees with the target's, shape (tolerances, d + 1, rows); the last column always does."""
    agree = np.ones((len(TOLERANCES), len(columns) + 1, len(codes[0])), dtype=bool)
    for at, (column, made, code) in enumerate(zip(columns, codes, asked, strict=True)):
        for row, tolerance in enumerate(TOLERANCES):
            agree[row, at] = _agrees(column, made, code, tolerance)
    return agree


def _agrees(column: Column, made: Codes, code: int, tolerance: float) -> NDArray[np.bool_]:
    values = size(column)
    exact = not isinstance(column, Grid) or code >= values
    near = made == code if exact else (np.abs(made - code) <= tolerance * (values - 1)) & (made < values)
    return np.asarray(near, dtype=bool)


def _queries(agree: NDArray[np.bool_], asked: Target) -> Floats:
    """Shares of rows that agree in one column, then in each query's columns."""
    rows = max(1, agree.shape[2])
    single = agree[:, :-1].sum(axis=2) / rows
    met = np.ones((QUERIES, agree.shape[2]), dtype=bool)
    for place in range(WIDEST):
        met &= agree[asked.tolerance, asked.columns[:, place]]
    found: Floats = np.concatenate([single.ravel(), met.sum(axis=1) / rows])
    return found


def _depth(agree: NDArray[np.bool_]) -> Floats:
    """Shares of rows that agree in all columns, in all but one at most, ...; shape (tolerances, DEEPEST).

    Columns of a narrow table that are not there count as agreeing.
    """
    d = agree.shape[1] - 1
    lacking = d - agree[:, :-1].sum(axis=1)
    least = np.minimum(np.arange(DEEPEST), d)
    shares: Floats = (lacking[:, None, :] <= least[None, :, None]).sum(axis=2) / max(1, agree.shape[2])
    return shares


def _closeness(places: list[Floats32], own: list[Floats32]) -> Floats:
    """Minus the distance of the closest and of the five closest rows, and the mean closeness by bandwidth."""
    distance = np.zeros(len(places[0]))
    for made, code in zip(places, own, strict=True):
        distance += np.minimum(np.abs(made - code), 1)
    if not len(distance):
        return np.concatenate([np.full(2, -float(len(places))), np.zeros(len(BANDWIDTHS))])
    five = np.sort(np.partition(distance, min(4, len(distance) - 1))[:5])
    mass = np.exp(-distance[None, :] / np.array(BANDWIDTHS)[:, None]).mean(axis=1)
    return np.concatenate([[-five[0], -five.mean()], mass])


# ------------------------------------------------------------------------------------------------------ about the table


def _summary(columns: Sequence[Column], codes: Table, places: list[Floats32]) -> Floats:
    """Mean, spread and distinct values of each column, shares of bins, correlations of all pairs; 0 without rows."""
    at = np.array(places, dtype=np.float64).reshape(len(columns), -1)
    if not at.shape[1]:
        at = np.zeros((len(columns), 1))
    distinct = [len(np.unique(c)) / max(1, len(c)) for c in codes]
    shares = [_shares(c, made) for c, made in zip(columns, codes, strict=True)]
    found: Floats = np.concatenate([at.mean(axis=1), at.std(axis=1), distinct, *shares, _correlations(at)])
    return found


def _shares(column: Column, codes: Codes) -> Floats:
    """Shares of bins of what the column allows, of missing cells and of cells that it does not allow."""
    values = size(column)
    bins = min(BINS, values)
    cell = np.where(codes >= values, codes - values + bins, codes * bins // values)
    share: Floats = np.bincount(cell, minlength=bins + 2) / max(1, len(codes))
    return share


def _correlations(at: Floats) -> Floats:
    """Pearson's, of all pairs of columns; 0 where one does not vary."""
    centred = at - at.mean(axis=1, keepdims=True)
    scale = np.sqrt((centred**2).sum(axis=1))
    unit = np.divide(centred, scale[:, None], out=np.zeros_like(centred), where=scale[:, None] > 0)
    first, second = np.triu_indices(len(at), 1)
    found: Floats = (unit @ unit.T)[first, second]
    return found
