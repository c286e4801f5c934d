"""What rows are drawn from where a language model writes them (`_writing`).

A row begins with a value from a charged one-way marginal, each feature beginning as many rows (feature-conditional
sampling), and the label is asked for at the end, given all features in the schema's order (both Pred-LLM, Nguyen et al.
2024).

A language model has one law for every order of the columns. Under conditions rows are written in orders that begin
with the columns these speak of. Leaving out the tokens that lead to no allowed value would by itself be wrong for two
columns or more: it draws from p(a | A) p(b | a, B), not from p(a, b | A, B). The part of the probability that is left
at every such choice is kept, and a row is accepted with the product of these parts: that is exact. The first column
needs no rejection. How many rows are tried is bounded.

Privacy: post-processing of a fitted model and of charged counts. Nothing here sees a private row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tabveil import laws
from tabveil._torch import torch
from tabveil.conditions import Balance, may_hold
from tabveil.encoding import Axis, Codes, CodeSet, Floats, size
from tabveil.errors import UsageError
from tabveil.generators._writing import Choice, Reader, Reading, Writing
from tabveil.laws import Split

Tensor = torch.Tensor

CACHE_BYTES = 2**28
"""Keys and values kept at a time: as many rows are written side by side as fit, MOST_ROWS at most."""

MOST_ROWS = 128
"""On a CPU. Measured: 1,024 rows side by side take 2 to 3 times as long a row (keys and values are copied whenever a
token is read)."""

MOST_ROWS_ELSEWHERE = 1_024
"""On other devices, where nobody has measured."""

MOST_TRIES = 50_000
"""Rows tried under conditions for any number of rows; TRIES_PER_ROW more for each of them."""

TRIES_PER_ROW = 100

LEAST = 1e-9
"""No branch is expected less often than this, so that no logarithm is infinite."""

IMPUTE_ROUNDS = 64
"""How often what is missing of a row is written anew because it came out missing again."""

MATCHED_ROWS, MATCHING, MATCHING_STEPS = 1_024, 2, 40
"""Rows written to compare the model's columns with the charged shares, how often, and steps of a comparison."""

MATCHED_ALIKE = 16
"""Of these, rows that share an order of the columns: a few orders would not stand for all."""

POOL = 2_048
"""Rows tried to find out how often a label's values meet conditions on other columns."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Synthetic rows that are shown before a row is written.

    Attributes:
      cells: shape (rows, columns).
      nearest: shape (rows, shown), the rows most like each, itself among them.
    """

    cells: Codes
    nearest: Codes

    @classmethod
    def of(cls, cells: Codes, shown: int) -> Examples:
        """Rows are alike in single columns."""
        different = np.zeros((len(cells), len(cells)), dtype=np.int64)
        for column in cells.T:
            different += column[:, None] != column
        return cls(cells, np.argsort(different, axis=1, kind="stable")[:, :shown])

    def drawn(self, rows: int, rng: np.random.Generator) -> Codes:
        """For each of `rows` rows that are alike; shape (rows, shown, columns)."""
        return self.cells[self.nearest[rng.integers(len(self.cells), size=rows)]]


@dataclass(frozen=True, eq=False)
class TextLaw:
    """What rows are drawn from.

    Attributes:
      axes: one per modelled column: it draws codes within cells.
      reading: the language model, and the words.
      shares: of each column's cells, by charged counts.
      label: the column that is asked for last, given all others; None where there is none.
      evidence: for columns under a condition, by position: how likely each cell is to show an allowed code, at most 1.
      reach: for these: whether a branch leads to an allowed value, shape (nodes, branches).
      shift: shape (branches of all columns,), added to the logits of their choices.
      examples: rows to be shown before a row; none where that was not trained.
    """

    axes: tuple[Axis, ...]
    reading: Reading
    shares: tuple[Floats, ...]
    label: int | None = None
    evidence: Mapping[int, Floats] = field(default_factory=dict)
    reach: Mapping[int, Tensor] = field(default_factory=dict)
    shift: Tensor = field(default_factory=lambda: torch.zeros(0))
    examples: Examples | None = None

    @classmethod
    def of(cls, axes: Sequence[Axis], reading: Reading, shares: Sequence[Floats], *, label: int | None) -> TextLaw:
        """The model's own law: no shift, no conditions, no examples."""
        branches = sum(b.numel() for b in reading.bias)
        return cls(tuple(axes), reading, tuple(shares), label, shift=torch.zeros(branches))

    @cached_property
    def writer(self) -> Reading:
        """The language model, the shift among its biases."""
        parts = torch.split(self.shift, [b.numel() for b in self.reading.bias])
        pairs = zip(self.reading.bias, parts, strict=True)
        return replace(self.reading, bias=tuple(b + part.reshape(b.shape).to(b) for b, part in pairs))

    def finely_matched(self, shares: Sequence[Floats], rng: np.random.Generator) -> TextLaw:
        """The law with a shift under which columns have the given shares on average over rows that it writes: at every
        place in a trie, branches are made likelier by how much they are too rare there.
        """
        law = self
        for _ in range(MATCHING):
            choices: list[list[Choice]] = [[] for _ in self.axes]
            for _ in law._written(MATCHED_ROWS, rng, (), alike=MATCHED_ALIKE, choices=choices):
                pass
            more = [law._lacking(i, s, found) for i, (s, found) in enumerate(zip(shares, choices, strict=True))]
            law = replace(law, shift=law.shift + torch.cat([m.flatten() for m in more]).cpu())
        return law

    def _lacking(self, i: int, shares: Floats, choices: Sequence[Choice]) -> Tensor:
        """What makes column i's branches as likely, on average over `choices`, as they ought to be."""
        trie, shift = self.reading.wording.tries[i], torch.zeros_like(self.reading.bias[i])
        if not choices:
            return shift
        node, logits = torch.cat([n for n, _ in choices]), torch.cat([x for _, x in choices])
        wanted = trie.gathered(torch.from_numpy(shares).to(logits.device)).to(shift).clamp(min=LEAST)
        wanted = wanted / wanted.sum(1, keepdim=True)
        seen = trie.open & (torch.bincount(node, minlength=trie.nodes) > 0)[:, None]
        for _ in range(MATCHING_STEPS):
            found = torch.zeros_like(shift).index_add_(0, node, torch.softmax(logits + shift[node], 1))
            found = (found / found.sum(1, keepdim=True).clamp(min=LEAST)).clamp(min=LEAST)
            shift = shift + torch.where(seen, wanted.log() - found.log(), 0.0)
        return shift

    def among(self, rows: int, shown: int, rng: np.random.Generator) -> TextLaw:
        """The law of rows that follow `shown` of `rows` synthetic ones, which are written first, following none."""
        found = np.empty((rows, len(self.axes)), dtype=np.int64)
        for at, cells in self._written(rows, rng, ()):
            found[at] = cells
        return replace(self, examples=Examples.of(found, shown))

    def read_by(self, reader: Reader) -> TextLaw:
        """The same law, its rows read by another reader."""
        return replace(self, reading=replace(self.reading, reader=reader))

    def place(self, name: str) -> int:
        """Position of the column called `name`."""
        return next(i for i, a in enumerate(self.axes) if a.column.name == name)

    @property
    def _rows(self) -> int:
        """How many rows are written side by side."""
        if self.reading.reader is not None:
            return self.reading.reader.most_rows
        model = self.reading.model
        most = MOST_ROWS if torch.device(model.device).type == "cpu" else MOST_ROWS_ELSEWHERE
        return max(1, min(most, CACHE_BYTES // (8 * model.layers * model.width * self._longest)))

    @property
    def _longest(self) -> int:
        """Tokens of the longest row, those before it counted."""
        shown = 0 if self.examples is None else self.examples.nearest.shape[1]
        return (1 + shown) * self.reading.wording.longest

    def begun(self, i: int, rows: int, rng: np.random.Generator) -> Codes:
        """Cells of column i to begin rows with: by its charged shares, and its evidence."""
        evidence = self.evidence.get(i)
        weights = self.shares[i] if evidence is None else self.shares[i] * evidence
        if not weights.sum() > 0:
            weights = np.ones_like(weights) if evidence is None else evidence
        return rng.choice(len(weights), rows, p=weights / weights.sum())

    # ------------------------------------------------------------------------------------------------------- drawing
    def sample(self, rows: int, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes of `rows` rows for every modelled column.

        Raises:
          UsageError: there are conditions, and too few rows of the law obey them.
        """
        cells = np.empty((rows, len(self.axes)), dtype=np.int64)
        for at, found in self._written(rows, rng, self._first):
            cells[at] = found
        return self.draw(cells[rng.permutation(rows)], rng)

    def draw(self, cells: Codes, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes within `cells`, shape (rows, columns)."""
        return {a.column.name: a.draw(cells[:, i], rng) for i, a in enumerate(self.axes)}

    @property
    def _first(self) -> tuple[int, ...]:
        """Columns under conditions, the one that the fewest rows meet first."""
        met = {i: float(self.shares[i] @ evidence) for i, evidence in self.evidence.items()}
        return tuple(sorted(met, key=lambda i: met[i]))

    def _written(
        self,
        rows: int,
        rng: np.random.Generator,
        first: tuple[int, ...],
        begin: Callable[[Codes], Codes] | None = None,
        alike: int = MOST_ROWS_ELSEWHERE,
        choices: Sequence[list[Choice]] | None = None,
    ) -> Iterator[tuple[Codes, Codes]]:
        """Positions and cells of rows that obey, until there are all.

        Args:
          rows: how many.
          rng: chance.
          first: the columns that all rows begin with.
          begin: gives cells of the first of them, for rows by position; by default `begun`.
          alike: at most as many are written side by side, in orders that are drawn for them.
          choices: as for `Writing`.
        """
        label = self.label if self.label not in first and len(self.axes) > 1 else None
        starts = self._starts(rows, first, label, rng)
        waiting, tried, most = np.arange(rows), 0, MOST_TRIES + TRIES_PER_ROW * rows
        while len(waiting):
            if tried >= most:
                names = [self.axes[i].column.name for i in self.evidence]
                raise laws.too_few(names, rows - len(waiting), tried)
            count = min(self._rows, alike, max(64, 2 * len(waiting)) if self.evidence else len(waiting), most - tried)
            at = np.resize(waiting, count)
            cells = np.full((count, len(self.axes)), -1)
            if begin is not None:
                cells[:, first[0]] = begin(at)
            order = self._orders(starts[at], first, label, rng)
            kept, found = self._tried(cells, order, rng, constrained=len(first), label=label, choices=choices)
            tried, at = tried + count, at[kept]
            fresh, once = np.unique(at, return_index=True)
            yield fresh, found[once]
            waiting = waiting[~np.isin(waiting, fresh)]

    def _tried(
        self,
        cells: Codes,
        order: Codes,
        rng: np.random.Generator,
        *,
        constrained: int,
        label: int | None,
        choices: Sequence[list[Choice]] | None,
    ) -> tuple[Codes, Codes]:
        """Write rows; which of them obey, by a coin each, and all of their cells."""
        shown = None if self.examples is None else self.examples.drawn(len(cells), rng)
        writing = Writing(self, cells, order, shown=shown, choices=choices)
        writing.columns(constrained, rng)
        kept = np.arange(len(cells))
        if self.evidence:
            kept = np.flatnonzero(rng.random(len(cells)) < writing.weight.cpu().numpy())
            writing.keep(kept)
        if len(kept):
            writing.columns(writing.left, rng)
        done = writing.cells.cpu().numpy()
        return kept, done if label is None or not len(kept) else self._labelled(done, label, rng, choices)

    def _labelled(
        self, cells: Codes, label: int, rng: np.random.Generator, choices: Sequence[list[Choice]] | None
    ) -> Codes:
        """The same rows, their label asked for given all features in the schema's order."""
        order = [*(i for i in range(len(self.axes)) if i != label), label]
        writing = Writing(self, cells, np.tile(order, (len(cells), 1)), choices=choices)
        writing.columns(writing.left, rng)
        return np.asarray(writing.cells.cpu().numpy())

    def _starts(
        self, rows: int, first: tuple[int, ...], label: int | None, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """The column that each row begins with: each feature begins as many rows, where no condition says otherwise."""
        if first:
            return np.full(rows, first[0])
        features = rng.permutation([i for i in range(len(self.axes)) if i != label])
        return np.sort(np.resize(features, rows))

    def _orders(
        self, starts: NDArray[np.int64], first: tuple[int, ...], label: int | None, rng: np.random.Generator
    ) -> Codes:
        """An order for each row, the same for all that begin with the same column; the label left out, where given."""
        order = np.empty((len(starts), len(self.axes) - (label is not None)), dtype=np.int64)
        for start in np.unique(starts):
            begun = first or (int(start),)
            rest = [i for i in range(len(self.axes)) if i not in begun and i != label]
            order[starts == start] = [*begun, *rng.permutation(rest).astype(int)]
        return order

    # ---------------------------------------------------------------------------------------------------- conditions
    def given(self, allowed: Mapping[str, CodeSet]) -> TextLaw:
        """The law of rows whose codes are all `allowed`, in orders that begin with these columns.

        Raises:
          UsageError: no row obeys, whatever the model says.
        """
        axes, evidence, reach = list(self.axes), dict(self.evidence), dict(self.reach)
        for name, codes in allowed.items():
            i = self.place(name)
            axes[i], shares = axes[i].restricted(codes)
            shares = np.pad(shares, (0, len(self.shares[i]) - len(shares)))
            evidence[i] = evidence[i] * shares if i in evidence else shares
            if not (evidence[i] * (self.shares[i] > 0)).any():
                raise UsageError(
                    f"Column {name!r}, in a condition: the model never draws what it allows; it holds "
                    f"{may_hold(axes[i].column)}."
                )
            evidence[i] = evidence[i] / evidence[i].max()  # a factor for all rows alike
            reach[i] = self._reach(i, evidence[i])
        return replace(self, axes=tuple(axes), evidence=evidence, reach=reach)

    def _reach(self, i: int, evidence: Floats) -> Tensor:
        trie = self.reading.wording.tries[i]
        return trie.gathered(torch.from_numpy((evidence > 0).astype(float)).to(trie.open.device)) > 0

    def cell_shares(self, i: int) -> Floats:
        """How likely each cell of column i is in rows that begin with it, conditions counted; shape (cells,): the
        charged shares, where there are conditions on other columns an estimate.
        """
        share = self.shares[i] * self.evidence.get(i, np.ones(len(self.shares[i])))
        others = tuple(j for j in self._first if j != i)
        if others:
            share = share * self._met(i, others)
        return np.asarray(share / max(share.sum(), 1e-300))

    def _met(self, i: int, others: tuple[int, ...]) -> Floats:
        """How likely rows that begin with each cell of column i are to meet the conditions on `others`."""
        rng, some = np.random.default_rng(0), self.shares[i] > 0
        total, count = np.zeros(len(self.shares[i])), np.zeros(len(self.shares[i]))
        for start in range(0, POOL, self._rows):
            begun = np.resize(np.flatnonzero(some), min(self._rows, POOL - start))
            cells = np.full((len(begun), len(self.axes)), -1)
            cells[:, i] = begun
            writing = Writing(self, cells, np.tile([i, *others], (len(begun), 1)))
            writing.columns(writing.left, rng)
            total += np.bincount(begun, writing.weight.cpu().numpy(), len(total))
            count += np.bincount(begun, minlength=len(total))
        return np.asarray(total / np.maximum(count, 1))

    def balanced(self, balance: Balance, rows: int, rng: np.random.Generator) -> tuple[dict[str, Codes], Floats]:
        """`sample` with the shares that `balance` asks for, by quota, and the law's own shares.

        Rows begin with the label, so that its prior stays the one asked for: it is not asked for again.
        """
        split, i = Split.of(self, balance), self.place(balance.column)
        group = split.quotas(rows, rng)
        parts = [self.axes[i].restricted(g)[1] for g in balance.groups]
        shares = self.shares[i] * self.evidence.get(i, np.ones(len(self.shares[i])))
        chances = np.array([shares * np.pad(p, (0, len(shares) - len(p))) for p in parts])
        first = (i, *(j for j in self._first if j != i))
        begin = replace(split, chances=chances)
        cells = np.empty((rows, len(self.axes)), dtype=np.int64)
        for at, found in self._written(rows, rng, first, lambda at: begin.cells(group[at], rng)):
            cells[at] = found
        codes = self.draw(cells, rng)
        return {**codes, balance.column: split.codes(group, cells[:, i], rng)}, split.model

    # ---------------------------------------------------------------------------------------------------- completing
    def completed(self, codes: Mapping[str, Codes], draws: int, rng: np.random.Generator) -> list[dict[str, Codes]]:
        """`codes` with missing ones (code `size(column)`) drawn given the others, `draws` times, and every column.

        Known columns are read in the schema's order, then the others are written in it, the label last. Nothing filled
        is missing: rows in which something came out missing are written anew, at most IMPUTE_ROUNDS times.
        """
        rows = len(next(iter(codes.values())))
        known = {a.column.name: codes.get(a.column.name, np.full(rows, size(a.column))) for a in self.axes}
        law = self.given(laws.not_missing(self.axes))
        cells = np.stack([_known_cells(a, known[a.column.name]) for a in self.axes], 1)
        return [law._filled(known, cells, rng) for _ in range(draws)]

    def _filled(self, known: Mapping[str, Codes], cells: Codes, rng: np.random.Generator) -> dict[str, Codes]:
        last = [i == self.label for i in range(len(self.axes))]
        order = np.argsort(np.where(cells >= 0, 0, 1) + np.array(last) * (cells < 0), axis=1, kind="stable")
        waiting, done = np.argsort((cells < 0).sum(1), kind="stable"), cells.copy()
        waiting = waiting[(cells[waiting] < 0).any(1)]
        for _ in range(IMPUTE_ROUNDS):
            again = []
            for start in range(0, len(waiting), self._rows):
                at = waiting[start : start + self._rows]
                writing = Writing(self, cells[at], order[at])
                writing.columns(writing.left, rng)
                done[at] = writing.cells.cpu().numpy()
                again.append(at[rng.random(len(at)) >= writing.weight.cpu().numpy()])
            waiting = np.concatenate([np.zeros(0, dtype=np.int64), *again])
            if not len(waiting):
                break
        drawn = self.draw(done, rng)
        missing = {a.column.name: known[a.column.name] == size(a.column) for a in self.axes}
        return {name: np.where(missing[name], drawn[name], codes) for name, codes in known.items()}


def _known_cells(axis: Axis, codes: Codes) -> Codes:
    """Cells of codes, -1 for what is missing."""
    return np.where(codes == size(axis.column), -1, axis.cells(codes))
