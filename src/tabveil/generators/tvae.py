"""TVAE: a variational autoencoder over the cells of columns (Kingma & Welling 2014; Xu, Skoularidou, Cuesta-Infante,
Veeramachaneni 2019, "Modeling Tabular Data using Conditional GAN", section 4.4), its encoder and its decoder trained by
DP-SGD.

Unlike the paper, numbers are cells with atoms for heavy values, learned under the same budget, and one softmax per
column says how likely each is: there is no mixture fitted to rows, and no decoder variance beside it. A row's loss is
its own cross-entropy and its own divergence: nothing of another row is in it, and its latent is its own draw.

Noise takes a weight of the divergence below 1, and then what the encoder makes of rows is far from standard normal:
latents drawn from that would fall between those which the decoder knows. They are drawn from a mixture of normal laws
instead (Tomczak & Welling 2018 learn such a prior with the rest; noise would drown it). Its parts come from the model's
own rows, sent through the encoder; one charged sum over the real rows' latents says how many fall into each part, and
where (`_mixture`). Without privacy the mixture has more parts, fitted to the rows' latents themselves.

Privacy: charged histograms, one charged training of all parameters, encoder and decoder (`_deep`), and one charged sum
of bounded vectors. Everything else is post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tabveil._torch import nn, torch
from tabveil.encoding import Floats
from tabveil.generators._deep import Counted, LatentGenerator, OneHot, Sampler, between, charged_sum
from tabveil.generators._mixture import COMPONENTS, PLAIN_COMPONENTS, Mixture, collected, measured
from tabveil.generators.base import Form, Plan, Progress, whole
from tabveil.latents import LatentLaw
from tabveil.mechanisms import PrivateRows
from tabveil.sgd import Average, Course, Descent, warm_up

Tensor = torch.Tensor

CLIP = 1.0
"""Longest gradient of a unit. Adam makes its size almost indifferent as long as nearly all gradients are longer."""

HIDDEN, MOST_HIDDEN, PLAIN_HIDDEN = 64, 256, 192
"""Width of the hidden layers up to epsilon 1 (it grows with its root), the most, and without privacy."""

LEARNING_RATE, PLAIN_LEARNING_RATE = 0.01, 0.002
"""Of Adam, private and not."""

WARM_UP = 20
"""Steps over which the learning rate rises."""

STEPS, MOST_STEPS, PLAIN_STEPS = 400, (10, 1_500), 800
"""Noisy gradients at epsilon 1 (they grow with its root), least and most of them, and most without privacy."""

LATENT, PLAIN_LATENT = 16, 24
"""Width of the latent, private and not."""

KL_WEIGHT, PLAIN_KL_WEIGHT = 0.3, 0.3
"""Weight of the divergence: 1 is the evidence lower bound; less keeps the latent in use where there is noise, and says
more of rows where there is none, since latents are not drawn from the standard normal law.
"""

DECAY = 0.99
"""Of the average of weights."""

BETAS = (0.9, 0.99)
"""Of Adam."""

ANNEALED = 0.3
"""The share of the steps over which the weight of the divergence rises to its full size (Bowman et al. 2016)."""

WALKERS = 4_096
"""Made-up rows whose latents the mixture is first fitted to."""

WALKS = 2
"""How often they go through decoder and encoder: away from the standard normal law, towards what rows look like."""

AS_IT_IS: Form[Mapping[str, Any]] = (dict, dict)
"""The form of what is a tree already."""

SETTLING = "latents"
"""Label of the charged sum over the rows' latents."""

LOG_DEVIATIONS = (-6.0, 2.0)
"""Least and greatest logarithm of a latent's standard deviation."""


class Decoder(Sampler):
    """Latents -> logits of all cells: a hidden layer, a residual one, and the output, whose biases start as the charged
    one-way shares.
    """

    def __init__(self, latent: int, hidden: int, shares: Tensor, components: int) -> None:
        super().__init__()
        self.prior = Mixture(latent, components)
        self.first, self.second = nn.Linear(latent, hidden), nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, len(shares))
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.copy_(torch.log(shares))

    def latents(self, rows: int, rng: np.random.Generator) -> Tensor:
        """Draws from the mixture."""
        return self.prior.draw(rows, rng)

    def forward(self, latents: Tensor) -> Tensor:
        """Shape (rows, latent) -> (rows, cells)."""
        hidden = nn.functional.silu(self.first(latents))
        hidden = hidden + nn.functional.silu(self.second(hidden))
        logits: Tensor = self.out(hidden)
        return logits


class Autoencoder(nn.Module):
    """Codes -> the loss of each row.

    Attributes:
      decoder: what is kept.
      weight: of the divergence, meanwhile.
    """

    shares: Tensor

    def __init__(self, counted: Counted, *, latent: int, hidden: int, components: int) -> None:
        super().__init__()
        self.sizes, self.weight = list(counted.sizes), 0.0
        self.one_hot = OneHot(counted.axes)
        self.register_buffer("shares", counted.flat)
        self.first, self.second = nn.Linear(self.one_hot.width, hidden), nn.Linear(hidden, 2 * latent)
        self.decoder = Decoder(latent, hidden, counted.flat, components)

    def forward(self, codes: Tensor) -> Tensor:
        """Negative evidence lower bound of each row, shape (rows,), the divergence weighted."""
        cells = self.one_hot(codes)
        mean, spread = self.posterior(cells)
        latents = mean + torch.exp(spread) * torch.randn_like(mean)
        divergence = (0.5 * (mean.square() + torch.exp(2 * spread) - 1) - spread).sum(1)
        loss: Tensor = self._surprise(self.decoder(latents), cells) + self.weight * divergence
        return loss

    def posterior(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation of each row's latent, shape (rows, latent) each, by one-hot cells."""
        mean, spread = self.second(nn.functional.silu(self.first(cells - self.shares))).chunk(2, 1)
        return mean, (spread - 1.0).clamp(*LOG_DEVIATIONS)

    def latents(self, codes: Tensor) -> Tensor:
        """One latent for each row of codes, shape (rows, latent), by that row alone."""
        with torch.no_grad():
            mean, spread = self.posterior(self.one_hot(codes))
            return mean + torch.exp(spread) * torch.randn_like(mean)

    def own_latents(self, law: LatentLaw, shares: Sequence[Floats], rng: np.random.Generator) -> Tensor:
        """What the encoder makes of the decoder's own rows, shape (WALKERS, latent).

        Args:
          law: of the decoder.
          shares: of every column's cells, to which the rows are matched.
          rng: draws the rows.
        """
        latents, starts = law.latents(WALKERS, rng), np.cumsum([0, *self.sizes[:-1]])[:, None]
        for _ in range(WALKS):
            law = replace(law, pool=latents).matched(shares, steps=10)
            cells = torch.from_numpy(law.cells(latents, rng) + starts).to(latents.device)
            hot = latents.new_zeros(WALKERS, sum(self.sizes)).scatter_(1, cells.T, 1.0)
            with torch.no_grad():
                mean, spread = self.posterior(hot)
            latents = mean + torch.exp(spread) * torch.from_numpy(rng.standard_normal(mean.shape)).to(mean)
        return latents

    def _surprise(self, logits: Tensor, cells: Tensor) -> Tensor:
        """Cross-entropy of each row, added up over the columns."""
        whole = torch.stack([torch.logsumexp(part, 1) for part in torch.split(logits, self.sizes, dim=1)], 1)
        return whole.sum(1) - (logits * cells).sum(1)


class TVAE(LatentGenerator):
    """A variational autoencoder under DP-SGD.

    Args:
      latent: width of the latent, from 1 to 512; LATENT or PLAIN_LATENT where nobody says.
      kl_weight: of the divergence from the standard normal latent, above 0 and at most 10; a small one where noise is
        large, since at 1 the decoder would learn to ignore its latent.

    Others as `DeepGenerator`.
    """

    guarantee: ClassVar[str] = "Charged noisy histograms of columns, then an autoencoder trained by DP-SGD."

    sums: ClassVar[Mapping[str, float]] = MappingProxyType({SETTLING: 0.08})
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"steps": 12, "hidden": 16})

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
        latent: int | None = None,
        kl_weight: float | None = None,
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
        self.latent = None if latent is None else whole("latent", latent, 1, 512)
        self.kl_weight = None if kl_weight is None else between("kl_weight", kl_weight, 0.0, 10.0)

    @property
    def _steps(self) -> int:
        return self.steps or steps_for(self.epsilon)

    @property
    def _hidden(self) -> int:
        return self.hidden or hidden_for(self.epsilon)

    @property
    def _learning_rate(self) -> float:
        return self.learning_rate or (LEARNING_RATE if math.isfinite(self.epsilon) else PLAIN_LEARNING_RATE)

    @property
    def _latent(self) -> int:
        return self.latent or (LATENT if math.isfinite(self.epsilon) else PLAIN_LATENT)

    @property
    def _components(self) -> int:
        return COMPONENTS if math.isfinite(self.epsilon) else PLAIN_COMPONENTS

    def _untrained(self, counted: Counted) -> Sampler:
        return Decoder(self._latent, self._hidden, counted.flat, self._components)

    def _trained(self, rows: PrivateRows, plan: Plan, counted: Counted) -> Sampler:
        schedule = self._training(plan, counted)
        net = Autoencoder(counted, latent=self._latent, hidden=self._hidden, components=self._components)
        net = net.to(self.device)
        full = self.kl_weight or weight_for(self.epsilon)

        def anneal(step: int) -> None:
            net.weight = full * min(1.0, (step + 1) / max(1.0, ANNEALED * schedule.steps))

        anneal(0)
        average = Average(net, decay=DECAY)
        optimizer = torch.optim.Adam(net.parameters(), lr=self._learning_rate, betas=BETAS)
        course = Course(optimizer, factor=warm_up(WARM_UP), average=average, after=anneal)
        expected = self._expected_units(counted, schedule)
        self._run(Descent(net, rows, schedule=schedule, clip=CLIP, expected_units=expected), course)
        average.copy_to(net)
        net.decoder.prior.load_state_dict(
            self._kept(SETTLING, lambda: self._settle(net, rows, plan, counted), AS_IT_IS)
        )
        return net.decoder

    def _settle(self, net: Autoencoder, rows: PrivateRows, plan: Plan, counted: Counted) -> dict[str, Any]:
        """Let the decoder draw its latents where the rows' are: by the model's own rows, and one charged sum; by the
        rows' latents themselves where nothing is private.
        """
        self._tell("settling latents", 0.0)
        prior, rng = net.decoder.prior, np.random.default_rng(self.random_state)
        if plan.private:
            prior.fit(net.own_latents(self._plain_law(counted, net.decoder), counted.shares, rng), rng)
            noise = float(charged_sum(plan, SETTLING).event.noise_multiplier)
            prior.correct(measured(prior, net.latents, rows, label=SETTLING, noise=noise))
        else:
            prior.fit(collected(prior, net.latents, rows, label=SETTLING, expected=counted.total), rng)
        self._tell("settling latents", 1.0)
        return prior.state_dict()


def steps_for(epsilon: float) -> int:
    """Noisy gradients that epsilon is worth: with less of it, fewer and less noisy ones teach more."""
    return PLAIN_STEPS if math.isinf(epsilon) else int(np.clip(round(STEPS * math.sqrt(epsilon)), *MOST_STEPS))


def hidden_for(epsilon: float) -> int:
    """Width that epsilon is worth: every weight more is one more coordinate of noise."""
    if math.isinf(epsilon):
        return PLAIN_HIDDEN
    return int(np.clip(round(HIDDEN * math.sqrt(epsilon)), HIDDEN, MOST_HIDDEN))


def weight_for(epsilon: float) -> float:
    """Weight of the divergence."""
    return PLAIN_KL_WEIGHT if math.isinf(epsilon) else KL_WEIGHT
