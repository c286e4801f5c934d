"""Tables made up for the conformance checks, and their schemas.

Privacy: made-up rows only; they say nothing about anybody.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from tabveil.columns import Boolean, Categorical, Column, Date, Datetime, Decimal, Identifier, Integer
from tabveil.constraints import FixedCombinations, Implied, Inequality, Sum
from tabveil.schema import Schema

SENTINEL = "Qx7-sentinel-Zk"
"""A cell value that must turn up nowhere."""

SENTINEL_NUMBER = 86_420
"""A number that must turn up nowhere: only one row holds it, in a column of small numbers."""

ROWS = 1_009
"""A row count that nothing else is likely to have."""


def mixed_schema(**overrides: Any) -> Schema:
    """One column of every kind, missing values among them, and names that break naive code."""
    columns: tuple[Column, ...] = (
        Identifier(name="patient id", pattern="P{n:05d}"),
        Categorical(name="colour, of 🎈", categories=("red", "green", "blue"), catch_all="other"),
        Categorical(name="grade", categories=("low", "mid", "high"), ordered=True, missing=("",), invalid="missing"),
        Boolean(name='is "it"', missing=("",), invalid="missing"),
        Integer(name="small", low=0, high=30),
        Integer(name="wide", low=-100_000, high=100_000, missing=("",)),
        Decimal(name="price", low=0.0, high=999.99, decimals=2),
        Date(name="born", low=dt.date(1920, 1, 1), high=dt.date(2020, 12, 31), missing=("",)),
        Datetime(name="seen", low=dt.datetime(2020, 1, 1), high=dt.datetime(2020, 12, 31), resolution=3600),
    )
    return Schema(columns=columns, **overrides)


def learned_schema() -> Schema:
    """`mixed_schema` with everything left out that a fit can learn under its budget."""
    left_out = (
        Categorical(name="colour, of 🎈", learn=True),
        Categorical(name="grade", learn=True, missing=("",), invalid="missing"),
        Integer(name="small", learn=True),
        Integer(name="wide", learn=True),
        Decimal(name="price", learn=True, low=0.0),
        Date(name="born", learn=True),
        Datetime(name="seen", learn=True, resolution=3600),
    )
    learned = {c.name: c for c in left_out}
    return Schema(columns=tuple(learned.get(c.name, c) for c in mixed_schema().columns))


def mixed_table(rows: int, seed: int = 0) -> pd.DataFrame:
    """`rows` made-up rows for `mixed_schema`, with missing cells, an inflated value and dependent columns."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 31, rows)
    frame = pd.DataFrame(
        {
            "patient id": [f"real-{i}" for i in range(rows)],
            "colour, of 🎈": np.where(small > 20, "red", rng.choice(["green", "blue"], rows)),
            "grade": pd.Series(rng.choice(["low", "mid", "high"], rows)).where(rng.random(rows) > 0.1, None),
            'is "it"': pd.array(rng.random(rows) > 0.7, dtype="boolean"),
            "small": small,
            "wide": np.where(rng.random(rows) < 0.5, 0, rng.integers(-100_000, 100_000, rows)),
            "price": np.round(rng.gamma(2.0, 50.0, rows), 2),
            "born": pd.to_datetime("1960-01-01") + pd.to_timedelta(rng.integers(0, 20_000, rows), unit="D"),
            "seen": pd.to_datetime("2020-03-01") + pd.to_timedelta(rng.integers(0, 5_000, rows), unit="h"),
        }
    )
    frame.loc[frame.index[: rows // 20], "born"] = pd.NaT
    return frame


def ruled_schema() -> Schema:
    """Every kind of constraint, over dates that may be missing, numbers, and listed values."""
    first, last = dt.date(2020, 1, 1), dt.date(2020, 12, 31)
    columns: tuple[Column, ...] = (
        Date(name="admitted", low=first, high=last),
        Date(name="treated", low=first, high=last, missing=("",)),
        Date(name="discharged", low=first, high=last, missing=("",)),
        Integer(name="least", low=0, high=90),
        Integer(name="low", low=10, high=100),
        Integer(name="high", low=20, high=90),
        Categorical(name="town", categories=("a", "b", "c", "d")),
        Categorical(name="county", categories=("x", "y"), missing=("",), invalid="missing"),
        Boolean(name="capital"),
        Integer(name="rank", low=1, high=9),
        Integer(name="whole", low=0, high=50),
        Decimal(name="part", low=0.0, high=50.0, decimals=2, missing=("",)),
        Decimal(name="total", low=20.0, high=80.0, decimals=2, missing=("",)),
    )
    towns = (("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"))
    return Schema(
        columns=columns,
        constraints=(
            Inequality(low="admitted", high="treated"),
            Inequality(low="treated", high="discharged", strict=True),
            Inequality(low="least", high="low"),
            Inequality(low="least", high="high"),
            FixedCombinations(columns=("town", "county"), allowed=towns),
            Implied(column="capital", given="county", mapping=(("x", "false"),)),
            Implied(column="rank", given="town", mapping=tuple(zip("abcd", (4, 2, 9, 1), strict=True))),
            Sum(total="total", parts=("whole", "part")),
        ),
    )


def ruled_table(rows: int, seed: int = 0) -> pd.DataFrame:
    """`rows` made-up rows for `ruled_schema`, every third of which breaks its constraints."""
    rng = np.random.default_rng(seed)
    day = pd.to_datetime("2020-01-01") + pd.to_timedelta(rng.integers(0, 300, rows), unit="D")
    wrong, stay = np.arange(rows) % 3 == 0, pd.to_timedelta(rng.integers(0, 20, rows), unit="D")
    whole, part = rng.integers(0, 51, rows), np.round(rng.uniform(0, 50, rows), 2)
    number = rng.integers(20, 90, rows)
    frame = pd.DataFrame(
        {
            "admitted": day,
            "treated": day + stay,
            "discharged": day + (2 * stay).where(~wrong, -stay) + pd.Timedelta(days=1),
            "least": number,
            "low": np.where(wrong, 10, number),
            "high": number + rng.integers(0, 5, rows),
            "town": rng.choice(list("abcd"), rows),
            "county": rng.choice(["x", "y"], rows),
            "capital": rng.random(rows) > 0.5,
            "rank": rng.integers(1, 10, rows),
            "whole": whole,
            "part": part,
            "total": whole + part + wrong,
        }
    )
    frame.loc[frame.index % 5 == 1, ["treated", "part"]] = None
    return frame


def edge_tables() -> Iterator[tuple[str, pd.DataFrame, Schema]]:
    """Tables that break naive code, by name."""
    for rows in (0, 1, 5):
        yield f"{rows} rows", mixed_table(rows), mixed_schema()
    number = Integer(name="n", low=0, high=9, missing=("",))
    label = Categorical(name="c", categories=("a", "b"), missing=("",), invalid="missing")
    gone = pd.DataFrame({"n": [None] * 40, "c": [None] * 40})
    yield "all missing", gone, Schema(columns=(number, label))
    yield "constant", pd.DataFrame({"n": [3] * 40, "c": ["a"] * 40}), Schema(columns=(number, label))
    yield "one column", pd.DataFrame({"n": [1, 2, 3] * 9}), Schema(columns=(number,))
    yield "one value", pd.DataFrame({"n": [7] * 9}), Schema(columns=(Integer(name="n", low=7, high=7),))
    yield "numbers only", *_many(6, Integer(name="like", low=0, high=50))
    yield "categories only", *_many(6, Categorical(name="like", categories=tuple(map(str, range(51)))))
    yield "200 columns", *_many(200, Integer(name="like", low=0, high=50))
    yield "5,000 categories", *_many(2, Categorical(name="like", categories=tuple(map(str, range(5_000)))))


def _many(count: int, like: Integer | Categorical) -> tuple[pd.DataFrame, Schema]:
    rng = np.random.default_rng(0)
    names = [f"column {i}" for i in range(count)]
    data = rng.integers(0, 51, (60, count))
    frame = pd.DataFrame(data if isinstance(like, Integer) else data.astype(str), columns=names)
    return frame, Schema(columns=tuple(_renamed(like, n) for n in names))


def _renamed(column: Integer | Categorical, name: str) -> Column:
    if isinstance(column, Integer):
        return Integer(name=name, low=column.low, high=column.high)
    return Categorical(name=name, categories=column.categories)


OPPOSITE = Schema(
    columns=(
        Categorical(name="kind", categories=("a", "b", "c"), missing=("",), invalid="missing"),
        Boolean(name="flag"),
        Integer(name="count", low=0, high=50_000),
        Categorical(name="learned kind", learn=True),
        Decimal(name="learned amount", learn=True),
    )
)


def opposites() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables of OPPOSITE, of 200 and 90 rows, which share no value."""
    low = pd.DataFrame({"kind": ["a"] * 200, "flag": [False] * 200, "count": [0] * 200})
    high = pd.DataFrame({"kind": [None] * 90, "flag": [True] * 90, "count": [49_999] * 90})
    low = low.assign(**{"learned kind": "one", "learned amount": 0.25})
    several, large = [f"text {i % 3}" for i in range(90)], [None] * 45 + [-4e6] * 45
    return low, high.assign(**{"learned kind": several, "learned amount": large})
