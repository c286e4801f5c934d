"""The white-box audit of a real training: what is claimed for it, and what was found.

    .venv/bin/python benchmarks/audit_training.py --data ../shared/data --table adult --generator tvae --epsilon 1

Prints one line of JSON per finding. Reads real rows outside any budget: INTERNAL.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from _common import load

import tabveil as tv
from tabveil.audit.training import audit_training


def main() -> None:
    """Audit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--table", default="adult")
    parser.add_argument("--generator", default="tvae")
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--canaries", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=2)
    given = parser.parse_args()
    schema, train, _ = load(given.table, given.data)
    generator = tv.create(given.generator, epsilon=given.epsilon, delta=given.delta, random_state=0)
    start = time.monotonic()
    for found in audit_training(generator, train, schema, canaries=given.canaries, runs=given.runs):
        print(json.dumps(found.to_dict()), flush=True)
    print(json.dumps({"seconds": round(time.monotonic() - start)}))


if __name__ == "__main__":
    main()
