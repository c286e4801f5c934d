"""How long anonymity takes: tables of 8 quasi-identifiers and 2 sensitive columns, by number of rows.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/anonymity.py --rows 1_000_000

Prints one line of a Markdown table for each of: one table by itself; the real and the synthetic one with each against
the other; these and a population of twice as many rows. Each searches all 162 subsets of at most 4 columns and gives
every measure over all 8 columns and over the worst subset. `--areas` sets how many postal areas there are: with many,
classes are told apart by hashing rather than in a list. Processor seconds are of all threads together; peak memory is
the highest so far, the tables included.
"""

from __future__ import annotations

import argparse
import datetime as dt
import resource
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from _common import head, line

from tabveil.audit import measure
from tabveil.audit.anonymity import Policy, measured
from tabveil.columns import Boolean, Categorical, Date, Integer
from tabveil.records import Measurement
from tabveil.schema import Schema

ILLS = tuple(f"ill {i:02d}" for i in range(30))


def schema_of(areas: int) -> Schema:
    """8 quasi-identifiers, a sensitive category and a sensitive number."""
    columns = (
        Integer(name="age", low=0, high=99),
        Categorical(name="sex", categories=("F", "M")),
        Categorical(name="area", categories=tuple(f"{i:05d}" for i in range(areas))),
        Date(name="admitted", low=dt.date(2015, 1, 1), high=dt.date(2024, 12, 31)),
        Categorical(name="origin", categories=tuple(f"land {i:02d}" for i in range(40)), missing=("",)),
        Categorical(name="status", categories=("single", "married", "widowed", "parted")),
        Boolean(name="insured", missing=("",), invalid="missing"),
        Integer(name="children", low=0, high=15, missing=("",)),
        Categorical(name="ill", categories=ILLS),
        Integer(name="cost", low=0, high=99_999),
    )
    names = tuple(c.name for c in columns)
    return Schema(columns=columns, quasi_identifiers=names[:8], sensitive=names[8:])


def made(schema: Schema, rows: int, seed: int) -> pd.DataFrame:
    """Rows of skewed categories, with missing cells: few share all 8 columns."""
    rng = np.random.default_rng(seed)
    listed = {n: np.array(schema[n].labels, dtype=object) for n in ("sex", "area", "origin", "status", "ill")}  # type: ignore[attr-defined]
    skewed = {n: labels[(len(labels) * rng.random(rows) ** 2).astype(int)] for n, labels in listed.items()}
    origin = pd.Series(skewed["origin"]).where(rng.random(rows) > 0.05, None)
    days = pd.to_timedelta(rng.integers(0, 3_653, rows), unit="D")
    return pd.DataFrame(
        {
            **skewed,
            "age": np.clip(rng.gamma(6.0, 7.0, rows), 0, 99).astype(np.int64),
            "admitted": pd.Timestamp("2015-01-01") + days,
            "origin": origin,
            "insured": pd.array(rng.random(rows) < 0.9, dtype="boolean"),
            "children": pd.array(np.minimum(rng.poisson(1.4, rows), 15), dtype="Int64"),
            "cost": np.clip(rng.lognormal(8, 1, rows), 0, 99_999).astype(np.int64),
        }
    )


def timed(name: str, rows: str, work: Callable[[], Sequence[Measurement]]) -> None:
    """Print how long `work` took, and the k it found."""
    start, busy = time.perf_counter(), time.process_time()
    found = work()
    wall, cpu = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line(name, rows, len(found), f"{wall:.1f}", f"{cpu:.1f}", f"{peak:.2f}")


def main() -> None:
    """Make tables, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: int(text.replace("_", "")), default=1_000_000)
    parser.add_argument("--areas", type=int, default=100)
    given = parser.parse_args()
    schema, rows = schema_of(given.areas), given.rows
    real, synthetic, population = (made(schema, n, seed) for seed, n in enumerate((rows, rows, 2 * rows)))
    policy = Policy(quasi_identifiers=schema.quasi_identifiers, sensitive=schema.sensitive)
    head("tables", "rows", "measurements", "seconds", "processor seconds", "peak GiB")
    timed("one", f"{rows:,}", lambda: measured(real, schema, policy=policy))
    timed("real, synthetic", f"2 x {rows:,}", lambda: measure(synthetic, train=real, schema=schema))
    timed(
        "real, synthetic, population",
        f"4 x {rows:,}",
        lambda: measure(synthetic, train=real, population=population, schema=schema),
    )


if __name__ == "__main__":
    main()
