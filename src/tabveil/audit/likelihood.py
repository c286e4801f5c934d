"""Whether a model finds the rows it was trained on likelier than other rows: memorising shows there first.

For a generator that gives the likelihood of a row (`TabularLM.log_prob`): the data leakage test of HARMONIC (Wang et
al. 2024), in spirit. Training and held-out rows are compared pair by pair, each row in one pair, so that comparisons
are independent and the interval is exact.

    found = likelihood_gap(model.log_prob(train), model.log_prob(holdout))

Privacy: reads real rows outside any budget, by way of their likelihoods. The finding is INTERNAL.
"""

from __future__ import annotations

import math

import numpy as np

from tabveil.audit.base import ALPHA
from tabveil.audit.rates import Count, beyond, finding
from tabveil.encoding import Floats
from tabveil.errors import UsageError
from tabveil.records import Finding


def likelihood_gap(train: Floats, holdout: Floats, *, random_state: int | None = 0) -> Finding:
    """How often a training row is likelier than a held-out one under the model.

    Args:
      train: log-probabilities of training rows, shape (rows,), -inf allowed.
      holdout: those of rows that the fit has not seen, from the same source.
      random_state: pairs the rows, and tosses the coin where two are equally likely.

    Returns:
      `value` is the share of pairs in which the training row is likelier (the area under the ROC curve of the
      likelihood as an attack), beside 0.5, which guessing gets; `control` the same among held-out rows alone.

    Raises:
      UsageError: fewer than 4 rows on a side, or NaN among them.
    """
    sides = [np.asarray(s, dtype=np.float64) for s in (train, holdout)]
    if any(s.ndim != 1 or len(s) < 4 or np.isnan(s).any() for s in sides):
        raise UsageError("likelihood_gap needs the log-probabilities of at least 4 rows on each side, and no NaN.")
    rng = np.random.Generator(np.random.SFC64(random_state))
    members, outsiders = (rng.permutation(s) for s in sides)
    half = len(outsiders) // 2
    means = _means(*sides)

    def verdict(found: Finding) -> str:
        said = "are" if beyond(found) else "were not found to be"
        return f"Training rows {said} likelier than held-out ones beyond chance; {means}; no bound on epsilon."

    return finding(
        auditor="likelihood",
        name="training rows likelier under the model than held-out rows (area under the ROC curve)",
        attack=_likelier(members, outsiders, rng),
        baseline=0.5,
        control=_likelier(outsiders[:half], outsiders[half:], rng),
        confidence=1 - ALPHA,
        verdict=verdict,
        threat_model="White box: the auditor has the model and some rows, and wants to know which it was fitted to.",
        targets=f"{len(members):,} training and {len(outsiders):,} held-out rows",
        seed=random_state,
        cost="one likelihood for each row, no fit",
    )


def _likelier(members: Floats, outsiders: Floats, rng: np.random.Generator) -> Count:
    """Pairs in which the first is likelier; a coin where they are equal."""
    pairs = min(len(members), len(outsiders))
    first, second = members[:pairs], outsiders[:pairs]
    return Count(int((np.where(first == second, rng.random(pairs) < 0.5, first > second)).sum()), pairs)


def _means(train: Floats, holdout: Floats) -> str:
    """Mean log-likelihoods, as half a sentence."""
    means = [float(s[np.isfinite(s)].mean()) if np.isfinite(s).any() else -math.inf for s in (train, holdout)]
    never = [int(np.isneginf(s).sum()) for s in (train, holdout)]
    return (
        f"their mean log-likelihoods are {means[0]:.3f} and {means[1]:.3f}, without {never[0]} and {never[1]} rows "
        "that the model never draws"
    )
