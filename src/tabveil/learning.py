"""What a schema leaves to be learned (bounds, decimals, categories), bought under the same one epsilon as the fit.

A fit asks, in this order, for the steps that `spends` has listed: the decimals of columns that leave them out and the
categories of those that leave those out, then bounds in two levels. Bounds are read off a noisy histogram over a public
grid that no row can move: 0 and the powers of two on either side of it, in steps of the column (dates: days, or the
column's resolution, around the year 2000). The bounds are the ends of the outermost bins that stand out of the noise; a
second histogram cuts the outermost octaves into PIECES equal pieces and moves the bounds inward. Where nothing stands
out the bounds are public defaults. Values beyond the learned bounds are clipped, or made missing, as the column says.

Privacy: every question goes through `mechanisms.PrivateRows`, under events fixed by (schema, epsilon, delta); which
pieces are asked about depends on noisy answers only; all else here is post-processing. Unit and sensitivity are those
of every histogram: one unit, at most k rows, L2 norm k. Categories are released by partition selection, which takes an
honest delta of its own (`accounting.DeltaDpEvent`). Bounds from a histogram over a fixed grid: Dwork & Lei 2009
and Karwa & Vadhan 2018 ("Finite sample differentially private confidence intervals", histogram learner) in the discrete
form used here.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from dp_accounting import ComposedDpEvent, DpEvent, NonPrivateDpEvent
from numpy.typing import NDArray
from scipy import special

from tabveil.accounting import DeltaDpEvent, DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, Spend
from tabveil.columns import FARTHEST, Categorical, Column, Date, Datetime, Decimal, Grid, public_range
from tabveil.domains import brief, evenly
from tabveil.encoding import Codes, bound_at, digits_needed, position, positions
from tabveil.errors import UsageError
from tabveil.mechanisms import PrivateRows, Question
from tabveil.noise import counting_event, noise_is_seeded
from tabveil.schema import Schema

Edges = NDArray[np.int64]
Counts = NDArray[np.int64]
Events = Mapping[str, DpEvent]

WEIGHTS = {"categories": 1.0, "decimals": 1.0, "bounds": 1.0}
"""How the learning share is divided among the steps, by the first word of their labels."""

DELTA_SHARE = 0.0099
"""Share of delta for the thresholds of all learned categories together: five such fits, rounding included, are within
the twentieth that an account of the same delta has for them. Ten times as much would lower a threshold by a tenth
only.
"""

PIECES = 16
"""Equal pieces that the outermost octaves are cut into."""

MOST_DECIMALS = 6
"""Most digits after the point that are learned."""

RARE_DIGITS = 0.01
"""Digits that no more than this share of the values need are left out."""

MISTAKE = 1e-4
"""Chance that some empty bin of a histogram stands out of the noise."""

NEXT_SHARE = 0.45
"""An octave next to one that stands out counts as filled from this share of that threshold (two standard deviations): a
mistake there doubles a bound, while far out it would make it useless."""

TAIL_SHARE = 0.6
"""The same of the pieces left out at an end, all together: a mistake costs at most one octave."""

DEFAULT_SPAN = 100
"""Where nothing stands out: numbers from 0 to 100, dates over the 100 years from the origin."""

USUAL_DECIMALS = 2
"""Decimals where nothing stands out."""


# -------------------------------------------------------------------------------------------------------------- price


def categories_label(column: Column) -> str:
    """Label of the step that learns categories."""
    return f"categories of {brief(column)}"


def decimals_label(column: Column) -> str:
    """Label of the step that learns decimals."""
    return f"decimals of {brief(column)}"


def bounds_label(column: Column, level: int) -> str:
    """Label of one of the two steps that learn bounds; `level` 0 or 1."""
    return f"bounds of {brief(column)}, level {level + 1} of 2"


def labels(schema: Schema) -> tuple[str, ...]:
    """The labels of every step that resolves `schema`, in the order of its columns."""
    return tuple(label for column in schema.unresolved for label in _labels(column))


def _labels(column: Column) -> tuple[str, ...]:
    decimals = (decimals_label(column),) if "decimals" in column.unknown else ()
    categories = (categories_label(column),) if "categories" in column.unknown else ()
    bounds = (bounds_label(column, 0), bounds_label(column, 1)) if {"low", "high"} & set(column.unknown) else ()
    return (*decimals, *categories, *bounds)


def share(schema: Schema) -> float:
    """The share of a fit's budget that resolving `schema` takes; 0 where nothing is left to be learned."""
    return schema.learn_share if schema.unresolved else 0.0


def spends(schema: Schema, amount: float, *, delta: float) -> tuple[Spend, ...]:
    """The charged steps that resolve `schema`.

    Args:
      schema: public knowledge.
      amount: what all of them cost together, in rho where delta > 0, in epsilon where it is 0.
      delta: of the fit; DELTA_SHARE of it pays for the thresholds of learned categories.

    Raises:
      UsageError: categories are to be learned with delta 0.
    """
    asked = labels(schema)
    chosen = [categories_label(c) for c in schema.unresolved if "categories" in c.unknown]
    if chosen and delta == 0:
        raise UsageError(
            f"The {chosen[0]} cannot be learned with delta 0: whether a category is there at all is never covered by "
            "pure differential privacy. Declare them, or allow a delta."
        )
    if not asked:
        return ()
    weights = {label: WEIGHTS[label.split(" ", 1)[0]] for label in asked}
    unit = amount / sum(weights.values())
    events = {w: counting_event(unit * w, schema.contributions, pure=delta == 0) for w in set(weights.values())}
    made = {label: events[w] for label, w in weights.items()}
    failure = DeltaDpEvent(delta * DELTA_SHARE / len(chosen)) if chosen else None
    made |= {label: ComposedDpEvent([made[label], failure]) for label in chosen}
    return tuple(Spend(label, event) for label, event in made.items())


# -------------------------------------------------------------------------------------------------------------- learn


def resolve(schema: Schema, rows: PrivateRows, charged: Iterable[Spend]) -> Schema:
    """`schema` with everything it leaves out learned; columns completed from charged answers say `source: charged`.

    Args:
      schema: what is declared.
      rows: private rows under `schema`, charged for `spends`.
      charged: the plan's steps; without a step for a label, its answers are exact (nothing is private).

    Returns:
      The schema whole. Where nothing was charged for a column, or noise is seeded, the column says `source: draft` and
      the schema is a draft, which no private fit accepts: what was read off rows never passes for what was bought.

    Raises:
      UnchargedError: a step was not charged.
    """
    if not schema.unresolved:
        return schema
    events = {s.label: s.event for s in charged}
    columns = {c.name: c for c in schema.unresolved}
    for learn in (_learn_decimals, _learn_categories, _learn_bounds):
        columns |= learn(list(columns.values()), rows, events)
    whole = {c.name: _resolved(columns[c.name], c, bought=_bought(c, events)) for c in schema.unresolved}
    completed = tuple(whole.get(c.name, c) for c in schema.columns)
    if any(c.source == "draft" for c in whole.values()):
        return dataclasses.replace(schema, columns=completed, draft=True, approved_by=None, approved_on=None)
    return dataclasses.replace(schema, columns=completed)


def _bought(column: Column, events: Events) -> bool:
    """Whether every step that resolves `column` was paid for, and nobody can take its noise away."""
    paid = (events.get(label, NonPrivateDpEvent()) for label in _labels(column))
    return not noise_is_seeded() and not any(isinstance(event, NonPrivateDpEvent) for event in paid)


def _resolved(column: Column, declared: Column, *, bought: bool) -> Column:
    """The column as completed: it says how, and which of its fields were not declared."""
    how = "Learned under the privacy budget" if bought else "Read from rows, not private"
    note = f"{column.note} {how}: {', '.join(declared.unknown)}.".strip()
    return dataclasses.replace(column, learn=False, source="charged" if bought else "draft", note=note)


def _learn_categories(columns: Sequence[Column], rows: PrivateRows, events: Events) -> dict[str, Column]:
    unknown = [c for c in columns if isinstance(c, Categorical) and c.unknown]
    found = rows.categories(unknown, labels=[categories_label(c) for c in unknown]) if unknown else []
    return {c.name: dataclasses.replace(c, categories=f) for c, f in zip(unknown, found, strict=True)}


def _learn_decimals(columns: Sequence[Column], rows: PrivateRows, events: Events) -> dict[str, Column]:
    unknown = [c for c in columns if isinstance(c, Decimal) and "decimals" in c.unknown]
    most = [_most_decimals(c) for c in unknown]
    asked = [
        Question(c.name, m + 1, functools.partial(digits_needed, c, most=m), decimals_label(c))
        for c, m in zip(unknown, most, strict=True)
    ]
    answers = rows.survey(asked) if asked else []
    return {
        c.name: dataclasses.replace(c, decimals=_digits(counts, clear(events.get(decimals_label(c)), len(counts))))
        for c, counts in zip(unknown, answers, strict=True)
    }


def _most_decimals(column: Decimal) -> int:
    """As many digits as the declared bounds leave room for."""
    widest = max((abs(b) for b in (column.low, column.high) if b is not None), default=0.0)
    return max(d for d in range(MOST_DECIMALS + 1) if d == 0 or widest * 10**d <= FARTHEST)


def _digits(counts: Counts, stands_out: float) -> int:
    """The fewest digits that all but a rare share of the values can be written with."""
    total = float(counts.sum())
    if not total > stands_out * math.sqrt(len(counts)):
        return min(USUAL_DECIMALS, len(counts) - 1)
    beyond = np.append(np.cumsum(counts[::-1])[::-1][1:], 0)
    allowed = np.maximum(RARE_DIGITS * total, stands_out * np.sqrt(np.arange(len(counts) - 1, -1, -1)))
    return int(np.flatnonzero(beyond <= allowed)[0])


def clear(event: DpEvent | None, bins: int) -> float:
    """The count above which a bin stands out: none of `bins` empty bins does, but with probability MISTAKE."""
    if isinstance(event, DiscreteGaussianDpEvent):
        return -float(special.ndtri(MISTAKE / bins)) * event.sigma
    return event.scale * math.log(bins / MISTAKE) if isinstance(event, DiscreteLaplaceDpEvent) else 0.0


# ------------------------------------------------------------------------------------------------------------- bounds


@dataclass(frozen=True, eq=False)
class _Search:
    """Where the bounds of a column may be, in steps from the public origin.

    Attributes:
      column: the column, its decimals known.
      edges: bin i holds the steps edges[i] to edges[i + 1] - 1.
      ends: how many of the first bins, and how many of the last, are pieces of the outermost octaves.
    """

    column: Grid
    edges: Edges
    ends: tuple[int, int] = (0, 0)

    def question(self, level: int) -> Question:
        """The histogram over the bins."""
        return Question(self.column.name, len(self.edges) - 1, self._bin_of, bounds_label(self.column, level))

    def _bin_of(self, values: pd.Series) -> Codes:
        """Bins of values, those beyond a declared bound at that bound; -1 where there is no value or no bin."""
        steps = np.clip(positions(self.column, values), *reach(self.column))
        found = np.searchsorted(self.edges, np.nan_to_num(steps, nan=float(self.edges[0]) - 1), side="right") - 1
        return np.where(found < len(self.edges) - 1, found, -1).astype(np.int64)


def reach(column: Grid) -> tuple[int, int]:
    """The first and last step that bounds may have: declared bounds, else the ends of the public grid."""
    first, last = -FARTHEST, FARTHEST
    if isinstance(column, Date | Datetime):
        earliest, latest = public_range(column)
        just = dt.timedelta(seconds=1) if isinstance(column, Datetime) else dt.timedelta(days=1)
        first, last = position(column, earliest - just) + 1, position(column, latest)  # no step before the earliest
    low, high = column.bounds
    if low is not None:
        first = position(column, low)
    if high is not None:
        last = position(column, high)
    return first, max(first, last)


def octaves(first: int, last: int) -> Edges:
    """The edges of 0 and the powers of two on either side of it, as far as they lie from `first` to `last`."""
    powers = 2 ** np.arange(53, dtype=np.int64)
    edges = np.concatenate(
        [1 - powers[::-1], powers]
    )  # -(2^b - 1) to -2^(b - 1) is a bin, then 0 alone, then 1, 2-3, ...
    return np.unique(np.clip(edges, first, last + 1))


def _learn_bounds(columns: Sequence[Column], rows: PrivateRows, events: Events) -> dict[str, Column]:
    unknown = [c for c in columns if isinstance(c, Grid) and c.unknown]
    coarse = [_Search(c, octaves(*reach(c))) for c in unknown]
    outer = _ask(coarse, rows, 0)
    fine = [
        _inside(s, counts, clear(events.get(bounds_label(s.column, 0)), len(counts)))
        for s, counts in zip(coarse, outer, strict=True)
    ]
    asked = [s for s in fine if s is not None]
    inner = {s.column.name: counts for s, counts in zip(asked, _ask(asked, rows, 1), strict=True)}
    ends = {
        c.name: default_ends(c) if s is None else _ends(s, inner[c.name], events.get(bounds_label(c, 1)))
        for c, s in zip(unknown, fine, strict=True)
    }
    return {c.name: _bounded(c, *ends[c.name]) for c in unknown}


def _ask(searches: Sequence[_Search], rows: PrivateRows, level: int) -> list[Counts]:
    return rows.survey([s.question(level) for s in searches]) if searches else []


def _inside(search: _Search, counts: Counts, stands_out: float) -> _Search | None:
    """The outermost octaves that stand out, or follow on one that does, cut into pieces; None where none stands out."""
    seen = np.flatnonzero(counts > stands_out)
    if not len(seen):
        return None
    follows = counts > NEXT_SHARE * stands_out
    low, high = int(seen[0]), int(seen[-1])
    while low and follows[low - 1]:
        low -= 1
    while high + 1 < len(counts) and follows[high + 1]:
        high += 1
    first, last = (evenly(int(search.edges[i]), int(search.edges[i + 1]), PIECES) for i in (low, high))
    return _Search(search.column, np.union1d(first, last), (len(first) - 1, len(last) - 1))


def _ends(search: _Search, counts: Counts, event: DpEvent | None) -> tuple[int, int]:
    """First and last step: from either end, pieces are left out while those left out together do not stand out."""
    edges, stands_out = search.edges, TAIL_SHARE * clear(event, len(counts))
    first, last = counts[: search.ends[0]], counts[::-1][: search.ends[1]]
    low, high = (_left_out(side, stands_out) for side in (first, last))
    found = int(edges[low]), int(edges[len(edges) - 1 - high]) - 1
    return found if found[0] <= found[1] else (int(edges[0]), int(edges[-1]) - 1)


def _left_out(counts: Counts, stands_out: float) -> int:
    """How many pieces are left out, going inward; none where all of them together do not stand out."""
    heavy = np.cumsum(counts) > stands_out * np.sqrt(np.arange(1, len(counts) + 1))
    return int(heavy.argmax())


def default_ends(column: Grid) -> tuple[int, int]:
    """Public bounds for a column in which nothing stands out: DEFAULT_SPAN from the origin, or from a declared
    bound.
    """
    first, last = reach(column)
    unit = 365 if isinstance(column, Date) else 10**column.decimals if isinstance(column, Decimal) else 1
    if isinstance(column, Datetime):
        unit = max(1, 365 * 86_400 // column.resolution)
    span = DEFAULT_SPAN * unit
    low, high = column.bounds
    start = first if low is not None else last - span if high is not None else 0
    start = min(max(start, first), last)
    return start, min(start + span, last)


def _bounded(column: Grid, first: int, last: int) -> Grid:
    """The column with the bounds it lacks; its declared ones stay, to the last digit, also between two steps."""
    ends = {"low": first, "high": last}
    found = {k: bound_at(column, ends[k]) for k in column.unknown}
    low, high = column.bounds
    if low is not None:
        found["high"] = max(found["high"], low)
    if high is not None:
        found["low"] = min(found["low"], high)
    return dataclasses.replace(column, **found)
