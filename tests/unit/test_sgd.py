"""DP-SGD: what one unit can move, what is drawn, which noise is added, how many steps there are, what survives a kill.

Law tests have alpha = 1e-9, state their sample size and must reject a law that is 10 % off.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from scipy import stats

torch = pytest.importorskip("torch", reason="the extra deep is not installed")

from torch import nn  # noqa: E402

from tabveil import _sgd_forms, accounting, mechanisms  # noqa: E402
from tabveil._sgd_apart import check_rows_apart  # noqa: E402
from tabveil._sgd_clipping import CLIP_MARGIN, MULTIPLE, Clipper, secret_chance  # noqa: E402
from tabveil._sgd_forms import rows_squared  # noqa: E402
from tabveil.accounting import DiscreteGaussianDpEvent, Spend  # noqa: E402
from tabveil.columns import Categorical, Identifier, Integer  # noqa: E402
from tabveil.errors import DataError, LedgerError, UnchargedError, UsageError  # noqa: E402
from tabveil.ledger import Ledger, Receipt  # noqa: E402
from tabveil.mechanisms import PrivateRows  # noqa: E402
from tabveil.noise import seeded_noise_for_tests  # noqa: E402
from tabveil.samplers import bernoulli, gaussian  # noqa: E402
from tabveil.schema import Schema  # noqa: E402
from tabveil.sgd import Average, Checkpoints, Course, Descent, Schedule, threads, train, warm_up  # noqa: E402
from tabveil.tables import open_table  # noqa: E402
from tabveil.units import ClippedSum  # noqa: E402

ALPHA = 1e-9
A = Integer(name="a", low=0, high=9)
B = Categorical(name="b", categories=("x", "y", "z"))
SCHEMA = Schema(columns=(A, B), public_rows=200)
PERSONS = Schema(columns=(Identifier(name="who"), A, B), privacy_unit="who", max_rows_per_unit=3)


def frame(rows: int = 200) -> pd.DataFrame:
    numbers = np.arange(rows)
    return pd.DataFrame({"a": numbers % 10, "b": np.asarray(["x", "y", "z"])[numbers % 3]})


def charged(schedule: Schedule, table: pd.DataFrame | None = None, schema: Schema = SCHEMA) -> PrivateRows:
    ledger = Ledger(":memory:")
    ledger.open("t", epsilon=1e6, delta=1e-5, unit=schema.unit)
    receipt = ledger.charge("t", schedule.spends, label="fit") if schedule.private else Receipt.uncharged()
    return PrivateRows(open_table(frame() if table is None else table), schema, receipt)


class Net(nn.Module):
    """Loss of a row: the squared output of two layers on its numbers."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, hidden), nn.Linear(hidden, 1)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(codes.to(self.first.weight.dtype)))).squeeze(1) ** 2


def descent(module: nn.Module, schedule: Schedule, table: pd.DataFrame | None = None, **options: float) -> Descent:
    asked = {"clip": 1.0, "expected_units": 20.0, **options}
    return Descent(module, charged(schedule, table), schedule=schedule, **asked)


# ------------------------------------------------------------------------------------------------------ closed forms
class Everything(nn.Module):
    """Every layer with a closed form, layers used twice, positions, and layers that opacus differentiates."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6, padding_idx=2)
        self.mixed, self.norm, self.out = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(12, 1)
        self.conv, self.group = nn.Conv1d(6, 3, 1), nn.GroupNorm(1, 3)
        self.scale = Scale(3)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.mixed(torch.tanh(self.mixed(self.table(codes)))))
        return self.out(self.scale(self.group(self.conv(self.norm(x).mT)).mT).flatten(1)).squeeze(1) ** 2


class Scale(nn.Module):
    """A leaf that neither we nor opacus know: opacus differentiates it by vectorising."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Single(nn.Module):
    """The path of a critic: one position, one row per unit."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(7, 5), nn.LayerNorm(5)
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4, bias=False), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.layers(self.norm(self.table(codes[:, 0]))).squeeze(1) ** 2


def per_unit(module: nn.Module, codes: np.ndarray, owners: np.ndarray) -> torch.Tensor:
    """Gradients of each unit by plain differentiation, one after the other, shape (units, size)."""
    found = []
    parameters = [p for layer in module.modules() for p in layer.parameters(recurse=False) if p.requires_grad]
    for unit in range(owners[-1] + 1):
        loss = module(torch.from_numpy(codes[owners == unit])).sum()
        found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(found)


def clipped(gradients: torch.Tensor, clip: float) -> torch.Tensor:
    return (gradients * (clip * (1 - CLIP_MARGIN) / gradients.norm(dim=1)).clamp(max=1)[:, None]).sum(0)


@contextlib.contextmanager
def few_positions(few: int) -> Iterator[None]:
    """Inside, norms of layers with more positions, and fewer weights than pairs of these, are taken of the sums."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sgd_forms, "FEW_POSITIONS", few)
        yield


@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("kind", [Everything, Single])
@pytest.mark.parametrize("clip", [0.05, 3.0, math.inf])
def test_closed_forms_are_the_clipped_sum(kind: type[nn.Module], clip: float, few: int) -> None:
    """To 1e-5, for rows and for persons with several rows, also of different sizes."""
    with few_positions(few):
        _closed_forms_are_the_clipped_sum(kind, clip)


def _closed_forms_are_the_clipped_sum(kind: type[nn.Module], clip: float) -> None:
    torch.manual_seed(0)
    module = kind()
    codes = np.random.default_rng(0).integers(0, 7, (24, 4))
    sizes = np.array([1, 5, 2, 3, 1, 1, 4, 7])
    for owners in (np.arange(24), np.repeat(np.arange(8), 3), np.repeat(np.arange(8), sizes)):
        expected = clipped(per_unit(module, codes, owners), clip)
        found = Clipper(module, module).total(codes, owners, clip)
        assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())


def test_closed_forms_equal_opacus_hooks() -> None:
    """opacus' own per-sample gradients of every row, clipped, to 1e-5; opacus gives the padding code a gradient."""
    from opacus.grad_sample import GradSampleModule

    torch.manual_seed(1)
    for module in (Everything(), Single()):
        codes = np.random.default_rng(1).integers(0, 7, (16, 4))
        module.table.padding_idx = None
        ours = Clipper(module, module).total(codes, np.arange(16), 0.5)
        wrapped = GradSampleModule(module, loss_reduction="sum")
        wrapped(torch.from_numpy(codes)).sum().backward()
        names = [p for layer in module.modules() for p in layer.parameters(recurse=False)]
        theirs = torch.cat([p.grad_sample.flatten(1) for p in names], dim=1)
        expected = clipped(theirs, 0.5)
        assert float((ours - expected).norm()) <= 1e-5 * float(expected.norm())
        wrapped.remove_hooks()


def test_without_clip_and_noise_it_is_the_plain_gradient() -> None:
    """The capture path with clip = inf, and the whole loop at epsilon = inf with every unit drawn."""
    torch.manual_seed(0)
    net = Net()
    codes = np.column_stack([np.arange(200) % 10, np.arange(200) % 3])
    plain = torch.autograd.grad(net(torch.from_numpy(codes)).sum(), list(net.parameters()))
    flat = torch.cat([g.reshape(-1) for g in plain])
    found = Clipper(net, net).total(codes, np.arange(200), math.inf).float()
    torch.testing.assert_close(found, flat, rtol=1e-6, atol=1e-6)
    free = descent(net, Schedule("s", 1.0, 1, 0.0), expected_units=200.0)
    free.gradient()
    for p, g in zip(net.parameters(), plain, strict=True):
        torch.testing.assert_close(p.grad, g / 200, rtol=1e-6, atol=1e-6)
    assert free.loss == pytest.approx(float(net(torch.from_numpy(codes)).mean().detach()), rel=1e-6)


def test_frozen_parameters_are_left_alone() -> None:
    module = Single()
    module.layers[0].weight.requires_grad_(False)
    module.norm.bias.requires_grad_(False)
    codes = np.random.default_rng(0).integers(0, 7, (6, 1))
    clipper = Clipper(module, module)
    found = clipper.total(codes, np.arange(6), 0.2)
    expected = clipped(per_unit(module, codes, np.arange(6)), 0.2)
    assert clipper.size == len(found) == sum(p.numel() for p in module.parameters() if p.requires_grad)
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-7)
    assert not module.layers[0].weight.requires_grad
    assert module.layers[2].weight.requires_grad


# ------------------------------------------------------------------------------------------------------- sensitivity
NASTY = (0.0, 1.0, -1.0, 1e6, -1e6, 1e19, 1e-30, 3e38, math.inf, -math.inf, math.nan)


class Raw(nn.Module):
    """Rows stand for adversarial numbers; several positions, so that outer products can cancel."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.positions = positions
        self.layer, self.norm, self.last = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)
        self.register_buffer("values", torch.tensor(NASTY))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        x = self.values[codes]
        if self.positions > 1:
            x = torch.stack([x, -x, x * 1e3][: self.positions], dim=1)
        h = self.last(self.norm(torch.relu(self.layer(x))) + self.layer(x)).squeeze(-1)
        return (h if h.dim() == 1 else h.sum(1)) * 1e4


@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("rows_per_unit", [1, 2])
def test_one_unit_moves_the_sum_by_at_most_the_clip(positions: int, rows_per_unit: int, few: int) -> None:
    """Every triple of zeros, ones, huge, tiny, infinite and undefined numbers as one unit beside ordinary ones."""
    with few_positions(few):
        _one_unit_moves_the_sum_by_at_most_the_clip(positions, rows_per_unit)


def _one_unit_moves_the_sum_by_at_most_the_clip(positions: int, rows_per_unit: int) -> None:
    torch.manual_seed(0)
    module, clip = Raw(positions), 0.7
    triples = np.stack(np.meshgrid(*[np.arange(len(NASTY))] * 3), -1).reshape(-1, 3)[::3]
    clipper = Clipper(module, module)
    ordinary = np.array([[0, 1, 2], [1, 1, 1], [2, 0, 1], [1, 2, 2]])
    base = clipper.total(ordinary, np.arange(4), clip).double()
    assert bool(base.isfinite().all())
    for unit in triples:
        codes = np.concatenate([ordinary, np.repeat(unit[None], rows_per_unit, 0)])
        owners = np.array([0, 1, 2, 3, *[4] * rows_per_unit])
        moved = clipper.total(codes, owners, clip).double() - base
        assert bool(moved.isfinite().all()), "a number that is not finite came out"
        assert float(moved.norm()) <= clip, "one unit moved the sum by more than the clip"


def test_norms_of_long_rows_do_not_lose_what_they_add_up() -> None:
    """A million equal inputs: single precision throughout is off by more than a thousandth."""
    for value in (0.1, 0.3, 0.7, 1 / 3):
        rows = torch.full((3, 1_000_000), value)
        exact = rows[0].double().square().sum()
        assert (rows_squared(rows) / exact - 1).abs().max() < 2.0**-13


@pytest.mark.parametrize("few", [0, 16])
def test_signals_too_long_for_their_weight_count_as_zero(few: int) -> None:
    """Several positions: brought down to the clip by a weight that single precision can only round or lose."""
    with few_positions(few):
        _signals_too_long_for_their_weight_count_as_zero()


def _signals_too_long_for_their_weight_count_as_zero() -> None:
    net = nn.Linear(2, 1, bias=False)
    for power, whole in ((31, 1.0), (33, 0.0), (120, 0.0)):
        long = Clipper(net, lambda c, power=power: net(torch.ones(len(c), 2, 2)).sum((1, 2)) * 2.0**power)
        moved = float(long.total(np.zeros((1, 1), np.int64), np.arange(1), 1.0).norm())
        assert moved <= 1.0
        assert round(moved, 1) == whole


def test_batches_are_filled_up_with_rows_that_weigh_nothing() -> None:
    """Kernels compute the last rows of a matrix another way: a neighbour more must not push a row across a kink.

    A hidden unit whose bias is minus what one of the kernels makes of all the rows: without filling, the row that
    makes 1,003 into 1,004 moved the sum by 2.99 clips.
    """
    torch.manual_seed(0)
    net, sizes = nn.Linear(3, 1), set[int]()

    def losses(codes: torch.Tensor) -> torch.Tensor:
        sizes.add(len(codes) % MULTIPLE)
        return net(1.0 + codes.float()).squeeze(1)

    codes = np.random.default_rng(0).integers(0, 9, (70, 3))
    for count in (1, 63, 64, 70):
        for owners in (np.arange(count), np.arange(count) // 2):
            found = Clipper(net, losses).total(codes[:count], owners, 1.0)
            alone = Clipper(net, net_of(net), multiple=1).total(codes[:count], owners, 1.0)
            torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)
    assert sizes == {0}
    first, last, x = nn.Linear(16, 1, bias=False), nn.Linear(1, 1, bias=False), torch.randn(16)
    edge = min(first(x.repeat(7, 1)).squeeze(1).tolist())
    with torch.no_grad():
        last.weight.fill_(100.0)
    both = nn.Sequential(first, last)
    kinked = Clipper(both, lambda c: last(torch.relu(first(x.repeat(len(c), 1)) - edge)).squeeze(1))
    sums = [kinked.total(np.zeros((n, 1), np.int64), np.arange(n), 1.0).numpy() for n in range(1_001, 1_030)]
    assert all(np.linalg.norm(b - a) <= 1.0 for a, b in itertools.pairwise(sums)), "moved by more than the clip"


def net_of(net: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda codes: net(1.0 + codes.float()).squeeze(1)


@pytest.mark.parametrize("rows", [1, 137, 138])
def test_chance_inside_a_loss_is_secret_and_leaves_no_trace(rows: int) -> None:
    """The generator is as before, whatever the batch; the same public seed gives other masks each time."""
    net = nn.Linear(16, 1, bias=False)
    clipper = Clipper(net, lambda codes: net(torch.randn(len(codes), 16)).squeeze(1))
    sums = []
    for _ in range(2):
        torch.manual_seed(7)
        before = torch.get_rng_state()
        sums.append(clipper.total(np.zeros((rows, 1), np.int64), np.arange(rows), 1.0))
        assert torch.equal(before, torch.get_rng_state()), "the state of the generator tells the batch size"
    assert not torch.equal(*sums), "a public seed fixes the masks"


def test_secret_chance_is_uniform() -> None:
    """alpha 1e-9 on 100,000 uniform numbers: a state put together wrongly would repeat or be off."""
    with secret_chance(torch.device("cpu")):
        drawn = torch.rand(100_000, dtype=torch.float64).numpy()
    assert len(np.unique(drawn)) > 99_990
    assert stats.kstest(drawn, "uniform").pvalue > ALPHA


def test_a_row_that_moves_biases_alone_is_clipped() -> None:
    """Rows of zeros: the first layer's weight has no gradient, its bias a long one."""
    net = Net()
    with torch.no_grad():
        net.first.bias.fill_(1.0)
        net.last.weight.fill_(1e3)
    moved = Clipper(net, net).total(np.zeros((1, 2), np.int64), np.arange(1), 1.0)
    assert 0.99 < float(moved.norm()) <= 1.0, "one unit moved the sum by more than the clip"


@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("weight", [True, False])
def test_biases_that_nearly_cancel_are_clipped(weight: bool, few: int) -> None:
    """A unit of three rows, or three positions, whose bias gradients are 2^30, 300 and -2^30."""
    with few_positions(few):
        _biases_that_nearly_cancel_are_clipped(weight)


def _biases_that_nearly_cancel_are_clipped(weight: bool) -> None:
    net, beside = nn.Linear(3, 1), torch.tensor([2.0**30, 300.0, -(2.0**30)])
    net.weight.requires_grad_(weight)
    rows = Clipper(net, lambda c: net(torch.zeros(len(c), 3)).squeeze(1) * beside[c[:, 0]])
    moved = rows.total(np.array([[0], [1], [2]]), np.zeros(3, np.int64), 1.0)
    assert float(moved.norm()) <= 1.0, "one unit moved the sum by more than the clip"
    positions = Clipper(net, lambda c: (net(torch.zeros(len(c), 3, 3)).squeeze(2) * beside).sum(1))
    moved = positions.total(np.zeros((1, 1), np.int64), np.arange(1), 1.0)
    assert float(moved.norm()) <= 1.0, "one unit moved the sum by more than the clip"


def test_a_row_that_is_repeated_counts_once_more_each_time() -> None:
    net = Net()
    with torch.no_grad():
        net.first.weight.mul_(1e3)
    one = np.array([[9, 2]])
    single = Clipper(net, net).total(one, np.arange(1), 1.0)
    torch.testing.assert_close(Clipper(net, net).total(one.repeat(5, 0), np.arange(5), 1.0), 5 * single)
    assert float(Clipper(net, net).total(one.repeat(5, 0), np.zeros(5, np.int64), 1.0).norm()) <= 1.0


def test_a_person_is_drawn_and_clipped_as_one() -> None:
    """Traps A7, A17: of a person with 40 rows at most 3 are kept; all of them come together, and weigh one clip."""
    people = frame(60).assign(who=["p"] * 40 + [f"q{i % 10}" for i in range(20)])
    sizes: list[np.ndarray] = []

    def total(codes: np.ndarray, owners: np.ndarray) -> np.ndarray:
        sizes.append(np.bincount(owners))
        return np.zeros(1)

    rows = PrivateRows(open_table(people), PERSONS, Receipt.uncharged())
    rows.noisy_sum(ClippedSum(1.0, math.inf, 1, 100, total), label="any")
    assert sorted(sizes[0]) == [2] * 10 + [3]
    for _ in range(200):
        rows.noisy_sum(ClippedSum(0.5, math.inf, 1, 100, total), label="any")
    assert all(set(s.tolist()) <= {2, 3} and (s == 3).sum() <= 1 for s in sizes)
    assert len({len(s) for s in sizes}) > 3


# ------------------------------------------------------------------------------------------------------------ refusals
def test_what_mixes_rows_is_refused() -> None:
    widths = (10, 3)

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(2, 4), nn.BatchNorm1d(4)

        def forward(self, codes: torch.Tensor) -> torch.Tensor:
            return self.norm(self.layer(codes.float())).sum(1)

    with pytest.raises(UsageError, match="mixes the rows"):
        Clipper(Normed(), Normed())
    net = Net()
    check_rows_apart(net, net, widths)
    for mixing in (
        lambda x: net(x) - net(x).mean(),
        lambda x: net(x / (1 + x.max(0).values)),
        lambda x: net(x).softmax(0),
        lambda x: net(x) * len(x.unique(dim=0)) + net(x.roll(1, 0)),
    ):
        with pytest.raises(UsageError, match="depends on other rows"):
            check_rows_apart(net, mixing, widths)
    with pytest.raises(UsageError, match="depends on other rows"):
        Descent(net, charged(Schedule("s", 0.1, 1, 1.0)), schedule=Schedule("s", 0.1, 1, 1.0), clip=1.0,
                expected_units=1.0, losses=lambda x: net(x) - net(x).mean())  # fmt: skip


class Hidden(nn.Module):
    """Centres over the batch behind two layers that start at zero: no loss and no gradient shows it at first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.out = nn.Linear(2, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.out.weight)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        hidden = self.first(codes.float())
        return self.out(self.gate(hidden - hidden.mean(0))).squeeze(1)


def places(codes: torch.Tensor) -> torch.Tensor:
    return 1.0 + torch.arange(len(codes)) % 2


def test_losses_by_size_place_or_hidden_neighbours_are_refused() -> None:
    """What changing another row alone does not show: sums of 1,000 such rows moved by up to 1,993 clips."""
    net, hidden = Net(), Hidden()
    before = [p.detach().clone() for p in (*net.parameters(), *hidden.parameters())]
    for module, mixing in (
        (net, lambda x: net(x) / len(x)),
        (net, lambda x: net(x) * (-1.0) ** len(x)),
        (net, lambda x: net(x) * places(x)),
        (net, lambda x: net(x) * (1.0 + (len(x) > 100))),
        (net, lambda x: net(x[torch.randperm(len(x))])),
        (net, lambda x: net(x) * np.random.default_rng().random()),
        (hidden, hidden),
    ):
        with pytest.raises(UsageError, match="depends on other rows of its batch"):
            check_rows_apart(module, mixing, (10, 3))
    assert all(map(torch.equal, before, [p.detach() for p in (*net.parameters(), *hidden.parameters())]))

    def straight(x: torch.Tensor) -> torch.Tensor:
        out = net(x)
        return out + (out - out.detach()) * len(x)  # the same number, another gradient

    with pytest.raises(UsageError, match="The gradient of a row depends on other rows"):
        check_rows_apart(net, straight, (10, 3))
    turned = nn.Linear(1, 1)
    with pytest.raises(UsageError, match="first axis"):  # as many rows as columns in one batch, not in all
        check_rows_apart(turned, lambda x: turned(x.float().T[..., None])[..., 0].sum(0), (2,) * 14)


def test_chance_row_by_row_is_no_mixing() -> None:
    """Drawn by place and with the batch's size, as a variational autoencoder draws its latents: let through."""
    net = Net()
    dropping = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.3), nn.GELU(), nn.Linear(16, 1), nn.Flatten(0))
    state = torch.get_rng_state()
    for module, chance in (
        (net, lambda x: net(x) + torch.randn(len(x))),
        (net, lambda x: net(x) * torch.rand(len(x), 4).mean(1) + torch.randn_like(x.float()).sum(1)),
        (net, lambda x: net(x * torch.bernoulli(torch.full(x.shape, 0.5)).long())),
        (net, lambda x: net(torch.multinomial(1.0 + x.float(), 2))),
        (dropping, lambda x: dropping(x.float())),
    ):
        check_rows_apart(module, chance, (10, 3))
    assert torch.equal(state, torch.get_rng_state())


def test_gradients_of_gradients_are_refused() -> None:
    """Trap A8: a penalty on the gradient by the input would be left out of a private sum without a word."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))

    def penalty(codes: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = codes.float().requires_grad_(True)
            (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        return (slope.norm(dim=1) - 1) ** 2

    with pytest.raises(UsageError, match="not what plain differentiation gives"):
        check_rows_apart(net, penalty, (10, 3))
    beside = Net()
    with pytest.raises(UsageError, match="not what plain differentiation gives"):  # the weight, not by its layer
        check_rows_apart(beside, lambda x: beside(x) + beside.last.weight.square().sum(), (10, 3))


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_half_precision_is_refused(name: str) -> None:
    net, kind = Net(), getattr(torch, name)
    with pytest.raises(UsageError, match="less than single precision"):
        Clipper(Net().to(kind), net)
    inside = Clipper(net, lambda c: torch.func.functional_call(net.to(kind), {}, (c,)).float())
    with pytest.raises(UsageError, match="less than single precision"):
        inside.total(np.zeros((2, 2), np.int64), np.arange(2), 1.0)
    net = Net()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(UsageError, match="less than single precision"):
        Clipper(net, lambda c: net(c).float()).total(np.zeros((2, 2), np.int64), np.arange(2), 1.0)


@pytest.mark.filterwarnings("ignore")
def test_weights_computed_by_hooks_are_refused() -> None:
    """weight_norm leaves nn.Linear with parameters that its closed form does not know."""
    for hooked in (nn.utils.weight_norm(nn.Linear(9, 1)), nn.utils.spectral_norm(nn.Linear(9, 1))):
        with pytest.raises(UsageError, match="computed by a hook"):
            Clipper(hooked, hooked)
    back = nn.utils.remove_weight_norm(nn.utils.weight_norm(nn.Linear(3, 1)))  # bias registered first
    losses = lambda c: back(c.float()).squeeze(1)  # noqa: E731
    clipper, codes = Clipper(back, losses), np.array([[1, 2, 3]])
    torch.testing.assert_close(clipper.total(codes, np.arange(1), math.inf).float(), clipper.plain(codes)[0])


def test_a_sum_of_another_shape_is_refused() -> None:
    """Broadcast over the coordinates, one clip would become sqrt(size) of them."""
    schedule = Schedule("s", 1.0, 1, 1.0)
    narrow = ClippedSum(1.0, 1.0, 5, 100, lambda codes, owners: np.ones(1))
    with pytest.raises(UsageError, match="one number for each"):
        charged(schedule).noisy_sum(narrow, label="s")
    infinite = ClippedSum(1.0, 1.0, 2, 1000, lambda codes, owners: np.array([math.nan, math.inf]))
    assert bool(np.isfinite(charged(schedule).noisy_sum(infinite, label="s")).all())


@pytest.mark.parametrize("anew", [True, False])
def test_buffers_that_a_forward_pass_writes_are_refused(anew: bool) -> None:
    """Found on made-up codes; in a sum the buffer is put back before the error leaves."""

    class Running(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, codes: torch.Tensor) -> torch.Tensor:
            found = codes.float().mean(0)
            self.mean = found if anew else self.mean.copy_(found)
            return super().forward(codes)

    net = Running()
    with pytest.raises(UsageError, match="writes to a buffer"):
        descent(net, Schedule("s", 1.0, 1, 1.0))
    with pytest.raises(UsageError, match="writes to a buffer"):
        Clipper(net, net).total(np.ones((3, 2), np.int64), np.arange(3), 1.0)
    assert not net.state_dict()["mean"].any()


def test_a_private_schedule_needs_a_charge() -> None:
    """With a receipt that promises nothing it would train without noise and call itself private."""
    schedule = Schedule("s", 1.0, 1, 1.0)
    rows = PrivateRows(open_table(frame()), SCHEMA, Receipt.uncharged())
    with pytest.raises(UnchargedError, match="nothing was charged"):
        Descent(Net(), rows, schedule=schedule, clip=1.0, expected_units=1.0).gradient()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_cannot_pay() -> None:
    ledger = Ledger(":memory:")
    ledger.open("t", epsilon=1e6, delta=1e-5, unit=SCHEMA.unit)
    receipt = ledger.charge("t", Schedule("s", 1.0, 4, 1.0).spends, label="fit")
    receipt.take("s")
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(UnchargedError):
            receipt.take("s")
            code = 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1, "a copy of the receipt paid a second time"
    receipt.take("s")


def test_layers_without_gradients_of_rows_are_refused() -> None:
    codes, owners = np.zeros((4, 2), np.int64), np.arange(4)

    def total(module: nn.Module, losses: object = None) -> torch.Tensor:
        return Clipper(module, losses or module).total(codes, owners, 1.0)

    tied = Net(2)
    tied.extra = nn.Linear(2, 2)
    tied.extra.weight = tied.first.weight
    with pytest.raises(UsageError, match="share a parameter"):
        total(tied)
    net = Net()
    net.own = nn.Parameter(torch.ones(3))
    with pytest.raises(UsageError, match="beside sub-modules"):
        total(net)
    with pytest.raises(UsageError, match="DPMultiheadAttention"):
        total(nn.Sequential(nn.MultiheadAttention(4, 2)))
    with pytest.raises(UsageError, match="DPLSTM"):
        total(nn.LSTM(2, 2))
    with pytest.raises(UsageError, match="rescale itself"):
        total(nn.Embedding(3, 2, max_norm=1.0))
    with pytest.raises(UsageError, match="no trainable parameter"):
        total(nn.ReLU())
    cell = nn.GRUCell(2, 3)
    with pytest.raises(UsageError, match="with one tensor by position"):
        total(cell, lambda x: cell(x.float(), torch.ones(len(x), 3)).sum(1))
    net = Net()
    with pytest.raises(UsageError, match="one number for each row"):
        total(net, lambda x: net(x).mean())
    with pytest.raises(UsageError, match="first axis"):
        total(net, lambda x: net(x.reshape(-1, 2).repeat(2, 1))[: len(x)])
    with pytest.raises(UsageError, match="No row passes"):
        total(net, lambda x: net.first(x.float()).sum(1))
    with pytest.raises(UsageError, match="in place"):
        total(net, lambda x: net.last(net.first(x.float()).tanh().mul(2)).mul_(2).squeeze(1))


# ---------------------------------------------------------------------------------------------------------- Poisson law
def test_coins_have_their_probability() -> None:
    """alpha = 1e-9, n = 4,000,000 coins each; a probability 10 % off is rejected; ties are broken by further bits."""
    n = 4_000_000
    for p in (0.005, 1 / 256, 0.3, 1 - 1e-3):
        heads = int(bernoulli(n, p).sum())
        assert stats.binomtest(heads, n, p).pvalue > ALPHA
        assert stats.binomtest(heads, n, min(0.9 * p, 1.0)).pvalue < ALPHA
    assert bernoulli(9, 1.0).all()
    assert not bernoulli(9, 0.0).any()


def drawn(rate: float, times: int, rows: int) -> np.ndarray:
    """Which rows were in which batch, shape (times, rows), as counts; read off the codes."""
    schema = Schema(columns=(Integer(name="i", low=0, high=rows - 1),))
    private = PrivateRows(open_table(pd.DataFrame({"i": np.arange(rows)})), schema, Receipt.uncharged())
    seen = np.zeros((times, rows), dtype=np.int64)
    for step in range(times):

        def total(codes: np.ndarray, owners: np.ndarray, step: int = step) -> np.ndarray:
            np.add.at(seen[step], codes[:, 0], 1)
            return np.zeros(1)

        private.noisy_sum(ClippedSum(rate, math.inf, 1, 16, total), label="any")
    return seen


def test_batches_are_poisson() -> None:
    """Traps A4, A5, A6: alpha = 1e-9 each, n = 20,000 batches of 40 rows at rate 0.1, handed over 16 at a time.

    Every row is in a batch at most once and equally often; sizes follow the binomial law, far out too. A rate 10 % off,
    and batches of one size, are rejected.
    """
    rows, times, rate = 40, 20_000, 0.1
    seen = drawn(rate, times, rows)
    assert set(np.unique(seen).tolist()) == {0, 1}, "a row is in a batch twice"
    often = seen.sum(0)
    assert stats.chisquare(np.append(often, seen.size - often.sum()), size_law(often, rate)).pvalue > ALPHA
    sizes = np.bincount(seen.sum(1), minlength=rows + 1)
    assert size_p_value(sizes, rate, rows) > ALPHA, "batch sizes are not binomial"
    for wrong in (0.9, 1.1):
        assert size_p_value(sizes, rate * wrong, rows) < ALPHA
    assert seen.sum(1).max() >= 10, "large batches are capped"  # P(< 10 in all of them) = (1 - 0.00506)^20,000 < 1e-43
    assert (seen.sum(1) == 0).any()  # P(none) = (1 - 0.9^40)^20,000 < 1e-100


def test_rows_of_batches_are_independent() -> None:
    """Traps A5, A12: alpha = 1e-10, n = 20,000 batches of 40 rows: of each other, and of the batch before."""
    rows, times, rate = 40, 20_000, 0.1
    seen = drawn(rate, times, rows)
    centred = seen - rate
    scale = rate * (1 - rate) * math.sqrt(times)
    z = [(centred[:, i] * centred[:, j]).sum() / scale for i in range(5) for j in range(5, 10)]
    z += [(centred[1:, i] * centred[:-1, i]).sum() / scale for i in range(10)]
    assert np.abs(z).max() < 7.0, "rows of a batch depend on each other"  # 35 of P(|z| > 7) = 2.6e-12: below 1e-10


def size_law(often: np.ndarray, rate: float) -> np.ndarray:
    n = 20_000 * len(often)
    return np.append(np.full(len(often), 20_000 * rate), n - 20_000 * rate * len(often))


def size_p_value(sizes: np.ndarray, rate: float, rows: int) -> float:
    expected = stats.binom.pmf(np.arange(rows + 1), rows, rate) * sizes.sum()
    top = int(np.flatnonzero(expected >= 10).max())
    pooled, law = np.append(sizes[:top], sizes[top:].sum()), np.append(expected[:top], expected[top:].sum())
    return float(stats.chisquare(pooled, law).pvalue)


def test_an_empty_batch_is_a_step_of_noise_alone() -> None:
    """Trap A6: a table without rows steps as often as any other."""
    net, schedule = Net(), Schedule("s", 0.5, 3, 1.0)
    before = [p.detach().clone() for p in net.parameters()]
    empty = descent(net, schedule, frame(0))
    assert train(empty, Course(torch.optim.SGD(net.parameters(), lr=1.0))) == 3
    assert all(float((p - b).detach().abs().min()) > 0 for p, b in zip(net.parameters(), before, strict=True))


def test_micro_batches_change_nothing() -> None:
    torch.manual_seed(0)
    net = Net()
    found = []
    for most in (1, 7, 10_000):
        one = descent(net, Schedule("s", 1.0, 1, 0.0), most_units=most)
        one.gradient()
        found.append(torch.cat([p.grad.reshape(-1) for p in net.parameters()]))
    torch.testing.assert_close(found[0], found[2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], found[2], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------- noise
def test_gaussians_have_their_law() -> None:
    """alpha = 1e-9, n = 400,000 into 200 cells of equal mass; a deviation 3 % off is rejected. Halves do not depend."""
    draws = gaussian(400_001)[:400_000]
    cells = stats.norm.ppf(np.linspace(0, 1, 201))
    counts = np.histogram(draws, cells)[0]
    assert stats.chisquare(counts).pvalue > ALPHA
    assert stats.chisquare(np.histogram(draws * 1.03, cells)[0]).pvalue < ALPHA
    for moved in (1, 8192, 200_000):
        assert abs(np.corrcoef(draws[:-moved], draws[moved:])[0, 1]) < 7 / math.sqrt(len(draws) - moved)
        assert abs(np.corrcoef(draws[:-moved] ** 2, draws[moved:] ** 2)[0, 1]) < 7 / math.sqrt(len(draws) - moved)


class Quiet(nn.Module):
    """A layer whose gradient is zero for every row: what is left of a step is the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 4_000)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return 0 * self.layer(codes.float()).sum(1)


def test_a_step_carries_exactly_the_charged_noise() -> None:
    """alpha = 1e-9, n = 60,000 coordinates in 5 steps: deviation noise * clip / expected_units, 10 % off is rejected.

    Steps and coordinates do not repeat, whatever torch's and numpy's global seeds are (trap A12).
    """
    noise, clip, expected = 1.7, 0.3, 20.0
    module = Quiet()
    stepping = descent(module, Schedule("s", 0.1, 5, noise), clip=clip, expected_units=expected)
    seen = []
    for _ in range(5):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  (the point: a global seed changes nothing)
        stepping.gradient()
        seen.append(torch.cat([p.grad.reshape(-1) for p in module.parameters()]).double().numpy())
    draws = np.concatenate(seen)
    assert len(np.unique(draws)) > 0.99 * len(draws), "noise is repeated"
    sum_of_squares = float((draws**2).sum())

    def p_value(sigma: float) -> float:
        x = sum_of_squares / sigma**2
        return 2 * min(stats.chi2.cdf(x, len(draws)), stats.chi2.sf(x, len(draws)))

    sigma = noise * clip / expected
    assert len(draws) == 60_000
    assert p_value(sigma) > ALPHA, "not the charged noise"
    assert p_value(0.9 * sigma) < ALPHA
    assert p_value(1.1 * sigma) < ALPHA
    assert stats.kstest(draws / sigma, "norm").pvalue > ALPHA


def test_sum_and_noise_lie_on_one_grid() -> None:
    """Trap A13: what is released is a whole multiple of the grid whatever the rows, and the noise pays for rounding."""
    event = PoissonSampledDpEvent(1.0 - 2**-20, GaussianDpEvent(1.3))
    for value in (0.1, math.pi / 7, 1e-9):
        asked = ClippedSum(1.0 - 2**-20, 0.9, 50, 10_000, lambda codes, owners, v=value: np.full(50, v * len(codes)))
        deviation, grid = mechanisms.deviation_and_grid(1.3, asked)
        ledger = Ledger(":memory:")
        ledger.open("t", epsilon=1e3, delta=1e-5)
        rows = PrivateRows(open_table(frame()), SCHEMA, ledger.charge("t", [Spend("s", event, 3)], label="x"))
        for _ in range(3):
            released = rows.noisy_sum(asked, label="s") / grid
            assert np.array_equal(released, np.rint(released)), "the last bits tell of the rows"
            assert len(np.unique(released % 2)) == 2
        assert deviation == pytest.approx(1.3 * (0.9 + grid * math.sqrt(50)), rel=1e-15)
        assert deviation > 1.3 * 0.9
        assert grid <= 1.3 * 0.9 * 2.0**-24


def test_noise_is_seeded_in_tests_alone() -> None:
    """Under `seeded_noise_for_tests` steps repeat (the statement then says NOT A RELEASE); without, never."""
    net = Net()

    def step() -> torch.Tensor:
        descent(net, Schedule("s", 0.3, 1, 1.0)).gradient()
        return torch.cat([p.grad.reshape(-1) for p in net.parameters()])

    seeded = []
    for _ in range(2):
        with seeded_noise_for_tests(3):
            seeded.append(step())
    assert torch.equal(*seeded)
    assert not torch.equal(step(), step())


# --------------------------------------------------------------------------------------------------------------- charge
def test_sigma_is_what_dp_accounting_solves() -> None:
    """Trap A19: the same accountant prices and solves; dp-accounting's own search agrees to 0.2 %."""
    import dp_accounting
    from dp_accounting import pld

    rate, steps, epsilon, delta = 0.02, 400, 1.0, 1e-5
    schedule = Schedule.solved("s", rate=rate, steps=steps, epsilon=epsilon, delta=delta)
    price = accounting.epsilon(accounting.event_of(schedule.spends), delta)
    assert 0.999 * epsilon <= price <= epsilon, "another price than was asked for"

    def event(noise: float) -> dp_accounting.DpEvent:
        sampled = PoissonSampledDpEvent(rate, GaussianDpEvent(noise))
        return dp_accounting.SelfComposedDpEvent(sampled, steps)

    theirs = dp_accounting.calibrate_dp_mechanism(
        lambda: pld.PLDAccountant(value_discretization_interval=1e-3),
        event,
        epsilon,
        delta,
        dp_accounting.ExplicitBracketInterval(0.9 * schedule.noise, 1.1 * schedule.noise),
        tol=1e-3,
    )
    assert schedule.noise == pytest.approx(theirs, rel=2e-3)
    beside = [Spend("counts", DiscreteGaussianDpEvent(20.0), 5)]
    dearer = Schedule.solved("s", rate=rate, steps=steps, epsilon=epsilon, delta=delta, beside=beside)
    assert dearer.noise > schedule.noise
    assert accounting.epsilon(accounting.event_of([*beside, *dearer.spends]), delta) <= epsilon
    assert not Schedule.solved("s", rate=rate, steps=steps, epsilon=math.inf, delta=delta).private


@pytest.mark.parametrize("rate", [0.0, 1.5, math.nan])
def test_numbers_out_of_range_are_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="rate"):
        Schedule("s", rate, 1, 1.0)
    with pytest.raises(UsageError, match="steps"):
        Schedule("s", 0.1, 0, 1.0)
    with pytest.raises(UsageError, match="delta"):
        Schedule.solved("s", rate=0.1, steps=1, epsilon=1.0, delta=0.0)
    with pytest.raises(UsageError, match="clip"):
        descent(Net(), Schedule("s", 0.1, 1, 1.0), clip=math.inf)


def test_no_step_passes_the_charge() -> None:
    """Traps A9, A10: optimiser steps, gradients and charged steps are equally many, and one more is refused."""
    net, schedule = Net(), Schedule("s", 0.1, 4, 1.0)
    training = descent(net, schedule)
    taken: list[int] = []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: taken.append(1))
    assert train(training, Course(optimizer)) == 4
    assert len(taken) == 4
    with pytest.raises(UnchargedError, match="Nothing is left"):
        training.gradient()
    assert train(training, Course(optimizer)) == 0


class Unreadable(Exception):
    """Raised by a table that must not be read."""


class Trap:
    def __getattr__(self, name: str) -> object:
        raise Unreadable(name)


def test_nothing_is_read_before_the_charge_is_found_good() -> None:
    """Trap A10: other labels, kinds and rates than the charged ones, and making a Descent, read no row."""
    ledger = Ledger(":memory:")
    ledger.open("t", epsilon=1e3, delta=1e-5)
    good = Schedule("s", 0.1, 1, 1.0)
    receipt = ledger.charge("t", [*good.spends, Spend("counts", DiscreteGaussianDpEvent(5.0), 9)], label="x")
    rows = PrivateRows(Trap(), SCHEMA, receipt)  # type: ignore[arg-type]
    for wrong, message in (
        (Schedule("never", 0.1, 1, 1.0), "Nothing is left"),
        (Schedule("counts", 0.1, 1, 1.0), "DiscreteGaussian"),
    ):
        with pytest.raises(UnchargedError, match=message):
            Descent(Net(), rows, schedule=wrong, clip=1.0, expected_units=1.0).gradient()
    faster = Descent(Net(), rows, schedule=Schedule("s", 0.2, 1, 1.0), clip=1.0, expected_units=1.0)
    with pytest.raises(UnchargedError, match="another rate"):
        faster.gradient()
    with pytest.raises(UnchargedError, match="Nothing is left"):  # spent by the refusal: fails closed
        Descent(Net(), rows, schedule=good, clip=1.0, expected_units=1.0).gradient()
    free = Schedule("s", 0.1, 1, 0.0)
    ledger.open("u", epsilon=1e3, delta=1e-5)
    again = PrivateRows(Trap(), SCHEMA, ledger.charge("u", good.spends, label="y"))  # type: ignore[arg-type]
    with pytest.raises(UnchargedError, match="clip"):
        Descent(Net(), again, schedule=free, clip=1.0, expected_units=1.0).gradient()


def test_a_private_training_tells_no_loss_and_no_batch_size() -> None:
    """Traps A11, A14: there is nothing to stop early by; progress and divisor are public numbers."""
    net, schedule = Net(), Schedule("s", 0.1, 3, 1.0)
    told: list[list[float]] = []
    for table in (frame(0), frame(200)):
        shares: list[float] = []
        training = descent(net, schedule, table)
        train(training, Course(torch.optim.SGD(net.parameters(), lr=0.1)), progress=shares.append)
        told.append(shares)
        with pytest.raises(UnchargedError, match="does not tell"):
            training.loss  # noqa: B018
    assert told[0] == told[1] == [1 / 3, 2 / 3, 1.0]


def test_the_divisor_is_the_expected_number() -> None:
    """A table of twice as many equal rows has twice the gradient: no mean over the real batch."""
    net = Net()
    found = []
    for rows in (30, 60):
        one = descent(net, Schedule("s", 1.0, 1, 0.0), pd.DataFrame({"a": [3] * rows, "b": ["x"] * rows}))
        one.gradient()
        found.append(net.first.weight.grad.clone())
    torch.testing.assert_close(found[1], 2 * found[0], rtol=1e-5, atol=1e-6)


def test_a_table_beyond_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "MEMORY", 10)
    with pytest.raises(DataError, match="keeps them in memory"):
        descent(Net(), Schedule("s", 0.1, 1, 1.0)).gradient()


# ----------------------------------------------------------------------------------------------------- post-processing
def test_public_terms_averages_and_rates() -> None:
    net, schedule = Net(), Schedule("s", 0.5, 6, 1.0)
    average = Average(net, decay=0.9)
    rates: list[float] = []
    optimizer = torch.optim.Adam(net.parameters(), lr=0.4)
    course = Course(
        optimizer,
        factor=warm_up(4),
        average=average,
        public=lambda step: 1e6 * net.first.bias.sum(),
        after=lambda step: rates.append(optimizer.param_groups[0]["lr"]),
    )
    train(descent(net, schedule), course)
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert float(net.first.bias.grad.mean()) == pytest.approx(1e6, rel=1e-3)
    other = Net()
    average.copy_to(other)
    assert not torch.equal(other.first.weight, net.first.weight)
    again = Average(net, decay=0.9)
    again.load_state_dict(average.state_dict())
    copied = Net()
    again.copy_to(copied)
    assert torch.equal(copied.first.weight, other.first.weight)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with contextlib.suppress(UsageError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise UsageError("any")
    assert torch.get_num_threads() == before


# ------------------------------------------------------------------------------------------------------------- resuming
LABELS = ("s",)


def resumable(folder: Path, steps: int = 12) -> tuple[Checkpoints, Ledger, Schedule]:
    ledger = Ledger(folder / "ledger.db")
    ledger.open("t", epsilon=50.0, delta=1e-5)
    return Checkpoints(folder / "states", every=4), ledger, Schedule("s", 0.1, steps, 1.0)


def session(folder: Path, stop: int | None = None, steps: int = 12) -> tuple[int, Net]:
    """One process's life: pay or find the charge, go on, and crash after `stop` optimiser steps of its own."""
    checkpoints, ledger, schedule = resumable(folder, steps)
    receipt = checkpoints.receipt(ledger, "t", schedule.spends, label="fit", labels=LABELS)
    net, lived = Net(), [0]

    def crash(step: int) -> None:
        lived[0] += 1
        if lived[0] == stop:
            raise KeyboardInterrupt

    training = Descent(net, PrivateRows(open_table(frame()), SCHEMA, receipt), schedule=schedule, clip=1.0,
                       expected_units=20.0)  # fmt: skip
    course = Course(torch.optim.Adam(net.parameters(), lr=0.1), average=Average(net), after=crash)
    return train(training, course, checkpoints=checkpoints), net


def entries(folder: Path) -> list[dict[str, object]]:
    with sqlite3.connect(folder / "ledger.db") as connection:
        return [json.loads(p) for (p,) in connection.execute("SELECT payload FROM tabveil_entries ORDER BY seq")]


def claimed(folder: Path) -> int:
    return sum(int(e["count"]) for e in entries(folder) if e["kind"] == "claim")  # type: ignore[call-overload]


def test_a_crash_costs_no_second_charge_and_no_step_beyond_it(tmp_path: Path) -> None:
    """Blocks of 1, 2, 4, 4: the crash in the sixth step loses the block 4 to 7, which is spent."""
    with pytest.raises(KeyboardInterrupt):
        session(tmp_path, stop=6)
    assert claimed(tmp_path) == 7
    done, _ = session(tmp_path)
    assert done == 3 + (12 - 7)
    assert claimed(tmp_path) == 12
    assert [e["kind"] for e in entries(tmp_path)].count("commit") == 1
    Ledger(tmp_path / "ledger.db").verify()
    again, net = session(tmp_path)  # nothing left to do: the last state
    assert again == done
    saved = Checkpoints(tmp_path / "states")
    checkpoints, ledger, schedule = resumable(tmp_path)
    checkpoints.receipt(ledger, "t", schedule.spends, label="fit", labels=LABELS)
    found = checkpoints.read()
    assert found is not None
    assert found[0] == done
    assert torch.equal(found[1]["module"]["first.weight"], net.first.weight)
    assert found[1]["optimizer"]["state"][0]["step"] == done
    assert "state" in repr(saved)
    checkpoints.clear()
    assert not checkpoints.found


def test_copies_of_a_folder_never_run_a_step_twice(tmp_path: Path) -> None:
    """An old state put back, and two processes at once: all of them together take 12 steps."""
    import shutil

    with pytest.raises(KeyboardInterrupt):
        session(tmp_path, stop=2)
    shutil.copytree(tmp_path / "states", tmp_path / "old")
    first, _ = session(tmp_path)
    shutil.rmtree(tmp_path / "states")
    shutil.copytree(tmp_path / "old", tmp_path / "states")
    second, _ = session(tmp_path)
    assert first == 1 + (12 - 3)
    assert second == 1, "steps were taken anew from an old state"
    assert claimed(tmp_path) == 12
    ledger = Ledger(tmp_path / "ledger.db")
    key = json.loads((tmp_path / "old" / "charge.json").read_text())["key"]
    receipts = [ledger.resume("t", key) for _ in range(2)]
    assert [r.claim("s", 3) for r in receipts] == [0, 0]
    for receipt in receipts:
        with pytest.raises(UnchargedError):
            receipt.take("s")


def test_two_receipts_of_one_charge_share_it(tmp_path: Path) -> None:
    _, ledger, schedule = resumable(tmp_path, 10)
    first = Checkpoints(tmp_path / "a").receipt(ledger, "t", schedule.spends, label="x", labels=LABELS)
    key = json.loads((tmp_path / "a" / "charge.json").read_text())["key"]
    second = ledger.resume("t", key)
    assert first.claim("s", 6) == 6
    assert second.claim("s", 6) == 4
    for _ in range(6):
        first.take("s")
    with pytest.raises(UnchargedError):
        first.take("s")
    for _ in range(4):
        second.take("s")
    with pytest.raises(UnchargedError):
        second.require()
    with pytest.raises(LedgerError, match="no charge to be resumed"):
        ledger.resume("t", "another")
    ledger.verify()


def test_two_processes_that_start_at_once_find_one_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both see no key and write one: the first stays, so that there is one charge."""
    first = Checkpoints(tmp_path / "states")._key_for("plan")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: False)
        second = Checkpoints(tmp_path / "states")._key_for("plan")
    assert first == second, "two keys, two charges"
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["charge.json"]


def test_a_folder_belongs_to_one_plan(tmp_path: Path) -> None:
    checkpoints, ledger, schedule = resumable(tmp_path)
    checkpoints.receipt(ledger, "t", schedule.spends, label="x", labels=LABELS)
    other = Schedule("s", 0.2, 12, 1.0)
    with pytest.raises(UsageError, match="another plan"):
        checkpoints.receipt(ledger, "t", other.spends, label="x", labels=LABELS)
    checkpoints.save(0, {"net": Net()})
    (tmp_path / "states" / "state.npz").write_bytes(b"PK damaged")
    with pytest.raises(DataError, match="cannot be read"):
        checkpoints.read()
    with pytest.raises(UsageError, match="every"):
        Checkpoints(tmp_path / "b", every=0)


FORKING = """
import os, signal, sys, time
from pathlib import Path
from unit.test_sgd import entries, session, torch

torch.set_num_threads(1)
torch.optim.Adam([torch.zeros(1)])  # its first optimiser imports a thousand modules: once, not in every child
folder = Path(sys.argv[1])
for life in (0.0, 0.002, 0.01, 0.03, 0.1, 0.2, 0.05, 0.3):
    known, child = len(entries(folder)), os.fork()
    if child == 0:
        session(folder, steps=200)
        time.sleep(60)
        os._exit(1)
    patience = time.monotonic() + 5
    while len(entries(folder)) == known and time.monotonic() < patience:
        time.sleep(0.001)
    time.sleep(life)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
print(session(folder, steps=200)[0])
"""


def test_killed_again_and_again_it_ends_in_a_model_under_one_charge(tmp_path: Path) -> None:
    """SIGKILL at 8 odd moments, from right after the charge to the middle of a step; the last process is left alone.

    How far each comes is a matter of the machine; one that is through waits to be killed.
    """
    Ledger(tmp_path / "ledger.db").open("t", epsilon=50.0, delta=1e-5)
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root / "src"), str(root / "tests")])
    settings = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", FORKING, str(tmp_path)], env=settings, capture_output=True, timeout=300)
    assert ran.returncode == 0, ran.stderr.decode()[-2000:]
    kinds = [e["kind"] for e in entries(tmp_path)]
    assert kinds.count("commit") == kinds.count("reserve") == 1, "charged more than once"
    assert claimed(tmp_path) == 200
    assert 0 <= int(ran.stdout) < 200, "the last process began anew"
    Ledger(tmp_path / "ledger.db").verify()
