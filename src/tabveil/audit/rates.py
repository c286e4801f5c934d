"""The statistics of all auditors: counts and scores in; rates, areas, epsilons and `Finding`s out.

attack + baseline + control -> counts -> rate with interval -> risk. Every number comes with an interval that holds for
any number of tries, and with the ceiling that so many tries allow. Three kinds of scatter are kept apart:

- rows attacked in one fit (`interval`, `auc`, `recognised_at`): describe that fit, and bound no epsilon;
- independent fits (`empirical_epsilon`, `gaussian_mu`, `auc` of one score a fit, `auc_over_fits`): describe the
  mechanism;
- canaries in one fit, each put in by a coin (`one_run_epsilon`): bound the mechanism's epsilon too.

Privacy: sees counts and scores, never a row. Counts of real rows are INTERNAL, and so is every finding made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tabveil.audit._counts import Count, Risk, above, ceiling, interval, risk, wilson
from tabveil.audit._curves import (
    SHARES,
    Area,
    auc,
    auc_over_fits,
    pairs,
    recognised_at,
    roc,
    threshold_at,
)
from tabveil.audit._epsilon_bounds import EpsilonBound, empirical_epsilon, epsilon_of_counts
from tabveil.audit._gaussian_bounds import MuBound, gaussian_epsilon, gaussian_mu, mu_of_counts
from tabveil.audit._limits import most_auc, most_auc_gaussian, most_right
from tabveil.audit._one_run import one_run_epsilon
from tabveil.records import Finding, most_recognised

__all__ = [
    "SHARES",
    "Area",
    "Count",
    "EpsilonBound",
    "MuBound",
    "Risk",
    "above",
    "auc",
    "auc_over_fits",
    "beyond",
    "ceiling",
    "empirical_epsilon",
    "epsilon_of_counts",
    "finding",
    "gaussian_epsilon",
    "gaussian_mu",
    "interval",
    "most_auc",
    "most_auc_gaussian",
    "most_recognised",
    "most_right",
    "mu_of_counts",
    "one_run_epsilon",
    "pairs",
    "recognised_at",
    "risk",
    "roc",
    "threshold_at",
    "wilson",
]


def finding(
    *,
    auditor: str,
    name: str,
    attack: Count,
    baseline: float | Count,
    control: Count,
    confidence: float,
    verdict: str | Callable[[Finding], str],
    **about: Any,
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
      verdict: one sentence, or what makes it of the finding's numbers.
      about: further fields of `Finding`: threat_model, targets, seed, cost.
    """
    found = Finding(
        auditor=auditor,
        name=name,
        value=attack.rate,
        interval=interval(attack, confidence),
        confidence=confidence,
        baseline=interval(baseline, confidence)[1] if isinstance(baseline, Count) else baseline,
        control=control.rate,
        ceiling=ceiling(attack.tries, confidence),
        verdict=verdict if isinstance(verdict, str) else "",
        internal=True,
        **about,
    )
    return found if isinstance(verdict, str) else replace(found, verdict=verdict(found))


def beyond(found: Finding) -> bool:
    """Whether an attack did better than its baseline by more than chance: its interval starts above it."""
    return found.interval[0] > found.baseline
