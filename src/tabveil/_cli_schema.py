"""`tabveil schema`: draft, approve, show, check.

Privacy: `draft` reads rows to propose a schema and says so; `check` with --values reads them to compare, and neither
prints a cell. The others see the schema file only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tabveil._cli_output import answer, columns, new_app, progress, tell

if TYPE_CHECKING:
    from tabveil.columns import Column
    from tabveil.schema import Schema

app = new_app("Draft, approve, show and check schemas: what is publicly known of a table.")

SchemaFile = Annotated[Path, typer.Argument(metavar="SCHEMA", help="A schema file (YAML).", show_default=False)]
TableSource = Annotated[
    str,
    typer.Argument(
        metavar="TABLE", help="A .csv, .csv.gz, .tsv or .parquet file, or a database URL.", show_default=False
    ),
]
TableName = Annotated[
    str | None, typer.Option("--table", metavar="NAME", help="The table in the database, with a URL.")
]
Delimiter = Annotated[str | None, typer.Option(help="One character between the cells of a text file.")]
Json = Annotated[bool, typer.Option("--json", help="Answer with JSON on stdout.")]

WARNING = (
    "Warning: this draft holds bounds and categories READ FROM THE ROWS: treat it like the table itself. Replace them "
    "by public knowledge, then approve it: tabveil schema approve {file} --by 'YOUR NAME'."
)


@app.command()
def draft(
    table: TableSource,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write the draft (YAML).")],
    table_name: TableName = None,
    delimiter: Delimiter = None,
    name: Annotated[str | None, typer.Option(help="What to call the table; by default its file's name.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Propose a schema by looking at the rows. A private fit refuses it until a person has approved it."""
    from tabveil.errors import UsageError
    from tabveil.schema import Schema
    from tabveil.tables import open_table

    if out.exists() and not force:
        raise UsageError(f"{str(out)!r} is there already: name another file, or give --force to replace it.")
    source = open_table(table, table=table_name, delimiter=delimiter)
    with progress() as show:
        if show is not None:
            show("looking at the rows", 0.0)
        schema = Schema.draft(source, name=name or table_name or Path(table).name.partition(".")[0] or "table")
    schema.to_yaml(out)
    tell(WARNING.format(file=out))
    data = {"file": str(out), "name": schema.name, "columns": len(schema.columns), "draft": True}
    answer(data, f"Wrote a draft of {len(schema.columns)} columns to {out}.", as_json=as_json)


@app.command()
def approve(
    file: SchemaFile,
    by: Annotated[str, typer.Option(metavar="NAME", help="Who answers for the schema; recorded in the file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Another file to write.")] = None,
    as_json: Json = False,
) -> None:
    """Turn a draft, whose bounds and categories a person has checked, into a schema."""
    from tabveil.schema import Schema

    schema = Schema.from_yaml(file).approve(by=by)
    schema.to_yaml(out or file)
    data = {"file": str(out or file), "approved_by": schema.approved_by, "approved_on": schema.approved_on}
    answer(data | {"digest": schema.digest}, f"{out or file} is approved by {by}, who answers for it.", as_json=as_json)


@app.command()
def show(file: SchemaFile, as_json: Json = False) -> None:
    """Show a schema: who is protected, and what each column may hold."""
    from tabveil.schema import Schema

    schema = Schema.from_yaml(file)
    lines = [
        f"{schema.name}{' (DRAFT)' * schema.draft}: {len(schema.columns)} columns; protects each {schema.unit}",
        f"approved by {schema.approved_by} on {schema.approved_on}" if schema.approved_by else "",
        f"public row count {schema.public_rows}" if schema.public_rows else "the row count is private",
        f"{schema.learn_share:.0%} of each fit's budget buys what is learned" if schema.unresolved else "",
        columns([("column", "kind", "values", "missing", "invalid", "source"), *map(_row, schema.columns)]),
        *(f"every row obeys: {c}" for c in schema.constraints),
    ]
    answer(schema.to_dict(), "\n".join(filter(None, lines)), as_json=as_json)


def _row(column: Column) -> tuple[str, ...]:
    from tabveil.columns import Discrete, Grid

    if column.unknown:
        given = [f"{f} {getattr(column, f)}" for f in column.learnable if f not in column.unknown]
        values = f"{', '.join(column.unknown)} learned under the budget" + "".join(f", {g}" for g in given)
    elif isinstance(column, Discrete):
        values = f"{len(column.labels)} categories"
    elif isinstance(column, Grid):
        values = f"{getattr(column, 'low', '')} to {getattr(column, 'high', '')}"
    else:
        values = "made up"
    missing = ", ".join(repr(m) for m in column.missing) or "never"
    source = "learned by each fit" if column.unknown else column.source
    return column.name, column.kind, values, missing, column.invalid, source


@app.command()
def check(
    file: SchemaFile,
    table: Annotated[
        str | None, typer.Argument(metavar="[TABLE]", help="A table to compare with.", show_default=False)
    ] = None,
    table_name: TableName = None,
    delimiter: Delimiter = None,
    values: Annotated[bool, typer.Option("--values", help="Read the rows too: the check `synthesize` makes.")] = False,
    as_json: Json = False,
) -> None:
    """Check a schema file and, where a TABLE is given, whether the table fits it."""
    from tabveil.schema import Schema

    schema = Schema.from_yaml(file)
    done = ["the schema is valid"]
    if table is not None:
        done += _compare(schema, table, (table_name, delimiter), values=values)
    if schema.draft:
        tell("Warning: the schema is a draft; a private fit refuses it.")
    data = {"file": str(file), "draft": schema.draft, "digest": schema.digest, "checks": done}
    answer(data, f"{file}: {', '.join(done)}.", as_json=as_json)


def _compare(schema: Schema, table: str, how: tuple[str | None, str | None], *, values: bool) -> list[str]:
    from tabveil.pipeline import check_values
    from tabveil.tables import open_table

    source = open_table(table, table=how[0], delimiter=how[1])
    schema.check_columns(source.columns)
    if not values:
        return ["the table has its columns"]
    with progress() as show_progress:
        check_values(source, schema, progress=show_progress)
    return ["the table has its columns", "no value is refused"]
