"""Edit distance between the digits of numbers, for many pairs at once: what LevAtt compares.

Privacy: works on cells of real rows and gives distances; both stay inside the audit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tabveil.columns import Column, Date, Datetime, Decimal, Grid
from tabveil.encoding import Codes, size

SYMBOLS = 16
"""Kinds of characters: the last four bits tell digits, minus, colon and question mark apart."""

_Words = NDArray[np.uint64]
_ONE = np.uint64(1)


def digit_distance(column: Column, asked: Codes, near: Codes) -> NDArray[np.int64]:
    """Edits (insert, delete, replace a character) that turn a value, as written, into each of k others.

    Args:
      column: what the codes stand for; a listed value is one character.
      asked: codes as in `AuditInput.codes`, shape (n,).
      near: codes of the others, shape (n, k).

    Returns:
      Shape (n, k), 0 up to the length of the longer text.
    """
    if not isinstance(column, Grid):
        return np.asarray(asked[:, None] != near, dtype=np.int64)
    which = np.repeat(np.arange(len(near)), near.shape[1])
    edits = levenshtein(written(column, asked), written(column, near.ravel()), which)
    return np.asarray(edits.reshape(near.shape))


def written(column: Grid, codes: Codes) -> NDArray[np.str_]:
    """The values as digits with fixed precision and no point; "" for missing, "?" for what is not allowed."""
    values = size(column)
    texts = _digits(column, np.minimum(codes, values - 1))
    return np.where(codes < values, texts, np.where(codes == values, "", "?")).astype(np.str_)


def _digits(column: Grid, codes: Codes) -> NDArray[np.str_]:
    low = column.bounds[0]
    if isinstance(column, Date):
        return np.datetime_as_string(np.datetime64(low, "D") + codes)
    if isinstance(column, Datetime):
        written = np.datetime_as_string(np.datetime64(low, "s") + codes * column.resolution)
        return np.strings.replace(written, "T", "")  # in the same place in all of them
    first: int = round(low * 10.0**column.decimals) if isinstance(column, Decimal) else low
    return np.asarray((first + codes).astype(np.str_))


def levenshtein(patterns: NDArray[np.str_], texts: NDArray[np.str_], which: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edit distance between `patterns[which]` and `texts`, bit-parallel (Myers 1999; Hyyrö 2003, figure 3).

    One column of the table of edits is one 64-bit word, so a step handles one character of all texts.

    Args:
      patterns: shape (n,), each of at most 64 characters out of digits, minus, colon and question mark.
      texts: shape (p,).
      which: the pattern of each text, shape (p,).
    """
    masks, lengths = _masks(patterns), np.strings.str_len(patterns).astype(np.int64)[which]
    symbols, ends = _symbols(texts), np.strings.str_len(texts).astype(np.int64)
    last = np.maximum(lengths - 1, 0).astype(np.uint64)
    up, down, score = np.full(len(texts), ~np.uint64(0)), np.zeros(len(texts), dtype=np.uint64), lengths.copy()
    for place in range(symbols.shape[1]):
        up, down, change = _advance(masks[which, symbols[:, place]], up=up, down=down, last=last)
        score += np.where(place < ends, change, 0)
    return np.where(lengths == 0, ends, score)


def _advance(same: _Words, *, up: _Words, down: _Words, last: _Words) -> tuple[_Words, _Words, NDArray[np.int64]]:
    """The next column's vertical differences of +1 and -1, and the change of its last cell."""
    across = (((same & up) + up) ^ up) | same
    rise, fall = down | ~(across | up), up & across
    change = ((rise >> last) & _ONE).astype(np.int64) - ((fall >> last) & _ONE).astype(np.int64)
    rise, fall = (rise << _ONE) | _ONE, fall << _ONE
    vertical = same | down
    return fall | ~(vertical | rise), rise & vertical, change


def _symbols(texts: NDArray[np.str_]) -> NDArray[np.int64]:
    """Numbers of the characters, shape (texts, longest); whatever lies behind a text's end is not to be used."""
    wide = max(1, texts.dtype.itemsize // 4)
    letters = np.ascontiguousarray(texts.astype(f"<U{wide}")).view("<u4").reshape(len(texts), wide)
    return (letters % SYMBOLS).astype(np.int64)


def _masks(patterns: NDArray[np.str_]) -> _Words:
    """For each pattern and symbol a word whose bit i says that the symbol stands at place i, shape (n, SYMBOLS)."""
    symbols, ends = _symbols(patterns), np.strings.str_len(patterns)
    masks = np.zeros((len(patterns), SYMBOLS), dtype=np.uint64)
    rows = np.arange(len(patterns))
    for place in range(symbols.shape[1]):
        bit = np.where(place < ends, _ONE << np.uint64(place % 64), np.uint64(0))
        masks[rows, symbols[:, place]] |= bit
    return masks
