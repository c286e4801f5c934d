"""Column kinds: every rule of a column is refused in one sentence that names the column."""

from __future__ import annotations

import datetime as dt

import pytest

from tabveil.columns import KINDS, Boolean, Categorical, Column, Date, Datetime, Decimal, Identifier, Integer
from tabveil.errors import SchemaError

DAY = dt.date(2020, 1, 31)
MOMENT = dt.datetime(2020, 1, 31, 12, 0)

BROKEN = [
    (lambda: Integer(name="", low=0, high=1), "non-empty text"),
    (lambda: Integer(name=7, low=0, high=1), "non-empty text"),
    (lambda: Integer(name="\ud800", low=0, high=1), "non-empty text"),
    (lambda: Integer(name="age", low=2, high=1), "'low' must not be above 'high'"),
    (lambda: Integer(name="age", low=0.5, high=1), "whole numbers"),
    (lambda: Integer(name="age", low=False, high=True), "whole numbers"),
    (lambda: Integer(name="age", low=0, high=2**53 + 1), "within 2\\^53"),
    (lambda: Integer(name="age", low=0, high=1, invalid="drop"), "'invalid' must be"),
    (lambda: Integer(name="age", low=0, high=1, invalid="missing"), "at least one text"),
    (lambda: Integer(name="age", low=0, high=1, source="guess"), "'source' must be"),
    (lambda: Integer(name="age", low=0, high=1, missing="NA"), "'missing' must be a list of texts"),
    (lambda: Integer(name="age", low=0, high=1, missing=(False,)), "put quotes around"),
    (lambda: Integer(name="age", low=0, high=1, missing=("", "")), "lists a text twice"),
    (lambda: Integer(name="age", low=0, high=1, note=3), "'note' must be a text"),
    (lambda: Decimal(name="pay", low=0, high=1, decimals=13), "0 to 12"),
    (lambda: Decimal(name="pay", low=0, high=1, decimals=True), "0 to 12"),
    (lambda: Decimal(name="pay", low="0", high=1, decimals=1), "'low' must be a finite number"),
    (lambda: Decimal(name="pay", low=0, high=float("inf"), decimals=1), "'high' must be a finite number"),
    (lambda: Decimal(name="pay", low=float("nan"), high=1, decimals=1), "'low' must be a finite number"),
    (lambda: Decimal(name="pay", low=0.004, high=0.001, decimals=2), "'low' must not be above"),
    (lambda: Decimal(name="pay", low=0, high=1e9, decimals=12), "more digits than a number holds"),
    (lambda: Categorical(name="sex", categories=()), "at least one category"),
    (lambda: Categorical(name="sex", categories="FM"), "list of texts"),
    (lambda: Categorical(name="sex", categories=("yes", False)), "put quotes around"),
    (lambda: Categorical(name="sex", categories=({}, "F")), "list of texts"),
    (lambda: Categorical(name="sex", categories=("F", "F")), "twice"),
    (lambda: Categorical(name="sex", categories=("F", "M"), catch_all="M"), "'catch_all' must not be"),
    (lambda: Categorical(name="sex", categories=("F", "M"), catch_all=1), "'catch_all' must be a text"),
    (lambda: Categorical(name="sex", categories=("F", ""), missing=("",)), "also listed as missing"),
    (lambda: Categorical(name="sex", categories=("F", "M"), invalid="clip"), "name a 'catch_all'"),
    (lambda: Categorical(name="sex", categories=("F", "M"), ordered="yes"), "'ordered' must be"),
    (lambda: Boolean(name="ill", true=()), "share no text"),
    (lambda: Boolean(name="ill", true=("Y",), false=("y",)), "share no text"),
    (lambda: Boolean(name="ill", missing=("NO",)), "share no text"),
    (lambda: Boolean(name="ill", true=(True,)), "put quotes around"),
    (lambda: Date(name="born", low=MOMENT, high=MOMENT), "must be dates"),
    (lambda: Date(name="born", low=DAY, high=dt.date(2019, 1, 1)), "'low' must not be above"),
    (lambda: Date(name="born", low=dt.date(1920, 1, 1), high=DAY, format="%d.%m.%y"), "read back the same"),
    (lambda: Date(name="born", low=DAY, high=DAY, format="%Y-%m"), "read back the same"),
    (lambda: Date(name="born", low=DAY, high=DAY, format=None), "read back the same"),
    (lambda: Datetime(name="seen", low=DAY, high=MOMENT), "points in time"),
    (lambda: Datetime(name="seen", low=MOMENT.replace(tzinfo=dt.UTC), high=MOMENT), "without a zone"),
    (lambda: Datetime(name="seen", low=MOMENT.replace(microsecond=1), high=MOMENT), "whole seconds"),
    (lambda: Datetime(name="seen", low=MOMENT, high=MOMENT, resolution=0), "whole number of seconds"),
    (lambda: Identifier(name="id", pattern="P"), "must hold {n}"),
    (lambda: Identifier(name="id", pattern="{n}{m}"), "no other braces"),
    (lambda: Identifier(name="id", pattern="{n.real}"), "no other braces"),
    (lambda: Identifier(name="id", pattern="{n:999999999d}"), "no other braces"),
    (lambda: Identifier(name="id", pattern="{n:c}"), "no other braces"),
    (lambda: Identifier(name="id", pattern=3), "text with {n}"),
]


@pytest.mark.parametrize(("make", "rule"), BROKEN)
def test_a_broken_rule_is_one_sentence(make, rule):
    with pytest.raises(SchemaError, match=rule) as caught:
        make()
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).endswith(".")


def test_every_kind_is_listed_by_its_word():
    assert set(KINDS) == {"categorical", "boolean", "integer", "decimal", "date", "datetime", "identifier"}
    assert all(issubclass(c, Column) and c.kind == word for word, c in KINDS.items())


@pytest.mark.parametrize(
    ("column", "units"),
    [
        (Integer(name="a", low=-2, high=2), 5),
        (Integer(name="a", low=3, high=3), 1),
        (Decimal(name="a", low=0, high=1, decimals=2), 101),
        (Decimal(name="a", low=-0.1, high=0.25, decimals=1), 4),  # -0.1, 0, 0.1, 0.2
        (Date(name="a", low=dt.date(2020, 1, 1), high=dt.date(2020, 12, 31)), 366),
        (Datetime(name="a", low=MOMENT, high=MOMENT + dt.timedelta(hours=2), resolution=3600), 3),
        (Datetime(name="a", low=MOMENT, high=MOMENT + dt.timedelta(minutes=119), resolution=3600), 2),
    ],
)
def test_units_count_both_ends(column, units):
    assert column.units == units


def test_labels_put_the_catch_all_last():
    assert Categorical(name="a", categories=("x", "y"), catch_all="b").labels == ("x", "y", "b")
    assert Boolean(name="a").labels == ("false", "true")


def test_lists_become_tuples_so_that_equal_columns_are_equal_and_hash():
    column = Categorical(name="a", categories=["x", "y"], missing=[""])
    assert column == Categorical(name="a", categories=("x", "y"), missing=("",))
    assert len({column, Categorical(name="a", categories=("x", "y"), missing=("",))}) == 1
    assert Decimal(name="a", low=0, high=1, decimals=1) == Decimal(name="a", low=0.0, high=1.0, decimals=1)
    assert isinstance(Decimal(name="a", low=0, high=1, decimals=1).low, float)


@pytest.mark.parametrize("pattern", ["{n}", "P{n:06d}", "{n:4}-x", "{{{n}}}", "ü {n:12d}"])
def test_patterns_that_number_rows(pattern):
    assert Identifier(name="id", pattern=pattern).pattern.format(n=7) != pattern


def test_a_draft_shows_no_value_in_its_repr():
    draft = Categorical(name="town", categories=("SENTINEL",), source="draft")
    assert "SENTINEL" not in repr(draft)
    assert "SENTINEL" not in repr(Integer(name="a", low=1, high=2, source="draft", note="SENTINEL"))
    assert "public" in repr(Categorical(name="town", categories=("public",)))


def test_formats_with_names_of_months_are_allowed():
    assert Date(name="a", low=DAY, high=DAY, format="%d %b %Y").units == 1
