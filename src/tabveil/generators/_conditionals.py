"""Networks that give the distribution of any column given any others, for `tabveil.conditionals`.

Three parts, whose logits are added up:

- `Wide`: for each column one linear map from the one-hot cells of the others. A log-linear model of pairs: convex, each
  weight hit by every row that holds its two cells. What is trained by DP-SGD.
- `Perceptrons` ("fast"): for each column one hidden layer over embeddings of the others (as TabularARGN, Tiwald et al.
  2025).
- `Attention` ("full"): a query for each column attends to the known cells, whose keys and values are functions of the
  cell alone, so that they are computed once (a KV cache in any order) and any set of columns may be known.

What they call a column is a token of one: a column may be spelled by several (`tabveil.spelling`), which come one after
the other. A later token's logits start at what charged counts say of it after those before it (`Within`).

Training draws an order of the columns for every row anew (`Orders`); every column's loss given those before it counts
(the autoregressive likelihood in that order). A row is one record, whatever its order.

Privacy: no row is kept. Each row's loss is a function of that row, of its own order, and of public or charged shares.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tabveil._torch import nn, torch
from tabveil.encoding import Floats
from tabveil.spelling import Spelling
from tabveil.token_rows import Reader, Spelled

Tensor = torch.Tensor

EMBEDDED = 16
"""Width of a cell's embedding for `Perceptrons`."""

PERIODS = (3.0, 1.75)
"""Of the waves that embeddings of ordered values start as: the shortest, in values, how much longer each next is."""

DROPPED = 0.1
"""Share of hidden units left out in a training step, where nothing is private."""

HEADS = 4
"""Of `Attention`."""


@dataclass(frozen=True)
class Orders:
    """Which columns come before which, drawn for every row anew.

    Attributes:
      base: positions of the columns; the label is the last.
      random, target_last: shares of the rows in random order, and in random order with the label last (Pred-LLM); the
        others are in `base` order.
      tokens: the column of each token, where columns have several; a column's follow one another.
    """

    base: tuple[int, ...]
    random: float
    target_last: float
    tokens: tuple[int, ...] = ()

    def known(self, rows: int, device: torch.device | str = "cpu") -> Tensor:
        """Whether token j is before token i, shape (rows, tokens i, tokens j); chance is torch's own."""
        columns = len(self.base)
        rank, kind = torch.rand(rows, columns, device=device), torch.rand(rows, 1, device=device)
        based = torch.empty(columns, device=device)
        based[list(self.base)] = torch.arange(columns, dtype=torch.float32, device=device)
        last = torch.zeros(columns, device=device)
        last[self.base[-1]] = 2.0
        rank = torch.where(kind < self.random, rank, rank + last)
        rank = torch.where(kind < self.random + self.target_last, rank, based)
        if not self.tokens:
            return rank[:, None, :] < rank[:, :, None]
        column = torch.tensor(self.tokens, device=device)
        rank = rank[:, column]
        within = (column[None] == column[:, None]).tril(-1)
        return (rank[:, None, :] < rank[:, :, None]) | within


class Part(nn.Module, ABC):
    """Logits of every column given any others."""

    @abstractmethod
    def forward(self, cells: Tensor, known: Tensor) -> list[Tensor]:
        """Logits, one tensor per column, shape (rows, cells of the column).

        Args:
          cells: shape (rows, columns).
          known: shape (rows, columns i, columns j): whether j is known where i is asked for; i itself is not.
        """

    @abstractmethod
    def opened(self, rows: int) -> Reader:
        """A reader of so many rows."""


class Within(nn.Module):
    """What charged counts say of later tokens after those before them in their columns.

    Args:
      spellings: of the columns.
      shares: of their cells, one array per column.
    """

    def __init__(self, spellings: Sequence[Spelling], shares: Sequence[Floats]) -> None:
        super().__init__()
        self.spelled = Spelled(spellings)
        lifts = [x for s, p in zip(spellings, shares, strict=True) for x in s.lifts(p)]
        for t in self.spelled.later:
            self.register_buffer(f"lift{t}", torch.from_numpy(lifts[t]).float(), persistent=False)

    def forward(self, logits: list[Tensor], tokens: Tensor) -> list[Tensor]:
        """Logits of all tokens, each of shape (rows, values), lifted; `tokens` has (rows, tokens)."""
        found = list(logits)
        for t in self.spelled.later:
            found[t] = found[t] + self.spelled.after(self.get_buffer(f"lift{t}"), tokens, t)
        return found


class Conditionals(nn.Module):
    """The distribution of every column given any others: the sum of its parts.

    Args:
      sizes: cells per column.
      parts: by name, one at least.
      within: of columns that are spelled by several tokens; readers leave it to the law.
    """

    def __init__(self, sizes: Sequence[int], parts: dict[str, Part], within: Within | None = None) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.parts: Any = nn.ModuleDict(parts)
        self.within = within

    def forward(self, cells: Tensor, known: Tensor) -> Tensor:
        """Negative log-likelihood of each row, shape (rows,): columns added up, each given those known there."""
        logits = [sum(parts) for parts in zip(*(p(cells, known) for p in self.parts.values()), strict=True)]
        if self.within is not None:
            logits = self.within(logits, cells)
        losses = [
            nn.functional.cross_entropy(part, at, reduction="none") for part, at in zip(logits, cells.T, strict=True)
        ]
        return torch.stack(losses, 1).sum(1)

    def opened(self, rows: int) -> Reader:
        """A reader of so many rows."""
        return _Summed([part.opened(rows) for part in self.parts.values()])


class _Summed(Reader):
    def __init__(self, parts: Sequence[Reader]) -> None:
        self._parts = parts

    def logits(self, i: int) -> Tensor:
        with torch.no_grad():
            first, *more = (p.logits(i) for p in self._parts)
            for other in more:
                first = first + other
            return first

    def tell(self, i: int, cells: Tensor, rows: Tensor | None = None) -> None:
        with torch.no_grad():
            for part in self._parts:
                part.tell(i, cells, rows)


# --------------------------------------------------------------------------------------------------------------- wide
class Wide(Part):
    """One linear map per column, from the cells of the others, less their shares.

    Args:
      sizes: cells per column.
      shares: of all cells side by side, shape (cells,), above 0.
      biased: whether its biases start there; else at 0, for it is added to another part that has them.
    """

    shares: Tensor

    def __init__(self, sizes: Sequence[int], shares: Tensor, *, biased: bool) -> None:
        super().__init__()
        self.sizes, self.starts = list(sizes), _starts(sizes)
        self.register_buffer("shares", shares)
        whole = sum(sizes)
        self.maps: Any = nn.ModuleList(nn.utils.skip_init(nn.Linear, whole - n, n) for n in sizes)
        _begin(self.maps, self.shares if biased else torch.ones_like(shares), sizes)

    def forward(self, cells: Tensor, known: Tensor) -> list[Tensor]:
        """As `Part.forward`."""
        offset = torch.tensor(self.starts, device=cells.device)
        centred = torch.zeros(len(cells), sum(self.sizes), device=cells.device).scatter_(1, cells + offset, 1.0)
        centred = centred - self.shares
        wide = torch.tensor(self.sizes, device=cells.device)
        return [
            layer(self._others(centred * known[:, i].to(centred.dtype).repeat_interleave(wide, 1), i))
            for i, layer in enumerate(self.maps)
        ]

    def _others(self, values: Tensor, i: int) -> Tensor:
        start = self.starts[i]
        return torch.cat([values[:, :start], values[:, start + self.sizes[i] :]], 1)

    def opened(self, rows: int) -> Reader:
        """As `Part.opened`."""
        return _WideReader(self, rows)


class _Slots:
    """Inputs of linear maps, column by column in the order in which these become known: unknown ones cost nothing.

    Args:
      like: a parameter of the network.
      rows: how many.
      widths: inputs of each column.
    """

    def __init__(self, like: Tensor, rows: int, widths: Sequence[int]) -> None:
        self.widths, self._places = list(widths), list[Tensor]()
        self._starts = [sum(widths[:i]) for i in range(len(widths))]
        self._values = like.new_zeros(rows, sum(widths))
        self._slot: dict[int, int] = {}
        self._used = 0

    def put(self, i: int, values: Tensor, rows: Tensor | None) -> None:
        """Inputs of column i, shape (rows, width), in these rows or in all."""
        if i not in self._slot:
            self._slot[i], self._used = self._used, self._used + self.widths[i]
            start = self._starts[i]
            self._places.append(torch.arange(start, start + self.widths[i], device=self._values.device))
        part = slice(self._slot[i], self._slot[i] + self.widths[i])
        self._values[slice(None) if rows is None else rows.to(self._values.device), part] = values

    def mapped(self, weight: Tensor, bias: Tensor) -> Tensor:
        """inputs weight' + bias; `weight` has (outputs, inputs of all columns in the network's order)."""
        if not self._places:
            return bias.expand(len(self._values), -1)
        return torch.addmm(bias, self._values[:, : self._used], weight.T[torch.cat(self._places)])


class _WideReader(Reader):
    def __init__(self, wide: Wide, rows: int) -> None:
        self._wide, self._hot = wide, torch.eye(max(wide.sizes), device=wide.shares.device)
        self._slots = _Slots(wide.shares, rows, wide.sizes)
        self._shares = torch.split(wide.shares, wide.sizes)

    def logits(self, i: int) -> Tensor:
        layer = self._wide.maps[i]
        start, left = self._wide.starts[i], layer.weight.new_zeros(self._wide.sizes[i], self._wide.sizes[i])
        weight = torch.cat([layer.weight[:, :start], left, layer.weight[:, start:]], 1)
        return self._slots.mapped(weight, layer.bias)

    def tell(self, i: int, cells: Tensor, rows: Tensor | None = None) -> None:
        hot = self._hot[cells.to(self._hot.device), : self._wide.sizes[i]]
        self._slots.put(i, hot - self._shares[i], rows)


# --------------------------------------------------------------------------------------------------------------- fast
class Perceptrons(Part):
    """One hidden layer per column over embeddings of the others' cells, and over which of them are known.

    Args:
      sizes: cells per column.
      shares: as `Wide`.
      hidden: width of each hidden layer.
      ordered: whether neighbouring cells are alike, for each column; none where nothing is said.
    """

    def __init__(self, sizes: Sequence[int], shares: Tensor, hidden: int, ordered: Sequence[bool] = ()) -> None:
        super().__init__()
        self.sizes, self.starts = list(sizes), _starts(sizes)
        columns = len(sizes)
        self.embedding = nn.Embedding(sum(sizes), EMBEDDED)
        self.hidden: Any = nn.ModuleList(nn.Linear(columns * (EMBEDDED + 1), hidden) for _ in sizes)
        self.out: Any = nn.ModuleList(nn.Linear(hidden, n) for n in sizes)
        with torch.no_grad():
            self.embedding.weight.mul_(0.5)
        _wave(self.embedding, sizes, ordered, 0.5)
        layer: Any
        for layer in self.hidden:
            nn.init.normal_(layer.weight, std=1 / math.sqrt(columns * EMBEDDED / 2))
            nn.init.zeros_(layer.bias)
        _begin(self.out, shares, sizes, scale=0.1)

    def forward(self, cells: Tensor, known: Tensor) -> list[Tensor]:
        """As `Part.forward`."""
        embedded = self.embedding(cells + torch.tensor(self.starts, device=cells.device))
        embedded = torch.cat([embedded, torch.ones_like(embedded[..., :1])], 2)  # the last one: that it is known
        found = []
        for i, (layer, out) in enumerate(zip(self.hidden, self.out, strict=True)):
            hidden = nn.functional.silu(layer((embedded * known[:, i, :, None]).flatten(1)))
            found.append(out(nn.functional.dropout(hidden, DROPPED, self.training)))
        return found

    def opened(self, rows: int) -> Reader:
        """As `Part.opened`."""
        return _PerceptronsReader(self, rows)


class _PerceptronsReader(Reader):
    def __init__(self, net: Perceptrons, rows: int) -> None:
        self._net, columns = net, len(net.sizes)
        self._slots = _Slots(net.embedding.weight, rows, [EMBEDDED + 1] * columns)

    def logits(self, i: int) -> Tensor:
        layer = self._net.hidden[i]
        hidden = nn.functional.silu(self._slots.mapped(layer.weight, layer.bias))
        found: Tensor = self._net.out[i](hidden)
        return found

    def tell(self, i: int, cells: Tensor, rows: Tensor | None = None) -> None:
        weight = self._net.embedding.weight
        embedded = weight[cells.to(weight.device) + self._net.starts[i]]
        self._slots.put(i, torch.cat([embedded, torch.ones_like(embedded[:, :1])], 1), rows)


# --------------------------------------------------------------------------------------------------------------- full
class _Layer(nn.Module):
    """A query attends to the known cells, and to nothing where it likes; then a perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.norm, self.again = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, known: Tensor) -> Tensor:
        """Queries, shape (rows, queries, width), after one layer; `known` has (rows, queries, columns)."""
        asked = _heads(self.asked(queries))
        scores = (asked @ _heads(keys).mT).masked_fill(~known[:, None], -math.inf)
        nothing = scores.new_zeros(*scores.shape[:-1], 1)
        chances = torch.softmax(torch.cat([scores, nothing], -1), -1)[..., :-1]
        return self.told(queries, (chances @ _heads(values)).transpose(1, 2).flatten(2))

    def asked(self, queries: Tensor) -> Tensor:
        """What keys are multiplied by; scores need no further scaling."""
        found: Tensor = self.query(self.norm(queries)) / math.sqrt(queries.shape[-1] / HEADS)
        return found

    def told(self, queries: Tensor, heard: Tensor) -> Tensor:
        """The queries after they have heard so much of values."""
        queries = queries + self.out(heard)
        found: Tensor = queries + self.down(nn.functional.silu(self.up(self.again(queries))))
        return found


def _heads(values: Tensor) -> Tensor:
    """(rows, positions, width) -> (rows, heads, positions, width / heads)."""
    apart: Tensor = values.unflatten(-1, (HEADS, -1))
    return apart.transpose(1, 2)


class Attention(Part):
    """Queries of columns attend to known cells, LAYERS times.

    Args:
      sizes: cells per column.
      shares: as `Wide`.
      hidden: width, a multiple of HEADS.
      layers: how many.
      ordered: as `Perceptrons`.
    """

    def __init__(
        self, sizes: Sequence[int], shares: Tensor, hidden: int, layers: int, ordered: Sequence[bool] = ()
    ) -> None:
        super().__init__()
        self.sizes, self.starts = list(sizes), _starts(sizes)
        self.cell, self.asked = nn.Embedding(sum(sizes), hidden), nn.Embedding(len(sizes), hidden)
        _wave(self.cell, sizes, ordered, 1.0)
        self.layers: Any = nn.ModuleList(_Layer(hidden) for _ in range(layers))
        self.out: Any = nn.ModuleList(nn.Linear(hidden, n) for n in sizes)
        _begin(self.out, shares, sizes, scale=0.1)

    def forward(self, cells: Tensor, known: Tensor) -> list[Tensor]:
        """As `Part.forward`."""
        tokens = self.cell(cells + torch.tensor(self.starts, device=cells.device))
        queries = self.asked(torch.arange(len(self.sizes), device=cells.device).expand(len(cells), -1))
        for layer in self.layers:
            queries = layer(queries, layer.key(tokens), layer.value(tokens), known)
        return [out(queries[:, i]) for i, out in enumerate(self.out)]

    def opened(self, rows: int) -> Reader:
        """As `Part.opened`."""
        return _AttentionReader(self, rows)


class _AttentionReader(Reader):
    """Keys and values of the known cells, column by column in the order in which these become known.

    A cell's key and value are looked up, not computed anew. The first layer's query is the same for all rows, and so is
    its score for each cell.
    """

    def __init__(self, net: Attention, rows: int) -> None:
        columns, like = len(net.sizes), net.cell.weight
        self._net, self._slot, self._everywhere = net, dict[int, int](), True
        with torch.no_grad():
            self._keys = [layer.key(like) for layer in net.layers]
            self._values = [layer.value(like) for layer in net.layers]
        self._cells = torch.zeros(columns, rows, dtype=torch.int64, device=like.device)
        self._known = torch.zeros(columns, rows, 1, dtype=torch.bool, device=like.device)
        self._cache = like.new_zeros(2, len(net.layers), columns, rows, like.shape[1])

    def logits(self, i: int) -> Tensor:
        queries = self._net.asked.weight[i].expand(self._cells.shape[1], -1)
        for number, layer in enumerate(self._net.layers):
            scores = self._first(layer, i) if number == 0 else self._scores(number, layer.asked(queries))
            queries = layer.told(queries, self._heard(number, scores, queries))
        found: Tensor = self._net.out[i](queries)
        return found

    def _first(self, layer: Any, i: int) -> list[Tensor]:
        asked = layer.asked(self._net.asked.weight[i : i + 1])
        of_cells: Tensor = (self._keys[0] * asked).unflatten(-1, (HEADS, -1)).sum(-1)
        return [of_cells[cells] for cells in self._cells[: len(self._slot)]]

    def _scores(self, number: int, asked: Tensor) -> list[Tensor]:
        keys = self._cache[0, number, : len(self._slot)]
        return [(key * asked).unflatten(-1, (HEADS, -1)).sum(-1) for key in keys]

    def _heard(self, number: int, scores: Sequence[Tensor], queries: Tensor) -> Tensor:
        """Values weighted by the softmax of scores, each (rows, HEADS), and of a 0 for nothing; shape (rows, width)."""
        heard: Tensor = torch.zeros_like(queries).unflatten(-1, (HEADS, -1))
        if not scores:
            return heard.flatten(1)
        together = torch.stack(list(scores))
        if not self._everywhere:
            together = together.masked_fill(~self._known[: len(scores)], -math.inf)
        top = together.amax(0).clamp(min=0.0)
        weights = (together - top).exp_()
        weights /= weights.sum(0) + (-top).exp()
        for weight, value in zip(weights, self._cache[1, number], strict=False):
            heard.addcmul_(weight[..., None], value.unflatten(-1, (HEADS, -1)))
        return heard.flatten(1)

    def tell(self, i: int, cells: Tensor, rows: Tensor | None = None) -> None:
        slot = self._slot.setdefault(i, len(self._slot))
        at = slice(None) if rows is None else rows.to(self._cells.device)
        token = cells.to(self._cells.device) + self._net.starts[i]
        self._everywhere &= rows is None
        self._cells[slot, at], self._known[slot, at] = token, True
        for number, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            self._cache[0, number, slot, at], self._cache[1, number, slot, at] = keys[token], values[token]


# ------------------------------------------------------------------------------------------------------------- common
def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:i]) for i in range(len(sizes))]


def _wave(embedding: Any, sizes: Sequence[int], ordered: Sequence[bool], scale: float) -> None:
    """Embeddings of ordered values as sines and cosines of where they stand, so that near ones are told apart as easily
    as far ones (Vaswani et al. 2017, 3.5).
    """
    width = embedding.weight.shape[1] // 2
    period = PERIODS[0] * PERIODS[1] ** (torch.arange(width) * (8 / width))
    for start, size, kept in zip(_starts(sizes), sizes, ordered, strict=False):
        if kept:
            angle = 2 * math.pi * torch.arange(size)[:, None] / period
            with torch.no_grad():
                embedding.weight[start : start + size] = scale * torch.cat([angle.cos(), angle.sin()], 1)


def _begin(layers: Any, shares: Tensor, sizes: Sequence[int], *, scale: float = 0.0) -> None:
    """Weights scaled, and biases so that without anything known every column has its shares."""
    for layer, share in zip(layers, torch.split(shares, list(sizes)), strict=True):
        with torch.no_grad():
            layer.weight.copy_(scale * layer.weight if scale else torch.zeros_like(layer.weight))
            layer.bias.copy_(torch.log(share))
