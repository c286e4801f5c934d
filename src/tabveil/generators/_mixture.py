"""A mixture of normal laws over latents, fitted to made-up latents and corrected by one charged sum over real ones.

A mixture that a model's own latents suggest divides the space softly; how many of the rows' latents fall into each
part, their mean and their squares in it are one noisy sum: one step of the expectation-maximisation algorithm
(Dempster, Laird, Rubin 1977; with noisy sums Park, Foulds, Chaudhuri, Welling 2017, "DP-EM").

Privacy: one clipped sum over all units (unit: the schema's; add or remove one; L2 sensitivity the clip), charged as a
Poisson-sampled Gaussian event with rate 1. Everything before and after is post-processing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.mixture import GaussianMixture

from tabveil._sgd_clipping import secret_chance
from tabveil._torch import nn, torch
from tabveil.encoding import Floats
from tabveil.mechanisms import PrivateRows
from tabveil.units import ClippedSum

Tensor = torch.Tensor

COMPONENTS, PLAIN_COMPONENTS = 8, 64
"""Normal laws in a mixture, private and not: every one more is one more noisy mean."""

CLIP = 2.0
"""Longest vector of a unit; one row's is about sqrt(3) long."""

CLIP_MARGIN = 1 - 2.0**-8
"""What is clipped stays this far below: a unit more may move others' latents in the last bits of single precision,
which kernels compute by where a row stands."""

VARIANCES = (0.02, 4.0)
"""Least and greatest variance that a component may get."""

FARTHEST = 10.0
"""No latent is taken for farther than this in any direction, so that nothing a network makes can fail a fit."""

ITERATIONS = 25
"""Most steps of a fit to latents."""

MOST_LATENTS = 20_000
"""Real rows, in expectation, whose latents a mixture is fitted to where nothing is private."""

ROWS_PER_DIRECTION = 4
"""A component needs so many latents for each direction of the space; fewer are fitted where there are fewer."""


class Mixture(nn.Module):
    """Normal laws and their shares; standard normal at first.

    Args:
      width: of the latent.
      components: how many laws there are.

    Attributes:
      shares: shape (components,), summing to 1.
      means: shape (components, width).
      factors: shape (components, width, width), lower Cholesky factors of the covariances.
    """

    shares: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, width: int, components: int = COMPONENTS) -> None:
        super().__init__()
        self.register_buffer("shares", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, width))
        self.register_buffer("factors", torch.eye(width).repeat(components, 1, 1))

    @property
    def width(self) -> int:
        """Of the latent."""
        return int(self.means.shape[1])

    @property
    def components(self) -> int:
        """How many laws there are, some perhaps without a share."""
        return len(self.shares)

    def draw(self, rows: int, rng: np.random.Generator) -> Tensor:
        """Latents, shape (rows, width)."""
        ends = np.cumsum(self.shares.double().cpu().numpy())
        at = np.minimum(np.searchsorted(ends, rng.random(rows) * ends[-1], side="right"), self.components - 1)
        normal = torch.from_numpy(rng.standard_normal((rows, self.width), dtype=np.float32)).to(self.means.device)
        drawn, order = torch.empty_like(normal), np.argsort(at, kind="stable")
        for k, mine in enumerate(np.split(order, np.searchsorted(at[order], np.arange(1, self.components)))):
            spots = torch.from_numpy(mine).to(normal.device)
            drawn[spots] = self.means[k] + normal[spots] @ self.factors[k].T
        return drawn

    def parts(self, latents: Tensor) -> Tensor:
        """How likely each latent is to be of each component, shape (rows, components)."""
        logs = []
        for share, mean, factor in zip(self.shares, self.means, self.factors, strict=True):
            far = torch.linalg.solve_triangular(factor, (latents - mean).T, upper=False).square().sum(0)
            logs.append(torch.log(share) - 0.5 * far - torch.log(factor.diagonal()).sum())
        return torch.softmax(torch.stack(logs, 1), 1)

    def fit(self, latents: Tensor, rng: np.random.Generator) -> None:
        """Become the mixture that fits `latents`, shape (rows, width), best; nothing where there are none."""
        found = torch.nan_to_num(latents).clamp(-FARTHEST, FARTHEST).double().cpu().numpy()
        if len(found) < 2:
            return
        parts = int(np.clip(len(found) // (ROWS_PER_DIRECTION * self.width), 1, self.components))
        seed = int(rng.integers(2**31))
        fitted = GaussianMixture(parts, max_iter=ITERATIONS, reg_covar=1e-3, tol=1e-2, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged, or fewer clusters than asked for: good enough
            fitted.fit(found)
        self._become(fitted.weights_, fitted.means_, np.linalg.cholesky(fitted.covariances_))

    def _become(self, shares: Floats, means: Floats, factors: Floats) -> None:
        """Laws that are not among the new ones get no share."""
        self.shares.zero_()
        for held, new in ((self.shares, shares), (self.means, means), (self.factors, factors)):
            held[: len(new)].copy_(torch.from_numpy(np.asarray(new)))

    def correct(self, sums: Sums) -> None:
        """Move shares, means and variances to what noisy `sums` say as far as they stand out of the noise; correlations
        are kept.
        """
        counts = np.maximum(sums.counts, 0.002 * max(sums.counts.sum(), 1.0))
        trust = (counts**2 / (counts**2 + (sums.noise * math.sqrt(self.width)) ** 2))[:, None]
        old, factors = self.means.double().cpu().numpy(), self.factors.double().cpu().numpy()
        variances = np.square(factors).sum(2)
        means = trust * np.clip(sums.firsts / counts[:, None], -FARTHEST, FARTHEST) + (1 - trust) * old
        spread = np.clip(sums.seconds / counts[:, None] - np.square(means), *VARIANCES)
        wanted = trust * spread + (1 - trust) * variances
        self._become(counts / counts.sum(), means, factors * np.sqrt(wanted / variances)[:, :, None])


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over all rows, weighed by how likely each row's latent is to be of a component.

    Attributes:
      counts: of 1, shape (components,).
      firsts, seconds: of the latent and of its squares, shape (components, width).
      noise: standard deviation of the noise of a count.
    """

    counts: Floats
    firsts: Floats
    seconds: Floats
    noise: float


def measured(
    mixture: Mixture, latents: Callable[[Tensor], Tensor], rows: PrivateRows, *, label: str, noise: float
) -> Sums:
    """The charged sums, one answer under `label`.

    Args:
      mixture: divides the space.
      latents: codes, shape (rows, columns) -> one latent for each row, shape (rows, width), by that row alone.
      rows: private rows.
      label: what was charged, with rate 1.
      noise: the multiplier that was charged; 0 where nothing is private.

    Privacy: a unit's vector is the sum of its rows', scaled down to at most CLIP in L2 norm; the scale of its
      coordinates is public. Latents are drawn by `secret_chance`: by a seed somebody knows, one row more would give all
      rows behind it other latents.
    """
    width, clip = mixture.width, CLIP if noise > 0 else math.inf

    def total(codes: np.ndarray, owners: np.ndarray) -> Floats:
        device = mixture.means.device
        with secret_chance(device):
            found = latents(torch.from_numpy(codes).to(device))
        return clipped_total(_features(mixture.parts(found), found), owners, clip)

    parts = mixture.components
    asked = ClippedSum(1.0, clip, parts * (1 + 2 * width), 4096, total)
    sums = rows.noisy_sum(asked, label=label).reshape(parts, 1 + 2 * width)
    counts, firsts = sums[:, 0], sums[:, 1 : 1 + width] * math.sqrt(width)
    seconds = sums[:, 1 + width :] * math.sqrt(2 * width) + counts[:, None]
    return Sums(counts, firsts, seconds, noise * CLIP)


def collected(
    mixture: Mixture, latents: Callable[[Tensor], Tensor], rows: PrivateRows, *, label: str, expected: float
) -> Tensor:
    """The latents of about MOST_LATENTS real rows, shape (rows, width), where nothing is private.

    Args:
      mixture: whose device the codes go to.
      latents: as for `measured`.
      rows: rows that nothing is promised about.
      label: of the answer.
      expected: how many rows there are, about.

    Raises:
      UnchargedError: the rows are private: a sum that is not clipped is refused before a row is looked at.
    """
    found: list[Tensor] = []

    def kept(codes: np.ndarray, owners: np.ndarray) -> Floats:
        found.append(latents(torch.from_numpy(codes).to(mixture.means.device)))
        return np.zeros(1)

    rate = min(1.0, MOST_LATENTS / max(expected, 1.0))
    rows.noisy_sum(ClippedSum(rate, math.inf, 1, 4096, kept), label=label)
    return torch.cat(found) if found else torch.zeros(0, mixture.width)


def _features(parts: Tensor, latents: Tensor) -> Tensor:
    """What is summed for each row, shape (rows, components * (1 + 2 width)): 1, the latent and its squares less 1, each
    block about 1 long.
    """
    width = latents.shape[1]
    blocks = [torch.ones_like(latents[:, :1]), latents / math.sqrt(width), (latents**2 - 1) / math.sqrt(2 * width)]
    return (parts[:, :, None] * torch.cat(blocks, 1)[:, None]).flatten(1)


def clipped_total(vectors: Tensor, owners: np.ndarray, clip: float) -> Floats:
    """Sum over units of the sums of their rows' `vectors`, shape (rows, size), each at most `clip` long; a unit whose
    sum is not finite counts as zero.
    """
    units = int(owners[-1]) + 1 if len(owners) else 0
    at = torch.from_numpy(owners).to(vectors.device)
    summed = vectors.new_zeros(units, vectors.shape[1], dtype=torch.float64).index_add_(0, at, vectors.double())
    length = torch.linalg.vector_norm(summed, dim=1)
    kept = summed * (clip * CLIP_MARGIN / length.clamp(min=1e-300)).clamp(max=1.0)[:, None]
    kept = torch.where(torch.isfinite(length)[:, None], kept, 0.0)
    return np.asarray(kept.sum(0).cpu().numpy(), dtype=np.float64)
