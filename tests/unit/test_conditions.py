"""Conditions, label shares and imputation against brute force over every code of a small domain.

Every test of chance has alpha = 1e-9 per case and states its number of rows.
"""

from __future__ import annotations

import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tabveil._cli_conditions import read_balance, read_where
from tabveil.columns import Boolean, Categorical, Column, Date, Datetime, Decimal, Identifier, Integer
from tabveil.conditions import codes_of
from tabveil.encoding import Axis, encode, size
from tabveil.errors import DataError, UsageError
from tabveil.generators.base import load
from tabveil.generators.mst import MST
from tabveil.graphical_model import GraphicalModel
from tabveil.records import RELATION, PrivacyStatement
from tabveil.schema import Schema
from unit.test_graphical_model import CLIQUES, brute_force, chi_square, random_model

ALPHA = 1e-9
ROWS = 300_000
SECRET = "Qx7-sentinel-Zk"
COLUMNS: tuple[Column, ...] = (
    Boolean(name="a"),
    Categorical(name="b", categories=("x", "y", "z")),
    Integer(name="c", low=10, high=19),
    Integer(name="d", low=0, high=5, missing=("",)),
)
SCHEMA = Schema(columns=(Identifier(name="id"), *COLUMNS))
AXES = [
    Axis.singles(COLUMNS[0]),
    Axis.singles(COLUMNS[1]),
    Axis(COLUMNS[2], np.array([0, 3, 4, 6, 9, 10]), np.array([0, 0, 1, 2, 3]), np.array([3.0, 5.0, 1.0, 2.0, 1.0])),
    Axis(COLUMNS[3], np.array([0, 2, 3, 4, 5, 6]), np.array([0, 1, 2, 3, 3, 4]), np.array([2.0, 1, 1, 1, 4, 1])),
]
STRUCTURES = ("chain", "cyclic", "two components", "nested", "whole", "none")
WHERES: dict[str, dict[str, Any]] = {
    "one value": {"b": "y"},
    "a set": {"b": {"x", "z"}},
    "a cut range": {"c": (11, 14)},
    "open ranges of two columns": {"c": (12, None), "d": (None, 3)},
    "all columns": {"a": True, "b": ["x", "y"], "c": [(10, 11), 13, (17, None)], "d": [None, (1, 4)]},
    "missing": {"d": None},
}


def generator(model: GraphicalModel) -> MST:
    made = MST(epsilon=1.0, delta=1e-6, random_state=0)
    made._schema, made._axes, made._model = SCHEMA, AXES, model
    made._statement = PrivacyStatement(
        epsilon=1.0, delta=1e-6, unit="row", relation=RELATION, events=(), accountant="none", theorem="none",
        dataset=None, outside=(), release=False,
    )  # fmt: skip
    return made


def joint(model: GraphicalModel) -> np.ndarray:
    """Probability of every combination of codes, missing the last code of its column."""
    table = brute_force(model) / model.total
    for i, axis in enumerate(AXES):
        codes = size(axis.column) + axis.column.nullable
        within = np.zeros((axis.size, codes))
        widths = np.append(np.diff(axis.edges), 1)
        starts = np.append(axis.edges[:-1], size(axis.column))
        for leaf in range(axis.leaves):
            within[axis.cell[leaf], starts[leaf] : starts[leaf] + widths[leaf]] = axis.weight[leaf] / widths[leaf]
        within /= within.sum(axis=1, keepdims=True)
        table = np.moveaxis(np.tensordot(table, within, axes=(i, 0)), -1, i)
    return table


def allowed(where: dict[str, Any]) -> np.ndarray:
    """Which combinations of codes obey, written out value by value."""
    masks = []
    for column in COLUMNS:
        values: list[Any] = [False, True] if column.name == "a" else ["x", "y", "z"]
        values = values if column.name in "ab" else list(range(column.low, column.high + 1))  # type: ignore[attr-defined]
        values = [*values, None] if column.nullable else values
        asked = where.get(column.name, ())
        parts = list(asked) if isinstance(asked, list | set) else [asked]
        masks.append(np.array([column.name not in where or any(_obeys(v, p) for p in parts) for v in values]))
    return masks[0][:, None, None, None] & masks[1][:, None, None] & masks[2][:, None] & masks[3]


def _obeys(value: Any, part: Any) -> bool:
    if isinstance(part, tuple):
        return value is not None and (part[0] is None or value >= part[0]) and (part[1] is None or value <= part[1])
    return value is part if part is None else value == part


def counts(frame: pd.DataFrame) -> np.ndarray:
    codes = [encode(c, frame[c.name]) for c in COLUMNS]
    shape = [size(c) + c.nullable for c in COLUMNS]
    return np.bincount(np.ravel_multi_index(codes, shape), minlength=int(np.prod(shape))).reshape(shape)


def fits(seen: np.ndarray, law: np.ndarray) -> bool:
    """Nothing where the law is 0, and Pearson's test at ALPHA."""
    expected = law / law.sum() * seen.sum()
    return not seen[law == 0].any() and chi_square(seen, expected) > ALPHA


# ----------------------------------------------------------------------------------------------------------- where
@pytest.mark.statistical
@pytest.mark.parametrize("where", WHERES.values(), ids=WHERES.keys())
@pytest.mark.parametrize("name", STRUCTURES)
def test_conditioned_rows_have_exactly_the_conditional_law(name: str, where: dict[str, Any]) -> None:
    """n = 60,000 rows each, 300,000 for the cut range: there a law with one value of c 10 % likelier is rejected."""
    model = random_model(CLIQUES[name], seed=3)
    tilt = where == WHERES["a cut range"]
    frame = generator(model).sample(ROWS if tilt else 60_000, where=where)
    law = joint(model) * allowed(where)
    assert len(frame) == (ROWS if tilt else 60_000)
    assert fits(counts(frame), law)
    tilted = law * np.where(np.arange(10) == 3, 1.1, 1.0)[:, None]
    assert not (tilt and fits(counts(frame), tilted))


@pytest.mark.statistical
def test_several_columns_are_conditioned_at_once() -> None:
    """n = 300,000. Masking one column after the other draws p(b | B) p(c | b, C) in place of p(b, c | B, C)."""
    model = random_model(CLIQUES["chain"], seed=3)
    where = {"b": ["x", "y"], "c": (12, 17), "d": (0, 2)}
    assert fits(counts(generator(model).sample(ROWS, where=where)), joint(model) * allowed(where))


@pytest.mark.parametrize("name", STRUCTURES)
def test_conditioned_tables_equal_brute_force(name: str) -> None:
    model, rng = random_model(CLIQUES[name]), np.random.default_rng(1)
    evidence = {1: np.array([0.0, 0.3, 1e-9]), 3: rng.random(5)}
    wanted = brute_force(model) * evidence[1][:, None, None] * evidence[3]
    given = model.conditioned(evidence)
    np.testing.assert_allclose(given.marginal((0, 1, 2, 3)), wanted, rtol=1e-9, atol=1e-15)
    assert given.total == pytest.approx(wanted.sum())


def test_tiny_probabilities_are_conditioned_on_too() -> None:
    model = random_model(CLIQUES["chain"])
    rare = model.times({0: np.array([1.0, 1e-9]), 1: np.array([1.0, 1.0, 1e-12])})
    frame = generator(rare).sample(5_000, where={"a": True, "b": "z"})
    assert frame["a"].all()
    assert (frame["b"] == "z").all()


def test_what_the_model_never_draws_is_refused_in_one_sentence() -> None:
    never = random_model(CLIQUES["chain"]).times({1: np.array([1.0, 1.0, 0.0])})
    with pytest.raises(UsageError, match=r"^Column 'b'.*never draws.*'x', 'y', 'z'\.$"):
        generator(never).sample(5, where={"b": "z"})
    model = random_model(CLIQUES["chain"])
    potentials = [p.copy() for p in model.potentials]
    home = model.tree.home((0, 1))
    potentials[home][1, 2] = -np.inf
    with pytest.raises(UsageError, match="'a', 'b' allow together"):
        generator(GraphicalModel(model.sizes, model.tree, potentials, 9.0)).sample(5, where={"a": True, "b": "z"})


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({SECRET: 1}, "does not have"),
        ({"id": SECRET}, "identifier"),
        ({"b": SECRET}, "'x', 'y', 'z'"),
        ({"b": ("x", "y")}, "no range"),
        ({"c": SECRET}, "from 10 to 19"),
        ({"c": 12.5}, "from 10 to 19"),
        ({"c": 20}, "from 10 to 19"),
        ({"c": (15, 11)}, "from 10 to 19"),
        ({"c": None}, "never missing"),
        ({"c": (1, 2, 3)}, "a pair"),
        ({"c": []}, "allows nothing"),
        ({"c": {"low": 1}}, "a condition is"),
        ([SECRET], "must map"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(where: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        generator(random_model(CLIQUES["chain"])).sample(5, where=where)
    assert SECRET not in str(caught.value)


def test_conditions_of_every_kind() -> None:
    pay = Decimal(name="p", low=0.0, high=9.99, decimals=2)
    day = Date(name="d", low=dt.date(2020, 1, 1), high=dt.date(2020, 12, 31))
    time = Datetime(name="t", low=dt.datetime(2020, 1, 1), high=dt.datetime(2020, 1, 9), resolution=3600)
    grade = Categorical(name="g", categories=("low", "mid", "high"), catch_all="other", ordered=True)

    def ranges(column: Column, condition: Any) -> list[list[int]]:
        found = codes_of(column, condition)
        return np.stack([found.starts, found.stops - 1], axis=1).tolist()

    assert ranges(pay, (0.1, 0.3)) == ranges(pay, ("0.095", "0.309")) == [[10, 30]]
    assert ranges(pay, np.float32(0.1)) == [[10, 10]]
    assert ranges(pay, (float("-inf"), 1e300)) == [[0, 999]]
    assert ranges(day, "2020-01-03") == ranges(day, dt.date(2020, 1, 3)) == ranges(day, pd.Timestamp("2020-01-03"))
    assert ranges(day, (None, dt.datetime(2020, 1, 3, 12))) == [[0, 2]]
    assert ranges(time, dt.date(2020, 1, 2)) == [[24, 47]]
    assert ranges(time, ("2020-01-01 05:00:00", "2020-01-01")) == [[5, 23]]
    assert ranges(grade, ("mid", None)) == [[1, 2]]
    assert ranges(grade, ["other", "low"]) == [[0, 0], [3, 3]]


def test_saved_models_condition_alike_and_samples_repeat(tmp_path: Path) -> None:
    made = generator(random_model(CLIQUES["cyclic"]))
    made.save(tmp_path)
    again = load(tmp_path)
    asked: dict[str, Any] = {"where": {"c": (11, 14)}, "balance": "b", "random_state": 4}
    pd.testing.assert_frame_equal(made.sample(500, **asked), again.sample(500, **asked))
    assert not made.sample(500, **asked).equals(made.sample(500, **{**asked, "random_state": 5}))


# --------------------------------------------------------------------------------------------------------- balance
@pytest.mark.statistical
@pytest.mark.parametrize("name", STRUCTURES)
def test_a_balanced_label_has_its_shares_and_the_rest_follows_the_model(name: str) -> None:
    """n = 300,000."""
    model = random_model(CLIQUES[name], seed=3)
    frame = generator(model).sample(ROWS, where={"d": (1, None)}, balance={"c": {(10, 14): 0.7, (15, None): 0.3}})
    law = joint(model) * allowed({"d": (1, None)})
    low = np.arange(10)[:, None] < 5
    wanted = np.where(low, 0.7 * law / (law * low).sum(), 0.3 * law / (law * ~low).sum())
    assert fits(counts(frame), wanted)
    assert (frame["c"] < 15).sum() == 0.7 * ROWS
    model_share = (law * low).sum() / law.sum()
    assert frame.attrs["balance"]["values"][0] == {
        "value": "10..14", "rows": 210_000, "sample": 0.7, "model": pytest.approx(model_share)
    }  # fmt: skip


def test_equal_shares_leave_out_missing_and_what_the_model_never_draws() -> None:
    never = random_model(CLIQUES["chain"]).times({3: np.array([1.0, 0.0, 1.0, 1.0, 1.0])})
    frame = generator(never).sample(1_001, balance="d")
    seen = frame["d"].value_counts()
    assert set(seen.index) == {0, 1, 3, 4, 5}
    assert seen.between(200, 201).all()
    assert generator(never).sample(10, balance={"d": {None: 1.0}})["d"].isna().all()
    with pytest.raises(UsageError, match=r"^Column .d.*never draws"):
        generator(never).sample(10, balance={"d": {2: 0.5, 3: 0.5}})


@pytest.mark.parametrize(
    "balance",
    [7, {}, {"b": {}}, {"b": {"x": 0.5}}, {"b": {"x": 2.0, "y": -1.0}}, {"c": {11: 0.5, (10, 12): 0.5}}, "id"],
)
def test_balances_that_mean_nothing_are_refused(balance: Any) -> None:
    with pytest.raises(UsageError, match=r"balance|identifier"):
        generator(random_model(CLIQUES["chain"])).sample(5, balance=balance)


# ---------------------------------------------------------------------------------------------------------- impute
@pytest.mark.statistical
@pytest.mark.parametrize("unknown", [u for k in range(1, 5) for u in itertools.combinations(range(4), k)])
@pytest.mark.parametrize("name", ["chain", "cyclic", "two components", "nested"])
def test_imputed_cells_have_exactly_the_conditional_law(name: str, unknown: tuple[int, ...]) -> None:
    """n = 40,000 rows of two kinds; d, which may be missing, is never filled with missing."""
    model = random_model(CLIQUES[name], seed=5)
    rows = pd.DataFrame({"a": [True, False], "b": ["x", "z"], "c": [12, 18], "d": [1, 4]}).astype(object)
    frame = pd.concat([rows] * 20_000, ignore_index=True)
    frame[[COLUMNS[i].name for i in unknown]] = None
    filled = generator(model).impute(frame)
    for kind in range(2):
        law = joint(model)
        law[..., -1] = 0.0
        for i, column in enumerate(COLUMNS):
            if i not in unknown:
                code = encode(column, rows[column.name])[kind]
                law = law * (np.arange(law.shape[i]) == code).reshape([-1 if j == i else 1 for j in range(4)])
        assert fits(counts(filled[kind::2]), law)


def test_known_cells_index_and_identifiers_are_kept() -> None:
    made = generator(random_model(CLIQUES["nested"]))
    frame = made.sample(400, where={"d": (0, None)})
    frame["id"] = [f"p{i}" for i in range(400)]
    frame.index = pd.Index(range(7, 407))
    gaps = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.3).assign(id=frame["id"])
    before = gaps.copy(deep=True)
    first, second = made.impute(gaps, 2)
    pd.testing.assert_frame_equal(gaps, before)
    assert not first.equals(second)
    for filled in (first, second):
        assert filled.index.equals(frame.index)
        assert not filled.isna().any().any()
        known = gaps.notna()
        assert filled.where(known).astype(str).equals(frame.where(known).astype(str))
    assert list(made.impute(gaps[["b"]]).columns) == list(SCHEMA.names)
    assert len(made.impute(gaps.iloc[:0])) == 0


def test_a_known_combination_that_the_model_excludes_is_completed_all_the_same() -> None:
    model = random_model(CLIQUES["chain"])
    potentials = [p.copy() for p in model.potentials]
    potentials[model.tree.home((0, 1))][1, 2] = -np.inf
    frame = pd.DataFrame({"a": [True], "b": ["z"]})
    filled = generator(GraphicalModel(model.sizes, model.tree, potentials, 9.0)).impute(frame)
    assert (bool(filled["a"][0]), filled["b"][0]) == (True, "z")
    assert not filled.isna().any().any()


def test_imputing_refuses_without_quoting() -> None:
    made = generator(random_model(CLIQUES["chain"]))
    for frame in (pd.DataFrame({"b": [SECRET]}), pd.DataFrame({SECRET: [1]})):
        with pytest.raises(DataError) as caught:
            made.impute(frame)
        assert SECRET not in str(caught.value)
    with pytest.raises(UsageError, match="m must be"):
        made.impute(pd.DataFrame({"b": ["x"]}), 0)


# ---------------------------------------------------------------------------------------------------- command line
def test_the_grammar_of_the_command_line() -> None:
    assert read_where(["age=40..", "sex = F", "state=CA|NY", 'n="a|b""c..d"|missing']) == {
        "age": [("40", None)],
        "sex": ["F"],
        "state": ["CA", "NY"],
        "n": ['a|b"c..d', None],
    }
    assert read_where(['"a=b"=-5..-1|..-9', "income=<=50K"]) == {
        "a=b": [("-5", "-1"), (None, "-9")],
        "income": ["<=50K"],
    }
    assert read_balance("income") == "income"
    assert read_balance('income=<=50K:0.7|">50K":0.3') == {"income": {"<=50K": 0.7, ">50K": 0.3}}
    for bad in ("age", "=4", "age=", 'age="a', "age=1|"):
        with pytest.raises(UsageError, match="--where takes"):
            read_where([bad])
    with pytest.raises(UsageError, match="--balance takes"):
        read_balance("income=a|b")
