"""Records of a small made-up release, and a report of it in either edition."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Callable
from typing import Any

import pytest

from tabveil import accounting
from tabveil.accounting import DiscreteGaussianDpEvent, ExponentialMechanismDpEvent, Spend
from tabveil.columns import Boolean, Categorical, Date, Decimal, Identifier, Integer
from tabveil.records import (
    RELATION,
    Finding,
    Judgement,
    MarginalChart,
    Measurement,
    PrivacyStatement,
    Provenance,
    Score,
)
from tabveil.report import build
from tabveil.schema import Schema

DELTA = 1e-6

Build = Callable[..., dict[str, Any]]


def make_spends() -> tuple[Spend, ...]:
    columns = ("age", "sex")
    return (
        *(Spend(f"histogram of {c!r}, level {i} of 2", DiscreteGaussianDpEvent(30.0)) for c in columns for i in (1, 2)),
        *(Spend(f"counts of {c!r}", DiscreteGaussianDpEvent(20.0)) for c in columns),
        Spend("choice of pair 1", ExponentialMechanismDpEvent(0.25)),
        Spend("counts of pair 1", DiscreteGaussianDpEvent(20.0, sensitivity=2), 3),
    )


def make_statement(**changed: Any) -> PrivacyStatement:
    spends = make_spends()
    made = PrivacyStatement(
        epsilon=accounting.epsilon(accounting.event_of(spends), DELTA),
        delta=DELTA,
        unit="row",
        relation=RELATION,
        events=tuple(s.to_dict() for s in spends),
        accountant=accounting.ACCOUNTANT,
        theorem=accounting.COMPOSITION,
        dataset="patients-2026",
        outside=("The schema is public knowledge that a person vouches for.",),
    )
    return dataclasses.replace(made, **changed)


def make_schema(**changed: Any) -> Schema:
    columns = (
        Identifier(name="id", pattern="P{n:06d}"),
        Integer(name="age", low=0, high=120, note="from the study protocol"),
        Decimal(name="weight", low=0, high=300, decimals=1, missing=("",)),
        Categorical(name="sex", categories=("F", "M"), catch_all="other"),
        Boolean(name="smoker"),
        Date(name="visit", low=dt.date(2020, 1, 1), high=dt.date(2025, 12, 31)),
        Categorical(name="code", categories=tuple(f"c{i}" for i in range(500))),
    )
    return dataclasses.replace(Schema(columns=columns, name="patients", target="sex", public_rows=1000), **changed)


CHARTS = (
    MarginalChart(
        "age", "integer", ("0 to 59", "60 to 119"), (0.5, 0.5), (0.4, 0.6), (0.45, 0.55), (-0.5, 59.5, 119.5)
    ),
    MarginalChart("weight", "decimal", ("0.0", "0.1 to 300.0"), (0.7, 0.2), (0.6, 0.3), (), (0.0, 0.05, 300.05)),
    MarginalChart("sex", "categorical", ("F", "M", "(missing)"), (0.6, 0.3, 0.1), (0.5, 0.4, 0.1), ()),
    MarginalChart("visit", "date", ("2020-01-01 to 2020-12-31",), (1.0,), (1.0,), (), (1577836800.0, 1609459200.0)),
)
SCORES = (
    Score(
        metric="marginals",
        name="2-way total variation distance to train",
        value=0.0337,
        goal="min",
        low=0.0,
        high=1.0,
        references={"holdout": 0.0238, "independent": 0.0777, "bootstrap": 0.0205},
        details={"rows compared": 6512.0, "worst: age × sex": 0.11, "worst: age × visit": 0.09},
    ),
    Score(
        "ml_utility", "ROC AUC for sex", 0.87, "max", 0.0, 1.0, {"real": 0.92, "independent": 0.5, "bootstrap": 0.91}
    ),
    Score("ml_utility", "R2 for sex", math.nan, "max", -math.inf, 1.0, {"real": math.inf}),
)
FINDINGS = (Finding("copies", "exact copies", 0.01, (0.005, 0.02), 0.95, 0.01, 0.01, 1.0, "As many as by chance."),)
CURVED = Finding(
    *("membership", "rows told apart: random rows", 0.62, (0.55, 0.69), 0.95, 0.5, 0.51, 0.97, "Exposed."),
    threat_model="Somebody has the table.",
    targets="200 random rows",
    seed=0,
    cost="40,000 pairs of rows",
    false_alarms=(0.0, 0.01, 0.1, 1.0),
    recognised=(0.0, 0.05, 0.3, 1.0),
)
MEASUREMENTS = (
    Measurement(
        *("anonymity", "k-anonymity", "real", ("age", "sex"), "", 3.0, "max", "Fewest alike.", "Sweeney 2002"),
        details={"rows": 1000.0, "unique_rows": 0.0, "rows_below_5": 12.0, "rows_below_11": 40.0},
    ),
    Measurement(
        "anonymity", "k-map", "synthetic against real", ("age", "sex"), "", math.inf, "max", "Fewest.", "Sweeney"
    ),
)
JUDGEMENTS = (
    Judgement("wp29", "1", "singling out", "not answered", "copies", 0.01, 0.02, "WP216", "Too few tries."),
    Judgement("cms-11", "1", "no cell below 11", "not met", "anonymity", 3.0, 11.0, "ResDAC", "3 is below 11."),
)
PROVENANCE = Provenance(
    "0.1.0", "3.11.9", {"numpy": "2.4.6"}, "mst", {"cells": 64}, {"fit": 4.2}, "2026-11-21T09:00:00Z", 1000
)


@pytest.fixture(scope="session")
def statement() -> Callable[..., PrivacyStatement]:
    return make_statement


@pytest.fixture(scope="session")
def schema() -> Callable[..., Schema]:
    return make_schema


@pytest.fixture(scope="session")
def report() -> Build:
    """A report dict; what is given replaces what it is made of."""

    def make(edition: str = "internal", **changed: Any) -> dict[str, Any]:
        given = {
            "statement": make_statement(),
            "ledger": None,
            "schema_summary": {**make_schema().to_dict(), "digest": make_schema().digest},
            "provenance": PROVENANCE,
            "scores": SCORES,
            "findings": (*FINDINGS, CURVED),
            "measurements": MEASUREMENTS,
            "judgements": JUDGEMENTS,
            "charts": CHARTS,
            "notes": ("A metric had nothing to say.",),
        }
        return build(edition=edition, **{**given, **changed})

    return make
