"""How surprised an any-order model of tokens is by whole rows: the loss that `tabular_lm` is trained by.

Privacy: each row's loss is a function of that row, of its own order, and of public or charged numbers.
"""

from __future__ import annotations

from tabveil._torch import nn, torch
from tabveil.generators._conditionals import Conditionals, Orders
from tabveil.generators._deep import Cells
from tabveil.spelling import Written
from tabveil.token_rows import Spelled

Tensor = torch.Tensor


class Tokens(nn.Module):
    """Codes, shape (rows, columns as schema.modelled) -> tokens, shape (rows, tokens), each row by itself."""

    def __init__(self, written: Written) -> None:
        super().__init__()
        self.cells, self.spelled = Cells(written.axes), Spelled(written.spellings)

    def forward(self, codes: Tensor) -> Tensor:
        """By axes that are charged or public."""
        found: Tensor = self.spelled(self.cells(codes))
        return found


class Likelihood(nn.Module):
    """Codes, shape (rows, columns as schema.modelled) -> negative log-likelihood of each row in orders of its own.

    Privacy: however many orders are averaged, a row has one loss and one gradient, which is clipped as one.

    Args:
      written: how the columns are read.
      net: gives every column's distribution.
      orders: that rows are read in.
      averaged: how many of a row's, drawn anew each, from 1.
    """

    def __init__(self, written: Written, net: Conditionals, orders: Orders, *, averaged: int = 1) -> None:
        super().__init__()
        self.tokens, self.net, self.orders, self.averaged = Tokens(written), net, orders, averaged

    def forward(self, codes: Tensor) -> Tensor:
        """Shape (rows,)."""
        cells = self.tokens(codes)
        losses = [self.net(cells, self.orders.known(len(cells), cells.device)) for _ in range(self.averaged)]
        return torch.stack(losses).mean(0)
