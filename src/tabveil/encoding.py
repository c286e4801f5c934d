"""Table <-> codes: a pure function of declared columns and of charged histograms.

A *code* is a column's own numbering of its values: the label's index (categorical, boolean) or the step number from
the low bound (integer, decimal, date, datetime). One more code, `size(column)`, means missing. An `Axis` then cuts a
column's codes into *cells*, the coarse domain a model works on, by way of *leaves*, the finest pieces any charged
histogram knows.

Privacy: nothing is learned here. Encoding a row looks at that row and at public column definitions only, so adding or
removing one row changes one row of codes (traps A1, A2). What an `Axis` knows about the data it got from charged
counts.
"""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, singledispatch
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tabveil._alias import Alias
from tabveil.columns import (
    FARTHEST,
    Boolean,
    Categorical,
    Column,
    Date,
    Datetime,
    Decimal,
    Discrete,
    Grid,
    Identifier,
    Integer,
)
from tabveil.errors import DataError

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]

INVALID = -1
"""The code of a value that its column does not allow."""


def size(column: Column) -> int:
    """Number of values `column` can show, missing not counted; also the code that means missing."""
    if isinstance(column, Discrete):
        return len(column.labels)
    if isinstance(column, Grid):
        return column.units
    raise DataError(f"Column {column.name!r} is an identifier: it is never encoded.")


def encode(column: Column, values: pd.Series) -> Codes:
    """Codes of `values`, shape (rows,), with the column's rule for invalid values applied.

    Args:
      column: any learned column.
      values: raw text or typed values.

    Raises:
      DataError: a value is invalid and the column says to refuse it.

    Privacy: row by row, from public definitions; the error names the column and the rule, never a value.
    """
    codes, bad = parse(column, values)
    if not bad.any():
        return codes
    if isinstance(column, Categorical) and column.catch_all is not None:
        replacement = len(column.categories)
    elif column.nullable and column.invalid in ("missing", "clip"):
        replacement = size(column)
    else:
        raise DataError(refusal(column))
    codes[bad] = replacement
    return codes


def encode_present(column: Column, values: pd.Series) -> Codes:
    """Codes as `encode` gives them, and `size(column)` for cells that hold nothing, also in a column that is never
    missing: those are to be filled.

    None, NaN, NaT, declared missing texts, and empty texts that are no value of the column hold nothing.
    """
    texts = values.dtype == object or isinstance(values.dtype, pd.StringDtype | pd.CategoricalDtype)
    empty = _missing(column, values)
    if texts and not (isinstance(column, Discrete) and "" in column.labels):
        empty = empty | np.asarray(values.isin([""]), dtype=bool)
    codes = np.full(len(values), size(column), dtype=np.int64)
    codes[~empty] = encode(column, values[~empty])
    return codes


def refusal(column: Column) -> str:
    """The sentence for a column that met a value it refuses."""
    if isinstance(column, Discrete):
        fix = "name a 'catch_all', list the value, or declare 'missing' texts and 'invalid: missing'"
        return f"Column {column.name!r} holds a value that its schema does not list: {fix}."
    fix = "declare which texts mean missing ('missing'), widen the bounds, or use 'invalid: clip'"
    return f"Column {column.name!r} holds a value that is missing, no {column.kind}, or outside its bounds: {fix}."


def parse(column: Column, values: pd.Series) -> tuple[Codes, NDArray[np.bool_]]:
    """Codes with out-of-bounds numbers clipped, and a mask of the rows whose value is invalid (their code is
    INVALID).

    A number outside its bounds counts as invalid unless the column says `clip`.
    """
    column.require_known()
    if isinstance(values.dtype, pd.CategoricalDtype):
        return _parse_listed(column, values)
    null = _missing(column, values)
    codes = _codes(column, values)
    codes[null] = size(column) if column.nullable else INVALID
    return codes, codes == INVALID


def _parse_listed(column: Column, values: pd.Series) -> tuple[Codes, NDArray[np.bool_]]:
    """`parse` of values given by a list and positions in it: every listed value is parsed once, by itself."""
    listed = pd.Series([*values.cat.categories.astype(object), None], dtype=object)
    codes, bad = parse(column, listed)
    at = values.cat.codes.to_numpy()  # -1, missing, is the last of the list
    return codes[at], bad[at]


def _missing(column: Column, values: pd.Series) -> NDArray[np.bool_]:
    null = np.asarray(values.isna(), dtype=bool)
    if column.missing and (values.dtype == object or isinstance(values.dtype, pd.StringDtype)):
        null = null | np.asarray(values.isin(column.missing), dtype=bool)
    return null


def texts_of(values: pd.Series) -> pd.Series:
    """Values as text, each by itself: 1 and 1.0 are both "1". Missing cells stay missing."""
    texts = values.dtype == object and pd.api.types.infer_dtype(values, skipna=True) == "string"
    return values if texts else _each(values, _text)


def _each(values: pd.Series, function: Callable[[Any], Any]) -> pd.Series:
    """`function` of each cell by itself: what another row holds, and so the column's type, changes nothing (trap A2).

    Equal values of one type are mapped once; only cells of mixed types are looked at one by one.
    """
    mixed = values.dtype == object and pd.api.types.infer_dtype(values, skipna=True) not in ("string", "empty")
    if mixed:
        return values.map(function, na_action="ignore")
    texts = values.dtype == object or isinstance(values.dtype, pd.StringDtype)
    numbers, different = numbered(values.to_numpy(dtype=object, na_value=None)) if texts else pd.factorize(values)
    mapped = np.array([*map(function, different.astype(object)), None], dtype=object)
    return pd.Series(mapped[numbers], index=values.index)


def numbered(cells: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """A number for every different cell, -1 for a missing one, and the different cells: `pd.factorize`, exact for text.

    Privacy: pandas takes an array of nothing but texts for C strings, which end at a NUL, and half characters for one
      another: "true" with a NUL after it, in one row, would decide what "true" is in all (trap A2), and two persons
      could be one (A17). A missing cell at the end makes pandas compare the texts themselves.
    """
    if cells.dtype == object:
        cells = np.concatenate([cells, np.array([None], dtype=object)])
        numbers, different = pd.factorize(cells)
        return np.asarray(numbers)[:-1], np.asarray(different)
    numbers, different = pd.factorize(cells)
    return np.asarray(numbers), np.asarray(different)


def _text(value: object) -> str:
    """Whole numbers lose a trailing .0, since 1 and 1.0 are the same category; truth values are in lower case."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


@singledispatch
def _codes(column: Column, values: pd.Series) -> Codes:
    """Codes of `values`, INVALID where the column does not allow them; missing cells are the caller's business."""
    raise DataError(f"Column {column.name!r} is of kind {column.kind!r}: it is never encoded.")


@_codes.register
def _(column: Categorical, values: pd.Series) -> Codes:
    index = pd.Index(column.labels, dtype=object)
    return np.asarray(index.get_indexer(pd.Index(texts_of(values), dtype=object)), dtype=np.int64)


@_codes.register
def _(column: Boolean, values: pd.Series) -> Codes:
    table = {t.lower(): 1 for t in column.true} | {t.lower(): 0 for t in column.false}

    def truth(value: object) -> int:
        return int(value) if isinstance(value, bool | np.bool_) else table.get(_text(value).lower(), INVALID)

    found = _each(values, truth)
    codes = np.full(len(values), INVALID, dtype=np.int64)
    known = np.asarray(found.notna())
    codes[known] = found[known].astype(np.int64)
    return codes


@_codes.register
def _(column: Integer, values: pd.Series) -> Codes:
    return _to_grid(column, np.round(_numbers(values)) - column.low)


@_codes.register
def _(column: Decimal, values: pd.Series) -> Codes:
    scale = 10**column.decimals
    return _to_grid(column, np.round(_numbers(values) * scale) - round(column.low * scale))


@_codes.register
def _(column: Date, values: pd.Series) -> Codes:
    return _to_grid(column, np.floor((_seconds(values, column.format) - _stamp(column.low)) / 86_400))


@_codes.register
def _(column: Datetime, values: pd.Series) -> Codes:
    return _to_grid(column, np.floor((_seconds(values, column.format) - _stamp(column.low)) / column.resolution))


def _numbers(values: pd.Series) -> Floats:
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_complex_dtype(values.dtype):
        return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
    return _by_type(values, _numbers_of_texts, _number)


def _numbers_of_texts(texts: pd.Series) -> Floats:
    return np.asarray(pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))


def _number(value: object) -> float:
    """A number's value, infinite beyond the range of a double; NaN for what is no number."""
    if not isinstance(value, numbers.Real | decimal.Decimal | np.bool_):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # only whole numbers and fractions are that large
        return math.inf if isinstance(value, int | fractions.Fraction) and value > 0 else -math.inf


def _by_type(values: pd.Series, of_texts: Callable[[pd.Series], Floats], of_other: Callable[[Any], float]) -> Floats:
    """Texts together, anything else cell by cell, missing cells NaN: no type is inferred from other rows (trap A2)."""
    cells = values.astype(object)
    found = np.full(len(cells), np.nan)
    missing = np.asarray(cells.isna(), dtype=bool)
    if pd.api.types.infer_dtype(cells, skipna=True) in ("string", "empty"):
        text = ~missing
    else:
        text = np.fromiter((isinstance(v, str) for v in cells), dtype=bool, count=len(cells))
    if text.any():
        found[text] = of_texts(cells[text])
    other = ~text & ~missing
    found[other] = [of_other(v) for v in cells[other]]
    return found


ORIGIN = dt.datetime(2000, 1, 1)
"""Where the public grid of dates begins on which bounds are learned; that of numbers begins at 0."""


LONGEST_TEXT = 1_000
"""Most characters of a text that can become a category: a longer one is the catch-all, row by row."""


def given(column: Column, values: pd.Series) -> NDArray[np.bool_]:
    """Which of `values`, shape (rows,), a column that is still to be learned can read: text, a number or a date."""
    null = _missing(column, values)
    if isinstance(column, Integer | Decimal):
        return ~null & ~np.isnan(_numbers(values))
    if isinstance(column, Date | Datetime):
        return ~null & ~np.isnan(_seconds(values, column.format))
    return ~null


def digits_needed(column: Decimal, values: pd.Series, most: int) -> Codes:
    """The fewest digits after the point that write each value, from 0 to `most`, shape (rows,); -1 where there is
    none.
    """
    found = np.where(given(column, values), _numbers(values), np.nan)
    found = np.where(np.isfinite(found), found, np.nan)
    needed = np.full(len(found), most, dtype=np.int64)
    for digits in range(most - 1, -1, -1):
        scaled = found * 10**digits
        needed[np.abs(scaled - np.round(scaled)) <= 1e-9 + 4 * np.spacing(np.abs(scaled))] = digits
    needed[np.isnan(found)] = -1
    return needed


def positions(column: Grid, values: pd.Series) -> Floats:
    """Steps of `values` from the public origin, shape (rows,), NaN where there is no value; `decimals` must be known.

    Privacy: row by row, from public definitions: no other row moves a position.
    """
    if isinstance(column, Date | Datetime):
        origin, step = _origin(column)
        steps = np.floor((_seconds(values, column.format) - origin) / step)
    else:
        steps = np.round(_numbers(values) * (10**column.decimals if isinstance(column, Decimal) else 1))
    return np.where(given(column, values), np.clip(steps, -FARTHEST, FARTHEST), np.nan)


def position(column: Grid, bound: Any) -> int:
    """Steps of one bound from the public origin."""
    if isinstance(column, Integer | Decimal):
        return round(bound * 10**column.decimals) if isinstance(column, Decimal) else int(bound)
    origin, step = _origin(column)
    return (_stamp(bound) - origin) // step


def bound_at(column: Grid, step: int) -> Any:
    """The bound that lies `step` steps from the public origin: undoes `position`."""
    if isinstance(column, Integer):
        return step
    if isinstance(column, Decimal):
        return round(step / 10**column.decimals, column.decimals)
    origin, seconds = _origin(column)
    moment = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=origin + step * seconds)
    return moment if isinstance(column, Datetime) else moment.date()


def _origin(column: Grid) -> tuple[int, int]:
    """Seconds from 1970 to the origin of a date column's grid, and seconds of a step; a declared low bound is a
    step.
    """
    if isinstance(column, Datetime):
        return _stamp(ORIGIN if column.low is None else column.low), column.resolution
    return _stamp(ORIGIN), 86_400


def texts_to_learn(column: Categorical, values: pd.Series) -> pd.Series:
    """The values, as text, that may become categories: those that are neither missing nor the catch-all, nor read like
    them (the number 9 where "9" means missing), and no longer than LONGEST_TEXT.
    """
    texts = texts_of(values[given(column, values)])
    return texts[~texts.isin([*column.missing, column.catch_all]) & (texts.str.len() <= LONGEST_TEXT)]


def _to_grid(column: Grid, steps: Floats) -> Codes:
    """Step numbers as codes: not-a-number is invalid, outside the grid is clipped or invalid as the column says."""
    top = column.units - 1
    bad = np.isnan(steps)
    if column.invalid != "clip":
        bad |= (steps < 0) | (steps > top)
    codes = np.clip(np.where(bad, 0.0, steps), 0, top).astype(np.int64)
    codes[bad] = INVALID
    return codes


def second_zero(column: Date | Datetime) -> int:
    """Seconds from 1970 to the column's first value."""
    return _stamp(column.low)


def _stamp(moment: dt.date | dt.datetime) -> int:
    return int(np.datetime64(moment, "s").astype(np.int64))


def _seconds(values: pd.Series, pattern: str) -> Floats:
    """Seconds since 1970, NaN where `values` holds no date; years 1 to 9999, which nanoseconds would not hold."""
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        zoned = getattr(values.dt, "tz", None) is not None
        return _since_1970((values.dt.tz_convert(None) if zoned else values).to_numpy())
    return _by_type(values, lambda texts: _seconds_of_texts(texts, pattern), _moment)


def _since_1970(stamps: NDArray[Any]) -> Floats:
    seconds = stamps.astype("datetime64[s]")
    return np.where(np.isnat(seconds), np.nan, seconds.astype(np.int64).astype(np.float64))


def _seconds_of_texts(texts: pd.Series, pattern: str) -> Floats:
    if "%f" in pattern:
        return _since_1970(np.asarray(pd.to_datetime(texts, format=pattern, errors="coerce"), dtype="datetime64[s]"))
    try:
        array = pa.array(texts, type=pa.large_string())
    except UnicodeError:  # half a character: such a cell is no date, and its text must not end up in an error
        array = pa.array([t.encode(errors="replace").decode() for t in texts], type=pa.large_string())
    parsed = pc.strptime(array, format=pattern, unit="s", error_is_null=True)
    return _since_1970(parsed.to_numpy(zero_copy_only=False))


def _moment(value: object) -> float:
    """Seconds since 1970 of one date or point in time (in UTC, where it has a zone); NaN for anything else."""
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        value = value.astimezone(dt.UTC).replace(tzinfo=None)
    if isinstance(value, dt.date):
        return float(np.datetime64(value.isoformat()).astype("datetime64[s]").astype(np.int64))
    if isinstance(value, np.datetime64):
        return float(value.astype("datetime64[s]").astype(np.int64))
    return math.nan


@singledispatch
def decode(column: Column, codes: Codes) -> pd.Series:
    """Values of `codes` in the published form: text, "boolean", int64 (Int64 where a cell may be missing), float64
    rounded to the column's decimals, datetime64[s].

    Args:
      column: any learned column.
      codes: shape (rows,), 0 to size(column), the latter meaning missing.
    """
    raise DataError(f"Column {column.name!r} is of kind {column.kind!r}: it is never decoded.")


@decode.register
def _(column: Categorical, codes: Codes) -> pd.Series:
    values = np.array([*column.labels, None], dtype=object)
    return pd.Series(values[codes], name=column.name, dtype=object)


@decode.register
def _(column: Boolean, codes: Codes) -> pd.Series:
    return pd.Series(pd.arrays.BooleanArray(codes == 1, codes == 2), name=column.name)


@decode.register
def _(column: Integer, codes: Codes) -> pd.Series:
    values = codes + column.low
    if not column.nullable:
        return pd.Series(values, name=column.name)
    return pd.Series(pd.arrays.IntegerArray(values, codes == column.units), name=column.name)


@decode.register
def _(column: Decimal, codes: Codes) -> pd.Series:
    scale = 10**column.decimals
    values = np.round((codes + round(column.low * scale)) / scale, column.decimals)
    values[codes == column.units] = np.nan
    return pd.Series(np.clip(values, column.low, column.high), name=column.name)


@decode.register
def _(column: Date, codes: Codes) -> pd.Series:
    return _decode_stamps(column, _stamp(column.low) + codes * 86_400, codes)


@decode.register
def _(column: Datetime, codes: Codes) -> pd.Series:
    return _decode_stamps(column, _stamp(column.low) + codes * column.resolution, codes)


def _decode_stamps(column: Grid, seconds: Codes, codes: Codes) -> pd.Series:
    stamps = seconds.astype("datetime64[s]")
    stamps[codes == column.units] = np.datetime64("NaT")
    return pd.Series(stamps, name=column.name)


def name_rows(column: Identifier, rows: int, *, first: int = 1) -> pd.Series:
    """Made-up names for `rows` synthetic rows, numbered from `first`: they say nothing about any real row."""
    numbered = range(first, first + rows)
    return pd.Series([column.pattern.format(n=n) for n in numbered], name=column.name, dtype=object)


def conform(columns: Sequence[Column], frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` in the published form, column by column in schema order, invalid values treated as each column says.

    Identifiers are carried over as text. Raises DataError as `encode` does.
    """
    parts = [
        frame[c.name].astype("string").astype(object).reset_index(drop=True)
        if isinstance(c, Identifier)
        else decode(c, encode(c, frame[c.name]))
        for c in columns
    ]
    return pd.concat(parts, axis=1) if parts else pd.DataFrame(index=range(len(frame)))


@dataclass(frozen=True, eq=False)
class CodeSet:
    """Some codes of one column: what a condition allows.

    Attributes:
      starts, stops: shape (ranges,), rising; range i holds the codes starts[i] to stops[i] - 1, no two ranges touch.
      missing: whether missing is among them.
    """

    starts: Codes
    stops: Codes
    missing: bool = False

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]], *, missing: bool = False) -> CodeSet:
        """The union of the codes start to stop - 1 of all `ranges`, in any order; empty ranges add nothing."""
        joined: list[list[int]] = []
        for start, stop in sorted((a, b) for a, b in ranges if a < b):
            if joined and start <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], stop)
            else:
                joined.append([start, stop])
        bounds = np.array(joined, dtype=np.int64).reshape(-1, 2)
        return cls(bounds[:, 0], bounds[:, 1], missing)

    def __bool__(self) -> bool:
        """Whether any code is in it."""
        return self.missing or len(self.starts) > 0

    def holds(self, column: Column, codes: Codes) -> NDArray[np.bool_]:
        """Which of `codes`, shape (rows,), are in it."""
        missing = codes == size(column)
        return np.where(missing, self.missing, self._within(codes))

    def _within(self, codes: Codes) -> NDArray[np.bool_]:
        i = np.searchsorted(self.starts, codes, side="right") - 1
        return (i >= 0) & (codes < np.append(self.stops, -1)[i])


@dataclass(frozen=True, eq=False)
class Axis:
    """One column's codes cut into cells.

    Attributes:
      column: what is cut.
      edges: shape (leaves + 1,), rising codes: leaf i holds the codes edges[i] to edges[i + 1] - 1. Missing, where
        the column may be missing, is one leaf more, the last. Covers all codes from edges[0] to edges[-1] - 1; others
        are in no leaf.
      cell: shape (leaves,), the cell of each leaf, or -1 for a leaf that is not counted.
      weight: shape (leaves,), how likely each leaf is within its cell, up to a factor; >= 0. Within a leaf codes are
        even.
    """

    column: Column
    edges: NDArray[np.int64]
    cell: NDArray[np.int64]
    weight: Floats

    @classmethod
    def singles(cls, column: Column) -> Axis:
        """Every code its own cell, missing the last one: for columns with few values."""
        values = size(column)
        leaves = values + column.nullable
        return cls(column, np.arange(values + 1), np.arange(leaves), np.ones(leaves))

    @cached_property
    def size(self) -> int:
        """Number of cells."""
        return int(self.cell.max(initial=-1)) + 1

    @property
    def leaves(self) -> int:
        """Number of leaves, the missing one counted."""
        return len(self.cell)

    def cells(self, codes: Codes) -> Codes:
        """Cell of each code, shape (rows,); -1 for a code in no counted leaf."""
        leaf = np.searchsorted(self.edges, codes, side="right") - 1
        inside = (leaf >= 0) & (codes < self.edges[-1])
        if self.column.nullable:
            missing = codes == size(self.column)
            leaf, inside = np.where(missing, self.leaves - 1, leaf), inside | missing
        return np.where(inside, self.cell[np.where(inside, leaf, 0)], -1)

    def merged(self, groups: NDArray[np.int64]) -> Axis:
        """The axis with cell c renamed groups[c], so that cells of one group become one cell."""
        return Axis(self.column, self.edges, groups[self.cell], self.weight)

    @cached_property
    def shares(self) -> Floats:
        """Probability of each leaf given its cell, shape (leaves,); where a cell's weights are all 0, its leaves are
        even; 0 for leaves that are not counted.
        """
        counted = self.cell >= 0
        cell = np.where(counted, self.cell, 0)
        total = np.bincount(cell[counted], self.weight[counted], minlength=self.size)
        leaves = np.bincount(cell[counted], minlength=self.size)
        if not counted.any():
            return np.zeros(self.leaves)
        even = total[cell] <= 0
        parts = np.where(even, 1.0, self.weight) / np.where(even, np.maximum(leaves, 1)[cell], total[cell])
        return np.where(counted, parts, 0.0)

    def restricted(self, allowed: CodeSet) -> tuple[Axis, Floats]:
        """The axis with its leaves cut down to `allowed`, and how likely each cell is to show an allowed code.

        Returns:
          An axis with the same cells, whose `draw` gives allowed codes only, with the law of `draw` given that; a cell
          without an allowed code has no leaf. And P(allowed | cell), shape (cells of this axis,): the evidence that
          conditions a model over the cells (`GraphicalModel.conditioned`).
        """
        cuts = np.concatenate([allowed.starts, allowed.stops])
        edges = np.union1d(self.edges, cuts[(cuts > self.edges[0]) & (cuts < self.edges[-1])])
        old = np.searchsorted(self.edges, edges[:-1], side="right") - 1
        share = self.shares[old] * (np.diff(edges) / np.diff(self.edges)[old])
        kept = allowed._within(edges[:-1])
        if self.column.nullable:
            old, share = np.append(old, self.leaves - 1), np.append(share, self.shares[-1])
            kept = np.append(kept, allowed.missing)
        cell = np.where(kept, self.cell[old], -1)
        left = cell >= 0
        evidence = np.bincount(cell[left], share[left], minlength=self.size).astype(np.float64)
        weight = share / np.where(evidence > 0, evidence, 1.0)[cell]  # of one scale, rare ones keep their digits
        return Axis(self.column, edges, cell, weight), evidence

    def draw(self, cells: Codes, rng: np.random.Generator) -> Codes:
        """Codes drawn for `cells`, shape (rows,): a leaf by weight, then evenly within the leaf."""
        alias, starts, widths = self._table
        leaf = alias.draw(cells, rng)
        codes = starts[leaf]
        if (widths > 1).any():
            width = widths[leaf]
            wide = np.flatnonzero(width > 1)
            codes[wide] += rng.integers(0, width[wide])
        return codes

    @cached_property
    def _table(self) -> tuple[Alias, NDArray[np.int64], NDArray[np.int64]]:
        """Of leaves sorted by cell: how they are drawn, their first code, and their number of codes."""
        order = np.argsort(self.cell, kind="stable")
        order = order[np.searchsorted(self.cell[order], 0) :]
        ends = np.searchsorted(self.cell[order], np.arange(self.size + 1))
        starts, widths = np.append(self.edges[:-1], size(self.column)), np.append(np.diff(self.edges), 1)
        return Alias.of(self.shares[order], ends), starts[order], widths[order]
