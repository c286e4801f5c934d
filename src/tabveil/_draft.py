"""Proposing a schema by looking at rows.

Privacy: reads every row outside any budget, so what comes out is as private as the table. Each column is marked as a
draft, which every private fit refuses (traps A1, A2). Two habits keep the damage of a hasty approval small: bounds are
rounded outward, and in a table of 100 rows or more a category that fewer than 5 rows hold is left out.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from tabveil.columns import Boolean, Categorical, Column, Date, Datetime, Decimal, Identifier, Integer
from tabveil.errors import DataError
from tabveil.tables import open_table

SMALL_TABLE = 100
"""Below so many rows every category is proposed: almost all of them would be rare."""

RARE = 5
"""In larger tables a category is proposed when at least so many rows hold it."""

MISSING_MARKS = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "?", "-", ".")
"""Texts taken for missing where the rest of a column is numbers or dates; among words only "" is."""

MANY_NUMBERS = 20
"""Beside more different numbers than these, a single text that is no number is taken for missing."""

_NUMBER = r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_KEY_NAME = re.compile(r"(?:^|[^A-Za-z])(?:id|Id|ID|uuid|UUID|key)$|[a-z]I[dD]$")
_TIME_OF_DAY = re.compile(r"%-?[HIMSpfXcT]")
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y")
_TIMES = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M")


def propose(source: Any, *, kinds: Mapping[str, Mapping[str, Any]]) -> tuple[Column, ...]:
    """A drafted column for each column of a table.

    Args:
      source: whatever `open_table` opens; read whole into memory.
      kinds: for some columns, what is known of their kind (kind, format, ordered, pattern).

    Raises:
      DataError: the table cannot be read, or a column is of a type that no kind can hold.
    """
    table = open_table(source)
    frame = pd.concat(list(table.chunks()), ignore_index=True)
    return tuple(_column(name, _plain(name, frame[name]), kinds.get(name, {})) for name in table.columns)


def _plain(name: str, values: pd.Series) -> pd.Series:
    """The values without a categorical wrapping; what no kind can hold is refused."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        raise DataError(f"Column {name!r} has a time zone: convert it to one zone and drop the zone.")
    if values.dtype.kind not in "biufMO":
        raise DataError(f"Column {name!r} is no number, text, truth value or date: convert it, or leave it out.")
    return values


def _column(name: str, values: pd.Series, known: Mapping[str, Any]) -> Column:
    """The first kind that fits the cells; `known`, where it names a kind, leaves only that one."""
    kind = known.get("kind")
    texts = values.astype("string")
    if kind == Identifier.kind:
        note = "An identifier by the SDV metadata."
        return Identifier(name=name, pattern=known.get("pattern", "{n}"), source="draft", note=note)
    if not (texts.notna() & (texts != "")).any():
        return _nothing(name)
    if kind == Categorical.kind:
        return _words(name, texts, ordered=bool(known.get("ordered")), always=True)
    proposed = _typed(name, values) if values.dtype.kind in "biufM" else _parsed(name, texts, known.get("format"))
    if kind in (Integer.kind, Decimal.kind) and not isinstance(proposed, Integer | Decimal):
        proposed = _numbers(name, *_present(texts), plain=True)
    return proposed or _words(name, texts, ordered=False, always=False)


def _nothing(name: str) -> Column:
    note = "No cell holds anything: write down what it may hold, or leave the column out."
    return Categorical(name=name, categories=("unknown",), missing=("",), invalid="missing", source="draft", note=note)


def _typed(name: str, values: pd.Series) -> Column | None:
    """The kind that a dtype settles."""
    missing = ("",) if values.isna().any() else ()
    present = values.dropna()
    if values.dtype.kind == "b":
        return Boolean(name=name, missing=missing, source="draft", note="Truth values in the table.")
    if values.dtype.kind == "M":
        return _dates(name, present, missing, pattern=None)
    return _numbers(name, present, missing)


def _present(texts: pd.Series) -> tuple[pd.Series, tuple[str, ...]]:
    """The cells that hold something, stripped, and the texts that mean missing."""
    marked = texts.isin(MISSING_MARKS)
    used = [m for m in MISSING_MARKS if (texts[marked] == m).any()]
    if texts.isna().any() and "" not in used:
        used.append("")
    return texts[~marked & texts.notna()].str.strip(), tuple(used)


def _parsed(name: str, texts: pd.Series, pattern: str | None) -> Column | None:
    """Truth values, numbers or dates written as text; None where some cell is none of them."""
    present, missing = _present(texts)
    if present.empty:
        return None
    if set(present.str.lower().unique()) == {"true", "false"}:
        return Boolean(name=name, missing=missing, source="draft", note="The words true and false in the table.")
    numeric = present.str.fullmatch(_NUMBER)
    odd = present[~numeric].unique()
    if len(odd) == 1 and present.nunique() > MANY_NUMBERS:
        return _numbers(name, present[numeric], (*missing, str(odd[0])))
    if numeric.all():
        return _numbers(name, present, missing)
    fitting = [p for p in ([pattern] if pattern else [*_DATES, *_TIMES]) if _fits(present, p)]
    if not fitting:
        return None
    stamps = pd.to_datetime(present, format=fitting[0], errors="coerce")
    doubt = f" The format may also be {fitting[1]}: check it." if len(fitting) > 1 else ""
    return _dates(name, stamps, missing, pattern=fitting[0], doubt=doubt)


def _fits(texts: pd.Series, pattern: str) -> bool:
    def read(part: pd.Series) -> bool:
        return bool(pd.to_datetime(part, format=pattern, errors="coerce").notna().all())

    return read(texts.head(100)) and read(texts)


def _numbers(name: str, values: pd.Series, missing: tuple[str, ...], *, plain: bool = False) -> Column | None:
    """Integer, decimal, boolean for 0 and 1, identifier for a running number; None for what a grid cannot hold."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if not len(numbers) or not np.abs(numbers).max() <= 2**52:
        return None
    whole = bool((numbers % 1 == 0).all())
    if whole and not plain and set(np.unique(numbers)) == {0.0, 1.0}:
        return Boolean(name=name, missing=missing, source="draft", note="The numbers 0 and 1 in the table.")
    if whole and not plain and _is_key(name, numbers):
        return Identifier(name=name, missing=missing, source="draft", note="A different number in every row.")
    digits = 0 if whole else _digits(values, limit=float(np.abs(numbers).max()))
    low, high = _outward(float(numbers.min()), float(numbers.max()), digits=digits)
    note = "Smallest and largest number in the table, rounded outward."
    if whole:
        return Integer(name=name, low=int(low), high=int(high), missing=missing, source="draft", note=note)
    return Decimal(name=name, low=low, high=high, decimals=digits, missing=missing, source="draft", note=note)


def _is_key(name: str, numbers: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
    """Whole numbers that all differ, and either fill a range or bear the name of a key."""
    rows = len(numbers)
    if rows < 20 or len(np.unique(numbers)) < rows:
        return False
    return bool(_KEY_NAME.search(name)) or (rows >= SMALL_TABLE and numbers.max() - numbers.min() == rows - 1)


def _digits(values: pd.Series, *, limit: float) -> int:
    """Most digits after the point among 10,000 different values, as far as a number of size `limit` has them."""
    some = values.drop_duplicates().head(10_000)
    if values.dtype.kind == "f":
        # as they print at their own width: 0.1 as a 32-bit float has one digit, not seventeen
        some = pd.Series([np.format_float_positional(x, trim="-") for x in some.to_numpy()])
    parts = some.astype("string").str.extract(r"^[+-]?[0-9]*(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+))?$")
    places = parts[0].str.len().fillna(0).astype(int) - parts[1].fillna("0").astype(int)
    room = math.floor(math.log10(2**52 / max(limit, 1.0)))
    return max(0, min(int(places.max()), room - 1, 12))


def _outward(low: float, high: float, *, digits: int) -> tuple[float, float]:
    """Bounds moved outward to the next multiple of the largest power of ten within their distance."""
    step = 10.0 ** math.floor(math.log10(high - low)) if high > low else 10.0**-digits
    step = max(step, 10.0**-digits)
    return round(math.floor(low / step) * step, digits), round(math.ceil(high / step) * step, digits)


def _dates(name: str, stamps: pd.Series, missing: tuple[str, ...], *, pattern: str | None, doubt: str = "") -> Column:
    """Date, or datetime with the coarsest resolution that fits; bounds are whole years."""
    low, high = dt.date(stamps.min().year, 1, 1), dt.date(stamps.max().year, 12, 31)
    note = f"First and last year in the table.{doubt}"
    timed = bool((stamps != stamps.dt.normalize()).any()) if pattern is None else bool(_TIME_OF_DAY.search(pattern))
    if not timed:
        form = pattern or "%Y-%m-%d"
        return Date(name=name, low=low, high=high, format=form, missing=missing, source="draft", note=note)
    seconds = stamps.dt.minute * 60 + stamps.dt.second
    return Datetime(
        name=name,
        low=dt.datetime.combine(low, dt.time()),
        high=dt.datetime.combine(high, dt.time(23, 59, 59)),
        resolution=next(r for r in (3600, 60, 1) if (seconds % r == 0).all()),
        format=pattern or "%Y-%m-%d %H:%M:%S",
        missing=missing,
        source="draft",
        note=note,
    )


def _words(name: str, texts: pd.Series, *, ordered: bool, always: bool) -> Column:
    """Categories, or an identifier where most texts differ and the kind is not settled (`always`)."""
    present = texts[texts.notna() & (texts != "")]
    missing = ("",) if len(present) < len(texts) else ()
    counts = present.value_counts()
    least = RARE if len(texts) >= SMALL_TABLE else 1
    kept = tuple(sorted(str(c) for c in counts.index[counts >= least]))
    if not always and len(present) >= 20 and (len(counts) > len(present) / 2 or not kept):
        note = "Mostly different texts: never learned. Make it categorical if it is not a name or number of someone."
        return Identifier(name=name, missing=missing, source="draft", note=note)
    rare = len(counts) - len(kept)
    note = "Texts in the table." if not rare else f"Texts that at least {RARE} rows hold; rarer ones were left out."
    other = None
    if rare:
        other = next(w for w in ("other", "__other__", "__other_2__") if w not in kept)
    return Categorical(
        name=name,
        categories=kept,
        catch_all=other,
        ordered=ordered,
        missing=missing,
        source="draft",
        note=note,
    )
