"""The one DP-SGD loop: Poisson batches, per-unit clipping, noise, under one charge fixed before the first row.

    schedule = Schedule.solved("critic", rate=0.05, steps=1_000, epsilon=1.0, delta=1e-6)   # the price, no data
    receipt = ledger.charge(dataset, schedule.spends, label="fit")                          # paid
    rows = PrivateRows(table, schema, receipt)                                              # not read yet
    descent = Descent(net, rows, schedule=schedule, losses=losses, clip=1.0, expected_units=0.05 * public_rows)
    train(descent, Course(torch.optim.Adam(net.parameters())))

One step draws every unit by a coin of its own (never a fixed size, never a cap; an empty draw steps with noise alone),
sums the units' clipped gradients, adds noise, and divides by the expected number of units, a public number: the real
one is told to nobody (Abadi et al. 2016; Bie, Kamath, Zhang 2023). docs/sgd.md tells an auditor the same, line by line.

Privacy: neighbouring tables differ in one unit: a row, or a person with at most k rows, drawn together and clipped as
one, so that k is no factor. One step is PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), charged `steps` times as
one Spend; each step takes one of these from the receipt and gets its noise and rate from it, so no step runs that was
not paid for and none with less noise (UnchargedError). Everything after the noisy gradient (optimiser, learning rate,
averages, public terms, checkpoints) is post-processing. Nothing else of the rows comes out: no loss, no batch size, and
nothing to stop early by or to choose among checkpoints with.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent
from numpy.typing import NDArray

from tabveil import accounting
from tabveil._sgd_apart import check_rows_apart
from tabveil._sgd_checkpoints import Checkpoints, Stateful
from tabveil._sgd_clipping import Clipper, Losses
from tabveil._torch import Tensor, nn, torch
from tabveil.accounting import Spend
from tabveil.errors import UnchargedError, UsageError
from tabveil.mechanisms import PrivateRows
from tabveil.units import ClippedSum

__all__ = ["Average", "Checkpoints", "Course", "Descent", "Schedule", "Stateful", "threads", "train", "warm_up"]

THREADS = 1
"""Measured: beside another job on the same cores two threads can take many times as long as one (benchmarks/sgd.py)."""

MOST_UNITS = 4096
"""Units whose gradients are summed at a time: memory, nothing else, depends on it."""


@dataclass(frozen=True)
class Schedule:
    """What is charged for a training, fixed before the first row is read.

    Attributes:
      label: of the charge.
      rate: the chance of each unit to be in a batch, in (0, 1]; public, never a function of the private row count.
      steps: how many noisy gradients there will be at most, from 1.
      noise: the noise multiplier, standard deviation over clip, above 0; 0 where nothing is private.

    Raises:
      UsageError: a number out of range.
    """

    label: str
    rate: float
    steps: int
    noise: float

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UsageError("The sampling rate must be above 0 and at most 1.")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise UsageError("steps must be a whole number, 1 or more.")
        if not 0 <= self.noise < math.inf:
            raise UsageError("The noise multiplier must be a number, 0 (not private) or above.")

    @classmethod
    def solved(
        cls, label: str, *, rate: float, steps: int, epsilon: float, delta: float, beside: Sequence[Spend] = ()
    ) -> Schedule:
        """The least noise with which `steps` steps and `beside` together cost at most `epsilon` at `delta`.

        Args:
          label: of the charge.
          rate: as the attribute.
          steps: as the attribute.
          epsilon: above 0; inf gives no noise, and no privacy.
          delta: above 0 where epsilon is finite.
          beside: everything else the same fit charges for.

        Raises:
          UsageError: a number out of range, or `beside` alone costs too much.
        """
        plain = cls(label, rate, steps, 0.0)
        if math.isinf(epsilon):
            return plain
        if delta == 0:
            raise UsageError("Training with Gaussian noise needs a delta above 0: pure differential privacy has none.")

        def event(noise: float) -> DpEvent:
            return accounting.event_of([*beside, Spend(label, _event(rate, noise), steps)])

        return cls(label, rate, steps, accounting.calibrate(event, epsilon, delta))

    @property
    def private(self) -> bool:
        """Whether anything is promised."""
        return self.noise > 0

    @property
    def spends(self) -> tuple[Spend, ...]:
        """What the ledger is to charge: one line, one event, `steps` times; empty where nothing is private."""
        return (Spend(self.label, _event(self.rate, self.noise), self.steps),) if self.private else ()


def _event(rate: float, noise: float) -> DpEvent:
    event: DpEvent = PoissonSampledDpEvent(rate, GaussianDpEvent(noise))
    return event


class Descent:
    """Noisy gradients of one module, at most as many as were charged.

    Args:
      module: what is trained; see `Clipper` for which layers.
      rows: the private rows, behind the receipt that was charged for `schedule`.
      schedule: as charged.
      losses: codes, shape (rows, columns as schema.modelled), -> losses, shape (rows,), each by its row alone; by
        default the module itself. Chance inside must come from torch's default generator, each row's draws apart; a
        private step draws it anew from the operating system's entropy and puts the generator back (`secret_chance`).
      clip: the most that one unit's gradient counts, in L2 norm, above 0; ignored where nothing is private.
      expected_units: the expected number of units in a batch, rate times a public or charged count, above 0: the sum is
        divided by it.
      most_units: units whose gradients are taken at a time.

    Raises:
      UsageError: a number out of range, a layer that mixes rows or has no per-sample gradient, a loss that mixes rows
        or whose private gradient is not the plain one (`_sgd_apart`, on made-up rows).
    """

    def __init__(
        self,
        module: nn.Module,
        rows: PrivateRows,
        *,
        schedule: Schedule,
        clip: float,
        expected_units: float,
        losses: Losses | None = None,
        most_units: int = MOST_UNITS,
    ) -> None:
        if not 0 < clip < math.inf or not 0 < expected_units < math.inf or most_units < 1:
            raise UsageError("clip, expected_units and most_units must be numbers above 0.")
        self.module, self.schedule = module, schedule
        self._rows, self._expected = rows, float(expected_units)
        self._clipper = Clipper(module, losses or module)
        self._loss = math.nan
        check_rows_apart(module, losses or module, rows.widths)
        kept = clip if schedule.private else math.inf
        self._asked = ClippedSum(schedule.rate, kept, self._clipper.size, most_units, self._total)

    def __repr__(self) -> str:
        return f"Descent({self.schedule!r})"

    def claim(self, count: int) -> int:
        """How many of the next `count` steps may be taken; where the charge can be resumed they are spent from now."""
        return self._rows.claim(self.schedule.label, count)

    def gradient(self) -> None:
        """Set `.grad` of every trainable parameter to a fresh noisy mean gradient: one charged step.

        Raises:
          UnchargedError: every charged step has been taken, or another rate was charged.
          DataError: the table cannot be read, or is too large to be kept in memory as codes.
        """
        total = self._rows.noisy_sum(self._asked, label=self.schedule.label)
        like = self._clipper.parameters[0]
        self._clipper.assign(torch.from_numpy(total / self._expected).to(like.device, like.dtype))

    def add_public(self, loss: Tensor) -> None:
        """Add the gradient of a loss that no private row has touched, such as a critic's on generated rows."""
        parameters = self._clipper.parameters
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if g is not None:
                p.grad = g if p.grad is None else p.grad + g

    @property
    def loss(self) -> float:
        """Mean loss of the last batch, where nothing is private; NaN before the first.

        Raises:
          UnchargedError: in a private training, whose losses nobody has paid for.
        """
        if self.schedule.private:
            raise UnchargedError("The loss of private rows is not charged for: a private training does not tell it.")
        return self._loss

    def _total(self, codes: NDArray[np.int64], owners: NDArray[np.int64]) -> NDArray[np.float64]:
        if self.schedule.private:
            total = self._clipper.total(codes, owners, self._asked.clip)
        else:
            total, self._loss = self._clipper.plain(codes)
        return np.asarray(total.cpu().numpy(), dtype=np.float64)


class Average:
    """Exponential moving average of a module's parameters and buffers: less noise than the last ones, and free.

    Args:
      module: what is averaged.
      decay: weight of the past, in [0, 1); ramped up from 0 over the first steps, (1 + n) / (10 + n).
    """

    def __init__(self, module: nn.Module, *, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise UsageError("decay must be from 0 to below 1.")
        self._module, self._decay, self._updates = module, decay, 0
        self._values = {name: v.detach().clone() for name, v in module.state_dict().items()}

    def update(self) -> None:
        """Take in the module's present state."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates)) if self._updates else 0.0
        self._updates += 1
        for name, now in self._module.state_dict().items():
            if now.is_floating_point():
                self._values[name].lerp_(now.detach(), 1 - decay)
            else:
                self._values[name].copy_(now)

    def copy_to(self, module: nn.Module) -> None:
        """Give `module` the averaged state."""
        module.load_state_dict(self._values)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"values": self._values, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        self._updates = int(state["updates"])
        self._values = {k: v.to(self._values[k].device) for k, v in state["values"].items()}


def warm_up(steps: int) -> Callable[[int], float]:
    """A factor for the learning rate: rises evenly over the first `steps` steps, then 1."""
    return lambda step: min(1.0, (step + 1) / max(steps, 1))


@dataclass(frozen=True, eq=False)
class Course:
    """What is done with every noisy gradient: post-processing, whatever it is.

    Attributes:
      optimizer: any of torch's, on the module's parameters.
      factor: of the learning rate, by the number of the step, from 0.
      average: updated after each step.
      public: gives, by the number of the step, a loss whose gradient is added to the noisy one; must not look at rows.
      after: called with the number of the step once it is taken: generator steps, projections of weights.
      others: what else a checkpoint must hold, such as a generator and its optimiser.
      threads: of torch, meanwhile.
    """

    optimizer: torch.optim.Optimizer
    factor: Callable[[int], float] = field(default=lambda step: 1.0)
    average: Average | None = None
    public: Callable[[int], Tensor] | None = None
    after: Callable[[int], None] | None = None
    others: Mapping[str, Stateful] = field(default_factory=dict)
    threads: int = THREADS

    def __post_init__(self) -> None:
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def states(self, descent: Descent) -> dict[str, Stateful]:
        """Everything that has to survive a kill."""
        own: dict[str, Stateful] = {"module": descent.module, "optimizer": self.optimizer}
        if self.average is not None:
            own["average"] = self.average
        return {**self.others, **own}

    def step(self, descent: Descent, number: int) -> None:
        """One charged step and all that follows from it."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(number)
        descent.gradient()
        if self.public is not None:
            descent.add_public(self.public(number))
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        if self.after is not None:
            self.after(number)


def train(
    descent: Descent,
    course: Course,
    *,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[float], None] | None = None,
) -> int:
    """Take every step that is charged and not yet spent; go on where `checkpoints` have a state.

    Args:
      descent: what is trained, on which rows, at which price.
      course: what is done with the gradients.
      checkpoints: where states are kept. Steps are claimed in blocks, 1, 2, 4, ... up to `every`, and a state is saved
        after each: a kill loses less than the process had done since it started, and nothing is charged again.
      progress: told the share of steps taken, a public number.

    Returns:
      How many steps the trained module has behind it: all of the schedule's, fewer where claimed ones were lost.

    Raises:
      DataError: a damaged state.
      StorageError: a state cannot be written.
    """
    done = _restored(descent, course, checkpoints)
    steps = descent.schedule.steps
    most = steps if checkpoints is None else checkpoints.every or max(1, steps // 10)
    block = steps if checkpoints is None else 1
    with threads(course.threads):
        while claimed := descent.claim(min(block, most, steps - done)):
            for number in range(done, done + claimed):
                course.step(descent, number)
                if progress is not None:
                    progress((number + 1) / steps)
            done, block = done + claimed, 2 * block
            if checkpoints is not None:
                checkpoints.save(done, course.states(descent))
    return done


def _restored(descent: Descent, course: Course, checkpoints: Checkpoints | None) -> int:
    """Steps done by earlier processes, their state restored; a state of 0 steps is saved where there is none."""
    if checkpoints is None:
        return 0
    states = course.states(descent)
    saved = checkpoints.read()
    if saved is None:
        checkpoints.save(0, states)
        return 0
    done, trees = saved
    for name, state in states.items():
        state.load_state_dict(trees[name])
    return done


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch computes with `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
