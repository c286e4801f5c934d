"""What a private step costs beside a plain one, ours and opacus', in one run.

    .venv/bin/python benchmarks/sgd.py [--rounds 40] [--threads 1]

A critic of 160-256-256-1 on one-hot rows under Adam, whole steps: drawing the batch, gradient, clip, noise, optimiser.
Each round takes one step of every kind, in turn, so that whatever else the machine does meets all of them alike. For
each kind: median ms on the clock, least ms on the clock, median ms of processor time of the calling thread (which other
jobs do not inflate; our noise is drawn by another thread meanwhile, and is not in it) and of the whole process, each
beside its ratio to the plain step's.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import nn

from tabveil.columns import Integer
from tabveil.ledger import Ledger
from tabveil.mechanisms import PrivateRows
from tabveil.schema import Schema
from tabveil.sgd import Course, Descent, Schedule, threads
from tabveil.tables import open_table

ROWS, COLUMNS, WIDTH = 26_049, 10, 16
Step = Callable[[], object]


def critic() -> nn.Sequential:
    """The peers' shape: 160-256-256-1."""
    inputs = COLUMNS * WIDTH
    return nn.Sequential(nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))


def rows(codes: torch.Tensor) -> torch.Tensor:
    """Codes as one-hot inputs, shape (rows, 160)."""
    out = torch.zeros(len(codes), COLUMNS * WIDTH)
    return out.scatter_(1, codes + torch.arange(COLUMNS) * WIDTH, 1.0)


def plain(codes: np.ndarray, batch: int) -> Step:
    """A step without privacy, on rows drawn by numpy."""
    net, rng = critic(), np.random.default_rng(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def step() -> None:
        chosen = torch.from_numpy(codes[rng.integers(0, ROWS, batch)])
        optimizer.zero_grad()
        net(rows(chosen)).mean().backward()
        optimizer.step()

    return step


def ours(codes: np.ndarray, batch: int, *, private: bool) -> Step:
    """A step of `tabveil.sgd`, at noise 1 or at epsilon inf."""
    net = critic()
    schema = Schema(columns=tuple(Integer(name=f"c{i}", low=0, high=WIDTH - 1) for i in range(COLUMNS)))
    schedule = Schedule("steps", batch / ROWS, 100_000, 1.0 if private else 0.0)
    ledger = Ledger(":memory:")
    ledger.open("t", epsilon=1e4, delta=1e-5)
    frame = pd.DataFrame(codes, columns=[c.name for c in schema.columns])
    paid = ledger.charge("t", schedule.spends, label="steps") if private else None
    behind = PrivateRows(open_table(frame), schema, paid or _uncharged())
    training = Descent(net, behind, schedule=schedule, clip=1.0, expected_units=batch,
                       losses=lambda x: net(rows(x)).squeeze(1))  # fmt: skip
    course = Course(torch.optim.Adam(net.parameters(), lr=1e-4))
    return lambda: course.step(training, 0)


def _uncharged() -> object:
    from tabveil.ledger import Receipt

    return Receipt.uncharged()


def opacus(codes: np.ndarray, batch: int, *, ghost: bool) -> Step:
    """A step of opacus 1.6 with its default hooks, or in ghost mode; its noise is torch's."""
    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    rng = np.random.default_rng(0)
    settings = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": batch}
    net = GradSampleModuleFastGradientClipping(critic(), max_grad_norm=1.0) if ghost else GradSampleModule(critic())
    kind = DPOptimizerFastGradientClipping if ghost else DPOptimizer
    optimizer = kind(torch.optim.Adam(net.parameters(), lr=1e-4), **settings)
    criterion = DPLossFastGradientClipping(net, optimizer, _Mean()) if ghost else None

    def step() -> None:
        chosen = torch.from_numpy(codes[rng.integers(0, ROWS, batch)])
        optimizer.zero_grad()
        out = net(rows(chosen))
        loss = criterion(out, out) if criterion is not None else out.mean()
        loss.backward()
        optimizer.step()

    return step


class _Mean:
    """The critic's loss in the form that opacus' ghost mode asks for."""

    reduction = "mean"

    def __call__(self, out: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return out.squeeze(1) if self.reduction == "none" else out.mean()


def measured(steps: dict[str, Step], rounds: int) -> dict[str, np.ndarray]:
    """Of `rounds` steps of each kind, one of each in turn after two to warm up: ms by clock, thread and process."""
    clocks = (time.perf_counter, time.thread_time, time.process_time)
    taken: dict[str, list[list[float]]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, step in steps.items():
            starts = [clock() for clock in clocks]
            step()
            taken[name].append([1e3 * (clock() - start) for clock, start in zip(clocks, starts, strict=True)])
    return {name: np.asarray(values[2:]) for name, values in taken.items()}


def summary(taken: np.ndarray) -> np.ndarray:
    """Median and least clock time, median thread and process time."""
    return np.array([np.median(taken[:, 0]), taken[:, 0].min(), *np.median(taken[:, 1:], axis=0)])


def main() -> None:
    """Print one table for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without-hooks", action="store_true", help="leave out what takes a second per step")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    codes = np.random.default_rng(1).integers(0, WIDTH, (ROWS, COLUMNS))
    with threads(asked.threads):
        for batch in (500, 2_000):
            steps = {
                "plain": plain(codes, batch),
                "sgd, epsilon inf": ours(codes, batch, private=False),
                "sgd, private": ours(codes, batch, private=True),
                "opacus, ghost mode": opacus(codes, batch, ghost=True),
            }
            if not asked.without_hooks:
                steps["opacus, hooks"] = opacus(codes, batch, ghost=False)
            taken = measured(steps, asked.rounds)
            print(f"batch {batch}, {asked.threads} thread(s), {asked.rounds} rounds")
            for name, values in taken.items():
                found = summary(values)
                pairs = zip(found, found / summary(taken["plain"]), strict=True)
                print(f"| {name} | " + " | ".join(f"{ms:.1f} ({ratio:.2f})" for ms, ratio in pairs) + " |")


if __name__ == "__main__":
    main()
