"""How `mst` divides its budget and cuts its columns: variants side by side, on tables other than the headline's.

    .venv/bin/python benchmarks/mst_budget.py --data ../shared/data [--fits 3] [--epsilon 1]

One line per variant and table: mean 3-way total variation distance to train, the target's gradient-boosting score
(AUC, R2), and how far column means and standard deviations stray (in real standard deviations, in logarithms). The
defaults are the line "as shipped".
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from _common import load

import tabveil as tv
from tabveil import domains
from tabveil.generators import mst

TABLES = ("randhie", "creditcard")
VARIANTS: dict[str, tuple[dict[str, object], dict[str, object], dict[str, int]]] = {
    "as shipped": ({}, {}, {}),
    "extra_pairs=0 (the paper's tree)": ({}, {}, {"extra_pairs": 0}),
    "256 branches": ({"BRANCHES": 256, "FLAT": 256}, {}, {}),
    "empty first pieces kept": ({"CLEAR_NOISE": 0.0}, {}, {}),
    "fewer cells": ({"PAIR_NOISE": 8.0}, {}, {}),
    "more cells": ({"PAIR_NOISE": 1.0}, {}, {}),
    "no handicap": ({}, {"NOISE_HANDICAP": 0.0}, {}),
    "handicap 0.8": ({}, {"NOISE_HANDICAP": 0.8}, {}),
    "choices 3 %": ({}, {"SHARES": {"refine": 0.12, "one_way": 0.10, "choose": 0.03, "two_way": 0.75}}, {}),
    "refining 25 %": ({}, {"SHARES": {"refine": 0.25, "one_way": 0.10, "choose": 0.08, "two_way": 0.57}}, {}),
}


def measure(
    table: tuple[tv.Schema, pd.DataFrame, pd.DataFrame],
    epsilon: float,
    options: dict[str, int],
    *,
    generator: str = "mst",
) -> list[float]:
    """3-way distance, the target's first gradient-boosting score, shift of means, stray of standard deviations."""
    schema, train, test = table
    ledger = tv.Ledger(":memory:")
    ledger.open("benchmark", epsilon=epsilon, delta=1e-5)
    made = tv.create(generator, epsilon=epsilon, delta=1e-5, **options)
    sample = made.fit(train, schema, ledger=ledger, dataset="benchmark").sample(len(train))
    scores = {s.name: s.value for s in tv.evaluate(sample, train=train, holdout=test, schema=schema)}
    boosted = next(v for k, v in scores.items() if "gradient boosting" in k and k.startswith(("R2", "ROC AUC")))
    columns = [c.name for c in schema.columns if c.kind in ("integer", "decimal")]
    real, made_up = train[columns].astype(float), sample[columns].astype(float)
    shift = float(((made_up.mean() - real.mean()).abs() / real.std()).mean())
    stray = float(np.log(made_up.std() / real.std()).abs().mean())
    return [scores["3-way total variation distance to train"], boosted, shift, stray]


def main() -> None:
    """Run every variant on every table and print a Markdown table of means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--epsilon", type=float, default=1.0)
    arguments = parser.parse_args()
    print("| variant | table | 3-way distance | AUC or R2 | means | deviations |\n|---|---|---|---|---|---|")
    tables = {name: load(name, arguments.data) for name in TABLES}
    for variant, (in_domains, in_mst, options) in VARIANTS.items():
        for name, table in tables.items():
            with mock.patch.dict(vars(domains), in_domains), mock.patch.dict(vars(mst), in_mst):
                results = [measure(table, arguments.epsilon, options) for _ in range(arguments.fits)]
            cells = " | ".join(f"{statistics.mean(column):.3f}" for column in zip(*results, strict=True))
            print(f"| {variant} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
