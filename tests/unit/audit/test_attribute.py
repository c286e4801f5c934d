"""Sensitive cells guessed from the closest synthetic row, on tables where the answer is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from tabveil.audit import attribute, audit, notes
from tabveil.audit.attribute import known, secrets
from tabveil.audit.base import AuditInput
from tabveil.audit.rates import beyond
from tabveil.columns import Categorical, Integer
from tabveil.records import Finding
from tabveil.schema import Schema

SCHEMA = Schema(
    columns=(
        Integer(name="age", low=0, high=9_999),
        Integer(name="zip", low=0, high=9_999),
        Categorical(name="ill", categories=("no", "yes")),
        Integer(name="income", low=0, high=99, missing=("",)),
    ),
    quasi_identifiers=("age", "zip"),
    sensitive=("ill", "income"),
)

ALL = tuple(c.name for c in SCHEMA.columns)


def table(rows: int, seed: int, *, law: bool = False) -> pd.DataFrame:
    """People whose age and zip tell nothing of the rest, or, by a `law`, that who is old is ill."""
    rng = np.random.default_rng(seed)
    age, coin = rng.integers(0, 10_000, rows), rng.random(rows) < 0.5
    ill = age >= 5_000 if law else coin
    income = pd.array(rng.integers(0, 100, rows), dtype="Int64")
    income[rng.random(rows) < 0.1] = pd.NA
    columns = {"age": age, "zip": rng.integers(0, 10_000, rows), "ill": np.where(ill, "yes", "no"), "income": income}
    return pd.DataFrame(columns)


def run(synthetic: pd.DataFrame, train: pd.DataFrame, holdout: pd.DataFrame, schema: Schema = SCHEMA) -> list[Finding]:
    return list(audit(synthetic, train=train, holdout=holdout, schema=schema, auditors=["attribute"]))


def test_a_table_that_repeats_its_rows_tells_what_is_in_them() -> None:
    train = table(1_000, 1)
    ill, income = run(train, train, table(1_000, 2))
    assert ill.value == income.value == 1.0
    assert 0.4 < ill.control < 0.6  # a coin
    assert 0.05 < income.control < 0.2  # within 5 of a number from 0 to 99
    assert beyond(ill)
    assert beyond(income)
    assert "'ill' is guessed right for 100.0% of training rows" in ill.verdict


def test_the_attacker_knows_what_the_schema_says() -> None:
    frames = [table(50, seed) for seed in range(3)]
    assert "knows age, zip of some people" in run(*frames)[0].threat_model
    bare = dataclasses.replace(SCHEMA, quasi_identifiers=(), sensitive=("ill",))
    assert "knows age, zip, income of some people" in run(*frames, bare)[0].threat_model
    many = tuple(Integer(name=f"n{i}", low=0, high=9) for i in range(9))
    wide = [f.assign(**{c.name: 0 for c in many}) for f in frames]
    bare = dataclasses.replace(bare, columns=(*SCHEMA.columns, *many))
    assert "knows 12 columns of some people" in run(*wide, bare)[0].threat_model


def test_what_a_table_tells_of_everybody_is_no_leak() -> None:
    """Illness follows from age: it is guessed of nine in ten whether or not they were in the table."""
    ill, income = run(table(2_000, 1, law=True), table(1_000, 2, law=True), table(1_000, 3, law=True))
    assert ill.value > 0.9
    assert ill.control > 0.9
    assert not beyond(ill)
    assert not beyond(income)


def test_half_the_rows_repeated_are_found_beside_a_law() -> None:
    train = table(1_000, 2, law=True)
    made = pd.concat([train[::2], table(500, 4, law=True)])
    _, income = run(made, train, table(1_000, 3, law=True))
    assert beyond(income)
    assert 0.5 < income.value < 0.7


def test_a_number_is_right_within_a_twentieth_of_its_range() -> None:
    """Guesses are off by 0 to 19, all as often."""
    made = table(1_000, 1)
    off = np.arange(1_000) % 20
    train = made.assign(income=pd.array([30] * 1_000, dtype="Int64"))
    made = made.assign(income=pd.array(30 + off, dtype="Int64"))
    _, income = run(made, train, table(1_000, 2))
    assert income.value == 6 / 20


def test_missing_cells_are_neither_guessed_nor_guesses() -> None:
    train = table(1_000, 1)
    train["income"] = pd.array([pd.NA] * 500 + [7] * 500, dtype="Int64")
    made = train.assign(income=pd.array([pd.NA] * 750 + [7] * 250, dtype="Int64"))
    _, income = run(made, train, table(1_000, 2))
    assert income.value == 0.5  # of 500
    assert {f.name for f in run(made, train.assign(income=pd.NA), table(1_000, 2))} == {
        "'ill' of people in the table guessed from their other columns"
    }


def test_copies_are_found_among_however_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    train = table(1_000, 1)
    monkeypatch.setattr(attribute, "SYNTHETIC_ROWS", 10)
    ill, _ = run(train, train, table(1_000, 2))
    assert ill.value == 1.0


def test_rows_that_all_repeat_are_not_guessed() -> None:
    rows = pd.concat([table(20, 1)] * 2)
    assert not run(rows, rows, rows)
    data = AuditInput(synthetic=rows, train=rows, holdout=rows, schema=SCHEMA)
    assert "occurs only once" in notes(data, auditors=["attribute"])[0]


def test_roles_default_to_the_target_and_all_others() -> None:
    bare = dataclasses.replace(SCHEMA, quasi_identifiers=(), sensitive=(), target="ill")
    assert [c.name for c in secrets(bare)] == ["ill"]
    assert [c.name for c in known(bare)] == ["age", "zip", "income"]
    both = dataclasses.replace(bare, quasi_identifiers=("age", "ill"))
    assert [c.name for c in known(both)] == ["age"]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (dataclasses.replace(SCHEMA, sensitive=()), "names neither sensitive columns nor a target"),
        (
            dataclasses.replace(SCHEMA, quasi_identifiers=(), sensitive=("age", "zip", "ill", "income")),
            "no column is left",
        ),
    ],
)
def test_why_nothing_was_measured_is_said(schema: Schema, said: str) -> None:
    rows = table(50, 1)
    assert not run(rows, rows, rows, schema)
    data = AuditInput(synthetic=rows, train=rows, holdout=rows, schema=schema)
    assert said in notes(data, auditors=["attribute"])[0]
