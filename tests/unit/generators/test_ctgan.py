from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dp_accounting import PoissonSampledDpEvent

torch = pytest.importorskip("torch")

from tabveil._sgd_clipping import Clipper  # noqa: E402
from tabveil.columns import Categorical, Integer  # noqa: E402
from tabveil.conformance import account, fitted, ruled_schema  # noqa: E402
from tabveil.encoding import Axis  # noqa: E402
from tabveil.errors import UsageError  # noqa: E402
from tabveil.generators import ctgan  # noqa: E402
from tabveil.generators._deep import Counted  # noqa: E402
from tabveil.generators.base import create  # noqa: E402
from tabveil.generators.ctgan import CLIP_ROOM, CTGAN, Cells, Game, Network, PairCritic, joined  # noqa: E402
from tabveil.ledger import Ledger  # noqa: E402
from tabveil.mechanisms import PrivateRows  # noqa: E402
from tabveil.schema import Schema  # noqa: E402

SIDE = Categorical(name="side", categories=("left", "right"))
HAND = Categorical(name="hand", categories=("a", "b", "c"))
NUMBER = Integer(name="n", low=0, high=9)
SCHEMA = Schema(columns=(SIDE, HAND, NUMBER), target="side")


def table(rows: int, rare: float = 0.3) -> pd.DataFrame:
    """Number follows from the side; hand c, which is rare, is left's alone."""
    rng = np.random.default_rng(0)
    left = rng.random(rows) < 0.5
    hand = np.where(left & (rng.random(rows) < rare), "c", rng.choice(["a", "b"], rows))
    return pd.DataFrame({"side": np.where(left, "left", "right"), "hand": hand, "n": np.where(left, 1, 8)})


def counted() -> Counted:
    axes = tuple(Axis.singles(c) for c in SCHEMA.modelled)
    return Counted(axes, (np.full(2, 1 / 2), np.full(3, 1 / 3), np.full(10, 1 / 10)), 100.0)


def coded(rows: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([rng.integers(a.size, size=rows) for a in counted().axes], 1)


@pytest.mark.parametrize(("target", "groups"), [(None, 2), (0, 2), (2, 2), (2, 3), (2, 16)])
def test_pairs_of_hard_rows_are_how_often_cells_meet_in_each_group(target: int | None, groups: int) -> None:
    cells, rows = Cells.of(counted(), target, groups), coded(60)
    hot = PairCritic(cells).one_hot(torch.from_numpy(rows))
    found = cells.pairs(hot).numpy() * cells.apart.numpy()
    in_group = (hot @ cells.group).numpy()
    assert (in_group.sum(1) == 1).all()
    assert in_group.shape[1] == (1 if target is None else min(groups, counted().sizes[target]))
    naive = np.einsum("rg,ra,rb->gab", in_group, hot, hot) / len(rows) * cells.apart.numpy()
    assert found == pytest.approx(naive, abs=1e-6)


def test_every_two_columns_are_compared_once_at_least_and_no_column_with_itself() -> None:
    for target in (None, 0, 2):
        cells = Cells.of(counted(), target, 2)
        blocks = np.zeros((3, 3))
        np.add.at(blocks, (cells.column[:, None], cells.column[None, :]), cells.apart.numpy())
        assert not blocks.diagonal().any()
        assert ((blocks + blocks.T) > 0)[~np.eye(3, dtype=bool)].all()


def test_every_row_has_a_gradient_of_the_same_length_and_the_clip_leaves_it_whole() -> None:
    """What one row adds to a step's sum, at random weights: its pair indicators, columns long."""
    critic, rows = PairCritic(Cells.of(counted(), 0, 2)), coded(40)
    torch.nn.init.normal_(critic.form.weight)
    clipper = Clipper(critic, critic)
    for row in rows[:10]:
        alone = clipper.total(row[None], np.zeros(1, dtype=np.int64), CLIP_ROOM * critic.length)
        assert float(torch.linalg.vector_norm(alone)) == pytest.approx(critic.length, rel=1e-6)
    together = clipper.total(rows, np.arange(40), CLIP_ROOM * critic.length)
    assert together.numpy() == pytest.approx(clipper.plain(rows)[0].numpy(), abs=1e-4)


def test_one_row_more_moves_a_step_by_its_own_gradient_wherever_it_stands() -> None:
    """Trap A7: packed rows would move their neighbours' gradients too."""
    critic, rows = PairCritic(Cells.of(counted(), 0, 2)), coded(9)
    torch.nn.init.normal_(critic.form.weight)
    clipper, clip = Clipper(critic, critic), CLIP_ROOM * critic.length

    def total(some: np.ndarray) -> np.ndarray:
        return np.asarray(clipper.total(some, np.arange(len(some)), clip))

    for at in range(9):
        moved = total(rows) - total(np.delete(rows, at, axis=0))
        assert np.linalg.norm(moved) == pytest.approx(critic.length, rel=1e-4)


def test_the_weights_are_the_mean_of_what_rows_show() -> None:
    """Without noise, at rate 1: after any number of steps the real part is exactly the table's."""
    made = create("ctgan", epsilon=math.inf, rate=1.0, steps=3, generator_steps=1, hidden=4, match=False)
    seen: list[PairCritic] = []
    plain = CTGAN._game

    def spied(self: CTGAN, critic: PairCritic, noise: float) -> Game:
        seen.append(critic)
        return plain(self, critic, noise)

    frame = table(500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CTGAN, "_game", spied)
        made.fit(frame, SCHEMA)
    (critic,) = seen
    codes = np.stack(
        [
            frame["side"].map({"left": 0, "right": 1}),
            frame["hand"].map({"a": 0, "b": 1, "c": 2}),
            frame["n"],
        ],
        1,
    )
    hot = critic.one_hot(torch.from_numpy(codes.astype(np.int64)))
    assert critic.real().numpy() * critic.cells.apart.numpy() == pytest.approx(
        critic.cells.pairs(hot).numpy() * critic.cells.apart.numpy(), abs=1e-5
    )


def test_joined_cells_are_few_and_draw_what_they_did() -> None:
    wide = Categorical(name="wide", categories=tuple(f"v{i}" for i in range(300)))
    shares = np.random.default_rng(0).dirichlet(np.full(300, 0.3))
    before = Counted((Axis.singles(wide), Axis.singles(HAND)), (shares, np.full(3, 1 / 3)), 10.0)
    after = joined(before, 43)
    assert after.sizes == (40, 3)
    assert [s.sum() for s in after.shares] == pytest.approx([1.0, 1.0])
    axis = after.axes[0]
    assert axis.shares * after.shares[0][axis.cell] == pytest.approx(shares)
    assert joined(before, 303).sizes == before.sizes
    assert joined(before, 1).sizes == (1, 1)


def test_the_plan_is_one_training_and_histograms_and_costs_at_most_epsilon() -> None:
    plan = create("ctgan", epsilon=1.0, delta=1e-6, steps=30, rate=0.2).plan(SCHEMA)
    training = plan.spends[-1]
    assert (training.label, training.count) == ("training", 30)
    assert isinstance(training.event, PoissonSampledDpEvent)
    assert training.event.sampling_probability == 0.2
    assert sum(isinstance(s.event, PoissonSampledDpEvent) for s in plan.spends) == 1
    assert 0.999 < plan.cost <= 1.0


def test_as_many_noisy_gradients_are_taken_as_charged_however_many_steps_the_generator_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trap A9."""
    taken: list[str] = []
    noisy_sum = PrivateRows.noisy_sum

    def counted_sum(self: PrivateRows, asked: Any, *, label: str) -> Any:
        taken.append(label)
        return noisy_sum(self, asked, label=label)

    monkeypatch.setattr(PrivateRows, "noisy_sum", counted_sum)
    for steps, generator_steps in ((3, 10), (5, 2)):
        taken.clear()
        ledger = account(1.0, 1e-6)
        made = create("ctgan", epsilon=1.0, delta=1e-6, steps=steps, generator_steps=generator_steps, hidden=4)
        made.fit(table(100), SCHEMA, ledger=ledger, dataset="conformance")
        assert taken == ["training"] * steps


@pytest.mark.parametrize("epsilon", [1.0, math.inf])
@pytest.mark.parametrize("pac", [0, 2, 10, True])
def test_packs_are_refused(epsilon: float, pac: int) -> None:
    """Trap A7: an error, not a silent change."""
    with pytest.raises(UsageError, match="pac must be 1"):
        create("ctgan", epsilon=epsilon, delta=1e-6, pac=pac)


@pytest.mark.parametrize("options", [{"noise": 0}, {"generator_steps": 0}, {"groups": 17}, {"rate": 0.0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        create("ctgan", epsilon=1.0, delta=1e-6, **options)


def test_delta_0_and_constraints_are_refused_before_rows_are_read() -> None:
    with pytest.raises(UsageError, match="needs a delta above 0"):
        create("ctgan", epsilon=1.0, delta=0.0).plan(SCHEMA)
    with pytest.raises(UsageError, match="constraint"):
        create("ctgan", epsilon=1.0, delta=1e-6).plan(ruled_schema())


def test_a_little_noise_leaves_what_columns_say_of_each_other() -> None:
    """Number follows from the side, and hand c is left's alone; drawn apart they would agree in half of the rows."""
    options = {"generator_steps": 600, "hidden": 32, "random_state": 0}
    made = fitted("ctgan", table(2_000), SCHEMA, epsilon=100.0, delta=1e-5, **options)
    sample = made.sample(2_000, random_state=0)
    left = sample["side"] == "left"
    assert ((sample["n"] == 1) == left).mean() > 0.9
    assert left[sample["hand"] == "c"].mean() > 0.9
    assert abs(left.mean() - 0.5) < 0.06


def test_a_rare_condition_is_met_by_the_condition_vector_and_rows_obey_what_the_model_knows_of_it() -> None:
    """One row in 400 has hand c; rejection alone would have tried 200 rows for each asked for, and 2,000,000 more."""
    options = {"generator_steps": 400, "hidden": 32, "random_state": 0}
    made = fitted("ctgan", table(4_000, rare=0.005), SCHEMA, epsilon=100.0, delta=1e-5, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tabveil.latents.MOST_TRIES", 0)
        patch.setattr("tabveil.latents.TRIES_PER_ROW", 4)
        sample = made.sample(300, where={"hand": "c"}, random_state=0)
    assert (sample["hand"] == "c").all()
    assert len(sample) == 300
    assert (sample["side"] == "left").mean() > 0.65


def test_two_halves_make_an_unbiased_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against its own pairs a generator loses nothing on average: 400 batches of 20, within 6.1 standard errors of 0
    (alpha = 1e-9). One half against itself would be off by more than that.
    """
    torch.manual_seed(0)
    cells = Cells.of(counted(), 0, 2)
    net = Network(4, 8, cells.counted.flat)
    net.out.weight.data.mul_(8.0)
    game = Game(net, PairCritic(cells), noise=0.0, steps=1, learning_rate=1e-3)
    with torch.no_grad():
        monkeypatch.setattr(ctgan, "BATCH", 100_000)
        monkeypatch.setattr(ctgan, "CONDITIONED", 0.0)
        real = cells.pairs(game._chances())
        monkeypatch.setattr(ctgan, "BATCH", 20)
        losses = np.array([float(game._loss(real)) for _ in range(400)])
        one = cells.pairs(game._chances()[:10])
        biased = float(((real - one) ** 2 * game._weight).sum())
    error = losses.std() / 20
    assert abs(losses.mean()) < 6.1 * error
    assert biased > 6.1 * error


def test_a_game_goes_on_where_it_was() -> None:
    cells = Cells.of(counted(), 0, 2)

    def game() -> Game:
        torch.manual_seed(0)
        return Game(Network(4, 4, cells.counted.flat), PairCritic(cells), noise=0.0, steps=10, learning_rate=1e-2)

    first, second = game(), game()
    first.play(0.5)
    second.load_state_dict(first.state_dict())
    assert second.done == first.done == 5
    for each in (first, second):
        torch.manual_seed(1)
        each.play(1.0)
    for a, b in zip(first.settle().parameters(), second.settle().parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_lone_column_follows_its_counts() -> None:
    lone = Schema(columns=(HAND,))
    made = fitted("ctgan", table(600)[["hand"]], lone, epsilon=50.0, delta=1e-5, steps=2, generator_steps=4, hidden=4)
    counted, net, law = made._fitted  # type: ignore[attr-defined]
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    assert law.cell_shares(0) == pytest.approx(counted.shares[0], abs=2e-3)


def test_a_killed_fit_goes_on_and_gives_one_model_for_one_charge(tmp_path: Path) -> None:
    def fit(killed_at: float = 2.0) -> CTGAN:
        def tell(stage: str, share: float) -> None:
            if stage.startswith("training") and share >= killed_at:
                raise KeyboardInterrupt

        ledger = Ledger(tmp_path / "ledger.db")
        ledger.open("t", epsilon=1.5, delta=1e-6)
        options: dict[str, Any] = {"steps": 12, "generator_steps": 24, "hidden": 8, "progress": tell}
        made = CTGAN(epsilon=1.0, delta=1e-6, checkpoints=tmp_path / "states", **options)
        return made.fit(table(200), SCHEMA, ledger=ledger, dataset="t")

    with pytest.raises(KeyboardInterrupt):
        fit(killed_at=0.5)
    first, again = fit(), fit()
    pd.testing.assert_frame_equal(first.sample(50, random_state=3), again.sample(50, random_state=3))
    assert Ledger(tmp_path / "ledger.db").statement("t").epsilon == pytest.approx(first.statement.epsilon, abs=1e-9)


def test_the_condition_of_an_unconditioned_step_is_empty_and_a_given_cell_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = Cells.of(counted(), None, 1)
    game = Game(Network(4, 4, cells.counted.flat), PairCritic(cells), noise=0.0, steps=1, learning_rate=1e-2)
    monkeypatch.setattr(ctgan, "CONDITIONED", 1.0)
    chances = game._chances()
    forced = [bool(((c == 0) | (c == 1)).all()) for c in torch.split(chances, list(cells.counted.sizes), dim=1)]
    assert sum(forced) == 1
    monkeypatch.setattr(ctgan, "CONDITIONED", 0.0)
    assert not (game._chances() == 1).any()
