"""Tables in and out: CSV, Parquet, SQL, pandas and Arrow. Only this file and its helpers know file formats
(`_csv_table`, `_typed_tables`, `_table_writer`).

A table is read in chunks of bounded size, as often as asked, and only the columns asked for. CSV cells are read as the
text they are: types come from the schema, never from the rows (trap A2). The other sources keep the types they declare.

Privacy: reads private rows and hands them on; it keeps none, and learns nothing from them. Errors never quote a row.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from tabveil._atomic import atomic_file, sync_folder, write_bytes, write_text
from tabveil._csv_table import CsvTable
from tabveil._table import CHUNK_ROWS, DELIMITERS, Table, file_format
from tabveil._table_writer import write_batches, write_table
from tabveil._typed_tables import ArrowTable, FrameTable, ParquetTable, SqlTable
from tabveil.errors import UsageError

__all__ = [
    "CHUNK_ROWS",
    "Table",
    "atomic_file",
    "open_table",
    "sync_folder",
    "write_batches",
    "write_bytes",
    "write_table",
    "write_text",
]


def open_table(
    source: Any, *, table: str | None = None, delimiter: str | None = None, chunk_rows: int = CHUNK_ROWS
) -> Table:
    """Open a table without reading its rows.

    Args:
      source: the path of a .csv, .tsv or .parquet file (.csv.gz, .bz2, .zst too), an SQLAlchemy URL, a pandas
        DataFrame, a pyarrow Table, or a Table, which is returned as it is. Frames are not copied and never changed.
      table: the table's name in the database, or "schema.name"; with a URL only.
      delimiter: one character between the cells of a text file; by default a comma for .csv, a tab for .tsv.
      chunk_rows: most rows in one chunk, at least 1.

    Raises:
      DataError: the file or table is not there or cannot be read, or its column names are missing or repeated.
      UsageError: nothing that can be opened, or options that do not fit it.
      MissingDependencyError: the database needs a driver that is not installed.
    """
    if isinstance(source, Table):
        return source
    if not isinstance(chunk_rows, int) or chunk_rows < 1:
        raise UsageError("'chunk_rows' must be a whole number, at least 1.")
    if isinstance(source, sa.URL) or (isinstance(source, str) and "://" in source):
        return SqlTable(source, table=table, chunk_rows=chunk_rows)
    if table is not None:
        raise UsageError("'table' names a table of a database: give it together with a database URL.")
    if isinstance(source, pd.DataFrame):
        return FrameTable(source, chunk_rows=chunk_rows)
    if isinstance(source, pa.Table):
        return ArrowTable(source, chunk_rows=chunk_rows)
    if isinstance(source, str | os.PathLike):
        return _open_file(Path(source), delimiter=delimiter, chunk_rows=chunk_rows)
    raise UsageError(
        f"A table cannot be opened from an object of type {type(source).__name__}: give a path, a database URL, a "
        "pandas DataFrame or a pyarrow Table."
    )


def _open_file(path: Path, *, delimiter: str | None, chunk_rows: int) -> Table:
    kind, _ = file_format(path)
    if kind == ".parquet":
        return ParquetTable(path, chunk_rows=chunk_rows)
    if kind not in DELIMITERS and delimiter is None:
        raise UsageError(f"The format of {str(path)!r} is not known by its name: use .csv, .tsv, .csv.gz or .parquet.")
    return CsvTable(path, delimiter=delimiter, chunk_rows=chunk_rows)
