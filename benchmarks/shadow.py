"""The privacy game with shadow fits: generators whose leaks are known, beside ours.

    .venv/bin/python benchmarks/shadow.py --data ../shared/data --table randhie

`rows`: gives the rows it was fitted to. `bootstrap`: draws from them with replacement. The others are `tabveil`'s, at
the epsilon shown. Prints a Markdown table, one line per generator and target. Reads real rows outside any budget:
INTERNAL.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from _common import head, line, load

from tabveil.audit.base import AuditInput, Refit
from tabveil.audit.shadow import Shadow
from tabveil.refitting import Refitting
from tabveil.schema import Schema


@dataclass(frozen=True)
class Rows:
    """Gives the rows, or as many drawn from them."""

    drawn: bool
    rows: int

    def __call__(self, table: pd.DataFrame, seed: int) -> pd.DataFrame:
        """The rows, whatever the seed, or draws with replacement."""
        if not self.drawn:
            return table
        return table.iloc[np.random.default_rng(seed).integers(0, len(table), self.rows)].reset_index(drop=True)


def refits(schema: Schema, rows: int, names: list[str]) -> dict[str, Refit]:
    """By name: `rows`, `bootstrap`, or NAME@EPSILON."""
    found: dict[str, Refit] = {}
    for name in names:
        plugin, _, epsilon = name.partition("@")
        if not epsilon:
            found[name] = Rows(drawn=name == "bootstrap", rows=rows)
            continue
        delta = 1e-5 if math.isfinite(float(epsilon)) else None
        found[name] = Refitting(generator=plugin, schema=schema, rows=rows, epsilon=float(epsilon), delta=delta)
    return found


def main() -> None:
    """Play the game with each generator, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--table", default="randhie")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--fits", type=int, default=64)
    parser.add_argument("--targets", nargs="+", default=["achilles", "random"])
    parser.add_argument("--seed", type=int, default=0)
    default = ["rows", "bootstrap", "independent@inf", "independent@1", "mst@10", "mst@inf"]
    parser.add_argument("--generators", nargs="+", default=default)
    given = parser.parse_args()
    schema, train, _ = load(given.table, given.data)
    train = train.sample(5_000, random_state=given.seed).reset_index(drop=True)
    head("generator@epsilon", "target", "area (interval)", "control", "epsilon at least", "at most shown", "cpu s")
    for name, refit in refits(schema, given.rows, given.generators).items():
        promise = refit.promise if isinstance(refit, Refitting) else None
        data = AuditInput(synthetic=train, train=train, holdout=None, schema=schema, refit=refit, promise=promise)
        start = time.process_time()
        auditor = Shadow(targets=given.targets, fits=given.fits, rows=given.rows, jobs=1)
        found = auditor.compute(data)
        seconds = time.process_time() - start
        for target, area, bound in zip(given.targets, found[::2], found[1::2], strict=True):
            low, high = area.interval
            shown = f"{area.value:.2f} ({low:.2f} to {high:.2f})"
            epsilons = (f"{bound.interval[0]:.2f}", f"{bound.ceiling:.2f}")
            line(name, target, shown, f"{area.control:.2f}", *epsilons, f"{seconds:.0f}")


if __name__ == "__main__":
    main()
