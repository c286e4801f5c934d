"""Rows as text, and text as tokens: "age is 39, sex is F, ..." in any order of the columns.

Every cell of an axis is written as one value that it holds, a missing one as `missing`. A label that could be taken for
something else (with a comma, quotes, blanks around it, or one that reads "missing") is written in quotes, so that no
value's text with the comma after it begins with another's. Values are turned into tokens one by one, and what is
written comes back by way of a trie, never by reading text: a name with " is " in it, or a comma, does no harm.

Privacy: looks at columns and at charged axes only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tabveil._torch import torch
from tabveil.columns import Column, Date, Datetime, Decimal, Discrete
from tabveil.encoding import Axis, decode, size
from tabveil.errors import UsageError
from tabveil.generators._trie import Trie
from tabveil.schema import Schema

Tensor = torch.Tensor
Encode = Callable[[list[str]], list[list[int]]]
"""Tokens of each text, none added before or behind."""

MISSING = "missing"
"""What a missing cell is written as."""

MOST_TOKENS = 48
"""A name or a value of more tokens is written by its number."""

_AMBIGUOUS = re.compile(r'\A\Z|\A\s|\s\Z|[,"\n\r]|\Amissing\Z|\Ano\. \d+\Z')


def value_texts(axis: Axis) -> list[str]:
    """One text for each cell of `axis`: the value in the middle of the heaviest leaf that it consists of."""
    weight = np.where(axis.cell >= 0, axis.shares, -1.0)
    heaviest = np.full(axis.size, -1, dtype=np.int64)
    order = np.lexsort((-np.arange(len(weight)), weight))  # the last one wins: the heaviest, of equal ones the first
    counted = order[axis.cell[order] >= 0]
    heaviest[axis.cell[counted]] = counted
    middles = (axis.edges[:-1] + axis.edges[1:] - 1) // 2
    codes = np.append(middles, size(axis.column))[heaviest]
    return [written(axis.column, int(code)) for code in codes]


def written(column: Column, code: int) -> str:
    """The text of a code; no two codes of a column share one, and none with a comma behind it begins another."""
    if code == size(column):
        return MISSING
    if isinstance(column, Discrete):
        label = column.labels[code]
        return json.dumps(label, ensure_ascii=False) if _AMBIGUOUS.search(label) else label
    value = decode(column, np.array([code]))[0]
    if isinstance(column, Decimal):
        return f"{value:.{column.decimals}f}"
    if isinstance(column, Date | Datetime):
        return str(value.strftime("%Y-%m-%d" if isinstance(column, Date) else "%Y-%m-%d %H:%M:%S"))
    return str(value)


def _numbered(number: int) -> str:
    return f"no. {number}"


@dataclass(frozen=True, eq=False)
class Wording:
    """The tokens of all that is written.

    Attributes:
      begin: what a row begins with, one token at least.
      prompts: shape (columns, longest), tokens of " name is", zeros behind the end.
      prompt_lengths: shape (columns,).
      tries: of the columns' values, each with the comma that ends it.
    """

    begin: tuple[int, ...]
    prompts: Tensor
    prompt_lengths: Tensor
    tries: tuple[Trie, ...]

    @classmethod
    def of(cls, axes: Sequence[Axis], encode: Encode, begin: tuple[int, ...]) -> Wording:
        """Raises UsageError where the tokenizer cannot tell a column's values apart."""
        names = prompts_of([a.column for a in axes], encode)
        tries = tuple(_trie(a.column, value_texts(a), encode) for a in axes)
        lengths = torch.tensor([len(n) for n in names])
        prompts = torch.zeros(len(names), int(lengths.max()), dtype=torch.int64)
        for i, name in enumerate(names):
            prompts[i, : len(name)] = torch.tensor(name)
        return cls(begin, prompts, lengths, tries)

    def to(self, device: str) -> Wording:
        """The same on another device."""
        tries = tuple(t.to(device) for t in self.tries)
        return Wording(self.begin, self.prompts.to(device), self.prompt_lengths.to(device), tries)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return len(self.begin) + int(self.prompt_lengths.sum()) + sum(int(t.lengths.max()) for t in self.tries)

    def assembled(self, cells: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whole rows.

        Args:
          cells: shape (rows, columns).
          order: shape (rows, columns), in which the columns of each row are written.

        Returns:
          Tokens, shape (rows, longest), zeros behind the end; how many, shape (rows,); and where the value of each
          column begins, shape (rows, columns).
        """
        rows, device = len(cells), cells.device
        values = torch.stack([t.lengths[cells[:, i]] for i, t in enumerate(self.tries)], 1)
        whole = (values + self.prompt_lengths).gather(1, order)
        ends = len(self.begin) + whole.cumsum(1)
        starts = torch.empty_like(ends).scatter_(1, order, ends - whole)
        out = torch.zeros(rows, self.longest + 1, dtype=torch.int64, device=device)  # the last place takes the padding
        out[:, : len(self.begin)] = torch.tensor(self.begin, device=device)
        for i, trie in enumerate(self.tries):
            prompt = self.prompts[i].expand(rows, -1)
            _place(out, prompt, starts[:, i], self.prompt_lengths[i].expand(rows))
            _place(out, trie.tokens[cells[:, i]], starts[:, i] + self.prompt_lengths[i], values[:, i])
        return out[:, :-1], ends[:, -1], starts + self.prompt_lengths

    def one_after_another(self, rows: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Texts of several rows each.

        Args:
          rows: cells, shape (texts, rows, columns).
          order: shape (texts, columns or fewer), of the columns in all rows of a text; columns left out come last.

        Returns:
          Tokens, shape (texts, most), zeros behind the end; and how many, shape (texts,).
        """
        parts = [self.assembled(rows[:, j], self._completed(order))[:2] for j in range(rows.shape[1])]
        out = torch.zeros(len(rows), sum(t.shape[1] for t, _ in parts) + 1, dtype=torch.int64, device=rows.device)
        end = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for tokens, lengths in parts:
            _place(out, tokens, end, lengths)
            end = end + lengths
        return out[:, :-1], end

    def _completed(self, order: Tensor) -> Tensor:
        """An order of all columns."""
        rank = torch.full((len(order), len(self.tries)), len(self.tries), device=order.device)
        steps = torch.arange(order.shape[1], device=order.device).expand_as(order)
        rank.scatter_(1, order, steps)
        return torch.argsort(rank, dim=1, stable=True)


def _place(out: Tensor, tokens: Tensor, start: Tensor, lengths: Tensor) -> None:
    """Write the first `lengths` of `tokens`, shape (rows, most), into `out` from `start` on."""
    steps = torch.arange(tokens.shape[1], device=out.device)
    spots = torch.where(steps < lengths[:, None], start[:, None] + steps, out.shape[1] - 1)
    out.scatter_(1, spots, tokens)


def prompts_of(columns: Sequence[Column], encode: Encode) -> list[list[int]]:
    """Tokens of " name is" for each column, of " column 3 is" where the name has too many."""
    found = encode([f" {c.name} is" for c in columns])
    plain = encode([f" column {i + 1} is" for i in range(len(columns))])
    return [name if 0 < len(name) <= MOST_TOKENS else short for name, short in zip(found, plain, strict=True)]


def _trie(column: Column, texts: Sequence[str], encode: Encode) -> Trie:
    """The trie of a column's values; those the tokenizer writes too long, or not apart, are written by number."""
    (comma,) = encode([","])
    plain = [value + comma for value in encode([" " + t for t in texts])]
    short = [value + comma for value in encode([" " + _numbered(i) for i in range(len(texts))])]
    some = [p if len(p) <= MOST_TOKENS else s for p, s in zip(plain, short, strict=True)]
    for values in (some, short):
        try:
            return Trie.of(values)
        except ValueError:
            continue
    raise UsageError(f"The base model's tokenizer cannot tell the values of column {column.name!r} apart.")


def most_tokens(schema: Schema, encode: Encode) -> int:
    """Tokens that the longest row under `schema` may have, from public knowledge alone."""
    names = sum(len(p) for p in prompts_of(schema.modelled, encode))
    return 8 + names + sum(_most_of(c, encode) for c in schema.modelled)


def _most_of(column: Column, encode: Encode) -> int:
    if column.unknown:
        return MOST_TOKENS
    codes = range(size(column)) if isinstance(column, Discrete) else (0, size(column) - 1)
    texts = [" " + t for t in (MISSING, _numbered(size(column)), *(written(column, code) for code in codes))]
    longest = max(map(len, encode(texts)))
    if not isinstance(column, Discrete):
        longest = max(longest, *map(len, texts))
    return min(longest, MOST_TOKENS) + 2
