"""Conditions, label shares and imputation under constraints: laws against brute force, and no rule or condition broken.

Every test of chance has alpha = 1e-9 and states its number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mutants.planting import Edit, planted
from tabveil.columns import Column, Integer
from tabveil.conditions import Conditions
from tabveil.constraints import Constraint, Inequality, Sum
from tabveil.encoding import Axis
from tabveil.enforcing import Rules
from tabveil.estimation import estimate
from tabveil.graphical_model import Factor, GraphicalModel, Measurement
from tabveil.laws import Law
from tabveil.schema import Schema

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
