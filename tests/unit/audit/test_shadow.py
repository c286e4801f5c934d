"""The privacy game: a mechanism of known epsilon, targets by hand, fits that are kept, independent and resumable."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tabveil.audit._shadow_attacks import Features, _attacks, best
from tabveil.audit._shadow_features import DIRECT, QUERIES, TOLERANCES, Questions, target
from tabveil.audit._shadow_fits import OUT, Kept
from tabveil.audit.base import ALPHA, AuditInput, Refit
from tabveil.audit.rates import beyond
from tabveil.audit.shadow import FEWEST_FITS, Shadow
from tabveil.columns import Categorical, Identifier, Integer
from tabveil.errors import UsageError
from tabveil.records import Finding
from tabveil.refitting import Refitting
from tabveil.schema import Schema

SCHEMA = Schema(
    columns=(
        Integer(name="x", low=0, high=100, missing=("",)),
        Integer(name="y", low=0, high=100),
        Categorical(name="c", categories=("a", "b", "z")),
    )
)


def table(rows: int, seed: int) -> pd.DataFrame:
    """Numbers below 51 and two of three categories."""
    rng = np.random.default_rng(seed)
    columns = {n: rng.integers(0, 51, rows) for n in ("x", "y")}
    return pd.DataFrame({**columns, "c": rng.choice(["a", "b"], rows)})


LONER = pd.DataFrame({"x": [100], "y": [100], "c": ["z"]})
TRAIN = pd.concat([table(60, 0), LONER], ignore_index=True)


def given(
    refit: Refit | None, *, promise: tuple[float, float] | None = None, store: Path | None = None, state: int | None = 0
) -> AuditInput:
    return AuditInput(
        synthetic=TRAIN,
        train=TRAIN,
        holdout=None,
        schema=SCHEMA,
        refit=refit,
        promise=promise,
        store=store,
        random_state=state,
    )


def small(**options: object) -> Shadow:
    return Shadow(**{"targets": ["achilles"], "fits": FEWEST_FITS, "rows": 50, "jobs": 1, **options})  # type: ignore[arg-type]


def is_in(rows: pd.DataFrame) -> bool:
    return bool((rows["c"] == "z").any())


def blind(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    return table(10, seed % 2**32)


@dataclass(frozen=True)
class Answering:
    """Randomised response (Warner 1965) on whether the loner is in, epsilon-DP with no room: a row that says so, among
    rows that say nothing.
    """

    epsilon: float

    def __call__(self, rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        """Tells the truth with probability e^epsilon / (1 + e^epsilon)."""
        truth = np.random.default_rng(seed).random() < 1 / (1 + math.exp(-self.epsilon))
        said = LONER if is_in(rows) == truth else TRAIN.iloc[:1]
        return pd.concat([said, table(10, (seed >> 3) % 2**32)])


@dataclass(frozen=True)
class Noting:
    """Notes seeds and tables, and is killed after so many fits."""

    until: float = math.inf
    seeds: list[int] = field(default_factory=list, repr=False)
    tables: list[pd.DataFrame] = field(default_factory=list, repr=False)

    def __call__(self, rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        """Rows drawn anew, and the loner where it is in, every other time."""
        if len(self.seeds) >= self.until:
            raise KeyboardInterrupt
        self.seeds.append(seed)
        self.tables.append(rows)
        return rows.sample(10, replace=True, random_state=seed % 2**32)

    def __repr__(self) -> str:
        return "Noting()"


# ------------------------------------------------------------------------------------------------------------- epsilon


@pytest.mark.statistical
@pytest.mark.parametrize("runs", [30, pytest.param(200, marks=pytest.mark.nightly)])
def test_a_known_epsilon_is_not_over_estimated_more_often_than_stated(runs: int) -> None:
    """Randomised response at epsilon 0.5; a finding errs with a chance of at most ALPHA / 2. alpha = 1e-9, `runs` runs.

    Without regard to chance, half of the runs would err.
    """
    wrong = 0
    for state in range(runs):
        bound = small().compute(given(Answering(0.5), promise=(0.5, 0.0), state=state))[1]
        wrong += beyond(bound)
    assert wrong <= stats.binom.isf(1e-9, runs, ALPHA / 2)


@pytest.mark.statistical
def test_the_bound_comes_close_to_a_known_epsilon() -> None:
    """Randomised response at epsilon 2, 0.881 right, 2 x 200 fits counted: 310 right or more but for a chance of
    alpha = 1e-9, which show 0.98. Half of the epsilon would show that with a chance of 0.03.
    """
    area, bound = small(fits=400).compute(given(Answering(2.0), promise=(2.0, 0.0)))
    right = 1 / (1 + math.exp(-2.0))
    assert stats.binom.cdf(309, 400, right) < 1e-9
    assert bound.interval[0] >= 0.98
    assert not beyond(bound)
    assert beyond(area)
    assert "does not contradict" in bound.verdict


@pytest.mark.nightly
@pytest.mark.statistical
def test_a_blind_generator_is_rarely_found_guilty() -> None:
    """Both findings of a run together err with a chance of at most ALPHA. alpha = 1e-9, 200 runs."""
    guilty = sum(any(map(beyond, small().compute(given(blind, state=s)))) for s in range(200))
    assert guilty <= stats.binom.isf(1e-9, 200, ALPHA)


def test_a_broken_promise_is_told() -> None:
    def leaky(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        return rows.sample(49, random_state=seed % 2**32) if not is_in(rows) else rows.sample(frac=1, random_state=1)

    area, bound = small().compute(given(leaky, promise=(0.5, 1e-5)))
    assert (area.value, beyond(area)) == (1.0, True)
    assert bound.interval == (bound.ceiling, math.inf)
    assert bound.ceiling > 1.3
    assert (bound.baseline, beyond(bound)) == (0.5, True)
    assert "the promise is broken" in bound.verdict
    assert "contradict the 9 that is promised" in small().compute(given(leaky, promise=(9.0, 1e-5)))[1].verdict
    quiet = small().compute(given(blind, promise=(0.5, 1e-5)))[1]
    assert quiet.interval[0] == 0
    assert "rule out no epsilon and do not contradict" in quiet.verdict
    assert "would be a false promise" in small().compute(given(leaky))[1].verdict


def test_fits_without_chance_measure_nothing_of_a_promise() -> None:
    def fixed(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        return rows

    area, bound = small().compute(given(fixed, promise=(1.0, 1e-5)))
    assert (area.interval, area.ceiling, beyond(area)) == ((0.0, 1.0), 0.0, False)
    assert (bound.interval[0], bound.ceiling) == (0.0, 0.0)
    assert all(f.verdict.startswith("MEASURED NOTHING") for f in (area, bound))
    assert all("the promise is broken" in f.verdict and "nothing was measured" in f.verdict for f in (area, bound))
    # One that promises nothing may be like that.
    area, bound = small().compute(given(fixed))
    assert beyond(area)
    assert beyond(bound)
    assert "no chance is in it" in area.verdict
    assert (area.baseline_of, bound.baseline_of) == ("guessing", "guessing")


class Fixed:
    """Returns its rows, and says that no number fixes its noise: there is none."""

    fresh_noise = True

    def __call__(self, rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        return rows


def test_fits_without_chance_break_a_promise_where_no_seed_fixes_the_noise() -> None:
    area, bound = small().compute(given(Fixed(), promise=(1.0, 1e-5)))
    assert beyond(area)
    assert (bound.interval[0], beyond(bound)) == (bound.ceiling, True)
    assert (area.baseline_of, bound.baseline_of, bound.baseline) == ("guessing", "claim", 1.0)
    assert "no chance is in it" in bound.verdict
    assert "the promise is broken" in bound.verdict
    assert Refitting.fresh_noise


# ------------------------------------------------------------------------------------------------------------ the game


def test_fits_see_one_table_with_and_without_the_target_under_seeds_of_their_own() -> None:
    noting = Noting()
    shadow = small(targets=["achilles", "random"])
    assert len(shadow.compute(given(noting))) == 4
    assert len(set(noting.seeds)) == len(noting.seeds) == 3 * FEWEST_FITS
    base, added = noting.tables[0], [t for t in noting.tables if len(t) == 51]
    assert len(base) == 50
    assert sum(t.equals(base) for t in noting.tables) == FEWEST_FITS
    assert len(added) == 2 * FEWEST_FITS
    assert all(t.iloc[:50].equals(base) for t in added)
    assert sum(is_in(t) for t in added) == FEWEST_FITS
    other = Noting()
    shadow.compute(given(other, state=1))
    assert not set(noting.seeds) & set(other.seeds)


def test_the_farthest_and_the_rarest_row_are_chosen_each_once() -> None:
    noting = Noting()
    found = small(targets=["outlier", "achilles", "achilles"]).compute(given(noting))
    last = [t.iloc[-1] for t in noting.tables[:4]]
    assert last[1].tolist() == [100, 100, "z"]
    assert last[2].tolist() != [100, 100, "z"]
    assert not last[2].equals(last[3])
    assert [f.name.split(": ")[1] for f in found[::2]] == [
        "the row with the rarest values",
        "the row farthest from its neighbours, number 1",
        "the row farthest from its neighbours, number 2",
    ]


def test_other_rows_of_the_targets_unit_are_left_out() -> None:
    """A table with one row more of a person differs from one without him by more than that row."""
    schema = Schema(columns=(Identifier(name="who"), *SCHEMA.columns), privacy_unit="who", max_rows_per_unit=3)
    train = TRAIN.assign(who=[f"p{i}" for i in [*range(58), 60, 60, 60]])
    noting = Noting()
    data = AuditInput(synthetic=train, train=train, holdout=None, schema=schema, refit=noting)
    small(rows=100).compute(data)
    assert len(noting.tables[0]) == 58
    assert "p60" not in set(noting.tables[0]["who"])
    assert set(noting.tables[1]["who"]) - set(noting.tables[0]["who"]) == {"p60"}


def test_findings_say_whom_what_and_how_much() -> None:
    told: list[tuple[str, float]] = []
    data = AuditInput(**{**vars(given(blind)), "tell": lambda stage, share: told.append((stage, share))})
    shadow = small()
    area, bound = shadow.compute(data)
    assert shadow.plan(data) == "32 fits of the generator on 50 rows: 16 without a target, 16 with each of 1."
    for found in (area, bound):
        whom = "the row farthest from its neighbours, beside 50 other training rows, the same in all fits"
        assert found.targets == whom
        assert (found.cost, found.seed) == ("32 fits", 0)
        assert found.threat_model.startswith("Black box")
    assert area.false_alarms[-1] == area.recognised[-1] == 1.0
    assert told[-1] == ("shadow fits", 1.0)
    assert any(stage.startswith("shadow: 30 fits of ") for stage, _ in told)


def test_wrong_arguments_are_refused() -> None:
    for wrong in ({"targets": []}, {"targets": ["best"]}, {"fits": 15}, {"rows": 19}, {"jobs": 0}):
        with pytest.raises(UsageError):
            small(**wrong)


# ------------------------------------------------------------------------------------------------------------ resuming


def test_a_killed_audit_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    whole, killed, rest = Noting(), Noting(until=20), Noting()
    expected = small().compute(given(whole))
    store = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt):
        small().compute(given(killed, store=store))
    (file,) = store.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    text = file.read_text()
    file.write_text(text[:-20])  # the kill came while the last fit was written
    assert small().compute(given(rest, store=store)) == expected
    assert killed.seeds == whole.seeds[:20]
    assert rest.seeds == whole.seeds[19:]
    again = Noting()
    assert small().compute(given(again, store=store)) == expected
    assert again.seeds == []


def test_fits_of_another_audit_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small().compute(given(Noting(), store=tmp_path))
    for other, rows, state in ((Noting(), 40, 0), (Noting(), 50, 1)):
        small(rows=rows).compute(given(other, store=tmp_path, state=state))
        assert len(other.seeds) == 2 * FEWEST_FITS
    small().compute(given(Answering(1.0), store=tmp_path))
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr("tabveil.__version__", "another")
    other = Noting()
    small().compute(given(other, store=tmp_path))
    assert len(other.seeds) == 2 * FEWEST_FITS


def test_fits_of_rows_with_other_owners_are_not_taken(tmp_path: Path) -> None:
    """How many of a person's rows a fit keeps, and with it every table, depends on whose rows they are."""
    schema = Schema(columns=(Identifier(name="who"), *SCHEMA.columns), privacy_unit="who", max_rows_per_unit=3)
    for owners in ([f"p{i}" for i in range(61)], [*["p0"] * 60, "p60"], [*range(60), 60.0]):
        noting, train = Noting(), TRAIN.assign(who=pd.Series(owners, dtype=object))
        data = AuditInput(synthetic=train, train=train, holdout=None, schema=schema, refit=noting, store=tmp_path)
        small(rows=60).compute(data)
        # The last are the first again, under other names.
        assert len(noting.seeds) == (0 if 60.0 in owners else 2 * FEWEST_FITS)


def test_what_is_kept_has_no_cell(tmp_path: Path) -> None:
    small().compute(given(Noting(), store=tmp_path))
    (file,) = tmp_path.iterdir()
    assert '"z"' not in file.read_text()
    sides = [place[0] for place in Kept(file).read()]
    assert (sides.count(OUT), sides.count(0)) == (FEWEST_FITS, FEWEST_FITS)


def test_processes_side_by_side_find_the_same() -> None:
    def refit(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        return rows.sample(20, replace=True, random_state=seed % 2**32)

    def found(jobs: int) -> list[Finding]:
        return small(jobs=jobs).compute(given(refit))

    assert found(2) == found(1)


# ------------------------------------------------------------------------------------------------ features and attacks


def test_features_by_hand() -> None:
    asked = target((0, 50, 1), (7,))
    rows = pd.DataFrame({"x": [0, 2, 3, None], "y": [50, 50, 60, 50], "c": ["b", "b", "b", "a"]})
    _, (_, found) = Questions(SCHEMA, (asked,)).answers(rows)
    closest, five = found[:2]
    assert closest == 0
    # distances: 0; 0.02; 0.03 + 0.1; missing is 1 away, another category is 1 away
    assert five == pytest.approx(-(0 + 0.02 + 0.13 + 2) / 4, abs=1e-6)
    assert found[len(DIRECT) - 2 : len(DIRECT)].tolist() == [1 / 4, 2 / 4]  # equal rows; equal but for one column
    single = found[len(DIRECT) :][: 3 * len(TOLERANCES)].reshape(len(TOLERANCES), 3)
    assert single.tolist() == [[0.25, 0.75, 0.75], [0.5, 0.75, 0.75], [0.75, 1.0, 0.75]]
    queries = found[len(DIRECT) + single.size :][:QUERIES]
    whole = (asked.columns < 3).sum(axis=1) == 3
    expected = np.array([1, 2, 3])[asked.tolerance] / 4
    assert whole.any()
    assert queries[whole].tolist() == expected[whole].tolist()


def test_features_are_defined_for_tables_of_any_size() -> None:
    questions = Questions(SCHEMA, (target((0, 50, 1), (7,)),))
    shapes = {tuple(len(f) for f in questions.answers(table(n, 0))[1]) for n in (0, 1, 4, 100)}
    assert len(shapes) == 1
    assert all(np.isfinite(f).all() for n in (0, 1) for f in questions.answers(table(n, 0))[1])


def test_no_attack_says_more_of_fits_it_has_seen_than_of_fresh_ones() -> None:
    """Features of noise, more of them than fits: what an attack has learned would tell all known fits apart.

    Areas of 2 x 100 fits: 0.5 and at most 7 standard deviations (0.041), 16 attacks of 2 areas each, alpha = 1e-9.
    """
    rng = np.random.default_rng(0)
    known, asked = ([Features(rng.normal(size=(100, 50)), rng.normal(size=(100, 300))) for _ in range(2)] for _ in "ab")
    found = list(_attacks((known[0], known[1]), (asked[0], asked[1]), 0))
    assert len(found) == 16
    for scores in found:
        for inside, outside in (scores.known, scores.asked):
            assert abs((inside[:, None] > outside[None, :]).mean() - 0.5) <= 7 * 0.041


def test_fits_that_measure_choose_nothing() -> None:
    """Neither the attack nor what was learned depends on them, and what is said of one depends on that one alone."""
    rng = np.random.default_rng(3)
    inside, outside = (Features(rng.normal(size=(16, 5)), rng.normal(size=(16, 30))) for _ in range(2))
    before = best(inside, outside, seed=0)
    for features in (inside.table, inside.target):
        features[0] = 50.0
        features[2:8:2] = rng.normal(size=features[2:8:2].shape)
    after = best(inside, outside, seed=0)
    assert before.attack == after.attack
    for first, second in zip((*before.known, before.asked[1]), (*after.known, after.asked[1]), strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(before.asked[0][4:], after.asked[0][4:])
    assert before.asked[0][0] != after.asked[0][0]


@pytest.mark.parametrize("where", ["table", "target", "direct"])
def test_a_difference_is_found_wherever_it_is(where: str) -> None:
    """One feature of 350 moves by 4 standard deviations: an area of 0.998; half as much would be 0.92."""
    rng = np.random.default_rng(1)
    inside, outside = (Features(rng.normal(size=(200, 50)), rng.normal(size=(200, 300))) for _ in range(2))
    moved = {"table": inside.table[:, 3], "target": inside.target[:, 200], "direct": inside.target[:, 0]}[where]
    moved += 4
    found = best(inside, outside, seed=0)
    asked = (found.asked[0][:, None] > found.asked[1][None, :]).mean()
    assert asked >= 0.97


def test_rows_without_a_name_are_one_unit_and_leave_together() -> None:
    """A nameless target takes all nameless rows out of D, a named one its own unit's and no nameless row. An empty
    text is no name, as in fits.
    """
    rows = 60
    nobody = [None, "", np.nan]
    train = pd.DataFrame(
        {"n": range(rows), "who": [nobody[i % 9 // 3] if i % 3 == 0 else f"p{i}" for i in range(rows)]}
    )
    schema = Schema(
        columns=(Identifier(name="who"), Integer(name="n", low=0, high=99)), privacy_unit="who", max_rows_per_unit=40
    )
    data = AuditInput(synthetic=train, train=train, holdout=None, schema=schema, refit=lambda frame, seed: frame)
    for seed in range(12):
        cast = Shadow(targets=["random"], fits=16, rows=60)._cast(replace(data, random_state=seed))
        left, asked = (train.iloc[rows]["who"].fillna("").eq("") for rows in (cast.base, cast.targets))
        assert left.sum() == (0 if asked.any() else 20)
