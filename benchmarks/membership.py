"""Every membership attack on tables that leak in known ways, and on those of generators, beside what DCR says of them.

    .venv/bin/python benchmarks/membership.py --data ../shared/data --table adult
    .venv/bin/python benchmarks/membership.py --data ../shared/data --only bootstrap smote --generators aim@1 ctgan@inf

`fresh`: other real rows, nothing leaks. `smote`: each row is somewhere between a training row and one of its five
neighbours. `cells`: training rows with 30 % of their cells drawn anew. `tenth`: fresh rows but for one in ten, a
training row with 10 % of its cells drawn anew. `bootstrap`: training rows drawn with replacement. With `--generators`
as many rows of each, fitted to the training rows at the epsilon behind the @. Prints one line of JSON per table and
kind of targets: area under the ROC curve and rate of recognised rows at 1 % false alarms by attack. Reads real rows
outside any budget: INTERNAL.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from _common import load, parse

from tabveil.audit._membership_scores import around, scaled
from tabveil.audit.base import AuditInput
from tabveil.audit.membership import measure
from tabveil.generators.base import create
from tabveil.ledger import Ledger
from tabveil.schema import Schema

DELTA = 1e-5


def smote(train: pd.DataFrame, near: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Numbers between a row and a neighbour, categories from one or the other; `near`: neighbours, shape (rows, 5)."""
    rows = np.arange(len(train))
    other, share = train.iloc[near[rows, rng.integers(0, near.shape[1], len(rows))]], rng.random(len(rows))
    made = {}
    for name in train:
        ours, theirs = train[name].to_numpy(), other[name].to_numpy()
        number = pd.api.types.is_numeric_dtype(train[name])
        between = np.rint(ours + share * (theirs - ours)).astype(ours.dtype) if number else None
        made[name] = between if number else np.where(rng.random(len(rows)) < 0.5, ours, theirs)
    return pd.DataFrame(made)


def cells(train: pd.DataFrame, share: float, rng: np.random.Generator) -> pd.DataFrame:
    """Training rows with that share of their cells drawn from the column."""
    anew = {name: train[name].to_numpy()[rng.permutation(len(train))] for name in train}
    return pd.DataFrame({n: np.where(rng.random(len(train)) < share, anew[n], train[n].to_numpy()) for n in train})


def generated(text: str, train: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """As many rows as there are training rows, of `name:options@epsilon` fitted to them."""
    called, _, epsilon = text.rpartition("@")
    name, options = parse(called)
    ledger, paid = Ledger(":memory:"), math.isfinite(float(epsilon))
    if paid:
        ledger.open("benchmark", epsilon=float(epsilon), delta=DELTA)
    made = create(name, epsilon=float(epsilon), delta=DELTA if paid else None, **options)
    made.fit(train, schema, ledger=ledger if paid else None, dataset="benchmark" if paid else None)
    return made.sample(len(train))


def dcr(data: AuditInput) -> list[float]:
    """Distance to the closest training row, synthetic over held-out rows, at the 5 % quantile and the median."""
    learned = data.schema.learned
    made, fresh, real = (scaled(learned, data.codes[role]) for role in ("synthetic", "holdout", "train"))
    marks = [np.quantile(around(table, real, k=1).distance, [0.05, 0.5]) for table in (made, fresh)]
    return [round(float(a / b), 3) if b else float("nan") for a, b in zip(*marks, strict=True)]


def main() -> None:
    """Make each table, attack it, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--table", default="adult")
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="made tables to attack; all by default")
    parser.add_argument("--generators", nargs="*", default=[], help="name:options@epsilon")
    given = parser.parse_args()
    schema, *parts = load(given.table, given.data)
    real = pd.concat(parts)
    rng = np.random.default_rng(given.seed)
    order, n = rng.permutation(len(real)), given.rows
    train, fresh, holdout = (real.iloc[rows].reset_index(drop=True) for rows in np.split(order, [n, 2 * n, 4 * n])[:3])
    codes = AuditInput(synthetic=fresh, train=train, holdout=None, schema=schema).codes["train"]
    ours = scaled(schema.learned, codes)
    near = around(ours, ours, k=6).index[:, 1:]
    tables: dict[str, Callable[[], pd.DataFrame]] = {
        "fresh": lambda: fresh,
        "smote": lambda: smote(train, near, rng),
        "cells": lambda: cells(train, 0.3, rng),
        "tenth": lambda: pd.concat([fresh.iloc[n // 10 :], cells(train, 0.1, rng).iloc[: n // 10]]),
    }
    tables["bootstrap"] = lambda: train.sample(n, replace=True, random_state=given.seed)
    tables = {name: tables[name] for name in (tables if given.only is None else given.only)}
    tables |= {g: functools.partial(generated, g, train, schema) for g in given.generators}
    for name, make in tables.items():
        data = AuditInput(synthetic=make(), train=train, holdout=holdout, schema=schema)
        start = time.process_time()
        attack = measure(data).attack
        record = {"table": name, "dcr": dcr(data), "cpu_seconds": round(time.process_time() - start, 1)}
        for whom, outcomes in attack.items():
            areas = {a: round(o.pairs.rate, 3) for a, o in outcomes.items()}
            rates = {a: [round(o.recognised[0].rate, 3), round(o.alarms[0].rate, 3)] for a, o in outcomes.items()}
            print(json.dumps({**record, "targets": whom, "area": areas, "recognised, alarms": rates}), flush=True)


if __name__ == "__main__":
    main()
