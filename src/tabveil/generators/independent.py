"""Noisy one-way marginals, columns drawn independently: the floor every other generator must beat, and the template
to copy.

Privacy: one charged histogram per level of every number column and one per column (unit: the schema's; add or remove
one; L2 sensitivity k, events discrete Gaussian, or discrete Laplace where delta is 0); the rest is post-processing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tabveil.accounting import Spend
from tabveil.domains import start_axes
from tabveil.encoding import Axis, Codes, Floats
from tabveil.generators._marginals import (
    Part,
    divide,
    noise_of,
    one_way_label,
    pack_axes,
    refining,
    refining_noise,
    unpack_axes,
)
from tabveil.generators.base import Arrays, Generator, Plan, Progress, whole
from tabveil.graphical_model import Measurement, estimate
from tabveil.mechanisms import PrivateRows
from tabveil.schema import Schema


class Independent(Generator):
    """Each column on its own.

    Args:
      cells: a number column is binned into about this many cells, from 2 to 1000.

    Others as `Generator`.
    """

    guarantee: ClassVar[str] = "Charged noisy histograms of single columns; sampling is post-processing."

    def __init__(
        self,
        *,
        epsilon: float,
        delta: float | None = None,
        random_state: int | None = None,
        progress: Progress | None = None,
        cells: int = 64,
    ) -> None:
        super().__init__(epsilon=epsilon, delta=delta, random_state=random_state, progress=progress)
        self.cells = whole("cells", cells, 2, 1000)
        self._axes: list[Axis] = []
        self._shares: list[Floats] = []
        self._total = 0.0

    def _spends(self, schema: Schema) -> tuple[Spend, ...]:
        parts = [refining(schema, 0.5), Part(tuple(one_way_label(c) for c in schema.learned), 0.5)]
        return divide(parts, schema, epsilon=self.epsilon, delta=self.delta)

    def _learn(self, rows: PrivateRows, plan: Plan) -> None:
        columns = self.schema.learned
        self._axes = start_axes(columns, rows, sigma=refining_noise(self.schema, plan.spends), cells=self.cells)
        measured = []
        for i, axis in enumerate(self._axes):
            counts = rows.counts([axis], label=one_way_label(axis.column)).astype(float)
            measured.append(Measurement((i,), counts, noise_of(plan.spends, one_way_label(axis.column))))
            self._tell("counting columns", (i + 1) / len(columns))
        model = estimate([a.size for a in self._axes], measured)
        self._total = model.total
        self._shares = [model.marginal([i]) for i in range(len(columns))]

    def _draw(self, rows: int, rng: np.random.Generator) -> Mapping[str, Codes]:
        drawn = {}
        for axis, shares in zip(self._axes, self._shares, strict=True):
            ends = np.cumsum(shares)
            spots = (rng.permutation(rows) + rng.random()) / max(rows, 1) * ends[-1]
            cells = np.minimum(np.searchsorted(ends, spots, side="right"), len(ends) - 1)
            drawn[axis.column.name] = axis.draw(cells, rng)
        return drawn

    def _default_rows(self) -> int:
        return round(self._total)

    def _state(self) -> tuple[Arrays, dict[str, Any]]:
        shares = {f"shares{i}": s for i, s in enumerate(self._shares)}
        return {**pack_axes(self._axes), **shares}, {"total": self._total}

    def _restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        self._axes = unpack_axes(self.schema, arrays)
        self._shares = [arrays[f"shares{i}"] for i in range(len(self._axes))]
        self._total = float(state["total"])
