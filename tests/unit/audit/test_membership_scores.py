"""The attacks' scores: distances, kernels and edits by hand or beside a slow oracle."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from tabveil.audit import _membership_scores as scores
from tabveil.audit._digits import digit_distance, levenshtein, written
from tabveil.audit._membership_scores import around, closest
from tabveil.columns import Boolean, Categorical, Date, Datetime, Decimal, Integer

COLUMNS = (
    *(Integer(name=f"x{i}", low=0, high=10**6) for i in range(4)),
    *(Categorical(name=f"c{i}", categories=tuple("abcdefgh")) for i in range(4)),
)


def test_distances_by_hand() -> None:
    columns = (
        Integer(name="n", low=0, high=10, missing=("",)),
        Categorical(name="c", categories=("a", "b", "c"), missing=("",), invalid="missing"),
        Boolean(name="b"),
        Date(name="d", low=dt.date(2020, 1, 1), high=dt.date(2020, 1, 11)),
    )
    # codes: numbers 0 to 10, 11 missing, 12 not allowed; categories 0 to 2, 3 missing; dates 0 to 10
    rows = tuple(np.array(c) for c in ([2, 11], [0, 3], [1, 0], [5, 0]))
    asked = tuple(np.array(c) for c in ([2, 7, 11, 12, 11], [0, 2, 0, 1, 3], [1, 1, 0, 0, 0], [5, 5, 5, 0, 3]))
    # to the first: 0 | .5 + 1 | 1 + 1 | 1 + 1 + 1 + .5 | 1 + 1 + 1 + .2; to the second: 2 + .5 + .. | .. | 1.5 | 2 | .3
    assert closest(columns, asked, rows) == pytest.approx([0, 1.5, 1.5, 2, 0.3])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    asked, rows = (tuple(rng.integers(0, 10**6 if isinstance(c, Integer) else 9, n) for c in COLUMNS) for n in (70, 90))
    gaps = [
        np.minimum(np.abs(a[:, None] - r) / 10**6, 1) if isinstance(c, Integer) else a[:, None] != r
        for c, a, r in zip(COLUMNS, asked, rows, strict=True)
    ]
    total = np.sum(gaps, axis=0)
    ours, theirs = (scores.scaled(COLUMNS, t) for t in (asked, rows))
    weights = rng.integers(1, 5, 90).astype(np.float32)
    for block in (scores.BLOCK, 333):
        monkeypatch.setattr(scores, "BLOCK", block)
        found = around(ours, theirs, k=5, radius=3.0, weights=weights)
        assert found.distance == pytest.approx(np.sort(total, axis=1)[:, :5], abs=1e-5)
        assert np.take_along_axis(total, found.index, axis=1) == pytest.approx(found.distance, abs=1e-5)
        assert found.within == pytest.approx((total <= 3) @ weights)
        width = scores.SHARPNESS * np.sort(total, axis=1)[:, :5].mean(axis=1)
        assert found.mass == pytest.approx(np.exp(-total / width[:, None]) @ weights, rel=1e-3)


def test_edits_beside_the_textbook() -> None:
    def slow(a: str, b: str) -> int:
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            before, row = row, [i]
            for j, y in enumerate(b, 1):
                row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
        return row[-1]

    rng = np.random.default_rng(1)
    patterns, texts = (
        np.array(["".join(rng.choice(list("012-"), rng.integers(0, 14))) for _ in range(n)] + ["7" * 64])
        for n in (60, 500)
    )
    which = rng.integers(0, 61, 501)
    expected = [slow(patterns[i], t) for i, t in zip(which, texts, strict=True)]
    assert levenshtein(patterns, texts, which).tolist() == expected


def test_values_are_written_as_digits() -> None:
    code = np.array([0, 12, 101, 102])  # the last two: missing, not allowed
    whole = Integer(name="n", low=-5, high=95, missing=("",))
    assert written(whole, code).tolist() == ["-5", "7", "", "?"]
    cents = Decimal(name="p", low=1.0, high=2.0, decimals=2, missing=("",))
    assert written(cents, code).tolist() == ["100", "112", "", "?"]
    days = Date(name="d", low=dt.date(2020, 1, 1), high=dt.date(2020, 4, 10), missing=("",))
    assert written(days, code).tolist() == ["2020-01-01", "2020-01-13", "", "?"]
    times = Datetime(name="t", low=dt.datetime(2020, 1, 1), high=dt.datetime(2020, 1, 1, 1, 40), resolution=60)
    assert written(times, code[:2]).tolist() == ["2020-01-0100:00:00", "2020-01-0100:12:00"]


def test_edits_by_column() -> None:
    number = Integer(name="n", low=0, high=9999)
    near = np.array([[1234, 234, 9999], [10, 1, 100]])
    assert digit_distance(number, np.array([1234, 10]), near).tolist() == [[0, 1, 4], [0, 1, 1]]
    label = Categorical(name="c", categories=("a", "b", "c"))
    assert digit_distance(label, np.array([0, 2]), np.array([[0, 1], [2, 3]])).tolist() == [[0, 1], [0, 1]]


def test_rare_values_and_lonely_rows_are_exposed() -> None:
    columns = (Integer(name="n", low=0, high=100), Categorical(name="c", categories=("a", "b")))
    reference = (np.r_[np.arange(20), 95], np.r_[np.zeros(20, dtype=np.int64), 1])
    asked = (np.array([3, 95, 60]), np.array([0, 1, 0]))
    material = scores.Material(columns, reference, np.ones(21, dtype=np.int64), reference, asked, 0)
    _, exposure = scores.scores(material)
    assert exposure["outliers"].argmax() == 1
    assert exposure["achilles"].argmin() == 0
    assert scores.scores(material)[0].keys() == {*scores.COPY_FINDERS, "domias", "monte_carlo", "gen_lra"} - {
        "ensemble"
    }
