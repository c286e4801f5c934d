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
    from pathlib import Path

    import pandas as pd

    from tabveil.audit.base import AuditInput, Auditor, Refit, Tell
    from tabveil.records import Finding, Measurement
    from tabveil.schema import Schema


class _Auditors(Registry):
    """The auditors of tables; `rates`, their statistics, `profiles`, which judges their numbers, `training` and
    `likelihood`, which audit a fit, are none.
    """

    def names(self) -> list[str]:
        """Names of all auditors in alphabetical order; imports none of them."""
        return [name for name in super().names() if name not in ("rates", "profiles", "training", "likelihood")]

    def runnable(self, *, refit: bool) -> list[str]:
        """Names of those that run by default: all but those whose environment was not made and, unless `refit`, those
        that fit again.
        """
        from tabveil import environments

        auditors: dict[str, type[Auditor]] = {name: self.get(name) for name in self.names()}
        there = {n: not a.needs_environment or environments.is_there(a.needs_environment) for n, a in auditors.items()}
        return [name for name, auditor in auditors.items() if there[name] and (refit or not auditor.refits)]

    def quick(self) -> list[str]:
        """Names of those that neither fit again nor need an environment: what every report shows."""
        auditors: dict[str, type[Auditor]] = {name: self.get(name) for name in self.names()}
        return [name for name, auditor in auditors.items() if not (auditor.needs_environment or auditor.refits)]


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
    refit: Refit | None = None,
    promise: tuple[float, float] | None = None,
    store: Path | None = None,
    tell: Tell | None = None,
) -> tuple[Finding, ...]:
    """What attacks on a synthetic table get, each beside its baseline, control, interval and ceiling.

    Args:
      synthetic: the rows an attacker has, with the schema's learned columns.
      train: the rows the generator was fitted to: whom the attacks are about.
      holdout: real rows of the same source that no fit has seen; only auditors that fit again do without.
      schema: what the columns are.
      auditors: names from `registry.names()`; by default all but those that need an environment that was not made.
      random_state: repeats every choice of rows.
      refit: fits the generator to other rows and samples, for auditors that play the privacy game.
      promise: the epsilon and delta that each such fit promises for adding or removing one row.
      store: a folder for the results of single fits, so that a killed audit goes on where it stopped.
      tell: told of progress, as (what, share done).

    Raises:
      UsageError: no such auditor, or a `random_state` that is no whole number from 0 up.
      DataError: a table lacks a column of the schema.

    Privacy: reads real rows outside any budget; every finding is INTERNAL. An auditor without a finding logs why.
    """
    from tabveil.audit.base import AuditInput, untold

    data = AuditInput(
        synthetic=synthetic,
        train=train,
        holdout=holdout,
        schema=schema,
        random_state=random_state,
        refit=refit,
        promise=promise,
        store=store,
        tell=tell or untold,
    )
    findings: list[Finding] = []
    for auditor in _chosen(auditors, data):
        reason = auditor.why_not(data)
        if reason:
            _log.info("%s: %s", auditor.plugin_name(), reason)
        else:
            if plan := auditor.plan(data):
                _log.info("%s: %s", auditor.plugin_name(), plan)
            findings += auditor.compute(data)
    return tuple(findings)


def measure(
    synthetic: pd.DataFrame,
    *,
    train: pd.DataFrame,
    population: pd.DataFrame | None = None,
    schema: Schema,
    auditors: Sequence[str] | None = None,
) -> tuple[Measurement, ...]:
    """What auditors count of both tables, without attacking: for now anonymity over declared quasi-identifiers.

    Args:
      synthetic: the rows that are to be released, with the schema's learned columns.
      train: the rows the generator was fitted to.
      population: rows of all the people that the training rows are some of; the quasi-identifiers are enough.
      schema: what the columns are, and which are `quasi_identifiers` and `sensitive`.
      auditors: names from `registry.names()`; all of them by default.

    Raises:
      UsageError: no such auditor.
      DataError: a table lacks a column.

    Privacy: reads real rows outside any budget; every measurement is INTERNAL.
    """
    from tabveil.audit.base import AuditInput

    data = AuditInput(synthetic=synthetic, train=train, holdout=None, schema=schema, population=population)
    return tuple(m for auditor in _chosen(auditors, data) for m in auditor.measure(data))


def notes(data: AuditInput, *, auditors: Sequence[str] | None = None) -> tuple[str, ...]:
    """One sentence for each auditor that has no finding for `data`, ready for a report."""
    return tuple(reason for auditor in _chosen(auditors, data) if (reason := auditor.why_not(data)))


def _chosen(names: Sequence[str] | None, data: AuditInput) -> list[Auditor]:
    """The auditors called `names`; by default all that can run here on `data`."""
    able = registry.runnable(refit=data.refit is not None) if names is None else names
    return [registry.get(name)() for name in able]
