"""Conditions, label shares and imputation under constraints: laws against brute force, and no rule or condition broken.

Every test of chance has alpha = 1e-9 and states its number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mutants.planting import Edit, planted
from tabveil._chains import between
from tabveil.columns import Boolean, Categorical, Column, Decimal, Integer
from tabveil.conditions import Conditions
from tabveil.constraints import Constraint, FixedCombinations, Implied, Inequality, Sum
from tabveil.encoding import Axis, size
from tabveil.enforcing import Rules
from tabveil.errors import UsageError
from tabveil.estimation import estimate
from tabveil.graphical_model import Factor, GraphicalModel, Measurement
from tabveil.laws import Law
from tabveil.schema import Schema
from unit.test_conditions import generator

ALPHA = 1e-9
ABC = tuple(Integer(name=n, low=0, high=99) for n in "abc")
CHAIN = (Inequality(low="a", high="b"), Inequality(low="b", high="c"))
SUM = (Sum(total="t", parts=("a", "b", "c")),)


def axis_of(column: Column, cells: int) -> Axis:
    """Even cells of one leaf each."""
    return Axis(column, np.linspace(0, column.units, cells + 1).astype(int), np.arange(cells), np.ones(cells))  # type: ignore[attr-defined]


def law_of(
    columns: Sequence[Column], constraints: Sequence[Constraint] = (), cells: int = 1, axes: Sequence[Axis] = ()
) -> Law:
    """Even counts in every cell, fitted under the constraints."""
    schema = Schema(columns=tuple(columns), constraints=tuple(constraints))
    rules, cut = Rules(schema), tuple(axes) or tuple(axis_of(c, cells) for c in schema.modelled)
    counts = [Measurement((i,), np.full(a.size, 1000 / a.size), 1.0) for i, a in enumerate(cut)]
    model = estimate([a.size for a in cut], counts, factors=rules.factors(cut), iterations=3)
    return Law(cut, model, rules)


def asked(law: Law, where: dict[str, Any] | None = None, balance: Any = None) -> Conditions:
    return Conditions.of(Schema(columns=tuple(law.rules.columns.values())), where, balance)


def where(law: Law, condition: dict[str, Any]) -> Law:
    return law.given(law.rules.on_modelled(asked(law, condition).allowed))


# ----------------------------------------------------------------------------------------------------- form of factors
@pytest.mark.parametrize("kind", ["chain", "bounded sum"])
def test_restricted_axes_weigh_the_same_columns_as_the_model(kind: str) -> None:
    """Forty cells a column: the table of all three is too large for the model, and small enough once a is cut."""
    total = Integer(name="t", low=0, high=150)
    law = law_of(ABC, CHAIN, 40) if kind == "chain" else law_of((*ABC, total), SUM, 40)

    def rows() -> dict[str, np.ndarray]:
        return where(law, {"a": (0, 20)}).sample(500, np.random.default_rng(0))

    codes = rows()
    assert (codes["a"] <= 20).all()
    assert law.rules.hold(codes).all()
    if kind == "chain":
        with (
            planted(Edit("tabveil._groups:Ordered.factors", "sizes[n]", "axes[n].size")),
            pytest.raises(ValueError, match="No clique"),
        ):
            rows()


def test_a_label_that_a_rule_speaks_of_is_balanced_over_many_cells() -> None:
    law = law_of(ABC, CHAIN, 40)
    balance = asked(law, balance={"a": {(0, 20): 0.5, (21, None): 0.5}}).balance
    assert balance is not None
    codes, _ = law.balanced(balance, 400, np.random.default_rng(0))
    assert (codes["a"] <= 20).sum() == 200
    assert law.rules.hold(codes).all()


def test_a_factor_that_no_clique_holds_is_refused() -> None:
    free: GraphicalModel = estimate([2, 2], [], total=10.0)
    with pytest.raises(ValueError, match="No clique"):
        free.weighted([Factor((0, 1), np.ones((2, 2)))])


# ------------------------------------------------------------------------------------------------- rows to be mended
def narrow(low: int = 0) -> Law:
    """a + b in low..100, each 0..999 in one cell: few rows of the model obey."""
    parts, total = [Integer(name=n, low=0, high=999) for n in "ab"], Integer(name="t", low=low, high=100)
    return law_of((*parts, total), (Sum(total="t", parts=("a", "b")),))


@pytest.mark.parametrize("rows", [1, 3])
def test_mended_rows_obey_the_conditions_too(rows: int) -> None:
    """Public values that obey the rules would have a = 0."""
    given = where(narrow(), {"a": (50, None)})
    drawn = [given.sample(rows, np.random.default_rng(i)) for i in range(20)]
    assert all((d["a"] >= 50).all() and (d["t"] <= 100).all() for d in drawn)


@pytest.mark.statistical
def test_few_rows_have_the_law_of_many() -> None:
    """alpha = 1e-9, 300 samples of 8 rows: the mean of t, which is not the public values' constant; 10 % more fails."""
    law = narrow()
    drawn = np.concatenate([law.sample(8, np.random.default_rng(i))["t"] for i in range(300)])
    chance = np.arange(1, 102) / np.arange(1, 102).sum()
    mean = (np.arange(101) * chance).sum()
    bound = stats.norm.isf(ALPHA / 2) * np.sqrt(((np.arange(101) - mean) ** 2 * chance).sum() / len(drawn))
    assert abs(drawn.mean() - mean) < bound
    assert abs(drawn.mean() - 1.1 * mean) > bound


def test_what_no_row_obeys_together_with_conditions_is_refused() -> None:
    given = where(narrow(low=90), {"a": (0, 89), "b": (0, 89)})
    given.rules.groups[0].holds = lambda codes: np.zeros(len(codes["a"]), dtype=bool)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="rules and the conditions together"):
        given.sample(2, np.random.default_rng(0))


def test_a_mended_row_keeps_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redraws rows take the values of others: of those with their own label only."""
    monkeypatch.setattr("tabveil.enforcing.PASSES", 0)
    label = Categorical(name="y", categories=("p", "q"))
    parts, total = [Integer(name=n, low=0, high=99) for n in "ab"], Integer(name="t", low=0, high=99)
    law = law_of(
        (*parts, total, label), (Sum(total="t", parts=("a", "b")),),
        axes=[axis_of(parts[0], 1), axis_of(parts[1], 1), Axis.singles(label)],
    )  # fmt: skip
    balance = asked(law, balance={"y": {"p": 0.3, "q": 0.7}}).balance
    assert balance is not None

    def counts() -> Any:
        codes, _ = law.balanced(balance, 1_000, np.random.default_rng(0))
        assert law.rules.hold(codes).all()
        return np.bincount(codes["y"]).tolist()

    def check() -> None:
        monkeypatch.setattr("tabveil._groups.Group._redrawn", once)
        assert counts() == [300, 700]

    def once(group, axes, cells, rng, known=None):  # type: ignore[no-untyped-def]
        return {n: axes[n].draw(cells[n], rng) for n in group.names}

    check()
    with (
        planted(Edit("tabveil.laws:Law.balanced", "rows, rng, kind=group", "rows, rng")),
        pytest.raises(AssertionError),
    ):
        check()


# ---------------------------------------------------------------------------------------------------------- imputation
def rare_with_missing() -> Law:
    """z shares a cell with missing and was never counted; given that cell d is q nine times in ten."""
    c = Categorical(name="c", categories=("x", "y", "z"), missing=("",))
    d = Categorical(name="d", categories=("p", "q"))
    axes = (Axis(c, np.arange(4), np.array([0, 1, 2, 2]), np.array([100.0, 100.0, 0.0, 5.0])), Axis.singles(d))
    counts = Measurement((0, 1), np.array([[50.0, 50.0], [50.0, 50.0], [10.0, 90.0]]), 1.0)
    return Law(axes, estimate([3, 2], [counts], iterations=200), Rules(Schema(columns=(c, d))))


@pytest.mark.statistical
def test_what_is_known_of_a_rare_value_joined_with_missing_counts() -> None:
    """alpha = 1e-9, n = 10,000: d given z has the law of their cell, 9 in 10; filled, c is z next to never."""
    law, n = rare_with_missing(), 10_000

    def share() -> float:
        known = {"c": np.full(n, 2), "d": np.full(n, 2)}
        return float((law.completed(known, 1, np.random.default_rng(0))[0]["d"] == 1).mean())

    bound = stats.norm.isf(ALPHA / 2) * np.sqrt(0.9 * 0.1 / n)
    assert abs(share() - 0.9) < bound + 0.002
    assert abs(share() - 0.81) > bound + 0.002
    made = generator(law.model)
    made._schema, made._axes = Schema(columns=tuple(law.rules.columns.values())), list(law.axes)
    rows = pd.DataFrame({"c": ["z"] * n, "d": [None] * n})
    assert abs((made.impute(rows)["d"] == "q").mean() - 0.9) < bound + 0.002
    filled = law.completed({"c": np.full(n, 3), "d": np.full(n, 1)}, 1, np.random.default_rng(0))[0]["c"]
    assert set(filled.tolist()) == {0, 1}
    with planted(Edit("tabveil.laws:Law.without_missing", "(shares > 0) | ~held", "shares >= 0")):
        assert abs(share() - 0.9) > bound + 0.002


def filled(law: Law, known: dict[str, int], rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`rows` rows of which only `known` codes are known."""
    given = {n: np.full(rows, known.get(n, size(c))) for n, c in law.rules.columns.items()}
    return law.completed(given, 1, np.random.default_rng(seed))[0]


def fits(codes: np.ndarray, law: np.ndarray) -> bool:
    """Nothing where the law is 0, and Pearson's test at ALPHA."""
    seen = np.bincount(codes, minlength=len(law))
    expected = law / law.sum() * len(codes)
    some = expected > 0
    return not seen[~some].any() and stats.chisquare(seen[some], expected[some]).pvalue > ALPHA


ROWS = 30_000
LINE = np.arange(100)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("known", "of", "law"),
    [
        ({"a": 0}, "b", (100 - LINE) ** 1.0),
        ({"a": 97}, "c", np.where(LINE >= 97, LINE - 96, 0) * 1.0),
        ({"a": 20, "c": 80}, "b", ((LINE >= 20) & (LINE <= 80)) * 1.0),
        ({"b": 30}, "a", (LINE <= 30) * 1.0),
        ({"b": 30}, "c", (LINE >= 30) * 1.0),
    ],
)
def test_the_unknown_of_a_chain_is_drawn_around_the_known_codes(
    known: dict[str, int], of: str, law: np.ndarray
) -> None:
    """alpha = 1e-9, n = 30,000, one cell of 100 values a column; the upper half 10 % likelier is rejected."""
    model = law_of(ABC, CHAIN)

    def check() -> None:
        codes = filled(model, known, ROWS)
        assert model.rules.hold(codes).all()
        assert all((codes[n] == v).all() for n, v in known.items())
        assert fits(codes[of], law)
        if law[LINE > 50].any() and law[LINE < 50].any():
            assert not fits(codes[of], law * np.where(LINE > np.flatnonzero(law).mean(), 1.1 / 0.9, 1.0))

    check()
    mutant = Edit("tabveil._groups:Group.given", "rng, known)", "rng)")
    with planted(mutant), pytest.raises(AssertionError):
        check()


@pytest.mark.statistical
def test_the_mean_above_a_known_zero_is_the_middle_of_the_cell() -> None:
    """alpha = 1e-9, n = 20,000: drawn together with a new code for a, the mean would be 66."""
    codes = filled(law_of(ABC[:2], CHAIN[:1]), {"a": 0}, 20_000)
    bound = stats.norm.isf(ALPHA / 2) * np.sqrt((100**2 - 1) / 12 / 20_000)
    assert abs(codes["b"].mean() - 49.5) < bound
    assert abs(codes["b"].mean() - 1.1 * 49.5) > bound


@pytest.mark.statistical
def test_codes_between_bounds_follow_the_cell_inside_them() -> None:
    """alpha = 1e-9, n = 30,000: uneven leaves, missing among them, and a cell of two parts."""
    column = Integer(name="a", low=0, high=19, missing=("",))
    axis = Axis(column, np.array([0, 4, 10, 11, 20]), np.array([0, 1, 0, 0, 0]), np.array([3.0, 1.0, 2.0, 4.0, 1.0]))
    law = np.concatenate([np.full(4, 3 / 4), np.zeros(6), [2.0], np.full(9, 4 / 9), [1.0]])
    inside = (np.arange(21) >= 2) & (np.arange(21) <= 12) | (np.arange(21) == 20)
    span = (np.full(ROWS, 2), np.full(ROWS, 12))
    codes = between(axis, np.zeros(ROWS, dtype=np.int64), span, np.random.default_rng(0))
    assert fits(codes, law * inside)
    assert not fits(codes, law * inside * np.where(np.arange(21) == 10, 1.2, 1.0))
    none = between(axis, np.zeros(10, dtype=np.int64), (np.full(10, 5), np.full(10, 4)), np.random.default_rng(0))
    assert set(none.tolist()) <= set(np.flatnonzero(law).tolist())


@pytest.mark.statistical
def test_listed_combinations_are_drawn_around_a_code_of_a_joined_cell() -> None:
    """alpha = 1e-9, n = 30,000: u and v share a cell; v goes with l and m only, by their shares."""
    c, d = Categorical(name="c", categories=("t", "u", "v")), Categorical(name="d", categories=("k", "l", "m"))
    allowed = [("t", "k"), ("u", "k"), ("v", "l"), ("v", "m")]
    axes = (
        Axis(c, np.arange(4), np.array([0, 1, 1]), np.ones(3)),
        Axis(d, np.arange(4), np.zeros(3, dtype=np.int64), np.array([5.0, 1.0, 2.0])),
    )
    law = law_of((c, d), (FixedCombinations(columns=("c", "d"), allowed=allowed),), axes=axes)
    assert fits(filled(law, {"c": 2}, ROWS)["d"], np.array([0.0, 1.0, 2.0]))
    assert not fits(filled(law, {"c": 2}, ROWS)["d"], np.array([0.0, 1.1, 2.0]))
    assert set(filled(law, {"d": 1}, 100)["c"].tolist()) == {2}


# ------------------------------------------------------------------------------------------ what is known and computed
TENS = tuple(Integer(name=n, low=0, high=9) for n in "ab")
TOTAL = Integer(name="t", low=0, high=18)


def test_the_one_unknown_part_of_a_known_sum_is_computed() -> None:
    law = law_of((*TENS, TOTAL), (Sum(total="t", parts=("a", "b")),), 10)
    assert set(filled(law, {"a": 3, "t": 5}, 20)["b"].tolist()) == {2}
    assert set(filled(law, {"b": 9, "t": 18}, 20)["a"].tolist()) == {9}
    assert set(filled(law, {"a": 3, "b": 4}, 20)["t"].tolist()) == {7}
    beyond = filled(law, {"a": 9, "t": 5}, 20)
    assert (set(beyond["a"].tolist()), set(beyond["t"].tolist())) == ({9}, {5})
    mutant = Edit("tabveil.enforcing:Rules.known", "isinstance(constraint, Sum)", "False")
    with planted(mutant):
        assert set(filled(law, {"a": 3, "t": 5}, 200)["b"].tolist()) > {2}


@pytest.mark.statistical
def test_two_unknown_parts_of_a_known_sum_are_drawn_until_they_fit() -> None:
    """alpha = 1e-9, n = 20,000: a is even on what leaves b a value, in all but the rows that PASSES redraws leave."""
    law = law_of((*TENS, TOTAL), (Sum(total="t", parts=("a", "b")),), 10)
    codes = filled(law, {"t": 9}, 20_000)
    kept = codes["a"] + codes["b"] == 9
    assert kept.mean() == pytest.approx(1 - 0.9**21, abs=0.02)
    assert (codes["t"] == 9).all()
    assert fits(codes["a"][kept], np.ones(10))


def test_decimal_parts_are_computed_in_their_own_steps() -> None:
    parts = (Decimal(name="p", low=1.0, high=9.99, decimals=2), Integer(name="q", low=2, high=9))
    law = law_of((*parts, Decimal(name="t", low=0.0, high=20.0, decimals=2)), (Sum(total="t", parts=("p", "q")),), 2)
    assert set(filled(law, {"q": 3, "t": 725}, 5)["p"].tolist()) == {125}
    assert set(filled(law, {"p": 25, "t": 625}, 5)["q"].tolist()) == {3}
    odd = filled(law, {"p": 25, "t": 630}, 5)
    assert (odd["t"] == 630).all()


@pytest.mark.statistical
def test_a_known_implied_column_restricts_what_implies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """alpha = 1e-9, n = 30,000: l and m imply True, by their own shares, without a row redrawn."""
    monkeypatch.setattr("tabveil.laws.PASSES", 0)
    land, capital = Categorical(name="land", categories=("k", "l", "m"), missing=("",)), Boolean(name="capital")
    rule = Implied(column="capital", given="land", mapping={"k": False, "l": True, "m": True})
    axis = Axis(land, np.arange(4), np.array([0, 1, 1, 2]), np.array([1.0, 1.0, 3.0, 1.0]))
    law = law_of((land, replace(capital, missing=("",))), (rule,), axes=(axis,))
    assert list(law.rules._schema.derived) == ["capital"]

    def check() -> None:
        codes = filled(law, {"capital": 1}, ROWS)
        assert (codes["capital"] == 1).all()
        assert fits(codes["land"], np.array([0.0, 1.0, 3.0]))

    check()
    assert not fits(filled(law, {"capital": 1}, ROWS)["land"], np.array([0.0, 1.1, 3.0]))
    assert set(filled(law, {"capital": 0}, 50)["land"].tolist()) == {0}
    assert set(filled(law, {"land": 2}, 50)["capital"].tolist()) == {1}
    mutant = Edit("tabveil.enforcing:Rules.implied", "known[name], INVALID", "INVALID, INVALID")
    with planted(mutant), pytest.raises(AssertionError):
        check()


def test_known_cells_that_break_a_rule_are_kept() -> None:
    for high in (12, 17):
        total = Integer(name="t", low=0, high=high, missing=("",))
        codes = filled(law_of((*TENS, total), (Sum(total="t", parts=("a", "b")),), 10), {"a": 9, "b": 9}, 5)
        assert (codes["a"] == 9).all()
        assert (codes["b"] == 9).all()
        assert (codes["t"] == high).all()
    chain = filled(law_of(ABC, CHAIN, 4), {"a": 90, "c": 10}, 5)
    assert (chain["a"] == 90).all()
    assert (chain["c"] == 10).all()


def test_a_rule_that_known_cells_break_does_not_cost_the_others() -> None:
    """1,000 rows: a > c is known, so b cannot fit; x <= y and x <= z, drawn by redraws, hold all the same."""
    branch = tuple(Integer(name=n, low=0, high=9) for n in "xyz")
    rules = (*CHAIN, Inequality(low="x", high="y"), Inequality(low="x", high="z"))
    law = law_of((*ABC, *branch), rules, 2)
    codes = filled(law, {"a": 90, "c": 10, "y": 0}, 1_000)
    assert set(codes["x"].tolist()) == {0}
    assert (codes["a"] == 90).all()
    assert (codes["c"] == 10).all()
