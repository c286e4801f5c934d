"""Constraints that share columns: which rows obey them, the weights of their cells, and draws that obey.

Inequalities in a chain and listed combinations weigh the cells of a model and are drawn jointly within them, by their
exact conditional law; what else there is (inequalities that branch, sums that can leave the total's bounds) is drawn
within its cells until it holds, at most PASSES times.

Privacy: post-processing. Constraints are public knowledge, axes hold charged counts, no private row is looked at.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, singledispatch

import numpy as np
from numpy.typing import NDArray

from tabveil import constraints as rules
from tabveil._chains import FAR, Chain, between, spread
from tabveil.columns import Column
from tabveil.constraints import Constraint, FixedCombinations, Implied, Inequality, Sum, origin
from tabveil.encoding import INVALID, Axis, Codes, Floats, size
from tabveil.schema import Schema

PASSES = 20
"""How often values, and then rows, that break a constraint are drawn anew."""

MAX_JOINT = 30_000
"""A chain of three columns or more weighs combinations of all its cells up to this many, else of neighbours only."""

Columns = Mapping[str, Column]
Mask = NDArray[np.bool_]


# -------------------------------------------------------------------------------------------------------------- checks
@singledispatch
def obeys(constraint: Constraint, columns: Columns, codes: Mapping[str, Codes]) -> Mask:
    """Which rows obey `constraint`, shape (rows,); a row with a missing member does."""
    raise TypeError(f"{type(constraint).__name__} is no known kind of constraint")


@obeys.register
def _(constraint: Inequality, columns: Columns, codes: Mapping[str, Codes]) -> Mask:
    low, high = (codes[m] + origin(columns[m]) for m in constraint.members)
    return np.asarray(some_missing(constraint, columns, codes) | (low + constraint.strict <= high))


@obeys.register
def _(constraint: FixedCombinations, columns: Columns, codes: Mapping[str, Codes]) -> Mask:
    names, allowed = rules.allowed_codes([constraint], columns)
    return np.asarray(allowed[tuple(codes[n] for n in names)])


@obeys.register
def _(constraint: Implied, columns: Columns, codes: Mapping[str, Codes]) -> Mask:
    wanted = implied_codes(constraint, columns, codes)
    free = some_missing(constraint, columns, codes) | (wanted == INVALID)
    return np.asarray(free | (wanted == codes[constraint.column]))


@obeys.register
def _(constraint: Sum, columns: Columns, codes: Mapping[str, Codes]) -> Mask:
    total, wanted = columns[constraint.total], summed_codes(constraint, columns, codes)
    return np.asarray(some_missing(constraint, columns, codes) | (wanted == codes[constraint.total] + origin(total)))


def some_missing(constraint: Constraint, columns: Columns, codes: Mapping[str, Codes], skip: str | None = None) -> Mask:
    """In which rows some member but `skip` is missing, shape (rows,)."""
    missing = [codes[m] == size(columns[m]) for m in constraint.members if m != skip]
    return np.asarray(np.logical_or.reduce(missing))


def implied_codes(constraint: Implied, columns: Columns, codes: Mapping[str, Codes]) -> Codes:
    """The code of `column` that each row's `given` asks for, INVALID where it asks for none."""
    given, column = columns[constraint.given], columns[constraint.column]
    wanted = np.full(size(given) + 1, INVALID, dtype=np.int64)
    for value, follows in constraint.mapping:
        wanted[rules.code_of(given, value)] = rules.code_of(column, follows)
    return wanted[codes[constraint.given]]


def summed_codes(constraint: Sum, columns: Columns, codes: Mapping[str, Codes]) -> Codes:
    """The sum of the parts in the total's steps; meaningless where a part is missing."""
    scale = rules.digits(columns[constraint.total])
    parts = [(columns[p], codes[p]) for p in constraint.parts]
    steps = [(c + origin(p)) * 10 ** (scale - rules.digits(p)) for p, c in parts]
    return np.asarray(np.sum(steps, axis=0), dtype=np.int64)


# -------------------------------------------------------------------------------------------------------------- groups
class Group(ABC):
    """Constraints that share columns, those columns' laws, and their draws.

    Args:
      parts: the constraints.
      columns: all columns by name.
    """

    def __init__(self, parts: Sequence[Constraint], columns: Columns) -> None:
        self.parts, self.columns = tuple(parts), columns
        self.names = tuple(dict.fromkeys(m for c in parts for m in c.members))

    @abstractmethod
    def factors(self, axes: Mapping[str, Axis], sizes: Mapping[str, int]) -> list[tuple[tuple[str, ...], Floats]]:
        """For some of the columns the weight of each combination of their cells.

        Which columns a table is over follows from `sizes`, the cells of each column in the model, and not from `axes`:
        a restricted axis may have fewer, and its tables must be over the same columns as those it replaces.
        """

    @abstractmethod
    def draw(self, axes: Mapping[str, Axis], cells: Mapping[str, Codes], rng: np.random.Generator) -> dict[str, Codes]:
        """Codes given cells under the condition that the constraints hold; where they cannot hold, any."""

    @abstractmethod
    def witness(self) -> dict[str, int]:
        """Codes that obey, from public knowledge."""

    def holds(self, codes: Mapping[str, Codes]) -> Mask:
        """Which rows obey."""
        return np.asarray(np.logical_and.reduce([obeys(c, self.columns, codes) for c in self.parts]))

    def pairs(self) -> list[tuple[str, ...]]:
        """Pairs of columns that the constraints speak of."""
        return list(itertools.pairwise(self.names))

    def given(
        self, axes: Mapping[str, Axis], cells: Mapping[str, Codes], known: Mapping[str, Codes], rng: np.random.Generator
    ) -> dict[str, Codes]:
        """As `draw`, around the codes in `known`, which stay; INVALID where a row's is not known. By redraws."""
        return self._redrawn(axes, cells, rng, known)

    def spans(self, axes: Mapping[str, Axis], known: Mapping[str, Codes]) -> dict[str, tuple[Codes, Codes]]:
        """Least and greatest code that `known` ones leave to columns, for those it limits."""
        return {}

    def _redrawn(
        self,
        axes: Mapping[str, Axis],
        cells: Mapping[str, Codes],
        rng: np.random.Generator,
        known: Mapping[str, Codes] | None = None,
    ) -> dict[str, Codes]:
        """Each column that is not known on its own, rows that break a rule again, at most PASSES times."""
        fixed, spans = known or {}, self.spans(axes, known) if known else {}

        def draw(name: str, rows: Codes) -> Codes:
            at = cells[name][rows]
            span = [end[rows] for end in spans.get(name, ())]
            drawn = between(axes[name], at, (span[0], span[1]), rng) if span else axes[name].draw(at, rng)
            kept = fixed[name][rows] if name in fixed else np.full(len(rows), INVALID)
            return np.where(kept == INVALID, drawn, kept)

        codes = {n: draw(n, np.arange(len(cells[n]))) for n in self.names}
        for _ in range(PASSES):
            broken = np.flatnonzero(~self.holds(codes))
            if not len(broken):
                break
            for n in self.names:
                codes[n][broken] = draw(n, broken)
        return codes


class Ordered(Group):
    """Inequalities: drawn exactly where they form one chain, by redraws where they branch."""

    @cached_property
    def inequalities(self) -> tuple[Inequality, ...]:
        """The constraints, by their type."""
        return tuple(c for c in self.parts if isinstance(c, Inequality))

    @cached_property
    def chain(self) -> tuple[str, ...]:
        """The columns from lowest to highest where they form one chain, else none."""
        above = {c.low: c.high for c in self.inequalities}
        start = set(above) - set(above.values())
        if len(above) < len(self.parts) or len(set(above.values())) < len(self.parts) or len(start) != 1:
            return ()
        names = [start.pop()]
        while names[-1] in above:
            names.append(above[names[-1]])
        return tuple(names)

    def pairs(self) -> list[tuple[str, ...]]:
        """One per inequality."""
        return [c.members for c in self.inequalities]

    def factors(self, axes: Mapping[str, Axis], sizes: Mapping[str, int]) -> list[tuple[tuple[str, ...], Floats]]:
        """P(the inequalities hold | cells): of the whole chain where that is small, else of each pair."""
        if len(self.chain) > 2 and math.prod(sizes[n] for n in self.chain) <= MAX_JOINT:
            return [(self.chain, self._of(self.chain, axes).weights())]
        return [(c.members, self._of(c.members, axes).weights()) for c in self.inequalities]

    def _of(self, names: Sequence[str], axes: Mapping[str, Axis]) -> Chain:
        strict = {c.members: c.strict for c in self.inequalities}
        origins = [origin(self.columns[n]) for n in names]
        return Chain([axes[n] for n in names], origins, [strict[pair] for pair in itertools.pairwise(names)])

    def draw(self, axes: Mapping[str, Axis], cells: Mapping[str, Codes], rng: np.random.Generator) -> dict[str, Codes]:
        """Along the chain, exactly; else by redraws."""
        if not self.chain:
            return self._redrawn(axes, cells, rng)
        drawn = self._of(self.chain, axes).draw(np.stack([cells[n] for n in self.chain], axis=1), rng)
        return {n: drawn[:, i] for i, n in enumerate(self.chain)}

    def spans(self, axes: Mapping[str, Axis], known: Mapping[str, Codes]) -> dict[str, tuple[Codes, Codes]]:
        """What inequalities with known columns leave, and with those that they limit, where these cannot be missing."""
        start = {n: origin(self.columns[n]) for n in self.names}
        least, most = (
            {n: np.where(known[n] == INVALID, far, known[n] + start[n]) for n in self.names} for far in (-FAR, FAR)
        )
        firm = {n: not self.columns[n].nullable or axes[n].cell[-1] < 0 for n in self.names}
        low, high = dict(least), dict(most)
        for c in self.inequalities * len(self.inequalities):
            low[c.high] = np.maximum(low[c.high], (low if firm[c.low] else least)[c.low] + c.strict)
            high[c.low] = np.minimum(high[c.low], (high if firm[c.high] else most)[c.high] - c.strict)
        return {n: (low[n] - start[n], high[n] - start[n]) for n in self.names}

    def witness(self) -> dict[str, int]:
        """Every column at the least value that obeys."""
        least = rules.least_values(self.inequalities, self.columns)
        return {n: v - origin(self.columns[n]) for n, v in least.items()}


class Listed(Group):
    """Combinations of listed values: drawn exactly."""

    @cached_property
    def _allowed(self) -> Mask:
        """Over all codes of the columns, missing among them, in the order of `names`."""
        return rules.allowed_codes([c for c in self.parts if isinstance(c, FixedCombinations)], self.columns)[1]

    def _laws(self, axes: Mapping[str, Axis]) -> list[tuple[Codes, Floats]]:
        """Cell of every code of each column (-1: none), and its share of that cell."""
        laws = []
        for name, codes in zip(self.names, self._allowed.shape, strict=True):
            axis = axes[name]
            cell = axis.cells(np.arange(codes))
            leaf = np.searchsorted(axis.edges, np.arange(codes), side="right") - 1
            widths = np.append(np.diff(axis.edges), 1)
            leaf = np.clip(leaf, 0, axis.leaves - 1)
            laws.append((cell, np.where(cell >= 0, spread(axis)[leaf] / widths[leaf], 0.0)))
        return laws

    def factors(self, axes: Mapping[str, Axis], sizes: Mapping[str, int]) -> list[tuple[tuple[str, ...], Floats]]:
        """P(the combination is allowed | cells)."""
        weights = self._allowed.astype(np.float64)
        for i, (cell, share) in enumerate(self._laws(axes)):
            into = np.zeros((axes[self.names[i]].size, len(cell)))
            into[cell[cell >= 0], np.flatnonzero(cell >= 0)] = share[cell >= 0]
            weights = np.moveaxis(np.tensordot(into, weights, axes=(1, i)), 0, i)
        return [(self.names, np.asarray(weights))]

    def draw(self, axes: Mapping[str, Axis], cells: Mapping[str, Codes], rng: np.random.Generator) -> dict[str, Codes]:
        """One allowed combination of codes by its share of the combination of cells."""
        found = self._joint(self._laws(axes), [axes[n].size for n in self.names], [cells[n] for n in self.names], rng)
        return {n: np.where(c == INVALID, 0, c) for n, c in zip(self.names, found, strict=True)}

    def given(
        self, axes: Mapping[str, Axis], cells: Mapping[str, Codes], known: Mapping[str, Codes], rng: np.random.Generator
    ) -> dict[str, Codes]:
        """As `draw`, exactly: a known code is a cell of its own."""
        fixed = np.stack([known[n] != INVALID for n in self.names], axis=1)
        laws, out = self._laws(axes), {n: axes[n].draw(cells[n], rng) for n in self.names}
        for pattern in np.unique(fixed, axis=0):
            rows = np.flatnonzero((fixed == pattern).all(axis=1))
            own = [(np.arange(codes), np.ones(codes)) for codes in self._allowed.shape]
            chosen = [own[i] if f else laws[i] for i, f in enumerate(pattern)]
            sizes = [self._allowed.shape[i] if f else axes[self.names[i]].size for i, f in enumerate(pattern)]
            at = [(known if f else cells)[n][rows] for n, f in zip(self.names, pattern, strict=True)]
            for n, c in zip(self.names, self._joint(chosen, sizes, at, rng), strict=True):
                out[n][rows] = np.where(c == INVALID, out[n][rows], c)
        return out

    def _joint(
        self, laws: Sequence[tuple[Codes, Floats]], sizes: Sequence[int], at: Sequence[Codes], rng: np.random.Generator
    ) -> list[Codes]:
        """Codes of each column, by the `laws` of cells given the cells `at`; INVALID in rows that allow nothing."""
        entries = np.argwhere(self._allowed)
        weight = np.prod([law[1][entries[:, i]] for i, law in enumerate(laws)], axis=0)
        entries, weight = entries[weight > 0], weight[weight > 0]
        if not len(entries):
            return [np.full(len(c), INVALID) for c in at]
        joint = np.ravel_multi_index([law[0][entries[:, i]] for i, law in enumerate(laws)], list(sizes))
        order = np.argsort(joint, kind="stable")
        spot = _by_weight(weight[order], joint[order], np.ravel_multi_index(list(at), list(sizes)), rng)
        return [np.where(spot >= 0, entries[order][spot, i], INVALID) for i in range(len(laws))]

    def witness(self) -> dict[str, int]:
        """The first allowed combination without a missing value."""
        shown = tuple(slice(size(self.columns[n])) for n in self.names)
        first = np.argwhere(self._allowed[shown])[0]
        return {n: int(v) for n, v in zip(self.names, first, strict=True)}


def _by_weight(weight: Floats, keys: Codes, asked: Codes, rng: np.random.Generator) -> Codes:
    """For each of `asked` a position in the sorted `keys` that holds it, by weight; -1 where none does."""
    first, last = np.searchsorted(keys, asked, side="left"), np.searchsorted(keys, asked, side="right")
    ends = np.append(0.0, np.cumsum(weight))
    spot = ends[first] + (ends[last] - ends[first]) * rng.random(len(asked))
    found = np.clip(np.searchsorted(ends, spot, side="right") - 1, first, last - 1)
    return np.where(last > first, found, -1)


class Bounded(Group):
    """A sum that could leave its total's bounds: drawn by redraws. Its names are the parts."""

    def __init__(self, parts: Sequence[Constraint], columns: Columns) -> None:
        super().__init__(parts, columns)
        self.names = self.sum.parts

    @property
    def sum(self) -> Sum:
        """The one constraint."""
        (only,) = self.parts
        if not isinstance(only, Sum):
            raise TypeError("no sum")
        return only

    def holds(self, codes: Mapping[str, Codes]) -> Mask:
        """Whether the sum lies within the total's bounds."""
        total = self.columns[self.sum.total]
        low, high = rules.reach(total, rules.digits(total))
        summed = summed_codes(self.sum, self.columns, codes)
        missing = some_missing(self.sum, self.columns, codes, skip=self.sum.total)
        return np.asarray(missing | ((low <= summed) & (summed <= high)))

    def factors(self, axes: Mapping[str, Axis], sizes: Mapping[str, int]) -> list[tuple[tuple[str, ...], Floats]]:
        """1 where some values of the cells have a sum within bounds, else 0; none where the table would be large."""
        if math.prod(sizes[n] for n in self.names) > MAX_JOINT:
            return []
        ends = [_ends(axes[n]) for n in self.names]
        low, high = ({n: e[i] for n, e in zip(self.names, _grid(ends), strict=True)} for i in (0, 1))
        return [(self.names, self._possible(low, high).astype(np.float64))]

    def _possible(self, low: Mapping[str, Codes], high: Mapping[str, Codes]) -> Mask:
        total = self.columns[self.sum.total]
        least, most = rules.reach(total, rules.digits(total))
        missing = some_missing(self.sum, self.columns, low, skip=self.sum.total)
        reached = summed_codes(self.sum, self.columns, low) <= most
        return np.asarray(missing | (reached & (summed_codes(self.sum, self.columns, high) >= least)))

    def draw(self, axes: Mapping[str, Axis], cells: Mapping[str, Codes], rng: np.random.Generator) -> dict[str, Codes]:
        """By redraws."""
        return self._redrawn(axes, cells, rng)

    def witness(self) -> dict[str, int]:
        """The parts filled from their low bounds."""
        values = rules.fitting_parts(self.sum, self.columns)
        return {n: v - origin(self.columns[n]) for n, v in values.items()}


def _ends(axis: Axis) -> tuple[Codes, Codes]:
    """Least and greatest code of each cell; both the code for missing where nothing else is in it."""
    pieces = len(axis.edges) - 1
    low, high = np.full(axis.size, size(axis.column)), np.full(axis.size, -1)
    cell = axis.cell[:pieces]
    np.minimum.at(low, cell[cell >= 0], axis.edges[:-1][cell >= 0])
    np.maximum.at(high, cell[cell >= 0], axis.edges[1:][cell >= 0] - 1)
    return low, np.where(high < 0, size(axis.column), high)


def _grid(ends: Sequence[tuple[Codes, Codes]]) -> list[tuple[Codes, Codes]]:
    """The ends of every combination of cells, one pair of arrays per column."""
    low, high = (np.meshgrid(*(e[i] for e in ends), indexing="ij") for i in (0, 1))
    return list(zip(low, high, strict=True))


def groups_of(schema: Schema, columns: Columns) -> tuple[Group, ...]:
    """The constraints of `schema` that are not met by computing what follows, those that share columns together."""
    inequalities = [c for c in schema.constraints if isinstance(c, Inequality)]
    sums = [c for c in schema.constraints if isinstance(c, Sum) and not c.always_fits(columns)]
    listed = rules.combinations(schema.constraints, columns)
    return (
        *(Ordered(g, columns) for g in rules.components(inequalities)),
        *(Listed(g, columns) for g in rules.components(listed)),
        *(Bounded([c], columns) for c in sums),
    )
