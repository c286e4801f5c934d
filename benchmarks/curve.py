"""More epsilon is never worse beyond noise: a generator at epsilon 0.1 to 10, several fits each, tested step by step.

    .venv/bin/python benchmarks/curve.py --data ../shared/data --evaluator ../shared/tools/evaluate.py \
        --generators mst aim --epsilons 0.1 0.3 1 3 10 --fits 5 --svg benchmarks/curve.svg

Prints means with standard errors, then every step from one epsilon to the next whose mean is worse, with the p value of
Welch's one-sided t test. "Worse beyond noise" is p < alpha / number of tests (Bonferroni), alpha 0.05 by default: where
more epsilon truly is never worse, it is said of some step with probability at most alpha. With --out, fits that the
file holds already are not run again. Exits with 1 where a step is worse beyond noise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from _common import Numbers, add_common, fit_and_score, head, keep, line, split_fit
from scipy import stats
from utility import split_tables

HIGHER_IS_BETTER = {"auc": True, "tvd1": False, "tvd2": False, "tvd3": False, "detection_auc": False}
TITLES = {
    "auc": "AUC of a classifier, tested on real rows (more is better)",
    "tvd1": "Columns: distance to train (less is better)",
    "tvd2": "Pairs: distance to train (less is better)",
    "tvd3": "Triples: distance to train (less is better)",
    "detection_auc": "AUC of telling synthetic from real (0.5 is best)",
}
COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f", "#7a3f9d", "#8a6d00", "#444444")

Runs = dict[tuple[str, float], list[Numbers]]


@dataclass(frozen=True)
class Step:
    """One step up in epsilon at which the mean of a score got worse; p is Welch's, one-sided."""

    generator: str
    key: str
    low: float
    high: float
    worse_by: float
    p: float


def steps(runs: Runs, *, epsilons: Sequence[float]) -> Iterator[Step]:
    """Every step of every generator and score."""
    for generator in dict.fromkeys(g for g, _ in runs):
        for (low, high), (key, higher) in itertools.product(itertools.pairwise(epsilons), HIGHER_IS_BETTER.items()):
            before, after = ([r[key] for r in runs[generator, e]] for e in (low, high))
            sign = 1 if higher else -1
            worse_by = sign * (statistics.mean(before) - statistics.mean(after))
            yield Step(
                generator, key, low, high, worse_by, _p_worse([sign * v for v in before], [sign * v for v in after])
            )


def _p_worse(before: Sequence[float], after: Sequence[float]) -> float:
    """p value of the null hypothesis that `after` is not below `before` in the mean."""
    if len(before) < 2 or len(after) < 2:
        return 1.0
    if statistics.pvariance(before) == statistics.pvariance(after) == 0:
        return 0.0 if after[0] < before[0] else 1.0
    return float(stats.ttest_ind(after, before, equal_var=False, alternative="less").pvalue)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, 0 where there is one value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.mean(values), error


def held(path: str | None, table: str, delta: float) -> Runs:
    """Fits of earlier runs that `--out` holds."""
    runs: Runs = {}
    if path and Path(path).exists():
        for text in Path(path).read_text().splitlines():
            record = json.loads(text)
            if (record["table"], record["delta"]) == (table, delta):
                runs.setdefault((record["generator"], record["epsilon"]), []).append(record)
    return runs


def measure(arguments: argparse.Namespace) -> Runs:
    """All fits, one table line per generator and epsilon."""
    earlier = held(arguments.out, arguments.table, arguments.delta)
    runs: Runs = {}
    head("generator", "epsilon", "fits", *HIGHER_IS_BETTER)
    for generator, epsilon in itertools.product(arguments.generators, sorted(arguments.epsilons)):
        fit = split_fit(arguments, arguments.table, generator, epsilon)
        results = earlier.get((generator, epsilon), [])[: arguments.fits]
        while len(results) < arguments.fits:
            results.append(fit_and_score(arguments, fit, arguments.table))
            known = {"table": arguments.table, "delta": arguments.delta, "generator": generator, "epsilon": epsilon}
            keep(arguments, {**known, **results[-1]})
        runs[generator, epsilon] = results
        cells = (mean_and_error([r[key] for r in results]) for key in HIGHER_IS_BETTER)
        line(generator, f"{epsilon:g}", len(results), *(f"{m:.4f} ± {e:.4f}" for m, e in cells))
    return runs


def verdict(found: Sequence[Step], *, alpha: float) -> list[Step]:
    """Print the steps that are worse in the mean and what that says; gives those worse beyond noise."""
    bound = alpha / max(1, len(found))
    worse = [s for s in found if s.worse_by > 0]
    beyond = [s for s in worse if s.p < bound]
    if worse:
        head("generator", "score", "step of epsilon", "worse by", "p", "beyond noise")
    for s in worse:
        said = "yes" if s in beyond else "no"
        line(s.generator, s.key, f"{s.low:g} to {s.high:g}", f"{s.worse_by:.4f}", f"{s.p:.2g}", said)
    print(
        f"\n{len(found)} steps tested, {len(worse)} worse in the mean, {len(beyond)} beyond noise "
        f"(Welch's one-sided t, alpha {alpha:g} over all steps, so p < {bound:.2g} at each)."
    )
    return beyond


# ------------------------------------------------------------------------------------------------------------- picture

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 210, 56, 14, 30, 36


def picture(runs: Runs) -> str:
    """An SVG of one panel per score: mean and two standard errors against epsilon (logarithmic)."""
    generators = list(dict.fromkeys(g for g, _ in runs))
    panels = [_panel(runs, key, generators) for key in HIGHER_IS_BETTER]
    placed = [
        f'<g transform="translate({(i % 2) * WIDTH},{(i // 2) * HEIGHT})">{panel}</g>'
        for i, panel in enumerate([*panels, _legend(generators)])
    ]
    rows = math.ceil(len(placed) / 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {rows * HEIGHT}" '
        f'font-family="sans-serif" font-size="11" role="img" aria-label="Scores against epsilon">\n'
        f'<rect width="{2 * WIDTH}" height="{rows * HEIGHT}" fill="white"/>\n' + "\n".join(placed) + "\n</svg>\n"
    )


def _panel(runs: Runs, key: str, generators: Sequence[str]) -> str:
    """Axes and one line per generator."""
    found = {at: mean_and_error([r[key] for r in results]) for at, results in runs.items()}
    epsilons = sorted({e for _, e in found})
    low = min(m - 2 * e for m, e in found.values())
    high = max(m + 2 * e for m, e in found.values())
    pad = 0.06 * (high - low) or 0.01
    low, high = low - pad, high + pad

    def x(epsilon: float) -> float:
        span = math.log(epsilons[-1] / epsilons[0]) or 1.0
        return LEFT + 12 + (WIDTH - LEFT - RIGHT - 24) * math.log(epsilon / epsilons[0]) / span

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = [f'<text x="{LEFT}" y="18" font-weight="bold">{TITLES[key]}</text>']
    for value in (low + pad, (low + high) / 2, high - pad):
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3f}</text>')
    for e in epsilons:
        parts.append(f'<text x="{x(e):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{e:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">epsilon</text>')
    for generator, colour in zip(generators, itertools.cycle(COLOURS), strict=False):
        spots = [(x(e), *found[generator, e]) for e in epsilons if (generator, e) in found]
        way = "L".join(f"{at:.1f} {y(m):.1f}" for at, m, _ in spots)
        bars = "".join(f"M{at:.1f} {y(m - 2 * e):.1f}V{y(m + 2 * e):.1f}" for at, m, e in spots)
        parts.append(f'<path d="M{way}{bars}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts += [f'<circle cx="{at:.1f}" cy="{y(m):.1f}" r="3" fill="{colour}"/>' for at, m, _ in spots]
    return "".join(parts)


def _legend(generators: Sequence[str]) -> str:
    parts = [f'<text x="{LEFT}" y="18" font-weight="bold">Mean of the fits, bars of two standard errors</text>']
    for i, (generator, colour) in enumerate(zip(generators, itertools.cycle(COLOURS), strict=False)):
        at = TOP + 16 + 18 * i
        shown = generator.replace("&", "&amp;").replace("<", "&lt;")
        parts.append(f'<path d="M{LEFT} {at - 4}h24" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(f'<text x="{LEFT + 32}" y="{at}">{shown}</text>')
    return "".join(parts)


def main() -> None:
    """Measure, test, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--table", choices=split_tables(), default="adult")
    parser.add_argument("--generators", nargs="+", default=["mst"])
    parser.add_argument("--epsilons", nargs="+", type=float, default=[0.1, 0.3, 1.0, 3.0, 10.0])
    parser.add_argument("--fits", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--svg", help="draw the curves to this file")
    arguments = parser.parse_args()
    runs = measure(arguments)
    print()
    beyond = verdict(list(steps(runs, epsilons=sorted(arguments.epsilons))), alpha=arguments.alpha)
    if arguments.svg:
        Path(arguments.svg).write_text(picture(runs))
    sys.exit(1 if beyond else 0)


if __name__ == "__main__":
    main()
