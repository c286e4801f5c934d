"""What constraints cost: a made-up hospital table, fitted and sampled without them and with them.

    PYTHONPATH=src python benchmarks/constraints.py [--rows 50000] [--sampled 100000] [--epsilon 1]

One line per generator and set of constraints: charged steps, seconds of the fit, seconds to sample, violations of
the rules given, and of all that the table obeys, the mean distance of the two dates of
a stay beside the real one, and how far the mean of each date strays (in days).
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import time

import numpy as np
import pandas as pd

import tabveil as tv
from tabveil.columns import Boolean, Categorical, Column, Date, Decimal, Integer
from tabveil.constraints import FixedCombinations, Implied, Inequality, Sum
from tabveil.enforcing import violations

TOWNS = tuple(f"town {i}" for i in range(40))
COUNTIES = tuple(f"county {i}" for i in range(8))
COLUMNS: tuple[Column, ...] = (
    Date(name="born", low=dt.date(1920, 1, 1), high=dt.date(2023, 12, 31)),
    Date(name="admitted", low=dt.date(2020, 1, 1), high=dt.date(2023, 12, 31)),
    Date(name="discharged", low=dt.date(2020, 1, 1), high=dt.date(2024, 12, 31), missing=("",)),
    Categorical(name="town", categories=TOWNS),
    Categorical(name="county", categories=COUNTIES),
    Categorical(name="grade", categories=("a", "b", "c")),
    Integer(name="points", low=0, high=9),
    Decimal(name="drugs", low=0.0, high=5000.0, decimals=2),
    Decimal(name="care", low=0.0, high=20000.0, decimals=2),
    Decimal(name="bill", low=0.0, high=25000.0, decimals=2),
    Boolean(name="again"),
)
PAIR = Inequality(low="admitted", high="discharged")
LISTED = FixedCombinations(
    columns=("town", "county"), allowed=[(t, COUNTIES[i % len(COUNTIES)]) for i, t in enumerate(TOWNS)]
)
BILL = Sum(total="bill", parts=("drugs", "care"))
RULES = {
    "none": (),
    "inequality, combinations, sum": (PAIR, LISTED, BILL),
    "chain of three dates, combinations, implied, sum": (
        Inequality(low="born", high="admitted"),
        PAIR,
        LISTED,
        Implied(column="points", given="grade", mapping={"a": 1, "b": 4, "c": 9}),
        BILL,
    ),
}
EVERY = tv.Schema(columns=COLUMNS, constraints=RULES["chain of three dates, combinations, implied, sum"])


def made_up(rows: int) -> pd.DataFrame:
    """A table that obeys every rule."""
    rng = np.random.default_rng(0)
    admitted = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1400, rows), unit="D")
    age, stay = rng.gamma(6, 3500, rows).astype(int).clip(0, 36_000), rng.geometric(0.15, rows) - 1
    town, grade = rng.integers(0, len(TOWNS), rows) ** 2 // len(TOWNS), rng.integers(0, 3, rows)
    drugs, care = np.round(rng.gamma(2, 150, rows), 2).clip(0, 5000), np.round(300.0 * stay + rng.gamma(2, 90, rows), 2)
    frame = pd.DataFrame(
        {
            "born": admitted - pd.to_timedelta(age, unit="D"),
            "admitted": admitted,
            "discharged": admitted + pd.to_timedelta(stay, unit="D"),
            "town": np.array(TOWNS)[town],
            "county": np.array(COUNTIES)[town % len(COUNTIES)],
            "grade": np.array(["a", "b", "c"])[grade],
            "points": np.array([1, 4, 9])[grade],
            "drugs": drugs,
            "care": care.clip(0, 20_000),
            "again": rng.random(rows) < 0.2,
        }
    )
    frame.insert(9, "bill", np.round(frame["drugs"] + frame["care"], 2))
    frame.loc[::12, "discharged"] = pd.NaT
    return frame


def measure(name: str, schema: tv.Schema, frame: pd.DataFrame, options: argparse.Namespace) -> list[str]:
    """One line of the table."""
    ledger = tv.Ledger(":memory:")
    ledger.open("made up", epsilon=options.epsilon, delta=1e-6)
    made = tv.create(name, epsilon=options.epsilon, delta=1e-6)
    steps = len(made.plan(schema).spends)
    start = time.perf_counter()
    made.fit(frame, schema, ledger=ledger, dataset="made up")
    fitted = time.perf_counter()
    sample = made.sample(options.sampled, random_state=0)
    sampled = time.perf_counter()
    own, every = (sum(violations(s, sample).values()) for s in (schema, EVERY))
    stays = [(f["discharged"] - f["admitted"]).dt.days.abs().mean() for f in (sample, frame)]
    dates = [abs((sample[c].mean() - frame[c].mean()).days) for c in ("born", "admitted", "discharged")]
    times = [f"{fitted - start:.1f}", f"{sampled - fitted:.2f}"]
    return [str(steps), *times, f"{own}, {every:,}", f"{stays[0]:.1f} ({stays[1]:.1f})", ", ".join(map(str, dates))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--sampled", type=int, default=100_000)
    parser.add_argument("--epsilon", type=float, default=1.0)
    options = parser.parse_args()
    frame = made_up(options.rows)
    heads = ("charged", "fit_s", "sample_s", "violations, all rules", "days between (real)", "dates off")
    print("|", " | ".join(["generator", "constraints", *heads]), "|")
    print("|---|---|---|---|---|---|---|---|")
    for name in ("independent", "mst"):
        for words, rules in RULES.items():
            line = measure(name, dataclasses.replace(EVERY, constraints=rules), frame, options)
            print("|", " | ".join([name, words, *line]), "|")


if __name__ == "__main__":
    main()
