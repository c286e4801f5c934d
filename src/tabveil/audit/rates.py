"""The statistics of all auditors: counts in, a `Finding` out.

Privacy: sees counts, never a row. Counts of real rows are INTERNAL, and so is every finding made of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy import special

from tabveil.errors import UsageError
from tabveil.records import Finding


@dataclass(frozen=True)
class Count:
    """So many hits out of so many tries.

    Raises:
      UsageError: not 0 <= hits <= tries.
    """

    hits: int
    tries: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.tries:
            raise UsageError("A count needs 0 <= hits <= tries.")

    @property
    def rate(self) -> float:
        """Share of hits, 0 to 1; 0 where nothing was tried."""
        return self.hits / self.tries if self.tries else 0.0

    def __add__(self, other: Count) -> Count:
        return Count(self.hits + other.hits, self.tries + other.tries)

    @property
    def misses(self) -> Count:
        """The same tries, counted the other way round."""
        return Count(self.tries - self.hits, self.tries)


def interval(count: Count, confidence: float) -> tuple[float, float]:
    """The interval of Clopper and Pearson (1934) for a rate: covers the true one with at least `confidence`.

    Each end is wrong with a chance of at most (1 - confidence) / 2. Tries must be
    independent; where their chances differ it covers the mean chance, since their sum scatters less than a binomial one
    (Hoeffding 1956, On the distribution of the number of successes in independent trials).

    Args:
      count: hits and tries; without a try the interval is 0 to 1.
      confidence: strictly between 0 and 1.

    Raises:
      UsageError: `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise UsageError("A confidence is a number between 0 and 1.")
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(count.hits, count.misses.hits + 1, tail)) if count.hits else 0.0
    high = float(special.betainccinv(count.hits + 1, count.misses.hits, tail)) if count.misses.hits else 1.0
    return low, high


def ceiling(tries: int, confidence: float) -> float:
    """The largest rate that so many tries can show: where the interval starts when every try is a hit."""
    return interval(Count(tries, tries), confidence)[0]


def finding(
    *, auditor: str, name: str, attack: Count, baseline: float | Count, control: Count, confidence: float, verdict: str
) -> Finding:
    """The finding that such counts make.

    Args:
      auditor: plugin name.
      name: what was attempted.
      attack: how often it worked.
      baseline: what guessing gets; given as a count, the most it may get: the upper end of its interval.
      control: how often it worked on people who were not in the table.
      confidence: of the interval. Where the truth is the baseline's, `beyond` errs with a chance of at most
        1 - confidence.
      verdict: one sentence.
    """
    return Finding(
        auditor=auditor,
        name=name,
        value=attack.rate,
        interval=interval(attack, confidence),
        confidence=confidence,
        baseline=interval(baseline, confidence)[1] if isinstance(baseline, Count) else baseline,
        control=control.rate,
        ceiling=ceiling(attack.tries, confidence),
        verdict=verdict,
        internal=True,
    )


def beyond(found: Finding) -> bool:
    """Whether an attack did better than its baseline by more than chance: its interval starts above it."""
    return found.interval[0] > found.baseline
