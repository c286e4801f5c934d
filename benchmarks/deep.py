"""Deep generators on the split tables, private and not: utility, seconds and rows per second, beside real rows.

    .venv/bin/python benchmarks/deep.py --tables adult creditcard randhie --data ../shared/data \
        --evaluator ../shared/tools/evaluate.py --generators tvae ctgan --epsilons 1 3 inf --fits 3 --references

Every fit runs in a process of its own, with the threads that the generator takes by itself. Processor seconds of a fit
are those of its whole process; unlike seconds on the clock they hardly grow where other jobs share the cores. Rows per
second are of 200,000 rows at a time, on the clock and by processor time. Options of a generator follow a colon:
tvae:steps=200.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from _common import (
    SCHEMAS,
    Fit,
    Numbers,
    add_common,
    fit_apart,
    head,
    keep,
    line,
    load,
    mean,
    row_count,
    score,
)

SHOWN = ("auc", "tvd1", "tvd2", "tvd3", "fit_s", "fit_cpu_s", "rows_per_s", "rows_per_cpu_s", "peak_mb")
REFERENCES = {"@train": "real rows", "@independent": "real columns, shuffled"}
TABLES = ("adult", "creditcard", "randhie")


@dataclass(frozen=True)
class Source:
    """A table to fit, and how its rows are written for the evaluator.

    Attributes:
      name: as the evaluator knows it.
      table, schema: paths.
      flags: columns that the evaluator reads as v0 and v1.
    """

    name: str
    table: Path
    schema: Path
    flags: tuple[str, ...] = ()

    def published(self, csv: Path) -> None:
        """Rewrite the flags in a synthetic table as the evaluator's copy has them."""
        if self.flags:
            import pandas as pd

            frame = pd.read_csv(csv)
            flags = {c: frame[c].astype(int).map({0: "v0", 1: "v1"}) for c in self.flags}
            frame.assign(**flags).to_csv(csv, index=False)


@contextlib.contextmanager
def opened(name: str, data: str) -> Iterator[Source]:
    """The training part of one of TABLES; randhie's, whose copy and schema differ, is written anew meanwhile."""
    if name != "randhie":
        yield Source(name, Path(data) / f"{name}_train.csv.gz", SCHEMAS / f"{name}.schema.yaml")
        return
    schema, train, _ = load(name, data)
    flags = tuple(c.name for c in schema.columns if c.kind == "boolean")
    with tempfile.TemporaryDirectory() as folder:
        table, written = Path(folder) / "train.csv", Path(folder) / "randhie.schema.yaml"
        train.astype(dict.fromkeys(flags, "int64")).to_csv(table, index=False)
        schema.to_yaml(written)
        yield Source(name, table, written, flags)


def measured(arguments: argparse.Namespace, source: Source, generator: str, epsilon: float) -> Numbers:
    """One fit and its scores."""
    rows = row_count(source.table)
    fit = Fit(generator, epsilon, arguments.delta, str(source.table), str(source.schema), rows, arguments.random_state)
    with tempfile.TemporaryDirectory() as folder:
        csv = Path(folder) / "synthetic.csv"
        numbers = fit_apart(fit, str(csv))
        source.published(csv)
        return {**numbers, **score(arguments, source.name, str(csv))}


def report(table: str, generator: str, epsilon: str, results: Sequence[Numbers]) -> None:
    """One line of the table: means."""
    line(table, generator, epsilon, len(results), *(mean(results, key) for key in SHOWN))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["adult"])
    parser.add_argument("--generators", nargs="+", default=["tvae"])
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0, 3.0, float("inf")])
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--references", action="store_true", help=f"also score {', '.join(REFERENCES)}")
    arguments = parser.parse_args()
    head("table", "generator", "epsilon", "fits", *SHOWN)
    for table in arguments.tables:
        for name, words in REFERENCES.items() if arguments.references else ():
            report(table, words, "-", [score(arguments, table, name)])
        with opened(table, arguments.data) as source:
            for generator, epsilon in itertools.product(arguments.generators, arguments.epsilons):
                results = [measured(arguments, source, generator, epsilon) for _ in range(arguments.fits)]
                report(table, generator, f"{epsilon:g}", results)
                for numbers in results:
                    keep(arguments, {"table": table, "generator": generator, "epsilon": epsilon, **numbers})


if __name__ == "__main__":
    main()
