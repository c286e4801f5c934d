"""Conditions, label shares and imputation under constraints: laws against brute force, and no rule or condition broken.

Every test of chance has alpha = 1e-9 and states its number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mutants.planting import Edit, planted
from tabveil.columns import Categorical, Column, Integer
from tabveil.conditions import Conditions
from tabveil.constraints import Constraint, Inequality, Sum
from tabveil.encoding import Axis
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
            planted(Edit("tabveil.enforcing:Ordered.factors", "sizes[n]", "axes[n].size")),
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

    def counts() -> list[int]:
        codes, _ = law.balanced(balance, 1_000, np.random.default_rng(0))
        assert law.rules.hold(codes).all()
        return np.bincount(codes["y"]).tolist()

    def check() -> None:
        monkeypatch.setattr("tabveil.enforcing.Group._redrawn", once)
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
