"""Metrics: how useful a synthetic table is. Each file here is one metric, named after the file.

Privacy: metrics read real rows outside any budget, so every score is INTERNAL.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tabveil.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

    from tabveil.metrics.base import Metric, MetricInput
    from tabveil.records import Score
    from tabveil.schema import Schema

registry = Registry("tabveil.metrics", base="Metric")
"""Every metric by name."""

_log = logging.getLogger(__name__)


def evaluate(
    synthetic: pd.DataFrame,
    *,
    train: pd.DataFrame,
    holdout: pd.DataFrame | None = None,
    schema: Schema,
    metrics: Sequence[str] | None = None,
    random_state: int | None = 0,
) -> tuple[Score, ...]:
    """Scores of a synthetic table, each beside the references that give it meaning; there is no grand average.

    Args:
      synthetic: rows to be judged, with the schema's learned columns.
      train: the rows the generator was fitted to.
      holdout: real rows no fit has seen; without them there is no train-on-synthetic-test-on-real.
      schema: what the columns are; its `target` is what learners predict.
      metrics: names from `registry.names()`; all of them by default.
      random_state: repeats every subsample, shuffle and learner.

    Raises:
      UsageError: no such metric.
      DataError: a table lacks a column of the schema, or train has no rows.

    Privacy: reads real rows outside any budget; every score is INTERNAL. A metric without a score logs why.
    """
    from tabveil.metrics.base import MetricInput

    data = MetricInput(train=train, holdout=holdout, synthetic=synthetic, schema=schema, random_state=random_state)
    scores: list[Score] = []
    for metric in _chosen(metrics):
        reason = metric.why_not(data)
        if reason:
            _log.info("%s: %s", metric.plugin_name(), reason)
        else:
            scores += metric.compute(data)
    return tuple(scores)


def notes(data: MetricInput, *, metrics: Sequence[str] | None = None) -> tuple[str, ...]:
    """One sentence for each metric that has no score for `data`, ready for a report."""
    return tuple(reason for metric in _chosen(metrics) if (reason := metric.why_not(data)))


def _chosen(names: Sequence[str] | None) -> list[Metric]:
    return [registry.get(name)() for name in (registry.names() if names is None else names)]
