"""Attacks on marginals: what leaks through marginals alone is found, and tables made blindly are not found guilty."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tabveil.audit import mia_marginal
from tabveil.audit._membership_game import attacked
from tabveil.audit.base import AuditInput
from tabveil.audit.mia_marginal import QUESTIONS, MIAMarginal, measure, per_attack
from tabveil.audit.rates import Count, beyond, interval
from tabveil.columns import Categorical, Integer
from tabveil.errors import UsageError
from tabveil.schema import Schema

ALPHA = 1e-9
NAMES = ("a", "b", "c", "d")
VALUES = 20
SCHEMA = Schema(columns=tuple(Categorical(name=n, categories=tuple(map(str, range(VALUES)))) for n in NAMES))
WIDE = Schema(columns=tuple(Integer(name=n, low=0, high=10**6) for n in NAMES))


def skewed(rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """Independent columns of twenty values, the last ones seven times as rare as the first: most rows occur once."""
    shares = 0.9 ** np.arange(VALUES)
    drawn = rng.choice(VALUES, (rows, 4), p=shares / shares.sum())
    return pd.DataFrame(drawn.astype(str), columns=list(NAMES))


def chained(train: pd.DataFrame, rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """Rows of a chain a - b - c - d with the exact marginals of its pairs: what MST without noise would release."""
    made = train[["a"]].sample(rows, replace=True, random_state=int(rng.integers(2**31))).reset_index(drop=True)
    for parent, child in itertools.pairwise(NAMES):
        drawn = pd.Series(index=made.index, dtype=object)
        for value, given in train.groupby(parent)[child]:
            here = made.index[made[parent] == value]
            drawn.loc[here] = rng.choice(given.to_numpy(), len(here))
        made[child] = drawn
    return made


def given(synthetic: pd.DataFrame, train: pd.DataFrame, holdout: pd.DataFrame, schema: Schema = SCHEMA) -> AuditInput:
    return AuditInput(synthetic=synthetic, train=train, holdout=holdout, schema=schema)


@pytest.mark.statistical
def test_exact_marginals_give_members_away() -> None:
    """300 training rows in three pairs of 400 cells each: an outsider shows an empty cell more often than not, so that
    the true area is about 0.9. Over 150 pairs 0.7 is eight standard deviations below (alpha = 1e-9: six); whoever lost
    the marginals would be at 0.5.
    """
    rng = np.random.default_rng(0)
    train, holdout = skewed(300, rng), skewed(1500, rng)
    data = given(chained(train, 10_000, rng), train, holdout)
    pairs = [("a", "b"), ("b", "c"), ("c", "d")]
    held = measure(data, marginals=pairs).attack["random"]
    assert held["log_ratio"].pairs.rate >= 0.7
    assert held["log_ratio_wide"].pairs.rate >= 0.7
    assert beyond(MIAMarginal(marginals=pairs).compute(data)[0])
    assert beyond(MIAMarginal().compute(data)[0])  # he reads the chain from the rows


@pytest.mark.statistical
@pytest.mark.parametrize("runs", [12, pytest.param(200, marks=pytest.mark.nightly)])
def test_no_attack_goes_beyond_its_alpha_on_tables_made_blindly(runs: int) -> None:
    """Tables made of other rows' marginals, each attack at 5 % one-sided, and all findings together.

    alpha = 1e-9, shared by eight attacks; the areas' mean may be off by at most 6.4 standard deviations.
    """
    guilty: dict[str, int] = {}
    areas: dict[str, Count] = {}
    found = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        other, train, holdout = skewed(200, rng), skewed(400, rng), skewed(300, rng)
        measured = measure(given(chained(other, 300, rng), train, holdout), marginals=[("a", "b"), ("c", "d", "b")])
        for name, outcome in measured.attack["random"].items():
            guilty[name] = guilty.get(name, 0) + (interval(outcome.pairs, 0.9)[0] > 0.5)
            areas[name] = areas.get(name, Count(0, 0)) + outcome.pairs
        found += any(beyond(f) for q in QUESTIONS for f in per_attack(measured, q).values())
    assert len(guilty) == 8
    assert max(guilty.values()) <= stats.binom.isf(ALPHA / 8, runs, 0.05)
    assert found <= stats.binom.isf(ALPHA, runs, 0.05)
    for area in areas.values():
        assert abs(area.rate - 0.5) <= stats.norm.isf(ALPHA / 16) * 0.5 / np.sqrt(area.tries)


def test_marginals_blur_copies_and_whole_rows_do_not() -> None:
    """On a table that is train: numbers in bins of 5 % lose the row, the marginal of all columns finds each."""
    rng = np.random.default_rng(1)
    frames = [pd.DataFrame(rng.integers(0, 10**6 + 1, (n, 4)), columns=list(NAMES)) for n in (600, 1200)]
    outcome = measure(given(frames[0], *frames, WIDE)).attack["random"]
    assert outcome["whole_row"].pairs.rate == 1.0
    assert 0.5 < outcome["ratio"].pairs.rate < 0.99


def test_copies_count_among_all_synthetic_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mia_marginal, "SYNTHETIC_ROWS", 5)
    rng = np.random.default_rng(2)
    frames = [pd.DataFrame(rng.integers(0, 10**6 + 1, (n, 4)), columns=list(NAMES)) for n in (200, 400)]
    assert measure(given(frames[0], *frames, WIDE)).attack["random"]["whole_row"].pairs.rate == 1.0


def test_findings_say_who_holds_the_model() -> None:
    rng = np.random.default_rng(3)
    data = given(skewed(300, rng), skewed(400, rng), skewed(400, rng))
    for auditor, said in (
        (MIAMarginal(), "takes it that the generator keeps marginals"),
        (MIAMarginal(marginals=[("a", "b")]), "holds the released model"),
    ):
        findings = auditor.compute(data)
        assert len(findings) == len(QUESTIONS)
        for finding in findings:
            assert said in finding.threat_model
            assert "no bound on epsilon" in finding.threat_model
            assert finding.seed == 0
            assert "marginals of 300 synthetic" in finding.cost
            assert "mean ratio of densities alone got" in finding.verdict
            assert bool(finding.recognised) == ("area" in finding.name)


@pytest.mark.parametrize("marginals", [[], ["ab"], [()], [("a", "a")], [("a", "z")]])
def test_marginals_are_lists_of_learned_columns(marginals: list[tuple[str, ...]]) -> None:
    rng = np.random.default_rng(4)
    data = given(skewed(200, rng), skewed(200, rng), skewed(200, rng))
    with pytest.raises(UsageError, match="marginal"):
        measure(data, marginals=marginals)


def test_too_few_rows_are_no_finding() -> None:
    rng = np.random.default_rng(5)
    data = given(skewed(200, rng), skewed(200, rng), skewed(10, rng))
    assert MIAMarginal().compute(data) == []
    assert "Membership by marginals was not measured" in MIAMarginal().why_not(data)


def test_an_outcome_keeps_the_curve_of_its_measured_half() -> None:
    known, asked = ([np.array(s, dtype=np.float64) for s in side] for side in (([8, 9], [6, 5]), ([9, 1], [8, 5])))
    alarms, recognised = attacked([known[0], asked[0]], [known[1], asked[1]]).curve
    assert (alarms[0], recognised[0]) == (0.0, 0.5)  # 9 is above both outsiders
    assert (alarms[-1], recognised[-1]) == (1.0, 1.0)
