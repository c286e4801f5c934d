"""`tabular_lm` reading columns as several tokens: week, weekday and hour of a date, cell and place of a number."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

torch = pytest.importorskip("torch")

from tabveil import conditionals  # noqa: E402
from tabveil.columns import Categorical, Column, Date, Datetime, Decimal, Integer  # noqa: E402
from tabveil.conformance import account, fitted  # noqa: E402
from tabveil.encoding import encode_present  # noqa: E402
from tabveil.errors import UnchargedError  # noqa: E402
from tabveil.generators._conditionals import Orders  # noqa: E402
from tabveil.generators.base import Generator, create, load  # noqa: E402
from tabveil.generators.tabular_lm import TabularLM  # noqa: E402
from tabveil.schema import Schema  # noqa: E402

TRIPS = Schema(
    columns=(
        Categorical(name="kind", categories=("work", "leisure")),
        Datetime(name="booked", low=dt.datetime(2023, 1, 1), high=dt.datetime(2023, 12, 31, 23, 59, 59)),
        Date(name="paid", low=dt.date(2023, 1, 1), high=dt.date(2024, 1, 31)),
        Decimal(name="x", low=0, high=1_000, decimals=2),
        Decimal(name="y", low=0, high=1_000, decimals=2),
    ),
    target="kind",
)


def trips(rows: int, seed: int = 0) -> pd.DataFrame:
    """Work is booked from Monday to Friday at 8 to 17 and paid the next day; leisure at other hours of weekends, and is
    paid two days later; y is x within 1 or so.
    """
    rng = np.random.default_rng(seed)
    work = rng.random(rows) < 0.5
    day = rng.integers(0, 52, rows) * 7 + np.where(work, rng.integers(0, 5, rows), rng.integers(5, 7, rows))
    hour = np.where(work, rng.integers(8, 18, rows), rng.choice([6, 7, 18, 19, 20], rows))
    monday = pd.Timestamp("2023-01-02")
    x = rng.uniform(0, 1_000, rows).round(2)
    return pd.DataFrame(
        {
            "kind": np.where(work, "work", "leisure"),
            "booked": monday + pd.to_timedelta(day * 86_400 + hour * 3_600 + rng.integers(0, 3_600, rows), unit="s"),
            "paid": monday + pd.to_timedelta(day + np.where(work, 1, 2), unit="D"),
            "x": x,
            "y": (x + rng.normal(0, 1, rows)).clip(0, 1_000).round(2),
        }
    )


def plain(table: pd.DataFrame, schema: Schema, **options: Any) -> Generator:
    """A fit without privacy."""
    return create("tabular_lm", epsilon=math.inf, random_state=0, **options).fit(table, schema)


def habits(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Shares of rows booked on a day, at an hour, and paid on a day of their kind."""
    work, booked = rows["kind"] == "work", rows["booked"].dt
    days = (booked.weekday < 5) == work
    hours = booked.hour.between(8, 17) == work
    later = (rows["paid"] - booked.normalize()).dt.days == np.where(work, 1, 2)
    return float(days.mean()), float(hours.mean()), float(later.mean())


def test_parts_keep_what_weekdays_hours_and_places_say_of_each_other() -> None:
    """8,000 rows, 700 steps. Of independent columns days would be right for 1/2 of the rows, hours for 1/2."""
    table = trips(8_000)
    options = {"steps": 700, "hidden": 64}
    with_, without = (plain(table, TRIPS, parts=p, **options).sample(4_000, random_state=1) for p in (True, False))
    days, hours, later = habits(with_)
    assert days > 0.97
    assert hours > 0.97
    assert later > 0.85
    assert (with_["y"] - with_["x"]).abs().median() < 1.3  # a cell is 8 wide; of the table 0.67
    days, hours, later = habits(without)
    assert hours < 0.7
    assert later < 0.6
    assert (without["y"] - without["x"]).abs().median() > 2


SMALL = Schema(
    columns=(
        Categorical(name="side", categories=("left", "right")),
        Date(name="day", low=dt.date(2024, 1, 3), high=dt.date(2024, 1, 21), missing=("",), invalid="missing"),
        Integer(name="n", low=0, high=39),
    ),
    target="side",
)


def small(rows: int) -> pd.DataFrame:
    """Left on weekdays with small numbers, right at weekends; some days are missing."""
    rng = np.random.default_rng(0)
    day = pd.Timestamp("2024-01-03") + pd.to_timedelta(rng.integers(0, 19, rows), unit="D")
    left = day.weekday < 5
    texts = pd.Series(day).dt.strftime("%Y-%m-%d").where(rng.random(rows) > 0.1, "")
    n = np.where(left, rng.integers(0, 30, rows), rng.integers(10, 40, rows))
    return pd.DataFrame({"side": np.where(left, "left", "right"), "day": texts, "n": n})


def fitted_small(**options: Any) -> TabularLM:
    made = plain(small(2_000), SMALL, **{"cells": 4, "steps": 60, "hidden": 16, **options})
    assert isinstance(made, TabularLM)
    return made


def every_row() -> pd.DataFrame:
    days = [*pd.date_range("2024-01-03", "2024-01-21"), pd.NaT]
    rows = pd.MultiIndex.from_product([["left", "right"], days, range(40)], names=["side", "day", "n"])
    return rows.to_frame(index=False)


@pytest.mark.parametrize("size", ["fast", "full"])
def test_log_probabilities_sum_to_1_and_survive_a_file(size: str, tmp_path: Path) -> None:
    made = fitted_small(size=size)
    assert made._drawing.spelled.columns == (0, 1, 1, 2, 2)
    found = made.log_prob(every_row())
    assert np.exp(found).sum() == pytest.approx(1.0, abs=1e-4)
    made.save(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, TabularLM)
    assert np.array_equal(found, again.log_prob(every_row()))
    pd.testing.assert_frame_equal(made.sample(50, random_state=1), again.sample(50, random_state=1))


@pytest.mark.statistical
@pytest.mark.parametrize("prefixes", [conditionals.MOST_PREFIXES, 0], ids=["weighed", "searched"])
def test_conditions_that_cut_places_and_weeks_leave_the_models_law(
    prefixes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """alpha = 1e-9, 40,000 rows, against the probabilities of all rows of a small domain; 10 % off is noticed."""
    monkeypatch.setattr(conditionals, "MOST_PREFIXES", prefixes)
    made, rows = fitted_small(), every_row()
    drawn = made.sample(40_000, where={"day": ("2024-01-05", "2024-01-16"), "n": (7, 23)}, random_state=3)
    ok = rows["day"].between("2024-01-05", "2024-01-16") & rows["n"].between(7, 23)
    law = replace(made._drawing, first=(1,))  # rows under conditions start with the first of their columns
    chance = np.exp(law.log_prob({c.name: encode_present(c, rows[c.name]) for c in SMALL.columns}))[ok]
    keys = rows[ok].agg(tuple, axis=1)
    counts = drawn.agg(tuple, axis=1).value_counts().reindex(keys, fill_value=0).to_numpy()
    assert counts.sum() == 40_000
    assert fits(counts, chance)
    low = rows["n"][ok].to_numpy() < 14
    assert not fits(*(np.array([v[low].sum(), v[~low].sum()]) for v in (counts, chance * np.where(low, 1.1, 1.0))))


def fits(counts: np.ndarray, chance: np.ndarray) -> bool:
    """Chi-square at 1e-9."""
    return bool(stats.chisquare(counts, chance / chance.sum() * counts.sum()).pvalue > 1e-9)


def test_known_cells_stay_and_missing_ones_are_filled_whole() -> None:
    made = fitted_small(steps=300)
    known = pd.DataFrame({"side": ["left", "right"] * 300, "n": [5, 38] * 300})
    filled = made.impute(known, random_state=0)
    pd.testing.assert_frame_equal(filled[["side", "n"]], known, check_dtype=False)
    assert filled["day"].notna().all()
    assert filled["day"].between("2024-01-03", "2024-01-21").all()
    weekend = filled["day"].dt.weekday >= 5
    assert (weekend == (filled["side"] == "right")).mean() > 0.9
    days = pd.DataFrame({"day": small(500)["day"]})
    again = made.impute(days, random_state=0)
    told = days["day"] != ""
    assert (again["day"][told] == pd.to_datetime(days["day"][told])).all()


def test_balance_and_conditions_together() -> None:
    made = fitted_small()
    where = {"day": ("2024-01-08", "2024-01-12")}
    rows = made.sample(500, where=where, balance={"side": {"left": 0.2, "right": 0.8}}, random_state=0)
    assert (rows["side"] == "left").sum() == 100
    assert rows["day"].between("2024-01-08", "2024-01-12").all()


@pytest.mark.statistical
def test_columns_have_the_tables_weekdays_and_missing_share() -> None:
    """20,000 rows: six standard deviations of 0.5 / sqrt(16,384), and what drawing adds."""
    table = small(2_000)
    rows = fitted_small(steps=5).sample(20_000, random_state=0)
    wanted = pd.to_datetime(table["day"]).dt.weekday.value_counts(normalize=True)
    found = rows["day"].dt.weekday.value_counts(normalize=True)
    assert found.reindex(wanted.index).to_numpy() == pytest.approx(wanted.to_numpy(), abs=0.03)
    assert rows["day"].isna().mean() == pytest.approx((table["day"] == "").mean(), abs=0.03)


def test_parts_of_a_column_stay_together_in_every_order() -> None:
    torch.manual_seed(0)
    known = Orders((1, 0, 2), 0.5, 0.3, (0, 1, 1, 1, 2)).known(500)
    assert not known.diagonal(dim1=1, dim2=2).any()
    assert (known ^ known.mT).sum() == 500 * 20
    assert known[:, 2, 1].all()
    assert known[:, 3, 1:3].all()
    for other in (0, 4):
        assert (known[:, other, 1:4].all(1) | ~known[:, other, 1:4].any(1)).all()
        assert (known[:, 1:4, other].all(1) | ~known[:, 1:4, other].any(1)).all()


CALENDARS = ["weekdays of 'booked'", "hours of 'booked'", "weekdays of 'paid'"]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("parts", [True, False])
def test_weekdays_and_hours_are_in_the_plan_where_a_training_uses_them(share: float, parts: bool) -> None:
    options: dict[str, Any] = {"steps": 20, "marginal_share": share, "parts": parts}
    plan = create("tabular_lm", epsilon=1.0, delta=1e-6, **options).plan(TRIPS)
    labels = [s.label for s in plan.spends if s.label in CALENDARS]
    assert sorted(labels) == sorted(CALENDARS if parts and share < 1 else [])
    assert 0.98 < plan.cost <= 1.0


def test_weekdays_are_never_counted_uncharged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TabularLM, "_also", lambda self, schema: ())
    for share in (0.0, 0.5):
        made = create("tabular_lm", epsilon=1.0, delta=1e-6, steps=2, pretraining=2, marginal_share=share)
        with pytest.raises(UnchargedError, match="weekdays of 'day'"):
            made.fit(small(300), SMALL, ledger=account(1.0, 1e-6), dataset="conformance")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_private_rows_keep_what_weekdays_say(share: float) -> None:
    """4,000 rows at epsilon 8: dates are read in parts, numbers are not; chance would be 1/2."""
    made = fitted(
        "tabular_lm", trips(4_000), TRIPS, epsilon=8.0, steps=100, hidden=32, pretraining=200, marginal_share=share
    )
    assert made._drawing.spelled.columns == (0, 1, 1, 1, 2, 2, 3, 4)  # type: ignore[attr-defined]
    days, hours, _ = habits(made.sample(3_000, random_state=0))
    assert days > 0.85
    assert hours > 0.8


NUMBERS = tuple(Decimal(name=f"n{i}", low=0, high=100, decimals=3) for i in range(3))
EMPTY: tuple[Column, ...] = (
    Date(name="d", low=dt.date(2020, 1, 1), high=dt.date(2021, 1, 1), missing=("",), invalid="missing"),
    Decimal(name="n", low=0, high=100, decimals=3, missing=("",), invalid="missing"),
)


@pytest.mark.parametrize("rows", [1, 2, 5, 300])
def test_small_numeric_constant_and_empty_tables(rows: int) -> None:
    numbers = pd.DataFrame({c.name: np.random.default_rng(0).uniform(0, 100, rows) for c in NUMBERS})
    tables = [
        (NUMBERS, numbers),
        (NUMBERS, numbers * 0 + 12.345),
        (EMPTY, pd.DataFrame({"d": [""] * rows, "n": [""] * rows})),
        (EMPTY, pd.DataFrame({"d": ["2020-02-29"] * rows, "n": ["", "1.5", "7"][:1] * rows})),
    ]
    for columns, table in tables:
        made = plain(table, Schema(columns=columns), steps=2, hidden=8)
        for n in (0, 1, 37):
            assert len(made.sample(n, random_state=0)) == n
    assert (made.sample(50, random_state=0)["d"] == pd.Timestamp("2020-02-29")).all()
