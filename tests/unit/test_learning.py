"""Bounds, decimals and categories learned under the budget: what is asked, what is released, and with which chance.

Law tests have alpha = 1e-9, state their sample size and must reject what is wrong by 10 %.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dp_accounting import ComposedDpEvent, NonPrivateDpEvent
from scipy import stats

from tabveil import accounting, learning
from tabveil.accounting import DeltaDpEvent, DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, Spend
from tabveil.caveats import outside
from tabveil.columns import FARTHEST, Boolean, Categorical, Column, Date, Datetime, Decimal, Grid, Identifier, Integer
from tabveil.curating import check_values
from tabveil.domains import levels
from tabveil.encoding import LONGEST_TEXT, bound_at, conform, digits_needed, encode, position, positions
from tabveil.errors import DataError, SchemaError, UnchargedError, UsageError
from tabveil.generators._marginals import Part, divide
from tabveil.generators.base import create, load
from tabveil.generators.independent import Independent
from tabveil.ledger import Ledger, Receipt
from tabveil.mechanisms import PrivateRows, Question
from tabveil.noise import seeded_noise_for_tests, selected, threshold
from tabveil.schema import Schema
from tabveil.tables import open_table

ALPHA = 1e-9
TRIALS = 200_000
DELTA = 0.05


def learned(frame: pd.DataFrame, *columns: Column) -> tuple[Column, ...]:
    """The columns as a fit without privacy learns them: exactly."""
    schema = Schema(columns=columns)
    rows = PrivateRows(open_table(frame), schema, Receipt.uncharged())
    return learning.resolve(schema, rows, ()).columns


def bounds(values: list[Any], column: Column) -> tuple[Any, Any]:
    (found,) = learned(pd.DataFrame({column.name: values}), column)
    return found.low, found.high  # type: ignore[attr-defined]


def charged(frame: pd.DataFrame, schema: Schema, spends: list[Spend]) -> PrivateRows:
    ledger = Ledger(":memory:")
    ledger.open("t", epsilon=1e6, delta=0.5)
    return PrivateRows(open_table(frame), schema, ledger.charge("t", spends, label="test"))


# ------------------------------------------------------------------------------------------------- selecting categories
@pytest.mark.parametrize("sigma", [0.5, 1.0, 7.3, 60.0, 900.0, 12_345.6])
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("delta", [1e-12, 1e-6, 0.05, 0.4])
def test_the_threshold_is_right_and_tight_by_exact_summation(sigma: float, k: int, delta: float) -> None:
    """k * P(noise >= T - k) is at most delta, and no threshold two rows lower has that."""
    least = threshold(DiscreteGaussianDpEvent(sigma, k), delta)
    far = math.ceil(12 * sigma) + 50
    support = np.arange(-far, far + 1, dtype=np.float64)
    weights = np.exp(-(support**2) / (2 * sigma**2))
    tail = np.cumsum(weights[::-1])[::-1] / weights.sum()

    def at_least(m: int) -> float:
        return float(tail[m + far])

    assert k * at_least(least - k) <= delta * (1 + 1e-9)
    if delta / k < 0.5:
        assert k * at_least(least - k - 2) > delta


@pytest.mark.statistical
def test_a_category_of_one_row_is_released_with_probability_at_most_delta() -> None:
    """200,000 categories of one row each, alpha = 1e-9 on either side of [0.9 delta, delta]."""
    event = DiscreteGaussianDpEvent(100.0)
    counts = pd.Series(1, index=[f"text {i}" for i in range(TRIALS)])
    released = len(selected(counts, (event, DeltaDpEvent(DELTA))))
    assert stats.binom.sf(released - 1, TRIALS, DELTA) > ALPHA, "rare categories are released too often"
    assert stats.binom.cdf(released, TRIALS, 0.9 * DELTA) > ALPHA, "the threshold is higher than it need be"


@pytest.mark.statistical
@pytest.mark.parametrize("each", [(3,), (1, 1, 1), (2, 1)])
def test_no_category_of_one_person_is_released_but_with_probability_delta(each: tuple[int, ...]) -> None:
    """60,000 persons with 3 rows in categories of their own, alpha = 1e-9: any of them released counts."""
    people = 60_000
    counts = pd.Series(list(each) * people, index=[f"{i} of {p}" for p in range(people) for i in range(len(each))])
    found = selected(counts, (DiscreteGaussianDpEvent(30.0, 3), DeltaDpEvent(DELTA)))
    released = len({text.partition(" of ")[2] for text in found})
    assert stats.binom.sf(released - 1, people, DELTA) > ALPHA, "a person's own category is released too often"


def test_categories_are_charged_counted_per_person_and_sorted() -> None:
    schema = Schema(
        columns=(Identifier(name="who"), Categorical(name="c", learn=True, missing=("?",))),
        privacy_unit="who",
        max_rows_per_unit=2,
    )
    frame = pd.DataFrame({"who": [f"p{i}" for i in range(600)] + ["greedy"] * 5_000})
    frame["c"] = ["z", "a", "?"] * 200 + ["theirs"] * 5_000
    event = ComposedDpEvent([DiscreteGaussianDpEvent(2.0, 2), DeltaDpEvent(1e-6)])
    rows = charged(frame, schema, [Spend("categories of 'c'", event)])
    assert rows.categories([schema["c"]], labels=["categories of 'c'"]) == [("a", "z")]  # type: ignore[list-item]


@pytest.mark.parametrize(
    "event",
    [
        DiscreteGaussianDpEvent(2.0, 2),
        DeltaDpEvent(1e-6),
        ComposedDpEvent([DiscreteGaussianDpEvent(2.0, 1), DeltaDpEvent(1e-6)]),
        ComposedDpEvent([DiscreteLaplaceDpEvent(2.0, 2), DeltaDpEvent(1e-6)]),
        ComposedDpEvent([DiscreteGaussianDpEvent(2.0, 2)]),
    ],
)
def test_categories_are_not_selected_at_another_price(event: Any) -> None:
    schema = Schema(
        columns=(Identifier(name="who"), Categorical(name="c", learn=True)), privacy_unit="who", max_rows_per_unit=2
    )
    rows = charged(pd.DataFrame({"who": ["p"], "c": ["x"]}), schema, [Spend("it", event)])
    with pytest.raises(UnchargedError):
        rows.categories([schema["c"]], labels=["it"])  # type: ignore[list-item]


def test_the_same_rows_of_a_person_are_kept_for_everything() -> None:
    """A person with one row each of 40 values, of which 3 count: bounds, categories and the codes see the same
    three.
    """
    schema = Schema(
        columns=(Identifier(name="who"), Integer(name="n", learn=True)), privacy_unit="who", max_rows_per_unit=3
    )
    frame = pd.DataFrame({"who": ["p"] * 40, "n": range(40)})
    rows = PrivateRows(open_table(frame, chunk_rows=7), schema, Receipt.uncharged())
    question = Question("n", 40, lambda v: v.to_numpy(dtype=np.int64), "any")
    (first,), (second,) = rows.survey([question]), rows.survey([question])
    assert first.sum() == 3
    assert np.array_equal(first, second)
    known = Schema(
        columns=(Identifier(name="who"), Integer(name="n", low=0, high=39)), privacy_unit="who", max_rows_per_unit=3
    )
    assert np.array_equal(np.sort(rows.under(known)._read()["n"]), np.flatnonzero(first))


# --------------------------------------------------------------------------------------------------------------- bounds
@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0, 1, 1, 0], 0, 1),
        ([-3, -2, 5], -3, 5),
        ([17] * 50, 17, 17),
        ([40, 90], 40, 91),
        ([-(2**40), 2**40], -(2**40), 2**40 + 2**36 - 1),
        ([1e300, 2.0], 2, FARTHEST),
    ],
)
def test_bounds_are_the_ends_of_the_outermost_pieces(values: list[Any], low: int, high: int) -> None:
    """Without noise: never inside the values, and off by at most a sixteenth of an octave."""
    found = bounds(values, Integer(name="n", learn=True))
    assert found[1] == high
    assert found[0] <= low
    assert low - found[0] <= max(0, abs(low) // 16 + 1)


def test_declared_bounds_stay_and_clip_what_is_counted() -> None:
    assert bounds([-50, 3, 900], Integer(name="n", learn=True, low=0)) == (0, 927)
    assert bounds([-50, 3, 900], Integer(name="n", learn=True, high=10)) == (-51, 10)
    low, high = bounds([0.004, 1.5], Decimal(name="n", learn=True, low=0.0, decimals=2))
    assert low == 0.0
    assert 1.5 <= high <= 1.59


def test_dates_are_learned_on_both_sides_of_the_origin() -> None:
    days = [dt.date(1931, 5, 6), dt.date(2024, 2, 29)]
    low, high = bounds(days, Date(name="d", learn=True))
    assert low <= days[0] <= days[1] <= high
    assert (days[0] - low).days < 70 * 366 / 16
    moments = [dt.datetime(1999, 12, 31, 23, 59), dt.datetime(2021, 7, 1, 12)]
    low, high = bounds(moments, Datetime(name="d", learn=True, resolution=60))
    assert low <= moments[0] <= moments[1] <= high
    assert low.second == high.second == 0
    short = bounds(["31.12.68", "01.01.69"], Date(name="d", learn=True, format="%d.%m.%y"))
    assert short[0] == dt.date(1969, 1, 1)
    assert short[1] == dt.date(2068, 12, 31)


@pytest.mark.parametrize(
    ("column", "low", "high"),
    [
        (Integer(name="x", learn=True), 0, 100),
        (Integer(name="x", learn=True, low=7), 7, 107),
        (Integer(name="x", learn=True, high=7), -93, 7),
        (Decimal(name="x", learn=True), 0.0, 100.0),
        (Date(name="x", learn=True), dt.date(2000, 1, 1), dt.date(2099, 12, 7)),
    ],
)
def test_nothing_seen_gives_public_defaults(column: Column, low: Any, high: Any) -> None:
    assert bounds([None] * 5, column) == (low, high)
    assert bounds([], column) == (low, high)


def test_every_position_finds_its_way_back() -> None:
    columns: tuple[Any, ...] = (
        Integer(name="x", learn=True),
        Decimal(name="x", learn=True, decimals=2),
        Date(name="x", learn=True),
        Datetime(name="x", learn=True, resolution=3600),
    )
    for column in columns:
        for step in (-30_000, -1, 0, 1, 12_345):
            bound = bound_at(column, step)
            assert position(column, bound) == step
            assert positions(column, pd.Series([bound, None], dtype=object)).tolist()[0] == step
            assert np.isnan(positions(column, pd.Series([bound, None], dtype=object))[1])


class AnyAnswer(PrivateRows):
    """Answers as noise may turn out: whatever they are, what is learned must be a schema."""

    def __init__(self, seed: int) -> None:
        self._chance = np.random.default_rng(seed)

    def survey(self, questions: Any) -> list[Any]:
        """Empty, one bin far above the others, or anything."""
        answers = []
        for question in questions:
            counts = np.round(self._chance.normal(0, 1, question.bins)).astype(np.int64)
            heavy = self._chance.integers(0, question.bins, self._chance.integers(0, 3))
            heavy = np.append(heavy, self._chance.choice([0, question.bins - 1], self._chance.integers(0, 3)))
            counts[heavy] += 10**6
            answers.append(counts)
        return answers


@pytest.mark.parametrize(
    "column",
    [
        Decimal(name="x", low=0.5, decimals=0, learn=True),
        Decimal(name="x", low=0.55, learn=True),
        Decimal(name="x", high=1.5, decimals=0, learn=True),
        Decimal(name="x", high=-0.5, learn=True),
        Decimal(name="x", low=0.2, high=0.4, learn=True),
        Decimal(name="x", low=-float(FARTHEST), high=float(FARTHEST), learn=True),
        Decimal(name="x", low=1e9, decimals=6, learn=True),
        Decimal(name="x", learn=True),
        Integer(name="x", learn=True),
        Integer(name="x", low=FARTHEST, learn=True),
        Integer(name="x", low=-FARTHEST, learn=True),
        Integer(name="x", high=-FARTHEST, learn=True),
        Date(name="x", learn=True),
        Date(name="x", low=dt.date(9999, 12, 31), learn=True),
        Date(name="x", high=dt.date(1000, 1, 1), learn=True),
        Date(name="x", format="%d.%m.%y", learn=True),
        Datetime(name="x", low=dt.datetime(9999, 12, 31, 5), learn=True),
        Datetime(name="x", high=dt.datetime(1000, 1, 1, 5), resolution=86_400, learn=True),
        Datetime(name="x", low=dt.datetime(2020, 1, 1, 12), resolution=86_400, learn=True),
        Datetime(name="x", resolution=86_400 * 365 * 400, learn=True),
        Datetime(name="x", high=dt.datetime(1990, 1, 1), resolution=10**11, learn=True),
        Datetime(name="x", resolution=604_800, learn=True),
    ],
)
def test_whatever_is_answered_the_learned_bounds_are_good(column: Grid) -> None:
    """A fit never fails after it has been charged, and its declared bounds stay as they are."""
    schema = Schema(columns=(column,))
    for seed in range(60):
        found = learning.resolve(schema, AnyAnswer(seed), ())["x"]
        assert isinstance(found, Grid)
        assert found.units >= 1
        given = zip(column.bounds, found.bounds, strict=True)
        assert all(before in (None, after) for before, after in given)


def test_texts_that_mean_missing_or_are_very_long_are_no_categories() -> None:
    frame = pd.DataFrame(
        {"n": [9, 9, 1], "c": pd.Categorical(["?", "x", "x"]), "t": ["a" * LONGEST_TEXT, "b" * 1_001, ""]}
    )
    columns = [Categorical(name=n, learn=True, missing=m) for n, m in (("n", ("9",)), ("c", ("?",)), ("t", ("",)))]
    assert [c.categories for c in learned(frame, *columns)] == [  # type: ignore[attr-defined]
        ("1",),
        ("x",),
        ("a" * LONGEST_TEXT,),
    ]


@pytest.mark.statistical
def test_a_bound_that_a_handful_of_rows_reaches_is_not_learned() -> None:
    """Noise of standard deviation 20, alpha = 1e-9 over 300 tables: 5 rows of 10^12 never widen the bounds; 99 % do
    not.
    """
    schema = Schema(columns=(Integer(name="n", learn=True),))
    frame = pd.DataFrame({"n": [10**12] * 5 + list(range(1_000))})
    spends = [Spend(label, DiscreteGaussianDpEvent(20.0)) for label in learning.labels(schema)]
    wide = 0
    for _ in range(300):
        found = learning.resolve(schema, charged(frame, schema, spends), spends)["n"]
        wide += found.high > 2_000  # type: ignore[attr-defined]
    assert stats.binom.sf(wide - 1, 300, 0.001) > ALPHA


# ------------------------------------------------------------------------------------------------------------- decimals
def test_decimals_are_those_that_nearly_every_value_needs() -> None:
    prices = [0.25, 1.5, 3.0] * 100
    assert learned(pd.DataFrame({"x": prices}), Decimal(name="x", learn=True))[0].decimals == 2  # type: ignore[attr-defined]
    rare = [*prices, 0.123456]
    assert learned(pd.DataFrame({"x": rare}), Decimal(name="x", learn=True))[0].decimals == 2  # type: ignore[attr-defined]
    fine = Decimal(name="x", learn=True, low=0.0, high=1e13)
    assert learned(pd.DataFrame({"x": [0.123456] * 9}), fine)[0].decimals == 2  # type: ignore[attr-defined]
    needed = digits_needed(fine, pd.Series([1, 0.1 + 0.2, 1234567.89, 1 / 3, np.nan, np.inf]), 6)
    assert needed.tolist() == [0, 1, 2, 6, -1, -1]


# --------------------------------------------------------------------------------------------------------------- schema
def test_a_resolved_column_says_what_was_bought_and_keeps_its_levels() -> None:
    frame = pd.DataFrame({"n": [1, 2] * 9, "c": ["x"] * 18})
    number = Integer(name="n", learn=True, low=0, note="From the form.")
    resolved = learned(frame, number, Categorical(name="c", learn=True))
    assert (resolved[0].learn, resolved[0].unknown) == (False, ())
    assert resolved[0].note == "From the form. Read from rows, not private: high."
    assert levels(resolved[0]) == levels(number)
    assert resolved[1].labels == ("x", "__other__")  # type: ignore[attr-defined]
    assert resolved[1].missing == ("",)


@pytest.mark.parametrize("how", ["uncharged", "not private", "seeded"])
def test_what_nobody_paid_for_is_a_draft(how: str) -> None:
    """Bounds and categories that were read off the rows are never called charged, so no private fit takes them."""
    frame = pd.DataFrame({"n": [17, 33, 98_765] * 30, "c": ["rare", "x", "x"] * 30})
    columns = (Integer(name="n", learn=True), Categorical(name="c", learn=True), Boolean(name="b"))
    schema = Schema(columns=columns, approved_by="A. Person", approved_on="2026-01-31")
    event = ComposedDpEvent([DiscreteGaussianDpEvent(2.0), DeltaDpEvent(1e-6)])
    spends = [Spend(x, event if "categories" in x else DiscreteGaussianDpEvent(2.0)) for x in learning.labels(schema)]
    bought = learning.resolve(schema, charged(frame, schema, spends), spends)
    assert [c.source for c in bought.columns] == ["charged", "charged", "declared"]
    assert bought["n"].note == "Learned under the privacy budget: low, high."
    assert not bought.draft
    if how == "seeded":
        with seeded_noise_for_tests(1):
            found = learning.resolve(schema, charged(frame, schema, spends), spends)
    else:
        steps = [Spend(s.label, NonPrivateDpEvent()) for s in spends] if how == "not private" else []
        found = learning.resolve(schema, PrivateRows(open_table(frame), schema, Receipt.uncharged()), steps)
    assert [c.source for c in found.columns] == ["draft", "draft", "declared"]
    assert (found.draft, found.approved_by) == (True, None)
    assert levels(found["n"]) == levels(schema["n"])
    with pytest.raises(SchemaError, match="is a draft"):
        create("independent", epsilon=1.0, delta=1e-6).plan(found)


def test_a_fit_without_privacy_gives_a_draft_that_can_be_used_on(tmp_path: Any) -> None:
    frame = pd.DataFrame({"n": [17, 33, 98_765] * 30, "c": ["rare", "x", "x"] * 30})
    schema = Schema(columns=(Integer(name="n", learn=True), Categorical(name="c", learn=True)))
    made = create("mst", epsilon=math.inf).fit(frame, schema)
    assert made.schema.draft
    assert "Read from rows, outside any guarantee: low, high of 'n'; categories of 'c'" in made.statement.outside[0]
    made.save(tmp_path / "model")
    assert load(tmp_path / "model").schema == made.schema
    again = create("mst", epsilon=math.inf).fit(frame, made.schema)
    assert set(again.sample(50)["c"]) <= {"rare", "x", "__other__"}


def test_a_fit_that_fails_leaves_neither_schema_nor_statement() -> None:
    schema = Schema(columns=(Integer(name="n", low=0, high=9),))
    made = create("independent", epsilon=math.inf).fit(pd.DataFrame({"n": [1]}), schema)
    with pytest.raises(DataError):
        made.fit(pd.DataFrame({"n": ["no number"]}), schema)
    for read in (lambda: made.statement, lambda: made.schema):
        with pytest.raises(UsageError, match="not fitted"):
            read()


def test_what_is_declared_is_never_asked_for() -> None:
    whole = (Integer(name="n", learn=True, low=0, high=3), Categorical(name="c", learn=True, categories=("x",)))
    schema = Schema(columns=whole)
    assert not schema.unresolved
    assert learning.labels(schema) == ()
    assert learning.share(schema) == 0.0
    assert learned(pd.DataFrame({"n": [9], "c": ["y"]}), *whole) == whole


def test_a_learned_schema_survives_yaml_and_says_so(tmp_path: Any) -> None:
    columns = (
        Integer(name="n", learn=True, low=0),
        Decimal(name="x", learn=True),
        Date(name="d", learn=True, format="%d.%m.%Y", missing=()),
        Categorical(name="c", learn=True, catch_all="rest"),
    )
    schema = Schema(columns=columns, learn_share=0.2)
    schema.to_yaml(tmp_path / "s.yaml")
    text = (tmp_path / "s.yaml").read_text()
    assert Schema.from_yaml(tmp_path / "s.yaml") == schema == Schema.from_json(schema.to_json())
    assert "learn: true" in text
    assert "learn_share: 0.2" in text
    assert "high: null" not in text
    assert "high=<to be learned>" in repr(columns[0])
    assert "4 of them to be learned" in repr(schema)
    assert schema["d"].missing == ()
    assert "learn_share" not in Schema(columns=(Boolean(name="b"),)).to_dict()
    said = outside(schema)[0]
    assert "low, high, decimals of 'x'" in said
    assert "inside the guarantee" in said
    told = outside(Schema(columns=(Integer(name="n", low=0, high=3, source="charged"),)))
    assert told[0].startswith("What the schema declares")
    assert "of 'n' were bought from a ledger before" in told[1]


def test_a_statement_names_every_column_that_can_stop_a_run() -> None:
    """Against `encode` itself: text that is no value, an empty cell, a value out of bounds."""
    columns: tuple[Column, ...] = (
        Integer(name="clips", low=0, high=9),
        Integer(name="clips nullable", low=0, high=9, missing=("",)),
        Integer(name="refuses", low=0, high=9, missing=("",), invalid="refuse"),
        Date(name="day", low=dt.date(2000, 1, 1), high=dt.date(2001, 1, 1)),
        Boolean(name="flag", missing=("",), invalid="missing"),
        Categorical(name="listed", categories=("x",)),
        Categorical(name="open", categories=("x",), catch_all="rest"),
    )
    stopping = []
    for column in columns:
        for cell in ("abc", None, "99"):
            try:
                encode(column, pd.Series([cell], dtype=object))
            except DataError:
                stopping.append(column.name)
    said = next(s for s in outside(Schema(columns=columns)) if "stops the run" in s)
    assert {c.name for c in columns if f"'{c.name}'" in said} == set(stopping)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Integer(name="x", low=0), "'high' must be given, or 'learn: true'"),
        (lambda: Integer(name="x", learn=True, invalid="refuse"), "own learned bounds"),
        (lambda: Integer(name="x", learn=True, source="charged"), "needs every bound"),
        (lambda: Boolean(name="x", learn=True), "nothing to learn"),
        (lambda: Integer(name="x", learn="yes", low=0, high=1), "true or false"),  # type: ignore[arg-type]
        (lambda: Integer(name="x", low=2**52 + 10, learn=True), r"2\^52 where one is left"),
        (
            lambda: Decimal(name="x", low=-(2.0**53), high=2.0**53, learn=True),
            r"2\^52 where one of them or the decimals",
        ),
        (lambda: Categorical(name="x", learn=True, ordered=True), "'ordered' needs declared categories"),
        (lambda: Categorical(name="x", learn=True, catch_all=""), "also listed as missing"),
        (lambda: Date(name="x", learn=True, format="%Y"), "read back"),
        (lambda: Integer(name="x", learn=True).units, "learned by each fit"),
        (lambda: Categorical(name="x", learn=True).labels, "learned by each fit"),
        (lambda: encode(Integer(name="x", learn=True), pd.Series([1])), "learned by each fit"),
        (lambda: conform([Decimal(name="x", learn=True)], pd.DataFrame({"x": [1.0]})), "learned by each fit"),
        (lambda: Schema(columns=(Integer(name="x", learn=True),)).to_sdv(), "learned by each fit"),
        (lambda: Schema(columns=(Integer(name="x", learn=True),), learn_share=1.0), "above 0 and below 1"),
    ],
)
def test_what_is_unknown_is_refused_where_it_is_needed(make: Any, rule: str) -> None:
    with pytest.raises(SchemaError, match=rule):
        make()


def test_sdv_metadata_may_leave_ranges_to_be_learned() -> None:
    metadata = {"METADATA_SPEC_VERSION": "SINGLE_TABLE_V1", "columns": {"n": {"sdtype": "numerical"}}}
    schema = Schema.from_sdv(metadata, known={"n": {"kind": "integer", "learn": True}})
    assert schema["n"].unknown == ("low", "high")


def test_the_curator_checks_what_can_be_checked() -> None:
    schema = Schema(columns=(Integer(name="n", learn=True, missing=()), Categorical(name="c", learn=True)))
    check_values(pd.DataFrame({"n": [1, 10**9], "c": ["x", None]}), schema)
    with pytest.raises(DataError, match="'n'"):
        check_values(pd.DataFrame({"n": [1, None], "c": ["x", "y"]}), schema)
    with pytest.raises(DataError, match="'c' is missing in every row"):
        check_values(pd.DataFrame({"n": [1, 2], "c": [None, None]}), schema)


# ---------------------------------------------------------------------------------------------------------------- price
MIXED = Schema(
    columns=(Integer(name="n", learn=True), Categorical(name="c", learn=True), Categorical(name="e", learn=True)),
    learn_share=0.3,
)


def test_learning_takes_its_share_of_rho_and_of_delta() -> None:
    parts = [Part(("one", "two"), 0.5), Part(("three",), 0.5)]
    spends = divide(parts, MIXED, epsilon=1.0, delta=1e-6)
    assert [s.label for s in spends][:4] == [*learning.labels(MIXED)]
    assert accounting.epsilon(accounting.event_of(spends), 1e-6) <= 1.0
    rest = [[e for e, _ in accounting.without_deltas(accounting.leaves(s.event))[0]] for s in spends]
    rho = [float(accounting.zcdp(events[0])) for events in rest]
    assert sum(rho[:4]) / sum(rho) == pytest.approx(0.3, rel=1e-4)
    failing = accounting.without_deltas(accounting.leaves(accounting.event_of(spends)))[1]
    assert float(failing) == pytest.approx(1e-6 * learning.DELTA_SHARE)


def test_without_delta_numbers_are_learned_and_categories_are_not() -> None:
    numbers = Schema(columns=(Integer(name="n", learn=True),))
    spends = divide([Part(("one",), 1.0)], numbers, epsilon=1.0, delta=0.0)
    assert accounting.epsilon(accounting.event_of(spends), 0.0) <= 1.0
    assert all(isinstance(s.event, DiscreteLaplaceDpEvent) for s in spends)
    with pytest.raises(UsageError, match="categories of 'c' cannot be learned with delta 0"):
        create("independent", epsilon=1.0, delta=0.0).plan(MIXED)


class Unaware(Independent):
    """A generator that plans for its own queries only, as if nothing were left to be learned."""

    def _spends(self, schema: Schema) -> tuple[Spend, ...]:
        known = Schema(columns=(Boolean(name="unlike"),))
        labels = tuple(f"step {i}" for i in range(len(schema.learned)))
        return divide([Part(labels, 1.0)], known, epsilon=self.epsilon, delta=self.delta)


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-6), (0.1, 1e-9), (2.0, 0.0)])
def test_a_generator_that_knows_nothing_of_learning_is_asked_for_less(epsilon: float, delta: float) -> None:
    schema = MIXED if delta else Schema(columns=MIXED.columns[:1])
    plan = Unaware(epsilon=epsilon, delta=delta).plan(schema)
    labels = [s.label for s in plan.spends]
    assert labels[: len(learning.labels(schema))] == [*learning.labels(schema)]
    assert len(labels) == len(learning.labels(schema)) + len(schema.learned)
    assert 0.9 * epsilon < plan.cost <= epsilon
