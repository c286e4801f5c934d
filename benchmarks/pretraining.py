"""Three ways to a private `tvae` at one epsilon: plain DP-SGD, matched to the charged one-way counts, pre-trained on
rows of our own private marginal model.

    .venv/bin/python benchmarks/pretraining.py --tables adult randhie --data ../shared/data \
        --evaluator ../shared/tools/evaluate.py --epsilon 1 --share 0.4

The marginal model is `mst`, for --share of the epsilon; its rows cost nothing more, and `tvae` is trained on them
without noise before it goes on by DP-SGD with what is left: all events of both together cost at most epsilon at delta.
(The account is opened for more: an account's filter, which knows nothing of what will come, wants some room.) `mst`
alone, with all of the epsilon, stands beside.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import Numbers, add_common, head, keep, line, mean, score
from deep import TABLES, Source, opened

import tabveil as tv
from tabveil import accounting
from tabveil._torch import torch
from tabveil.encoding import encode
from tabveil.generators.tvae import TVAE
from tabveil.sgd import Course, Descent, threads

SHOWN = ("auc", "tvd1", "tvd2", "tvd3")
STEPS, BATCH, RATE = 1_500, 500, 2e-3
WAYS = ("tvae, plain", "tvae, matched", "tvae, pre-trained on mst", "mst alone")


class Pretrained(TVAE):
    """`tvae` that has seen made-up rows before the first real one.

    Attributes:
      made_up: rows in the schema's columns that nobody owes privacy.
    """

    made_up: pd.DataFrame

    def _run(self, descent: Descent, course: Course) -> None:
        columns = [encode(c, self.made_up[c.name]) for c in self.schema.modelled]
        codes = torch.from_numpy(np.stack(columns, 1).astype(np.int64))
        optimizer = torch.optim.Adam(descent.module.parameters(), lr=RATE)
        with threads(1):
            for _ in range(STEPS):
                optimizer.zero_grad()
                descent.module(codes[torch.randint(len(codes), (BATCH,))]).mean().backward()
                optimizer.step()
        super()._run(descent, course)


def fitted(way: str, source: Source, arguments: argparse.Namespace) -> pd.DataFrame:
    """Rows of a model fitted in this way."""
    schema, ledger = tv.Schema.from_yaml(source.schema), tv.Ledger(":memory:")
    ledger.open("t", epsilon=2 * arguments.epsilon, delta=arguments.delta, unit=schema.unit)
    paid: dict[str, Any] = {"ledger": ledger, "dataset": "t"}
    whole: dict[str, Any] = {"epsilon": arguments.epsilon, "delta": arguments.delta}
    rows = pd.read_csv(source.table).shape[0]
    if way == "mst alone":
        return tv.create("mst", **whole).fit(source.table, schema, **paid).sample(rows)
    if "pre-trained" not in way:
        return TVAE(match="matched" in way, **whole).fit(source.table, schema, **paid).sample(rows)
    first = tv.create("mst", epsilon=arguments.share * arguments.epsilon, delta=arguments.delta / 10)
    second = Pretrained(epsilon=_left(first, schema, arguments), delta=arguments.delta)
    second.made_up = first.fit(source.table, schema, **paid).sample(rows)
    return second.fit(source.table, schema, **paid).sample(rows)


def _left(first: tv.Generator, schema: tv.Schema, arguments: argparse.Namespace) -> float:
    """The largest epsilon, to 0.5 %, that `tvae` may be given after `first`."""
    low, high, spent = 0.0, float(arguments.epsilon), first.plan(schema).spends
    while high - low > 0.005 * arguments.epsilon:
        middle = (low + high) / 2
        both = (*spent, *TVAE(epsilon=middle, delta=arguments.delta).plan(schema).spends)
        within = accounting.epsilon(accounting.event_of(both), arguments.delta) <= arguments.epsilon
        low, high = (middle, high) if within else (low, middle)
    return low


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["adult"])
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--share", type=float, default=0.4, help="of epsilon, for mst")
    parser.add_argument("--fits", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    arguments = parser.parse_args()
    if not 0 < arguments.share < 1 or not math.isfinite(arguments.epsilon):
        parser.error("--share must be between 0 and 1, --epsilon finite")
    head("table", "way", "epsilon", "fits", *SHOWN)
    for table in arguments.tables:
        with opened(table, arguments.data) as source, tempfile.TemporaryDirectory() as folder:
            for way in arguments.ways:
                csv, results = Path(folder) / "synthetic.csv", list[Numbers]()
                for _ in range(arguments.fits):
                    fitted(way, source, arguments).to_csv(csv, index=False)
                    source.published(csv)
                    results.append(score(arguments, table, str(csv)))
                    keep(arguments, {"table": table, "way": way, **results[-1]})
                line(table, way, f"{arguments.epsilon:g}", len(results), *(mean(results, key) for key in SHOWN))


if __name__ == "__main__":
    main()
