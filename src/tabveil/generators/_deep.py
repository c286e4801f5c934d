"""What the deep generators share: columns cut into cells under a small part of the budget, DP-SGD for the rest, and
rows drawn through a latent.

Numbers become cells as for the marginal generators, with atoms for heavy values; a network gives each column one
distribution over its cells. The charged one-way counts say where training starts (the output biases), and afterwards
shift the outputs so that every column has its counted shares on average (`match`), which is free.

Privacy: charged histograms (unit: the schema's; add or remove one; sensitivity k) and one charged training, steps
times a Poisson-sampled Gaussian, one unit moving a step's sum by at most the clip (`sgd`). Their noise is solved for
together, so that all of it costs epsilon at delta. Steps, rate, widths and learning rates follow from the schema,
epsilon, delta and charged counts, never from rows; nothing is chosen by a loss unless nothing is private.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self, cast

import numpy as np
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

from tabveil._torch import nn, torch
from tabveil.accounting import DiscreteGaussianDpEvent, Spend
from tabveil.conditions import Balance, Conditions
from tabveil.domains import start_axes
from tabveil.encoding import Axis, Codes, CodeSet, Floats
from tabveil.errors import UsageError
from tabveil.estimation import estimate
from tabveil.generators._marginals import (
    Part,
    count_columns,
    divide,
    noise_of,
    one_way_label,
    pack_axes,
    refining,
    refining_noise,
    unpack_axes,
)
from tabveil.generators._resuming import Resuming
from tabveil.generators._saved import Arrays
from tabveil.generators.base import Drawn, Form, Plan, Progress, whole
from tabveil.latents import LatentLaw
from tabveil.mechanisms import PrivateRows
from tabveil.schema import Schema
from tabveil.sgd import THREADS, Course, Descent, Schedule, threads, train

Tensor = torch.Tensor

TRAINING = "training"
"""Label of the one charged training."""

RATE = 0.05
"""Chance of each unit to be in a batch of a private training, where nobody says."""

PLAIN_BATCH = 500
"""Expected rows of a batch where nothing is private."""

CELLS = (4, 32)
"""Least and greatest number of cells of a number column where nobody says."""

CELL_NOISE = 20.0
"""A number column gets at most as many cells as leave this many standard deviations of noise in each one-way count."""

LEAST_SHARE = 1e-6
"""No cell starts out less likely than this."""

PATIENCE = 500
"""Without privacy: steps over which the mean loss must have become better."""

BETTER = 3e-4
"""By this share of it."""

COOLING = 500
"""Without privacy: the last steps, over which the learning rate falls to 0; a quarter of all, where that is fewer."""


@dataclass(frozen=True, eq=False)
class Counted:
    """What the charged counts say.

    Attributes:
      axes: of every column, rare cells joined.
      shares: how likely each cell is; one array per column, each summing to 1.
      total: rows, estimated.
    """

    axes: tuple[Axis, ...]
    shares: tuple[Floats, ...]
    total: float

    @property
    def sizes(self) -> tuple[int, ...]:
        """Cells per column."""
        return tuple(a.size for a in self.axes)

    @property
    def flat(self) -> Tensor:
        """Shares of all cells side by side, shape (cells,), none below LEAST_SHARE."""
        return flat(self.shares)


def flat(shares: Sequence[Floats]) -> Tensor:
    """Shares of several columns' cells side by side, shape (cells,), none below LEAST_SHARE."""
    return torch.from_numpy(np.concatenate(shares)).float().clamp(min=LEAST_SHARE)


class Cells(nn.Module):
    """Codes, shape (rows, columns as schema.modelled) -> cells, the same shape.

    Each row by itself, by axes that are charged or public.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        super().__init__()
        self._edges = [torch.from_numpy(a.edges[1:].copy()) for a in axes]
        self._cell = [torch.from_numpy(a.cell) for a in axes]

    def forward(self, codes: Tensor) -> Tensor:
        """A missing cell's code is beyond the last edge, and so is its leaf."""
        columns = zip(self._edges, self._cell, codes.cpu().T, strict=True)
        at = [cell[torch.bucketize(code.contiguous(), edges, right=True)] for edges, cell, code in columns]
        return torch.stack(at, 1).to(codes.device)


class OneHot(nn.Module):
    """Codes, shape (rows, columns as schema.modelled) -> one-hot cells side by side, shape (rows, cells)."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        super().__init__()
        self._cells, self.width = Cells(axes), sum(a.size for a in axes)
        self._starts = torch.tensor([0, *np.cumsum([a.size for a in axes]).tolist()][:-1])

    def forward(self, codes: Tensor) -> Tensor:
        """Each row by itself."""
        cells = self._cells(codes.cpu()) + self._starts
        return torch.zeros(len(cells), self.width).scatter_(1, cells, 1.0).to(codes.device)


class Sampler(nn.Module, ABC):
    """What a fitted deep generator keeps of its networks: latents, and the logits they become."""

    @abstractmethod
    def latents(self, rows: int, rng: np.random.Generator) -> Tensor:
        """Draws of the latent, shape (rows, width)."""

    @abstractmethod
    def forward(self, latents: Tensor) -> Tensor:
        """Logits of all columns' cells, shape (rows, cells)."""


class NetworkLaw(Protocol):
    """A law of rows by way of a network: `LatentLaw` and `ConditionalLaw` are two."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def shift(self) -> Tensor:
        """Shape (cells,), added to the logits."""

    def finely_matched(self, shares: Sequence[Floats], rng: np.random.Generator) -> Self:
        """The law whose columns have the given shares on average."""

    def given(self, allowed: Mapping[str, CodeSet]) -> Self:
        """The law of rows whose codes are all `allowed`."""

    def sample(self, rows: int, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes of `rows` rows."""

    def balanced(self, balance: Balance, rows: int, rng: np.random.Generator) -> tuple[dict[str, Codes], Floats]:
        """`sample` with the shares that `balance` asks for, and the law's own shares."""

    def completed(self, codes: Mapping[str, Codes], draws: int, rng: np.random.Generator) -> list[dict[str, Codes]]:
        """`codes` with missing ones drawn, `draws` times."""


class DeepGenerator(Resuming):
    """A generator whose fitted state is one axis per column and a network over their cells.

    A subclass says how it is trained (`_trained`), what an untrained network looks like (`_untrained`), and what rows
    are drawn from (`_plain_law`).

    Args:
      steps: noisy gradients, from 1; by epsilon where nobody says. Without privacy the most there may be.
      rate: chance of each unit to be in a batch, above 0 and at most 1; RATE where nobody says.
      hidden: width of the hidden layers, from 1 to 4096.
      learning_rate: of Adam, above 0.
      cells: a number column is binned into about this many cells, from 2 to 1000; by the noise where nobody says.
      match: whether the outputs are shifted to the charged one-way counts after training.
      device: of torch, such as "cuda"; sampling too.

    Others as `Resuming`.
    """

    conditional: ClassVar[bool] = True
    pure: ClassVar[bool] = False
    local: ClassVar[frozenset[str]] = Resuming.local | {"device"}
    least_strength: ClassVar[float] = 300.0

    shares: ClassVar[Mapping[str, float]] = MappingProxyType({"refine": 0.04, "one_way": 0.04})
    """Parts of the budget (of rho) for cells and for one-way counts; training has the rest."""

    sums: ClassVar[Mapping[str, float]] = MappingProxyType({})
    """Labels of clipped sums over all rows that are charged beside the training, and their part of the budget."""

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
    ) -> None:
        super().__init__(
            epsilon=epsilon, delta=delta, random_state=random_state, progress=progress, checkpoints=checkpoints
        )
        self.steps = None if steps is None else whole("steps", steps, 1, 10_000_000)
        self.rate = None if rate is None else between("rate", rate, 0.0, 1.0)
        self.hidden = None if hidden is None else whole("hidden", hidden, 1, 4096)
        self.learning_rate = None if learning_rate is None else between("learning_rate", learning_rate, 0.0, 10.0)
        self.cells = None if cells is None else whole("cells", cells, 2, 1000)
        self.match, self.device = bool(match), _known(device)
        self._counted: Counted | None = None
        self._law: NetworkLaw | None = None
        self._net: nn.Module | None = None

    # ------------------------------------------------------------------------------------------------ for subclasses
    @abstractmethod
    def _trained(self, rows: PrivateRows, plan: Plan, counted: Counted) -> nn.Module:
        """What is kept of the network, trained on `rows` by the steps that `plan` charges (`_training`)."""

    @abstractmethod
    def _untrained(self, counted: Counted) -> nn.Module:
        """A network as `_trained` returns it, its parameters still to be set."""

    @abstractmethod
    def _plain_law(self, counted: Counted, net: nn.Module) -> NetworkLaw:
        """The network's own law, not matched to anything."""

    @property
    @abstractmethod
    def _steps(self) -> int:
        """How many steps there are at most: by epsilon, or as the user says."""

    @property
    def _rate(self) -> float:
        """Chance of each unit to be in a batch of a private training."""
        return RATE if self.rate is None else self.rate

    def _plain_rate(self, counted: Counted) -> float:
        """The same where nothing is private."""
        return min(1.0, PLAIN_BATCH / max(counted.total, 1.0)) if self.rate is None else self.rate

    # ---------------------------------------------------------------------------------------------------------- plan
    def _spends(self, schema: Schema) -> tuple[Spend, ...]:
        if self.delta == 0:
            raise UsageError(
                f"{self.plugin_name()} trains with Gaussian noise, which needs a delta above 0: give one, such as "
                "1e-6, or use a generator that can do without, such as mst."
            )
        beside = self._beside(schema)
        training = Schedule.solved(
            TRAINING, rate=self._rate, steps=self._steps, epsilon=self.epsilon, delta=self.delta, beside=beside
        )
        return (*beside, *training.spends)

    def _beside(self, schema: Schema) -> tuple[Spend, ...]:
        """What is charged beside the training: histograms and sums, for their share of the rho that (epsilon, delta)
        would buy.
        """
        rest = 1 - sum(self.shares.values()) - sum(self.sums.values())
        parts = [
            refining(schema, self.shares["refine"]),
            Part((*(one_way_label(c) for c in schema.modelled), *self._also(schema)), self.shares["one_way"]),
            *(Part((label,), share) for label, share in self.sums.items()),
            Part((TRAINING,), rest),
        ]
        spends = divide(parts, schema, epsilon=self.epsilon, delta=self.delta)
        return tuple(_as_sum(s) if s.label in self.sums else s for s in spends[:-1])

    def _histograms(self, labels: tuple[str, ...], share: float, schema: Schema) -> tuple[Spend, ...]:
        """Histograms that together cost this part of the rho that (epsilon, delta) would buy; nothing for no labels."""
        if not labels:
            return ()
        parts = [Part(labels, share), Part((TRAINING,), 1 - share)]
        return tuple(s for s in divide(parts, schema, epsilon=self.epsilon, delta=self.delta) if s.label in labels)

    def _also(self, schema: Schema) -> tuple[str, ...]:
        """Labels of histograms of single columns that are charged beside the one-way counts, each as one of these."""
        return ()

    def _training(self, plan: Plan, counted: Counted) -> Schedule:
        """The training that `plan` charges; without privacy, batches of PLAIN_BATCH rows."""
        if plan.private:
            event = charged_sum(plan, TRAINING)
            count = next(s.count for s in plan.spends if s.label == TRAINING)
            return Schedule(TRAINING, float(event.sampling_probability), count, float(event.event.noise_multiplier))
        return Schedule(TRAINING, self._plain_rate(counted), self._steps, 0.0)

    def rehearsal(self, plan: Plan, rows: int) -> tuple[int, float] | None:
        """As `Generator.rehearsal`."""
        schedule = self._training(plan, Counted((), (), float(rows)))
        return schedule.steps, schedule.rate

    # ----------------------------------------------------------------------------------------------------------- fit
    def _learn(self, rows: PrivateRows, plan: Plan) -> None:
        self._counted = self._kept("counts", lambda: self._count(rows, plan), self._counted_form)
        with seeded(self.random_state), threads(THREADS):
            self._net = self._trained(rows, plan, self._counted).eval().requires_grad_(False)
            law = self._plain_law(self._counted, self._net)
            if self.match:
                law = law.finely_matched(self._wanted(self._counted), np.random.default_rng(1))
        self._law = law

    def _wanted(self, counted: Counted) -> Sequence[Floats]:
        """Shares to which the law's cells are matched, one array per column."""
        return counted.shares

    def _count(self, rows: PrivateRows, plan: Plan) -> Counted:
        """Axes, one-way shares and the row count, from charged counts alone."""
        axes = self._start(rows, plan)
        final, measured = count_columns(axes, rows, plan, tell=lambda share: self._tell("counting columns", share))
        model = estimate([a.size for a in final], measured)
        shares = tuple(np.asarray(model.marginal((i,)) / model.total) for i in range(len(final)))
        return Counted(tuple(final), shares, float(model.total))

    def _start(self, rows: PrivateRows, plan: Plan) -> list[Axis]:
        """Axes of which one-way counts are taken."""
        noise = refining_noise(self.schema, plan.spends)
        return start_axes(self.schema.modelled, rows, sigma=noise, cells=self.cells or self._cells_for(plan))

    def _cells_for(self, plan: Plan) -> Callable[[float], int]:
        sigma = noise_of(plan.spends, one_way_label(self.schema.modelled[0]))
        return lambda rows: int(np.clip((self.schema.public_rows or rows) / (CELL_NOISE * sigma), *CELLS))

    def _expected_units(self, counted: Counted, schedule: Schedule) -> float:
        """About how many units a batch has, by a public or the charged row count."""
        rows = self.schema.public_rows or counted.total
        return max(1.0, schedule.rate * rows / self.schema.contributions)

    def _run(self, descent: Descent, course: Course) -> None:
        """Every charged step; without privacy until the loss gets no better."""
        steps = descent.schedule.steps
        if descent.schedule.private:
            told = lambda share: self._tell(f"training: {_left(steps, share)}", share)  # noqa: E731
            train(descent, course, checkpoints=self._states, progress=told)
            return
        self._run_plain(descent, course)

    def _run_plain(self, descent: Descent, course: Course) -> None:
        """Steps until the loss gets no better, and then those of the cooling."""
        losses, ending = Losses(), Ending(descent.claim(descent.schedule.steps))
        course = replace(course, factor=ending.cooled(course.factor))
        number = 0
        while number < ending.last:
            course.step(descent, number)
            number += 1
            share = number / ending.last
            self._tell(f"training: {_left(ending.last, share)}, loss {losses.smooth:.3f}", share)
            if losses.settled(descent.loss):
                ending.settle(number)

    @property
    def _resumable(self) -> tuple[str, ...]:
        return (TRAINING, *self.sums)

    @property
    def _counted_form(self) -> Form[Counted]:
        return pack_counted, lambda tree: unpack_counted(self.schema, tree)

    # -------------------------------------------------------------------------------------------------------- sample
    @property
    def _fitted(self) -> tuple[Counted, nn.Module, NetworkLaw]:
        if self._counted is None or self._net is None or self._law is None:
            self.schema  # noqa: B018  (raises: not fitted)
            raise TypeError("fitted without a network")
        return self._counted, self._net, self._law

    @property
    def _drawing(self) -> NetworkLaw:
        """What rows are drawn from."""
        return self._fitted[2]

    def _draw(self, rows: int, rng: np.random.Generator) -> Mapping[str, Codes]:
        with threads(THREADS):
            return self._drawing.sample(rows, rng)

    def _draw_given(self, rows: int, conditions: Conditions, rng: np.random.Generator) -> Drawn:
        law = self._drawing.given(conditions.allowed)
        with threads(THREADS):
            if conditions.balance is None:
                return Drawn(law.sample(rows, rng))
            return Drawn(*law.balanced(conditions.balance, rows, rng))

    def _complete(self, codes: Mapping[str, Codes], draws: int, rng: np.random.Generator) -> list[dict[str, Codes]]:
        with threads(THREADS):
            return self._drawing.completed(codes, draws, rng)

    def _default_rows(self) -> int:
        return round(self._fitted[0].total)

    # ---------------------------------------------------------------------------------------------------------- save
    def _state(self) -> tuple[Arrays, dict[str, Any]]:
        counted, net, law = self._fitted
        packed = pack_counted(counted)
        weights = {f"net.{name}": v.cpu().numpy() for name, v in net.state_dict().items()}
        return {**packed["arrays"], **weights, "shift": law.shift.numpy()}, {"total": packed["total"]}

    def _restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        self._counted = unpack_counted(self.schema, {"arrays": arrays, "total": state["total"]})
        net = self._untrained(self._counted)
        net.load_state_dict({k: torch.from_numpy(arrays[f"net.{k}"]) for k in net.state_dict()})
        self._net = net.eval().requires_grad_(False)
        self._law = replace(self._plain_law(self._counted, net), shift=torch.from_numpy(arrays["shift"]))


class LatentGenerator(DeepGenerator):
    """A generator whose network is a `Sampler`: latents, and the logits they become."""

    @abstractmethod
    def _untrained(self, counted: Counted) -> Sampler:
        """As `DeepGenerator._untrained`."""

    def _plain_law(self, counted: Counted, net: nn.Module) -> LatentLaw:
        """As `DeepGenerator._plain_law`, of a `Sampler`."""
        sampler, pool = cast(Sampler, net.to(self.device)), np.random.default_rng(0)
        return LatentLaw.of(counted.axes, lambda rows, rng: sampler.latents(rows, rng).to(self.device), sampler, pool)


def pack_counted(counted: Counted) -> dict[str, Any]:
    """{"arrays", "total"}, to be saved."""
    shares = {f"shares{i}": s for i, s in enumerate(counted.shares)}
    return {"arrays": {**pack_axes(counted.axes), **shares}, "total": counted.total}


def unpack_counted(schema: Schema, tree: Mapping[str, Any]) -> Counted:
    """Undo `pack_counted`."""
    axes = unpack_axes(schema, tree["arrays"])
    shares = tuple(np.asarray(tree["arrays"][f"shares{i}"]) for i in range(len(axes)))
    return Counted(tuple(axes), shares, float(tree["total"]))


class Losses:
    """The mean losses of a training that is not private, and whether they still fall.

    Attributes:
      smooth: mean of the last PATIENCE losses, NaN before the first.
    """

    def __init__(self) -> None:
        self._seen: list[float] = []

    @property
    def smooth(self) -> float:
        """Mean of the last PATIENCE losses, NaN before the first."""
        return float(np.mean(self._seen[-PATIENCE:])) if self._seen else math.nan

    def settled(self, loss: float) -> bool:
        """Take in the loss of one more batch; whether the last PATIENCE were hardly better than those before."""
        self._seen.append(loss)
        if len(self._seen) < 2 * PATIENCE or len(self._seen) % (PATIENCE // 10):
            return False
        before, now = np.mean(self._seen[-2 * PATIENCE : -PATIENCE]), np.mean(self._seen[-PATIENCE:])
        return bool(before - now < BETTER * abs(before))


class Ending:
    """Where a training that is not private ends.

    Attributes:
      last: steps in all, fewer once the loss has settled.
    """

    def __init__(self, steps: int) -> None:
        self.last, self._cooling = steps, max(1, min(COOLING, steps // 4))

    def settle(self, done: int) -> None:
        """After `done` steps the loss falls no more: only the cooling is left."""
        self.last = min(self.last, done + self._cooling)

    def cooled(self, factor: Callable[[int], float]) -> Callable[[int], float]:
        """`factor` of the learning rate by step, falling to 0 over the cooling."""
        return lambda number: factor(number) * min(1.0, (self.last - number) / self._cooling)


def _left(steps: int, share: float) -> str:
    left = steps - round(share * steps)
    return f"{left} step{'s' * (left != 1)} left"


def _as_sum(spend: Spend) -> Spend:
    """The clipped sum over all rows that costs the rho of a histogram."""
    event = spend.event
    if not isinstance(event, DiscreteGaussianDpEvent):
        raise UsageError(f"{spend.label!r} is not priced as a histogram.")
    return Spend(spend.label, PoissonSampledDpEvent(1.0, GaussianDpEvent(event.sigma / event.sensitivity)), spend.count)


def charged_sum(plan: Plan, label: str) -> PoissonSampledDpEvent:
    """The event under which `plan` charges a clipped sum."""
    event = next(s.event for s in plan.spends if s.label == label)
    if not isinstance(event, PoissonSampledDpEvent) or not isinstance(event.event, GaussianDpEvent):
        raise UsageError(f"{label!r} is not charged as a sum.")
    return event


@contextmanager
def seeded(random_state: int | None) -> Iterator[None]:
    """Inside, torch's own chance (initialisation, latents of a training) repeats for a `random_state`; its state is put
    back afterwards. Privacy noise and Poisson draws never come from it.
    """
    seed = int(np.random.default_rng(random_state).integers(2**62))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def between(name: str, value: float, low: float, high: float) -> float:
    """`value` if it is a number above `low` and at most `high`; raises UsageError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
        raise UsageError(f"{name} must be a number above {low:g} and at most {high:g}.")
    return float(value)


def _known(device: str) -> str:
    """`device` if torch knows it; raises UsageError otherwise."""
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise UsageError("device must be one of torch's, such as 'cpu' or 'cuda'.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is 'cuda', but torch finds no such device here: use 'cpu'.")
    return str(device)
