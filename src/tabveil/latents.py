"""What rows are drawn from where a network turns a latent vector into a distribution of every column: a product of
columns given the latent, as an autoencoder's decoder or a generator network gives it.

    law = LatentLaw.of(axes, latents, logits, rng).matched(shares)
    codes = law.given(allowed).sample(1_000, rng)

Conditions are met by rejection: a latent is kept with the probability that its row obeys, and the row is then drawn
from the columns given that it does. Kept rows have exactly the law of unconditioned ones that happen to obey. How many
latents are tried is bounded. Where fewer than STEERED obey, a network that takes a condition is given the rarest one:
such rows obey as well, and follow what the network has learned of the condition.

Privacy: post-processing of a fitted network and of charged one-way counts. Nothing here sees a private row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from tabveil import laws
from tabveil._torch import torch
from tabveil.conditions import Balance
from tabveil.encoding import Axis, Codes, CodeSet, Floats, size

Tensor = torch.Tensor

BLOCK_CELLS = 2**22
"""Logits held at a time: memory, nothing else, depends on it."""

PASS_ROWS = 1_024
"""Latents that go through the network at a time: what they become fits into a core's cache. Measured: 16,000 at a time
take up to 1.5 times as long."""

POOL = 8_192
"""Latents among which one is chosen to fit what is known of a row, and from which shares are estimated."""

MATCHING = 40
"""Steps of `matched` where nobody says."""

WIDE_POOL, WIDE_STEPS = 32_768, 8
"""Latents over which `finely_matched` averages, and its steps: a pool strays from the law by the root of its size."""

MOST_TRIES = 2_000_000
"""Latents tried under conditions for any number of rows; TRIES_PER_ROW more for each of them."""

TRIES_PER_ROW = 200

STEERED = 0.01
"""Conditions that a smaller share of rows than this meets, for which rejection comes near its bound, are met by latents
made for them, where the network can."""

Latents = Callable[[int, np.random.Generator], Tensor]
"""Draws of a latent, shape (rows, width), by the generator it is given."""

LEAST = 1e-9
"""No cell is expected less often than this, so that no logarithm is infinite."""


@dataclass(frozen=True, eq=False)
class LatentLaw:
    """What rows are drawn from.

    Attributes:
      axes: one per modelled column: it draws codes within cells.
      sizes: cells per column.
      latents: draws of the latent, shape (rows, width), by the generator it is given.
      logits: of all columns' cells side by side, shape (rows, cells), by latents of shape (rows, width).
      shift: shape (cells,), added to the logits.
      pool: latents over which is averaged, shape (POOL, width), fewer where there are very many cells.
      evidence: for columns under a condition, by position: how likely each cell is to show an allowed code.
      steer: of a network that takes a condition: column i and how likely each of its cells is to be drawn -> latents
        under which the column shows the cell drawn, and no other.
    """

    axes: tuple[Axis, ...]
    sizes: tuple[int, ...]
    latents: Latents
    logits: Callable[[Tensor], Tensor]
    shift: Tensor
    pool: Tensor
    evidence: Mapping[int, Floats] = field(default_factory=dict)
    steer: Callable[[int, Floats], Latents] | None = None

    @classmethod
    def of(
        cls,
        axes: Sequence[Axis],
        latents: Latents,
        logits: Callable[[Tensor], Tensor],
        rng: np.random.Generator,
    ) -> LatentLaw:
        """The network's own law: no shift, no conditions; `rng` draws the pool."""
        sizes = tuple(a.size for a in axes)
        pool = latents(max(64, min(POOL, 4 * BLOCK_CELLS // sum(sizes))), rng)
        return cls(tuple(axes), sizes, latents, logits, torch.zeros(sum(sizes)), pool)

    def place(self, name: str) -> int:
        """Position of the column called `name`."""
        return next(i for i, a in enumerate(self.axes) if a.column.name == name)

    # -------------------------------------------------------------------------------------------------- probabilities
    def shifted(self, latents: Tensor) -> Tensor:
        """Logits of all cells, shape (cells, rows), the shift among them: what follows goes cell by cell, all rows at
        once.
        """
        found = torch.empty(len(self.shift), len(latents), device=latents.device)
        shift = self.shift.to(latents.device)[:, None]
        with torch.no_grad():
            for some, into in zip(latents.split(PASS_ROWS), found.split(PASS_ROWS, dim=1), strict=True):
                torch.add(self.logits(some).T, shift, out=into)
        return found

    def by_column(self, values: Tensor) -> Sequence[Tensor]:
        """(cells, rows) -> one tensor per column, shape (cells of the column, rows)."""
        return torch.split(values, list(self.sizes))

    def _blocks(self, rows: int) -> Iterator[int]:
        """`rows` in numbers of rows whose logits fit into memory."""
        most = max(1, BLOCK_CELLS // sum(self.sizes))
        yield from (min(most, rows - start) for start in range(0, rows, most))

    def matched(self, shares: Sequence[Floats], *, steps: int = MATCHING) -> LatentLaw:
        """The law with a shift under which every column's cells have the given shares on average over the pool.

        Args:
          shares: one per column, shape (cells,), summing to 1.
          steps: each multiplies every cell by how much it is too rare.
        """
        pool = self._pool_logits
        wanted = torch.log(torch.from_numpy(np.concatenate(shares)).clamp(min=LEAST)).to(pool)
        shift = torch.zeros_like(wanted)
        for _ in range(steps):
            means = [torch.softmax(part, 0).mean(1) for part in self.by_column(pool + shift[:, None])]
            shift = shift + wanted - torch.log(torch.cat(means).clamp(min=LEAST))
        return replace(self, shift=self.shift + shift.cpu())

    def finely_matched(self, shares: Sequence[Floats], rng: np.random.Generator) -> LatentLaw:
        """`matched`, and then over a wider pool that `rng` draws and nobody keeps."""
        first = self.matched(shares)
        rows = max(len(self.pool), min(WIDE_POOL, 4 * BLOCK_CELLS // sum(self.sizes)))
        wide = replace(first, pool=self.latents(rows, rng)).matched(shares, steps=WIDE_STEPS)
        return replace(first, shift=wide.shift)

    @cached_property
    def _pool_logits(self) -> Tensor:
        """Logits under the latents of the pool, shape (cells, pool)."""
        return self.shifted(self.pool)

    def cell_shares(self, i: int) -> Floats:
        """How likely each cell of column i is, conditions counted; shape (cells,), an estimate from the pool."""
        pool = self.by_column(self._pool_logits)
        weight, share = self._obeying(pool), torch.softmax(pool[i], 0)
        if i in self.evidence:  # its own evidence weighs cells, not latents
            evidence = torch.from_numpy(self.evidence[i]).to(share)
            share = share * evidence[:, None] / (evidence @ share).clamp(min=LEAST**3)
        total = (weight * share).sum(1)
        return np.asarray((total / total.sum().clamp(min=LEAST**3)).cpu().numpy(), dtype=np.float64)

    def _obeying(self, logits: Sequence[Tensor]) -> Tensor:
        """How likely the row of each latent is to obey; shape (rows,)."""
        chance = torch.ones(logits[0].shape[1], device=logits[0].device)
        for i, evidence in self.evidence.items():
            chance = chance * (torch.from_numpy(evidence).to(logits[i]) @ torch.softmax(logits[i], 0))
        return chance

    # ------------------------------------------------------------------------------------------------------- drawing
    def sample(self, rows: int, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes of `rows` rows for every modelled column.

        Raises:
          UsageError: there are conditions, and too few rows of the law obey them.
        """
        drawn = self._kept(rows, rng) if self.evidence else self._cells(rows, rng)
        cells = np.concatenate([np.zeros((len(self.sizes), 0), dtype=np.int64), *drawn], axis=1)
        return self.draw(cells, rng)

    def draw(self, cells: Codes, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes within `cells`, shape (columns, rows)."""
        return {a.column.name: a.draw(found, rng) for a, found in zip(self.axes, cells, strict=True)}

    def _cells(self, rows: int, rng: np.random.Generator) -> Iterator[Codes]:
        for n in self._blocks(rows):
            yield self.cells(self.latents(n, rng), rng)

    def cells(self, latents: Tensor, rng: np.random.Generator) -> Codes:
        """Cells of one row for each of `latents`, shape (columns, rows)."""
        return self._drawn(self.by_column(self.shifted(latents)), rng)

    def _kept(self, rows: int, rng: np.random.Generator) -> Iterator[Codes]:
        """Cells of rows that obey, `rows` in all."""
        left, tried, most = rows, 0, MOST_TRIES + TRIES_PER_ROW * rows
        while left:
            if tried >= most:
                raise laws.too_few([self.axes[i].column.name for i in self.evidence], rows - left, tried)
            for n in self._blocks(min(max(1_024, 2 * left), most - tried)):
                logits = self.by_column(self.shifted(self.latents(n, rng)))
                kept = self._accepted(logits, rng)[:left]
                yield self._drawn([part[:, kept] for part in logits], rng)
                left, tried = left - len(kept), tried + n
                if not left:
                    return

    def _accepted(self, logits: Sequence[Tensor], rng: np.random.Generator) -> Tensor:
        """Positions of the latents whose row obeys, by a coin for each."""
        chance = self._obeying(logits)
        coin = torch.from_numpy(rng.random(len(chance))).to(chance.device)
        return torch.nonzero(coin < chance)[:, 0]

    def _drawn(self, logits: Sequence[Tensor], rng: np.random.Generator) -> Codes:
        """A cell of each column for every row, shape (columns, rows), by the evidence too."""
        chance = torch.from_numpy(rng.random((len(self.sizes), logits[0].shape[1]), dtype=np.float32))
        cells = [self._one(i, part, u.to(part.device)) for i, (part, u) in enumerate(zip(logits, chance, strict=True))]
        return np.asarray(torch.stack(cells).cpu().numpy(), dtype=np.int64)

    def _one(self, i: int, logits: Tensor, chance: Tensor) -> Tensor:
        """A cell of column i for every row."""
        evidence = torch.from_numpy(self.evidence[i]).to(logits) if i in self.evidence else None
        return _inverted(logits, evidence, chance)

    # ---------------------------------------------------------------------------------------------------- conditions
    def given(self, allowed: Mapping[str, CodeSet]) -> LatentLaw:
        """The law of rows whose codes are all `allowed`.

        Raises:
          UsageError: no row obeys, whatever the latent.
        """
        axes, evidence = laws.restricted(self.axes, self.evidence, allowed)
        return replace(self, axes=axes, evidence=evidence)._steered()

    def _steered(self) -> LatentLaw:
        """The law with latents made for the column whose condition is rarest.

        A cell is drawn by its share; whether its row shows an allowed code is then left to the coin of `_accepted`.
        """
        if self.steer is None or not self.evidence:
            return self
        plain = replace(self, evidence={})
        if float(self._obeying(self.by_column(self._pool_logits)).mean()) >= STEERED:
            return self
        shares = {i: plain.cell_shares(i) * (evidence > 0) for i, evidence in self.evidence.items()}
        rarest = min(shares, key=lambda i: float(shares[i].sum()))
        total = float(shares[rarest].sum())
        if not total:
            return self
        return replace(self, latents=self.steer(rarest, shares[rarest] / total))

    def balanced(self, balance: Balance, rows: int, rng: np.random.Generator) -> tuple[dict[str, Codes], Floats]:
        """`sample` with the shares that `balance` asks for, by quota, and the law's own shares."""
        return laws.balanced(self, balance, rows, rng)

    # ---------------------------------------------------------------------------------------------------- completing
    def completed(self, codes: Mapping[str, Codes], draws: int, rng: np.random.Generator) -> list[dict[str, Codes]]:
        """`codes` with missing ones (code `size(column)`) drawn given the others, `draws` times, and every column.

        Each row's latent is one of the pool, chosen with the probability that it gives what is known of the row
        (sampling-importance-resampling, Rubin 1987: exact as the pool grows). Nothing filled is missing.
        """
        names = [a.column.name for a in self.axes]
        rows = len(next(iter(codes.values())))
        known = {a.column.name: codes.get(a.column.name, np.full(rows, size(a.column))) for a in self.axes}
        present = self.given(laws.not_missing(self.axes))
        pool = self._pool_logits
        chance = [torch.log_softmax(part, 0) for part in self.by_column(pool)]
        out: list[dict[str, Codes]] = [{n: c.copy() for n, c in known.items()} for _ in range(draws)]
        most = max(1, 2 * BLOCK_CELLS // len(self.pool))
        for start in range(0, rows, most):
            at = slice(start, min(rows, start + most))
            fit = self._fit({n: c[at] for n, c in known.items()}, chance, present.evidence)
            for filled in out:
                cells = present._drawn(self.by_column(pool[:, _chosen(fit, rng)]), rng)
                for name, found in present.draw(cells, rng).items():
                    missing = known[name][at] == size(self.axes[names.index(name)].column)
                    filled[name][at] = np.where(missing, found, filled[name][at])
        return out

    def _fit(self, known: Mapping[str, Codes], chance: Sequence[Tensor], present: Mapping[int, Floats]) -> Tensor:
        """Log-probability of what is known of each row, and of the rest not being missing (`present`, as `evidence`),
        under each latent of the pool; shape (rows, pool).
        """
        fit = torch.zeros(len(next(iter(known.values()))), chance[0].shape[1], device=chance[0].device)
        for i, (axis, part) in enumerate(zip(self.axes, chance, strict=True)):
            codes = known[axis.column.name]
            missing = codes == size(axis.column)
            told, filled = (torch.from_numpy(np.flatnonzero(m)).to(part.device) for m in (~missing, missing))
            fit[told] += part[torch.from_numpy(axis.cells(codes[~missing])).to(part.device)]
            if i in present:
                showing = torch.from_numpy(present[i]).to(part) @ torch.exp(part)
                fit[filled] += torch.log(showing.clamp(min=LEAST**3))
        return fit


def _inverted(logits: Tensor, evidence: Tensor | None, chance: Tensor) -> Tensor:
    """The first cell at which the weights of a row add up to more than its share `chance` of all; shape (rows,).

    Args:
      logits: shape (cells, rows).
      evidence: shape (cells,), multiplies the weights.
      chance: shape (rows,), from 0 to 1.
    """
    ends = torch.exp(logits - logits.amax(0))
    if evidence is not None:
        ends *= evidence[:, None]
    for below, here in pairwise(ends):  # one row of sums after the other: `cumsum` goes by column, 3 times as slowly
        here += below
    return (ends <= _below(chance * ends[-1], ends[-1])).sum(0).clamp(max=len(ends) - 1)


def _below(spot: Tensor, end: Tensor) -> Tensor:
    """`spot`, or the number just below `end` where rounding has brought it there: the last cells may weigh nothing."""
    return torch.minimum(spot, torch.nextafter(end, torch.zeros_like(end)))


def _chosen(fit: Tensor, rng: np.random.Generator) -> Tensor:
    """A position for each row of `fit`, log-weights of shape (rows, pool)."""
    ends = torch.softmax(fit, 1).double().cumsum(1)
    spot = torch.from_numpy(rng.random(len(fit))).to(fit.device) * ends[:, -1]
    return torch.searchsorted(ends, spot[:, None], right=True)[:, 0].clamp(max=fit.shape[1] - 1)
