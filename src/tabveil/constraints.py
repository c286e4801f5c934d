"""Public constraints between columns: what every row is known to obey, written down beside the columns.

Four kinds: `Inequality` (admitted <= discharged), `FixedCombinations` (listed combinations of listed values), `Implied`
(one column's value follows from another's) and `Sum` (a total and its parts). A constraint with a missing member holds.

Privacy: a constraint is public knowledge, like a bound: a person vouches for it and no row is looked at. A rule that
was found in private rows is as private as they are.
"""

from __future__ import annotations

import dataclasses
import graphlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tabveil.columns import Column, Date, Datetime, Decimal, Discrete, Grid, Identifier, Integer
from tabveil.errors import SchemaError

MAX_COMBINATIONS = 100_000
"""Combinations that the columns of one rule (or of rules that share columns) may have, allowed or not."""

MAX_UNITS = 2**60
"""Sums of steps stay below this, so that whole numbers of 64 bits hold them."""

Columns = Mapping[str, Column]
Value = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Constraint(ABC):
    """What every constraint says of itself."""

    kind: ClassVar[str] = ""

    @property
    @abstractmethod
    def members(self) -> tuple[str, ...]:
        """The columns it is about, each once."""

    @abstractmethod
    def __str__(self) -> str:
        """The rule in words, column names quoted."""

    @abstractmethod
    def check(self, columns: Columns) -> None:
        """Raise SchemaError unless the members are of the kinds that the rule needs; they are known to exist."""

    def derives(self, columns: Columns) -> str | None:
        """The column that follows from the other members in every row, None where none does."""
        return None

    def error(self, rule: str) -> SchemaError:
        """A SchemaError that names the constraint."""
        return SchemaError(f"Constraint {self}: {rule}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; fields at their default left out."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        return {"kind": self.kind} | {k: _plain(v) for k, v in fields.items()}

    def _names(self, field: str) -> None:
        """Check that a field lists column names, and keep it as a tuple."""
        value = getattr(self, field)
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise SchemaError(f"Constraint {self.kind}: {field!r} must be a list of column names.")
        object.__setattr__(self, field, tuple(value))

    def _name(self, field: str) -> None:
        if not isinstance(getattr(self, field), str):
            raise SchemaError(f"Constraint {self.kind}: {field!r} must be a column name.")


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


# ---------------------------------------------------------------------------------------------------------- inequality
@dataclass(frozen=True, kw_only=True)
class Inequality(Constraint):
    """`low` <= `high` in every row that has both; < where `strict`. Both numbers, dates or points in time."""

    low: str
    high: str
    strict: bool = False
    kind: ClassVar[str] = "inequality"

    def __post_init__(self) -> None:
        self._name("low")
        self._name("high")
        if not isinstance(self.strict, bool):
            raise SchemaError("Constraint inequality: 'strict' must be true or false.")

    @property
    def members(self) -> tuple[str, ...]:
        """Low, then high."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.low!r} {'<' if self.strict else '<='} {self.high!r}"

    def check(self, columns: Columns) -> None:
        """Both are grids with the same steps."""
        pair = [columns[m] for m in self.members]
        if not all(isinstance(c, Grid) for c in pair):
            raise self.error("only numbers, dates and points in time can be compared")
        if _steps(pair[0]) != _steps(pair[1]):
            raise self.error("both must be of one kind, with the same decimals or the same resolution")


def _steps(column: Column) -> tuple[object, ...]:
    """What two grids must share for their codes to be comparable after a shift."""
    if isinstance(column, Decimal):
        return column.kind, column.decimals
    if isinstance(column, Datetime):
        return column.kind, column.resolution, _seconds(column) % column.resolution
    return (column.kind,)


def _seconds(column: Datetime) -> int:
    return (column.low.toordinal() * 24 + column.low.hour) * 3600 + column.low.minute * 60 + column.low.second


def origin(column: Column) -> int:
    """Where code 0 of a grid lies, in its own steps: grids that may be compared are comparable as origin + code."""
    if isinstance(column, Integer):
        return column.low
    if isinstance(column, Decimal):
        steps: int = round(column.low * 10**column.decimals)
        return steps
    if isinstance(column, Date):
        return column.low.toordinal()
    if isinstance(column, Datetime):
        return _seconds(column) // column.resolution
    raise SchemaError(f"Column {column.name!r} is no grid of numbers or dates.")


# -------------------------------------------------------------------------------------------------- fixed combinations
@dataclass(frozen=True, kw_only=True)
class FixedCombinations(Constraint):
    """Values of `columns` (categorical or boolean) occur together only as `allowed` says, or not as `forbidden` does.

    Exactly one of the two is given; each entry holds one value per column.
    """

    columns: tuple[str, ...]
    allowed: tuple[tuple[str, ...], ...] | None = None
    forbidden: tuple[tuple[str, ...], ...] | None = None
    kind: ClassVar[str] = "fixed_combinations"

    def __post_init__(self) -> None:
        self._names("columns")
        if len(self.columns) < 2:
            raise SchemaError("Constraint fixed_combinations: 'columns' must name at least two columns.")
        if (self.allowed is None) == (self.forbidden is None):
            raise self.error("give exactly one of 'allowed' and 'forbidden'")
        for field in ("allowed", "forbidden"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, self._entries(getattr(self, field)))

    def _entries(self, given: Any) -> tuple[tuple[str, ...], ...]:
        listed = isinstance(given, list | tuple) and all(isinstance(e, list | tuple) for e in given)
        entries = tuple(tuple(_text(v) for v in e) for e in given) if listed else ()
        if not entries or not all(len(e) == len(self.columns) for e in entries):
            raise self.error("every combination must list one value per column, and there must be one")
        if not all(isinstance(v, str) for e in entries for v in e):
            raise self.error("every value must be a text (put quotes around numbers and dates)")
        return tuple(dict.fromkeys(entries))

    @property
    def members(self) -> tuple[str, ...]:
        """The columns."""
        return self.columns

    def __str__(self) -> str:
        return f"combinations of {', '.join(map(repr, self.columns))}"

    def check(self, columns: Columns) -> None:
        """Every member lists its values, and every listed combination uses them."""
        for i, name in enumerate(self.columns):
            column = columns[name]
            if not isinstance(column, Discrete):
                raise self.error(f"{name!r} must be categorical or boolean")
            if not {e[i] for e in self.listed} <= set(column.labels):
                raise self.error(f"a value that column {name!r} does not declare is listed")

    @property
    def listed(self) -> tuple[tuple[str, ...], ...]:
        """The combinations that are listed, allowed or forbidden."""
        return self.allowed if self.allowed is not None else self.forbidden or ()


def _text(value: Any) -> Any:
    """Truth values in the schema's words; everything else as it came."""
    return str(value).lower() if isinstance(value, bool) else value


# ------------------------------------------------------------------------------------------------------------- implied
@dataclass(frozen=True, kw_only=True)
class Implied(Constraint):
    """Where `given` has a value that `mapping` lists, `column` has the value listed for it.

    A mapping that lists every value of `given` makes `column` follow from it: it is not learned and costs nothing;
    where `given` is missing it is missing too. A value `None` means missing. Where only some values are listed the
    others leave `column` free.

    Attributes:
      column: categorical, boolean, integer or decimal; where only some values are listed, categorical or boolean.
      given: categorical or boolean.
      mapping: pairs (value of given, value of column), sorted; a mapping is taken too.
    """

    column: str
    given: str
    mapping: tuple[tuple[str, Value], ...]
    kind: ClassVar[str] = "implied"

    def __post_init__(self) -> None:
        self._name("column")
        self._name("given")
        given = self.mapping.items() if isinstance(self.mapping, Mapping) else self.mapping
        pairs = list(given) if isinstance(self.mapping, Mapping | list | tuple) else []
        if not pairs or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
            raise self.error("'mapping' must list a value of the column for values of the other")
        pairs = [(_text(k), _text(v)) for k, v in pairs]
        if not all(isinstance(k, str) for k, _ in pairs) or len({k for k, _ in pairs}) != len(pairs):
            raise self.error("'mapping' must list texts, each once, on its left side")
        object.__setattr__(self, "mapping", tuple(sorted(pairs, key=lambda p: p[0])))

    def to_dict(self) -> dict[str, Any]:
        """With the mapping as a mapping."""
        return super().to_dict() | {"mapping": dict(self.mapping)}

    @property
    def members(self) -> tuple[str, ...]:
        """What is given, then what follows."""
        return self.given, self.column

    def __str__(self) -> str:
        return f"{self.column!r} implied by {self.given!r}"

    def check(self, columns: Columns) -> None:
        """Both sides list declared values; where all are listed, a missing one can be missing."""
        given, column = columns[self.given], columns[self.column]
        if not isinstance(given, Discrete):
            raise self.error(f"{self.given!r} must be categorical or boolean")
        if not isinstance(column, Discrete | Integer | Decimal):
            raise self.error(f"{self.column!r} must be categorical, boolean, integer or decimal")
        if not {k for k, _ in self.mapping} <= set(given.labels):
            raise self.error(f"a value that column {self.given!r} does not declare is listed")
        if not all(_allows(column, v) for _, v in self.mapping):
            raise self.error(f"a value that column {self.column!r} does not allow is listed")
        if self.derives(columns) is None and not isinstance(column, Discrete):
            raise self.error(f"a number can only be implied where every value of {self.given!r} is listed")
        if self.derives(columns) is not None and given.nullable and not column.nullable:
            raise self.error(f"{self.given!r} may be missing, so {self.column!r} must be allowed to be missing")

    def derives(self, columns: Columns) -> str | None:
        """The column, where every value of what is given is listed."""
        given = columns[self.given]
        full = isinstance(given, Discrete) and set(given.labels) == {k for k, _ in self.mapping}
        return self.column if full else None

    def as_combinations(self, columns: Columns) -> FixedCombinations | None:
        """A mapping of some values as forbidden combinations; None where it forbids none."""
        column = columns[self.column]
        labels = column.labels if isinstance(column, Discrete) else ()
        forbidden = tuple((k, other) for k, v in self.mapping for other in labels if other != v)
        return FixedCombinations(columns=self.members, forbidden=forbidden) if forbidden else None


def _allows(column: Column, value: Value) -> bool:
    if value is None:
        return column.nullable
    if isinstance(column, Discrete):
        return value in column.labels
    if not isinstance(column, Integer | Decimal) or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not abs(value) < 1e300:
        return False
    digits = column.decimals if isinstance(column, Decimal) else 0
    return column.low <= value <= column.high and math.isclose(round(value, digits), value, abs_tol=1e-13)


def code_of(column: Column, value: Value) -> int:
    """The code of an allowed value; None, for missing, has the code after the last."""
    if value is None:
        return column.units if isinstance(column, Grid) else len(getattr(column, "labels", ()))
    if isinstance(column, Discrete):
        return column.labels.index(str(value))
    steps: int = round(float(value) * 10**column.decimals) if isinstance(column, Decimal) else int(value)
    return steps - origin(column)


# ----------------------------------------------------------------------------------------------------------------- sum
@dataclass(frozen=True, kw_only=True)
class Sum(Constraint):
    """`total` is the sum of `parts` (integers and decimals), exactly, at the total's decimals.

    The total is not learned and costs nothing: it is computed, and missing exactly where a part is.
    """

    total: str
    parts: tuple[str, ...]
    kind: ClassVar[str] = "sum"

    def __post_init__(self) -> None:
        self._name("total")
        self._names("parts")
        if not self.parts:
            raise SchemaError("Constraint sum: 'parts' must name at least one column.")

    @property
    def members(self) -> tuple[str, ...]:
        """Parts, then total."""
        return *self.parts, self.total

    def __str__(self) -> str:
        return f"{self.total!r} = {' + '.join(map(repr, self.parts))}"

    def check(self, columns: Columns) -> None:
        """Numbers whose sum the total can hold to the last digit."""
        if not all(isinstance(columns[m], Integer | Decimal) for m in self.members):
            raise self.error("total and parts must be integers or decimals")
        total, parts = columns[self.total], [columns[p] for p in self.parts]
        if any(digits(p) > digits(total) for p in parts):
            raise self.error(f"{self.total!r} must have as many decimals as its parts")
        if any(p.nullable for p in parts) and not total.nullable:
            raise self.error(f"a part may be missing, so {self.total!r} must be allowed to be missing")
        if sum(max(map(abs, reach(p, digits(total)))) for p in parts) > MAX_UNITS:
            raise self.error("the parts are too large for the total's decimals")
        (low, high), (least, most) = reach(total, digits(total)), self.span(columns)
        if most < low or least > high:
            raise self.error("contradictory: no sum of the parts lies within the total's bounds")

    def derives(self, columns: Columns) -> str | None:
        """The total."""
        return self.total

    def span(self, columns: Columns) -> tuple[int, int]:
        """Least and greatest sum of parts within their bounds, in the total's steps."""
        ends = [reach(columns[p], digits(columns[self.total])) for p in self.parts]
        return sum(e[0] for e in ends), sum(e[1] for e in ends)

    def always_fits(self, columns: Columns) -> bool:
        """Whether every sum of parts within their bounds lies within the total's."""
        low, high = reach(columns[self.total], digits(columns[self.total]))
        least, most = self.span(columns)
        return low <= least and most <= high


def digits(column: Column) -> int:
    """Digits after the point."""
    return column.decimals if isinstance(column, Decimal) else 0


def reach(column: Column, decimals: int) -> tuple[int, int]:
    """Least and greatest value of a number column, in steps of 10^-decimals."""
    units, scale = column.units if isinstance(column, Grid) else 1, 10 ** (decimals - digits(column))
    return origin(column) * scale, (origin(column) + units - 1) * scale


# ------------------------------------------------------------------------------------------------- constraints together
KINDS: dict[str, type[Constraint]] = {c.kind: c for c in (Inequality, FixedCombinations, Implied, Sum)}
"""Constraint classes by the word a schema file uses."""


def derived(constraints: Iterable[Constraint], columns: Columns) -> dict[str, Constraint]:
    """The columns that follow from others, with what they follow from, each after the derived columns it needs.

    Raises:
      SchemaError: a column follows from two constraints, or from itself.
    """
    found: dict[str, Constraint] = {}
    for constraint in constraints:
        name = constraint.derives(columns)
        if name is not None and name in found:
            raise constraint.error(f"column {name!r} already follows from another constraint")
        if name is not None:
            found[name] = constraint
    needs = {n: set(c.members) - {n} for n, c in found.items()}
    order = _ordered(needs, found)
    return {n: found[n] for n in order if n in found}


def _ordered(needs: Mapping[str, set[str]], rules: Mapping[str, Constraint]) -> list[str]:
    """Columns in an order in which each comes after those it needs."""
    try:
        return list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        circle = error.args[1]
    raise next(rules[n] for n in circle if n in rules).error("cyclic: the constraints run in a circle")


def components(constraints: Sequence[Constraint]) -> list[list[Constraint]]:
    """Constraints put together where they share a column, directly or by way of others; in order of first mention."""
    groups: list[list[Constraint]] = []
    for constraint in constraints:
        touching = [g for g in groups if any(set(constraint.members) & set(c.members) for c in g)]
        joined = [*itertools.chain.from_iterable(touching), constraint]
        groups = [g for g in groups if g not in touching] + [joined]
    return groups


def combinations(constraints: Iterable[Constraint], columns: Columns) -> list[FixedCombinations]:
    """All rules about combinations, mappings of some values among them."""
    listed: list[FixedCombinations] = []
    for constraint in constraints:
        if isinstance(constraint, FixedCombinations):
            listed.append(constraint)
        elif isinstance(constraint, Implied) and constraint.derives(columns) is None:
            listed += filter(None, [constraint.as_combinations(columns)])
    return listed


def check_constraints(constraints: Sequence[Constraint], columns: Sequence[Column]) -> None:
    """Raise SchemaError for the first constraint that does not fit the columns, or contradicts another."""
    by_name = {c.name: c for c in columns}
    if not all(isinstance(c, Constraint) for c in constraints):
        raise SchemaError("'constraints' must hold constraints such as Inequality(low='admitted', high='discharged').")
    for i, constraint in enumerate(constraints):
        _check_members(constraint, by_name)
        constraint.check(by_name)
        if constraint in constraints[:i]:
            raise constraint.error("it is given twice")
    follows = derived(constraints, by_name)
    for constraint in constraints:
        _check_derived(constraint, follows)
    least_values([c for c in constraints if isinstance(c, Inequality)], by_name)
    for group in components(combinations(constraints, by_name)):
        _check_combinations([c for c in group if isinstance(c, FixedCombinations)], by_name)
    _check_sums(constraints, by_name, follows)


def _check_members(constraint: Constraint, columns: Columns) -> None:
    for name in constraint.members:
        if name not in columns:
            raise constraint.error(f"the schema names no column {name[:60]!r}")
        if isinstance(columns[name], Identifier):
            raise constraint.error(f"{name!r} is an identifier, which is made up anew")
    if len(set(constraint.members)) < len(constraint.members):
        raise constraint.error("it names a column twice")


def _check_derived(constraint: Constraint, follows: Mapping[str, Constraint]) -> None:
    """A derived column may be what another is derived from, and nothing else."""
    if constraint in follows.values():
        return
    for name in constraint.members:
        if name in follows:
            raise constraint.error(f"{name!r} follows from other columns: write the rule in terms of those")


def least_values(inequalities: Sequence[Inequality], columns: Columns) -> dict[str, int]:
    """The least value of every column that obeys all `inequalities`, in its own steps.

    Raises:
      SchemaError: the inequalities run in a circle, or leave a column no value within its bounds.
    """
    needs: dict[str, set[str]] = {}
    for c in inequalities:
        needs.setdefault(c.high, set()).add(c.low)
    least: dict[str, int] = {}
    for name in _ordered(needs, {c.high: c for c in inequalities}):
        column = columns[name]
        above = [c for c in inequalities if c.high == name]
        least[name] = max([origin(column), *(least[c.low] + c.strict for c in above)])
        if least[name] >= origin(column) + (column.units if isinstance(column, Grid) else 1):
            raise above[-1].error(f"contradictory: it leaves {name!r} no value within its bounds")
    return least


def allowed_codes(group: Sequence[FixedCombinations], columns: Columns) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
    """The columns of a group of rules that share columns, and a table of which of their codes may occur together.

    The table has one axis per column and an entry per label, and one more for missing where the column may be missing:
    a rule with a missing member holds.
    """
    names = tuple(dict.fromkeys(n for c in group for n in c.members))
    allowed = np.ones([_codes(columns[n]) for n in names], dtype=np.bool_)
    for c in group:
        table = _allowed(c, columns)
        order = sorted(range(len(c.columns)), key=lambda i: names.index(c.columns[i]))
        sizes = [_codes(columns[n]) if n in c.columns else 1 for n in names]
        allowed &= np.transpose(table, order).reshape(sizes)
    return names, allowed


def _allowed(constraint: FixedCombinations, columns: Columns) -> NDArray[np.bool_]:
    members = [columns[n] for n in constraint.columns]
    table = np.full([_codes(c) for c in members], constraint.allowed is None)
    for entry in constraint.listed:
        table[tuple(code_of(c, v) for c, v in zip(members, entry, strict=True))] = constraint.allowed is not None
    for i, column in enumerate(members):
        if column.nullable:
            table[(slice(None),) * i + (-1,)] = True
    return table


def _codes(column: Column) -> int:
    return (len(column.labels) if isinstance(column, Discrete) else 0) + column.nullable


def _check_combinations(group: Sequence[FixedCombinations], columns: Columns) -> None:
    names = dict.fromkeys(n for c in group for n in c.members)
    if math.prod(_codes(columns[n]) for n in names) > MAX_COMBINATIONS:
        raise group[0].error(
            f"its columns, with those of rules that share one, have over {MAX_COMBINATIONS:,} combinations: use an "
            "'implied' column, or columns with fewer values"
        )
    _, allowed = allowed_codes(group, columns)
    shown = tuple(slice(len(c.labels)) if isinstance(c := columns[n], Discrete) else slice(None) for n in names)
    if not allowed[shown].any():
        raise group[-1].error("contradictory: it leaves no combination of values")


def _check_sums(constraints: Sequence[Constraint], columns: Columns, follows: Mapping[str, Constraint]) -> None:
    """Parts whose sum may leave the total's bounds are learned columns that nothing else is said about."""
    for constraint in constraints:
        if not isinstance(constraint, Sum) or constraint.always_fits(columns):
            continue
        free = [c for c in constraints if c is constraint or (isinstance(c, Sum) and c.always_fits(columns))]
        others = {m for c in constraints if c not in free for m in c.members}
        busy = [p for p in constraint.parts if p in follows or p in others]
        if busy:
            raise constraint.error(
                f"the sum can leave the total's bounds while another constraint speaks of {busy[0]!r}: widen the "
                f"bounds of {constraint.total!r} to those of the sum of its parts"
            )
        fitting_parts(constraint, columns)


def fitting_parts(constraint: Sum, columns: Columns) -> dict[str, int]:
    """Values of the parts, in their own steps, whose sum lies within the total's bounds.

    Raises:
      SchemaError: none was found, filling the parts from their low bounds, coarse steps first.
    """
    scale = digits(columns[constraint.total])
    low, high = reach(columns[constraint.total], scale)
    values = {p: origin(columns[p]) for p in constraint.parts}
    lacking = low - constraint.span(columns)[0]
    for name in sorted(values, key=lambda p: digits(columns[p])):
        column, step = columns[name], 10 ** (scale - digits(columns[name]))
        room = column.units - 1 if isinstance(column, Grid) else 0
        raised = min(room, max(0, lacking) // step)
        values[name], lacking = values[name] + raised, lacking - raised * step
    if lacking > 0 or low - lacking > high:
        raise constraint.error("contradictory: no sum of the parts was found within the total's bounds")
    return values
