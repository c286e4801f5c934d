"""The only file that reads private rows: charge, read, noise, in one call.

`PrivateRows` stands between a fit and its table. Each of its methods first takes an already committed event from the
receipt (nothing is read before that), then reads, then adds noise of exactly the size that event says (`noise`): what
runs and what is charged are the same object. Exact counts are made by `_counting` and kept inside; which rows of a unit
are kept, and which units a sample has, `units` says.

A small table is kept in memory as codes, at most MEMORY bytes of them; a larger one is read again for every pass, in
bounded memory. `tabulate` counts many marginals in one pass.

Privacy: neighbouring tables differ in one unit, which holds at most k = schema.contributions rows after bounding. A
histogram puts each row into at most one cell, so one unit moves it by at most k in L2 norm (all its rows in one
cell is the worst case) and noise of standard deviation sigma costs rho = k^2 / (2 sigma^2) (Canonne, Kamath,
Steinke 2020, Theorem 14). Categories are counted with such noise where they occur and released above a threshold that
no category of one unit alone passes but with the probability delta that is charged beside the noise. A choice scores
candidates by L1 distances that one unit moves by at most k each. Counts are unbiased and are not clipped (trap A18).
A clipped sum over a Poisson sample draws every unit by a coin of its own; a unit's kept rows, at most k, come together
as one vector no longer than the clip, so that adding or removing the unit moves the sum by at most the clip and no
factor k is owed (Abadi et al. 2016; Mironov, Talwar, Zhang 2019). Sum and noise are whole multiples of one grid, and
the noise covers what rounding to the grid may add to that distance (trap A13).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from dp_accounting import ComposedDpEvent, DpEvent, GaussianDpEvent, NonPrivateDpEvent, PoissonSampledDpEvent
from numpy.typing import NDArray

from tabveil._counting import Cells, Cutter, Marginal, Tally
from tabveil.accounting import (
    DeltaDpEvent,
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    ExponentialMechanismDpEvent,
)
from tabveil.columns import Categorical, Column
from tabveil.encoding import Axis, Codes, Floats, encode, numbered, size, texts_to_learn
from tabveil.errors import DataError, UnchargedError, UsageError
from tabveil.ledger import Receipt
from tabveil.noise import RoundedNoise, noise_is_seeded, noise_like, noisy_argmax, rounded_noise, selected
from tabveil.schema import Schema
from tabveil.tables import Table, open_table
from tabveil.units import (
    ClippedSum,
    UnitRows,
    bounded,
    bounded_in_parts,
    fresh_secrets,
    unit_names,
    units_of,
)

FIXED_POINT = 2**16
"""Scores are whole numbers of 1/FIXED_POINT rows, so that their sensitivity is exact."""

MOST_EXPECTED = 2.0**44
"""Expected counts are cut here, in all cells together: beyond it whole numbers of 64 bits would run over."""

GRID_BITS = 24
"""A clipped sum and its noise are rounded to a grid of 2^-GRID_BITS standard deviations of the noise, or finer."""

_WEIGHTS = 2**20
"""The weights of a choice are whole numbers over this."""

MEMORY = 2**29
"""Most bytes of codes kept in memory, names of units counted in: a larger table is read anew for every pass."""

CELL_MEMORY = 3 * 2**29
"""Most bytes of cells of a larger table that are kept, of axes that were asked for outside of `tabulate`."""

CACHED_CELLS = 2**26
"""Most exact counts kept between calls: half a gigabyte."""

UNIT_BYTES = 64
"""What the name of a unit takes in memory, about."""

_BLOCK = 2**20
"""Rows counted at a time."""

_CHANGED = "The table was written to while it was read: read a copy that nobody writes to."

Counted = dict[tuple[int, ...], tuple[Marginal, NDArray[np.int64]]]
"""Marginals and their exact counts, by the identities of their axes."""


@dataclass(frozen=True, eq=False)
class Contest:
    """Candidates for a private choice: which marginal is estimated worst?

    Attributes:
      candidates: the axes of each candidate marginal.
      estimates: for each the expected counts, one axis per Axis, known without reading rows.
      handicaps: shape (candidates,), subtracted from each distance: public numbers such as the expected noise.
      weights: shape (candidates,), above 0, how much each distance counts; all the same by default.
    """

    candidates: tuple[tuple[Axis, ...], ...]
    estimates: tuple[Floats, ...]
    handicaps: Floats
    weights: Floats | None = None

    def weighed(self, scores: NDArray[np.int64], allowed: NDArray[np.int64]) -> NDArray[np.int64]:
        """`scores` of the `allowed` candidates times their weights, the greatest weight counting as 1.

        Privacy: a score that one unit moves by at most a whole number D moves by at most D after: weights are whole
          numbers of at most _WEIGHTS over _WEIGHTS, and rounding down keeps two numbers at most D apart from getting
          farther apart. The greatest weight is public.
        """
        if self.weights is None:
            return scores
        shares = self.weights[allowed] / self.weights[allowed].max()
        whole = np.clip(np.rint(shares * _WEIGHTS), 1, _WEIGHTS).astype(np.int64)
        return np.array([int(s) * int(w) // _WEIGHTS for s, w in zip(scores, whole, strict=True)], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Question:
    """A histogram of one column's raw values over public bins.

    Attributes:
      column: the column's name.
      bins: how many bins.
      bin_of: the bin of each value, shape (rows,), -1 for none; looks at each value by itself.
      label: what was charged.
    """

    column: str
    bins: int
    bin_of: Callable[[pd.Series], Codes]
    label: str


class PrivateRows:
    """Private rows behind a receipt.

    Args:
      table: the rows; read at the first charged call, and where they do not fit into MEMORY at later ones.
      schema: public knowledge.
      receipt: the committed charge.
    """

    def __init__(self, table: Table, schema: Schema, receipt: Receipt) -> None:
        self._table = table
        self._schema = schema
        self._receipt = receipt
        self._codes: dict[str, Codes] | None = None
        self._source: _Source | None = None
        self._cells: dict[int, tuple[Axis, Cells]] = {}
        self._known: Counted = {}
        self._scores: dict[int, tuple[Contest, NDArray[np.int64]]] = {}
        self._kept: NDArray[np.bool_] | None = None
        self._owners: NDArray[np.int64] | None = None
        self._sampled: UnitRows | None = None

    def __repr__(self) -> str:
        return f"PrivateRows({self._schema.name!r})"

    def tabulate(self, marginals: Iterable[Sequence[Axis]]) -> None:
        """Count `marginals` in one pass over the rows, so that `counts` and `choose` need none; gives nothing out.

        As many as fit into CACHED_CELLS are kept, in the order given; the rest is counted when it is asked for.

        Raises:
          UnchargedError: nothing is left of the charge, so no count could ever be asked for.

        Privacy: releases nothing, and reads rows only under a committed charge that is not used up. Exact counts stay
          inside, as the codes do.
        """
        self._receipt.require()
        wanted = [tuple(m) for m in marginals]
        room = CACHED_CELLS - sum(counts.size for _, counts in self._known.values())
        self._known |= self._pass(_first_within(room, [m for m in wanted if _ids(m) not in self._known]))

    def counts(self, axes: Sequence[Axis], *, label: str) -> NDArray[np.int64]:
        """Noisy counts over the cells of `axes`, one array axis each; whole numbers, negative ones included.

        Raises:
          UnchargedError: the receipt does not cover `label`.

        Privacy: one histogram, sensitivity k in L2 (and L1), noise as charged: discrete Gaussian or discrete Laplace.
        """
        event = self._take(label, DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent)
        exact = self._count(axes)
        return exact + noise_like(exact, event)

    def choose(self, contest: Contest, allowed: Sequence[int], *, label: str) -> int:
        """The candidate among `allowed` whose true counts are, up to noise, farthest from their estimate in L1.

        Raises:
          UnchargedError: the receipt does not cover `label`.

        Privacy: report noisy max on whole-number scores; one unit moves each score by at most k * FIXED_POINT, since
          it moves the counts by at most k in L1 and estimates and handicaps are public. Exact scores stay inside.
        """
        event = self._take(label, ExponentialMechanismDpEvent)
        open_ones = np.asarray(allowed, dtype=np.int64)
        scores = contest.weighed(self._score(contest)[open_ones], open_ones)
        if isinstance(event, ExponentialMechanismDpEvent):
            return allowed[noisy_argmax(scores, self._schema.contributions * FIXED_POINT, event)]
        return allowed[int(scores.argmax())]

    @property
    def widths(self) -> tuple[int, ...]:
        """How many codes each modelled column has, missing ones included: public."""
        return tuple(size(c) + c.nullable for c in self._schema.modelled)

    def claim(self, label: str, count: int) -> int:
        """`Receipt.claim`: how many of the next `count` answers under `label` there will be; reads no row."""
        return self._receipt.claim(label, count)

    def noisy_sum(self, asked: ClippedSum, *, label: str) -> Floats:
        """The clipped sum over a fresh Poisson sample of units, plus noise as charged; shape (size,).

        An empty sample gives noise alone. The sample is as large as the coins make it: nothing caps it, and its size
        is told to nobody. Where nothing is private (epsilon inf) the sum is exact.

        Raises:
          UnchargedError: the receipt does not cover `label`, or covers another rate.
          DataError: the table's codes take more than MEMORY.

        Privacy: one Poisson-sampled Gaussian event. Each unit is drawn with `rate` by a coin of its own from the
          operating system's entropy; one unit moves the sum by at most `clip` in L2 norm and, once both are rounded
          to the grid, by at most `clip` + grid * sqrt(size), which is what the noise is `noise_multiplier` times of.
        """
        event = self._take(label, PoissonSampledDpEvent)
        noise = self._noise_of(event, asked, label)
        units = self._in_units()
        total = np.zeros(asked.size)
        for codes, owners in units.drawn(asked):
            total += _vector(asked.total(codes, owners), asked.size)
        return total if noise is None else noise.added_to(total)

    def _noise_of(self, event: DpEvent, asked: ClippedSum, label: str) -> RoundedNoise | None:
        """The charged noise, drawn meanwhile by another thread unless a test has seeded it; None where nothing is
        private.
        """
        if isinstance(event, NonPrivateDpEvent):
            if asked.clip < math.inf:
                raise UnchargedError(f"{label!r} is clipped as a private sum is, but nothing was charged for it.")
            return None
        inner = event.event if isinstance(event, PoissonSampledDpEvent) else None
        if not isinstance(inner, GaussianDpEvent) or event.sampling_probability != asked.rate:
            raise UnchargedError(f"{label!r} was charged for another rate or noise than this sum has.")
        deviation, grid = deviation_and_grid(float(inner.noise_multiplier), asked)
        if noise_is_seeded():
            return RoundedNoise(grid, rounded_noise(asked.size, deviation / grid))
        return RoundedNoise(grid, self._thread.submit(rounded_noise, asked.size, deviation / grid))

    @functools.cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="tabveil-noise")

    def _in_units(self) -> UnitRows:
        """All codes in memory, the rows of each unit together; read once."""
        if self._sampled is None:
            codes = self._read()
            if codes is None:
                raise DataError(
                    f"The table's codes take more than {MEMORY // 2**20} MiB, and training keeps them in memory: use "
                    "fewer rows, or a generator that reads the table in passes, such as mst."
                )
            self._sampled = UnitRows.of([codes[c.name] for c in self._schema.modelled], self._owners)
        return self._sampled

    def forget(self, axes: Sequence[Axis]) -> None:
        """Drop what is kept of `axes`, which are not asked for again: cells, and counts of marginals with them."""
        gone = {id(a) for a in axes}
        self._cells = {i: held for i, held in self._cells.items() if i not in gone}
        self._known = {ids: held for ids, held in self._known.items() if gone.isdisjoint(ids)}

    def _take(self, label: str, *kinds: type[DpEvent]) -> DpEvent:
        """The charged event, checked to be of a kind this mechanism runs and priced for this schema's
        contributions.
        """
        event = self._receipt.take(label)
        if isinstance(event, NonPrivateDpEvent):
            return event
        if not isinstance(event, kinds):
            raise UnchargedError(f"{label!r} was charged as {type(event).__name__}, which this mechanism does not run.")
        self._check_sensitivity(event, label)
        return event

    def _check_sensitivity(self, event: DpEvent, label: str) -> None:
        if getattr(event, "sensitivity", self._schema.contributions) < self._schema.contributions:
            raise UnchargedError(f"{label!r} was charged for fewer rows per unit than the schema allows.")

    def _score(self, contest: Contest) -> NDArray[np.int64]:
        if id(contest) not in self._scores:
            counted = zip(self._counted(contest.candidates), contest.estimates, strict=True)
            raw = [_distance(counts, estimate) for counts, estimate in counted]
            fixed = _fixed_point(contest.handicaps)
            self._scores[id(contest)] = contest, np.asarray(raw, dtype=np.int64) - fixed
        return self._scores[id(contest)][1]

    def _counted(self, marginals: Sequence[Marginal]) -> Iterator[NDArray[np.int64]]:
        """Exact counts of each; those that are not known come from as few passes as CACHED_CELLS allow."""
        waiting = [m for m in marginals if _ids(m) not in self._known]
        fresh: Counted = {}
        for marginal in marginals:
            key = _ids(marginal)
            if key not in self._known and key not in fresh:
                room = CACHED_CELLS - math.prod(a.size for a in marginal)
                fresh = self._pass([marginal, *_first_within(room, [m for m in waiting if _ids(m) != key])])
                waiting = [m for m in waiting if _ids(m) not in fresh]
            yield (self._known.get(key) or fresh[key])[1]

    def _count(self, axes: Sequence[Axis]) -> NDArray[np.int64]:
        """Exact counts; rows that fall into no cell of some axis are left out."""
        marginal = tuple(axes)
        found = self._known.get(_ids(marginal)) or self._pass([marginal], hold=True)[_ids(marginal)]
        return found[1]

    def _pass(self, marginals: Sequence[Marginal], *, hold: bool = False) -> Counted:
        """Exact counts of `marginals` by one pass over the rows; `hold` keeps the cells of a table that is re-read."""
        if not marginals:
            return {}
        with Tally(marginals) as tally:
            for block in self._blocks(tally.cutters, hold=hold):
                tally.add(block)
        return {_ids(m): (m, counts) for m, counts in tally.results()}

    def _blocks(self, cutters: Sequence[Cutter], *, hold: bool) -> Iterator[list[Cells]]:
        """Cells of kept rows, one array per cutter, at most about _BLOCK rows at a time."""
        codes = self._read()
        if codes is not None:
            for cutter in cutters:
                if id(cutter.axis) not in self._cells:
                    self._cells[id(cutter.axis)] = cutter.axis, cutter(codes[cutter.axis.column.name])
        elif any(id(c.axis) not in self._cells for c in cutters):
            yield from self._stream(cutters, hold=hold)
            return
        whole = [self._cells[id(c.axis)][1] for c in cutters]
        for start in range(0, max(len(whole[0]), 1), _BLOCK):
            yield [cells[start : start + _BLOCK] for cells in whole]

    def _stream(self, cutters: Sequence[Cutter], *, hold: bool) -> Iterator[list[Cells]]:
        """`_blocks` read from the source; with `hold` the cells are kept where CELL_MEMORY has room."""
        source = self._source or self._reread()
        self._source = source
        blocks = source.blocks(cutters)
        room = CELL_MEMORY - sum(cells.nbytes for _, cells in self._cells.values())
        if not hold or source.kept_rows is None or source.kept_rows * sum(c.dtype.itemsize for c in cutters) > room:
            yield from blocks
            return
        parts: list[list[Cells]] = []
        for block in blocks:
            parts.append(block)
            yield block
        for cutter, column in zip(cutters, zip(*parts, strict=True), strict=True):
            self._cells[id(cutter.axis)] = cutter.axis, np.concatenate(column)

    def _read(self) -> dict[str, Codes] | None:
        """Codes of every modelled column in memory, None where the table is too large for that."""
        if self._codes is None and self._source is None:
            self._codes = self._load()
            self._source = self._reread() if self._codes is None else None
        return self._codes

    def _reread(self) -> _Source:
        return _Source(self._table, self._schema, kept=self._kept, stamp=self._stamp)

    @functools.cached_property
    def _stamp(self) -> object:
        """The table's stamp before it was first read: every pass ends by comparing it."""
        return self._table.stamp()

    def _require_unchanged(self, rows: int) -> None:
        """Raise DataError where a pass over `rows` rows cannot have read what the first one did."""
        if self._table.stamp() != self._stamp or (self._kept is not None and rows != len(self._kept)):
            raise DataError(_CHANGED)

    def _load(self) -> dict[str, Codes] | None:
        """Codes of every modelled column, at most k rows per unit, None where they take more than MEMORY.

        Persons in a source that may give its rows in another order next time stay in memory whatever they take: which
        rows of each are kept is chosen once, by position.
        """
        modelled, unit = self._schema.modelled, self._schema.privacy_unit
        most = math.inf if unit and not self._table.repeatable else MEMORY
        parts: dict[str, list[Codes]] = {c.name: [] for c in modelled}
        units: list[NDArray[np.object_]] = []
        rows = taken = 0
        self._stamp  # noqa: B018  (taken before the first row is read)
        for chunk in self._table.compact([c.name for c in modelled] + ([unit] if unit else [])):
            for column in modelled:
                parts[column.name].append(_narrow(column, encode(column, chunk[column.name])))
            if unit:
                units.append(units_of(chunk[unit]))
            rows += len(chunk)
            taken += sum(p[-1].nbytes for p in parts.values()) + (UNIT_BYTES * len(chunk) if unit else 0)
            if taken > most:
                return None
        codes = {c.name: np.concatenate(parts.pop(c.name)) for c in modelled}
        if unit and self._kept is None:
            self._kept = bounded(np.concatenate(units), self._schema.contributions)
        self._require_unchanged(rows)
        kept = self._kept
        self._owners = numbered(np.concatenate(units))[0][kept] if unit else None
        return codes if kept is None else {name: c[kept] for name, c in codes.items()}

    # ------------------------------------------------------------------- before bounds and categories are known

    def survey(self, questions: Sequence[Question]) -> list[NDArray[np.int64]]:
        """Noisy counts of raw values over public bins, in one pass over the table; whole numbers, negative ones
        included.

        Raises:
          UnchargedError: the receipt does not cover a label.

        Privacy: each question is one histogram, sensitivity k in L2 (and L1), noise as charged.
        """
        events = [self._take(q.label, DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent) for q in questions]
        exact = [np.zeros(q.bins, dtype=np.int64) for q in questions]
        for chunk in self._raw([q.column for q in questions]):
            for question, counts in zip(questions, exact, strict=True):
                bins = question.bin_of(chunk[question.column])
                counts += np.bincount(bins[bins >= 0], minlength=question.bins)
        return [counts + noise_like(counts, event) for counts, event in zip(exact, events, strict=True)]

    def categories(self, columns: Sequence[Categorical], *, labels: Sequence[str]) -> list[tuple[str, ...]]:
        """The texts of each column whose noisy count reaches its threshold, sorted; in one pass over the table.

        Raises:
          UnchargedError: the receipt does not cover a label with noise and a delta.

        Privacy: partition selection (`selected`): one unit moves the counts by at most k in L2 norm, over at most k
          texts.
        """
        events = [self._take_selection(label) for label in labels]
        counts = [pd.Series(dtype=np.int64) for _ in columns]
        for chunk in self._raw([c.name for c in columns]):
            for i, column in enumerate(columns):
                seen = texts_to_learn(column, chunk[column.name]).value_counts()
                counts[i] = counts[i].add(seen, fill_value=0).astype(np.int64)
        return [selected(c, event) for c, event in zip(counts, events, strict=True)]

    def under(self, schema: Schema) -> PrivateRows:
        """The same rows, the same ones of each unit, under the schema that was learned from them."""
        rows = copy.copy(self)
        rows._schema, rows._sampled = schema, None
        return rows

    def _take_selection(self, label: str) -> tuple[DiscreteGaussianDpEvent, DeltaDpEvent] | None:
        """The noise and the delta charged for one selection of categories; None where nothing is private."""
        event = self._take(label, ComposedDpEvent)
        if isinstance(event, NonPrivateDpEvent):
            return None
        parts = tuple(event.events)
        if [type(e) for e in parts] != [DiscreteGaussianDpEvent, DeltaDpEvent]:
            raise UnchargedError(f"{label!r} was not charged as noise and the delta of a threshold.")
        self._check_sensitivity(parts[0], label)
        return parts[0], parts[1]

    def _raw(self, names: Sequence[str]) -> Iterator[pd.DataFrame]:
        """The kept rows of some columns, chunk by chunk.

        Raises:
          DataError: the table was written to since the first pass.
        """
        kept, start = self._keep(), 0
        self._stamp  # noqa: B018  (taken before the first row is read)
        for chunk in self._table.chunks(list(dict.fromkeys(names))):
            if kept is not None and start + len(chunk) > len(kept):
                raise DataError(_CHANGED)
            yield chunk if kept is None else chunk[kept[start : start + len(chunk)]]
            start += len(chunk)
        self._require_unchanged(start)

    def _keep(self) -> NDArray[np.bool_] | None:
        """Which rows are kept, chosen once for everything that is asked; None where every row is a unit.

        Rows are known by position, so a source that may give them in another order next time is first read into memory.
        """
        unit = self._schema.privacy_unit
        if unit and self._kept is None:
            if not self._table.repeatable:
                names = [*(c.name for c in self._schema.modelled), unit]
                self._table = open_table(pd.concat(list(self._table.chunks(names)), ignore_index=True))
            self._stamp  # noqa: B018  (taken before the first row is read)
            self._kept = _kept_rows(self._table, self._schema)
        return self._kept


def _kept_rows(table: Table, schema: Schema) -> NDArray[np.bool_]:
    """A choice of at most k rows of every unit, told apart by their texts where these fit into memory."""
    unit, units, taken = str(schema.privacy_unit), list[NDArray[np.object_]](), 0
    for chunk in table.compact([unit]):
        units.append(units_of(chunk[unit]))
        taken += UNIT_BYTES * len(chunk)
        if taken > MEMORY:
            return _kept_rows_by_name(table, schema)
    return bounded(np.concatenate(units), schema.contributions)


def _kept_rows_by_name(table: Table, schema: Schema) -> NDArray[np.bool_]:
    """`_kept_rows` of more units than fit into memory as texts."""
    unit, secrets = str(schema.privacy_unit), fresh_secrets()
    parts: tuple[list[NDArray[np.uint64]], list[NDArray[np.uint64]]] = ([], [])
    for chunk in table.compact([unit]):
        for part, names in zip(parts, unit_names(units_of(chunk[unit]), secrets), strict=True):
            part.append(names)
    return bounded_in_parts(np.concatenate(parts[0]), np.concatenate(parts[1]), schema.contributions)


def _vector(part: Floats, size: int) -> Floats:
    """`part` where it is finite, zero elsewhere.

    Raises:
      UsageError: another shape than (size,): broadcast, one coordinate's clip would become every coordinate's.
    """
    if part.shape != (size,):
        raise UsageError("A clipped sum must have one number for each of its coordinates, shape (size,).")
    return np.where(np.isfinite(part), part, 0.0)


def deviation_and_grid(multiplier: float, asked: ClippedSum) -> tuple[float, float]:
    """Standard deviation of the noise of a clipped sum, and the grid it is drawn on, a power of two.

    Two sums at most `clip` apart are, rounded to the grid, at most `clip` + grid * sqrt(size) apart: each coordinate of
    each moves by at most half a grid step. The noise is `multiplier` times that.

    Raises:
      UnchargedError: a clip that is not a number above 0.
    """
    if not 0 < asked.clip < math.inf:
        raise UnchargedError("A private sum needs a clip that is a number above 0.")
    grid = 2.0 ** (math.floor(math.log2(multiplier * asked.clip)) - GRID_BITS)
    return multiplier * (asked.clip + grid * math.sqrt(asked.size)), grid


class _Source:
    """A table that is read anew for every pass, at most k rows of each unit: the same ones in every pass.

    Attributes:
      kept_rows: how many rows a pass gave, None before the first.
    """

    def __init__(self, table: Table, schema: Schema, *, kept: NDArray[np.bool_] | None, stamp: object) -> None:
        """Which rows are kept (`kept`, or chosen now) holds for all passes: bounding anew in each would let one unit
        move the passes together by more than k rows. `stamp` is the table's before it was first read.
        """
        self._table = table
        self._stamp = stamp
        self.kept_rows: int | None = None
        self._kept = _kept_rows_by_name(table, schema) if kept is None and schema.privacy_unit else kept

    def blocks(self, cutters: Sequence[Cutter]) -> Iterator[list[Cells]]:
        """Cells of kept rows, one array per cutter, about _BLOCK rows at a time.

        Raises:
          DataError: the table was written to since the first pass, or holds a value that its column refuses.
        """
        waiting: list[list[Cells]] = []
        rows = total = 0
        for cells in self._cells(cutters):
            waiting.append(cells)
            rows += len(cells[0])
            if rows >= _BLOCK:
                yield _stacked(waiting)
                waiting, rows, total = [], 0, total + rows
        if waiting:
            yield _stacked(waiting)
        self._check(total + rows)

    def _cells(self, cutters: Sequence[Cutter]) -> Iterator[list[Cells]]:
        columns = {c.axis.column.name: c.axis.column for c in cutters}
        start = 0
        for chunk in self._table.compact(list(columns)):
            kept = slice(None) if self._kept is None else self._kept[start : start + len(chunk)]
            start += len(chunk)
            if self._kept is not None and start > len(self._kept):
                raise DataError(_CHANGED)
            codes = {name: encode(column, chunk[name])[kept] for name, column in columns.items()}
            yield [cutter(codes[cutter.axis.column.name]) for cutter in cutters]
        if self._kept is not None and start != len(self._kept):
            raise DataError(_CHANGED)

    def _check(self, rows: int) -> None:
        """Raise DataError where this pass cannot have read what an earlier one did."""
        if self._table.stamp() != self._stamp or (self._table.repeatable and self.kept_rows not in (None, rows)):
            raise DataError(_CHANGED)
        self.kept_rows = rows


def _stacked(parts: Sequence[list[Cells]]) -> list[Cells]:
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _ids(marginal: Marginal) -> tuple[int, ...]:
    return tuple(map(id, marginal))


def _first_within(room: int, marginals: Sequence[Marginal]) -> list[Marginal]:
    """The first of `marginals` whose cells fit into `room`, all together; each once."""
    fitting: dict[tuple[int, ...], Marginal] = {}
    for marginal in marginals:
        cells = math.prod(a.size for a in marginal)
        if cells <= room and _ids(marginal) not in fitting:
            fitting[_ids(marginal)] = marginal
            room -= cells
    return list(fitting.values())


def _distance(counts: NDArray[np.int64], estimate: Floats) -> int:
    return int(np.abs(counts * FIXED_POINT - _fixed_point(estimate)).sum())


def _fixed_point(numbers: Floats) -> NDArray[np.int64]:
    """Public numbers in units of 1/FIXED_POINT, bounded so that no sum of whole numbers can run over."""
    bounded = np.clip(np.nan_to_num(numbers, nan=0.0), 0.0, MOST_EXPECTED / max(1, numbers.size))
    return np.rint(bounded * FIXED_POINT).astype(np.int64)


def _narrow(column: Column, codes: Codes) -> Codes:
    """Codes in the smallest whole-number type that holds them: an order of magnitude less memory for long tables."""
    return codes.astype(np.min_scalar_type(size(column) + 1))
