"""Tables: every source read in bounded memory as it is, every failure one sentence without a cell of the table."""

from __future__ import annotations

import datetime as dt
import decimal
import errno
import gzip
import itertools
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from tabveil import _atomic, _csv_table
from tabveil.errors import DataError, MissingDependencyError, StorageError, UsageError
from tabveil.tables import atomic_file, open_table, write_batches, write_bytes, write_table, write_text

SECRET = "SENTINEL-4711"


def rows(source, columns=None, **options) -> dict[str, list]:
    """All chunks of a table in one dict of lists."""
    return pd.concat(list(open_table(source, **options).chunks(columns)), ignore_index=True).to_dict("list")


def put(folder: Path, data: bytes | str, name: str = "t.csv") -> Path:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder / name


def refused(error, action, says="") -> str:
    """The one sentence of an error, after a look for the secret in everything a log could print of it."""
    with pytest.raises(error, match=says) as caught:
        action()
    message, chain = str(caught.value), caught.value
    while chain is not None:
        assert SECRET not in "".join(map(str, chain.args))
        chain = chain.__cause__ or chain.__context__
    shown = [line for line in traceback.format_exception(caught.value) if not line.lstrip().startswith("File ")]
    assert SECRET not in "".join(shown)
    assert "\n" not in message
    return message


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, which finds the package and this folder."""
    places = [Path(_atomic.__file__).parent.parent, Path(__file__).parent]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


# ---------------------------------------------------------------------------------------------------------------- text

READABLE = [
    (b"a,b\n1,2\n,NA\nnull,NaN\n", {"a": ["1", "", "null"], "b": ["2", "NA", "NaN"]}),  # nothing is inferred
    (b"a,b\n007,1e5\nTrue,2020-01-01\n", {"a": ["007", "True"], "b": ["1e5", "2020-01-01"]}),
    (b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4", {"a": ["1", "3"], "b": ["2", "4"]}),
    (b"\n\na,b\n1,2\n", {"a": ["1"], "b": ["2"]}),
    (b"a,b\r1,2\r3,4\r", {"a": ["1", "3"], "b": ["2", "4"]}),
    (b'"a\nb","c""d"\n"x\ny","p,q"\n', {"a\nb": ["x\ny"], 'c"d': ["p,q"]}),
    ("blank name,😀,#,'\n ü , x,,5\n".encode(), {"blank name": [" ü "], "😀": [" x"], "#": [""], "'": ["5"]}),
    (b'a,b\n1,5" pipe\n2,x\n', {"a": ["1", "2"], "b": ['5" pipe', "x"]}),
    (b'a,b\n1,"2\n3"', {"a": ["1"], "b": ["2\n3"]}),
    (b'a\n1\n\n""\n2\n', {"a": ["1", "", "2"]}),  # a blank line is no row, an empty cell is written ""
    (b"a,b", {"a": [], "b": []}),
    (b"a,b\n\n\n", {"a": [], "b": []}),
    (b"a,b\n1,\x00\n", {"a": ["1"], "b": ["\x00"]}),
]


@pytest.mark.parametrize(("data", "expected"), READABLE)
def test_csv_is_read_as_the_text_it_is(data, expected, tmp_path):
    table = open_table(put(tmp_path, data))
    assert table.columns == tuple(expected)
    assert rows(table) == expected
    assert {str(d) for chunk in table.chunks() for d in chunk.dtypes} == {"object"}


MARKED = {
    "\ufeffx,1": ["\ufeffx", "1"],
    "\ufeff\ufeff,1": ["\ufeff\ufeff", "1"],
    '"\ufeffx",1': ["\ufeffx", "1"],
    '\ufeff"x",1': ['\ufeff"x"', "1"],
    "\ufeff,\ufeff": ["\ufeff", "\ufeff"],
}


def test_a_byte_order_mark_is_taken_off_the_file_and_off_no_cell():
    """Were it taken off the first cell, the row above would decide how the second is read."""
    ways = itertools.product(MARKED, ("\n", "\r\n", "\r"), ("", "\ufeff"), ([], ["y,2"], ["", "y,2"]), (1, 9))
    with tempfile.TemporaryDirectory() as folder:
        for cells, line_end, mark, above, chunk_rows in ways:
            path = put(Path(folder), line_end.join([f"{mark}a,b", *above, cells, ""]))
            read = rows(path, chunk_rows=chunk_rows)
            assert list(read) == ["a", "b"]
            assert [column[-1] for column in read.values()] == MARKED[cells]


UNREADABLE = [
    (b"", "is empty"),
    (b"\n\r\n", "is empty"),
    (f"a,b\n1,2\n\n{SECRET}\n".encode(), "cells in row 2 below the header"),
    (f"a,b\n1,2\n3,{SECRET},4\n".encode(), "than the 2 columns of its header"),
    (f'a,b\n1,2\n"3,{SECRET}\n5,6\n'.encode(), "cells in row 2"),
    (f'a,b\n1,2\n3,"{SECRET}\n5,6\n7,8\n'.encode(), "never closed"),
    (f"a,b\n1,{SECRET}\xff\n".encode("latin-1"), "not UTF-8"),
    (f"{SECRET},\xff\n1,2\n".encode("latin-1"), "not UTF-8"),
    (f"a,b\n1,{SECRET}\n".encode("utf-16"), "not UTF-8"),
    (f"a,b\n1,{SECRET}\n".encode("utf-16-le"), "not UTF-8"),
    (f"{SECRET},{SECRET}\n1,2\n".encode(), "Columns number 1, 2 of the table share a name"),
    (f",{SECRET}\n1,2\n".encode(), "Column number 1 of the table has no name"),
    (f'"a"{SECRET},b\n1,2\n'.encode(), "a misplaced quote"),
    (b"a;b\n1;2\n", "Say delimiter=';'"),
    (b"a\tb\n1\t2\n", "Say delimiter='.t'"),
]


@pytest.mark.parametrize(("data", "says"), UNREADABLE)
def test_csv_that_cannot_be_read_is_one_sentence_without_a_cell(data, says, tmp_path):
    refused(DataError, lambda: rows(put(tmp_path, data)), says)


def test_an_open_quote_is_found_even_where_its_column_is_not_asked_for(tmp_path):
    path = put(tmp_path, 'a,b\n1,2\n3,"4\n5,6\n')
    refused(DataError, lambda: rows(path, ["a"]), "never closed")


@pytest.mark.parametrize("delimiter", [";", "\t", "|", "a", "-"])
def test_the_delimiter_can_be_said(delimiter, tmp_path):
    path = put(tmp_path, f"x{delimiter}y\n1{delimiter}2\n")
    assert rows(path, delimiter=delimiter) == {"x": ["1"], "y": ["2"]}
    assert rows(put(tmp_path, "x;y\n1;2\n"), delimiter=",") == {"x;y": ["1;2"]}


def test_the_suffix_says_delimiter_and_compression(tmp_path):
    assert rows(put(tmp_path, "a\tb\n1\t2\n", "T.TSV")) == {"a": ["1"], "b": ["2"]}
    assert rows(put(tmp_path, gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n"), "t.csv.gz")) == {
        "a": ["1", "3"],
        "b": ["2", "4"],
    }
    path = tmp_path / "t.csv.zst"
    with pa.output_stream(str(path), compression="zstd") as out:
        out.write(b"a,b\n1,2\n")
    assert rows(path) == {"a": ["1"], "b": ["2"]}


@pytest.mark.parametrize(
    "data", [gzip.compress(b"a,b\n" + f"{SECRET},2\n".encode() * 10_000)[:-50], f"a,b\n{SECRET},2\n".encode()]
)
def test_a_damaged_compressed_file(data, tmp_path):
    refused(DataError, lambda: rows(put(tmp_path, data, "t.csv.gz")), "cut short, or not compressed")


PATHS = [
    (lambda d: d / "none.csv", DataError, "does not exist"),
    (lambda d: d / "none.parquet", DataError, "does not exist"),
    (lambda d: d, UsageError, "format of"),
    (lambda d: (d / "folder.csv").mkdir() or d / "folder.csv", DataError, "is a folder"),
    (lambda d: (d / "folder.parquet").mkdir() or d / "folder.parquet", DataError, "is a folder"),
    (lambda d: put(d, "a", "t.xlsx"), UsageError, "use .csv, .tsv"),
    (lambda d: put(d, SECRET, "t.parquet"), DataError, "no readable Parquet file"),
    (lambda d: put(d, "", "t.parquet"), DataError, "no readable Parquet file"),
    (lambda d: 3, UsageError, "object of type int"),
    (lambda d: pd.DataFrame(), DataError, "has no columns"),
    (lambda d: pd.DataFrame([[1, 2]]), DataError, "number 1 of the table has no name, or one that is no text"),
    (lambda d: pd.DataFrame([[1, 2]], columns=[SECRET, SECRET]), DataError, "share a name"),
    (lambda d: pa.table({"x": [[1]]}), DataError, "Column 'x' is of type list"),
    (lambda d: pa.table({"x": [{"y": 1}]}), DataError, "Column 'x' is of type struct"),
    (lambda d: pa.table({"x": [b"1"]}), DataError, "Column 'x' is of type binary"),
]


@pytest.mark.parametrize(("make", "error", "says"), PATHS)
def test_what_cannot_be_opened(make, error, says, tmp_path):
    source = make(tmp_path)
    refused(error, lambda: open_table(source), says)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = put(tmp_path, "a,b\n")
    path.chmod(0)
    refused(DataError, lambda: open_table(path), "permission is denied")


def test_permission_errors_have_a_sentence(tmp_path, monkeypatch):
    def deny(*_, **__):
        raise PermissionError(errno.EACCES, SECRET)

    monkeypatch.setattr(_csv_table.pa, "input_stream", deny)
    refused(DataError, lambda: open_table(put(tmp_path, "a,b\n")), "permission is denied")


@pytest.mark.parametrize(
    "options", [{"chunk_rows": 0}, {"chunk_rows": 1.5}, {"table": "t"}, {"delimiter": ",,"}, {"delimiter": '"'}]
)
def test_options_that_make_no_sense(options, tmp_path):
    refused(UsageError, lambda: open_table(put(tmp_path, "a,b\n"), **options), next(iter(options)))


LONG = """
import resource, sys, time
from tabveil.errors import DataError
from tabveil.tables import open_table
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
try:
    for _ in open_table(sys.argv[1]).chunks(): pass
except DataError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.monotonic() - start, error)
"""


@pytest.mark.parametrize("head", [b"", b"a,b\n1,2\n", b'a,b\n1,"2\n'])
def test_an_endless_line_is_refused_quickly_in_bounded_memory(head, tmp_path):
    path = put(tmp_path, head)
    os.truncate(path, 200 * 2**20)  # NUL bytes without a line end; sparse, so it costs no disk
    kib, seconds, message = python(LONG, path).stdout.split(maxsplit=2)
    assert "longer than 2 MiB" in message
    assert int(kib) < 120 * 1024
    assert float(seconds) < 10


# -------------------------------------------------------------------------------------------------------------- chunks


def sources(folder: Path) -> dict[str, object]:
    """The same 10 rows in every form."""
    frame = pd.DataFrame({"n": range(10), "s": list("abcdefghij")}, index=[7] * 10)
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_parquet(folder / "t.parquet", row_group_size=4)  # writes the index as a column of its own
    with sqlite3.connect(folder / "t.db") as connection:
        frame.to_sql("t", connection, index=False)
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    return {"csv": folder / "t.csv", "parquet": folder / "t.parquet", "frame": frame, "arrow": arrow}


@pytest.mark.parametrize("form", ["csv", "parquet", "frame", "arrow", "sql"])
def test_chunks_are_small_repeatable_and_hold_only_what_is_asked(form, tmp_path):
    source = sources(tmp_path).get(form, f"sqlite:///{tmp_path}/t.db")
    table = open_table(source, chunk_rows=3, table="t" if form == "sql" else None)
    assert table.columns == ("n", "s")
    assert open_table(table) is table
    assert repr(table).endswith("Table(2 columns)")
    for _ in range(2):
        chunks = list(table.chunks(["s", "n"]))
        assert max(map(len, chunks)) <= 3
        assert all(list(c.columns) == ["s", "n"] and list(c.index) == list(range(len(c))) for c in chunks)
        whole = pd.concat(chunks)
        assert whole["s"].tolist() == list("abcdefghij")
        assert whole["n"].astype(int).tolist() == list(range(10))
    assert sum(len(c) for c in table.chunks([])) == 10
    assert all(c.shape[1] == 0 for c in table.chunks([]))
    refused(DataError, lambda: table.chunks(["m"]), "no column 'm'")


@pytest.mark.parametrize("form", ["csv", "parquet", "frame", "arrow", "sql"])
def test_a_table_without_rows_gives_one_empty_chunk(form, tmp_path):
    frame = pd.DataFrame({"n": pd.Series(dtype=int), "s": pd.Series(dtype=object)})
    made = {"frame": frame, "arrow": pa.table({"n": pa.array([], pa.int64()), "s": pa.array([], pa.string())})}
    frame.to_csv(tmp_path / "t.csv", index=False)
    pq.write_table(made["arrow"], tmp_path / "t.parquet")
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("create table t (n int, s text)")
    made |= {"csv": tmp_path / "t.csv", "parquet": tmp_path / "t.parquet", "sql": f"sqlite:///{tmp_path}/t.db"}
    (chunk,) = open_table(made[form], table="t" if form == "sql" else None).chunks(["s"])
    assert (list(chunk.columns), len(chunk)) == (["s"], 0)


def test_a_frame_is_neither_copied_nor_changed():
    frame = pd.DataFrame({"a": np.arange(5.0), "b": list("vwxyz")}, index=list("edcba"))
    before = frame.copy(deep=True)
    for chunk in open_table(frame, chunk_rows=2).chunks():
        chunk["a"] = -1.0
        chunk.loc[0, "b"] = "changed"
    for chunk in open_table(frame).chunks(["a"]):
        chunk.iloc[0, 0] = -1.0
    pd.testing.assert_frame_equal(frame, before)


def test_two_readers_of_one_table_do_not_disturb_each_other(tmp_path):
    table = open_table(put(tmp_path, "a\n" + "\n".join(map(str, range(10)))), chunk_rows=2)
    pairs = zip(table.chunks(), table.chunks(), strict=True)
    assert all(one.equals(other) for one, other in pairs)


def test_abandoned_reading_closes_the_file(tmp_path):
    path = put(tmp_path, "a\n" + "1\n" * 10)

    def open_files() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{d}") == str(path) for d in os.listdir("/proc/self/fd"))

    reading = open_table(path, chunk_rows=2).chunks()
    next(reading)
    for _ in range(20):
        next(open_table(path, chunk_rows=2).chunks())
    del reading
    deadline = time.monotonic() + 10
    while open_files() and time.monotonic() < deadline:  # a reader's thread may still be on its way out
        time.sleep(0.01)
    assert open_files() == 0


def test_types_that_a_file_declares_are_kept(tmp_path):
    table = pa.table(
        {
            "i": pa.array([1, None], pa.int32()),
            "b": pa.array([True, None]),
            "m": pa.array([decimal.Decimal("1.50"), None]),
            "d": pa.array([dt.date(9999, 12, 31), None]),
            "t": pa.array([dt.datetime(2020, 1, 1, 12), None], pa.timestamp("us")),
            "c": pa.array(["x", None]).dictionary_encode(),
            "a.b": pa.array(["x", "y"], pa.large_string()),
            "none": pa.array([None, None]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    for source in (tmp_path / "t.parquet", table):
        (chunk,) = open_table(source).chunks()
        shown = {k: str(v) for k, v in chunk.dtypes.items()}
        assert shown["i"] == "Int32"
        assert shown["b"] == "boolean"
        assert shown["m"] == "float64"
        assert shown["d"] == "datetime64[s]"
        assert {shown["c"], shown["a.b"], shown["none"]} == {"object"}
        assert chunk["m"][0] == 1.5
        assert chunk["c"].tolist() == ["x", None]
        assert (chunk["d"][0].year, chunk["t"][0].hour) == (9999, 12)


def test_wide_tables_and_many_categories(tmp_path):
    frame = pd.DataFrame({f"c {i}": [f"v{i}"] * 3 for i in range(200)})
    frame.to_csv(tmp_path / "wide.csv", index=False)
    assert rows(tmp_path / "wide.csv") == frame.to_dict("list")
    tall = pd.DataFrame({"code": [f"ü {i}, x" for i in range(5000)]})
    write_table(tall, tmp_path / "tall.csv")
    assert rows(tmp_path / "tall.csv", chunk_rows=1000) == tall.to_dict("list")


def test_chunks_across_blocks_of_a_large_file(tmp_path):
    rows_ = 300_000  # 12 MB, so several blocks of the parser
    path = put(tmp_path, "a,b\n" + "".join(f"{i},{'x' * 33}\n" for i in range(rows_)))
    seen = np.concatenate([c["a"].to_numpy().astype(int) for c in open_table(path).chunks(["a"])])
    assert np.array_equal(seen, np.arange(rows_))


# ----------------------------------------------------------------------------------------------------------------- SQL


def test_sql_names_are_quoted_and_cells_keep_their_types(tmp_path):
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute('create table "t; drop table u" ("a b" int, "é""q:%s" text, x real)')
        connection.executemany('insert into "t; drop table u" values (?, ?, ?)', [(1, "x", None), (None, None, 0.5)])
    url = f"sqlite:///{tmp_path}/t.db"
    for source in (url, sa.make_url(url)):
        got = open_table(source, table="t; drop table u")
        assert got.columns == ("a b", 'é"q:%s', "x")
        (chunk,) = got.chunks()
        assert {str(d) for d in chunk.dtypes} == {"object"}  # pandas would make floats of 1 and None
        assert chunk.to_numpy().tolist() == [[1, "x", None], [None, None, 0.5]]
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute('create view v as select "a b" from "t; drop table u"')
    assert open_table(url, table="v").columns == ("a b",)
    assert open_table(url, table="main.v").columns == ("a b",)


URLS = [
    (f"postgresql+psycopg://u:{SECRET}@127.0.0.1:1/x", DataError, "postgresql database cannot be read"),
    (f"postgresql://u:{SECRET}@127.0.0.1:1/x?password={SECRET}", DataError, "postgresql database cannot be read"),
    (f"postgresql://u:{SECRET}@h:port/x", UsageError, "cannot be understood"),
    (f"nosuchkind://u:{SECRET}@h/x", UsageError, "unknown kind of database"),
    ("sqlite:///none.db", DataError, "'none.db' does not exist"),
]


@pytest.mark.parametrize(("url", "error", "says"), URLS)
def test_a_database_that_cannot_be_read_never_shows_the_password(url, error, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(error, lambda: open_table(url, table="t"), says)
    assert list(tmp_path.iterdir()) == []  # SQLite would make the file that is not there


def test_database_mistakes(tmp_path, monkeypatch):
    sqlite3.connect(tmp_path / "t.db").close()
    url = f"sqlite:///{tmp_path}/t.db"
    refused(DataError, lambda: open_table(url, table="t"), "no table 't'")
    refused(UsageError, lambda: open_table(url), "needs 'table'")

    def no_driver(*_, **__):
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")

    monkeypatch.setattr(sa, "create_engine", no_driver)
    refused(MissingDependencyError, lambda: open_table(url, table="t"), "needs psycopg: pip install")


def test_a_database_that_fails_midway(tmp_path):
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("create table t (n int)")
        connection.execute("insert into t values (1)")
    table = open_table(f"sqlite:///{tmp_path}/t.db", table="t")
    (tmp_path / "t.db").write_bytes(SECRET.encode() * 1000)
    refused(DataError, lambda: list(table.chunks()), "sqlite database cannot be read")


# ------------------------------------------------------------------------------------------------------------- writing


def published() -> pd.DataFrame:
    """The decoded, typed form that generators return."""
    return pd.DataFrame(
        {
            "age": [1, 2, 3],
            "gap": pd.array([1, None, 3], dtype="Int64"),
            "pay": [1.5, np.nan, -0.001],
            "ill": pd.array([True, None, False], dtype="boolean"),
            "odd, name": ["a,b", None, 'q"\n'],
            "born": pd.to_datetime(["2020-01-31", None, "1950-12-01"]).astype("datetime64[s]"),
            "seen": pd.to_datetime(["2020-01-31 10:00", None, "1950-12-01 00:00"]).astype("datetime64[s]"),
        }
    )


def test_csv_is_written_as_the_schema_says(tmp_path):
    formats = {"decimals": {"pay": 2}, "date_formats": {"born": "%d.%m.%Y"}}
    write_table(published(), tmp_path / "t.csv", **formats)
    assert (tmp_path / "t.csv").read_text() == (
        'age,gap,pay,ill,"odd, name",born,seen\n'
        '1,1,1.50,true,"a,b",31.01.2020,2020-01-31 10:00:00\n'
        "2,,,,,,\n"
        '3,3,0.00,false,"q""\n",01.12.1950,1950-12-01 00:00:00\n'
    )
    write_table(published()[["born"]], tmp_path / "d.tsv")
    assert (tmp_path / "d.tsv").read_text() == 'born\n2020-01-31\n""\n1950-12-01\n'


def test_compressed_csv_is_the_same_bytes_every_time(tmp_path):
    for name in ("a.csv.gz", "b.csv.gz"):
        write_table(published(), tmp_path / name)
    data = (tmp_path / "a.csv.gz").read_bytes()
    assert data == (tmp_path / "b.csv.gz").read_bytes()
    assert data[3:8] == bytes(5)  # no name and no time in the header (RFC 1952)
    assert len(rows(tmp_path / "a.csv.gz")["age"]) == 3


def test_parquet_keeps_types_and_dates(tmp_path):
    frame = published()
    write_table(frame, tmp_path / "t.parquet", date_formats={"born": "%d.%m.%Y", "seen": "%Y-%m-%d %H:%M:%S"})
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert [str(t) for t in schema.types] == [
        *("int64", "int64", "double", "bool", "string", "date32[day]", "timestamp[ms]")
    ]
    back = rows(tmp_path / "t.parquet")
    assert back["odd, name"] == ["a,b", None, 'q"\n']
    assert back["born"][0] == pd.Timestamp("2020-01-31")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz"])
@pytest.mark.parametrize("name", ["a", "\ufeffa", "\ufeff", "\ufeff\ufeffa, b"])
def test_a_byte_order_mark_in_a_name_or_a_cell_is_read_back(name, suffix, tmp_path):
    frame = pd.DataFrame({name: ["\ufeff", "\ufeffx", "", '\ufeff"'], "b": ["\ufeff", "y", "\ufeff\n", "z"]})
    write_table(frame, tmp_path / f"t.{suffix}")
    write_batches([frame[:1], frame[1:]], tmp_path / f"u.{suffix}")
    for path in (tmp_path / f"t.{suffix}", tmp_path / f"u.{suffix}"):
        assert open_table(path).columns == (name, "b")
        assert rows(path) == frame.to_dict("list")
        assert list(pd.read_csv(path, sep="\t" if suffix == "tsv" else ",").columns) == [name, "b"]


_any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
cells = _any_text | _any_text.map("\ufeff".__add__)


@given(st.lists(st.tuples(cells, cells), max_size=6), st.tuples(cells, cells).filter(lambda n: all(n) and n[0] != n[1]))
def test_what_is_written_is_read_back(tmp_path_factory, table, names):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    frame = pd.DataFrame(table, columns=list(names), dtype=object)
    write_table(frame, path)
    assert open_table(path, delimiter=",").columns == names
    assert rows(path, delimiter=",") == frame.to_dict("list")


@pytest.mark.parametrize("name", ["t.xlsx", "t", "t.parquet.gz", "t.csv.zst"])
def test_formats_that_are_not_written(name, tmp_path):
    refused(UsageError, lambda: write_table(published(), tmp_path / name), "not known by its name")
    assert list(tmp_path.iterdir()) == []


def test_values_that_a_file_cannot_hold(tmp_path):
    mixed = pd.DataFrame({"x": [1, SECRET]})
    refused(DataError, lambda: write_table(mixed, tmp_path / "t.parquet"), "Column 'x' mixes")
    broken = pd.DataFrame({"x": [SECRET + "\ud800"]})
    refused(DataError, lambda: write_table(broken, tmp_path / "t.csv"), "cannot be written as UTF-8")
    refused(DataError, lambda: write_table(broken, tmp_path / "t.parquet"), "Column 'x'")
    refused(DataError, lambda: write_table(pd.DataFrame([[1]]), tmp_path / "t.csv"), "no name")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------- whole or not

WRITERS = {
    "csv": lambda p: write_table(pd.DataFrame({"x": range(100_000)}), p.with_suffix(".csv")),
    "gz": lambda p: write_table(pd.DataFrame({"x": np.arange(20_000) ** 0.5}), p.with_suffix(".csv.gz")),
    "parquet": lambda p: write_table(pd.DataFrame({"x": range(100_000)}), p.with_suffix(".parquet")),
    "bytes": lambda p: write_bytes(p.with_suffix(".bin"), bytes(100_000)),
    "text": lambda p: write_text(p.with_suffix(".txt"), "ü" * 100_000),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_what_was_there(writer, tmp_path, monkeypatch):
    WRITERS[writer](tmp_path / "t")
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    real = open

    def onto_full_disk(name, mode):
        real(name, mode).close()  # the temporary file is there, its bytes go to a disk that is full
        return real("/dev/full", "wb")

    monkeypatch.setattr(_atomic, "open", onto_full_disk, raising=False)
    message = refused(StorageError, lambda: WRITERS[writer](tmp_path / "t"), "the disk is full")
    assert "Nothing was left behind" in message
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_file_size_limit_is_a_full_disk_too(tmp_path):
    code = (
        "import pathlib, resource, signal, sys, test_tables as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "for writer in t.WRITERS.values():\n"
        "    try: writer(pathlib.Path(sys.argv[1]) / 't')\n"
        "    except t.StorageError as error: print(error)\n"
    )
    done = python(code, tmp_path)
    assert done.stdout.count("the file would be larger than allowed") == len(WRITERS), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted():
        with atomic_file(tmp_path / "t") as handle:
            handle.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_leaves_the_old_file(tmp_path):
    write_bytes(tmp_path / "t", b"old")
    code = (
        "import os, signal, sys; from tabveil._atomic import atomic_file\n"
        "with atomic_file(sys.argv[1]) as f: f.write(b'new' * 10**6); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert python(code, tmp_path / "t").returncode == -9
    assert (tmp_path / "t").read_bytes() == b"old"


def test_files_get_the_usual_permissions_and_links_are_followed(tmp_path):
    write_bytes(tmp_path / "t", b"x")
    (tmp_path / "plain").touch()
    assert (tmp_path / "t").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "link").symlink_to(tmp_path / "t")
    write_bytes(tmp_path / "link", b"y")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "t").read_bytes() == b"y"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (lambda d: d / "none" / "t", "its folder does not exist"),
        (lambda d: d, "something that is no file"),
        (lambda d: Path("/dev/null"), "something that is no file"),
        (lambda d: put(d, "x", "file") / "t", "its folder is not a folder"),
    ],
)
def test_paths_that_cannot_be_written(path, says, tmp_path):
    target = path(tmp_path)
    refused(StorageError, lambda: write_text(target, SECRET), says)
