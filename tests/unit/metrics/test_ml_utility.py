"""Learners taught by synthetic rows: sensible values on sensible tables, defined values on all others."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from tabveil.columns import Categorical, Integer
from tabveil.metrics import evaluate
from tabveil.metrics.base import Coded, MetricInput
from tabveil.metrics.ml_utility import MAX_CLASSES, Classes, MlUtility, _auc, _r2
from tabveil.records import Score
from tabveil.schema import Schema

Make = Callable[[int, int], pd.DataFrame]
SchemaFor = Callable[[str | None], Schema]


def scores(synthetic: pd.DataFrame, schema: Schema, table: Make, **given: pd.DataFrame) -> dict[str, Score]:
    frames = {"train": table(800, 0), "holdout": table(500, 1)} | given
    return {s.name: s for s in evaluate(synthetic, **frames, schema=schema, metrics=["ml_utility"])}


def test_classification_beside_its_ceiling_and_floor(schema_for: SchemaFor, table: Make) -> None:
    made = scores(table(800, 2), schema_for("risk"), table)
    assert list(made) == [
        f"{m} for risk, {who}"
        for who in ("gradient boosting", "linear model")
        for m in ("ROC AUC", "accuracy", "macro F1")
    ]
    for who in ("gradient boosting", "linear model"):
        auc = made[f"ROC AUC for risk, {who}"]
        assert auc.value > 0.9
        assert auc.references["real"] == pytest.approx(auc.value, abs=0.03)
        assert auc.references["independent"] == pytest.approx(0.5, abs=0.15)
        assert auc.details == {"rows learned from": 800.0, "rows tested on": 500.0}


def test_regression_beside_its_ceiling_and_floor(schema_for: SchemaFor, table: Make) -> None:
    made = scores(table(800, 2), schema_for("income"), table)
    for who in ("gradient boosting", "linear model"):
        r2, error = made[f"R2 for income, {who}"], made[f"mean absolute error for income, {who}"]
        assert 0.6 < r2.value < 0.9
        assert r2.references["independent"] < 0.1
        # the noise has standard deviation 5: nobody can be closer than 5 * sqrt(2 / pi) = 3.99 on average
        assert 3.6 < error.value < 5.0
        assert (error.goal, error.low, error.high) == ("min", 0.0, 100.0)


@pytest.mark.parametrize(("target", "unit"), [("visit", 86_400), ("seen", 60), ("age", 1)])
def test_errors_of_dates_are_in_days_of_times_in_seconds(
    schema_for: SchemaFor, table: Make, target: str, unit: int
) -> None:
    """Without a row to learn from the middle of the bounds is predicted: the error can be worked out."""
    schema, holdout = schema_for(target), table(500, 1)
    column = schema.column(target)
    made = scores(table(0, 2), schema, table)[f"mean absolute error for {target}, linear model"]
    values = holdout[target] if target == "age" else holdout[target].astype("int64")
    low = column.low if target == "age" else np.datetime64(column.low, "s").astype("int64")
    steps = (values - low) / unit
    worth = 60 if target == "seen" else 1
    assert made.value == pytest.approx(worth * (steps - (column.units - 1) / 2).abs().mean())


def test_a_learner_sees_only_what_it_is_taught(schema_for: SchemaFor, table: Make) -> None:
    """A synthetic table with the target turned round teaches the opposite."""
    synthetic = table(800, 2)
    synthetic["risk"] = synthetic["risk"].map({"high": "low", "low": "high"})
    made = scores(synthetic, schema_for("risk"), table)
    assert made["ROC AUC for risk, linear model"].value < 0.1


def test_equal_numbers_of_rows_teach(schema_for: SchemaFor, table: Make) -> None:
    made = scores(table(60, 2), schema_for("risk"), table)["ROC AUC for risk, gradient boosting"]
    assert made.details["rows learned from"] == 60
    full = scores(table(800, 2), schema_for("risk"), table)["ROC AUC for risk, gradient boosting"]
    assert made.references["real"] < full.references["real"]


@pytest.mark.parametrize("target", ["risk", "smoker", "income", "visit", "region"])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_tiny_tables_have_defined_scores(schema_for: SchemaFor, table: Make, target: str, rows: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = scores(table(rows, 2), schema_for(target), table)
    assert len(made) in (4, 6)
    assert all(math.isfinite(s.value) for s in made.values())
    if rows < 2 and "ROC AUC" in next(iter(made)):
        assert all(s.value == 0.5 for n, s in made.items() if n.startswith("ROC AUC"))


def test_one_class_in_the_synthetic_table_is_a_constant_guess(schema_for: SchemaFor, table: Make) -> None:
    holdout = table(500, 1)
    made = scores(table(800, 2).assign(risk="low"), schema_for("risk"), table)
    assert made["ROC AUC for risk, gradient boosting"].value == 0.5
    share = float((holdout["risk"] == "low").mean())
    assert made["accuracy for risk, gradient boosting"].value == pytest.approx(share)
    assert made["macro F1 for risk, gradient boosting"].value == pytest.approx((2 * share / (1 + share)) / 2)


def test_one_class_everywhere(schema_for: SchemaFor, table: Make) -> None:
    one = {"train": table(50, 0).assign(risk="low"), "holdout": table(50, 1).assign(risk="low")}
    made = scores(table(50, 2).assign(risk="low"), schema_for("risk"), table, **one)
    assert {n: s.value for n, s in made.items() if "boosting" in n} == {
        "ROC AUC for risk, gradient boosting": 0.5,
        "accuracy for risk, gradient boosting": 1.0,
        "macro F1 for risk, gradient boosting": 1.0,
    }


def test_a_constant_number_to_predict(schema_for: SchemaFor, table: Make) -> None:
    met = scores(table(50, 2).assign(age=40), schema_for("age"), table, holdout=table(50, 1).assign(age=40))
    assert met["R2 for age, linear model"].value == 1.0
    missed = scores(table(50, 2).assign(age=41), schema_for("age"), table, holdout=table(50, 1).assign(age=40))
    assert missed["R2 for age, linear model"].value == 0.0
    assert missed["mean absolute error for age, linear model"].value == pytest.approx(1.0)


def test_columns_without_a_value_and_unseen_categories(schema_for: SchemaFor, table: Make) -> None:
    empty = table(400, 2).assign(income=np.nan, region="elsewhere", smoker=pd.NA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = scores(empty, schema_for("risk"), table)
    assert made["ROC AUC for risk, gradient boosting"].value > 0.8
    nothing = table(400, 2).assign(income=np.nan, region="x", smoker=pd.NA, age=np.nan, visit=pd.NaT, seen=pd.NaT)
    bare = schema_for("risk")
    loose = Schema(columns=tuple(c for c in bare.columns if c.name in ("income", "risk", "region")), target="risk")
    assert scores(nothing, loose, table)["ROC AUC for risk, linear model"].value == 0.5


def test_rows_with_a_missing_target_are_left_out(schema_for: SchemaFor, table: Make) -> None:
    synthetic, holdout = table(600, 2), table(400, 1)
    made = scores(synthetic, schema_for("income"), table, holdout=holdout)["R2 for income, linear model"]
    assert made.details["rows learned from"] == synthetic["income"].notna().sum()
    assert made.details["rows tested on"] == holdout["income"].notna().sum()


def test_thousands_of_categories() -> None:
    """As a feature they are ordered, as a target all but the most frequent are merged."""
    rng = np.random.default_rng(0)
    labels = tuple(f"c{i}" for i in range(5000))
    schema = Schema(
        columns=(Categorical(name="code", categories=labels), Integer(name="n", low=0, high=9)), target="code"
    )

    def make(rows: int) -> pd.DataFrame:
        n = rng.integers(0, 10, rows)
        common = np.array(labels, dtype=object)[n]
        return pd.DataFrame({"code": np.where(rng.random(rows) < 0.7, common, "c4999"), "n": n})

    frames = {"train": make(600), "holdout": make(300)}
    made = {s.name: s for s in evaluate(make(600), **frames, schema=schema, metrics=["ml_utility"])}
    assert made["ROC AUC for code, linear model"].value > 0.8
    swapped = Schema(columns=schema.columns, target="n")
    made = {s.name: s for s in evaluate(make(600), **frames, schema=swapped, metrics=["ml_utility"])}
    assert made["R2 for n, gradient boosting"].value > 0.4


def test_only_rare_classes_are_merged() -> None:
    labels = tuple(f"c{i}" for i in range(15))
    column = Categorical(name="code", categories=labels)
    frame = pd.DataFrame({"code": [f"c{i}" for i in range(15) for _ in range(20 - i)]})
    task = Classes(column, Coded.of((column,), frame, salt=0))
    assert task.classes == MAX_CLASSES + 1
    assert task._class_of.tolist() == [*range(10), 10, 10, 10, 10, 10]


def test_why_there_is_no_score(schema_for: SchemaFor, table: Make) -> None:
    frame = table(30, 0)

    def reason(schema: Schema, holdout: pd.DataFrame | None) -> str:
        data = MetricInput(train=frame, holdout=holdout, synthetic=frame, schema=schema)
        assert MlUtility().compute(data) == []
        return MlUtility().why_not(data)

    assert "names no target" in reason(schema_for(None), frame)
    assert "needs a holdout" in reason(schema_for("risk"), None)
    assert "needs a holdout" in reason(schema_for("risk"), frame.iloc[:0])
    assert "missing in every row" in reason(schema_for("income"), frame.assign(income=np.nan))
    alone = Schema(columns=(schema_for("risk").column("risk"),), target="risk")
    assert "no column to predict" in reason(alone, frame)


def test_auc_by_hand() -> None:
    y = np.array([0, 0, 1, 1, 2])
    perfect = np.eye(4)[y]
    assert _auc(y, perfect) == 1.0
    assert _auc(y, perfect[::-1]) < 0.5
    assert _auc(np.zeros(3, dtype=int), np.ones((3, 1))) == 0.5
    # class 2 against the rest is told apart, 0 and 1 are not: (0.5 + 0.5 + 1) / 3 up to the ties with class 2
    told = np.column_stack([y != 2, y != 2, y == 2]).astype(float)
    assert _auc(y, told) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_r2_is_cut_at_minus_one() -> None:
    y = np.array([0.0, 1.0, 2.0])
    assert _r2(y, np.zeros(3)) == 1.0
    assert _r2(y, y - 1) == 0.0
    assert _r2(y, np.full(3, 100.0)) == -1.0
