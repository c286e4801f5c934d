"""One chart per column: shares of the synthetic table, and of real rows where those may be shown, over the same bins.

Bins come from the schema and from the synthetic table, never from real rows: a synthetic table that is private stays
so whatever is computed from it (post-processing, Dwork and Roth 2014, Proposition 2.1).

Privacy: with `show_real=False` no real row is looked at; with `show_real=True` a chart is INTERNAL.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil.columns import Categorical, Column, Date, Datetime, Decimal, Discrete, Grid, Integer
from tabveil.encoding import parse
from tabveil.metrics.base import MetricInput
from tabveil.records import MarginalChart

MAX_BARS = 40
"""Bins of a number or date, or categories drawn for themselves, at most."""

_CROWDED = 0.8
"""Where the four fullest of the equal bins hold this share, bins of unequal width show more."""

_ATOM = 0.02
"""A single value with this share gets a bin of its own among bins of unequal width."""

_QUANTILES = 16

Codes = NDArray[np.int64]


def charts(data: MetricInput, *, show_real: bool) -> list[MarginalChart]:
    """A chart for each learned column, in schema order.

    Args:
      data: the tables; only the synthetic one is read unless `show_real`.
      show_real: whether to add the shares of train and, where there is one, of the holdout (INTERNAL).

    Returns:
      Shares over the same bins for every table. Numeric bins cover the public bounds, so what a series lacks to 1 is
      the share of missing cells; for categories these are bars of their own.
    """
    return [_chart(c, data, show_real=show_real) for c in data.schema.learned]


def _chart(column: Column, data: MetricInput, *, show_real: bool) -> MarginalChart:
    synthetic = _parsed(column, data.synthetic)
    bars = _grid_bars(column, synthetic) if isinstance(column, Grid) else _label_bars(column, synthetic)
    return MarginalChart(
        column=column.name,
        kind=column.kind,
        labels=bars.labels,
        synthetic=bars.shares(synthetic),
        real=bars.shares(_parsed(column, data.train)) if show_real else (),
        holdout=bars.shares(_parsed(column, data.holdout)) if show_real and data.holdout is not None else (),
        edges=bars.edges,
        internal=show_real,
    )


def _parsed(column: Column, frame: pd.DataFrame) -> Codes:
    return parse(column, frame[column.name])[0]


@dataclass(frozen=True, eq=False)
class _Bars:
    """What is drawn of one column.

    Attributes:
      labels: a text for each bar.
      edges: where bars of a number or date begin and end, in the column's own values (dates: seconds since 1970).
      ends: rising codes, shape (bars + 1,), of a number or date: bar i holds the codes ends[i] to ends[i + 1] - 1.
      bar: for every code of a category, for missing and for not declared the bar it belongs to, -1 for none.
    """

    labels: tuple[str, ...]
    edges: tuple[float, ...] = ()
    ends: Codes | None = None
    bar: Codes | None = None

    def shares(self, codes: Codes) -> tuple[float, ...]:
        """Share of all `codes` in each bar."""
        if self.bar is not None:
            at = self.bar[codes]
        elif self.ends is not None:
            at = np.searchsorted(self.ends, codes, side="right") - 1
        counts = np.bincount(at[(at >= 0) & (at < len(self.labels))], minlength=len(self.labels))
        return tuple((counts / max(1, len(codes))).tolist())


def _label_bars(column: Column, synthetic: Codes) -> _Bars:
    """Categories in declared order where that means something, else by synthetic share; the rarest share one bar."""
    labels = column.labels if isinstance(column, Discrete) else ()
    counts = np.bincount(synthetic[(synthetic >= 0) & (synthetic < len(labels))], minlength=len(labels))
    by_share = np.argsort(-counts, kind="stable")
    shown = by_share if len(labels) <= MAX_BARS else by_share[: MAX_BARS - 1]
    if not isinstance(column, Categorical) or column.ordered:
        shown = np.sort(shown)
    bar = np.full(len(labels) + 2, -1, dtype=np.int64)
    bar[shown] = np.arange(len(shown))
    names = [labels[i] for i in shown]
    if len(shown) < len(labels):
        bar[: len(labels)][bar[: len(labels)] < 0] = len(names)
        names.append(f"({len(labels) - len(shown):,} others)")
    for at, name, wanted in ((-2, "(missing)", column.nullable), (-1, "(not declared)", bool((synthetic < 0).any()))):
        if wanted:
            bar[at] = len(names)
            names.append(name)
    return _Bars(tuple(names), bar=bar)


def _grid_bars(column: Grid, synthetic: Codes) -> _Bars:
    """Bins of equal width over the public bounds or, where rows would crowd into few of them, bins that follow rows."""
    seen = synthetic[(synthetic >= 0) & (synthetic < column.units)]
    step = _round_step(math.ceil(column.units / MAX_BARS))
    ends = np.arange(0, column.units + step, step)
    if step > 1 and len(seen):
        fullest = np.sort(np.bincount(seen // step, minlength=len(ends) - 1))[-4:]
        if len(ends) > 12 and fullest.sum() >= _CROWDED * len(seen):
            ends = _following(seen, column.units)
    labels = tuple(_range(column, int(a), int(b) - 1) for a, b in itertools.pairwise(ends))
    edges = tuple(_place(column, int(e)) for e in ends)
    return _Bars(labels, edges=edges, ends=np.minimum(ends, column.units))


def _following(seen: Codes, units: int) -> Codes:
    """Bin ends, shape (bars + 1,): every frequent value alone, quantiles of the other values between them."""
    values, counts = np.unique(seen, return_counts=True)
    frequent = counts >= _ATOM * len(seen)
    atoms = values[frequent][np.argsort(-counts[frequent], kind="stable")][: (MAX_BARS - _QUANTILES) // 2]
    rest = seen[~np.isin(seen, atoms)]
    cuts = np.quantile(rest, np.linspace(0, 1, _QUANTILES + 1)[1:-1], method="nearest") if len(rest) else rest
    return np.unique(np.concatenate([[0], atoms, atoms + 1, cuts, [units]])).astype(np.int64)


def _round_step(step: int) -> int:
    """The next of 1, 2, 5, 10, 20, 25, 50, 100, 200, 250, ..., from `step` up."""
    scale = 10 ** (len(str(step)) - 1)
    return next(int(m * scale) for m in (1, 2, 2.5, 5, 10) if m * scale >= step and m * scale % 1 == 0)


def _place(column: Grid, step: int) -> float:
    """Where the bin that begins with grid step `step` begins, in the column's values: half a step before it."""
    if isinstance(column, Integer):
        return column.low + step - 0.5
    if isinstance(column, Decimal):
        return float((_first(column) + step - 0.5) / 10**column.decimals)
    return _moment(column, 0).timestamp() + step * _seconds(column)


def _first(column: Decimal) -> int:
    scale: int = 10**column.decimals
    return round(column.low * scale)


def _moment(column: Grid, step: int) -> dt.datetime:
    if not isinstance(column, Date | Datetime):
        raise TypeError(f"A column of kind {column.kind!r} has no moments.")
    low = column.low if isinstance(column, Datetime) else dt.datetime.combine(column.low, dt.time())
    return low.replace(tzinfo=dt.UTC) + dt.timedelta(seconds=step * _seconds(column))


def _seconds(column: Column) -> int:
    return column.resolution if isinstance(column, Datetime) else 86_400


def _range(column: Grid, first: int, last: int) -> str:
    """The values of a bin in words: its first value or, where it has several, first to last, within the bounds."""
    last = min(last, column.units - 1)
    ends = [_text(column, first)] if last <= first else [_text(column, first), _text(column, last)]
    return " to ".join(ends)


def _text(column: Grid, step: int) -> str:
    if isinstance(column, Integer):
        return f"{column.low + step:,}"
    if isinstance(column, Decimal):
        return f"{(_first(column) + step) / 10**column.decimals:,.{column.decimals}f}"
    moment = _moment(column, step)
    return moment.date().isoformat() if isinstance(column, Date) else moment.replace(tzinfo=None).isoformat(" ")
