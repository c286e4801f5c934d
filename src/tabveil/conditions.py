"""What a user asks of synthetic rows: values, sets and ranges per column, and shares of a label.

    where = {"age": (40, None), "sex": "F", "state": {"CA", "NY"}, "income": None}

A condition becomes the set of codes that it allows in its column: single values, lists or sets of them, ranges as
2-tuples with both ends included and None for an open end, None (or NaN, or a declared missing text) for missing.
Missing is in no range. A value must be one that the column can show: nothing is rounded or clipped into another one.

Privacy: looks at what the user asks and at public columns, never at a row. Messages name the column and what the schema
says it may hold (of a draft, which was read from rows, only its kind), never what was asked for.
"""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import pandas as pd

from tabveil.columns import Boolean, Categorical, Column, Date, Datetime, Decimal, Discrete, Grid, Identifier, Integer
from tabveil.encoding import CodeSet, parse, size
from tabveil.errors import UsageError
from tabveil.schema import Schema

Where = Mapping[str, Any]
Prior = str | Mapping[str, Mapping[Any, float]]

MOST_GROUPS = 10_000
"""Most values of a label that are balanced one by one."""

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}")
_EXACT = decimal.Context(prec=60)
_SHOWN = 10


@dataclass(frozen=True, eq=False)
class Balance:
    """Shares that a column's values shall have.

    Attributes:
      column: the label.
      groups: disjoint sets of codes; what is in none of them is not drawn.
      names: what to call each group in a report: what the user wrote, or the value's text.
      shares: shape (groups,), summing to 1; None for equal shares of all groups that the model can draw.
    """

    column: str
    groups: tuple[CodeSet, ...]
    names: tuple[str | None, ...]
    shares: tuple[float, ...] | None


@dataclass(frozen=True, eq=False)
class Conditions:
    """What all rows of a sample shall obey.

    Attributes:
      allowed: codes that a column may show, by name; columns that are not named may show all.
      balance: shares of a label's values.
    """

    allowed: Mapping[str, CodeSet]
    balance: Balance | None = None

    @classmethod
    def of(cls, schema: Schema, where: Where | None, balance: Prior | None) -> Conditions:
        """What `where` and `balance` mean under `schema`; raises UsageError where they cannot be met by any row."""
        allowed = {name: codes_of(_column(schema, name, "where"), value) for name, value in _items(where)}
        return cls(allowed, None if balance is None else _balance(schema, balance))


def _items(where: Where | None) -> Iterable[tuple[str, Any]]:
    if where is not None and not isinstance(where, Mapping):
        raise UsageError("where must map columns to conditions, such as {'age': (40, None)}.")
    return (where or {}).items()


def _column(schema: Schema, name: object, option: str) -> Column:
    known = {c.name: c for c in schema.columns}
    if not isinstance(name, str) or name not in known:
        raise UsageError(f"{option} names a column that the schema does not have; it has {_listed(schema.names)}.")
    if isinstance(known[name], Identifier):
        raise UsageError(f"Column {name!r} is an identifier: it is made up for every row and takes no condition.")
    return known[name]


def codes_of(column: Column, condition: Any) -> CodeSet:
    """The codes of `column` that `condition` allows.

    Args:
      column: any learned column.
      condition: a value, a 2-tuple (low, high), None for missing, or a set or list of these.

    Raises:
      UsageError: it allows nothing, or holds what `column` never shows.
    """
    several = isinstance(condition, list | set | frozenset | np.ndarray | pd.Series | pd.Index)
    parts = list(condition) if several else [condition]
    ranges = [r for part in parts if not _is_missing(column, part) for r in _ranges(column, part)]
    allowed = CodeSet.of(ranges, missing=any(_is_missing(column, p) for p in parts))
    if not allowed:
        raise _refused(column, "the condition allows nothing")
    return allowed


def _is_missing(column: Column, value: Any) -> bool:
    if isinstance(value, tuple):
        return False
    if not pd.api.types.is_scalar(value):
        raise _refused(column, "a condition is a value, a pair (low, high), or a set or list of these")
    missing = bool(pd.isna(value)) or (isinstance(value, str) and value in column.missing)
    if missing and not column.nullable:
        raise _refused(column, "it is never missing")
    return missing


def _refused(column: Column, why: str) -> UsageError:
    return UsageError(f"Column {column.name!r}, in a condition: {why}; it holds {may_hold(column)}.")


def may_hold(column: Column) -> str:
    """What the schema says that `column` may show, for a message; of a draft, whose bounds are private, its kind."""
    missing = " or missing" if column.nullable else ""
    if column.source == "draft":
        return f"values of kind {column.kind}{missing}"
    if isinstance(column, Discrete):
        return f"{_listed(column.labels)}{missing}"
    if isinstance(column, Integer | Decimal | Date | Datetime):
        step = f" with {column.decimals} decimals" if isinstance(column, Decimal) else ""
        step = f", every {column.resolution} seconds" if isinstance(column, Datetime) else step
        return f"values of kind {column.kind} from {column.low} to {column.high}{step}{missing}"
    return "nothing that is learned"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(n) for n in names[:_SHOWN]) + more


# ------------------------------------------------------------------------------------------------------------ values


@singledispatch
def _ranges(column: Column, value: Any) -> list[tuple[int, int]]:
    """Code ranges, stops excluded, of one value or 2-tuple."""
    raise _refused(column, "it takes no condition")


@_ranges.register
def _(column: Boolean, value: Any) -> list[tuple[int, int]]:
    if isinstance(value, tuple):
        raise _refused(column, "it takes no range")
    return [_one_label(column, value)]


@_ranges.register
def _(column: Categorical, value: Any) -> list[tuple[int, int]]:
    if not isinstance(value, tuple):
        return [_one_label(column, value)]
    if not column.ordered:
        raise _refused(column, "it takes no range: its categories are not ordered")
    low, high = _ends(column, value)
    start = 0 if low is None else _one_label(column, low)[0]
    return [(start, len(column.categories) if high is None else _one_label(column, high)[1])]


def _one_label(column: Discrete, value: Any) -> tuple[int, int]:
    codes, bad = parse(column, pd.Series([value], dtype=object))
    if bad[0]:
        raise _refused(column, "it never holds a value that the condition names")
    return int(codes[0]), int(codes[0]) + 1


@_ranges.register
def _(column: Grid, value: Any) -> list[tuple[int, int]]:
    low, high = _ends(column, value) if isinstance(value, tuple) else (value, value)
    start = 0 if low is None else _inward(column, _span(column, low)[0], decimal.ROUND_CEILING)
    stop = column.units if high is None else _inward(column, _span(column, high)[1], decimal.ROUND_FLOOR) + 1
    start, stop = max(start, 0), min(stop, column.units)
    if start >= stop:
        raise _refused(column, "it never holds what the condition names")
    return [(start, stop)]


def _ends(column: Column, value: tuple[Any, ...]) -> tuple[Any, Any]:
    if len(value) != 2:
        raise _refused(column, "a range is a pair (low, high) with None for an open end")
    low, high = (None if _open(v) else v for v in value)
    return low, high


def _open(end: Any) -> bool:
    return end is None or (isinstance(end, float) and not math.isfinite(end))


def _inward(column: Grid, place: decimal.Decimal, rounding: str) -> int:
    """A place on the grid, in steps from the low bound, as a whole step; beyond the bounds, the first step beyond."""
    return int(min(max(place, decimal.Decimal(-1)), decimal.Decimal(column.units)).to_integral_value(rounding))


@singledispatch
def _span(column: Column, value: Any) -> tuple[decimal.Decimal, decimal.Decimal]:
    """First and last place on the grid that `value` means, in steps from the low bound: a day in a column of times is
    all of it.
    """
    raise _refused(column, "it takes no range")


@_span.register
def _(column: Integer, value: Any) -> tuple[decimal.Decimal, decimal.Decimal]:
    place = _EXACT.subtract(_number(column, value), decimal.Decimal(column.low))
    return place, place


@_span.register
def _(column: Decimal, value: Any) -> tuple[decimal.Decimal, decimal.Decimal]:
    scaled = _EXACT.scaleb(_number(column, value), column.decimals)
    place = _EXACT.subtract(scaled, decimal.Decimal(round(column.low * 10**column.decimals)))
    return place, place


def _number(column: Column, value: Any) -> decimal.Decimal:
    """The number as it is written: 0.1 is a tenth."""
    plain = isinstance(value, numbers.Real | decimal.Decimal | np.number | str) and not isinstance(value, bool)
    try:
        number = _EXACT.create_decimal(str(value).strip()) if plain else decimal.Decimal("nan")
    except decimal.InvalidOperation:
        number = decimal.Decimal("nan")
    if not number.is_finite():
        raise _refused(column, "the condition names what is no number")
    return number if number.adjusted() < 100 else decimal.Decimal("1e100").copy_sign(number)  # beyond any bound


@_span.register
def _(column: Date, value: Any) -> tuple[decimal.Decimal, decimal.Decimal]:
    first, _ = _moments(column, value)
    place = decimal.Decimal((first - dt.datetime.combine(column.low, dt.time())).total_seconds()) / 86_400
    return place, place


@_span.register
def _(column: Datetime, value: Any) -> tuple[decimal.Decimal, decimal.Decimal]:
    first, last = (
        decimal.Decimal((m - column.low).total_seconds()) / column.resolution for m in _moments(column, value)
    )
    return first, last


def _moments(column: Date | Datetime, value: Any) -> tuple[dt.datetime, dt.datetime]:
    """First and last second of a day, or a point in time twice (in UTC, where it has a zone)."""
    if isinstance(value, str):
        value = _read_moment(column, value.strip())
    if isinstance(value, np.datetime64):
        days = np.datetime_data(value.dtype)[0] in "YMWD"
        value = value.astype("datetime64[D]" if days else "datetime64[us]").item()
    if isinstance(value, dt.datetime):
        value = value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo is not None else value
        return value, value
    if isinstance(value, dt.date):
        return dt.datetime.combine(value, dt.time()), dt.datetime.combine(value, dt.time(23, 59, 59))
    raise _refused(column, "the condition names what is no date")


def _read_moment(column: Date | Datetime, text: str) -> dt.date | None:
    """ISO text first, then the column's own format."""
    for read in (
        dt.date.fromisoformat if _ISO.fullmatch(text) else dt.datetime.fromisoformat,
        lambda t: dt.datetime.strptime(t, column.format),
    ):
        try:
            return read(text)
        except ValueError:
            continue
    return None


# ----------------------------------------------------------------------------------------------------------- balance


def _balance(schema: Schema, balance: Prior) -> Balance:
    if isinstance(balance, str):
        return _even(_column(schema, balance, "balance"))
    if not isinstance(balance, Mapping) or len(balance) != 1:
        raise UsageError("balance is the name of one column, or maps one column to shares of its values.")
    name, shares = next(iter(balance.items()))
    return _prior(_column(schema, name, "balance"), shares)


def _even(column: Column) -> Balance:
    """Every value that is not missing, equally often."""
    values = size(column)
    if values > MOST_GROUPS:
        raise UsageError(f"Column {column.name!r} has too many values to balance one by one: give shares of ranges.")
    groups = tuple(CodeSet.of([(code, code + 1)]) for code in range(values))
    return Balance(column.name, groups, _names(column), None)


def _names(column: Column) -> tuple[str, ...]:
    if isinstance(column, Discrete):
        return column.labels
    if isinstance(column, Date | Datetime):
        step = dt.timedelta(days=1) if isinstance(column, Date) else dt.timedelta(seconds=column.resolution)
        return tuple(str(column.low + step * i) for i in range(column.units))
    if isinstance(column, Decimal):
        low = round(column.low * 10**column.decimals)
        return tuple(str(_EXACT.scaleb(decimal.Decimal(low + i), -column.decimals)) for i in range(column.units))
    return tuple(str(column.low + i) for i in range(size(column))) if isinstance(column, Integer) else ()


def _prior(column: Column, shares: Any) -> Balance:
    if not isinstance(shares, Mapping) or not shares:
        raise UsageError(f"balance maps column {column.name!r} to shares of its values, such as {{'yes': 0.5, ...}}.")
    weights = [_share(column, s) for s in shares.values()]
    if abs(sum(weights) - 1) > 1e-6:
        raise UsageError(f"The shares that balance gives the values of column {column.name!r} must add up to 1.")
    groups = tuple(codes_of(column, value) for value in shares)
    _check_disjoint(column, groups)
    total = sum(weights)
    return Balance(column.name, groups, tuple(map(_named, shares)), tuple(w / total for w in weights))


def _share(column: Column, share: Any) -> float:
    number = isinstance(share, numbers.Real) and not isinstance(share, bool)
    if not number or not 0 <= float(share) <= 1:
        raise UsageError(f"The shares that balance gives the values of column {column.name!r} must lie from 0 to 1.")
    return float(share)


def _named(value: Any) -> str | None:
    if isinstance(value, tuple):
        return "..".join("" if v is None else str(v) for v in value)
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else str(value)


def _check_disjoint(column: Column, groups: Sequence[CodeSet]) -> None:
    ranges = sorted((int(a), int(b)) for g in groups for a, b in zip(g.starts, g.stops, strict=True))
    overlap = any(later[0] < earlier[1] for earlier, later in itertools.pairwise(ranges))
    if overlap or sum(g.missing for g in groups) > 1:
        raise UsageError(f"balance names a value of column {column.name!r} twice.")
