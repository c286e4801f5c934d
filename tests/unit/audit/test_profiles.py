"""Profiles: every shipped one loads, outcomes by hand, and files that are refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tabveil.audit import audit, measure
from tabveil.audit._profile_files import parse
from tabveil.audit.profiles import Profile, judge, line, load, names
from tabveil.audit.rates import Count, finding
from tabveil.columns import Categorical, Integer
from tabveil.errors import UsageError
from tabveil.records import Finding, Judgement, Measurement
from tabveil.schema import Schema

PROMISES = re.compile(r"\b(safe|anonymous|compliant)\b", re.IGNORECASE)
CITED = {"source": "s", "wording": "own", "text": "t"}
COUNTED = {"name": "few", "kind": "measured", "auditor": "anonymity", "measure": "k-map", "why": "w", "citation": CITED}
COUNTED |= {"table": "synthetic against real", "at_least": 12}
ATTACKED = {"name": "guesses", "kind": "attacked", "auditor": "attribute", "limit": 0.1, "why": "w", "citation": CITED}
OPEN = {"name": "expert", "kind": "open", "why": "w", "citation": CITED}


def text(*requirements: Any, **head: Any) -> str:
    whole = {"tabveil_profile": 1, "name": "mine", "version": "1", "title": "t", "about": "a"}
    return yaml.safe_dump(whole | {"requirements": list(requirements)} | head)


def mine(*requirements: Any) -> Profile:
    return parse(text(*requirements), file="mine.yaml")


def counted(value: float, *, name: str = "k-map", table: str = "synthetic against real") -> Measurement:
    return Measurement("anonymity", name, table, ("age", "zip"), "", value, "max", "d", "s")


def found(hits: int, tries: int, *, baseline: float = 0.5, auditor: str = "attribute", name: str = "n") -> Finding:
    count = Count(hits, tries)
    made = finding(auditor=auditor, name=name, attack=count, baseline=0.5, control=count, confidence=0.95, verdict="v")
    return replace(made, baseline=baseline)


def one(requirement: dict[str, Any], **numbers: Any) -> Judgement:
    (judged,) = judge(mine(requirement), **numbers)
    return judged


def texts(judged: Judgement) -> str:
    return " ".join([judged.sentence, judged.requirement, judged.citation, *judged.notes])


# ------------------------------------------------------------------------------------------------------------- shipped


def test_the_profiles_that_come_along() -> None:
    assert names() == ["cms-11", "ema-hc-0.09", "gbt-37964-2019", "hipaa-expert", "strict-internal", "wp29"]


@pytest.mark.parametrize("name", names())
def test_every_shipped_profile_loads_and_answers_nothing_without_numbers(name: str) -> None:
    profile = load(name)
    assert (profile.name, profile.version) == (name, "2" if name in ("strict-internal", "wp29") else "1")
    assert not PROMISES.search(f"{profile.title} {profile.about}")
    judged = judge(profile)
    assert len(judged) == len(profile.requirements)
    for judgement in judged:
        assert judgement.outcome == "not answered"
        assert judgement.value is None
        assert judgement.internal
        assert judgement.citation
        assert not PROMISES.search(texts(judgement))
        assert not judgement.auditor or f"run the auditor '{judgement.auditor}'" in judgement.sentence


@pytest.mark.parametrize(
    ("value", "outcome"), [(10, "not met"), (11, "not met"), (12, "met"), (math.inf, "met"), (math.nan, "not answered")]
)
def test_ema_as_written_takes_12_rows(value: float, outcome: str) -> None:
    judged = judge(load("ema-hc-0.09"), measurements=[counted(value)])[0]
    assert judged.outcome == outcome
    assert judged.threshold == 0.09
    if outcome != "not answered":
        assert judged.value == pytest.approx(1 / value)


def test_cms_judges_what_is_displayed_and_whom_it_points_to() -> None:
    shown = counted(11, name="k-anonymity", table="synthetic")
    outcomes = [j.outcome for j in judge(load("cms-11"), measurements=[shown, counted(10)])]
    assert outcomes == ["met", "not met", "not answered"]
    real = counted(5, name="k-anonymity", table="real")
    assert [j.outcome for j in judge(load("cms-11"), measurements=[real])] == ["not answered"] * 3


def test_wp29_copies_and_membership_count_against_only() -> None:
    good = [
        found(
            20, 1000, baseline=0.02, auditor="anonymity", name="people unique in their quasi-identifiers who turn up"
        ),
        found(20, 1000, baseline=0.02, auditor="copies"),
        found(20, 1000, baseline=0.02, auditor="membership"),
        found(20, 1000, baseline=0.02, auditor="mia_marginal"),
        found(500, 1000, baseline=0.5),
    ]
    judged = [j for j in judge(load("wp29"), findings=good) if j.auditor != "anonymeter"]
    assert [j.outcome for j in judged] == ["met", "not answered", "not answered", "not answered", "met"]
    assert "never for it" in judged[1].sentence
    bad = [replace(f, value=0.99, interval=(0.98, 1.0)) for f in good]
    assert {j.outcome for j in judge(load("wp29"), findings=bad) if j.auditor != "anonymeter"} == {"not met"}


@pytest.mark.parametrize("auditor", ["membership", "mia_marginal"])
def test_the_strict_profile_counts_an_area_against_only(auditor: str) -> None:
    areas = [found(h, 100_000, auditor=auditor, name="told (area under the ROC curve)") for h in (50_000, 60_000)]
    judged = [j for area in areas for j in judge(load("strict-internal"), findings=[area]) if j.value is not None]
    assert [(j.auditor, j.outcome) for j in judged] == [(auditor, "not answered"), (auditor, "not met")]


@pytest.mark.parametrize("auditor", ["membership", "mia_marginal"])
def test_the_strict_profile_asks_for_few_false_alarms(auditor: str) -> None:
    name = "training rows recognised at 1% false alarms (true positive rate): random rows"
    rates = [found(h, 1_000, baseline=0.01, auditor=auditor, name=name) for h in (10, 300)]
    judged = [j for rate in rates for j in judge(load("strict-internal"), findings=[rate]) if j.value is not None]
    assert [(j.auditor, j.outcome) for j in judged] == [(auditor, "met"), (auditor, "not met")]


def test_a_real_audit_meets_the_names_that_profiles_ask_for() -> None:
    cities = tuple(f"c{i}" for i in range(100))
    schema = Schema(
        columns=(
            Integer(name="a", low=0, high=9999),
            Categorical(name="b", categories=("x", "y")),
            Categorical(name="city", categories=cities),
        ),
        quasi_identifiers=("a", "city"),
        sensitive=("b",),
    )
    rows = [
        pd.DataFrame({"a": [(i * 37) % 10_000 for i in r], "b": ["x", "y", "y"] * 100, "city": list(cities) * 3})
        for r in (range(300), range(400, 700))
    ]
    findings = audit(rows[0], train=rows[0], holdout=rows[1], schema=schema)
    measurements = measure(rows[0], train=rows[0], schema=schema)
    for name in ("ema-hc-0.09", "cms-11", "wp29", "strict-internal"):
        judged = judge(load(name), findings=findings, measurements=measurements)
        asked = [r.kind != "open" and r.auditor != "anonymeter" for r in load(name).requirements]
        assert [j.value is not None for j in judged] == asked
        assert all(not PROMISES.search(texts(j)) for j in judged)
    counting = ("copies", "membership", "mia_marginal")
    against = [j for j in judge(load("wp29"), findings=findings) if j.auditor in counting]
    assert [j.outcome for j in against] == ["not met", "not met", "not met"]


# ------------------------------------------------------------------------------------------------------------- attacks


def test_the_line_by_hand() -> None:
    assert line(found(1, 2, baseline=0.5), limit=0.1) == pytest.approx(0.55)
    assert line(found(1, 2, baseline=0.0), limit=0.09) == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("hits", "tries", "outcome", "said"),
    [
        (700, 1000, "not met", "starts above the line"),  # 0.671 to 0.728 above 0.55
        (500, 1000, "met", "could have shown up to 0.996"),  # 0.469 to 0.531
        (540, 1000, "not answered", "ends above the line"),  # 0.509 to 0.571
        (2, 5, "not answered", "no more than 0.478 could have been shown"),  # 0.025 ** (1 / 5)
        (0, 5, "not answered", "no more than 0.478 could have been shown"),  # ends at 0.522, below the line
    ],
)
def test_an_attack_that_fails_answers_only_if_it_could_have_shown_more(
    hits: int, tries: int, outcome: str, said: str
) -> None:
    judged = one(ATTACKED, findings=[found(hits, tries)])
    assert judged.outcome == outcome
    assert said in judged.sentence
    assert judged.value == hits / tries
    assert judged.threshold == pytest.approx(0.55)


def test_a_leak_within_the_limit_is_told() -> None:
    judged = one(ATTACKED, findings=[found(52_000, 100_000)])
    assert judged.outcome == "met"
    assert "did better than guessing" in judged.sentence


@pytest.mark.parametrize(
    "changed",
    [{"baseline_of": "claim"}, {"baseline": 3.0}, {"interval": (2.5, math.inf), "value": 2.5}],
    ids=["beside a claim", "baseline above 1", "an epsilon"],
)
def test_what_is_no_share_beside_guessing_is_not_judged(changed: dict[str, Any]) -> None:
    """The line is drawn between the baseline and 1: above a baseline of 3 it would fall below it."""
    other = replace(found(900, 1000), **changed)
    alone = one(ATTACKED, findings=[other])
    assert (alone.outcome, alone.value) == ("not answered", None)
    assert "beside a claim, or no share" in alone.sentence
    assert "`refit`" in one({**ATTACKED, "auditor": "shadow"}).sentence
    assert one(ATTACKED, findings=[other, found(500, 1000)]).outcome == "met"


def test_a_baseline_of_one_leaves_nothing_to_show() -> None:
    assert one(ATTACKED, findings=[found(500, 1000, baseline=1.0)]).outcome == "not answered"


def test_numbers_that_are_none_answer_nothing() -> None:
    broken = replace(found(500, 1000), interval=(math.nan, math.nan))
    assert one(ATTACKED, findings=[broken]).outcome == "not answered"


def test_the_worst_finding_decides() -> None:
    fine, unclear, bad = found(500, 1000), found(0, 5), found(700, 1000)
    assert one(ATTACKED, findings=[fine, unclear]).outcome == "not answered"
    assert one(ATTACKED, findings=[fine, bad, unclear]).outcome == "not met"
    assert one({**ATTACKED, "finding": "other"}, findings=[bad]).outcome == "not answered"


# -------------------------------------------------------------------------------------------------------------- counts


def test_the_worst_count_decides_and_rows_left_out_are_told() -> None:
    short = replace(counted(3), details={"left_out_real": 7.0})
    judged = one(COUNTED, measurements=[counted(40), short])
    assert (judged.outcome, judged.value, judged.threshold) == ("not met", 3, 12)
    assert "7 rows" in judged.sentence


def test_an_absent_population_is_named() -> None:
    judged = one({**COUNTED, "table": "real against population"})
    assert judged.outcome == "not answered"
    assert "`quasi_identifiers`" in judged.sentence
    assert "`population`" in judged.sentence


def test_judgements_are_json_both_ways() -> None:
    for judged in judge(mine(COUNTED, ATTACKED, OPEN), measurements=[counted(math.inf)]):
        assert Judgement.from_json(judged.to_json()) == judged


# --------------------------------------------------------------------------------------------------------------- files


def without(requirement: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in requirement.items() if k != key}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "is not a profile: it must hold keys and values, 'requirements' among them"),
        ("a: b: c", "is not valid YAML at line 1"),
        (text(OPEN, tresholds=1), "unknown key 'tresholds'"),
        (text(OPEN, tabveil_profile=2), "'tabveil_profile' must be 1"),
        (text(OPEN, version=1.0), "'version' must be given, as a text"),
        (text(OPEN, title="A table that is Safe"), "'title' promises"),
        (text(), "at least one"),
        (text("a"), "requirement 1 must be written as keys and values"),
        (text(OPEN, OPEN), "a name of its own"),
        (text({**OPEN, "kind": "odd"}), "'kind' must be one of measured, attacked, open"),
        (text({**OPEN, "limit": 0.1}), "requirement 1: unknown key 'limit'"),
        (text(without(OPEN, "citation")), "'citation' must be given"),
        (text({**OPEN, "citation": without(CITED, "source")}), "citation: 'source' must be given"),
        (text({**OPEN, "citation": {**CITED, "wording": "hearsay"}}), "'wording' must be one of"),
        (text({**OPEN, "citation": {**CITED, "page": 3}}), "citation: unknown key 'page'"),
        (text(OPEN, {**ATTACKED, "auditor": "atribute"}), "requirement 2: 'auditor' must be one of"),
        (text({**ATTACKED, "limit": 1}), "below 1"),
        (text({**ATTACKED, "limit": "0.1"}), "'limit' must be a finite number"),
        (text({**ATTACKED, "limit": True}), "'limit' must be a finite number"),
        (text(without(ATTACKED, "limit")), "'limit' must be a finite number"),
        (text({**ATTACKED, "only_against": "yes"}), "'only_against' must be true or false"),
        (text({**COUNTED, "at_least": -1}), "'at_least' must be a finite number"),
        (text({**COUNTED, "at_least": math.inf}), "'at_least' must be a finite number"),
        (text({**COUNTED, "at_most": 12}), "one of 'at_least' and 'at_most'"),
        (text(without(COUNTED, "at_least")), "one of 'at_least' and 'at_most'"),
        (text({**without(COUNTED, "at_least"), "at_most": 12}), "a greater number protects more"),
        (text({**COUNTED, "number": "1/value"}), "a smaller number protects more"),
        (text({**COUNTED, "number": "half"}), "'number' must be one of"),
        (text({**COUNTED, "measure": "kmap"}), "'measure' must be one of"),
        (text({**COUNTED, "table": "reel"}), "'table' must be one of"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith("The profile 'schema.yaml'")
    assert "\n" not in str(caught.value)


def test_own_profiles_by_path_and_names_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text(COUNTED), encoding="utf-8")
    assert load(str(path)) == load(path) == mine(COUNTED)
    with pytest.raises(UsageError, match="does not exist"):
        load(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="did you mean 'wp29'"):
        load("wp-29")
    with pytest.raises(UsageError, match="choose one of cms-11"):
        load("zzz")
