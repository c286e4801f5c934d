"""How `auto` chooses, held to measurements: every candidate by rows and epsilon, on tables other than the headline's.

    .venv/bin/python benchmarks/auto_choice.py --data ../shared/data --out benchmarks/results/auto_choice.jsonl

Subsamples of the training rows are fitted with a public row count, 10,000 rows are sampled and scored against all
training rows: mean total variation distance over 100 random sets of three columns (numbers in 8 quantile bins), and for
`creditcard` the AUC on test rows of gradient boosting trained on the sample. One line of JSON per fit; a run goes on
where an earlier one stopped. At the end two Markdown tables: scores per cell, and the regret of `auto`, which is the
distance of its choice less the least of all candidates, with the row count public and private. `--wide 32 64 100` fits
`mst` and `aim` to a made-up table of so many columns instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import load
from mst_budget import TABLES
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

import tabveil as tv
from tabveil.columns import Integer

GENERATORS = ("independent", "mst", "aim")
SAMPLED, TRIPLES, BINS, DELTA = 10_000, 100, 8, 1e-5
CHOSEN_ON = {
    (1.0, 300),
    (1.0, 1_000),
    (1.0, 3_000),
    (1.0, 15_000),
    (0.3, 3_000),
    (10.0, 300),
    (10.0, 1_000),
    (10.0, 3_000),
}
"""Epsilon and rows of the cells on which the thresholds of `auto` were chosen; the others were measured afterwards."""

Cell = tuple[str, float, int]
"""Table, epsilon, rows."""


class Scorer:
    """A table's real rows, ready to score synthetic ones."""

    def __init__(self, name: str, data: Path) -> None:
        self.schema, self.train, self.test = load(name, data)
        self.cuts = {
            c.name: np.unique(self.train[c.name].astype(float).quantile(np.arange(1, BINS) / BINS))
            for c in self.schema.learned
            if c.kind in ("integer", "decimal")
        }
        self.levels = {n: sorted(set(self.train[n].astype(str))) for n in self.schema.names if n not in self.cuts}
        self.names = [c.name for c in self.schema.learned]
        drawn = np.random.default_rng(0)
        self.triples = [drawn.choice(len(self.names), 3, replace=False) for _ in range(TRIPLES)]
        self.real = self.coded(self.train)

    def coded(self, frame: pd.DataFrame) -> np.ndarray:
        """Cells of all columns, shape (rows, columns)."""
        binned = {n: np.searchsorted(cuts, frame[n].astype(float), side="right") for n, cuts in self.cuts.items()}
        listed = {
            n: pd.Categorical(frame[n].astype(str), categories=v).codes.astype(int) + 1 for n, v in self.levels.items()
        }
        return np.column_stack([(binned | listed)[n] for n in self.names])

    def distance(self, frame: pd.DataFrame) -> float:
        """Mean 3-way total variation distance to all training rows."""
        made, sizes = self.coded(frame), [len(self.cuts.get(n, self.levels.get(n, ()))) + 1 for n in self.names]
        return statistics.mean(_distance(self.real[:, t], made[:, t], [sizes[a] for a in t]) for t in self.triples)

    def auc(self, frame: pd.DataFrame) -> float | None:
        """AUC on test rows of boosting trained on `frame`; None where the target is a number."""
        target = self.schema.target
        if target is None or target in self.cuts:
            return None
        at = self.names.index(target)
        made, test = (self.coded(f) for f in (frame, self.test))
        positive = made[:, at].max()
        if len(np.unique(made[:, at])) < 2:
            return 0.5
        model = HistGradientBoostingClassifier(max_iter=50, random_state=0)
        model.fit(np.delete(made, at, 1), made[:, at] == positive)
        return float(roc_auc_score(test[:, at] == positive, model.predict_proba(np.delete(test, at, 1))[:, 1]))


def _distance(real: np.ndarray, made: np.ndarray, sizes: list[int]) -> float:
    counted = [np.bincount(np.ravel_multi_index(tuple(t.T), sizes), minlength=np.prod(sizes)) for t in (real, made)]
    first, second = (c / c.sum() for c in counted)
    return float(np.abs(first - second).sum() / 2)


def fit(scorer: Scorer, generator: str, cell: Cell) -> dict[str, Any]:
    """One fit's scores."""
    name, epsilon, rows = cell
    schema = dataclasses.replace(scorer.schema, public_rows=rows)
    ledger = tv.Ledger(":memory:")
    ledger.open("benchmark", epsilon=epsilon, delta=DELTA)
    start = time.monotonic()
    made = tv.create(generator, epsilon=epsilon, delta=DELTA)
    made.fit(scorer.train.sample(rows, random_state=rows), schema, ledger=ledger, dataset="benchmark")
    seconds = time.monotonic() - start
    frame = made.sample(SAMPLED)
    scores = {"distance": scorer.distance(frame), "auc": scorer.auc(frame), "seconds": round(seconds, 2)}
    return {"table": name, "epsilon": epsilon, "rows": rows, "generator": generator, **scores}


def measured(path: Path) -> dict[Cell, dict[str, list[dict[str, Any]]]]:
    """What was measured so far, by cell and generator."""
    found: dict[Cell, dict[str, list[dict[str, Any]]]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        data = json.loads(line)
        cell = (data["table"], data["epsilon"], data["rows"])
        found.setdefault(cell, {}).setdefault(data["generator"], []).append(data)
    return found


def chosen(cell: Cell, schema: tv.Schema, *, public: bool) -> str:
    """What `auto` would choose in a cell."""
    from tabveil.generators.auto import choose

    known = dataclasses.replace(schema, public_rows=cell[2] if public else None)
    return choose(known, epsilon=cell[1], delta=DELTA).name


def tables(path: Path, schemas: dict[str, tv.Schema]) -> Iterator[str]:
    """Scores per cell and the regret of `auto`, as lines of Markdown; cells that lack a candidate are left out."""
    heads = [*GENERATORS, "auc: " + ", ".join(GENERATORS), "auto", "regret", "auto, rows private", "regret"]
    yield "| table | rows | epsilon | " + " | ".join(heads) + " |\n" + "|---" * (len(heads) + 3) + "|"
    regrets: dict[tuple[bool, str], list[float]] = {}
    for cell, fits in sorted(measured(path).items(), key=lambda c: (c[0][0], c[0][2], c[0][1])):
        if set(fits) < set(GENERATORS):
            continue
        distance = {g: statistics.mean(f["distance"] for f in fits[g]) for g in GENERATORS}
        picks = [chosen(cell, schemas[cell[0]], public=public) for public in (True, False)]
        lost = {pick: distance[pick] - min(distance.values()) for pick in GENERATORS}
        seen = cell[1:] in CHOSEN_ON
        for who, pick in {"auto": picks[0], "auto, rows private": picks[1], **{g: g for g in GENERATORS}}.items():
            regrets.setdefault((seen, who), []).append(lost[pick])
        aucs = [statistics.mean(f["auc"] for f in fits[g]) for g in GENERATORS if fits[g][0]["auc"] is not None]
        shown = [f"{distance[g]:.3f}" for g in GENERATORS] + [", ".join(f"{a:.3f}" for a in aucs)]
        shown += [part for pick in picks for part in (pick, f"{lost[pick]:.3f}")]
        yield f"| {cell[0]} | {cell[2]:,} | {cell[1]:g}{'' if seen else ' *'} | " + " | ".join(shown) + " |"
    yield "\n| always | cells | mean regret | worst regret |\n|---|---|---|---|"
    for (seen, who), values in regrets.items():
        cells = f"{len(values)}, thresholds chosen on them" if seen else f"{len(values)} *, measured afterwards"
        yield f"| {who} | {cells} | {statistics.mean(values):.3f} | {max(values):.3f} |"


def wide(columns: int, generator: str, *, epsilon: float) -> str:
    """A made-up table of 5,000 rows whose columns are one hidden number with noise: how far correlations are off."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 10, (5_000, 1)) + rng.integers(-2, 3, (5_000, columns))
    frame = pd.DataFrame(np.clip(cells, 0, 9), columns=[f"n{i}" for i in range(columns)])
    like = tuple(Integer(name=n, low=0, high=9) for n in frame.columns)
    ledger = tv.Ledger(":memory:")
    ledger.open("benchmark", epsilon=epsilon, delta=DELTA)
    start, made = time.process_time(), tv.create(generator, epsilon=epsilon, delta=DELTA)
    made.fit(frame, tv.Schema(columns=like, public_rows=5_000), ledger=ledger, dataset="benchmark")
    sample = made.sample(5_000).to_numpy(dtype=float)
    off = float(np.abs(np.corrcoef(sample.T) - np.corrcoef(frame.to_numpy().T)).mean())
    return f"| {columns} | {epsilon:g} | {generator} | {off:.2f} | {time.process_time() - start:.0f} |"


def main() -> None:
    """Fit what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epsilons", type=float, nargs="*", default=[1.0, 0.1, 10.0, 0.3, 0.03])
    parser.add_argument("--rows", type=int, nargs="*", default=[300, 1_000, 3_000, 15_000])
    parser.add_argument("--fits", type=int, default=1)
    parser.add_argument("--wide", type=int, nargs="*", help="Only the made-up table, with so many columns.")
    arguments = parser.parse_args()
    if arguments.wide:
        print("| columns | epsilon | generator | correlations off by | CPU seconds |\n|---|---|---|---|---|")
        for columns, epsilon, generator in itertools.product(arguments.wide, arguments.epsilons, GENERATORS[1:]):
            print(wide(columns, generator, epsilon=epsilon), flush=True)
        return
    scorers = {name: Scorer(name, arguments.data) for name in TABLES}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = measured(arguments.out)
    for epsilon, rows, name in itertools.product(arguments.epsilons, arguments.rows, TABLES):
        cell = (name, epsilon, rows)
        for generator in GENERATORS:
            for _ in range(arguments.fits - len(done.get(cell, {}).get(generator, []))):
                with arguments.out.open("a") as out:
                    out.write(json.dumps(fit(scorers[name], generator, cell)) + "\n")
    print("\n".join(tables(arguments.out, {n: s.schema for n, s in scorers.items()})))


if __name__ == "__main__":
    main()
