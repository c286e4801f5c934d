"""Edges and bounds of number columns: our charged histograms beside PrivTree, DP quantiles and public rules.

    .venv/bin/python benchmarks/edges.py edges --data ../shared/data --evaluator ../shared/tools/evaluate.py \
        --generators mst aim --epsilons 1 3 --fits 3 --out benchmarks/results/edges.jsonl
    .venv/bin/python benchmarks/edges.py bounds --data ../shared/data --epsilons 1 0.1 --repeats 20

`edges`: a whole fit in which only `start_axes` is replaced. A method gets, for each column, the rho that our refining
histograms of that column cost, and as many cells as ours; columns of at most `domains.FLAT` values keep every value.
The charges of a fit stay as they are, so that all else has the same noise, also beside methods that cost nothing.
Adult and credit-card default are scored by the fixed evaluator (AUC, 3-way distance to train), randhie as in
`mst_budget.py` (R2, 3-way distance). With --out, fits that the file holds already are not run again.

`bounds`: the bounds of every number column left to be learned with the default share of epsilon, by us and by the
exponential mechanism over the whole public grid, each end for half the rho that our two histograms of a column cost.

NOT PRIVATE: the alternatives read exact rows here, take their noise from numpy in floating point, know the exact row
count, and nobody charges them. They say what a method is worth, and no release may come of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import mst_budget
import numpy as np
import pandas as pd
from _common import Numbers, add_common, head, keep, line, load, parse, score
from curve import mean_and_error
from learned_domains import TABLES
from numpy.typing import NDArray

import tabveil as tv
from tabveil import domains, learning
from tabveil.accounting import Spend
from tabveil.columns import Column, Grid
from tabveil.domains import Pieces, binned, evenly, levels, settled
from tabveil.encoding import Axis, Codes, encode, position, positions, size
from tabveil.generators import aim, mst
from tabveil.mechanisms import PrivateRows
from tabveil.tables import open_table

DELTA = 1e-5
FAN_OUT = 2
"""Parts that PrivTree cuts a piece into, as published for one dimension."""

TAIL = 0.001
"""Share of the rows that bounds by quantiles leave out at either end."""

Edges = NDArray[np.int64]
Table = tuple[tv.Schema, pd.DataFrame, pd.DataFrame]


# ------------------------------------------------------------------------------------------------------------ PrivTree


def privtree(codes: Codes, units: int, *, scale: float, theta: float, rng: np.random.Generator) -> Edges:
    """Edges of the leaves of PrivTree (Zhang, Xiao, Xie 2016, "PrivTree: A Differentially Private Algorithm for
    Hierarchical Decompositions", Algorithm 2) with fan-out 2 over the codes 0 to units - 1.

    Args:
      codes: shape (rows,), rising.
      units: values of the grid; a piece of one value is not cut.
      scale: of the Laplace noise, the paper's lambda; the decay delta is lambda ln(fan-out), as there.
      theta: a piece is cut while its count, less delta times its depth, stands above this in noise.
      rng: for the noise.
    """
    decay, depth = scale * math.log(FAN_OUT), 0
    found, open_pieces = [0, units], np.array([[0, units]], dtype=np.int64)
    while len(open_pieces):
        counts = np.diff(np.searchsorted(codes, open_pieces), axis=1)[:, 0]
        biased = np.maximum(counts - decay * depth, theta - decay)
        cut = (biased + rng.laplace(scale=scale, size=len(counts)) > theta) & (np.diff(open_pieces)[:, 0] > 1)
        parts = [evenly(int(low), int(high), FAN_OUT) for low, high in open_pieces[cut]]
        found += [int(p[1]) for p in parts]
        open_pieces = np.array([pair for p in parts for pair in itertools.pairwise(p)], dtype=np.int64).reshape(-1, 2)
        depth += 1
    return np.unique(np.array(found, dtype=np.int64))


def privtree_scale(rho: float) -> float:
    """The least lambda for which a tree costs `rho`.

    One row moves the counts along one path. By the paper's proof the cuts on it become likelier by at most
    exp(3 / lambda) together, and the leaf at its end less likely by at most exp(1 / lambda): a privacy loss of range
    4 / lambda costs (4 / lambda)^2 / 8 (Cesar & Rogers 2021). The published epsilon of 3 / lambda, turned into
    epsilon^2 / 2, would ask for half as much noise again.
    """
    return math.sqrt(2 / rho)


def privtree_pieces(codes: Codes, units: int, *, rho: float, rng: np.random.Generator) -> Pieces:
    """PrivTree whole, as published: half the budget for a tree with theta 0, half for noisy counts of its leaves."""
    edges = privtree(codes, units, scale=privtree_scale(rho / 2), theta=0.0, rng=rng)
    exact = np.diff(np.searchsorted(codes, edges))
    noisy = exact + rng.normal(scale=1 / math.sqrt(rho), size=len(exact))
    return Pieces(edges, settled(noisy, max(float(noisy.sum()), 1.0)))


# ----------------------------------------------------------------------------------------------------------- quantiles


@dataclass(frozen=True)
class Measure:
    """What the exponential mechanism holds to be likely before it sees a row: even in `at`, undone by `back`."""

    at: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    back: Callable[[float], float]


EVEN = Measure(lambda x: x, lambda t: t)
OCTAVES = Measure(
    lambda x: np.sign(x) * np.log2(1 + np.abs(x)), lambda t: math.copysign(2.0 ** abs(t) - 1, t)
)  # even in the logarithm, on either side of 0


@dataclass(frozen=True, eq=False)
class Candidates:
    """Whole numbers that may be chosen, in stretches that no row tells apart: starts[i] to stops[i], none where that is
    empty; least[i] to most[i] are the ranks that each may stand for. All of shape (stretches,).
    """

    starts: Codes
    stops: Codes
    least: Codes
    most: Codes

    @classmethod
    def cuts(cls, values: Codes, reach: tuple[int, int]) -> Candidates:
        """Edges from reach[0] to reach[1] that part rising `values`: the rank is the number of rows below."""
        seen, counts = np.unique(values, return_counts=True)
        rank = np.append(0, np.cumsum(counts))
        starts, stops = np.append(reach[0], seen + 1), np.append(seen, reach[1])
        return cls(np.maximum(starts, reach[0]), np.minimum(stops, reach[1]), rank, rank)

    @classmethod
    def values(cls, values: Codes, reach: tuple[int, int]) -> Candidates:
        """Values from reach[0] to reach[1]: one that rows hold stands for all their ranks."""
        seen, counts = np.unique(values, return_counts=True)
        rank = np.append(0, np.cumsum(counts))
        gaps = np.append(reach[0], seen + 1), np.append(seen - 1, reach[1])
        starts, stops = np.append(gaps[0], seen), np.append(gaps[1], seen)
        return cls(starts, stops, np.append(rank, rank[:-1]), np.append(rank, rank[1:]))


def quantile(
    among: Candidates,
    below: float,
    share: float,
    *,
    epsilon: float,
    rng: np.random.Generator,
    measure: Measure = EVEN,
) -> int:
    """A candidate with about `below` rows below it, by the exponential mechanism (Smith 2011, "Privacy-preserving
    statistical estimation with optimal convergence rates", over whole numbers).

    Args:
      among: the candidates.
      below: the rank wanted.
      share: `below` as a share of the rows. One row more moves the score of a candidate, its distance from the rank, by
        this share or by one less it: the greater one is the sensitivity.
      epsilon: privacy loss has this range; costs epsilon^2 / 8 of rho.
      rng: for the noise.
      measure: the law of the choice where there are no rows.
    """
    off = np.maximum(np.maximum(among.least - below, below - among.most), 0.0)
    low, high = measure.at(among.starts - 0.5), measure.at(among.stops + 0.5)
    mass = np.where(among.stops >= among.starts, high - low, 0.0)
    with np.errstate(divide="ignore"):
        scores = np.log(mass) - epsilon / (2 * max(share, 1 - share)) * off
    chosen = int((scores + rng.gumbel(size=len(scores))).argmax())
    spot = measure.back(float(rng.uniform(low[chosen], high[chosen])))
    return int(np.clip(round(spot), among.starts[chosen], among.stops[chosen]))


def quantiles(codes: Codes, units: int, *, cells: int, rho: float, rng: np.random.Generator) -> Edges:
    """Edges of about `cells` pieces of equal frequency over the codes 0 to units - 1: the middle one first, then those
    of either side (Kaplan, Schnapp, Stemmer 2022, "Differentially Private Approximate Quantiles", Algorithm 1). A row
    is on one side only, so that each level is charged once.
    """
    depth = max(1, math.ceil(math.log2(cells)))
    epsilon = math.sqrt(8 * rho / depth)

    def inner(rows: Codes, low: int, high: int, parts: int) -> list[int]:
        if parts < 2 or high - low < 2:
            return []
        left = parts // 2
        share = left / parts
        cuts = Candidates.cuts(rows, (low + 1, high - 1))
        edge = quantile(cuts, share * len(rows), share, epsilon=epsilon, rng=rng)
        split = int(np.searchsorted(rows, edge))
        return [*inner(rows[:split], low, edge, left), edge, *inner(rows[split:], edge, high, parts - left)]

    return np.array([0, *inner(codes, 0, units, cells), units], dtype=np.int64)


# ------------------------------------------------------------------------------------------------------- whole columns


@dataclass(frozen=True, eq=False)
class Asked:
    """What a method is to cut: codes of the rows, rising, missing ones left out; how many cells, for how much rho."""

    column: Grid
    codes: Codes
    cells: int
    rho: float


Method = Callable[[Asked, np.random.Generator], Axis]


def as_cells(column: Grid, edges: Edges) -> Axis:
    """Every piece a cell, even within; missing has a cell of its own, the last."""
    cells = np.arange(len(edges) - 1 + column.nullable)
    return Axis(column, edges, cells, np.ones(len(cells)))


def by_privtree(asked: Asked, rng: np.random.Generator) -> Axis:
    """PrivTree's leaves joined into cells of equal mass as our pieces are."""
    pieces = privtree_pieces(asked.codes, asked.column.units, rho=asked.rho, rng=rng)
    return binned(asked.column, pieces, asked.cells)


def by_privtree_leaves(asked: Asked, rng: np.random.Generator) -> Axis:
    """Every leaf a cell, all the budget for the tree, theta an even share of the rows."""
    scale, theta = privtree_scale(asked.rho), len(asked.codes) / asked.cells
    return as_cells(asked.column, privtree(asked.codes, asked.column.units, scale=scale, theta=theta, rng=rng))


def by_quantiles(asked: Asked, rng: np.random.Generator) -> Axis:
    """Cells of equal frequency."""
    edges = quantiles(asked.codes, asked.column.units, cells=asked.cells, rho=asked.rho, rng=rng)
    return as_cells(asked.column, edges)


def by_equal_width(asked: Asked, rng: np.random.Generator) -> Axis:
    """Cells of equal width: no row is read."""
    return as_cells(asked.column, evenly(0, asked.column.units, asked.cells))


def by_exact_counts(asked: Asked, rng: np.random.Generator) -> Axis:
    """Exact counts of every value that occurs, joined as our pieces are: what no private method can do."""
    seen = np.unique(asked.codes)
    edges = np.unique(np.concatenate([[0], seen, seen + 1, [asked.column.units]]))
    return binned(asked.column, Pieces(edges, np.diff(np.searchsorted(asked.codes, edges)).astype(float)), asked.cells)


METHODS: dict[str, Method | None] = {
    "ours": None,
    "privtree": by_privtree,
    "privtree leaves": by_privtree_leaves,
    "quantiles": by_quantiles,
    "equal width": by_equal_width,
    "exact counts": by_exact_counts,
}


def present(column: Column, values: pd.Series) -> Codes:
    """Codes of the cells that are not missing, rising."""
    codes = encode(column, values)
    return np.sort(codes[codes < size(column)])


@contextmanager
def edges_by(method: Method | None, table: Table) -> Iterator[None]:
    """Inside, `mst` and `aim` cut columns by `method`; None for our own."""
    schema, train, _ = table
    if method is None:
        yield
        return
    codes = {c.name: present(c, train[c.name]) for c in schema.modelled if isinstance(c, Grid)}
    rng = np.random.default_rng()

    def start_axes(
        columns: Sequence[Column], rows: PrivateRows, *, sigma: float, cells: int | Callable[[float], int]
    ) -> list[Axis]:
        wanted = cells if isinstance(cells, int) else cells(float(len(train)))
        return [_axis(method, c, codes.get(c.name), (wanted, sigma), rng) for c in columns]

    with ExitStack() as changed:
        for module in (mst, aim):
            changed.enter_context(mock.patch.object(module, "start_axes", start_axes))
        yield


def _axis(
    method: Method, column: Column, codes: Codes | None, asked: tuple[int, float], rng: np.random.Generator
) -> Axis:
    """The axis of one column; those of few values as they are, which our own method does too."""
    if not isinstance(column, Grid) or codes is None:
        return Axis.singles(column)
    if column.units <= domains.FLAT:
        return as_cells(column, np.arange(column.units + 1))
    cells, sigma = asked
    return method(Asked(column, codes, cells, levels(column) / (2 * sigma**2)), rng)


def fit_and_score(arguments: argparse.Namespace, name: str, table: Table, fit: tuple[str, float]) -> Numbers:
    """Score (AUC or R2) and 3-way distance of one fit of (generator, epsilon)."""
    (generator, options), epsilon = parse(fit[0]), fit[1]
    if name == "randhie":
        distance, boosted, *_ = mst_budget.measure(table, epsilon, options, generator=generator)
        return {"score": boosted, "tvd3": distance}
    schema, train, _ = table
    ledger = tv.Ledger(":memory:")
    ledger.open("benchmark", epsilon=epsilon, delta=DELTA)
    made = tv.create(generator, epsilon=epsilon, delta=DELTA, **options)
    made.fit(train, schema, ledger=ledger, dataset="benchmark")
    with tempfile.TemporaryDirectory() as folder:
        csv = str(Path(folder) / "synthetic.csv")
        made.sample(len(train)).to_csv(csv, index=False)
        scores = score(arguments, name, csv)
    return {"score": scores["auc"], "tvd3": scores["tvd3"]}


def held(path: str | None) -> dict[tuple[object, ...], list[Numbers]]:
    """Fits of earlier runs that `--out` holds, by (table, generator, epsilon, method)."""
    found: dict[tuple[object, ...], list[Numbers]] = {}
    for text in Path(path).read_text().splitlines() if path and Path(path).exists() else ():
        record = json.loads(text)
        at = tuple(record[k] for k in ("table", "generator", "epsilon", "method"))
        found.setdefault(at, []).append(record)
    return found


def compare_edges(arguments: argparse.Namespace) -> None:
    """All fits, a line per table, generator and epsilon; a column per method: score, 3-way distance."""
    earlier = held(arguments.out)
    head("table", "generator", "epsilon", *arguments.methods)
    for name in arguments.tables:
        table = load(name, arguments.data)
        for generator, epsilon in itertools.product(arguments.generators, arguments.epsilons):
            cells = []
            for method in arguments.methods:
                results = earlier.get((name, generator, epsilon, method), [])[: arguments.fits]
                while len(results) < arguments.fits:
                    with edges_by(METHODS[method], table):
                        results.append(fit_and_score(arguments, name, table, (generator, epsilon)))
                    known = {"table": name, "generator": generator, "epsilon": epsilon, "method": method}
                    keep(arguments, {**known, **results[-1]})
                cells.append(_shown(results))
            line(name, generator, f"{epsilon:g}", *cells)


def _shown(results: Sequence[Numbers]) -> str:
    """Mean score and distance, each with its standard error."""
    pairs = (mean_and_error([r[key] for r in results]) for key in ("score", "tvd3"))
    return ", ".join(f"{m:.3f} ± {e:.3f}" for m, e in pairs)


# -------------------------------------------------------------------------------------------------------------- bounds


@dataclass(frozen=True, eq=False)
class Searched:
    """A column whose bounds are sought: positions of its rows, rising; its public reach; the rho it may cost."""

    column: Grid
    steps: Codes
    rho: float

    def ends(self, rng: np.random.Generator, *, measure: Measure, deep: bool) -> tuple[int, int]:
        """First and last step by two quantiles, TAIL of the rows left out at either end; where `deep`, as many as make
        it unlikely (`learning.MISTAKE`) that an octave without rows is chosen.
        """
        first, last = learning.reach(self.column)
        epsilon, rows = math.sqrt(8 * self.rho / 2), len(self.steps)
        octaves = len(learning.octaves(first, last)) - 1
        tail = max(TAIL * rows, 2 / epsilon * math.log(octaves / learning.MISTAKE) if deep else 0.0)
        share = min(tail / rows, 0.5)
        among = Candidates.values(self.steps, (first, last))
        low, high = (
            quantile(among, s * rows, s, epsilon=epsilon, rng=rng, measure=measure) for s in (share, 1 - share)
        )
        return min(low, high), max(low, high)

    def judged(self, low: int, high: int) -> Numbers:
        """Share of the rows beyond the bounds, and their width as a multiple of the real one."""
        outside = np.searchsorted(self.steps, low) + len(self.steps) - np.searchsorted(self.steps, high, side="right")
        return {
            "clipped": float(outside) / len(self.steps),
            "width": (high - low + 1) / float(self.steps[-1] - self.steps[0] + 1),
        }


def without_bounds(schema: tv.Schema) -> tv.Schema:
    """The schema with the bounds of every number column left to be learned."""
    columns = (
        dataclasses.replace(c, low=None, high=None, learn=True, invalid="clip") if isinstance(c, Grid) else c
        for c in schema.columns
    )
    return dataclasses.replace(schema, columns=tuple(columns))


def searches(schema: tv.Schema, train: pd.DataFrame, spends: Sequence[Spend]) -> list[Searched]:
    """Every column whose bounds `spends` pay for."""
    events = {s.label: s.event for s in spends}
    return [
        Searched(
            c,
            np.sort(positions(c, train[c.name])).astype(np.int64),
            sum(1 / (2 * events[learning.bounds_label(c, level)].sigma ** 2) for level in (0, 1)),
        )
        for c in schema.unresolved
        if isinstance(c, Grid)
    ]


def our_bounds(
    schema: tv.Schema, train: pd.DataFrame, spends: Sequence[Spend], epsilon: float
) -> Mapping[str, tuple[int, int]]:
    """First and last step of every column as a fit learns them."""
    ledger = tv.Ledger(":memory:")
    ledger.open("benchmark", epsilon=epsilon, delta=DELTA)
    rows = PrivateRows(open_table(train), schema, ledger.charge("benchmark", list(spends), label="benchmark"))
    whole = learning.resolve(schema, rows, spends)
    columns = [c for c in whole.columns if isinstance(c, Grid)]
    return {c.name: (position(c, c.bounds[0]), position(c, c.bounds[1])) for c in columns}


BY_QUANTILES: dict[str, tuple[Measure, bool]] = {
    "quantiles, even prior": (EVEN, False),
    "quantiles, prior even in octaves": (OCTAVES, False),
    "the same, as deep as the noise asks": (OCTAVES, True),
}


def compare_bounds(arguments: argparse.Namespace) -> None:
    """All repeats, a line per table, epsilon and method."""
    head("table", "epsilon", "method", "rows clipped", "worst column", "width, median", "9 in 10 below", "worst")
    rng = np.random.default_rng()
    for name, epsilon in itertools.product(arguments.tables, arguments.epsilons):
        declared, train, _ = load(name, arguments.data)
        schema = without_bounds(declared)
        spends = tv.create("mst", epsilon=epsilon, delta=DELTA)._spends(schema)
        columns = searches(schema, train, spends)
        learned = [our_bounds(schema, train, spends, epsilon) for _ in range(arguments.repeats)]
        _report(name, epsilon, "ours", [[s.judged(*found[s.column.name]) for found in learned] for s in columns])
        for method, (measure, deep) in BY_QUANTILES.items():
            ends = functools.partial(Searched.ends, rng=rng, measure=measure, deep=deep)
            judged = [[s.judged(*ends(s)) for _ in range(arguments.repeats)] for s in columns]
            _report(name, epsilon, method, judged)


def _report(name: str, epsilon: float, method: str, judged: Sequence[Sequence[Numbers]]) -> None:
    """One line: means over columns and repeats, the worst mean of a column, and how wide the ranges are."""
    clipped = [statistics.mean(r["clipped"] for r in of_column) for of_column in judged]
    widths = [r["width"] for of_column in judged for r in of_column]
    shown = (f"{v:.3g}" for v in (np.median(widths), np.quantile(widths, 0.9), max(widths)))
    line(name, f"{epsilon:g}", method, f"{statistics.mean(clipped):.2%}", f"{max(clipped):.2%}", *shown)


# ---------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    edges = parts.add_parser("edges", help="whole fits with other edges")
    add_common(edges)
    edges.add_argument("--generators", nargs="+", default=["mst"])
    edges.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    edges.add_argument("--fits", type=int, default=3)
    edges.set_defaults(run=compare_edges)
    bounds = parts.add_parser("bounds", help="bounds alone")
    bounds.add_argument("--data", required=True, help="folder of the tables")
    bounds.add_argument("--repeats", type=int, default=20)
    bounds.set_defaults(run=compare_bounds)
    for part in (edges, bounds):
        part.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
        part.add_argument("--epsilons", nargs="+", type=float, default=[1.0])
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
