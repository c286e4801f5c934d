"""Copies of training rows, counted by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from tabveil.audit import audit
from tabveil.audit.rates import Count, beyond, interval
from tabveil.columns import Categorical, Identifier, Integer
from tabveil.schema import Schema

SCHEMA = Schema(
    columns=(
        Identifier(name="id"),
        Integer(name="n", low=0, high=9, missing=("",), invalid="missing"),
        Categorical(name="c", categories=("a", "b"), missing=("",), invalid="missing"),
    )
)


def table(*rows: tuple[int | None, str | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [f"{i}" for i in range(len(rows))],
            "n": pd.array([n for n, _ in rows], dtype="Int64"),
            "c": [c for _, c in rows],
        }
    )


def test_by_hand() -> None:
    train = table((1, "a"), (2, "b"), (None, "a"), (1, "a"))
    synthetic = table((1, "a"), (1, "b"), (None, "a"), (None, None), (2, "a"), (2, "b"))
    holdout = table((1, "a"), (1, "b"), (3, "a"), (4, "a"))
    (found,) = audit(synthetic, train=train, holdout=holdout, schema=SCHEMA, auditors=["copies"])
    assert found.value == 0.5
    assert found.control == 0.25
    assert found.interval == interval(Count(3, 6), 0.95)
    assert found.baseline == interval(Count(1, 4), 0.95)[1]
    assert found.ceiling == pytest.approx(0.025 ** (1 / 6))
    assert found.verdict == (
        "3 of 6 synthetic rows repeat a training row and 1 of 4 held-out rows do: no larger a share, chance allowed "
        "for, which says nothing about privacy."
    )


def test_rows_learned_by_heart_are_named() -> None:
    train = table(*[(n, "a") for n in range(10)])
    holdout = table(*[(n, "b") for n in range(10)])
    (found,) = audit(train, train=train, holdout=holdout, schema=SCHEMA, auditors=["copies"])
    assert beyond(found)
    assert found.verdict.endswith("look for rows learned by heart.")


def test_identifiers_do_not_make_rows_different_and_text_equals_types() -> None:
    train = table((1, "a"), (2, "b"))
    text = pd.DataFrame({"n": ["1", "7"], "c": ["a", ""]})
    (found,) = audit(text, train=train, holdout=table((5, "a")), schema=SCHEMA, auditors=["copies"])
    assert found.value == 0.5
