"""Who was in the table? Attacks that take a synthetic table and tell training rows from held-out rows.

Threat model, no-box: the attacker has the synthetic table, the public schema, reference rows of the same source that no
fit has seen, and the rows he asks about; he knows neither the generator nor how it was fitted. Of half of the rows
asked about he knows whether they were in train: they set his thresholds and the weights of the ensemble. He wants to
know it of the other half, on which alone he is measured. `_membership_scores` has the attacks and their sources,
`_membership_game` whom they are about and how they are judged.

Privacy: reads real rows outside any budget; findings are INTERNAL. The rows of one release are attacked together: rates
describe this release and bound no epsilon, which takes many fits. A release on which these attacks fail may fall to
others, to those that know the generator first of all (`mia_marginal`).
"""

from __future__ import annotations

import numpy as np

from tabveil.audit._membership_game import (
    CONFIDENCE,
    FALSE_ALARMS,
    FEWEST,
    NO_BOUND,
    QUESTIONS,
    TARGETS,
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
from tabveil.audit._membership_scores import Material, Rows, scores
from tabveil.audit.base import AuditInput, Auditor
from tabveil.records import Finding

__all__ = ["CONFIDENCE", "FALSE_ALARMS", "FEWEST", "QUESTIONS", "TARGETS", "Membership", "measure", "per_attack"]

SYNTHETIC_ROWS = 20_000
"""Distances are taken to no more different synthetic rows than this, and to those that equal an asked row."""

CELLS = 4_000_000_000
"""Most cells compared: tables with many columns are compared with fewer synthetic rows."""


class Membership(Auditor):
    """Training rows told from held-out rows by the best of eight attacks."""

    takes = "at least 40 held-out rows and 20 training rows that occur once"

    def why_not(self, data: AuditInput) -> str:
        """There must be rows in all three tables, and enough of them that occur once."""
        return too_few(data, what="Membership")

    def compute(self, data: AuditInput) -> list[Finding]:
        """For each kind of targets the area under the ROC curve and the rate of recognised rows, by the best attack."""
        return [] if self.why_not(data) else findings(measure(data))


def measure(data: AuditInput) -> Measured:
    """Every attack's outcome, not only the best one's: for tables that compare attacks.

    Raises:
      ValueError: there are too few rows (`Membership().why_not(data)` says so first).

    Privacy: counts of real rows outside any budget; INTERNAL.
    """
    targets = targets_of(data)
    material = _material(data, targets)
    found, exposure = scores(material)
    return played(Scores(found, exposure, weighed={}), targets, _told(data, targets, material))


def _material(data: AuditInput, targets: Targets) -> Material:
    kept, times = _different(data, targets.groups(data))
    entropy = None if data.random_state is None else [data.random_state, 1]
    return Material(
        columns=data.schema.learned,
        synthetic=rows_of(data.codes["synthetic"], kept),
        times=times,
        reference=rows_of(data.codes["holdout"], targets.reference),
        asked=targets.asked(data),
        seed=int(np.random.SeedSequence(entropy).generate_state(1)[0]),
    )


def _different(data: AuditInput, asked: Rows) -> tuple[Rows, Rows]:
    """Positions of different synthetic rows, a random part where they are many, and how often each occurs.

    Those that equal an asked row are all there, so that no copy is missed; that holds for outsiders as for members.
    """
    made = data.groups["synthetic"]
    group, first, times = np.unique(made, return_index=True, return_counts=True)
    order = data.shuffled("synthetic", first, purpose="synthetic")
    most = min(SYNTHETIC_ROWS, max(1, CELLS // (len(asked) * len(data.schema.learned))))
    kept = order[(np.arange(len(order)) < most) | np.isin(made[order], asked)]
    return kept, times[np.searchsorted(group, made[kept])]


def _told(data: AuditInput, targets: Targets, material: Material) -> Told:
    return Told(
        auditor=Membership.plugin_name(),
        beside=("nearest", "distance to the closest row"),
        threat_model=(
            f"The attacker has the synthetic table, the schema, {len(targets.reference):,} reference rows of the same "
            "source and rows to ask about, and not the generator; "
            f"of {targets.sides_known:,} other rows he knows whether they were in train, and he wants to know who was. "
            + NO_BOUND
        ),
        cost=f"{material.row_pairs:,} pairs of rows and one classifier, no further fit",
        seed=data.random_state,
    )
