"""Graphical models over discrete columns: inference and sampling on a junction tree.

The maximum-entropy distribution that fits a set of noisy marginals is a Markov random field with one potential per
measured marginal (McKenna, Sheldon, Miklau 2019, "Graphical-model based estimation and inference for differential
privacy", Theorem 1). Potentials live on the cliques of a junction tree; belief propagation gives every clique's
marginal in two passes (Koller & Friedman 2009, 10.2). All arrays are numpy, nothing is compiled per structure.

Privacy: post-processing. Nothing here sees a row: the inputs are counts that were charged and noised elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from tabveil.errors import UsageError

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Clique = tuple[int, ...]

TINY = 1e-300

NEVER = 1e-100
"""A probability below this is what estimation in floating point leaves of zero."""

FLOOR = 690.0
"""How far below a clique's largest log potential `floored` puts a zero: less than 1e-299 of it."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """Noisy counts of one marginal.

    Attributes:
      attributes: column positions, in the order of the axes of `counts`; no repeats.
      counts: noisy counts, one axis per attribute.
      sigma: standard deviation of the noise in one cell, > 0.
    """

    attributes: Clique
    counts: Array
    sigma: float

    def sorted(self) -> Measurement:
        """The same with attributes rising."""
        order = np.argsort(self.attributes)
        return Measurement(tuple(sorted(self.attributes)), np.transpose(self.counts, order), self.sigma)


@dataclass(frozen=True, eq=False)
class Factor:
    """A known weight of every cell of some attributes: how much of it a public constraint leaves.

    Attributes:
      attributes: column positions, in the order of the axes of `weights`; no repeats.
      weights: >= 0, not all 0; cells of weight 0 never occur.
    """

    attributes: Clique
    weights: Array

    def log(self) -> tuple[Clique, Array]:
        """Attributes rising, and the log weights, -inf for 0."""
        with np.errstate(divide="ignore"):
            logs = np.log(np.transpose(self.weights, np.argsort(self.attributes)))
        return tuple(sorted(self.attributes)), logs


@dataclass(frozen=True)
class JunctionTree:
    """A forest joined into one tree by empty separators.

    Attributes:
      cliques: attribute sets, each rising, in an order in which every clique but the first comes after its parent.
      parents: index of each clique's parent, -1 for the first.
    """

    cliques: tuple[Clique, ...]
    parents: tuple[int, ...]

    @cached_property
    def separators(self) -> tuple[Clique, ...]:
        """For each clique the attributes it shares with its parent; none for the first."""
        parents = [self.cliques[p] if p >= 0 else () for p in self.parents]
        return tuple(tuple(sorted(set(c) & set(p))) for c, p in zip(self.cliques, parents, strict=True))

    def home(self, attributes: Sequence[int]) -> int:
        """The first smallest clique holding all of `attributes`, -1 where none does."""
        inside = [i for i, c in enumerate(self.cliques) if set(attributes) <= set(c)]
        return min(inside, key=lambda i: len(self.cliques[i]), default=-1)

    def cells(self, sizes: Sequence[int]) -> int:
        """Total cells of all clique tables."""
        return sum(int(np.prod([sizes[a] for a in c], dtype=np.float64)) for c in self.cliques)


def junction_tree(sizes: Sequence[int], cliques: Sequence[Sequence[int]]) -> JunctionTree:
    """Junction tree whose cliques hold every given clique and every attribute.

    Attributes are eliminated cheapest neighbourhood first (by table size); the maximal cliques met are joined along
    separators of the greatest weight (Koller & Friedman 2009, 9.4.3 and 10.4.2).
    """
    maximal = _eliminate(sizes, cliques)
    member = np.zeros((len(maximal), len(sizes)), dtype=np.int32)
    for i, clique in enumerate(maximal):
        member[i, list(clique)] = 1
    order, parents = _prim(member @ member.T)
    return JunctionTree(tuple(tuple(sorted(maximal[i])) for i in order), parents)


def _prim(weight: NDArray[np.int32]) -> tuple[list[int], tuple[int, ...]]:
    """Maximum spanning tree (Prim 1957): nodes in the order they join, and for each the place of its parent in that
    order.
    """
    order, parents = [0], [-1]
    best, through = weight[0].copy(), np.zeros(len(weight), dtype=np.int64)
    best[0] = -1
    while len(order) < len(weight):
        node = int(best.argmax())
        order.append(node)
        parents.append(int(through[node]))
        nearer = (weight[node] > best) & (best >= 0)
        best[nearer], through[nearer] = weight[node][nearer], len(order) - 1
        best[node] = -1
    return order, tuple(parents)


def _eliminate(sizes: Sequence[int], cliques: Sequence[Sequence[int]]) -> list[frozenset[int]]:
    """Maximal cliques met in eliminating attributes."""
    return [frozenset(_members(clique)) for clique in _maximal(tuple(sizes), [_bits(c) for c in cliques])]


def model_cells(sizes: Sequence[int], cliques: Sequence[Sequence[int]]) -> int:
    """Cells of the clique tables of `junction_tree(sizes, cliques)`, without making it."""
    maximal = _maximal(tuple(sizes), [_bits(c) for c in cliques])
    return sum(math.prod(sizes[a] for a in _members(clique)) for clique in maximal)


def _bits(attributes: Sequence[int]) -> int:
    """A set of attributes as the bits of a whole number."""
    return sum({1 << int(a) for a in attributes})


def _members(bits: int) -> list[int]:
    found = []
    while bits:
        lowest = bits & -bits
        found.append(lowest.bit_length() - 1)
        bits ^= lowest
    return found


def _maximal(sizes: tuple[int, ...], cliques: Sequence[int]) -> list[int]:
    """Maximal cliques, as bits, met in eliminating attributes, the smallest table first.

    An attribute whose neighbours all know each other has no larger a table than any of them, so it goes before them
    and adds no edge. Ties are broken by size, and weights are rounded, so that numbering attributes by size
    (`estimate`) changes nothing.
    """
    near = [1 << a for a in range(len(sizes))]
    for clique in cliques:
        for a in _members(clique):
            near[a] |= clique
    weights = _log_sizes(sizes)
    rank = {a: (round(_weight(near[a], weights), 9), sizes[a], a) for a in range(len(sizes))}
    found: list[int] = []
    while rank:
        a = min(rank.values())[2]
        del rank[a]
        clique, bit = near[a], 1 << a
        if not any(not clique & ~other for other in found):
            found.append(clique)
        for b in _members(clique ^ bit):
            fresh = clique & ~near[b]
            near[b] = (near[b] | clique) ^ bit
            rank[b] = round(rank[b][0] + _weight(fresh, weights) - weights[a], 9), sizes[b], b
    return found


def _weight(bits: int, weights: tuple[float, ...]) -> float:
    return sum([weights[a] for a in _members(bits)]) if bits else 0.0


@lru_cache(maxsize=64)
def _log_sizes(sizes: tuple[int, ...]) -> tuple[float, ...]:
    """A set of attributes always outweighs its subsets, by an attribute of a single cell too."""
    return tuple(math.log(max(s, 1)) + 1e-6 for s in sizes)


def expand(array: Array, held: Clique, clique: Clique) -> Array:
    """`array` over the attributes `held`, shaped to broadcast over `clique` (both rising)."""
    sizes = iter(array.shape)
    return array.reshape([next(sizes) if a in held else 1 for a in clique])


def log_sum(array: Array, axes: tuple[int, ...]) -> Array:
    """Log of the sum over `axes` of what `array` holds the logs of; -inf where all of it is."""
    if not axes:
        return array
    top = array.max(axis=axes, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(array - top).sum(axis=axes)) + np.squeeze(top, axis=axes))


class GraphicalModel:
    """A distribution over `sizes` cells with log potentials on the cliques of a junction tree.

    Args:
      sizes: cells per attribute.
      tree: the junction tree.
      potentials: log potentials, one array per clique of `tree`.
      total: what the model's counts add up to, > 0.
    """

    def __init__(self, sizes: Sequence[int], tree: JunctionTree, potentials: Sequence[Array], total: float) -> None:
        self.sizes = tuple(int(s) for s in sizes)
        self.tree = tree
        self.potentials = tuple(potentials)
        self.total = float(total)

    @classmethod
    def uniform(cls, sizes: Sequence[int], tree: JunctionTree, total: float) -> GraphicalModel:
        """The model that knows nothing."""
        return cls(sizes, tree, [np.zeros([sizes[a] for a in c]) for c in tree.cliques], total)

    def renumbered(self, order: Sequence[int]) -> GraphicalModel:
        """The same model with attribute order[i] called i."""
        place = {a: i for i, a in enumerate(order)}
        named = [[place[a] for a in clique] for clique in self.tree.cliques]
        tree = JunctionTree(tuple(tuple(sorted(c)) for c in named), self.tree.parents)
        potentials = [
            np.ascontiguousarray(np.transpose(p, np.argsort(c))) for p, c in zip(self.potentials, named, strict=True)
        ]
        return GraphicalModel([self.sizes[a] for a in order], tree, potentials, self.total)

    def weighted(self, factors: Sequence[Factor], *, instead_of: Sequence[Factor] = ()) -> GraphicalModel:
        """The model times `factors`, each held by some clique, those of `instead_of` divided out; 0 stays 0.

        Raises:
          ValueError: no clique holds a factor's attributes.
        """
        potentials = list(self.potentials)
        for factor, sign in [*((f, -1.0) for f in instead_of), *((f, 1.0) for f in factors)]:
            attributes, logs = factor.log()
            home = self.tree.home(attributes)
            if home < 0:
                raise ValueError("No clique of the model holds the attributes of a factor.")
            change = np.where(np.isneginf(logs), logs, sign * logs)
            potentials[home] = potentials[home] + expand(change, attributes, self.tree.cliques[home])
        return GraphicalModel(self.sizes, self.tree, potentials, self.total)

    def from_beliefs(self, beliefs: Sequence[Array]) -> GraphicalModel:
        """The model on the same tree whose clique tables are `beliefs`, which must agree on every separator."""
        return GraphicalModel(self.sizes, self.tree, [self._factor(i, b) for i, b in enumerate(beliefs)], self.total)

    def _factor(self, i: int, belief: Array) -> Array:
        """Log of clique i's table given its separator: a junction tree's law is the product of these (Koller &
        Friedman 10.2.3).
        """
        logs = np.where(np.isneginf(self.potentials[i]), -np.inf, np.log(np.maximum(belief, TINY)))
        if self.tree.parents[i] < 0:
            return np.asarray(logs)
        clique, shared = self.tree.cliques[i], self.tree.separators[i]
        below = belief.sum(axis=others(clique, shared))
        return np.asarray(logs - expand(np.log(np.maximum(below, TINY)), shared, clique))

    def conditioned(
        self, evidence: Mapping[int, Array], *, factors: Sequence[Factor] = (), instead_of: Sequence[Factor] = ()
    ) -> GraphicalModel:
        """The model given what is known of some attributes, each by itself; its total is what is left of this one's.

        Args:
          evidence: for an attribute the probability of what is known given each of its cells, shape (cells,), >= 0;
            zeros rule cells out. Any factor per attribute is allowed and ends up in the total.
          factors: weights of cells under what is known, see `weighted`.
          instead_of: those without it.

        Raises:
          UsageError: what is known has a probability below NEVER under the model.

        One factor per attribute on one clique each, so every marginal and every sample has exactly the conditional law
        (Koller & Friedman 2009, 9.3.2); nothing is drawn and thrown away.
        """
        found = self.weighted(factors, instead_of=instead_of).times(evidence)
        share = found._log_mass - self._log_mass
        if not share > math.log(NEVER):
            raise UsageError("What is asked for has probability 0 under the model.")
        found.total = self.total * math.exp(share)
        return found

    def times(self, factors: Mapping[int, Array]) -> GraphicalModel:
        """The model with one factor per attribute, shape (cells,), >= 0, multiplied in, scaled to the same total."""
        potentials = list(self.potentials)
        for a, factor in factors.items():
            home = self.tree.home((a,))
            with np.errstate(divide="ignore"):
                logs = np.log(np.asarray(factor, dtype=np.float64))
            potentials[home] = potentials[home] + expand(logs, (a,), self.tree.cliques[home])
        return GraphicalModel(self.sizes, self.tree, potentials, self.total)

    def floored(self) -> GraphicalModel:
        """The model with its zeros raised to next to nothing, so that every combination of values can be given.

        What has a positive probability keeps its law; given what has none, the law is the limit of ever smaller floors:
        the completions that contradict the fewest tables of the model.
        """
        potentials = [np.maximum(p, p.max() - FLOOR) for p in self.potentials]
        return GraphicalModel(self.sizes, self.tree, potentials, self.total)

    @cached_property
    def _upward(self) -> tuple[list[Array], dict[int, Array]]:
        """Clique logs with everything below multiplied in, and the message each clique sends to its parent."""
        cliques, parents = self.tree.cliques, self.tree.parents
        logs = list(self.potentials)
        messages: dict[int, Array] = {}
        for i in range(len(cliques) - 1, 0, -1):
            shared = self.tree.separators[i]
            messages[i] = log_sum(logs[i], others(cliques[i], shared))
            logs[parents[i]] = logs[parents[i]] + expand(messages[i], shared, cliques[parents[i]])
        return logs, messages

    @property
    def _log_mass(self) -> float:
        """Log of what the potentials' product sums to."""
        root = self._upward[0][0]
        return float(log_sum(root, tuple(range(root.ndim))))

    @cached_property
    def beliefs(self) -> tuple[Array, ...]:
        """Expected counts of every clique, each summing to `total`; two passes of belief propagation in log space."""
        cliques, parents = self.tree.cliques, self.tree.parents
        logs, messages = list(self._upward[0]), self._upward[1]
        for i in range(1, len(cliques)):
            shared, parent = self.tree.separators[i], parents[i]
            with np.errstate(invalid="ignore"):
                update = log_sum(logs[parent], others(cliques[parent], shared)) - messages[i]
            logs[i] = logs[i] + expand(np.nan_to_num(update, nan=-np.inf, neginf=-np.inf), shared, cliques[i])
        return tuple(self._counts(x) for x in logs)

    def _counts(self, logs: Array) -> Array:
        p = np.exp(logs - logs.max())
        return np.asarray(p * (self.total / p.sum()))

    def marginal(self, attributes: Sequence[int]) -> Array:
        """Expected counts over `attributes`, axes in the order given, any subset of the attributes.

        Exact; where no clique holds them all, the tree's conditional tables are multiplied out and summed as early as
        may be, so the cost grows with the attributes asked for.
        """
        wanted = tuple(sorted(attributes))
        home = self.tree.home(wanted)
        if home >= 0:
            table = self.beliefs[home].sum(axis=others(self.tree.cliques[home], wanted))
        else:
            table = self._multiply_out(wanted)
        return np.transpose(table, [wanted.index(a) for a in attributes])

    def pairs(self) -> dict[tuple[int, int], Array]:
        """Expected counts of every pair of attributes (a, b), a < b, axes in that order.

        Where no clique holds more than two attributes, conditional tables are chained along the tree from every
        attribute; otherwise each pair is a `marginal` of its own.
        """
        d = len(self.sizes)
        if max(len(c) for c in self.tree.cliques) > 2:
            return {(a, b): self.marginal((a, b)) for a in range(d) for b in range(a + 1, d)}
        return {(a, b): table for a in range(d) for b, table in self._chained(a).items() if a < b}

    def _chained(self, root: int) -> dict[int, Array]:
        """Joint counts of `root` with every other attribute, in a model whose cliques are pairs."""
        ones = self._ones
        tables = {root: np.diag(ones[root])}
        waiting = [root]
        while waiting:
            a = waiting.pop()
            for b, joint in self._edges.get(a, {}).items():
                if b not in tables:
                    below = ones[a][:, None]
                    step = np.divide(joint, below, out=np.zeros_like(joint), where=below > 0)
                    tables[b] = tables[a] @ step
                    waiting.append(b)
        return {b: tables.get(b, np.outer(ones[root], ones[b]) / self.total) for b in range(len(ones))}

    @cached_property
    def _ones(self) -> list[Array]:
        return [self.marginal((a,)) for a in range(len(self.sizes))]

    @cached_property
    def _edges(self) -> dict[int, dict[int, Array]]:
        near: dict[int, dict[int, Array]] = {}
        for clique, belief in zip(self.tree.cliques, self.beliefs, strict=True):
            if len(clique) == 2:
                a, b = clique
                near.setdefault(a, {})[b] = belief
                near.setdefault(b, {})[a] = belief.T
        return near

    def _multiply_out(self, wanted: Clique) -> Array:
        """Sum out, leaf by leaf, everything that neither `wanted` nor a separator still needs."""
        tree = self.tree
        tables = list(zip(tree.cliques, self._conditionals, strict=True))
        for i in range(len(tables) - 1, 0, -1):
            held, table = tables[i]
            keep = tuple(a for a in held if a in wanted or a in tree.separators[i])
            if keep == tree.separators[i]:  # nothing wanted beyond it: given the separator its table sums to 1
                continue
            table = table.sum(axis=others(held, keep))
            parent, parent_table = tables[tree.parents[i]]
            union = tuple(sorted({*keep, *parent}))
            tables[tree.parents[i]] = (union, expand(table, keep, union) * expand(parent_table, parent, union))
        held, table = tables[0]
        return np.asarray(table.sum(axis=others(held, wanted)))

    @cached_property
    def _conditionals(self) -> list[Array]:
        return [self._conditional(i) for i in range(len(self.tree.cliques))]

    def _conditional(self, i: int) -> Array:
        """Belief of clique i given its separator (the root's: the belief itself)."""
        belief, shared = self.beliefs[i], self.tree.separators[i]
        if self.tree.parents[i] < 0:
            return belief
        below = expand(belief.sum(axis=others(self.tree.cliques[i], shared)), shared, self.tree.cliques[i])
        return np.divide(belief, below, out=np.zeros_like(belief), where=below > 0)

    def sample(self, rows: int, rng: np.random.Generator) -> Ints:
        """`rows` draws, shape (rows, attributes).

        Each clique's new attributes are drawn given its separator, by systematic sampling within every separator
        value, in random order: each row has exactly the model's law, and the table's clique counts differ from rows
        times probability by less than independent draws would.
        """
        out = np.zeros((rows, len(self.sizes)), dtype=np.int64)
        for i, clique in enumerate(self.tree.cliques):
            shared = self.tree.separators[i]
            fresh = tuple(a for a in clique if a not in shared)
            if fresh and rows:
                self._sample_clique(out, self.beliefs[i], (clique, shared, fresh), rng)
        return out

    def _sample_clique(
        self, out: Ints, belief: Array, split: tuple[Clique, Clique, Clique], rng: np.random.Generator
    ) -> None:
        clique, shared, fresh = split
        order = [clique.index(a) for a in (*shared, *fresh)]
        shape = [self.sizes[a] for a in shared]
        table = np.transpose(belief, order).reshape(int(np.prod(shape, dtype=np.int64)), -1)
        given = np.zeros(len(out), dtype=np.int64)
        for a in shared:
            given = given * self.sizes[a] + out[:, a]
        drawn = systematic(table, given, rng)
        for a in reversed(fresh):
            drawn, out[:, a] = np.divmod(drawn, self.sizes[a])


def others(clique: Clique, kept: Sequence[int]) -> tuple[int, ...]:
    """Positions in `clique` of the attributes that are not `kept`."""
    return tuple(i for i, a in enumerate(clique) if a not in kept)


def systematic(table: Array, given: Ints, rng: np.random.Generator) -> Ints:
    """For each row r a column of `table` with the law table[given[r]]; systematic within rows of one `given`."""
    shuffled = rng.permutation(len(given))
    small = given.astype(np.uint16) if len(table) <= 2**16 else given
    order = shuffled[np.argsort(small[shuffled], kind="stable")]
    counts = np.bincount(given, minlength=len(table))
    start = np.cumsum(counts) - counts
    sorted_given = given[order]
    rank = np.arange(len(given)) - start[sorted_given]
    spot = (rank + rng.random(len(table))[sorted_given]) / counts[sorted_given]
    drawn = np.empty(len(given), dtype=np.int64)
    drawn[order] = _inverse(table, sorted_given, spot)
    return drawn


def one_by_one(table: Array, given: Ints, rng: np.random.Generator) -> Ints:
    """As `systematic`, every row independent of every other."""
    return _inverse(table, given, rng.random(len(given)))


def _inverse(table: Array, given: Ints, spot: Array) -> Ints:
    """For each row the column of `table` in which the running share of table[given] passes `spot`, in [0, 1]; never one
    of weight 0.
    """
    ends = np.cumsum(table, axis=1)
    ends = ends / np.maximum(ends[:, -1:], np.finfo(float).tiny)
    last = (ends < ends[:, -1:]).sum(axis=1)  # the column that reaches the whole: rounding must not pass it
    flat = (ends + np.arange(len(table))[:, None]).ravel()
    found = np.searchsorted(flat, given + spot, side="right") - given * table.shape[1]
    return np.asarray(np.clip(found, 0, last[given]))
