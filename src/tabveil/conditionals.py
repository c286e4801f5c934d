"""What rows are drawn from where a network gives the distribution of any column given any others: one column after the
other, every row with columns of its own known.

    law = ConditionalLaw.of(axes, open_reader, order=order, starts=shares).finely_matched(shares, rng)
    codes = law.given(allowed).sample(1_000, rng)

A row starts with one feature (each of `first` for an equal part of the rows: the feature-conditional sampling of
Pred-LLM, Nguyen et al. 2024), whose value comes from a charged marginal, and is then filled in `order`, which ends with
the label. Rows under conditions begin with the columns these speak of. Masking one column after the other would draw
from p(a | A) p(b | a, B), not from p(a, b | A, B); so combinations of allowed cells are weighed all at once where there
are few, and beyond that a row is kept with the probability that its columns obey, given those before (the mass that the
mask leaves). Both are exact. How many rows are tried is bounded.

Privacy: post-processing of a fitted network and of charged one-way counts. Nothing here sees a private row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tabveil import laws
from tabveil._torch import torch
from tabveil.conditions import Balance
from tabveil.encoding import Axis, Codes, CodeSet, Floats, size
from tabveil.errors import UsageError

Tensor = torch.Tensor

BLOCK = 4_096
"""Rows drawn side by side; memory and speed, nothing else, depend on it."""

BLOCK_CELLS = 2**22
"""Fewer rows are, where columns have so many cells that their logits would be more than this."""

POOL = 16_384
"""Rows over which `finely_matched` averages."""

MATCHING = 12
"""Steps of `finely_matched` for each column."""

POOL_CELLS = 2**24
"""Fewer rows are, where there are so many cells that their logits would be more than this."""

ALIKE = 500
"""With more rows than this for each column that rows start with, rows that start alike are drawn side by side."""

MOST_STARTS = 32
"""Columns that rows start with, where there are more."""

MOST_PREFIXES = 4_096
"""Combinations of allowed cells that are weighed one by one."""

MOST_TRIES = 2_000_000
"""Rows tried under conditions for any number of rows; TRIES_PER_ROW more for each of them."""

TRIES_PER_ROW = 200

IMPUTE_ROUNDS = 64
"""How often what is missing of a row is drawn anew because it came out missing again."""

LEAST = 1e-9
"""No cell is expected less often than this, so that no logarithm is infinite."""


class Reader(ABC):
    """Rows of which some columns are known so far, as a network sees them."""

    @abstractmethod
    def logits(self, i: int) -> Tensor:
        """Logits of column i's cells in every row, shape (rows, cells of the column), given what is known of it."""

    @abstractmethod
    def tell(self, i: int, cells: Tensor, rows: Tensor | None = None) -> None:
        """Column i is known from now on.

        Args:
          i: position of the column; not told of a row before.
          cells: shape (rows,), or as many as `rows` names.
          rows: positions; None for all.
        """


OpenReader = Callable[[int], Reader]
"""A reader of so many rows of which nothing is known."""


@dataclass(frozen=True, eq=False)
class ConditionalLaw:
    """What rows are drawn from.

    Attributes:
      axes: one per modelled column: it draws codes within cells.
      sizes: cells per column.
      reader: opens the network.
      order: positions of all columns; those that are not known are drawn in this order.
      first: positions of columns that rows start with, each an equal part of them.
      starts: how likely each cell is where nothing else of the row is known, one array per column.
      shift: shape (cells of all columns,), added to the logits.
      temperature: of the logits, above 0; below 1 likely cells become likelier.
      top_p: the likeliest cells that together have this probability are kept, of every column of every row; 1 for all.
      evidence: for columns under a condition, by position: how likely each cell is to show an allowed code.
    """

    axes: tuple[Axis, ...]
    sizes: tuple[int, ...]
    reader: OpenReader
    order: tuple[int, ...]
    first: tuple[int, ...]
    starts: tuple[Floats, ...]
    shift: Tensor
    temperature: float = 1.0
    top_p: float = 1.0
    evidence: Mapping[int, Floats] = field(default_factory=dict)

    @classmethod
    def of(
        cls, axes: Sequence[Axis], reader: OpenReader, *, order: Sequence[int], starts: Sequence[Floats]
    ) -> ConditionalLaw:
        """The network's own law: no shift, no conditions; rows start with any column but the last in `order`."""
        sizes = tuple(a.size for a in axes)
        first = tuple(order[: max(1, min(MOST_STARTS, len(order) - 1))])
        return cls(tuple(axes), sizes, reader, tuple(order), first, tuple(starts), torch.zeros(sum(sizes)))

    def place(self, name: str) -> int:
        """Position of the column called `name`."""
        return next(i for i, a in enumerate(self.axes) if a.column.name == name)

    # -------------------------------------------------------------------------------------------------- probabilities
    def chances(self, reader: Reader, i: int) -> Tensor:
        """How likely each cell of column i is in every row, given what `reader` knows; conditions do not count."""
        logits = reader.logits(i)
        return self._tempered(logits + self._shifts[i].to(logits))

    @property
    def _shifts(self) -> Sequence[Tensor]:
        return torch.split(self.shift, list(self.sizes))

    def _tempered(self, logits: Tensor) -> Tensor:
        chances = torch.softmax(logits / self.temperature, 1)
        return chances if self.top_p == 1 else _likeliest(chances, self.top_p)

    def _starting(self, i: int) -> Tensor:
        """How likely each cell of column i is where nothing is known, shape (cells,)."""
        return self._tempered(torch.log(torch.from_numpy(self.starts[i]).float().clamp(min=LEAST))[None])[0]

    def _weights(self, reader: Reader, i: int) -> Tensor:
        """`chances`, each cell times how likely it is to obey; their sum is the mass that the mask leaves."""
        return self._masked(self.chances(reader, i), i)

    def _masked(self, chances: Tensor, i: int) -> Tensor:
        return chances * torch.from_numpy(self.evidence[i]).to(chances) if i in self.evidence else chances

    def finely_matched(self, shares: Sequence[Floats], rng: np.random.Generator) -> ConditionalLaw:
        """The law with a shift under which every column's cells have the given shares, on average over the rows that
        `sample` draws.

        Args:
          shares: one per column, shape (cells,), summing to 1.
          rng: draws the rows.
        """
        shifts = [torch.zeros(n) for n in self.sizes]
        rows = min(POOL, max(256, POOL_CELLS // sum(self.sizes)))
        start = self._turns(rows, rng)
        batch = self._begun(start, rng)
        for i in self.order:
            others = torch.from_numpy(np.flatnonzero(start != i))
            logits = batch.reader.logits(i)
            if len(others):
                shifts[i] = _shift(logits[others], torch.from_numpy(shares[i]).to(logits)).cpu()
            batch.draw(i, torch.softmax(logits + shifts[i].to(logits), 1), rng)
        return replace(self, shift=torch.cat(shifts))

    def cell_shares(self, i: int) -> Floats:
        """How likely each cell of column i is, conditions counted; shape (cells,), an estimate where there are any."""
        if not self.evidence:
            return np.asarray(self._starting(i).numpy(), dtype=np.float64)
        batch = next(self._obeying(BLOCK, np.random.Generator(np.random.SFC64(0))))
        if i in self.evidence:
            return np.asarray(np.bincount(batch.cells[:, i].numpy(), minlength=self.sizes[i]) / batch.rows)
        return np.asarray(self.chances(batch.reader, i).mean(0).cpu().numpy(), dtype=np.float64)

    # ------------------------------------------------------------------------------------------------------- drawing
    def sample(self, rows: int, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes of `rows` rows for every modelled column.

        Raises:
          UsageError: there are conditions, and too few rows of the law obey them.
        """
        batches = self._obeying(rows, rng) if self.evidence else self._started(rows, rng)
        drawn = [np.zeros((0, len(self.sizes)), dtype=np.int64)]
        for batch in batches:
            self._fill(batch, rng)
            drawn.append(batch.cells.numpy())
        cells = np.concatenate(drawn)
        return self.draw(cells if self.evidence else cells[rng.permutation(rows)], rng)

    def draw(self, cells: Codes, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes within `cells`, shape (rows, columns)."""
        return {a.column.name: a.draw(cells[:, i], rng) for i, a in enumerate(self.axes)}

    def _opened(self, rows: int) -> Batch:
        shape = (rows, len(self.sizes))
        return Batch(self.reader(rows), torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool))

    def _blocks(self, rows: int) -> Iterator[int]:
        """`rows` in numbers of rows that are drawn side by side."""
        most = max(1, min(BLOCK, BLOCK_CELLS // max(self.sizes)))
        yield from (min(most, rows - start) for start in range(0, rows, most))

    def _started(self, rows: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Rows of which one column is drawn, `rows` in all; where they are many, those of a batch start alike."""
        start = self._turns(rows, rng)
        if rows >= ALIKE * len(self.first):
            start = np.sort(start)
        parts = np.flatnonzero(np.diff(start)) + 1 if rows >= ALIKE * len(self.first) else np.zeros(0, dtype=np.int64)
        for part in np.split(start, parts):
            at = 0
            for n in self._blocks(len(part)):
                yield self._begun(part[at : at + n], rng)
                at += n

    def _turns(self, rows: int, rng: np.random.Generator) -> Codes:
        """Which column each row starts with, shape (rows,): each of `first` equally often, up to one, by chance."""
        turns = (rng.integers(len(self.first)) + np.arange(rows)) % len(self.first)
        return np.asarray(np.asarray(self.first, dtype=np.int64)[rng.permutation(turns)])

    def _begun(self, start: Codes, rng: np.random.Generator) -> Batch:
        """Rows of which the column `start` is drawn by its marginal."""
        batch = self._opened(len(start))
        for i in np.unique(start).tolist():
            rows = torch.from_numpy(np.flatnonzero(start == i))
            cells = inverted(self._starting(i).expand(len(rows), -1), rng)
            batch.put(i, cells, None if len(rows) == batch.rows else rows)
        return batch

    def _fill(self, batch: Batch, rng: np.random.Generator) -> None:
        """Draw all columns that are not known."""
        for i in self.order:
            if not bool(batch.known[:, i].all()):
                batch.draw(i, self.chances(batch.reader, i), rng)

    # ---------------------------------------------------------------------------------------------------- conditions
    def given(self, allowed: Mapping[str, CodeSet]) -> ConditionalLaw:
        """The law of rows whose codes are all `allowed`, columns that it names being drawn first.

        Raises:
          UsageError: no row obeys.
        """
        axes, evidence = laws.restricted(self.axes, self.evidence, allowed)
        return replace(self, axes=axes, evidence=evidence)

    @property
    def _conditioned(self) -> list[int]:
        """Columns under a condition, in the order in which they are drawn."""
        return [i for i in self.order if i in self.evidence]

    def _prefixes(self) -> tuple[Tensor, Tensor, int]:
        """Combinations of cells that may obey, shape (prefixes, columns), how likely each is to occur and obey, shape
        (prefixes,), and how many columns of `_conditioned` they are of: as many as MOST_PREFIXES allows, one at least.
        """
        cells, weights, done = torch.zeros(1, len(self.sizes), dtype=torch.long), torch.ones(1), 0
        for i in self._conditioned:
            allowed = torch.from_numpy(np.flatnonzero(self.evidence[i]))
            if done and len(cells) * len(allowed) > MOST_PREFIXES:
                break
            chances = self._after(cells, self._conditioned[:done], i)
            weights = (weights[:, None] * self._masked(chances, i)[:, allowed].cpu()).flatten()
            cells = cells.repeat_interleave(len(allowed), 0)
            cells[:, i] = allowed.repeat(len(cells) // len(allowed))
            cells, weights, done = cells[weights > 0], weights[weights > 0], done + 1
        return cells, weights, done

    def _after(self, cells: Tensor, told: Sequence[int], i: int) -> Tensor:
        """`chances` of column i, given the cells of the columns `told`."""
        if not told:
            return self._starting(i)[None]
        batch = self._opened(len(cells))
        for j in told:
            batch.put(j, cells[:, j])
        return self.chances(batch.reader, i)

    def _obeying(self, rows: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Rows whose columns under a condition are drawn and obey, `rows` in all."""
        prefixes, weights, done = self._prefixes()
        if not len(weights):
            names = ", ".join(map(repr, self._names))
            raise UsageError(f"The model never draws what the conditions on {names} allow together.")
        left, tried, most = rows, 0, MOST_TRIES + TRIES_PER_ROW * rows
        rest = self._conditioned[done:]
        ends = weights.double().cumsum(0).numpy()
        while left:
            if tried >= most:
                raise laws.too_few(self._names, rows - left, tried)
            for n in self._blocks(min(left if not rest else max(1_024, 2 * left), most - tried)):
                spot = np.searchsorted(ends, rng.random(n) * ends[-1], side="right").clip(max=len(ends) - 1)
                batch = self._kept(prefixes[torch.from_numpy(spot)], done, rng, left)
                left, tried = left - batch.rows, tried + n
                if batch.rows:
                    yield batch
                if not left:
                    return

    def _kept(self, cells: Tensor, done: int, rng: np.random.Generator, most: int) -> Batch:
        """The first `most` of the rows that begin with `cells` and whose other columns under a condition obey."""
        batch = self._opened(len(cells))
        columns = self._conditioned
        for i in columns[:done]:
            batch.put(i, cells[:, i])
        chance = torch.ones(len(cells))
        for i in columns[done:]:
            weights = self._weights(batch.reader, i)
            chance = chance * weights.sum(1).cpu()
            batch.draw(i, weights, rng)
        if done == len(columns) and len(cells) <= most:
            return batch
        kept = torch.nonzero(torch.from_numpy(rng.random(len(cells))) < chance)[:most, 0]
        again = self._opened(len(kept))
        for i in columns:
            again.put(i, batch.cells[kept, i])
        return again

    @property
    def _names(self) -> list[str]:
        """Columns under a condition."""
        return [self.axes[i].column.name for i in self.evidence]

    def balanced(self, balance: Balance, rows: int, rng: np.random.Generator) -> tuple[dict[str, Codes], Floats]:
        """`sample` with the shares that `balance` asks for, by quota, and the law's own shares.

        The label is drawn with the columns under conditions, before all others, and never again: asking the model for
        it in the end would change the shares.
        """
        return laws.balanced(self, balance, rows, rng)

    # ---------------------------------------------------------------------------------------------------- completing
    def completed(self, codes: Mapping[str, Codes], draws: int, rng: np.random.Generator) -> list[dict[str, Codes]]:
        """`codes` with missing ones (code `size(column)`) drawn given the others, `draws` times, and every column.

        Nothing filled is missing: a row is kept with the probability that what is filled is not, given what is before
        it, and drawn anew otherwise, IMPUTE_ROUNDS times at most.
        """
        rows = len(next(iter(codes.values())))
        known = {a.column.name: codes.get(a.column.name, np.full(rows, size(a.column))) for a in self.axes}
        present = self.given(laws.not_missing(self.axes))
        out: list[dict[str, Codes]] = [{n: c.copy() for n, c in known.items()} for _ in range(draws)]
        start = 0
        for n in self._blocks(rows):
            at = slice(start, start + n)
            start += n
            some = {name: c[at] for name, c in known.items()}
            for filled in out:
                for name, found in present._completion(some, rng).items():
                    missing = some[name] == size(self.axes[self.place(name)].column)
                    filled[name][at] = np.where(missing, found, filled[name][at])
        return out

    def _completion(self, codes: Mapping[str, Codes], rng: np.random.Generator) -> dict[str, Codes]:
        """Codes of every column, drawn where `codes` has none."""
        told = np.stack([a.cells(codes[a.column.name]) for a in self.axes], axis=1)
        absent = np.stack([codes[a.column.name] == size(a.column) for a in self.axes], axis=1)
        cells = np.zeros_like(told)
        left = np.arange(len(told))
        for _ in range(IMPUTE_ROUNDS):
            found, chance = self._around(told[left], absent[left], rng)
            cells[left] = found
            left = left[rng.random(len(left)) >= chance]
            if not len(left):
                break
        return self.draw(cells, rng)

    def _around(self, told: Codes, absent: Codes, rng: np.random.Generator) -> tuple[Codes, Floats]:
        """Cells of every column around those `told` (-1 and those `absent` are not), and the mass that masks left."""
        batch, chance = self._opened(len(told)), torch.ones(len(told))
        known = torch.from_numpy((told >= 0) & ~absent)
        for i in range(len(self.sizes)):
            rows = torch.nonzero(known[:, i])[:, 0]
            batch.put(i, torch.from_numpy(told[:, i])[rows], rows)
        for i in self.order:
            if bool(known[:, i].all()):
                continue
            weights = self._weights(batch.reader, i)
            mass = weights.sum(1)
            chance = torch.where(known[:, i], chance, chance * mass.cpu())
            weights = torch.where(mass[:, None] > 0, weights, torch.ones_like(weights))
            batch.draw(i, weights, rng)
        return batch.cells.numpy(), chance.double().numpy()

    # ------------------------------------------------------------------------------------------------- probabilities
    def log_prob(self, codes: Mapping[str, Codes]) -> Floats:
        """Logarithm of each row's probability under `sample`, shape (rows,); -inf where it is never drawn.

        Args:
          codes: of every modelled column, missing ones as `size(column)`.
        """
        cells = np.stack([a.cells(codes[a.column.name]) for a in self.axes], axis=1)
        within = np.sum([_within(a, codes[a.column.name]) for a in self.axes], axis=0)
        out = np.full(len(cells), -np.inf)
        drawn = np.flatnonzero((cells >= 0).all(1) & np.isfinite(within))
        start = 0
        for n in self._blocks(len(drawn)):
            rows = drawn[start : start + n]
            start += n
            parts = torch.stack([self._from(i, torch.from_numpy(cells[rows])) for i in self.first])
            out[rows] = torch.logsumexp(parts, 0).cpu().numpy() - np.log(len(self.first)) + within[rows]
        return out

    def _from(self, start: int, cells: Tensor) -> Tensor:
        """Log-probability of `cells`, shape (rows, columns), where each row starts with this column."""
        batch = self._opened(len(cells))
        found = torch.log(self._starting(start)[cells[:, start]].double())
        batch.put(start, cells[:, start])
        for i in self.order:
            if i != start:
                chances = self.chances(batch.reader, i)
                found = (
                    found + torch.log(chances.gather(1, cells[:, i : i + 1].to(chances.device))[:, 0]).double().cpu()
                )
                batch.put(i, cells[:, i])
        return found


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows in the making.

    Attributes:
      reader: the network's view of them.
      cells: shape (rows, columns); what is not known is 0.
      known: shape (rows, columns).
    """

    reader: Reader
    cells: Tensor
    known: Tensor

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.cells)

    def put(self, i: int, cells: Tensor, rows: Tensor | None = None) -> None:
        """Column i is known, in these rows or in all."""
        if rows is None:
            self.cells[:, i], self.known[:, i] = cells, True
        elif len(rows):
            self.cells[rows, i], self.known[rows, i] = cells, True
        if rows is None or len(rows):
            self.reader.tell(i, cells, rows)

    def draw(self, i: int, weights: Tensor, rng: np.random.Generator) -> None:
        """Draw column i, wherever it is not known, by `weights`, shape (rows, cells)."""
        open_ = ~self.known[:, i]
        drawn = inverted(weights, rng)
        if bool(open_.all()):
            self.put(i, drawn)
            return
        rows = torch.nonzero(open_)[:, 0]
        self.put(i, drawn[rows], rows)


def inverted(weights: Tensor, rng: np.random.Generator) -> Tensor:
    """A cell for each row, by its `weights`, shape (rows, cells); shape (rows,), on the CPU."""
    ends = weights.cumsum(1)
    chance = torch.from_numpy(rng.random(len(ends), dtype=np.float32)).to(ends)
    last = ends[:, -1]
    spot = torch.minimum(chance * last, torch.nextafter(last, torch.zeros_like(last)))  # the last may weigh nothing
    found = torch.searchsorted(ends, spot[:, None], right=True)[:, 0]
    return found.clamp(max=ends.shape[1] - 1).cpu()


def _shift(logits: Tensor, share: Tensor) -> Tensor:
    """What to add to `logits`, shape (rows, cells), so that the cells have their `share` on average."""
    wanted, shift = torch.log(share.clamp(min=LEAST)), torch.zeros_like(share)
    for _ in range(MATCHING):
        shift = shift + wanted - torch.log(torch.softmax(logits + shift, 1).mean(0).clamp(min=LEAST))
    return shift


def _likeliest(chances: Tensor, top_p: float) -> Tensor:
    """`chances` without the least likely cells, those left having `top_p` together or just above; they sum to 1."""
    ranked, cell = chances.sort(1, descending=True)
    kept = ranked.cumsum(1) - ranked < top_p
    found = torch.zeros_like(chances).scatter_(1, cell, ranked * kept)
    return found / found.sum(1, keepdim=True)


def _within(axis: Axis, codes: Codes) -> Floats:
    """Logarithm of each code's probability within its cell."""
    leaf = np.clip(np.searchsorted(axis.edges, codes, side="right") - 1, 0, axis.leaves - 1)
    width = np.append(np.diff(axis.edges), 1)[leaf]
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(axis.shares[leaf]) - np.log(width))
