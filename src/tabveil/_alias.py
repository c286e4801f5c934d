"""Draws within groups in constant time: one of a group's entries by its share.

Every slot of a group is as likely as another; a slot keeps its own entry with some chance and gives way to one other
entry else (Walker 1977, "An efficient method for generating discrete random variables with general distributions";
built as by Vose 1991, in linear time).

Privacy: nothing is learned here; shares come from charged counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Alias:
    """Tables to draw by.

    Attributes:
      first, slots: shape (groups,), the first slot of each group and how many it has.
      keep: shape (slots of all groups,), the chance that a slot keeps its own entry.
      other: shape (slots of all groups,), the entry that a slot gives way to.
    """

    first: Places
    slots: Places
    keep: Floats
    other: Places

    @classmethod
    def of(cls, shares: Floats, ends: Places) -> Alias:
        """Tables for entries side by side.

        Args:
          shares: shape (entries,), >= 0, summing to 1 over each group.
          ends: shape (groups + 1,), rising from 0: group g has the entries ends[g] to ends[g + 1] - 1.
        """
        keep, other = np.ones(len(shares)), np.arange(len(shares))
        for start, stop in pairwise(ends.tolist()):
            if stop > start + 1:
                keep[start:stop], other[start:stop] = _paired(shares[start:stop])
                other[start:stop] += start
        return cls(ends[:-1], np.diff(ends), keep, other)

    def draw(self, groups: Places, rng: np.random.Generator) -> Places:
        """An entry for each of `groups`, shape (rows,)."""
        at = self.first[groups]
        if (self.slots <= 1).all():
            return at
        spot = rng.random(len(groups)) * self.slots[groups]
        slot = spot.astype(np.int64)
        at += slot
        return np.where(spot - slot < self.keep[at], at, self.other[at])


def _paired(shares: Floats) -> tuple[list[float], list[int]]:
    """`keep` and `other` of one group: each slot with too little is filled from one with too much."""
    left = (shares * len(shares)).tolist()
    keep, other = [1.0] * len(left), list(range(len(left)))
    poor, rich = [i for i, s in enumerate(left) if s < 1], [i for i, s in enumerate(left) if s >= 1]
    while poor and rich:
        i, j = poor.pop(), rich[-1]
        keep[i], other[i] = left[i], j
        left[j] -= 1 - left[i]
        if left[j] < 1:
            poor.append(rich.pop())
    return keep, other
