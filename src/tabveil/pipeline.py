"""The order of the stages, and the only place that knows it: check, reserve, check values, fit, sample, write, measure.

    structure and price ─> place on disk ─> reservation ─> curator's check ─> commit, fit ─> sample ─> release folder
    no cell is read                         nothing spent   reads cells        spent          free      all or nothing

What the curator's check of values finds stops the run before anything is spent. Whether it stopped depends on the
rows and is not covered by epsilon, like everything the curator sees on his own machine: do not publish it.
`generator.fit` reads nothing before the commit.

Privacy: a release holds what the account paid for and what follows from that. Scores, findings and charts of real
rows go into a folder of their own, marked INTERNAL.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import tabveil
from tabveil import measuring
from tabveil.appraising import as_schema, audit, check_seed, evaluate, report, tables_of
from tabveil.conditions import Prior, Where
from tabveil.curating import Payer, check_values
from tabveil.errors import UsageError
from tabveil.generators.base import BATCH_ROWS, Generator, Plan, Progress, check_unit, create, load, whole
from tabveil.ledger import Ledger
from tabveil.measuring import Facts
from tabveil.records import PrivacyStatement, Provenance
from tabveil.release import (
    DECLARED_FILE,
    STAMP_FILE,
    Manifest,
    Release,
    as_ledger,
    check_new,
    json_text,
    new_folder,
    seal,
    space_for,
    versions,
    write_frames,
    write_parts,
    write_synthetic,
)
from tabveil.release import FORMAT as RELEASE_FORMAT
from tabveil.schema import Schema
from tabveil.tables import Table, open_table, write_text
from tabveil.verification import verify

__all__ = ["Release", "audit", "check_values", "evaluate", "impute", "report", "sample", "synthesize", "verify"]

MOST_ROWS = 10**10
"""Most synthetic rows in one call."""

INTERNAL = "-internal"
"""Added to the release's name for the folder of what must not be published."""


# ----------------------------------------------------------------------------------------------------------- synthesize


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
      generator: plugin name.
      epsilon: privacy budget of this release; math.inf says aloud that nothing is private.
      delta: asked for wherever epsilon is finite.
      ledger: the ledger, its file or its URL; needed where epsilon is finite.
      dataset: the account that pays; likewise.
      out: the folder to make; must not exist, or be empty.
      rows: how many synthetic rows; the public (or charged, estimated) count by default.
      holdout: real rows that the fit does not see, for measuring.
      evaluate: measure utility too, into the folder `out` + "-internal"; a holdout implies it.
      random_state: repeats sampling and measuring, never privacy noise.
      progress: called as progress(stage, share).
      options: of the generator.

    Raises:
      UsageError, SchemaError, DataError, BudgetExceededError, LedgerError, StorageError: before anything is charged.
      StorageError: also after it, where the disk fills up meanwhile; the paid model is then kept beside `out`.
    """
    made = create(
        generator, epsilon=epsilon, delta=delta, random_state=random_state, progress=progress, **(options or {})
    )
    source, public = open_table(table), as_schema(schema)
    public.check_columns(source.columns)
    run = _Run(
        source=source,
        schema=public,
        generator=made,
        plan=made.plan(public),
        ledger=None if ledger is None else as_ledger(ledger),
        dataset=dataset,
        out=out,
        rows=rows if rows is None else whole("rows", rows, 1, MOST_ROWS),
        holdout=None if holdout is None else open_table(holdout),
        measured=evaluate or holdout is not None,
    )
    run.check()
    with new_folder(out, needed=space_for(public, rows), keep="model") as folder:
        release = _build(run, folder)
    return _measured(run, release) if run.measured else release


@dataclass(frozen=True)
class _Run:
    """One call of `synthesize`, its arguments opened."""

    source: Table
    schema: Schema
    generator: Generator
    plan: Plan
    ledger: Ledger | None
    dataset: str | None
    out: str | os.PathLike[str]
    rows: int | None
    holdout: Table | None
    measured: bool
    seconds: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """What else can be said without a cell: who pays, the holdout's columns, places on disk."""
        check_seed(self.generator.random_state)
        if self.plan.private and (self.ledger is None or self.dataset is None):
            raise UsageError("A private fit needs an account that pays: name the ledger and the dataset.")
        if (self.ledger is None) != (self.dataset is None):
            raise UsageError("The ledger and the dataset belong together: name both or neither.")
        check_new(self.out)
        if self.holdout is not None:
            self.schema.check_columns(self.holdout.columns)
        if self.measured:
            check_new(self.internal)

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


def _build(run: _Run, folder: Path) -> Release:
    """Everything from the reservation to the last file."""
    with _reserved(run) as payer:
        with run.timed("checking values"):
            check_values(run.source, run.schema)
        with run.timed("fitting"):
            run.generator.fit(run.source, run.schema, ledger=payer, dataset=run.dataset)
        (folder / "model").mkdir()
        run.generator.save(folder / "model")
        with run.timed("sampling"):
            frame = run.generator.sample(run.rows)
        with run.timed("writing"):
            return _written(run, frame, folder)


@contextlib.contextmanager
def _reserved(run: _Run) -> Iterator[Ledger | None]:
    """The ledger that pays the fit out of a reservation made now and released if the fit is not reached.

    An error that leaves here says whether the account was charged.
    """
    if not run.plan.private or run.ledger is None or run.dataset is None:
        yield run.ledger
        return
    check_unit(run.ledger, run.dataset, run.schema)
    with run.ledger.reserve(run.dataset, run.plan.spends, label=f"{run.plan.generator} fit") as reservation:
        payer = Payer(run.ledger, reservation, run.plan.spends)
        try:
            yield payer
        except BaseException as error:
            payer.annotate(error, run.dataset)
            raise


# ---------------------------------------------------------------------------------------------------------------- files


def _written(run: _Run, frame: pd.DataFrame, folder: Path) -> Release:
    """All files of the release but the model, which is there already."""
    statement = run.generator.statement
    account = run.ledger.export(run.dataset) if run.ledger is not None and run.dataset is not None else None
    provenance = _provenance(run, rows=len(frame))
    schema = run.generator.schema  # with what the fit learned filled in
    write_synthetic(frame, schema, folder)
    run.tell("writing", 0.6)
    schema.to_yaml(folder / "schema.yaml")
    if run.schema.unresolved:
        run.schema.to_yaml(folder / DECLARED_FILE)
    write_text(folder / "statement.json", json_text(statement.to_dict()))
    if account is not None:
        write_text(folder / "ledger.json", json_text(account))
    page = Facts(statement, account, schema, provenance).release(frame)
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
        schema=schema.digest,
        dataset=None if account is None else run.dataset,
        ledger_head="" if account is None else account["head"],
    )
    sealed = seal(folder, manifest)
    return Release(Path(run.out), statement, provenance, sealed.sha256)


def _provenance(run: _Run, *, rows: int) -> Provenance:
    python, packages = versions()
    return Provenance(
        tabveil=tabveil.__version__,
        python=python,
        packages=packages,
        generator=run.generator.plugin_name(),
        options=run.generator.settings(),
        seconds=run.seconds,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        rows=rows,
    )


# -------------------------------------------------------------------------------------------------------------- measure


def _measured(run: _Run, release: Release) -> Release:
    """`release` with scores and findings, and the internal report beside it."""
    try:
        with new_folder(run.internal) as folder, run.timed("measuring"):
            synthetic = release.folder / "synthetic.parquet"
            tables = synthetic, run.source, run.holdout
            data = tables_of(tables, run.generator.schema, run.generator.random_state or 0)
            scores, audited = measuring.scores(data), measuring.audited(data)
            account = None if run.ledger is None or run.dataset is None else run.ledger.export(run.dataset)
            facts = Facts(release.statement, account, run.generator.schema, release.provenance)
            page = facts.internal(data, scores, audited)
            for suffix in ("html", "json"):
                page.save(folder / f"report.{suffix}")
    except BaseException as error:
        error.add_note(f"The release {os.fspath(run.out)!r} is complete; only measuring it failed.")
        raise
    return replace(release, internal=run.internal, scores=scores, findings=audited.findings)


# --------------------------------------------------------------------------------------------------------------- sample


class Sampled(NamedTuple):
    """What `sample` did: rows written, what is promised about them, both marginals of a balanced label."""

    rows: int
    statement: PrivacyStatement
    balance: dict[str, Any] | None


def sample(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    rows: int | None = None,
    where: Where | None = None,
    balance: Prior | None = None,
    partition_rows: int | None = None,
    random_state: int | None = None,
    progress: Progress | None = None,
) -> Sampled:
    """More rows from a saved model into a file or folder, written as they are drawn; costs nothing (post-processing).

    Args:
      model: a release folder, or the folder of a model.
      out: a .csv, .csv.gz, .tsv or .parquet file to write, or a new folder for Parquet files part-00000.parquet, ...: a
        name that ends in "/", or any name with `partition_rows`. All is written or nothing.
      rows: how many; the public (or charged, estimated) count by default.
      where: what every row obeys, as `Generator.sample` takes it.
      balance: shares of a label, likewise.
      partition_rows: most rows in one file of the folder; a million by default.
      random_state: repeats the sample, for the same `partition_rows`.
      progress: called as progress(stage, share).

    Returns:
      How many rows, what is promised about them, and of a balanced label both marginals.

    Raises:
      DataError: no model.
      StorageError: the file cannot be written.
      UsageError: an argument out of range, or a folder that is there already.
    """
    made, target = _model(model), os.fspath(out)
    check_seed(random_state)
    wanted = made.default_rows if rows is None else whole("rows", rows, 0, MOST_ROWS)
    most = BATCH_ROWS if partition_rows is None else whole("partition_rows", partition_rows, 1, MOST_ROWS)
    frames = made.sample_batches(wanted, batch_rows=most, where=where, balance=balance, random_state=random_state)
    parted = target.endswith(("/", os.sep)) or partition_rows is not None
    write = write_parts if parted else write_frames
    reports: list[dict[str, Any]] = []
    write(_watched(frames, wanted, (progress, reports)), made.schema, Path(target))
    if made.statement.stamp:
        write_text(f"{os.fspath(Path(target))}.{STAMP_FILE}", f"{made.statement.sentence()}\n")
    return Sampled(wanted, made.statement, _together(reports))


def _watched(
    frames: Iterator[pd.DataFrame], rows: int, watchers: tuple[Progress | None, list[dict[str, Any]]]
) -> Iterator[pd.DataFrame]:
    """The frames, told of as they pass, and what each says of a balanced label kept."""
    progress, reports = watchers
    done = 0
    for frame in frames:
        reports.extend([frame.attrs["balance"]] if "balance" in frame.attrs else [])
        yield frame
        done += len(frame)
        if progress is not None:
            progress("sampling", done / max(rows, 1))


def _together(reports: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What the batches of one sample say of a balanced label, as one report."""
    if not reports:
        return None
    counts = [sum(v["rows"] for v in values) for values in zip(*(r["values"] for r in reports), strict=True)]
    total = max(sum(counts), 1)
    values = [{**v, "rows": n, "sample": n / total} for v, n in zip(reports[0]["values"], counts, strict=True)]
    return {**reports[0], "values": values}


def _model(place: str | os.PathLike[str]) -> Generator:
    """The generator in a release folder, or in the folder of a model."""
    folder = Path(place)
    return load(folder / "model" if (folder / "model" / "model.json").is_file() else folder)


def impute(
    model: str | os.PathLike[str],
    table: Any,
    out: str | os.PathLike[str],
    *,
    m: int = 1,
    random_state: int | None = None,
) -> tuple[int, tuple[Path, ...]]:
    """A table's missing cells filled by a saved model into a file, or m files NAME.1.SUFFIX, NAME.2.SUFFIX, ...

    Args:
      model: a release folder, or the folder of a model.
      table: rows of the user's own, what `open_table` takes; all of them are held in memory, m times over.
      out: a .csv, .csv.gz, .tsv or .parquet file to write.
      m: how many completed tables, from 1 to 1000.
      random_state: repeats the draws.

    Returns:
      How many rows, and the files.

    Raises:
      DataError: no model, or a table that does not fit its schema.
      StorageError: a file cannot be written.
      UsageError: an argument out of range.

    Privacy: what comes out holds the table's own rows, and is as private as they are.
    """
    made = _model(model)
    check_seed(random_state)
    frame = pd.concat(list(open_table(table).chunks()), ignore_index=True)
    done = made.impute(frame, whole("m", m, 1, 1000), random_state=random_state)
    frames = [done] if isinstance(done, pd.DataFrame) else done
    files = [Path(out)] if len(frames) == 1 else [numbered(Path(out), i + 1) for i in range(len(frames))]
    for filled, file in zip(frames, files, strict=True):
        write_frames([filled], made.schema, file)
    return len(frame), tuple(files)


def numbered(path: Path, number: int) -> Path:
    """The file of one of several completed tables."""
    stem, dot, suffixes = path.name.partition(".")
    return path.with_name(f"{stem}.{number}{dot}{suffixes}")


# ------------------------------------------------------------------------------------------------------------ arguments


def split(table: pd.DataFrame, *, share: float, random_state: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to learn from, and a random `share` of them to measure on, both in the table's order."""
    order = np.random.default_rng(random_state).permutation(len(table))
    held = round(share * len(table))
    return table.iloc[np.sort(order[held:])], table.iloc[np.sort(order[:held])]
