"""The only file that reads private rows for counts and choices: charge, read, noise, in one call.

`PrivateRows` stands between a fit and its table. Each of its methods first takes an already committed event from the
receipt (nothing is read before that), then reads, then adds noise of exactly the size that event says: what runs and
what is charged are the same object.

Privacy: neighbouring tables differ in one unit, which holds at most k = schema.contributions rows after bounding. A
histogram puts each row into at most one cell, so one unit moves it by at most k in L2 norm (all its rows in one
cell is the worst case) and noise of standard deviation sigma costs rho = k^2 / (2 sigma^2) (Canonne, Kamath,
Steinke 2020, Theorem 14). Categories are counted with such noise where they occur and released above a threshold that
no category of one unit alone passes but with the probability delta that is charged beside the noise. A choice scores
candidates by L1 distances that one unit moves by at most k each. Counts are unbiased and are not clipped (trap A18).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import opendp.prelude as dp
import pandas as pd
from dp_accounting import ComposedDpEvent, DpEvent, NonPrivateDpEvent
from numpy.typing import NDArray
from scipy import special

from tabveil.accounting import (
    DeltaDpEvent,
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    ExponentialMechanismDpEvent,
)
from tabveil.columns import Categorical, Column, writable
from tabveil.encoding import Axis, Codes, Floats, encode, size, texts_of, texts_to_learn
from tabveil.errors import UnchargedError
from tabveil.ledger import Receipt
from tabveil.samplers import MAX_SIGMA, MIN_SIGMA, Words, discrete_gaussian, representable, system_bits
from tabveil.schema import Schema
from tabveil.tables import Table

dp.enable_features("contrib")

FIXED_POINT = 2**16
"""Scores are whole numbers of 1/FIXED_POINT rows, so that their sensitivity is exact."""

MOST_EXPECTED = 2.0**44
"""Expected counts are cut here, in all cells together: beyond it whole numbers of 64 bits would run over."""

OPENDP_CELLS = 512
"""Vectors longer than this are drawn by `samplers`, which takes a tenth of OpenDP's time per cell."""

_BLOCK = 1_000_000
_seed: ContextVar[np.random.Generator | None] = ContextVar("seed", default=None)


@contextlib.contextmanager
def seeded_noise_for_tests(seed: int) -> Iterator[None]:
    """Inside, privacy noise repeats. Every statement made inside says NOT A RELEASE (trap A12)."""
    token = _seed.set(np.random.default_rng(seed))
    try:
        yield
    finally:
        _seed.reset(token)


def noise_is_seeded() -> bool:
    """Whether a test has replaced the operating system's entropy."""
    return _seed.get() is not None


def _bits(count: int) -> Words:
    generator = _seed.get()
    return system_bits(count) if generator is None else generator.integers(0, 2**64, count, dtype=np.uint64)


def gaussian_noise(cells: int, event: DiscreteGaussianDpEvent) -> NDArray[np.int64]:
    """Discrete Gaussian noise of `event.sigma` for `cells` cells, from OpenDP or, where that would dominate, from
    `samplers`.
    """
    vectorised = cells > OPENDP_CELLS and MIN_SIGMA <= event.sigma <= MAX_SIGMA
    if vectorised or (noise_is_seeded() and MIN_SIGMA <= event.sigma <= MAX_SIGMA):
        return discrete_gaussian(cells, event.sigma, _bits)
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")
    price = event.sensitivity**2 / (2 * event.sigma**2)
    return _added(dp.m.make_gaussian(*space, scale=float(event.sigma)), cells, (event.sensitivity, price))


def laplace_noise(cells: int, event: DiscreteLaplaceDpEvent) -> NDArray[np.int64]:
    """Discrete Laplace noise of `event.scale` for `cells` cells, from OpenDP."""
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64")
    price = event.sensitivity / event.scale
    return _added(dp.m.make_laplace(*space, scale=float(event.scale)), cells, (event.sensitivity, price))


def _added(measurement: dp.Measurement, cells: int, charged: tuple[int, float]) -> NDArray[np.int64]:
    """Noise for `cells` cells, once OpenDP's own price at the charged sensitivity is at most the charged one."""
    sensitivity, price = charged
    if not _price(measurement, sensitivity) <= price * (1 + 1e-9):
        raise UnchargedError("The noise library's price for these counts is above what was charged.")
    return np.asarray(measurement([0] * cells), dtype=np.int64)


def _price(measurement: dp.Measurement, sensitivity: int) -> float:
    """What OpenDP itself says the measurement costs."""
    return float(measurement.map(sensitivity))


@functools.lru_cache(maxsize=256)
def _noisy_max(scale: float) -> dp.Measurement:
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.linf_distance(T="i64")
    return dp.m.make_noisy_max(*space, dp.zero_concentrated_divergence(), scale=scale)


def noisy_argmax(scores: NDArray[np.int64], sensitivity: int, event: ExponentialMechanismDpEvent) -> int:
    """Position of the largest score after Gumbel noise, the exponential mechanism, by OpenDP's report-noisy-max.

    OpenDP adds Gumbel noise where zCDP is asked for and exponential noise where pure DP is; only the former has a
    privacy loss of range epsilon, which is what `event` is charged for (Cesar & Rogers 2021; McSherry & Talwar 2007).

    Args:
      scores: shape (candidates,), whole numbers.
      sensitivity: how far one unit can move any one score.
      event: what was charged.

    Raises:
      UnchargedError: OpenDP's own price for the noise is above the charge.
    """
    generator = _seed.get()
    scale = math.nextafter(2 * sensitivity / event.epsilon * (1 + 1e-12), math.inf)
    if generator is not None:
        return int(np.argmax(scores + scale * generator.gumbel(size=len(scores))))
    measurement = _noisy_max(scale)
    if _price(measurement, sensitivity) > event.epsilon**2 / 8 * (1 + 1e-12):
        raise UnchargedError("The noise library's price for this choice is above what was charged.")
    return int(measurement(scores.tolist()))


@dataclass(frozen=True, eq=False)
class Contest:
    """Candidates for a private choice: which marginal is estimated worst?

    Attributes:
      candidates: the axes of each candidate marginal.
      estimates: for each the expected counts, one axis per Axis, known without reading rows.
      handicaps: shape (candidates,), subtracted from each score: public numbers such as the expected noise.
    """

    candidates: tuple[tuple[Axis, ...], ...]
    estimates: tuple[Floats, ...]
    handicaps: Floats


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
      table: the rows; read once, column by column into codes, at the first charged call.
      schema: public knowledge.
      receipt: the committed charge.
    """

    def __init__(self, table: Table, schema: Schema, receipt: Receipt) -> None:
        self._table = table
        self._schema = schema
        self._receipt = receipt
        self._codes: dict[str, NDArray[np.int64]] | None = None
        self._cells: dict[int, tuple[Axis, NDArray[np.int32]]] = {}
        self._scores: dict[int, tuple[Contest, NDArray[np.int64]]] = {}
        self._kept: NDArray[np.bool_] | None = None

    def __repr__(self) -> str:
        return f"PrivateRows({self._schema.name!r})"

    def counts(self, axes: Sequence[Axis], *, label: str) -> NDArray[np.int64]:
        """Noisy counts over the cells of `axes`, one array axis each; whole numbers, negative ones included.

        Raises:
          UnchargedError: the receipt does not cover `label`.

        Privacy: one histogram, sensitivity k in L2 (and L1), noise as charged: discrete Gaussian or discrete Laplace.
        """
        event = self._take(label, DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent)
        exact = self._count(axes)
        if isinstance(event, DiscreteGaussianDpEvent):
            return exact + gaussian_noise(exact.size, event).reshape(exact.shape)
        if isinstance(event, DiscreteLaplaceDpEvent):
            return exact + laplace_noise(exact.size, event).reshape(exact.shape)
        return exact

    def choose(self, contest: Contest, allowed: Sequence[int], *, label: str) -> int:
        """The candidate among `allowed` whose true counts are, up to noise, farthest from their estimate in L1.

        Raises:
          UnchargedError: the receipt does not cover `label`.

        Privacy: report noisy max on whole-number scores; one unit moves each score by at most k * FIXED_POINT, since
          it moves the counts by at most k in L1 and estimates and handicaps are public. Exact scores stay inside.
        """
        event = self._take(label, ExponentialMechanismDpEvent)
        scores = self._score(contest)[np.asarray(allowed)]
        if isinstance(event, ExponentialMechanismDpEvent):
            return allowed[noisy_argmax(scores, self._schema.contributions * FIXED_POINT, event)]
        return allowed[int(scores.argmax())]

    def _take(self, label: str, *kinds: type[DpEvent]) -> DpEvent:
        """The charged event, checked to be of a kind this mechanism runs and priced for this schema's
        contributions.
        """
        event = self._receipt.take(label)
        if isinstance(event, NonPrivateDpEvent):
            return event
        if not isinstance(event, kinds):
            raise UnchargedError(f"{label!r} was charged as {type(event).__name__}, which this mechanism does not run.")
        if getattr(event, "sensitivity", self._schema.contributions) < self._schema.contributions:
            raise UnchargedError(f"{label!r} was charged for fewer rows per unit than the schema allows.")
        return event

    def _score(self, contest: Contest) -> NDArray[np.int64]:
        if id(contest) not in self._scores:
            estimates = zip(contest.candidates, contest.estimates, strict=True)
            raw = [self._distance(axes, estimate) for axes, estimate in estimates]
            fixed = _fixed_point(contest.handicaps)
            self._scores[id(contest)] = contest, np.asarray(raw, dtype=np.int64) - fixed
        return self._scores[id(contest)][1]

    def _distance(self, axes: Sequence[Axis], estimate: Floats) -> int:
        return int(np.abs(self._count(axes) * FIXED_POINT - _fixed_point(estimate)).sum())

    def _count(self, axes: Sequence[Axis]) -> NDArray[np.int64]:
        """Exact counts; rows that fall into no cell of some axis are left out."""
        shape = tuple(a.size for a in axes)
        columns = [self._cells_of(a) for a in axes]
        total = np.zeros(math.prod(shape), dtype=np.int64)
        for start in range(0, len(columns[0]), _BLOCK):
            block = [c[start : start + _BLOCK] for c in columns]
            joint = np.zeros(len(block[0]), dtype=np.int64)
            for cells, width in zip(block, shape, strict=True):
                joint = joint * width + cells
            inside = np.logical_and.reduce([c >= 0 for c in block])
            total += np.bincount(joint if inside.all() else joint[inside], minlength=len(total))
        return total.reshape(shape)

    def _cells_of(self, axis: Axis) -> NDArray[np.int32]:
        if id(axis) not in self._cells:
            self._cells[id(axis)] = axis, axis.cells(self._read()[axis.column.name]).astype(np.int32)
        return self._cells[id(axis)][1]

    def forget(self, axes: Sequence[Axis]) -> None:
        """Drop the cached cells of `axes`, which are not asked for again."""
        for axis in axes:
            self._cells.pop(id(axis), None)

    def _read(self) -> dict[str, Codes]:
        if self._codes is None:
            self._codes = self._load()
        return self._codes

    def _load(self) -> dict[str, Codes]:
        """Codes of every learned column, at most k rows per unit."""
        learned, unit = self._schema.learned, self._schema.privacy_unit
        names = [c.name for c in learned] + ([unit] if unit else [])
        parts: dict[str, list[Codes]] = {c.name: [] for c in learned}
        units: list[NDArray[np.object_]] = []
        for chunk in self._table.chunks(names):
            for column in learned:
                parts[column.name].append(_narrow(column, encode(column, chunk[column.name])))
            if unit:
                units.append(texts_of(chunk[unit]).fillna("").to_numpy(dtype=object))
        codes = {name: np.concatenate(p) if p else np.zeros(0, dtype=np.int64) for name, p in parts.items()}
        if unit and units:
            if self._kept is None:
                self._kept = _bounded(np.concatenate(units), self._schema.contributions)
            codes = {name: c[self._kept] for name, c in codes.items()}
        return codes

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
        return [counts + _noise_like(counts, event) for counts, event in zip(exact, events, strict=True)]

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
        rows._schema = schema
        return rows

    def _take_selection(self, label: str) -> tuple[DiscreteGaussianDpEvent, DeltaDpEvent] | None:
        """The noise and the delta charged for one selection of categories; None where nothing is private."""
        event = self._take(label, ComposedDpEvent)
        if isinstance(event, NonPrivateDpEvent):
            return None
        parts = tuple(event.events)
        if [type(e) for e in parts] != [DiscreteGaussianDpEvent, DeltaDpEvent]:
            raise UnchargedError(f"{label!r} was not charged as noise and the delta of a threshold.")
        if parts[0].sensitivity < self._schema.contributions:
            raise UnchargedError(f"{label!r} was charged for fewer rows per unit than the schema allows.")
        return parts[0], parts[1]

    def _raw(self, names: Sequence[str]) -> Iterator[pd.DataFrame]:
        """The kept rows of some columns, chunk by chunk."""
        kept, start = self._keep(), 0
        for chunk in self._table.chunks(list(dict.fromkeys(names))):
            yield chunk if kept is None else chunk[kept[start : start + len(chunk)]]
            start += len(chunk)

    def _keep(self) -> NDArray[np.bool_] | None:
        """Which rows are kept, chosen once for everything that is asked; None where every row is a unit."""
        unit = self._schema.privacy_unit
        if unit and self._kept is None:
            units = [texts_of(c[unit]).fillna("").to_numpy(dtype=object) for c in self._table.chunks([unit])]
            self._kept = _bounded(np.concatenate(units), self._schema.contributions)
        return self._kept


def _bounded(units: NDArray[np.object_], most: int) -> NDArray[np.bool_]:
    kept = np.zeros(len(units), dtype=bool)
    kept[bounded_contributions(units, most)] = True
    return kept


def _noise_like(counts: NDArray[np.int64], event: DpEvent) -> NDArray[np.int64]:
    """The charged noise for each of `counts`; none where nothing is private."""
    if isinstance(event, DiscreteGaussianDpEvent):
        return gaussian_noise(len(counts), event)
    return laplace_noise(len(counts), event) if isinstance(event, DiscreteLaplaceDpEvent) else np.zeros_like(counts)


def selected(counts: pd.Series, charged: tuple[DiscreteGaussianDpEvent, DeltaDpEvent] | None) -> tuple[str, ...]:
    """The texts whose noisy count reaches the threshold, sorted: partition selection (Korolova, Kenthapadi, Mishra,
    Ntoulas 2009; Desfontaines, Voss, Gipson, Mandayam 2022).

    Args:
      counts: how many kept rows hold each text that occurs.
      charged: noise for every count, and the chance that a text of one unit alone is released; None: all are released.

    Privacy: counts of texts that both neighbours hold are a Gaussian mechanism whose output is cut at the threshold. A
      text that only one of them holds is released with probability at most delta, all such texts together.
    """
    texts = sorted(t for t in counts.index if writable(t))
    if charged is None or not texts:
        return tuple(texts)
    gaussian, failure = charged
    noisy = counts[texts].to_numpy() + gaussian_noise(len(texts), gaussian)
    least = threshold(gaussian, failure.delta)
    return tuple(t for t, n in zip(texts, noisy.tolist(), strict=True) if n >= least)


def threshold(gaussian: DiscreteGaussianDpEvent, delta: float) -> int:
    """The least noisy count that is released, rounded up: texts of one unit alone reach it with probability at most
    delta.

    A unit has at most k rows, so at most k texts of its own, each counted at most k times: k * P(noise >= T - k) must
    be at most delta. P(X >= m) of the discrete Gaussian is at most P(Y >= m - 1) of the continuous one (Canonne,
    Kamath, Steinke 2020, Proposition 25).
    """
    k, sigma = gaussian.sensitivity, float(gaussian.sigma)
    if MIN_SIGMA <= sigma <= MAX_SIGMA:
        sigma = max(sigma, representable(sigma))  # the sampler's own, which is never below
    quantile = -float(special.ndtri(delta / k * (1 - 1e-9)))
    return k + 1 + math.ceil(max(quantile, 0.0) * sigma * (1 + 1e-9))


def counting_event(amount: float, contributions: int, *, pure: bool) -> DpEvent:
    """The event of one histogram that costs `amount`: epsilon and discrete Laplace noise where `pure`, else rho and
    discrete Gaussian noise of a standard deviation that is drawn exactly.
    """
    if pure:
        return DiscreteLaplaceDpEvent(contributions / amount, contributions)
    sigma = contributions / math.sqrt(2 * amount)
    drawn_exactly = representable(sigma) if MIN_SIGMA <= sigma <= MAX_SIGMA else sigma
    return DiscreteGaussianDpEvent(drawn_exactly, contributions)


def _fixed_point(numbers: Floats) -> NDArray[np.int64]:
    """Public numbers in units of 1/FIXED_POINT, bounded so that no sum of whole numbers can run over."""
    bounded = np.clip(np.nan_to_num(numbers, nan=0.0), 0.0, MOST_EXPECTED / max(1, numbers.size))
    return np.rint(bounded * FIXED_POINT).astype(np.int64)


def bounded_contributions(units: NDArray[np.object_], most: int) -> NDArray[np.int64]:
    """Positions of at most `most` rows of every unit, chosen evenly, in rising order.

    Privacy: which rows of a unit are kept depends on that unit's rows and on fresh entropy only, so adding or
      removing a unit changes at most `most` kept rows (trap A17). Rows without a unit count as one unit together,
      which protects them all.
    """
    numbers, _ = pd.factorize(units)
    order = np.lexsort((_bits(len(units)), numbers))
    ordered = numbers[order]
    start = np.searchsorted(ordered, ordered, side="left")
    return np.sort(order[np.arange(len(units)) - start < most])


def _narrow(column: Column, codes: Codes) -> Codes:
    """Codes in the smallest whole-number type that holds them: an order of magnitude less memory for long tables."""
    return codes.astype(np.min_scalar_type(size(column) + 1))
