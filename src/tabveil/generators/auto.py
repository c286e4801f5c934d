"""Chooses one of the other generators from what is public, and says why.

`choose` is a function of the schema and the budget: how many columns and rows there are, against the noise that the
budget buys. Its thresholds were measured (benchmarks/auto_choice.py) on tables other than the headline's.

Privacy: the choice is made before a table is opened and depends on public knowledge alone (unit, relation and events
are the chosen generator's); everything charged, read and drawn is done by the generator chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tabveil.accounting import Spend
from tabveil.conditions import Conditions
from tabveil.encoding import Codes
from tabveil.errors import UsageError
from tabveil.generators._saved import Arrays
from tabveil.generators.base import Drawn, Generator, Plan, Progress, check_delta, check_epsilon, create
from tabveil.mechanisms import PrivateRows
from tabveil.records import Record
from tabveil.schema import Schema

CANDIDATES = ("independent", "mst", "aim")
"""What is chosen among; each keeps constraints."""

ASSUMED_ROWS = 3_000
"""Rows of a table whose schema does not say how many it has, for the choice only: few, since noise taken for dependence
does more harm than dependence left out."""

PAIRS_FROM = 100.0
"""Rows per standard deviation of noise from which pairs of columns are worth counting."""

TRIPLES_FROM = 600.0
"""Rows per standard deviation of noise from which sets of three columns are worth counting."""

WIDE = 64
"""With more columns than this, sets of three crowd the pairs out of a model of the usual size."""


@dataclass(frozen=True)
class Choice(Record):
    """Which generator a fit uses, and why.

    Attributes:
      name: plugin name.
      options: its options where they are not its defaults.
      reasons: short sentences; they hold public knowledge only.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plan(Plan):
    """A plan that knows which generator made it."""

    choice: Choice = field(default_factory=lambda: Choice(""))


def choose(schema: Schema, *, epsilon: float, delta: float | None = None) -> Choice:
    """The generator for a table under `schema`, from public knowledge alone.

    Args:
      schema: what is public; a draft will do.
      epsilon: budget of one fit, above 0; inf allowed.
      delta: in [0, 1); asked for wherever epsilon is finite.

    Raises:
      UsageError: epsilon or delta out of range.
    """
    epsilon = check_epsilon(epsilon)
    delta, columns = check_delta(delta, epsilon), len(schema.modelled)
    if columns < 2:
        return Choice("independent", reasons=("There is one column to learn, and so no dependence between columns.",))
    noise = expected_noise(schema, epsilon=epsilon, delta=delta)
    rows = schema.public_rows or ASSUMED_ROWS
    name, why = _by_strength(rows / noise if noise else math.inf, columns)
    return Choice(name, reasons=(_about_rows(schema), _about_noise(noise, columns), why))


def expected_noise(schema: Schema, *, epsilon: float, delta: float) -> float:
    """Standard deviation of the noise in each cell, in rows, if the whole budget counted as many tables as there are
    columns; 0 where epsilon is inf.

    A rule of thumb in closed form, so that the same schema and budget give the same choice under any accountant: zCDP
    (Bun & Steinke 2016, Proposition 1.3) for delta above 0, the Laplace mechanism for delta 0. It is up to 1.6 times
    what would be charged, most where epsilon is small; nothing is charged by it.
    """
    columns, k = len(schema.modelled), schema.contributions
    if not math.isfinite(epsilon):
        return 0.0
    if delta == 0:
        return math.sqrt(2) * k * columns / epsilon
    room = math.log(1 / delta)
    root_of_rho = epsilon / (math.sqrt(room + epsilon) + math.sqrt(room))
    return k * math.sqrt(columns / 2) / root_of_rho


def _by_strength(strength: float, columns: int) -> tuple[str, str]:
    """The candidate for a table with `strength` rows per standard deviation of noise, and the rule that says so."""
    if strength < PAIRS_FROM:
        return "independent", (
            f"That is less than {PAIRS_FROM:g} rows per standard deviation: counts of pairs would be mostly noise, so "
            "the budget goes to single columns."
        )
    if strength < TRIPLES_FROM:
        return "mst", (
            f"That is from {PAIRS_FROM:g} to {TRIPLES_FROM:g} rows per standard deviation: enough for pairs of "
            "columns, too little for sets of three."
        )
    if columns > WIDE:
        return "mst", f"With more than {WIDE} columns, sets of three would crowd pairs out of the model."
    return "aim", f"That is {TRIPLES_FROM:g} rows per standard deviation or more: enough for sets of three columns."


def _about_rows(schema: Schema) -> str:
    if schema.public_rows is None:
        return (
            f"The schema declares no row count: {ASSUMED_ROWS:,} rows are assumed (where the count is public, "
            "public_rows makes a better choice)."
        )
    return f"The schema declares {schema.public_rows:,} rows."


def _about_noise(noise: float, columns: int) -> str:
    if not noise:
        return "Epsilon is inf: no noise is added."
    return (
        f"One count table for each of {columns} columns would carry noise with a standard deviation of about "
        f"{noise:,.3g} rows in every cell."
    )


class Auto(Generator):
    """Another generator, chosen by public knowledge alone.

    Args as `Generator`. Whoever wants other options than the chosen generator's defaults names the generator.
    """

    guarantee: ClassVar[str] = "That of the generator it chooses by the schema and the budget, before a row is read."

    keeps_constraints: ClassVar[bool] = True
    conditional: ClassVar[bool] = True

    def __init__(
        self,
        *,
        epsilon: float,
        delta: float | None = None,
        random_state: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(epsilon=epsilon, delta=delta, random_state=random_state, progress=progress)
        self._fitted: tuple[Choice, Generator] | None = None

    @property
    def choice(self) -> Choice:
        """What was chosen for this fit, and why; raises UsageError before one."""
        return self._held()[0]

    @property
    def chosen(self) -> Generator:
        """The fitted generator that was chosen; raises UsageError before a fit."""
        return self._held()[1]

    def _held(self) -> tuple[Choice, Generator]:
        if self._fitted is None or self._schema is None:
            raise UsageError("Auto is not fitted yet: call fit first.")
        return self._fitted

    def settings(self) -> dict[str, Any]:
        """The options, and what was chosen and why."""
        own = {f"{self.choice.name} {k}": v for k, v in self.choice.options.items()}
        return super().settings() | {"chosen": self.choice.name, **own, "because": " ".join(self.choice.reasons)}

    def plan(self, schema: Schema) -> Plan:
        """The price of a fit under `schema` by the generator chosen for it; raises as `Generator.plan` does."""
        return _Plan(**vars(super().plan(schema)), choice=self._choose(schema))

    def expected_seconds(self, schema: Schema) -> float | None:
        """What the chosen generator expects a fit under `schema` to take; None where it does not say."""
        return self._made(self._choose(schema)).expected_seconds(schema)

    def delegate(self, schema: Schema) -> Generator:
        """The generator chosen for `schema`."""
        return self._made(self._choose(schema))

    def reasons(self, schema: Schema) -> tuple[str, ...]:
        """Why it is chosen."""
        return self._choose(schema).reasons

    def _choose(self, schema: Schema) -> Choice:
        return choose(schema, epsilon=self.epsilon, delta=self.delta)

    def _made(self, choice: Choice) -> Generator:
        shared: Mapping[str, Any] = {"random_state": self.random_state, "progress": self.progress}
        return create(choice.name, epsilon=self.epsilon, delta=self.delta, **shared, **choice.options)

    def _spends(self, schema: Schema) -> tuple[Spend, ...]:
        return self._made(self._choose(schema))._spends(schema)

    def _learn(self, rows: PrivateRows, plan: Plan) -> None:
        """Fit what the plan chose: what was charged is what it asks for."""
        choice = plan.choice if isinstance(plan, _Plan) else self._choose(self.schema)
        made = self._made(choice)
        made._schema = self.schema
        made._learn(rows, plan)
        self._fitted = choice, made

    def _draw(self, rows: int, rng: np.random.Generator) -> Mapping[str, Codes]:
        return self.chosen._draw(rows, rng)

    def _draw_given(self, rows: int, conditions: Conditions, rng: np.random.Generator) -> Drawn:
        return self.chosen._draw_given(rows, conditions, rng)

    def _complete(self, codes: Mapping[str, Codes], draws: int, rng: np.random.Generator) -> Sequence[dict[str, Codes]]:
        return self.chosen._complete(codes, draws, rng)

    def _default_rows(self) -> int:
        return self.chosen._default_rows()

    def _state(self) -> tuple[Arrays, dict[str, Any]]:
        arrays, state = self.chosen._state()
        return arrays, {"choice": self.choice.to_dict(), "chosen": state}

    def _restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        choice = Choice.from_dict(state["choice"])
        made = self._made(choice)
        made._schema = self.schema
        made._restore(arrays, state["chosen"])
        self._fitted = choice, made
