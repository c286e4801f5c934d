"""Estimation: the graphical model that fits noisy marginals best.

Minimises sum_m |marginal_m - counts_m|^2 / (2 sigma_m^2) over the marginal polytope by the accelerated interior
gradient method with an entropic prox (Auslender & Teboulle 2006, section 5; McKenna, Sheldon, Miklau 2019,
"Graphical-model based estimation and inference for differential privacy", 4.2), restarted with a shorter step whenever
the loss rises (O'Donoghue & Candes 2015).

What makes a step cheap: attributes are numbered by size while the descent runs, so that sums run over long rows;
marginals of one clique are summed out of each other where one holds another, or out of a common part; marginals are
linear, so that those of a mixture are mixed, not summed again; cliques are shared between the cores.

Privacy: post-processing. The inputs are counts that were charged and noised elsewhere.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tabveil.errors import UsageError
from tabveil.graphical_model import (
    Array,
    Clique,
    Factor,
    GraphicalModel,
    JunctionTree,
    Measurement,
    expand,
    junction_tree,
    others,
)

FIRST_STEP = 50.0
"""First step, in units of the one that is always short enough; too long a step only costs a restart."""

PATIENCE = 25
TOLERANCE = 1e-3
"""Estimation ends when the loss fell by less than this share in PATIENCE steps."""

CLOSE = 0.0005
"""Estimation also ends when counts are fitted to a thirtieth of a standard deviation: half its square per cell."""

THREADS = min(2, os.cpu_count() or 1)

SHARED_CELLS = 50_000
"""Models with fewer cells are fitted by one thread: handing over would cost more than it saves."""

PARTS = 12
"""Common parts looked for in one clique."""

Tables = list[Array]
Marginals = dict[Clique, Array]
Map = Callable[[Callable[[int], Array | Marginals | None], Iterable[int]], Iterable[Array | Marginals | None]]


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
    factors: Sequence[Factor] = (),
    progress: Callable[[float], None] | None = None,
) -> GraphicalModel:
    """The graphical model whose marginals fit `measurements` best, each weighted by 1/sigma^2.

    Args:
      sizes: cells per attribute, each >= 1.
      measurements: noisy marginals; attributes nobody measured come out uniform.
      total: row count where it is public; estimated from the measurements otherwise.
      iterations: steps at most; fewer where nothing moves any more.
      start: model to start from where its cliques nest in the new tree's; made with the same `factors`.
      factors: known weights of cells. The model starts from their product (the base measure of the maximum-entropy
        distribution) and steps move only exponents, so what they rule out never occurs. Noisy counts of cells that
        they rule out are left out of the fit: the model is 0 there whatever they say.
      progress: told the share of steps done.

    Raises:
      UsageError: no measurements and no total, or counts that do not fit `sizes`.
    """
    for m in measurements:
        if m.counts.shape != tuple(sizes[a] for a in m.attributes):
            raise UsageError(f"Counts of shape {m.counts.shape} do not fit the attributes {m.attributes}.")
    if total is None:
        if not measurements:
            raise UsageError("Without measurements the total must be given.")
        total = estimate_total(measurements)
    order = sorted(range(len(sizes)), key=lambda a: (sizes[a], a))
    place = [order.index(a) for a in range(len(sizes))]
    ready = [Measurement(_moved(m.attributes, place), m.counts, m.sigma).sorted() for m in measurements]
    known = [Factor(_moved(f.attributes, place), f.weights) for f in factors]
    tree = junction_tree([sizes[a] for a in order], [m.attributes for m in ready] + [f.attributes for f in known])
    model = GraphicalModel.uniform([sizes[a] for a in order], tree, total).weighted(known)
    if factors:
        ready = [_where_possible(m, model) for m in ready]
    carried = model if start is None else _carried(start.weighted((), instead_of=factors).renumbered(order), model)
    fitted = _descend((carried, model), merged(ready), iterations, progress) if ready else model
    return fitted.renumbered(place)


def _moved(attributes: Clique, place: Sequence[int]) -> Clique:
    return tuple(place[a] for a in attributes)


def _where_possible(m: Measurement, base: GraphicalModel) -> Measurement:
    """The measurement with 0 counted in every cell that `base` rules out, so that they add nothing to the loss."""
    return Measurement(m.attributes, np.where(base.marginal(m.attributes) > 0, m.counts, 0.0), m.sigma)


def _carried(old: GraphicalModel, new: GraphicalModel) -> GraphicalModel:
    """Potentials of `old` on the cliques of `new`; those that fit nowhere are left out."""
    potentials = list(new.potentials)
    for clique, potential in zip(old.tree.cliques, old.potentials, strict=True):
        home = new.tree.home(clique)
        if home >= 0:
            potentials[home] = potentials[home] + expand(potential, clique, new.tree.cliques[home])
    return GraphicalModel(new.sizes, new.tree, potentials, new.total)


@dataclass(frozen=True, eq=False)
class Target:
    """What one marginal should be, and how much it matters: the inverse variance of a cell."""

    counts: Array
    weight: float


def merged(measurements: Sequence[Measurement]) -> dict[Clique, Target]:
    """Measurements of the same attributes as one, by inverse variance: the loss differs by a constant."""
    found: dict[Clique, Target] = {}
    for m in measurements:
        weight, old = 1 / m.sigma**2, found.get(m.attributes)
        if old is None:
            found[m.attributes] = Target(m.counts, weight)
        else:
            both = (old.weight * old.counts + weight * m.counts) / (old.weight + weight)
            found[m.attributes] = Target(both, old.weight + weight)
    return found


# ---------------------------------------------------------------------------------------------------------- summing out
@dataclass(frozen=True)
class Reduction:
    """One step of summing a clique's table out: the attributes left, and from which earlier step (-1: the table)."""

    attributes: Clique
    source: int


def reductions(clique: Clique, wanted: Sequence[Clique], sizes: Sequence[int]) -> list[Reduction]:
    """Steps that give every marginal in `wanted`, each from the smallest table at hand, common parts among them."""
    whole = frozenset(clique)
    parts = {frozenset(w) for w in wanted}
    parts |= _common_parts(whole, parts, sizes)
    steps: list[Reduction] = []
    place: dict[frozenset[int], int] = {}
    for part in sorted(parts, key=lambda p: (-len(p), -_cells(p, sizes), sorted(p))):
        holding = [p for p in place if part < p]
        source = place[min(holding, key=lambda p: _cells(p, sizes))] if holding else -1
        place[part] = len(steps)
        steps.append(Reduction(tuple(a for a in clique if a in part), source))
    return steps


def _common_parts(whole: frozenset[int], wanted: set[frozenset[int]], sizes: Sequence[int]) -> set[frozenset[int]]:
    """Unions of wanted marginals that are worth a table of their own, found greedily."""
    cells, found = _cells(whole, sizes), set[frozenset[int]]()
    for _ in range(PARTS):
        known = wanted | found
        tops = [w for w in known - {whole} if not any(w < other for other in known - {whole})]
        savings = {
            union: sum(cells - _cells(union, sizes) for w in tops if w < union) - cells
            for a, b in itertools.combinations(tops, 2)
            if _cells(union := a | b, sizes) * 2 <= cells
        }
        best = max(savings, key=lambda u: (savings[u], sorted(u)), default=None)
        if best is None or savings[best] <= 0:
            break
        found.add(best)
    return found


def _cells(attributes: Iterable[int], sizes: Sequence[int]) -> int:
    return math.prod(sizes[a] for a in attributes)


# -------------------------------------------------------------------------------------------------------------- descent
class _Objective:
    """Weighted squared distance of a model's marginals to the targets, on the cliques of a junction tree.

    Args:
      model: gives the cells per attribute and the junction tree.
      targets: by attributes, rising; each target's attributes lie in one clique of the tree.
      over: maps a function over cliques, perhaps in threads.
    """

    def __init__(self, model: GraphicalModel, targets: Mapping[Clique, Target], over: Map) -> None:
        self._tree, self._targets, self._over = model.tree, targets, over
        self._sizes = model.sizes
        cells = [_cells(c, model.sizes) for c in model.tree.cliques]
        holding = {a: [i for i, c in enumerate(model.tree.cliques) if set(a) <= set(c)] for a in targets}
        homes = {a: min(inside, key=lambda i: cells[i]) for a, inside in holding.items()}
        self._steps = [
            reductions(c, [a for a, home in homes.items() if home == i], model.sizes)
            for i, c in enumerate(model.tree.cliques)
        ]
        self.curvature = sum(t.weight for t in targets.values())
        self.cells = sum(t.counts.size for t in targets.values())

    def marginals(self, tables: Tables) -> Marginals:
        """Every target's marginal of the model whose cliques hold `tables`."""

        def of_clique(i: int) -> Marginals:
            known: list[tuple[Clique, Array]] = []
            for step in self._steps[i]:
                held, table = known[step.source] if step.source >= 0 else (self._tree.cliques[i], tables[i])
                known.append((step.attributes, table.sum(axis=others(held, step.attributes))))
            return {a: t for a, t in known if a in self._targets}

        found: Marginals = {}
        for part in self._over(of_clique, range(len(tables))):
            found.update(part if isinstance(part, dict) else {})
        return found

    def loss(self, marginals: Marginals) -> float:
        """The objective's value."""
        return sum(0.5 * t.weight * float(np.square(marginals[a] - t.counts).sum()) for a, t in self._targets.items())

    def moved(self, logs: Tables, marginals: Marginals, length: float) -> Tables:
        """Log potentials after a step of `length` down the gradient at `marginals`."""
        pull = {a: (-length * t.weight) * (marginals[a] - t.counts) for a, t in self._targets.items()}

        def of_clique(i: int) -> Array:
            steps, out = self._steps[i], logs[i].copy()
            sums: list[Array | None] = [pull.get(s.attributes) for s in steps]
            for k in range(len(steps) - 1, -1, -1):
                part, source = sums[k], steps[k].source
                if part is None:
                    continue
                if source < 0:
                    out += expand(part, steps[k].attributes, self._tree.cliques[i])
                else:
                    sums[source] = self._added(sums[source], part, (steps[k].attributes, steps[source].attributes))
            return out

        return [t for t in self._over(of_clique, range(len(logs))) if isinstance(t, np.ndarray)]

    def _added(self, old: Array | None, part: Array, between: tuple[Clique, Clique]) -> Array:
        wide = expand(part, *between)
        return wide + (np.zeros([self._sizes[a] for a in between[1]]) if old is None else old)


class _Propagation:
    """Belief propagation on plain numbers, not logs: a model's clique tables from its log potentials."""

    def __init__(self, tree: JunctionTree, total: float, over: Map) -> None:
        self._tree, self._total, self._over = tree, total, over

    def tables(self, logs: Tables) -> Tables:
        """Expected counts of every clique, each summing to the total (Koller & Friedman 2009, 10.2); NaN where logs are
        so far apart that nothing is left of their product.
        """

        def weights(i: int) -> Array:
            shifted = logs[i] - logs[i].max()
            return np.asarray(np.exp(shifted, out=shifted))

        tables = [t for t in self._over(weights, range(len(logs))) if isinstance(t, np.ndarray)]
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            self._upward(tables)
            mass = float(tables[0].sum())
            if not 0 < mass < math.inf:
                return [np.full_like(t, np.nan) for t in tables]
            tables[0] *= self._total / mass
            self._downward(tables)
        return tables

    def _upward(self, tables: Tables) -> None:
        cliques, parents, shared = self._tree.cliques, self._tree.parents, self._tree.separators
        for i in range(len(cliques) - 1, 0, -1):
            message = tables[i].sum(axis=others(cliques[i], shared[i]))
            tables[parents[i]] *= expand(message / message.max(), shared[i], cliques[parents[i]])

    def _downward(self, tables: Tables) -> None:
        cliques, parents, shared = self._tree.cliques, self._tree.parents, self._tree.separators
        for i in range(1, len(cliques)):
            above = tables[parents[i]].sum(axis=others(cliques[parents[i]], shared[i]))
            below = tables[i].sum(axis=others(cliques[i], shared[i]))
            ratio = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
            tables[i] *= expand(ratio, shared[i], cliques[i])


@contextmanager
def _shared_out(cells: int) -> Iterator[Map]:
    """A map over cliques: both cores where the model is large."""
    if cells < SHARED_CELLS or THREADS < 2:
        yield map
        return
    with ThreadPoolExecutor(THREADS) as pool:
        yield pool.map


def _descend(
    starts: tuple[GraphicalModel, GraphicalModel],
    targets: Mapping[Clique, Target],
    iterations: int,
    progress: Callable[[float], None] | None,
) -> GraphicalModel:
    """The descent from the first of `starts`, or from the second where the first is too far out to be computed with."""
    with _shared_out(starts[1].tree.cells(starts[1].sizes)) as over:
        objective = _Objective(starts[1], targets, over)
        descents = (_Descent(model, objective, over) for model in starts)
        return next(d for d in descents if d.sound).run(iterations, progress)


class _Descent:
    """The accelerated interior gradient: `best` is a running mixture of clique tables, `logs` and `fast` the mirror
    point that it is mixed from.
    """

    def __init__(self, model: GraphicalModel, objective: _Objective, over: Map) -> None:
        self._model, self._objective, self._over = model, objective, over
        self._propagation = _Propagation(model.tree, model.total, over)
        self._step = FIRST_STEP / (model.total * objective.curvature)
        self._share = 1.0
        self._logs = list(model.potentials)
        self._best = self._propagation.tables(self._logs)
        self._fast_marginals = self._marginals = objective.marginals(self._best)
        self._value = objective.loss(self._marginals)

    @property
    def sound(self) -> bool:
        """Whether the start can be computed with."""
        return math.isfinite(self._value)

    def run(self, iterations: int, progress: Callable[[float], None] | None) -> GraphicalModel:
        """The best point within `iterations` steps."""
        checked = math.inf
        for i in range(iterations):
            self._advance()
            if i % PATIENCE == PATIENCE - 1:
                settled = self._value > checked * (1 - TOLERANCE)
                if settled or self._value < CLOSE * self._objective.cells:
                    break
                checked = self._value
            if progress is not None:
                progress((i + 1) / iterations)
        return self._model.from_beliefs(self._best)

    def _advance(self) -> None:
        """One step, taken where it lowers the loss; else a shorter one from the best point so far."""
        middle = _mixed(self._marginals, self._fast_marginals, self._share)
        logs = self._objective.moved(self._logs, middle, self._step / self._share)
        tables = self._propagation.tables(logs)
        fast = self._objective.marginals(tables)
        reached = _mixed(self._marginals, fast, self._share)
        value = self._objective.loss(reached)
        if value <= self._value:
            self._logs, self._fast_marginals, self._marginals, self._value = logs, fast, reached, value
            self._mix(tables)
            self._share = 2 / (1 + math.sqrt(1 + 4 / self._share**2))
        else:
            self._step *= 0.5 if self._share == 1.0 else 0.7
            self._logs = list(self._model.from_beliefs(self._best).potentials)
            self._fast_marginals, self._share = self._marginals, 1.0

    def _mix(self, tables: Tables) -> None:
        def of_clique(i: int) -> None:
            self._best[i] *= 1 - self._share
            tables[i] *= self._share
            self._best[i] += tables[i]

        for _ in self._over(of_clique, range(len(tables))):
            pass


def _mixed(old: Marginals, new: Marginals, share: float) -> Marginals:
    return {a: (1 - share) * old[a] + share * new[a] for a in old}
