"""How the conformance checks look at a generator: accounts and fits to try it with, a table that tells when it is read,
rows that answer without looking, and everything that a fitted generator refers to.

Privacy: on made-up tables only. `_Deaf` takes each charge as `PrivateRows` does and never looks at its table.
"""

from __future__ import annotations

import gc
import logging
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dp_accounting import PoissonSampledDpEvent
from numpy.typing import NDArray

from tabveil import learning
from tabveil._conformance_tables import ROWS, mixed_schema, mixed_table
from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, ExponentialMechanismDpEvent
from tabveil.columns import Categorical, Identifier
from tabveil.encoding import Axis, conform
from tabveil.errors import TabveilError
from tabveil.generators import base
from tabveil.generators.base import Generator
from tabveil.ledger import Ledger
from tabveil.mechanisms import Contest, PrivateRows, Question
from tabveil.schema import Schema
from tabveil.tables import Table, open_table
from tabveil.units import ClippedSum


class ConformanceError(AssertionError):
    """A plugin breaks what every plugin must keep."""


def require(kept: bool, rule: str) -> None:
    """Raise ConformanceError, which says `rule`, unless it is kept."""
    if not kept:
        raise ConformanceError(rule)


def require_schema(sample: pd.DataFrame, schema: Schema, rows: int) -> None:
    """Raise ConformanceError unless `sample` has so many rows, and each obeys `schema` to the letter."""
    require(len(sample) == rows, f"asked for {rows} rows, got {len(sample)}")
    require(tuple(sample.columns) == schema.names, "columns differ from the schema's")
    try:
        pd.testing.assert_frame_equal(conform(schema.columns, sample), sample, check_freq=False)
    except (AssertionError, TabveilError) as error:
        raise ConformanceError("a synthetic value does not obey its column") from error
    for column in schema.columns:
        if not isinstance(column, Identifier) and not column.nullable:
            require(not sample[column.name].isna().any(), f"{column.name!r} is missing where it never may be")
        if isinstance(column, Identifier):
            require(sample[column.name].is_unique, f"{column.name!r} repeats")


class SpyTable(Table):
    """A table that remembers what the ledger said whenever its rows were asked for."""

    def __init__(self, frame: pd.DataFrame, ledger: Ledger, dataset: str) -> None:
        self._inner = open_table(frame)
        self._ledger, self._dataset = ledger, dataset
        self.spent_when_read: list[float] = []
        super().__init__(self._inner.columns, chunk_rows=self._inner.chunk_rows)

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        self.spent_when_read.append(self._ledger.statement(self._dataset).epsilon)
        yield from self._inner.chunks(columns)


def create(name: str, **arguments: Any) -> Generator:
    """The generator called `name`, made with the options under which a fit of it is quick."""
    return base.create(name, **{**base.kind_of(name).quick, **arguments})


def account(epsilon: float, delta: float) -> Ledger:
    """A fresh ledger in memory whose account "conformance" holds (epsilon, delta)."""
    ledger = Ledger(":memory:")
    ledger.open("conformance", epsilon=epsilon, delta=delta)
    return ledger


def fitted(
    name: str, table: Any, schema: Schema, *, epsilon: float = 1.0, delta: float = 1e-6, **options: Any
) -> Generator:
    """A generator fitted on an account of its own."""
    made = create(name, epsilon=epsilon, delta=delta, **options)
    return made.fit(table, schema, ledger=account(epsilon, delta), dataset="conformance")


@cache
def usual(name: str) -> Generator:
    """One fit that checks which do not change it share."""
    return fitted(name, mixed_table(ROWS), mixed_schema())


class _Deaf(PrivateRows):
    """Private rows that take every charge and then answer without looking."""

    _answers: np.random.Generator

    def counts(self, axes: Sequence[Axis], *, label: str) -> NDArray[np.int64]:
        self._take(label, DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent)
        return self._answers.geometric(0.02, tuple(a.size for a in axes))

    def choose(self, contest: Contest, allowed: Sequence[int], *, label: str) -> int:
        """Any candidate, but another one where anything that the contest says is different."""
        self._take(label, ExponentialMechanismDpEvent)
        weights = () if contest.weights is None else (contest.weights,)
        said = b"".join(np.asarray(a).tobytes() for a in (contest.handicaps, *weights, *contest.estimates))
        return allowed[(zlib.crc32(said) + int(self._answers.integers(len(allowed)))) % len(allowed)]

    def noisy_sum(self, asked: ClippedSum, *, label: str) -> NDArray[np.float64]:
        self._take(label, PoissonSampledDpEvent)
        return self._answers.standard_normal(asked.size)

    def survey(self, questions: Sequence[Question]) -> list[NDArray[np.int64]]:
        for question in questions:
            self._take(question.label, DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent)
        return [self._answers.geometric(0.0005, q.bins) for q in questions]

    def categories(self, columns: Sequence[Categorical], *, labels: Sequence[str]) -> list[tuple[str, ...]]:
        for label in labels:
            self._take_selection(label)
        return [("one", "two") for _ in columns]


def deafly(name: str, frame: pd.DataFrame, schema: Schema) -> Generator:
    """A generator fitted to rows that answer every charged question the same, whatever `frame` holds."""
    made = create(name, epsilon=1.0, delta=1e-6, random_state=1)
    plan = made.plan(schema)
    receipt = account(1.0, 1e-6).charge("conformance", plan.spends, label="deaf fit")
    rows = _Deaf(open_table(frame), schema, receipt)
    rows._answers = np.random.default_rng(0)
    made._schema = learning.resolve(schema, rows, plan.spends)
    made._learn(rows.under(made._schema), plan)
    return made


def reachable(start: object) -> Iterator[object]:
    """Everything `start` refers to, modules, classes and functions left out."""
    seen, waiting = {id(start)}, [start]
    while waiting:
        thing = waiting.pop()
        yield thing
        for other in gc.get_referents(thing):
            if id(other) not in seen and not isinstance(other, type | type(gc) | type(account)):
                seen.add(id(other))
                waiting.append(other)


class Listener(logging.Handler):
    """Adds whatever is logged to `words`."""

    def __init__(self, words: list[str]) -> None:
        super().__init__()
        self._words = words

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what was logged."""
        self._words.append(record.getMessage())


def files_of(made: Generator) -> list[str]:
    """What every file of the saved model holds, byte for byte as text."""
    with tempfile.TemporaryDirectory() as folder:
        made.save(folder)
        return [p.read_bytes().decode("latin-1") for p in Path(folder).iterdir()]
