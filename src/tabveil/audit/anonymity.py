"""How anonymous are the rows? The k-anonymity family, of the real table, the synthetic one, and one against the other.

Rows that agree in all quasi-identifiers (what others may know of a person) form a class. Measured over the declared
quasi-identifiers together, and over the worst subset of at most 4: an attacker seldom knows everything. A subset is
worst by its smallest class, then by the most rows in classes of that size, then by fewer columns; l, t and the rest are
measured on it too. Of one table against the other, it is worst by the most replicated uniques.

    for m in tabveil.audit.measure(synthetic, train=train, population=register, schema=schema):   # as declared
        print(m.table, m.name, m.columns, m.sensitive, m.value)
    measured(table, schema, policy=Policy(quasi_identifiers=("age", "zip"), bins={"age": 10}))     # one table

One attack comes with it, with its baseline and interval: do people who are unique among the real rows turn up in the
synthetic ones more often than people who were not in the table?

What it does not say: a synthetic row is nobody, so a k of the synthetic table alone says little; k-anonymity does not
compose over releases; and no value here bounds an epsilon.

Privacy: reads real rows outside any budget; every number is INTERNAL. It must not be used to drop synthetic rows: that
a combination is missing would then tell who was in the table (Ganev and De Cristofaro 2023, arXiv 2312.05114).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil.audit._classes import BINS, LARGEST, Cells, Classes, Cut, Missing, Numbers, Policy, Reader, View
from tabveil.audit._definitions import (
    K_MAP,
    OF_PAIRS,
    ORDERED,
    PRESENCE,
    REPLICATED,
    K,
    Measure,
    mapped,
    present,
    replicated,
    sizes,
)
from tabveil.audit._disclosure import Pairs, ordered_t
from tabveil.audit.base import ALPHA, AuditInput, Auditor, lacking
from tabveil.audit.rates import Count, beyond, finding
from tabveil.columns import Categorical, Grid
from tabveil.encoding import Codes
from tabveil.records import Finding, Measurement
from tabveil.schema import Schema

__all__ = ["BINS", "LARGEST", "Anonymity", "Pairs", "Policy", "measured"]

REAL, SYNTHETIC, POPULATION = "real", "synthetic", "population"

_AGAINST = f"{SYNTHETIC} against {REAL}"

_NAME = "Anonymity"

_THREAT = (
    "The attacker knows the quasi-identifiers of everybody, and of some people that nobody else has theirs; he looks "
    "for such people in the synthetic table."
)


class Anonymity(Auditor):
    """Classes of the schema's quasi-identifiers, counted; and real uniques looked for among synthetic rows.

    Args:
      bins, missing, largest: as in `Policy`.
    """

    takes = "`quasi_identifiers` in the schema, and for its attack training and held-out rows that are unique in them"

    def __init__(
        self, *, bins: int | Mapping[str, Cut] | None = BINS, missing: Missing = "value", largest: int = LARGEST
    ) -> None:
        self._bins, self._missing, self._largest = bins, missing, largest

    def policy(self, schema: Schema) -> Policy | None:
        """The policy for a schema; None where it declares no quasi-identifier."""
        if not schema.quasi_identifiers:
            return None
        return Policy(
            quasi_identifiers=schema.quasi_identifiers,
            sensitive=schema.sensitive,
            bins=self._bins,
            missing=self._missing,
            largest=self._largest,
        )

    def why_not(self, data: AuditInput) -> str:
        """There must be declared quasi-identifiers, and rows unique in them on both sides."""
        policy = self.policy(data.schema)
        if policy is None:
            return f"{_NAME} was not measured: the schema declares no quasi-identifiers."
        reason = lacking(data, roles=("holdout", "train", "synthetic"), what="Whether unique people turn up")
        if reason or all(c.tries for c in _uniques(data, policy)):
            return reason
        return (
            "Whether unique people turn up was not measured: no training row, or no held-out row, is unique in its "
            "quasi-identifiers among all rows of both."
        )

    def compute(self, data: AuditInput) -> list[Finding]:
        """One finding: real rows that are unique in their quasi-identifiers and turn up among the synthetic ones; its
        control is the same for held-out rows, its baseline the upper end of the control's interval.
        """
        policy = self.policy(data.schema)
        if policy is None or self.why_not(data):
            return []
        attack, control = _uniques(data, policy)
        found = finding(
            auditor=self.plugin_name(),
            name="people unique in their quasi-identifiers who turn up among synthetic rows",
            attack=attack,
            baseline=control,
            control=control,
            confidence=1 - ALPHA,
            verdict=lambda found: _verdict(found, attack, control),
            threat_model=_THREAT,
            targets=f"{attack.tries:,} training and {control.tries:,} held-out rows that are unique in them",
            seed=data.random_state,
            cost=f"a comparison with {len(data.synthetic):,} synthetic rows, no fit",
        )
        return [found]

    def measure(self, data: AuditInput) -> list[Measurement]:
        """Every measure of the real and the synthetic table, and of one against the other; of tables that have rows."""
        policy = self.policy(data.schema)
        if policy is None:
            return []
        frames = {REAL: data.train, SYNTHETIC: data.synthetic, POPULATION: data.population}
        given = {t: f for t, f in frames.items() if f is not None}
        return _measured(View(data.schema, policy), given, alone=(REAL, SYNTHETIC))


def measured(table: pd.DataFrame, schema: Schema, *, policy: Policy, name: str = REAL) -> tuple[Measurement, ...]:
    """Every measure of one table by itself; none where no row is left.

    Args:
      table: holds the columns that `policy` names, typed or as text.
      schema: what these columns are.
      policy: what an attacker knows, and how cells are read.
      name: what to call the table.

    Raises:
      UsageError: the policy names what the schema does not have, or cuts what cannot be cut.
      DataError: the table lacks a column.

    Privacy: reads the table outside any budget.
    """
    return tuple(_measured(View(schema, policy), {name: table}, alone=(name,)))


# -------------------------------------------------------------------------------------------------------------- attack


def _uniques(data: AuditInput, policy: Policy) -> tuple[Count, Count]:
    """Training rows, and held-out rows, that are unique among both together: how many turn up among synthetic rows."""
    view = View(data.schema, policy)
    roles = ("train", "holdout", "synthetic")
    known = {r: view.read(getattr(data, r), role=r, hidden=False).known for r in roles}
    rows = Classes.joint(known, view.sizes).rows
    once = rows["train"] + rows["holdout"] == 1
    there = rows["synthetic"] > 0
    ours, others = (once & (rows[role] == 1) for role in ("train", "holdout"))
    return _share(ours, there), _share(others, there)


def _share(classes: NDArray[np.bool_], there: NDArray[np.bool_]) -> Count:
    return Count(int((classes & there).sum()), int(classes.sum()))


def _verdict(found: Finding, attack: Count, control: Count) -> str:
    shares = f"{attack.hits:,} of {attack.tries:,} training rows that are unique turn up among the synthetic rows"
    fresh = f"{control.hits:,} of {control.tries:,} unique held-out rows"
    if beyond(found):
        return f"{shares}, a larger share than the {fresh} that do: people who stand out are repeated."
    return f"{shares} and {fresh} do: no larger a share, chance allowed for, which says nothing about other attacks."


# ------------------------------------------------------------------------------------------------------------ measures


@dataclass(frozen=True)
class _Worst:
    """The worst subset found so far, and by which standing: less is worse, and of equals the earlier columns."""

    subset: tuple[int, ...] = ()
    standing: tuple[int, ...] = ()

    def or_worse(self, subset: tuple[int, ...], standing: tuple[int, ...]) -> _Worst:
        worse = not self.standing or (standing, subset) < (self.standing, self.subset)
        return _Worst(subset, standing) if worse else self


@dataclass(frozen=True)
class _Scope:
    """What a number is of: a table, or one against another, and positions of the quasi-identifiers taken together."""

    table: str
    subset: tuple[int, ...]


def _measured(view: View, frames: Mapping[str, pd.DataFrame], *, alone: tuple[str, ...]) -> list[Measurement]:
    read = {t: view.read(f, role=t, hidden=t in alone) for t, f in frames.items()}
    cells = {t: c for t, c in read.items() if len(c)}
    return list(_Counted(view, cells, alone=alone).all()) if cells else []


class _Counted:
    """Tables under one view, counted once, and every measure of them.

    Args:
      view: the columns that matter, and how they are read.
      cells: tables by name, each with rows; at least one.
      alone: names of those that are measured by themselves; another is what they are measured against.
    """

    def __init__(self, view: View, cells: Mapping[str, Cells], *, alone: tuple[str, ...]) -> None:
        self._view, self._cells = view, cells
        self._alone = [t for t in cells if t in alone]
        self._classes = Classes.joint({t: c.known for t, c in cells.items()}, view.sizes)

    def all(self) -> Iterator[Measurement]:
        """By itself each table, then one against the other; over all quasi-identifiers, then over the worst subset."""
        worst = self._worst()
        for table in self._alone:
            for scope in self._scopes(table, worst[table]):
                yield from self._by_itself(scope)
        if len(self._alone) == 2:
            for scope in self._scopes(_AGAINST, worst[_AGAINST]):
                yield from self._against(scope)
        if len(self._cells) > len(self._alone):
            for table in self._alone:
                yield from self._in_population(table)

    def _scopes(self, table: str, worst: _Worst) -> list[_Scope]:
        """All quasi-identifiers, and the worst subset where that is another."""
        whole = tuple(range(len(self._view.known)))
        return [_Scope(table, subset) for subset in dict.fromkeys((whole, worst.subset))]

    def _worst(self) -> dict[str, _Worst]:
        """The worst subset of each table by itself, and of one against the other; one pass over all subsets."""
        worst = {name: _Worst() for name in (*self._alone, _AGAINST)}
        if not self._alone:
            return worst
        for subset, rows in self._classes.subsets(self._view.policy.largest, self._alone):
            for table, counts in zip(self._alone, rows, strict=True):
                least = int(counts[counts > 0].min())
                hit = int((counts == least).sum()) * least
                worst[table] = worst[table].or_worse(subset, (least, -hit, len(subset)))
            if len(rows) == 2:
                hit = int(replicated(*rows).sum())
                worst[_AGAINST] = worst[_AGAINST].or_worse(subset, (-hit, len(subset)))
        return worst

    # ------------------------------------------------------------------------------------------------- by itself

    def _by_itself(self, scope: _Scope) -> Iterator[Measurement]:
        classes = self._under(scope)
        rows, of = classes.rows[scope.table], classes.of[scope.table]
        yield self._said(K, float(rows[rows > 0].min()), scope=scope, details=sizes(rows))
        for reader, values in zip(self._view.hidden, self._cells[scope.table].hidden, strict=True):
            yield from self._of_column(scope, reader=reader, values=values, of=of)

    def _of_column(self, scope: _Scope, *, reader: Reader, values: Numbers, of: Codes) -> Iterator[Measurement]:
        dropped = self._view.policy.missing == "drop"
        kept = values != reader.missing if dropped else np.ones(len(values), dtype=bool)
        if not kept.any():
            return
        pairs = Pairs.of(of[kept], values[kept])
        for measure, function in OF_PAIRS:
            yield self._said(measure, float(function(pairs)), scope=scope, details=_counts(pairs), hidden=reader)
        placed = values < reader.bins
        if _is_ordered(reader) and placed.any():
            pairs = pairs if placed.all() else Pairs.of(of[placed], values[placed])
            yield self._said(ORDERED, ordered_t(pairs), scope=scope, details=_counts(pairs), hidden=reader)

    # ------------------------------------------------------------------------------------- one against the other

    def _against(self, scope: _Scope) -> Iterator[Measurement]:
        rows = self._under(scope).rows
        real, synthetic = rows[REAL], rows[SYNTHETIC]
        once, twice = replicated(real, synthetic), (real == 1) & (synthetic == 1)
        numbers = {
            "unique_rows": float((real == 1).sum()),
            "replicated_rows": float(once.sum()),
            "unique_in_both": float(twice.sum()),
        }
        yield self._said(REPLICATED, float(once.sum() / real.sum()), scope=scope, details=numbers)
        value, numbers = mapped(synthetic, real)
        yield self._said(K_MAP, value, scope=scope, details=numbers)

    def _in_population(self, table: str) -> Iterator[Measurement]:
        scope = _Scope(f"{table} against {POPULATION}", tuple(range(len(self._view.known))))
        ours, theirs = self._classes.rows[table], self._classes.rows[POPULATION]
        value, numbers = mapped(ours, theirs)
        yield self._said(K_MAP, value, scope=scope, details=numbers)
        if table == REAL:
            value, numbers = present(ours, theirs)
            yield self._said(PRESENCE, value, scope=scope, details=numbers)

    # ---------------------------------------------------------------------------------------------------- records

    def _under(self, scope: _Scope) -> Classes:
        whole = len(scope.subset) == len(self._view.known)
        return self._classes if whole else self._classes.within(scope.subset)

    def _said(
        self,
        measure: Measure,
        value: float,
        *,
        scope: _Scope,
        details: Mapping[str, float],
        hidden: Reader | None = None,
    ) -> Measurement:
        known = [self._view.known[i] for i in scope.subset]
        out = {f"left_out_{t}": float(c.left_out) for t, c in self._cells.items() if t in scope.table and c.left_out}
        return Measurement(
            auditor=Anonymity.plugin_name(),
            name=measure.name,
            table=scope.table,
            columns=tuple(r.column.name for r in known),
            sensitive="" if hidden is None else hidden.column.name,
            value=value,
            goal=measure.goal,
            definition=measure.definition,
            source=measure.source,
            details={**details, **out},
            notes=self._view.notes(*known, *([] if hidden is None else [hidden])),
        )


def _counts(pairs: Pairs) -> dict[str, float]:
    """Different sensitive values of the table, and rows that show one."""
    return {"values": float(len(pairs.whole)), "rows": float(pairs.rows.sum())}


def _is_ordered(reader: Reader) -> bool:
    column = reader.column
    return isinstance(column, Grid) or (isinstance(column, Categorical) and column.ordered)
