"""How surprised a language model is by whole rows: the loss that adapters are trained by.

Only values count, and of their tokens only those where something is chosen, among what the column's trie allows: names,
commas and forced tokens cost nothing, so that no noise is spent on learning them. Every row is written in an order of
its own, drawn anew each time: any order at all, features in any order and then the label (Pred-LLM, Nguyen et al.
2024), or the schema's order, in which the label is asked for. A row is one record, whatever its order.

Privacy: each row's loss is a function of that row, of its own order, and of public or charged numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabveil._torch import torch
from tabveil.encoding import Axis
from tabveil.generators._deep import Cells
from tabveil.generators._writing import Reading

Tensor = torch.Tensor

ANY_ORDER, LABEL_LAST = 0.5, 0.25
"""Shares of the rows in any order, and in any order of the features with the label last; the others are in the
schema's order with the label last. Without a label both are in any order."""

PROMPTED = 0.5
"""Share of the rows that are read after their neighbours, where there are any."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Rows that are alike, in single columns: what HARMONIC (Wang et al. 2024) shows beside a row.

    Attributes:
      cells: shape (rows, columns), among which neighbours are looked for.
      count: how many are shown.
    """

    cells: Tensor
    count: int

    def of(self, cells: Tensor) -> Tensor:
        """The nearest rows to each of `cells`, the row itself left out; shape (rows, count, columns)."""
        alike = torch.zeros(len(cells), len(self.cells), device=cells.device)
        for own, other in zip(cells.T, self.cells.T, strict=True):
            alike += own[:, None] == other
        nearest = alike.topk(min(self.count + 1, len(self.cells)), dim=1).indices[:, 1:]
        return self.cells[nearest]


class RowLosses:
    """Codes, shape (rows, columns), -> the loss of each row, shape (rows,).

    Args:
      reading: what reads.
      axes: of the columns.
      label: the column that is asked for last; None where there is none.
      neighbours: rows to show beside a row: real ones, so only where nothing is private.
    """

    def __init__(
        self, reading: Reading, axes: Sequence[Axis], *, label: int | None, neighbours: Neighbours | None = None
    ) -> None:
        self._reading, self._label, self._neighbours = reading, label, neighbours
        self._cells = Cells(axes)

    def __call__(self, codes: Tensor) -> Tensor:
        """Cross-entropy of each row's choices, added up."""
        cells = self._cells(codes)
        order = orders(len(cells), cells.shape[1], self._label, cells.device)
        tokens, lengths, starts = self._reading.wording.assembled(cells, order)
        if self._neighbours is not None:
            tokens, lengths, starts = self._prompted(cells, order, (tokens, lengths, starts))
        spots = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        hidden = self._reading.model.hidden(tokens, spots < lengths[:, None], spots)
        losses = [self._surprise(i, cells[:, i], starts[:, i], hidden) for i in range(cells.shape[1])]
        return torch.stack([0.0 * hidden[:, 0].sum(1), *losses], 1).sum(1)  # also where there is nothing to choose

    def _surprise(self, i: int, cells: Tensor, starts: Tensor, hidden: Tensor) -> Tensor:
        """Of column i's choices, shape (rows,)."""
        trie = self._reading.wording.tries[i]
        if not trie.nodes:
            return hidden.new_zeros(len(cells))
        node, took = trie.at[cells], trie.took[cells]
        real, node = node >= 0, node.clamp(min=0)
        before = torch.where(real, starts[:, None] + trie.depth[node] - 1, 0)
        at = hidden.gather(1, before[..., None].expand(-1, -1, hidden.shape[2]))
        found = torch.log_softmax(self._reading.logits(i, at, node), -1).gather(2, took[..., None])[..., 0]
        return -torch.where(real, found, 0.0).sum(1)

    def _prompted(
        self, cells: Tensor, order: Tensor, own: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Some of the rows, by a coin each, behind the texts of their neighbours."""
        if self._neighbours is None:
            return own
        shown = torch.rand(len(cells), device=cells.device) < PROMPTED
        before, length = self._reading.wording.one_after_another(self._neighbours.of(cells), order)
        length = torch.where(shown, length, 0)
        tokens, lengths, starts = own
        wide = torch.cat([before, torch.zeros_like(tokens)], 1)
        spots = length[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        return wide.scatter(1, spots, tokens), length + lengths, starts + length[:, None]


def orders(rows: int, columns: int, label: int | None, device: torch.device | str) -> Tensor:
    """An order of the columns for every row, shape (rows, columns), by torch's own chance."""
    rank, kind = torch.rand(rows, columns, device=device), torch.rand(rows, 1, device=device)
    schema = torch.arange(columns, device=device) / columns
    last = torch.zeros(columns, device=device)
    if label is not None:
        last[label] = 2.0
    rank = torch.where(kind < ANY_ORDER, rank, rank + last)
    return torch.where(kind < ANY_ORDER + LABEL_LAST, rank, schema + last).argsort(1)
