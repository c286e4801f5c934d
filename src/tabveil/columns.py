"""Column kinds: what is publicly known of one column, and nothing else.

Every kind that holds numbers (integer, decimal, date, datetime) is a grid: `units` equal steps from `low` to `high`, at
the resolution the column is published with. A value is a step number: all that encoders, generators and samplers need.

Privacy: a column is public knowledge, written down before any row is read. `source` says who vouches for it: "declared"
by a person, "draft" (proposed from data, refused by every private fit) or "charged" (bought from the ledger).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from tabveil.errors import SchemaError

Source = Literal["declared", "draft", "charged"]
Invalid = Literal["clip", "missing", "refuse"]

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
      missing: the texts that mean "missing" in a text file ("" for an empty cell); a column with none of them is never
        missing. In a data frame None, NaN and NaT also count as missing.
      invalid: what happens to a value the column does not allow: "clip" to the nearest bound (numbers, dates; text that
        is no number becomes missing, or is refused where the column is never missing), "missing", or "refuse" (the run
        stops before anything is charged; that it stopped is not covered by epsilon).
      source: who vouches for the bounds or categories.
      note: where they come from, for a reader.
    """

    name: str
    missing: tuple[str, ...] = ()
    invalid: Invalid = "clip"
    source: Source = "declared"
    note: str = ""
    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not writable(self.name):
            raise SchemaError(f"A column needs a name that is a non-empty text ({_QUOTES}).")
        if not isinstance(self.note, str) or not writable(self.note):
            raise self._error("'note' must be a text")
        self._texts("missing")
        if self.invalid not in ("clip", "missing", "refuse"):
            raise self._error("'invalid' must be clip, missing or refuse")
        if self.invalid == "missing" and not self.missing:
            raise self._error("'invalid: missing' needs 'missing' to list at least one text")
        if self.source not in ("declared", "draft", "charged"):
            raise self._error("'source' must be declared, draft or charged")

    @property
    def nullable(self) -> bool:
        """Whether a cell may be missing."""
        return bool(self.missing)

    def __repr__(self) -> str:
        """The fields as given; of a draft only kind and name, since its bounds and categories were read from rows."""
        if self.source == "draft":
            return f"{type(self).__name__}(name={self.name!r}, source='draft', ...)"
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self))
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

    `ordered` says that neighbours in the list are alike (education levels), which helps binning.
    """

    categories: tuple[str, ...]
    catch_all: str | None = None
    ordered: bool = False
    invalid: Invalid = "refuse"
    kind: ClassVar[str] = "categorical"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._texts("categories")
        if self.catch_all is not None and not (isinstance(self.catch_all, str) and writable(self.catch_all)):
            raise self._error(f"'catch_all' must be a text ({_QUOTES})")
        if not isinstance(self.ordered, bool):
            raise self._error("'ordered' must be true or false")
        if not self.labels:
            raise self._error("at least one category must be declared")
        if self.catch_all in self.categories:
            raise self._error("'catch_all' must not be one of the categories")
        if set(self.labels) & set(self.missing):
            raise self._error("a category is also listed as missing")
        if self.invalid == "clip":
            raise self._error("'invalid' must be missing or refuse; name a 'catch_all' to keep undeclared values")

    @property
    def labels(self) -> tuple[str, ...]:
        """Declared categories, then the catch-all."""
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

    @property
    @abstractmethod
    def units(self) -> int:
        """How many different values the column can take."""

    def _check_units(self) -> None:
        if self.units < 1:
            raise self._error("'low' must not be above 'high'")
        if self.units > 2**53:
            raise self._error("the bounds are too far apart for the resolution (over 2^53 values)")


@dataclass(frozen=True, kw_only=True, repr=False)
class Integer(Grid):
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int
    kind: ClassVar[str] = "integer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(_whole(b) for b in (self.low, self.high)):
            raise self._error("'low' and 'high' must be whole numbers")
        if max(abs(self.low), abs(self.high)) > 2**53:
            raise self._error("bounds must lie within 2^53 of zero")
        self._check_units()

    @property
    def units(self) -> int:
        """high - low + 1."""
        return self.high - self.low + 1


@dataclass(frozen=True, kw_only=True, repr=False)
class Decimal(Grid):
    """Numbers from `low` to `high`, both included, published with `decimals` digits after the point (0 to 12)."""

    low: float
    high: float
    decimals: int
    kind: ClassVar[str] = "decimal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _whole(self.decimals) or not 0 <= self.decimals <= 12:
            raise self._error("'decimals' must be a whole number from 0 to 12")
        self._finite("low")
        self._finite("high")
        if self.low > self.high:
            raise self._error("'low' must not be above 'high'")
        if max(abs(self.low), abs(self.high)) * 10**self.decimals > 2**53:
            raise self._error("bounds with that many decimals need more digits than a number holds (2^53 steps)")
        self._check_units()

    def _finite(self, field: str) -> None:
        """Check one bound and keep it as a float, so that 0 and 0.0 are one schema."""
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise self._error(f"'{field}' must be a finite number")
        object.__setattr__(self, field, float(value))

    @property
    def units(self) -> int:
        """Steps of 10^-decimals from the rounded low to the rounded high bound."""
        scale = 10.0**self.decimals
        return round(self.high * scale) - round(self.low * scale) + 1


@dataclass(frozen=True, kw_only=True, repr=False)
class Date(Grid):
    """Calendar days from `low` to `high`, both included; `format` is how a text file writes them (strftime)."""

    low: dt.date
    high: dt.date
    format: str = "%Y-%m-%d"
    kind: ClassVar[str] = "date"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(isinstance(b, dt.datetime) or not isinstance(b, dt.date) for b in (self.low, self.high)):
            raise self._error("'low' and 'high' must be dates (2020-01-31)")
        self._check_units()
        _check_format(self, self.low, self.high)

    @property
    def units(self) -> int:
        """Days, both ends counted."""
        return (self.high - self.low).days + 1


@dataclass(frozen=True, kw_only=True, repr=False)
class Datetime(Grid):
    """Points in time from `low` to `high`, every `resolution` seconds, without time zone; `format` as in `Date`."""

    low: dt.datetime
    high: dt.datetime
    resolution: int = 1
    format: str = "%Y-%m-%d %H:%M:%S"
    kind: ClassVar[str] = "datetime"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(isinstance(b, dt.datetime) and b.tzinfo is None for b in (self.low, self.high)):
            raise self._error("'low' and 'high' must be points in time without a zone (2020-01-31 00:00:00)")
        if self.low.microsecond or self.high.microsecond:
            raise self._error("'low' and 'high' must be whole seconds")
        if not _whole(self.resolution) or self.resolution < 1:
            raise self._error("'resolution' must be a whole number of seconds, at least 1")
        self._check_units()
        _check_format(self, self.low, self.high)

    @property
    def units(self) -> int:
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
    try:
        back = [dt.datetime.strptime(b.strftime(column.format), column.format) for b in bounds]
    except (TypeError, ValueError):
        back = []
    if [b.date() for b in back] != [dt.date(b.year, b.month, b.day) for b in bounds]:
        raise column._error("'format' must write the bounds so that they read back the same (such as %Y-%m-%d)")


KINDS: dict[str, type[Column]] = {
    c.kind: c for c in (Categorical, Boolean, Integer, Decimal, Date, Datetime, Identifier)
}
"""Column classes by the word a schema file uses."""
