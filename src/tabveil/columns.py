"""Column kinds: what is publicly known of one column, and nothing else.

Every kind that holds numbers (integer, decimal, date, datetime) is a grid: `units` equal steps from `low` to `high`, at
the resolution the column is published with. A value is a step number: all that encoders, generators and samplers need.

A column that says `learn` may leave out its bounds, decimals or categories. Until a fit has bought them (`learning`),
such a column is unresolved: it names what it lacks in `unknown`, and whatever needs that raises SchemaError.

Privacy: a column is public knowledge, written down before any row is read. `source` says who vouches for it: "declared"
by a person, "draft" (proposed from data, refused by every private fit) or "charged" (bought from the ledger).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tabveil.errors import SchemaError

Source = Literal["declared", "draft", "charged"]
Invalid = Literal["clip", "missing", "refuse"]

UNKNOWN: Any = None
"""The value of a field that a column leaves to be learned."""

FARTHEST = 2**52 - 2
"""The farthest step from the origin on the public grid that bounds are learned on: two are at most 2^53 steps apart,
also where doubles are a step off.
"""

OTHER = "__other__"
"""What categories that were not learned become, where the column names no catch-all of its own."""

_QUOTES = "put quotes around numbers, dates, yes and no"
_PATTERN_FIELD = re.compile(r"\{n(:0?\d{1,2}d?)?\}")
"""What an identifier pattern may ask of its running number; a free format string could ask for gigabytes of padding."""


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def writable(text: str) -> bool:
    """Whether a text can be written as UTF-8 (a lone surrogate cannot)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, kw_only=True, repr=False)
class Column(ABC):
    """What every column says of itself.

    Attributes:
      name: the column's name in the table, any text.
      learn: whether the fields in `learnable` may be left out, to be bought under the budget of each fit. What is given
        stays declared.
      missing: the texts that mean "missing" in a text file ("" for an empty cell); a column with none of them is never
        missing. In a data frame None, NaN and NaT also count as missing. By default none; the empty cell where `learn`.
      invalid: what happens to a value the column does not allow: "clip" to the nearest bound (numbers, dates; text that
        is no number becomes missing, or is refused where the column is never missing), "missing", or "refuse" (the run
        stops before anything is charged; that it stopped is not covered by epsilon).
      source: who vouches for the bounds or categories.
      note: where they come from, for a reader.
    """

    name: str
    learn: bool = False
    missing: tuple[str, ...] = UNKNOWN
    invalid: Invalid = "clip"
    source: Source = "declared"
    note: str = ""
    kind: ClassVar[str] = ""
    learnable: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not writable(self.name):
            raise SchemaError(f"A column needs a name that is a non-empty text ({_QUOTES}).")
        if not isinstance(self.note, str) or not writable(self.note):
            raise self._error("'note' must be a text")
        self._check_learning()
        self._texts("missing")
        if self.invalid not in ("clip", "missing", "refuse"):
            raise self._error("'invalid' must be clip, missing or refuse")
        if self.invalid == "missing" and not self.missing:
            raise self._error("'invalid: missing' needs 'missing' to list at least one text")
        if self.source not in ("declared", "draft", "charged"):
            raise self._error("'source' must be declared, draft or charged")

    def _check_learning(self) -> None:
        """What may be left out is left out only where it is to be learned; an empty cell then means missing by
        default.
        """
        if not isinstance(self.learn, bool):
            raise self._error("'learn' must be true or false")
        if self.learn and not self.learnable:
            raise self._error("'learn' is for columns with bounds or categories: this kind has nothing to learn")
        if self.unknown and not self.learn:
            lacking = " and ".join(map(repr, self.unknown))
            raise self._error(f"{lacking} must be given, or 'learn: true', to buy what is left out from the budget")
        if self.unknown and self.source != "declared":
            raise self._error(f"'source: {self.source}' needs every bound or category to be given")
        if getattr(self, "missing") is None:  # noqa: B009  (its type says that it never is, from here on)
            object.__setattr__(self, "missing", ("",) if self.learn else ())

    @property
    def unknown(self) -> tuple[str, ...]:
        """The fields left out, to be learned; none of a column that is resolved."""
        return tuple(f for f in self.learnable if getattr(self, f) is None)

    def require_known(self) -> None:
        """Raise SchemaError where a field is still to be learned."""
        if self.unknown:
            raise self._error(
                f"{' and '.join(map(repr, self.unknown))} are not declared but learned by each fit: use the fitted "
                "generator's schema, which a release holds as schema.yaml"
            )

    @property
    def nullable(self) -> bool:
        """Whether a cell may be missing."""
        return bool(self.missing)

    def __repr__(self) -> str:
        """The fields as given; of a draft only kind and name, since its bounds and categories were read from rows."""
        if self.source == "draft":
            return f"{type(self).__name__}(name={self.name!r}, source='draft', ...)"
        unknown, hidden = self.unknown, () if self.learn else ("learn",)
        values = {f.name: repr(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name not in hidden}
        shown = ", ".join(f"{k}={'<to be learned>' if k in unknown else v}" for k, v in values.items())
        return f"{type(self).__name__}({shown})"

    def _texts(self, field: str) -> None:
        """Check that a field lists texts, each once, and keep it as a tuple."""
        value = getattr(self, field)
        listed = isinstance(value, list | tuple) and all(isinstance(v, str) and writable(v) for v in value)
        if not listed:
            raise self._error(f"'{field}' must be a list of texts ({_QUOTES})")
        if len(set(value)) != len(value):
            raise self._error(f"'{field}' lists a text twice")
        object.__setattr__(self, field, tuple(value))

    def _error(self, rule: str) -> SchemaError:
        return SchemaError(f"Column {self.name!r} ({self.kind}): {rule}.")


@dataclass(frozen=True, kw_only=True, repr=False)
class Discrete(Column):
    """A column whose values are listed: categorical or boolean."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Every value the column may show, as text, in declared order, the catch-all last; missing not among them."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Categorical(Discrete):
    """Declared categories. An undeclared value becomes `catch_all` where one is named; else `invalid` decides.

    Learned categories have a catch-all, OTHER where none is named. `ordered` says that neighbours in the list are
    alike (education levels), which helps binning.
    """

    categories: tuple[str, ...] = UNKNOWN
    catch_all: str | None = None
    ordered: bool = False
    invalid: Invalid = "refuse"
    kind: ClassVar[str] = "categorical"
    learnable: ClassVar[tuple[str, ...]] = ("categories",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unknown and self.catch_all is None:
            object.__setattr__(self, "catch_all", OTHER)
        self._check_catch_all()
        if not self.unknown:
            self._check_labels()

    def _check_catch_all(self) -> None:
        if self.catch_all is not None and not (isinstance(self.catch_all, str) and writable(self.catch_all)):
            raise self._error(f"'catch_all' must be a text ({_QUOTES})")
        if not isinstance(self.ordered, bool):
            raise self._error("'ordered' must be true or false")
        if self.ordered and self.unknown:
            raise self._error("'ordered' needs declared categories: learned ones come in alphabetical order")
        if self.catch_all in self.missing:
            raise self._error("a category is also listed as missing")
        if self.invalid == "clip":
            raise self._error("'invalid' must be missing or refuse; name a 'catch_all' to keep undeclared values")

    def _check_labels(self) -> None:
        self._texts("categories")
        if not self.labels:
            raise self._error("at least one category must be declared")
        if self.catch_all in self.categories:
            raise self._error("'catch_all' must not be one of the categories")
        if set(self.labels) & set(self.missing):
            raise self._error("a category is also listed as missing")

    @property
    def labels(self) -> tuple[str, ...]:
        """Declared (or learned) categories, then the catch-all; raises SchemaError where they are still to be
        learned.
        """
        self.require_known()
        return self.categories if self.catch_all is None else (*self.categories, self.catch_all)


@dataclass(frozen=True, kw_only=True, repr=False)
class Boolean(Discrete):
    """True or false. `true` and `false` list the texts that mean either, compared without case."""

    true: tuple[str, ...] = ("true", "1", "yes", "t", "y")
    false: tuple[str, ...] = ("false", "0", "no", "f", "n")
    invalid: Invalid = "refuse"
    kind: ClassVar[str] = "boolean"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._texts("true")
        self._texts("false")
        true, false, missing = ({t.casefold() for t in texts} for texts in (self.true, self.false, self.missing))
        if not true or not false or true & false or missing & (true | false):
            raise self._error("'true', 'false' and 'missing' must share no text, case aside; the first two need one")
        if self.invalid == "clip":
            raise self._error("'invalid' must be missing or refuse")

    @property
    def labels(self) -> tuple[str, ...]:
        """The two values."""
        return ("false", "true")


@dataclass(frozen=True, kw_only=True, repr=False)
class Grid(Column):
    """A column of numbers or dates: `units` steps, step 0 at the low bound, the last one at the high bound."""

    learnable: ClassVar[tuple[str, ...]] = ("low", "high")

    @property
    def units(self) -> int:
        """How many different values the column can take; raises SchemaError where that is still to be learned."""
        self.require_known()
        return self._units()

    @abstractmethod
    def _units(self) -> int:
        """`units` of a column that lacks nothing."""

    @property
    def bounds(self) -> tuple[Any, Any]:
        """The low and the high bound, None for one that is still to be learned."""
        low, high = (getattr(self, f) for f in ("low", "high"))
        return low, high

    @property
    def _farthest(self) -> int:
        """How many steps from zero a bound may lie: less far where another is to be learned, so that any will fit."""
        return FARTHEST if self.unknown else 2**53

    def _given(self, *fields: str) -> list[Any]:
        """The values of those `fields` that are not left to be learned."""
        return [v for v in (getattr(self, f) for f in fields) if v is not None]

    def _check_units(self) -> None:
        if self.unknown:
            if self.invalid == "refuse":
                raise self._error("'invalid: refuse' would stop a fit at its own learned bounds: use clip or missing")
            return
        if self.units < 1:
            raise self._error("'low' must not be above 'high'")
        if self.units > 2**53:
            raise self._error("the bounds are too far apart for the resolution (over 2^53 values)")


@dataclass(frozen=True, kw_only=True, repr=False)
class Integer(Grid):
    """Whole numbers from `low` to `high`, both included."""

    low: int = UNKNOWN
    high: int = UNKNOWN
    kind: ClassVar[str] = "integer"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self._given("low", "high")
        if not all(_whole(b) for b in given):
            raise self._error("'low' and 'high' must be whole numbers")
        if max(map(abs, given), default=0) > self._farthest:
            raise self._error("bounds must lie within 2^53 of zero, 2^52 where one is left to be learned")
        self._check_units()

    def _units(self) -> int:
        """high - low + 1."""
        return self.high - self.low + 1


@dataclass(frozen=True, kw_only=True, repr=False)
class Decimal(Grid):
    """Numbers from `low` to `high`, both included, published with `decimals` digits after the point (0 to 12)."""

    low: float = UNKNOWN
    high: float = UNKNOWN
    decimals: int = UNKNOWN
    kind: ClassVar[str] = "decimal"
    learnable: ClassVar[tuple[str, ...]] = ("low", "high", "decimals")

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not _whole(d) or not 0 <= d <= 12 for d in self._given("decimals")):
            raise self._error("'decimals' must be a whole number from 0 to 12")
        self._finite("low")
        self._finite("high")
        bounds = self._given("low", "high")
        if len(bounds) == 2 and self.low > self.high:
            raise self._error("'low' must not be above 'high'")
        if max(map(abs, bounds), default=0.0) * 10 ** (self.decimals or 0) > self._farthest:
            raise self._error(
                "bounds with that many decimals need more digits than a number holds (2^53 steps, 2^52 where one of "
                "them or the decimals are left to be learned)"
            )
        self._check_units()

    def _finite(self, field: str) -> None:
        """Check one bound, if it is given, and keep it as a float, so that 0 and 0.0 are one schema."""
        value = getattr(self, field)
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise self._error(f"'{field}' must be a finite number")
        object.__setattr__(self, field, float(value))

    def _units(self) -> int:
        """Steps of 10^-decimals from the rounded low to the rounded high bound."""
        scale = 10.0**self.decimals
        return round(self.high * scale) - round(self.low * scale) + 1


@dataclass(frozen=True, kw_only=True, repr=False)
class Date(Grid):
    """Calendar days from `low` to `high`, both included; `format` is how a text file writes them (strftime)."""

    low: dt.date = UNKNOWN
    high: dt.date = UNKNOWN
    format: str = "%Y-%m-%d"
    kind: ClassVar[str] = "date"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self._given("low", "high")
        if any(isinstance(b, dt.datetime) or not isinstance(b, dt.date) for b in given):
            raise self._error("'low' and 'high' must be dates (2020-01-31)")
        self._check_units()
        _check_format(self, *given, *(() if not self.unknown else public_range(self)))

    def _units(self) -> int:
        """Days, both ends counted."""
        return (self.high - self.low).days + 1


@dataclass(frozen=True, kw_only=True, repr=False)
class Datetime(Grid):
    """Points in time from `low` to `high`, every `resolution` seconds, without time zone; `format` as in `Date`."""

    low: dt.datetime = UNKNOWN
    high: dt.datetime = UNKNOWN
    resolution: int = 1
    format: str = "%Y-%m-%d %H:%M:%S"
    kind: ClassVar[str] = "datetime"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self._given("low", "high")
        if not all(isinstance(b, dt.datetime) and b.tzinfo is None for b in given):
            raise self._error("'low' and 'high' must be points in time without a zone (2020-01-31 00:00:00)")
        if any(b.microsecond for b in given):
            raise self._error("'low' and 'high' must be whole seconds")
        if not _whole(self.resolution) or self.resolution < 1:
            raise self._error("'resolution' must be a whole number of seconds, at least 1")
        self._check_units()
        _check_format(self, *given, *(() if not self.unknown else public_range(self)))

    def _units(self) -> int:
        """Steps of `resolution` seconds that fit between the bounds."""
        return int((self.high - self.low).total_seconds() // self.resolution) + 1


@dataclass(frozen=True, kw_only=True, repr=False)
class Identifier(Column):
    """A name or number of one row or person: never read by a fit, made up anew for every synthetic row.

    `pattern` is text with `{n}` for a running number and optional zero padding, e.g. "P{n:06d}".
    """

    pattern: str = "{n}"
    kind: ClassVar[str] = "identifier"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.pattern, str) or not writable(self.pattern):
            raise self._error("'pattern' must be a text with {n} in it, such as 'P{n:06d}'")
        plain, fields = _PATTERN_FIELD.subn("", self.pattern.replace("{{", "").replace("}}", ""))
        if not fields or "{" in plain or "}" in plain:
            raise self._error("'pattern' must hold {n}, at most zero-padded as in 'P{n:06d}', and no other braces")


def _check_format(column: Date | Datetime, *bounds: dt.date) -> None:
    """A format that cannot write both bounds and read them back (%y, no %d) would move every value silently."""
    if not _reads_back(column.format, bounds):
        raise column._error("'format' must write the bounds so that they read back the same (such as %Y-%m-%d)")


def _reads_back(pattern: str, days: Sequence[dt.date]) -> bool:
    try:
        back = [dt.datetime.strptime(d.strftime(pattern), pattern) for d in days]
    except (TypeError, ValueError):
        return False
    return [b.date() for b in back] == [dt.date(d.year, d.month, d.day) for d in days]


def public_range(column: Date | Datetime) -> tuple[dt.date, dt.date]:
    """Between which days bounds are learned: years 1000 to 9999, or, where the format has two digits for the year, 1969
    to 2068.
    """
    make = dt.datetime if isinstance(column, Datetime) else dt.date
    wide, short = ((make(a, 1, 1), make(b, 12, 31)) for a, b in ((1000, 9999), (1969, 2068)))
    return wide if _reads_back(column.format, wide) or not _reads_back(column.format, short) else short


KINDS: dict[str, type[Column]] = {
    c.kind: c for c in (Categorical, Boolean, Integer, Decimal, Date, Datetime, Identifier)
}
"""Column classes by the word a schema file uses."""
