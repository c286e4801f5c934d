"""What the page says epsilon means, against the definitions; the shares of the budget, against the accounting."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabveil import accounting
from tabveil.records import RELATION, PrivacyStatement, most_recognised
from tabveil.report._promise import MAX_GROUPS, budget, promise, stamps

Statement = Callable[..., PrivacyStatement]


def plain(epsilon: float, delta: float = 0.0, events: tuple[dict[str, Any], ...] = ()) -> PrivacyStatement:
    return PrivacyStatement(epsilon, delta, "row", RELATION, events, "", "")


def test_most_recognised_by_hand() -> None:
    assert most_recognised(1.0, 0, 0.01) == pytest.approx(math.e * 0.01)
    assert most_recognised(1.0, 1e-3, 0.01) == pytest.approx(math.e * 0.01 + 1e-3)
    # where false alarms are many the other side of the definition binds: 1 - TPR >= exp(-eps) (1 - delta - FPR)
    assert most_recognised(1.0, 0, 0.9) == pytest.approx(1 - 0.1 / math.e)
    assert most_recognised(1000.0, 0, 0.01) == 1.0
    assert most_recognised(1e-9, 0, 0.3) == pytest.approx(0.3)


@given(
    st.floats(min_value=1e-6, max_value=30),
    st.floats(min_value=0, max_value=0.5),
    st.lists(st.floats(min_value=0, max_value=1), min_size=2, max_size=2),
)
def test_most_recognised_is_what_epsilon_delta_allows(epsilon: float, delta: float, alarms: list[float]) -> None:
    """Both inequalities of the definition, for the attack and for its opposite, and one of them met with equality."""
    x, y = alarms[0], most_recognised(epsilon, delta, alarms[0])
    assert 0 <= x <= y + 1e-12 <= 1 + 1e-12
    sides = (math.exp(epsilon) * x + delta - y, math.exp(epsilon) * (1 - y) + delta - (1 - x), 1 - y)
    assert min(sides) >= -1e-9 * math.exp(epsilon)
    assert min(sides) <= 1e-9 * math.exp(epsilon)
    assert most_recognised(epsilon, delta, max(alarms)) >= most_recognised(epsilon, delta, min(alarms)) - 1e-12


def test_the_bound_is_met_by_randomised_response() -> None:
    """Telling one bit truly with probability e^eps / (1 + e^eps): its attack lies on the line, at its bend."""
    for epsilon in (0.1, 1.0, 3.0):
        truth = math.exp(epsilon) / (1 + math.exp(epsilon))
        assert most_recognised(epsilon, 0, 1 - truth) == pytest.approx(truth)


def test_meaning_at_epsilon_one_is_rounded_up() -> None:
    said = promise(plain(1.0, 1e-5))["meaning"]
    assert "at most 2.72 times as likely, plus at most 1e-5" in said[0]
    assert "recognises at most 2.72 % of its members" in said[1]  # 100 (0.01 e + 1e-5) = 2.7193
    assert "at most 73.2 % certainty (delta aside)" in said[2]  # e / (1 + e) = 0.73106
    assert "k times" in said[3]
    assert len(said) == 5


def test_meaning_names_the_unit_and_leaves_out_what_does_not_apply() -> None:
    statement = PrivacyStatement(2.0, 0.0, "person named by 'id' (at most 5 rows each)", RELATION, (), "", "")
    said = promise(statement)["meaning"]
    assert len(said) == 3
    assert all("person named by 'id'" in s for s in (said[0], said[2]))
    assert not any("delta" in s.lower() for s in said)


def test_nothing_is_explained_where_nothing_is_promised(statement: Statement) -> None:
    for not_private in (statement(epsilon=math.inf), statement(release=False)):
        assert promise(not_private)["meaning"] == []
        assert not promise(not_private)["private"]


@pytest.mark.parametrize(
    ("changed", "edition", "words"),
    [
        ({}, "release", []),
        ({}, "internal", ["INTERNAL"]),
        ({"epsilon": math.inf}, "release", ["NOT PRIVATE"]),
        ({"release": False}, "internal", ["NOT A RELEASE", "INTERNAL"]),
    ],
)
def test_stamps(statement: Statement, changed: dict[str, Any], edition: str, words: list[str]) -> None:
    assert [s["text"] for s in stamps(statement(**changed), edition=edition)] == words


# ------------------------------------------------------------------------------------------------------------- budget


def test_shares_add_up_and_agree_with_the_accounting(statement: Statement) -> None:
    made = statement()
    found = budget(made)
    spends = [accounting.Spend.from_dict(e) for e in made.events]
    total = float(accounting.zcdp(accounting.event_of(spends)))
    assert found["basis"] == "rho"
    assert found["rho"] == pytest.approx(total)
    assert sum(e["share"] for e in found["events"]) == pytest.approx(1)
    for event, spend in zip(found["events"], spends, strict=True):
        alone = float(accounting.zcdp(accounting.event_of([spend])))
        assert event["share"] == pytest.approx(alone / total)


def test_the_hand_check_is_the_textbook_bound_and_above_the_claim(statement: Statement) -> None:
    made = statement()
    rho = budget(made)["rho"]
    assert budget(made)["hand_check"] == pytest.approx(
        accounting.zcdp_epsilon(accounting.Rho(rho), made.delta, conversion="simple")
    )
    assert budget(made)["hand_check"] >= made.epsilon
    assert budget(plain(1.0, 0.0, made.events))["hand_check"] is None


def test_parts_are_grouped_by_how_their_labels_begin(statement: Statement) -> None:
    groups = budget(statement())["groups"]
    assert [g["label"] for g in groups] == ["histogram of …", "counts of …", "choice of pair 1", "counts of pair 1"]
    assert [g["events"] for g in groups] == [4, 2, 1, 3]
    assert sum(g["share"] for g in groups) == pytest.approx(1)


def test_many_parts_share_the_last_piece() -> None:
    events = tuple({"type": "ZCDP", "rho": i, "label": f"part {chr(96 + i)}", "count": 1} for i in range(1, 13))
    groups = budget(plain(1.0, 1e-6, events))["groups"]
    assert len(groups) == MAX_GROUPS
    assert groups[-1]["label"] == "5 smaller parts"
    assert groups[-1]["share"] == pytest.approx((1 + 2 + 3 + 4 + 5) / 78)
    assert sum(g["share"] for g in groups) == pytest.approx(1)


@pytest.mark.parametrize(
    ("event", "rho"),
    [
        ({"type": "DiscreteGaussianDpEvent", "sigma": 2.0, "sensitivity": 3}, 9 / 8),
        ({"type": "Gaussian", "noise_multiplier": 2.0}, 1 / 8),
        ({"type": "ExponentialMechanism", "epsilon": 0.4}, 0.02),
        ({"type": "DiscreteLaplace", "scale": 2.0, "sensitivity": 1}, 1 / 8),
        ({"type": "Laplace", "noise_multiplier": 2.0}, 1 / 8),
        ({"type": "ZCDP", "rho": 0.3, "xi": 0.0}, 0.3),
        ({"type": "SelfComposed", "event": {"type": "Gaussian", "noise_multiplier": 2.0}, "times": 16}, 2.0),
        ({"type": "Composed", "events": [{"type": "ZCDP", "rho": 0.1}, {"type": "ZCDP", "rho": 0.2}]}, 0.3),
        ({"type": "NoOp"}, 0.0),
    ],
)
def test_rho_by_hand(event: dict[str, Any], rho: float) -> None:
    found = budget(plain(1.0, 1e-6, ({**event, "label": "x", "count": 2},)))
    assert found["rho"] == pytest.approx(2 * rho)


@pytest.mark.parametrize(
    "event",
    [
        {
            "type": "PoissonSampled",
            "sampling_probability": 0.01,
            "event": {"type": "Gaussian", "noise_multiplier": 1.0},
        },
        {"type": "ZCDP", "rho": 0.1, "xi": 0.2},
        {"type": "SomethingNew", "strength": 3},
        {"type": "NonPrivate"},
    ],
)
def test_without_a_price_shares_are_by_count(event: dict[str, Any]) -> None:
    events = ({**event, "label": "training", "count": 3}, {"type": "ZCDP", "rho": 1.0, "label": "counts", "count": 1})
    found = budget(plain(1.0, 1e-6, events))
    assert (found["basis"], found["rho"], found["hand_check"]) == ("count", None, None)
    assert [e["share"] for e in found["events"]] == [0.75, 0.25]


def test_events_in_words() -> None:
    sampled = {
        "type": "PoissonSampled",
        "sampling_probability": 0.01,
        "event": {"type": "Gaussian", "noise_multiplier": 1.1},
    }
    event = {"type": "SelfComposed", "event": sampled, "times": 1000, "label": "steps", "count": 1}
    made = budget(plain(1.0, 1e-6, (event,)))["events"][0]
    assert made["mechanism"] == "Gaussian noise on a Poisson sample"
    assert re.fullmatch(r"sampling probability = 0\.01, noise multiplier = 1\.1, 1,000 times", made["parameters"])


def test_no_events_no_shares() -> None:
    assert budget(plain(math.inf))["events"] == budget(plain(math.inf))["groups"] == []
