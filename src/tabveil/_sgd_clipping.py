"""Clipped sums of per-unit gradients, without per-sample gradients wherever a closed form spares them.

The gradient of a linear layer for one row is the outer product of what came in (a) and of what comes back (g): its norm
is |a| |g| (Goodfellow 2015), and the sum of clipped gradients is one product of the weighted g with a. Of several
positions, calls or rows the norm of a sum of outer products follows from their inner products (Li et al. 2022, "ghost
clipping"). One forward pass, one backward pass that computes no gradient of any parameter, one product per layer.

| layer | norm | clipped sum |
|---|---|---|
| Linear, one position | |g|^2 (|a|^2 + 1) | (w g)' a |
| Linear, several positions, calls or rows of a unit | inner products of a times inner products of g | the same |
| the same, many positions of a thin layer | the sum of outer products itself | the same |
| Embedding | |g|^2, or inner products of g where the code is the same | rows of w g added up by code |
| LayerNorm | per-unit gradients, which are as small as the layer's input | weighted sum |
| any other leaf with parameters | opacus' per-sample gradients | weighted sum |

Privacy: neighbouring tables differ in one unit. Each unit's vector is a function of its own rows alone (layers that mix
rows are refused, and `_sgd_apart` looks for others) and has L2 norm at most the clip: sensitivity `clip`, priced
as a Poisson-sampled Gaussian event by `mechanisms.noisy_sum`. A unit whose norm is not finite, or too large for the
arithmetic, counts as the zero vector. Chance inside a loss is drawn as `secret_chance` argues. Norms aim below the clip
by more than single precision can be off (CLIP_MARGIN,
CANCELLED).
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
from tabveil.errors import MissingDependencyError, UsageError
from tabveil.noise import secret_words

Losses = Callable[[Tensor], Tensor]
"""Codes, shape (rows, columns), whole numbers -> the loss of each row, shape (rows,), by that row alone."""

CLIP_MARGIN = 2.0**-8
"""Norms are clipped to the clip less this share. Norms are off by less than an eighth of it in
single precision; the rest is for the rounding of sums, which docs/sgd.md measures."""

BLOCK = 512
"""Rows summed in single precision; sums of blocks are added up in double precision."""

CANCELLED = 2.0**-22
"""This share of the squared sum of |a| |g| is added to the squared norm of a sum of outer products: where they nearly
cancel, rounding is not small beside what is left."""

LARGEST = 2.0**64
"""A unit with a squared |a|, |g| or explicit gradient from here on counts as zero: beyond, the other one's square, or
the weight that brings it down to the clip, may vanish or be rounded badly."""

MULTIPLE = 64
"""Batches are filled up to a multiple of this many rows, the added ones weighing nothing: kernels compute the last rows
of a matrix another way, and what a row's neighbours are must not decide on which side of a kink it falls."""

WIDTH = 4096
"""Inputs whose squares are summed in single precision; longer rows by blocks, whose sums are added in doubles."""

GRAM_CELLS = 2**22
"""Inner products computed at a time."""

FEW_POSITIONS = 16
"""Up to so many positions inner products are taken whatever the layer's size."""

_MIXING = (nn.modules.batchnorm._BatchNorm,)
_REPLACED: tuple[tuple[Any, str], ...] = (
    (nn.MultiheadAttention, "DPMultiheadAttention"),
    (nn.modules.rnn.RNNBase, "DPLSTM"),
)


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


def _rows_squared(values: Tensor) -> Tensor:
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
            inputs = self.weight * _rows_squared(self.a) + float(self.bias)
            return _product(inputs, _rows_squared(self.g))
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
            return _rows_squared(self.g[:, 0])
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
        squared = torch.stack([_rows_squared(p.flatten(1)) for p in self.parts]).sum(0)
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


_FORMS: dict[type, Callable[[Any, Sequence[tuple[Tensor, Tensor]], Units, Sequence[str]], Form]] = {
    nn.Linear: LinearForm.of,
    nn.Embedding: EmbeddingForm.of,
    nn.LayerNorm: ExplicitForm.of_norm,
}


# -------------------------------------------------------------------------------------------------------------- chance
_WORDS = slice(24, 24 + 8 * 624)
"""Where the bytes of a state of torch's generator on the CPU hold its 624 words, 64 bits for each word of 32."""


@contextlib.contextmanager
def secret_chance(device: torch.device) -> Iterator[None]:
    """Inside, torch's default generators start from fresh entropy nobody knows; afterwards they are as before.

    Privacy: let a row's mask be all that it draws inside (dropout, latents). Masks are drawn position by position, so
      a unit that is inserted gives the rows behind it other masks: for a known seed it would move the sum by many
      clips. For a seed that is fresh for each sum and known to nobody, masks of rows are independent, alike, and
      independent of the rows, whatever position a row has and however many there are. So the two neighbours' masks
      may be drawn jointly such that every other row has the same mask in both: each output keeps its distribution, a
      mixture over masks, and for each such pair of masks the sums differ by one clipped vector. Divergences that price
      the Gaussian are jointly convex: that of the mixtures is at most the worst pair's. A row's draws must not depend
      on other rows. Putting the state back hides how much was drawn, which would tell the size of the batch. On the
      CPU all 624 words of the Mersenne twister are replaced (`manual_seed` would set 32 bits); a longer stream, and
      CUDA's from a 64-bit key, stands for independent draws as far as nobody can tell them apart.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        words = secret_words(625)
        reseed(device, int(words[624] >> np.uint64(1)))
        state = torch.default_generator.get_state()
        state[_WORDS] = torch.from_numpy((words[:624] >> np.uint64(32)).view(np.uint8))
        torch.default_generator.set_state(state)
        yield


def reseed(device: torch.device, seed: int) -> None:
    """What `torch.manual_seed` does to the generators used here; that writes down the whole call stack each time."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


# ------------------------------------------------------------------------------------------------------------- capture
@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, and how often its tensors had been written to by then."""

    layer: nn.Module
    a: Tensor
    out: Tensor
    versions: tuple[int, int]


@contextlib.contextmanager
def captured(layers: Sequence[nn.Module], parameters: Sequence[Tensor]) -> Iterator[list[Call]]:
    """Inside, no parameter needs a gradient, every output of `layers` does, and each call is noted."""
    calls: list[Call] = []

    def note(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
        if not torch.is_grad_enabled():
            return
        if len(args) != 1 or named or not isinstance(args[0], Tensor) or not isinstance(out, Tensor):
            raise UsageError(f"{type(layer).__name__} must be called with one tensor by position and give one tensor.")
        if not out.requires_grad:
            out.requires_grad_(True)
        calls.append(Call(layer, args[0].detach(), out, (args[0]._version, out._version)))

    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        for p in parameters:
            p.requires_grad_(False)
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
        for p in parameters:
            p.requires_grad_(True)


@contextlib.contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Raise UsageError where a buffer was written to inside, and put it back: it would be released without noise.

    Privacy: buffers are part of a module's state, which checkpoints, averages and models give out; a forward pass that
      writes there (running means, codebooks) would write what it saw of the rows.
    """
    own = [(layer, name, b) for layer in module.modules() for name, b in layer._buffers.items() if b is not None]
    before = [(layer, name, b, b.clone(), b._version) for layer, name, b in own]
    wrong = False
    try:
        yield
    finally:
        for layer, name, buffer, copy, version in before:
            if layer._buffers.get(name) is not buffer or buffer._version != version:
                layer._buffers[name], wrong = copy, True
    if wrong:
        raise UsageError("The forward pass writes to a buffer, which would be released without noise: compute it anew.")


class Clipper:
    """Sums of clipped gradients of one module's trainable parameters.

    Args:
      module: any modules around leaves whose gradients can be taken row by row. Rows are the first axis throughout.
      losses: the loss of each row.
      multiple: batches are filled up to a multiple of this many rows, from 1.

    Attributes:
      parameters: the trainable parameters, in the order of the sum's coordinates.
      size: coordinates.

    Raises:
      UsageError: a layer that mixes rows, a parameter that several layers share, one that lies beside sub-modules, an
        embedding that rescales itself, or nothing to train.
    """

    def __init__(self, module: nn.Module, losses: Losses, *, multiple: int = MULTIPLE) -> None:
        self._losses, self._module, self._multiple = losses, module, multiple
        self._names = {layer: names for layer in module.modules() if (names := _trainable(layer))}
        for layer in module.modules():
            _check(layer, self._names.get(layer, ()))
        owned = [(layer, name) for layer, names in self._names.items() for name in names]
        self.parameters: tuple[Any, ...] = tuple(getattr(layer, name) for layer, name in owned)
        if not owned:
            raise UsageError("The module has no trainable parameter.")
        if len({id(p) for p in self.parameters}) < len(owned):
            raise UsageError("Several layers share a parameter: give each its own.")
        for p in self.parameters:
            _check_precision(p, "parameters")
        self.size = sum(p.numel() for p in self.parameters)
        self.device = self.parameters[0].device

    def losses(self, codes: NDArray[np.int64]) -> Tensor:
        """The loss of each row, shape (rows,); for made-up rows."""
        with torch.no_grad():
            return _checked(self._losses(torch.from_numpy(codes).to(self.device)), len(codes))

    def total(self, codes: NDArray[np.int64], owners: NDArray[np.int64], clip: float) -> Tensor:
        """Sum over units of their gradients, each scaled down to at most `clip` in L2 norm; shape (size,), doubles.

        A unit's gradient is the sum of its rows'. Units whose gradient is not finite count as zero. Arguments as
        `mechanisms.ClippedSum.total` has them; `clip` may be inf.

        Raises:
          UsageError: losses of another shape, a layer that no row passes, or tensors overwritten in place.
        """
        codes, owners, real = self._filled(codes, owners)
        units = Units.of(owners, self.device)
        chance, kept = secret_chance(self.device), buffers_kept(self._module)
        with chance, kept, captured(list(self._names), self.parameters) as calls:
            losses = _checked(self._losses(torch.from_numpy(codes).to(self.device)), len(codes))
            for call in calls:
                _check_call(call, len(codes))
            signals = torch.autograd.grad(losses.sum(), [c.out for c in calls], allow_unused=True)
            forms = [self._form(group, units) for group in self._grouped(calls, signals)]
        squared = torch.stack([f.squared().double() for f in forms]).sum(0)
        bad = ~torch.isfinite(squared)
        if bool(bad.any()):
            forms = [f.without(bad) for f in forms]
        weights = (clip * (1 - CLIP_MARGIN) / squared.sqrt()).clamp(max=1.0).masked_fill(bad, 0.0)
        weights[real:] = 0.0
        return torch.cat([part.reshape(-1) for f in forms for part in f.summed(weights)])

    def _filled(
        self, codes: NDArray[np.int64], owners: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Codes and owners with rows of code 0, units of their own, up to a multiple; and how many units are real."""
        real, missing = int(owners[-1]) + 1 if len(owners) else 0, -len(codes) % self._multiple
        more = np.zeros((missing, codes.shape[1]), dtype=codes.dtype)
        return np.concatenate([codes, more]), np.append(owners, np.arange(real, real + missing)), real

    def plain(self, codes: NDArray[np.int64]) -> tuple[Tensor, float]:
        """Sum of the rows' gradients, neither clipped nor looked at, and the mean loss: where nothing is private."""
        losses = _checked(self._losses(torch.from_numpy(codes).to(self.device)), len(codes))
        found = torch.autograd.grad(losses.sum(), self.parameters, allow_unused=True)
        pairs = zip(self.parameters, found, strict=True)
        parts = [p.new_zeros(p.numel()) if g is None else g.reshape(-1) for p, g in pairs]
        return torch.cat(parts), float(losses.detach().mean())

    def assign(self, vector: Tensor) -> None:
        """Make `vector`, shape (size,), the gradient of the parameters."""
        start = 0
        for p in self.parameters:
            p.grad = vector[start : start + p.numel()].reshape(p.shape).to(p.dtype)
            start += p.numel()

    def _grouped(self, calls: Sequence[Call], signals: Sequence[Tensor | None]) -> list[_Group]:
        """Inputs and signals of every layer, layers in the order of the parameters."""
        found: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in self._names}
        for call, g in zip(calls, signals, strict=True):
            found[call.layer].append((call.a, torch.zeros_like(call.out) if g is None else g))
        unused = [type(layer).__name__ for layer, got in found.items() if not got]
        if unused:
            raise UsageError(f"No row passes a {unused[0]} that is to be trained: freeze it, or call it as a module.")
        return list(found.items())

    def _form(self, group: _Group, units: Units) -> Form:
        layer, calls = group
        with torch.no_grad():
            return _FORMS.get(type(layer), ExplicitForm.of_opacus)(layer, calls, units, self._names[layer])


_Group = tuple[nn.Module, list[tuple[Tensor, Tensor]]]


def _trainable(layer: nn.Module) -> tuple[str, ...]:
    """Names of the layer's own trainable parameters; weight before bias, as closed forms have them."""
    own = layer.named_parameters(recurse=False, remove_duplicate=False)
    names = tuple(name for name, p in own if p.requires_grad)
    return tuple(sorted(names, reverse=True)) if type(layer) in _FORMS else names


def _check(layer: Any, names: Sequence[str]) -> None:
    kind = type(layer).__name__
    if isinstance(layer, _MIXING) or getattr(layer, "track_running_stats", False):
        raise UsageError(f"{kind} mixes the rows of a batch, so no row has a gradient of its own: use LayerNorm.")
    for old, new in _REPLACED:
        if isinstance(layer, old) and any(p.requires_grad for p in layer.parameters()):
            raise UsageError(f"{kind} has no per-sample gradients: use opacus.layers.{new}.")
    if names and type(layer) not in _FORMS and any(True for _ in layer.children()):
        raise UsageError(f"{kind} has parameters of its own beside sub-modules: put them into a leaf module.")
    if names and type(layer) in _FORMS and (set(names) - {"weight", "bias"} or layer._forward_pre_hooks):
        raise UsageError(f"A {kind} has its weight computed by a hook (weight_norm, spectral_norm): use a plain one.")
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse):
        raise UsageError("An embedding must not rescale itself by its batch (max_norm, scale_grad_by_freq, sparse).")


def _checked(losses: Tensor, rows: int) -> Tensor:
    if losses.shape != (rows,):
        raise UsageError("The loss must be one number for each row of the batch, shape (rows,): do not average it.")
    return losses


def _check_precision(values: Tensor, what: str) -> None:
    """The margins of norms and sums are for 24 bits or more: in 16-bit numbers a unit can move the sum by two clips."""
    if values.dtype not in (torch.float32, torch.float64):
        raise UsageError(f"A layer has {what} in less than single precision: use float32 or float64, and no autocast.")


def _check_call(call: Call, rows: int) -> None:
    kind = type(call.layer).__name__
    if call.a.dim() == 0 or call.out.dim() == 0 or call.a.shape[0] != rows or call.out.shape[0] != rows:
        raise UsageError(f"{kind} must have the rows of the batch as the first axis of its input and its output.")
    _check_precision(call.out, "outputs")
    if call.a.is_floating_point() or call.a.is_complex():
        _check_precision(call.a, "inputs")
    if (call.a._version, call.out._version) != call.versions:
        raise UsageError(f"What goes into or comes out of {kind} is overwritten in place: use the layer that copies.")
