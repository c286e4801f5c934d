"""What it costs to declare nothing: a generator with every bound, decimals and category learned, beside declared ones.

    .venv/bin/python benchmarks/learned_domains.py --data ../shared/data [--fits 3] [--epsilon 1] [--table adult]
    [--generator mst] [--variants]

One line per schema and table: mean 3-way total variation distance to train and the target's gradient-boosting score
(AUC, R2). Names and kinds of columns, and the texts of booleans, stay declared; in the learned schema every column
that may leave something to be learned leaves out all of it. Defaults were chosen on the tables other than Adult, from
the lines that `--variants` adds.

Distances are taken under the declared schema, so that a category that was not learned counts as lost. The score is the
product's own: real test rows are read under the fitted schema, where such a category is the catch-all too.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pandas as pd
from _common import load

import tabveil as tv
from tabveil import domains, learning
from tabveil.columns import OTHER, Boolean, Categorical, Column

TABLES = ("randhie", "creditcard", "adult")
VARIANTS: dict[str, dict[str, float]] = {
    "learn_share 0.05": {"learn_share": 0.05},
    "learn_share 0.2": {"learn_share": 0.2},
    "3 refining levels": {"LEARNED_LEVELS": 3},
    "4 refining levels": {"LEARNED_LEVELS": 4},
    "64 pieces": {"PIECES": 64},
    "delta share 0.1": {"DELTA_SHARE": 0.1},
}


def all_learned(schema: tv.Schema, share: float | None = None) -> tv.Schema:
    """The schema with everything left out that a fit can learn, and nothing said of missing values."""
    columns = tuple(_left_out(c) for c in schema.columns)
    shared = {} if share is None else {"learn_share": share}
    return dataclasses.replace(schema, columns=columns, **shared)


def _left_out(column: Column) -> Column:
    if not column.learnable:
        return column
    kept = {k: getattr(column, k) for k in ("format", "resolution") if hasattr(column, k)}
    missing = {"missing": column.missing} if column.missing else {}
    return type(column)(name=column.name, learn=True, **missing, **kept)


def _measured_under(schema: tv.Schema) -> tv.Schema:
    """The declared schema, with room for missing cells and for rare categories put together, in which all are
    compared.
    """
    columns = []
    for column in schema.columns:
        changes: dict[str, object] = {} if column.missing or isinstance(column, Boolean) else {"missing": ("",)}
        if isinstance(column, Categorical):
            changes |= {"catch_all": column.catch_all or OTHER, "ordered": False}
        columns.append(dataclasses.replace(column, **changes))
    return dataclasses.replace(schema, columns=tuple(columns))


def measure(
    table: tuple[tv.Schema, pd.DataFrame, pd.DataFrame], schema: tv.Schema, *, epsilon: float, generator: str
) -> tuple[float, float]:
    """3-way distance and the target's first gradient-boosting score of one fit under `schema`."""
    declared, train, test = table
    ledger = tv.Ledger(":memory:")
    ledger.open("benchmark", epsilon=epsilon, delta=1e-5)
    made = tv.create(generator, epsilon=epsilon, delta=1e-5).fit(train, schema, ledger=ledger, dataset="benchmark")
    sample = made.sample(len(train))
    tables = {"train": train, "holdout": test}
    near = tv.evaluate(sample, **tables, schema=_measured_under(declared), metrics=["marginals"])
    useful = tv.evaluate(sample, **tables, schema=made.schema, metrics=["ml_utility"])
    boosted = next(s.value for s in useful if "gradient boosting" in s.name and s.name.startswith(("R2", "ROC AUC")))
    return {s.name: s.value for s in near}["3-way total variation distance to train"], boosted


def lines(schema: tv.Schema, *, variants: bool) -> Iterator[tuple[str, tv.Schema, dict[str, float]]]:
    """What is compared: a name, a schema, and constants changed."""
    yield "declared", schema, {}
    yield "learned", all_learned(schema), {}
    for name, changes in VARIANTS.items() if variants else ():
        constants = {k: v for k, v in changes.items() if k != "learn_share"}
        yield name, all_learned(schema, changes.get("learn_share")), constants


def main() -> None:
    """Compare on every table asked for and print a Markdown table of means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--generator", default="mst")
    parser.add_argument("--table", action="append", choices=list(TABLES))
    parser.add_argument("--variants", action="store_true")
    arguments = parser.parse_args()
    print("| schema | table | 3-way distance | AUC or R2 |\n|---|---|---|---|")
    for name in arguments.table or ("randhie", "creditcard"):
        table = load(name, arguments.data)
        for what, schema, constants in lines(table[0], variants=arguments.variants):
            with ExitStack() as changed:
                for module in (domains, learning):
                    known = {k: v for k, v in constants.items() if k in vars(module)}
                    changed.enter_context(mock.patch.dict(vars(module), known))
                results = [
                    measure(table, schema, epsilon=arguments.epsilon, generator=arguments.generator)
                    for _ in range(arguments.fits)
                ]
            cells = " | ".join(f"{statistics.mean(c):.4f}" for c in zip(*results, strict=True))
            print(f"| {what} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
