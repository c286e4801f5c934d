"""How `aim` divides its budget, cuts its columns and works in rounds: variants side by side, on tables other than the
headline's.

    .venv/bin/python benchmarks/aim_budget.py --data ../shared/data [--fits 3] [--epsilons 1 10] [--variants ...]

One line per variant, epsilon and table, as `mst_budget.py`, and seconds of a fit with its scores. The defaults are the
line "as shipped".
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from _common import load
from mst_budget import TABLES, measure

from tabveil import domains
from tabveil.generators import aim

VARIANTS: dict[str, dict[str, object]] = {
    "as shipped": {},
    "half the noise per cell: more cells": {"aim.ROW_NOISE": aim.ROW_NOISE / 2},
    "twice the noise per cell: fewer cells": {"aim.ROW_NOISE": aim.ROW_NOISE * 2},
    "at most 36 cells": {"aim.CELLS": (4, 36)},
    "pieces and cells of 0.8 % at least, cut at 4 deviations": {"domains.LEAST_SHARE": 0.008, "domains.CUT_NOISE": 4.0},
    "target weighs 1": {"aim.TARGET_WEIGHT": 1.0},
    "target weighs 5": {"aim.TARGET_WEIGHT": 5.0},
    "2 rounds": {"aim.ROUNDS": 2},
    "4 rounds": {"aim.ROUNDS": 4},
    "1 marginal per column": {"aim.PER_COLUMN": (1, 1)},
    "2 marginals per column": {"aim.PER_COLUMN": (2, 2)},
    "3 marginals per column": {"aim.PER_COLUMN": (3, 3)},
    "no raking within a round": {"aim._informed": lambda contest, *_: contest},
    "refining 6 %, one-way 6 %": {"aim.SHARES": {"refine": 0.06, "one_way": 0.06, "choose": 0.04, "count": 0.84}},
    "refining 20 %, one-way 10 %": {"aim.SHARES": {"refine": 0.20, "one_way": 0.10, "choose": 0.04, "count": 0.66}},
    "choices 8 %": {"aim.SHARES": {"refine": 0.12, "one_way": 0.08, "choose": 0.08, "count": 0.72}},
}


@contextlib.contextmanager
def varied(changes: dict[str, object]) -> Iterator[None]:
    """With each "module.name" replaced."""
    with contextlib.ExitStack() as stack:
        for place, value in changes.items():
            module, name = place.split(".")
            stack.enter_context(mock.patch.object({"aim": aim, "domains": domains}[module], name, value))
        yield


def main() -> None:
    """Run every variant on every table and print a Markdown table of means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    arguments = parser.parse_args()
    print("| variant | epsilon | table | 3-way distance | AUC or R2 | means | deviations | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    tables = {name: load(name, arguments.data) for name in TABLES}
    for variant in arguments.variants:
        for epsilon in arguments.epsilons:
            for name, table in tables.items():
                with varied(VARIANTS[variant]):
                    start = time.perf_counter()
                    results = [measure(table, epsilon, {}, generator="aim") for _ in range(arguments.fits)]
                    seconds = (time.perf_counter() - start) / arguments.fits
                cells = " | ".join(f"{statistics.mean(column):.3f}" for column in zip(*results, strict=True))
                print(f"| {variant} | {epsilon:g} | {name} | {cells} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
