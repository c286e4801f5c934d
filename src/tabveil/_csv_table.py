"""CSV and its kin: text in, text out of memory's way.

Privacy: every cell stays the text it is, wherever it stands, so no row decides how another is read (trap A2).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

from tabveil._table import (
    CODECS,
    DELIMITERS,
    Table,
    attempt,
    dictionary_of,
    file_format,
    file_problem,
    file_stamp,
    guarded,
)
from tabveil.errors import DataError, UsageError

_MAX_RECORD = 2 * 2**20
"""Bytes of a file parsed at a time, and so about the longest row it may hold."""

_RAGGED = re.compile(r"CSV parse error: (?:Row #(\d+): )?Expected \d+ columns, got \d+")
"""How pyarrow begins to say that a row has the wrong number of cells; the row itself follows."""

_NOT_UTF8 = "is not UTF-8 text: save it as UTF-8 (in a spreadsheet: CSV UTF-8)"


class CsvTable(Table):
    """A delimited text file, compressed or not, with a header line. Arguments and errors as in `open_table`."""

    repeatable = True

    def __init__(self, path: Path, *, delimiter: str | None, chunk_rows: int) -> None:
        kind, compression = file_format(path)
        self._path, self._codec = path, CODECS.get(compression)
        self._delimiter = delimiter or DELIMITERS[kind]
        if len(self._delimiter) != 1 or not self._delimiter.isascii() or self._delimiter in '"\r\n':
            raise UsageError("'delimiter' must be one ASCII character, and no quote or line end.")
        cut = "is cut short, or not compressed as its name says" if compression else "cannot be read"
        self._problem = file_problem(path, otherwise=cut)
        if path.is_dir():
            raise DataError(self._problem(IsADirectoryError()))
        header = attempt(self._read_header, self._problem)
        self._offset = len(header)
        names = self._names(header)
        if delimiter is None and len(names) == 1:
            self._suspect(names[0])
        super().__init__(names, chunk_rows=chunk_rows)

    def _open(self) -> Any:
        return pa.input_stream(str(self._path), compression=self._codec)

    def _read_header(self) -> bytes:
        """The bytes up to the end of the header record."""
        text: bytes = b""
        size = 2**12
        with self._open() as stream:
            while True:
                block = stream.read(size)
                text, size = text + block, 2 * size
                end = _record_end(text, final=not block)
                if end is not None:
                    return text[:end]
                if len(text) > _MAX_RECORD:
                    raise DataError(self._too_long())

    def _too_long(self) -> str:
        return (
            f"The file {str(self._path)!r} holds a row longer than {_MAX_RECORD // 2**20} MiB: a quote may never be "
            "closed, or it is no text table."
        )

    def _names(self, header: bytes) -> list[str]:
        try:
            text = header.decode("utf-8-sig")
            lines = io.StringIO(text.lstrip("\r\n"), newline="")
            names = next(csv.reader(lines, delimiter=self._delimiter, strict=True), [])
            problem = "is empty: it has not even a header line"
        except UnicodeDecodeError:
            names, problem = [], _NOT_UTF8
        except csv.Error:
            names, problem = [], "has a header line with a misplaced quote"
        if "\0" in "".join(names):
            names, problem = [], _NOT_UTF8
        if not names:
            raise DataError(f"The file {str(self._path)!r} {problem}.")
        return names

    def _suspect(self, name: str) -> None:
        """One column whose name holds another delimiter: almost surely not meant."""
        for other, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (",", "commas")):
            if other in name and other != self._delimiter:
                raise DataError(
                    f"The file {str(self._path)!r} has one column, and {word} in its header: it seems to use another "
                    f"delimiter. Say delimiter={other!r}, or delimiter={self._delimiter!r} if it is meant so."
                )

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        frames = (batch.to_pandas() for batch in self._batches(columns))
        return guarded(frames, self._row_problem)

    def _read_compact(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        frames = (_compact(batch) for batch in self._batches(columns))
        return guarded(frames, self._row_problem)

    def stamp(self) -> object:
        """Of the file."""
        return file_stamp(self._path)

    def _batches(self, columns: list[str]) -> Generator[pa.RecordBatch, None, None]:
        # No Python object takes part in the reading (no file object, no row handler): pyarrow calls it from a thread of
        # its own, which dead-locks where the reader is dropped while that thread waits for the interpreter.
        stream = self._open()
        stream.read(self._offset)
        if not stream.read(1):
            return
        # From the header's line end on, an empty line to pyarrow: it takes a byte order mark off whatever comes first,
        # and a cell must not be read otherwise for standing in the first row.
        stream = self._open()
        stream.read(self._offset - 1)
        last = self.columns[-1]  # always read: an open quote shows there
        tail = ""
        for batch in pacsv.open_csv(stream, **self._options([*columns, *({last} - set(columns))])):
            for start in range(0, batch.num_rows, self.chunk_rows):
                yield batch.slice(start, self.chunk_rows).select(columns)
            tail = batch.column(last)[-1].as_py() if batch.num_rows else tail
        if ("\n" in tail or "\r" in tail) and not self._ends_quoted():
            raise DataError(f"The file {str(self._path)!r} opens a quote in its last column that is never closed.")

    def _options(self, columns: list[str]) -> dict[str, Any]:
        return {
            # one thread: errors then know the row's number
            "read_options": pacsv.ReadOptions(
                column_names=list(self.columns), block_size=_MAX_RECORD, use_threads=False
            ),
            "parse_options": pacsv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
            "convert_options": pacsv.ConvertOptions(
                column_types={name: pa.string() for name in self.columns},
                strings_can_be_null=False,
                include_columns=columns,
            ),
        }

    def _ends_quoted(self) -> bool:
        """Whether the file's last cell is closed by a quote; pyarrow takes an open one as it is, and says nothing.

        Quotes inside a quoted cell are doubled, so an odd number of them at the end closes it.
        """
        end, stream = b"", self._open()
        while block := stream.read(2**20):
            end = (end + block)[-(2**20) :]
        end = end.rstrip(b"\r\n")
        return (len(end) - len(end.rstrip(b'"'))) % 2 == 1

    def _row_problem(self, error: Exception) -> str:
        ragged = _RAGGED.match(str(error))
        if ragged:
            where = f"row {ragged[1]} below the header (blank lines not counted)" if ragged[1] else "a row"
            return (
                f"The file {str(self._path)!r} has more or fewer cells in {where} than the {len(self.columns)} columns "
                "of its header: look for a missing quote or delimiter there."
            )
        if "straddling" in str(error):
            return self._too_long()
        if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
            return f"The file {str(self._path)!r} {_NOT_UTF8}."
        return self._problem(error)


def _compact(batch: pa.RecordBatch) -> pd.DataFrame:
    arrays = [dictionary_of(column) for column in batch.columns]
    return pa.Table.from_arrays(arrays, names=batch.schema.names).to_pandas()


def _record_end(text: bytes, *, final: bool) -> int | None:
    """Where the first record that is not blank ends, its line end included; None where `text` is too short to tell."""
    start = len(text) - len(text.lstrip(b"\r\n"))
    quotes, seen = 0, start
    for line_end in re.compile(rb"\r\n|\n|\r").finditer(text, start):
        quotes, seen = quotes + text.count(b'"', seen, line_end.start()), line_end.end()
        if quotes % 2 == 0:
            return None if seen == len(text) and not final else seen  # the \n of an \r\n may still come
    return len(text) if final else None
