"""Noisy one-way marginals, columns drawn independently: the floor every other generator must beat, and the template
to copy.

Privacy: one charged histogram per level of every number column and one per column (unit: the schema's; add or remove
one; L2 sensitivity k, events discrete Gaussian, or discrete Laplace where delta is 0); the rest is post-processing.
"""

from __future__ import annotations

from typing import ClassVar

from tabveil.accounting import Spend
from tabveil.domains import start_axes
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
from tabveil.graphical_model import Measurement
from tabveil.mechanisms import PrivateRows
from tabveil.schema import Schema


class Independent(MarginalGenerator):
    """Each column on its own.

    Args:
      cells: a number column is binned into about this many cells, from 2 to 1000.

    Others as `Generator`.
    """

    guarantee: ClassVar[str] = "Charged noisy histograms of single columns; sampling is post-processing."
    least_strength: ClassVar[float] = 20.0
    """Noise alone moves a column of ten equally likely values by a fifth: 10 cells * sqrt(2 / pi) / 2 / 20."""

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

    def rehearsal(self, plan: Plan, rows: int) -> tuple[int, float]:
        """As `Generator.rehearsal`: made-up rows are counted as fast as real ones."""
        return 0, 1.0

    def _spends(self, schema: Schema) -> tuple[Spend, ...]:
        parts = [refining(schema, 0.5), Part(tuple(one_way_label(c) for c in schema.modelled), 0.5)]
        return divide(parts, schema, epsilon=self.epsilon, delta=self.delta)

    def _learn(self, rows: PrivateRows, plan: Plan) -> None:
        columns = self.schema.modelled
        self._axes = start_axes(columns, rows, sigma=refining_noise(self.schema, plan.spends), cells=self.cells)
        rows.tabulate([(axis,) for axis in self._axes])
        measured = []
        for i, axis in enumerate(self._axes):
            counts = rows.counts([axis], label=one_way_label(axis.column)).astype(float)
            measured.append(Measurement((i,), counts, noise_of(plan.spends, one_way_label(axis.column))))
            self._tell("counting columns", (i + 1) / len(columns))
        self._model = estimate([a.size for a in self._axes], measured, factors=self._factors())
