r"""Synth-MIA's attacks beside ours: the same tables, members, outsiders and reference rows.

    git clone https://github.com/joshward96/Synth-MIA     # Apache 2.0; run, never copied
    python -m venv peer && peer/bin/pip install numpy "pandas<3" scipy scikit-learn tqdm torch geomloss
    .venv/bin/python benchmarks/membership_peers.py --data ../shared/data --peer-python peer/bin/python \
        --peer-source Synth-MIA

The tables are those of `membership.py`. Each attack's area under the ROC curve is counted over the same pairs of a
training and a held-out row, those that our attacks are measured on; of the peer's two encodings the better one is
shown, of ours every attack as it is. Prints a Markdown table. Reads real rows outside any budget: INTERNAL.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from _common import head, line, load
from membership import cells, smote

from tabveil.audit import membership, mia_marginal
from tabveil.audit._membership_game import Targets, targets_of
from tabveil.audit._membership_scores import around, scaled
from tabveil.audit.base import AuditInput
from tabveil.audit.rates import pairs
from tabveil.schema import Schema

Areas = dict[str, float]


def tables(train: pd.DataFrame, fresh: pd.DataFrame, schema: Schema, *, seed: int) -> dict[str, pd.DataFrame]:
    """The made tables of `membership.py`, by name."""
    rng, n = np.random.default_rng(seed), len(train)
    codes = AuditInput(synthetic=fresh, train=train, holdout=None, schema=schema).codes["train"]
    ours = scaled(schema.learned, codes)
    near = around(ours, ours, k=6).index[:, 1:]
    return {
        "smote": smote(train, near, rng),
        "cells": cells(train, 0.3, rng),
        "tenth": pd.concat([fresh.iloc[n // 10 :], cells(train, 0.1, rng).iloc[: n // 10]]),
        "fresh": fresh,
    }


def ours(data: AuditInput) -> Areas:
    """The areas of both auditors' attacks, for random rows."""
    found = {"": membership.measure(data), "marginals: ": mia_marginal.measure(data)}
    return {
        f"{prefix}{name}": outcome.pairs.rate
        for prefix, measured in found.items()
        for name, outcome in measured.attack["random"].items()
    }


def peers(data: AuditInput, targets: Targets, given: argparse.Namespace) -> Areas:
    """The areas of Synth-MIA's attacks over the same pairs, the better of two encodings."""
    n = len(targets.members)
    assert data.holdout is not None
    frames = {
        "members": data.train.iloc[targets.members],
        "outsiders": data.holdout.iloc[targets.outsiders[:n]],
        "synthetic": data.synthetic,
        "reference": data.holdout.iloc[targets.reference],
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, frame in frames.items():
            frame[[c.name for c in data.schema.learned]].to_csv(Path(folder) / f"{name}.csv", index=False)
        script = Path(__file__).parent / "_synth_mia.py"
        environment = os.environ | {"PYTHONPATH": str(given.peer_source.resolve())}
        quiet = subprocess.DEVNULL  # it draws progress bars
        subprocess.run([given.peer_python, script, folder], check=True, env=environment, stderr=quiet)
        scores = json.loads((Path(folder) / "scores.json").read_text())
    best: Areas = {}
    for key, values in scores.items():
        name = key.split()[0]
        inside, outside = np.split(np.array(values), 2)
        best[name] = max(best.get(name, 0.0), pairs(inside[::2], outside[::2]).rate)
    return best


def main() -> None:
    """Make each table, attack it from both sides, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer-python", required=True, help="an interpreter with what Synth-MIA needs")
    parser.add_argument("--peer-source", type=Path, required=True, help="folder that holds synth_mia")
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=["smote", "cells", "tenth", "fresh"], help="tables to attack")
    given = parser.parse_args()
    schema, *parts = load("adult", given.data)
    real = pd.concat(parts)
    order, n = np.random.default_rng(given.seed).permutation(len(real)), given.rows
    pieces = np.split(order, [n, 2 * n, 4 * n])[:3]
    train, fresh, holdout = (real.iloc[rows].reset_index(drop=True) for rows in pieces)
    head("table", "whose", "attack", "area")
    made = tables(train, fresh, schema, seed=given.seed)
    for table in given.only:
        data = AuditInput(synthetic=made[table], train=train, holdout=holdout, schema=schema)
        sides = {"ours": ours(data), "Synth-MIA": peers(data, targets_of(data), given)}
        for whose, areas in sides.items():
            for attack, area in sorted(areas.items(), key=lambda item: -item[1]):
                line(table, whose, attack, f"{area:.3f}")


if __name__ == "__main__":
    main()
