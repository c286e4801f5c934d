"""CTGAN: a conditional generative adversarial network over the cells of columns (Goodfellow et al. 2014; Xu,
Skoularidou, Cuesta-Infante, Veeramachaneni 2019, "Modeling Tabular Data using Conditional GAN"), its critic trained by
DP-SGD.

The critic is a quadratic form over the one-hot cells of a row, one for each group of the target's values: it sees every
pair of columns, and every pair together with the target. It plays the Wasserstein game (Arjovsky, Chintala, Bottou
2017) under a penalty on the squares of its weights, which touches no row. Its loss on a real row is linear in its
weights, and that decides how both sides are trained:

- A real row's gradient is its own pair indicators, whatever the weights are: always of the same length, so that nothing
  is lost to clipping, and never stale. Steps of 1, 1/2, 1/3, ... on the penalised loss (Shalev-Shwartz, Singer, Srebro
  2007, "Pegasos") make the weights the mean of all noisy gradients, and noise falls with the root of their number.
- Against a given generator the best critic is known: the averaged real part less the generator's own part. Each
  generator step meets that critic. The generator's columns are independent given its noise vector, so the critic's mean
  over them is exact and no discrete draw stands in the gradient's way.

The condition: in half of the generator's steps one column is given, drawn from its charged counts, and kept. A real
row's condition is its own cell (trap A4: rows are drawn first, by Poisson sampling): averaged over the values of a
column, conditioned rows have the law of all rows, so one critic judges both.

Privacy: charged histograms and one charged training, that of the critic (`_deep`, `sgd`). The generator, its noise, its
conditions, and the critic's part on made-up rows see noisy gradients and charged counts only: post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, cast

import numpy as np

from tabveil._torch import nn, torch
from tabveil.encoding import Axis, Floats
from tabveil.errors import UsageError
from tabveil.generators._deep import LEAST_SHARE, Counted, LatentGenerator, OneHot, Sampler
from tabveil.generators.base import Plan, Progress, whole
from tabveil.latents import LatentLaw, Latents
from tabveil.mechanisms import PrivateRows
from tabveil.sgd import Average, Course, Descent, Stateful

Tensor = torch.Tensor

STEPS, CRITIC_RATE = 20, 0.5
"""Noisy gradients of the critic, and the chance of a unit to be in each. They are averaged, so that few large batches
teach as much as many small ones, and cost less noise."""

GENERATOR_STEPS, PLAIN_GENERATOR_STEPS = 900, 2_000
"""Steps of the generator where nobody says, private and not: more of them learn the noise."""

BATCH = 1_000
"""Noise vectors in a generator step."""

HIDDEN, PLAIN_HIDDEN = 128, 192
"""Width of the generator's hidden layers, private and not."""

LEARNING_RATE = 0.003
"""Of the generator's Adam at its first step; falls evenly to a twentieth."""

BETAS = (0.9, 0.99)
"""Of Adam."""

DECAY = 0.99
"""Of the average of the generator's weights."""

GROUPS = 2
"""Groups of the target's values, at most."""

MOST_CELLS = 512
"""Cells of all columns together that critic and generator tell apart."""

FEWEST = 4
"""More of them where there are so many columns that fewer than this would be left to each."""

CONDITIONED = 0.5
"""Share of the generator's steps in which one column is given."""

FORCED = 1e4
"""Added to the logit of a given cell: no other one is drawn."""

CLIP_ROOM = 1 + 2.0**-7
"""The clip, in lengths of a row's gradient: `sgd` aims 2^-8 below it, and nothing is clipped."""


# --------------------------------------------------------------------------------------------------------------- cells
@dataclass(frozen=True, eq=False)
class Cells:
    """What critic and generator tell apart, by charged counts.

    Attributes:
      counted: axes and shares.
      column: shape (cells,), the column of each cell.
      group: shape (cells, groups), 1 where a cell of the target belongs to a group. Without a target every cell of the
        first column belongs to the one group there is.
      apart: shape (cells, cells), 1 for the pairs (a, b) that are compared: of two columns, the target's as a only.
    """

    counted: Counted
    column: Tensor
    group: Tensor
    apart: Tensor

    @classmethod
    def of(cls, counted: Counted, target: int | None, groups: int) -> Cells:
        """Cells of `counted`, grouped by the column at position `target`."""
        sizes = torch.tensor(counted.sizes)
        column = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        group = torch.zeros(len(column), 1)
        group[column == 0] = 1.0
        apart = (column[:, None] != column[None, :]).float()
        if target is not None:
            of_target = torch.from_numpy(_grouped(counted.shares[target], groups))
            group = torch.zeros(len(column), int(of_target.max()) + 1)
            group[torch.nonzero(column == target)[:, 0], of_target] = 1.0
            apart = apart * (column[None, :] != target)
        return cls(counted, column, group, apart)

    @property
    def width(self) -> int:
        """Cells of all columns together."""
        return len(self.column)

    @property
    def groups(self) -> int:
        """Groups of the target's values."""
        return self.group.shape[1]

    @property
    def columns(self) -> int:
        """Columns."""
        return len(self.counted.axes)

    def pairs(self, chances: Tensor) -> Tensor:
        """How likely cells a and b are to meet in group g, shape (groups, cells, cells), over rows whose columns are
        independent with the given chances, shape (rows, cells). Right where `apart` is 1.
        """
        group = self.group.to(chances)
        by_group, grouping = chances @ group, group.any(1)
        left = [torch.where(grouping, group[:, g], by_group[:, g, None]) for g in range(self.groups)]
        return torch.stack([(chances * of_group).T @ chances / len(chances) for of_group in left])


def _grouped(shares: Floats, groups: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The group of each cell of the target, from 0: about equally likely ones, or the cells themselves."""
    if len(shares) <= groups:
        return np.arange(len(shares))
    middle = np.cumsum(shares) - shares / 2
    placed = np.clip((middle * groups).astype(np.int64), 0, groups - 1)
    return np.unique(placed, return_inverse=True)[1].astype(np.int64)


def joined(counted: Counted, most: int) -> Counted:
    """`counted` with at most `most` cells in all, one per column at least: of the columns with most cells the rarest
    are joined, and drawn back by their shares.
    """
    sizes = np.array(counted.sizes)
    kept = next(k for k in range(int(sizes.max()), 0, -1) if k == 1 or np.minimum(sizes, k).sum() <= most)
    both = [_joined(a, s, kept) for a, s in zip(counted.axes, counted.shares, strict=True)]
    return Counted(tuple(a for a, _ in both), tuple(s for _, s in both), counted.total)


def _joined(axis: Axis, shares: Floats, kept: int) -> tuple[Axis, Floats]:
    if axis.size <= kept:
        return axis, shares
    rank = np.argsort(np.argsort(-shares, kind="stable"), kind="stable")
    groups = np.minimum(rank, kept - 1)
    used = axis.cell >= 0
    weight = np.where(used, axis.shares * shares[axis.cell], 0.0)
    merged = Axis(axis.column, axis.edges, np.where(used, groups[axis.cell], -1), weight)
    return merged, np.bincount(groups, shares, minlength=kept).astype(np.float64)


# -------------------------------------------------------------------------------------------------------------- critic
class PairCritic(nn.Module):
    """Codes -> minus what the critic says of each row: the sum over groups g of [row in g] x' Q_g x."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells, self.one_hot = cells, OneHot(cells.counted.axes)
        self.form = nn.Linear(cells.width, cells.groups * cells.width, bias=False)
        nn.init.zeros_(self.form.weight)

    def forward(self, codes: Tensor) -> Tensor:
        """Shape (rows, columns as schema.modelled) -> (rows,)."""
        row = self.one_hot(codes)
        grouped = (row @ self.cells.group.to(row))[:, :, None] * row[:, None, :]
        loss: Tensor = -(self.form(row) * grouped.flatten(1)).sum(1)
        return loss

    @property
    def length(self) -> float:
        """Of every row's gradient, an outer product of two vectors with a 1 for each column."""
        return float(self.cells.columns)

    def real(self) -> Tensor:
        """How often cells meet in real rows, by the noisy gradients so far: shape (groups, cells, cells), symmetric,
        every two columns' pairs summing to 1 on average.
        """
        cells = self.cells
        weight = self.form.weight.detach().reshape(cells.groups, cells.width, cells.width)
        found = (weight + weight.mT) / 2
        blocks = float(cells.pairs(cells.counted.flat[None, :].to(found)).mul(cells.apart.to(found)).sum())
        return found * (blocks / (found * cells.apart.to(found)).sum().clamp(min=0.1 * blocks))


# ----------------------------------------------------------------------------------------------------------- generator
class Network(Sampler):
    """Noise vector and condition -> logits of all cells: a hidden layer, two residual ones, and the output, whose
    biases start as the charged one-way shares.
    """

    def __init__(self, noise: int, hidden: int, shares: Tensor) -> None:
        super().__init__()
        self.noise, self.cells = noise, len(shares)
        self.first = nn.Linear(noise + len(shares), hidden)
        self.more = nn.ModuleList([nn.Linear(hidden, hidden) for _ in range(2)])
        self.out = nn.Linear(hidden, len(shares))
        with torch.no_grad():
            self.first.weight[:, :noise] *= math.sqrt((noise + len(shares)) / noise)
            self.out.weight.mul_(0.5)
            self.out.bias.copy_(torch.log(shares))

    def latents(self, rows: int, rng: np.random.Generator) -> Tensor:
        """Noise vectors without a condition, shape (rows, noise)."""
        return torch.from_numpy(rng.standard_normal((rows, self.noise), dtype=np.float32))

    def given(self, latents: Tensor, cells: Tensor) -> Tensor:
        """`latents`, shape (rows, noise), with a cell given to each, shape (rows,): (rows, noise + cells)."""
        return torch.cat([latents, nn.functional.one_hot(cells, self.cells).to(latents)], 1)

    def forward(self, latents: Tensor) -> Tensor:
        """Shape (rows, noise), or (rows, noise + cells) with one cell of one column given -> (rows, cells)."""
        given = latents[:, self.noise :]
        weight = self.first.weight if given.shape[1] else self.first.weight[:, : self.noise]
        hidden = nn.functional.silu(nn.functional.linear(latents, weight, self.first.bias))
        for layer in self.more:
            hidden = hidden + nn.functional.silu(layer(hidden))
        logits: Tensor = self.out(hidden)
        return logits + FORCED * given if given.shape[1] else logits


class Game:
    """The generator's side, and the critic's best answer to it.

    Args:
      net: the generator.
      critic: its real part is used.
      noise: the standard deviation of an entry of `critic.real()`.
      steps: of the generator, in all.
      learning_rate: at the first step.

    Attributes:
      done: steps taken.
    """

    def __init__(self, net: Network, critic: PairCritic, *, noise: float, steps: int, learning_rate: float) -> None:
        self.net, self.critic, self.steps, self.done = net, critic, steps, 0
        self._rate = learning_rate
        self._optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate, betas=BETAS)
        self._average = Average(net, decay=DECAY)
        shares = critic.cells.counted.flat
        chance = critic.cells.pairs(shares[None, :])
        weight = critic.cells.apart / (chance + max(noise, LEAST_SHARE))
        self._weight = (weight / weight.mean()).to(critic.form.weight.device)
        self._columns = torch.split(shares, list(critic.cells.counted.sizes))

    def play(self, until: float) -> None:
        """Take steps until this share of them is done; none where there are no two columns to compare."""
        if not self.critic.cells.apart.any():
            return
        real = self.critic.real()
        while self.done < round(until * self.steps):
            self._step(real)

    def _step(self, real: Tensor) -> None:
        loss = self._loss(real)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * (1 - 0.95 * self.done / self.steps)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._average.update()
        self.done += 1

    def _loss(self, real: Tensor) -> Tensor:
        """What the best critic wins: the squared distance between both sides' pairs; two halves of made-up rows make
        its estimate unbiased.

        As in Pearson's chi-square a pair of cells weighs the less the more often it would meet by chance, down to what
        noise lets one tell from nothing.
        """
        first, second = (self.critic.cells.pairs(half) for half in self._chances().chunk(2))
        loss: Tensor = ((real - first) * (real - second) * self._weight).sum()
        return loss

    def _chances(self) -> Tensor:
        """What the generator gives each cell of made-up rows, shape (BATCH, cells)."""
        latents = torch.randn(BATCH, self.net.noise)
        if torch.rand(()) < CONDITIONED:
            i = int(torch.randint(len(self._columns), ()))
            cells = torch.multinomial(self._columns[i], BATCH, replacement=True)
            latents = self.net.given(latents, sum(map(len, self._columns[:i])) + cells)
        logits = self.net(latents.to(self._weight.device))
        parts = torch.split(logits, [len(c) for c in self._columns], dim=1)
        return torch.cat([torch.softmax(part, 1) for part in parts], 1)

    def settle(self) -> Network:
        """The generator with its averaged weights."""
        self._average.copy_to(self.net)
        return self.net

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        parts: dict[str, Stateful] = {"net": self.net, "optimizer": self._optimizer, "average": self._average}
        return {"done": self.done, **{name: part.state_dict() for name, part in parts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        self.done = int(state["done"])
        self.net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.load_state_dict(state["average"])


class CTGAN(LatentGenerator):
    """A conditional generative adversarial network whose critic is trained by DP-SGD.

    Args:
      noise: width of the generator's noise vector, from 1 to 512.
      generator_steps: from 1, spread evenly over the critic's; by epsilon where nobody says.
      groups: of the target's values that the critic tells apart, from 1 to 16; 1 ignores the target.
      pac: rows that the critic judges together (Lin et al. 2018, "PacGAN"): 1, and nothing else. A pack's gradient is
        several people's: one row more or less would repack a private batch (trap A7). And this critic's best answer is
        to all of the generator's rows at once, which is what packs are for.

    Others as `DeepGenerator`: `steps`, `rate` are the critic's, `hidden`, `learning_rate` the generator's.
    """

    guarantee: ClassVar[str] = "Charged noisy histograms of columns, then a critic trained by DP-SGD."

    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"steps": 3, "generator_steps": 12, "hidden": 16})

    def __init__(
        self,
        *,
        epsilon: float,
        delta: float | None = None,
        random_state: int | None = None,
        progress: Progress | None = None,
        steps: int | None = None,
        rate: float | None = None,
        hidden: int | None = None,
        learning_rate: float | None = None,
        cells: int | None = None,
        match: bool = True,
        device: str = "cpu",
        checkpoints: str | Path | None = None,
        noise: int = 32,
        generator_steps: int | None = None,
        groups: int = GROUPS,
        pac: int = 1,
    ) -> None:
        super().__init__(
            epsilon=epsilon,
            delta=delta,
            random_state=random_state,
            progress=progress,
            steps=steps,
            rate=rate,
            hidden=hidden,
            learning_rate=learning_rate,
            cells=cells,
            match=match,
            device=device,
            checkpoints=checkpoints,
        )
        self.noise = whole("noise", noise, 1, 512)
        self.generator_steps = (
            None if generator_steps is None else whole("generator_steps", generator_steps, 1, 10_000_000)
        )
        self.groups = whole("groups", groups, 1, 16)
        self.pac = _unpacked(pac)

    @property
    def _steps(self) -> int:
        return self.steps or STEPS

    @property
    def _generator_steps(self) -> int:
        return self.generator_steps or (GENERATOR_STEPS if math.isfinite(self.epsilon) else PLAIN_GENERATOR_STEPS)

    @property
    def _hidden(self) -> int:
        return self.hidden or (HIDDEN if math.isfinite(self.epsilon) else PLAIN_HIDDEN)

    @property
    def _rate(self) -> float:
        return CRITIC_RATE if self.rate is None else self.rate

    def _plain_rate(self, counted: Counted) -> float:
        return self._rate

    def shorter(self, steps: int, rate: float) -> dict[str, Any]:
        """As `Generator.shorter`: as many of the generator's steps to each of the critic's."""
        each = self._generator_steps / self._steps
        return {**super().shorter(steps, rate), "generator_steps": max(1, round(each * steps))}

    def _cells_for(self, plan: Plan) -> Callable[[float], int]:
        found, most = super()._cells_for(plan), self._most_cells // max(1, len(self.schema.modelled))
        return lambda rows: min(found(rows), most)

    def _count(self, rows: PrivateRows, plan: Plan) -> Counted:
        return joined(super()._count(rows, plan), self._most_cells)

    @property
    def _most_cells(self) -> int:
        return max(MOST_CELLS, FEWEST * len(self.schema.modelled))

    def _untrained(self, counted: Counted) -> Sampler:
        return Network(self.noise, self._hidden, counted.flat)

    def _trained(self, rows: PrivateRows, plan: Plan, counted: Counted) -> Sampler:
        schedule = self._training(plan, counted)
        expected = self._expected_units(counted, schedule)
        critic = PairCritic(self._cells(counted)).to(self.device)
        clip = CLIP_ROOM * critic.length
        game = self._game(critic, schedule.noise * clip / (expected * math.sqrt(2 * schedule.steps)))
        course = Course(
            torch.optim.SGD(critic.parameters(), lr=1.0, weight_decay=1.0),
            factor=lambda number: 1 / (number + 1),
            after=lambda number: game.play((number + 1) / schedule.steps),
            others={"game": game},
        )
        self._run(Descent(critic, rows, schedule=schedule, clip=clip, expected_units=expected), course)
        game.play(1.0)  # what is left where lost steps of the critic were not taken anew
        return game.settle()

    def _cells(self, counted: Counted) -> Cells:
        names = [c.name for c in self.schema.modelled]
        target = names.index(self.schema.target) if self.schema.target in names and self.groups > 1 else None
        return Cells.of(counted, target, self.groups)

    def _game(self, critic: PairCritic, noise: float) -> Game:
        net = Network(self.noise, self._hidden, critic.cells.counted.flat).to(self.device)
        rate = self.learning_rate or LEARNING_RATE
        return Game(net, critic, noise=noise, steps=self._generator_steps, learning_rate=rate)

    def _plain_law(self, counted: Counted, net: nn.Module) -> LatentLaw:
        law = super()._plain_law(counted, net)
        return replace(law, steer=_Steering(cast(Network, net), counted.sizes, self.device))


@dataclass(frozen=True, eq=False)
class _Steering:
    """Column i and how likely each of its cells is to be given -> latents under which that cell is drawn."""

    net: Network
    sizes: tuple[int, ...]
    device: str

    def __call__(self, i: int, chances: Floats) -> Latents:
        start = sum(self.sizes[:i])

        def draw(rows: int, rng: np.random.Generator) -> Tensor:
            cells = torch.from_numpy(start + rng.choice(len(chances), rows, p=chances))
            return self.net.given(self.net.latents(rows, rng), cells).to(self.device)

        return draw


def _unpacked(pac: int) -> int:
    """`pac` if it is 1; raises UsageError otherwise."""
    if isinstance(pac, bool) or pac != 1:
        raise UsageError(
            "pac must be 1: the gradient of a pack of rows is several people's, and no clip would bound what one of "
            "them changes; without privacy, too, this critic answers to all made-up rows at once."
        )
    return 1
