"""Numbers and names as shown: bounds never look better than they are, characters never act."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabveil.report._text import compact, number, percent, rounded_up, shortened, visible, width


@given(st.floats(min_value=1e-12, max_value=1e8), st.integers(min_value=2, max_value=9))
def test_a_bound_is_never_shown_below_itself_and_hardly_above(value: float, digits: int) -> None:
    shown = float(rounded_up(value, digits=digits).replace(",", ""))
    assert shown >= value * (1 - 1e-15)
    assert shown <= value * (1 + 10.0 ** (1 - digits)) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1, "1"),
        (0.99999997, "1"),
        (1.00000049, "1.00001"),
        (1e-5, "1e-5"),
        (1 / 300_000, "3.33334e-6"),
        (0.1, "0.1"),
        (0, "0"),
        (123456.789, "123,457"),
        (float("inf"), "∞"),
        ("inf", "∞"),
    ],
)
def test_bounds_by_hand(value: float, shown: str) -> None:
    assert rounded_up(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.04243, "0.0424"),
        (-0.5, "−0.5000"),
        (2.39134, "2.391"),
        (26049.0, "26,049"),
        (1433916.999, "1,433,917"),
        (0, "0"),
        (1e-9, "1.00e−09"),
        ("nan", "not defined"),
        ("-inf", "−∞"),
        (float("inf"), "∞"),
    ],
)
def test_figures_by_hand(value: float, shown: str) -> None:
    assert number(value) == shown


def test_shares_and_axis_numbers() -> None:
    assert [percent(s) for s in (0, 0.12345, 0.0012, 0.00001, 1)] == [
        "0.0 %",
        "12.3 %",
        "0.12 %",
        "< 0.01 %",
        "100.0 %",
    ]
    assert [compact(v) for v in (0.5, 1000, 20_000, 1.5e6, -3e9)] == ["0.5", "1,000", "20k", "1.5M", "−3G"]


@given(st.text())
def test_nothing_visible_acts(text: str) -> None:
    shown = visible(text)
    assert not any(ord(c) < 32 or c in "\u202a\u202b\u202d\u202e\u2066\u2067\u2069\u200e\u200f\x7f" for c in shown)
    shown.encode()


def test_characters_that_act_are_spelled_out() -> None:
    assert visible("a\u202eb\x00\n\ud800") == "a\\u202eb\\u0000\\n\\ud800"
    assert visible("👩\u200d👧 é שלום") == "👩\u200d👧 é שלום"


@given(st.text(), st.integers(min_value=1, max_value=30))
def test_shortened_texts_fit(text: str, columns: int) -> None:
    assert width(shortened(text, columns)) <= columns


def test_shortening_keeps_what_fits_and_marks_what_does_not() -> None:
    assert shortened("Married-civ", 11) == "Married-civ"
    assert shortened("Married-civ-spouse", 11) == "Married-ci…"
    assert shortened("🎉🎉🎉", 5) == "🎉🎉…"
