"""Critics for a private GAN side by side: `ctgan`'s own, and the classic one under each of four regularisers.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/critics.py --table randhie --data ../shared/data \
        --evaluator ../shared/tools/evaluate.py --epsilon 1 --fits 1

The classic critic is a network of one-hot cells -> 128 -> 128 -> 1 (leaky ReLU). A real row's gradient is clipped and
noised (`sgd.Descent`), a made-up row's clipped to the same length; the generator is `ctgan`'s network with
straight-through Gumbel-softmax outputs, without conditions, its weights averaged, its columns matched to the charged
one-way counts. Cells, counts and budget are `ctgan`'s as well. No regulariser sees a real row. Options of a variant
follow a colon: "spectral:bound=2,critic_rate=0.001". Processor seconds are of the fit alone, all threads together.
Budgets are finite: without privacy the loop would stop by a loss that says nothing here.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from _common import Numbers, add_common, head, keep, line, mean, parse, row_count
from deep import TABLES, Source, opened

import tabveil as tv
from tabveil._torch import nn, torch
from tabveil.generators._deep import Counted, OneHot, Sampler
from tabveil.generators.base import Plan
from tabveil.generators.ctgan import CTGAN, HIDDEN, Network
from tabveil.mechanisms import PrivateRows
from tabveil.sgd import Average, Course, Descent

Tensor = torch.Tensor

SHOWN = ("auc", "tvd1", "tvd2", "tvd3", "fit_cpu_s", "fit_s")
OURS = "pairs"


@dataclass(frozen=True)
class Variant:
    """The classic game, and how its critic is held down.

    Attributes:
      logistic: the logistic loss; else Wasserstein's.
      hold: one of HOLDS.
      bound: of each layer's spectral norm, or of each weight.
      weight: of a penalty.
      steps, rate: noisy gradients of the critic, and the chance of a row to be in each.
      clip: of a row's gradient, real or made up.
      critic_rate, generator_rate: of both Adams at first; they fall evenly to a tenth.
      momentum: Adam's first beta, for both.
      critic_steps: to each of the generator's.
      made: made-up rows in a step of either.
      temperature: of Gumbel-softmax.
      decay: of the average of the generator's weights.
    """

    hold: str
    logistic: bool = False
    bound: float = 1.0
    weight: float = 1.0
    steps: int = 500
    rate: float = 0.08
    clip: float = 1.0
    critic_rate: float = 0.003
    generator_rate: float = 0.002
    momentum: float = 0.5
    critic_steps: int = 2
    made: int = 500
    temperature: float = 0.7
    decay: float = 0.99


VARIANTS = {
    "spectral": Variant("spectral"),
    "clipping": Variant("clipping", bound=0.1),
    "one-sided": Variant("one-sided"),
    "zero-centred": Variant("zero-centred", logistic=True, weight=0.3),
}


# -------------------------------------------------------------------------------------------------------------- critic
class MLPCritic(nn.Module):
    """Codes, shape (rows, columns) -> what the critic says of each row, shape (rows,)."""

    def __init__(self, counted: Counted, hidden: int = 128) -> None:
        super().__init__()
        self.one_hot = OneHot(counted.axes)
        widths = (self.one_hot.width, hidden, hidden, 1)
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(widths)])
        for layer, inputs in zip(self.layers, (len(counted.axes), hidden, hidden), strict=True):
            nn.init.normal_(layer.weight, std=inputs**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, codes: Tensor) -> Tensor:
        """Of real rows."""
        return self.traced(self.one_hot(codes))[0]

    def traced(self, hot: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Of one-hot rows: what it says, and every layer's inputs and outputs."""
        inputs, outputs = [hot], list[Tensor]()
        for layer in self.layers:
            outputs.append(layer(inputs[-1]))
            inputs.append(nn.functional.leaky_relu(outputs[-1], 0.2))
        return outputs[-1][:, 0], inputs[:-1], outputs


def clipped_mean(critic: MLPCritic, hot: Tensor, losses: Callable[[Tensor], Tensor], clip: float) -> Tensor:
    """A mean of losses of made-up rows, each weighing so little that its gradient is at most `clip` long."""
    said, inputs, outputs = critic.traced(hot)
    lost = losses(said)
    signals = torch.autograd.grad(lost.sum(), outputs, retain_graph=True)
    pairs = zip(inputs, signals, strict=True)
    squared = torch.stack([(a.detach().square().sum(1) + 1) * g.square().sum(1) for a, g in pairs]).sum(0)
    return ((clip / squared.sqrt().clamp(min=1e-12)).clamp(max=1.0) * lost).mean()


def slopes(critic: MLPCritic, hot: Tensor) -> Tensor:
    """Squared length of the critic's gradient by each row's cells, shape (rows,)."""
    at = hot.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic.traced(at)[0].sum(), at, create_graph=True)
    return slope.square().sum(1)


def one_sided(critic: MLPCritic, hot: Tensor) -> Tensor:
    """Slopes above 1 between made-up rows (Gulrajani et al. 2017; Petzka, Fischer, Lukovnikov 2018)."""
    first, second = hot.chunk(2)
    share = torch.rand(len(first), 1)
    length = slopes(critic, share * first + (1 - share) * second).clamp(min=1e-12).sqrt()
    return (length - 1).clamp(min=0).square().mean()


def zero_centred(critic: MLPCritic, hot: Tensor) -> Tensor:
    """Any slope at made-up rows (Mescheder, Geiger, Nowozin 2018, R2)."""
    return slopes(critic, hot[: len(hot) // 2]).mean() / 2


class Spectral:
    """Layers scaled down to a spectral norm of at most `bound` (Miyato et al. 2018): one power iteration a step."""

    def __init__(self, critic: MLPCritic, bound: float) -> None:
        self._weights, self._bound = [layer.weight for layer in critic.layers], bound
        self._left = [torch.randn(len(w)) for w in self._weights]

    def __call__(self) -> None:
        """Iterate and scale."""
        with torch.no_grad():
            for i, weight in enumerate(self._weights):
                right = nn.functional.normalize(weight.T @ self._left[i], dim=0)
                across = weight @ right
                self._left[i] = nn.functional.normalize(across, dim=0)
                weight *= min(1.0, self._bound / max(float(across.norm()), 1e-12))


class Clipping:
    """No weight beyond `bound` (Arjovsky, Chintala, Bottou 2017)."""

    def __init__(self, critic: MLPCritic, bound: float) -> None:
        self._weights, self._bound = [layer.weight for layer in critic.layers], bound

    def __call__(self) -> None:
        """Clip."""
        with torch.no_grad():
            for weight in self._weights:
                weight.clamp_(-self._bound, self._bound)


PENALTIES: dict[str, Callable[[MLPCritic, Tensor], Tensor]] = {"one-sided": one_sided, "zero-centred": zero_centred}
PROJECTIONS: dict[str, Callable[[MLPCritic, float], Callable[[], None]]] = {"spectral": Spectral, "clipping": Clipping}
HOLDS = (*PROJECTIONS, *PENALTIES)


# ---------------------------------------------------------------------------------------------------------------- game
class Duel:
    """What both players do on made-up rows: post-processing."""

    def __init__(self, variant: Variant, net: Network, critic: MLPCritic, sizes: Sequence[int]) -> None:
        self.variant, self.net, self.critic, self._sizes = variant, net, critic, list(sizes)
        self._project = PROJECTIONS[variant.hold](critic, variant.bound) if variant.hold in PROJECTIONS else None
        betas = (variant.momentum, 0.99)
        self.optimizer = torch.optim.Adam(critic.parameters(), lr=variant.critic_rate, betas=betas)
        self._own = torch.optim.Adam(net.parameters(), lr=variant.generator_rate, betas=betas)
        self._average = Average(net, decay=variant.decay)

    def losses(self, said: Tensor) -> Tensor:
        """Of rows that ought to score high: real ones for the critic, made-up ones for the generator."""
        return nn.functional.softplus(-said) if self.variant.logistic else -said

    def falling(self, number: int) -> float:
        """A factor of learning rates by the critic's step: 20 to warm up, then evenly down to a tenth."""
        return min(1.0, (number + 1) / 20) * (1 - 0.9 * number / self.variant.steps)

    def rows(self) -> Tensor:
        """Made-up rows, one-hot, shape (made, cells); gradients pass straight through the draws."""
        latents = torch.zeros(self.variant.made, self.net.noise + self.net.cells)
        latents[:, : self.net.noise] = torch.randn(self.variant.made, self.net.noise)
        parts = torch.split(self.net(latents), self._sizes, dim=1)
        drawn = [nn.functional.gumbel_softmax(p, tau=self.variant.temperature, hard=True) for p in parts]
        return torch.cat(drawn, 1)

    def public(self, number: int) -> Tensor:
        """The critic's loss on made-up rows, and a penalty where there is one."""
        with torch.no_grad():
            hot = self.rows()
        loss = clipped_mean(self.critic, hot, lambda said: self.losses(-said), self.variant.clip)
        penalty = PENALTIES.get(self.variant.hold)
        return loss if penalty is None else loss + self.variant.weight * penalty(self.critic, hot)

    def after(self, number: int) -> None:
        """A projection, and where it is its turn a step of the generator."""
        if self._project is not None:
            self._project()
        if number >= 20 and number % self.variant.critic_steps == 0:
            self._step(self.variant.generator_rate * self.falling(number))

    def _step(self, rate: float) -> None:
        for group in self._own.param_groups:
            group["lr"] = rate
        self._own.zero_grad()
        self.losses(self.critic.traced(self.rows())[0]).mean().backward()
        self._own.step()
        self._average.update()

    def settle(self) -> Network:
        """The generator with its averaged weights."""
        self._average.copy_to(self.net)
        return self.net


class Classic(CTGAN):
    """`ctgan` with a network for a critic; charged, counted, matched and sampled as it is."""

    guarantee: ClassVar[str] = CTGAN.guarantee

    def __init__(self, variant: Variant, **options: Any) -> None:
        super().__init__(steps=variant.steps, rate=variant.rate, **options)
        self._variant = variant

    def _trained(self, rows: PrivateRows, plan: Plan, counted: Counted) -> Sampler:
        schedule, critic = self._training(plan, counted), MLPCritic(counted)
        duel = Duel(self._variant, Network(self.noise, self.hidden or HIDDEN, counted.flat), critic, counted.sizes)
        descent = Descent(
            critic,
            rows,
            schedule=schedule,
            clip=self._variant.clip,
            expected_units=self._expected_units(counted, schedule),
            losses=lambda codes: duel.losses(critic(codes)),
        )
        self._run(descent, Course(duel.optimizer, factor=duel.falling, public=duel.public, after=duel.after))
        return duel.settle()


# ----------------------------------------------------------------------------------------------------------- measuring
def made(text: str, arguments: argparse.Namespace) -> CTGAN:
    """The generator of a variant by its name and options."""
    name, options = parse(text)
    common = {"epsilon": arguments.epsilon, "delta": arguments.delta, "random_state": arguments.random_state}
    return CTGAN(**common, **options) if name == OURS else Classic(replace(VARIANTS[name], **options), **common)


class Scorer:
    """The fixed evaluator's classifier and distances on one table, and nothing else of it: the rest takes longer."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        os.environ["EVAL_DATA"] = str(Path(arguments.data).resolve())
        spec = importlib.util.spec_from_file_location("evaluator", arguments.evaluator)
        if spec is None or spec.loader is None:
            raise SystemExit(f"{arguments.evaluator} is no Python file")
        self._evaluator = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._evaluator)
        self._meta, self._train, self._test, self._read = self._evaluator.load(arguments.table)

    def __call__(self, csv: Path) -> Numbers:
        """Scores of the rows at `csv`."""
        rows = self._read(csv).iloc[: len(self._train)]
        told = self._evaluator.tstr(rows, self._test, self._train, self._meta)
        return {**told, **self._evaluator.marginals(self._train, self._test, rows, self._meta)}


def measured(arguments: argparse.Namespace, source: Source, text: str, score: Scorer) -> Numbers:
    """One fit and its scores."""
    generator, ledger = made(text, arguments), tv.Ledger(":memory:")
    ledger.open("benchmark", epsilon=arguments.epsilon, delta=arguments.delta)
    start, busy = time.perf_counter(), time.process_time()
    generator.fit(source.table, tv.Schema.from_yaml(source.schema), ledger=ledger, dataset="benchmark")
    spent = {"fit_s": time.perf_counter() - start, "fit_cpu_s": time.process_time() - busy}
    with tempfile.TemporaryDirectory() as folder:
        csv = Path(folder) / "synthetic.csv"
        generator.sample(row_count(source.table)).to_csv(csv, index=False)
        source.published(csv)
        return {**spent, **score(csv)}


def kept(arguments: argparse.Namespace, text: str, numbers: Numbers) -> Numbers:
    """`numbers`, after one line of JSON of them, the variant's settings among it."""
    name, options = parse(text)
    settings = options if name == OURS else asdict(replace(VARIANTS[name], **options))
    keep(arguments, {"table": arguments.table, "epsilon": arguments.epsilon, "variant": text, **settings, **numbers})
    return numbers


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--table", choices=TABLES, default="randhie")
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--fits", type=int, default=1)
    parser.add_argument("--variants", nargs="+", default=[OURS, *VARIANTS], help=f"{OURS}, {', '.join(VARIANTS)}")
    arguments = parser.parse_args()
    if not math.isfinite(arguments.epsilon):
        parser.error("--epsilon must be finite")
    head("table", "critic", "epsilon", "fits", *SHOWN)
    score = Scorer(arguments)
    with opened(arguments.table, arguments.data) as source:
        for text in arguments.variants:
            results = [kept(arguments, text, measured(arguments, source, text, score)) for _ in range(arguments.fits)]
            cells = (mean(results, key) for key in SHOWN)
            line(arguments.table, text, f"{arguments.epsilon:g}", len(results), *cells)


if __name__ == "__main__":
    main()
