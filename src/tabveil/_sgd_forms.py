"""Closed forms: from a layer's calls each unit's squared norm of gradient, and the clipped sum, without the gradients.

The gradient of a linear layer for one row is the outer product of what came in (a) and of what comes back (g): its norm
is |a| |g| (Goodfellow 2015), and the sum of clipped gradients is one product of the weighted g with a. Of several
positions, calls or rows the norm of a sum of outer products follows from their inner products (Li et al. 2022, "ghost
clipping").

| layer | norm | clipped sum |
|---|---|---|
| Linear, one position | |g|^2 (|a|^2 + 1) | (w g)' a |
| Linear, several positions, calls or rows of a unit | inner products of a times inner products of g | the same |
| the same, many positions of a thin layer | the sum of outer products itself | the same |
| Embedding | |g|^2, or inner products of g where the code is the same | rows of w g added up by code |
| LayerNorm | per-unit gradients, which are as small as the layer's input | weighted sum |
| any other leaf with parameters | opacus' per-sample gradients | weighted sum |

Privacy: a norm that came out too small would let a unit's vector be longer than the clip: norms are taken in doubles
where single precision cancels, and CANCELLED is added to them.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabveil._torch import Tensor, nn, torch
from tabveil.errors import MissingDependencyError

BLOCK = 512
"""Rows summed in single precision; sums of blocks are added up in double precision."""

CANCELLED = 2.0**-22
"""This share of the squared sum of |a| |g| is added to the squared norm of a sum of outer products: where they nearly
cancel, rounding is not small beside what is left."""

LARGEST = 2.0**64
"""A unit with a squared |a|, |g| or explicit gradient from here on counts as zero: beyond, the other one's square, or
the weight that brings it down to the clip, may vanish or be rounded badly."""

WIDTH = 4096
"""Inputs whose squares are summed in single precision; longer rows by blocks, whose sums are added in doubles."""

GRAM_CELLS = 2**22
"""Inner products computed at a time."""

FEW_POSITIONS = 16
"""Up to so many positions inner products are taken whatever the layer's size."""


# ----------------------------------------------------------------------------------------------------- rows and units
@dataclass(frozen=True, eq=False)
class Units:
    """Which unit each row of a batch belongs to.

    Attributes:
      owners: shape (rows,), positions of units, rising from 0.
      slots: shape (rows,), each row's number within its unit; None where every unit has one row.
      count: how many units.
      most: rows of the largest unit.
    """

    owners: Tensor
    slots: Tensor | None
    count: int
    most: int

    @classmethod
    def of(cls, owners: NDArray[np.int64], device: torch.device) -> Units:
        """From positions that rise from 0."""
        count = int(owners[-1]) + 1 if len(owners) else 0
        placed = torch.from_numpy(owners).to(device)
        if count == len(owners):
            return cls(placed, None, count, min(count, 1))
        sizes = np.bincount(owners, minlength=count)
        slots = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return cls(placed, torch.from_numpy(slots).to(device), count, int(sizes.max()))

    def summed(self, values: Tensor) -> Tensor:
        """Sum over the rows of each unit: (rows, ...) -> (units, ...)."""
        if self.slots is None:
            return values
        return values.new_zeros(self.count, *values.shape[1:]).index_add_(0, self.owners, values)

    def padded(self, values: Tensor) -> Tensor:
        """All positions of each unit side by side: (rows, positions, d) -> (units, most * positions, d), then zeros."""
        if self.slots is None:
            return values
        wide = values.new_zeros(self.count, self.most, *values.shape[1:])
        wide[self.owners, self.slots] = values
        return wide.flatten(1, 2)

    def per_row(self, values: Tensor) -> Tensor:
        """Each row's unit's value: (units,) -> (rows,)."""
        return values if self.slots is None else values[self.owners]


# ------------------------------------------------------------------------------------------------------- closed forms
class Form(ABC):
    """A layer's part of every unit's gradient: its squared norms, and its weighted sum."""

    @abstractmethod
    def squared(self) -> Tensor:
        """Squared norm of each unit's part, shape (units,); NaN or inf where it cannot be computed."""

    @abstractmethod
    def summed(self, weights: Tensor) -> list[Tensor]:
        """Sum of the units' parts, each times its weight, for every trainable parameter; `weights` has (units,)."""

    @abstractmethod
    def without(self, bad: Tensor) -> Form:
        """The same with zeros in place of the units that `bad` marks, shape (units,): a weight of 0 would leave NaN."""


def rows_squared(values: Tensor) -> Tensor:
    """Squared norm of each row, shape (rows,), doubles: WIDTH squares at a time in single precision."""
    parts = torch.split(values, WIDTH, dim=1) if values.shape[1] > WIDTH else (values,)
    squared = [torch.linalg.vector_norm(part, dim=1).double().square() for part in parts]
    return squared[0] if len(squared) == 1 else torch.stack(squared).sum(0)


def _product(inputs: Tensor, signals: Tensor) -> Tensor:
    """inputs * signals where both are small enough for the other one's square not to have vanished; NaN elsewhere."""
    within = torch.maximum(inputs, signals) < LARGEST
    return torch.where(within, inputs * signals, math.nan)


@dataclass(frozen=True, eq=False)
class LinearForm(Form):
    """A linear layer.

    Attributes:
      a: what came in, shape (rows, inputs) or (rows, positions, inputs).
      g: what comes back, shape (rows, outputs) or (rows, positions, outputs).
      weight: whether the weight is trainable.
      bias: whether there is a bias that is.
    """

    a: Tensor
    g: Tensor
    weight: bool
    bias: bool
    units: Units

    @classmethod
    def of(cls, layer: nn.Module, calls: Sequence[tuple[Tensor, Tensor]], units: Units, names: Sequence[str]) -> Form:
        """Several calls, or several axes of positions, become one axis of positions."""
        (a, g), *more = calls
        if more or a.dim() > 2:
            a, g = _side_by_side([c[0] for c in calls]), _side_by_side([c[1] for c in calls])
        return cls(a, g, "weight" in names, "bias" in names, units)

    def squared(self) -> Tensor:
        """As `Form.squared`."""
        if self.a.dim() == 2 and self.units.slots is None:
            inputs = self.weight * rows_squared(self.a) + float(self.bias)
            return _product(inputs, rows_squared(self.g))
        a, g = (self.units.padded(x if x.dim() == 3 else x[:, None]) for x in (self.a, self.g))
        return _gram(a if self.weight else torch.zeros_like(a[..., :0]), g, bias=self.bias)

    def summed(self, weights: Tensor) -> list[Tensor]:
        """As `Form.summed`."""
        a, g = self.a.flatten(0, -2), self.g.flatten(0, -2)
        weights = self.units.per_row(weights).to(g.dtype).repeat_interleave(len(g) // len(self.g))[:, None]
        narrow = self.weight and a.shape[1] < g.shape[1]  # the weights go to the side that has fewer entries
        left, right = (g, a * weights) if narrow else (g * weights, a)
        parts = [_by_blocks(left, right)] if self.weight else []
        return [*parts, _by_blocks(left, weights if narrow else torch.ones_like(weights))] if self.bias else parts

    def without(self, bad: Tensor) -> Form:
        """As `Form.without`."""
        rows = self.units.per_row(bad)
        return replace(self, a=_zeroed(self.a, rows), g=_zeroed(self.g, rows))


@dataclass(frozen=True, eq=False)
class EmbeddingForm(Form):
    """An embedding: codes, shape (rows, positions), and what comes back, shape (rows, positions, d)."""

    codes: Tensor
    g: Tensor
    categories: int
    units: Units

    @classmethod
    def of(cls, layer: Any, calls: Sequence[tuple[Tensor, Tensor]], units: Units, names: Sequence[str]) -> Form:
        """Positions of the padding code have no gradient."""
        codes = torch.cat([a.reshape(len(a), -1) for a, _ in calls], dim=1)
        g = torch.cat([s.reshape(len(s), -1, s.shape[-1]) for _, s in calls], dim=1)
        if layer.padding_idx is not None:
            g = g.masked_fill((codes == layer.padding_idx)[..., None], 0.0)
        return cls(codes, g, layer.num_embeddings, units)

    def squared(self) -> Tensor:
        """As `Form.squared`."""
        if self.g.shape[1] == 1 and self.units.slots is None:
            return rows_squared(self.g[:, 0])
        g = self.units.padded(self.g)
        codes = self.units.padded(self.codes[..., None])[..., 0]
        return _gram(codes, g)

    def summed(self, weights: Tensor) -> list[Tensor]:
        """As `Form.summed`."""
        weighted = self.g.double() * self.units.per_row(weights)[:, None, None]
        out = weighted.new_zeros(self.categories, weighted.shape[-1])
        return [out.index_add_(0, self.codes.flatten(), weighted.flatten(0, 1))]

    def without(self, bad: Tensor) -> Form:
        """As `Form.without`."""
        return replace(self, g=_zeroed(self.g, self.units.per_row(bad)))


@dataclass(frozen=True, eq=False)
class ExplicitForm(Form):
    """Gradients of every unit, one tensor of shape (units, ...) for each trainable parameter."""

    parts: tuple[Tensor, ...]

    @classmethod
    def of_norm(cls, layer: Any, calls: Sequence[tuple[Tensor, Tensor]], units: Units, names: Sequence[str]) -> Form:
        """LayerNorm: what comes back, times what was normalised, summed over positions."""
        shape = tuple(layer.normalized_shape)
        sums: dict[str, list[Tensor]] = {"weight": [], "bias": []}
        for a, g in calls:
            normal = nn.functional.layer_norm(a, shape, eps=layer.eps)
            sums["weight"].append((g * normal).reshape(len(g), -1, *shape).sum(1))
            sums["bias"].append(g.reshape(len(g), -1, *shape).sum(1))
        return cls(tuple(units.summed(torch.stack(sums[name]).sum(0)) for name in names))

    @classmethod
    def of_opacus(cls, layer: Any, calls: Sequence[tuple[Tensor, Tensor]], units: Units, names: Sequence[str]) -> Form:
        """Per-sample gradients by opacus' own rule for the layer, or by its vectorised differentiation."""
        parts = [_opacus_gradients(layer, a, g) for a, g in calls]
        params = dict(layer.named_parameters(recurse=False))
        return cls(tuple(units.summed(torch.stack([p[params[name]] for p in parts]).sum(0)) for name in names))

    def squared(self) -> Tensor:
        """As `Form.squared`."""
        squared = torch.stack([rows_squared(p.flatten(1)) for p in self.parts]).sum(0)
        return torch.where(squared < LARGEST, squared, math.nan)

    def summed(self, weights: Tensor) -> list[Tensor]:
        """As `Form.summed`."""
        row = weights.to(self.parts[0].dtype)[:, None]
        return [_by_blocks(row, p.flatten(1)) for p in self.parts]

    def without(self, bad: Tensor) -> Form:
        """As `Form.without`."""
        return ExplicitForm(tuple(_zeroed(p, bad) for p in self.parts))


def _by_blocks(left: Tensor, right: Tensor) -> Tensor:
    """left' right, shape (columns of left, columns of right): BLOCK rows at a time, the blocks' sum in doubles."""
    out = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64, device=left.device)
    for start in range(0, len(left), BLOCK):
        out += left[start : start + BLOCK].T @ right[start : start + BLOCK]
    return out


def _side_by_side(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([v.reshape(len(v), -1, v.shape[-1]) for v in values], dim=1)


def _zeroed(values: Tensor, bad: Tensor) -> Tensor:
    return values.masked_fill(bad.reshape(-1, *[1] * (values.dim() - 1)), 0.0)


def _gram(a: Tensor, g: Tensor, *, bias: bool = False) -> Tensor:
    """Squared norm of each unit's sum of outer products, in double precision, and CANCELLED; shape (units,).

    `a` has (units, positions, inputs), or (units, positions) where inputs are one-hot and given by their code. A bias
    is one more input, which is 1: its gradients cancel like the others'.
    """
    pairs, weights = g.shape[1] ** 2, a.shape[-1] * g.shape[-1]
    explicit = a.dim() == 3 and weights < pairs and g.shape[1] > FEW_POSITIONS
    step = max(1, GRAM_CELLS // max(1, weights if explicit else pairs))
    some = _outer_some if explicit else _gram_some
    return torch.cat([some(a[i : i + step], g[i : i + step], bias) for i in range(0, len(g), step)])


def _gram_some(a: Tensor, g: Tensor, bias: bool) -> Tensor:
    g = g.double()
    back = g @ g.mT
    if a.dim() == 2:
        whole, reach = back * (a[:, :, None] == a[:, None, :]), torch.ones_like(g[..., 0])
    else:
        a = a.double()
        forward = a @ a.mT + float(bias)
        whole, reach = forward * back, forward.diagonal(dim1=1, dim2=2).sqrt()
    return _uncancelled(whole.sum((1, 2)), reach, back.diagonal(dim1=1, dim2=2).sqrt())


def _outer_some(a: Tensor, g: Tensor, bias: bool) -> Tensor:
    """The same by the sums themselves: fewer numbers where positions are many and the layer is thin, as adapters are
    (Bu, Mao, Xu 2022, "Scalable and Efficient Training of Large Convolutional Neural Networks with Differential
    Privacy", mixed ghost clipping).
    """
    a, g = a.double(), g.double()
    whole = (g.mT @ a).square().sum((1, 2)) + float(bias) * g.sum(1).square().sum(1)
    reach = (a.square().sum(2) + float(bias)).sqrt()
    return _uncancelled(whole, reach, torch.linalg.vector_norm(g, dim=2))


def _uncancelled(whole: Tensor, reach: Tensor, lengths: Tensor) -> Tensor:
    """Squared norms of sums, and CANCELLED of those of their terms, |a| `reach` times |g| `lengths`."""
    lengths = torch.where(torch.maximum(reach, lengths) < LARGEST**0.5, lengths, math.nan)
    bound = (reach * lengths).sum(1)
    return whole.clamp(min=0.0) + CANCELLED * bound.square()


def _opacus_gradients(layer: nn.Module, a: Tensor, g: Tensor) -> dict[Any, Tensor]:
    """opacus' per-sample gradients of the layer's own trainable parameters."""
    try:
        from opacus.grad_sample import GradSampleModule
        from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer
    except ModuleNotFoundError as error:
        raise MissingDependencyError("Layers of this kind need opacus: pip install 'tabveil[deep]'.") from error
    sampler = GradSampleModule.GRAD_SAMPLERS.get(type(layer))
    with _needing_gradients(layer):
        if sampler is None:
            if not hasattr(layer, "ft_compute_sample_grad"):
                prepare_layer(layer, batch_first=True)
            found = ft_compute_per_sample_gradient(layer, [a], g)
        else:
            found = sampler(layer, [a], g)
    return {p: v.detach() for p, v in found.items()}


@contextlib.contextmanager
def _needing_gradients(layer: nn.Module) -> Iterator[None]:
    """Inside, the layer's parameters need gradients, as opacus expects."""
    before = [(p, p.requires_grad) for p in layer.parameters(recurse=False)]
    try:
        for p, _ in before:
            p.requires_grad_(True)
        yield
    finally:
        for p, needed in before:
            p.requires_grad_(needed)


FORMS: dict[type, Callable[[Any, Sequence[tuple[Tensor, Tensor]], Units, Sequence[str]], Form]] = {
    nn.Linear: LinearForm.of,
    nn.Embedding: EmbeddingForm.of,
    nn.LayerNorm: ExplicitForm.of_norm,
}
