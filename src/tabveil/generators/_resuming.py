"""Fits that go on after their process was killed, without a second charge.

A fit with a folder for checkpoints is charged under a key that the folder keeps (`sgd.Checkpoints`). What it learns of
rows in one go (the schema's unknowns, counts, sums) is saved under a name before anything uses it, and a later process
takes it from there; noisy steps are claimed in the ledger before they are taken, and their states saved.

Privacy: one charge, whatever happens; no answer is asked for twice, and what is in the folder is post-processing of
charged answers (unit, relation, sensitivity and event are those of the fit). A process may be killed
- before the charge: nothing was read; the next one charges;
- after it, before the first answers (schema, counts) are saved: they may have been asked for, so they are never asked
  for again. The charge stays spent, the fit cannot be finished, and the next process says so;
- while it trains: steps that were claimed and not saved are spent (`train`), the others are taken by the next process;
- after it, before a sum over all rows (`latents` of tvae) is claimed: the next process asks for it;
- after the sum was claimed, before it is saved: it is never asked for again, and the next process says so;
- after that: nothing private is left to do, and the next process does all of it again from what was saved.
A finished folder gives the same model again, free of charge (where steps were lost, only up to `random_state`: what
follows the last state that was saved is made anew). Which of a person's rows are kept (at most k) is drawn
anew by every process: each answer by itself keeps at most k rows of each person, which is what it was charged for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from tabveil.errors import UsageError
from tabveil.generators.base import Form, Generator, Plan, Progress, T
from tabveil.ledger import Ledger, Receipt
from tabveil.schema import Schema
from tabveil.sgd import Checkpoints


class Resuming(Generator):
    """A generator whose fit can be finished by another process.

    Args:
      checkpoints: folder of one fit, made where it is missing: a later process that calls the same fit with it goes on
        where this one was stopped, and does not pay again. Not where nothing is private. Keep it as the model itself.

    Others as `Generator`.
    """

    local: ClassVar[frozenset[str]] = Generator.local | {"checkpoints"}

    def __init__(
        self,
        *,
        epsilon: float,
        delta: float | None = None,
        random_state: int | None = None,
        progress: Progress | None = None,
        checkpoints: str | Path | None = None,
    ) -> None:
        super().__init__(epsilon=epsilon, delta=delta, random_state=random_state, progress=progress)
        if checkpoints is not None and math.isinf(self.epsilon):
            raise UsageError(
                "checkpoints save a second charge; where epsilon is inf nothing is charged: leave them out."
            )
        self.checkpoints = None if checkpoints is None else str(checkpoints)
        self._states: Checkpoints | None = None

    @property
    def _resumable(self) -> tuple[str, ...]:
        """Labels of what the ledger marks before it is asked for, so that another process may ask for the rest."""
        return ()

    def _pay(self, plan: Plan, schema: Schema, *, ledger: Ledger | None, dataset: str | None) -> Receipt:
        self._states = None
        if self.checkpoints is None or ledger is None or dataset is None:
            return super()._pay(plan, schema, ledger=ledger, dataset=dataset)
        self._states = Checkpoints(self.checkpoints)
        return self._states.receipt(
            ledger,
            dataset,
            plan.spends,
            label=f"{plan.generator} fit",
            labels=self._resumable,
            about={"generator": plan.generator, "options": self.settings(), "schema": schema.to_dict()},
        )

    def _kept(self, name: str, ask: Callable[[], T], form: Form[T]) -> T:
        return super()._kept(name, ask, form) if self._states is None else self._states.once(name, ask, form)
