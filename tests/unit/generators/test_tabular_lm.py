from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dp_accounting import PoissonSampledDpEvent

torch = pytest.importorskip("torch")

import tabveil  # noqa: E402
from tabveil import conformance  # noqa: E402
from tabveil._sgd_clipping import Clipper  # noqa: E402
from tabveil.audit.likelihood import likelihood_gap  # noqa: E402
from tabveil.audit.rates import beyond  # noqa: E402
from tabveil.columns import Categorical, Integer  # noqa: E402
from tabveil.conformance import account, fitted, mixed_schema, mixed_table  # noqa: E402
from tabveil.errors import UsageError  # noqa: E402
from tabveil.generators._conditionals import Attention, Conditionals, Orders, Part, Perceptrons, Wide  # noqa: E402
from tabveil.generators._deep import flat  # noqa: E402
from tabveil.generators._likelihood import Likelihood  # noqa: E402
from tabveil.generators.base import Generator, create, load  # noqa: E402
from tabveil.generators.tabular_lm import TabularLM, steps_for  # noqa: E402
from tabveil.schema import Schema  # noqa: E402
from tabveil.spelling import Written  # noqa: E402

SIZES = (4, 2, 7, 3)
SHARES = torch.cat([torch.softmax(torch.randn(n, generator=torch.Generator().manual_seed(n)), 0) for n in SIZES])
SCHEMA = Schema(
    columns=(
        Categorical(name="side", categories=("left", "right")),
        Categorical(name="hand", categories=("a", "b", "c")),
        Integer(name="n", low=0, high=9),
    ),
    target="side",
)


def table(rows: int) -> pd.DataFrame:
    """Hand and number follow from the side."""
    rng = np.random.default_rng(0)
    left = rng.random(rows) < 0.5
    hand = np.where(left, "a", rng.choice(["b", "c"], rows))
    return pd.DataFrame({"side": np.where(left, "left", "right"), "hand": hand, "n": np.where(left, 1, 8)})


def right_hands(rows: pd.DataFrame) -> float:
    """The share of rows that a row of the table could be."""
    left = (rows["side"] == "left") & (rows["hand"] == "a") & (rows["n"] == 1)
    right = (rows["side"] == "right") & rows["hand"].isin(["b", "c"]) & (rows["n"] == 8)
    return float((left | right).mean())


def plain(rows: int, **options: Any) -> Generator:
    """A fit without privacy."""
    return create("tabular_lm", epsilon=math.inf, **{"hidden": 16, **options}).fit(table(rows), SCHEMA)


def parts() -> dict[str, Part]:
    """Every part, with weights that matter."""
    torch.manual_seed(0)
    made: dict[str, Part] = {
        "wide": Wide(SIZES, SHARES, biased=True),
        "fast": Perceptrons(SIZES, SHARES, 16),
        "full": Attention(SIZES, SHARES, 16, 2),
    }
    for part in made.values():
        for p in part.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return made


@pytest.mark.parametrize("names", [["wide"], ["fast"], ["full"], ["wide", "fast"], ["wide", "full"]])
def test_a_reader_gives_what_the_network_gives(names: list[str]) -> None:
    """Whatever is known of each row, in whatever order it was told."""
    net = Conditionals(SIZES, {n: parts()[n] for n in names}).eval()
    rng = np.random.default_rng(0)
    cells = torch.from_numpy(np.stack([rng.integers(0, n, 50) for n in SIZES], 1))
    told = torch.from_numpy(rng.random((50, len(SIZES))) < 0.5)
    for i in range(len(SIZES)):
        known = told.clone()
        known[:, i] = False
        reader = net.opened(50)
        for j in rng.permutation(len(SIZES)).tolist():
            rows = torch.nonzero(known[:, j])[:, 0]
            reader.tell(j, cells[rows, j], rows)
        whole = known[:, None].expand(-1, len(SIZES), -1)
        wanted = sum(p(cells, whole)[i] for p in net.parts.values())
        assert torch.allclose(reader.logits(i), wanted, atol=1e-5)


def test_what_is_not_known_changes_nothing() -> None:
    cells = torch.zeros(1, 4, dtype=torch.long)
    other = torch.tensor([[0, 1, 0, 2]])
    known = torch.tensor([[[False, False, True, False]] * 4])
    for part in parts().values():
        part.eval()
        for i in (0, 1, 3):
            assert torch.equal(part(cells, known)[i], part(other, known)[i])


def test_with_nothing_known_columns_start_at_their_shares() -> None:
    torch.manual_seed(0)
    cells, known = torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.bool)
    logits = Wide(SIZES, SHARES, biased=True)(cells, known)
    for found, share in zip(logits, torch.split(SHARES, list(SIZES)), strict=True):
        assert torch.allclose(torch.softmax(found[0], 0), share, atol=1e-6)
    for found in Wide(SIZES, SHARES, biased=False)(cells, known):
        assert (found == 0).all()


@pytest.mark.statistical
def test_orders_are_of_three_kinds() -> None:
    """30,000 rows of 4 columns: alpha = 1e-9 is 6.2 standard deviations of a share, 0.5 / sqrt(30,000)."""
    torch.manual_seed(0)
    known = Orders((2, 0, 3, 1), 0.5, 0.3).known(30_000)
    assert not known.diagonal(dim1=1, dim2=2).any()
    assert (known ^ known.mT).sum() == 30_000 * 12  # of two columns one comes first
    before = known.sum(2)
    based = (before == torch.tensor([1, 3, 0, 2])).all(1).float().mean()
    last = (before[:, 1] == 3).float().mean()
    assert abs(float(based) - (0.2 + 0.3 / 6 + 0.5 / 24)) < 6.2 * 0.5 / math.sqrt(30_000)
    assert abs(float(last) - (0.5 + 0.5 / 4)) < 6.2 * 0.5 / math.sqrt(30_000)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_plan_is_what_the_share_says_and_costs_at_most_epsilon(share: float) -> None:
    plan = create("tabular_lm", epsilon=1.0, delta=1e-6, steps=77, rate=0.2, marginal_share=share).plan(SCHEMA)
    trainings = [s for s in plan.spends if isinstance(s.event, PoissonSampledDpEvent)]
    assert [(s.label, s.count) for s in trainings] == ([("training", 77)] if share < 1 else [])
    assert any(s.label.startswith("choice of marginal") for s in plan.spends) == (share > 0)
    assert 0.98 < plan.cost <= 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, "size must be"),
        ({"size": "full", "hidden": 6}, "multiple of 4"),
        ({"marginal_share": 1.5}, "marginal_share must be"),
        ({"marginal_share": 0.5, "epsilon": math.inf}, "leave it out"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"pretraining": 0}, "pretraining"),
        ({"marginal_share": 1.0, "checkpoints": "folder"}, "resume a training"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    arguments = {"epsilon": 1.0, "delta": 1e-6, **options}
    with pytest.raises(UsageError, match=message):
        create("tabular_lm", **arguments)  # type: ignore[arg-type]


def test_delta_0_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a delta above 0"):
        create("tabular_lm", epsilon=1.0, delta=0.0).plan(SCHEMA)


@pytest.mark.parametrize(
    ("epsilon", "options"),
    [
        (math.inf, {"steps": 500}),
        (math.inf, {"steps": 400, "size": "full", "hidden": 16}),
        (8.0, {"steps": 40, "marginal_share": 0.0, "orders": 2}),
        (8.0, {"steps": 40, "marginal_share": 0.5, "pretraining": 100}),
        (8.0, {"marginal_share": 1.0, "pretraining": 150}),
    ],
)
def test_it_learns_what_columns_say_of_each_other(epsilon: float, options: dict[str, object]) -> None:
    """Single columns alone would give 0.25."""
    if math.isinf(epsilon):
        made = plain(3_000, **options)
    else:
        made = fitted("tabular_lm", table(3_000), SCHEMA, epsilon=epsilon, **options)
    assert right_hands(made.sample(2_000, random_state=0)) > 0.85


def test_orders_of_a_row_are_averaged_and_clipped_as_one() -> None:
    counted = plain(50, steps=1)._counted
    written = Written.of(counted.axes, counted.shares)
    net = Conditionals(written.sizes, {"wide": Wide(written.sizes, flat(written.margins), biased=True)})
    for p in net.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
    orders = Orders((1, 2, 0), 1.0, 0.0)
    codes = np.array([[0, 0, 1], [1, 2, 8], [0, 0, 3], [1, 1, 8]])
    thrice, once = (Likelihood(written, net, orders, averaged=n) for n in (3, 1))
    torch.manual_seed(5)
    singly = [once(torch.from_numpy(codes)) for _ in range(3)]
    torch.manual_seed(5)
    torch.testing.assert_close(thrice(torch.from_numpy(codes)), sum(singly) / 3)
    assert not torch.allclose(singly[0], singly[1])
    for row in codes:
        total = Clipper(thrice, thrice).total(row[None], np.zeros(1, dtype=np.int64), 0.3)
        assert float(total.norm()) == pytest.approx(0.3, rel=1e-2)
        assert float(total.norm()) <= 0.3


CHECKS = (
    conformance.check_charges_before_reading,
    conformance.check_never_above_budget,
    conformance.check_learns_from_charged_answers_only,
    conformance.check_holds_no_row,
    conformance.check_save_and_load,
    conformance.check_sentinel_is_nowhere,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
def test_two_stages_keep_what_every_generator_must_keep(check: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TabularLM, "quick", {"steps": 4, "hidden": 8, "pretraining": 4, "marginal_share": 0.5})
    conformance.usual.cache_clear()
    try:
        check("tabular_lm")  # type: ignore[operator]
    finally:
        conformance.usual.cache_clear()


def test_hidden_layers_see_no_private_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """DP-SGD is asked for the linear maps alone, and leaves the hidden layers as made-up rows have made them."""
    seen: list[tuple[dict[str, torch.Tensor], set[str]]] = []
    descend = TabularLM._descend

    def watched(self: TabularLM, net: Conditionals, *rest: object) -> None:
        before = {k: v.clone() for k, v in net.parts["deep"].state_dict().items()}
        descend(self, net, *rest)  # type: ignore[arg-type]
        seen.append((before, {k for k, p in net.named_parameters() if p.requires_grad}))

    monkeypatch.setattr(TabularLM, "_descend", watched)
    made = fitted("tabular_lm", table(300), SCHEMA, steps=3, pretraining=3, marginal_share=0.5)
    (before, trainable), net = seen[0], made._net  # type: ignore[attr-defined]
    assert trainable == {k for k, _ in net.named_parameters() if k.startswith("parts.wide.")}
    after = net.parts["deep"].state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items()), "hidden layers were trained on private rows"


def test_the_label_is_drawn_last_and_first_where_its_shares_are_set() -> None:
    made = plain(3_000, steps=500)
    assert made._drawing.order == (1, 2, 0)  # type: ignore[attr-defined]
    balanced = made.sample(1_000, balance={"side": {"left": 0.9, "right": 0.1}}, random_state=1)
    assert (balanced["side"] == "left").sum() == 900
    asked = made.sample(300, where={"side": "left", "n": (0, 5)}, random_state=1)
    assert (asked["side"] == "left").all()
    assert asked["n"].between(0, 5).all()
    filled = made.impute(pd.DataFrame({"side": ["left", "right"] * 200}), random_state=0)
    assert right_hands(filled) > 0.8
    assert filled["side"].tolist() == ["left", "right"] * 200


def test_log_probabilities_sum_to_1_and_survive_a_file(tmp_path: Path) -> None:
    made = fitted("tabular_lm", table(400), SCHEMA, marginal_share=0.0, steps=6)
    every = pd.MultiIndex.from_product([["left", "right"], ["a", "b", "c"], range(10)], names=["side", "hand", "n"])
    rows = every.to_frame(index=False)
    found = made.log_prob(rows)  # type: ignore[attr-defined]
    assert np.exp(found).sum() == pytest.approx(1.0, abs=1e-4)
    made.save(tmp_path)
    again = load(tmp_path)
    assert np.array_equal(found, again.log_prob(rows))  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="column"):
        made.log_prob(rows[["side"]])  # type: ignore[attr-defined]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_fit_with_a_folder_is_charged_once_and_gives_the_same_model_again(share: float, tmp_path: Path) -> None:
    ledger = account(1.0, 1e-6)
    options = {"steps": 3, "pretraining": 3, "hidden": 8, "marginal_share": share, "random_state": 1}
    samples = []
    for _ in range(2):
        made = create("tabular_lm", epsilon=1.0, delta=1e-6, checkpoints=tmp_path / "fit", **options)
        made.fit(mixed_table(200), mixed_schema(), ledger=ledger, dataset="conformance")
        samples.append(made.sample(50, random_state=0))
    pd.testing.assert_frame_equal(*samples)
    assert ledger.statement("conformance").epsilon <= 1.0


def digits(copies: int) -> pd.DataFrame:
    """Numbers of nine digits; one of them, 123456789, as often as asked for."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 10**9, 1_500)
    numbers[:copies] = 123_456_789
    return pd.DataFrame({"number": numbers, "side": rng.choice(["left", "right"], 1_500)})


DIGITS = Schema(columns=(Integer(name="number", low=0, high=10**9), SCHEMA["side"]))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_digit_canary_is_never_reproduced_where_anything_is_private(share: float) -> None:
    """100,000 rows: evenly drawn numbers would hit it with probability 1e-4; a number of its own cell would."""
    made = fitted("tabular_lm", digits(1), DIGITS, steps=20, pretraining=20, marginal_share=share)
    assert not (made.sample(100_000, random_state=0)["number"] == 123_456_789).any()


def test_without_privacy_many_copies_of_it_would_be_seen() -> None:
    made = create("tabular_lm", epsilon=math.inf, steps=20, hidden=8).fit(digits(150), DIGITS)
    assert (made.sample(2_000, random_state=0)["number"] == 123_456_789).mean() > 0.05


def test_a_model_that_knows_its_rows_by_heart_is_found_by_their_likelihood() -> None:
    """300 rows of noise, read two hundred times; and the same at epsilon 1."""
    rng = np.random.default_rng(0)
    schema = Schema(columns=tuple(Categorical(name=f"c{i}", categories=tuple("abcdefgh")) for i in range(5)))
    rows = pd.DataFrame({f"c{i}": rng.choice(list("abcdefgh"), 600) for i in range(5)})
    train, holdout = rows[:300], rows[300:]
    known = create("tabular_lm", epsilon=math.inf, steps=300, hidden=64, rate=0.7, learning_rate=0.01).fit(
        train, schema
    )
    private = fitted("tabular_lm", train, schema, steps=10, marginal_share=0.0)
    found = [likelihood_gap(m.log_prob(train), m.log_prob(holdout)) for m in (known, private)]  # type: ignore[attr-defined]
    assert found[0].value > 0.8
    assert beyond(found[0])
    assert found[1].value < 0.65


def test_steps_follow_epsilon() -> None:
    assert (steps_for(1.0), steps_for(1e-6), steps_for(1e6), steps_for(math.inf)) == (75, 10, 400, 900)


def test_its_class_goes_by_its_name() -> None:
    assert tabveil.TabularLM is TabularLM
