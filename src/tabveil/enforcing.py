"""Constraints on codes: weights for a graphical model, draws that obey them, columns that follow, and a check.

Three ways, the first that fits: what follows from other columns is computed (`derive`); inequalities in a chain and
listed combinations weigh the cells of the model and are drawn jointly within them, by their exact conditional law;
all else (inequalities that branch, sums that can leave the total's bounds) is drawn within its cells until it holds,
at most PASSES times. Rows that still break a rule are drawn anew, model and all, at most PASSES times, at least POOL
draws at a time; then they take the values of a row that obeys. Where no row does, public values that do stand in, or,
if conditions or shares of a label are asked as well, that is an error.

Privacy: post-processing. Constraints are public knowledge, axes hold charged counts, no private row is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from tabveil import constraints as rules
from tabveil._groups import PASSES, Mask, groups_of, implied_codes, obeys, some_missing, summed_codes
from tabveil.constraints import Implied, Sum, origin
from tabveil.encoding import INVALID, Axis, Codes, CodeSet, parse, size
from tabveil.errors import UsageError
from tabveil.graphical_model import Factor
from tabveil.schema import Schema

POOL = 1_000
"""Rows drawn at least at once for those that break a constraint, so that few rows have as many tries as many have."""


def violations(schema: Schema, frame: pd.DataFrame) -> dict[str, int]:
    """How many rows of `frame` break each constraint of `schema`, by the constraint in words.

    Cells that their column does not allow count as missing: they are another check's business.

    Privacy: of a synthetic table these numbers may be published; of a private one they are for the curator alone.
    """
    columns = {c.name: c for c in schema.learned}
    codes = {}
    for name in dict.fromkeys(m for c in schema.constraints for m in c.members):
        found, bad = parse(columns[name], frame[name])
        codes[name] = np.where(bad, size(columns[name]), found)
    return {str(c): int((~obeys(c, columns, codes)).sum()) for c in schema.constraints}


class Rules:
    """All constraints of a schema, ready to be enforced on codes."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.columns = {c.name: c for c in schema.learned}
        self.groups = groups_of(schema, self.columns)

    def factors(self, axes: Sequence[Axis], sizes: Sequence[int] | None = None) -> list[Factor]:
        """Weights of cells for `graphical_model.estimate`, attributes being positions in `axes`.

        Where `axes` are restricted, `sizes` are the cells of the model's own: the tables are over the columns that the
        model's factors are over.
        """
        place = {a.column.name: i for i, a in enumerate(axes)}
        named = {a.column.name: a for a in axes}
        whole = dict(zip(named, [a.size for a in axes] if sizes is None else sizes, strict=True))
        tables = [f for g in self.groups for f in g.factors(named, whole)]
        return [Factor(tuple(place[n] for n in names), table) for names, table in tables]

    def draw(self, axes: Sequence[Axis], cells: Codes, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes of every axis given cells, shape (rows, axes), drawn so that constraints hold wherever they can."""
        at = {a.column.name: cells[:, i] for i, a in enumerate(axes)}
        named = {a.column.name: a for a in axes}
        drawn = {n: c for g in self.groups for n, c in g.draw(named, at, rng).items()}
        return {n: drawn[n] if n in drawn else a.draw(at[n], rng) for n, a in named.items()}

    def given(
        self, axes: Sequence[Axis], cells: Codes, known: Mapping[str, Codes], rng: np.random.Generator
    ) -> dict[str, Codes]:
        """As `draw`, around the `known` codes of columns, which stay; INVALID where a row's is not known."""
        at = {a.column.name: cells[:, i] for i, a in enumerate(axes)}
        named = {a.column.name: a for a in axes}
        drawn = self.draw(axes, cells, rng)
        for g in self.groups:
            fixed = np.stack([known[n] != INVALID for n in g.names])
            rows = np.flatnonzero(fixed.any(axis=0) & ~fixed.all(axis=0))
            part, kept = ({n: c[n][rows] for n in g.names} for c in (at, known))
            for n, c in g.given(named, part, kept, rng).items() if len(rows) else ():
                drawn[n][rows] = c
        return {n: np.where(known[n] == INVALID, c, known[n]) for n, c in drawn.items()}

    def known(self, codes: Mapping[str, Codes]) -> dict[str, Codes]:
        """Known codes of every learned column, INVALID where missing; the one unknown part of a known sum is computed.

        Args:
          codes: of at least one column, missing where unknown.
        """
        rows = len(next(iter(codes.values())))
        found = {n: np.full(rows, INVALID, dtype=np.int64) for n in self.columns}
        for n, c in codes.items():
            found[n] = np.where(c == size(self.columns[n]), INVALID, c)
        for constraint in reversed(self._schema.derived.values()):
            if isinstance(constraint, Sum):
                for part in constraint.parts:
                    self._solve(constraint, part, found)
        return found

    def _solve(self, constraint: Sum, part: str, found: dict[str, Codes]) -> None:
        """Set `part` in rows that know the total and every other part, where a value within its bounds is left."""
        column, total = self.columns[part], self.columns[constraint.total]
        rest = summed_codes(constraint, self.columns, {**found, part: np.full_like(found[part], -origin(column))})
        step = 10 ** (rules.digits(total) - rules.digits(column))
        left = found[constraint.total] + origin(total) - rest
        code = left // step - origin(column)
        open_ = (found[part] == INVALID) & (left % step == 0) & (code >= 0) & (code < size(column))
        others = [found[n] != INVALID for n in constraint.members if n != part]
        found[part] = np.where(open_ & np.logical_and.reduce(others), code, found[part])

    def implied(self, known: Mapping[str, Codes]) -> dict[str, Codes]:
        """Known codes of implied columns in rows that do not know what implies them; INVALID elsewhere."""
        return {
            name: np.where(known[c.given] == INVALID, known[name], INVALID)
            for name, c in self._schema.derived.items()
            if isinstance(c, Implied)
        }

    def broken(self, codes: Mapping[str, Codes]) -> Codes:
        """How many groups of constraints, and constraints of computed columns, each row breaks."""
        computed = [obeys(c, self.columns, codes) for c in self._schema.derived.values()]
        none = np.zeros(len(next(iter(codes.values()))), dtype=np.int64)
        return np.asarray(none + sum(~kept for kept in (*computed, *(g.holds(codes) for g in self.groups))))

    def around(self, codes: Mapping[str, Codes], known: Mapping[str, Codes]) -> dict[str, Codes]:
        """`codes` and the columns that follow from them, known codes kept; a sum that known parts carry out of its
        total's bounds stops there.
        """
        every = dict(codes)
        for name, constraint in self._schema.derived.items():
            found, most = self.derive(every, only=name)[name], size(self.columns[name]) - 1
            missing = some_missing(constraint, self.columns, every, skip=name)
            found = np.where(missing, found, np.clip(found, 0, most))
            every[name] = np.where(known[name] == INVALID, found, known[name])
        return every

    def joined(self) -> list[tuple[int, int]]:
        """Pairs of positions in `schema.modelled` that constraints join, without a circle among them."""
        place = {c.name: i for i, c in enumerate(self._schema.modelled)}
        component = np.arange(len(place))
        pairs: list[tuple[int, int]] = []
        for a, b in ((place[a], place[b]) for g in self.groups for a, b in g.pairs()):
            if component[a] != component[b]:
                component[component == component[b]] = component[a]
                pairs.append((min(a, b), max(a, b)))
        return pairs

    def hold(self, codes: Mapping[str, Codes]) -> Mask:
        """Which rows obey all constraints that are not obeyed by computing a column."""
        rows = len(next(iter(codes.values())))
        return np.asarray(
            np.logical_and.reduce([np.ones(rows, dtype=np.bool_), *(g.holds(codes) for g in self.groups)])
        )

    def derive(self, codes: Mapping[str, Codes], *, only: str | None = None) -> dict[str, Codes]:
        """`codes` and the columns that follow from them, or one of these."""
        every = dict(codes)
        for name, constraint in self._schema.derived.items():
            if only not in (None, name):
                continue
            column = self.columns[name]
            if isinstance(constraint, Implied):
                every[name] = implied_codes(constraint, self.columns, every)
            elif isinstance(constraint, Sum):
                every[name] = summed_codes(constraint, self.columns, every) - origin(column)
            missing = some_missing(constraint, self.columns, every, skip=name)
            every[name][missing] = size(column)
        return every

    def obeyed(
        self,
        draw: Callable[[Codes], dict[str, Codes]],
        rows: int,
        rng: np.random.Generator,
        *,
        kind: Codes | None = None,
        free: bool = True,
    ) -> dict[str, Codes]:
        """Codes of `rows` rows for every learned column, every constraint obeyed in every row.

        Args:
          draw: codes of every modelled column for the rows at some positions, which may repeat; anew at each call.
          rows: how many.
          rng: source of chance.
          kind: shape (rows,), what each row was asked to be; a row takes no values from one of another kind.
          free: nothing is asked of rows but the rules, so that public values may stand in where no row obeys.

        Raises:
          UsageError: something is asked, and no row that obeys was drawn.
        """
        codes = draw(np.arange(rows))
        broken = np.flatnonzero(~self.hold(codes))
        for _ in range(PASSES):
            if not len(broken):
                break
            tries = np.resize(broken, max(len(broken), POOL))
            fresh = draw(tries)
            sound = np.flatnonzero(self.hold(fresh))
            mended, first = np.unique(tries[sound], return_index=True)
            for n, c in fresh.items():
                codes[n][mended] = c[sound[first]]
            broken = np.setdiff1d(broken, mended)
        if len(broken):
            self._mend(codes, broken, np.zeros(rows, dtype=np.int64) if kind is None else kind, rng)
            self._stand_in(codes, free=free and kind is None)
        return self.derive(codes)

    def on_modelled(self, allowed: Mapping[str, CodeSet]) -> dict[str, CodeSet]:
        """Conditions on columns that a model holds: one on an implied column becomes one on what implies it.

        Raises:
          UsageError: a condition on a sum, which depends on several columns at once.
        """
        found = dict(allowed)
        for name, constraint in reversed(self._schema.derived.items()):
            if name not in found:
                continue
            if not isinstance(constraint, Implied):
                raise UsageError(f"Column {name!r}, in a condition: it is a sum; give conditions on its parts.")
            column = self.columns[constraint.given]
            codes = np.arange(size(column) + column.nullable)
            follows = implied_codes(constraint, self.columns, {constraint.given: codes})
            follows[codes == size(column)] = size(self.columns[name])
            wanted = found.pop(name).holds(self.columns[name], follows)
            if constraint.given in found:
                wanted &= found[constraint.given].holds(column, codes)
            values = codes[wanted & (codes < size(column))].tolist()
            found[constraint.given] = CodeSet.of(
                [(v, v + 1) for v in values], missing=bool(wanted[size(column) :].any())
            )
        return found

    def _mend(self, codes: dict[str, Codes], broken: Codes, kind: Codes, rng: np.random.Generator) -> None:
        """Give `broken` rows the values of rows of their kind that obey, where there are any."""
        sound = np.setdiff1d(np.arange(len(kind)), broken)
        for one in np.unique(kind[broken]).tolist():
            into, able = broken[kind[broken] == one], sound[kind[sound] == one]
            if len(able):
                donors = rng.choice(able, len(into))
                for values in codes.values():
                    values[into] = values[donors]

    def _stand_in(self, codes: dict[str, Codes], *, free: bool) -> None:
        """Public values that obey for rows that still do not; where something else is asked of rows, an error."""
        broken = np.flatnonzero(~self.hold(codes))
        if not len(broken):
            return
        if not free:
            raise UsageError(
                "No row of the model that was drawn obeys the rules and the conditions together: ask for less."
            )
        for name, code in ((n, c) for g in self.groups for n, c in g.witness().items()):
            codes[name][broken] = code
