"""Generators scored by a fixed evaluator on a fixed split: utility, time and memory beside each other.

    .venv/bin/python benchmarks/utility.py adult --data ../shared/data --evaluator ../shared/tools/evaluate.py \
        --generators independent mst mst:extra_pairs=0 --epsilons 1 --fits 3 --out benchmarks/results/adult.jsonl

Every fit runs in a process of its own, so that peak memory is its own; a line of JSON per fit, then a table of means.
The evaluator needs sdmetrics and so runs under the interpreter given by --evaluator-python.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SCHEMAS = Path(__file__).parent / "schemas"
SHOWN = ("auc", "tvd1", "tvd2", "tvd3", "detection_auc", "fit_s", "rows_per_s", "peak_mb")


def fit_one(arguments: argparse.Namespace) -> None:
    """One fit in this process: prints a line of JSON and leaves the synthetic table at arguments.csv."""
    import resource
    import time

    import tabveil as tv

    name, options = parse(arguments.generator)
    schema = tv.Schema.from_yaml(SCHEMAS / f"{arguments.table}.schema.yaml")
    train = Path(arguments.data) / f"{arguments.table}_train.csv.gz"
    ledger = tv.Ledger(":memory:")
    ledger.open("benchmark", epsilon=arguments.epsilon, delta=arguments.delta)
    made = tv.create(name, epsilon=arguments.epsilon, delta=arguments.delta, **options)
    start = time.perf_counter()
    made.fit(train, schema, ledger=ledger, dataset="benchmark")
    fitted = time.perf_counter()
    rows = made.sample(arguments.rows)
    sampled = time.perf_counter()
    timed = []
    for _ in range(3):
        begin = time.perf_counter()
        made.sample(200_000)
        timed.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.to_csv(arguments.csv, index=False)
    result = {
        "fit_s": fitted - start,
        "sample_s": sampled - fitted,
        "rows_per_s": 200_000 / statistics.median(timed),
        "peak_mb": peak,
        "spent_epsilon": made.statement.epsilon,
    }
    print(json.dumps(result))


def parse(text: str) -> tuple[str, dict[str, int]]:
    """mst:extra_pairs=0,cells=16 -> ("mst", {"extra_pairs": 0, "cells": 16})."""
    name, _, rest = text.partition(":")
    return name, {k: int(v) for k, v in (pair.split("=") for pair in rest.split(",") if pair)}


def score(arguments: argparse.Namespace, synthetic: str) -> dict[str, float]:
    """The fixed evaluator's numbers; `synthetic` is a CSV path or one of its @names."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores.json"
        command = [arguments.evaluator_python, arguments.evaluator, arguments.table, synthetic, str(out)]
        environment = os.environ | {"EVAL_DATA": str(Path(arguments.data).resolve())}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        scores = json.loads(out.read_text())
    return {k: v for k, v in {**scores, **scores.pop("tstr")}.items() if isinstance(v, float)}


def run(arguments: argparse.Namespace, generator: str, epsilon: float) -> dict[str, float]:
    """Fit in a child process, then score."""
    with tempfile.TemporaryDirectory() as folder:
        csv = str(Path(folder) / "synthetic.csv")
        command = [sys.executable, __file__, arguments.table, "--fit-one", generator, "--epsilon", str(epsilon)]
        command += [
            "--data",
            arguments.data,
            "--delta",
            str(arguments.delta),
            "--csv",
            csv,
            "--rows",
            str(arguments.rows),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return {**json.loads(done.stdout.splitlines()[-1]), **score(arguments, csv)}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=sorted(p.name.removesuffix(".schema.yaml") for p in SCHEMAS.iterdir()))
    parser.add_argument("--data", required=True)
    parser.add_argument("--evaluator")
    parser.add_argument("--evaluator-python", default=sys.executable)
    parser.add_argument("--generators", nargs="+", default=["independent", "mst", "mst:extra_pairs=0"])
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0])
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--rows", type=int, default=26_049)
    parser.add_argument("--out")
    parser.add_argument("--references", action="store_true", help="also score @bootstrap and @independent")
    parser.add_argument("--fit-one", dest="generator")
    parser.add_argument("--epsilon", type=float)
    parser.add_argument("--csv")
    arguments = parser.parse_args()
    if arguments.generator:
        fit_one(arguments)
        return
    print("| generator | epsilon | " + " | ".join(SHOWN) + " |\n|" + "---|" * (len(SHOWN) + 2))
    if arguments.references:
        for name in ("@bootstrap", "@independent"):
            report(name, "-", [score(arguments, name)])
    for epsilon in arguments.epsilons:
        for generator in arguments.generators:
            results = [run(arguments, generator, epsilon) for _ in range(arguments.fits)]
            report(generator, f"{epsilon:g}", results)
            if arguments.out:
                with open(arguments.out, "a") as file:
                    for r in results:
                        file.write(json.dumps({"generator": generator, "epsilon": epsilon, **r}) + "\n")


def report(generator: str, epsilon: str, results: list[dict[str, float]]) -> None:
    """One line of the table: means, and the standard deviation of the AUC."""
    cells = []
    for key in SHOWN:
        values = [r[key] for r in results if key in r]
        cells.append(f"{statistics.mean(values):.4g}" if values else "")
    print(f"| {generator} | {epsilon} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
