"""Who was in the table? Attacks on generators that keep marginals: MST, AIM, PrivBayes.

    MIAMarginal().compute(data)                                           # the attacker has the synthetic table
    MIAMarginal(marginals=[("age", "sex")], axes=axes).compute(data)      # he holds the released model, too

Threat model, no-box: the attacker has the synthetic table, the public schema, reference rows of the same source that no
fit has seen, and the rows he asks about; he takes it that the generator keeps marginals, and reads from the synthetic
rows which. Grey-box: he also holds the released model, thus knows its marginals and the cells it counts numbers in, and
may have as many synthetic rows as he likes. In both, of half of the rows asked about he knows whether they were in
train: they set his thresholds and weights. He wants to know it of the other half, on which alone he is measured.

    ratio            MAMA-MIA (Golob, Pentyala, Maratkhan and De Cock 2024): mean ratio of densities of the row's cells
    log_ratio        sum of log-ratios, a likelihood ratio as in TAMIS (Andrey, Le Bars and Tommasi 2025)
    tracing          most powerful test for a Gaussian gap, correlations of marginals undone
    ..._wide         the same over many marginals
    weighed          log-ratios of many marginals, each with a weight of its own
    whole_row        the marginal of all columns, numbers not binned: how often the row itself is synthetic
    ensemble         logistic regression on the ranks of all these but `weighed`

The first three look at few marginals: the maximum spanning tree of the synthetic rows, or the model's. "Many" are all
pairs, triples and fours, the most dependent first, or all parts of the model's. `_membership_game` has whom they are
about and how they are judged.

Privacy: reads real rows outside any budget; findings are INTERNAL. The rows of one release are attacked together: rates
describe this release and bound no epsilon, which takes many fits. A release on which these attacks fail may fall to
others, to those that fit the generator again first of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tabveil.audit._marginal_scores import (
    Cells,
    Clique,
    Features,
    log_ratios,
    parts,
    ratio,
    spanning_tree,
    strongest,
    tracing,
)
from tabveil.audit._membership_game import (
    NO_BOUND,
    QUESTIONS,
    Measured,
    Scores,
    Targets,
    Told,
    findings,
    per_attack,
    played,
    rows_of,
    targets_of,
    too_few,
)
from tabveil.audit._membership_scores import Floats, Table, exposure
from tabveil.audit.base import AuditInput, Auditor
from tabveil.encoding import Axis
from tabveil.errors import UsageError
from tabveil.records import Finding
from tabveil.schema import Schema

__all__ = ["QUESTIONS", "MIAMarginal", "measure", "per_attack"]

SYNTHETIC_ROWS = 100_000
"""Marginals are counted over no more synthetic rows than this; copies of asked rows are looked for among all."""


class MIAMarginal(Auditor):
    """Training rows told from held-out rows by the marginals that a generator keeps.

    Args:
      marginals: the model's, each as names of columns, where the attacker holds it; by default he reads them from the
        synthetic rows.
      axes: the cells in which the model counts, for some or all columns; others are cut into public bins.
    """

    takes = "at least 40 held-out rows and 20 training rows that occur once"

    def __init__(self, *, marginals: Sequence[Sequence[str]] | None = None, axes: Iterable[Axis] = ()) -> None:
        self._marginals, self._axes = marginals, tuple(axes)

    def why_not(self, data: AuditInput) -> str:
        """There must be rows in all three tables, and enough of them that occur once."""
        return too_few(data, what="Membership by marginals")

    def compute(self, data: AuditInput) -> list[Finding]:
        """For each kind of targets the area under the ROC curve and the rate of recognised rows, by the best attack."""
        return [] if self.why_not(data) else findings(measure(data, marginals=self._marginals, axes=self._axes))


def measure(
    data: AuditInput, *, marginals: Sequence[Sequence[str]] | None = None, axes: Iterable[Axis] = ()
) -> Measured:
    """Every attack's outcome, not only the best one's: for tables that compare attacks.

    Args:
      data: the tables; each has rows.
      marginals: the model's, where the attacker holds it, as in `MIAMarginal`.
      axes: the cells it counts in, likewise.

    Raises:
      UsageError: a marginal names no column, one that is not learned, or one twice.
      ValueError: there are too few rows (`MIAMarginal().why_not(data)` says so first).

    Privacy: counts of real rows outside any budget; INTERNAL.
    """
    given = None if marginals is None else _cliques(data.schema, marginals)
    targets = targets_of(data)
    reference = rows_of(data.codes["holdout"], targets.reference)
    tables = (_made(data), reference, targets.asked(data))
    cells = Cells.of(data.schema.learned, tables, axes={axis.column.name: axis for axis in axes})
    few, many = (given, parts(given)) if given else (spanning_tree(cells), strongest(cells))
    focal, wide = Features.of(cells, few), Features.of(cells, many)
    scores = Scores(
        found={**_scores(focal, wide), "whole_row": _copies(data, targets)},
        exposure=exposure(data.schema.learned, asked=targets.asked(data), reference=reference),
        weighed={"weighed": log_ratios(wide)},
    )
    told = _told(data, targets, (focal, wide), holds_model=given is not None)
    return played(scores, targets, told)


def _cliques(schema: Schema, marginals: Sequence[Sequence[str]]) -> list[Clique]:
    place = {column.name: i for i, column in enumerate(schema.learned)}
    for names in marginals:
        if isinstance(names, str) or not names or len(set(names)) < len(names) or not set(names) <= place.keys():
            raise UsageError("A marginal is a list of different columns that the schema has learned, at least one.")
    if not marginals:
        raise UsageError("Name at least one marginal, or leave them out.")
    return list(dict.fromkeys(tuple(sorted(place[n] for n in names)) for names in marginals))


def _made(data: AuditInput) -> Table:
    rows = np.arange(len(data.synthetic))
    if len(rows) > SYNTHETIC_ROWS:
        rows = data.shuffled("synthetic", rows, purpose="marginals")[:SYNTHETIC_ROWS]
    return rows_of(data.codes["synthetic"], rows)


def _scores(focal: Features, wide: Features) -> dict[str, Floats]:
    return {
        "ratio": ratio(focal),
        "log_ratio": log_ratios(focal).sum(axis=1),
        "tracing": tracing(focal),
        "log_ratio_wide": log_ratios(wide).sum(axis=1),
        "tracing_wide": tracing(wide),
    }


def _copies(data: AuditInput, targets: Targets) -> Floats:
    """How often each asked row is synthetic, shape (n,)."""
    asked = targets.groups(data)
    times = np.bincount(data.groups["synthetic"], minlength=int(asked.max()) + 1)
    return times[asked].astype(np.float64)


def _told(data: AuditInput, targets: Targets, features: tuple[Features, Features], *, holds_model: bool) -> Told:
    few, many = (f.asked.shape[1] for f in features)
    knows = (
        "holds the released model with its marginals" if holds_model else "takes it that the generator keeps marginals"
    )
    counted = f"{features[0].synthetic_rows:,} synthetic, {len(features[0].reference):,} reference and "
    return Told(
        auditor=MIAMarginal.plugin_name(),
        beside=("ratio", "the mean ratio of densities"),
        threat_model=(
            f"The attacker has the synthetic table, the schema, {len(targets.reference):,} reference rows of the same "
            f"source and rows to ask about, and {knows}; "
            f"of {targets.sides_known:,} other rows he knows whether they were in train, and he wants to know who was. "
            + NO_BOUND
        ),
        cost=f"{few:,} and {many:,} marginals of {counted}{len(features[0].asked):,} asked rows, no further fit",
        seed=data.random_state,
    )
