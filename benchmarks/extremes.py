"""Peak memory and seconds on extreme tables: a column of 5,000 categories, and 100 columns.

    .venv/bin/python benchmarks/extremes.py --generators tvae ctgan --epsilons 1 inf [--rows 20000] [--limit-mb 4096]

Tables are made up: in the first, 5,000 categories with shares that fall like 1 / rank, a number and a flag that follow
from them; in the second 50 numbers and 50 columns of 8 categories, each like the one before it. Every fit and its
sample run in a process of their own, whose greatest resident memory is shown (getrusage), the libraries' included.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from _common import Fit, fit_apart, head, keep, line

from tabveil.columns import Boolean, Categorical, Column, Integer
from tabveil.schema import Schema

CATEGORIES, COLUMNS = 5_000, 100
SHOWN = ("fit_s", "fit_cpu_s", "rows_per_s", "peak_mb")


def many_categories(rows: int, rng: np.random.Generator) -> tuple[Schema, pd.DataFrame]:
    """A column of 5,000 categories, a number and a flag that follow from it."""
    ranks = np.arange(1, CATEGORIES + 1)
    place = rng.choice(CATEGORIES, rows, p=1 / ranks / (1 / ranks).sum())
    columns: tuple[Column, ...] = (
        Categorical(name="place", categories=tuple(f"p{i}" for i in range(CATEGORIES))),
        Integer(name="height", low=0, high=1_000),
        Boolean(name="coast", true=("yes",), false=("no",)),
    )
    height = np.clip(place / 5 + rng.normal(0, 20, rows), 0, 1_000).astype(int)
    coast = np.where(rng.random(rows) < 0.1 + 0.8 * (place % 2), "yes", "no")
    return Schema(columns=columns), pd.DataFrame({"place": [f"p{i}" for i in place], "height": height, "coast": coast})


def many_columns(rows: int, rng: np.random.Generator) -> tuple[Schema, pd.DataFrame]:
    """100 columns, each like the one before it."""
    level, columns, values = rng.random(rows), [], {}
    for i in range(COLUMNS):
        level = np.clip(0.8 * level + 0.2 * rng.random(rows), 0, 1 - 1e-9)
        if i % 2:
            columns.append(Categorical(name=f"c{i}", categories=tuple("abcdefgh")))
            values[f"c{i}"] = np.array(list("abcdefgh"))[(8 * level).astype(int)]
        else:
            columns.append(Integer(name=f"c{i}", low=0, high=999))
            values[f"c{i}"] = (1_000 * level).astype(int)
    return Schema(columns=tuple(columns)), pd.DataFrame(values)


TABLES = {"5,000 categories": many_categories, "100 columns": many_columns}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", nargs="+", default=["tvae"])
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0, float("inf")])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--limit-mb", type=float, default=4_096, help="fail above it")
    parser.add_argument("--out", help="append a line of JSON per fit to this file")
    arguments = parser.parse_args()
    head("table", "generator", "epsilon", *SHOWN)
    worst = 0.0
    for (name, make), generator, epsilon in itertools.product(TABLES.items(), arguments.generators, arguments.epsilons):
        with tempfile.TemporaryDirectory() as folder:
            table, schema = Path(folder) / "t.csv", Path(folder) / "t.schema.yaml"
            declared, frame = make(arguments.rows, np.random.default_rng(0))
            frame.to_csv(table, index=False)
            declared.to_yaml(schema)
            fit = Fit(generator, epsilon, 1e-5, str(table), str(schema), arguments.rows)
            numbers = fit_apart(fit, str(Path(folder) / "synthetic.csv"))
        line(name, generator, f"{epsilon:g}", *(format(numbers[key], ".4g") for key in SHOWN))
        keep(arguments, {"table": name, "generator": generator, "epsilon": epsilon, **numbers})
        worst = max(worst, numbers["peak_mb"])
    if worst > arguments.limit_mb:
        raise SystemExit(f"{worst:.0f} MB are more than {arguments.limit_mb:.0f}.")


if __name__ == "__main__":
    main()
