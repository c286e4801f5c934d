"""The audit by canaries: within its claim where all is right, beyond it where a bug is planted.

alpha is 1e-9 for all findings of an audit together. A fit of the small generators below gives 61 noisy counts and,
where it chooses, two choices; FITS fits to each table are 4,880 counts and 160 choices a side. Noise that is a tenth
too small then lies 9 standard deviations from its law; `tests/mutants` plants the bugs.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dp_accounting import ComposedDpEvent
from scipy import stats

import tabveil as tv
from mutants.planting import Edit, planted
from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, ExponentialMechanismDpEvent, Spend
from tabveil.audit import _canary_laws as laws
from tabveil.audit._canary_fits import Runs
from tabveil.audit._canary_one_run import OneRun, one_run
from tabveil.audit._canary_tests import choice_tests
from tabveil.audit._canary_transcripts import Chosen, Counted, Transcript
from tabveil.audit._canary_worlds import worst_case
from tabveil.audit.base import AuditInput
from tabveil.audit.canary import (
    REFITS,
    Canary,
    _About,
    _apart,
    audit_canaries,
    audit_generator,
    told_apart,
)
from tabveil.audit.rates import beyond, most_right
from tabveil.columns import Boolean, Categorical, Date, Decimal, Identifier, Integer
from tabveil.encoding import Axis, decode, size
from tabveil.errors import UsageError
from tabveil.generators._marginals import Part, divide
from tabveil.generators.base import Plan
from tabveil.ledger import Ledger
from tabveil.mechanisms import Contest, PrivateRows
from tabveil.noise import seeded_noise_for_tests, threshold
from tabveil.records import Finding
from tabveil.schema import Schema
from tabveil.tables import open_table

ALPHA = 1e-9
Found = tuple[Finding, ...]
FITS = 80
EPSILON, DELTA = 4.0, 1e-2

CODES = Categorical(name="code", categories=tuple(f"c{i}" for i in range(59)))
SCHEMA = Schema(columns=(CODES, Boolean(name="mark")))
PERSONS = Schema(columns=(Identifier(name="who"), *SCHEMA.columns), privacy_unit="who", max_rows_per_unit=2)


class Histograms:
    """Noisy counts of every column, and `choices` choices among eight columns' worth of nothing."""

    def __init__(self, *, epsilon: float = EPSILON, delta: float = DELTA, choices: int = 0) -> None:
        self.epsilon, self.delta, self.choices = epsilon, delta, choices
        self.noisy: np.ndarray = np.zeros(0)

    def plan(self, schema: Schema) -> Plan:
        counts = Part(tuple(c.name for c in schema.modelled), 0.5)
        choices = Part(tuple(f"choice {i}" for i in range(self.choices)), 0.5, choice=True)
        spends = divide([counts, choices], schema, epsilon=self.epsilon, delta=self.delta)
        return Plan("histograms", self.epsilon, self.delta, spends, None)

    def fit(self, table: Any, schema: Schema, *, ledger: Ledger, dataset: str) -> Histograms:
        receipt = ledger.charge(dataset, self.plan(schema).spends, label="histograms")
        rows = PrivateRows(open_table(table), schema, receipt)
        self.column, *_ = schema.modelled
        axes = [Axis.singles(c) for c in schema.modelled]
        self.noisy, *_ = [rows.counts([a], label=a.column.name) for a in axes]
        for i in range(self.choices):
            event: Any = next(s.event for s in receipt.spends if s.label == f"choice {i}")
            apart = np.arange(8) * schema.contributions / event.epsilon
            contest = Contest(((axes[1],),) * 8, (np.zeros(axes[1].size),) * 8, apart)
            rows.choose(contest, range(8), label=f"choice {i}")
        return self

    def sample(self, n: int | None = None, *, random_state: int | None = None) -> pd.DataFrame:
        rng = np.random.default_rng(random_state)
        weights = np.maximum(self.noisy, 0) + 1e-9
        rows = round(float(self.noisy.clip(0).sum())) if n is None else n
        codes = rng.choice(size(self.column), rows, p=weights / weights.sum())
        return pd.DataFrame({"code": decode(self.column, codes), "mark": True})


def guilty(found: Found) -> list[str]:
    return [f"{f.name}: {f.verdict}" for f in found if beyond(f)]


def check_within(found: Found) -> None:
    said = guilty(found)
    assert not said, "; ".join(said)


@functools.cache
def audited(*, persons: bool = False, nameless: bool = False, choices: int = 0, delta: float = DELTA) -> Found:
    made, schema = Histograms(delta=delta, choices=choices), PERSONS if persons else SCHEMA
    return audit_generator(made, schema, fits=FITS, nameless=nameless, confidence=1 - ALPHA)


def test_right_histograms_stay_within_their_claim() -> None:
    check_within(audited())


def test_right_histograms_of_persons_stay_within_their_claim() -> None:
    check_within(audited(persons=True))


def test_right_histograms_of_nameless_rows_stay_within_their_claim() -> None:
    check_within(audited(persons=True, nameless=True))


def test_right_choices_stay_within_their_claim() -> None:
    check_within(audited(choices=2))


def test_right_laplace_histograms_stay_within_their_claim() -> None:
    check_within(audited(delta=0.0))


@pytest.mark.parametrize("name", ["independent", "mst", "aim"])
def test_right_generators_stay_within_their_claims(name: str) -> None:
    """12 fits a side, at alpha 1e-9."""
    small = Schema(columns=(Integer(name="n", low=0, high=9), Categorical(name="c", categories=("u", "v", "w"))))
    found = audit_generator(tv.create(name, epsilon=1.0, delta=1e-5), small, fits=12, confidence=1 - ALPHA)
    check_within(found)
    assert 0.3 < found[3].value <= 1.0  # aim leaves steps unused where two columns have nothing more to say


def test_the_white_box_comes_near_to_the_claim() -> None:
    """The share of 160 fits told apart is within 6.1 deviations, sqrt(p (1 - p) / 160), of what the charges allow."""
    found = audited()[2]
    allowed = found.baseline
    assert 0.7 < allowed < 0.9
    assert found.value == pytest.approx(allowed, abs=6.1 * math.sqrt(allowed * (1 - allowed) / (2 * FITS)))


@pytest.mark.parametrize("epsilon", [8.0, 12.0])
def test_noise_of_less_than_a_row_is_within_its_claim(epsilon: float) -> None:
    """Two audits of 50 fits a side, at ALPHA each. Whole-number noise of 0.43 rows (0.31 at epsilon 12) scatters less
    than a Gaussian of that size.
    """
    words = Schema(columns=(Categorical(name="word", categories=("u", "v", "w")),))
    for _ in range(2):
        made = tv.create("independent", epsilon=epsilon, delta=DELTA)
        check_within(audit_generator(made, words, fits=50, confidence=1 - ALPHA))


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_fits_are_told_apart_too_often_as_seldom_as_said(sigma: float) -> None:
    """100 audits of 200 fits a side to one cell, at alpha 0.05: beyond at most as often as a chance of 1e-9 allows.
    With half of a charged sigma of 1, 0.89 of 400 are told apart, a deviation of 0.016, where 0.70 are allowed.
    """
    assert sum(beyond(_apart(_one_cell(sigma, sigma, 200))) for _ in range(100)) <= stats.binom.isf(ALPHA, 100, 0.05)
    assert sigma < 1 or beyond(_apart(_one_cell(sigma, sigma / 2, 200)))


def _one_cell(sigma: float, drawn: float, fits: int) -> _About:
    """What is known of fits that count one cell with discrete Gaussian noise of `drawn` where `sigma` is charged."""
    event, rng, values = DiscreteGaussianDpEvent(sigma), np.random.default_rng(), np.arange(-40.0, 41.0)
    mass = np.exp(laws.log_mass(DiscreteGaussianDpEvent(drawn), values))
    exact = np.zeros(1), np.ones(1)
    drawn_for = [rng.choice(values, fits, p=mass / mass.sum()) for _ in (0, 1)]
    out, into = (
        [Transcript([("cell", Counted(event, one + x, exact))]) for x in noise]
        for one, noise in zip(exact, drawn_for, strict=True)
    )
    runs = Runs((Spend("cell", event),), (out, into), (np.zeros((fits, 1)), np.zeros((fits, 1))))
    return _About("canary", 0.05, runs, math.inf, DELTA)


def test_half_the_noise_is_found_by_the_bound_on_epsilon() -> None:
    """60 fits a side at 95 %: 0.95 are told apart, with a deviation of 0.02, where 0.81 are allowed."""
    half = Edit("tabveil.noise:gaussian_noise", "scale=float(event.sigma)", "scale=0.5 * float(event.sigma)")
    unguarded = Edit("tabveil.noise:_price", "return float(", "return 0.0 * float(")
    with planted(half, unguarded):
        found = audit_generator(Histograms(), SCHEMA, fits=60)
    assert beyond(found[2])
    assert "MORE THAN IS CHARGED" in found[2].verdict


def associated(rows: int, columns: int) -> pd.DataFrame:
    """Every other column repeats the one before it, the later the less often."""
    rng, made = np.random.default_rng(0), dict[str, np.ndarray]()
    for i in range(columns):
        fresh = rng.choice(["u", "v"], rows)
        repeats = rng.random(rows) < 0.9 - 0.7 * i / columns
        made[f"c{i}"] = np.where(repeats, made[f"c{i - 1}"], fresh) if i % 2 else fresh
    return pd.DataFrame(made)


@pytest.mark.parametrize("name", ["mst", pytest.param("aim", marks=pytest.mark.nightly)])
def test_right_choices_among_candidates_that_differ_stay_within_their_claim(name: str) -> None:
    """12 fits a side of 5 choices and more, whose candidates differ by some scales of the noise, at alpha 1e-9."""
    columns = tuple(Categorical(name=f"c{i}", categories=("u", "v", "w")) for i in range(4 if name == "aim" else 6))
    made, schema = tv.create(name, epsilon=10.0, delta=1e-2), Schema(columns=columns, target="c0")
    check_within(audit_generator(made, schema, fits=12, table=associated(40, len(columns)), confidence=1 - ALPHA))


@pytest.mark.parametrize(("most", "epsilon"), [(1, 1.0), (8, 1.0), (8, 20.0)])
def test_right_thresholds_stay_within_their_claim(most: int, epsilon: float) -> None:
    """60 fits a side of 24 categories that come out about half of the time, at alpha 1e-9. Where a threshold is lower
    by a third of the noise, 0.63 of them do, and a bet on more wins 98 nats (deviation 14), where 28 are 1e-9.
    """
    word = Categorical(name="word", learn=True)
    persons = Schema(columns=(Identifier(name="who"), word), privacy_unit="who", max_rows_per_unit=most)
    schema = Schema(columns=(word,)) if most == 1 else persons
    made = tv.create("independent", epsilon=epsilon, delta=1e-2)
    noise, failure = next(s.event.events for s in made.plan(schema).spends if isinstance(s.event, ComposedDpEvent))
    table = pd.DataFrame({"word": [f"t{i}" for i in range(24)] * laws.least_threshold(noise, failure.delta)})
    check_within(audit_generator(made, schema, fits=60, table=table, confidence=1 - ALPHA))


def test_answers_that_nobody_charged_cost_more_than_any_claim() -> None:
    class Twice(Histograms):
        def fit(self, table: Any, schema: Schema, *, ledger: Ledger, dataset: str) -> Histograms:
            super().fit(table, schema, ledger=ledger, dataset=dataset)
            return super().fit(table, schema, ledger=ledger, dataset=dataset)

    found = audit_generator(Twice(), SCHEMA, fits=10)
    assert found[3].value > 1.2 * EPSILON
    assert "MORE THAN IS CLAIMED" in found[3].verdict


def test_a_question_shaped_by_rows_is_found() -> None:
    class Peeks(Histograms):
        def fit(self, table: Any, schema: Schema, *, ledger: Ledger, dataset: str) -> Histograms:
            receipt = ledger.charge(dataset, self.plan(schema).spends, label="histograms")
            rows, seen = PrivateRows(open_table(table), schema, receipt), table["code"].nunique()
            axis = Axis(CODES, np.array([0, seen, 59]), np.arange(2), np.ones(2))
            self.column, self.noisy = CODES, np.repeat(rows.counts([axis], label="code"), 30)[:59]
            return self

    assert [n.partition(" (")[0] for n in guilty(audit_generator(Peeks(epsilon=1.0), SCHEMA, fits=50))] == [
        "white box: questions"
    ]


def test_an_expectation_shaped_by_rows_is_found() -> None:
    class Peeks(Histograms):
        def fit(self, table: Any, schema: Schema, *, ledger: Ledger, dataset: str) -> Histograms:
            super().fit(table, schema, ledger=ledger, dataset=dataset)
            receipt = ledger.charge(dataset, self.plan(schema).spends, label="histograms")
            rows, axis = PrivateRows(open_table(table), schema, receipt), Axis.singles(CODES)
            estimate = np.full(axis.size, len(table) / axis.size)
            rows.choose(Contest(((axis,),) * 2, (estimate,) * 2, np.zeros(2)), range(2), label="choice 0")
            return self

    found = audit_generator(Peeks(epsilon=1.0, choices=1), SCHEMA, fits=50)
    assert "white box: questions" in [n.partition(" (")[0] for n in guilty(found)]


def test_controls_are_of_fits_that_taught_nothing() -> None:
    """200 fits a side of noise alone, 100 numbers each: a score learned from 100 of a side tells these from the others
    to one table. Sixteen such controls show an epsilon of 0.1 on average; of fits that taught, more than 1.
    """
    rng, shown = np.random.default_rng(3), []
    for _ in range(16):
        out, into = rng.normal(size=(2, 200, 100))
        runs = Runs((), ([], []), (out, into))
        shown.append(_About("canary", 0.05, runs, 1.0, DELTA).taught("noise", out, into).control)
    assert np.mean(shown) < 0.5


# -------------------------------------------------------------------------------------------------------------- laws
@pytest.mark.parametrize(
    "noise", [DiscreteGaussianDpEvent(0.6), DiscreteGaussianDpEvent(20.0, 3), DiscreteLaplaceDpEvent(0.5)]
)
def test_deviates_are_normal_and_masses_are_right(noise: Any) -> None:
    """100,000 draws from the masses: by the whole law and by squares, each at alpha 1e-9; a tenth off is rejected."""
    rng, values = np.random.default_rng(1), np.arange(-400.0, 401.0)
    mass = np.exp(laws.log_mass(noise, values))
    drawn = rng.choice(values, 100_000, p=mass / mass.sum())
    seen = laws.deviates(noise, drawn, rng.random(100_000))
    assert laws.normal(seen) > ALPHA
    assert laws.scale(seen) > ALPHA
    assert laws.collision(noise) == pytest.approx(float(((mass / mass.sum()) ** 2).sum()), rel=1e-9)
    other = (
        DiscreteGaussianDpEvent(1.1 * noise.sigma)
        if isinstance(noise, DiscreteGaussianDpEvent)
        else DiscreteLaplaceDpEvent(1.1 * noise.scale)
    )
    assert laws.scale(laws.deviates(other, drawn, rng.random(100_000))) < ALPHA


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_charges_allow_what_their_law_does(sigma: float) -> None:
    """One cell moved by one row: total variation distance by summing masses; at most 0.002 above it."""
    values = np.arange(-60.0, 61.0)
    mass = np.exp(laws.log_mass(DiscreteGaussianDpEvent(sigma), values))
    mass /= mass.sum()
    right = (1 + np.abs(np.diff(mass)).sum() / 2) / 2
    assert right <= most_right(laws.charged(DiscreteGaussianDpEvent(sigma))) <= right + 0.002


@pytest.mark.parametrize(("sigma", "k", "delta"), [(5.9, 1, 1e-4), (30.0, 1, 1e-6), (55.7, 8, 1e-4), (3.0, 8, 1e-5)])
def test_no_threshold_below_the_least_keeps_its_delta(sigma: float, k: int, delta: float) -> None:
    """By summing masses, for every number of texts among which a unit may divide its rows; ours is not below it."""
    values = np.arange(-900.0, 901.0)
    mass = np.exp(laws.log_mass(DiscreteGaussianDpEvent(sigma), values))
    noise, mass = DiscreteGaussianDpEvent(sigma, k), mass / mass.sum()
    least = laws.least_threshold(noise, delta)

    def told(at: int) -> float:
        return max(n * float(mass[values >= at - k // n].sum()) for n in range(1, k + 1))

    assert told(least) <= delta < told(least - 1)
    assert threshold(noise, delta) >= least


def picked(utilities: np.ndarray, *, noise: float, tries: int) -> tuple[list[Transcript], list[Transcript]]:
    """Choices by Gumbel noise of `noise` scales, half of them from each table."""
    rng, both = np.random.default_rng(7), (utilities, utilities)
    best = np.argmax(utilities + noise * rng.gumbel(size=(tries, len(utilities))), axis=1)
    event = ExponentialMechanismDpEvent(1.0)
    made = [Transcript([("choice", Chosen(event, int(b), both, both))]) for b in best]
    return made[::2], made[1::2]


def test_choices_noised_ten_percent_too_little_are_found() -> None:
    """3,000 choices where one of 28 candidates is better by 3.3 scales: noise that is 10 % less wins 44 nats (deviation
    9) by a bet on better choices, where 24 are 1e-9; the charged noise wins hardly any.
    """
    utilities = np.concatenate([[0.0], np.full(27, -3.3)])
    assert min(p for _, p in choice_tests(picked(utilities, noise=1.0, tries=3_000))) > ALPHA
    follows, *_ = choice_tests(picked(utilities, noise=0.9, tries=3_000))
    assert follows[1] < ALPHA


def test_scores_of_another_kind_are_found() -> None:
    """400 choices by scores that differ from the charged ones by a scale in one of eight candidates."""
    charged, scaled = np.linspace(0, 2, 8), np.linspace(0, 2, 8) + np.eye(8)[0]
    sides = picked(scaled, noise=1.0, tries=400)
    for transcript in itertools.chain(*sides):
        transcript.answers = [
            (n, replace(a, utilities=(charged, charged), rivals=(scaled, scaled)))
            for n, a in transcript.answers
            if isinstance(a, Chosen)
        ]
    assert choice_tests(sides)[0][1] < 1e-4
    chosen = sides[0][0].answers[0][1]
    assert isinstance(chosen, Chosen)
    fair = [replace(chosen, picked=i).rivalry(0) for i in range(8)]
    assert float(chosen.chances(0) @ np.exp(fair)) == pytest.approx(1.0)


def test_worst_cases_differ_in_one_unit_and_in_every_column() -> None:
    world = worst_case(PERSONS)
    small, large = world.tables
    pd.testing.assert_frame_equal(large.iloc[: len(small)], small)
    further = large.iloc[len(small) :]
    assert (further["who"].nunique(), len(further), len(world.counted[1]) - len(small)) == (1, 6, 2)
    assert not any(set(small[c]) & set(further[c]) for c in ("code", "mark", "who"))
    assert worst_case(PERSONS, nameless=True).tables[1]["who"].isna().sum() == 6
    with pytest.raises(UsageError):
        worst_case(SCHEMA, nameless=True)


# ----------------------------------------------------------------------------------------------------------- one run
def test_canaries_of_one_fit_stay_within_the_claim_and_find_exact_counts() -> None:
    """2,000 canaries, two findings, at alpha 1e-9 where all is right; nearly exact counts are told almost always."""
    for delta in (0.0, 1e-5):
        assert guilty(audit_canaries(tv.create("independent", epsilon=1.0, delta=delta), confidence=1 - ALPHA)) == []
    loud = audit_canaries(tv.create("independent", epsilon=40.0, delta=0.0))
    assert loud[0].interval[0] > 3
    assert loud[0].interval[0] == loud[0].ceiling


def test_coins_are_fresh_unless_a_seed_is_given_and_the_seed_is_recorded() -> None:
    """Two drawn seeds are equal with a chance of 2^-32 (2e-10)."""
    made = tv.create("independent", epsilon=1.0, delta=0.0)
    one, other, given = (audit_canaries(made, canaries=16, random_state=s) for s in (None, None, 7))
    assert one[0].seed == one[1].seed != other[0].seed
    assert [f.seed for f in given] == [7, 7]
    assert one[0].seed is not None


def test_guesses_are_made_about_both_ends() -> None:
    seen = OneRun(np.array([True, False, True, False]), np.array([9.0, 0.0, 1.0, 2.0]), np.zeros(4))
    assert [seen.right(seen.heard, n) for n in (2, 4)] == [2, 2]
    made = one_run(tv.create("mst", epsilon=1.0, delta=1e-5), canaries=16, coins=np.random.default_rng(0))
    assert made.included.shape == made.heard.shape == made.sampled.shape == (16,)


# ----------------------------------------------------------------------------------------------------------- auditor
def _data(refit: Any) -> AuditInput:
    table = pd.DataFrame({"code": ["c0"] * 30, "mark": [True] * 30})
    return AuditInput(synthetic=table, train=table, holdout=table, schema=SCHEMA, refit=refit)


def test_the_auditor_finds_a_refit_that_copies_and_none_that_is_blind() -> None:
    (found,) = Canary().compute(_data(lambda table, seed: table))
    assert beyond(found)
    assert found.value == 1.0
    (blind,) = Canary().compute(_data(lambda table, seed: pd.DataFrame({"code": ["c1"] * 9, "mark": [False] * 9})))
    assert not beyond(blind)
    assert blind.value == 0.5
    assert found.cost == f"{2 * REFITS} fits"


def test_the_auditor_says_why_it_has_no_finding() -> None:
    data = _data(None)
    assert "nothing to fit again" in Canary().why_not(data)
    assert Canary().compute(data) == []
    assert str(2 * REFITS) in Canary().plan(data)


def test_a_cut_is_chosen_on_one_half_and_counted_on_the_other() -> None:
    hits, alarms = told_apart(np.array([9.0, 0.0, 9.0, 0.0]), np.array([0.0, 9.0, 0.0, 9.0]))
    assert (hits.rate, alarms.rate, hits.tries) == (0.0, 1.0, 2)


@pytest.mark.parametrize("given", [{"fits": 9}, {"confidence": 1.0}, {"confidence": 0.5}])
def test_numbers_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        audit_generator(Histograms(), SCHEMA, **given)
    with pytest.raises(UsageError):
        audit_canaries(Histograms(), canaries=15)
    with pytest.raises(UsageError):
        audit_generator(Histograms(epsilon=math.inf), SCHEMA)


def test_noise_from_numpys_global_state_is_noise_that_repeats() -> None:
    class Global(Histograms):
        def fit(self, table: Any, schema: Schema, *, ledger: Ledger, dataset: str) -> Histograms:
            with seeded_noise_for_tests(int(np.random.randint(2**31))):  # noqa: NPY002
                return super().fit(table, schema, ledger=ledger, dataset=dataset)

    before = np.random.get_state()[1]  # noqa: NPY002
    found = audit_generator(Global(), SCHEMA, fits=10)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert "NOT AS CHARGED" in found[4].verdict


def test_private_rows_are_left_as_they_were() -> None:
    before = {name: getattr(PrivateRows, name) for name in ("counts", "choose", "survey", "categories")}
    audit_generator(Histograms(), SCHEMA, fits=10)
    assert {name: getattr(PrivateRows, name) for name in before} == before


def test_the_auditor_takes_every_kind_of_column() -> None:
    """48 refits of a generator of epsilon 1, at ALPHA of the auditor: told apart with a chance of 5 % at most."""
    schema = Schema(
        columns=(
            Identifier(name="id"),
            Integer(name="age", low=0, high=100, missing=("",)),
            Decimal(name="price", low=0.0, high=9.99, decimals=2),
            Categorical(name="grade", categories=("low",), catch_all="other", missing=("",)),
            Boolean(name="mark", missing=("",)),
            Date(name="born", low=dt.date(1920, 1, 1), high=dt.date(2020, 12, 31), missing=("",)),
        )
    )

    def refit(table: pd.DataFrame, seed: int) -> pd.DataFrame:
        made, ledger = tv.create("independent", epsilon=1.0, delta=0.0), Ledger(":memory:")
        ledger.open("a", epsilon=1.0, delta=0.0)
        return made.fit(table, schema, ledger=ledger, dataset="a").sample(20, random_state=seed)

    table = worst_case(schema).tables[0]
    data = AuditInput(synthetic=table, train=table, holdout=table, schema=schema, refit=refit)
    (found,) = Canary().compute(data)
    assert found.interval[0] <= found.value <= found.interval[1]
    assert found.ceiling > 0.8
    assert not any(str(cell) in found.to_json() for cell in ("9.99", "2020-12-31"))
