"""Lower bounds on mu of Gaussian differential privacy from independent runs; `rates` offers them.

Valid only where the trade-off between both errors is Gaussian, as for one Gaussian mechanism or, nearly, for many
composed (f-DP; Dong, Roth, Su 2022, Gaussian differential privacy). A mechanism that keeps epsilon in another way, such
as randomised response, shows a mu that means far more at small delta than what it costs. So these numbers stand beside
those of `_epsilon_bounds`, never instead.

Privacy: sees counts and scores, never a row; both are INTERNAL, and so is every bound made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from tabveil.audit._counts import Count, Floats, above, interval, scores_of, shared
from tabveil.audit._epsilon_bounds import FEWEST, EpsilonBound

MOST_MU = 10.0
"""mu is turned into an epsilon up to here."""


@dataclass(frozen=True)
class MuBound:
    """What an attack shows of mu, the parameter of Gaussian differential privacy; fields as in `EpsilonBound`."""

    estimate: float
    low: float
    ceiling: float
    confidence: float

    def epsilon(self, delta: float) -> EpsilonBound:
        """The same in epsilons at `delta`, above 0."""
        estimate, low, most = (gaussian_epsilon(mu, delta) for mu in (self.estimate, self.low, self.ceiling))
        return EpsilonBound(estimate, low, most, self.confidence, delta, "gaussian")


def mu_of_counts(hits: Count, alarms: Count, *, confidence: float = 0.95) -> MuBound:
    """mu of Gaussian differential privacy that a rule shows which was fixed before these runs were looked at:
    PhiInv(1 - FPR) - PhiInv(FNR), at the Clopper-Pearson ends (Dong, Roth, Su 2022, Gaussian differential privacy;
    Nasr et al. 2023, Tight auditing of differentially private machine learning, section 5).

    Valid only where the trade-off is Gaussian: show it beside `epsilon_of_counts`, never instead.

    Args:
      hits: runs with the target that the rule took for such, of all runs with it.
      alarms: runs without the target that the rule took for runs with it.
      confidence: strictly between 0 and 1.

    Raises:
      UsageError: `confidence` is not between 0 and 1.
    """
    halves = (Count(2 * c.hits + 1, 2 * c.tries + 2).rate for c in (hits, alarms))
    estimate = _between(*halves)
    low = _between(interval(hits, confidence)[0], interval(alarms, confidence)[1])
    perfect = Count(hits.tries, hits.tries), Count(0, alarms.tries)
    most = _between(interval(perfect[0], confidence)[0], interval(perfect[1], confidence)[1])
    return MuBound(estimate, low, most, confidence)


def gaussian_mu(inside: Floats, outside: Floats, *, confidence: float = 0.95, tried: int = 1) -> MuBound:
    """mu that scores of independent runs show; valid only where the trade-off is Gaussian (`mu_of_counts`).

    Every other run sets the threshold, the median of as many of each side, where a Gaussian trade-off shows as much as
    anywhere; the rest is counted.

    Args:
      inside: scores of runs with the target, shape (n,), in an order that does not depend on the scores.
      outside: scores of runs without the target, shape (m,).
      confidence: strictly between 0 and 1, of all attacks and targets together.
      tried: how many of them there were, of which this may be the best (Bonferroni).

    Raises:
      UsageError: a number out of range, or a score that is not a number.
    """
    inside, outside = scores_of(inside), scores_of(outside)
    alpha = shared(confidence, tried)
    if min(len(inside), len(outside)) < FEWEST:
        return MuBound(0.0, 0.0, 0.0, confidence)
    fewer = min(len(inside), len(outside)) // 2
    known = np.concatenate([inside[1::2][:fewer], outside[1::2][:fewer]])
    cut = float(np.quantile(known, 0.5, method="inverted_cdf"))
    found = mu_of_counts(above(inside[::2], cut), above(outside[::2], cut), confidence=1 - alpha)
    return replace(found, confidence=confidence)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon at `delta` of a Gaussian mechanism whose noise has 1 / mu of its sensitivity; mu is cut at MOST_MU."""
    from dp_accounting import GaussianDpEvent

    from tabveil import accounting

    return 0.0 if mu <= 1e-6 else accounting.epsilon(GaussianDpEvent(1 / min(mu, MOST_MU)), delta)


def _between(found: float, alarmed: float) -> float:
    return max(0.0, float(special.ndtri(found) - special.ndtri(alarmed))) if found > 0 else 0.0
