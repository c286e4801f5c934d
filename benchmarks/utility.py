"""Generators scored by a fixed evaluator on a fixed split: utility, time and memory beside each other.

    .venv/bin/python benchmarks/utility.py adult --data ../shared/data --evaluator ../shared/tools/evaluate.py \
        --generators independent mst mst:extra_pairs=0 --epsilons 1 --fits 3 --out benchmarks/results/adult.jsonl

Every fit runs in a process of its own, so that peak memory is its own; a line of JSON per fit, then a table of means.
Options follow a colon: mst:extra_pairs=0, aim:max_model_bytes=1e8 (numbers, texts or JSON).
The evaluator needs sdmetrics and so runs under the interpreter given by --evaluator-python.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from _common import SCHEMAS, Numbers, add_common, fit_and_score, head, keep, line, mean, score, split_fit

SHOWN = ("auc", "tvd1", "tvd2", "tvd3", "detection_auc", "fit_s", "rows_per_s", "peak_mb")
REFERENCES = {"@train": "real rows", "@bootstrap": "real rows, bootstrap", "@independent": "real columns, shuffled"}


def split_tables() -> list[str]:
    """Names of tables that are split into train and test and have a schema here."""
    names = (p.name.removesuffix(".schema.yaml") for p in Path(SCHEMAS).iterdir())
    return sorted(n for n in names if not n.startswith("nist"))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=split_tables())
    add_common(parser)
    parser.add_argument("--generators", nargs="*", default=["independent", "mst", "mst:extra_pairs=0"])
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0])
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--rows", type=int, help="rows to sample; by default as many as were trained on")
    parser.add_argument("--references", action="store_true", help=f"also score {', '.join(REFERENCES)}")
    arguments = parser.parse_args()
    head("generator", "epsilon", *SHOWN)
    for name, words in REFERENCES.items() if arguments.references else ():
        report(words, "-", [score(arguments, arguments.table, name)])
    for epsilon, generator in itertools.product(arguments.epsilons, arguments.generators):
        fit = split_fit(arguments, arguments.table, generator, epsilon)
        results = [fit_and_score(arguments, fit, arguments.table) for _ in range(arguments.fits)]
        report(generator, f"{epsilon:g}", results)
        for r in results:
            keep(arguments, {"table": arguments.table, "generator": generator, "epsilon": epsilon, **r})


def report(generator: str, epsilon: str, results: Sequence[Numbers]) -> None:
    """One line of the table: means."""
    line(generator, epsilon, *(mean(results, key) for key in SHOWN))


if __name__ == "__main__":
    main()
