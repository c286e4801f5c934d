"""What a plan says: the price a fit is charged, time from a few steps, and when there is too little to learn from."""

from __future__ import annotations

import dataclasses
import inspect
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import tabveil as tv
from tabveil import accounting, planning
from tabveil.accounting import Spend
from tabveil.columns import Boolean, Categorical, Date, Decimal, Identifier, Integer
from tabveil.errors import SchemaError, UsageError
from tabveil.generators import generators
from tabveil.generators.auto import expected_noise
from tabveil.planning import Forecast, least_epsilon, made_up, priced
from tabveil.schema import Schema

A = Integer(name="a", low=0, high=9)
B = Categorical(name="b", categories=("x", "y", "z"), missing=("",))
C = Boolean(name="c")
SCHEMA = Schema(columns=(A, B, C))
PUBLIC = dataclasses.replace(SCHEMA, public_rows=500)
DEEP = {"tvae", "ctgan", "pretrained_lm"}


def create(name: str, **options: Any) -> Any:
    if name in DEEP:
        pytest.importorskip("torch", reason="the extra deep is not installed")
    return tv.create(name, epsilon=1.0, delta=1e-5, **options)


@pytest.mark.parametrize("name", generators.names())
def test_it_takes_no_table_and_says_the_price_of_the_fit(name: str) -> None:
    made = create(name)
    forecast = tv.plan(SCHEMA, generator=name, epsilon=1.0, delta=1e-5, rows=500, timed=False)
    spends = made.plan(SCHEMA).spends
    events = [accounting.event_to_dict(s.event) | {"label": s.label, "count": s.count} for s in spends]
    assert [s["event"] | {"label": s["label"], "count": s["count"]} for s in forecast.spends] == events
    assert forecast.cost == made.plan(SCHEMA).cost <= 1.0
    assert not {"table", "data", "frame"} & set(inspect.signature(planning.plan).parameters)


def test_it_is_what_a_fit_is_charged() -> None:
    made, ledger = create("independent"), tv.Ledger(":memory:")
    ledger.open("t", epsilon=1.0, delta=1e-5)
    made.fit(made_up(SCHEMA, 300), SCHEMA, ledger=ledger, dataset="t")
    forecast = tv.plan(SCHEMA, generator="independent", epsilon=1.0, delta=1e-5, timed=False)
    charged = [{k: v for k, v in e.items() if k not in ("label", "count")} for e in made.statement.events]
    assert [s["event"] for s in forecast.spends] == charged
    assert forecast.cost == made.statement.epsilon


@pytest.mark.parametrize("rows", [None, 10, 10_000_000])
def test_the_row_count_moves_no_price(rows: int | None) -> None:
    forecast = tv.plan(SCHEMA, epsilon=1.0, delta=1e-5, rows=rows, timed=False)
    kept = [{k: v for k, v in s.items() if k != "signal"} for s in forecast.spends]
    without = tv.plan(SCHEMA, epsilon=1.0, delta=1e-5, timed=False)
    assert kept == [{k: v for k, v in s.items() if k != "signal"} for s in without.spends]
    assert forecast.rows_are == ("private" if rows is None else "assumed")


def test_a_training_step_in_plain_numbers() -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    spend = Spend("training", PoissonSampledDpEvent(0.05, GaussianDpEvent(4.0)), 300)
    shown = priced(spend, rows=24_000, contributions=3)
    assert (shown["count"], shown["noise"], shown["rate"]) == (300, 4.0, 0.05)
    assert shown["signal"] == pytest.approx(0.05 * 8_000 / 4.0)  # 8,000 persons of 3 rows
    assert priced(spend, rows=None, contributions=1)["signal"] is None


def test_too_little_is_said_with_what_would_be_enough() -> None:
    """What the sentence asks for is enough, and 3 % less is not."""
    small = tv.plan(SCHEMA, epsilon=0.01, delta=1e-5, rows=2_000, timed=False)
    assert small.enough is False
    assert small.verdict.startswith("Too little to learn from")
    assert small.strength == pytest.approx(2_000 / expected_noise(SCHEMA, epsilon=0.01, delta=1e-5))
    noise = 2_000 / small.least_strength
    enough = least_epsilon(SCHEMA, delta=1e-5, noise=noise)
    assert f"epsilon of about {planning._up(enough)}" in small.verdict
    for epsilon, answer in ((enough, True), (0.97 * enough, False)):
        assert tv.plan(SCHEMA, epsilon=epsilon, delta=1e-5, rows=2_000, timed=False).enough is answer
    needed = math.ceil(small.least_strength * expected_noise(SCHEMA, epsilon=0.01, delta=1e-5))
    assert f"{needed:,} rows" in small.verdict
    assert tv.plan(SCHEMA, epsilon=0.01, delta=1e-5, rows=needed, timed=False).enough


@pytest.mark.parametrize("delta", [1e-5, 0.0])
def test_fewer_columns_are_advised_where_they_help(delta: float) -> None:
    wide = Schema(columns=tuple(Integer(name=f"n{i}", low=0, high=9) for i in range(40)))
    given: dict[str, Any] = {"epsilon": 1.0, "delta": delta, "timed": False}
    rows = math.ceil(90 * expected_noise(wide, epsilon=1.0, delta=delta))
    said = tv.plan(wide, rows=rows, **given).verdict
    fewer = int(said.split(" of the 40 columns")[0].rsplit(" ", 1)[1])
    assert 2 <= fewer < 40
    assert tv.plan(dataclasses.replace(wide, columns=wide.columns[:fewer]), rows=rows, **given).enough
    assert "use independent" in said


def test_without_a_row_count_nothing_is_claimed() -> None:
    forecast = tv.plan(SCHEMA, generator="independent", epsilon=1.0, delta=1e-5)
    assert (forecast.rows, forecast.enough, forecast.strength, forecast.seconds) == (None, None, None, None)
    assert "declares no row count" in forecast.verdict
    assert "row count" in forecast.timing


def test_auto_says_what_it_chooses_and_why() -> None:
    forecast = tv.plan(PUBLIC, generator="auto", epsilon=0.01, delta=1e-5, timed=False)
    assert (forecast.generator, forecast.fits_as) == ("auto", "independent")
    assert any("rows per standard deviation" in note for note in forecast.notes)


def test_nothing_private_is_enough() -> None:
    forecast = tv.plan(SCHEMA, epsilon=math.inf, rows=100, timed=False)
    assert (forecast.cost, forecast.spends, forecast.enough) == (math.inf, (), True)
    assert Forecast.from_json(forecast.to_json()) == forecast


def test_a_delta_above_one_row_is_pointed_out() -> None:
    forecast = tv.plan(SCHEMA, epsilon=1.0, delta=1e-2, rows=500, timed=False)
    assert any("delta is above 1 / rows" in note for note in forecast.notes)


# -------------------------------------------------------------------------------------------------------------- seconds
class Clock:
    """A generator whose every step takes two seconds, and all beside them five, by a clock of its own."""

    now = 0.0
    seen: dict[str, Any]
    local = frozenset({"progress"})

    def __init__(self, progress: Any = None, steps: int = 0, rate: float = 0.0) -> None:
        self.progress, self.steps, self.rate = progress, steps, rate
        self.epsilon, self.delta = math.inf, 0.0

    def get_params(self) -> dict[str, Any]:
        return {"progress": self.progress, "steps": self.steps, "rate": self.rate}

    def shorter(self, steps: int, rate: float) -> dict[str, Any]:
        return {"steps": steps, "rate": rate}

    def fit(self, table: pd.DataFrame, schema: Schema) -> None:
        Clock.seen = {"rows": len(table), "steps": self.steps, "rate": self.rate}
        Clock.now += 4.0
        for i in range(self.steps):
            Clock.now += 2.0 if i else 50.0  # the first step of a process takes longer
            self.progress(f"training: {self.steps - i} steps left", i / self.steps)
        Clock.now += 1.0


@pytest.mark.parametrize(
    ("training", "rows", "seen", "seconds"),
    [
        ((300, 0.05), 20_000, {"rows": 20_000, "steps": 8, "rate": 0.05}, 55 + 299 * 2),
        ((300, 0.05), 100_000, {"rows": 20_000, "steps": 8, "rate": 0.25}, 55 + 299 * 2),
        ((300, 0.05), 500, {"rows": 500, "steps": 8, "rate": 0.05}, 55 + 299 * 2),
        ((300, 0.5), 800_000, {"rows": 200_000, "steps": 8, "rate": 1.0}, 55 + 7 * 2 + (2 * 300 - 8) * 2),
        ((0, 1.0), 800_000, {"rows": 20_000, "steps": 0, "rate": 0.0}, 5),
    ],
)
def test_seconds_follow_from_a_few_steps_on_batches_as_large(
    monkeypatch: pytest.MonkeyPatch, training: tuple[int, float], rows: int, seen: dict[str, Any], seconds: float
) -> None:
    monkeypatch.setattr(planning, "time", SimpleNamespace(monotonic=lambda: Clock.now))
    assert planning._rehearsed(Clock(), SCHEMA, planning._Batch.of(training, rows)) == pytest.approx(seconds)  # type: ignore[arg-type]
    assert Clock.seen == pytest.approx(seen)


@pytest.mark.parametrize("name", generators.names())
def test_every_generator_says_how_long_or_why_it_cannot(name: str) -> None:
    options = dict(create(name).quick)
    forecast = tv.plan(PUBLIC, generator=name, epsilon=1.0, delta=1e-5, options=options)
    assert forecast.timing.endswith(".")
    assert (forecast.seconds is None) == (forecast.fits_as == "mst")
    assert forecast.seconds is None or 0 < forecast.seconds < 600


def test_a_rehearsal_leaves_the_folder_of_checkpoints_alone(tmp_path: Path) -> None:
    options = {**create("tvae").quick, "checkpoints": str(tmp_path / "states")}
    assert tv.plan(PUBLIC, generator="tvae", epsilon=1.0, delta=1e-5, options=options).seconds is not None
    assert not (tmp_path / "states").exists()


def test_what_is_to_be_learned_is_not_made_up() -> None:
    unknown = dataclasses.replace(PUBLIC, columns=(*PUBLIC.columns, Categorical(name="k", learn=True)))
    forecast = tv.plan(unknown, generator="independent", epsilon=1.0, delta=1e-5)
    assert forecast.seconds is None
    assert "leaves to be learned" in forecast.timing
    assert any(s["mechanism"] == "categories above a threshold" for s in forecast.spends)


def test_made_up_rows_fit_every_kind_of_column_and_persons() -> None:
    import datetime as dt

    schema = Schema(
        columns=(
            Identifier(name="who"),
            A,
            B,
            C,
            Decimal(name="d", low=0.0, high=9.99, decimals=2, missing=("",)),
            Date(name="e", low=dt.date(2020, 1, 1), high=dt.date(2020, 12, 31)),
        ),
        privacy_unit="who",
        max_rows_per_unit=3,
    )
    frame = made_up(schema, 100)
    assert frame.equals(made_up(schema, 100))
    assert list(frame) == list(schema.names)
    assert frame["who"].value_counts().max() == 3
    forecast = tv.plan(schema, generator="independent", epsilon=1.0, delta=1e-5, rows=200)
    assert forecast.seconds is not None
    assert "person" in forecast.unit


# ------------------------------------------------------------------------------------------------------------- mistakes
def test_mistakes_are_refused() -> None:
    given: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-5, "timed": False}
    with pytest.raises(UsageError, match="another row count"):
        tv.plan(PUBLIC, rows=400, **given)
    assert tv.plan(PUBLIC, rows=500, **given).rows_are == "public"
    for rows in (0, -1, 2.5, True):
        with pytest.raises(UsageError, match="rows must be a whole number"):
            tv.plan(SCHEMA, rows=rows, **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no option"):
        tv.plan(SCHEMA, options={"nosuch": 1}, **given)
    with pytest.raises(UsageError, match="delta must be given"):
        tv.plan(SCHEMA, epsilon=1.0)
    with pytest.raises(SchemaError):
        tv.plan(dataclasses.replace(SCHEMA, draft=True), **given)
