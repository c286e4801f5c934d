"""The distance attack: distances by hand, and rates whose truth is known."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tabveil.audit import audit, membership
from tabveil.audit.base import AuditInput
from tabveil.audit.membership import Membership, attacked, closest
from tabveil.audit.rates import Count, beyond, interval
from tabveil.columns import Boolean, Categorical, Date, Integer
from tabveil.records import Finding
from tabveil.schema import Schema

Make = Callable[[int, np.random.Generator], pd.DataFrame]

ALPHA = 1e-9
WIDE = Schema(columns=tuple(Integer(name=f"x{i}", low=0, high=10**6) for i in range(4)))
FEW = Schema(columns=tuple(Categorical(name=f"c{i}", categories=tuple("abcdefgh")) for i in range(4)))


def wide(rows: int, rng: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame({c.name: rng.integers(0, 10**6 + 1, rows) for c in WIDE.columns})


def few(rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """Skewed categories: about 1,000 rows have many repeats and many rows that occur once."""
    shares = 0.5 ** np.arange(1, 9)
    return pd.DataFrame({c.name: rng.choice(list("abcdefgh"), rows, p=shares / shares.sum()) for c in FEW.columns})


def found(synthetic: pd.DataFrame, train: pd.DataFrame, holdout: pd.DataFrame, schema: Schema) -> tuple[Finding, ...]:
    return audit(synthetic, train=train, holdout=holdout, schema=schema, auditors=["membership"])


def test_distances_by_hand() -> None:
    columns = (
        Integer(name="n", low=0, high=10, missing=("",)),
        Categorical(name="c", categories=("a", "b", "c"), missing=("",), invalid="missing"),
        Boolean(name="b"),
        Date(name="d", low=dt.date(2020, 1, 1), high=dt.date(2020, 1, 11)),
    )
    # codes: numbers 0 to 10, 11 missing, 12 not allowed; categories 0 to 2, 3 missing; dates 0 to 10
    rows = tuple(np.array(c) for c in ([2, 11], [0, 3], [1, 0], [5, 0]))
    asked = tuple(np.array(c) for c in ([2, 7, 11, 12, 11], [0, 2, 0, 1, 3], [1, 1, 0, 0, 0], [5, 5, 5, 0, 3]))
    # to the first: 0 | .5 + 1 | 1 + 1 | 1 + 1 + 1 + .5 | 1 + 1 + 1 + .2; to the second: 2 + .5 + .. | .. | 1.5 | 2 | .3
    assert closest(columns, asked, rows) == pytest.approx([0, 1.5, 1.5, 2, 0.3])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    columns = (*WIDE.columns, *FEW.columns)
    asked, rows = (tuple(rng.integers(0, 10**6 if isinstance(c, Integer) else 9, n) for c in columns) for n in (70, 90))
    whole = closest(columns, asked, rows)
    gaps = [
        np.minimum(np.abs(a[:, None] - r) / 10**6, 1) if isinstance(c, Integer) else a[:, None] != r
        for c, a, r in zip(columns, asked, rows, strict=True)
    ]
    assert whole == pytest.approx(np.sum(gaps, axis=0).min(axis=1), abs=1e-5)
    monkeypatch.setattr(membership, "BLOCK", 333)
    assert np.array_equal(closest(columns, asked, rows), whole)


def test_attack_by_hand() -> None:
    # odd places choose: members 1, 2, outsiders 3, 4: the best threshold is 2, and so is the strict one (no alarm)
    members, outsiders = (np.array(d, dtype=np.float32) for d in ([1.5, 1, 9, 2], [0, 3, 7, 4]))
    outcome = attacked(members, outsiders)
    # even places measure: 1.5 is within, 9 is not; 0 is an alarm, 7 is not
    assert (outcome.told, outcome.recognised, outcome.alarms) == (Count(2, 4), Count(1, 2), Count(1, 2))


def test_nobody_is_recognised_where_all_are_alike() -> None:
    same = np.zeros(40, dtype=np.float32)
    outcome = attacked(same, same)
    assert (outcome.told, outcome.recognised, outcome.alarms) == (Count(20, 40), Count(0, 20), Count(0, 20))


@pytest.mark.statistical
@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_randomised_response_is_measured_as_what_it_is(epsilon: float) -> None:
    """Rows published with chance e^eps / (1 + e^eps) where in train, else with the rest: that chance is the accuracy.

    alpha = 1e-9 two-sided, 2,000 tries (1,000 of each kind): the interval then reaches 0.07 to either side, so that a
    tenth more or less of 0.731 is refused.
    """
    rng = np.random.default_rng(11)
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))
    train, holdout = wide(2000, rng), wide(4000, rng)
    synthetic = pd.concat([train[rng.random(2000) < truth], holdout[rng.random(4000) > truth]])
    told, recognised = found(synthetic, train, holdout, WIDE)
    low, high = interval(Count(round(told.value * 2000), 2000), 1 - ALPHA)
    # A row that was not published lies far from all others; with epsilon 0 publishing says nothing either way.
    assert low <= truth <= high
    assert abs(told.control - 0.5) <= stats.norm.isf(ALPHA / 2) * 0.5 / math.sqrt(2000)
    assert beyond(told) == (epsilon > 0)
    assert not recognised.value > truth + 0.1


@pytest.mark.statistical
@pytest.mark.parametrize(("make", "schema"), [(wide, WIDE), (few, FEW)], ids=["numbers", "repeats"])
def test_a_table_made_blindly_is_rarely_found_guilty(make: Make, schema: Schema) -> None:
    """60 audits, each of at most 5 % error for both findings: alpha = 1e-9 allows 18; 0.5 would give 30."""
    guilty = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        # Unequal sizes: leaving out repeats on one side only would be seen at once.
        guilty += any(beyond(f) for f in found(make(500, rng), make(1600, rng), make(400, rng), schema))
    assert guilty <= stats.binom.isf(ALPHA, 60, 0.05)


@pytest.mark.statistical
@pytest.mark.parametrize(("make", "schema"), [(wide, WIDE), (few, FEW)], ids=["numbers", "repeats"])
def test_the_training_rows_themselves_are_recognised(make: Make, schema: Schema) -> None:
    rng = np.random.default_rng(5)
    train, holdout = make(3000, rng), make(3000, rng)
    for finding in found(train, train, holdout, schema):
        assert finding.value > 0.98
        assert beyond(finding)
        assert finding.control < 0.62


def test_copies_are_found_beyond_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "SYNTHETIC_ROWS", 5)
    rng = np.random.default_rng(6)
    train = wide(400, rng)
    told, _ = found(train, train, wide(400, rng), WIDE)
    assert told.value > 0.98


def test_held_out_copies_are_left_out_and_counted() -> None:
    rng = np.random.default_rng(7)
    train, fresh = wide(300, rng), wide(200, rng)
    holdout = pd.concat([fresh, train.iloc[:100]])
    told, recognised = found(train, train, holdout, WIDE)
    assert told.value == 1.0
    assert recognised.value == 1.0
    assert "100 of 300 held-out rows copy a training row" in told.verdict


@pytest.mark.parametrize("rows", [1, 5, 19])
def test_too_few_rows_are_no_finding(rows: int) -> None:
    rng = np.random.default_rng(8)
    data = AuditInput(
        synthetic=wide(50, rng), train=wide(50, rng), holdout=wide(rows, rng), schema=WIDE, random_state=0
    )
    assert Membership().compute(data) == []
    assert "20 training and 20 held-out rows" in Membership().why_not(data)


def test_the_smallest_tables_with_a_finding() -> None:
    rng = np.random.default_rng(9)
    train = wide(20, rng)
    told, recognised = found(train, train, wide(20, rng), WIDE)
    assert (told.value, recognised.value) == (1.0, 1.0)
    assert told.ceiling == pytest.approx(0.0125 ** (1 / 20))
    assert recognised.ceiling == pytest.approx(0.0125 ** (1 / 10))
    assert len(found(wide(1, rng), train, wide(20, rng), WIDE)) == 2


def test_a_table_of_repeats_has_nobody_to_attack() -> None:
    schema = Schema(columns=(Boolean(name="b"),))
    frame = pd.DataFrame({"b": [True, False] * 50})
    assert found(frame, frame, frame, schema) == ()


def test_the_verdict_is_descriptive() -> None:
    rng = np.random.default_rng(10)
    for finding in found(wide(100, rng), wide(100, rng), wide(100, rng), WIDE):
        assert "no bound on epsilon" in finding.verdict
        assert "this one attack failed" in finding.verdict
