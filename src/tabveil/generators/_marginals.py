"""What the marginal generators share: dividing a budget among charged queries, and the fitted model they sample from.

Privacy: `divide` turns (epsilon, delta) into noise levels from the schema alone, and the ledger charges exactly these
events. Everything else is post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from dp_accounting import DpEvent, NonPrivateDpEvent

from tabveil import accounting, learning
from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, ExponentialMechanismDpEvent, Spend
from tabveil.columns import Column
from tabveil.conditions import Conditions
from tabveil.domains import brief, level_label, levels, without_rare
from tabveil.encoding import Axis, Codes
from tabveil.enforcing import Rules
from tabveil.errors import UsageError
from tabveil.generators._saved import Arrays
from tabveil.generators.base import Drawn, Generator, Plan, Progress
from tabveil.graphical_model import Factor, GraphicalModel, JunctionTree, Measurement
from tabveil.laws import Law
from tabveil.mechanisms import PrivateRows
from tabveil.noise import counting_event
from tabveil.schema import Schema


@dataclass(frozen=True)
class Part:
    """A share of the budget for queries of one kind.

    Attributes:
      labels: one label per query.
      share: part of the budget (of rho where delta > 0, of epsilon where delta is 0); the shares of all parts sum to
        1.
      choice: True for report-noisy-max, False for noisy counts.
    """

    labels: tuple[str, ...]
    share: float
    choice: bool = False


def divide(parts: Sequence[Part], schema: Schema, *, epsilon: float, delta: float) -> tuple[Spend, ...]:
    """Charged steps for `parts`, as cheap in noise as (epsilon, delta) allows and never above it.

    With delta > 0 counts get discrete Gaussian noise with rho in proportion to the share (Canonne, Kamath, Steinke
    2020, Theorem 14) and choices epsilon_0 = sqrt(8 rho); one common noise scale is then solved for by the
    accountant. With delta = 0 counts get discrete Laplace noise and epsilons are added up. Where the schema leaves
    something to be learned, the steps that learn it come first and take the schema's `learn_share`.
    """
    asked = [p for p in parts if p.labels]
    learned = learning.share(schema)
    weight = sum(p.share for p in asked) / (1 - learned)
    k, pure = schema.contributions, delta == 0

    def scaled(scale: float) -> tuple[Spend, ...]:
        whole = 1 / scale if pure else 1 / scale**2
        first = learning.spends(schema, learned * whole, delta=delta)
        return first + _spends(asked, lambda p: _price(p, p.share / weight / len(p.labels) * whole, k, pure=pure))

    return scaled(accounting.calibrate(lambda scale: accounting.event_of(scaled(scale)), epsilon, delta))


def _spends(parts: Sequence[Part], price: Callable[[Part], DpEvent]) -> tuple[Spend, ...]:
    return tuple(Spend(label, event) for part in parts for event in [price(part)] for label in part.labels)


def _price(part: Part, amount: float, contributions: int, *, pure: bool) -> DpEvent:
    """The event of one query for `amount` of epsilon where `pure`, else of rho."""
    if part.choice:
        return ExponentialMechanismDpEvent(amount if pure else math.sqrt(8 * amount))
    return counting_event(amount, contributions, pure=pure)


RARE_NOISE = 3.0
"""Cells counted below this many standard deviations of the noise are joined (McKenna, Miklau, Sheldon 2021, 3.3)."""

LEAST_NOISE = 0.1
"""Noise below a tenth of a row, none included, counts as this much: finer differences are not worth fitting."""


def deviation(event: DpEvent) -> float:
    """Standard deviation of the noise of one counted cell, at least LEAST_NOISE."""
    if isinstance(event, DiscreteGaussianDpEvent):
        return max(LEAST_NOISE, event.sigma)
    if isinstance(event, DiscreteLaplaceDpEvent):
        return max(LEAST_NOISE, math.sqrt(2) * event.scale)
    return LEAST_NOISE


def noise_of(spends: Sequence[Spend], label: str) -> float:
    """The noise charged under `label`; of a plan that is not private, none."""
    found: DpEvent = next((s.event for s in spends if s.label == label), NonPrivateDpEvent())
    return deviation(found)


def refining(schema: Schema, share: float) -> Part:
    """The part of a plan that `domains.start_axes` asks for."""
    labels = tuple(level_label(c, i) for c in schema.modelled for i in range(levels(c)))
    return Part(labels, share)


def refining_noise(schema: Schema, spends: Sequence[Spend]) -> float:
    """The noise of every refining histogram, 0 where there is none to refine."""
    labels = refining(schema, 0.0).labels
    return noise_of(spends, labels[0]) if labels else 0.0


def one_way_label(column: Column) -> str:
    """Label of a column's final one-way marginal."""
    return f"counts of {brief(column)}"


def count_columns(
    axes: Sequence[Axis], rows: PrivateRows, plan: Plan, *, tell: Callable[[float], None]
) -> tuple[list[Axis], list[Measurement]]:
    """Final axes, rare cells joined, and their noisy counts, charged under `one_way_label`."""
    rows.tabulate([(axis,) for axis in axes])
    final, measured = [], []
    for i, axis in enumerate(axes):
        label = one_way_label(axis.column)
        noise = noise_of(plan.spends, label)
        counts = rows.counts([axis], label=label).astype(float)
        joined, groups = without_rare(axis, counts, RARE_NOISE * noise)
        final.append(joined)
        summed = np.bincount(groups, weights=counts, minlength=joined.size).astype(np.float64)
        measured.append(Measurement((i,), summed, noise))
        tell((i + 1) / len(axes))
    rows.forget(axes)
    return final, measured


class MarginalGenerator(Generator):
    """A generator whose fitted state is one axis per modelled column and a graphical model over their cells.

    A subclass's `_learn` sets `_axes` and `_model`, estimated with `factors=self._factors()`; sampling (under
    conditions too), imputing, constraints, saving and the default row count are here.
    """

    keeps_constraints: ClassVar[bool] = True
    conditional: ClassVar[bool] = True

    def __init__(
        self,
        *,
        epsilon: float,
        delta: float | None = None,
        random_state: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(epsilon=epsilon, delta=delta, random_state=random_state, progress=progress)
        self._axes: list[Axis] = []
        self._model: GraphicalModel | None = None

    def _count_columns(
        self, axes: Sequence[Axis], rows: PrivateRows, plan: Plan
    ) -> tuple[list[Axis], list[Measurement]]:
        """Final axes, rare cells joined, and their noisy counts."""
        return count_columns(axes, rows, plan, tell=lambda share: self._tell("counting columns", share))

    def _factors(self) -> list[Factor]:
        """What the schema's constraints leave of each combination of cells, for `estimate`."""
        return Rules(self.schema).factors(self._axes)

    def _draw(self, rows: int, rng: np.random.Generator) -> Mapping[str, Codes]:
        return self._law.sample(rows, rng)

    def _draw_given(self, rows: int, conditions: Conditions, rng: np.random.Generator) -> Drawn:
        allowed = Rules(self.schema).on_modelled(conditions.allowed)
        law = self._law.given(allowed) if allowed else self._law
        if conditions.balance is None:
            return Drawn(law.sample(rows, rng))
        if conditions.balance.column in self.schema.derived:
            raise UsageError(
                f"Column {conditions.balance.column!r} follows from others: balance one of the columns it follows from."
            )
        return Drawn(*law.balanced(conditions.balance, rows, rng))

    def _complete(self, codes: Mapping[str, Codes], draws: int, rng: np.random.Generator) -> list[dict[str, Codes]]:
        return self._law.completed(codes, draws, rng)

    @property
    def _law(self) -> Law:
        """What rows are drawn from."""
        return Law(tuple(self._axes), self._fitted_model, Rules(self.schema))

    @property
    def _fitted_model(self) -> GraphicalModel:
        if self._model is None:
            self.schema  # noqa: B018  (raises: not fitted)
            raise TypeError("fitted without a model")
        return self._model

    def _default_rows(self) -> int:
        return round(self._fitted_model.total)

    def _state(self) -> tuple[Arrays, dict[str, Any]]:
        arrays, state = pack_model(self._fitted_model)
        return {**pack_axes(self._axes), **arrays}, state

    def _restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        self._axes = unpack_axes(self.schema, arrays)
        self._model = unpack_model(arrays, state)


def pack_axes(axes: Sequence[Axis]) -> Arrays:
    """Axes as arrays, to be saved."""
    packed: Arrays = {}
    for i, axis in enumerate(axes):
        packed |= {f"axis{i}_edges": axis.edges, f"axis{i}_cell": axis.cell, f"axis{i}_weight": axis.weight}
    return packed


def unpack_axes(schema: Schema, arrays: Mapping[str, Any]) -> list[Axis]:
    """Undo `pack_axes`."""
    return [
        Axis(c, arrays[f"axis{i}_edges"], arrays[f"axis{i}_cell"], arrays[f"axis{i}_weight"])
        for i, c in enumerate(schema.modelled)
    ]


def pack_model(model: GraphicalModel) -> tuple[Arrays, dict[str, Any]]:
    """A graphical model as arrays and JSON values."""
    arrays = {f"potential{i}": p for i, p in enumerate(model.potentials)}
    tree = {"cliques": [list(c) for c in model.tree.cliques], "parents": list(model.tree.parents)}
    return arrays, {"sizes": list(model.sizes), "total": model.total, **tree}


def unpack_model(arrays: Mapping[str, Any], state: Mapping[str, Any]) -> GraphicalModel:
    """Undo `pack_model`."""
    tree = JunctionTree(tuple(tuple(c) for c in state["cliques"]), tuple(state["parents"]))
    potentials = [np.asarray(arrays[f"potential{i}"], dtype=np.float64) for i in range(len(tree.cliques))]
    return GraphicalModel(state["sizes"], tree, potentials, state["total"])
