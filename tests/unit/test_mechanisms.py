"""Mechanisms: what is read, how far one unit moves it, and which noise is added.

Law tests have alpha = 1e-9, state their sample size and must reject noise 10 % too small or too large.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, ExponentialMechanismDpEvent, Spend
from tabveil.columns import Categorical, Identifier, Integer
from tabveil.encoding import Axis
from tabveil.errors import UnchargedError
from tabveil.ledger import Ledger, Receipt
from tabveil.mechanisms import FIXED_POINT, Contest, PrivateRows
from tabveil.noise import (
    OPENDP_CELLS,
    gaussian_noise,
    laplace_noise,
    noise_is_seeded,
    noisy_argmax,
    seeded_noise_for_tests,
)
from tabveil.schema import Schema
from tabveil.tables import open_table
from tabveil.units import bounded_contributions

ALPHA = 1e-9
A = Categorical(name="a", categories=("x", "y"))
B = Integer(name="b", low=0, high=2)
PERSON = Identifier(name="person")
ROW_SCHEMA = Schema(columns=(A, B))
UNIT_SCHEMA = Schema(columns=(PERSON, A, B), privacy_unit="person", max_rows_per_unit=2)
AXES = (Axis.singles(A), Axis.singles(B))


def table(rows: list[tuple[str, int]]) -> pd.DataFrame:
    return pd.DataFrame({"a": [r[0] for r in rows], "b": [r[1] for r in rows]}, columns=["a", "b"])


def exact(frame: pd.DataFrame, schema: Schema = ROW_SCHEMA) -> PrivateRows:
    """Rows behind a receipt that says: not private. Their counts are exact."""
    return PrivateRows(open_table(frame), schema, Receipt.uncharged())


def charged(frame: pd.DataFrame, spends: list[Spend], schema: Schema = ROW_SCHEMA) -> PrivateRows:
    ledger = Ledger(":memory:")
    ledger.open("t", epsilon=1e6, delta=1e-6)
    return PrivateRows(open_table(frame), schema, ledger.charge("t", spends, label="test"))


def law(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    support = np.arange(-math.ceil(12 * sigma), math.ceil(12 * sigma) + 1)
    p = np.exp(-(support**2) / (2 * sigma**2))
    return support, p / p.sum()


def p_value(draws: np.ndarray, support: np.ndarray, p: np.ndarray) -> float:
    bins = np.minimum((np.cumsum(p) * 60).astype(int), 59)
    counts = np.bincount(bins[np.clip(draws - support[0], 0, len(support) - 1)], minlength=60)
    expected = np.bincount(bins, weights=p, minlength=60) * len(draws)
    used = expected >= 10
    return float(stats.chi2.sf(((counts - expected)[used] ** 2 / expected[used]).sum(), used.sum() - 1))


# --------------------------------------------------------------------------------------------------------- sensitivity
def test_one_row_moves_counts_by_at_most_one_and_scores_by_at_most_one_row() -> None:
    """Brute force over every table of up to 3 rows on a 2 x 3 domain and each of its rows removed (traps A16, A18)."""
    domain = list(itertools.product("xy", range(3)))
    estimate = np.array([[0.3, 1.7, 0.0], [2.2, 0.9, 0.123]])
    worst_count = worst_score = 0
    for size in (1, 2, 3):
        for rows in itertools.combinations_with_replacement(domain, size):
            whole = exact(table(list(rows)))
            counts = whole.counts(AXES, label="any")
            contest = Contest((AXES,), (estimate,), np.array([0.0]))
            score = whole._score(contest)[0]
            for i in range(size):
                less = exact(table([*rows[:i], *rows[i + 1 :]]))
                worst_count = max(worst_count, int(((counts - less.counts(AXES, label="any")) ** 2).sum()))
                worst_score = max(worst_score, abs(int(score - less._score(contest)[0])))
    assert worst_count == 1
    assert 0 < worst_score <= FIXED_POINT


def test_weighed_scores_move_by_at_most_one_row() -> None:
    """Brute force over tables of up to 3 rows, each of their rows removed, and what may be chosen (trap A18).

    Weights, 3 and 1 / 3 among them, are shares of the greatest that may be chosen: 1 moves one score by a whole row.
    """
    rng = np.random.default_rng(4)
    marginals = (AXES, (AXES[0],), (AXES[1],))
    estimates = (np.array([[0.3, 1.7, 0.0], [2.2, 0.9, 0.123]]), np.array([0.4, 2.6]), np.array([1.1, 0.0, 1.9]))
    weights = [np.array([3.0, 1.0, 0.5]), np.array([1 / 3, 1e-9, 1e6]), *np.exp(rng.normal(0, 2, (4, 3)))]
    contests = [Contest(marginals, estimates, np.array([0.7, 0.0, 1.3]), w) for w in weights]
    subsets = [np.array(s) for n in (1, 2, 3) for s in itertools.combinations(range(3), n)]
    worst = 0
    for whole, less in neighbours(3):
        moved = (exact(table(whole))._score(contests[0]), exact(table(less))._score(contests[0]))
        for contest, allowed in itertools.product(contests, subsets):
            before, after = (contest.weighed(scores[allowed], allowed) for scores in moved)
            worst = max(worst, int(np.abs(before - after).max()))
    assert worst <= FIXED_POINT
    assert worst == FIXED_POINT


def neighbours(most: int) -> Iterator[tuple[list[tuple[str, int]], list[tuple[str, int]]]]:
    """Every table of up to `most` rows, up to their order, with every table that lacks one of its rows."""
    for size in range(1, most + 1):
        for rows in itertools.combinations_with_replacement(itertools.product("xy", range(3)), size):
            yield from ((list(rows), [*rows[:i], *rows[i + 1 :]]) for i in range(size))


def test_one_person_moves_counts_by_at_most_their_bound() -> None:
    """Trap A17: a person with 50 rows, at most 2 of which count; everyone else's rows stay where they are."""
    others = pd.DataFrame({"person": ["p", "q", "q"], "a": ["x", "x", "y"], "b": [0, 1, 2]})
    greedy = pd.DataFrame({"person": ["z"] * 50, "a": ["y"] * 50, "b": [2] * 50})
    with_them = exact(pd.concat([greedy, others], ignore_index=True), UNIT_SCHEMA).counts(AXES, label="any")
    without = exact(others, UNIT_SCHEMA).counts(AXES, label="any")
    difference = with_them - without
    assert difference.sum() == 2
    assert np.sqrt((difference**2).sum()) <= UNIT_SCHEMA.contributions
    assert without.sum() == 3


def test_rows_without_a_person_count_as_one_person() -> None:
    frame = pd.DataFrame({"person": [None, None, "", "p"], "a": ["x"] * 4, "b": [0] * 4})
    assert exact(frame, UNIT_SCHEMA).counts(AXES, label="any").sum() == 3


@pytest.mark.parametrize("chunk", [1, 2, 3, 6])
def test_a_person_is_the_same_in_every_type_and_chunk(chunk: int) -> None:
    """Trap A17: 1, 1.0 and "1" name one person, whatever the types of the rows around them."""
    cells: list[list[object]] = [
        [1, 1, 1.0, 1.0, "1", "1"],
        [pd.Timestamp("2020-01-01")] * 5 + [pd.Timestamp("2020-01-02 05:00")],
    ]
    for people, kept in zip(cells, (2, 3), strict=True):
        frame = pd.DataFrame({"person": pd.Series(people, dtype=object), "a": ["x"] * 6, "b": [0] * 6})
        for typed in (frame, frame.infer_objects()):
            rows = PrivateRows(open_table(typed, chunk_rows=chunk), UNIT_SCHEMA, Receipt.uncharged())
            assert rows.counts(AXES, label="any").sum() == kept


def test_scores_cannot_run_over() -> None:
    contest = Contest((AXES,), (np.full((2, 3), 1e300),), np.array([np.inf]))
    one, two = exact(table([("x", 0)])), exact(table([("x", 0), ("x", 0)]))
    assert abs(int(one._score(contest)[0]) - int(two._score(contest)[0])) <= FIXED_POINT


def test_kept_rows_are_chosen_evenly_and_afresh() -> None:
    """alpha = 1e-9, n = 60,000 choices of 2 of 5 rows; a row 10 % too likely is rejected."""
    units = np.repeat(np.arange(60_000), 5).astype(object)
    kept = bounded_contributions(units, 2)
    assert (np.bincount(kept // 5) == 2).all()
    counts = np.bincount(kept % 5)
    assert stats.chisquare(counts).pvalue > ALPHA
    tilted = np.array([1.1, 0.975, 0.975, 0.975, 0.975])
    assert stats.chisquare(counts, counts.sum() * tilted / tilted.sum()).pvalue < ALPHA
    assert not np.array_equal(kept, bounded_contributions(units, 2))


def test_a_person_whose_rows_lie_in_several_chunks_is_bounded_once() -> None:
    """Trap A17: 50 rows of one person in chunks of 7; at most 2 of them count."""
    frame = pd.DataFrame({"person": ["z"] * 50, "a": ["y"] * 50, "b": [2] * 50})
    rows = PrivateRows(open_table(frame, chunk_rows=7), UNIT_SCHEMA, Receipt.uncharged())
    assert rows.counts(AXES, label="any").sum() == UNIT_SCHEMA.contributions


# --------------------------------------------------------------------------------------------------------------- noise
@pytest.mark.parametrize("cells", [OPENDP_CELLS, OPENDP_CELLS + 1])
def test_counts_carry_exactly_the_charged_noise(cells: int) -> None:
    """Both samplers, alpha = 1e-9, n >= 60,000 cells; sigma off by 10 % either way is rejected."""
    sigma = 7.25
    column = Integer(name="b", low=0, high=cells - 1)
    repeats = -(-60_000 // cells)
    schema = Schema(columns=(column,))
    frame = pd.DataFrame({"b": np.arange(cells)})
    rows = charged(frame, [Spend("counts", DiscreteGaussianDpEvent(sigma), repeats)], schema)
    axis = Axis.singles(column)
    draws = np.concatenate([rows.counts([axis], label="counts") - 1 for _ in range(repeats)])
    assert draws.dtype == np.int64
    assert p_value(draws, *law(sigma)) > ALPHA
    for wrong in (0.9, 1.1):
        assert p_value(draws, *law(sigma * wrong)) < ALPHA
    # trap A18: an empty cell is 0 on average, not clipped at 0
    assert abs(draws.mean()) < 6.2 * sigma / math.sqrt(len(draws))


def test_laplace_noise_has_its_law() -> None:
    """alpha = 1e-9, n = 60,000."""
    scale = 4.5
    draws = np.concatenate([laplace_noise(2_000, DiscreteLaplaceDpEvent(scale)) for _ in range(30)])
    support = np.arange(-200, 201)
    for factor, expected in ((1.0, True), (0.9, False), (1.1, False)):
        p = np.exp(-np.abs(support) / (scale * factor))
        assert (p_value(draws, support, p / p.sum()) > ALPHA) is expected


def test_noise_grows_with_what_one_unit_may_contribute() -> None:
    frame = pd.DataFrame({"person": ["p"], "a": ["x"], "b": [0]})
    rows = charged(frame, [Spend("counts", DiscreteGaussianDpEvent(5.0, 1))], UNIT_SCHEMA)
    with pytest.raises(UnchargedError, match="fewer rows per unit"):
        rows.counts(AXES, label="counts")


def test_choices_are_noised_for_every_row_one_unit_may_contribute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap A17: one person moves a score by up to k rows, so the noise of a choice is told k rows."""
    told: list[int] = []
    monkeypatch.setattr(
        "tabveil.mechanisms.noisy_argmax", lambda scores, sensitivity, event: told.append(sensitivity) or 0
    )
    contest = Contest((AXES,), (np.zeros((2, 3)),), np.zeros(1))
    for frame, schema in ((table([("x", 0)]), ROW_SCHEMA), (table([("x", 0)]).assign(person="p"), UNIT_SCHEMA)):
        charged(frame, [Spend("c", ExponentialMechanismDpEvent(0.1))], schema).choose(contest, [0], label="c")
    assert told == [FIXED_POINT, UNIT_SCHEMA.contributions * FIXED_POINT]


def test_no_noise_can_be_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traps A12, A13: no noise comes from numpy, seeded or not, and two draws under one global seed differ.

    Two honest draws agree with a chance below 1e-100 for the vectors and 5e-19 for the 60 choices among two.
    """

    def forbidden(*args: object) -> None:
        raise AssertionError("privacy noise from numpy's generator")

    monkeypatch.setattr(np.random, "default_rng", forbidden)
    draws = {
        "OpenDP's Gaussian": lambda: gaussian_noise(OPENDP_CELLS, DiscreteGaussianDpEvent(20.0)),
        "the vectorised Gaussian": lambda: gaussian_noise(OPENDP_CELLS + 1, DiscreteGaussianDpEvent(20.0)),
        "Laplace": lambda: laplace_noise(300, DiscreteLaplaceDpEvent(20.0)),
        "choices": lambda: [
            noisy_argmax(np.zeros(2, np.int64), 1, ExponentialMechanismDpEvent(1.0)) for _ in range(60)
        ],
        "kept rows": lambda: bounded_contributions(np.repeat(np.arange(200), 9).astype(object), 4),
    }
    for what, draw in draws.items():
        seen = []
        for _ in range(2):
            np.random.seed(0)  # noqa: NPY002  (the point: a global seed changes nothing)
            before = np.random.get_state()[2]  # noqa: NPY002
            seen.append(np.asarray(draw()))
            assert np.random.get_state()[2] == before, what  # noqa: NPY002
        assert not np.array_equal(*seen), what


def softmax(scores: np.ndarray, epsilon: float) -> np.ndarray:
    p = np.exp(epsilon * scores / 2)
    return p / p.sum()


def permute_and_flip(scores: np.ndarray, epsilon: float) -> np.ndarray:
    """McKenna & Sheldon 2020: what exponential noise gives. It has no bounded range and costs four times the rho."""
    keep = np.exp(epsilon * (scores - scores.max()) / 2)
    total = np.zeros(len(scores))
    for order in itertools.permutations(range(len(scores))):
        alive = 1.0
        for i in order:
            total[i] += alive * keep[i]
            alive *= 1 - keep[i]
    return total / total.sum()


def test_choices_follow_the_exponential_mechanism() -> None:
    """alpha = 1e-9, n = 20,000; epsilon off by 10 % and permute-and-flip are rejected (trap A13)."""
    scores, epsilon, n = np.array([0, 0, 0, 1, 0, 5]), 1.0, 20_000
    event = ExponentialMechanismDpEvent(epsilon)
    drawn = np.bincount([noisy_argmax(scores * 7, 7, event) for _ in range(n)], minlength=len(scores))
    assert stats.chisquare(drawn, softmax(scores, epsilon) * n).pvalue > ALPHA
    for wrong in (0.9, 1.1):
        assert stats.chisquare(drawn, softmax(scores, epsilon * wrong) * n).pvalue < ALPHA
    assert stats.chisquare(drawn, permute_and_flip(scores, epsilon) * n).pvalue < ALPHA


def test_choose_reads_the_pair_that_is_estimated_worst() -> None:
    rows = exact(table([("x", 0)] * 50 + [("y", 2)] * 50))
    pair, single = AXES, (AXES[0],)
    contest = Contest((pair, single), (np.full((2, 3), 100 / 6), np.array([50.0, 50.0])), np.array([0.0, 0.0]))
    assert rows.choose(contest, [0, 1], label="any") == 0
    assert rows.choose(contest, [1], label="any") == 1
    handicapped = Contest(contest.candidates, contest.estimates, np.array([1e6, 0.0]))
    assert rows.choose(handicapped, [0, 1], label="any") == 1


# ------------------------------------------------------------------------------------------------------------- charges
class Unreadable(Exception):
    """Raised by a table that must not be read."""


class Trap:
    def __getattr__(self, name: str) -> object:
        raise Unreadable(name)


def test_nothing_is_read_before_the_charge_is_found_good() -> None:
    ledger = Ledger(":memory:")
    ledger.open("t", epsilon=10.0, delta=1e-6)
    spends = [Spend("counts", DiscreteGaussianDpEvent(5.0)), Spend("choice", ExponentialMechanismDpEvent(0.1))]
    rows = PrivateRows(Trap(), ROW_SCHEMA, ledger.charge("t", spends, label="test"))  # type: ignore[arg-type]
    contest = Contest((AXES,), (np.zeros((2, 3)),), np.zeros(1))
    with pytest.raises(UnchargedError):
        rows.counts(AXES, label="never charged")
    with pytest.raises(UnchargedError, match="ExponentialMechanism"):
        rows.counts(AXES, label="choice")
    with pytest.raises(Unreadable):
        rows.counts(AXES, label="counts")
    with pytest.raises(UnchargedError):  # spent by the call above, although it crashed
        rows.counts(AXES, label="counts")
    with pytest.raises(UnchargedError):
        rows.choose(contest, [0], label="counts")


def test_rows_are_read_once_and_never_shown() -> None:
    frame = table([("x", 1)] * 5)
    rows = charged(frame, [Spend("counts", DiscreteGaussianDpEvent(5.0), 2)])
    first = rows.counts(AXES, label="counts")
    frame.loc[:, "a"] = "y"
    rows.counts(AXES, label="counts")
    assert "x" not in repr(rows).replace("box", "")
    assert first.shape == (2, 3)


def test_seeding_is_for_tests_and_says_so() -> None:
    event = DiscreteGaussianDpEvent(5.0)
    with seeded_noise_for_tests(3):
        first = gaussian_noise(100, event)
        assert noise_is_seeded()
    with seeded_noise_for_tests(3):
        assert (gaussian_noise(100, event) == first).all()
    assert not noise_is_seeded()
    assert (gaussian_noise(100, event) != first).any()
