"""anonymeter's three questions, asked of tables that leak in known ways and of a private one.

    tabveil env create anonymeter
    .venv/bin/python benchmarks/anonymeter.py --data ../shared/data --table adult

`fresh`: other real rows, nothing leaks. `bootstrap`: training rows drawn with replacement, everything leaks. Then a
fit of each --generator at --epsilon. The --sensitive columns are guessed, the rest is known. Prints one line of JSON
per table and attack, a finding as `tabveil.audit` gives it, with the seconds of the audit. Reads real rows outside any
budget: INTERNAL.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from _common import load

import tabveil as tv

DELTA = 1e-5


def synthetic(generator: str, train: pd.DataFrame, schema: tv.Schema, *, epsilon: float, seed: int) -> pd.DataFrame:
    """As many rows as `train` has, of a private fit to it."""
    ledger = tv.Ledger(":memory:")
    ledger.open("benchmark", epsilon=epsilon, delta=DELTA)
    made = tv.create(generator, epsilon=epsilon, delta=DELTA, random_state=seed)
    made.fit(train, schema, ledger=ledger, dataset="benchmark")
    return made.sample(len(train), random_state=seed)


def main() -> None:
    """Make each table, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--table", default="adult")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--generator", nargs="*", default=["aim"])
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--sensitive", nargs="*", default=["income", "hours-per-week"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    schema, *parts = load(given.table, given.data)
    schema = dataclasses.replace(schema, sensitive=tuple(given.sensitive))
    real, n = pd.concat(parts), given.rows
    rng = np.random.default_rng(given.seed)
    cuts = np.split(rng.permutation(len(real)), [n, 2 * n, 3 * n])[:3]
    train, fresh, holdout = (real.iloc[rows].reset_index(drop=True) for rows in cuts)
    tables = {"fresh": fresh, "bootstrap": train.iloc[rng.integers(0, n, n)].reset_index(drop=True)}
    for generator in given.generator:
        tables[generator] = synthetic(generator, train, schema, epsilon=given.epsilon, seed=given.seed)
    for name, rows in tables.items():
        start = time.monotonic()
        found = tv.audit(rows, train=train, holdout=holdout, schema=schema, auditors=["anonymeter"])
        seconds = round(time.monotonic() - start, 1)
        for f in found:
            print(json.dumps({"table": name, "seconds": seconds} | f.to_dict()), flush=True)


if __name__ == "__main__":
    main()
