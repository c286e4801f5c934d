"""Every registered generator against every check: a new file in generators/ is tested by being there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tabveil.conformance import (
    GENERATOR_CHECKS,
    check_charges_before_reading,
    check_constraints,
    check_edge_tables,
    check_learns_from_charged_answers_only,
    check_not_private_is_said,
    check_refused_charge_leaves_rows_unread,
    check_save_and_load,
    check_sentinel_is_nowhere,
    check_tiny_epsilon_says_nothing,
    check_undeclared_category_never_appears,
    check_values_outside_bounds_are_clipped,
)
from tabveil.errors import MissingDependencyError
from tabveil.generators import generators

SLOW = {"pretrained_lm"}
"""Generators that pass all checks by night, and by day those that show a broken promise soonest."""

BY_NIGHT = {
    ("tvae", check_tiny_epsilon_says_nothing),
    ("tabular_lm", check_tiny_epsilon_says_nothing),
    ("auto", check_tiny_epsilon_says_nothing),
    ("auto", check_edge_tables),
    ("auto", check_not_private_is_said),
    ("auto", check_undeclared_category_never_appears),
    ("auto", check_values_outside_bounds_are_clipped),
}
"""tvae and tabular_lm: forty trainings each, of a loop that ctgan's forty by day share with them. auto: it only chooses
among generators that pass these by day.
"""

BY_DAY = {
    check_charges_before_reading,
    check_refused_charge_leaves_rows_unread,
    check_constraints,
    check_save_and_load,
    check_learns_from_charged_answers_only,
    check_sentinel_is_nowhere,
}


def _late(name: str, check: Callable[[str], None]) -> bool:
    return (name in SLOW and check not in BY_DAY) or (name, check) in BY_NIGHT


def _cases() -> list[Any]:
    pairs = [(name, check) for name in generators.names() for check in GENERATOR_CHECKS]
    late = [[pytest.mark.nightly] if _late(name, check) else [] for name, check in pairs]
    ids = [f"{name}-{check.__name__.removeprefix('check_')}" for name, check in pairs]
    return [pytest.param(*pair, marks=marks, id=i) for pair, marks, i in zip(pairs, late, ids, strict=True)]


@pytest.mark.parametrize(("name", "check"), _cases())
def test_generator(name: str, check: Callable[[str], None]) -> None:
    try:
        generators.get(name)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    check(name)
