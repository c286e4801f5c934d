"""Constraints as public knowledge: what is accepted, what is refused and how it is said, files there and back."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tabveil._cli_schema import app
from tabveil.columns import Boolean, Categorical, Column, Date, Datetime, Decimal, Identifier, Integer
from tabveil.constraints import Constraint, FixedCombinations, Implied, Inequality, Sum, allowed_codes, least_values
from tabveil.errors import SchemaError
from tabveil.schema import Schema

NOON = dt.datetime(2020, 1, 1, 12)
COLUMNS: dict[str, Column] = {
    c.name: c
    for c in (
        Identifier(name="id"),
        Integer(name="a", low=0, high=10),
        Integer(name="b", low=5, high=20, missing=("",)),
        Integer(name="c", low=0, high=30),
        Integer(name="far", low=100, high=200),
        Decimal(name="x", low=0.0, high=9.5, decimals=1),
        Decimal(name="y", low=0.0, high=9.5, decimals=2),
        Decimal(name="huge", low=0.0, high=9e14, decimals=1),
        Date(name="day", low=dt.date(2020, 1, 1), high=dt.date(2020, 12, 31)),
        Datetime(name="noon", low=NOON, high=dt.datetime(2020, 12, 31), resolution=3600),
        Datetime(name="later", low=NOON.replace(minute=30), high=dt.datetime(2020, 12, 31), resolution=3600),
        Datetime(name="evening", low=NOON.replace(hour=20), high=dt.datetime(2021, 12, 31), resolution=3600),
        Categorical(name="town", categories=("u", "v", "w"), catch_all="other"),
        Categorical(name="land", categories=("k", "l"), missing=("",), invalid="missing"),
        Boolean(name="flag"),
        Categorical(name="many", categories=tuple(map(str, range(400)))),
        Categorical(name="more", categories=tuple(map(str, range(400)))),
    )
}
MAPPING = {"u": 1, "v": 2, "w": 2, "other": 9}


def schema(*given: Constraint) -> Schema:
    return Schema(columns=tuple(COLUMNS.values()), constraints=given)


GOOD: tuple[Constraint, ...] = (
    Inequality(low="a", high="b"),
    Inequality(low="noon", high="evening", strict=True),
    FixedCombinations(columns=("town", "land", "flag"), allowed=[("u", "k", True), ("v", "l", "false")]),
    FixedCombinations(columns=("flag", "town"), forbidden=[(True, "w")]),
    Implied(column="c", given="town", mapping=MAPPING),
    Implied(column="flag", given="land", mapping={"k": True}),
    Sum(total="y", parts=("x",)),
)


@pytest.mark.parametrize("rule", GOOD, ids=str)
def test_constraints_come_back_from_json_and_yaml(rule: Constraint, tmp_path: Path) -> None:
    made = schema(rule)
    assert Schema.from_json(made.to_json()) == made
    made.to_yaml(tmp_path / "s.yaml")
    again = Schema.from_yaml(tmp_path / "s.yaml")
    assert again == made
    assert again.digest == made.digest != schema().digest
    hash(rule)


def test_a_schema_without_constraints_has_the_digest_it_always_had() -> None:
    assert "constraints" not in schema().to_dict()
    assert Schema.from_dict({**schema().to_dict(), "constraints": []}) == schema()


def test_yaml_reads_as_a_person_writes_it(tmp_path: Path) -> None:
    text = """
columns:
- {name: level, kind: categorical, categories: [low, high]}
- {name: years, kind: integer, low: 0, high: 20}
- {name: old, kind: boolean}
- {name: from, kind: date, low: 2020-01-01, high: 2020-12-31}
- {name: to, kind: date, low: 2020-01-01, high: 2020-12-31, missing: [""]}
constraints:
- {kind: inequality, low: from, high: to}
- kind: implied
  column: years
  given: level
  mapping: {low: 9, high: 13}
- kind: fixed_combinations
  columns: [level, old]
  forbidden: [[low, true]]
"""
    tmp_path.joinpath("s.yaml").write_text(text)
    made = Schema.from_yaml(tmp_path / "s.yaml")
    assert [str(c) for c in made.constraints] == [
        "'from' <= 'to'",
        "'years' implied by 'level'",
        "combinations of 'level', 'old'",
    ]
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "s.yaml")])
    assert shown.exit_code == 0
    assert "every row obeys: 'from' <= 'to'" in shown.output


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([Inequality(low="a", high="z")], "'a' <= 'z': the schema names no column 'z'"),
        ([Inequality(low="a", high="id")], "'id' is an identifier"),
        ([Inequality(low="a", high="a")], "names a column twice"),
        ([Inequality(low="a", high="town")], "only numbers, dates and points in time can be compared"),
        ([Inequality(low="a", high="x")], "must be of one kind, with the same decimals or the same resolution"),
        ([Inequality(low="x", high="y")], "the same decimals"),
        ([Inequality(low="day", high="noon")], "must be of one kind"),
        ([Inequality(low="noon", high="later")], "the same resolution"),
        ([Inequality(low="a", high="b"), Inequality(low="a", high="b")], "given twice"),
        ([Inequality(low="a", high="b"), Inequality(low="b", high="a")], "cyclic"),
        ([Inequality(low="far", high="a")], "contradictory: it leaves 'a' no value within its bounds"),
        ([Inequality(low="far", high="c")], "contradictory"),
        ([FixedCombinations(columns=("town", "a"), allowed=[("u", "1")])], "'a' must be categorical or boolean"),
        ([FixedCombinations(columns=("town", "land"), allowed=[("u", "z")])], "'land' does not declare"),
        ([FixedCombinations(columns=("many", "more"), forbidden=[("1", "1")])], "over 100,000 combinations"),
        (
            [
                FixedCombinations(columns=("town", "land"), allowed=[("u", "k")]),
                FixedCombinations(columns=("land", "flag"), forbidden=[("k", True), ("k", False)]),
            ],
            "contradictory: it leaves no combination",
        ),
        ([Implied(column="c", given="a", mapping={"1": 1})], "'a' must be categorical or boolean"),
        (
            [Implied(column="day", given="town", mapping=MAPPING)],
            "'day' must be categorical, boolean, integer or decimal",
        ),
        ([Implied(column="c", given="town", mapping={"z": 1})], "column 'town' does not declare"),
        ([Implied(column="c", given="town", mapping={**MAPPING, "u": 31})], "column 'c' does not allow"),
        ([Implied(column="c", given="town", mapping={**MAPPING, "u": None})], "column 'c' does not allow"),
        ([Implied(column="x", given="town", mapping={**MAPPING, "u": 1.25})], "column 'x' does not allow"),
        (
            [Implied(column="c", given="town", mapping={"u": 1})],
            "only be implied where every value of 'town' is listed",
        ),
        ([Implied(column="c", given="land", mapping={"k": 1, "l": 2})], "'c' must be allowed to be missing"),
        (
            [Implied(column="c", given="town", mapping=MAPPING), Sum(total="c", parts=("a",))],
            "'c' already follows from another constraint",
        ),
        (
            [Implied(column="c", given="town", mapping=MAPPING), Inequality(low="a", high="c")],
            "'c' follows from other columns",
        ),
        ([Sum(total="day", parts=("a",))], "must be integers or decimals"),
        ([Sum(total="c", parts=("x",))], "'c' must have as many decimals as its parts"),
        ([Sum(total="c", parts=("a", "b"))], "'c' must be allowed to be missing"),
        ([Sum(total="a", parts=("far",))], "contradictory: no sum of the parts lies within"),
        ([Sum(total="c", parts=("far", "a"))], "contradictory"),
        ([Sum(total="a", parts=("c",)), Inequality(low="c", high="far")], "widen the bounds of 'a'"),
        ([Sum(total="a", parts=("c",)), Sum(total="c", parts=("a",))], "cyclic"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: list[Constraint], says: str) -> None:
    with pytest.raises(SchemaError, match=says.replace("(", r"\(")) as refused:
        schema(*given)
    assert str(refused.value).startswith("Constraint ")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"kind": "inequality", "low": "a"}, r"Constraint number 1 \(inequality\): 'high' must be given"),
        (
            {"kind": "inequality", "low": "a", "high": "b", "strickt": True},
            "unknown key 'strickt'; did you mean 'strict'",
        ),
        ({"kind": "inequality", "low": 1, "high": "b"}, "'low' must be a column name"),
        ({"kind": "inequality", "low": "a", "high": "b", "strict": 1}, "'strict' must be true or false"),
        ({"kind": "less"}, "'kind' must be one of inequality, fixed_combinations, implied, sum"),
        ({"kind": "sums"}, "did you mean 'sum'"),
        ("a <= b", "must be written as keys and values"),
        ({"kind": "fixed_combinations", "columns": ["town"], "allowed": [["u"]]}, "at least two columns"),
        ({"kind": "fixed_combinations", "columns": ["town", "land"]}, "exactly one of 'allowed' and 'forbidden'"),
        ({"kind": "fixed_combinations", "columns": ["town", "land"], "allowed": [["u"]]}, "one value per column"),
        ({"kind": "fixed_combinations", "columns": ["town", "land"], "allowed": [["u", 3]]}, "must be a text"),
        ({"kind": "implied", "column": "c", "given": "town", "mapping": {}}, "must list a value"),
        ({"kind": "implied", "column": "c", "given": "town", "mapping": 3}, "must list a value"),
        ({"kind": "implied", "column": "c", "given": "flag", "mapping": {"true": [1]}}, "column 'c' does not allow"),
        ({"kind": "sum", "total": "c", "parts": "a"}, "'parts' must be a list of column names"),
        ({"kind": "sum", "total": "c", "parts": []}, "at least one column"),
    ],
)
def test_files_that_are_wrong_are_refused_with_a_sentence(data: Any, says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        Schema.from_dict({**schema().to_dict(), "constraints": [data]})


def test_constraints_must_be_a_list_of_constraints() -> None:
    for wrong in ("a <= b", 3):
        with pytest.raises(SchemaError, match="'constraints' must be a list"):
            Schema.from_dict({**schema().to_dict(), "constraints": wrong})
    with pytest.raises(SchemaError, match="'constraints' must hold constraints"):
        schema("a <= b")  # type: ignore[arg-type]


def test_columns_that_follow_are_not_modelled_and_come_after_what_they_need() -> None:
    made = Schema(
        columns=tuple(COLUMNS.values()),
        constraints=(
            Sum(total="y", parts=("x",)),
            Implied(column="c", given="town", mapping=MAPPING),
            Implied(column="town", given="flag", mapping={"true": "u", "false": "v"}),
        ),
    )
    assert list(made.derived).index("town") < list(made.derived).index("c")
    assert set(made.derived) == {"y", "c", "town"}
    assert [c.name for c in made.modelled] == [c.name for c in made.learned if c.name not in made.derived]


def test_least_values_obey() -> None:
    rules = [Inequality(low="b", high="a", strict=True), Inequality(low="a", high="c", strict=True)]
    assert least_values(rules, COLUMNS) == {"b": 5, "a": 6, "c": 7}


def test_a_rule_with_a_missing_member_holds() -> None:
    names, allowed = allowed_codes([FixedCombinations(columns=("land", "flag"), allowed=[("k", False)])], COLUMNS)
    assert names == ("land", "flag")
    np.testing.assert_array_equal(allowed, [[True, False], [False, False], [True, True]])
