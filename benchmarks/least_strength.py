"""From which strength on `tvae` learns more than single columns: what `tabveil plan` calls too small an epsilon.

    .venv/bin/python benchmarks/least_strength.py --data ../shared/data --tables randhie creditcard

Strength is rows per standard deviation of the noise that each cell would get if the whole budget counted one table for
each column (`generators.auto.expected_noise`). Per table, rows and epsilon one fit of each generator, scored as
`auto_choice.py` does: mean 3-way distance to all training rows. One line of JSON per fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

from auto_choice import DELTA, SAMPLED, Scorer

import tabveil as tv
from tabveil.generators.auto import expected_noise


def main() -> None:
    """Fit, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tables", nargs="+", default=["randhie", "creditcard"])
    parser.add_argument("--rows", nargs="+", type=int, default=[15_000])
    parser.add_argument("--epsilons", nargs="+", type=float, default=[0.03, 0.1, 0.3, 1.0])
    parser.add_argument("--generators", nargs="+", default=["independent", "tvae"])
    given = parser.parse_args()
    for name in given.tables:
        scorer = Scorer(name, given.data)
        for rows in given.rows:
            frame = scorer.train.sample(rows, random_state=0)
            schema = dataclasses.replace(scorer.schema, public_rows=rows)
            for epsilon in given.epsilons:
                strength = rows / expected_noise(schema, epsilon=epsilon, delta=DELTA)
                for generator in given.generators:
                    made = tv.create(generator, epsilon=epsilon, delta=DELTA, random_state=0)
                    ledger = tv.Ledger(":memory:")
                    ledger.open("t", epsilon=epsilon, delta=DELTA, unit=schema.unit)
                    start = time.monotonic()
                    made.fit(frame, schema, ledger=ledger, dataset="t")
                    seconds = time.monotonic() - start
                    distance = scorer.distance(made.sample(SAMPLED, random_state=0))
                    line = {"table": name, "rows": rows, "epsilon": epsilon, "strength": round(strength, 1)}
                    line |= {"generator": generator, "distance": round(distance, 4), "seconds": round(seconds, 1)}
                    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
