"""What the white-box audits, `canary` and `training`, share: is noise that was seen independent?

Privacy: numbers about made-up rows and canaries; INTERNAL, as everything an audit sees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

FARTHEST = 37.0
"""Normal deviations are told apart up to here, where a double's p-value ends."""


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
