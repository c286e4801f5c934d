"""What the white-box audits, `canary` and `training`, share: findings beside a claim, and tests of the noise.

Privacy: numbers about made-up rows and canaries; INTERNAL, as everything an audit sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tabveil.records import Finding

Floats = NDArray[np.float64]

FARTHEST = 37.0
"""Normal deviations are told apart up to here, where a double's p-value ends."""


Test = tuple[str, float]
"""What a small p-value says, and the p-value."""


@dataclass(frozen=True, eq=False)
class About:
    """What all findings of one audit share.

    Attributes:
      auditor: its name.
      alpha: the chance of error of each.
    """

    auditor: str
    alpha: float

    def finding(
        self,
        name: str,
        found: tuple[float, tuple[float, float]],
        beside: tuple[float, float, float],
        verdict: str,
    ) -> Finding:
        """Of `found` (value, interval) `beside` (baseline, control, ceiling)."""
        baseline, control, ceiling = beside
        return Finding(
            auditor=self.auditor,
            name=name,
            value=found[0],
            interval=found[1],
            confidence=1 - self.alpha,
            baseline=baseline,
            control=control,
            ceiling=ceiling,
            verdict=verdict,
            baseline_of="claim",
        )

    def least_likely(self, name: str, tests: Sequence[Test], *, right: str, wrong: str) -> Finding:
        """The smallest of several p-values, as normal deviations, beside how far one of so many may be out by chance.

        Args:
          name: of the finding.
          tests: at least one.
          right: what is said where it is not beyond that, before "nothing beyond chance".
          wrong: what is said where it is, before what the p-value says.
        """
        worst, p = min(tests, key=lambda t: t[1])
        value, limit = as_deviation(p), as_deviation(self.alpha / len(tests))
        said = f"{wrong}: {worst}" if value > limit else f"{right} nothing beyond chance in {len(tests)} tests"
        return self.finding(name, (value, (value, value)), (limit, 0.0, FARTHEST), f"{said}.")


def against(what: str, low: float, claimed: float, seen: str) -> str:
    """A verdict on an epsilon of at least `low` of `what`, as was `seen`."""
    bound = f"{what} costs an epsilon of at least {low:.4g} ({seen}); {claimed:.4g} is claimed"
    return f"{bound}: MORE THAN IS CLAIMED." if low > claimed else f"{bound}: no contradiction, and no proof."


def two_sided(z: float) -> float:
    """P-value of a standard normal number."""
    return float(2 * stats.norm.sf(abs(z)))


def uncorrelated(one: Floats, other: Floats) -> float:
    """P-value of the products of pairs: `other` standard normal and independent, also of `one`, which may be anything.

    Exact for any number of pairs: given `one`, their sum over its length is standard normal. Over the square root of
    the number of pairs it would not be: with three pairs a p-value of 0.001 comes seven times as often.

    Args:
      one: numbers of any law.
      other: as many.
    """
    length = float(np.linalg.norm(one))
    return two_sided(float((one * other).sum()) / length) if length > 0 else 1.0


def successive(values: Floats) -> float:
    """P-value of products of each row with the next one, where all numbers are independent and standard normal.

    Exact for any size: each product has one row of an even number and one of an odd, so that the sum of all is one of
    odd rows, each times the two around it, and given the even rows `uncorrelated` applies. No product is left out.

    Args:
      values: shape (n, ...), what may depend on each other along the first axis; 0 where there is nothing.
    """
    around = np.zeros_like(values)
    around[1:] += values[:-1]
    around[:-1] += values[1:]
    return uncorrelated(around[1::2], values[1::2])


def as_deviation(p: float) -> float:
    """The standard normal number, from 0 up, that is as unlikely as `p`, up to FARTHEST."""
    return min(float(stats.norm.isf(max(p, 1e-300) / 2)), FARTHEST)
