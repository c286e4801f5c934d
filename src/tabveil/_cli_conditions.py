"""Conditions as the command line writes them: COLUMN=ITEM|ITEM, an ITEM being a value, LOW..HIGH or the word missing.

Text in double quotes is a value (or a column) as it stands, a quote inside it doubled. Either end of a range may be
left open. `docs/conditions.md` has the grammar.

Privacy: reads options only; messages show the form that is expected, never what was typed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tabveil.errors import UsageError

_QUOTED = r'"(?:[^"]|"")*"'
WHERE_FORM = "--where takes COLUMN=VALUE|VALUE, COLUMN=LOW..HIGH or COLUMN=missing; put other signs in double quotes."
BALANCE_FORM = "--balance takes COLUMN, or COLUMN=VALUE:SHARE|VALUE:SHARE with shares that add up to 1."


def read_where(options: Sequence[str]) -> dict[str, Any]:
    """`Generator.sample`'s `where` from one option per column; raises UsageError."""
    where: dict[str, Any] = {}
    for option in options:
        column, equals, rest = _split_once(option, "=")
        if not equals or not column or column in where:
            raise UsageError(WHERE_FORM)
        where[column] = [_item(part) for part in _parts(rest)]
    return where


def read_balance(option: str | None) -> str | dict[str, dict[Any, float]] | None:
    """`Generator.sample`'s `balance`; raises UsageError."""
    if option is None:
        return None
    column, equals, rest = _split_once(option, "=")
    if not equals:
        return column
    shares: dict[Any, float] = {}
    for part in _parts(rest):
        value, _, share = part.rpartition(":")
        try:
            shares[_item(value, form=BALANCE_FORM)] = float(share)
        except ValueError:
            raise UsageError(BALANCE_FORM) from None
    return {column: shares}


def _split_once(text: str, sign: str) -> tuple[str, str, str]:
    """Text before the first `sign` outside quotes, unquoted; the sign, "" where there is none; the rest."""
    quoted = re.match(rf"\s*({_QUOTED})\s*(?:{sign}|$)", text)
    if quoted:
        rest = text[quoted.end() :]
        return _plain(quoted[1]), sign if quoted[0].endswith(sign) else "", rest
    before, found, rest = text.partition(sign)
    return before.strip(), found, rest


def _parts(text: str) -> list[str]:
    """`text` cut at every | outside quotes."""
    parts = [""]
    for piece in re.findall(rf"{_QUOTED}|.", text, re.DOTALL):
        if piece == "|":
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _item(text: str, *, form: str = WHERE_FORM) -> Any:
    text = text.strip()
    if re.fullmatch(_QUOTED, text):
        return _plain(text)
    if not text or '"' in text:
        raise UsageError(form)
    if text == "missing":
        return None
    low, dots, high = text.partition("..")
    return (low.strip() or None, high.strip() or None) if dots else text


def _plain(quoted: str) -> str:
    return quoted[1:-1].replace('""', '"')
