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

from tabveil import accounting
from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, ExponentialMechanismDpEvent, Spend
from tabveil.columns import Column
from tabveil.completion import UNKNOWN, completed
from tabveil.conditions import Balance, Conditions, may_hold
from tabveil.domains import brief, level_label, levels
from tabveil.encoding import Axis, Codes, CodeSet, Floats, size
from tabveil.errors import UsageError
from tabveil.generators.base import Arrays, Drawn, Generator, Progress
from tabveil.graphical_model import NEVER, GraphicalModel, Ints, JunctionTree, systematic
from tabveil.samplers import MAX_SIGMA, MIN_SIGMA, representable
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
    accountant. With delta = 0 counts get discrete Laplace noise and epsilons are added up.
    """
    asked = [p for p in parts if p.labels]
    weight = sum(p.share for p in asked)
    k = schema.contributions

    def scaled(scale: float) -> tuple[Spend, ...]:
        if delta == 0:
            return _spends(asked, lambda p: _pure(p, p.share / weight / len(p.labels) / scale, k))
        return _spends(asked, lambda p: _zero_concentrated(p, p.share / weight / len(p.labels) / scale**2, k))

    return scaled(accounting.calibrate(lambda scale: accounting.event_of(scaled(scale)), epsilon, delta))


def _spends(parts: Sequence[Part], price: Callable[[Part], DpEvent]) -> tuple[Spend, ...]:
    return tuple(Spend(label, event) for part in parts for event in [price(part)] for label in part.labels)


def _pure(part: Part, epsilon: float, contributions: int) -> DpEvent:
    if part.choice:
        return ExponentialMechanismDpEvent(epsilon)
    return DiscreteLaplaceDpEvent(contributions / epsilon, contributions)


def _zero_concentrated(part: Part, rho: float, contributions: int) -> DpEvent:
    if part.choice:
        return ExponentialMechanismDpEvent(math.sqrt(8 * rho))
    sigma = contributions / math.sqrt(2 * rho)
    drawn_exactly = representable(sigma) if MIN_SIGMA <= sigma <= MAX_SIGMA else sigma
    return DiscreteGaussianDpEvent(drawn_exactly, contributions)


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
    labels = tuple(level_label(c, i) for c in schema.learned for i in range(levels(c)))
    return Part(labels, share)


def refining_noise(schema: Schema, spends: Sequence[Spend]) -> float:
    """The noise of every refining histogram, 0 where there is none to refine."""
    labels = refining(schema, 0.0).labels
    return noise_of(spends, labels[0]) if labels else 0.0


def one_way_label(column: Column) -> str:
    """Label of a column's final one-way marginal."""
    return f"counts of {brief(column)}"


@dataclass(frozen=True, eq=False)
class Law:
    """What rows are drawn from: a model over cells, and per learned column the axis that draws codes within cells."""

    axes: tuple[Axis, ...]
    model: GraphicalModel

    def place(self, name: str) -> int:
        """Position of the column called `name`."""
        return next(i for i, a in enumerate(self.axes) if a.column.name == name)

    def given(self, allowed: Mapping[str, CodeSet]) -> Law:
        """The law of rows whose codes are all `allowed`: restricted axes, and the model given their evidence.

        A cell that an allowed range cuts counts by the share of its rows that the axis puts inside; the conjunction of
        all columns is conditioned on at once, so rows have the law of unconditioned ones that happen to obey.

        Raises:
          UsageError: no row of the model obeys.
        """
        axes, evidence = list(self.axes), dict[int, Floats]()
        for name, codes in allowed.items():
            i = self.place(name)
            axes[i], evidence[i] = self.axes[i].restricted(codes)
            if not self.chance(i, evidence[i]) > NEVER:
                raise UsageError(
                    f"Column {name!r}, in a condition: the model never draws what it allows; it holds "
                    f"{may_hold(axes[i].column)}."
                )
        try:
            return Law(tuple(axes), self.model.conditioned(evidence))
        except UsageError as error:
            names = ", ".join(repr(n) for n in allowed)
            raise UsageError(f"The model never draws what the conditions on {names} allow together.") from error

    def chance(self, i: int, evidence: Floats) -> float:
        """Probability of what is known of column i, whose probability given each cell is `evidence`."""
        return float(self.model.marginal((i,)) @ evidence) / self.model.total


class MarginalGenerator(Generator):
    """A generator whose fitted state is one axis per learned column and a graphical model over their cells.

    A subclass's `_learn` sets `_axes` and `_model`; sampling (under conditions too), imputing, saving and the default
    row count are here. Rows are drawn in steps that a subclass may refine: `_law` under conditions, cells from its
    model, `_draw_codes` within the cells.
    """

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

    def _draw(self, rows: int, rng: np.random.Generator) -> Mapping[str, Codes]:
        law = self._law({})
        return self._draw_codes(law, law.model.sample(rows, rng), rng)

    def _draw_given(self, rows: int, conditions: Conditions, rng: np.random.Generator) -> Drawn:
        law = self._law(conditions.allowed)
        if conditions.balance is None:
            return Drawn(self._draw_codes(law, law.model.sample(rows, rng), rng))
        return self._draw_balanced(law, conditions.balance, rows, rng)

    def _law(self, allowed: Mapping[str, CodeSet]) -> Law:
        """What rows are drawn from where columns show `allowed` codes only."""
        law = Law(tuple(self._axes), self._fitted_model)
        return law.given(allowed) if allowed else law

    def _draw_codes(self, law: Law, cells: Ints, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes within `cells`, shape (rows, columns)."""
        return {a.column.name: a.draw(cells[:, i], rng) for i, a in enumerate(law.axes)}

    def _draw_balanced(self, law: Law, balance: Balance, rows: int, rng: np.random.Generator) -> Drawn:
        """Label first, by quota; then cells of the other columns given the label's, systematically."""
        split = _Split.of(law, balance)
        label, group = law.place(balance.column), split.quotas(rows, rng)
        known = np.full((rows, len(law.axes)), UNKNOWN, dtype=np.int64)
        known[:, label] = split.cells(group, rng)
        cells = completed(law.model, known, rng, draw=systematic)[0]
        codes = self._draw_codes(law, cells, rng)
        codes[balance.column] = split.codes(group, cells[:, label], rng)
        return Drawn(codes, split.model)

    def _complete(self, codes: Mapping[str, Codes], draws: int, rng: np.random.Generator) -> list[dict[str, Codes]]:
        law = self._law_without_missing()
        rows = len(next(iter(codes.values())))
        known = np.full((rows, len(law.axes)), UNKNOWN, dtype=np.int64)
        for i, axis in enumerate(self._axes):
            given = codes.get(axis.column.name)
            if given is not None:
                known[:, i] = np.where(given == size(axis.column), UNKNOWN, axis.cells(given))
        filled = completed(law.model, known, rng, draws=draws)
        return [self._fill(law, codes, cells, rng) for cells in filled]

    def _law_without_missing(self) -> Law:
        """The law of rows in which nothing is missing, of columns that the model has seen filled; no cell is impossible
        to know, whatever the model says of it.
        """
        law = self._law({})
        axes, evidence = list(law.axes), dict[int, Floats]()
        for i, axis in enumerate(law.axes):
            if axis.column.nullable:
                present, shares = axis.restricted(CodeSet.of([(0, size(axis.column))]))
                if law.chance(i, shares) > NEVER:
                    axes[i], evidence[i] = present, shares
        return Law(tuple(axes), law.model.floored().times(evidence))

    def _fill(self, law: Law, given: Mapping[str, Codes], cells: Ints, rng: np.random.Generator) -> dict[str, Codes]:
        """The given codes, and codes drawn within `cells` where none is given."""
        drawn = self._draw_codes(law, cells, rng)
        return {
            a.column.name: np.where(codes == size(a.column), drawn[a.column.name], codes)
            for a in law.axes
            for codes in [given.get(a.column.name, np.int64(size(a.column)))]
        }

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


@dataclass(frozen=True, eq=False)
class _Split:
    """A label's groups of values under a law, and the shares they shall have.

    Attributes:
      axes: for each group the label's axis, restricted to it.
      chances: shape (groups, cells), probability of each group in each cell of the label.
      shares: shape (groups,), summing to 1.
    """

    axes: tuple[Axis, ...]
    chances: Floats
    shares: Floats

    @classmethod
    def of(cls, law: Law, balance: Balance) -> _Split:
        """Raises UsageError where the model never draws a group that shall have a share."""
        i = law.place(balance.column)
        parts = [law.axes[i].restricted(group) for group in balance.groups]
        chances = np.array([law.model.marginal((i,)) * evidence for _, evidence in parts]) / law.model.total
        able = chances.sum(axis=1) > NEVER
        shares = able / max(able.sum(), 1) if balance.shares is None else np.asarray(balance.shares)
        if not able.any() or (shares[~able] > 0).any():
            raise UsageError(
                f"Column {balance.column!r}: the model never draws a value that balance gives a share, under these "
                f"conditions; it holds {may_hold(law.axes[i].column)}."
            )
        return cls(tuple(axis for axis, _ in parts), chances, shares)

    @property
    def model(self) -> Floats:
        """The share of each group in the law itself, among all groups together."""
        return np.asarray(self.chances.sum(axis=1) / self.chances.sum())

    def quotas(self, rows: int, rng: np.random.Generator) -> Codes:
        """A group per row in random order: each `rows` times its share, rounded up or down, by chance, once for all."""
        ends = np.cumsum(self.shares)
        steps = np.floor(ends / ends[-1] * rows + rng.random()).astype(np.int64)
        counts = steps - np.append(0, steps[:-1])
        return rng.permutation(np.repeat(np.arange(len(counts)), counts))

    def cells(self, group: Codes, rng: np.random.Generator) -> Codes:
        """A cell of the label for each row, by the model's law given its group."""
        return systematic(self.chances, group, rng)

    def codes(self, group: Codes, cells: Codes, rng: np.random.Generator) -> Codes:
        """A code of the label for each row, in its group and its cell."""
        order = np.argsort(group, kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(group, minlength=len(self.axes)))[:-1])
        codes = np.empty(len(group), dtype=np.int64)
        for axis, part in zip(self.axes, parts, strict=True):
            if len(part):
                codes[part] = axis.draw(cells[part], rng)
        return codes


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
        for i, c in enumerate(schema.learned)
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
