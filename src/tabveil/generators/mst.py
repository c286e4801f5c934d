"""MST: a maximum spanning tree of noisy two-way marginals (McKenna, Miklau, Sheldon 2021, "Winning the NIST contest",
arXiv 2108.04978), over a domain learned under the same budget.

One-way marginals are counted, the pairs worst explained by independence are chosen one edge at a time (Kruskal with
report-noisy-max, their Algorithm 3), counted, and joined into one distribution by a graphical model. A tree leaves
out every dependence that is not on a path, so a few pairs that the tree explains worst are chosen and counted beside
it; `extra_pairs=0` gives the paper's MST.

Privacy: charged histograms and choices only (unit: the schema's; add or remove one; sensitivity k for every histogram
and, in L1, for every score). Which pairs are open is decided by earlier noisy choices; noise levels are fixed
before the first row is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from tabveil.accounting import Spend
from tabveil.domains import cells_for, start_axes
from tabveil.enforcing import Rules
from tabveil.estimation import estimate
from tabveil.generators._marginals import (
    MarginalGenerator,
    Part,
    divide,
    noise_of,
    one_way_label,
    refining,
    refining_noise,
)
from tabveil.generators.base import Plan, Progress, whole
from tabveil.graphical_model import GraphicalModel, Measurement, model_cells
from tabveil.mechanisms import Contest, PrivateRows
from tabveil.schema import Schema

SHARES = {"refine": 0.12, "one_way": 0.10, "choose": 0.08, "two_way": 0.70}
"""How the budget is divided; chosen on tables other than Adult (benchmarks/mst_budget.py)."""

NOISE_HANDICAP = 0.4
"""Expected noise of a cell, in standard deviations, that a pair's score must exceed."""

MAX_PAIR_CELLS = 1_000_000
"""A pair with more cells is never counted."""

MAX_MODEL_CELLS = 100_000
"""Pairs beside the tree are left out where the model's tables would grow beyond this many cells in all."""

CHECKED_AHEAD = 500
"""With more candidates than this, whether a pair fits the model is asked of the chosen one only; its step may go
unused."""

TREE_ITERATIONS = 300


class MST(MarginalGenerator):
    """Noisy two-way marginals on a spanning tree, and a few beside it.

    Args:
      cells: a number column is binned into about this many cells, from 2 to 1000; as many as the noise leaves room
        for by default (`domains.cells_for`).
      extra_pairs: pairs counted beside the tree's; half the number of columns by default.

    Others as `Generator`.
    """

    guarantee: ClassVar[str] = "Charged noisy histograms of columns and pairs, pairs chosen by report-noisy-max."
    least_strength: ClassVar[float] = 100.0

    def __init__(
        self,
        *,
        epsilon: float,
        delta: float | None = None,
        random_state: int | None = None,
        progress: Progress | None = None,
        cells: int | None = None,
        extra_pairs: int | None = None,
    ) -> None:
        super().__init__(epsilon=epsilon, delta=delta, random_state=random_state, progress=progress)
        self.cells = None if cells is None else whole("cells", cells, 2, 1000)
        self.extra_pairs = None if extra_pairs is None else whole("extra_pairs", extra_pairs, 0, 10_000)

    def _spends(self, schema: Schema) -> tuple[Spend, ...]:
        steps = range(self._tree_edges(schema) + self._extra(schema))
        chosen = steps[len(Rules(schema).joined()) :]
        parts = [
            refining(schema, SHARES["refine"]),
            Part(tuple(one_way_label(c) for c in schema.modelled), SHARES["one_way"]),
            Part(tuple(_choice_label(i) for i in chosen), SHARES["choose"], choice=True),
            Part(tuple(_pair_label(i) for i in steps), SHARES["two_way"]),
        ]
        return divide(parts, schema, epsilon=self.epsilon, delta=self.delta)

    def _tree_edges(self, schema: Schema) -> int:
        return len(schema.modelled) - 1

    def _extra(self, schema: Schema) -> int:
        columns = len(schema.modelled)
        wanted = columns // 2 if self.extra_pairs is None else self.extra_pairs
        return min(wanted, (columns - 1) * (columns - 2) // 2)

    def _learn(self, rows: PrivateRows, plan: Plan) -> None:
        refined = refining_noise(self.schema, plan.spends)
        axes = start_axes(self.schema.modelled, rows, sigma=refined, cells=self.cells or self._cells_for(plan))
        self._axes, ones = self._count_columns(axes, rows, plan)
        sizes = [a.size for a in self._axes]
        factors = self._factors()
        pairs = self._span(estimate(sizes, ones, factors=factors), rows, plan)
        if self._extra(self.schema):
            tree = estimate(sizes, ones + pairs, iterations=TREE_ITERATIONS, factors=factors)
            pairs = pairs + self._extend(tree, [m.attributes for m in pairs], (rows, plan))
        fitting = partial(self._tell, "fitting the model")
        self._model = estimate(sizes, ones + pairs, factors=factors, progress=fitting)

    def _cells_for(self, plan: Plan) -> Callable[[float], int]:
        return lambda rows: cells_for(self.schema.public_rows or rows, noise_of(plan.spends, _pair_label(0)))

    def _span(self, independent: GraphicalModel, rows: PrivateRows, plan: Plan) -> list[Measurement]:
        """The edges of a maximum spanning tree, one charged choice and one charged histogram each.

        Pairs that constraints join are edges without a choice: which they are is public, and the model holds their
        factors anyway, so that a tree around them would close circles and grow its tables.
        """
        contest, edges = self._contest(independent, plan)
        if edges:  # one pass for all that the choices compare; `_extend` asks for the same pairs
            rows.tabulate(contest.candidates)
        ends = np.array(edges).reshape(-1, 2)
        component = np.arange(len(independent.sizes))
        measured: list[Measurement] = []
        for step, (a, b) in enumerate(Rules(self.schema).joined()):
            measured.append(self._count_pair((a, b), step, rows, plan))
            component[component == component[b]] = component[a]
        for step in range(len(measured), self._tree_edges(self.schema)):
            open_edges = np.flatnonzero(component[ends[:, 0]] != component[ends[:, 1]]).tolist()
            if not open_edges:  # only pairs too large to count are left
                break
            a, b = edges[rows.choose(contest, open_edges, label=_choice_label(step))]
            measured.append(self._count_pair((a, b), step, rows, plan))
            component[component == component[b]] = component[a]
        return measured

    def _extend(
        self, tree: GraphicalModel, counted: Sequence[tuple[int, ...]], source: tuple[PrivateRows, Plan]
    ) -> list[Measurement]:
        """Pairs beside those `counted` that the tree explains worst, as long as the model with them stays small."""
        rows, plan = source
        contest, edges = self._contest(tree, plan)
        held = list(tree.tree.cliques)
        open_edges = [i for i, e in enumerate(edges) if e not in counted]
        measured: list[Measurement] = []
        for extra in range(self._extra(self.schema)):
            if len(open_edges) <= CHECKED_AHEAD:
                open_edges = [i for i in open_edges if self._fits(tree, [*held, edges[i]])]
            if not open_edges:
                break
            step = self._tree_edges(self.schema) + extra
            best = rows.choose(contest, open_edges, label=_choice_label(step))
            open_edges.remove(best)
            if self._fits(tree, [*held, edges[best]]):
                held.append(edges[best])
                measured.append(self._count_pair(edges[best], step, rows, plan))
        return measured

    def _fits(self, model: GraphicalModel, cliques: Sequence[tuple[int, ...]]) -> bool:
        return model_cells(model.sizes, cliques) <= MAX_MODEL_CELLS

    def _count_pair(self, edge: tuple[int, int], step: int, rows: PrivateRows, plan: Plan) -> Measurement:
        counts = rows.counts([self._axes[a] for a in edge], label=_pair_label(step)).astype(float)
        steps = self._tree_edges(self.schema) + self._extra(self.schema)
        self._tell("choosing and counting pairs", (step + 1) / steps)
        return Measurement(edge, counts, noise_of(plan.spends, _pair_label(step)))

    def _contest(self, model: GraphicalModel, plan: Plan) -> tuple[Contest, list[tuple[int, int]]]:
        """Every pair small enough to count, with what `model` expects of it; pairs with more cells bear their
        noise.
        """
        noise = noise_of(plan.spends, _pair_label(0))
        expected = {e: t for e, t in model.pairs().items() if t.size <= MAX_PAIR_CELLS}
        handicaps = np.array([NOISE_HANDICAP * noise * t.size for t in expected.values()])
        candidates = tuple((self._axes[a], self._axes[b]) for a, b in expected)
        return Contest(candidates, tuple(expected.values()), handicaps), list(expected)


def _choice_label(step: int) -> str:
    return f"choice of pair {step + 1}"


def _pair_label(step: int) -> str:
    return f"counts of pair {step + 1}"
