from __future__ import annotations

import numpy as np
import pytest

from tabveil.audit import registry
from tabveil.audit.likelihood import likelihood_gap
from tabveil.audit.rates import beyond
from tabveil.errors import UsageError


def test_rows_that_a_model_knows_by_heart_are_found() -> None:
    rng = np.random.default_rng(0)
    found = likelihood_gap(rng.normal(1.0, 1.0, 2_000), rng.normal(0.0, 1.0, 1_000))
    assert found.value == pytest.approx(0.76, abs=0.05)  # Phi(1 / sqrt 2)
    assert beyond(found)
    assert "Training rows are likelier" in found.verdict
    assert found.control == pytest.approx(0.5, abs=0.15)
    assert found.internal


@pytest.mark.statistical
def test_a_model_that_knows_neither_is_accused_as_seldom_as_stated() -> None:
    """2,000 audits of 200 pairs, a fifth of them alike: each is beyond chance with probability at most 0.025, the lower
    end of an interval of 0.95. alpha = 1e-9: 98 or more are rarer at that rate.
    """
    rng = np.random.default_rng(1)
    accused = 0
    for seed in range(2_000):
        sides = rng.integers(0, 5, (2, 200)).astype(float)
        accused += beyond(likelihood_gap(*sides, random_state=seed))
    assert accused < 98


def test_rows_that_are_never_drawn_count_as_least_likely() -> None:
    found = likelihood_gap(np.zeros(50), np.full(50, -np.inf))
    assert found.value == 1.0
    assert "without 0 and 50 rows" in found.verdict


def test_too_few_rows_and_nan_are_refused() -> None:
    for sides in ((np.zeros(3), np.zeros(9)), (np.array([np.nan] * 9), np.zeros(9))):
        with pytest.raises(UsageError, match="at least 4 rows"):
            likelihood_gap(*sides)


def test_it_is_no_auditor_of_tables() -> None:
    assert "likelihood" not in registry.names()
