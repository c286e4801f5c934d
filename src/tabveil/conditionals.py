"""What rows are drawn from where a network gives the distribution of any column given any others: one column after the
other, every row with columns of its own known.

    law = ConditionalLaw.of(axes, open_reader, order=order, starts=shares).finely_matched(shares, rng)
    codes = law.given(allowed).sample(1_000, rng)

A column may be spelled by several tokens (`tabveil.spelling`): the network sees tokens, a column's one by one.

A row starts with one feature (each of `first` for an equal part of the rows: the feature-conditional sampling of
Pred-LLM, Nguyen et al. 2024), whose value comes from a charged marginal, and is then filled in `order`, which ends with
the label. Rows under conditions begin with the columns these speak of. Masking one column after the other would draw
from p(a | A) p(b | a, B), not from p(a, b | A, B); so combinations of allowed cells are weighed all at once where there
are few, and beyond that a row is kept with the probability that its columns obey, given those before (the mass that the
mask leaves). Both are exact. How many rows are tried is bounded.

Privacy: post-processing of a fitted network and of charged one-way counts. Nothing here sees a private row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from tabveil import laws
from tabveil._torch import torch
from tabveil.conditions import Balance
from tabveil.encoding import Axis, Codes, CodeSet, Floats, size
from tabveil.errors import UsageError
from tabveil.spelling import Spelling
from tabveil.token_rows import Batch, Reader, Spelled, inverted

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


OpenReader = Callable[[int], Reader]
"""A reader of so many rows of which nothing is known."""


@dataclass(frozen=True, eq=False)
class ConditionalLaw:
    """What rows are drawn from.

    Attributes:
      axes: one per modelled column: it draws codes within cells.
      spelled: how their cells are spelled.
      reader: opens the network.
      order: positions of all columns; those that are not known are drawn in this order.
      first: positions of columns that rows start with, each an equal part of them.
      starts: how likely each cell is where nothing else of the row is known, one array per column.
      lifts: added to the logits of each token by what its column begins with, as `Spelling.lifts` gives them.
      shift: shape (values of all tokens,), added to the logits.
      temperature: of the logits, above 0; below 1 likely values become likelier.
      top_p: the likeliest values that together have this probability are kept, of every token of every row; 1 for all.
      evidence: for columns under a condition, by position: how likely each cell is to show an allowed code.
    """

    axes: tuple[Axis, ...]
    spelled: Spelled
    reader: OpenReader
    order: tuple[int, ...]
    first: tuple[int, ...]
    starts: tuple[Floats, ...]
    lifts: tuple[Tensor, ...]
    shift: Tensor
    temperature: float = 1.0
    top_p: float = 1.0
    evidence: Mapping[int, Floats] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        axes: Sequence[Axis],
        reader: OpenReader,
        *,
        order: Sequence[int],
        starts: Sequence[Floats],
        spellings: Sequence[Spelling] | None = None,
        lifted: bool = False,
    ) -> ConditionalLaw:
        """The network's own law: no shift, no conditions; rows start with any column but the last in `order`.

        Args:
          axes: one per column.
          reader: opens the network.
          order: positions of all columns.
          starts: how likely each cell is, one array per column.
          spellings: of the columns' cells; without them every cell is one token.
          lifted: whether the logits are added to what `starts` say of a token after those before it; else only values
            that spell nothing are ruled out.
        """
        written = tuple(spellings or (Spelling.whole(a.size) for a in axes))
        first = tuple(order[: max(1, min(MOST_STARTS, len(order) - 1))])
        spelled = Spelled(written)
        lifts = [torch.from_numpy(x).float() for s, p in zip(written, starts, strict=True) for x in s.lifts(p)]
        if not lifted:
            lifts = [torch.where(x > -np.inf, 0.0, x) for x in lifts]
        shift = torch.zeros(sum(spelled.sizes))
        return cls(tuple(axes), spelled, reader, tuple(order), first, tuple(starts), tuple(lifts), shift)

    def place(self, name: str) -> int:
        """Position of the column called `name`."""
        return next(i for i, a in enumerate(self.axes) if a.column.name == name)

    # -------------------------------------------------------------------------------------------------- probabilities
    def chances(self, batch: Batch, i: int) -> Tensor:
        """How likely each value of token i is in every row, given what is known of it; conditions do not count."""
        logits = self._logits(batch, i)
        return self._tempered(logits + self._shifts[i].to(logits))

    def _logits(self, batch: Batch, i: int) -> Tensor:
        """The network's, lifted."""
        logits = batch.reader.logits(i)
        return logits if self.spelled.first(i) else logits + self._after(self.lifts[i], batch, i).to(logits)

    def _after(self, table: Tensor, batch: Batch, i: int) -> Tensor:
        return self.spelled.after(table, batch.cells, i)

    @property
    def _shifts(self) -> Sequence[Tensor]:
        return torch.split(self.shift, list(self.spelled.sizes))

    def _tempered(self, logits: Tensor) -> Tensor:
        chances = torch.softmax(logits / self.temperature, 1)
        return chances if self.top_p == 1 else _likeliest(chances, self.top_p)

    @cached_property
    def _starting(self) -> list[Tensor]:
        """How likely each token's values are where nothing is known but what its column begins with, one table each."""
        tables = (
            t
            for s, p in zip(self.spelled.spellings, self.starts, strict=True)
            for t in zip(s.steps, s.chances(p), strict=True)
        )
        return [
            self._tempered(torch.log(torch.from_numpy(np.where(step >= 0, p.clip(min=LEAST), 0.0)).float()))
            for step, p in tables
        ]

    @cached_property
    def _masks(self) -> dict[int, Tensor]:
        """Weights of the values of tokens of columns under a condition, one table each."""
        found = ((self.spelled.tokens[i], self.spelled.spellings[i].masks(e)) for i, e in self.evidence.items())
        return {
            t: torch.from_numpy(mask).float() for tokens, masks in found for t, mask in zip(tokens, masks, strict=True)
        }

    def _weights(self, batch: Batch, i: int) -> Tensor:
        """`chances`, each value times how likely it is to obey; their sum is the mass that the mask leaves."""
        return self._masked(self.chances(batch, i), batch, i)

    def _masked(self, chances: Tensor, batch: Batch, i: int) -> Tensor:
        return chances * self._after(self._masks[i], batch, i).to(chances) if i in self._masks else chances

    def finely_matched(self, shares: Sequence[Floats], rng: np.random.Generator) -> ConditionalLaw:
        """The law with a shift under which every column's cells have the given shares, on average over the rows that
        `sample` draws.

        Args:
          shares: one per column, shape (cells,), summing to 1.
          rng: draws the rows.
        """
        sizes = self.spelled.sizes
        shifts = [torch.zeros(n) for n in sizes]
        wanted = [margin for s, p in zip(self.spelled.spellings, shares, strict=True) for margin in s.margins(p)]
        rows = min(POOL, max(256, POOL_CELLS // sum(sizes)))
        start = self._turns(rows, rng)
        batch = self._begun(start, rng)
        for i in self._tokens:
            others = torch.from_numpy(np.flatnonzero(start != self.spelled.columns[i]))
            logits = self._logits(batch, i)
            if len(others):
                shifts[i] = _shift(logits[others], torch.from_numpy(wanted[i]).to(logits)).cpu()
            batch.draw(i, torch.softmax(logits + shifts[i].to(logits), 1), rng)
        return replace(self, shift=torch.cat(shifts))

    @property
    def _tokens(self) -> list[int]:
        """All tokens in the order in which they are drawn."""
        return [t for i in self.order for t in self.spelled.tokens[i]]

    def cell_shares(self, i: int) -> Floats:
        """How likely each cell of column i is, conditions counted; shape (cells,), an estimate where there are any."""
        if self.evidence:
            return self._shares_given(i)
        tables = [self._starting[t].double().numpy() for t in self.spelled.tokens[i]]
        return self.spelled.spellings[i].along(tables)

    def _shares_given(self, i: int) -> Floats:
        rng = np.random.Generator(np.random.SFC64(0))
        batch, tokens = next(self._obeying(BLOCK, rng)), self.spelled.tokens[i]
        if i not in self.evidence and len(tokens) == 1:
            return np.asarray(self.chances(batch, tokens[0]).mean(0).cpu().numpy(), dtype=np.float64)
        for t in () if i in self.evidence else tokens:
            batch.draw(t, self.chances(batch, t), rng)
        cells = self.spelled.cells(batch.cells)[:, i]
        return np.asarray(np.bincount(cells, minlength=len(self.starts[i])) / batch.rows)

    # ------------------------------------------------------------------------------------------------------- drawing
    def sample(self, rows: int, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes of `rows` rows for every modelled column.

        Raises:
          UsageError: there are conditions, and too few rows of the law obey them.
        """
        batches = self._obeying(rows, rng) if self.evidence else self._started(rows, rng)
        drawn = [np.zeros((0, len(self.axes)), dtype=np.int64)]
        for batch in batches:
            self._fill(batch, rng)
            drawn.append(self.spelled.cells(batch.cells))
        cells = np.concatenate(drawn)
        return self.draw(cells if self.evidence else cells[rng.permutation(rows)], rng)

    def draw(self, cells: Codes, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes within `cells`, shape (rows, columns)."""
        return {a.column.name: a.draw(cells[:, i], rng) for i, a in enumerate(self.axes)}

    def _opened(self, rows: int) -> Batch:
        shape = (rows, len(self.spelled.sizes))
        return Batch(self.reader(rows), torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool))

    def _blocks(self, rows: int) -> Iterator[int]:
        """`rows` in numbers of rows that are drawn side by side."""
        most = max(1, min(BLOCK, BLOCK_CELLS // max(self.spelled.sizes)))
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
            for t in self.spelled.tokens[i]:
                chances = self.spelled.after(self._starting[t], batch.cells[rows], t)
                batch.put(t, inverted(chances, rng), None if len(rows) == batch.rows else rows)
        return batch

    def _fill(self, batch: Batch, rng: np.random.Generator) -> None:
        """Draw all tokens that are not known."""
        for i in self._tokens:
            if not bool(batch.known[:, i].all()):
                batch.draw(i, self.chances(batch, i), rng)

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
        """Tokens of columns under a condition, in the order in which they are drawn."""
        return [t for t in self._tokens if self.spelled.columns[t] in self.evidence]

    def _prefixes(self) -> tuple[Tensor, Tensor, int]:
        """Combinations of values that may obey, shape (prefixes, tokens), how likely each is to occur and obey, shape
        (prefixes,), and how many tokens of `_conditioned` they are of: as many as MOST_PREFIXES allows, one at least.
        """
        cells, weights, done = torch.zeros(1, len(self.spelled.sizes), dtype=torch.long), torch.ones(1), 0
        for i in self._conditioned:
            batch = self._told(cells, self._conditioned[:done])
            if done and int((self._after(self._masks[i], batch, i) > 0).sum()) > MOST_PREFIXES:
                break
            found = weights[:, None] * self._obliged(batch, i).cpu()
            before, value = torch.nonzero(found, as_tuple=True)
            cells, weights, done = cells[before], found[before, value], done + 1
            cells[:, i] = value
        return cells, weights, done

    def _told(self, cells: Tensor, tokens: Sequence[int]) -> Batch:
        """Rows of which so many tokens are known."""
        batch = self._opened(len(cells))
        for t in tokens:
            batch.put(t, cells[:, t])
        return batch

    def _obliged(self, batch: Batch, i: int) -> Tensor:
        """`_weights` of rows that start with the first column under a condition."""
        if self.spelled.columns[i] != self.spelled.columns[self._conditioned[0]]:
            return self._weights(batch, i)
        return self._masked(self._after(self._starting[i], batch, i), batch, i)

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
        tokens = self._conditioned
        batch = self._told(cells, tokens[:done])
        chance = torch.ones(len(cells))
        for i in tokens[done:]:
            weights = self._obliged(batch, i)
            chance = chance * weights.sum(1).cpu()
            batch.draw(i, weights, rng)
        if done == len(tokens) and len(cells) <= most:
            return batch
        kept = torch.nonzero(torch.from_numpy(rng.random(len(cells))) < chance)[:most, 0]
        return self._told(batch.cells[kept], tokens)

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
        tokens = self.spelled(torch.from_numpy(np.maximum(told, 0)))
        known = torch.from_numpy((told >= 0) & ~absent)[:, list(self.spelled.columns)]
        for i in range(tokens.shape[1]):
            rows = torch.nonzero(known[:, i])[:, 0]
            batch.put(i, tokens[rows, i], rows)
        for i in self._tokens:
            if bool(known[:, i].all()):
                continue
            weights = self._weights(batch, i)
            mass = weights.sum(1)
            chance = torch.where(known[:, i], chance, chance * mass.cpu())
            weights = torch.where(mass[:, None] > 0, weights, self._possible(batch, i).to(weights))
            batch.draw(i, weights, rng)
        return self.spelled.cells(batch.cells), chance.double().numpy()

    def _possible(self, batch: Batch, i: int) -> Tensor:
        """1 for values of token i that spell something and may obey."""
        table = self.lifts[i] > -np.inf
        return self._after((table & (self._masks[i] > 0) if i in self._masks else table).float(), batch, i)

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
            tokens = self.spelled(torch.from_numpy(cells[rows]))
            parts = torch.stack([self._from(i, tokens) for i in self.first])
            out[rows] = torch.logsumexp(parts, 0).cpu().numpy() - np.log(len(self.first)) + within[rows]
        return out

    def _from(self, start: int, cells: Tensor) -> Tensor:
        """Log-probability of tokens, shape (rows, tokens), where each row starts with this column."""
        own = self.spelled.tokens[start]
        batch, found = self._opened(len(cells)), torch.zeros(len(cells), dtype=torch.float64)
        for i in [*own, *(t for t in self._tokens if t not in own)]:
            chances = self._after(self._starting[i], batch, i) if i in own else self.chances(batch, i)
            found = found + torch.log(chances.gather(1, cells[:, i : i + 1].to(chances.device))[:, 0]).double().cpu()
            batch.put(i, cells[:, i])
        return found


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
