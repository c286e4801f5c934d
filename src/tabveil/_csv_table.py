"""CSV and its kin: text in, text out of memory's way.

Privacy: every cell stays the text it is, so no row decides how another is read (trap A2).
"""

from __future__ import annotations

import csv
import io
import re
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

from tabveil._table import CODECS, DELIMITERS, Table, attempt, file_format, file_problem, guarded
from tabveil.errors import DataError, UsageError

_MAX_RECORD = 8 * 2**20
"""Bytes of a file parsed at a time, and so about the longest row it may hold."""

_NOT_UTF8 = "is not UTF-8 text: save it as UTF-8 (in a spreadsheet: CSV UTF-8)"


class CsvTable(Table):
    """A delimited text file, compressed or not, with a header line. Arguments and errors as in `open_table`."""

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
        ragged: list[int | None] = []

        def note(row: Any) -> str:
            ragged.append(row.number)
            return "error"

        def problem(error: Exception) -> str:
            return self._row_problem(error, ragged)

        return guarded(self._frames(columns, on_ragged=note), problem)

    def _frames(self, columns: list[str], *, on_ragged: Callable[[Any], str]) -> Generator[pd.DataFrame, None, None]:
        end = uuid.uuid4().hex.replace(self._delimiter, "")
        last_row = self._delimiter.join([end] * len(self.columns)).encode()
        with self._open() as stream:
            stream.read(self._offset)
            reader = pacsv.open_csv(
                _Ended(stream, b"\n" + last_row + b"\n"),
                # one thread: the row handler learns row numbers, and memory stays at a few blocks
                read_options=pacsv.ReadOptions(
                    column_names=list(self.columns), block_size=_MAX_RECORD, encoding="utf8", use_threads=False
                ),
                parse_options=pacsv.ParseOptions(
                    delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=on_ragged
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types={name: pa.string() for name in self.columns},
                    strings_can_be_null=False,
                    include_columns=columns,
                ),
            )
            ended = False
            for batch in reader:
                ended = ended or (batch.num_rows > 0 and batch.column(0)[-1].as_py() == end)
                yield from _slices(batch.slice(0, batch.num_rows - ended), chunk_rows=self.chunk_rows)
        if not ended:
            raise DataError(f"The file {str(self._path)!r} opens a quote in its last column that is never closed.")

    def _row_problem(self, error: Exception, ragged: list[int | None]) -> str:
        if ragged:
            where = "a row" if ragged[0] is None else f"row {ragged[0]} below the header (blank lines not counted)"
            return (
                f"The file {str(self._path)!r} has more or fewer cells in {where} than the {len(self.columns)} columns "
                "of its header: look for a missing quote or delimiter there."
            )
        if "straddling" in str(error):
            return self._too_long()
        if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
            return f"The file {str(self._path)!r} {_NOT_UTF8}."
        return self._problem(error)


class _Ended(io.RawIOBase):
    """A stream with a known last row put after it: where the parser does not find that row, an open quote ate it.

    pyarrow takes the rest of a file whose quote is never closed for one cell, and says nothing.
    """

    def __init__(self, stream: Any, last: bytes) -> None:
        super().__init__()
        self._stream, self._last = stream, last

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block: bytes = self._stream.read(size)
        if not block:
            block, self._last = self._last, b""
        return block


def _slices(batch: pa.RecordBatch, *, chunk_rows: int) -> Iterator[pd.DataFrame]:
    for start in range(0, batch.num_rows, chunk_rows):
        yield batch.slice(start, chunk_rows).to_pandas()


def _record_end(text: bytes, *, final: bool) -> int | None:
    """Where the first record that is not blank ends, its line end included; None where `text` is too short to tell."""
    start = len(text) - len(text.lstrip(b"\r\n"))
    quotes, seen = 0, start
    for line_end in re.compile(rb"\r\n|\n|\r").finditer(text, start):
        quotes, seen = quotes + text.count(b'"', seen, line_end.start()), line_end.end()
        if quotes % 2 == 0:
            return None if seen == len(text) and not final else seen  # the \n of an \r\n may still come
    return len(text) if final else None
