"""Exact amounts of privacy: epsilon, rho and sigma as types that cannot be mixed up.

`accounting` re-exports every public name here; import from there.

Privacy: no data passes here. Amounts are exact fractions; where one becomes a double it is rounded up, so that no
rounding makes a charge cheaper than it is.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any, NoReturn, Self

from tabveil.errors import UsageError


def float_up(value: Fraction) -> float:
    """The nearest double that is not smaller than `value`; inf where there is none."""
    try:
        near = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.nextafter(math.inf, 0.0)
    return near if near >= value else math.nextafter(near, math.inf)


def float_down(value: Fraction) -> float:
    """The nearest double that is not larger than `value`."""
    return -float_up(-value)


@functools.total_ordering
class _Amount:
    """A non-negative exact number with a type of its own, so that a rho is never taken for a sigma (trap A18).

    Raises:
      UsageError: negative, NaN or infinite.
    """

    __slots__ = ("value",)
    value: Fraction

    def __init__(self, value: float | Fraction) -> None:
        if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)) or value < 0:
            raise UsageError(f"{type(self).__name__} must be a finite number, 0 or more.")
        object.__setattr__(self, "value", Fraction(value))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Amount) and type(other) is type(self) and other.value == self.value

    def __lt__(self, other: Self) -> Any:
        return self.value < other.value if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.value))

    def __float__(self) -> float:
        """The nearest double that is not smaller."""
        return float_up(self.value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({float(self)!r})"

    def __mul__(self, factor: float | Fraction) -> Self:
        return type(self)(self.value * Fraction(factor))


class _Budget(_Amount):
    """An amount that adds up under composition."""

    __slots__ = ()

    def __add__(self, other: Self) -> Any:
        return type(self)(self.value + other.value) if type(other) is type(self) else NotImplemented


class Epsilon(_Budget):
    """Differential privacy's epsilon, exact; float() rounds up. Adds up by basic composition."""

    __slots__ = ()


class Rho(_Budget):
    """zCDP's rho (Bun & Steinke 2016), exact; float() rounds up. Adds up under composition."""

    __slots__ = ()


class Sigma(_Amount):
    """Scale of (discrete) Gaussian noise, exact; float() rounds up, towards more noise. Does not add up."""

    __slots__ = ()
