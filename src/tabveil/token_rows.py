"""Rows of tokens in the making: which tokens spell which cell, what a network knows of each row, and draws.

Privacy: nothing here sees a private row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from tabveil._torch import nn, torch
from tabveil.encoding import Codes
from tabveil.spelling import Spelling

Tensor = torch.Tensor


class Reader(ABC):
    """Rows of which some tokens are known so far, as a network sees them."""

    @abstractmethod
    def logits(self, i: int) -> Tensor:
        """Logits of token i's values in every row, shape (rows, values of the token), given what is known of it."""

    @abstractmethod
    def tell(self, i: int, cells: Tensor, rows: Tensor | None = None) -> None:
        """Token i is known from now on.

        Args:
          i: position of the token; not told of a row before.
          cells: shape (rows,), or as many as `rows` names.
          rows: positions; None for all.
        """


class Spelled(nn.Module):
    """The tokens of all columns side by side, each column's in the order of its spelling.

    Attributes:
      spellings: one per column.
      sizes: values of each token.
      columns: the column of each token.
      tokens: the tokens of each column.
    """

    def __init__(self, spellings: Sequence[Spelling]) -> None:
        super().__init__()
        self.spellings = tuple(spellings)
        self.sizes = tuple(n for s in spellings for n in s.sizes)
        self.columns = tuple(i for i, s in enumerate(spellings) for _ in s.sizes)
        ends = accumulate(len(s.sizes) for s in spellings)
        self.tokens = tuple(range(end - len(s.sizes), end) for end, s in zip(ends, spellings, strict=True))
        for t, step in enumerate(step for s in spellings for step in s.steps):
            self.register_buffer(f"step{t}", torch.from_numpy(step), persistent=False)
        for i, spelling in enumerate(spellings):
            self.register_buffer(f"spelling{i}", torch.from_numpy(spelling.tokens), persistent=False)

    @property
    def later(self) -> list[int]:
        """Tokens that are not the first of their column."""
        return [t for tokens in self.tokens for t in tokens[1:]]

    def first(self, t: int) -> bool:
        """Whether a token is the first of its column."""
        return self.tokens[self.columns[t]][0] == t

    def begun(self, values: Tensor, t: int) -> Tensor:
        """What each row's column begins with, before token t, as `Spelling.steps` number it; `values` has (rows,
        tokens).
        """
        begin = torch.zeros(len(values), dtype=torch.long, device=values.device)
        for earlier in self.tokens[self.columns[t]]:
            if earlier == t:
                break
            begin = self.get_buffer(f"step{earlier}")[begin, values[:, earlier]]
        return begin

    def after(self, table: Tensor, values: Tensor, t: int) -> Tensor:
        """Rows of a `table` of token t, shape (beginnings, values of the token), by what each row begins with."""
        return table.expand(len(values), -1) if self.first(t) else table[self.begun(values, t)]

    def cells(self, values: Tensor) -> Codes:
        """Tokens, shape (rows, tokens) -> cells, shape (rows, columns)."""
        found = []
        for tokens in self.tokens:
            last = tokens[-1]
            step = self.get_buffer(f"step{last}")
            found.append(step[self.begun(values, last), values[:, last]])
        return np.asarray(torch.stack(found, 1).numpy())

    def forward(self, cells: Tensor) -> Tensor:
        """Cells, shape (rows, columns) -> tokens, shape (rows, tokens)."""
        return torch.cat([self.get_buffer(f"spelling{i}")[cells[:, i]] for i in range(len(self.tokens))], 1)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows in the making.

    Attributes:
      reader: the network's view of them.
      cells: shape (rows, tokens); what is not known is 0.
      known: shape (rows, tokens).
    """

    reader: Reader
    cells: Tensor
    known: Tensor

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.cells)

    def put(self, i: int, cells: Tensor, rows: Tensor | None = None) -> None:
        """Token i is known, in these rows or in all."""
        if rows is None:
            self.cells[:, i], self.known[:, i] = cells, True
        elif len(rows):
            self.cells[rows, i], self.known[rows, i] = cells, True
        if rows is None or len(rows):
            self.reader.tell(i, cells, rows)

    def draw(self, i: int, weights: Tensor, rng: np.random.Generator) -> None:
        """Draw token i, wherever it is not known, by `weights`, shape (rows, values)."""
        open_ = ~self.known[:, i]
        drawn = inverted(weights, rng)
        if bool(open_.all()):
            self.put(i, drawn)
            return
        rows = torch.nonzero(open_)[:, 0]
        self.put(i, drawn[rows], rows)


def inverted(weights: Tensor, rng: np.random.Generator) -> Tensor:
    """A value for each row, by its `weights`, shape (rows, values); shape (rows,), on the CPU."""
    ends = weights.cumsum(1)
    chance = torch.from_numpy(rng.random(len(ends), dtype=np.float32)).to(ends)
    last = ends[:, -1]
    spot = torch.minimum(chance * last, torch.nextafter(last, torch.zeros_like(last)))  # the last may weigh nothing
    found = torch.searchsorted(ends, spot[:, None], right=True)[:, 0]
    return found.clamp(max=ends.shape[1] - 1).cpu()
