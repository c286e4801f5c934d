"""The only file that reads private rows for counts and choices: charge, read, noise, in one call.

`PrivateRows` stands between a fit and its table. Each of its methods first takes an already committed event from the
receipt (nothing is read before that), then reads, then adds noise of exactly the size that event says: what runs and
what is charged are the same object.

Privacy: neighbouring tables differ in one unit, which holds at most k = schema.contributions rows after bounding. A
histogram puts each row into at most one cell, so one unit moves it by at most k in L2 norm (all its rows in one
cell is the worst case) and noise of standard deviation sigma costs rho = k^2 / (2 sigma^2) (Canonne, Kamath,
Steinke 2020, Theorem 14). A choice scores candidates by L1 distances that one unit moves by at most k each. Counts
are unbiased and are not clipped (trap A18).
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import opendp.prelude as dp
import pandas as pd
from dp_accounting import DpEvent, NonPrivateDpEvent
from numpy.typing import NDArray

from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, ExponentialMechanismDpEvent
from tabveil.columns import Column
from tabveil.encoding import Axis, Codes, Floats, encode, size, texts_of
from tabveil.errors import UnchargedError
from tabveil.ledger import Receipt
from tabveil.samplers import MAX_SIGMA, MIN_SIGMA, Words, discrete_gaussian, system_bits
from tabveil.schema import Schema
from tabveil.tables import Table

dp.enable_features("contrib")

FIXED_POINT = 2**16
"""Scores are whole numbers of 1/FIXED_POINT rows, so that their sensitivity is exact."""

MOST_EXPECTED = 2.0**44
"""Expected counts are cut here, in all cells together: beyond it whole numbers of 64 bits would run over."""

OPENDP_CELLS = 512
"""Vectors longer than this are drawn by `samplers`, which takes a tenth of OpenDP's time per cell."""

_WEIGHTS = 2**20
"""The weights of a choice are whole numbers over this."""

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
        open_ones = np.asarray(allowed, dtype=np.int64)
        scores = contest.weighed(self._score(contest)[open_ones], open_ones)
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
        """Codes of every modelled column, at most k rows per unit."""
        learned, unit = self._schema.modelled, self._schema.privacy_unit
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
            kept = bounded_contributions(np.concatenate(units), self._schema.contributions)
            codes = {name: c[kept] for name, c in codes.items()}
        return codes


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
