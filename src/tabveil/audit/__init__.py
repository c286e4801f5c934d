"""Audit: attacks on a synthetic table. Each file here is one auditor, named after the file.

Privacy: attacks read real rows outside any budget, so every finding is INTERNAL. An attack that fails shows that this
attack failed; no finding here is evidence that a table keeps anybody's secret.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tabveil.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

    from tabveil.audit.base import AuditInput, Auditor
    from tabveil.records import Finding
    from tabveil.schema import Schema


class _Auditors(Registry):
    """The auditors; `rates`, their statistics, is none of them."""

    def names(self) -> list[str]:
        """Names of all auditors in alphabetical order; imports none of them."""
        return [name for name in super().names() if name != "rates"]


registry = _Auditors("tabveil.audit", base="Auditor")
"""Every auditor by name."""

_log = logging.getLogger(__name__)


def audit(
    synthetic: pd.DataFrame,
    *,
    train: pd.DataFrame,
    holdout: pd.DataFrame | None = None,
    schema: Schema,
    auditors: Sequence[str] | None = None,
    random_state: int | None = 0,
) -> tuple[Finding, ...]:
    """What attacks on a synthetic table get, each beside its baseline, control, interval and ceiling.

    Args:
      synthetic: the rows an attacker has, with the schema's learned columns.
      train: the rows the generator was fitted to: whom the attacks are about.
      holdout: real rows of the same source that no fit has seen; without them there is no finding.
      schema: what the columns are.
      auditors: names from `registry.names()`; all of them by default.
      random_state: repeats every choice of rows.

    Raises:
      UsageError: no such auditor, or a `random_state` that is no whole number from 0 up.
      DataError: a table lacks a column of the schema.

    Privacy: reads real rows outside any budget; every finding is INTERNAL. An auditor without a finding logs why.
    """
    from tabveil.audit.base import AuditInput

    data = AuditInput(synthetic=synthetic, train=train, holdout=holdout, schema=schema, random_state=random_state)
    findings: list[Finding] = []
    for auditor in _chosen(auditors):
        reason = auditor.why_not(data)
        if reason:
            _log.info("%s: %s", auditor.plugin_name(), reason)
        else:
            findings += auditor.compute(data)
    return tuple(findings)


def notes(data: AuditInput, *, auditors: Sequence[str] | None = None) -> tuple[str, ...]:
    """One sentence for each auditor that has no finding for `data`, ready for a report."""
    return tuple(reason for auditor in _chosen(auditors) if (reason := auditor.why_not(data)))


def _chosen(names: Sequence[str] | None) -> list[Auditor]:
    return [registry.get(name)() for name in (registry.names() if names is None else names)]
