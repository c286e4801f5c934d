"""A law whose network is a joint table: everything it draws can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")

from tabveil import conditionals  # noqa: E402
from tabveil.columns import Categorical, Column, Integer  # noqa: E402
from tabveil.conditionals import ConditionalLaw  # noqa: E402
from tabveil.conditions import Balance, Conditions  # noqa: E402
from tabveil.encoding import Axis, CodeSet, size  # noqa: E402
from tabveil.errors import UsageError  # noqa: E402
from tabveil.schema import Schema  # noqa: E402
from tabveil.spelling import Spelling  # noqa: E402
from tabveil.token_rows import Reader  # noqa: E402

ALPHA = 1e-9
ROWS = 40_000

COLOUR = Categorical(name="colour", categories=("red", "green", "blue"), missing=("",), invalid="missing")
NUMBER = Integer(name="number", low=0, high=9)
SIDE = Categorical(name="side", categories=("left", "right"))
COLUMNS: tuple[Column, ...] = (COLOUR, NUMBER, SIDE)
CELLS = np.array(
    [
        [[0.20, 0.02], [0.01, 0.07]],
        [[0.02, 0.10], [0.12, 0.01]],
        [[0.05, 0.03], [0.04, 0.13]],
        [[0.01, 0.09], [0.06, 0.04]],
    ]
)
"""Of colour, number in two cells, side; sums to 1."""


class Table(Reader):
    """What `CELLS` says of any column given any others."""

    def __init__(self, rows: int, joint: np.ndarray) -> None:
        self._joint = np.broadcast_to(joint, (rows, *joint.shape)).copy()

    def logits(self, i: int) -> torch.Tensor:
        others = tuple(j + 1 for j in range(self._joint.ndim - 1) if j != i)
        return torch.log(torch.from_numpy(self._joint.sum(axis=others)).float())

    def tell(self, i: int, cells: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        at = np.arange(len(self._joint)) if rows is None else rows.numpy()
        kept = np.eye(self._joint.shape[i + 1])[cells.numpy()]
        others = [n if j in (0, i + 1) else 1 for j, n in enumerate((len(kept), *self._joint.shape[1:]))]
        self._joint[at] *= kept.reshape(others)


def law(joint: np.ndarray = CELLS) -> ConditionalLaw:
    """Numbers 0 to 3 are one cell, even; 4 to 9 the other, 9 twice as likely."""
    weight = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    number = Axis(NUMBER, np.arange(11), np.array([0] * 4 + [1] * 6), weight)
    axes = (Axis.singles(COLOUR), number, Axis.singles(SIDE))
    starts = [joint.sum(axis=tuple(j for j in range(3) if j != i)) for i in range(3)]
    return ConditionalLaw.of(axes, lambda rows: Table(rows, joint), order=(0, 1, 2), starts=starts)


PLACES = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]])
"""How the number is spelled: the first cell is 0, 1 | 2, 3, the other 4, 5 | 6, 7 | 8, 9."""


def parted(*, junk: float = 0.0) -> tuple[ConditionalLaw, np.ndarray]:
    """A law whose number is two tokens, and the probability of every combination; what is within a cell depends on the
    side and the colour. The network puts `junk` where no spelling is.
    """
    tokens = CELLS[:, :, None] * np.random.default_rng(7).dirichlet(np.ones(3), (4, 2, 2)).transpose(0, 1, 3, 2)
    tokens[:, 0, 2] = 0
    tokens /= tokens.sum()
    fine = tokens[:, PLACES[:, 0], PLACES[:, 1]]
    weight = np.array([1.0, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    number = Axis(NUMBER, np.arange(11), np.arange(10) // 2, weight)
    axes = (Axis.singles(COLOUR), number, Axis.singles(SIDE))
    starts = [fine.sum(axis=tuple(j for j in range(3) if j != i)) for i in range(3)]
    spellings = (Spelling.whole(4), Spelling(PLACES, (2, 3)), Spelling.whole(2))
    read = tokens.copy()
    read[:, 0, 2] = junk
    made = ConditionalLaw.of(axes, lambda rows: Table(rows, read), order=(0, 1, 2), starts=starts, spellings=spellings)
    within = np.zeros((5, 10))
    within[np.arange(10) // 2, np.arange(10)] = weight
    within /= within.sum(1, keepdims=True)
    return made, np.einsum("cns,nv->cvs", fine, within)


def joint(cells: np.ndarray = CELLS) -> np.ndarray:
    """Probability of colour code, number and side, shape (4, 10, 2)."""
    within = np.zeros((2, 10))
    within[0, :4], within[1, 4:] = 1 / 4, np.array([1, 1, 1, 1, 1, 2]) / 7
    return np.einsum("cns,nv->cvs", cells, within)


def seen(codes: Mapping[str, np.ndarray]) -> np.ndarray:
    flat = np.ravel_multi_index((codes["colour"], codes["number"], codes["side"]), (4, 10, 2))
    return np.bincount(flat, minlength=80).reshape(4, 10, 2)


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


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.statistical
def test_rows_follow_the_law() -> None:
    """alpha = 1e-9, 40,000 rows, started alike and mixed; one colour 10 % off is noticed."""
    alike, mixed = law().sample(ROWS, rng()), [law().sample(500, rng(i)) for i in range(80)]
    both = seen(alike), np.sum([seen(m) for m in mixed], axis=0)
    wrong = joint()
    wrong[0] *= 1.1
    for counts in both:
        assert fits(counts, joint())
        assert not fits(counts.sum((1, 2)), wrong.sum((1, 2)))


WHERE: list[Mapping[str, object]] = [
    {"number": (3, 5)},
    {"colour": {"red", "blue"}},
    {"number": (3, 9), "colour": {"red", "green"}},
    {"number": (2, 5), "side": "left", "colour": {"green", "blue"}},
    {"number": (4, 9), "colour": None},
    {"number": 9, "colour": "red", "side": "right"},
]


@pytest.mark.statistical
@pytest.mark.parametrize("prefixes", [conditionals.MOST_PREFIXES, 0], ids=["weighed", "searched"])
@pytest.mark.parametrize("case", range(len(WHERE)))
def test_conditions_leave_the_law_of_rows_that_obey(case: int, prefixes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """alpha = 1e-9, 40,000 rows: conditions on several columns at once, whether their combinations are weighed or
    searched for.
    """
    monkeypatch.setattr(conditionals, "MOST_PREFIXES", prefixes)
    wanted, ok = joint(), allowed(**WHERE[case])
    for i, column in enumerate(COLUMNS):
        if column.name in ok:
            kept = ok[column.name].holds(column, np.arange(wanted.shape[i]))
            wanted = wanted * kept.reshape([-1 if j == i else 1 for j in range(3)])
    counts = seen(law().given(ok).sample(ROWS, rng()))
    assert counts.sum() == ROWS
    assert fits(counts, wanted), "rows under conditions do not follow the law of rows that obey"


@pytest.mark.statistical
@pytest.mark.parametrize("prefixes", [conditionals.MOST_PREFIXES, 5, 0], ids=["weighed", "between", "searched"])
@pytest.mark.parametrize("case", range(len(WHERE)))
def test_conditions_on_a_column_of_several_tokens(case: int, prefixes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """alpha = 1e-9, 40,000 rows: conditions cut cells of the number, and places within these."""
    monkeypatch.setattr(conditionals, "MOST_PREFIXES", prefixes)
    made, wanted = parted()
    ok = allowed(**WHERE[case])
    for i, column in enumerate(COLUMNS):
        if column.name in ok:
            kept = ok[column.name].holds(column, np.arange(wanted.shape[i]))
            wanted = wanted * kept.reshape([-1 if j == i else 1 for j in range(3)])
    counts = seen(made.given(ok).sample(ROWS, rng()))
    assert counts.sum() == ROWS
    assert fits(counts, wanted), "rows under conditions do not follow the law of rows that obey"


@pytest.mark.statistical
def test_rows_of_several_tokens_follow_the_law() -> None:
    """alpha = 1e-9, 40,000 rows; places drawn without regard to the other columns, as within a cell, are noticed."""
    made, wanted = parted()
    counts = seen(made.sample(ROWS, rng()))
    blind = wanted.copy()
    for part in (slice(0, 4), slice(4, 10)):
        blind[:, part] = wanted[:, part].sum(1, keepdims=True) * wanted[:, part].sum((0, 2), keepdims=True)
    assert fits(counts, wanted)
    assert not fits(counts, blind / blind.sum())


@pytest.mark.statistical
def test_masking_places_after_their_cells_would_be_seen() -> None:
    """What p(cell | some place obeys) p(place | cell, it obeys) would give is not what the tests above accept: alpha =
    1e-9, 40,000 rows.
    """
    made, wanted = parted()
    where = WHERE[0]
    keep = allowed(**where)["number"].holds(NUMBER, np.arange(10))
    greedy = wanted * keep[None, :, None]
    for part in (slice(0, 4), slice(4, 10)):
        greedy[:, part] *= wanted[:, part].sum((0, 1, 2)) / greedy[:, part].sum((0, 1, 2))
    assert not fits(seen(made.given(allowed(**where)).sample(ROWS, rng())), greedy)


@pytest.mark.statistical
def test_a_label_of_several_tokens_is_balanced_and_completed() -> None:
    """alpha = 1e-9, 40,000 rows: groups cut cells; the number is filled as a whole."""
    made, wanted = parted()
    halves = Balance("number", (CodeSet.of([(0, 5)]), CodeSet.of([(5, 10)])), (None, None), (0.5, 0.5))
    codes, shares = made.balanced(halves, ROWS, rng())
    counts = seen(codes)
    assert counts[:, :5].sum() == ROWS // 2
    assert fits(counts[:, :5], wanted[:, :5])
    assert fits(counts[:, 5:], wanted[:, 5:])
    assert shares == pytest.approx([wanted[:, :5].sum(), wanted[:, 5:].sum()], abs=1e-6)
    known = {"side": np.ones(ROWS, dtype=np.int64)}
    known |= {c.name: np.full(ROWS, size(c)) for c in (COLOUR, NUMBER)}
    (filled,) = made.completed(known, 1, rng())
    wanted[3], wanted[..., 0] = 0.0, 0.0
    assert fits(seen(filled), wanted)


@pytest.mark.parametrize("junk", [0.0, 0.2])
def test_log_probabilities_of_several_tokens_sum_to_1(junk: float) -> None:
    """Also where the network believes in what spells nothing, which is never drawn."""
    made, wanted = parted(junk=junk)
    every = np.stack(np.unravel_index(np.arange(80), (4, 10, 2)))
    found = np.exp(made.log_prob(dict(zip(("colour", "number", "side"), every, strict=True))))
    assert found.sum() == pytest.approx(1.0, abs=1e-5)
    if not junk:
        assert found == pytest.approx(wanted.ravel(), rel=1e-4)
    for batch in made._started(2_000, rng()):
        made._fill(batch, rng())
        assert not ((batch.cells[:, 1] == 0) & (batch.cells[:, 2] == 2)).any()


@pytest.mark.statistical
def test_a_finely_matched_law_of_several_tokens_has_the_wanted_shares() -> None:
    """400,000 rows; six standard deviations of 0.5 / sqrt(POOL), and what drawing adds."""
    cells = np.array([0.1, 0.4, 0.2, 0.2, 0.1])
    wanted = [np.array([0.05, 0.25, 0.3, 0.4]), cells, np.array([0.3, 0.7])]
    matched = replace(parted()[0], starts=tuple(wanted)).finely_matched(wanted, rng())
    codes = matched.sample(10 * ROWS, rng(1))
    tokens = PLACES[matched.axes[1].cells(codes["number"])]
    for n, shares in enumerate(([0.5, 0.5], [0.3, 0.6, 0.1])):
        found = np.bincount(tokens[:, n]) / len(tokens)
        assert found == pytest.approx(shares, abs=6 * 0.5 / np.sqrt(conditionals.POOL))
    assert matched.cell_shares(1) == pytest.approx(cells)


@pytest.mark.statistical
def test_masking_one_column_after_the_other_would_be_seen() -> None:
    """What p(a | A) p(b | a, B) would give is not what the test above accepts: alpha = 1e-9, 40,000 rows."""
    where = WHERE[2]
    ok = allowed(**where)
    keep_number = ok["number"].holds(NUMBER, np.arange(10))
    whole = joint()[:2]
    greedy = whole.sum((1, 2), keepdims=True) / whole.sum() * (whole * keep_number[None, :, None])
    greedy /= (whole * keep_number[None, :, None]).sum((1, 2), keepdims=True)
    counts = seen(law().given(ok).sample(ROWS, rng()))[:2]
    assert not fits(counts, greedy)


@pytest.mark.statistical
def test_conditions_set_one_after_the_other_act_together() -> None:
    """alpha = 1e-9, 40,000 rows: the second condition on the same column narrows the first."""
    twice = law().given(allowed(number=(2, 5))).given(allowed(number=(4, 9), colour={"green"}))
    wanted = joint()
    wanted[[0, 2, 3]] = 0
    wanted[:, [0, 1, 2, 3, 6, 7, 8, 9]] = 0
    assert fits(seen(twice.sample(ROWS, rng())), wanted)


def test_exactly_as_many_rows_as_asked_for() -> None:
    for rows in (0, 1, 5_000):
        assert len(law().sample(rows, rng())["number"]) == rows
        assert len(law().given(allowed(number=9)).sample(rows, rng())["number"]) == rows


def test_every_column_but_the_last_starts_as_many_rows() -> None:
    usual = law()
    assert usual.first == (0, 1)
    assert np.bincount(usual._turns(1_001, rng())).tolist() in ([500, 501], [501, 500])


def test_conditions_that_no_row_meets_are_refused() -> None:
    cells = CELLS.copy()
    cells[0, 0] = 0.0
    never = law(cells / cells.sum()).given(allowed(colour="red", number=(0, 3)))
    with pytest.raises(UsageError, match="never draws what the conditions on 'colour', 'number' allow together"):
        never.sample(1, rng())
    gone = replace(
        law(), axes=(Axis(COLOUR, np.arange(4), np.arange(4), np.array([1.0, 0.0, 1.0, 1.0])), *law().axes[1:])
    )
    merged = replace(gone, axes=(gone.axes[0].merged(np.array([0, 0, 1, 2])), *gone.axes[1:]))
    with pytest.raises(UsageError, match=r"'colour'.*never draws"):
        merged.given(allowed(colour="green"))


def test_conditions_that_are_too_rare_are_refused_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditionals, "MOST_TRIES", 5_000)
    monkeypatch.setattr(conditionals, "MOST_PREFIXES", 0)
    cells = CELLS.copy()
    cells[0, 0] = 1e-30
    with pytest.raises(UsageError, match=r"Only 0 of 5\d\d\d rows .* 'colour', 'number' together"):
        law(cells / cells.sum()).given(allowed(colour="red", number=(0, 3))).sample(2, rng())


def test_rare_combinations_are_weighed_not_searched_for() -> None:
    cells = CELLS.copy()
    cells[0, 0] = 1e-12
    rare = law(cells / cells.sum()).given(allowed(colour="red", number=(0, 3)))
    assert len(rare.sample(1_000, rng())["side"]) == 1_000


@pytest.mark.statistical
def test_a_finely_matched_law_has_the_wanted_shares() -> None:
    """400,000 rows; six standard deviations of 0.5 / sqrt(POOL), and what drawing adds."""
    wanted = [np.array([0.05, 0.25, 0.3, 0.4]), np.array([0.9, 0.1]), np.array([0.3, 0.7])]
    matched = replace(law(), starts=tuple(wanted)).finely_matched(wanted, rng())
    codes = matched.sample(10 * ROWS, rng(1))
    for i, column in enumerate(COLUMNS):
        cells = matched.axes[i].cells(codes[column.name])
        shares = np.bincount(cells, minlength=len(wanted[i])) / len(cells)
        assert shares == pytest.approx(wanted[i], abs=6 * 0.5 / np.sqrt(conditionals.POOL))
    assert matched.cell_shares(0) == pytest.approx(wanted[0])


@pytest.mark.statistical
def test_balanced_rows_have_their_quotas_and_the_law_given_the_label() -> None:
    """alpha = 1e-9, 40,000 rows."""
    balance = Conditions.of(Schema(columns=COLUMNS), None, {"side": {"left": 0.25, "right": 0.75}}).balance
    assert balance is not None
    codes, shares = law().balanced(balance, ROWS, rng())
    counts = seen(codes)
    assert counts.sum((0, 1)).tolist() == [ROWS // 4, 3 * ROWS // 4]
    for side in (0, 1):
        assert fits(counts[..., side], joint()[..., side])
    assert shares == pytest.approx(joint().sum((0, 1)), abs=1e-6)


@pytest.mark.statistical
def test_shares_under_a_condition_are_those_of_rows_that_obey() -> None:
    """Six standard deviations of 0.5 / sqrt(BLOCK)."""
    given = law().given(allowed(number=(0, 3)))
    wanted = CELLS[:, 0].sum(1) / CELLS[:, 0].sum()
    assert given.cell_shares(0) == pytest.approx(wanted, abs=6 * 0.5 / np.sqrt(conditionals.BLOCK))
    assert given.cell_shares(1) == pytest.approx([1.0, 0.0])


@pytest.mark.statistical
def test_missing_cells_are_drawn_given_the_others() -> None:
    """alpha = 1e-9, 40,000 rows: each row knows other columns; nothing filled is missing."""
    half = ROWS // 2
    codes = {"colour": np.full(ROWS, size(COLOUR)), "number": np.full(ROWS, 9), "side": np.full(ROWS, size(SIDE))}
    codes["number"][half:] = size(NUMBER)
    codes["side"][half:] = 1
    filled, again = law().completed(codes, 2, rng())
    assert (filled["number"][:half] == 9).all()
    assert (filled["side"][half:] == 1).all()
    first, second = ({n: c[part] for n, c in filled.items()} for part in (slice(half), slice(half, None)))
    wanted = joint()
    wanted[3] = 0.0
    nine, right = np.zeros_like(wanted), np.zeros_like(wanted)
    nine[:, 9], right[..., 1] = wanted[:, 9], wanted[..., 1]
    assert fits(seen(first), nine)
    assert fits(seen(second), right), "what is filled does not follow the law given that it is not missing"
    assert not np.array_equal(filled["colour"], again["colour"])


@pytest.mark.statistical
def test_rows_that_would_be_missing_are_completed_anew() -> None:
    """alpha = 1e-9, 40,000 rows: the number, drawn first, says how likely the colour is to be missing."""
    unknown = {c.name: np.full(ROWS, size(c)) for c in COLUMNS}
    cells = CELLS.copy()
    cells[3] = [[0.001, 0.001], [0.3, 0.3]]
    cells /= cells.sum()
    (filled,) = replace(law(cells), order=(1, 0, 2)).completed(unknown, 1, rng())
    wanted = joint(cells)
    wanted[3] = 0.0
    assert fits(seen(filled), wanted), "rows completed do not follow the law given that nothing is missing"


def test_log_probabilities_are_those_of_the_law_and_sum_to_1() -> None:
    every = np.stack(np.unravel_index(np.arange(80), (4, 10, 2)))
    codes = dict(zip(("colour", "number", "side"), every, strict=True))
    found = np.exp(law().log_prob(codes))
    assert found == pytest.approx(joint().ravel(), rel=1e-4)
    assert found.sum() == pytest.approx(1.0, abs=1e-5)


def test_a_low_temperature_and_a_small_top_p_leave_the_likeliest() -> None:
    cold = replace(law(), temperature=0.02, first=(0,))
    assert set(cold.sample(500, rng())["colour"].tolist()) == {0}
    nucleus = replace(law(), top_p=0.75, first=(0,))
    assert set(nucleus.sample(2_000, rng())["colour"].tolist()) == {0, 1, 2}  # 0.30, 0.25, 0.25, 0.20
