"""What is said about a release: the facts of every report, and what was measured on real rows.

Privacy: scores, findings and charts of real rows come from outside any budget: INTERNAL. They are made here and go
into the internal edition only; the release edition is drawn from the synthetic table alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil import metrics
from tabveil.audit import registry
from tabveil.audit.base import AuditInput
from tabveil.auditing import Audited, conduct
from tabveil.metrics.base import MetricInput
from tabveil.metrics.marginals import charts
from tabveil.records import MarginalChart, PrivacyStatement, Provenance, Score
from tabveil.report.document import Edition, Report, build
from tabveil.schema import Schema
from tabveil.tables import open_table

MOST_ROWS = 500_000
"""Most rows of one table that metrics and attacks are given: a share measured on so many strays by 0.1 % at most."""

NOTHING = Audited()
"""No audit."""


@dataclass(frozen=True)
class Facts:
    """What every report of a release says, whatever was measured."""

    statement: PrivacyStatement
    account: Mapping[str, Any] | None
    schema: Schema
    provenance: Provenance

    def release(self, synthetic: pd.DataFrame) -> Report:
        """The edition to be published: its charts show the synthetic table and nothing else."""
        if not len(synthetic):
            return self._report("release")
        data = MetricInput(train=synthetic, holdout=None, synthetic=synthetic, schema=self.schema)
        return self._report("release", drawn=charts(data, show_real=False))

    def internal(self, data: MetricInput, scores: Sequence[Score], audited: Audited) -> Report:
        """The edition that shows what was measured on real rows."""
        return self._report("internal", data, scores, audited, drawn=charts(data, show_real=True))

    def _report(
        self,
        edition: Edition,
        data: MetricInput | None = None,
        scores: Sequence[Score] = (),
        audited: Audited = NOTHING,
        *,
        drawn: Sequence[MarginalChart] = (),
    ) -> Report:
        document = build(
            statement=self.statement,
            ledger=self.account,
            schema_summary=self.schema.to_dict() | {"digest": self.schema.digest},
            provenance=self.provenance,
            scores=scores,
            findings=audited.findings,
            measurements=audited.measurements,
            judgements=audited.judgements,
            charts=drawn,
            edition=edition,
            notes=() if data is None else (*metrics.notes(data), *audited.notes),
        )
        return Report(document)


def scores(data: MetricInput, names: Sequence[str] | None = None) -> tuple[Score, ...]:
    """What the metrics called `names`, or all, say."""
    return metrics.evaluate(
        data.synthetic,
        train=data.train,
        holdout=data.holdout,
        schema=data.schema,
        metrics=names,
        random_state=data.random_state,
    )


def audited(data: MetricInput) -> Audited:
    """What every quick auditor finds and counts, and what it comes to by the three questions; INTERNAL."""
    tables = {"train": data.train, "holdout": data.holdout, "schema": data.schema}
    return conduct(AuditInput(data.synthetic, **tables, random_state=data.random_state), auditors=registry.quick())


def frame_of(table: Any, rng: np.random.Generator) -> pd.DataFrame:
    """The rows of what `open_table` takes, as they are and in their order; of more than MOST_ROWS an even choice.

    Memory is bounded by three times MOST_ROWS rows, whatever the table holds.
    """
    parts: list[pd.DataFrame] = []
    keys: list[NDArray[np.float64]] = []
    rows = 0
    for chunk in open_table(table).chunks():
        parts.append(chunk)
        keys.append(rng.random(len(chunk)))
        rows += len(chunk)
        if rows > 2 * MOST_ROWS:
            parts, keys = _least(parts, keys)
            rows = MOST_ROWS
    if rows > MOST_ROWS:
        parts, _ = _least(parts, keys)
    return pd.concat(parts, ignore_index=True)


def _least(
    parts: list[pd.DataFrame], keys: list[NDArray[np.float64]]
) -> tuple[list[pd.DataFrame], list[NDArray[np.float64]]]:
    """The MOST_ROWS rows with the least keys, in their order."""
    frame, key = pd.concat(parts, ignore_index=True), np.concatenate(keys)
    kept = np.sort(np.argpartition(key, MOST_ROWS)[:MOST_ROWS])
    return [frame.iloc[kept]], [key[kept]]
