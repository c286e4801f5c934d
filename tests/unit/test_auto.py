"""`auto`: which generator is chosen, from what, what is said about it, and that nothing else about a fit changes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabveil import pipeline
from tabveil.accounting import DiscreteGaussianDpEvent
from tabveil.columns import Categorical, Identifier, Integer
from tabveil.conformance import ruled_schema, ruled_table
from tabveil.errors import BudgetExceededError, SchemaError, UsageError
from tabveil.generators import auto, generators
from tabveil.generators._marginals import Part, divide
from tabveil.generators.auto import ASSUMED_ROWS, CANDIDATES, PAIRS_FROM, TRIPLES_FROM, WIDE, Auto, Choice, choose
from tabveil.generators.base import create, load
from tabveil.ledger import Ledger
from tabveil.noise import seeded_noise_for_tests
from tabveil.schema import Schema
from tabveil.tables import Table
from tabveil.verification import verify

DELTA = 1e-6


def numbers(columns: int, rows: int | None = None, **more: Any) -> Schema:
    """A schema of `columns` small number columns."""
    return Schema(columns=tuple(Integer(name=f"n{i}", low=0, high=9) for i in range(columns)), public_rows=rows, **more)


SCHEMA = numbers(4, rows=1_200)
FRAME = pd.DataFrame({f"n{i}": np.arange(1_200) // (i + 1) % 10 for i in range(4)})


def account(schema: Schema = SCHEMA, epsilon: float = 100.0) -> Ledger:
    ledger = Ledger(":memory:")
    ledger.open("d", epsilon=epsilon, delta=DELTA, unit=schema.unit)
    return ledger


def fitted(epsilon: float = 1.0, **options: Any) -> Auto:
    made = create("auto", epsilon=epsilon, delta=DELTA, **options)
    assert isinstance(made, Auto)
    return made.fit(FRAME, SCHEMA, ledger=account(), dataset="d")


def epsilon_for(name: str) -> float:
    """An epsilon for which `name` is chosen under SCHEMA."""
    return next(e for e in np.geomspace(0.1, 100, 300) if choose(SCHEMA, epsilon=e, delta=DELTA).name == name)


class Closed(Table):
    """A table that nobody may open."""

    def __init__(self) -> None:
        super().__init__(SCHEMA.names, chunk_rows=10)

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        raise AssertionError("rows were read")


# ----------------------------------------------------------------------------------------------------------- the rules


def strength(schema: Schema, epsilon: float, delta: float = DELTA) -> float:
    assert schema.public_rows is not None
    return schema.public_rows / auto.expected_noise(schema, epsilon=epsilon, delta=delta)


@pytest.mark.parametrize(
    ("threshold", "below", "from_there"), [(PAIRS_FROM, "independent", "mst"), (TRIPLES_FROM, "mst", "aim")]
)
def test_the_choice_changes_at_the_measured_thresholds(threshold: float, below: str, from_there: str) -> None:
    noise = auto.expected_noise(numbers(10), epsilon=1.0, delta=DELTA)
    first = math.ceil(threshold * noise)
    assert choose(numbers(10, rows=first), epsilon=1, delta=DELTA).name == from_there
    assert choose(numbers(10, rows=first - 1), epsilon=1, delta=DELTA).name == below


def test_a_wide_table_goes_to_mst() -> None:
    assert choose(numbers(WIDE, rows=10**6), epsilon=10, delta=DELTA).name == "aim"
    wide = choose(numbers(WIDE + 1, rows=10**6), epsilon=10, delta=DELTA)
    assert (wide.name, str(WIDE) in wide.reasons[-1]) == ("mst", True)
    assert choose(numbers(200, rows=100), epsilon=1, delta=DELTA).name == "independent"


def test_one_column_goes_to_independent_whatever_the_budget() -> None:
    for epsilon in (0.01, 1, math.inf):
        assert choose(numbers(1, rows=10**6), epsilon=epsilon, delta=DELTA).name == "independent"


def test_without_privacy_nothing_drowns() -> None:
    assert choose(numbers(5, rows=50), epsilon=math.inf).name == "aim"
    assert choose(numbers(WIDE + 1, rows=50), epsilon=math.inf).name == "mst"


def test_an_unknown_row_count_is_assumed_and_said() -> None:
    for epsilon in (0.01, 0.3, 1, 10):
        unknown = choose(numbers(8), epsilon=epsilon, delta=DELTA)
        assert unknown.name == choose(numbers(8, rows=ASSUMED_ROWS), epsilon=epsilon, delta=DELTA).name
        assert f"{ASSUMED_ROWS:,} rows are assumed" in unknown.reasons[0]


def test_more_rows_per_person_count_as_more_noise() -> None:
    persons = replace(
        numbers(4, rows=10**5),
        columns=(Identifier(name="who"), *numbers(4).columns),
        privacy_unit="who",
        max_rows_per_unit=50,
    )
    assert auto.expected_noise(persons, epsilon=1, delta=DELTA) == pytest.approx(
        50 * auto.expected_noise(numbers(4), epsilon=1, delta=DELTA)
    )
    alone = numbers(4, rows=2_000)
    assert choose(alone, epsilon=1, delta=DELTA).name != "independent"
    assert choose(replace(persons, public_rows=2_000), epsilon=1, delta=DELTA).name == "independent"


@pytest.mark.parametrize("epsilon", [0.03, 1.0, 10.0])
@pytest.mark.parametrize("delta", [0.0, 1e-6])
def test_the_rule_of_thumb_is_at_most_so_far_above_the_noise_that_would_be_charged(
    epsilon: float, delta: float
) -> None:
    schema = numbers(6)
    parts = [Part(tuple(f"table {i}" for i in range(6)), 1.0)]
    event = divide(parts, schema, epsilon=epsilon, delta=delta)[0].event
    charged = event.sigma if isinstance(event, DiscreteGaussianDpEvent) else math.sqrt(2) * event.scale
    assert charged * (1 - 1e-4) <= auto.expected_noise(schema, epsilon=epsilon, delta=delta) <= 1.6 * charged


@given(
    columns=st.integers(1, 300),
    rows=st.none() | st.integers(1, 10**9),
    epsilon=st.floats(1e-300, 1e300) | st.just(math.inf),
    delta=st.just(0.0) | st.floats(1e-12, 0.5),
)
def test_every_choice_is_a_candidate_with_valid_options_and_reasons(
    columns: int, rows: int | None, epsilon: float, delta: float
) -> None:
    made = choose(numbers(columns, rows), epsilon=epsilon, delta=delta)
    assert made.name in CANDIDATES
    assert made.reasons
    assert all(r.endswith(".") and len(r) < 200 for r in made.reasons)
    assert create(made.name, epsilon=epsilon, delta=delta, **made.options).plugin_name() == made.name
    assert Choice.from_json(made.to_json()) == made


@given(rows=st.integers(1, 10**7), epsilon=st.floats(1e-3, 100))
def test_more_rows_never_take_dependence_away(rows: int, epsilon: float) -> None:
    ranks = [
        CANDIDATES.index(choose(numbers(7, r), epsilon=epsilon, delta=DELTA).name) for r in (rows, rows + 1, 2 * rows)
    ]
    assert ranks == sorted(ranks)


def test_wrong_budgets_are_refused() -> None:
    with pytest.raises(UsageError, match="delta must be given"):
        choose(numbers(1), epsilon=1)
    with pytest.raises(UsageError, match="epsilon"):
        choose(SCHEMA, epsilon=-1, delta=DELTA)


# -------------------------------------------------------------------------------------------------- public facts only


def test_the_choice_is_made_without_opening_the_table() -> None:
    made, ledger = create("auto", epsilon=2.0, delta=DELTA), account(epsilon=1.0)
    with pytest.raises(BudgetExceededError):
        made.fit(Closed(), SCHEMA, ledger=ledger, dataset="d")
    plan = made.plan(SCHEMA)
    assert (plan.generator, plan.spends) == ("auto", made.plan(SCHEMA).spends)


def test_the_choice_does_not_depend_on_rows() -> None:
    epsilon = epsilon_for("mst")
    wanted = choose(SCHEMA, epsilon=epsilon, delta=DELTA)
    assert choose(replace(SCHEMA, public_rows=40), epsilon=epsilon, delta=DELTA).name == "independent"
    first, second = create("auto", epsilon=epsilon, delta=DELTA), create("auto", epsilon=epsilon, delta=DELTA)
    first.fit(FRAME, SCHEMA, ledger=account(), dataset="d")
    second.fit(FRAME.head(40) * 0 + 9, SCHEMA, ledger=account(), dataset="d")
    assert isinstance(first, Auto)
    assert isinstance(second, Auto)
    assert first.choice == second.choice == wanted
    assert first.statement.events == second.statement.events


def test_a_draft_is_refused_by_the_plan() -> None:
    draft = replace(SCHEMA, draft=True)
    assert choose(draft, epsilon=1, delta=DELTA).name in CANDIDATES
    with pytest.raises(SchemaError, match="draft"):
        create("auto", epsilon=1, delta=DELTA).plan(draft)


# ------------------------------------------------------------------------------------------- as the one that is chosen


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_price_and_the_rows_are_those_of_the_chosen_generator(name: str) -> None:
    epsilon = epsilon_for(name)
    with seeded_noise_for_tests(3):
        made = fitted(epsilon, random_state=5)
    with seeded_noise_for_tests(3):
        direct = create(name, epsilon=epsilon, delta=DELTA, random_state=5, **made.choice.options)
        direct.fit(FRAME, SCHEMA, ledger=account(), dataset="d")
    assert (made.choice.name, made.chosen.plugin_name()) == (name, name)
    assert made.statement == direct.statement
    pd.testing.assert_frame_equal(made.sample(50), direct.sample(50))


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_loaded_model_is_the_one_that_was_saved(name: str, tmp_path: Path) -> None:
    made = fitted(epsilon_for(name), random_state=5)
    made.save(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, Auto)
    assert (again.choice, again.statement, again.get_params()) == (made.choice, made.statement, made.get_params())
    pd.testing.assert_frame_equal(again.sample(80), made.sample(80))
    again.save(tmp_path / "twice")
    assert (tmp_path / "twice" / "model.json").read_bytes() == (tmp_path / "model.json").read_bytes()


def test_a_saved_choice_holds_even_where_the_rules_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fitted(epsilon_for("mst"), random_state=5)
    made.save(tmp_path)
    monkeypatch.setattr(auto, "PAIRS_FROM", 1e12)
    again = load(tmp_path)
    assert isinstance(again, Auto)
    assert again.choice.name == "mst"
    pd.testing.assert_frame_equal(again.sample(80), made.sample(80))


def test_the_fit_does_what_its_plan_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    made = create("auto", epsilon=epsilon_for("mst"), delta=DELTA)
    learned = made._learn

    def later(rows: Any, plan: Any) -> None:
        monkeypatch.setattr(auto, "PAIRS_FROM", 1e12)  # as a schema does whose bounds were learned in between
        learned(rows, plan)

    monkeypatch.setattr(made, "_learn", later)
    made.fit(FRAME, SCHEMA, ledger=account(), dataset="d")
    assert isinstance(made, Auto)
    assert made.choice.name == "mst"


def test_planning_another_table_leaves_a_fit_alone() -> None:
    made = fitted(epsilon_for("mst"))
    made.plan(numbers(1, rows=50))
    assert made.choice.name == "mst"
    assert len(made.sample(10)) == 10


def test_before_a_fit_nothing_is_chosen() -> None:
    made = create("auto", epsilon=1, delta=DELTA)
    assert isinstance(made, Auto)
    for ask in (lambda: made.choice, lambda: made.chosen, lambda: made.sample(3), lambda: made.settings()):
        with pytest.raises(UsageError, match="not fitted"):
            ask()
    again = fitted().set_params(random_state=3)
    with pytest.raises(UsageError, match="not fitted"):
        again.sample(3)


def test_progress_is_that_of_the_chosen_generator() -> None:
    told: list[str] = []
    fitted(epsilon_for("mst"), progress=lambda stage, share: told.append(stage))
    assert "choosing and counting pairs" in told


def test_expected_seconds_are_those_of_the_chosen_generator() -> None:
    made = create("auto", epsilon=epsilon_for("aim"), delta=DELTA)
    aim: Any = create("aim", epsilon=1, delta=DELTA)
    assert isinstance(made, Auto)
    assert made.expected_seconds(SCHEMA) == aim.expected_seconds(SCHEMA)
    assert made.expected_seconds(numbers(1)) is None


def test_every_candidate_keeps_constraints() -> None:
    assert all(getattr(generators.get(name), "keeps_constraints", False) for name in CANDIDATES)


@pytest.mark.parametrize("epsilon", [0.05, math.inf])
def test_constraints_hold_whatever_is_chosen(epsilon: float) -> None:
    schema, ledger = ruled_schema(), account(ruled_schema())
    made = create("auto", epsilon=epsilon, delta=DELTA)
    made.fit(ruled_table(200), schema, ledger=ledger, dataset="d")
    sample = made.sample(100)
    assert (sample["admitted"] <= sample["treated"]).loc[sample["treated"].notna()].all()
    assert len(choose(schema, epsilon=epsilon, delta=DELTA).reasons) == 3


@pytest.mark.parametrize(
    ("schema", "epsilon", "delta"),
    [(numbers(1), 1.0, DELTA), (numbers(3, rows=9_000), 1.0, 0.0), (numbers(3), math.inf, None)],
    ids=["one column", "delta 0", "not private"],
)
def test_odd_budgets_and_tables_fit(schema: Schema, epsilon: float, delta: float | None) -> None:
    ledger = Ledger(":memory:")
    ledger.open("d", epsilon=1.0, delta=delta or 0.0)
    made = create("auto", epsilon=epsilon, delta=delta)
    made.fit(FRAME[list(schema.names)], schema, ledger=ledger, dataset="d")
    assert len(made.sample(7)) == 7


# ------------------------------------------------------------------------------------------------------- what is shown


def test_a_release_says_what_was_chosen_and_why(tmp_path: Path) -> None:
    ledger = account()
    out = tmp_path / "release"
    epsilon = epsilon_for("mst")
    made = pipeline.synthesize(
        FRAME, SCHEMA, generator="auto", epsilon=epsilon, delta=DELTA, ledger=ledger, dataset="d", out=out
    )
    because = " ".join(choose(SCHEMA, epsilon=epsilon, delta=DELTA).reasons)
    assert made.provenance.generator == "auto"
    assert made.provenance.options == {"random_state": None, "chosen": "mst", "because": because}
    said = json.loads((out / "report.json").read_text())["provenance"]["options"]
    assert (said["chosen"], said["because"]) == ("mst", because)
    assert "chosen = mst" in (out / "report.html").read_text()
    assert "chosen = mst" in (out / "report.md").read_text()
    assert verify(out, ledger=ledger)


def test_options_of_the_chosen_generator_are_shown_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Choice("mst", {"cells": 5}, ("A test says so.",))
    monkeypatch.setattr(auto, "choose", lambda schema, **budget: chosen)
    made = fitted()
    assert made.chosen.get_params()["cells"] == 5
    assert made.settings() == {
        "random_state": None, "chosen": "mst", "mst cells": 5, "because": "A test says so."
    }  # fmt: skip


def test_names_from_the_schema_stay_out_of_the_reasons() -> None:
    named = Schema(columns=(Categorical(name="secret", categories=("a", "b")), Integer(name="other", low=0, high=3)))
    assert not [r for r in choose(named, epsilon=1, delta=DELTA).reasons if "secret" in r]
