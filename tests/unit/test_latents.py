"""A law whose latent is a coin: everything it draws can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")

from tabveil import latents  # noqa: E402
from tabveil.columns import Categorical, Column, Integer  # noqa: E402
from tabveil.conditions import Conditions  # noqa: E402
from tabveil.encoding import Axis, CodeSet, size  # noqa: E402
from tabveil.errors import UsageError  # noqa: E402
from tabveil.latents import LatentLaw  # noqa: E402
from tabveil.schema import Schema  # noqa: E402

ALPHA = 1e-9
ROWS = 40_000

COLOUR = Categorical(name="colour", categories=("red", "green", "blue"), missing=("",), invalid="missing")
NUMBER = Integer(name="number", low=0, high=9)
COLUMNS: tuple[Column, ...] = (COLOUR, NUMBER)
GIVEN_HEADS = (np.array([0.7, 0.1, 0.1, 0.1]), np.array([0.8, 0.2]))
GIVEN_TAILS = (np.array([0.1, 0.6, 0.1, 0.2]), np.array([0.3, 0.7]))


def law(heads: float = 0.4) -> LatentLaw:
    """Colour by value, number in two cells (0 to 3, even; 4 to 9, the last twice as likely) given a coin."""
    weight = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    number = Axis(NUMBER, np.arange(11), np.array([0] * 4 + [1] * 6), weight)
    tables = torch.log(torch.tensor(np.stack([np.concatenate(GIVEN_TAILS), np.concatenate(GIVEN_HEADS)])).float())

    def coins(rows: int, rng: np.random.Generator) -> torch.Tensor:
        return torch.from_numpy((rng.random((rows, 1)) < heads).astype(np.float32))

    return LatentLaw.of(
        (Axis.singles(COLOUR), number), coins, lambda z: tables[z[:, 0].long()], np.random.default_rng(1)
    )


def joint(heads: float = 0.4) -> np.ndarray:
    """Probability of colour code and number, shape (4, 10)."""
    within = np.zeros((2, 10))
    within[0, :4], within[1, 4:] = 1 / 4, np.array([1, 1, 1, 1, 1, 2]) / 7
    by_coin = [np.outer(colour, cell @ within) for colour, cell in (GIVEN_HEADS, GIVEN_TAILS)]
    return np.asarray(heads * by_coin[0] + (1 - heads) * by_coin[1])


def seen(codes: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.bincount(codes["colour"] * 10 + codes["number"], minlength=40).reshape(4, 10)


def fits(counts: np.ndarray, chances: np.ndarray) -> bool:
    """Chi-square at ALPHA; no count where there is no chance."""
    possible = chances > 0
    if counts[~possible].any():
        return False
    if possible.sum() == 1:
        return True
    expected = chances[possible] / chances[possible].sum() * counts.sum()
    return bool(stats.chisquare(counts[possible], expected).pvalue > ALPHA)


def allowed(**where: object) -> Mapping[str, CodeSet]:
    return Conditions.of(Schema(columns=COLUMNS), where, None).allowed


@pytest.mark.statistical
def test_rows_follow_the_law() -> None:
    """alpha = 1e-9, 40,000 rows; one cell 10 % off is noticed."""
    counts = seen(law().sample(ROWS, np.random.default_rng(0)))
    assert fits(counts, joint())
    wrong = joint()
    wrong[0] *= 1.1
    assert not fits(counts, wrong)


@pytest.mark.statistical
@pytest.mark.parametrize(
    "where",
    [
        {"number": (3, 5)},
        {"colour": {"red", "blue"}},
        {"number": (4, 9), "colour": None},
        {"number": 9, "colour": "red"},
    ],
)
def test_conditions_leave_the_law_of_rows_that_obey(where: Mapping[str, object]) -> None:
    """alpha = 1e-9, 40,000 rows."""
    wanted, ok = joint(), allowed(**where)
    for axis, (name, column) in enumerate((("colour", COLOUR), ("number", NUMBER))):
        if name in ok:
            kept = ok[name].holds(column, np.arange(wanted.shape[axis]))
            wanted = wanted * (kept[:, None] if axis == 0 else kept[None, :])
    counts = seen(law().given(ok).sample(ROWS, np.random.default_rng(0)))
    assert counts.sum() == ROWS
    assert fits(counts, wanted)


@pytest.mark.statistical
def test_conditions_set_one_after_the_other_act_together() -> None:
    """alpha = 1e-9, 40,000 rows: the second condition on the same column narrows the first."""
    twice = law().given(allowed(number=(2, 5))).given(allowed(number=(4, 9), colour={"green"}))
    wanted = joint()
    wanted[[0, 2, 3]] = 0
    wanted[:, [0, 1, 2, 3, 6, 7, 8, 9]] = 0
    assert fits(seen(twice.sample(ROWS, np.random.default_rng(0))), wanted)


@pytest.mark.statistical
@pytest.mark.parametrize("cells", [2, 30])
def test_inversion_draws_cells_by_their_weights(cells: int) -> None:
    """alpha = 1e-9, 400,000 rows, weights 1, 2, 3, ...; the last cell cannot be; one 10 % off is noticed."""
    rows = 10 * ROWS
    weights = torch.arange(1, cells + 1).float()
    evidence = torch.ones(cells)
    evidence[-1] = 0.0
    chance = torch.from_numpy(np.random.default_rng(0).random(rows, dtype=np.float32))
    drawn = latents._inverted(torch.log(weights)[:, None].repeat(1, rows), evidence, chance)
    counts, law = np.bincount(drawn.numpy(), minlength=cells), (weights * evidence).double().numpy()
    assert fits(counts, law)
    if cells > 2:
        law[20] *= 1.1
        assert not fits(counts, law)


def test_a_row_on_the_upper_edge_gets_a_cell_that_can_be() -> None:
    cells = latents._inverted(torch.zeros(4, 1), torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([1.0]))
    assert cells.tolist() == [1]


def test_logits_do_not_depend_on_how_many_latents_go_through_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = replace(law(), shift=torch.arange(6.0))
    many = usual.latents(2_500, np.random.default_rng(0))
    whole = usual.logits(many).T + torch.arange(6.0)[:, None]
    for rows in (1, 1_000, 2_500, 3_000):
        monkeypatch.setattr(latents, "PASS_ROWS", rows)
        assert torch.equal(usual.shifted(many), whole)
    assert usual.shifted(many[:0]).shape == (6, 0)


def test_exactly_as_many_rows_as_asked_for() -> None:
    for rows in (0, 1, 5_000):
        assert len(law().sample(rows, np.random.default_rng(0))["number"]) == rows
        assert len(law().given(allowed(number=9)).sample(rows, np.random.default_rng(0))["number"]) == rows


def test_a_condition_that_no_row_meets_is_refused_at_once() -> None:
    lone = law()
    red = Axis(COLOUR, np.arange(4), np.array([0, 1, 2, 3]), np.array([1.0, 0.0, 1.0, 1.0]))
    never = LatentLaw(
        (red.merged(np.array([0, 0, 1, 2])), lone.axes[1]), (3, 2), lone.latents, lone.logits, lone.shift, lone.pool
    )
    with pytest.raises(UsageError, match=r"'colour'.*never draws"):
        never.given(allowed(colour="green"))


def test_conditions_that_are_too_rare_are_refused_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "MOST_TRIES", 5_000)
    usual = law()
    rare = replace(usual, shift=usual.shift + RARE)
    with pytest.raises(UsageError, match=r"Only 0 of 5\d\d\d rows .* 'colour', 'number' together"):
        rare.given(allowed(colour="red", number=(0, 3))).sample(2, np.random.default_rng(0))


@pytest.mark.statistical
def test_latents_made_for_a_condition_give_its_codes_in_the_laws_proportions(monkeypatch: pytest.MonkeyPatch) -> None:
    """alpha = 1e-9, 40,000 rows: of the numbers 0 to 3, drawn as often as 4 to 9, only 0 is allowed, so it is one in
    five. Colours follow the coins of the latents made, which nothing turns down. Twice the evidence would make it one
    in 17.
    """
    monkeypatch.setattr(latents, "STEERED", 2.0)
    plain = law()
    tables = plain.logits(torch.tensor([[0.0], [1.0]]))

    def steer(i: int, chances: np.ndarray) -> latents.Latents:
        start = 1 + sum(plain.sizes[:i])

        def draw(rows: int, rng: np.random.Generator) -> torch.Tensor:
            latent = torch.zeros(rows, 1 + sum(plain.sizes))
            latent[:, :1] = plain.latents(rows, rng)
            latent[torch.arange(rows), torch.from_numpy(start + rng.choice(len(chances), rows, p=chances))] = 1.0
            return latent

        return draw

    pool = torch.cat([plain.pool, torch.zeros(len(plain.pool), 6)], 1)
    forced = replace(plain, logits=lambda z: tables[z[:, 0].long()] + 1e4 * z[:, 1:], pool=pool, steer=steer)
    given = forced.given({"number": CodeSet.of([(0, 1), (4, 10)])})
    assert given.latents(3, np.random.default_rng(0)).shape == (3, 7)
    counts = seen(given.sample(ROWS, np.random.default_rng(2)))
    zero = plain.cell_shares(1)[0] / 4
    rest = plain.cell_shares(1)[1] * np.array([1, 1, 1, 1, 1, 2]) / 7
    assert fits(counts.sum(0), np.array([zero, 0, 0, 0, *rest]) / (zero + rest.sum()))
    coins = 0.4 * GIVEN_HEADS[0] + 0.6 * GIVEN_TAILS[0]
    assert fits(counts.sum(1), coins)


def test_latents_are_made_for_the_column_with_the_rarest_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    usual = law()

    def steer(i: int, chances: np.ndarray) -> latents.Latents:
        asked.append(i)
        return usual.latents

    monkeypatch.setattr(latents, "STEERED", 0.5)
    steered = replace(usual, steer=steer)
    steered.given(allowed(colour="red", number=(0, 9)))
    steered.given(allowed(colour=["red", "green", "blue"], number=(0, 9)))
    steered.given(allowed(colour=["red", "green", "blue"], number=(0, 3)))
    assert asked == [0, 1]


RARE = torch.tensor([-40.0, 0.0, 0.0, 0.0, 0.0, 0.0])


def test_a_matched_law_has_the_wanted_shares() -> None:
    wanted = [np.array([0.05, 0.25, 0.3, 0.4]), np.array([0.9, 0.1])]
    matched = law().matched(wanted)
    for i, shares in enumerate(wanted):
        assert matched.cell_shares(i) == pytest.approx(shares, abs=1e-3)


def test_a_finely_matched_law_has_them_over_a_fresh_pool() -> None:
    """Of a million latents; six standard deviations of 0.5 / sqrt(WIDE_POOL)."""
    wanted = [np.array([0.05, 0.25, 0.3, 0.4]), np.array([0.9, 0.1])]
    plain = law()
    fine = plain.finely_matched(wanted, np.random.default_rng(3))
    assert fine.pool is plain.pool
    fresh = replace(fine, pool=fine.latents(1_000_000, np.random.default_rng(4)))
    for i, shares in enumerate(wanted):
        assert fresh.cell_shares(i) == pytest.approx(shares, abs=6 * 0.5 / math.sqrt(latents.WIDE_POOL))


def test_matching_keeps_what_columns_say_of_each_other() -> None:
    """Odds ratios within a latent are the network's: only one factor per cell is new."""
    shift = law().matched([np.array([0.05, 0.25, 0.3, 0.4]), np.array([0.9, 0.1])]).shift
    assert shift.shape == (6,)
    assert float(shift.abs().max()) < 5


@pytest.mark.statistical
def test_balanced_rows_have_their_quotas_and_the_law_given_the_label() -> None:
    """alpha = 1e-9, 40,000 rows; shares of the model from the pool, six standard deviations of 0.5 / sqrt(8,192)."""
    balance = Conditions.of(Schema(columns=COLUMNS), None, {"colour": {"red": 0.25, "green": 0.75}}).balance
    assert balance is not None
    codes, shares = law().balanced(balance, ROWS, np.random.default_rng(0))
    counts = seen(codes)
    assert counts.sum(1).tolist() == [ROWS // 4, 3 * ROWS // 4, 0, 0]
    for colour in (0, 1):
        assert fits(counts[colour], joint()[colour])
    real = joint().sum(1)[:2]
    assert shares == pytest.approx(real / real.sum(), abs=6 * 0.5 / math.sqrt(latents.POOL))


@pytest.mark.statistical
def test_missing_cells_are_drawn_given_the_others() -> None:
    """alpha = 1e-9, 40,000 rows; the pool's share of heads is near 0.4, not at it."""
    pool = law()
    heads = float(pool.pool.mean())
    colour = np.full(ROWS, size(COLOUR))
    codes = {"colour": colour, "number": np.full(ROWS, 9)}
    codes["colour"][: ROWS // 2] = 0
    filled, again = pool.completed(codes, 2, np.random.default_rng(0))
    assert (filled["number"] == 9).all()
    assert (filled["colour"][: ROWS // 2] == 0).all()
    given_nine = joint(heads)[:3, 9]  # nothing filled is missing
    by_coin = np.array([[heads, GIVEN_HEADS[1][1]], [1 - heads, GIVEN_TAILS[1][1]]]).prod(1)
    colours = np.stack([GIVEN_HEADS[0][:3] / 0.9, GIVEN_TAILS[0][:3] / 0.8])
    wanted = by_coin / by_coin.sum() @ colours
    assert fits(np.bincount(filled["colour"][ROWS // 2 :], minlength=3), wanted)
    assert abs(wanted - given_nine / given_nine.sum()).max() < 0.05
    assert not np.array_equal(filled["colour"], again["colour"])


@pytest.mark.statistical
def test_what_is_filled_follows_the_law_given_that_it_is_not_missing() -> None:
    """alpha = 1e-9, 40,000 rows: under heads the colour is missing in 99 of 100 rows, so a row whose colour is filled
    is one of tails, nearly always, and its number too.
    """
    tables = torch.log(torch.tensor([[0.1, 0.6, 0.1, 0.2, 0.3, 0.7], [0.004, 0.003, 0.003, 0.99, 0.8, 0.2]]))
    plain = replace(law(), logits=lambda z: tables[z[:, 0].long()])
    unknown = {"colour": np.full(ROWS, size(COLOUR)), "number": np.full(ROWS, size(NUMBER))}
    (filled,) = plain.completed(unknown, 1, np.random.default_rng(0))
    heads = float(plain.pool.mean())
    given = heads * 0.01 / (heads * 0.01 + (1 - heads) * 0.8)
    first = given * 0.8 + (1 - given) * 0.3
    assert fits(np.bincount(filled["number"] // 4 > 0, minlength=2), np.array([first, 1 - first]))
    assert (filled["colour"] < size(COLOUR)).all()
