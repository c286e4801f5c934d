"""Columns as one token each and as several (`tabular_lm`'s `parts`), on made-up payments with dates.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/parts.py --rows 20000 --epsilons inf 3 1

Payments have a kind, the moment when they were ordered (weekdays and hours by kind), the day on which they were booked
(one to three days later, never on a weekend), an amount and a total of 8 % more and cents; and two readings x and y
that differ by a normal with standard deviation 1, of 1,000. Beside each fit stand fresh rows from the same source.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import math
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from _common import head, line

import tabveil as tv
from tabveil.columns import Categorical, Date, Datetime, Decimal
from tabveil.generators.base import Generator

SCHEMA = tv.Schema(
    columns=(
        Categorical(name="kind", categories=("online", "shop", "office")),
        Datetime(name="ordered", low=dt.datetime(2022, 1, 1), high=dt.datetime(2023, 12, 31, 23, 59, 59)),
        Date(name="booked", low=dt.date(2022, 1, 1), high=dt.date(2024, 1, 31)),
        Decimal(name="amount", low=0, high=5_000, decimals=2),
        Decimal(name="total", low=0, high=6_000, decimals=2),
        Decimal(name="x", low=0, high=1_000, decimals=2),
        Decimal(name="y", low=0, high=1_000, decimals=2),
    )
)
WEEKDAYS = {
    "online": (0.10, 0.10, 0.10, 0.10, 0.15, 0.20, 0.25),
    "shop": (0.12, 0.12, 0.12, 0.14, 0.20, 0.30, 0.0),
    "office": (0.2, 0.2, 0.2, 0.2, 0.2, 0.0, 0.0),
}
HOURS = {"online": (*range(24), *range(17, 24), *range(19, 23)), "shop": range(9, 20), "office": range(8, 17)}
SHOWN = ("day by kind", "hour by kind", "days to booking", "booked at weekends", "y - x: median", "90 %")


def payments(rows: int, seed: int) -> pd.DataFrame:
    """The made-up table."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(list(WEEKDAYS), rows, p=[0.4, 0.4, 0.2])
    day, hour = rng.integers(0, 104, rows) * 7, np.zeros(rows, dtype=np.int64)
    for name, chances in WEEKDAYS.items():
        at = kind == name
        day[at] += rng.choice(7, at.sum(), p=chances)
        hour[at] = rng.choice(list(HOURS[name]), at.sum())
    booked = day + rng.integers(1, 4, rows)
    booked += np.array([0, 0, 0, 0, 0, 2, 1])[booked % 7]
    monday = pd.Timestamp("2022-01-03")
    amount = np.exp(rng.normal(3.5, 1.0, rows)).clip(0.5, 4_999)
    x = rng.uniform(0, 1_000, rows)
    return pd.DataFrame(
        {
            "kind": kind,
            "ordered": monday + pd.to_timedelta(day * 86_400 + hour * 3_600 + rng.integers(0, 3_600, rows), unit="s"),
            "booked": monday + pd.to_timedelta(booked, unit="D"),
            "amount": amount.round(2),
            "total": (amount * 1.08 + np.abs(rng.normal(0, 0.2, rows))).round(2),
            "x": x.round(2),
            "y": (x + rng.normal(0, 1, rows)).clip(0, 1_000).round(2),
        }
    )


def apart(left: Sequence[pd.Series], right: Sequence[pd.Series]) -> float:
    """Total variation distance of two tables of counts."""
    counts = [pd.concat(list(side), axis=1).value_counts(normalize=True) for side in (left, right)]
    return float(counts[0].subtract(counts[1], fill_value=0).abs().sum() / 2)


def measured(rows: pd.DataFrame, real: pd.DataFrame) -> list[float]:
    """All of SHOWN."""
    sides = [(t["kind"], t["ordered"].dt, (t["booked"] - t["ordered"].dt.normalize()).dt.days) for t in (rows, real)]
    gap = (rows["y"] - rows["x"]).abs()
    return [
        apart(*((kind, ordered.weekday) for kind, ordered, _ in sides)),
        apart(*((kind, ordered.hour) for kind, ordered, _ in sides)),
        apart(*((ordered.weekday, lag) for _, ordered, lag in sides)),
        float((rows["booked"].dt.weekday >= 5).mean()),
        float(gap.median()),
        float(gap.quantile(0.9)),
    ]


def fitted(real: pd.DataFrame, epsilon: float, arguments: argparse.Namespace, *, parts: bool) -> Generator:
    """One fit, charged where anything is private."""
    ledger, paid = tv.Ledger(":memory:"), math.isfinite(epsilon)
    if paid:
        ledger.open("payments", epsilon=epsilon, delta=arguments.delta)
    made = tv.create(
        "tabular_lm",
        epsilon=epsilon,
        delta=arguments.delta if paid else None,
        random_state=arguments.seed,
        parts=parts,
    )
    return made.fit(real, SCHEMA, ledger=ledger if paid else None, dataset="payments" if paid else None)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epsilons", nargs="+", type=float, default=[math.inf, 3.0, 1.0])
    parser.add_argument("--delta", type=float, default=1e-6)
    arguments = parser.parse_args()
    real, fresh = (payments(arguments.rows, arguments.seed + i) for i in range(2))
    head("rows", "epsilon", *SHOWN, "fit_cpu_s", "rows_per_cpu_s")
    line("fresh rows", "-", *(f"{n:.3g}" for n in measured(fresh, real)), "", "")
    for epsilon, parts in itertools.product(arguments.epsilons, (False, True)):
        start = time.process_time()
        made = fitted(real, epsilon, arguments, parts=parts)
        done = time.process_time()
        rows = made.sample(arguments.rows, random_state=arguments.seed)
        took = time.process_time() - done
        numbers = [*measured(rows, real), done - start, arguments.rows / took]
        line(f"parts={parts}", f"{epsilon:g}", *(f"{n:.3g}" for n in numbers))


if __name__ == "__main__":
    main()
