"""Speed of sampling under conditions and of imputing, on a model of Adult's size.

    PYTHONPATH=src python benchmarks/conditions.py --data ../shared/data

One fit of mst (epsilon 1, delta 1e-5), then each task three times; prints a line of JSON per task: median seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tabveil as tv

ROWS = 100_000
THREE = {"age": (40, None), "sex": "Female", "hours-per-week": (20, 45)}


def main() -> None:
    """Fit once, time every task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    data = Path(parser.parse_args().data)
    schema = tv.Schema.from_yaml(Path(__file__).parent / "schemas" / "adult.schema.yaml")
    train = pd.read_csv(data / "adult_train.csv.gz", dtype=str, keep_default_na=False)
    ledger = tv.Ledger(":memory:")
    ledger.open("benchmark", epsilon=1.0, delta=1e-5)
    made = tv.create("mst", epsilon=1.0, delta=1e-5).fit(train, schema, ledger=ledger, dataset="benchmark")
    gaps = train.mask(np.random.default_rng(0).random(train.shape) < 0.1)
    tasks: dict[str, Callable[[], Any]] = {
        f"sample {ROWS:,} rows": lambda: made.sample(ROWS),
        f"sample {ROWS:,} rows under three conditions": lambda: made.sample(ROWS, where=THREE),
        f"sample {ROWS:,} rows, label balanced": lambda: made.sample(ROWS, balance="income"),
        f"impute {len(gaps):,} rows, 10 % of cells missing": lambda: made.impute(gaps),
    }
    for name, task in tasks.items():
        print(json.dumps({"task": name, "seconds": round(_median(task), 2)}))


def _median(task: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
