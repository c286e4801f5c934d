"""A fit that is stopped anywhere: one charge, no answer asked for twice, and a model, or a sentence that says why."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from tabveil.columns import Categorical, Integer  # noqa: E402
from tabveil.errors import UnchargedError, UsageError  # noqa: E402
from tabveil.generators.base import load  # noqa: E402
from tabveil.generators.tvae import TVAE  # noqa: E402
from tabveil.ledger import Ledger  # noqa: E402
from tabveil.schema import Schema  # noqa: E402

STEPS = 40
SCHEMA = Schema(
    columns=(Categorical(name="side", categories=("left", "right")), Integer(name="n", low=0, high=9)), public_rows=300
)
LEARNING = Schema(columns=(SCHEMA.columns[0], Integer(name="n", learn=True)), public_rows=300)


class Killed(BaseException):
    """What a killed process would not live to see."""


def table() -> pd.DataFrame:
    left = np.arange(300) % 2 == 0
    return pd.DataFrame({"side": np.where(left, "left", "right"), "n": np.where(left, 1, 8)})


def account(folder: Path) -> Ledger:
    ledger = Ledger(folder / "ledger.db")
    ledger.open("t", epsilon=50.0, delta=1e-3)
    return ledger


def fit(
    folder: Path,
    *,
    killed_at: tuple[str, float] | None = None,
    schema: Schema = SCHEMA,
    states: str = "states",
    steps: int = STEPS,
    latent: int = 3,
    training: Callable[[], object] = lambda: None,
) -> TVAE:
    """One process's life: until `progress` is told of a stage's name and share, or to the end."""

    def tell(stage: str, share: float) -> None:
        if stage.startswith("training"):
            training()
        if killed_at is not None and stage.startswith(killed_at[0]) and share >= killed_at[1]:
            raise Killed

    made = TVAE(
        epsilon=5.0,
        delta=1e-4,
        steps=steps,
        hidden=6,
        latent=latent,
        progress=tell,
        checkpoints=folder / states,
    )
    return made.fit(table(), schema, ledger=account(folder), dataset="t")


def entries(folder: Path) -> list[dict[str, object]]:
    with sqlite3.connect(folder / "ledger.db") as connection:
        return [json.loads(p) for (p,) in connection.execute("SELECT payload FROM tabveil_entries ORDER BY seq")]


def charges(folder: Path) -> int:
    return sum(e["kind"] == "commit" for e in entries(folder))


def claimed(folder: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for entry in entries(folder):
        if entry["kind"] == "claim":
            found[str(entry["label"])] += int(str(entry["count"]))
    return found


@pytest.mark.parametrize("stage", [("training", 0.0), ("training", 0.4), ("training", 1.0), ("settling", 0.0)])
def test_another_process_goes_on_where_one_was_killed(stage: tuple[str, float], tmp_path: Path) -> None:
    """While training, and after it before its last sum is claimed: one charge, and every step claimed once."""
    with pytest.raises(Killed):
        fit(tmp_path, killed_at=stage)
    assert charges(tmp_path) == 1
    assert claimed(tmp_path)["latents"] == 0
    made = fit(tmp_path)
    assert len(made.sample(20, random_state=0)) == 20
    assert charges(tmp_path) == 1, "charged a second time"
    assert claimed(tmp_path) == {"training": STEPS, "latents": 1}
    account(tmp_path).verify()


def test_a_finished_folder_gives_the_same_model_again(tmp_path: Path) -> None:
    first, again = fit(tmp_path), fit(tmp_path)
    pd.testing.assert_frame_equal(first.sample(50, random_state=3), again.sample(50, random_state=3))
    assert first.statement == again.statement
    assert charges(tmp_path) == 1, "charged a second time"
    assert claimed(tmp_path) == {"training": STEPS, "latents": 1}


def test_a_kill_before_the_charge_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "charge", killed)
        with pytest.raises(Killed):
            fit(tmp_path)
    assert (tmp_path / "states" / "charge.json").exists()
    assert charges(tmp_path) == 0
    fit(tmp_path)
    assert charges(tmp_path) == 1


@pytest.mark.parametrize("stage", ["counting", "settling"])
def test_an_answer_that_may_have_been_given_is_never_asked_for_again(stage: str, tmp_path: Path) -> None:
    """Killed after the counts, or the sum of latents, were asked for and before they were saved: spent, and said so."""
    with pytest.raises(Killed):
        fit(tmp_path, killed_at=(stage, 1.0))
    for _ in range(2):
        with pytest.raises(UnchargedError, match="another folder"):
            fit(tmp_path)
    assert charges(tmp_path) == 1
    assert claimed(tmp_path)["latents"] <= 1
    fit(tmp_path, states="other")
    assert charges(tmp_path) == 2


def test_what_a_schema_leaves_to_be_learned_is_learned_once(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, killed_at=("training", 0.4), schema=LEARNING)
    made = fit(tmp_path, schema=LEARNING)
    assert made.schema["n"].source == "charged"
    assert made.schema.unresolved == ()
    assert charges(tmp_path) == 1
    with pytest.raises(Killed):
        fit(tmp_path, killed_at=("counting", 0.0), schema=LEARNING, states="other")
    with pytest.raises(UnchargedError, match="'counts'"):
        fit(tmp_path, schema=LEARNING, states="other")


def test_a_folder_belongs_to_one_fit(tmp_path: Path) -> None:
    fit(tmp_path)
    for other in ({"latent": 4}, {"steps": STEPS + 1}, {"schema": LEARNING}):
        with pytest.raises(UsageError, match="belongs to the training of another plan"):
            fit(tmp_path, **other)  # type: ignore[arg-type]
    assert charges(tmp_path) == 1
    with pytest.raises(UsageError, match="epsilon is inf"):
        TVAE(epsilon=float("inf"), checkpoints=tmp_path)


def test_no_saved_model_names_the_folder(tmp_path: Path) -> None:
    made = fit(tmp_path)
    made.save(tmp_path / "model")
    assert "states" not in (tmp_path / "model" / "model.json").read_text(encoding="utf-8")
    assert "checkpoints" not in made.settings()
    pd.testing.assert_frame_equal(load(tmp_path / "model").sample(9, random_state=1), made.sample(9, random_state=1))


FORKING = """
import os, random, signal, sys, threading
from pathlib import Path
from unit.generators.test_resuming import SCHEMA, TVAE, claimed, fit, torch

torch.set_num_threads(1)
torch.optim.Adam([torch.zeros(1)])  # its first optimiser imports a thousand modules: once, not in every child
folder, kills, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
TVAE(epsilon=5.0, delta=1e-4, steps=steps, hidden=6, latent=3).plan(SCHEMA)  # the price is solved for once
chance = random.Random(0)
for _ in range(kills):
    life, child = min(chance.expovariate(1 / 0.05), 0.2), os.fork()
    if child == 0:
        end = threading.Timer(life, os.kill, (os.getpid(), signal.SIGKILL))
        fit(folder, steps=steps, training=lambda: end.ident or end.start())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "it was done before it was killed"
assert claimed(folder)["latents"] == 0
print(len(fit(folder, steps=steps).sample(30)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(("kills", "steps"), [(5, 2_000), pytest.param(50, 20_000, marks=pytest.mark.nightly)])
def test_killed_again_and_again_it_ends_in_a_model_under_one_charge(tmp_path: Path, kills: int, steps: int) -> None:
    """SIGKILL at random moments of the training, by a thread's clock; the last process is left alone."""
    account(tmp_path)
    root = Path(__file__).parents[3]
    paths = os.pathsep.join([str(root / "src"), str(root / "tests")])
    settings = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FORKING, str(tmp_path), str(kills), str(steps)]
    ran = subprocess.run(command, env=settings, capture_output=True, timeout=1_800)
    assert ran.returncode == 0, ran.stderr.decode()[-2000:]
    assert ran.stdout.decode().strip() == "30"
    assert charges(tmp_path) == 1, "charged more than once"
    assert claimed(tmp_path) == {"training": steps, "latents": 1}, "more noisy steps than were charged"
    account(tmp_path).verify()
