"""Encoding is a pure function of one row and the schema; decoding gives the published form back."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from tabveil.columns import Boolean, Categorical, Column, Date, Datetime, Decimal, Identifier, Integer
from tabveil.encoding import INVALID, Axis, conform, decode, encode, name_rows, parse, size
from tabveil.errors import DataError

SENTINEL = "Zyx-Sentinel-31415"
AGE = Integer(name="age", low=0, high=120)
PAY = Decimal(name="pay", low=-10.0, high=99.99, decimals=2, missing=("", "NA"))
COLOUR = Categorical(name="colour", categories=("red", "green, dark", "blå 🎈"))
CATCH = Categorical(name="catch", categories=("a", "b"), catch_all="other")
GAPPY = Categorical(name="gappy", categories=("a", "b"), missing=("",), invalid="missing")
FLAG = Boolean(name="flag", missing=("",), invalid="missing")
LETTERS = Boolean(name="letters", true=("Y",), false=("N",), missing=("",), invalid="missing")
CATCH_DIGITS = Categorical(name="digits", categories=("0", "1"), catch_all="other")
DAY = Date(name="day", low=dt.date(1900, 1, 1), high=dt.date(9999, 12, 31), missing=("",))
TIME = Datetime(name="time", low=dt.datetime(2020, 1, 1), high=dt.datetime(2020, 1, 2), resolution=60, missing=("",))


def codes(column: Column, *values: object, dtype: object = object) -> list[int]:
    return encode(column, pd.Series(list(values), dtype=dtype)).tolist()


def test_numbers_from_text_and_from_types() -> None:
    assert codes(AGE, "0", "37", "120") == [0, 37, 120]
    assert codes(AGE, 5, 6, dtype="int64") == [5, 6]
    assert codes(AGE, 5.0, 6.4, dtype="float64") == [5, 6]
    assert codes(AGE, 5, 6, dtype="Int64") == [5, 6]
    assert codes(PAY, "-10", "-9.99", "0.005", "99.99") == [0, 1, 1000, 10999]


def test_numbers_outside_their_bounds_are_clipped() -> None:
    assert codes(AGE, "-1", "121", "1e300", "-inf", "inf") == [0, 120, 120, 0, 120]


def test_missing_needs_to_be_declared() -> None:
    assert codes(PAY, "", "NA", None, np.nan) == [size(PAY)] * 4
    assert codes(PAY, "n/a", "twelve") == [size(PAY)] * 2  # clip: what is no number becomes missing
    with pytest.raises(DataError, match="'age'"):
        codes(AGE, None)
    with pytest.raises(DataError, match="'age'"):
        codes(AGE, "")


def test_refusing_numbers() -> None:
    strict = Integer(name="age", low=0, high=120, invalid="refuse", missing=("",))
    assert codes(strict, "5", "") == [5, 121]
    for bad in ("121", "-1", "x"):
        with pytest.raises(DataError, match="'age'"):
            codes(strict, bad)


def test_categories() -> None:
    assert codes(COLOUR, "red", "blå 🎈", "green, dark") == [0, 2, 1]
    assert codes(CATCH, "a", SENTINEL, None) == [0, 2, 2]
    assert codes(GAPPY, "b", SENTINEL, "", None) == [1, 2, 2, 2]
    assert encode(COLOUR, pd.Series(["red", "red"], dtype="category")).tolist() == [0, 0]


def test_numbers_may_be_categories() -> None:
    digits = Categorical(name="d", categories=("0", "1"))
    assert codes(digits, 0, 1, dtype="int64") == [0, 1]
    assert codes(digits, 0.0, 1.0, dtype="float64") == [0, 1]
    assert codes(digits, "1", "0") == [1, 0]


def test_refusal_names_the_column_and_never_the_value() -> None:
    with pytest.raises(DataError) as caught:
        codes(COLOUR, "red", SENTINEL)
    assert "'colour'" in str(caught.value)
    assert SENTINEL not in str(caught.value)
    assert caught.value.__cause__ is None


def test_booleans() -> None:
    assert codes(FLAG, "TRUE", "no", "1", "", "maybe") == [1, 0, 1, 2, 2]
    assert codes(FLAG, True, False, dtype="bool") == [1, 0]
    assert codes(FLAG, 1.0, 0.0, dtype="float64") == [1, 0]
    assert codes(FLAG, True, None, dtype="boolean") == [1, 2]
    assert codes(FLAG, True, None) == [1, 2]


def test_typed_booleans_need_no_texts() -> None:
    assert codes(LETTERS, True, False, None, dtype="boolean") == [1, 0, 2]
    assert codes(LETTERS, "y", "N", "") == [1, 0, 2]
    assert codes(LETTERS, True, "n", "x") == [1, 0, 2]


def test_dates_far_beyond_nanoseconds() -> None:
    assert codes(DAY, "1900-01-01", "1900-01-02", "9999-12-31") == [0, 1, DAY.units - 1]
    assert codes(DAY, "1899-12-31", "", "not a day", None) == [0, DAY.units, DAY.units, DAY.units]
    assert codes(DAY, dt.date(1900, 1, 3), None) == [2, DAY.units]
    assert codes(DAY, pd.Timestamp("1900-01-03 23:59"), dtype="datetime64[ns]") == [2]


def test_datetimes_by_resolution() -> None:
    assert codes(TIME, "2020-01-01 00:00:59", "2020-01-01 00:01:00", "2021-01-01 00:00:00") == [0, 1, TIME.units - 1]
    zoned = pd.Series(pd.to_datetime(["2020-01-01 01:00:00"]).tz_localize("Europe/Berlin"))
    assert encode(TIME, zoned).tolist() == [0]


@pytest.mark.parametrize("column", [AGE, PAY, COLOUR, CATCH, GAPPY, FLAG, DAY, TIME], ids=lambda c: c.name)
def test_decode_undoes_encode(column: Column) -> None:
    rng = np.random.default_rng(0)
    top = size(column) + column.nullable
    some = np.unique(np.append(rng.integers(0, top, 200), [0, top - 1]))
    values = decode(column, some)
    assert encode(column, values).tolist() == some.tolist()
    assert encode(column, conform([column], values.to_frame())[column.name]).tolist() == some.tolist()
    assert values.name == column.name


def test_decoded_types() -> None:
    kinds = {c.name: str(decode(c, np.array([0])).dtype) for c in (AGE, PAY, COLOUR, FLAG, DAY, TIME)}
    assert kinds == {
        "age": "int64", "pay": "float64", "colour": "object", "flag": "boolean", "day": "datetime64[s]",
        "time": "datetime64[s]",
    }  # fmt: skip
    assert str(decode(Integer(name="i", low=0, high=1, missing=("",)), np.array([0, 2])).dtype) == "Int64"


def test_decimals_are_exact_at_both_bounds() -> None:
    column = Decimal(name="x", low=0.1, high=0.7, decimals=1)
    assert decode(column, np.arange(7)).tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_an_added_row_changes_no_other_code() -> None:
    """Traps A1, A2: nothing is learned; an outlier and a new category leave the other rows alone."""
    base, more = pd.Series(["1", "2", "3"]), pd.Series(["1", "2", "3", "99999999"])
    assert parse(AGE, more)[0][:3].tolist() == parse(AGE, base)[0].tolist()
    assert parse(COLOUR, pd.Series(["red", SENTINEL]))[0].tolist() == [0, INVALID]


EXTRAS = [0.5, math.inf, 1e300, "x", None, True, 2**70, dt.date(1990, 1, 1), pd.Timestamp("1990-01-01"), "1"]
BASES = [[1.0, 0.0], [1, 0], ["1", "0"], [True, False], [dt.date(2000, 1, 1)] * 2, ["2000-01-01"] * 2]
BASES += [[pd.Timestamp("2000-01-01")] * 2, [1, True], [0.0, False]]


@pytest.mark.parametrize("extra", EXTRAS, ids=repr)
@pytest.mark.parametrize("column", [FLAG, LETTERS, CATCH_DIGITS, DAY, TIME, PAY], ids=lambda c: c.name)
def test_no_row_changes_another_rows_code(column: Column, extra: object) -> None:
    """Trap A2: one odd row may change the column's type, never the other rows' codes (sensitivity would be n)."""
    for base in BASES:
        for dtype in (None, object):
            alone = encode(column, pd.Series(base, dtype=dtype)).tolist()
            assert encode(column, pd.Series([*base, extra], dtype=dtype)).tolist()[:2] == alone
            assert encode(column, pd.Series([extra, *base], dtype=dtype)).tolist()[1:] == alone


def test_a_fraction_moves_no_other_category() -> None:
    """Trap A2, as it once was here: one 0.5 made a text of every number in its column, 1.0 instead of 1."""
    assert codes(CATCH_DIGITS, 1.0, 0.0, dtype="float64") == [1, 0]
    assert codes(CATCH_DIGITS, 1.0, 0.0, 0.5, dtype="float64") == [1, 0, 2]


ODD_CELLS = [
    *EXTRAS, "2000-01-01", "2020-01-01 05:00:00", "", "-1", "18446744073709551615", "1e400", "NaN", "\ud800", "🎈",
    1, 0, 1.0, -0.0, False, -1, 2**63, -(2**70), 10**400, float("-inf"), 1.5, 3 + 4j, decimal.Decimal("0.5"),
    dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, 3), dt.datetime(2020, 1, 1, 3, tzinfo=dt.UTC),
    pd.Timestamp("2020-01-01 05:00", tz="Asia/Tokyo"),
    np.datetime64("2020-05-01"), np.int64(3), np.float32(0.5), np.bool_(True), pd.NaT, pd.NA, b"x", (1, 2),
    dt.timedelta(1), Fraction(10**400, 3),
]  # fmt: skip
TOTAL = [FLAG, LETTERS, CATCH, CATCH_DIGITS, GAPPY, DAY, TIME, PAY]  # columns that refuse nothing


@pytest.mark.parametrize("column", TOTAL, ids=lambda c: c.name)
def test_every_cell_is_encoded_by_itself(column: Column) -> None:
    """Trap A2, for every pair of odd cells and for all together: the code of a cell alone is its code in company."""

    def several(cells: list[object], dtype: object) -> list[int]:
        return encode(column, pd.Series(cells, dtype=dtype)).tolist()

    alone = [several([cell], object)[0] for cell in ODD_CELLS]
    assert several(ODD_CELLS, object) == alone
    for i, first in enumerate(ODD_CELLS):
        for j, second in enumerate(ODD_CELLS):
            assert several([first, second], object) == [alone[i], alone[j]], (i, j)
    for dtype, cells in {
        "float64": [1.0, 0.0, 0.5, math.inf], "Float64": [1.0, 0.0, 0.5, None], "int64": [1, 0, -1],
        "bool": [True, False], "boolean": [True, None], "datetime64[s]": [pd.Timestamp("2020-01-01"), pd.NaT],
        "datetime64[ns]": [pd.Timestamp("2020-01-01"), pd.Timestamp("2020-01-01 05:00")],
        "string": ["1", "x", None], "category": ["1", "0", "x"],
    }.items():  # fmt: skip
        assert several(cells, dtype) == [several([c], dtype)[0] for c in cells], dtype


@pytest.mark.parametrize("dtype", [object, "string"])
def test_texts_that_differ_after_a_nul_are_different_cells(dtype: object) -> None:
    """Trap A2: pandas numbers texts as C strings, so that "true" and a NUL in one row would change "true" in all."""
    for odd, text in (("true\0x", "true"), ("tr\ud800", "tr\udfff"), ("a\0", "a"), ("1\0", "1")):
        for column in (FLAG, CATCH, CATCH_DIGITS, GAPPY):
            alone = codes(column, text, dtype=dtype) + codes(column, odd, dtype=dtype)
            assert codes(column, odd, text, dtype=dtype) == alone[::-1]
            assert codes(column, text, odd, dtype=dtype) == alone
            listed = pd.Categorical.from_codes([0, 1], categories=pd.Index([text, odd], dtype=object))
            assert encode(column, pd.Series(listed)).tolist() == alone


def test_identifiers_are_made_up() -> None:
    column = Identifier(name="id", pattern="P{n:03d}")
    assert name_rows(column, 2).tolist() == ["P001", "P002"]
    with pytest.raises(DataError, match="identifier"):
        encode(column, pd.Series(["x"]))


def test_input_is_left_alone() -> None:
    values = pd.Series(["5", "", None, "x"])
    before = values.copy(deep=True)
    encode(PAY, values)
    pd.testing.assert_series_equal(values, before)


class TestAxis:
    column = Integer(name="n", low=0, high=9, missing=("",))
    axis = Axis(column, np.array([0, 3, 4, 8]), np.array([0, 1, 0, 2]), np.array([1.0, 5.0, 3.0, 1.0]))

    def test_cells(self) -> None:
        assert self.axis.cells(np.array([0, 2, 3, 4, 7, 8, 9, 10])).tolist() == [0, 0, 1, 0, 0, -1, -1, 2]
        assert self.axis.size == 3

    def test_drawn_codes_lie_in_their_cell_with_their_weight(self) -> None:
        """alpha = 1e-9, n = 100,000: cell 0 is leaf [0, 3) with weight 1 and leaf [4, 8) with weight 3."""
        from scipy import stats

        rng = np.random.default_rng(0)
        cells = np.repeat([0, 1, 2], 100_000)
        drawn = self.axis.draw(cells, rng)
        assert (self.axis.cells(drawn) == cells).all()
        high = int((drawn[:100_000] >= 4).sum())
        assert stats.binomtest(high, 100_000, 0.75).pvalue > 1e-9
        assert stats.binomtest(high, 100_000, 0.75 * 0.9).pvalue < 1e-9
        counts = np.bincount(drawn[:100_000], minlength=8)[[4, 5, 6, 7]]
        assert stats.chisquare(counts).pvalue > 1e-9

    def test_weightless_cells_are_drawn_evenly(self) -> None:
        flat = Axis(self.column, np.array([0, 5, 10]), np.array([0, 0, 1]), np.zeros(3))
        drawn = flat.draw(np.zeros(10_000, dtype=np.int64), np.random.default_rng(0))
        assert set(np.unique(drawn)) == set(range(10))

    def test_merging(self) -> None:
        merged = self.axis.merged(np.array([0, 0, 1]))
        assert merged.cells(np.array([0, 3, 4, 10])).tolist() == [0, 0, 0, 1]
