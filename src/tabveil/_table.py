"""What a table is, and how its readers' errors are kept from quoting rows.

Privacy: the libraries beneath quote rows in their errors, so none of their messages is passed on, nor chained: ours
name the file, the row's number and the rule.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from tabveil.errors import DataError

CHUNK_ROWS = 65_536
"""Most rows in one chunk, unless `open_table` is told otherwise."""

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
"""Text formats by suffix, and what stands between their cells."""

CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Compressions that are read, by suffix."""

_READ_ERRORS = (pa.ArrowException, OSError, ValueError, sa.exc.SQLAlchemyError)
_T = TypeVar("_T")


class Table(ABC):
    """Rows to be read in chunks.

    Attributes:
      columns: column names in the table's order, known without reading a row; non-empty texts, each once.
      chunk_rows: most rows in one chunk.

    Privacy: holds where the rows are, not the rows; its repr shows neither.
    """

    columns: tuple[str, ...]
    chunk_rows: int
    repeatable: ClassVar[bool] = False
    """Whether every reading gives the same rows in one order unless `stamp` changes; a database promises neither."""

    def __init__(self, columns: Iterable[Any], *, chunk_rows: int) -> None:
        self.columns = checked_names(columns)
        self.chunk_rows = chunk_rows

    def __repr__(self) -> str:
        return f"{type(self).__name__.strip('_')}Table({len(self.columns)} columns)"

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """The rows, at most `chunk_rows` at a time, from the start at every call.

        Args:
          columns: which columns, in which order; None for all. An empty list gives frames with rows and no columns.

        Returns:
          At least one DataFrame (an empty one where the table has no rows), index 0, 1, ... in each, free to be
          changed. Cells of CSV are text (object of str), "" where empty.

        Raises:
          DataError: a column is not in the table (at once); the table cannot be read (when its rows are reached).
        """
        wanted = list(self.columns if columns is None else columns)
        for name in wanted:
            if name not in self.columns:
                raise DataError(f"The table has no column {name!r}.")
        return self._chunks(wanted, self._read)

    def compact(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """As `chunks`, but text may come as pandas Categorical, each text once: less work for whoever maps texts.

        Categories may list texts that no row of the chunk holds.
        """
        for name in columns:
            if name not in self.columns:
                raise DataError(f"The table has no column {name!r}.")
        return self._chunks(list(columns), self._read_compact)

    def stamp(self) -> object:
        """What changes when the source is written to, as far as can be told without reading it."""
        return None

    def _chunks(self, wanted: list[str], read: Callable[[list[str]], Iterator[pd.DataFrame]]) -> Iterator[pd.DataFrame]:
        empty = True
        for frame in read(wanted or [self.columns[0]]):
            empty = False
            yield frame if list(frame.columns) == wanted else frame[wanted]
        if empty:
            yield pd.DataFrame({name: pd.Series(dtype=object) for name in wanted}, index=pd.RangeIndex(0))

    @abstractmethod
    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        """Frames of the given columns, at least one, in any order of columns."""

    def _read_compact(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        return self._read(columns)


def file_format(path: Path) -> tuple[str, str]:
    """The suffix that names the format, and the one that names the compression or ""."""
    suffixes = [s.lower() for s in path.suffixes[-2:]]
    compression = suffixes.pop() if suffixes and suffixes[-1] in CODECS else ""
    kind = suffixes[-1] if suffixes else ""
    return (".parquet" if kind == ".pq" else kind), compression


def checked_names(names: Iterable[Any]) -> tuple[str, ...]:
    """Column names, checked. Messages count positions: without a header line the names would be cells."""
    names = tuple(names)
    if not names:
        raise DataError("The table has no columns.")
    for position, name in enumerate(names, start=1):
        if not isinstance(name, str) or not name:
            raise DataError(
                f"Column number {position} of the table has no name, or one that is no text (an index without a "
                "heading?): give it a name, or leave it out."
            )
    times = Counter(names)
    repeated = [str(i) for i, name in enumerate(names, start=1) if times[name] > 1]
    if repeated:
        raise DataError(f"Columns number {', '.join(repeated[:10])} of the table share a name: give each its own.")
    return names


def guarded(
    frames: Generator[pd.DataFrame, None, None], problem: Callable[[Exception], str]
) -> Generator[pd.DataFrame, None, None]:
    """`frames`, the reader's errors replaced by a sentence of ours, raised outside `except` so that none is chained."""
    with contextlib.closing(frames):
        while True:
            try:
                frame = next(frames, None)
            except _READ_ERRORS as error:
                sentence = problem(error)
                break
            if frame is None:
                return
            yield frame
    raise DataError(sentence)


def attempt(action: Callable[[], _T], problem: Callable[[Exception], str]) -> _T:
    """What `action` returns, its errors replaced as in `guarded`."""
    try:
        return action()
    except _READ_ERRORS as error:
        sentence = problem(error)
    raise DataError(sentence)


def file_stamp(path: Path) -> object:
    """What changes when a file is written to; None where it cannot be looked at."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return None


def dictionary_of(array: pa.Array) -> pa.Array | None:
    """A text array as a dictionary array with no more entries than rows, none twice; None where it holds no text."""
    if pa.types.is_dictionary(array.type):
        texts = array.dictionary
        if not _is_text(texts.type):
            return None
        if len(texts) <= len(array) and not texts.null_count and len(texts.unique()) == len(texts):
            return array
        array = array.dictionary_decode()
    return array.dictionary_encode() if _is_text(array.type) else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def file_problem(path: Path, *, otherwise: str) -> Callable[[Exception], str]:
    """The sentence for an error met while reading `path`."""

    def problem(error: Exception) -> str:
        reasons: dict[type[Exception], str] = {
            FileNotFoundError: "does not exist",
            IsADirectoryError: "is a folder, not a file",
            PermissionError: "may not be read: permission is denied",
        }
        return f"The file {str(path)!r} {reasons.get(type(error), otherwise)}."

    return problem
