"""What a fit will cost, before any data: the price event by event, the seconds expected, and whether it is enough to
learn from.

Whether it is enough is a matter of strength: how many rows stand against one standard deviation of the noise that each
cell would get if the whole budget counted one table for each column (`generators.auto.expected_noise`). Each generator
names the strength below which single columns alone would say more (`Generator.least_strength`, measured).

Privacy: takes no table. The price follows from the schema, epsilon and delta as in a fit; the row count is the schema's
public one or a number that somebody assumes; seconds are measured on made-up rows, drawn evenly from the schema's
values, under an account of their own that is thrown away.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from dp_accounting import DpEvent, PoissonSampledDpEvent

from tabveil import accounting
from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, ExponentialMechanismDpEvent, Spend
from tabveil.columns import Identifier
from tabveil.encoding import decode, name_rows, size
from tabveil.errors import UsageError
from tabveil.generators.auto import expected_noise
from tabveil.generators.base import Generator, Plan, Progress, create, whole
from tabveil.ledger import Ledger
from tabveil.records import RELATION, Record, readable
from tabveil.schema import Schema

MADE_UP_ROWS = 20_000
"""Rows of a rehearsal, more only where one batch has more."""

MOST_MADE_UP_ROWS = 200_000
"""Most rows of a rehearsal; the steps of larger batches are taken to last as much longer as they have more rows."""

REHEARSED_STEPS = 8
"""Steps of a training in a rehearsal; the first is left out of the mean."""

TRAINING = "training"
"""How the progress of every training begins, step by step."""


@dataclass(frozen=True)
class Forecast(Record):
    """What a fit will do, cost and take, from public knowledge alone.

    Attributes:
      generator: plugin name.
      fits_as: the generator that does the work: another name where `generator` chooses one.
      epsilon, delta: what the user allows; epsilon inf means not private.
      cost: the epsilon that the charged steps add up to at `delta`.
      unit, relation: whom that protects, and against which neighbouring tables.
      spends: every charged step: "label", "count" (how often), "mechanism", "noise" (see `priced`), "rate" (the chance
        of each unit to be in a step's sample, 1 where all are), "signal" (what the rows could put against one standard
        deviation of noise at most, None where their number is not known), "event" as the ledger keeps it.
      rows: the row count behind `seconds`, `strength` and `signal`; None where nobody said one.
      rows_are: "public" (the schema's), "assumed" (somebody's), or "private" (not known).
      seconds: about how long a fit takes here beside reading the table; None where that cannot be said.
      timing: a sentence on where `seconds` comes from.
      strength: rows per standard deviation of noise; None where the row count is not known, or nothing is private.
      least_strength: below this the generator learns less than single columns say.
      enough: whether there is enough to learn from; None where that cannot be said.
      verdict: the same in a sentence, with what to do.
      notes: further sentences.
    """

    generator: str
    fits_as: str
    epsilon: float
    delta: float
    cost: float
    unit: str
    relation: str
    spends: tuple[dict[str, Any], ...]
    rows: int | None
    rows_are: str
    seconds: float | None
    timing: str
    strength: float | None
    least_strength: float
    enough: bool | None
    verdict: str
    notes: tuple[str, ...] = ()


def plan(
    schema: Schema,
    *,
    generator: str = "mst",
    epsilon: float,
    delta: float | None = None,
    rows: int | None = None,
    timed: bool = True,
    progress: Progress | None = None,
    options: Mapping[str, Any] | None = None,
) -> Forecast:
    """What a fit of `generator` under `schema` will cost and take, and whether it is enough to learn from.

    Args:
      schema: approved public knowledge.
      generator: plugin name.
      epsilon: privacy budget of the fit, above 0; inf says that nothing is private.
      delta: asked for wherever epsilon is finite.
      rows: how many rows to plan for, where the schema does not say: a public or an assumed number, never one counted
        for this. The price does not depend on it.
      timed: whether to measure seconds on made-up rows, which takes some seconds itself.
      progress: called as progress(stage, share).
      options: of the generator.

    Raises:
      UsageError: a number, a name or an option out of range; another row count than the schema declares.
      SchemaError: a private fit under a draft.
      MissingDependencyError: the generator needs a package that is not installed.
    """
    tell = progress or (lambda stage, share: None)
    made = create(generator, epsilon=epsilon, delta=delta, **(options or {}))
    tell("solving for the noise", 0.0)
    priced_plan, known = made.plan(schema), _row_count(schema, rows)
    worker = made.delegate(schema)
    tell("trying a few steps on made-up rows" if timed else "done", 0.0)
    seconds, timing = _timing(worker, schema, (priced_plan, known)) if timed else (None, "Not measured.")
    strength = _strength(schema, made, known)
    return Forecast(
        generator=generator,
        fits_as=worker.plugin_name(),
        epsilon=made.epsilon,
        delta=made.delta,
        cost=priced_plan.cost,
        unit=schema.unit,
        relation=RELATION,
        spends=tuple(priced(s, rows=known, contributions=schema.contributions) for s in priced_plan.spends),
        rows=known,
        rows_are="public" if schema.public_rows else "private" if known is None else "assumed",
        seconds=seconds,
        timing=timing,
        strength=strength,
        least_strength=worker.least_strength,
        enough=True if not priced_plan.private else None if strength is None else strength >= worker.least_strength,
        verdict=_verdict(worker, schema, (known, strength)),
        notes=_notes(made, schema, known),
    )


def _row_count(schema: Schema, rows: int | None) -> int | None:
    if rows is None:
        return schema.public_rows
    if schema.public_rows not in (None, whole("rows", rows, 1, 10**12)):
        raise UsageError("The schema declares another row count: leave rows out, or change public_rows in the schema.")
    return rows


# --------------------------------------------------------------------------------------------------------------- prices
def priced(spend: Spend, *, rows: int | None, contributions: int) -> dict[str, Any]:
    """One charged step in plain numbers; `Forecast.spends` says which.

    "noise" is the standard deviation in rows of every count; of a sum or training step the noise multiplier, standard
    deviation over clip; of a choice the scale of the noise on a score, in rows. "signal" is how many of these all rows
    could weigh in the same direction: of a training step, the units that its sample has on average.
    """
    event, rate = spend.event, 1.0
    if isinstance(event, PoissonSampledDpEvent):
        rate, event = float(event.sampling_probability), event.event
    mechanism, noise, heads = _noise(event, rate, contributions)
    signal = None if rows is None or not noise else rate * rows / (heads * noise)
    return {
        "label": spend.label,
        "count": spend.count,
        "mechanism": mechanism,
        "noise": noise,
        "rate": rate,
        "signal": signal,
        "event": accounting.event_to_dict(spend.event),
    }


def _noise(event: DpEvent, rate: float, contributions: int) -> tuple[str, float | None, int]:
    """What an event is called, its noise, and how many rows weigh as one unit of that noise's scale."""
    if isinstance(event, DiscreteGaussianDpEvent):
        return "counts, discrete Gaussian", float(event.sigma), 1
    if isinstance(event, DiscreteLaplaceDpEvent):
        return "counts, discrete Laplace", math.sqrt(2) * float(event.scale), 1
    if isinstance(event, ExponentialMechanismDpEvent):
        return "choice, exponential", 2 * contributions / float(event.epsilon), 1
    multiplier = getattr(event, "noise_multiplier", None)
    if multiplier is not None:
        return ("step" if rate < 1 else "sum") + " of clipped vectors, Gaussian", float(multiplier), contributions
    parts = getattr(event, "events", ())
    if parts:
        return "categories above a threshold", _noise(parts[0], rate, contributions)[1], 1
    return type(event).__name__.removesuffix("DpEvent"), None, 1


# ------------------------------------------------------------------------------------------------------------- strength
def _strength(schema: Schema, made: Generator, rows: int | None) -> float | None:
    noise = expected_noise(schema, epsilon=made.epsilon, delta=made.delta)
    return None if rows is None or not noise else rows / noise


def _verdict(worker: Generator, schema: Schema, known: tuple[int | None, float | None]) -> str:
    (rows, strength), name, least = known, worker.plugin_name(), worker.least_strength
    if not math.isfinite(worker.epsilon):
        return "Nothing is private, and no noise is added."
    needed = math.ceil(least * expected_noise(schema, epsilon=worker.epsilon, delta=worker.delta))
    if rows is None or strength is None:
        return (
            f"{name} needs about {needed:,} rows at this epsilon to learn from; the schema declares no row count: say "
            "how many there are, publicly known or assumed, to be told whether that is enough."
        )
    have = f"{rows:,} rows are {readable(strength)} standard deviations of the noise"
    if strength >= least:
        return f"Enough to learn from: {have}, and {name} needs about {least:g}."
    return f"Too little to learn from: {have}, and {name} needs about {least:g}: {_ways_out(worker, schema, known)}."


def _ways_out(worker: Generator, schema: Schema, known: tuple[int | None, float | None]) -> str:
    """What would be enough, as half a sentence."""
    rows, strength, least = known[0] or 1, known[1] or 0.0, worker.least_strength
    columns = len(schema.modelled)
    epsilon = least_epsilon(schema, delta=worker.delta, noise=rows / least)
    needed = math.ceil(least * expected_noise(schema, epsilon=worker.epsilon, delta=worker.delta))
    ways = [f"give it an epsilon of about {_up(epsilon)}", f"or about {needed:,} rows"]
    fewer = int(columns * (strength / least) ** (2 if worker.delta else 1))
    ways += [f"or {fewer} of the {columns} columns"] if fewer >= 2 else []
    floor = create("independent", epsilon=worker.epsilon, delta=worker.delta)
    if worker.plugin_name() != "independent" and strength >= floor.least_strength:
        ways.append("or use independent, which learns single columns only")
    return ", ".join(ways)


def least_epsilon(schema: Schema, *, delta: float, noise: float) -> float:
    """The least epsilon at which `expected_noise` is at most `noise`, to 0.1 %."""
    low, high = 1e-12, 1e12
    while high > low * 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if expected_noise(schema, epsilon=middle, delta=delta) <= noise else (middle, high)
    return high


def _up(value: float) -> str:
    """Two significant digits, rounded up."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step) * step:.2g}"


def _notes(made: Generator, schema: Schema, rows: int | None) -> tuple[str, ...]:
    notes = list(made.reasons(schema))
    if math.isfinite(made.epsilon) and rows is not None and made.delta > 1 / rows:
        notes.append(f"delta is above 1 / rows = {1 / rows:.3g}: publishing rows at random would count as private.")
    return tuple(notes)


# -------------------------------------------------------------------------------------------------------------- seconds
def _timing(worker: Generator, schema: Schema, planned: tuple[Plan, int | None]) -> tuple[float | None, str]:
    """Seconds of a fit, and a sentence on where they come from."""
    plan, rows = planned
    name, training = worker.plugin_name(), worker.rehearsal(plan, rows or 1)
    if training is not None and rows is None:
        return None, f"How long {name} takes depends on the row count: say one, publicly known or assumed."
    if training is not None and schema.unresolved:
        return None, f"How long {name} takes depends on what the schema leaves to be learned."
    if training is not None and rows is not None:
        early = "; at most, since it stops where its loss gets no better" if training[0] and not plan.private else ""
        seconds = _rehearsed(worker, schema, _Batch.of(training, rows))
        return seconds, f"Measured on made-up rows, on this machine as it is now: an estimate{early}."
    if plan.seconds is not None:
        return plan.seconds, f"By a rule of {name}, for the largest model it may build: an order of magnitude."
    return None, f"How long {name} takes depends on what its noisy answers make it count: it cannot be said before."


@dataclass(frozen=True)
class _Batch:
    """The batches of a training, planned and rehearsed.

    Attributes:
      steps: of the planned training, 0 where there is none.
      rate: at which the rehearsal draws from its rows.
      rows: of the rehearsal.
      longer: how many times as many rows a planned batch has.
    """

    steps: int
    rate: float
    rows: int
    longer: float

    @classmethod
    def of(cls, training: tuple[int, float], rows: int) -> _Batch:
        """Batches of the same size from fewer rows, as far as MOST_MADE_UP_ROWS lets them."""
        steps, rate = training
        wanted = rate * rows if steps else 0.0
        made = int(min(rows, max(MADE_UP_ROWS, wanted), MOST_MADE_UP_ROWS))
        lower = min(1.0, wanted / made)
        return cls(steps, lower, made, wanted / (lower * made) if steps else 1.0)


def _rehearsed(worker: Generator, schema: Schema, batch: _Batch) -> float:
    """Seconds of a fit, by one with few steps on made-up rows."""
    options = worker.shorter(min(REHEARSED_STEPS, batch.steps), batch.rate) if batch.steps else {}
    ticks: list[float] = []

    def tick(stage: str, share: float) -> None:
        if stage.startswith(TRAINING):
            ticks.append(time.monotonic())

    own = {name: value for name, value in worker.get_params().items() if name not in worker.local}
    stand_in = type(worker)(**{**own, **options, "progress": tick})
    table, public = made_up(schema, batch.rows), dataclasses.replace(schema, public_rows=None)
    start = time.monotonic()
    stand_in.fit(table, public, **_own_account(stand_in, public))
    whole_fit = time.monotonic() - start
    if len(ticks) < 2:
        return whole_fit
    step = statistics.median(b - a for a, b in itertools.pairwise(ticks))
    return whole_fit + step * (batch.longer * batch.steps - len(ticks))


def _own_account(made: Generator, schema: Schema) -> dict[str, Any]:
    """An account for made-up rows, in memory; none where nothing is private."""
    if not math.isfinite(made.epsilon):
        return {}
    ledger = Ledger(":memory:")
    ledger.open("made-up rows", epsilon=made.epsilon, delta=made.delta, unit=schema.unit)
    return {"ledger": ledger, "dataset": "made-up rows"}


def made_up(schema: Schema, rows: int) -> pd.DataFrame:
    """`rows` rows in the schema's columns, every allowed value equally likely, missing ones too; always the same.

    Where a person has rows, each has as many as are kept.
    """
    rng, parts = np.random.default_rng(0), []
    for column in schema.columns:
        if isinstance(column, Identifier):
            whose = np.arange(rows) // schema.contributions
            parts.append(name_rows(column, rows).iloc[whose].reset_index(drop=True))
        else:
            parts.append(decode(column, rng.integers(0, size(column) + column.nullable, rows)))
    return pd.concat(parts, axis=1)
