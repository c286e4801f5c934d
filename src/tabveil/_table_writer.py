"""Tables out: CSV and Parquet, whole or not at all.

Privacy: writes rows that the caller may publish; its errors name columns and paths, never a value.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tabveil._atomic import atomic_file
from tabveil._table import CHUNK_ROWS, DELIMITERS, checked_names, file_format
from tabveil.errors import DataError, UsageError

_TIME_OF_DAY = re.compile(r"%-?[HIMSpfXcT]")


def write_table(
    frame: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    decimals: Mapping[str, int] | None = None,
    date_formats: Mapping[str, str] | None = None,
) -> None:
    """Write a table as .csv, .tsv (.gz too) or .parquet, whole or not at all.

    Args:
      frame: the rows; its index is not written.
      path: where to; a file that is there is replaced.
      decimals: digits after the point that a column of numbers is written with in text files.
      date_formats: strftime format of date columns in text files; one without a time of day makes a date in Parquet.

    In text files a missing cell is empty, truth values are `true` and `false`, dates ISO unless a format is given.

    Raises:
      DataError: a column has no name, shares it, or holds values that the format cannot.
      StorageError: the disk is full or the path cannot be written.
      UsageError: the name's suffix is none of the above.
    """
    write_batches([frame], path, decimals=decimals, date_formats=date_formats)


def write_batches(
    frames: Iterable[pd.DataFrame],
    path: str | os.PathLike[str],
    *,
    decimals: Mapping[str, int] | None = None,
    date_formats: Mapping[str, str] | None = None,
) -> None:
    """`write_table` for frames of the same columns, at least one, written one after the other as they come.

    Args:
      frames: the rows; in Parquet each is a row group, and the first says which types the columns have.
      path: as `write_table`, like the rest and what is raised.
      decimals: as there.
      date_formats: as there.
    """
    kind, compression = file_format(Path(path))
    if kind == ".parquet" and not compression:
        with atomic_file(path) as handle:
            _write_parquet(frames, handle, date_formats or {})
    elif kind in DELIMITERS and compression in ("", ".gz"):
        with atomic_file(path) as handle, _compressed(handle, compression) as out:
            for number, frame in enumerate(frames):
                lines = _csv_text(frame, decimals or {}, date_formats or {}, delimiter=DELIMITERS[kind])
                if number:
                    next(lines)  # the header
                out.writelines(lines)
    else:
        known = ".csv, .tsv, .csv.gz or .parquet"
        raise UsageError(f"The format of {os.fspath(path)!r} is not known by its name: use {known}.")


def _write_parquet(frames: Iterable[pd.DataFrame], handle: BinaryIO, date_formats: Mapping[str, str]) -> None:
    with contextlib.ExitStack() as closing:
        writer: Any = None
        for frame in frames:
            table = _arrow_table(frame, date_formats)
            writer = writer or closing.enter_context(pq.ParquetWriter(handle, table.schema))
            writer.write_table(table.cast(writer.schema))


def _arrow_table(frame: pd.DataFrame, date_formats: Mapping[str, str]) -> pa.Table:
    names = checked_names(frame.columns)
    arrays = [_arrow(frame[n], date_formats.get(n)) for n in names]
    # a text column without a text in this batch may have some in the next
    arrays = [a.cast(pa.string()) if pa.types.is_null(a.type) else a for a in arrays]
    return pa.table(arrays, names=list(names))


def _compressed(handle: BinaryIO, compression: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if not compression:
        return contextlib.nullcontext(handle)
    # no name and no time inside: the same rows give the same bytes
    return cast("contextlib.AbstractContextManager[BinaryIO]", gzip.GzipFile("", "wb", fileobj=handle, mtime=0))


def _csv_text(
    frame: pd.DataFrame, decimals: Mapping[str, int], date_formats: Mapping[str, str], *, delimiter: str
) -> Iterator[bytes]:
    """The header, then CHUNK_ROWS rows at a time, as UTF-8."""
    yield _encoded([checked_names(frame.columns)], delimiter)
    for start in range(0, len(frame), CHUNK_ROWS):
        part = frame.iloc[start : start + CHUNK_ROWS]
        cells = [_cells(part[n], digits=decimals.get(n), pattern=date_formats.get(n)) for n in frame.columns]
        yield _encoded(zip(*cells, strict=True), delimiter)


def _encoded(rows: Iterable[Sequence[Any]], delimiter: str) -> bytes:
    rows = list(rows)
    text = _joined(rows, delimiter, csv.QUOTE_MINIMAL)
    # Python before 3.13 leaves a lone carriage return unquoted; readers drop a byte order mark that a file begins with
    if "\r" in text or text.startswith("\ufeff"):
        text = _joined(rows, delimiter, csv.QUOTE_ALL)
    try:
        return text.encode()
    except UnicodeEncodeError:
        pass
    raise DataError("The table holds a text that cannot be written as UTF-8.")


def _joined(rows: Iterable[Sequence[Any]], delimiter: str, quoting: Any) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _cells(values: pd.Series, *, digits: int | None, pattern: str | None) -> list[Any]:
    """One column's cells as csv.writer should write them; None is an empty cell."""
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return _dates(values, pattern)
    if pd.api.types.is_bool_dtype(values.dtype):
        words: list[Any] = ["false", "true", None]
        return [words[i] for i in values.astype("Int8").fillna(2).to_numpy(dtype=np.int8).tolist()]
    if digits is not None and pd.api.types.is_numeric_dtype(values.dtype):
        numbers = np.round(values.to_numpy(dtype=np.float64, na_value=np.nan), digits) + 0.0  # no "-0.00"
        return [None if x != x else f"{x:.{digits}f}" for x in numbers.tolist()]
    return list(values.astype(object).where(values.notna().to_numpy(), None).tolist())


def _dates(values: pd.Series, pattern: str | None) -> list[Any]:
    stamps = pa.array(values.to_numpy().astype("datetime64[s]"))
    if pattern is None:
        midnight = bool((values.dropna() == values.dropna().dt.normalize()).all())
        pattern = "%Y-%m-%d" if midnight else "%Y-%m-%d %H:%M:%S"
    if "%f" in pattern:
        return list(values.dt.strftime(pattern).where(values.notna(), None).tolist())
    return list(pc.strftime(stamps, format=pattern).to_pylist())


def _arrow(values: pd.Series, pattern: str | None) -> pa.Array:
    try:
        array = pa.Array.from_pandas(values)
        if pattern is not None and not _TIME_OF_DAY.search(pattern) and pa.types.is_timestamp(array.type):
            array = array.cast(pa.timestamp("s")).cast(pa.date32())
        return array
    except (pa.ArrowException, UnicodeError, ValueError):
        pass
    raise DataError(f"Column {str(values.name)!r} mixes kinds of values that Parquet cannot hold in one column.")
