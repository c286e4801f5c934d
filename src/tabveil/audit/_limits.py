"""What a claimed epsilon lets any attack get; `rates` offers it. What is surely more contradicts the claim.

Privacy: no data passes here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from scipy import special


def most_right(claims: Iterable[tuple[float, float]]) -> float:
    """The largest share of right guesses, of as many with as without the target, that every claim (epsilon, delta)
    allows: (e^epsilon + delta) / (1 + e^epsilon), which randomised response reaches (Kairouz, Oh, Viswanath 2015,
    section 3). All claims that hold of one mechanism, each epsilon with its delta, allow (1 + d) / 2 where d is the
    greatest total variation distance of neighbours.

    Args:
      claims: epsilons from 0 up, infinite ones too, each with its delta from 0 to 1.
    """
    return min((min(1.0, (1 + d * math.exp(-e)) / (1 + math.exp(-e))) for e, d in claims), default=1.0)


def most_auc(epsilon: float, delta: float = 0.0) -> float:
    """The largest area under the ROC curve of any attack under (epsilon, delta)-DP: that below
    `records.most_recognised`.

    Args:
      epsilon: from 0 up.
      delta: from 0 to 1.
    """
    right = float(special.expit(epsilon))
    # Corners at (0, delta), (bend, 1 - bend) and (1 - delta, 1).
    bend = (1 - right) * (1 - delta)
    return float(bend * (delta + 1 - bend) / 2 + (1 - delta - bend) * (2 - bend) / 2 + delta)


def most_auc_gaussian(mu: float) -> float:
    """The largest area under the ROC curve of any attack under mu-Gaussian differential privacy: Phi(mu / sqrt 2)."""
    return float(special.ndtr(mu / math.sqrt(2)))
