"""A language model that writes rows as text: one column after the other, a whole batch of rows at a time.

A value is chosen token by token among those that its column's trie allows, by the model's own probabilities of these;
what the trie forces is read on, not asked for. Keys and values of what was read are kept, so that every token is read
once. Rows may be of any length and in any order of their columns: shorter ones are padded, and padding is not read.

Under conditions tokens that lead to no allowed value are left out, and `Writing.weight` keeps the part of the
probability that is left: the chance with which a row must be accepted, so that the law is the model's given all of
them.

Privacy: post-processing of a fitted model. Nothing here sees a private row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tabveil._torch import torch
from tabveil.encoding import Codes, Floats
from tabveil.generators._base_model import BaseModel
from tabveil.generators._wording import Wording

Tensor = torch.Tensor

ALONE = 256
"""Places in a trie that are calibrated at a time."""


Choice = tuple[Tensor, Tensor]
"""Places in a trie, shape (rows,), and logits of their branches, shape (rows, branches)."""

Question = tuple[int, Tensor, Tensor]
"""A column, rows by position, and where in the column's trie each of them is, both of shape (rows,)."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A language model and what it is asked to write.

    Attributes:
      model: the language model, its adapters as they are.
      wording: what is read and written.
      bias: of each column, shape (nodes, branches), added to the logits of its choices.
      reader: reads the model's rows in its place, by the same law; None where it reads them itself.
    """

    model: BaseModel
    wording: Wording
    bias: tuple[Tensor, ...]
    reader: Reader | None = None

    def text(self, rows: int) -> Read:
        """So many rows, as they begin."""
        return Text(self.model, self.wording.begin, rows) if self.reader is None else self.reader.text(self, rows)

    def logits(self, i: int, hidden: Tensor, node: Tensor) -> Tensor:
        """Logits of column i's branches, -inf where the trie does not go on; shape (..., branches).

        Args:
          i: the column.
          hidden: shape (..., width), after the last token before the choice.
          node: shape (...), where in the trie.
        """
        weight, offset = self.model.head(self.wording.tries[i].choices)
        return self.biased(i, hidden @ weight.T + offset, node)

    def biased(self, i: int, plain: Tensor, node: Tensor) -> Tensor:
        """`logits` from what the model says of the branches, shape (..., branches), up to a constant for each row."""
        return (plain + self.bias[i][node]).masked_fill(~self.wording.tries[i].open[node], -torch.inf)

    def calibrated(self, shares: Sequence[Tensor]) -> Reading:
        """The same, biased so that each column by itself, written as the first one, has the given shares of its cells,
        each above 0.
        """
        with torch.no_grad():
            return replace(self, bias=tuple(self._towards(i, s) for i, s in enumerate(shares)))

    def _towards(self, i: int, shares: Tensor) -> Tensor:
        trie, plain = self.wording.tries[i], replace(self, bias=tuple(map(torch.zeros_like, self.bias)))
        if not trie.nodes:
            return plain.bias[i]
        below = trie.gathered(shares.to(trie.open.device))
        wanted = torch.log(below / below.sum(1, keepdim=True))
        found = [
            torch.log_softmax(plain.logits(i, self._alone(i, node), node), -1)
            for node in torch.arange(trie.nodes, device=trie.depth.device).split(ALONE)
        ]
        return torch.where(trie.open, wanted - torch.cat(found), 0.0).to(self.bias[i].dtype)

    def _alone(self, i: int, node: Tensor) -> Tensor:
        """Hidden states at nodes of column i, where nothing else was written, shape (nodes, width)."""
        trie, rows = self.wording.tries[i], torch.arange(len(node), device=node.device)
        text = Text(self.model, self.wording.begin, len(node))
        prompt, length = self.wording.prompts[i], self.wording.prompt_lengths[i]
        text.append(rows, prompt.expand(len(node), -1), length.expand(len(node)))
        text.append(rows, *trie.between(trie.some[node], torch.zeros_like(node), trie.depth[node]))
        return text.read(rows)


class Asked(Protocol):
    """What rows are written by, and under which conditions."""

    @property
    def writer(self) -> Reading:
        """The language model, all biases among it."""

    @property
    def evidence(self) -> Mapping[int, Floats]:
        """For columns under a condition, by position: how likely each cell is to show an allowed code, at most 1."""

    @property
    def reach(self) -> Mapping[int, Tensor]:
        """For these: whether a branch leads to an allowed value, shape (nodes, branches)."""

    def begun(self, i: int, rows: int, rng: np.random.Generator) -> Codes:
        """Cells of column i to begin rows with."""


class Read(Protocol):
    """Rows of text, side by side, and what a model says of how they go on: `Text`, and `_vllm.Prompts`."""

    def append(self, rows: Tensor, tokens: Tensor, lengths: Tensor) -> None:
        """As `Lines.append`."""

    def precede(self, tokens: Tensor, lengths: Tensor) -> None:
        """As `Lines.precede`."""

    def keep(self, rows: Tensor) -> None:
        """As `Lines.keep`."""

    def logits(self, writer: Reading, questions: Sequence[Question]) -> list[Tensor]:
        """`Reading.logits` of each question, up to a constant for each row; no row is in two of them."""


class Reader(Protocol):
    """What reads rows in a model's place.

    Attributes:
      most_rows: as many as it should be given side by side.
    """

    most_rows: int

    def text(self, reading: Reading, rows: int) -> Read:
        """So many rows, as they begin."""


class Lines:
    """Tokens of rows, side by side, each row by itself; of what is read by and by, the tokens that wait to be."""

    def __init__(self, begin: tuple[int, ...], rows: int, device: str) -> None:
        self._waiting = torch.tensor(begin, device=device).expand(rows, -1)
        self._lengths = torch.full((rows,), len(begin), device=device)

    def __len__(self) -> int:
        return len(self._lengths)

    def append(self, rows: Tensor, tokens: Tensor, lengths: Tensor) -> None:
        """Let the first `lengths` of `tokens`, shape (rows named, most), follow in the rows named, by position."""
        before = self._lengths[rows]
        self._lengths[rows] = before + lengths
        width, steps = int(self._lengths.max()), torch.arange(tokens.shape[1], device=tokens.device)
        wide = self._waiting.new_zeros(len(self), width + 1)  # the last place takes the padding
        kept = min(width, self._waiting.shape[1])
        wide[:, :kept] = self._waiting[:, :kept]
        spots = torch.where(steps < lengths[:, None], before[:, None] + steps, width)
        wide[rows[:, None], spots] = tokens
        self._waiting = wide[:, :-1]

    def precede(self, tokens: Tensor, lengths: Tensor) -> None:
        """Let the first `lengths` of `tokens`, shape (rows, most), stand before all; not after the first read."""
        after, count = self._waiting, self._lengths
        self._waiting, self._lengths = tokens, lengths
        self.append(torch.arange(len(self), device=tokens.device), after, count)

    def keep(self, rows: Tensor) -> None:
        """Go on with the rows named only, by position."""
        self._waiting, self._lengths = self._waiting[rows], self._lengths[rows]


class Text(Lines):
    """Rows that the model reads itself: tokens wait until its opinion is asked for, and are then read all at once."""

    def __init__(self, model: BaseModel, begin: tuple[int, ...], rows: int) -> None:
        super().__init__(begin, rows, model.device)
        self._model, self._cache = model, model.new_cache()
        self._real = torch.zeros(rows, 0, dtype=torch.bool, device=model.device)
        self._read = torch.zeros(rows, dtype=torch.int64, device=model.device)

    def logits(self, writer: Reading, questions: Sequence[Question]) -> list[Tensor]:
        """As `Read.logits`."""
        hidden = self.read(torch.cat([rows for _, rows, _ in questions]))
        parts = torch.split(hidden, [len(rows) for _, rows, _ in questions])
        return [writer.logits(c, h, node) for (c, _, node), h in zip(questions, parts, strict=True)]

    def read(self, rows: Tensor) -> Tensor:
        """Read what waits in the rows named, at least one token each; hidden states after it, (rows named, width)."""
        lengths = torch.zeros_like(self._lengths)
        lengths[rows] = self._lengths[rows]
        self._lengths[rows] = 0
        most = int(lengths.max())
        steps = torch.arange(most, device=lengths.device)
        real = steps < lengths[:, None]
        self._real = torch.cat([self._real, real], 1)
        spots = self._read[:, None] + torch.minimum(steps, (lengths[:, None] - 1).clamp(min=0))
        hidden = self._model.hidden(self._waiting[:, :most].contiguous(), self._real, spots, self._cache)
        self._read = self._read + lengths
        return hidden[rows, lengths[rows] - 1]

    def keep(self, rows: Tensor) -> None:
        """As `Lines.keep`."""
        super().keep(rows)
        self._real, self._read = self._real[rows], self._read[rows]
        if self._real.shape[1]:
            self._cache.batch_select_indices(rows)


class Writing:
    """Rows that are being written, a column at a time.

    Args:
      law: what they are drawn from.
      cells: shape (rows, columns), what is known of them, -1 for what is to be drawn.
      order: shape (rows, columns drawn or read), the columns of each row in which it is written.
      shown: shape (rows, examples, columns), cells of rows that stand before it.
      choices: for each column, a list to which every choice that is asked for is added.

    Attributes:
      cells: as far as it has come.
      weight: how likely each row was to obey, given what came before: the chance to accept it with.
    """

    def __init__(
        self,
        law: Asked,
        cells: Codes,
        order: Codes,
        *,
        shown: Codes | None = None,
        choices: Sequence[list[Choice]] | None = None,
    ) -> None:
        device = law.writer.model.device
        self._law, self._column, self._choices = law, 0, choices
        self.cells, self._order = torch.from_numpy(cells).to(device), torch.from_numpy(order).to(device)
        self.weight = torch.ones(len(cells), dtype=torch.float64, device=device)
        self._text = law.writer.text(len(cells))
        if shown is not None:
            self._text.precede(*law.writer.wording.one_after_another(torch.from_numpy(shown).to(device), self._order))

    def columns(self, count: int, rng: np.random.Generator) -> None:
        """Write the next `count` columns of every row."""
        with torch.no_grad():
            for _ in range(count):
                self._next(rng)

    @property
    def left(self) -> int:
        """Columns to come."""
        return self._order.shape[1] - self._column

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Go on with the rows named only, by position."""
        at = torch.from_numpy(rows).to(self.cells.device)
        self.cells, self._order, self.weight = self.cells[at], self._order[at], self.weight[at]
        self._text.keep(at)

    def _next(self, rng: np.random.Generator) -> None:
        column = self._order[:, self._column]
        groups = [(int(c), torch.nonzero(column == c)[:, 0]) for c in column.unique().tolist()]
        asked = [(c, self._told(c, rows, rng)) for c, rows in groups]
        self._column += 1
        asking = [(c, rows, torch.zeros_like(rows)) for c, rows in asked if len(rows)]
        while asking:
            said = self._text.logits(self._law.writer, asking)
            nodes = [self._chosen(c, rows, node, x, rng) for (c, rows, node), x in zip(asking, said, strict=True)]
            further = [(c, rows[n >= 0], n[n >= 0]) for (c, rows, _), n in zip(asking, nodes, strict=True)]
            asking = [(c, rows, node) for c, rows, node in further if len(rows)]

    def _told(self, c: int, rows: Tensor, rng: np.random.Generator) -> Tensor:
        """Write the name of column c, and its value where it is known; the rows where it has to be asked for."""
        wording = self._law.writer.wording
        self._text.append(rows, wording.prompts[c].expand(len(rows), -1), wording.prompt_lengths[c].expand(len(rows)))
        trie, unknown = wording.tries[c], self.cells[rows, c] < 0
        if self._column == 0 and bool(unknown.any()):
            begun = torch.from_numpy(self._law.begun(c, int(unknown.sum()), rng)).to(rows.device)
            self.cells[rows[unknown], c], unknown = begun, torch.zeros_like(unknown)
        elif not trie.nodes:
            self.cells[rows[unknown], c], unknown = 0, torch.zeros_like(unknown)
        known = rows[~unknown]
        if len(known):
            cell = self.cells[known, c]
            self._text.append(known, trie.tokens[cell], trie.lengths[cell])
        asked = rows[unknown]
        if len(asked):  # what all values begin with
            some = trie.some[:1].expand(len(asked))
            self._text.append(asked, *trie.between(some, torch.zeros_like(some), trie.depth[:1].expand(len(asked))))
        return asked

    def _chosen(self, c: int, rows: Tensor, node: Tensor, logits: Tensor, rng: np.random.Generator) -> Tensor:
        """Choose what follows at `node`, write it, and give the next node; -1 where the value is settled."""
        trie = self._law.writer.wording.tries[c]
        if self._choices is not None:
            self._choices[c].append((node, logits))
        chance = torch.softmax(logits.double(), -1)
        if c in self._law.reach:
            reach = self._law.reach[c][node]
            chance = chance * reach
            self.weight[rows] *= chance.sum(-1).clamp(max=1.0)
            chance = torch.where(
                chance.sum(-1, keepdim=True) > 0, chance, reach.double()
            )  # weighs nothing, but goes on
        choice = _inverted(chance, torch.from_numpy(rng.random(len(rows))).to(chance))
        target = trie.child[node, choice]
        done = target < 0
        value = torch.where(done, ~target, trie.some[target.clamp(min=0)])
        stop = torch.where(done, trie.lengths[value], trie.depth[target.clamp(min=0)])
        self._text.append(rows, *trie.between(value, trie.depth[node], stop))
        self.cells[rows[done], c] = value[done]
        if c in self._law.evidence:
            evidence = torch.from_numpy(self._law.evidence[c]).to(self.weight)
            self.weight[rows[done]] *= evidence[value[done]]
        return torch.where(done, -1, target)


def _inverted(chance: Tensor, spot: Tensor) -> Tensor:
    """The first branch at which the chances of a row add up to more than its share `spot` of all; never one of 0."""
    ends = chance.cumsum(-1)
    whole = ends[:, -1]
    spot = torch.minimum(spot * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    return torch.searchsorted(ends, spot[:, None], right=True)[:, 0]
