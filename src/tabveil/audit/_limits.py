"""What a claimed epsilon lets any attack get; `rates` offers it. What is surely more contradicts the claim.

Privacy: no data passes here.
"""

from __future__ import annotations

import math

from scipy import special


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
