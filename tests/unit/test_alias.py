"""The tables say exactly which law they draw from; draws follow the tables."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tabveil._alias import Alias

SIZES = (1, 2, 0, 3, 50, 2_000)


def shares(seed: int) -> np.ndarray:
    """Of all entries side by side, very uneven ones, a third of them 0 but for the first of each group."""
    rng = np.random.default_rng(seed)
    groups = []
    for size in SIZES:
        weights = rng.random(size) ** 8 * (rng.random(size) > 1 / 3)
        weights[:1] += 0.1
        groups.append(weights / max(weights.sum(), 1e-300))
    return np.concatenate(groups)


def law(tables: Alias) -> np.ndarray:
    """Chance of each entry within its group, from the tables alone."""
    group = np.repeat(np.arange(len(tables.slots)), tables.slots)
    found = np.bincount(np.arange(len(group)), tables.keep) + np.bincount(
        tables.other, 1 - tables.keep, minlength=len(group)
    )
    return np.asarray(found / tables.slots[group])


@pytest.mark.parametrize("seed", range(5))
def test_tables_have_the_law_of_the_shares(seed: int) -> None:
    wanted, ends = shares(seed), np.cumsum([0, *SIZES])
    tables = Alias.of(wanted, ends)
    group = np.repeat(np.arange(len(SIZES)), SIZES)
    assert (group[tables.other] == group).all()
    assert (tables.keep >= 0).all()
    assert (tables.keep <= 1).all()
    assert law(tables) == pytest.approx(wanted, abs=1e-12)
    assert (law(tables)[wanted == 0] == 0).all()


@pytest.mark.statistical
def test_draws_follow_the_tables() -> None:
    """alpha = 1e-9, 100,000 draws of a group of three beside those of others; one share 10 % off is noticed."""
    ends = np.cumsum([0, 2, 3, 1])
    tables = Alias.of(np.array([0.5, 0.5, 0.3, 0.1, 0.6, 1.0]), ends)
    drawn = tables.draw(np.tile([0, 1, 2], 100_000), np.random.default_rng(0)).reshape(-1, 3)
    counts = np.bincount(drawn[:, 1] - 2, minlength=3)
    assert stats.chisquare(counts, 100_000 * np.array([0.3, 0.1, 0.6])).pvalue > 1e-9
    assert stats.chisquare(counts, 100_000 * np.array([0.24, 0.1, 0.66])).pvalue < 1e-9
    assert set(drawn[:, 0]) == {0, 1}
    assert set(drawn[:, 2]) == {5}


def test_groups_of_one_entry_need_no_chance() -> None:
    tables, rng = Alias.of(np.ones(3), np.arange(4)), np.random.default_rng(0)
    assert tables.draw(np.array([2, 0, 2]), rng).tolist() == [2, 0, 2]
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state
