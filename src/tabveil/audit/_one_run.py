"""A lower bound on epsilon from a single run with many canaries; `rates` offers it.

Privacy: sees counts, never a row. Counts of real rows are INTERNAL, and so is every bound made of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from tabveil.audit._counts import Count, check_delta, checked
from tabveil.audit._epsilon_bounds import EpsilonBound, at_least_0, inside_of, log_ratio
from tabveil.errors import UsageError


def one_run_epsilon(
    right: int, guesses: int, *, canaries: int, delta: float = 0.0, confidence: float = 0.95
) -> EpsilonBound:
    """The epsilon that guesses about the canaries of a single run show (Steinke, Nasr, Jagielski 2023, Privacy auditing
    with one (1) training run, Theorem 5.2).

    Each canary was put in by a fair coin of its own; the attacker saw what came out, and said "in" or "out" of as many
    canaries as he liked. He may know everything but the coins, and his guesses may depend on each other.

    Args:
      right: right guesses.
      guesses: how many he made, a number fixed beforehand.
      canaries: how many there were, guessed or not; matters for delta > 0.
      delta: from 0 to below 1.
      confidence: strictly between 0 and 1.

    Raises:
      UsageError: not 0 <= right <= guesses <= canaries, or a number out of range.
    """
    if not 0 <= right <= guesses <= canaries:
        raise UsageError("Guesses need 0 <= right <= guesses <= canaries.")
    alpha = 1 - checked(confidence)
    check_delta(delta)
    low, most = (_one_run(_Guesses(n, guesses, canaries, delta), alpha) for n in (right, guesses))
    share = inside_of(Count(right, guesses)) if guesses else np.array([0.5])
    estimate = at_least_0(log_ratio(share, 1 - share, delta))
    return EpsilonBound(estimate, low, most, confidence, delta, "one run")


@dataclass(frozen=True)
class _Guesses:
    """Right guesses out of all, of how many canaries, at which delta."""

    right: int
    guesses: int
    canaries: int
    delta: float

    def chance(self, epsilon: float) -> float:
        """The most likely that so many are right where epsilon holds: of as many answers of randomised response, and
        for delta what `2 * canaries * delta` can move from just below to there.
        """
        answer = float(special.expit(epsilon))
        chance = float(stats.binom.sf(self.right - 1, self.guesses, answer))
        if self.delta == 0 or not self.right:
            return chance
        below = np.cumsum(stats.binom.pmf(np.arange(self.right - 1, -1, -1), self.guesses, answer))
        moved = float((below / np.arange(1, self.right + 1)).max())
        return min(1.0, chance + 2 * self.canaries * self.delta * moved)


def _one_run(guesses: _Guesses, alpha: float) -> float:
    """The first epsilon that is not refuted: all below are, so that the true one is, with a chance of at most alpha,
    below what is returned.
    """
    # There, nothing but right answers is more likely than alpha: (1 + e^-most)^-guesses > alpha.
    most = max(0.0, math.log(max(guesses.guesses, 1) / -math.log(alpha))) + 1
    tried = np.linspace(0.0, most, 65)
    kept = next(i for i, e in enumerate(tried) if guesses.chance(float(e)) > alpha)
    if not kept:
        return 0.0
    low, high = float(tried[kept - 1]), float(tried[kept])
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if guesses.chance(middle) > alpha else (middle, high)
    return low
