"""Records: JSON both ways, and bounds that only grow when shown."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabveil.records import (
    RELATION,
    Finding,
    MarginalChart,
    PrivacyStatement,
    Record,
    Score,
    rounded_up,
    without_asides,
)

STATEMENT = PrivacyStatement(
    epsilon=0.99993750001,
    delta=1e-6,
    unit="row",
    relation=RELATION,
    events=({"type": "DiscreteGaussian", "sigma": 3.25, "label": "counts of 'a'", "count": 2},),
    accountant="a",
    theorem="t",
    outside=("one", "two"),
)


@pytest.mark.parametrize(
    "record",
    [
        STATEMENT,
        PrivacyStatement(math.inf, 0.0, "row", RELATION, (), "none", "none"),
        Score("marginals", "3-way", 0.25, "min", -math.inf, 1.0, {"holdout": 0.1}, {"a": math.inf}),
        Finding("copies", "n", 0.5, (0.4, math.inf), 0.95, 0.5, 0.5, 1.0, "v"),
        MarginalChart("a", "integer", (), (0.5, 0.5), edges=(0.0, 1.0, 2.0)),
    ],
    ids=lambda r: type(r).__name__,
)
def test_json_both_ways(record: Record) -> None:
    assert type(record).from_json(record.to_json()) == record


@given(st.floats(1e-300, 1e300))
def test_a_bound_only_grows_when_shown(value: float) -> None:
    shown = Decimal(rounded_up(value))
    assert Decimal(value) <= shown <= Decimal(value) * Decimal("1.00001")


def test_the_sentence_never_promises_more() -> None:
    assert "exp(0.999938)" in STATEMENT.sentence()
    assert rounded_up(0.0) == "0"
    assert rounded_up(math.inf) == "inf"
    assert rounded_up(1e-6) == "0.000001"
    assert rounded_up(0.1) == "0.100001"  # the double nearest to 0.1 is a little more than 0.1
    assert PrivacyStatement(math.inf, 0.0, "row", RELATION, (), "n", "n").sentence().startswith("NOT PRIVATE")


def test_asides_go_and_names_of_columns_stay() -> None:
    assert without_asides("rows told apart (area under the ROC curve): all") == "rows told apart: all"
    assert without_asides("'income (net)' guessed (of people)") == "'income (net)' guessed"
    assert without_asides("what changes (epsilon at delta 1e-06)") == "what changes (epsilon at delta 1e-06)"
