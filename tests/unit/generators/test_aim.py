"""What only AIM knows: which marginals it counts, what steers it, and what its plan says beforehand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tabveil import accounting
from tabveil.columns import Boolean, Categorical, Integer
from tabveil.errors import UsageError
from tabveil.estimation import estimate
from tabveil.generators import aim
from tabveil.generators.aim import AIM, column_weights
from tabveil.generators.base import create, load
from tabveil.graphical_model import GraphicalModel, Measurement
from tabveil.ledger import Ledger
from tabveil.mechanisms import Contest
from tabveil.schema import Schema

NAMES = ("a", "b", "c", "d", "e")
SCHEMA = Schema(columns=tuple(Boolean(name=n) for n in NAMES))


def table(rows: int = 4_000, seed: int = 0) -> pd.DataFrame:
    """Fair coins, but that c is a exclusive-or b, which no pair shows, and d mostly e."""
    rng = np.random.default_rng(seed)
    coins = {n: rng.random(rows) < 0.5 for n in NAMES}
    coins["c"] = coins["a"] ^ coins["b"]
    coins["d"] = coins["e"] ^ (rng.random(rows) < 0.1)
    return pd.DataFrame(coins)


def fitted(frame: pd.DataFrame, schema: Schema = SCHEMA, *, epsilon: float = 3.0, **options: Any) -> AIM:
    ledger = Ledger(":memory:")
    ledger.open("d", epsilon=epsilon, delta=1e-6)
    made = create("aim", epsilon=epsilon, delta=1e-6, **options)
    made.fit(frame, schema, ledger=ledger, dataset="d")
    assert isinstance(made, AIM)
    return made


def counted(made: AIM) -> list[set[str]]:
    """Columns of the model's cliques."""
    names = [a.column.name for a in made._axes]
    return [{names[a] for a in c} for c in made._fitted_model.tree.cliques]


def test_a_dependence_of_three_columns_is_found() -> None:
    """Trees of pairs cannot show it: c is right by chance in half the rows there, in all of them here."""
    rows = {name: create(name, epsilon=3.0, delta=1e-6) for name in ("aim", "mst")}
    right = {}
    for name, made in rows.items():
        ledger = Ledger(":memory:")
        ledger.open("d", epsilon=3.0, delta=1e-6)
        sample = made.fit(table(), SCHEMA, ledger=ledger, dataset="d").sample(5_000, random_state=1)
        right[name] = float((sample["c"] == (sample["a"] ^ sample["b"])).mean())
    assert right["aim"] > 0.95
    assert abs(right["mst"] - 0.5) < 0.05


def test_rows_that_are_dropped_leave_no_clique_of_their_columns() -> None:
    made = fitted(table(), weights={"a": 0.0})
    assert not any("a" in c and len(c) > 1 for c in counted(made))
    assert any(c >= {"d", "e"} for c in counted(made))


def test_the_target_weighs_more_than_other_columns() -> None:
    """One marginal is counted: that of the strongest pair, unless another column is made to matter more."""
    frame, one = table(), {"marginals": 1, "epsilon": 10.0}
    frame["c"] = frame["a"] ^ (np.random.default_rng(1).random(len(frame)) < 0.25)
    assert any(c >= {"d", "e"} for c in counted(fitted(frame, **one)))
    aimed = dataclasses.replace(SCHEMA, target="a")
    assert any(c > {"a"} for c in counted(fitted(frame, aimed, **one)))
    assert any(c >= {"d", "e"} for c in counted(fitted(frame, aimed, weights={"a": 0.1}, **one)))


def test_the_model_stays_within_its_bytes() -> None:
    columns = tuple(Categorical(name=f"c{i}", categories=tuple("abcdefgh")) for i in range(8))
    rng = np.random.default_rng(2)
    base = rng.integers(0, 8, 5_000)
    frame = pd.DataFrame({c.name: list("abcdefgh"[(v + i) % 8] for v in base) for i, c in enumerate(columns)})
    small = fitted(frame, Schema(columns=columns), epsilon=10.0, max_model_bytes=10_000)
    large = fitted(frame, Schema(columns=columns), epsilon=10.0, max_model_bytes=1_000_000)
    bytes_of = [sum(p.size for p in m._fitted_model.potentials) * aim.CELL_BYTES for m in (small, large)]
    assert bytes_of[0] <= 10_000 < bytes_of[1] <= 1_000_000


def test_the_model_grows_with_the_choices() -> None:
    """At every choice the model is within its share of the bytes: the first do not fill it."""
    columns = tuple(Categorical(name=f"c{i}", categories=tuple("abcdefgh")) for i in range(8))
    rng = np.random.default_rng(2)
    base = rng.integers(0, 8, 5_000)
    frame = pd.DataFrame({c.name: list("abcdefgh"[(v * i) % 8] for v in base) for i, c in enumerate(columns)})
    grown: list[tuple[int, int]] = []

    class Watched(aim.AIM):
        def _refit(self, model: GraphicalModel, measured: Sequence[Measurement], r: int) -> GraphicalModel:
            fitted = super()._refit(model, measured, r)
            grown.append((r, sum(p.size for p in fitted.potentials) * aim.CELL_BYTES))
            return fitted

    ledger = Ledger(":memory:")
    ledger.open("d", epsilon=10.0, delta=1e-6)
    made = Watched(epsilon=10.0, delta=1e-6, max_model_bytes=60_000)
    made.fit(frame, Schema(columns=columns), ledger=ledger, dataset="d")
    assert [r for r, _ in grown] == [0, 1, 2]
    assert all(taken <= 60_000 * (r + 1) / 3 for r, taken in grown)
    assert grown[-1][1] > 30_000  # and what is there is used


def test_marginals_that_would_drown_in_noise_are_no_candidates() -> None:
    made = fitted(table(), epsilon=1.0)
    some = made._search((10, 10, 10), 1_000.0, 5.0).candidates
    assert (0, 1) in some
    assert (0, 1, 2) not in some  # 1,000 cells x 0.8 x 5 rows of noise: more than the table
    assert made._search((10, 10, 10), 1_000.0, 100.0).candidates == ()


@pytest.mark.parametrize("rows", [500, 20_000, 200_000])
def test_sampling_puts_distances_off_by_no_more_than_is_taken_off(rows: int) -> None:
    """16 fixed seeds: nothing here changes from run to run. A handicap 10 % off is refused by the first comparison."""
    sizes, pairs = (2, 5, 9, 3), list(combinations(range(4), 2))
    hidden = np.random.default_rng(1).dirichlet(np.full(math.prod(sizes), 0.5)).reshape(sizes) * rows
    measured = [Measurement(c, hidden.sum(axis=tuple({*range(4)} - {*c})), 1.0) for c in ((0, 1), (1, 2), (2, 3))]
    model = estimate(sizes, measured)
    search = aim._Search((*pairs, *combinations(range(4), 3)), np.ones(10), sizes)
    exact = [model.marginal(c) for c in search.candidates]
    drawn = min(max(16 * rows, 20_000), 1_000_000)
    handicaps = [math.sqrt(2 / math.pi) * np.sqrt(e * rows / drawn).sum() for e in exact]
    strays = []
    for seed in range(16):
        expected, blur = AIM(epsilon=1.0, delta=1e-6, random_state=seed)._expected(search, model)
        np.testing.assert_allclose(blur, handicaps, rtol=0.05)
        strays.append([np.abs(a - b).sum() for a, b in zip(expected, exact, strict=True)])
    shares = np.mean(strays, axis=0) / handicaps
    assert 0.3 < np.median(shares)
    assert shares.max() < 1


def test_what_an_independent_model_expects_is_exact() -> None:
    model = estimate(
        (2, 3), [Measurement((0,), np.array([30.0, 70.0]), 1.0), Measurement((1,), np.full(3, 100 / 3), 1.0)]
    )
    search = aim._Search(((0, 1),), np.ones(1), (2, 3))
    (expected,), blur = AIM(epsilon=1.0, delta=1e-6)._expected(search, model)
    np.testing.assert_allclose(expected, model.marginal((0, 1)), rtol=1e-12)
    assert blur.tolist() == [0.0]


def test_wide_tables_have_a_bounded_number_of_triples() -> None:
    columns = tuple(Boolean(name=f"c{i}") for i in range(60))
    schema = Schema(columns=columns, target="c7")
    made = create("aim", epsilon=1.0, delta=1e-6)
    assert isinstance(made, AIM)
    made._schema = schema
    search = made._search((2,) * 60, 1e6, 1.0)
    triples = [c for c in search.candidates if len(c) == 3]
    assert len(triples) == aim.MOST_TRIPLES
    assert all(c in triples for c in [(0, 1, 7), (7, 58, 59)])


def test_what_one_marginal_explains_no_other_is_chosen_for() -> None:
    """d and e agree: every triple with both is as bad as the pair until one of them is counted, and then none is."""
    coins = np.array([[2_500.0, 0.0], [0.0, 2_500.0]])
    de_a, independent = coins[..., None] * np.full(2, 0.5), np.full((2, 2, 2), 625.0)
    contest = Contest(((), (), ()), (independent, independent.copy(), independent.sum(axis=2)), np.zeros(3))
    told = aim._informed(contest, ((2, 3, 4), (0, 3, 4), (0, 1)), Measurement((2, 3, 4), np.moveaxis(de_a, 2, 0), 5.0))
    assert told.estimates[1] == pytest.approx(np.moveaxis(de_a, 2, 0))
    assert told.estimates[2] is contest.estimates[2]  # shares no two columns


def test_raking_keeps_what_is_known_beside_it() -> None:
    """A column's share within each pair stays; negative noisy counts count as none; what was impossible stays so."""
    rng = np.random.default_rng(5)
    expected = rng.random((3, 2, 4)) * 100
    expected[0, 1] = 0.0
    noisy = np.array([[90.0, 7.0], [-3.0, 40.0], [12.0, 55.0]])
    contest = Contest(((),), (expected,), np.zeros(1))
    told = aim._informed(contest, ((0, 2, 5),), Measurement((0, 2), noisy, 5.0)).estimates[0]
    assert told.sum(axis=2) == pytest.approx(np.array([[90.0, 0.0], [0.0, 40.0], [12.0, 55.0]]))
    assert told[2, 1] / 55.0 == pytest.approx(expected[2, 1] / expected[2, 1].sum())


@pytest.mark.parametrize("delta", [1e-6, 0.0])
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_the_plan_is_paid_for_whatever_its_size(columns: int, delta: float) -> None:
    schema = Schema(columns=SCHEMA.columns[:columns])
    plan = create("aim", epsilon=1.0, delta=delta).plan(schema)
    assert 0.999 < plan.cost <= 1.0
    kinds = [s.label.split(" of ")[0] for s in plan.spends]
    assert kinds.count("choice") == 2 * (columns - 1)
    assert kinds.count("counts") == 2 * (columns - 1) + columns
    assert accounting.epsilon(plan.event, delta) == plan.cost


def test_more_marginals_are_counted_where_noise_is_small() -> None:
    steps = [create("aim", epsilon=e, delta=1e-6)._steps(SCHEMA) for e in (1e-6, 0.3, 1.0, 3.0, 100.0, math.inf)]  # type: ignore[attr-defined]
    assert steps == [4, 4, 8, 12, 12, 12]


def test_expected_seconds_grow_with_the_model() -> None:
    small, large = (create("aim", epsilon=1.0, delta=1e-6, max_model_bytes=b) for b in (100_000, 10_000_000))
    assert isinstance(small, AIM)
    assert isinstance(large, AIM)
    assert small.expected_seconds(SCHEMA) * 100 == pytest.approx(large.expected_seconds(SCHEMA))
    assert create("aim", epsilon=1.0, delta=1e-6).expected_seconds(Schema(columns=SCHEMA.columns[:1])) == 0


@pytest.mark.parametrize(
    "weights", [{"a": -1.0}, {"a": math.inf}, {"a": math.nan}, {"a": True}, {"a": "3"}, {3: 1.0}, ["a"], {"a": 1e7}]
)
def test_weights_must_be_numbers_by_column(weights: Any) -> None:
    with pytest.raises(UsageError, match="weights must give a number"):
        create("aim", epsilon=1.0, delta=1e-6, weights=weights)


def test_weights_name_learned_columns() -> None:
    with pytest.raises(UsageError, match="may only name learned columns"):
        create("aim", epsilon=1.0, delta=1e-6, weights={"z": 2.0}).plan(SCHEMA)
    assert column_weights(dataclasses.replace(SCHEMA, target="c"), None) == [1.0, 1.0, aim.TARGET_WEIGHT, 1.0, 1.0]
    assert column_weights(SCHEMA, {"b": 5.0}) == [1.0, 5.0, 1.0, 1.0, 1.0]


def test_weights_must_leave_a_pair() -> None:
    with pytest.raises(UsageError, match="at least two columns"):
        create("aim", epsilon=1.0, delta=1e-6, weights={n: 0.0 for n in "abcd"}).plan(SCHEMA)
    create("aim", epsilon=1.0, delta=1e-6, weights={n: 0.0 for n in "abc"}).plan(SCHEMA)


@pytest.mark.parametrize(("option", "value"), [("cells", 1), ("marginals", -1), ("max_model_bytes", 9_999)])
def test_options_out_of_range_are_refused(option: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{option} must be a whole number"):
        create("aim", epsilon=1.0, delta=1e-6, **{option: value})


def test_a_saved_model_keeps_its_options(tmp_path: Any) -> None:
    made = fitted(table(500), weights={"a": 2.0}, marginals=3, cells=5)
    made.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.get_params()["weights"] == {"a": 2.0}
    pd.testing.assert_frame_equal(made.sample(50, random_state=3), again.sample(50, random_state=3))


def test_numbers_have_cells_for_their_tails() -> None:
    """Nine rows in ten at 0: the rest is still cut into many cells, not into the share of a tenth of them."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"n": np.where(rng.random(20_000) < 0.9, 0, rng.integers(1, 1000, 20_000)), "b": True})
    schema = Schema(columns=(Integer(name="n", low=0, high=1000), Boolean(name="b")))
    made = fitted(frame, schema, epsilon=10.0, cells=20)
    assert made._axes[0].size >= 15
