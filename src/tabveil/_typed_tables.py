"""Sources that say what type a column has: Parquet, Arrow, pandas and SQL databases.

Privacy: types come from what the source declares, never from its rows.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from tabveil._table import Table, attempt, dictionary_of, file_problem, file_stamp, guarded
from tabveil.errors import DataError, MissingDependencyError, UsageError

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")

_READABLE = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_date,
    pa.types.is_timestamp,
    pa.types.is_null,
)
_NULLABLE = {pa.bool_(): pd.BooleanDtype()} | {
    pa.type_for_alias(t.lower()): pd.api.types.pandas_dtype(t)
    for t in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
}


def _check_types(schema: pa.Schema) -> None:
    """Refuse columns that are no number, text, truth value or date."""
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not any(check(kind) for check in _READABLE):
            raise DataError(
                f"Column {field.name!r} is of type {kind}, which is no number, text, truth value or date: convert it, "
                "or leave it out."
            )


def _pandas(batch: pa.RecordBatch, *, chunk_rows: int, compact: bool) -> Iterator[pd.DataFrame]:
    """A record batch as frames of at most `chunk_rows` rows: text as object of str, whole numbers and truth values with
    room for missing cells, so that a column has one dtype in every chunk. Compact: text as Categorical.
    """
    for start in range(0, batch.num_rows, chunk_rows):
        part = batch.slice(start, chunk_rows)
        arrays = [_plain(column, compact=compact) for column in part.columns]
        table = pa.Table.from_arrays(arrays, names=part.schema.names)
        yield table.to_pandas(types_mapper=_NULLABLE.get)


def _plain(array: pa.Array, *, compact: bool) -> pa.Array:
    texts = dictionary_of(array) if compact else None
    if texts is not None:
        return texts
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_date(array.type):
        return array.cast(pa.timestamp("ms")).cast(pa.timestamp("s"))
    return array.cast(pa.float64()) if pa.types.is_decimal(array.type) else array


class ArrowTable(Table):
    """A pyarrow Table, as it is."""

    repeatable = True

    def __init__(self, table: pa.Table, *, chunk_rows: int) -> None:
        super().__init__(table.schema.names, chunk_rows=chunk_rows)
        _check_types(table.schema)
        self._table = table

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        return self._guarded(columns, compact=False)

    def _read_compact(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        return self._guarded(columns, compact=True)

    def _guarded(self, columns: list[str], *, compact: bool) -> Iterator[pd.DataFrame]:
        problem = "The pyarrow table holds cells that cannot be converted."
        return guarded(self._frames(columns, compact=compact), lambda _: problem)

    def _frames(self, columns: list[str], *, compact: bool) -> Generator[pd.DataFrame, None, None]:
        for batch in self._table.select(columns).to_batches(max_chunksize=self.chunk_rows):
            yield from _pandas(batch, chunk_rows=self.chunk_rows, compact=compact)


class ParquetTable(Table):
    """A Parquet file, read a row group's share at a time."""

    repeatable = True

    def __init__(self, path: Path, *, chunk_rows: int) -> None:
        self._path = path
        self._problem = file_problem(
            path, otherwise="is no readable Parquet file: it is damaged, cut short, or of another format"
        )
        if path.is_dir():
            raise DataError(self._problem(IsADirectoryError()))
        schema = attempt(lambda: pq.read_schema(path), self._problem)
        _check_types(schema)
        self._texts = [f.name for f in schema if pa.types.is_string(f.type)]
        # an unnamed pandas index is no column of the table
        super().__init__([n for n in schema.names if not _PANDAS_INDEX.fullmatch(n)], chunk_rows=chunk_rows)

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        return guarded(self._frames(columns, compact=False), self._problem)

    def _read_compact(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        return guarded(self._frames(columns, compact=True), self._problem)

    def stamp(self) -> object:
        """Of the file."""
        return file_stamp(self._path)

    def _frames(self, columns: list[str], *, compact: bool) -> Generator[pd.DataFrame, None, None]:
        texts = [n for n in columns if n in self._texts] if compact else None
        with pq.ParquetFile(self._path, pre_buffer=False, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=self.chunk_rows, columns=columns, use_threads=False):
                yield from _pandas(batch, chunk_rows=self.chunk_rows, compact=compact)


class FrameTable(Table):
    """A pandas DataFrame, as it is."""

    repeatable = True

    def __init__(self, frame: pd.DataFrame, *, chunk_rows: int) -> None:
        super().__init__(frame.columns, chunk_rows=chunk_rows)
        self._frame = frame

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        for start in range(0, len(self._frame), self.chunk_rows):
            # rows first, then columns: the second step copies, so nobody can write through a chunk into the frame
            yield self._frame.iloc[start : start + self.chunk_rows][columns].reset_index(drop=True)


class SqlTable(Table):
    """A table or view of a database, read through a server-side cursor."""

    def __init__(self, url: str | sa.URL, *, table: str | None, chunk_rows: int) -> None:
        if not table:
            raise UsageError("A database URL needs 'table', the name of the table in it.")
        self._engine = _engine(url)
        where, names = attempt(lambda: self._describe(table), self._problem)
        super().__init__(names, chunk_rows=chunk_rows)
        self._select_from = sa.table(where[1], *(sa.column(n) for n in names), schema=where[0])

    def _problem(self, error: Exception) -> str:
        kind = self._engine.dialect.name
        return f"The {kind} database cannot be read: is it running, and are its address, user and password right?"

    def _describe(self, table: str) -> tuple[tuple[str | None, str], list[str]]:
        """Where the table is (schema, name), and its column names."""
        inspector = sa.inspect(self._engine)
        schema, _, name = table.rpartition(".")
        for where in ((None, table), (schema or None, name)):
            if inspector.has_table(where[1], schema=where[0]):
                return where, [c["name"] for c in inspector.get_columns(where[1], schema=where[0])]
        raise DataError(f"There is no table {table!r} in the {self._engine.dialect.name} database.")

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        return guarded(self._frames(columns), self._problem)

    def _frames(self, columns: list[str]) -> Generator[pd.DataFrame, None, None]:
        query = sa.select(*(self._select_from.c[n] for n in columns))
        with self._engine.connect().execution_options(stream_results=True, yield_per=self.chunk_rows) as connection:
            for rows in connection.execute(query).partitions():
                # object: pandas would otherwise guess a type anew in every chunk
                yield pd.DataFrame([tuple(row) for row in rows], columns=columns, dtype=object)


def _engine(url: str | sa.URL) -> sa.Engine:
    """An engine for `url`, which no message quotes: it may hold a password."""
    try:
        parsed = sa.make_url(url)
        if parsed.drivername == "postgresql":  # SQLAlchemy's own choice of driver changed between 2.0 and 2.1
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(parsed, poolclass=sa.pool.NullPool)
    except ModuleNotFoundError as error:
        driver, advice = error.name, "pip install 'tabveil[postgres]' for PostgreSQL, or the driver's package"
    except (sa.exc.ArgumentError, ValueError):
        driver, advice = None, "dialect://user:password@host/database, such as sqlite:///folder/file.db"
    else:
        _check_sqlite_file(parsed)
        return engine
    if driver is not None:
        raise MissingDependencyError(f"This database needs {driver}: {advice}.")
    raise UsageError(f"The database URL cannot be understood, or names an unknown kind of database: write {advice}.")


def _check_sqlite_file(url: sa.URL) -> None:
    """SQLite would create the file that is not there."""
    path = url.database or ":memory:"
    if url.get_backend_name() == "sqlite" and not path.startswith((":memory:", "file:")) and not Path(path).is_file():
        raise DataError(f"The SQLite file {path!r} does not exist.")
