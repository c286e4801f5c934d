"""NIST Diverse Communities Excerpt, Massachusetts 2019: the k-marginal score, beside NIST's own ladder and marks.

    .venv/bin/python benchmarks/nist.py --data ../shared/data --generators mst aim --epsilons 10 1 --fits 3

`k_marginal` is SDNist's score (usnistgov/SDNist, tag v2.3.0: metrics/kmarginal.py, report/dataset/binning.py), the
version that gave NIST's published ladder and marks. Later versions bin a little differently and count INDP in.
The ladder scores plain subsamples of the real rows: a check of this script against NIST, and a scale to read by.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from _common import SCHEMAS, Fit, Numbers, add_common, fit_apart, head, keep, line, mean
from numpy.typing import NDArray

GROUP = "PUMA"
LEFT_OUT = ("INDP",)
NUMERIC = ("AGEP", "PINCP", "POVPIP", "PWGTP", "WGTP")
ALONE = {"POVPIP": ("501",)}
"""Values that are bins of their own: 501 is "income above 5 x poverty line"."""
NOT_APPLICABLE = "N"
DENSITY_HIGH = 52_864.7
"""The data dictionary's greatest density, from which SDNist makes its bins."""

CF21 = ("DENSITY", "PWGTP", "WGTP")
"""What the feature set of 21 leaves out."""
LADDER = {21: {0.1: 869, 0.4: 943, 0.9: 986}, 24: {0.1: 848, 0.2: 901, 0.5: 950, 0.9: 982}}
"""NIST's published scores of subsamples, by number of features and share of rows (SDNist 2.3 reports on MA 2019)."""
MARKS = (("Genetic-SD, 24 features (NIST)", "10", 876), ("CART, 21 features, not private (NIST)", "-", 942))

Codes = NDArray[np.int64]


def k_marginal(real: pd.DataFrame, synthetic: pd.DataFrame) -> float:
    """SDNist's k-marginal score of a synthetic table, 0 (nothing shared) to 1000 (the same shares everywhere).

    (2 - mean) x 500, where the mean is over all pairs of features of the sum of absolute differences of shares, each
    pair made a triple by `GROUP`. Numbers fall in 20 bins of the real table's percentile ranks.

    Args:
      real: texts as in NIST's file, "N" (or missing) where a question does not apply; shape (rows, columns).
      synthetic: the same of any number of rows; scored are the columns that both have.
    """
    shared = [c for c in sorted(real.columns) if c in synthetic.columns and c not in LEFT_OUT]
    codes = {c: _codes(c, real=_texts(real[c]), synthetic=_texts(synthetic[c])) for c in shared}
    group = codes.pop(GROUP, np.zeros(len(real) + len(synthetic), dtype=np.int64))
    pairs = itertools.combinations(codes.values(), 2)
    return (2 - statistics.mean(_difference(group, a, b, rows=len(real)) for a, b in pairs)) * 500


def _texts(column: pd.Series) -> pd.Series:
    texts = column.astype("string").fillna(NOT_APPLICABLE).replace("", NOT_APPLICABLE)
    return texts.reset_index(drop=True)


def _codes(name: str, *, real: pd.Series, synthetic: pd.Series) -> Codes:
    """Bin or category of every row, real rows first, as whole numbers from 0."""
    both = pd.concat([real, synthetic], ignore_index=True)
    if name == "DENSITY":
        return np.searchsorted(_density_edges(), pd.to_numeric(both).to_numpy(dtype=float)).astype(np.int64)
    if name not in NUMERIC:
        return pd.factorize(both)[0].astype(np.int64)
    alone = [NOT_APPLICABLE, *ALONE.get(name, ())]
    numbers = pd.to_numeric(both.where(~both.isin(alone)))
    edges = _percentile_edges(numbers[: len(real)].dropna())
    bins = np.minimum(np.searchsorted(edges, numbers.fillna(0).to_numpy(dtype=float)), len(edges) - 1)
    own = len(edges) + pd.factorize(both)[0]
    return pd.factorize(np.where(numbers.isna(), own, bins))[0].astype(np.int64)


def _percentile_edges(values: pd.Series) -> NDArray[np.float64]:
    """The greatest real value of each bin: 20 equal parts of the percentile rank, ties sharing their mean rank."""
    ranks = np.minimum((values.rank(pct=True) * 20).astype(int), 19)
    return values.groupby(ranks).max().sort_index().to_numpy(dtype=float)


def _density_edges() -> NDArray[np.float64]:
    """Upper ends of all density bins but the last: 150, then the upper part of 20 equal steps of the logarithm."""
    steps = np.logspace(1, np.log10(DENSITY_HIGH + 500), num=21)
    return np.concatenate([[150], steps[8:-1]])


def _difference(group: Codes, a: Codes, b: Codes, *, rows: int) -> float:
    """Sum of absolute differences of shares over the cells of a triple, 0 to 2; the first `rows` rows are real."""
    cells = (group * (a.max() + 1) + a) * (b.max() + 1) + b
    size = int(cells.max()) + 1
    real, synthetic = (np.bincount(part, minlength=size) / len(part) for part in (cells[:rows], cells[rows:]))
    return float(np.abs(real - synthetic).sum())


def read(path: str | Path) -> pd.DataFrame:
    """A table as texts."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def ladder(real: pd.DataFrame, *, draws: int) -> Iterator[tuple[int, float, float, int]]:
    """Number of features, share of rows, mean score of subsamples of that share, NIST's score."""
    rng = np.random.default_rng(0)
    for features, published in LADDER.items():
        table = real.drop(columns=list(CF21)) if features == 21 else real
        for share, theirs in published.items():
            scores = [k_marginal(table, table.sample(frac=share, random_state=rng)) for _ in range(draws)]
            yield features, share, statistics.mean(scores), theirs


def fitted(fit: Fit, real: pd.DataFrame) -> Numbers:
    """Seconds and memory of one fit, and the score of its rows on all features and on 21."""
    with tempfile.TemporaryDirectory() as folder:
        csv = str(Path(folder) / "synthetic.csv")
        numbers = fit_apart(fit, csv)
        rows = read(csv)
    return {**numbers, "score": k_marginal(real, rows), "score_21": k_marginal(real, rows.drop(columns=list(CF21)))}


def main() -> None:
    """Print the ladder, then the fits beside NIST's marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, evaluator=False)
    parser.add_argument("--generators", nargs="*", default=["independent", "mst"])
    parser.add_argument("--epsilons", nargs="+", type=float, default=[10.0, 1.0])
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--draws", type=int, default=5, help="subsamples per step of the ladder")
    arguments = parser.parse_args()
    path = Path(arguments.data) / "nist_ma2019.csv"
    real = read(path)
    head("features", "subsample", "score", "NIST's score", "difference")
    for features, share, ours, theirs in ladder(real, draws=arguments.draws):
        line(features, f"{share:.0%}", f"{ours:.0f}", theirs, f"{ours - theirs:+.0f}")
    print()
    head("generator", "epsilon", "score", "standard deviation", "score, 21 features", "fit_s", "peak_mb")
    for name, epsilon, mark in MARKS:
        line(name, epsilon, *(("", "", mark, "", "") if "21" in name else (mark, "", "", "", "")))
    for epsilon, generator in itertools.product(arguments.epsilons, arguments.generators):
        schema = str(SCHEMAS / "nist_ma2019.schema.yaml")
        fit = Fit(generator, epsilon, arguments.delta, str(path), schema, len(real), arguments.random_state)
        results = [fitted(fit, real) for _ in range(arguments.fits)]
        spread = f"{statistics.stdev(r['score'] for r in results):.1f}" if len(results) > 1 else ""
        cells = (mean(results, "score", ".0f"), spread, mean(results, "score_21", ".0f"))
        line(generator, f"{epsilon:g}", *cells, mean(results, "fit_s", ".1f"), mean(results, "peak_mb", ".0f"))
        for r in results:
            keep(arguments, {"generator": generator, "epsilon": epsilon, **r})


if __name__ == "__main__":
    main()
