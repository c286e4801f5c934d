"""anonymeter's three questions, asked of tables that leak in known ways and of a private one.

    tabveil env create anonymeter
    .venv/bin/python benchmarks/anonymeter.py --data ../shared/data --table adult

`fresh`: other real rows, nothing leaks. `bootstrap`: training rows drawn with replacement, everything leaks. Then a
fit of each --generator at --epsilon. The --sensitive columns are guessed, the rest is known. Prints one line of JSON
per table and attack, a finding as `tabveil.audit` gives it, with the seconds of the audit. Reads real rows outside any
budget: INTERNAL.

    .venv/bin/python benchmarks/anonymeter.py --data ../shared/data --rows 400 --attempts 10000 --blind 100

asks instead of so many synthetic tables that know nothing of train: in each audit train, holdout and synthetic table
are cut anew from the real rows at random, train twice as long in every other one. Given the real rows, audits are
independent of each other. Prints the findings beyond their baselines, then one line: in how many audits any finding
was, and each finding by its name, with exact 95 % limits, and what all findings of an audit share as their chance of
error.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import load
from scipy import stats

import tabveil as tv
from tabveil.audit import anonymeter, rates
from tabveil.audit.base import ALPHA

DELTA = 1e-5


def synthetic(generator: str, train: pd.DataFrame, schema: tv.Schema, *, epsilon: float, seed: int) -> pd.DataFrame:
    """As many rows as `train` has, of a private fit to it."""
    ledger = tv.Ledger(":memory:")
    ledger.open("benchmark", epsilon=epsilon, delta=DELTA)
    made = tv.create(generator, epsilon=epsilon, delta=DELTA, random_state=seed)
    made.fit(train, schema, ledger=ledger, dataset="benchmark")
    return made.sample(len(train), random_state=seed)


def blind(real: pd.DataFrame, schema: tv.Schema, *, rows: int, audits: int, seed: int) -> dict[str, Any]:
    """What `audits` of tables made without a look at train claim."""
    beyond: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    guilty = 0
    for i in range(audits):
        rng = np.random.default_rng([seed, i])
        ends = np.cumsum([rows * (1 + i % 2), rows, rows])
        cuts = np.split(rng.permutation(len(real))[: ends[-1]], ends[:-1])
        train, holdout, synthetic = (real.iloc[c].reset_index(drop=True) for c in cuts)
        found = tv.audit(
            synthetic, train=train, holdout=holdout, schema=schema, auditors=["anonymeter"], random_state=i
        )
        wrong = [f for f in found if rates.beyond(f)]
        for f in wrong:
            print(json.dumps({"audit": i} | f.to_dict()), flush=True)
        asked.update(f.name for f in found)
        beyond.update(f.name for f in wrong)
        guilty += bool(wrong)
    return {
        "audits beyond": _limits(guilty, audits),
        "allowed": ALPHA,
        "findings beyond": {name: _limits(beyond[name], count) for name, count in asked.items()},
    }


def _limits(errors: int, tries: int) -> dict[str, Any]:
    """Errors among independent tries, and the exact limits (Clopper and Pearson 1934) of their chance at 95 %."""
    interval = stats.binomtest(errors, tries).proportion_ci(0.95, method="exact")
    return {"of": tries, "beyond": errors, "limits": [round(interval.low, 4), round(interval.high, 4)]}


def main() -> None:
    """Make each table, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--table", default="adult")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--generator", nargs="*", default=["aim"])
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--sensitive", nargs="*", default=["income", "hours-per-week"])
    parser.add_argument("--attempts", type=int, default=anonymeter.ATTEMPTS)
    parser.add_argument("--blind", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    schema, *parts = load(given.table, given.data)
    schema = dataclasses.replace(schema, sensitive=tuple(given.sensitive))
    real, n, anonymeter.ATTEMPTS = pd.concat(parts), given.rows, given.attempts
    if given.blind:
        print(json.dumps(blind(real, schema, rows=n, audits=given.blind, seed=given.seed)))
        return
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
