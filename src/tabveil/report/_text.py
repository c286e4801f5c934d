"""Numbers and names as a reader sees them.

Privacy: formats what it is given; sees no row.
"""

from __future__ import annotations

import decimal
import math
import unicodedata
from typing import Any

_NOT_FINITE = {"inf": "∞", "-inf": "−∞", "nan": "not defined"}


def number(value: Any) -> str:
    """A figure with sensible digits: four after the point below 1, four significant ones above, thousands set apart."""
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    value = float(value)
    if not math.isfinite(value):
        return _NOT_FINITE[str(value)]
    size = abs(value)
    if value == int(value) and size < 1e15:
        return f"{int(value):,}".replace("-", "−")
    if size < 5e-5 or size >= 1e15:
        return f"{value:.2e}".replace("-", "−")
    digits = 4 if size < 1 else max(0, 4 - len(str(int(size))))
    return f"{value:,.{digits}f}".replace("-", "−")


def brief(value: Any) -> str:
    """A number of which three digits are plenty: seconds, a confidence."""
    return f"{float(value):.3g}" if math.isfinite(float(value)) else number(value)


def rounded_up(value: Any, *, digits: int = 6) -> str:
    """A bound with at most `digits` significant digits, never below `value`: no promise may look better than it is."""
    value = float(value)
    if not math.isfinite(value):
        return _NOT_FINITE[str(value)]
    if value == 0:
        return "0"
    with decimal.localcontext(prec=digits, rounding=decimal.ROUND_CEILING):
        short = +decimal.Decimal(repr(value))
    power = short.adjusted()
    if -4 <= power < 9:
        return _trimmed(f"{short:,f}")
    return f"{_trimmed(f'{short.scaleb(-power):f}')}e{power}"


def _trimmed(digits: str) -> str:
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def percent(share: float) -> str:
    """A share as a percentage with one or, where small, two digits."""
    points = 100 * share
    if points != 0 and abs(points) < 0.005:
        return "< 0.01 %"
    return f"{points:.1f} %" if abs(points) >= 1 or points == 0 else f"{points:.2f} %"


def compact(value: float) -> str:
    """A number for an axis: 1.5k, 20k, 3M."""
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * (10 if letter == "k" else 1):
            return f"{value / scale:.3g}{letter}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−") if abs(value) < 1000 else f"{value:,.0f}".replace("-", "−")


def visible(text: str) -> str:
    """`text` with every character spelled out that acts instead of showing: controls, overrides, lone surrogates."""
    return "".join(_spelled(c) if _acts(c) else c for c in text)


def _acts(character: str) -> bool:
    if character in "\u200c\u200d":
        return False  # join emoji and letters; harmless alone
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _spelled(character: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character, f"\\u{ord(character):04x}")


def width(text: str) -> int:
    """How many columns of a fixed grid `text` takes: two for wide characters and emoji, none for combining ones."""
    return sum(_columns(c) for c in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or character in "\u200d\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shortened(text: str, columns: int) -> str:
    """`text` cut to `columns` columns, with an ellipsis where something is cut off."""
    text = visible(text)
    if width(text) <= columns:
        return text
    taken = 0
    for at, character in enumerate(text):
        taken += _columns(character)
        if taken > columns - 1:
            return text[:at].rstrip("\u200d") + "…"
    return text
