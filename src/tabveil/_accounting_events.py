"""Privacy events as values: the kinds there are, what each costs in closed form, and their JSON.

`accounting` re-exports the public names; import from there. Each kind of event is one row of `_KINDS`: its fields, the
range they may take, and its cost where that is a closed form. A new kind of event is one more row.

Privacy: no data passes here. An event holds public numbers only, and every number out of range is refused.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import attr
from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    TruncatedSubsampledGaussianDpEvent,
    ZCDpEvent,
)
from dp_accounting.dp_event import DiscreteLaplaceDpEvent as LibraryDiscreteLaplaceDpEvent

from tabveil._amounts import float_up
from tabveil.errors import UsageError

if TYPE_CHECKING:

    class DpEvent:
        """What the type checker knows of dp_accounting.DpEvent, which comes without types."""

else:
    from dp_accounting import DpEvent

SMALLEST, LARGEST = 1e-15, 1e15
"""Range of every noise scale, epsilon and rho: outside it arithmetic on doubles says nothing about privacy."""

MOST_TIMES = 10**12
"""Largest number of repetitions of one event."""

Leaves = tuple[tuple[Any, int], ...]
"""Elementary events, each with how often it happens."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class DiscreteGaussianDpEvent(DpEvent):
    """Independent discrete Gaussian noise on every coordinate of a vector of whole numbers.

    P(x) is proportional to exp(-x^2 / (2 sigma^2)) on the integers. One unit moves the vector by at most `sensitivity`
    in L2 norm, a whole number: with 1, at most one coordinate moves, by one. Costs rho = sensitivity^2 / (2 sigma^2)
    in any number of coordinates (Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy",
    Theorem 14).
    """

    sigma: float
    sensitivity: int = 1


@attr.s(frozen=True, slots=True, auto_attribs=True)
class DiscreteLaplaceDpEvent(DpEvent):
    """Independent discrete Laplace (geometric) noise on every coordinate of a vector of whole numbers.

    P(x) is proportional to exp(-|x| / scale) on the integers. One unit moves the vector by at most `sensitivity` in L1
    norm. Pure DP with epsilon = sensitivity / scale (Ghosh, Roughgarden, Sundararajan 2012).
    """

    scale: float
    sensitivity: int = 1


@attr.s(frozen=True, slots=True, auto_attribs=True)
class ExponentialMechanismDpEvent(DpEvent):
    """A choice by the exponential mechanism: the largest score after Gumbel noise of scale 2 * sensitivity / epsilon.

    Pure DP with `epsilon`, and epsilon^2 / 8 zCDP because its privacy loss has range epsilon (Cesar & Rogers 2021,
    "Bounding, concentrating, and truncating"). Permute-and-flip, that is noisy max with exponential noise, has no such
    range: it costs up to epsilon^2 / 2 in zCDP and must be charged as DiscreteLaplaceDpEvent(1 / epsilon) instead.
    """

    epsilon: float


@attr.s(frozen=True, slots=True, auto_attribs=True)
class DeltaDpEvent(DpEvent):
    """Something that goes wrong altogether with probability at most `delta`, and otherwise gives nothing away.

    It is (0, delta)-DP: releasing the categories whose noisy count is above a threshold is discrete Gaussian noise on
    the categories that both neighbours have, and, with this probability, a category that only one of them has
    (Korolova et al. 2009; Desfontaines, Voss, Gipson, Mandayam 2022). It takes its delta off the delta that the other
    events are asked at.
    """

    delta: float


@dataclass(frozen=True)
class Kind:
    """What is known about one type of event, as functions of an event of that type.

    Attributes:
      cls: the type.
      noise: its noise scales, epsilons or rhos, each in [SMALLEST, LARGEST].
      whole: its whole numbers from 1.
      other: its further fields, checked one by one.
      pure: its pure-DP epsilon; None where it has none.
      line: (xi, rho) such that its Rényi divergence of every order alpha is at most xi + rho * alpha; None where no
        line is known or `_accounting_curves` has a tighter curve.
    """

    cls: type[Any]
    noise: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    pure: Callable[[Any], Fraction] | None = None
    line: Callable[[Any], tuple[Fraction, Fraction]] | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """All field names, in JSON order."""
        return self.noise + self.whole + self.other


def _line_of_pure(epsilon: Fraction) -> tuple[Fraction, Fraction]:
    """Pure DP is epsilon^2/2 zCDP (Bun & Steinke 2016, Proposition 1.4)."""
    return Fraction(0), epsilon * epsilon / 2


def _line_of_noise(sigma: float, sensitivity: int = 1) -> tuple[Fraction, Fraction]:
    return Fraction(0), Fraction(sensitivity) ** 2 / (2 * Fraction(sigma) ** 2)


def _laplace_epsilon(event: Any) -> Fraction:
    return Fraction(event.sensitivity) / Fraction(event.scale)


def _library_laplace_epsilon(event: Any) -> Fraction:
    return Fraction(event.sensitivity) * Fraction(event.noise_parameter)


_KINDS: dict[str, Kind] = {
    "Gaussian": Kind(GaussianDpEvent, ("noise_multiplier",), line=lambda e: _line_of_noise(e.noise_multiplier)),
    "DiscreteGaussian": Kind(
        DiscreteGaussianDpEvent, ("sigma",), ("sensitivity",), line=lambda e: _line_of_noise(e.sigma, e.sensitivity)
    ),
    "Laplace": Kind(LaplaceDpEvent, ("noise_multiplier",), pure=lambda e: 1 / Fraction(e.noise_multiplier)),
    "DiscreteLaplace": Kind(
        DiscreteLaplaceDpEvent,
        ("scale",),
        ("sensitivity",),
        pure=_laplace_epsilon,
        line=lambda e: _line_of_pure(_laplace_epsilon(e)),
    ),
    "LibraryDiscreteLaplace": Kind(
        LibraryDiscreteLaplaceDpEvent,
        ("noise_parameter",),
        ("sensitivity",),
        pure=_library_laplace_epsilon,
        line=lambda e: _line_of_pure(_library_laplace_epsilon(e)),
    ),
    "ExponentialMechanism": Kind(
        ExponentialMechanismDpEvent,
        ("epsilon",),
        pure=lambda e: Fraction(e.epsilon),
        line=lambda e: (Fraction(0), Fraction(e.epsilon) ** 2 / 8),
    ),
    "ZCDP": Kind(ZCDpEvent, ("rho",), other=("xi",), line=lambda e: (Fraction(e.xi), Fraction(e.rho))),
    "Delta": Kind(DeltaDpEvent, other=("delta",)),
    "PoissonSampled": Kind(PoissonSampledDpEvent, other=("sampling_probability", "event")),
    "TruncatedSubsampledGaussian": Kind(
        TruncatedSubsampledGaussianDpEvent,
        ("noise_multiplier",),
        ("dataset_size", "truncated_batch_size"),
        ("sampling_probability",),
    ),
    "NonPrivate": Kind(NonPrivateDpEvent),
    "NoOp": Kind(NoOpDpEvent),
}
_NAMES = {kind.cls: name for name, kind in _KINDS.items()}
_OTHER_RANGES = {"xi": (0.0, LARGEST), "sampling_probability": (0.0, 1.0), "delta": (1e-300, 1.0)}


def kind_of(event: object) -> Kind:
    """The row for an elementary event; UsageError where nobody here can price its type."""
    if type(event) not in _NAMES:
        raise UsageError(f"{type(event).__name__} is not an event this SDK can account for.")
    return _KINDS[_NAMES[type(event)]]


def pure_of(event: object) -> Fraction | None:
    """Pure-DP epsilon of an elementary event, None where it has none."""
    pure = kind_of(event).pure
    return None if pure is None else pure(event)


def line_of(event: object) -> tuple[Fraction, Fraction] | None:
    """(xi, rho) such that the Rényi divergence of every order alpha is at most xi + rho * alpha; None if not a line."""
    line = kind_of(event).line
    return None if line is None else line(event)


def real_number(value: object, what: str, *, low: float, high: float) -> float:
    """`value` as a float if it is a number in [low, high]; UsageError for anything else, NaN and booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"{what} must be a number from {low:g} to {high:g}.")
    return float(value)


def whole_number(value: object, what: str, *, high: int = MOST_TIMES) -> int:
    """`value` if it is a whole number from 1 to `high`; UsageError if not."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise UsageError(f"{what} must be a whole number from 1 to {high}.")
    return value


def _check(event: object) -> None:
    kind = kind_of(event)
    name = _NAMES[kind.cls]
    for field in kind.noise:
        real_number(getattr(event, field), f"{field} of {name}", low=SMALLEST, high=LARGEST)
    for field in kind.whole:
        whole_number(getattr(event, field), f"{field} of {name}")
    for field in set(kind.other) & set(_OTHER_RANGES):
        low, high = _OTHER_RANGES[field]
        real_number(getattr(event, field), f"{field} of {name}", low=low, high=high)


# ------------------------------------------------------------------------------------------------------ trees of events
def leaves(event: DpEvent) -> Leaves:
    """The elementary events of a tree, each once with how often it happens, in an order that depends on nothing else.

    Raises:
      UsageError: an event nobody can price, or a number that is NaN, infinite, negative, zero or below SMALLEST.
    """
    counts: Counter[Any] = Counter()
    _walk(event, 1, counts)
    for times in counts.values():
        whole_number(times, "The number of repetitions")
    return tuple(sorted(counts.items(), key=lambda pair: json.dumps(event_to_dict(pair[0]), sort_keys=True)))


def _walk(event: Any, times: int, into: Counter[Any]) -> None:
    if isinstance(event, SelfComposedDpEvent):
        _walk(event.event, times * whole_number(event.count, "count of SelfComposed"), into)
    elif isinstance(event, ComposedDpEvent):
        for inner in event.events:
            _walk(inner, times, into)
    else:
        _check(event)
        if isinstance(event, PoissonSampledDpEvent):
            _walk_poisson(event, times, into)
        elif not isinstance(event, NoOpDpEvent):
            into[_made(type(event), {name: _plain(getattr(event, name)) for name in kind_of(event).fields})] += times


def _walk_poisson(event: Any, times: int, into: Counter[Any]) -> None:
    """Several Gaussians on one Poisson sample are one Gaussian by inverse squares; other events are refused."""
    inner = leaves(event.event)
    if any(not isinstance(e, GaussianDpEvent) for e, _ in inner):
        raise UsageError("PoissonSampled can only hold Gaussian events.")
    if event.sampling_probability > 0 and inner:
        gaussian = collapsed(inner)
        sampled = PoissonSampledDpEvent(float(event.sampling_probability), gaussian)
        into[sampled if event.sampling_probability < 1 else gaussian] += times


def collapsed(gaussians: Iterable[tuple[Any, int]]) -> Any:
    """One GaussianDpEvent for many, by inverse squares, its noise rounded down (Dong, Roth, Su 2022, Corollary 3.3)."""
    pairs = tuple(gaussians)
    if len(pairs) == 1 and pairs[0][1] == 1:
        return pairs[0][0]
    total = sum((times / Fraction(e.noise_multiplier) ** 2 for e, times in pairs), Fraction(0))
    return GaussianDpEvent(1 / math.sqrt(float_up(total)) * (1 - 1e-15))


def without_deltas(parts: Leaves) -> tuple[Leaves, Fraction]:
    """`parts` without their DeltaDpEvents, and the sum of those events' deltas, exact.

    If at most `sum` of either law's mass goes wrong, the hockey-stick divergence of the whole is at most that of the
    rest plus `sum` (docs/accounting.md): epsilon of the rest, asked at delta less `sum`, is epsilon of the whole at
    delta.
    """
    rest = tuple((e, n) for e, n in parts if not isinstance(e, DeltaDpEvent))
    return rest, sum((n * Fraction(e.delta) for e, n in parts if isinstance(e, DeltaDpEvent)), Fraction(0))


# ------------------------------------------------------------------------------------------------------------- JSON
def event_to_dict(event: DpEvent) -> dict[str, Any]:
    """The event as plain JSON values: {"type": ..., and its fields}; floats survive JSON exactly.

    Raises:
      UsageError: an event nobody here can price.
    """
    if isinstance(event, SelfComposedDpEvent):
        return {"type": "SelfComposed", "event": event_to_dict(event.event), "times": event.count}
    if isinstance(event, ComposedDpEvent):
        return {"type": "Composed", "events": [event_to_dict(e) for e in event.events]}
    _check(event)
    kind = kind_of(event)
    return {"type": _NAMES[kind.cls], **{name: _plain(getattr(event, name)) for name in kind.fields}}


def _plain(value: Any) -> Any:
    """Inner events as dicts, numpy's numbers as Python's own."""
    if isinstance(value, DpEvent):
        return event_to_dict(value)
    return int(value) if isinstance(value, int) else float(value)


def event_from_dict(data: Mapping[str, Any]) -> DpEvent:
    """Rebuild what `event_to_dict` gave.

    Raises:
      UsageError: an unknown type, a missing or unknown field, or a number out of range.
    """
    try:
        event = _rebuilt(data)
        leaves(event)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError("This is not the JSON of a privacy event.") from error
    return event


def _rebuilt(data: Mapping[str, Any]) -> DpEvent:
    fields = dict(data)
    name = fields.pop("type")
    if name == "Composed":
        fields["events"] = [_rebuilt(e) for e in fields["events"]]
        return _made(ComposedDpEvent, fields)
    if "event" in fields:
        fields["event"] = _rebuilt(fields["event"])
    if name == "SelfComposed":
        fields["count"] = fields.pop("times")
        return _made(SelfComposedDpEvent, fields)
    return _made(_KINDS[name].cls, fields)


def _made(cls: Callable[..., DpEvent], fields: Mapping[str, Any]) -> DpEvent:
    return cls(**fields)


# ------------------------------------------------------------------------------------------------------------- spends
@dataclass(frozen=True)
class Spend:
    """One line of a plan: an event that happens `count` times under a label.

    Attributes:
      label: what it is for, 1 to 200 characters; names columns, never values.
      event: what it costs each time.
      count: how often, from 1.

    Raises:
      UsageError: a label, count or event out of range.
    """

    label: str
    event: DpEvent
    count: int = 1

    def __post_init__(self) -> None:
        check_label(self.label)
        whole_number(self.count, "The count of a spend")
        if not isinstance(self.event, DpEvent):
            raise UsageError("The event of a spend must be a DpEvent.")
        leaves(self.event)

    def to_dict(self) -> dict[str, Any]:
        """`event_to_dict` with the label and the count."""
        return {**event_to_dict(self.event), "label": self.label, "count": self.count}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` gave; raises UsageError on anything else."""
        event = {k: v for k, v in data.items() if k not in {"label", "count"}}
        if len(event) != len(data) - 2:
            raise UsageError("This is not the JSON of a spend.")
        return cls(data["label"], event_from_dict(event), data["count"])


def check_label(label: object) -> str:
    """`label` if it is text of 1 to 200 characters that any database can hold; UsageError if not."""
    if not isinstance(label, str) or not 0 < len(label) <= 200:
        raise UsageError("A name or label must have 1 to 200 characters.")
    if "\0" in label or any("\ud800" <= c <= "\udfff" for c in label):
        raise UsageError("A name or label must be text without null characters or lone surrogates.")
    return label


def event_of(spends: Iterable[Spend]) -> DpEvent:
    """All spends as one composed event."""
    return _made(
        ComposedDpEvent,
        {"events": [s.event if s.count == 1 else SelfComposedDpEvent(s.event, s.count) for s in spends]},
    )
