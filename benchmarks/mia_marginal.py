"""Attacks on the marginals that our generators keep, beside the attacks that know no generator.

    .venv/bin/python benchmarks/mia_marginal.py --data ../shared/data

Adult, 1,000 training rows (few, so that leaks show), 8,000 held-out rows. Each generator is fitted to the training rows
`--fits` times, each time to others. `released`: the attacker has as many synthetic rows as there are training rows.
`many`: he has 10,000. `model`: he holds the model, too, thus knows its cells and the cliques of its junction tree.
Prints, means over fits, what the best attack of `membership` and of `mia_marginal` gets (as their findings say): area
under the ROC curve and rate of recognised rows at 1 % false alarms for random rows, area for Achilles' heels; and with
`--attacks` a line of JSON for every attack. Reads real rows outside any budget: INTERNAL.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from _common import head, line, load

import tabveil as tv
from tabveil.audit import membership, mia_marginal
from tabveil.audit._membership_game import Measured, findings
from tabveil.audit.base import AuditInput

if TYPE_CHECKING:
    from tabveil.schema import Schema

DELTA = 1e-5
MANY = 10_000
SHOWN = {
    "area": "(area under the ROC curve): random rows",
    "recognised": "at 1% false alarms (true positive rate): random rows",
    "heels": "(area under the ROC curve): the rows farthest",
}


def fitted(name: str, epsilon: float, train: pd.DataFrame, schema: Schema) -> Any:
    """A generator of that name, fitted to the training rows."""
    ledger, paid = tv.Ledger(":memory:"), math.isfinite(epsilon)
    if paid:
        ledger.open("benchmark", epsilon=epsilon, delta=DELTA)
    made = tv.create(name, epsilon=epsilon, delta=DELTA if paid else None)
    made.fit(train, schema, ledger=ledger if paid else None, dataset="benchmark" if paid else None)
    return made


def attacks(made: Any, train: pd.DataFrame, holdout: pd.DataFrame, schema: Schema) -> dict[str, Measured]:
    """Both auditors against the released table, many rows, and the model where it keeps more than single columns."""
    rows = made.sample(MANY)
    few, many = (
        AuditInput(synthetic=rows.iloc[:n], train=train, holdout=holdout, schema=schema) for n in (len(train), MANY)
    )
    found = {
        "membership, released": membership.measure(few),
        "membership, many": membership.measure(many),
        "mia_marginal, released": mia_marginal.measure(few),
        "mia_marginal, many": mia_marginal.measure(many),
    }
    if hasattr(made, "_model"):
        names = [column.name for column in schema.modelled]
        cliques = [[names[a] for a in clique] for clique in made._model.tree.cliques]
        found["mia_marginal, model"] = mia_marginal.measure(many, marginals=cliques, axes=made._axes)
    return found


def shown(measured: Measured) -> dict[str, float]:
    """The findings of SHOWN, by their short names."""
    values = {f.name: f.value for f in findings(measured)}
    return {short: next(v for name, v in values.items() if part in name) for short, part in SHOWN.items()}


def every(measured: Measured) -> dict[str, list[float]]:
    """Each attack's area, and rate of recognised rows at 1 % false alarms, for random rows."""
    outcomes = measured.attack["random"]
    return {name: [round(o.pairs.rate, 3), round(o.recognised[0].rate, 3)] for name, o in outcomes.items()}


def main() -> None:
    """Fit, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--fits", type=int, default=2)
    parser.add_argument("--generators", nargs="*", default=["mst", "aim"])
    parser.add_argument("--epsilons", type=float, nargs="*", default=[1, 10, 1000, math.inf])
    parser.add_argument("--attacks", action="store_true", help="a line of JSON for every attack")
    given = parser.parse_args()
    schema, *parts = load("adult", given.data)
    real = pd.concat(parts)
    head("generator", "epsilon", "attacker", *SHOWN)
    asked = [*itertools.product(given.generators, given.epsilons), ("independent", math.inf)]
    for name, epsilon in asked:
        results: dict[str, list[dict[str, float]]] = {}
        for seed in range(given.fits):
            order = np.random.default_rng(seed).permutation(len(real))
            pieces = np.split(order, [given.rows, given.rows + 8_000])[:2]
            train, holdout = (real.iloc[rows].reset_index(drop=True) for rows in pieces)
            made = fitted(name, epsilon, train, schema)
            for who, measured in attacks(made, train, holdout, schema).items():
                results.setdefault(who, []).append(shown(measured))
                if given.attacks:
                    print(
                        json.dumps({"generator": name, "epsilon": epsilon, "who": who, **every(measured)}), flush=True
                    )
        for who, values in results.items():
            line(name, f"{epsilon:g}", who, *(f"{statistics.mean(v[s] for v in values):.3f}" for s in SHOWN))


if __name__ == "__main__":
    main()
