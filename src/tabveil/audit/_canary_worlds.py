"""Two neighbouring tables as far apart as one unit can put them, of made-up rows.

The smaller table holds rows of two kinds; the other one holds a unit more whose rows lie beyond them in every column:
nothing in the table hides it, and every histogram moves by all that one unit may move it ("worst-case
neighbours": Jagielski, Ullman, Oprea 2020, "Auditing differentially private machine learning"; Annamalai, Ganev, De
Cristofaro 2024, "What do you want from theory alone?"). A person brings more rows than the schema allows one, so that
a generator which fails to bound them is told from one which does.

Privacy: made of public knowledge alone; no row of anybody is in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil.columns import Column, Date, Decimal, Identifier
from tabveil.encoding import Axis, Codes, decode, encode, size
from tabveil.errors import UsageError
from tabveil.mechanisms import Question
from tabveil.schema import Schema

Ints = NDArray[np.int64]

ROWS = 20
"""Rows of the smaller table: enough to be modelled, few enough for one unit to matter."""

BEYOND = 3
"""A person brings so many times the rows that the schema allows one."""


@dataclass(frozen=True, eq=False)
class World:
    """Neighbouring tables, and what a correct fit may count of each.

    Attributes:
      schema: public knowledge; bounds and categories may still be unknown.
      tables: without the further unit, and with it.
      counted: the rows of each that a correct fit counts: at most k of the further unit's.
    """

    schema: Schema
    tables: tuple[pd.DataFrame, pd.DataFrame]
    counted: tuple[pd.DataFrame, pd.DataFrame]

    def exact(self, axes: Sequence[Axis]) -> tuple[Ints, Ints]:
        """Exact counts of both tables over the cells of `axes`, one array axis each."""
        shape = [a.size for a in axes]

        def count(which: int) -> Ints:
            cells = np.stack([a.cells(self._codes(a.column)[which]) for a in axes])
            inside = cells[:, (cells >= 0).all(axis=0)]
            return np.bincount(np.ravel_multi_index(tuple(inside), shape), minlength=int(np.prod(shape))).reshape(shape)

        return count(0), count(1)

    def _codes(self, column: Column) -> tuple[Codes, Codes]:
        """Codes of a column of both tables, made once for each form in which it was learned."""
        if column not in self._known:
            without, with_it = (encode(column, table[column.name]) for table in self.counted)
            self._known[column] = without, with_it
        return self._known[column]

    @cached_property
    def _known(self) -> dict[Column, tuple[Codes, Codes]]:
        return {}

    def surveyed(self, question: Question) -> tuple[Ints, Ints]:
        """Exact answers of both tables to a question about raw values."""

        def count(table: pd.DataFrame) -> Ints:
            bins = question.bin_of(table[question.column])
            return np.bincount(bins[bins >= 0], minlength=question.bins)

        return count(self.counted[0]), count(self.counted[1])

    @cached_property
    def odd(self) -> dict[str, object]:
        """What the further unit's rows hold, by learned column."""
        return {c.name: self.tables[1][c.name].iloc[-1] for c in self.schema.learned}


def worst_case(schema: Schema, *, table: pd.DataFrame | None = None, nameless: bool = False) -> World:
    """The neighbours for a schema.

    Args:
      schema: approved, without constraints.
      table: the smaller one, made up, each row a unit of its own; ROWS rows of two kinds by default.
      nameless: the further unit's rows name no unit: all such rows are one.

    Raises:
      UsageError: constraints, or `nameless` without a privacy unit.
    """
    if schema.constraints or (nameless and not schema.privacy_unit):
        raise UsageError("Worst-case neighbours need a schema without constraints, and nameless ones a privacy unit.")
    kept = schema.contributions
    held = BEYOND * kept if schema.privacy_unit else 1
    usual, odd = _rows(schema, ROWS, 0) if table is None else table.copy(), _rows(schema, held, 1)
    if schema.privacy_unit:
        usual[schema.privacy_unit] = [f"person {i}" for i in range(len(usual))]
        odd[schema.privacy_unit] = None if nameless else "the further person"
    whole, bounded = (pd.concat([usual, odd[:n]], ignore_index=True) for n in (held, kept))
    return World(schema, (usual, whole), (usual, bounded))


def _rows(schema: Schema, rows: int, which: int) -> pd.DataFrame:
    columns = {c.name: _cells(c, rows, which) for c in schema.columns}
    return pd.DataFrame(columns)


def _cells(column: Column, rows: int, which: int) -> pd.Series:
    """A column of the smaller table's rows (0), in the lower half of its values, or of the further unit's (1), its last
    one. The smaller table has two values, so that scaling to what is there would move its rows once the unit is in.
    """
    if isinstance(column, Identifier):
        return pd.Series([f"row {which}.{i}" for i in range(rows)], dtype=object)
    if column.unknown:
        numbers = ("1", "2", "9.25" if isinstance(column, Decimal) else "9")
        texts = ("2001-02-03", "2002-03-04", "2019-08-07") if isinstance(column, Date) else numbers
        return pd.Series([texts[2 if which else i % 2] for i in range(rows)], dtype=object)
    last = size(column) - 1
    return decode(column, np.full(rows, last) if which else np.where(np.arange(rows) % 2, last // 2, last // 4))
