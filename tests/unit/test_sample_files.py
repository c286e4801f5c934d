"""Samples that do not fit into memory: drawn in batches, written as they come, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tabveil import measuring, pipeline
from tabveil.columns import Boolean, Categorical, Date, Decimal, Identifier, Integer
from tabveil.errors import StorageError, UsageError
from tabveil.generators.base import Generator, create
from tabveil.schema import Schema
from tabveil.tables import open_table, write_batches, write_table

SCHEMA = Schema(
    columns=(
        Identifier(name="id", pattern="P{n:04d}"),
        Categorical(name="colour", categories=("red", "green"), missing=("",), invalid="missing"),
        Boolean(name="flag", missing=("",), invalid="missing"),
        Integer(name="age", low=0, high=20, missing=("",)),
        Decimal(name="pay", low=0.0, high=9.99, decimals=2),
        Date(name="day", low=pd.Timestamp("2020-01-01").date(), high=pd.Timestamp("2020-03-01").date()),
    )
)


def rows(count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": "x",
            "colour": rng.choice(["red", "green", ""], count),
            "flag": rng.choice(["true", "false", ""], count),
            "age": rng.choice(["1", "20", ""], count),
            "pay": np.round(rng.random(count) * 9, 2),
            "day": "2020-01-15",
        }
    )


@pytest.fixture(scope="module")
def fitted() -> Generator:
    return create("independent", epsilon=float("inf")).fit(rows(300), SCHEMA)


@pytest.fixture
def model(fitted: Generator, tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    fitted.save(tmp_path / "model")
    return tmp_path / "model"


def test_one_batch_is_the_sample_and_more_go_on_from_it(fitted: Generator) -> None:
    (whole,) = fitted.sample_batches(50, random_state=3)
    pd.testing.assert_frame_equal(whole, fitted.sample(50, random_state=3))
    parts = list(fitted.sample_batches(50, batch_rows=20, random_state=3))
    assert [len(p) for p in parts] == [20, 20, 10]
    pd.testing.assert_frame_equal(parts[0], fitted.sample(20, random_state=3))
    assert not parts[1].drop(columns="id").equals(parts[0].drop(columns="id"))
    assert pd.concat(parts)["id"].tolist() == [f"P{n:04d}" for n in range(1, 51)]
    again = list(fitted.sample_batches(50, batch_rows=20, random_state=3))
    pd.testing.assert_frame_equal(pd.concat(again), pd.concat(parts))
    assert sum(map(len, fitted.sample_batches(batch_rows=7))) == len(fitted.sample())
    (empty,) = fitted.sample_batches(0)
    assert empty.dtypes.tolist() == whole.dtypes.tolist()


def test_batches_refuse_wrong_numbers_before_anything_is_drawn(fitted: Generator) -> None:
    for wrong in ({"n": -1}, {"n": 5, "batch_rows": 0}, {"n": 5, "batch_rows": 1.5}):
        with pytest.raises(UsageError):
            fitted.sample_batches(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.parquet"])
def test_frames_written_one_by_one_are_the_whole_table(name: str, fitted: Generator, tmp_path: Path) -> None:
    frame = fitted.sample(100, random_state=0)
    frame.loc[:29, "colour"] = None  # a first batch without a text
    formats = SCHEMA.text_formats
    write_batches((frame[i : i + 30].reset_index(drop=True) for i in range(0, 100, 30)), tmp_path / name, **formats)
    write_table(frame, tmp_path / f"whole-{name}", **formats)
    if name == "t.parquet":
        assert pq.ParquetFile(tmp_path / name).num_row_groups == 4
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / name), pd.read_parquet(tmp_path / f"whole-{name}"))
    else:
        read = [pd.concat(list(open_table(tmp_path / n).chunks())) for n in (name, f"whole-{name}")]
        pd.testing.assert_frame_equal(*read)


def test_a_sample_in_parts(model: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    out = tmp_path / "parts"
    drawn, statement, balance = pipeline.sample(
        model, out, rows=50, partition_rows=20, random_state=3, progress=lambda *a: told.append(a)
    )
    assert (drawn, statement.stamp, balance) == (50, "NOT PRIVATE", None)
    assert sorted(p.name for p in out.iterdir()) == [f"part-0000{i}.parquet" for i in range(3)]
    assert told == [("sampling", 0.4), ("sampling", 0.8), ("sampling", 1.0)]
    frame = pd.read_parquet(out)
    assert frame["id"].tolist() == [f"P{n:04d}" for n in range(1, 51)]
    assert (tmp_path / "parts.NOT_PRIVATE.txt").is_file()
    pipeline.sample(model, f"{tmp_path}/slash/", rows=5)
    assert [p.name for p in (tmp_path / "slash").iterdir()] == ["part-00000.parquet"]
    assert (tmp_path / "slash.NOT_PRIVATE.txt").is_file()
    with pytest.raises(UsageError, match="is there already"):
        pipeline.sample(model, out, rows=5, partition_rows=2)
    for wrong in (0, -1, 2.5):
        with pytest.raises(UsageError, match="partition_rows"):
            pipeline.sample(model, tmp_path / "x", rows=5, partition_rows=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["ctrl-c", "full"]
)
@pytest.mark.parametrize("out", ["parts/", "one.csv", "one.parquet"])
def test_nothing_half_written_stays(
    failure: BaseException, out: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch fails: what was written of the first is gone, and an older file is as it was."""
    frames = Generator._frame

    def failing(self: Generator, size: int, codes: object, *, first: int = 1) -> pd.DataFrame:
        if first > 1:
            raise failure
        return frames(self, size, codes, first=first)  # type: ignore[arg-type]

    monkeypatch.setattr(Generator, "_frame", failing)
    monkeypatch.setattr(pipeline, "BATCH_ROWS", 10)
    if not out.endswith("/"):
        (tmp_path / out).write_text("older")
    with pytest.raises(StorageError if isinstance(failure, OSError) else KeyboardInterrupt):
        pipeline.sample(model, f"{tmp_path}/{out}", rows=25)
    left = {p.name for p in tmp_path.iterdir()} - {"model"}
    assert left == ({out} if not out.endswith("/") else set())
    assert out.endswith("/") or (tmp_path / out).read_text() == "older"


def test_only_one_batch_is_in_memory(fitted: Generator, model: Path, tmp_path: Path) -> None:
    """Batches are drawn while they are written, not before."""
    alive = 0

    def watched() -> Iterator[pd.DataFrame]:
        nonlocal alive
        for frame in fitted.sample_batches(20_000, batch_rows=2_000):
            alive += 1
            yield frame
            written = sum(p.stat().st_size for p in tmp_path.glob(".tabveil-*.tmp"))
            assert written > 0 or alive == 1

    write_batches(watched(), tmp_path / "t.parquet", **SCHEMA.text_formats)
    assert alive == 10


def test_measuring_takes_an_even_choice_of_a_long_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """alpha = 1e-9, n = 400 choices of 25 of 100 rows in chunks of 7; the first chunk is no likelier than the last."""
    from scipy import stats

    monkeypatch.setattr(measuring, "MOST_ROWS", 25)
    table = open_table(pd.DataFrame({"n": np.arange(100)}), chunk_rows=7)
    rng = np.random.default_rng(0)
    chosen = [measuring.frame_of(table, rng)["n"] for _ in range(400)]
    assert all(len(c) == 25 and c.is_monotonic_increasing and c.is_unique for c in chosen)
    counts = np.bincount(np.concatenate(chosen), minlength=100).reshape(10, 10).sum(axis=1)
    assert stats.chisquare(counts).pvalue > 1e-9
    short = open_table(pd.DataFrame({"n": np.arange(25)}), chunk_rows=7)
    assert measuring.frame_of(short, rng)["n"].tolist() == list(range(25))
