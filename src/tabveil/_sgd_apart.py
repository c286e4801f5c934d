"""Whether a loss is what the private gradient takes it for: asked on made-up rows, before a private one is read.

A row's loss and gradient must be the same alone, in batches of any size and order, and beside any other rows; and the
gradient taken row by row must be the one that plain differentiation gives. All of it is asked at the parameters as they
are and at shaken ones: an output layer that starts at zero would hide what is before it. No proof (nothing short of
reading the code is), but it finds normalising, centring and attending over the batch, dividing by its size, signs by
position, and gradients of gradients.

Privacy: reads no private row. What is refused here would move a clipped sum by more than one clip for one unit
("from its own rows" would be false), or leave a term out of it without a word.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabveil._sgd_clipping import Clipper, Losses, buffers_kept, reseed
from tabveil._torch import Tensor, nn, torch
from tabveil.errors import UsageError

CLOSE = 1e-4
"""Losses and gradients of the same rows may differ by this share: single precision, and kernels that depend on size."""

ROWS = 7
"""Made-up rows: five at random, one of the lowest and one of the highest codes."""

BATCHES = ((0, 1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1, 0), (2, 5), (6, 1, 0), (4, 4, 3, 1, 6, 3), tuple(range(7)) * 19)
"""Positions of made-up rows: odd and even sizes, other places and neighbours, and one beyond any block."""

LARGEST = 2.0**30
"""Gradients beyond this norm are not compared: they may count as zero."""


def check_rows_apart(module: nn.Module, losses: Losses, widths: Sequence[int]) -> None:
    """Raise UsageError where a made-up row's loss or gradient is not its own, or is not the plain one.

    Chance inside the losses must come from torch's default generator, along the first axis row by row; meanwhile all
    rows draw alike. Parameters, buffers and generators are as before afterwards.

    Args:
      module: as for `Clipper`.
      losses: as for `Clipper`.
      widths: how many codes each column has.
    """
    with buffers_kept(module):
        for shaken in (False, True):
            clipper = Clipper(module, _alike(losses, int(shaken)), multiple=1)
            with _shaken(clipper.parameters) if shaken else contextlib.nullcontext():
                _check_losses(clipper, _made_up(widths))
                _check_gradients(clipper, _made_up(widths))


def _made_up(widths: Sequence[int]) -> NDArray[np.int64]:
    """ROWS rows of codes, the same always."""
    most = np.asarray(widths, dtype=np.int64) - 1
    drawn = np.random.Generator(np.random.SFC64(0)).random((ROWS - 2, len(most))) * (most + 1)
    return np.concatenate([drawn.astype(np.int64), [0 * most, most]])


def _check_losses(clipper: Clipper, rows: NDArray[np.int64]) -> None:
    alone = torch.cat([clipper.losses(rows[[i]]) for i in range(ROWS)])
    scale = float(alone[alone.isfinite()].abs().median()) if bool(alone.isfinite().any()) else 0.0
    for batch in map(list, BATCHES):
        together = clipper.losses(rows[batch])
        if not torch.allclose(together, alone[batch], rtol=CLOSE, atol=CLOSE * scale + 1e-7, equal_nan=True):
            raise UsageError(
                "The loss of a row depends on other rows of its batch, on the batch's size, or on the row's place: "
                "nothing may mix rows."
            )


def _check_gradients(clipper: Clipper, rows: NDArray[np.int64]) -> None:
    """Row by row against plain differentiation; and the clipped sum of all rows, twice, against their own ones."""
    one, norms = np.zeros(1, np.int64), list[float]()
    for row in rows[:, None]:
        ours, plain = clipper.total(row, one, math.inf), clipper.plain(row)[0].double()
        norms.append(float(plain.norm()))
        if norms[-1] < LARGEST and float((ours - plain).norm()) > CLOSE * norms[-1]:
            raise UsageError(
                "The gradient of a row is not what plain differentiation gives: gradients of gradients (penalties), "
                "and parameters used other than by calling their layer once, have no part in a private sum."
            )
    clip = float(np.median([n for n in norms if 0 < n < LARGEST] or [1.0]))
    alone = torch.stack([clipper.total(row, one, clip) for row in rows[:, None]]).sum(0)
    both = np.concatenate([rows, rows[::-1]])
    together = clipper.total(both, np.arange(len(both)), clip)
    if float((together - 2 * alone).norm()) > CLOSE * clip * len(both):
        raise UsageError("The gradient of a row depends on other rows of its batch: nothing may mix rows.")


@contextlib.contextmanager
def _shaken(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Inside, noise of their own size, and of the usual one, is added to the parameters."""
    before = [p.detach().clone() for p in parameters]
    chance = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for p in parameters:
                usual = 1 / math.sqrt(max(1, p[0].numel() if p.dim() else 1))
                p.add_(torch.randn(p.shape, generator=chance).to(p) * (p.abs().mean() + usual))
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)


def _alike(losses: Losses, seed: int) -> Losses:
    """The same losses, all rows drawing alike and in every batch; torch's generators are left as they are."""

    def drawn(codes: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[codes.device] if codes.is_cuda else []), _Alike(seed, codes.device):
            return losses(codes)

    return drawn


class _Alike(torch.utils._python_dispatch.TorchDispatchMode):
    """Inside, what is drawn is the same all along its first axis, however long that is.

    A draw from tensors (dropout, Bernoulli, in place) is made for one entry of the first axis after the other, from the
    same seed each time; one from a shape alone is made for one entry, which is repeated: the first of many would be
    another one, since torch draws many by another algorithm.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        begin: Callable[..., None] = super().__init__  # torch says nothing of its type
        begin()
        self._seed, self._device = 1_000_000 * seed, device

    def __torch_dispatch__(
        self, call: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = (args, dict(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in call.tags:
            return call(*args, **given[1])
        self._seed += 1
        lengths = [len(t) for t in torch.utils._pytree.tree_leaves(given) if isinstance(t, Tensor) and t.dim()]
        length = max(lengths, default=0)
        if not length:
            return self._repeated(call, given)
        parts = [self._seeded(call, _entry(given, i, length)) for i in range(length)]
        in_place = any(r.alias_info is not None for r in call._schema.returns)
        return args[0] if in_place else torch.utils._pytree.tree_map(_joined, *parts)

    def _repeated(self, call: Callable[..., Any], given: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        at, shape = next(((i, a) for i, a in enumerate(given[0]) if isinstance(a, list | tuple) and a), (0, None))
        if shape is None:
            return self._seeded(call, given)
        one = self._seeded(call, ((*given[0][:at], [1, *shape[1:]], *given[0][at + 1 :]), given[1]))
        return one.expand(shape).clone()

    def _seeded(self, call: Callable[..., Any], given: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        reseed(self._device, self._seed)
        return call(*given[0], **given[1])


def _entry(given: Any, number: int, length: int) -> Any:
    """The arguments, every tensor of `length` entries cut to one of them."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[number : number + 1] if tensor.dim() and len(tensor) == length else tensor

    return torch.utils._pytree.tree_map_only(Tensor, cut, given)


def _joined(*parts: Any) -> Any:
    return torch.cat(parts) if isinstance(parts[0], Tensor) and parts[0].dim() else parts[0]
