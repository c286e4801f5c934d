"""The order of the stages, and the only place that knows it: check, reserve, check values, fit, sample, write, measure.

    structure and price ─> place on disk ─> reservation ─> curator's check ─> commit, fit ─> sample ─> release folder
    no cell is read                         nothing spent   reads cells        spent          free      all or nothing

What the curator's check of values finds stops the run before anything is spent. Whether it stopped depends on the rows and
is not covered by epsilon, like everything the curator sees on his own machine: do not publish it. `generator.fit` reads
nothing before the commit.

Privacy: a release holds what the account paid for and what follows from that. Scores, findings and charts of real rows go
into a folder of their own, marked INTERNAL.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tabveil
from tabveil import metrics
from tabveil.accounting import DpEvent, Spend
from tabveil.encoding import encode, size
from tabveil.errors import DataError, LedgerError, UnchargedError, UsageError
from tabveil.generators.base import Generator, Plan, Progress, create, load, whole
from tabveil.ledger import Ledger, Receipt, Reservation
from tabveil.metrics.base import MetricInput
from tabveil.metrics.marginals import charts
from tabveil.records import Finding, PrivacyStatement, Provenance, Score
from tabveil.release import (
    STAMP_FILE,
    Manifest,
    check_new,
    json_text,
    new_folder,
    seal,
    space_for,
    versions,
    write_synthetic,
)
from tabveil.release import FORMAT as RELEASE_FORMAT
from tabveil.report.document import Report, build
from tabveil.schema import Schema
from tabveil.tables import Table, open_table, write_table, write_text
from tabveil.verification import read_ledger, read_manifest, read_statement, verify

__all__ = ["Release", "check_values", "evaluate", "report", "sample", "synthesize", "verify"]

MOST_ROWS = 10**10
"""Most synthetic rows in one call."""

INTERNAL = "-internal"
"""Added to the release's name for the folder of what must not be published."""


@dataclass(frozen=True)
class Release:
    """What `synthesize` made.

    Attributes:
      folder: the release, fit to be handed over whole.
      statement: what is promised about everything in it.
      provenance: how it came to be; `seconds` are internal.
      digest: the manifest's SHA-256, which stands for every file.
      internal: the folder with the internal report, None where nothing was measured.
      scores, findings: what was measured on real rows: INTERNAL.
    """

    folder: Path
    statement: PrivacyStatement
    provenance: Provenance
    digest: str
    internal: Path | None = None
    scores: tuple[Score, ...] = ()
    findings: tuple[Finding, ...] = ()


# ---------------------------------------------------------------------------------------------------------- synthesize


def synthesize(
    table: Any,
    schema: Schema | str | os.PathLike[str],
    *,
    generator: str = "mst",
    epsilon: float,
    delta: float | None = None,
    ledger: Ledger | str | Path | None = None,
    dataset: str | None = None,
    out: str | os.PathLike[str],
    rows: int | None = None,
    holdout: Any = None,
    evaluate: bool = False,
    random_state: int | None = None,
    progress: Progress | None = None,
    options: Mapping[str, Any] | None = None,
) -> Release:
    """A private table in a release folder, all or nothing.

    Args:
      table: what `open_table` takes.
      schema: approved public knowledge, or its YAML file.
      generator: plugin name, with its `options`.
      epsilon: privacy budget of this release; math.inf says aloud that nothing is private.
      delta: asked for wherever epsilon is finite.
      ledger: the ledger, its file or its URL; it and `dataset`, the account that pays, are needed where epsilon is finite.
      dataset: the account's name.
      out: the folder to make; must not exist, or be empty.
      rows: how many synthetic rows; the public (or charged, estimated) count by default.
      holdout: real rows that the fit does not see, for measuring.
      evaluate: measure utility too, into the folder `out` + "-internal"; a holdout implies it.
      random_state: repeats sampling and measuring, never privacy noise.
      progress: called as progress(stage, share).

    Raises:
      UsageError, SchemaError, DataError, BudgetExceededError, LedgerError, StorageError: before anything is charged.
      StorageError: also after it, where the disk fills up meanwhile; the paid model is then kept beside `out`.
    """
    made = create(
        generator, epsilon=epsilon, delta=delta, random_state=random_state, progress=progress, **(options or {})
    )
    run = _Run(
        source=open_table(table),
        schema=as_schema(schema),
        generator=made,
        ledger=as_ledger(ledger),
        dataset=dataset,
        out=out,
        rows=rows if rows is None else whole("rows", rows, 1, MOST_ROWS),
        holdout=None if holdout is None else open_table(holdout),
        measured=evaluate or holdout is not None,
    )
    plan = run.planned()
    with new_folder(out, needed=space_for(run.schema, rows), keep="model") as folder:
        release = _build(run, plan, folder)
    return _measured(run, release) if run.measured else release


@dataclass(frozen=True)
class _Run:
    """One call of `synthesize`, its arguments opened."""

    source: Table
    schema: Schema
    generator: Generator
    ledger: Ledger | None
    dataset: str | None
    out: str | os.PathLike[str]
    rows: int | None
    holdout: Table | None
    measured: bool
    seconds: dict[str, float] = field(default_factory=dict)

    def planned(self) -> Plan:
        """Everything that can be said without a cell: columns, approval, price, unit, places on disk."""
        state = self.generator.random_state
        if state is not None:
            whole("random_state", state, 0, 2**63)
        for table in filter(None, (self.source, self.holdout)):
            self.schema.check_columns(table.columns)
        plan = self.generator.plan(self.schema)
        if plan.private and (self.ledger is None or self.dataset is None):
            raise LedgerError("A private fit needs an account that pays: name the ledger and the dataset.")
        if (self.ledger is None) != (self.dataset is None):
            raise UsageError("The ledger and the dataset belong together: name both or neither.")
        check_new(self.out)
        if self.measured:
            check_new(self.internal)
        return plan

    @property
    def internal(self) -> Path:
        """Where what must not be published goes."""
        place = Path(self.out)
        return place.with_name(place.name + INTERNAL)

    def tell(self, stage: str, share: float) -> None:
        """Pass progress on."""
        if self.generator.progress is not None:
            self.generator.progress(stage, share)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note how long a stage takes: internal, since it depends on the rows."""
        start = time.monotonic()
        self.tell(stage, 0.0)
        yield
        self.seconds[stage] = round(time.monotonic() - start, 3)
        self.tell(stage, 1.0)


def _build(run: _Run, plan: Plan, folder: Path) -> Release:
    """Everything from the reservation to the last file."""
    with _reserved(run, plan) as payer:
        with run.timed("checking values"):
            for table in filter(None, (run.source, run.holdout)):
                check_values(table, run.schema)
        with run.timed("fitting"):
            run.generator.fit(run.source, run.schema, ledger=payer, dataset=run.dataset)
        (folder / "model").mkdir()
        run.generator.save(folder / "model")
        with run.timed("sampling"):
            frame = run.generator.sample(run.rows)
        with run.timed("writing"):
            return _written(run, frame, folder)


@contextlib.contextmanager
def _reserved(run: _Run, plan: Plan) -> Iterator[Ledger | None]:
    """The ledger that pays the fit out of a reservation made now and released if the fit is not reached.

    An error that leaves here says whether the account was charged.
    """
    if not plan.private or run.ledger is None or run.dataset is None:
        yield run.ledger
        return
    unit = run.ledger.statement(run.dataset).unit
    if unit != run.schema.unit:
        raise LedgerError(
            f"The account {run.dataset!r} protects each {unit}, the schema each {run.schema.unit}: open an account whose "
            "unit is the schema's."
        )
    with run.ledger.reserve(run.dataset, plan.spends, label=_label(plan)) as reservation:
        payer = _Payer(run.ledger, reservation, plan.spends)
        try:
            yield payer
        except BaseException as error:
            payer.annotate(error, run.dataset)
            raise


def _label(plan: Plan) -> str:
    return f"{plan.generator} fit"


class _Payer(Ledger):
    """A ledger whose next charge commits a reservation that is held already.

    So what was set aside before the curator's check is what pays for the fit, and no other process can take it between.
    """

    def __init__(self, ledger: Ledger, reservation: Reservation, spends: tuple[Spend, ...]) -> None:
        self.__dict__.update(vars(ledger))
        self._reservation, self._spends = reservation, spends
        self._charged: bool | None = False

    def charge(self, dataset: str, spends: DpEvent | Iterable[Spend], *, label: str) -> Receipt:
        """Commit the reservation; raises UnchargedError where it was made for something else."""
        if isinstance(spends, DpEvent) or tuple(spends) != self._spends:
            raise UnchargedError(f"What {label!r} asks for is not what was reserved.")
        self._charged = None
        receipt = self._reservation.commit()
        self._charged = True
        return receipt

    def annotate(self, error: BaseException, dataset: str) -> None:
        """Say in a note of `error` whether the account was charged."""
        if self._charged:
            error.add_note(f"The account {dataset!r} had been charged by then.")
        elif self._charged is None:
            error.add_note(f"The account {dataset!r} was being charged: `tabveil ledger show` tells whether it was.")
        else:
            error.add_note("Nothing was charged.")


# ------------------------------------------------------------------------------------------------------- curator's check


def check_values(table: Any, schema: Schema, *, progress: Progress | None = None) -> None:
    """The curator's check: would a fit refuse a value, is there a row at all, is some column missing in every row?

    Args:
      table: what `open_table` takes; its columns fit `schema`.
      schema: what the columns may hold.
      progress: called as progress(stage, share).

    Raises:
      DataError: a column holds a value that it refuses, is missing in every row, or the table has no rows; one sentence that
        names the column and the rule.

    Privacy: reads every row, outside any budget. Its outcome depends on the rows and is for the curator alone.
    """
    source = open_table(table)
    unit = schema.privacy_unit
    filled = dict.fromkeys([*(c.name for c in schema.learned), *([unit] if unit else [])], False)
    rows = 0
    for chunk in source.chunks(list(filled)):
        rows += len(chunk)
        for column in schema.learned:
            codes = encode(column, chunk[column.name])
            filled[column.name] |= bool((codes != size(column)).any())
        if unit:
            filled[unit] |= bool((chunk[unit].astype("string").fillna("") != "").any())
    if progress is not None:
        progress("checking values", 1.0)
    if not rows:
        raise DataError("The table has no rows: there is nothing to learn from.")
    empty = [name for name, seen in filled.items() if not seen]
    if empty:
        raise DataError(
            f"Column {empty[0]!r} is missing in every row: leave it out of the table and its schema, or check which texts "
            "the schema calls missing."
        )


# ----------------------------------------------------------------------------------------------------------------- files


def _written(run: _Run, frame: pd.DataFrame, folder: Path) -> Release:
    """All files of the release but the model, which is there already."""
    statement, private = run.generator.statement, run.ledger is not None and run.dataset is not None
    account = run.ledger.export(run.dataset) if run.ledger is not None and run.dataset is not None else None
    provenance = _provenance(run, rows=len(frame))
    write_synthetic(frame, run.schema, folder)
    run.tell("writing", 0.6)
    run.schema.to_yaml(folder / "schema.yaml")
    write_text(folder / "statement.json", json_text(statement.to_dict()))
    if account is not None:
        write_text(folder / "ledger.json", json_text(account))
    page = _document(statement, account, run.schema, provenance, edition="release", charts=release_charts(frame, run.schema))
    for suffix in ("html", "json", "md"):
        page.save(folder / f"report.{suffix}")
    if statement.stamp:
        write_text(folder / STAMP_FILE, f"{statement.sentence()}\n")
    manifest = Manifest(
        tabveil_release=RELEASE_FORMAT,
        stamp=statement.stamp,
        provenance=replace(provenance, seconds={}).to_dict(),
        epsilon=run.generator.epsilon,
        delta=run.generator.delta,
        schema=run.schema.digest,
        dataset=run.dataset if private else None,
        ledger_head=head_of(account) if account is not None else "",
    )
    sealed = seal(folder, manifest)
    return Release(Path(run.out), statement, provenance, sealed.sha256)


def _provenance(run: _Run, *, rows: int) -> Provenance:
    python, packages = versions()
    options = {k: v for k, v in run.generator.get_params().items() if k not in ("progress", "epsilon", "delta")}
    return Provenance(
        tabveil=tabveil.__version__,
        python=python,
        packages=packages,
        generator=run.generator.plugin_name(),
        options=options,
        seconds=run.seconds,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        rows=rows,
    )
