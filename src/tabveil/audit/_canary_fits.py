"""Many cheap fits of one generator to two neighbouring tables, overheard and sampled from.

Privacy: the tables are made up. Fits pay from a purse without end; what they charge is compared with what is claimed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from dp_accounting import DpEvent

from tabveil.accounting import Spend
from tabveil.audit._canary_laws import Floats
from tabveil.audit._canary_transcripts import Transcript, overheard
from tabveil.audit._canary_worlds import World
from tabveil.audit.base import Refit, Tell
from tabveil.errors import UsageError
from tabveil.ledger import Ledger, Receipt, Resumable
from tabveil.schema import Schema

SAMPLED = 200
"""Rows sampled from every fit."""


class Priced(Protocol):
    """What a plan tells."""

    @property
    def spends(self) -> tuple[Spend, ...]:
        """The charged steps."""


class Fits(Protocol):
    """What is audited: a private generator."""

    epsilon: float
    delta: float

    def plan(self, schema: Schema) -> Any:
        """The price of a fit, a `Priced`."""

    def fit(self, table: Any, schema: Schema, *, ledger: Ledger, dataset: str) -> Any:
        """Learn from the table, once it is paid for."""

    def sample(self, n: int | None = None, *, random_state: int | None = None) -> pd.DataFrame:
        """Synthetic rows, as many as the fit thinks right where nobody says."""


@dataclass(frozen=True, eq=False)
class Runs:
    """What was seen of all fits.

    Attributes:
      spends: what a fit is charged.
      transcripts: of the fits without the further unit, and with it.
      features: numbers made of what each fit's samples show, shape (fits, features), for both sides.
    """

    spends: tuple[Spend, ...]
    transcripts: tuple[list[Transcript], list[Transcript]]
    features: tuple[Floats, Floats]

    @property
    def fits(self) -> int:
        """On each side."""
        return len(self.transcripts[0])

    @property
    def charged(self) -> dict[str, DpEvent]:
        """Events by label."""
        return {s.label: s.event for s in self.spends}


def run(generator: Fits, world: World, *, fits: int, tell: Tell) -> Runs:
    """Fit `fits` times to each table, in turn, so that nothing that drifts tells them apart."""
    sides: tuple[list[Transcript], list[Transcript]] = ([], [])
    shown: tuple[list[Floats], list[Floats]] = ([], [])
    ledger = purse(generator, world.schema)
    with planned_once(generator, world.schema) as spends, overheard(world, {s.label: s.event for s in spends}) as heard:
        for number in range(2 * fits):
            side = number % 2
            heard.append(Transcript())
            with numpy_seeded():
                generator.fit(world.tables[side], world.schema, ledger=ledger, dataset="audit")
            sides[side].append(heard[-1])
            shown[side].append(features(generator, world, number))
            tell("fitting worst-case neighbours", (number + 1) / (2 * fits))
    return Runs(spends, sides, (np.array(shown[0]), np.array(shown[1])))


@contextlib.contextmanager
def numpy_seeded() -> Iterator[None]:
    """Inside, numpy's global state is the same each time: any caller of a fit may have set it, and may know it, so that
    noise which comes from it is noise that repeats.
    """
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


class Purse(Ledger):
    """Pays whatever a fit says it costs: a ledger that refused would hide what an audit is to see, and one that wrote
    everything down would take longer than the fit.
    """

    def charge(
        self, dataset: str, spends: DpEvent | Iterable[Spend], *, label: str, resumable: Resumable | None = None
    ) -> Receipt:
        """As `Ledger.charge`, without end."""
        if isinstance(spends, DpEvent):
            raise UsageError("An audit pays for labelled steps.")
        return Receipt(tuple(spends), dataset=dataset, head="")


def purse(generator: Fits, schema: Schema) -> Purse:
    """With the account "audit"."""
    ledger = Purse(":memory:")
    ledger.open("audit", epsilon=generator.epsilon, delta=generator.delta, unit=schema.unit)
    return ledger


def refitted(refit: Refit, world: World, *, fits: int, tell: Tell) -> tuple[Floats, Floats]:
    """What samples of `fits` fits to each table show, shape (fits, features), where fits cannot be overheard."""
    seen: tuple[list[Floats], list[Floats]] = ([], [])
    for number in range(2 * fits):
        sample = refit(world.tables[number % 2], number)
        seen[number % 2].append(np.array([float(len(sample)), *shown(sample, world)]))
        tell("fitting worst-case neighbours", (number + 1) / (2 * fits))
    return np.array(seen[0]), np.array(seen[1])


@contextlib.contextmanager
def planned_once(generator: Fits, schema: Schema) -> Iterator[tuple[Spend, ...]]:
    """Inside, a fit under `schema` does not solve for its noise again: the plan follows from public knowledge alone."""
    plan = generator.plan(schema)
    setattr(generator, "plan", lambda schema: plan)  # noqa: B010
    try:
        yield tuple(plan.spends)
    finally:
        delattr(generator, "plan")


def features(generator: Fits, world: World, number: int) -> Floats:
    """What a fit's samples show: how many rows it thinks right, and what SAMPLED of its rows hold of each column."""
    whole = len(generator.sample(random_state=number))
    seen = shown(generator.sample(SAMPLED, random_state=number), world)
    return np.array([float(whole), *seen])


def shown(sample: pd.DataFrame, world: World) -> list[float]:
    """Numbers that tell what rows hold of the further unit's cells: shares, distinct cells, middle and ends."""
    return [number for name, odd in world.odd.items() for number in _column(sample[name], odd)]


def _column(cells: pd.Series, odd: object) -> Sequence[float]:
    texts = cells.astype(str)
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    known = numbers[np.isfinite(numbers)]
    ends = (float(known.mean()), float(known.min()), float(known.max())) if len(known) else (0.0, 0.0, 0.0)
    return (float((texts == str(odd)).mean()) if len(texts) else 0.0, float(texts.nunique()), *ends)
