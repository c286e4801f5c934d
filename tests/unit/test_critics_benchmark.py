"""In benchmarks/critics.py made-up rows are clipped as private ones are, and each regulariser holds what it says."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tabveil._sgd_clipping import Clipper  # noqa: E402
from tabveil.columns import Integer  # noqa: E402
from tabveil.encoding import Axis  # noqa: E402
from tabveil.generators._deep import Counted  # noqa: E402

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COLUMNS, CELLS, ROWS = 3, 4, 64


@pytest.fixture
def critics(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("critics")


@pytest.fixture
def counted() -> Counted:
    shares = np.full(CELLS, 1 / CELLS)
    columns = [Integer(name=f"c{i}", low=0, high=CELLS - 1) for i in range(COLUMNS)]
    return Counted(tuple(map(Axis.singles, columns)), (shares,) * COLUMNS, 1_000.0)


@pytest.fixture
def codes() -> np.ndarray:
    return np.random.default_rng(3).integers(0, CELLS, (ROWS, COLUMNS))


@pytest.mark.parametrize("clip", [0.3, 3.0, 1e6])
@pytest.mark.parametrize("name", ["one-sided", "zero-centred"])
def test_made_up_rows_are_clipped_as_private_ones_are(
    critics: ModuleType, counted: Counted, codes: np.ndarray, clip: float, name: str
) -> None:
    torch.manual_seed(0)
    critic = critics.MLPCritic(counted)
    duel = critics.Duel(critics.VARIANTS[name], critics.Network(4, 8, counted.flat), critic, counted.sizes)
    summed = Clipper(critic, lambda some: duel.losses(-critic(some))).total(codes, np.arange(ROWS), clip)
    hot = critic.one_hot(torch.from_numpy(codes))
    loss = critics.clipped_mean(critic, hot, lambda said: duel.losses(-said), clip)
    ours = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(critic.parameters()))])
    torch.testing.assert_close(ours.double(), summed.double() / ROWS, rtol=0.005, atol=1e-5)


def test_made_up_rows_have_one_cell_in_each_column(critics: ModuleType, counted: Counted) -> None:
    net = critics.Network(4, 8, counted.flat)
    duel = critics.Duel(critics.VARIANTS["spectral"], net, critics.MLPCritic(counted), counted.sizes)
    rows = duel.rows()
    assert rows.requires_grad
    by_column = rows.detach().reshape(-1, COLUMNS, CELLS)
    torch.testing.assert_close(by_column.sum(2), torch.ones(len(rows), COLUMNS))
    torch.testing.assert_close(by_column.max(2).values, torch.ones(len(rows), COLUMNS))


def test_projections_hold_spectral_norms_and_weights(critics: ModuleType, counted: Counted) -> None:
    critic = critics.MLPCritic(counted)
    project = critics.Spectral(critic, 0.5)
    for _ in range(200):
        project()
    assert all(float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) < 0.51 for layer in critic.layers)
    critics.Clipping(critic, 0.01)()
    assert all(float(layer.weight.detach().abs().max()) <= 0.0100001 for layer in critic.layers)


def test_penalties_are_the_slopes_of_a_linear_critic(critics: ModuleType, counted: Counted) -> None:
    critic = critics.MLPCritic(counted)
    with torch.no_grad():
        for layer in critic.layers:
            layer.weight.fill_(0.1)
            layer.bias.fill_(1.0)  # every unit is on: the critic is linear
    slope = (critic.layers[2].weight @ critic.layers[1].weight @ critic.layers[0].weight).detach().norm()
    hot = torch.nn.functional.one_hot(torch.zeros(8, COLUMNS, dtype=torch.long), CELLS).flatten(1).float()
    assert float(slope) > 1
    torch.testing.assert_close(critics.one_sided(critic, hot).detach(), (slope - 1) ** 2)
    torch.testing.assert_close(critics.zero_centred(critic, hot).detach(), slope**2 / 2)
