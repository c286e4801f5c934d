"""The command line: parses, calls the pipeline, prints.

Answers go to stdout (JSON with --json), messages and progress to stderr; whatever goes wrong is one line on stderr
and a documented exit code. Libraries are imported by the command that needs them, so that --help is there at once.

Privacy: prints no cell of a table; an unexpected error is named by its type alone.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tabveil
from tabveil import _cli_audit, _cli_env, _cli_ledger, _cli_output, _cli_schema
from tabveil._cli_conditions import read_balance, read_where
from tabveil._cli_output import answer, columns, new_app, progress, run, tell
from tabveil._cli_schema import Delimiter, Json, TableName, TableSource
from tabveil.errors import INTERRUPTED_EXIT_CODE

if TYPE_CHECKING:
    from tabveil.pipeline import Release
    from tabveil.records import PrivacyStatement, Score

app = new_app("Privacy-first synthesis of tables: declare what is public, spend a budget, sample, measure, show why.")
app.add_typer(_cli_schema.app, name="schema")
app.add_typer(_cli_ledger.app, name="ledger")
app.add_typer(_cli_env.app, name="env")
app.command()(_cli_audit.audit)
app.command()(_cli_audit.auditors)

SchemaFile = Annotated[Path, typer.Option("--schema", "-s", metavar="FILE", help="The table's schema (YAML).")]
LedgerPlace = Annotated[
    str | None,
    typer.Option("--ledger", "-l", metavar="LEDGER", envvar="TABVEIL_LEDGER", help="A ledger file, or its URL."),
]
Epsilon = Annotated[
    float,
    typer.Option("--epsilon", "-e", help="Privacy budget, above 0; 'inf' says aloud that nothing is private."),
]
Delta = Annotated[
    float | None, typer.Option("--delta", "-d", help="0, or well below 1 / rows; asked for unless epsilon is inf.")
]
GeneratorName = Annotated[str, typer.Option("--generator", "-g", help="See `tabveil generators`.")]
GeneratorOptions = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the generator; may be repeated.")
]
Seed = Annotated[int | None, typer.Option("--random-state", help="Repeats sampling; never privacy noise.")]
Holdout = Annotated[str | None, typer.Option(metavar="TABLE", help="Real rows that the fit does not see.")]
Rows = Annotated[int | None, typer.Option("--rows", "-n", help="Synthetic rows; as many as the real table by default.")]


@app.callback(invoke_without_command=True)
def main_options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    """Privacy-first synthesis of tables: declare what is public, spend a budget, sample, measure, show why."""
    if version:
        typer.echo(f"tabveil {tabveil.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the release goes.")] = Path(
        "demo-release"
    ),
    as_json: Json = False,
) -> None:
    """A private release of a public health table, with its reports: the whole way in one command."""
    from tabveil._demo import demo as make

    with progress() as show:
        release = make(out, progress=show)
    report = (release.internal or release.folder) / "report.html"
    lines = [
        _summary(release),
        _scores(release.scores),
        f"Release, to be handed over whole: {release.folder}",
        f"Report with the measurements, INTERNAL: {report.resolve()}",
    ]
    answer(_release(release), "\n".join(lines), as_json=as_json)


@app.command()
def plan(
    schema: SchemaFile,
    epsilon: Epsilon,
    delta: Delta = None,
    generator: GeneratorName = "mst",
    option: GeneratorOptions = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", "-n", help="A publicly known or assumed row count, where the schema has none."),
    ] = None,
    timed: Annotated[
        bool, typer.Option("--time/--no-time", help="Measure a few steps on made-up rows; takes some seconds.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Say what a fit would cost and take, and whether epsilon is enough to learn from. Opens no table."""
    from tabveil import planning
    from tabveil._cli_plan import shown
    from tabveil.appraising import as_schema

    with progress() as show:
        forecast = planning.plan(
            as_schema(schema),
            generator=generator,
            epsilon=epsilon,
            delta=delta,
            rows=rows,
            timed=timed,
            progress=show,
            options=_options(option or ()),
        )
    answer(forecast.to_dict(), shown(forecast), as_json=as_json)


@app.command()
def synthesize(
    table: TableSource,
    schema: SchemaFile,
    epsilon: Epsilon,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The release; must not exist yet.")],
    delta: Delta = None,
    ledger: LedgerPlace = None,
    dataset: Annotated[str | None, typer.Option(help="The account that pays.")] = None,
    generator: GeneratorName = "mst",
    option: GeneratorOptions = None,
    rows: Rows = None,
    holdout: Holdout = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Measure utility into FOLDER-internal.")] = False,
    random_state: Seed = None,
    table_name: TableName = None,
    delimiter: Delimiter = None,
    as_json: Json = False,
) -> None:
    """Make a private table: a release folder with the rows, the model, the promise and the report."""
    from tabveil import pipeline
    from tabveil.tables import open_table

    with progress() as show:
        release = pipeline.synthesize(
            open_table(table, table=table_name, delimiter=delimiter),
            schema,
            generator=generator,
            epsilon=epsilon,
            delta=delta,
            ledger=ledger if dataset is not None or math.isfinite(epsilon) else None,
            dataset=dataset,
            out=out,
            rows=rows,
            holdout=None if holdout is None else open_table(holdout, delimiter=delimiter),
            evaluate=evaluate,
            random_state=random_state,
            progress=show,
            options=_options(option or ()),
        )
    _warn(release.statement)
    lines = [_summary(release), _scores(release.scores)]
    lines += [f"{release.folder}: verify it with `tabveil verify`; manifest {release.digest}"]
    lines += [f"{release.internal}: INTERNAL, not for publication"] if release.internal else []
    answer(_release(release), "\n".join(filter(None, lines)), as_json=as_json)


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE as keyword arguments; a value that is JSON is read as such."""
    from tabveil.errors import UsageError

    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier() or name in ("epsilon", "delta", "progress", "random_state"):
            raise UsageError("--option takes NAME=VALUE, such as --option cells=64; `tabveil generators` lists names.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _summary(release: Release) -> str:
    made, rows = release.provenance, release.provenance.rows
    chosen = f", which chose {made.options['chosen']}: {made.options['because']}" if "chosen" in made.options else "."
    return f"{rows:,} synthetic row{'s' * (rows != 1)} by {made.generator}{chosen} {release.statement.sentence()}"


def _warn(statement: PrivacyStatement) -> None:
    if statement.stamp:
        tell(f"{statement.stamp}: treat what was made as you treat the rows it was made from.")


def _release(release: Release) -> dict[str, Any]:
    return {
        "folder": str(release.folder),
        "rows": release.provenance.rows,
        "generator": release.provenance.generator,
        "options": release.provenance.options,
        "stamp": release.statement.stamp,
        "statement": release.statement.to_dict(),
        "manifest_sha256": release.digest,
        "internal_folder": None if release.internal is None else str(release.internal),
        "scores": [s.to_dict() for s in release.scores],
        "findings": [f.to_dict() for f in release.findings],
    }


def _scores(scores: Sequence[Score]) -> str:
    """Scores beside what gives them meaning, for a terminal."""
    if not scores:
        return ""
    roles = [r for r in ("holdout", "real", "independent", "bootstrap") if any(r in s.references for s in scores)]
    head = [("INTERNAL: read real rows", "better", "synthetic", *roles)]
    rows = [
        (
            s.name,
            {"min": "low", "max": "high"}[s.goal],
            _number(s.value),
            *(_number(s.references.get(r)) for r in roles),
        )
        for s in scores
    ]
    return columns(head + rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(metavar="FOLDER", help="A release, or a saved model.", show_default=False)],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="A .csv, .csv.gz, .tsv or .parquet file, or 'FOLDER/' for Parquet files in a new folder.",
        ),
    ],
    rows: Rows = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="CONDITION", help="COLUMN=VALUE|VALUE or COLUMN=LOW..HIGH; repeatable.")
    ] = None,
    balance: Annotated[
        str | None, typer.Option(metavar="LABEL", help="COLUMN for equal shares, or COLUMN=VALUE:SHARE|VALUE:SHARE.")
    ] = None,
    partition_rows: Annotated[
        int | None, typer.Option("--partition-rows", help="Rows per file: makes --out a folder of Parquet files.")
    ] = None,
    random_state: Seed = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Draw more rows from a fitted model. It costs nothing, as often as you like."""
    from tabveil import pipeline
    from tabveil.errors import UsageError

    if Path(out).is_file() and not force:
        raise UsageError(f"{out!r} is there already: name another file, or give --force to replace it.")
    asked: dict[str, Any] = {"where": read_where(where or ()), "balance": read_balance(balance)}
    with progress() as show:
        drawn, statement, shares = pipeline.sample(
            model, out, rows=rows, **asked, partition_rows=partition_rows, random_state=random_state, progress=show
        )
    _warn(statement)
    data = {"file": out, "rows": drawn, "stamp": statement.stamp, "statement": statement.to_dict()}
    data |= {} if shares is None else {"balance": shares}
    text = f"Wrote {drawn:,} rows to {out}. {statement.sentence()}"
    answer(data, "\n".join([text, *_shares(shares)]), as_json=as_json)


def _shares(balance: dict[str, Any] | None) -> list[str]:
    """A balanced label's own marginal beside the model's."""
    if balance is None:
        return []
    shown = [
        ("missing" if v["value"] is None else v["value"], f"{v['rows']:,}", _number(v["sample"]), _number(v["model"]))
        for v in balance["values"]
    ]
    return [columns([(balance["column"], "rows", "share", "model's share"), *shown])]


@app.command()
def impute(
    model: Annotated[Path, typer.Argument(metavar="FOLDER", help="A release, or a saved model.", show_default=False)],
    table: TableSource,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A .csv, .csv.gz, .tsv or .parquet file.")],
    m: Annotated[int, typer.Option("--draws", "-m", help="Completed tables: NAME.1.csv, NAME.2.csv, ...")] = 1,
    random_state: Seed = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    table_name: TableName = None,
    delimiter: Delimiter = None,
    as_json: Json = False,
) -> None:
    """Fill the missing cells of a table of your own from a fitted model. It costs nothing; the rows stay yours."""
    from tabveil import pipeline
    from tabveil.errors import UsageError
    from tabveil.tables import open_table

    places = [out] if m == 1 else [pipeline.numbered(out, i + 1) for i in range(m)]
    if any(p.exists() for p in places) and not force:
        raise UsageError(f"{str(out)!r} is there already: name another file, or give --force to replace it.")
    source = open_table(table, table=table_name, delimiter=delimiter)
    rows, files = pipeline.impute(model, source, out, m=m, random_state=random_state)
    names = ", ".join(map(str, files))
    data = {"files": [str(f) for f in files], "rows": rows}
    answer(data, f"Wrote {rows:,} rows to {names}: as private as the table they came from.", as_json=as_json)


@app.command()
def evaluate(
    synthetic: Annotated[str, typer.Argument(metavar="SYNTHETIC", help="A release, or a table.", show_default=False)],
    train: Annotated[str, typer.Option(metavar="TABLE", help="The rows it was made from.")],
    schema: Annotated[
        Path | None, typer.Option("--schema", "-s", metavar="FILE", help="Needed unless SYNTHETIC is a release.")
    ] = None,
    holdout: Holdout = None,
    metric: Annotated[list[str] | None, typer.Option(help="A metric; all by default. May be repeated.")] = None,
    random_state: Annotated[int, typer.Option("--random-state", help="Repeats subsamples and learners.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure how useful a synthetic table is. Reads real rows: the scores are INTERNAL."""
    from tabveil import pipeline
    from tabveil.errors import UsageError

    folder = Path(synthetic)
    released = "://" not in synthetic and folder.is_dir()
    if not released and schema is None:
        raise UsageError("A table is measured under its schema: give --schema.")
    scores = pipeline.evaluate(
        folder / "synthetic.parquet" if released else synthetic,
        train=train,
        holdout=holdout,
        schema=schema or folder / "schema.yaml",
        metrics=metric,
        random_state=random_state,
    )
    answer({"internal": True, "scores": [s.to_dict() for s in scores]}, _scores(scores), as_json=as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A release.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A .html, .md or .json file.")],
    train: Annotated[
        str | None, typer.Option(metavar="TABLE", help="The rows it was made from: makes the INTERNAL edition.")
    ] = None,
    holdout: Holdout = None,
    audited: Annotated[
        Path | None,
        typer.Option("--audit", metavar="FILE", help="What `tabveil audit` wrote, shown in place of a new one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a release's report; with --train the internal edition, measured anew."""
    from tabveil import pipeline

    pipeline.report(folder, train=train, holdout=holdout, audited=audited).save(out)
    edition = "release" if train is None else "internal"
    answer({"file": str(out), "edition": edition}, f"Wrote the {edition} edition to {out}.", as_json=as_json)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A release.", show_default=False)],
    ledger: Annotated[
        str | None,
        typer.Option("--ledger", "-l", metavar="LEDGER", help="The ledger that paid: its chain is checked too."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute everything a release says of itself: hashes, promise, epsilon, account, tables."""
    from tabveil.release import as_ledger
    from tabveil.verification import read_manifest
    from tabveil.verification import verify as check

    done = check(folder, ledger=None if ledger is None else as_ledger(ledger))
    manifest = read_manifest(folder)
    data = {"verified": True, "manifest_sha256": manifest.sha256, "stamp": manifest.stamp, "checks": list(done)}
    lines = [*(f"ok  {sentence}" for sentence in done), f"{folder} holds what it says; manifest {manifest.sha256}"]
    answer(data, "\n".join(lines), as_json=as_json)


@app.command()
def generators(as_json: Json = False) -> None:
    """List the generators, what makes each private, and its options."""
    from tabveil.errors import MissingDependencyError
    from tabveil.generators import generators as registry

    found = []
    for name in registry.names():
        try:
            kind: Any = registry.get(name)
            own = [o for o in kind.option_names() if o not in ("epsilon", "delta", "progress", "random_state")]
            found.append({"name": name, "guarantee": kind.guarantee, "options": own, "needs": None})
        except MissingDependencyError as error:
            found.append({"name": name, "guarantee": "", "options": [], "needs": str(error)})
    rows = [(g["name"], ", ".join(g["options"]), g["needs"] or g["guarantee"]) for g in found]
    answer({"generators": found}, columns([("generator", "options", "what makes it private"), *rows]), as_json=as_json)


def main() -> None:
    """Entry point of `tabveil`."""
    code = run(app)
    if code == INTERRUPTED_EXIT_CODE:  # else Python may end by the signal once more, where it hit a library's import
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _cli_output.ignore_interrupts()  # what was asked for is done: that the libraries tidy up is no reason to fail
    sys.exit(code)
