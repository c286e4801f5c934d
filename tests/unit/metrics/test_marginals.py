"""The distances against ones worked out by hand, the choice of columns, and charts that show what they may."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from tabveil.columns import Categorical, Column, Date, Datetime, Decimal, Integer
from tabveil.metrics import base, evaluate, marginals
from tabveil.metrics._charts import MAX_BARS
from tabveil.metrics.base import Coded, MetricInput
from tabveil.metrics.marginals import Stack, charts, subsets
from tabveil.records import MarginalChart, Score
from tabveil.schema import Schema

Make = Callable[[int, int], pd.DataFrame]
SchemaFor = Callable[[str | None], Schema]

AB = Categorical(name="a", categories=("x", "y"))
CD = Categorical(name="c", categories=("u", "v", "w"))


def score(train: pd.DataFrame, synthetic: pd.DataFrame, schema: Schema, ways: int) -> float:
    made = evaluate(synthetic, train=train, schema=schema, metrics=["marginals"])
    return next(s.value for s in made if s.name == f"{ways}-way total variation distance to train")


def test_hand_computed_distances() -> None:
    schema = Schema(columns=(AB, CD))
    train = pd.DataFrame({"a": ["x", "x", "y", "y"], "c": ["u", "v", "u", "v"]})
    synthetic = pd.DataFrame({"a": ["x", "x", "x", "y"], "c": ["u", "u", "u", "w"]})
    # a: |2-3| + |2-1| over 4, halved = 1/4.  c: u 2-3, v 2-0, w 0-1: 4/4 halved = 1/2.
    assert score(train, synthetic, schema, 1) == pytest.approx((1 / 4 + 1 / 2) / 2)
    # cells xu 1-3, xv 1-0, yu 1-0, yv 1-0, yw 0-1: 6/4 halved
    assert score(train, synthetic, schema, 2) == pytest.approx(3 / 4)


def test_disjoint_tables_are_at_distance_one_and_so_is_an_empty_one() -> None:
    schema = Schema(columns=(AB,))
    train = pd.DataFrame({"a": ["x"] * 5})
    assert score(train, pd.DataFrame({"a": ["y"] * 5}), schema, 1) == 1.0
    assert score(train, train.iloc[:0], schema, 1) == 1.0


def test_missing_and_disallowed_values_are_cells_of_their_own() -> None:
    column = Categorical(name="a", categories=("x", "y"), missing=("",), invalid="refuse")
    train = pd.DataFrame({"a": ["x", "x", "", ""]})
    assert score(train, pd.DataFrame({"a": ["x", "x", "odd", "odd"]}), Schema(columns=(column,)), 1) == 0.5
    number = Integer(name="n", low=0, high=9, missing=("",), invalid="missing")
    train = pd.DataFrame({"n": ["1", "2", "", ""]})
    assert score(train, pd.DataFrame({"n": ["1", "2", "3", "3"]}), Schema(columns=(number,)), 1) == 0.5


def test_numbers_fall_into_quantile_bins_of_train() -> None:
    """20 bins of 5 values: moving within a bin costs nothing, moving one row in 100 to another bin costs 1/100."""
    schema = Schema(columns=(Integer(name="n", low=0, high=1000),))
    train = pd.DataFrame({"n": np.arange(100)})
    assert score(train, train.replace({0: 1}), schema, 1) == 0.0
    assert score(train, train.replace({0: 99}), schema, 1) == pytest.approx(0.01)
    assert score(train, train.replace({99: 1000}), schema, 1) == 0.0


def test_equal_sizes_make_a_real_sample_and_a_holdout_score_alike(schema_for: SchemaFor, table: Make) -> None:
    """Fresh rows from the same source, many or few, stand where the holdout stands: both have one floor."""
    train, holdout = table(4000, 0), table(500, 1)
    for rows in (500, 4000):
        for made in evaluate(table(rows, 2), train=train, holdout=holdout, schema=schema_for(None)):
            floor = made.references.get("holdout", made.references.get("real"))
            assert made.details["rows compared"] == 500
            # seven columns of 500 rows: the 1-way mean scatters by about 0.005; 8 times as many rows would have a
            # floor 2.8 times lower
            assert made.value == pytest.approx(floor, abs=0.02)


def test_order_of_scores_and_references(schema_for: SchemaFor, table: Make) -> None:
    made = evaluate(table(300, 2), train=table(300, 0), holdout=table(200, 1), schema=schema_for(None))
    assert [s.name for s in made] == [
        f"{k}-way total variation distance to {t}" for t, k in itertools.product(("train", "holdout"), (1, 2, 3))
    ]
    assert set(made[0].references) == {"holdout", "independent", "bootstrap"}
    assert set(made[3].references) == {"real", "independent", "bootstrap"}
    worst = [v for k, v in made[1].details.items() if k.startswith("worst: ")]
    assert len(worst) == 5
    assert worst == sorted(worst, reverse=True)
    assert any(k == "worst: age × region" for k in evaluate_shuffled(table, schema_for).details)


def evaluate_shuffled(table: Make, schema_for: SchemaFor) -> Score:
    train = table(2000, 0)
    shuffled = pd.DataFrame({c: train[c].sample(frac=1, random_state=i).to_numpy() for i, c in enumerate(train)})
    made = evaluate(shuffled.astype(train.dtypes), train=train, schema=schema_for(None), metrics=["marginals"])
    assert made[0].value == 0.0
    assert made[1].value == pytest.approx(made[1].references["independent"], abs=0.01)
    return made[1]


def test_few_columns_give_few_scores() -> None:
    frame = pd.DataFrame({"a": ["x", "y"], "c": ["u", "v"]})
    assert len(evaluate(frame, train=frame, schema=Schema(columns=(AB,)), metrics=["marginals"])) == 1
    assert len(evaluate(frame, train=frame, schema=Schema(columns=(AB, CD)), metrics=["marginals"])) == 2


def test_subsets_are_all_or_distinct_random_ones() -> None:
    rng = np.random.default_rng(0)
    assert subsets(4, 2, rng) == list(itertools.combinations(range(4), 2))
    for ways in (2, 3):
        drawn = subsets(200, ways, rng)
        assert len(drawn) == len(set(drawn)) == marginals.MAX_SUBSETS[ways]
        assert all(len(set(s)) == ways and list(s) == sorted(s) for s in drawn)
        assert len({i for s in drawn for i in s}) > 150
    assert len(subsets(1000, 1, rng)) == 1000


def test_dense_and_sparse_counts_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 categories in three columns: cells that occur are counted as all cells would be."""
    rng = np.random.default_rng(0)
    columns = tuple(Categorical(name=n, categories=tuple(f"c{i}" for i in range(60))) for n in "abc")
    frames = [pd.DataFrame({n: [f"c{i}" for i in rng.integers(0, 60, 400)] for n in "abc"}) for _ in range(3)]
    stack = Stack.of([Coded.of(columns, f, salt=1) for f in frames], [marginals.Cut(c, None) for c in columns])

    def distances() -> np.ndarray:
        return marginals._distances(stack.shares((0, 1, 2)), against=1)

    monkeypatch.setattr(marginals, "_MAX_CELLS", 10**9)
    dense = distances()
    monkeypatch.setattr(marginals, "_MAX_CELLS", 1)
    np.testing.assert_allclose(distances(), dense, rtol=0, atol=1e-12)


def test_caps_bound_what_is_compared(schema_for: SchemaFor, table: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "COMPARED_ROWS", 100)
    made = evaluate(table(500, 2), train=table(400, 0), holdout=table(300, 1), schema=schema_for(None))
    assert {s.details["rows compared"] for s in made} == {100.0}


def test_a_subsample_is_random_and_the_same_for_any_row_order(table: Make, schema_for: SchemaFor) -> None:
    """The first 500 of 5,000 rows, half of them copies of one row: copies are drawn one by one, not all or none.

    The number of copies among them is hypergeometric with mean 250 and standard deviation 10.6; at alpha = 1e-9 (6.1
    standard deviations) it lies within 185 to 315, some chance equals of the copied minute added.
    """
    columns = schema_for(None).learned
    half = table(2500, 0)
    frame = pd.concat([half, pd.concat([half.iloc[[0]]] * 2500)], ignore_index=True)
    for salt in range(3):
        coded = Coded.of(columns, frame, salt=salt)
        seen = coded.codes[5]
        copies = int((seen[:500] == np.bincount(seen).argmax()).sum())
        assert 185 <= copies <= 320
        again = Coded.of(columns, frame.sample(frac=1, random_state=salt), salt=salt)
        assert all(np.array_equal(a, b) for a, b in zip(coded.codes, again.codes, strict=True))
    assert not np.array_equal(coded.codes[1], Coded.of(columns, frame, salt=99).codes[1])


# -------------------------------------------------------------------------------------------------------------- charts


def chart(column: Column, synthetic: list[object], real: list[object] | None = None) -> MarginalChart:
    schema = Schema(columns=(column,))
    frames = [pd.DataFrame({column.name: v}) for v in (real or synthetic, synthetic)]
    data = MetricInput(train=frames[0], holdout=None, synthetic=frames[1], schema=schema)
    return charts(data, show_real=real is not None)[0]


def test_a_release_chart_reads_no_real_row(schema_for: SchemaFor, table: Make) -> None:
    """Whatever the real rows are, what a release shows is the same; and nothing real is in it."""
    synthetic, schema = table(300, 2), schema_for(None)
    made = [
        charts(MetricInput(train=t, holdout=h, synthetic=synthetic, schema=schema), show_real=False)
        for t, h in ((table(500, 0), table(50, 1)), (table(1, 5), None))
    ]
    assert made[0] == made[1]
    assert all(not c.internal and c.real == c.holdout == () for c in made[0])


def test_an_internal_chart_has_the_same_bins_and_all_series(schema_for: SchemaFor, table: Make) -> None:
    data = MetricInput(train=table(500, 0), holdout=table(50, 1), synthetic=table(300, 2), schema=schema_for(None))
    for shown, hidden in zip(charts(data, show_real=True), charts(data, show_real=False), strict=True):
        assert (shown.labels, shown.edges, shown.synthetic) == (hidden.labels, hidden.edges, hidden.synthetic)
        assert len(shown.real) == len(shown.holdout) == len(shown.labels)
        assert shown.internal
        assert sum(shown.real) == pytest.approx(1.0 if shown.column != "income" else 0.9, abs=0.05)


def test_each_value_its_own_bin_where_there_are_few() -> None:
    made = chart(Integer(name="n", low=3, high=6), [3, 3, 6, 5])
    assert made.labels == ("3", "4", "5", "6")
    assert made.synthetic == (0.5, 0.0, 0.25, 0.25)
    assert made.edges == (2.5, 3.5, 4.5, 5.5, 6.5)


def test_missing_is_what_a_numeric_chart_lacks_to_one() -> None:
    """Also where the last bin runs past the upper bound, whose next code is the one for missing."""
    made = chart(Integer(name="n", low=1, high=99, missing=("",)), [*range(1, 100), *[None] * 99])
    assert sum(made.synthetic) == pytest.approx(0.5)
    assert (made.labels[0], made.labels[-1]) == ("1 to 5", "96 to 99")


def test_bins_follow_the_rows_where_these_crowd() -> None:
    """Nine rows in ten are 0, the rest spread to 99,999: zero has a bin of its own, at most 40 bins in all."""
    rng = np.random.default_rng(0)
    values = [0] * 900 + rng.integers(1, 20_000, 100).tolist()
    made = chart(Integer(name="gain", low=0, high=99_999), values)
    assert made.labels[0] == "0"
    assert made.synthetic[0] == 0.9
    assert sum(made.synthetic) == pytest.approx(1.0)
    assert 10 <= len(made.labels) <= MAX_BARS
    assert made.edges[-1] == 99_999.5


@pytest.mark.parametrize(
    "column",
    [
        Integer(name="n", low=-(2**51), high=2**51),
        Integer(name="n", low=0, high=41),
        Decimal(name="n", low=-1, high=1, decimals=12),
        Date(name="n", low=dt.date(1000, 1, 1), high=dt.date(9999, 12, 31)),
        Datetime(name="n", low=dt.datetime(1000, 1, 1), high=dt.datetime(9999, 12, 31, 23, 59, 59)),
        Date(name="n", low=dt.date(2020, 2, 29), high=dt.date(2020, 2, 29)),
    ],
)
def test_extreme_bounds(column: Integer | Decimal | Date | Datetime) -> None:
    made = chart(column, [column.low, column.high, column.high])
    assert sum(made.synthetic) == pytest.approx(1.0)
    assert len(made.edges) == len(made.labels) + 1 <= 41
    assert list(made.edges) == sorted(set(made.edges))


def test_categories_by_share_unless_their_order_means_something() -> None:
    values = ["w", "w", "w", "u", "u", "v"]
    assert chart(CD, values).labels == ("w", "u", "v")
    ordered = Categorical(name="c", categories=("u", "v", "w"), ordered=True)
    assert chart(ordered, values).labels == ("u", "v", "w")
    assert chart(ordered, values).synthetic == (2 / 6, 1 / 6, 3 / 6)


def test_many_categories_share_the_last_bar() -> None:
    column = Categorical(name="c", categories=tuple(f"c{i}" for i in range(5000)), missing=("",))
    made = chart(column, ["c4711"] * 5 + [f"c{i}" for i in range(95)], ["c4999"] * 4)
    assert len(made.labels) == 41
    assert made.labels[0] == "c4711"
    assert made.labels[-2:] == ("(4,961 others)", "(missing)")
    assert sum(made.synthetic) == pytest.approx(1.0)
    assert made.real[-2] == 1.0


def test_values_that_are_not_declared_are_shown_as_such() -> None:
    made = chart(CD, ["u", "odd"], ["u", "u"])
    assert made.labels == ("u", "v", "w", "(not declared)")
    assert made.synthetic == (0.5, 0.0, 0.0, 0.5)
    assert made.real == (1.0, 0.0, 0.0, 0.0)


def test_an_empty_table_has_empty_bars(schema_for: SchemaFor, table: Make) -> None:
    data = MetricInput(train=table(9, 0), holdout=None, synthetic=table(9, 0).iloc[:0], schema=schema_for(None))
    assert {sum(c.synthetic) for c in charts(data, show_real=True)} == {0.0}
