"""What a class of rows gives away about a sensitive column: l-diversity, t-closeness and their kin, as pure functions.

A class is a set of rows that agree in all quasi-identifiers. Write n for its rows, p for the shares of the sensitive
values in it, q for those in the whole table, m for the number of values the whole table shows. Each function takes
`Pairs`, which hold what occurs and no more, and gives the worst class's number. Nothing loops over rows or classes.

Privacy: sees numbers of classes and values of real rows, so what it gives is INTERNAL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tabveil.audit._classes import Numbers, packed
from tabveil.encoding import Codes, Floats
from tabveil.errors import UsageError

_DENSE = 8
"""Pairs are counted in a list while it has at most so many places per row."""


@dataclass(frozen=True, eq=False, repr=False)
class Pairs:
    """How often each value occurs in each class, where it does.

    Attributes:
      group: a pair's class, 0 to classes - 1, ascending, shape (pairs,).
      value: its value, 0 to m - 1 in the column's order, ascending within a class, shape (pairs,).
      times: rows of that class with that value, at least 1, shape (pairs,).
    """

    group: Codes
    value: Codes
    times: Codes

    @classmethod
    def of(cls, group: Codes, value: Numbers) -> Pairs:
        """The pairs of rows given by class and value, each shape (rows,), numbers from 0 up; gaps are closed.

        Raises:
          UsageError: there is no row.
        """
        if not len(group):
            raise UsageError("A table without rows has no classes: there is nothing to measure.")
        group, classes = packed(group, int(group.max()) + 1)
        value, values = _ranked(value)
        key = group * values + value
        if classes * values <= _DENSE * len(key) + 1024:
            times = np.bincount(key, minlength=classes * values)
            key = np.flatnonzero(times)
            times = times[key]
        else:
            key, times = np.unique(key, return_counts=True)
        return cls(key // values, key % values, times)

    @cached_property
    def rows(self) -> Codes:
        """Rows of each class, shape (classes,)."""
        return np.bincount(self.group, weights=self.times).astype(np.int64)

    @cached_property
    def shares(self) -> Floats:
        """p of each pair, above 0 and at most 1."""
        return np.asarray(self.times / self.rows[self.group])

    @cached_property
    def whole(self) -> Floats:
        """q of each value, shape (m,), each above 0."""
        return np.asarray(np.bincount(self.value, weights=self.times) / self.rows.sum())

    @cached_property
    def starts(self) -> Codes:
        """Position of each class's first pair, shape (classes,)."""
        return np.searchsorted(self.group, np.arange(len(self.rows)))

    def summed(self, weights: NDArray[np.generic]) -> Floats:
        """Sums by class, shape (classes,), of one number per pair."""
        return np.asarray(np.bincount(self.group, weights=weights), dtype=np.float64)


def _ranked(value: Numbers) -> tuple[Codes, int]:
    """Values renumbered from 0 up without gaps, in their order, and how many there are."""
    if int(value.max()) < len(value) + 1024:  # `packed` keeps the order of what it counts in a list
        return packed(value.astype(np.int64), int(value.max()) + 1)
    different, numbers = np.unique(value, return_inverse=True)
    return numbers.astype(np.int64), len(different)


def alpha(pairs: Pairs) -> float:
    """The alpha of (alpha, k)-anonymity: the largest share of one value in one class, above 0 and at most 1.

    Wong, Li, Fu and Wang 2006, "(α, k)-anonymity: an enhanced k-anonymity model", KDD: α-deassociation, asked of every
    sensitive value.
    """
    return float(pairs.shares.max())


def distinct_l(pairs: Pairs) -> int:
    """Distinct l-diversity: the fewest different values in a class, 1 to m.

    Machanavajjhala, Kifer, Gehrke and Venkitasubramaniam 2007, "l-diversity", TKDD 1(1), section 4.
    """
    return int(np.bincount(pairs.group).min())


def entropy_l(pairs: Pairs) -> float:
    """Entropy l-diversity: exp of the least entropy of a class, -Σ p ln p; 1 to m.

    Machanavajjhala et al. 2007, section 4, entropy l-diversity: every class has entropy of at least log l.
    """
    least = float(pairs.summed(-pairs.shares * np.log(pairs.shares)).min())
    return math.exp(max(0.0, least))


def recursive_c(pairs: Pairs, *, least: int) -> float:
    """Recursive (c, l)-diversity for l = `least`: the largest r1 / (rl + ... + rm) of a class, above 0; infinite where
    a class has fewer than l values. The table is (c, l)-diverse for every c above this.

    r1 >= r2 >= ... are the counts of a class's values (Machanavajjhala et al. 2007, section 4: r1 < c (rl + ... + rm)).

    Raises:
      UsageError: `least` is below 1.
    """
    if least < 1:
        raise UsageError("recursive_c asks for l of at least 1.")
    falling = pairs.times[np.lexsort((-pairs.times, pairs.group))]
    rank = np.arange(len(falling)) - pairs.starts[pairs.group]
    tail = pairs.summed(falling * (rank >= least - 1))
    with np.errstate(divide="ignore"):
        return float((falling[pairs.starts] / tail).max())


def equal_t(pairs: Pairs) -> float:
    """t-closeness by equal distance: the largest ½ Σ |p - q| of a class, 0 up to below 1.

    Li, Li and Venkatasubramanian 2007, "t-closeness", ICDE, section 4: the earth mover's distance where any two values
    are as far apart as any other two.
    """
    whole = pairs.whole[pairs.value]
    absent = 1 - pairs.summed(whole)
    return float(np.max((pairs.summed(np.abs(pairs.shares - whole)) + absent) / 2).clip(0))


def ordered_t(pairs: Pairs) -> float:
    """t-closeness by ordered distance: the largest 1/(m-1) Σ_i |Σ_{j<=i} p_j - q_j| of a class, 0 to 1; 0 where m = 1.

    Li et al. 2007, section 4: the i-th and the j-th value are |i - j| / (m - 1) apart. The values are those that the
    whole table shows, in the column's order.
    """
    places = len(pairs.whole)
    if places == 1:
        return 0.0
    below = np.cumsum(pairs.whole)
    total = np.concatenate([[0.0], np.cumsum(below)])
    level = _levels(pairs)
    start, end = pairs.value, np.append(pairs.value[1:], places)
    end[np.append(pairs.starts[1:], len(end)) - 1] = places
    # From one value of a class to its next, the class's share is level and the table's climbs: they cross once.
    cross = np.clip(np.searchsorted(below, level), start, end)
    gap = level * (2 * cross - start - end) + total[start] + total[end] - 2 * total[cross]
    return float(np.max((pairs.summed(gap) + total[pairs.value[pairs.starts]]) / (places - 1)).clip(0, 1))


def _levels(pairs: Pairs) -> Floats:
    """The share of its class up to and with each pair; counted in whole numbers, so that the last is exactly 1."""
    counted = np.cumsum(pairs.times)
    before = (counted - pairs.times)[pairs.starts]
    return np.asarray((counted - before[pairs.group]) / pairs.rows[pairs.group])


def delta_disclosure(pairs: Pairs) -> float:
    """δ-disclosure: the largest |ln(p / q)| over every class and every value of the table, 0 up; infinite where a class
    lacks a value that the table has.

    Brickell and Shmatikov 2008, "The cost of privacy", KDD, δ-disclosure privacy: the bound is asked of all values.
    """
    return delta_disclosure_seen(pairs) if distinct_l(pairs) == len(pairs.whole) else math.inf


def delta_disclosure_seen(pairs: Pairs) -> float:
    """The same over values that a class has, always finite: what pycanon 1.3 calls δ-disclosure. It does not see that a
    value can be ruled out.
    """
    return float(np.abs(np.log(pairs.shares / pairs.whole[pairs.value])).max())


def _gains(pairs: Pairs) -> Floats:
    return np.asarray(pairs.shares / pairs.whole[pairs.value] - 1)


def basic_beta(pairs: Pairs) -> float:
    """Basic β-likeness: the largest gain (p - q) / q of a value in a class, 0 up.

    Cao and Karras 2012, "Publishing microdata with a robust privacy guarantee", PVLDB 5(11), basic β-likeness: losses
    are not bounded.
    """
    return max(0.0, float(_gains(pairs).max()))


def enhanced_beta(pairs: Pairs) -> float:
    """Enhanced β-likeness: the same, where every gain is at most -ln q; infinite where one is larger: no β then does.

    Cao and Karras 2012, enhanced β-likeness: (p - q) / q <= min(β, -ln q) for every value whose share grows.
    """
    gains, slack = _gains(pairs), 1e-12
    broken = gains > slack - np.log(pairs.whole[pairs.value])
    return math.inf if broken.any() else basic_beta(pairs)
