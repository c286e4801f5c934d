"""Accounts, receipts, filters, statements, verification and its blind spot, on SQLite."""

from __future__ import annotations

import copy
import json
import math
import pickle
import random
import sqlite3
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import sqlalchemy as sa
from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    TruncatedSubsampledGaussianDpEvent,
    UnsupportedDpEvent,
    ZCDpEvent,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tabveil import _ledger_rules as rules
from tabveil import _ledger_store as store_module
from tabveil import accounting as acc
from tabveil import learning
from tabveil._ledger_chain import replay
from tabveil._ledger_rules import UNIT, Cap, Filter, State
from tabveil._ledger_store import Entry, canonical, chained
from tabveil.accounting import (
    DeltaDpEvent,
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    ExponentialMechanismDpEvent,
    Spend,
    calibrate,
    event_of,
)
from tabveil.columns import Categorical
from tabveil.errors import (
    BudgetExceededError,
    LedgerError,
    StorageError,
    TabveilError,
    UnchargedError,
    UsageError,
    VerificationError,
)
from tabveil.ledger import Ledger, Receipt, Resumable
from tabveil.records import RELATION, PrivacyStatement
from tabveil.schema import Schema

RECOMPUTE = Path(__file__).parents[2] / "docs" / "recompute.py"


def noise(sigma, sensitivity=1):
    return DiscreteGaussianDpEvent(sigma, sensitivity)


def opened(place=":memory:", *, epsilon=3.0, delta=1e-6, **options):
    ledger = Ledger(place, **options)
    ledger.open("patients", epsilon=epsilon, delta=delta)
    return ledger


def fitted(epsilon, delta):
    """A plan calibrated to exactly this price."""

    def plan(scale):
        return [
            Spend("one-way", noise(6 * scale), 5),
            Spend("two-way", noise(9 * scale), 4),
            Spend("choice", ExponentialMechanismDpEvent(0.1 / scale), 4),
        ]

    return plan(calibrate(lambda s: event_of(plan(s)), epsilon, delta))


# -------------------------------------------------------------------------------------------------------------- opening
def test_an_account_is_opened_once_and_its_cap_is_final():
    ledger = opened()
    ledger.open("patients", epsilon=3.0, delta=1e-6)  # the same again changes nothing
    for change in ({"epsilon": 4.0}, {"delta": 1e-5}, {"unit": "person"}):
        with pytest.raises(LedgerError, match="final"):
            ledger.open("patients", **{"epsilon": 3.0, "delta": 1e-6, "unit": "row", **change})
    assert ledger.datasets() == ["patients"]
    assert len(ledger.export("patients")["entries"]) == 1


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [
        *((bad, 1e-6) for bad in (0.0, -1.0, math.nan, math.inf, 5e-324, "1", True)),
        *((1.0, bad) for bad in (-1e-6, 1.0, math.nan, 5e-324, 1e-250, None)),
    ],
)
def test_a_cap_out_of_range_is_refused(epsilon, delta):
    with pytest.raises(UsageError):
        Ledger().open("patients", epsilon=epsilon, delta=delta)


@pytest.mark.parametrize("name", ["", "x" * 201, None, 7, "null \0", "lone \ud800"])
def test_names_and_labels_are_short_texts(name):
    ledger = opened()
    for wrong in (
        lambda: ledger.open(name, epsilon=1.0, delta=1e-6),
        lambda: ledger.charge("patients", noise(20.0), label=name),
        lambda: ledger.record(name, label="x"),
        lambda: ledger.record("patients", label=name),
    ):
        with pytest.raises(UsageError, match="label"):
            wrong()


@pytest.mark.parametrize("name", ["naïve 名前 😀", "a'; DROP TABLE tabveil_entries; --", 'a\nb\t\\ "q"'])
def test_any_text_is_a_name(tmp_path, name):
    ledger = Ledger(tmp_path / "ledger 1.db")
    ledger.open(name, epsilon=1.0, delta=1e-6)
    ledger.charge(name, noise(20.0), label=name)
    again = Ledger(tmp_path / "ledger 1.db", create=False)
    assert again.datasets() == [name]
    assert again.statement(name).events[0]["label"] == name
    again.verify()


def test_what_does_not_exist_is_one_clear_sentence(tmp_path):
    ledger = opened()
    for missing in (
        lambda: ledger.charge("other", noise(20.0), label="fit"),
        lambda: ledger.statement("other"),
        lambda: ledger.export("other"),
        lambda: ledger.verify("other"),
        lambda: Ledger(tmp_path / "missing.db", create=False),
        lambda: Ledger(tmp_path / "no folder" / "ledger.db"),
        lambda: Ledger("postgresql://nobody@127.0.0.1:1/nothing"),
    ):
        with pytest.raises(LedgerError) as error:
            missing()
        assert "\n" not in str(error.value)
        assert str(tmp_path) not in str(error.value)
    assert not (tmp_path / "missing.db").exists()
    for url in ("mysql://localhost/x", "nonsense://"):
        with pytest.raises(UsageError):
            Ledger(url)


def test_a_password_is_shown_nowhere():
    with pytest.raises(LedgerError) as error:
        Ledger("postgresql://me:verysecret@127.0.0.1:1/nothing")
    assert "verysecret" not in f"{error.value!r}"


def test_other_files_are_not_taken_for_a_ledger(tmp_path):
    text, database = tmp_path / "text", tmp_path / "other.db"
    text.write_text("this is a table, not a ledger\n" * 100)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE patients (name TEXT)")
    before = database.read_bytes()
    for path in (text, database):
        with pytest.raises(LedgerError, match="not"):
            Ledger(path)
    assert database.read_bytes() == before


# ------------------------------------------------------------------------------------------------ reserve, commit, read
def test_a_charge_gives_a_receipt_that_pays_each_spend_once():
    ledger = opened()
    receipt = ledger.charge("patients", [Spend("a", noise(20.0), 2), Spend("b", noise(30.0))], label="fit")
    assert [receipt.take("a"), receipt.take("a"), receipt.take("b")] == [noise(20.0), noise(20.0), noise(30.0)]
    for spent in ("a", "b", "c"):
        with pytest.raises(UnchargedError):
            receipt.take(spent)
    assert receipt.head == ledger.verify("patients")["patients"]


def test_a_bare_event_is_a_spend_under_the_label():
    receipt = opened().charge("patients", noise(20.0), label="fit")
    assert receipt.spends == (Spend("fit", noise(20.0)),)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_receipt_cannot_be_duplicated(duplicate):
    receipt = opened().charge("patients", noise(20.0), label="fit")
    with pytest.raises(TypeError):
        duplicate(receipt)


def test_a_pool_pays_for_events_chosen_along_the_way():
    receipt = opened().charge("patients", [Spend("rounds", ZCDpEvent(0.01)), Spend("a", noise(20.0))], label="fit")
    assert receipt.take_from("rounds", noise(10.0)) == noise(10.0)  # 0.005
    receipt.take_from("rounds", ExponentialMechanismDpEvent(0.1))  # 0.00125
    exactly = acc.sigma_of(acc.Rho(Fraction(0.01) - Fraction(1, 200) - Fraction(0.1) ** 2 / 8))
    for wrong in (
        lambda: receipt.take_from("rounds", noise(float(exactly) * 0.999)),
        lambda: receipt.take_from("a", noise(1000.0)),
        lambda: receipt.take_from("rounds", PoissonSampledDpEvent(0.01, GaussianDpEvent(1.0))),
        lambda: receipt.take_from("rounds", NonPrivateDpEvent()),
        lambda: receipt.take("rounds"),
    ):
        with pytest.raises(UnchargedError):
            wrong()
    receipt.take_from("rounds", noise(float(exactly)))
    with pytest.raises(UnchargedError):
        receipt.take_from("rounds", noise(1e7))


def test_a_pool_taken_whole_pays_for_nothing_else():
    receipt = opened().charge("patients", [Spend("rounds", ZCDpEvent(0.01))], label="fit")
    assert receipt.take("rounds") == ZCDpEvent(0.01)
    with pytest.raises(UnchargedError):
        receipt.take_from("rounds", noise(1000.0))


def test_a_pool_cannot_be_overdrawn_by_events_below_its_precision():
    receipt = opened().charge("patients", [Spend("rounds", ZCDpEvent(0.01))], label="fit")
    receipt.take_from("rounds", ZCDpEvent(0.01))
    with pytest.raises(UnchargedError):
        receipt.take_from("rounds", ZCDpEvent(1e-15))


def test_an_uncharged_receipt_promises_nothing():
    receipt = Receipt.uncharged()
    assert receipt.take("anything") == NonPrivateDpEvent()
    assert receipt.take_from("anything", noise(1.0)) == NonPrivateDpEvent()
    assert receipt.head == ""


def test_a_reservation_left_without_commit_costs_nothing():
    ledger = opened()
    with ledger.reserve("patients", noise(20.0), label="fit"):
        pass
    with pytest.raises(ValueError, match="bad table"), ledger.reserve("patients", noise(20.0), label="fit"):
        raise ValueError("bad table")
    assert ledger.statement("patients").epsilon == 0
    kinds = [json.loads(e["payload"])["kind"] for e in ledger.export("patients")["entries"]]
    assert kinds == ["open", "reserve", "release", "reserve", "release"]


def test_a_reservation_counts_while_it_is_open():
    ledger = opened(epsilon=1.0, delta=0)
    with ledger.reserve("patients", DiscreteLaplaceDpEvent(2.0), label="first"):
        with pytest.raises(BudgetExceededError):
            ledger.charge("patients", DiscreteLaplaceDpEvent(1.0), label="second")
    ledger.charge("patients", DiscreteLaplaceDpEvent(1.0), label="second")
    assert ledger.statement("patients").epsilon == 1.0


def test_a_reservation_is_committed_once_and_inside_its_block():
    ledger = opened()
    with pytest.raises(LedgerError, match="with block"):
        ledger.reserve("patients", noise(20.0), label="fit").commit()
    with ledger.reserve("patients", noise(20.0), label="fit") as reservation:
        reservation.commit()
        with pytest.raises(LedgerError, match="with block"):
            reservation.commit()
    assert len(ledger.statement("patients").events) == 1


def test_an_expired_reservation_is_given_back_and_cannot_be_committed(monkeypatch):
    ledger = opened(epsilon=1.0, delta=0, expiry_seconds=3600)
    clock = [1e9]
    monkeypatch.setattr(ledger._store, "now", lambda _: clock[0])
    dead = ledger.reserve("patients", DiscreteLaplaceDpEvent(1.0), label="dead")
    dead.__enter__()  # and its process dies
    with pytest.raises(BudgetExceededError):
        ledger.charge("patients", DiscreteLaplaceDpEvent(1.0), label="early")
    clock[0] += 3601
    with pytest.raises(LedgerError, match="expired"):
        dead.commit()
    ledger.charge("patients", DiscreteLaplaceDpEvent(1.0), label="late")
    clock[0] -= 3600  # a clock set back revives nothing
    with pytest.raises(LedgerError, match="expired"):
        dead.commit()
    dead.__exit__(None, None, None)
    assert ledger.statement("patients").epsilon == 1.0
    ledger.verify()


@pytest.mark.parametrize("spends", [[], [noise(20.0)], "fit", ["fit"]])
def test_a_charge_needs_spends(spends):
    with pytest.raises(UsageError):
        opened().charge("patients", spends, label="fit")


@pytest.mark.parametrize("event", [UnsupportedDpEvent(), GaussianDpEvent(0.0), GaussianDpEvent(math.nan)])
def test_what_nobody_can_price_is_refused_and_leaves_no_trace(event):
    ledger = opened()
    with pytest.raises(UsageError):
        ledger.charge("patients", event, label="fit")
    assert len(ledger.export("patients")["entries"]) == 1


def test_no_privacy_cannot_be_charged_only_recorded():
    ledger = opened()
    with pytest.raises(BudgetExceededError, match="inf"):
        ledger.charge("patients", NonPrivateDpEvent(), label="fit")
    ledger.record("patients", label="ctgan, not private")
    ledger.record("elsewhere", label="ctgan, not private")
    statement = ledger.statement("patients")
    assert statement.epsilon == 0
    assert "ctgan, not private" in statement.outside[0]
    assert ledger.statement("elsewhere").stamp == "NOT PRIVATE"
    ledger.open("elsewhere", epsilon=1.0, delta=1e-6)
    ledger.charge("elsewhere", noise(20.0), label="fit")
    assert math.isfinite(ledger.statement("elsewhere").epsilon)
    assert ledger.statement("elsewhere").outside
    ledger.verify()


# -------------------------------------------------------------------------------------------------------------- the cap
@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-9), (1.0, 1e-5), (3.0, 1e-6), (10.0, 1e-5)])
def test_one_calibrated_fit_fills_an_account_of_its_own_price(epsilon, delta):
    ledger = opened(epsilon=epsilon, delta=delta)
    ledger.charge("patients", fitted(epsilon, delta), label="fit")
    assert 0.99 * epsilon < ledger.statement("patients").epsilon <= epsilon
    with pytest.raises(BudgetExceededError, match="whole account"):
        ledger.charge("patients", noise(1e6), label="tiny")
    with pytest.raises(BudgetExceededError):
        ledger.charge("patients", NoOpDpEvent(), label="nothing")
    ledger.verify()


def test_one_fit_of_pure_events_fills_an_account_of_delta_zero_exactly():
    ledger = opened(epsilon=1.0, delta=0.0)
    plan = [Spend("a", DiscreteLaplaceDpEvent(4.0), 3), Spend("b", ExponentialMechanismDpEvent(0.125), 2)]
    ledger.charge("patients", plan, label="fit")
    assert ledger.statement("patients").epsilon == 1.0
    for smallest in (ExponentialMechanismDpEvent(1e-15), LaplaceDpEvent(1e15), GaussianDpEvent(1e15)):
        with pytest.raises(BudgetExceededError):
            ledger.charge("patients", smallest, label="slips through?")
    ledger.verify()


def test_a_sum_of_tenths_passes_its_cap_by_one_rounding_and_is_refused():
    ledger = opened(epsilon=0.3, delta=0.0)
    for _ in range(2):
        ledger.charge("patients", ExponentialMechanismDpEvent(0.1), label="tenth")
    assert 3 * Fraction(0.1) > Fraction(0.3)  # as doubles are
    with pytest.raises(BudgetExceededError):
        ledger.charge("patients", ExponentialMechanismDpEvent(0.1), label="tenth")


def test_nothing_follows_a_first_charge_that_fits_only_by_itself():
    ledger = opened(epsilon=1.0, delta=1e-5)
    with ledger.reserve("patients", fitted(1.0, 1e-5), label="first"):
        with pytest.raises(BudgetExceededError):
            ledger.charge("patients", noise(1e6), label="beside it")
    with ledger.reserve("patients", noise(1e6), label="open"):
        with pytest.raises(BudgetExceededError):  # it is no first charge while another is open
            ledger.charge("patients", fitted(1.0, 1e-5), label="first")
    ledger.charge("patients", fitted(1.0, 1e-5), label="first")
    with pytest.raises(BudgetExceededError):
        ledger.charge("patients", noise(1e6), label="after it")


def test_a_first_charge_just_above_the_cap_is_refused_and_the_account_stays_usable():
    ledger = opened(epsilon=1.0, delta=1e-5)
    with pytest.raises(BudgetExceededError):
        ledger.charge("patients", fitted(1.001, 1e-5), label="fit")
    ledger.charge("patients", fitted(0.6, 1e-5), label="fit")


def test_an_event_without_renyi_divergence_can_only_be_the_single_charge():
    truncated = TruncatedSubsampledGaussianDpEvent(10000, 0.01, 200, 5.0)
    ledger = opened()
    ledger.charge("patients", truncated, label="fit")
    with pytest.raises(BudgetExceededError, match="whole account"):
        ledger.charge("patients", noise(1000.0), label="fit")
    other = opened()
    other.charge("patients", noise(100.0), label="fit")
    with pytest.raises(BudgetExceededError):
        other.charge("patients", truncated, label="fit")


def test_several_gaussian_fits_use_nearly_all_of_what_zcdp_allows():
    ledger = opened(epsilon=3.0, delta=1e-6)
    event = noise(20.0)
    allowed = float(acc.rho_budget(3.0, 1e-6)) / float(acc.zcdp(event))
    count = sum(_charged(ledger, event) for _ in range(math.ceil(allowed) + 5))
    assert 0.98 * allowed < count <= allowed
    assert ledger.statement("patients").epsilon <= 3.0


def _charged(ledger, event):
    try:
        ledger.charge("patients", event, label="query")
    except BudgetExceededError:
        return False
    return True


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(0.5, 0.0), (1.0, 1e-6), (4.0, 1e-5)]))
def test_no_sequence_of_charges_ever_passes_a_filter(seed, cap):
    """Whatever is asked for, what is admitted fits a filter, or is one charge; releases and failures included."""
    chance = random.Random(seed)
    ledger = opened(epsilon=cap[0], delta=cap[1])
    for step in range(12):
        event = chance.choice(
            [
                lambda: noise(chance.uniform(3, 60), chance.choice([1, 1, 3])),
                lambda: DiscreteLaplaceDpEvent(chance.uniform(3, 60)),
                lambda: ExponentialMechanismDpEvent(chance.uniform(0.01, 0.4)),
                lambda: SelfComposedDpEvent(PoissonSampledDpEvent(0.01, GaussianDpEvent(2.0)), chance.randint(1, 400)),
                lambda: ZCDpEvent(chance.uniform(1e-4, 0.05)),
                lambda: ComposedDpEvent([noise(chance.uniform(3, 60)), DeltaDpEvent(chance.uniform(1e-9, 1e-6))]),
            ]
        )()
        try:
            with ledger.reserve("patients", event, label=f"step {step}") as reservation:
                if chance.random() < 0.7:
                    reservation.commit()
        except BudgetExceededError:
            pass
    ledger.verify()
    data = ledger.export("patients")
    spent = [Spend.from_dict(e) for e in data["events"]]
    if not spent:
        return
    costs = rules.costs_of(acc.leaves(event_of(spent)), Cap.from_dict(data["cap"]).filters)
    kept = {f.name: costs[f.name] is not None and costs[f.name] <= f.level for f in Cap.from_dict(data["cap"]).filters}
    assert (kept.pop(rules.FAILURES, True) and any(kept.values())) or (
        len(spent) == 1 and acc.epsilon(event_of(spent), cap[1]) <= cap[0]
    )
    assert ledger.statement("patients").epsilon <= cap[0] * (1 + 1e-12)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-9), (1.0, 1e-5), (3.0, 1e-6), (20.0, 1e-4), (1e-6, 1e-5)])
def test_filters_share_delta_and_each_keeps_the_cap_alone(epsilon, delta):
    """The conversion is redone here from Canonne, Kamath, Steinke 2020, Proposition 12, in its delta form."""
    filters = rules.filters_for(epsilon, delta)
    assert sum(Fraction(f.delta) for f in filters) <= Fraction(delta)
    assert filters[0] == Filter("pure", None, 0.0, math.floor(Fraction(epsilon) * UNIT))
    assert filters[-1].level == math.floor(Fraction(filters[-1].delta) * UNIT)
    for f in filters[1:-1]:
        if f.level:
            exponent = (f.order - 1) * (f.level / UNIT - epsilon) + (f.order - 1) * math.log1p(-1 / f.order)
            assert math.exp(exponent) / f.order <= f.delta * (1 + 1e-9)


def test_deltas_are_added_up_and_never_pass_their_share():
    """An account's filter of deltas admits 5 % of its delta in all; only a charge of its own may hold more."""
    selection = ComposedDpEvent([noise(100.0), DeltaDpEvent(2e-8)])
    ledger = opened(epsilon=3.0, delta=1e-6)
    for i in range(2):
        ledger.charge("patients", selection, label=f"categories {i}")
    with pytest.raises(BudgetExceededError, match=r"would take delta 6\.\d*e-8 in all, and an account .* has 5e-08"):
        ledger.charge("patients", selection, label="categories 2")
    ledger.charge("patients", noise(100.0), label="counts")
    statement = ledger.statement("patients")
    assert statement.epsilon < 3.0
    ledger.verify()
    alone = opened(epsilon=3.0, delta=1e-6)
    alone.charge("patients", ComposedDpEvent([noise(100.0), DeltaDpEvent(5e-7)]), label="all at once")
    with pytest.raises(BudgetExceededError):
        alone.charge("patients", noise(1e4), label="beside it")
    with pytest.raises(BudgetExceededError):
        opened(epsilon=3.0, delta=1e-6).charge("patients", DeltaDpEvent(1.1e-6), label="more than delta")
    with pytest.raises(BudgetExceededError):
        opened(epsilon=3.0, delta=0.0).charge("patients", DeltaDpEvent(1e-12), label="no delta")


@pytest.mark.parametrize("delta", [1e-5, 1e-6, 1e-9])
@pytest.mark.parametrize("categories", [1, 3, 7])
def test_an_account_pays_for_five_fits_of_its_own_delta_that_learn_categories(categories: int, delta: float) -> None:
    columns = (Categorical(name=f"c{i}", learn=True) for i in range(categories))
    spends = learning.spends(Schema(columns=tuple(columns)), 1e-4, delta=delta)
    ledger = opened(epsilon=3.0, delta=delta)
    for i in range(5):
        ledger.charge("patients", spends, label=f"fit {i}")
    with pytest.raises(BudgetExceededError, match="thresholds of learned categories"):
        ledger.charge("patients", spends, label="fit 5")


def test_an_account_without_a_filter_of_deltas_admits_none_beside_others():
    """As accounts were opened before there were such events: closed, not open, but for one charge of its own."""
    cap = Cap.new(3.0, 1e-6, "row")
    old = Cap(cap.epsilon, cap.delta, cap.unit, cap.filters[:-1])
    costs = rules.costs_of(acc.leaves(DeltaDpEvent(1e-12)), old.filters)
    assert set(costs.values()) == {None}
    assert not rules.fits(old, costs)
    assert rules.fits(old, rules.costs_of(acc.leaves(noise(100.0)), old.filters))
    one = [Spend("one", ComposedDpEvent([noise(100.0), DeltaDpEvent(1e-8)]))]
    whole = rules.admitted(old, rules.State(), one)
    assert whole is not None
    assert whole[0] == "whole"
    assert rules.admitted(old, rules.State(commits=1), one) is None
    assert "opened by an earlier version" in rules.refusal(old, one, [one], names=("a", "b"))


def test_a_filter_of_deltas_admits_no_more_than_its_share():
    cap = Cap.new(3.0, 1e-6, "row")
    wide = [*cap.filters[:-1], Filter(rules.FAILURES, None, 5e-8, math.floor(Fraction(1, 10**6) * UNIT))]
    with pytest.raises(VerificationError):
        Cap.from_dict({**cap.to_dict(), "filters": [f.to_dict() for f in wide]})


def test_a_cap_read_back_is_checked():
    cap = Cap.new(3.0, 1e-6, "row")
    assert Cap.from_dict(cap.to_dict()) == cap
    for change in (
        {"epsilon": 2.9},
        {"delta": 0.99e-6},
        {"relation": "replace_one"},
        {"filters": [{"name": "renyi-8", "order": 8.0, "delta": 0.0, "level": "1"}]},
    ):
        with pytest.raises(VerificationError):
            Cap.from_dict({**cap.to_dict(), **change})


def test_costs_are_rounded_up_and_no_positive_cost_is_zero():
    tiny = rules.costs_of(acc.leaves(ZCDpEvent(1e-15)), rules.filters_for(1.0, 1e-6))
    assert tiny["pure"] is None
    assert all(units is not None and units > 0 for name, units in tiny.items() if name not in ("pure", rules.FAILURES))
    assert rules.costs_of(acc.leaves(DeltaDpEvent(1e-300)), rules.filters_for(1.0, 1e-6))[rules.FAILURES] > 0
    third = rules.costs_of(acc.leaves(DiscreteLaplaceDpEvent(3.0)), rules.filters_for(1.0, 0.0))["pure"]
    assert Fraction(third, UNIT) > Fraction(1, 3) > Fraction(third - 1, UNIT)


def test_a_refusal_names_what_is_asked_spent_and_allowed_rounded_up():
    ledger = opened(epsilon=1.0, delta=0.0)
    ledger.charge("patients", DiscreteLaplaceDpEvent(3.0), label="third")
    with pytest.raises(BudgetExceededError) as error:
        ledger.charge("patients", DiscreteLaplaceDpEvent(1.2), label="too much")
    text = str(error.value)
    assert "0.333334" in text  # 1/3, never understated
    assert "0.833334" in text
    assert "of 1 is spent" in text
    assert "\n" not in text


# ----------------------------------------------------------------------------------------------------------- statements
def test_a_statement_before_and_after_one_charge():
    ledger = opened()
    before = ledger.statement("patients")
    assert (before.epsilon, before.delta, before.events) == (0.0, 1e-6, ())
    event = noise(20.0)
    ledger.charge("patients", event, label="fit")
    after = ledger.statement("patients")
    assert after.epsilon == acc.epsilon(event, 1e-6)
    assert after.relation == RELATION
    assert after.theorem == acc.COMPOSITION
    assert PrivacyStatement.from_json(after.to_json()) == after


def test_a_statement_of_several_charges_says_that_the_cap_is_the_theorem():
    ledger = opened()
    for i in range(3):
        ledger.charge("patients", noise(20.0), label=f"fit {i}")
    statement = ledger.statement("patients")
    together = SelfComposedDpEvent(noise(20.0), 3)
    assert acc.epsilon(together, 1e-6) <= statement.epsilon <= acc.rdp_epsilon(together, 0.8e-6) <= 3.0
    assert "Feldman & Zrnic 2021, Theorem 4.3" in statement.theorem
    assert "epsilon 3 at delta 1e-06" in statement.theorem
    assert "the promise for all of them together is the account's cap, epsilon 3" in statement.outside[0]


def test_the_unit_of_the_account_is_in_the_statement():
    ledger = Ledger()
    ledger.open("visits", epsilon=1.0, delta=1e-6, unit="person named by 'id' (at most 5 rows each)")
    assert "at most 5 rows" in ledger.statement("visits").unit


# ---------------------------------------------------------------------------------------------- recomputed by outsiders
MIXED = [
    Spend("gaussian", GaussianDpEvent(8.0), 5),
    Spend("another", GaussianDpEvent(7.0)),
    Spend("laplace", LaplaceDpEvent(10.0), 3),
    Spend("choice", ExponentialMechanismDpEvent(0.05), 10),
    Spend("training", PoissonSampledDpEvent(0.01, GaussianDpEvent(1.2)), 300),
    Spend("counts", noise(30.0), 7),
    Spend("pure counts", DiscreteLaplaceDpEvent(50.0, 3), 4),
]


SELECTION = Spend("categories", ComposedDpEvent([noise(30.0), DeltaDpEvent(1e-8)]))


@pytest.mark.parametrize(
    ("cap", "charges", "accountant"),
    [
        ((9.0, 1e-6), [MIXED], "pld"),
        ((9.0, 1e-6), [[s] for s in MIXED], "rdp"),
        ((9.0, 1e-10), [[Spend("counts of 3", noise(30.0, 3), 7), Spend("pool", ZCDpEvent(0.01))]], "rdp"),
        ((1.0, 0.0), [[MIXED[3]], [MIXED[6]]], "basic"),
        ((9.0, 1e-6), [[SELECTION, MIXED[5]]], "pld"),
        ((9.0, 1e-6), [[SELECTION], [SELECTION, MIXED[5]]], "rdp"),
        ((9.0, 1e-6), [], "basic"),
    ],
)
def test_an_outsider_recomputes_the_same_epsilon(tmp_path, cap, charges, accountant):
    ledger = opened(epsilon=cap[0], delta=cap[1])
    for i, charge in enumerate(charges):
        ledger.charge("patients", charge, label=f"charge {i}")
    data = ledger.export("patients")
    assert data["spent"]["accountant"] == accountant
    assert data["spent"]["epsilon"] == ledger.statement("patients").epsilon
    assert _recompute(tmp_path, data).returncode == 0
    data["spent"]["epsilon"] -= 2e-9 + (1e-16 / cap[1] if accountant == "pld" else 0)
    run = _recompute(tmp_path, data)
    assert run.returncode == 1
    assert "epsilon DOES NOT AGREE" in run.stdout


def test_an_outsider_notices_a_changed_export(tmp_path):
    ledger = opened()
    ledger.charge("patients", noise(20.0), label="fit")
    data = ledger.export("patients")
    data["events"][0]["sigma"] = 21.0
    assert "events DOES NOT AGREE" in _recompute(tmp_path, data).stdout
    data["entries"][1]["payload"] = data["entries"][1]["payload"].replace("20.0", "21.0")
    assert "chain is broken at entry 1" in _recompute(tmp_path, data).stderr


STEP = PoissonSampledDpEvent(0.05, GaussianDpEvent(4.0))


def test_a_charge_that_may_be_resumed_is_used_up_once():
    """Trap A10: whatever is left of it belongs to all processes together, and what cannot be resumed to the first."""
    ledger = opened()
    spends = [Spend("steps", STEP, 10), Spend("counts", noise(50.0), 2)]
    first = ledger.charge("patients", spends, label="fit", resumable=Resumable("k", ("steps",)))
    before = ledger.statement("patients").epsilon
    assert first.claim("counts", 5) == 2
    assert [first.claim("steps", 4), first.claim("steps", 3)] == [4, 3]  # claimed once: the second asks for no more
    for _ in range(4):
        assert first.take("steps") == STEP
    assert first.take("steps") == STEP  # not claimed beforehand: claimed by itself
    second = ledger.resume("patients", "k")
    assert second.spends == first.spends
    assert second.claim("counts", 5) == 0
    with pytest.raises(UnchargedError):
        second.take("counts")
    second.require()
    assert second.claim("steps", 100) == 5
    assert first.claim("steps", 100) == 0
    assert first.take("counts") == noise(50.0)
    assert ledger.statement("patients").epsilon == before
    assert len(ledger.export("patients")["events"]) == 2
    ledger.verify("patients")
    assert Receipt.uncharged().claim("steps", 7) == 7
    assert ledger.charge("patients", noise(90.0), label="plain").claim("plain", 3) == 1


def test_a_key_is_one_charge_s():
    ledger = opened()
    ledger.charge("patients", [Spend("steps", STEP, 3)], label="fit", resumable=Resumable("k", ("steps",)))
    with pytest.raises(LedgerError, match="same key"):
        ledger.charge("patients", [Spend("steps", STEP, 3)], label="fit", resumable=Resumable("k", ("steps",)))
    assert ledger.resume("patients", "k").claim("steps", 9) == 3
    for labels in ((), ("other",), ("steps", "steps")):
        with pytest.raises(UsageError, match="to be resumed"):
            ledger.charge("patients", [Spend("steps", STEP, 3)], label="x", resumable=Resumable("l", labels))
    with pytest.raises(LedgerError, match="no charge to be resumed"):
        ledger.resume("patients", "l")
    ledger.verify("patients")


def test_claims_beyond_the_charge_are_found(tmp_path):
    """By `verify`, and by an outsider with the export alone."""
    ledger = opened(tmp_path / "ledger.db")
    receipt = ledger.charge("patients", [Spend("steps", STEP, 3)], label="fit", resumable=Resumable("k", ("steps",)))
    receipt.claim("steps", 2)
    data = ledger.export("patients")
    assert _recompute(tmp_path, data).returncode == 0
    last = json.loads(data["entries"][-1]["payload"])
    for wrong in ({"count": 2}, {"count": 0}, {"count": -1}, {"label": "other"}, {"ref": 0}):
        payload = canonical(last | {"seq": len(data["entries"])} | wrong)
        forged = Entry(len(data["entries"]), payload, chained(data["head"], payload))
        entries = [Entry(e["seq"], e["payload"], e["hash"]) for e in data["entries"]]
        with pytest.raises(VerificationError):
            replay("patients", [*entries, forged])
    longer = {**data, "entries": [*data["entries"], {"seq": forged.seq, "payload": payload, "hash": forged.hash}]}
    assert _recompute(tmp_path, longer).returncode != 0
    honest = canonical(last | {"seq": len(data["entries"]), "count": 1})
    replay("patients", [*entries, Entry(forged.seq, honest, chained(data["head"], honest))])


def _recompute(tmp_path, data):
    path = tmp_path / "account.json"
    path.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-I", str(RECOMPUTE), str(path)], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_script_imports_nothing_but_dp_accounting_and_the_standard_library():
    lines = [line for line in RECOMPUTE.read_text().splitlines() if line.startswith(("import ", "from "))]
    modules = {line.split()[1].split(".")[0] for line in lines}
    assert modules - set(sys.stdlib_module_names) == {"dp_accounting"}


# -------------------------------------------------------------------------------------------------------- verification
@pytest.fixture
def written(tmp_path):
    """A ledger file of two accounts, and its path."""
    path = tmp_path / "ledger.db"
    ledger = opened(path)
    ledger.charge("patients", [Spend("a", noise(20.0), 2), Spend("b", LaplaceDpEvent(40.0))], label="fit")
    with ledger.reserve("patients", noise(30.0), label="given back"):
        pass
    ledger.charge("patients", noise(25.0), label="fit 2")
    ledger.record("elsewhere", label="not private")
    return path


def entries_of(path, dataset="patients"):
    return [Entry(e["seq"], e["payload"], e["hash"]) for e in Ledger(path).export(dataset)["entries"]]


def test_every_byte_of_every_entry_counts(written):
    """One bit of one byte changed anywhere in a payload or a hash: the chain no longer reads back."""
    entries = entries_of(written)
    replay("patients", entries, audit=False)
    for i, entry in enumerate(entries):
        for field in ("payload", "hash"):
            text = getattr(entry, field).encode()
            for at in range(len(text)):
                changed = bytearray(text)
                changed[at] ^= 1 << (at % 7)
                wrong = Entry(**{**vars(entry), field: changed.decode("latin-1")})
                with pytest.raises(VerificationError):
                    replay("patients", [*entries[:i], wrong, *entries[i + 1 :]], audit=False)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.nightly), 29])
def test_a_flipped_byte_of_the_file_is_found_or_changes_nothing(written, tmp_path, step):
    """The exact rule: a flip that `verify` does not report left every byte of every entry as it was.

    Such flips lie in unused space of a page or in header fields that carry no content.
    """
    good = written.read_bytes()
    expected = {d: Ledger(written).export(d) for d in Ledger(written).datasets()}
    path, silent, offsets = tmp_path / "flipped.db", 0, range(0, len(good), step)
    for at in offsets:
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << (at % 8))]) + good[at + 1 :])
        try:
            ledger = Ledger(path, create=False)
            ledger.verify()
        except (VerificationError, LedgerError):
            continue
        silent += 1
        assert {d: ledger.export(d) for d in ledger.datasets()} == expected
    assert silent < 0.6 * len(offsets)


def test_every_byte_of_a_payload_in_the_file_is_found(written, tmp_path):
    good = written.read_bytes()
    path = tmp_path / "flipped.db"
    pieces = [e.payload.encode() for e in entries_of(written)] + [e.hash.encode() for e in entries_of(written)]
    found = [at for at in range(0, len(good), 7) if any(good[at : at + 40] in piece for piece in pieces)]
    assert len(found) > 100
    for at in found[::4]:
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x01]) + good[at + 1 :])
        with pytest.raises((VerificationError, LedgerError)):
            Ledger(path, create=False).verify()


def test_a_cut_off_file_is_found(written, tmp_path):
    good = written.read_bytes()
    path = tmp_path / "short.db"
    for size in (1, 100, len(good) // 2, len(good) - 512):
        path.write_bytes(good[:size])
        with pytest.raises((VerificationError, LedgerError)):
            Ledger(path, create=False).verify()


def test_an_anchor_notices_a_chain_cut_at_its_end(written):
    head = Ledger(written).verify("patients")["patients"]
    Ledger(written).charge("patients", noise(50.0), label="later")
    Ledger(written).verify("patients", head=head)
    _tamper(written, "DELETE FROM tabveil_entries WHERE account = 1 AND seq >= 6")
    Ledger(written).verify("patients")  # what is left is a chain
    with pytest.raises(VerificationError, match="no longer holds"):
        Ledger(written).verify("patients", head=head)
    with pytest.raises(UsageError, match="name it"):
        Ledger(written).verify(head=head)


def _tamper(path, *statements):
    """Change the file as someone could who removes the triggers and puts them back."""
    connection = sqlite3.connect(path, isolation_level=None)
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    for _, sql in triggers:
        connection.execute(sql)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tabveil_entries SET payload = replace(payload, '20.0', '90.0') WHERE seq = 1",
        "UPDATE tabveil_entries SET hash = upper(hash) WHERE seq = 2",
        "DELETE FROM tabveil_entries WHERE account = 1 AND seq = 0",
        "DELETE FROM tabveil_entries WHERE account = 1 AND seq = 3",
        "UPDATE tabveil_entries SET seq = seq + 1 WHERE account = 1 AND seq = 6",
        "UPDATE tabveil_accounts SET dataset = 'other' WHERE id = 1",
        "DELETE FROM tabveil_entries WHERE account = 2",
        "INSERT INTO tabveil_entries VALUES (9, 0, '{}', 'x')",
        "INSERT INTO tabveil_entries VALUES (1, 7, '{}', 'x')",
        "UPDATE tabveil_entries SET payload = x'ff00' WHERE seq = 1",
        "UPDATE tabveil_entries SET payload = 3 WHERE seq = 6",
    ],
)
def test_tampering_is_found(written, statement):
    _tamper(written, statement)
    with pytest.raises((VerificationError, LedgerError)):
        Ledger(written).verify()


@pytest.mark.parametrize("trigger", ["tabveil_entries_update", "tabveil_accounts_delete"])
def test_a_missing_trigger_is_found(written, trigger):
    with sqlite3.connect(written) as connection:
        connection.execute(f"DROP TRIGGER {trigger}")
    with pytest.raises(VerificationError, match="append-only"):
        Ledger(written).verify()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tabveil_entries SET payload = 'x'",
        "DELETE FROM tabveil_entries",
        "UPDATE tabveil_accounts SET dataset = 'x'",
        "DELETE FROM tabveil_accounts",
        "INSERT OR REPLACE INTO tabveil_entries VALUES (1, 0, 'x', 'y')",
    ],
)
def test_the_database_itself_refuses_to_change_entries(written, statement):
    ledger = Ledger(written)
    with pytest.raises(LedgerError, match="append-only"), ledger._store.writing() as connection:
        connection.exec_driver_sql(statement)
    ledger.verify()


def forged(entries, index, **changes):
    """Entries with one payload changed and every later hash made to fit, as anyone can who computes SHA-256."""
    last = entries[index - 1].hash if index else "0" * 64
    out = list(entries[:index])
    for entry in entries[index:]:
        data = {**entry.data, **(changes if entry.seq == index else {})}
        payload = canonical(data)
        last = chained(last, payload)
        out.append(Entry(entry.seq, payload, last))
    return out


def test_a_forged_chain_with_right_hashes_is_found_by_its_sums(written):
    """Against a forger who makes everything consistent, a larger cap included, only an anchor kept elsewhere helps."""
    entries = entries_of(written)
    assert forged(entries, 0) == entries
    spends = [Spend("a", noise(1.0), 2).to_dict()]
    free = {name: "0.000001" for name in entries[1].data["costs"]}
    for index, changes in (
        (0, {"epsilon": 2.0}),
        (0, {"filters": []}),
        (0, {"relation": "replace_one"}),
        (1, {"spends": spends}),
        (1, {"costs": free}),
        (1, {"regime": "whole"}),
        (2, {"ref": 0}),
        (2, {"kind": "note", "label": "x"}),
        (2, {"state": State().to_dict()}),
        (3, {"dataset": "other"}),
        (4, {"kind": "commit"}),
        (5, {"seq": 6}),
        (6, {"ref": 1}),
        (6, {"kind": "strange"}),
    ):
        with pytest.raises(VerificationError):
            replay("patients", forged(entries, index, **changes))


def test_a_charge_beside_one_that_takes_the_whole_account_is_found():
    ledger = opened(epsilon=1.0, delta=1e-5)
    ledger.charge("patients", fitted(1.0, 1e-5), label="fit")
    entries = [Entry(e["seq"], e["payload"], e["hash"]) for e in ledger.export("patients")["entries"]]
    other = opened(epsilon=1.0, delta=1e-5)
    other.charge("patients", noise(100.0), label="fit")
    extra = json.loads(other.export("patients")["entries"][1]["payload"])
    state = State.from_dict(entries[2].data["state"])
    claim = rules.Claim(3, extra["expires"], "filter", rules.costs_from_dict(extra["costs"]))
    after = State(state.commits, state.whole, state.spent, (claim,))
    payload = canonical({**extra, "seq": 3, "state": after.to_dict()})
    with pytest.raises(VerificationError, match="could not pay"):
        replay("patients", [*entries, Entry(3, payload, chained(entries[2].hash, payload))])


def test_a_damaged_last_entry_stops_further_charges(written):
    _tamper(written, "UPDATE tabveil_entries SET payload = replace(payload, 'made_with', 'made_witg') WHERE seq = 6")
    with pytest.raises(VerificationError, match="broken"):
        Ledger(written).charge("patients", noise(50.0), label="fit")


# ------------------------------------------------------------------------------------------------------------- failures
def test_a_full_disk_charges_nothing(written, monkeypatch):
    ledger = Ledger(written)
    before = ledger.export("patients")
    configure = store_module._configure

    def small(connection, record):
        configure(connection, record)
        connection.execute(f"PRAGMA max_page_count = {len(written.read_bytes()) // 512}")

    engine = store_module.sa.create_engine(ledger._store.url, poolclass=store_module.NullPool)
    sa.event.listen(engine, "connect", small)
    sa.event.listen(engine, "begin", store_module._begin)
    monkeypatch.setattr(ledger._store, "_engine", engine)
    with pytest.raises(StorageError, match="disk is full"):
        ledger.charge("patients", [Spend(f"query {i}", noise(90.0)) for i in range(200)], label="fit")
    assert Ledger(written).export("patients") == before
    Ledger(written).verify()


def test_a_read_only_ledger_can_be_verified_but_not_charged(written):
    ledger = Ledger(f"sqlite:///file:{written}?mode=ro&uri=true", create=False)
    ledger.verify()
    with pytest.raises(LedgerError, match="read-only"):
        ledger.charge("patients", noise(50.0), label="fit")


def test_ctrl_c_inside_a_reservation_releases_it():
    ledger = opened()
    with pytest.raises(KeyboardInterrupt), ledger.reserve("patients", noise(20.0), label="fit"):
        raise KeyboardInterrupt
    assert ledger.statement("patients").epsilon == 0


def test_no_error_carries_more_than_names_and_numbers():
    """Errors are built from labels and sums: no event, payload or path is repeated."""
    ledger = opened()
    for wrong in (
        lambda: ledger.charge("patients", noise(0.01), label="fit"),
        lambda: ledger.charge("patients", ComposedDpEvent([UnsupportedDpEvent()]), label="fit"),
        lambda: ledger.charge("other", noise(20.0), label="fit"),
    ):
        with pytest.raises(TabveilError) as error:
            wrong()
        assert len(str(error.value)) < 300
        assert "sigma" not in str(error.value)
