"""A table whose columns depend on each other, with every column kind, and the schema that declares it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from tabveil.columns import Boolean, Categorical, Date, Datetime, Decimal, Identifier, Integer
from tabveil.metrics import _learners
from tabveil.schema import Schema

REGIONS = ("north", "south", "east", "west")


def _stamps(steps: np.ndarray, unit: str) -> np.ndarray:
    return (np.datetime64("2020-01-01", unit) + steps.astype(f"timedelta64[{unit}]")).astype("datetime64[s]")


def make_table(rows: int, seed: int) -> pd.DataFrame:
    """`rows` rows: risk rises with age, the visit follows risk, income follows age, a tenth of incomes is missing."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, rows)
    risk = rng.random(rows) < 1 / (1 + np.exp(-(age - 54) / 8))
    income = np.round(20 + age * 0.5 + rng.normal(0, 5, rows), 2)
    return pd.DataFrame(
        {
            "id": [f"P{i}" for i in range(rows)],
            "age": age,
            "income": np.where(rng.random(rows) < 0.1, np.nan, np.clip(income, 0, 100)),
            "region": np.array(REGIONS, dtype=object)[np.clip(age // 20 - 1, 0, 3)],
            "smoker": pd.array(rng.random(rows) < 0.3, dtype="boolean"),
            "visit": _stamps(rng.integers(0, 300, rows) + 300 * risk, "D"),
            "seen": _stamps(rng.integers(0, 1000, rows), "m"),
            "risk": np.where(risk, "high", "low").astype(object),
        }
    )


@pytest.fixture(scope="session")
def table() -> Callable[[int, int], pd.DataFrame]:
    return make_table


@pytest.fixture(scope="session")
def schema_for() -> Callable[[str | None], Schema]:
    """The schema of `make_table`, for a given target."""

    def make(target: str | None) -> Schema:
        return Schema(
            columns=(
                Identifier(name="id"),
                Integer(name="age", low=18, high=89),
                Decimal(name="income", low=0, high=100, decimals=2, missing=("",)),
                Categorical(name="region", categories=REGIONS),
                Boolean(name="smoker"),
                Date(name="visit", low=dt.date(2020, 1, 1), high=dt.date(2021, 12, 31)),
                Datetime(name="seen", low=dt.datetime(2020, 1, 1), high=dt.datetime(2020, 1, 2), resolution=60),
                Categorical(name="risk", categories=("low", "high")),
            ),
            target=target,
        )

    return make


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here does not hang on how many rounds of boosting there are."""
    monkeypatch.setattr(_learners, "TREES", 30)
