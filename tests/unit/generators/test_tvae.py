from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dp_accounting import PoissonSampledDpEvent

torch = pytest.importorskip("torch")

import tabveil  # noqa: E402
from tabveil.columns import Categorical, Integer  # noqa: E402
from tabveil.conformance import account, fitted, mixed_schema, mixed_table  # noqa: E402
from tabveil.encoding import Axis, encode  # noqa: E402
from tabveil.errors import UsageError  # noqa: E402
from tabveil.generators import _deep  # noqa: E402
from tabveil.generators._deep import Ending, Losses, OneHot, seeded  # noqa: E402
from tabveil.generators.base import create  # noqa: E402
from tabveil.generators.tvae import hidden_for, steps_for  # noqa: E402
from tabveil.latents import WIDE_POOL  # noqa: E402
from tabveil.schema import Schema  # noqa: E402

SMALL = {"steps": 8, "hidden": 8, "latent": 4}
SCHEMA = Schema(
    columns=(
        Categorical(name="side", categories=("left", "right")),
        Categorical(name="hand", categories=("a", "b", "c")),
        Integer(name="n", low=0, high=9),
    )
)


def table(rows: int) -> pd.DataFrame:
    """Hand and number follow from the side."""
    rng = np.random.default_rng(0)
    left = rng.random(rows) < 0.5
    hand = np.where(left, "a", rng.choice(["b", "c"], rows))
    return pd.DataFrame({"side": np.where(left, "left", "right"), "hand": hand, "n": np.where(left, 1, 8)})


def test_one_hot_cells_are_those_of_the_axes() -> None:
    schema, frame = mixed_schema(), mixed_table(300)
    axes = []
    for column in schema.modelled:
        axis = Axis.singles(column) if column.kind in ("categorical", "boolean") else _halves(column)
        axes.append(axis)
    codes = np.stack([encode(c, frame[c.name]) for c in schema.modelled], 1)
    hot = OneHot(axes)(torch.from_numpy(codes))
    assert (hot.sum(1) == len(axes)).all()
    start = 0
    for i, axis in enumerate(axes):
        assert np.array_equal(hot[:, start : start + axis.size].argmax(1).numpy(), axis.cells(codes[:, i]))
        start += axis.size


def _halves(column: Any) -> Axis:
    leaves = 2 + column.nullable
    return Axis(column, np.array([0, column.units // 2, column.units]), np.arange(leaves), np.ones(leaves))


def test_the_plan_is_one_training_one_sum_and_histograms_and_costs_at_most_epsilon() -> None:
    made = create("tvae", epsilon=1.0, delta=1e-6, steps=77, rate=0.2)
    plan = made.plan(SCHEMA)
    training = plan.spends[-1]
    assert (training.label, training.count) == ("training", 77)
    assert isinstance(training.event, PoissonSampledDpEvent)
    assert training.event.sampling_probability == 0.2
    assert [s.label for s in plan.spends if isinstance(s.event, PoissonSampledDpEvent)] == ["latents", "training"]
    assert 0.999 < plan.cost <= 1.0


def test_delta_0_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a delta above 0"):
        create("tvae", epsilon=1.0, delta=0.0).plan(SCHEMA)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"rate": 0.0},
        {"rate": 1.5},
        {"hidden": 0},
        {"learning_rate": -1.0},
        {"kl_weight": 0.0},
        {"device": "toaster"},
        {"latent": True},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        create("tvae", epsilon=1.0, delta=1e-6, **options)


def said(epsilon: float, **options: Any) -> list[str]:
    words: list[str] = []
    tell = {"progress": lambda stage, share: words.append(stage)}
    made = create("tvae", epsilon=epsilon, delta=1e-6, **tell, **options)
    if math.isinf(epsilon):
        made.fit(table(200), SCHEMA)
    else:
        made.fit(table(200), SCHEMA, ledger=account(epsilon, 1e-6), dataset="conformance")
    return [w for w in words if w.startswith("training")]


def test_a_private_training_says_how_many_steps_are_left_and_nothing_else() -> None:
    assert said(1.0, **SMALL) == [f"training: {n} step{'s' * (n != 1)} left" for n in range(7, -1, -1)]


def test_without_privacy_the_loss_is_told() -> None:
    assert all(", loss " in w for w in said(math.inf, **SMALL))


def test_only_a_training_without_privacy_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap A14."""
    monkeypatch.setattr(Losses, "settled", lambda self, loss: True)
    assert len(said(1.0, **SMALL)) == 8
    assert len(said(math.inf, **SMALL)) == 1 + 8 // 4  # and what it takes to let the learning rate fall


def test_the_learning_rate_falls_to_nothing_at_the_end_wherever_that_is() -> None:
    ending = Ending(100)
    factor = ending.cooled(lambda number: 2.0)
    assert factor(74) == factor(75) == 2.0
    assert factor(99) == pytest.approx(2.0 / 25)
    ending.settle(40)
    assert (ending.last, factor(40), factor(64)) == (65, 2.0, pytest.approx(2.0 / 25))
    ending.settle(50)
    assert ending.last == 65


def test_steps_and_width_grow_with_the_root_of_epsilon() -> None:
    assert [hidden_for(e) for e in (0.1, 1.0, 4.0, 1e4, math.inf)] == [64, 64, 128, 256, 192]
    assert [steps_for(e) for e in (1e-6, 1.0, 4.0, 1e4, math.inf)] == [10, 400, 800, 1_500, 800]


def test_losses_settle_when_they_no_longer_fall() -> None:
    losses, n = Losses(), _deep.PATIENCE
    assert not any(losses.settled(100.0 - 0.1 * i) for i in range(3 * n))
    assert any(losses.settled(50.0) for _ in range(3 * n))


def test_chance_of_torch_repeats_inside_and_is_put_back() -> None:
    before = torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        with seeded(seed):
            draws.append(float(torch.rand(())))
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(before, torch.get_rng_state())


def test_a_little_noise_leaves_what_columns_say_of_each_other() -> None:
    """In the table hand and number follow from the side; drawn apart they would agree in half of the rows."""
    options = {"steps": 150, "hidden": 32, "latent": 4, "rate": 0.2, "random_state": 0}
    made = fitted("tvae", table(1_500), SCHEMA, epsilon=100.0, delta=1e-5, **options)
    sample = made.sample(2_000, random_state=0)
    left = sample["side"] == "left"
    assert ((sample["hand"] == "a") == left).mean() > 0.9
    assert ((sample["n"] == 1) == left).mean() > 0.9
    assert abs(left.mean() - 0.5) < 0.06


def test_matching_gives_the_charged_one_way_counts() -> None:
    matched = fitted("tvae", table(400), SCHEMA, epsilon=10.0, delta=1e-5, **SMALL)
    plain = fitted("tvae", table(400), SCHEMA, epsilon=10.0, delta=1e-5, match=False, **SMALL)
    counted, _, law = matched._fitted  # type: ignore[attr-defined]
    wide = replace(law, pool=law.latents(WIDE_POOL, np.random.default_rng(1)))
    for i, shares in enumerate(counted.shares):
        assert wide.cell_shares(i) == pytest.approx(shares, abs=2e-3)
    assert not plain._fitted[2].shift.any()  # type: ignore[attr-defined]
    assert matched._fitted[2].shift.any()  # type: ignore[attr-defined]


PEAK = """
import resource, sys
import numpy as np, pandas as pd, tabveil
from tabveil.columns import Categorical
from tabveil.conformance import account
from tabveil.schema import Schema

names = tuple(f"c{i}" for i in range(5_000))
schema = Schema(columns=(Categorical(name="wide", categories=names), Categorical(name="flag", categories=("a", "b"))))
rng = np.random.default_rng(0)
frame = pd.DataFrame({"wide": rng.choice(names, 3_000), "flag": rng.choice(["a", "b"], 3_000)})
epsilon = float(sys.argv[1])
made = tabveil.TVAE(epsilon=epsilon, delta=1e-5, steps=4)
paid = {} if epsilon > 1 else {"ledger": account(epsilon, 1e-5), "dataset": "conformance"}
made.fit(frame, schema, **paid)
assert len(made.sample(20_000)) == 20_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.parametrize("epsilon", [1.0, math.inf])
def test_five_thousand_categories_take_bounded_memory(epsilon: float) -> None:
    """2 GB, in a process of its own; benchmarks/extremes.py has whole fits."""
    source = str(Path(tabveil.__file__).parents[1])
    command = [sys.executable, "-c", PEAK, str(epsilon)]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": source}, check=False)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout.split()[-1]) < 2_048


def test_a_model_names_no_device_and_no_folder_of_the_machine_it_was_fitted_on() -> None:
    made = create("tvae", epsilon=1.0, delta=1e-6, device="cpu", checkpoints="states")
    assert not {"device", "checkpoints", "progress"} & set(made.settings())
