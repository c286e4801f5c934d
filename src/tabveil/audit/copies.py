"""Does the synthetic table repeat training rows? A diagnostic, never evidence of privacy.

The share of synthetic rows that show the same as some training row in every learned column, beside the share of
held-out rows that do: real rows which nobody copied also repeat others where columns are few. A model may leak without
repeating a row, and a common row may come up without a leak.

Privacy: reads real rows outside any budget; the finding is INTERNAL. It must never be used to filter synthetic rows:
that a row is missing would then tell who was in the table (Ganev and De Cristofaro 2023, arXiv 2312.05114).
"""

from __future__ import annotations

import numpy as np

from tabveil.audit.base import ALPHA, AuditInput, Auditor, lacking
from tabveil.audit.rates import Count, beyond, finding
from tabveil.records import Finding

CONFIDENCE = 1 - ALPHA

_THREAT = (
    "The curator has all tables, and wants to know whether training rows are among the synthetic ones as they stand."
)


class Copies(Auditor):
    """Synthetic rows that repeat a training row, beside held-out rows that do."""

    takes = "held-out rows"

    def why_not(self, data: AuditInput) -> str:
        """There must be rows in all three tables."""
        return lacking(data, roles=("holdout", "train", "synthetic"), what="How many rows are copies")

    def compute(self, data: AuditInput) -> list[Finding]:
        """One finding; its control is the held-out rows' share, its baseline the upper end of that share's interval."""
        if self.why_not(data):
            return []
        made, real = (_copies(data, role) for role in ("synthetic", "holdout"))
        found = finding(
            auditor=self.plugin_name(),
            name="synthetic rows that are exact copies of a training row",
            attack=made,
            baseline=real,
            control=real,
            confidence=CONFIDENCE,
            verdict=lambda found: _verdict(found, made, real),
            threat_model=_THREAT,
            targets=f"{made.tries:,} synthetic and {real.tries:,} held-out rows",
            seed=data.random_state,
            cost=f"each compared with {len(data.train):,} training rows, no fit",
        )
        return [found]


def _copies(data: AuditInput, role: str) -> Count:
    group = data.groups[role]
    return Count(int(np.isin(group, data.groups["train"]).sum()), len(group))


def _verdict(found: Finding, made: Count, real: Count) -> str:
    shares = f"{made.hits:,} of {made.tries:,} synthetic rows repeat a training row"
    fresh = f"{real.hits:,} of {real.tries:,} held-out rows"
    if beyond(found):
        return f"{shares}, a larger share than the {fresh} that do: look for rows learned by heart."
    return f"{shares} and {fresh} do: no larger a share, chance allowed for, which says nothing about privacy."
