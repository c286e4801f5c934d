"""Clipped sums of per-unit gradients, without per-sample gradients wherever a closed form spares them.

One forward pass, one backward pass that computes no gradient of any parameter, one product per layer: `_sgd_forms`.

Privacy: neighbouring tables differ in one unit. Each unit's vector is a function of its own rows alone (layers that mix
rows are refused, and `_sgd_apart` looks for others) and has L2 norm at most the clip: sensitivity `clip`, priced
as a Poisson-sampled Gaussian event by `mechanisms.noisy_sum`. A unit whose norm is not finite, or too large for the
arithmetic, counts as the zero vector. Chance inside a loss is drawn as `secret_chance` argues. Norms aim below the clip
by more than single precision can be off (CLIP_MARGIN,
CANCELLED).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabveil._sgd_forms import FORMS, ExplicitForm, Form, Units
from tabveil._torch import Tensor, nn, torch
from tabveil.errors import UsageError
from tabveil.noise import secret_words

Losses = Callable[[Tensor], Tensor]
"""Codes, shape (rows, columns), whole numbers -> the loss of each row, shape (rows,), by that row alone."""

CLIP_MARGIN = 2.0**-8
"""Norms are clipped to the clip less this share. Norms are off by less than an eighth of it in
single precision; the rest is for the rounding of sums, which docs/sgd.md measures."""

MULTIPLE = 64
"""Batches are filled up to a multiple of this many rows, the added ones weighing nothing: kernels compute the last rows
of a matrix another way, and what a row's neighbours are must not decide on which side of a kink it falls."""

_MIXING = (nn.modules.batchnorm._BatchNorm,)
_REPLACED: tuple[tuple[Any, str], ...] = (
    (nn.MultiheadAttention, "DPMultiheadAttention"),
    (nn.modules.rnn.RNNBase, "DPLSTM"),
)


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
            return FORMS.get(type(layer), ExplicitForm.of_opacus)(layer, calls, units, self._names[layer])


_Group = tuple[nn.Module, list[tuple[Tensor, Tensor]]]


def _trainable(layer: nn.Module) -> tuple[str, ...]:
    """Names of the layer's own trainable parameters; weight before bias, as closed forms have them."""
    own = layer.named_parameters(recurse=False, remove_duplicate=False)
    names = tuple(name for name, p in own if p.requires_grad)
    return tuple(sorted(names, reverse=True)) if type(layer) in FORMS else names


def _check(layer: Any, names: Sequence[str]) -> None:
    kind = type(layer).__name__
    if isinstance(layer, _MIXING) or getattr(layer, "track_running_stats", False):
        raise UsageError(f"{kind} mixes the rows of a batch, so no row has a gradient of its own: use LayerNorm.")
    for old, new in _REPLACED:
        if isinstance(layer, old) and any(p.requires_grad for p in layer.parameters()):
            raise UsageError(f"{kind} has no per-sample gradients: use opacus.layers.{new}.")
    if names and type(layer) not in FORMS and any(True for _ in layer.children()):
        raise UsageError(f"{kind} has parameters of its own beside sub-modules: put them into a leaf module.")
    if names and type(layer) in FORMS and (set(names) - {"weight", "bias"} or layer._forward_pre_hooks):
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
