"""Graphical models over discrete columns: estimation from noisy marginals, and sampling, on a junction tree.

The maximum-entropy distribution that fits a set of noisy marginals is a Markov random field with one potential per
measured marginal (McKenna, Sheldon, Miklau 2019, "Graphical-model based estimation and inference for differential
privacy", Theorem 1). Potentials live on the cliques of a junction tree; belief propagation gives every clique's
marginal in two passes (Koller & Friedman 2009, 10.2). All arrays are numpy, nothing is compiled per structure.

Privacy: post-processing. Nothing here sees a row: the inputs are counts that were charged and noised elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tabveil.errors import UsageError

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Clique = tuple[int, ...]

FIRST_STEP = 50.0
"""First step, in units of the one that is always short enough; too long a step only costs a restart."""

PATIENCE = 25
TOLERANCE = 1e-3
"""Estimation ends when the loss fell by less than this share in PATIENCE steps."""

CLOSE = 0.0005
"""Estimation also ends when counts are fitted to a thirtieth of a standard deviation: half its square per cell."""

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
    """Maximal cliques met in eliminating attributes: those whose neighbours all know each other first, then by cost."""
    near: dict[int, set[int]] = {a: {a} for a in range(len(sizes))}
    for given in cliques:
        for a in given:
            near[a] |= set(given)
    log_size = np.log(np.maximum(np.asarray(sizes, dtype=np.float64), 1.0)).tolist()

    def rank(a: int) -> tuple[bool, float, int]:
        return any(not near[a] <= near[b] for b in near[a]), sum(log_size[b] for b in near[a]), a

    ranks = {a: rank(a) for a in near}
    found: list[frozenset[int]] = []
    while near:
        a = min(ranks, key=ranks.__getitem__)
        del ranks[a]
        clique = frozenset(near.pop(a))
        if not any(clique <= other for other in found):
            found.append(clique)
        for b in clique - {a}:
            near[b] = (near[b] | clique) - {a}
        for b in set().union(*(near[c] for c in clique - {a})) if clique != {a} else ():
            ranks[b] = rank(b)
    return found


def _expand(array: Array, held: Clique, clique: Clique) -> Array:
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

    def shifted(self, gradient: Sequence[Array | float], factor: float) -> GraphicalModel:
        """The model with `factor` times `gradient` added to its log potentials."""
        moved = [p + factor * g for p, g in zip(self.potentials, gradient, strict=True)]
        return GraphicalModel(self.sizes, self.tree, moved, self.total)

    def from_beliefs(self, beliefs: Sequence[Array]) -> GraphicalModel:
        """The model on the same tree whose clique tables are `beliefs`, which must agree on every separator."""
        return GraphicalModel(self.sizes, self.tree, [self._factor(i, b) for i, b in enumerate(beliefs)], self.total)

    def _factor(self, i: int, belief: Array) -> Array:
        """Log of clique i's table given its separator: a junction tree's law is the product of these (Koller &
        Friedman 10.2.3).
        """
        logs = np.log(np.maximum(belief, TINY))
        if self.tree.parents[i] < 0:
            return np.asarray(logs)
        clique, shared = self.tree.cliques[i], self.tree.separators[i]
        below = belief.sum(axis=_others(clique, shared))
        return np.asarray(logs - _expand(np.log(np.maximum(below, TINY)), shared, clique))

    def conditioned(self, evidence: Mapping[int, Array]) -> GraphicalModel:
        """The model given what is known of some attributes, each by itself; its total is what is left of this one's.

        Args:
          evidence: for an attribute the probability of what is known given each of its cells, shape (cells,), >= 0;
            zeros rule cells out. Any factor per attribute is allowed and ends up in the total.

        Raises:
          UsageError: what is known has a probability below NEVER under the model.

        One factor per attribute on one clique each, so every marginal and every sample has exactly the conditional law
        (Koller & Friedman 2009, 9.3.2); nothing is drawn and thrown away.
        """
        found = self.times(evidence)
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
            potentials[home] = potentials[home] + _expand(logs, (a,), self.tree.cliques[home])
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
            messages[i] = log_sum(logs[i], _others(cliques[i], shared))
            logs[parents[i]] = logs[parents[i]] + _expand(messages[i], shared, cliques[parents[i]])
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
                update = log_sum(logs[parent], _others(cliques[parent], shared)) - messages[i]
            logs[i] = logs[i] + _expand(np.nan_to_num(update, nan=-np.inf, neginf=-np.inf), shared, cliques[i])
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
            table = self.beliefs[home].sum(axis=_others(self.tree.cliques[home], wanted))
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
        tables = [(c, self._conditional(i)) for i, c in enumerate(tree.cliques)]
        for i in range(len(tables) - 1, 0, -1):
            held, table = tables[i]
            keep = tuple(a for a in held if a in wanted or a in tree.separators[i])
            table = table.sum(axis=_others(held, keep))
            parent, parent_table = tables[tree.parents[i]]
            union = tuple(sorted({*keep, *parent}))
            tables[tree.parents[i]] = (union, _expand(table, keep, union) * _expand(parent_table, parent, union))
        held, table = tables[0]
        return np.asarray(table.sum(axis=_others(held, wanted)))

    def _conditional(self, i: int) -> Array:
        """Belief of clique i given its separator (the root's: the belief itself)."""
        belief, shared = self.beliefs[i], self.tree.separators[i]
        if self.tree.parents[i] < 0:
            return belief
        below = _expand(belief.sum(axis=_others(self.tree.cliques[i], shared)), shared, self.tree.cliques[i])
        return np.divide(belief, below, out=np.zeros_like(belief), where=below > 0)

    def sample(self, rows: int, rng: np.random.Generator) -> Ints:
        """`rows` draws, shape (rows, attributes).

        Each clique's new attributes are drawn given its separator, by systematic sampling within every separator
        value, in random
        order: each row has exactly the model's law, and the table's clique counts differ from rows times probability
          by less than independent draws would.
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


def _others(clique: Clique, kept: Sequence[int]) -> tuple[int, ...]:
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


def estimate_total(measurements: Sequence[Measurement]) -> float:
    """Row count by the minimum-variance mean of the measurements' totals, at least 1.

    A measurement of c cells totals to n plus noise of variance c sigma^2 (McKenna et al. 2019, 4.1).
    """
    variance = np.array([m.counts.size * m.sigma**2 for m in measurements])
    totals = np.array([m.counts.sum() for m in measurements])
    return max(1.0, float((totals / variance).sum() / (1 / variance).sum()))


def estimate(
    sizes: Sequence[int],
    measurements: Sequence[Measurement],
    *,
    total: float | None = None,
    iterations: int = 1000,
    start: GraphicalModel | None = None,
    progress: Callable[[float], None] | None = None,
) -> GraphicalModel:
    """The graphical model whose marginals fit `measurements` best, each weighted by 1/sigma^2.

    Minimises sum_m |marginal_m - counts_m|^2 / (2 sigma_m^2) over the marginal polytope by the accelerated interior
    gradient method with an entropic prox (Auslender & Teboulle 2006, section 5; McKenna et al. 2019, 4.2), restarted
    with a shorter step whenever the loss rises (O'Donoghue & Candes 2015).

    Args:
      sizes: cells per attribute, each >= 1.
      measurements: noisy marginals; attributes nobody measured come out uniform.
      total: row count where it is public; estimated from the measurements otherwise.
      iterations: steps at most; fewer where nothing moves any more.
      start: model to start from where its cliques nest in the new tree's.
      progress: told the share of steps done.

    Raises:
      UsageError: no measurements and no total, or counts that do not fit `sizes`.
    """
    ready = [m.sorted() for m in measurements]
    for m in ready:
        if m.counts.shape != tuple(sizes[a] for a in m.attributes):
            raise UsageError(f"Counts of shape {m.counts.shape} do not fit the attributes {m.attributes}.")
    if total is None:
        if not ready:
            raise UsageError("Without measurements the total must be given.")
        total = estimate_total(ready)
    tree = junction_tree(sizes, [m.attributes for m in ready])
    model = GraphicalModel.uniform(sizes, tree, total)
    if start is not None:
        model = _carried(start, model)
    return _descend(model, _Loss(tree, ready), iterations, progress) if ready else model


def _carried(old: GraphicalModel, new: GraphicalModel) -> GraphicalModel:
    """Potentials of `old` on the cliques of `new`; those that fit nowhere are left out."""
    potentials = list(new.potentials)
    for clique, potential in zip(old.tree.cliques, old.potentials, strict=True):
        home = new.tree.home(clique)
        if home >= 0:
            potentials[home] = potentials[home] + _expand(potential, clique, new.tree.cliques[home])
    return GraphicalModel(new.sizes, new.tree, potentials, new.total)


class _Loss:
    """Weighted squared distance between a model's marginals and the measurements, and its gradient per clique."""

    def __init__(self, tree: JunctionTree, measurements: Sequence[Measurement]) -> None:
        self._tree = tree
        self._targets = [(tree.home(m.attributes), m) for m in measurements]
        self.curvature = sum(1 / m.sigma**2 for m in measurements)
        self.cells = sum(m.counts.size for m in measurements)

    def __call__(self, beliefs: Sequence[Array]) -> tuple[float, list[Array | float]]:
        loss, gradient = 0.0, [0.0 for _ in beliefs]
        out: list[Array | float] = list(gradient)
        for home, m in self._targets:
            clique = self._tree.cliques[home]
            gap = (beliefs[home].sum(axis=_others(clique, m.attributes)) - m.counts) / m.sigma
            loss += 0.5 * float(np.vdot(gap, gap))
            out[home] = out[home] + _expand(gap / m.sigma, m.attributes, clique)
        return loss, out


def _descend(
    model: GraphicalModel, loss: _Loss, iterations: int, progress: Callable[[float], None] | None
) -> GraphicalModel:
    """Accelerated interior gradient: `best` is a running mixture of clique tables, `fast` the mirror point it is
    mixed from.
    """
    step = FIRST_STEP / (model.total * loss.curvature)
    fast, best = model, list(model.beliefs)
    value, share, checked = loss(best)[0], 1.0, math.inf
    for i in range(iterations):
        middle = _mixed(best, fast.beliefs, share)
        moved = fast.shifted(loss(middle)[1], -step / share)
        candidate = _mixed(best, moved.beliefs, share)
        reached = loss(candidate)[0]
        if reached <= value:
            fast, best, value, share = moved, candidate, reached, 2 / (1 + math.sqrt(1 + 4 / share**2))
        else:
            fast, share, step = model.from_beliefs(best), 1.0, step * (0.5 if share == 1.0 else 0.7)
        if i % PATIENCE == PATIENCE - 1:
            if value > checked * (1 - TOLERANCE) or value < CLOSE * loss.cells:
                break
            checked = value
        if progress is not None:
            progress((i + 1) / iterations)
    return model.from_beliefs(best)


def _mixed(old: Sequence[Array], new: Sequence[Array], share: float) -> list[Array]:
    return [(1 - share) * a + share * b for a, b in zip(old, new, strict=True)]
