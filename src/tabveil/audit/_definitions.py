"""What each anonymity measure is called and means, who defined it, and how it is counted.

Privacy: sees rows per class and `Pairs` of real rows, never a row; what it counts is INTERNAL.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tabveil.audit import _disclosure as disclosure
from tabveil.audit._disclosure import Pairs
from tabveil.encoding import Codes, Floats

L = 2
"""The l of recursive (c, l)-diversity: the most frequent value against all others."""


@dataclass(frozen=True)
class Measure:
    """A number's name and meaning, as an auditor reads it."""

    name: str
    goal: Literal["min", "max"]
    definition: str
    source: str


K = Measure(
    "k-anonymity",
    "max",
    "The fewest rows in a class.",
    "Sweeney 2002, k-anonymity: a model for protecting privacy, definition of k-anonymity; risks 1/k and classes/rows "
    "as in El Emam and Dankar 2008, Protecting privacy using k-anonymity",
)
K_MAP = Measure(
    "k-map",
    "max",
    "The fewest rows of the other table that share a combination with a row of this one, over combinations that the "
    "other table has; infinite where there are none.",
    "Sweeney 2001, Computational disclosure control, k-map; El Emam and Dankar 2008",
)
PRESENCE = Measure(
    "delta-presence",
    "min",
    "The largest share of a class's population rows that are in the table: how sure one can be that a person is in it.",
    "Nergiz, Atzori and Clifton 2007, Hiding the presence of individuals from shared databases, delta-presence",
)
REPLICATED = Measure(
    "replicated uniques",
    "min",
    "Share of real rows that are unique in the real table and whose combination is in the synthetic one.",
    "Raab, Nowok and Dibben 2024, Practical privacy metrics for synthetic data (arXiv 2406.16826)",
)

_MACHANAVAJJHALA = "Machanavajjhala, Kifer, Gehrke and Venkitasubramaniam 2007, l-diversity, section 4"
_LI = "Li, Li and Venkatasubramanian 2007, t-closeness, section 4"
_CAO = "Cao and Karras 2012, Publishing microdata with a robust privacy guarantee"
_BRICKELL = "Brickell and Shmatikov 2008, The cost of privacy, delta-disclosure privacy"

OF_PAIRS: tuple[tuple[Measure, Callable[[Pairs], float]], ...] = (
    (
        Measure(
            "alpha of (alpha, k)-anonymity",
            "min",
            "The largest share that one sensitive value has in a class.",
            "Wong, Li, Fu and Wang 2006, (alpha, k)-anonymity, alpha-deassociation of every value",
        ),
        disclosure.alpha,
    ),
    (
        Measure("distinct l-diversity", "max", "The fewest different sensitive values in a class.", _MACHANAVAJJHALA),
        disclosure.distinct_l,
    ),
    (
        Measure("entropy l-diversity", "max", "exp of the least entropy of a class.", _MACHANAVAJJHALA),
        disclosure.entropy_l,
    ),
    (
        Measure(
            f"c of recursive (c, {L})-diversity",
            "min",
            f"The largest r1 / (r{L} + ... + rm) of a class, its values' counts falling; infinite where a class has "
            f"fewer than {L} values. The table is (c, {L})-diverse for every larger c.",
            _MACHANAVAJJHALA,
        ),
        lambda pairs: disclosure.recursive_c(pairs, least=L),
    ),
    (
        Measure(
            "t-closeness, equal distance", "min", "The largest ½ Σ |p - q| between a class and the whole table.", _LI
        ),
        disclosure.equal_t,
    ),
    (
        Measure(
            "delta-disclosure",
            "min",
            "The largest |ln(p / q)| over classes and values; infinite where a class lacks a value of the table.",
            _BRICKELL,
        ),
        disclosure.delta_disclosure,
    ),
    (
        Measure(
            "delta-disclosure, values seen",
            "min",
            "The same over the values that a class has: not the paper's, but finite.",
            f"{_BRICKELL}, as far as values occur",
        ),
        disclosure.delta_disclosure_seen,
    ),
    (
        Measure("basic beta-likeness", "min", "The largest gain (p - q) / q of a value in a class.", _CAO),
        disclosure.basic_beta,
    ),
    (
        Measure(
            "enhanced beta-likeness",
            "min",
            "The largest gain (p - q) / q, where each is at most -ln q; infinite where one is not.",
            _CAO,
        ),
        disclosure.enhanced_beta,
    ),
)
"""What is said of every sensitive column."""

ORDERED = Measure(
    "t-closeness, ordered distance",
    "min",
    "The largest 1/(m-1) Σ |P - Q| between the cumulated shares of a class and of the whole table, over the m values "
    "that the table has.",
    _LI,
)
"""What is said of sensitive numbers, dates and ordered categories besides."""


# ------------------------------------------------------------------------------------------------------------- counts


def replicated(real: Codes | Floats, synthetic: Codes | Floats) -> NDArray[np.bool_]:
    """Which classes hold one real row and some synthetic ones, shape (classes,)."""
    return np.asarray((real == 1) & (synthetic > 0))


def sizes(rows: Codes) -> dict[str, float]:
    """What else is said of class sizes: risks of El Emam and Dankar 2008, rows in classes below usual thresholds."""
    rows = rows[rows > 0]
    total = float(rows.sum())
    return {
        "rows": total,
        "classes": float(len(rows)),
        "unique_rows": float((rows == 1).sum()),
        "rows_below_5": float(rows[rows < 5].sum()),
        "rows_below_11": float(rows[rows < 11].sum()),
        "risk_highest": 1 / float(rows.min()),
        "risk_average": len(rows) / total,
    }


def mapped(rows: Codes, others: Codes) -> tuple[float, dict[str, float]]:
    """k of a k-map, and rows of the table whose combination the other does not have."""
    found = (rows > 0) & (others > 0)
    value = float(others[found].min()) if found.any() else math.inf
    return value, {"rows": float(rows.sum()), "rows_without_match": float(rows[others == 0].sum())}


def present(rows: Codes, population: Codes) -> tuple[float, dict[str, float]]:
    """The largest δ; the least, and rows that the population cannot account for: with any it is not one."""
    shares = np.minimum(rows, population)[population > 0] / population[population > 0]
    outside = np.maximum(rows - population, 0).sum()
    return float(shares.max()), {"least": float(shares.min()), "rows_outside_population": float(outside)}
