"""What is said about a release, or a table, afterwards: evaluate, report, audit. Reads real rows, spends nothing.

Privacy: scores, findings, measurements and charts of real rows come from outside any budget: INTERNAL.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tabveil import auditing, measuring
from tabveil.audit.base import AuditInput, Tell, untold
from tabveil.errors import UsageError
from tabveil.generators import generators
from tabveil.generators.base import Generator, Progress, whole
from tabveil.measuring import Facts
from tabveil.metrics.base import MetricInput
from tabveil.records import Provenance, Score
from tabveil.refitting import Refitting
from tabveil.release import DECLARED_FILE, Release
from tabveil.report.document import Report
from tabveil.schema import Schema
from tabveil.tables import open_table
from tabveil.verification import read_manifest, read_statement, verify


def evaluate(
    synthetic: Any,
    *,
    train: Any,
    holdout: Any = None,
    schema: Schema | str | os.PathLike[str],
    metrics: Sequence[str] | None = None,
    random_state: int | None = 0,
) -> tuple[Score, ...]:
    """How useful a synthetic table is: scores, each beside the references that give it meaning.

    Args:
      synthetic: rows to be judged; like every table here, what `open_table` takes.
      train: the rows it was made from.
      holdout: real rows that no fit has seen.
      schema: what the columns are, or its YAML file.
      metrics: names of metrics; all by default.
      random_state: repeats subsamples and learners.

    Raises:
      DataError, SchemaError, UsageError: a table or an argument is wrong.

    Privacy: reads real rows outside any budget: every score is INTERNAL.
    """
    data = tables_of((synthetic, train, holdout), as_schema(schema), random_state)
    return measuring.scores(data, metrics)


def tables_of(tables: tuple[Any, Any, Any], schema: Schema, random_state: int | None) -> MetricInput:
    """What metrics and attacks are given of the synthetic table, the training table and the holdout (or None)."""
    rng = np.random.default_rng(random_state)
    synthetic, train, holdout = (None if t is None else measuring.frame_of(t, rng) for t in tables)
    return MetricInput(train=train, holdout=holdout, synthetic=synthetic, schema=schema, random_state=random_state)


def report(
    folder: Release | str | os.PathLike[str],
    *,
    train: Any = None,
    holdout: Any = None,
    audited: str | os.PathLike[str] | None = None,
    random_state: int | None = 0,
) -> Report:
    """The report of a release, verified first: its release edition, or with `train` the internal one, measured anew.

    Args:
      folder: a release.
      train: the rows it was made from: then the report is INTERNAL.
      holdout: real rows that no fit has seen.
      audited: an audit of this release as `tabveil audit` writes it, to be shown in place of a new one.
      random_state: repeats subsamples and learners.

    Raises:
      VerificationError: the folder, or the audit, is not what it says.
      DataError, UsageError: a table or an argument is wrong.
    """
    place = Path(folder.folder if isinstance(folder, Release) else folder)
    if train is None and (holdout is not None or audited is not None):
        raise UsageError("A holdout or an audit is shown beside the training rows' figures: give train too.")
    verify(place)
    if train is None:
        return Report(json.loads((place / "report.json").read_text(encoding="utf-8")))
    manifest, schema = read_manifest(place), Schema.from_yaml(place / "schema.yaml")
    data = tables_of((place / "synthetic.parquet", train, holdout), schema, random_state)
    account = None
    if manifest.dataset is not None:
        account = json.loads((place / "ledger.json").read_text(encoding="utf-8"))
    facts = Facts(read_statement(place), account, schema, Provenance.from_dict(manifest.provenance))
    found = None if audited is None else auditing.Audited.read(audited)
    if found is not None:
        tables = AuditInput(data.synthetic, data.train, data.holdout, schema, random_state)
        auditing.check_same(found, tables, manifest=manifest.sha256)
    return facts.internal(data, measuring.scores(data), measuring.audited(data) if found is None else found)


# ---------------------------------------------------------------------------------------------------------------- audit


def audit(
    synthetic: Release | str | os.PathLike[str] | pd.DataFrame,
    *,
    train: Any,
    holdout: Any = None,
    population: Any = None,
    schema: Schema | str | os.PathLike[str] | None = None,
    auditors: Sequence[str] | None = None,
    profiles: Sequence[str | Path] = (auditing.THREE_QUESTIONS,),
    store: str | os.PathLike[str] | None = None,
    saved: Callable[[auditing.Audited], None] | None = None,
    refit: bool = False,
    random_state: int | None = 0,
    progress: Progress | None = None,
) -> auditing.Audited:
    """Attack and count a release, or a table, and judge what comes out by named profiles.

    Args:
      synthetic: a release's folder, verified first, or rows: like every table here, what `open_table` takes.
      train: the rows it was made from.
      holdout: real rows that no fit has seen; without them only `refit` attacks; the rest counts.
      population: rows of all the people that the training rows are some of, for k-map and delta-presence.
      schema: what the columns are, or its YAML file; a release has its own.
      auditors: names of auditors; all by default.
      profiles: names or files of profiles.
      store: a folder for parts: the same audit goes on from there. They stay until `saved` is called.
      saved: called with the result once all is done; the parts in `store` are removed when it has come back.
      refit: fit the release's generator again, hundreds of times, for auditors that play the privacy game; each such
        fit has an account of its own (`refitting`), the dataset's is left alone.
      random_state: repeats every choice of rows.
      progress: called with (what, share done).

    Raises:
      VerificationError: the release is not what it says.
      DataError, SchemaError, StorageError, UsageError: a table or an argument is wrong.

    Privacy: reads real rows outside any budget: everything that comes out is INTERNAL.
    """
    check_seed(random_state)
    asked = _asked(synthetic, schema, refit=refit)
    data = asked.beside((train, holdout, population), random_state, tell=progress or untold)
    parts = None if store is None else Path(store)
    about = {"manifest_sha256": asked.manifest}
    found = auditing.conduct(data, auditors=auditors, profiles=profiles, store=parts, about=about)
    if saved is not None:
        saved(found)
        if parts is not None:
            auditing.forget(data, parts, found.about["auditors"])
    return found


SHADOW_ROWS = 1_000
"""Synthetic rows of a fit for the privacy game."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is audited: rows or where they are, under which schema, fitted again by what, of which release."""

    rows: Any
    schema: Schema
    refit: Refitting | None = None
    manifest: str | None = None

    def beside(self, tables: tuple[Any, Any, Any], random_state: int | None, *, tell: Tell) -> AuditInput:
        """All that an audit is given, `tables` being the training rows, the holdout and the population, or None."""
        rng = np.random.default_rng(random_state)
        rows, train, holdout, population = (
            None if t is None else measuring.frame_of(t, rng) for t in (self.rows, *tables)
        )
        return AuditInput(
            synthetic=rows,
            train=train,
            holdout=holdout,
            schema=self.schema,
            random_state=random_state,
            population=population,
            refit=self.refit,
            promise=None if self.refit is None else self.refit.promise,
            tell=tell,
        )


def _asked(synthetic: Any, schema: Schema | str | os.PathLike[str] | None, *, refit: bool) -> _Asked:
    """A release, verified, or a bare table, which needs a schema and is fitted by nobody knows what."""
    place = _folder_of(synthetic)
    if place is None and refit:
        raise UsageError("Only a release says which generator is to be fitted again: audit its folder.")
    if place is not None:
        verify(place)
        rows, own = place / "synthetic.parquet", as_schema(schema or place / "schema.yaml")
        return _Asked(rows, own, _again(place) if refit else None, read_manifest(place).sha256)
    if schema is None:
        open_table(synthetic)  # what is not there at all needs no schema
        raise UsageError("A table is audited under its schema: give one.")
    return _Asked(synthetic, as_schema(schema))


def _again(place: Path) -> Refitting:
    """The generator of a release, under the schema that was declared, to be fitted to other rows."""
    manifest = read_manifest(place)
    made = Provenance.from_dict(manifest.provenance)
    declared = place / DECLARED_FILE
    schema = Schema.from_yaml(declared if declared.is_file() else place / "schema.yaml")
    kind: type[Generator] = generators.get(made.generator)
    named = set(kind.option_names()) - {"epsilon", "delta", "random_state", "progress"}
    return Refitting(
        generator=made.generator,
        schema=schema,
        rows=min(made.rows, SHADOW_ROWS),
        epsilon=float(manifest.epsilon),
        delta=manifest.delta,
        options={key: value for key, value in made.options.items() if key in named},
    )


def _folder_of(synthetic: Any) -> Path | None:
    """The release's folder, where `synthetic` is one."""
    if isinstance(synthetic, Release):
        return synthetic.folder
    named = isinstance(synthetic, str | os.PathLike) and "://" not in os.fspath(synthetic)
    return Path(synthetic) if named and Path(synthetic).is_dir() else None


# ------------------------------------------------------------------------------------------------------------ arguments


def as_schema(schema: Schema | str | os.PathLike[str]) -> Schema:
    """A schema, or the one in a YAML file; raises SchemaError."""
    return schema if isinstance(schema, Schema) else Schema.from_yaml(os.fspath(schema))


def check_seed(random_state: int | None) -> None:
    """Raises UsageError where this is neither None nor a whole number from 0 up."""
    if random_state is not None:
        whole("random_state", random_state, 0, 2**63)
