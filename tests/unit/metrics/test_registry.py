"""What every registered metric must survive, whatever it measures."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from tabveil.errors import DataError, UsageError
from tabveil.metrics import evaluate, notes, registry
from tabveil.metrics.base import MetricInput
from tabveil.records import Score
from tabveil.schema import Schema

Make = Callable[[int, int], pd.DataFrame]
SchemaFor = Callable[[str | None], Schema]

NAMES = registry.names()
ROWS = 1000


def mixed(frame: pd.DataFrame, noise: pd.DataFrame, share: float) -> pd.DataFrame:
    """`frame` with its last rows replaced by `noise`: more share keeps what was noise before."""
    keep = round(len(frame) * (1 - share))
    return pd.concat([frame.iloc[:keep], noise.iloc[keep:]], ignore_index=True)


def uniform(table: Make, rows: int) -> pd.DataFrame:
    """Each column uniform over what it can be, independent of the others, in the table's types."""
    rng = np.random.default_rng(9)
    wide = table(rows, 8)
    columns = {c: wide[c].dropna().drop_duplicates().sample(rows, replace=True, random_state=rng) for c in wide}
    return pd.DataFrame({c: v.reset_index(drop=True) for c, v in columns.items()})


def better(a: float, b: float, score: Score) -> float:
    """How much better a is than b."""
    return b - a if score.goal == "min" else a - b


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["risk", "income"])
def schema(request: pytest.FixtureRequest, schema_for: SchemaFor) -> Schema:
    return schema_for(request.param)


def test_both_families_are_registered() -> None:
    assert {"marginals", "ml_utility"} <= set(NAMES)


def test_worse_under_more_noise_and_best_on_identical_tables(name: str, schema: Schema, table: Make) -> None:
    train, holdout, noise = table(ROWS, 0), table(ROWS, 1), uniform(table, ROWS)
    at = {
        share: evaluate(mixed(train, noise, share), train=train, holdout=holdout, schema=schema, metrics=[name])
        for share in (0.0, 0.5, 1.0)
    }
    assert at[0.0]
    for clean, half, full in zip(*at.values(), strict=True):
        # A learner shrugs off half a table of noise, up to its own scatter: 0.03 of the range at these 1,000 rows.
        scatter = 0.03 * (min(clean.high, 1.0) - clean.low) if clean.metric == "ml_utility" else 0.0
        assert better(clean.value, half.value, clean) >= -scatter
        assert better(half.value, full.value, clean) >= -scatter
        assert better(clean.value, full.value, clean) > scatter
        assert better(clean.value, clean.references["independent"], clean) >= -0.02


def test_a_copy_scores_as_real_rows_do(name: str, schema: Schema, table: Make) -> None:
    train, holdout = table(ROWS, 0), table(ROWS, 1)
    for score in evaluate(train, train=train, holdout=holdout, schema=schema, metrics=[name]):
        if score.name.endswith("to train"):
            assert score.value == 0.0
        else:
            assert score.value == pytest.approx(score.references["real"], abs=0.02 * (min(score.high, 5) - score.low))


def test_values_and_references_stay_in_range(name: str, schema: Schema, table: Make) -> None:
    for rows in (0, 1, 5, ROWS):
        synthetic = uniform(table, ROWS).iloc[:rows]
        scores = evaluate(synthetic, train=table(600, 0), holdout=table(300, 1), schema=schema, metrics=[name])
        assert scores
        for score in scores:
            for value in (score.value, *score.references.values()):
                assert math.isfinite(value)
                assert score.low <= value <= score.high
            assert score.internal
            assert {"independent", "bootstrap"} <= set(score.references)
            assert Score.from_json(score.to_json()) == score


def test_row_and_column_order_do_not_matter(name: str, schema: Schema, table: Make) -> None:
    train, holdout, synthetic = table(600, 0), table(300, 1), table(400, 2)
    again = {
        "train": train.sample(frac=1, random_state=3),
        "holdout": holdout.sample(frac=1, random_state=4),
        "synthetic": synthetic.sample(frac=1, random_state=5)[synthetic.columns[::-1]],
    }
    first = evaluate(synthetic, train=train, holdout=holdout, schema=schema, metrics=[name])
    assert evaluate(again.pop("synthetic"), **again, schema=schema, metrics=[name]) == first


def test_random_state_repeats_and_inputs_stay_unchanged(name: str, schema_for: SchemaFor, table: Make) -> None:
    schema = schema_for("risk")
    train, holdout, synthetic = table(600, 0), table(300, 1), table(400, 2)
    copies = [t.copy(deep=True) for t in (train, holdout, synthetic)]
    given = {"train": train, "holdout": holdout, "schema": schema, "metrics": [name]}
    first = evaluate(synthetic, **given, random_state=5)
    assert evaluate(synthetic, **given, random_state=5) == first
    assert evaluate(synthetic, **given, random_state=6) != first
    assert evaluate(synthetic, **given, random_state=None)
    for frame, copy in zip((train, holdout, synthetic), copies, strict=True):
        pd.testing.assert_frame_equal(frame, copy)


def test_raw_text_scores_as_typed_values_do(name: str, schema_for: SchemaFor, table: Make) -> None:
    """A table read from a CSV file, all text, is the same table."""
    frames = {"train": table(600, 0), "holdout": table(400, 1), "synthetic": table(500, 2)}
    texts = {role: f.astype("string").fillna("").astype(object) for role, f in frames.items()}
    schema = schema_for("risk")
    typed = evaluate(frames.pop("synthetic"), **frames, schema=schema, metrics=[name])
    assert evaluate(texts.pop("synthetic"), **texts, schema=schema, metrics=[name]) == typed


def test_no_cell_value_leaks(name: str, schema: Schema, table: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    train, holdout, synthetic = (
        t.assign(region="SENTINEL-4711") for t in (table(300, 0), table(200, 1), table(300, 2))
    )
    scores = evaluate(synthetic, train=train, holdout=holdout, schema=schema, metrics=[name])
    data = MetricInput(train=train, holdout=holdout, synthetic=synthetic, schema=schema)
    said = "".join([*(s.to_json() for s in scores), repr(data), caplog.text])
    assert "SENTINEL" not in said
    assert "P1" not in repr(data)


def test_bad_tables_are_refused_in_one_sentence(name: str, schema: Schema, table: Make) -> None:
    frame = table(20, 0)
    with pytest.raises(DataError, match="synthetic table lacks column 'age'"):
        evaluate(frame.drop(columns="age"), train=frame, schema=schema, metrics=[name])
    with pytest.raises(DataError, match="train table has more than once column 'age'"):
        evaluate(frame, train=pd.concat([frame, frame[["age"]]], axis=1), schema=schema, metrics=[name])
    with pytest.raises(DataError, match="training table has no rows"):
        evaluate(frame, train=frame.iloc[:0], schema=schema, metrics=[name])


def test_identifiers_may_be_absent_and_are_never_looked_at(name: str, schema: Schema, table: Make) -> None:
    frames = {"train": table(300, 0), "holdout": table(200, 1), "synthetic": table(300, 2)}
    bare = {role: f.drop(columns="id") for role, f in frames.items()}
    first = evaluate(frames.pop("synthetic"), **frames, schema=schema, metrics=[name])
    assert evaluate(bare.pop("synthetic"), **bare, schema=schema, metrics=[name]) == first


def test_an_unknown_metric_or_random_state_is_refused(schema_for: SchemaFor, table: Make) -> None:
    frame, schema = table(20, 0), schema_for(None)
    with pytest.raises(UsageError, match="choose one of"):
        evaluate(frame, train=frame, schema=schema, metrics=["magic"])
    for wrong in (-1, 1.5, True):
        with pytest.raises(UsageError, match="random_state"):
            evaluate(frame, train=frame, schema=schema, random_state=wrong)


def test_a_metric_without_a_score_says_why(
    schema_for: SchemaFor, table: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    frame, schema = table(50, 0), schema_for(None)
    scores = evaluate(frame, train=frame, holdout=table(50, 1), schema=schema)
    assert {s.metric for s in scores} == {"marginals"}
    data = MetricInput(train=frame, holdout=None, synthetic=frame, schema=schema)
    assert notes(data) == ("Train on synthetic, test on real was not measured: the schema names no target.",)
    assert "names no target" in caplog.text
