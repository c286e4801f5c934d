"""Prefix tries over tokens: which tokens may come next, so that what a language model writes is a value of its column.

A trie is kept as arrays. Its nodes are the places where values part: tokens between two of them are forced, so that
nobody asks the model for them. A value's probability is the product of its choices, each among the tokens that its node
allows: probabilities of the values of a column sum to 1, whatever the model thinks of all other texts.

Privacy: looks at the values a column may show, which are public or charged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tabveil._torch import torch

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Trie:
    """The values of one column as sequences of tokens, of which none begins with another.

    Attributes:
      tokens: shape (values, longest), each value's tokens, zeros behind its end.
      lengths: shape (values,).
      choices: shape (branches,), the tokens that are chosen anywhere, rising.
      open: shape (nodes, branches), which of them may come next; node 0 is the root.
      child: shape (nodes, branches), the node that a choice leads to, or ~value where only that value is left.
      depth: shape (nodes,), tokens before the choice.
      some: shape (nodes,), a value below the node: its first `depth` tokens lead there.
      at: shape (values, choices), the nodes where a value's tokens are chosen, -1 behind the last.
      took: shape (values, choices), the branches chosen there.
    """

    tokens: Tensor
    lengths: Tensor
    choices: Tensor
    open: Tensor
    child: Tensor
    depth: Tensor
    some: Tensor
    at: Tensor
    took: Tensor

    @classmethod
    def of(cls, values: Sequence[Sequence[int]]) -> Trie:
        """From one sequence of tokens for each value, at least one; raises ValueError where one begins with another."""
        found = list(_branchings(values))
        choices = sorted({token for _, _, parts in found for token in parts})
        place = {token: i for i, token in enumerate(choices)}
        numbers = {(depth, value): n for n, (depth, value, _) in enumerate(found)}
        open_ = np.zeros((len(found), len(choices)), dtype=bool)
        child = np.zeros((len(found), len(choices)), dtype=np.int64)
        steps: list[list[tuple[int, int]]] = [[] for _ in values]
        for number, (_, _, parts) in enumerate(found):
            for token, below in parts.items():
                open_[number, place[token]] = True
                child[number, place[token]] = _target(values, below, numbers)
                for value in below:
                    steps[value].append((number, place[token]))
        return cls(
            _padded(values, 0),
            torch.tensor([len(v) for v in values]),
            torch.tensor(choices, dtype=torch.int64),
            torch.from_numpy(open_),
            torch.from_numpy(child),
            torch.tensor([depth for depth, _, _ in found], dtype=torch.int64),
            torch.tensor([value for _, value, _ in found], dtype=torch.int64),
            _padded([[n for n, _ in s] for s in steps], -1),
            _padded([[b for _, b in s] for s in steps], 0),
        )

    def to(self, device: str) -> Trie:
        """The same on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})

    @property
    def nodes(self) -> int:
        """Places where something is chosen; 0 where there is one value only."""
        return len(self.depth)

    def gathered(self, weights: Tensor) -> Tensor:
        """Sum of the values' weights, shape (values,), below every branch: shape (nodes, branches), doubles."""
        total = torch.zeros(self.open.shape, dtype=torch.float64, device=self.open.device)
        real = self.at >= 0
        index = (self.at[real], self.took[real])
        return total.index_put_(index, weights.double()[:, None].expand_as(self.at)[real], accumulate=True)

    def between(self, value: Tensor, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens number start to stop - 1 of each of `value`, shape (rows, most), and how many, shape (rows,)."""
        lengths = stop - start
        spots = start[:, None] + torch.arange(_most(lengths), device=value.device)
        return self.tokens[value[:, None], spots.clamp(max=self.tokens.shape[1] - 1)], lengths


def _branchings(values: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, dict[int, list[int]]]]:
    """Every place where values part, the root first: its depth, a value below it, and the values behind each token."""
    waiting = [(0, sorted(range(len(values)), key=lambda i: tuple(values[i])))]
    while waiting:
        depth, below = waiting.pop()
        if len(below) == 1:
            continue
        depth = _common(values[below[0]], values[below[-1]], depth)
        if len(values[below[0]]) == depth:  # sorted: the first is the shortest that begins like this
            raise ValueError("a value begins with another one")
        parts: dict[int, list[int]] = {}
        for value in below:
            parts.setdefault(values[value][depth], []).append(value)
        yield depth, below[0], parts
        waiting += [(depth + 1, some) for some in parts.values()]


def _common(first: Sequence[int], last: Sequence[int], start: int) -> int:
    """How many tokens two values share; `start` of them are known to be shared."""
    most = min(len(first), len(last))
    return next((i for i in range(start, most) if first[i] != last[i]), most)


def _target(values: Sequence[Sequence[int]], below: list[int], numbers: dict[tuple[int, int], int]) -> int:
    """The node where `below` part, by its number, or ~value where it is a single one."""
    if len(below) == 1:
        return ~below[0]
    return numbers[_common(values[below[0]], values[below[-1]], 0), below[0]]


def _padded(rows: Sequence[Sequence[int]], filling: int) -> Tensor:
    """Shape (rows, longest), at least one column."""
    out = np.full((len(rows), max(1, max(map(len, rows), default=0))), filling, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)


def _most(lengths: Tensor) -> int:
    return int(lengths.max()) if len(lengths) else 0
