"""What `tabveil audit` prints of a finding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tabveil import _cli_audit
from tabveil.records import Finding

FOUND = Finding("a", "rows told apart (area): all", 0.6, (0.55, 0.65), 0.95, 0.5, 0.5, 0.9, "V.")


@pytest.mark.parametrize(
    ("low", "baseline", "ceiling", "guessing", "claim"),
    [
        (0.55, 0.5, 0.9, "a leak", "CLAIM BROKEN"),
        (0.45, 0.5, 0.9, "nothing", "nothing"),
        (0.45, 0.5, 0.5, "nothing: too few tries", "nothing: too few tries"),
        (0.0, 0.0, 0.0, "nothing: too few tries", "nothing: too few tries"),
    ],
)
def test_what_is_shown_beside_guessing_and_beside_a_claim(
    low: float, baseline: float, ceiling: float, guessing: str, claim: str
) -> None:
    found = replace(FOUND, interval=(low, math.inf), baseline=baseline, ceiling=ceiling)
    assert _cli_audit._shown(found) == guessing
    assert _cli_audit._shown(replace(found, baseline_of="claim")) == claim


def test_a_line_leaves_out_what_a_name_says_aside_but_not_what_is_bounded() -> None:
    bound = replace(FOUND, name="what one row changes (epsilon at delta 1e-06): all")
    lines = _cli_audit._findings([FOUND, bound]).split("\n")
    assert lines[1].startswith("a: rows told apart: all  ")
    assert lines[2].startswith("a: what one row changes (epsilon at delta 1e-06): all  ")
