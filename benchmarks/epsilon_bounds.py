"""How much of a known epsilon the bounds show, and how often they show too much: randomised response.

    .venv/bin/python benchmarks/epsilon_bounds.py

Prints one row per epsilon and delta. "counted": the bound at the median count of 1,000 runs a side, exact, as for "one
run" of 1,000 canaries. "scores": the median of 500 audits of 1,000 scores a side, half of which choose threshold and
test. "errs": how often the accuracy of 500 counted runs a side, and the ratio of 1,000, show more than epsilon, exact.
All at 95 %. Reads no data.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from scipy import stats

from tabveil.audit.rates import Count, EpsilonBound, empirical_epsilon, epsilon_of_counts, one_run_epsilon

RUNS = 1_000


def counted(right: float, delta: float, runs: int = RUNS) -> tuple[EpsilonBound, EpsilonBound]:
    """By accuracy, and by ratio, of so many runs a side."""
    both, hits = int(stats.binom.median(2 * runs, right)), int(stats.binom.median(runs, right))
    half = both // 2
    return (
        epsilon_of_counts(Count(half, runs), Count(runs - both + half, runs), delta=delta, method="accuracy"),
        epsilon_of_counts(Count(hits, runs), Count(runs - hits, runs), delta=delta),
    )


def scored(rng: np.random.Generator, right: float, delta: float) -> float:
    """By scores of RUNS a side."""
    inside = (rng.random(RUNS) < right).astype(np.float64)
    outside = (rng.random(RUNS) >= right).astype(np.float64)
    return empirical_epsilon(inside, outside, delta=delta).low


def ratio_errs(epsilon: float, delta: float, right: float) -> float:
    """The chance of a bound by ratio above epsilon, RUNS a side: the most alarms with such a bound grow with hits."""
    chance, alarms = 0.0, -1
    for hits in range(RUNS + 1):
        while alarms < RUNS and _ratio(hits, alarms + 1, delta) > epsilon:
            alarms += 1
        chance += float(stats.binom.pmf(hits, RUNS, right) * stats.binom.cdf(alarms, RUNS, 1 - right))
    return chance


def _ratio(hits: int, alarms: int, delta: float) -> float:
    return epsilon_of_counts(Count(hits, RUNS), Count(alarms, RUNS), delta=delta).low


def errs(epsilon: float, delta: float, right: float) -> float:
    """The chance of a bound by accuracy above epsilon, RUNS / 2 a side."""
    half = RUNS // 2

    def shown(both: int) -> float:
        hits, alarms = Count(both // 2, half), Count(half - both + both // 2, half)
        return epsilon_of_counts(hits, alarms, delta=delta, method="accuracy").low

    first = next((n for n in range(half, RUNS + 1) if shown(n) > epsilon), RUNS + 1)
    return float(stats.binom.sf(first - 1, RUNS, right))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audits", type=int, default=500)
    audits = parser.parse_args().audits
    rng = np.random.default_rng(0)
    print("| epsilon | delta | counted, accuracy | counted, ratio | one run | scores | accuracy errs | ratio errs |")
    print("|---|---|---|---|---|---|---|---|")
    for delta in (0.0, 1e-5, 0.01):
        for epsilon in (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 1, 2, 3, 4, 5, 6, 7, 8):
            right = (math.exp(epsilon) + delta) / (1 + math.exp(epsilon))
            accuracy, ratio = counted(right, delta)
            guesses = int(stats.binom.median(RUNS, right))
            one = one_run_epsilon(guesses, RUNS, canaries=RUNS, delta=delta)
            found = np.array([scored(rng, right, delta) for _ in range(audits)])
            shares = [b / epsilon for b in (accuracy.low, ratio.low, one.low, float(np.median(found)))]
            wrong = errs(epsilon, delta, right), ratio_errs(epsilon, delta, right)
            cells = [f"{epsilon:g}", f"{delta:g}", *(f"{s:.2f}" for s in shares), *(f"{w:.1%}" for w in wrong)]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
