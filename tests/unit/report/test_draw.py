"""Where things are drawn: inside the frame, in proportion, and in the right order."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabveil.report import _draw


def numeric(synthetic: list[float], edges: list[float] | None = None, **other: Any) -> dict[str, Any]:
    edges = edges or [float(i) for i in range(len(synthetic) + 1)]
    labels = [f"{a:g}" for a in edges[:-1]]
    base = {"column": "n", "kind": "integer", "labels": labels, "real": [], "holdout": [], "edges": edges}
    return {**base, "synthetic": synthetic, **other}


def categorical(synthetic: list[float], **other: Any) -> dict[str, Any]:
    labels = [f"c{i}" for i in range(len(synthetic))]
    base = {"column": "c", "kind": "categorical", "labels": labels, "real": [], "holdout": [], "edges": []}
    return {**base, "synthetic": synthetic, **other}


shares = st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=40)


@given(shares, st.floats(min_value=-1e9, max_value=1e9), st.floats(min_value=1e-3, max_value=1e9))
def test_steps_stay_in_their_frame(values: list[float], low: float, step: float) -> None:
    made = _draw.chart(numeric(values, [low + i * step for i in range(len(values) + 1)]))
    frame = made["frame"]
    heights = [float(v) for v in re.findall(r"V([\d.]+)", made["paths"]["synthetic"])]
    assert all(frame["top"] - 0.1 <= h <= frame["bottom"] + 0.1 for h in heights)
    assert all(frame["left"] - 0.1 <= t["x"] <= frame["right"] + 0.1 for t in made["ticks"])
    assert made["bins"][0]["x"] == frame["left"]
    assert len(made["bins"]) == len(values)


def test_step_heights_are_in_proportion() -> None:
    made = _draw.chart(numeric([0.5, 0.25, 0.0]))
    heights = [float(v) for v in re.findall(r"V([\d.]+)", made["paths"]["synthetic"])]
    bottom = made["frame"]["bottom"]
    assert bottom - heights[0] == pytest.approx(2 * (bottom - heights[1]))
    assert heights[2] == bottom
    assert [level["text"] for level in made["levels"]] == ["0 %", "25 %", "50 %"]


def test_bins_of_unequal_width_are_drawn_equally_wide_and_say_so() -> None:
    made = _draw.chart(numeric([0.9, 0.05, 0.05], [0, 1, 100, 100_000]))
    assert not made["even"]
    widths = [b["width"] for b in made["bins"]]
    assert max(widths) - min(widths) <= 0.2
    assert _draw.chart(numeric([0.9, 0.1], [0, 1, 2]))["even"]


def test_ticks_are_round_numbers_or_dates() -> None:
    ticks = [t["text"] for t in _draw.chart(numeric([1.0], [16.5, 90.5]))["ticks"]]
    assert ticks == ["20", "40", "60", "80"]
    year = 365.25 * 86_400
    ticks = [t["text"] for t in _draw.chart(numeric([1.0], [0, 40 * year], kind="date"))["ticks"]]
    assert ticks == ["1972", "1984", "1996", "2007"]
    ticks = [t["text"] for t in _draw.chart(numeric([1.0], [0, 86_400], kind="datetime"))["ticks"]]
    assert ticks[0] == "01:26"
    assert _draw.chart(numeric([1.0], [0, 1e15], kind="date"))["ticks"][-1]["text"] == ""


def test_bars_are_in_proportion_across_series() -> None:
    made = _draw.chart(categorical([0.5, 0.25], real=[1.0, 0.0], holdout=[]))
    lengths = [row["lengths"] for row in made["rows"]]
    assert lengths[0]["real"] == pytest.approx(2 * lengths[0]["synthetic"], abs=0.2)
    assert lengths[1]["real"] == 0
    assert made["rows"][0]["text"] == "c0: synthetic 50.0 %, train 100.0 %"
    assert all(row["y"] + made["pitch"] <= made["height"] for row in made["rows"])


def test_a_series_of_another_length_is_not_drawn() -> None:
    made = _draw.chart(categorical([0.5, 0.5], real=[1.0]))
    assert set(made["rows"][0]["lengths"]) == {"synthetic"}


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.0]])
def test_no_rows_draw_nothing(values: list[float]) -> None:
    assert _draw.chart(categorical(values))["summary"] == "No rows."
    assert _draw.chart(numeric(values))["summary"] == "No rows."


def test_distance_counts_what_is_in_no_bar() -> None:
    assert _draw.distance(numeric([0.5, 0.5], real=[0.25, 0.75]), "real") == pytest.approx(0.25)
    assert _draw.distance(numeric([0.5, 0.0], real=[0.5, 0.5]), "real") == pytest.approx(0.5)
    assert _draw.distance(numeric([0.5, 0.5]), "real") is None


def score(goal: str, value: object, **references: object) -> dict[str, Any]:
    return {"goal": goal, "value": value, "low": 0.0, "high": 1.0, "references": references}


def test_better_is_to_the_right_whichever_way_is_better() -> None:
    low = _draw.scale(score("min", 0.2, independent=0.4, real=0.1))
    high = _draw.scale(score("max", 0.8, independent=0.5, real=0.9))
    for made in (low, high):
        assert made is not None
        places = made["places"]
        assert 0 == places["independent"] < places["synthetic"] < places["real"] <= 1
    assert low is not None
    assert low["places"]["real"] == 0.75  # 0 would be perfect, and is the right end
    assert high is not None
    assert high["places"]["synthetic"] == 0.75


def test_a_scale_needs_two_numbers() -> None:
    assert _draw.scale(score("max", 0.5)) is None
    assert _draw.scale(score("max", "nan", real=0.5)) is None
    assert _draw.scale(score("max", 0.5, real="inf")) is None
    assert _draw.scale(score("max", 0.5, real=0.5)) is not None
