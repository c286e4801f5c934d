"""What every plugin must survive, as checks anyone can run on their own: scikit-learn's `check_estimator` for
privacy.

    from tabveil.conformance import check_generator
    check_generator("mst")

Each check is a function of a generator's name; it returns nothing or raises ConformanceError with one sentence. The
tables are made up here, so that a failure says nothing about anybody.

Privacy: these checks run on made-up tables only. They can show that a promise is broken, never that it is kept.
"""

from __future__ import annotations

import datetime as dt
import gc
import logging
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from tabveil import accounting, learning
from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, ExponentialMechanismDpEvent, Spend
from tabveil.columns import Boolean, Categorical, Column, Date, Datetime, Decimal, Identifier, Integer
from tabveil.constraints import FixedCombinations, Implied, Inequality, Sum
from tabveil.encoding import Axis, conform, size
from tabveil.enforcing import violations
from tabveil.errors import BudgetExceededError, TabveilError, UsageError
from tabveil.generators import generators
from tabveil.generators.base import Generator, create, load
from tabveil.ledger import Ledger
from tabveil.mechanisms import Contest, PrivateRows, Question
from tabveil.schema import Schema
from tabveil.tables import Table, open_table

SENTINEL = "Qx7-sentinel-Zk"
"""A cell value that must turn up nowhere."""

SENTINEL_NUMBER = 86_420
"""A number that must turn up nowhere: only one row holds it, in a column of small numbers."""

ROWS = 1_009
"""A row count that nothing else is likely to have."""

ALPHA = 1e-9
FITS = 20
"""Fits of each of two tables in the test at epsilon = 1e-6: 20 against 20 reach a p-value of 7e-12."""


class ConformanceError(AssertionError):
    """A plugin breaks what every plugin must keep."""


def _require(kept: bool, rule: str) -> None:
    if not kept:
        raise ConformanceError(rule)


# ------------------------------------------------------------------------------------------------------------- tables
def mixed_schema(**overrides: Any) -> Schema:
    """One column of every kind, missing values among them, and names that break naive code."""
    columns: tuple[Column, ...] = (
        Identifier(name="patient id", pattern="P{n:05d}"),
        Categorical(name="colour, of 🎈", categories=("red", "green", "blue"), catch_all="other"),
        Categorical(name="grade", categories=("low", "mid", "high"), ordered=True, missing=("",), invalid="missing"),
        Boolean(name='is "it"', missing=("",), invalid="missing"),
        Integer(name="small", low=0, high=30),
        Integer(name="wide", low=-100_000, high=100_000, missing=("",)),
        Decimal(name="price", low=0.0, high=999.99, decimals=2),
        Date(name="born", low=dt.date(1920, 1, 1), high=dt.date(2020, 12, 31), missing=("",)),
        Datetime(name="seen", low=dt.datetime(2020, 1, 1), high=dt.datetime(2020, 12, 31), resolution=3600),
    )
    return Schema(columns=columns, **overrides)


def learned_schema() -> Schema:
    """`mixed_schema` with everything left out that a fit can learn under its budget."""
    left_out = (
        Categorical(name="colour, of 🎈", learn=True),
        Categorical(name="grade", learn=True, missing=("",), invalid="missing"),
        Integer(name="small", learn=True),
        Integer(name="wide", learn=True),
        Decimal(name="price", learn=True, low=0.0),
        Date(name="born", learn=True),
        Datetime(name="seen", learn=True, resolution=3600),
    )
    learned = {c.name: c for c in left_out}
    return Schema(columns=tuple(learned.get(c.name, c) for c in mixed_schema().columns))


def mixed_table(rows: int, seed: int = 0) -> pd.DataFrame:
    """`rows` made-up rows for `mixed_schema`, with missing cells, an inflated value and dependent columns."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 31, rows)
    frame = pd.DataFrame(
        {
            "patient id": [f"real-{i}" for i in range(rows)],
            "colour, of 🎈": np.where(small > 20, "red", rng.choice(["green", "blue"], rows)),
            "grade": pd.Series(rng.choice(["low", "mid", "high"], rows)).where(rng.random(rows) > 0.1, None),
            'is "it"': pd.array(rng.random(rows) > 0.7, dtype="boolean"),
            "small": small,
            "wide": np.where(rng.random(rows) < 0.5, 0, rng.integers(-100_000, 100_000, rows)),
            "price": np.round(rng.gamma(2.0, 50.0, rows), 2),
            "born": pd.to_datetime("1960-01-01") + pd.to_timedelta(rng.integers(0, 20_000, rows), unit="D"),
            "seen": pd.to_datetime("2020-03-01") + pd.to_timedelta(rng.integers(0, 5_000, rows), unit="h"),
        }
    )
    frame.loc[frame.index[: rows // 20], "born"] = pd.NaT
    return frame


def ruled_schema() -> Schema:
    """Every kind of constraint, over dates that may be missing, numbers, and listed values."""
    first, last = dt.date(2020, 1, 1), dt.date(2020, 12, 31)
    columns: tuple[Column, ...] = (
        Date(name="admitted", low=first, high=last),
        Date(name="treated", low=first, high=last, missing=("",)),
        Date(name="discharged", low=first, high=last, missing=("",)),
        Integer(name="least", low=0, high=90),
        Integer(name="low", low=10, high=100),
        Integer(name="high", low=20, high=90),
        Categorical(name="town", categories=("a", "b", "c", "d")),
        Categorical(name="county", categories=("x", "y"), missing=("",), invalid="missing"),
        Boolean(name="capital"),
        Integer(name="rank", low=1, high=9),
        Integer(name="whole", low=0, high=50),
        Decimal(name="part", low=0.0, high=50.0, decimals=2, missing=("",)),
        Decimal(name="total", low=20.0, high=80.0, decimals=2, missing=("",)),
    )
    towns = (("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"))
    return Schema(
        columns=columns,
        constraints=(
            Inequality(low="admitted", high="treated"),
            Inequality(low="treated", high="discharged", strict=True),
            Inequality(low="least", high="low"),
            Inequality(low="least", high="high"),
            FixedCombinations(columns=("town", "county"), allowed=towns),
            Implied(column="capital", given="county", mapping=(("x", "false"),)),
            Implied(column="rank", given="town", mapping=tuple(zip("abcd", (4, 2, 9, 1), strict=True))),
            Sum(total="total", parts=("whole", "part")),
        ),
    )


def ruled_table(rows: int, seed: int = 0) -> pd.DataFrame:
    """`rows` made-up rows for `ruled_schema`, every third of which breaks its constraints."""
    rng = np.random.default_rng(seed)
    day = pd.to_datetime("2020-01-01") + pd.to_timedelta(rng.integers(0, 300, rows), unit="D")
    wrong, stay = np.arange(rows) % 3 == 0, pd.to_timedelta(rng.integers(0, 20, rows), unit="D")
    whole, part = rng.integers(0, 51, rows), np.round(rng.uniform(0, 50, rows), 2)
    number = rng.integers(20, 90, rows)
    frame = pd.DataFrame(
        {
            "admitted": day,
            "treated": day + stay,
            "discharged": day + (2 * stay).where(~wrong, -stay) + pd.Timedelta(days=1),
            "least": number,
            "low": np.where(wrong, 10, number),
            "high": number + rng.integers(0, 5, rows),
            "town": rng.choice(list("abcd"), rows),
            "county": rng.choice(["x", "y"], rows),
            "capital": rng.random(rows) > 0.5,
            "rank": rng.integers(1, 10, rows),
            "whole": whole,
            "part": part,
            "total": whole + part + wrong,
        }
    )
    frame.loc[frame.index % 5 == 1, ["treated", "part"]] = None
    return frame


def edge_tables() -> Iterator[tuple[str, pd.DataFrame, Schema]]:
    """Tables that break naive code, by name."""
    for rows in (0, 1, 5):
        yield f"{rows} rows", mixed_table(rows), mixed_schema()
    number = Integer(name="n", low=0, high=9, missing=("",))
    label = Categorical(name="c", categories=("a", "b"), missing=("",), invalid="missing")
    gone = pd.DataFrame({"n": [None] * 40, "c": [None] * 40})
    yield "all missing", gone, Schema(columns=(number, label))
    yield "constant", pd.DataFrame({"n": [3] * 40, "c": ["a"] * 40}), Schema(columns=(number, label))
    yield "one column", pd.DataFrame({"n": [1, 2, 3] * 9}), Schema(columns=(number,))
    yield "one value", pd.DataFrame({"n": [7] * 9}), Schema(columns=(Integer(name="n", low=7, high=7),))
    yield "numbers only", *_many(6, Integer(name="like", low=0, high=50))
    yield "categories only", *_many(6, Categorical(name="like", categories=tuple(map(str, range(51)))))
    yield "200 columns", *_many(200, Integer(name="like", low=0, high=50))
    yield "5,000 categories", *_many(2, Categorical(name="like", categories=tuple(map(str, range(5_000)))))


def _many(count: int, like: Integer | Categorical) -> tuple[pd.DataFrame, Schema]:
    rng = np.random.default_rng(0)
    names = [f"column {i}" for i in range(count)]
    data = rng.integers(0, 51, (60, count))
    frame = pd.DataFrame(data if isinstance(like, Integer) else data.astype(str), columns=names)
    return frame, Schema(columns=tuple(_renamed(like, n) for n in names))


def _renamed(column: Integer | Categorical, name: str) -> Column:
    if isinstance(column, Integer):
        return Integer(name=name, low=column.low, high=column.high)
    return Categorical(name=name, categories=column.categories)


# -------------------------------------------------------------------------------------------------------- generators
class SpyTable(Table):
    """A table that remembers what the ledger said whenever its rows were asked for."""

    def __init__(self, frame: pd.DataFrame, ledger: Ledger, dataset: str) -> None:
        self._inner = open_table(frame)
        self._ledger, self._dataset = ledger, dataset
        self.spent_when_read: list[float] = []
        super().__init__(self._inner.columns, chunk_rows=self._inner.chunk_rows)

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        self.spent_when_read.append(self._ledger.statement(self._dataset).epsilon)
        yield from self._inner.chunks(columns)


def account(epsilon: float, delta: float) -> Ledger:
    """A fresh ledger in memory whose account "conformance" holds (epsilon, delta)."""
    ledger = Ledger(":memory:")
    ledger.open("conformance", epsilon=epsilon, delta=delta)
    return ledger


def fitted(
    name: str, table: Any, schema: Schema, *, epsilon: float = 1.0, delta: float = 1e-6, **options: Any
) -> Generator:
    """A generator fitted on an account of its own."""
    made = create(name, epsilon=epsilon, delta=delta, **options)
    return made.fit(table, schema, ledger=account(epsilon, delta), dataset="conformance")


@cache
def _usual(name: str) -> Generator:
    """One fit that checks which do not change it share."""
    return fitted(name, mixed_table(ROWS), mixed_schema())


def check_charges_before_reading(name: str) -> None:
    """No row is read before the ledger has committed the price."""
    ledger = account(1.0, 1e-6)
    spy = SpyTable(mixed_table(50), ledger, "conformance")
    create(name, epsilon=1.0, delta=1e-6).fit(spy, mixed_schema(), ledger=ledger, dataset="conformance")
    _require(bool(spy.spent_when_read), "the fit never read the table")
    _require(min(spy.spent_when_read) > 0, "rows were read before the price was committed")


def check_refused_charge_leaves_rows_unread(name: str) -> None:
    """A fit that the account cannot pay reads nothing and charges nothing."""
    ledger = account(0.5, 1e-6)
    spy = SpyTable(mixed_table(50), ledger, "conformance")
    try:
        create(name, epsilon=1.0, delta=1e-6).fit(spy, mixed_schema(), ledger=ledger, dataset="conformance")
    except BudgetExceededError:
        _require(not spy.spent_when_read, "rows were read although the charge was refused")
        _require(ledger.statement("conformance").epsilon == 0, "a refused fit was charged")
    else:
        raise ConformanceError("a fit went over its budget")


def check_second_fit_is_refused(name: str) -> None:
    """What one fit has spent, another cannot spend again."""
    ledger = account(1.0, 1e-6)
    made = create(name, epsilon=1.0, delta=1e-6)
    made.fit(mixed_table(50), mixed_schema(), ledger=ledger, dataset="conformance")
    try:
        made.fit(mixed_table(50), mixed_schema(), ledger=ledger, dataset="conformance")
    except BudgetExceededError:
        return
    raise ConformanceError("the same budget was spent twice")


def check_never_above_budget(name: str) -> None:
    """The stated epsilon is what the events cost and at most what was allowed, plan and ledger agreeing."""
    for epsilon, delta in ((0.1, 1e-6), (1.0, 1e-9), (10.0, 1e-5), (1.0, 0.0)):
        ledger = account(epsilon, delta)
        made = create(name, epsilon=epsilon, delta=delta)
        plan = made.plan(mixed_schema())
        _require(plan.cost <= epsilon, f"the plan costs more than epsilon {epsilon:g} at delta {delta:g}")
        made.fit(mixed_table(30), mixed_schema(), ledger=ledger, dataset="conformance")
        _require(made.statement.epsilon == plan.cost, "plan and statement name different prices")
        _require(abs(ledger.statement("conformance").epsilon - plan.cost) < 1e-9, "the ledger charged another price")


def check_obeys_schema(name: str) -> None:
    """Exactly n rows, the schema's columns, types, bounds, decimals and categories."""
    for rows in (0, 1, 7, 2_000):
        _require_schema(_usual(name).sample(rows), mixed_schema(), rows)


def _require_schema(sample: pd.DataFrame, schema: Schema, rows: int) -> None:
    _require(len(sample) == rows, f"asked for {rows} rows, got {len(sample)}")
    _require(tuple(sample.columns) == schema.names, "columns differ from the schema's")
    try:
        pd.testing.assert_frame_equal(conform(schema.columns, sample), sample, check_freq=False)
    except (AssertionError, TabveilError) as error:
        raise ConformanceError("a synthetic value does not obey its column") from error
    for column in schema.columns:
        if not isinstance(column, Identifier) and not column.nullable:
            _require(not sample[column.name].isna().any(), f"{column.name!r} is missing where it never may be")
        if isinstance(column, Identifier):
            _require(sample[column.name].is_unique, f"{column.name!r} repeats")


def check_conditions(name: str) -> None:
    """Exactly n rows, all of which obey; what no row can obey is refused, and so is every condition by a generator that
    cannot condition exactly.
    """
    made, colour = _usual(name), "colour, of 🎈"
    where = {"small": (5, 12), colour: {"green", "blue"}, "born": (dt.date(1960, 1, 1), None)}
    if not made.conditional:
        _require_refused(made, where)
        return
    for rows in (0, 1, 2_000):
        sample = made.sample(rows, where=where)
        _require_schema(sample, mixed_schema(), rows)
        kept = (
            sample["small"].between(5, 12) & sample[colour].isin(["green", "blue"]) & (sample["born"] >= "1960-01-01")
        )
        _require(bool(kept.all()), "a row does not obey its conditions")
    impossible: tuple[Mapping[str, Any], ...] = (
        {"small": (31, None)},
        {colour: []},
        {"nowhere": 1},
        {"patient id": "P00001"},
    )
    for asked in impossible:
        _require_refused(made, asked)


def _require_refused(made: Generator, where: Mapping[str, Any]) -> None:
    try:
        made.sample(5, where=where)
    except UsageError:
        return
    raise ConformanceError("a condition that cannot be met exactly was not refused")


def check_edge_tables(name: str) -> None:
    """Tables that break naive code are fitted and sampled all the same."""
    for what, frame, schema in edge_tables():
        try:
            sample = fitted(name, frame, schema).sample(50)
            _require_schema(sample, schema, 50)
        except (ConformanceError, ArithmeticError, ValueError, IndexError, TabveilError) as error:
            raise ConformanceError(f"{what}: {type(error).__name__}: {error}") from error


def check_constraints(name: str) -> None:
    """Every sampled row obeys every constraint, whatever the rows and the noise; or the schema is refused."""
    schema = ruled_schema()
    asked_of = create(name, epsilon=1.0, delta=1e-6)
    if not asked_of.keeps_constraints:
        try:
            asked_of.plan(schema)
        except UsageError:
            return
        raise ConformanceError("constraints are neither kept nor refused")
    for epsilon, rows in ((1.0, 600), (0.01, 40), (1.0, 0)):
        made = fitted(name, ruled_table(rows), schema, epsilon=epsilon)
        for asked in (0, 1, 3_000):
            sample = made.sample(asked)
            _require_schema(sample, schema, asked)
            broken = [rule for rule, times in violations(schema, sample).items() if times]
            _require(not broken, f"a sampled row breaks the constraint {', '.join(broken)}")


def check_undeclared_category_never_appears(name: str) -> None:
    """A category that one row holds and the schema does not is in no output, whatever epsilon (trap A2)."""
    frame = mixed_table(200)
    frame["colour, of 🎈"] = frame["colour, of 🎈"].astype(object)
    frame.loc[3, "colour, of 🎈"] = SENTINEL
    for epsilon in (1.0, 1e6):
        sample = fitted(name, frame, mixed_schema(), epsilon=epsilon).sample(3_000)
        shown = set(sample["colour, of 🎈"])
        _require(shown <= {"red", "green", "blue", "other"}, "an undeclared category appeared")


def check_values_outside_bounds_are_clipped(name: str) -> None:
    """Bounds are the schema's, never learned (trap A1)."""
    frame = mixed_table(200)
    frame["small"] = frame["small"].astype(float) * 1e9
    frame.loc[0, "price"] = -1e300
    _require_schema(fitted(name, frame, mixed_schema(), epsilon=1e6).sample(2_000), mixed_schema(), 2_000)


def check_input_is_unchanged(name: str) -> None:
    """The table that was handed in is left as it was."""
    frame = mixed_table(100)
    before = frame.copy(deep=True)
    fitted(name, frame, mixed_schema())
    pd.testing.assert_frame_equal(frame, before)


def check_save_and_load(name: str) -> None:
    """A saved model samples as the fitted one does, from the same random_state."""
    made = _usual(name)
    with tempfile.TemporaryDirectory() as folder:
        made.save(folder)
        again = load(folder)
        files = sorted(p.name for p in Path(folder).iterdir())
    _require(all(f.endswith((".json", ".npz", ".safetensors")) for f in files), "a model file of an unknown format")
    for n in (0, 500):
        first, second = made.sample(n, random_state=3), again.sample(n, random_state=3)
        pd.testing.assert_frame_equal(first, second)
    _require(again.statement == made.statement, "the statement changed on the way through a file")
    _require(
        not made.sample(500, random_state=4).equals(made.sample(500, random_state=3)), "random_state has no effect"
    )


def check_noise_is_not_seeded(name: str) -> None:
    """Two fits with the same random_state differ: privacy noise comes from the operating system (trap A12)."""
    table = mixed_table(300)
    first, second = (fitted(name, table, mixed_schema(), random_state=1) for _ in range(2))
    states = [_flat(g._state()[0]) for g in (first, second)]
    _require(not np.array_equal(*states), "two fits with the same random_state learned the same: the noise is seeded")
    _require(first.statement.release, "a fit outside tests says NOT A RELEASE")


def _flat(arrays: Mapping[str, Any]) -> Any:
    return np.concatenate([np.ravel(np.asarray(a, dtype=np.float64)) for _, a in sorted(arrays.items())])


class _Deaf(PrivateRows):
    """Private rows that take every charge and then answer without looking."""

    _answers: np.random.Generator

    def counts(self, axes: Sequence[Axis], *, label: str) -> NDArray[np.int64]:
        self._take(label, DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent)
        return self._answers.geometric(0.02, tuple(a.size for a in axes))

    def choose(self, contest: Contest, allowed: Sequence[int], *, label: str) -> int:
        """Any candidate, but another one where anything that the contest says is different."""
        self._take(label, ExponentialMechanismDpEvent)
        weights = () if contest.weights is None else (contest.weights,)
        said = b"".join(np.asarray(a).tobytes() for a in (contest.handicaps, *weights, *contest.estimates))
        return allowed[(zlib.crc32(said) + int(self._answers.integers(len(allowed)))) % len(allowed)]

    def survey(self, questions: Sequence[Question]) -> list[NDArray[np.int64]]:
        for question in questions:
            self._take(question.label, DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent)
        return [self._answers.geometric(0.0005, q.bins) for q in questions]

    def categories(self, columns: Sequence[Categorical], *, labels: Sequence[str]) -> list[tuple[str, ...]]:
        for label in labels:
            self._take_selection(label)
        return [("one", "two") for _ in columns]


def check_learns_from_charged_answers_only(name: str) -> None:
    """Whatever two tables hold, the same charged answers make the same model: nothing else is read from them.

    Bounds, edges, categories or a row count taken from the rows themselves would differ (traps A1, A2, A10, A16).
    """
    lone = mixed_table(7, seed=1).astype({"small": object, "colour, of 🎈": object})
    lone.loc[0, ["small", "colour, of 🎈"]] = [10**9, SENTINEL]
    for schema in (mixed_schema(), learned_schema()):
        first, second = (_deafly(name, frame, schema) for frame in (mixed_table(150), lone))
        kept, other = first._state(), second._state()
        same = kept[0].keys() == other[0].keys() and all(np.array_equal(a, other[0][k]) for k, a in kept[0].items())
        same = same and first.schema == second.schema
        _require(same and kept[1] == other[1], "the fit learned from rows what it was not charged for")
        _require(first._default_rows() == second._default_rows(), "the row count is not from a charged answer")


def _deafly(name: str, frame: pd.DataFrame, schema: Schema) -> Generator:
    made = create(name, epsilon=1.0, delta=1e-6, random_state=1)
    plan = made.plan(schema)
    receipt = account(1.0, 1e-6).charge("conformance", plan.spends, label="deaf fit")
    rows = _Deaf(open_table(frame), schema, receipt)
    rows._answers = np.random.default_rng(0)
    made._schema = learning.resolve(schema, rows, plan.spends)
    made._learn(rows.under(made._schema), plan)
    return made


def check_holds_no_row(name: str) -> None:
    """A fitted generator refers to no table and to no array with one entry per row."""
    made = fitted(name, mixed_table(ROWS), mixed_schema())
    for thing in _reachable(made):
        _require(not isinstance(thing, pd.DataFrame | pd.Series | Table), "a fitted generator holds on to a table")
        if isinstance(thing, np.ndarray):
            _require(ROWS not in thing.shape, "a fitted generator holds an array with one entry per row")


def _reachable(start: object) -> Iterator[object]:
    """Everything `start` refers to, modules, classes and functions left out."""
    seen, waiting = {id(start)}, [start]
    while waiting:
        thing = waiting.pop()
        yield thing
        for other in gc.get_referents(thing):
            if id(other) not in seen and not isinstance(other, type | type(gc) | type(_require)):
                seen.add(id(other))
                waiting.append(other)


def check_sentinel_is_nowhere(name: str) -> None:
    """A planted value is found in no exception, log, repr, progress message, statement or saved file."""
    frame = mixed_table(200).astype({"colour, of 🎈": object, "small": object, "patient id": object})
    frame.loc[5, ["colour, of 🎈", "patient id"]] = SENTINEL
    frame.loc[6, "small"] = SENTINEL_NUMBER
    words: list[str] = []
    handler = _Listener(words)
    logging.getLogger().addHandler(handler)
    try:
        ledger = account(2.0, 1e-6)
        tell = {"progress": lambda stage, share: words.append(f"{stage} {share}")}
        made = create(name, epsilon=1.0, delta=1e-6, **tell)
        made.fit(frame, mixed_schema(), ledger=ledger, dataset="conformance")
        words += [repr(made), str(made), made.statement.to_json(), str(ledger.export("conformance"))]
        words += _refusals(name, frame)
        words += _files(made)
    finally:
        logging.getLogger().removeHandler(handler)
    for word in words:
        _require(SENTINEL not in word and str(SENTINEL_NUMBER) not in word, "a cell value left the table")


class _Listener(logging.Handler):
    def __init__(self, words: list[str]) -> None:
        super().__init__()
        self._words = words

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what was logged."""
        self._words.append(record.getMessage())


def _refusals(name: str, frame: pd.DataFrame) -> list[str]:
    """What a fit says when a column refuses a value."""
    columns = [
        Categorical(name=c.name, categories=("red", "green", "blue")) if c.name == "colour, of 🎈" else c
        for c in mixed_schema().columns
    ]
    try:
        fitted(name, frame, Schema(columns=tuple(columns)))
    except TabveilError as error:
        return [str(error), repr(error), repr(error.__cause__)]
    raise ConformanceError("a value that its column refuses was accepted")


def _files(made: Generator) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        made.save(folder)
        return [p.read_bytes().decode("latin-1") for p in Path(folder).iterdir()]


def check_not_private_is_said(name: str) -> None:
    """Epsilon inf needs no account, and everything that comes out says NOT PRIVATE."""
    made = create(name, epsilon=float("inf")).fit(mixed_table(200), mixed_schema())
    _require(made.statement.stamp == "NOT PRIVATE", "a fit without privacy does not say so")
    _require_schema(made.sample(300), mixed_schema(), 300)


def check_tiny_epsilon_says_nothing(name: str) -> None:
    """At epsilon = 1e-6 the output says nothing about which of two very different tables went in.

    The tables have 200 and 90 rows and share none, so by group privacy no test tells them apart with an advantage above
    290 * 1e-6. For every column, for the row count and for every bound, category
    and digit that is learned, FITS fits of one are ranked against FITS fits of the other (Mann
    & Whitney 1947, exact, ties broken by chance) at level ALPHA over all statistics together.
    """
    low, high = _opposites()
    seen = [[_statistics(name, table) for _ in range(FITS)] for table in (low, high)]
    _require_alike(np.array(seen[0]), np.array(seen[1]))


def _require_alike(first: NDArray[np.float64], second: NDArray[np.float64]) -> None:
    """Statistics, shape (FITS, statistics), that do not tell which of two tables they come from."""
    chance = np.random.default_rng()
    for i in range(first.shape[1]):
        both = np.append(first[:, i], second[:, i])
        # with ties scipy's exact law would be wrong, and its approximation never gets as low as ALPHA at this size
        ranks = np.argsort(np.lexsort((chance.random(len(both)), both)))
        p = stats.mannwhitneyu(ranks[:FITS], ranks[FITS:], method="exact").pvalue
        _require(not p < ALPHA / first.shape[1], "at epsilon 1e-6 the output tells which table went in")


OPPOSITE = Schema(
    columns=(
        Categorical(name="kind", categories=("a", "b", "c"), missing=("",), invalid="missing"),
        Boolean(name="flag"),
        Integer(name="count", low=0, high=50_000),
        Categorical(name="learned kind", learn=True),
        Decimal(name="learned amount", learn=True),
    )
)


def _opposites() -> tuple[pd.DataFrame, pd.DataFrame]:
    low = pd.DataFrame({"kind": ["a"] * 200, "flag": [False] * 200, "count": [0] * 200})
    high = pd.DataFrame({"kind": [None] * 90, "flag": [True] * 90, "count": [49_999] * 90})
    low = low.assign(**{"learned kind": "one", "learned amount": 0.25})
    several, large = [f"text {i % 3}" for i in range(90)], [None] * 45 + [-4e6] * 45
    return low, high.assign(**{"learned kind": several, "learned amount": large})


def _statistics(name: str, table: pd.DataFrame) -> list[float]:
    """What the output shows: shares, means, the row count, and of what was learned bounds, decimals, categories,
    missing.
    """
    made = fitted(name, table, OPPOSITE, epsilon=1e-6, delta=1e-9)
    sample, kind, amount = made.sample(500), made.schema["learned kind"], made.schema["learned amount"]
    parts = [float((sample["kind"] == "a").mean()), float(sample["flag"].mean()), float(made._default_rows())]
    parts += [float(sample[c].mean()) for c in ("count", "learned amount")]
    parts += [float(sample[c].isna().mean()) for c in ("kind", "learned kind", "learned amount")]
    return [*parts, float(size(kind)), *(float(getattr(amount, f)) for f in amount.learnable)]


# ------------------------------------------------------------------------------- bounds and categories left to a fit
def check_learning_is_in_the_price(name: str) -> None:
    """What a schema leaves to be learned is in the plan, under the same epsilon, and paid before a row is read."""
    for epsilon, delta in ((0.1, 1e-9), (10.0, 1e-5)):
        made = create(name, epsilon=epsilon, delta=delta)
        plan = made.plan(learned_schema())
        missing = set(learning.labels(learned_schema())) - {s.label for s in plan.spends}
        _require(not missing, "the plan leaves out what is to be learned")
        _require(plan.cost <= epsilon, f"with learning the plan costs more than epsilon {epsilon:g} at delta {delta:g}")
        ledger = account(epsilon, delta)
        spy = SpyTable(mixed_table(30), ledger, "conformance")
        made.fit(spy, learned_schema(), ledger=ledger, dataset="conformance")
        _require(min(spy.spent_when_read) > 0, "rows were read before the price was committed")
        spends = [Spend.from_dict(e) for e in made.statement.events]
        recomputed = accounting.epsilon(accounting.event_of(spends), delta)
        _require(recomputed == made.statement.epsilon <= epsilon, "the statement's events cost another epsilon")


def check_learning_needs_a_delta(name: str) -> None:
    """Without delta categories cannot be learned, and numbers can."""
    numbers_only = Schema(columns=(Integer(name="small", learn=True), Decimal(name="price", learn=True)))
    made = fitted(name, mixed_table(60)[["small", "price"]], numbers_only, delta=0.0)
    _require_schema(made.sample(20), made.schema, 20)
    try:
        create(name, epsilon=1.0, delta=0.0).plan(learned_schema())
    except UsageError:
        return
    raise ConformanceError("categories were to be learned with delta 0")


def check_obeys_learned_schema(name: str) -> None:
    """Samples obey the schema that the fit has completed, to the letter, whatever rows went in; saved, it stays so."""
    tables = {f"{rows} rows": mixed_table(rows) for rows in (0, 1, 5, ROWS)}
    tables["all missing"] = mixed_table(40).assign(**{c.name: None for c in learned_schema().unresolved})
    for what, frame in tables.items():
        made = fitted(name, frame, learned_schema())
        _require(not made.schema.unresolved, f"{what}: something was left unlearned")
        bought = [c.name for c in made.schema.columns if c.source == "charged"]
        _require(len(bought) == len(learned_schema().unresolved), f"{what}: learned columns do not say that they are")
        price = made.schema["price"]
        _require(isinstance(price, Decimal) and price.low == 0.0, f"{what}: a declared bound was replaced")
        _require_schema(made.sample(50, random_state=2), made.schema, 50)
    with tempfile.TemporaryDirectory() as folder:
        made.save(folder)
        again = load(folder)
    _require(again.schema == made.schema, "the learned schema changed on the way through a file")
    pd.testing.assert_frame_equal(made.sample(50, random_state=2), again.sample(50, random_state=2))


def check_rare_values_are_not_learned(name: str) -> None:
    """A category, a bound and digits that one row holds are in no schema, sample, statement or file.

    Noise puts a bound an octave or two off in some fits, and far off in one of a thousand: one of three fits must be
    right, so that a sound generator fails once in 10^9, and one that copies a row's value always does.
    """
    frame = mixed_table(400).astype({"colour, of 🎈": object, "small": object})
    frame.loc[5, "colour, of 🎈"] = SENTINEL
    frame.loc[6, "small"] = SENTINEL_NUMBER
    frame.loc[7, "price"] = 0.123456
    for _ in range(3):
        made = fitted(name, frame, learned_schema(), epsilon=20.0)
        words = [made.sample(3_000).to_csv(), made.statement.to_json(), repr(made.schema.columns), *_files(made)]
        _require(all(SENTINEL not in w for w in words), "a rare value left the table")
        wrong = _learned_wrongly(made.schema)
        if not wrong:
            _require(all(str(SENTINEL_NUMBER) not in w for w in words), "a rare value left the table")
            return
    raise ConformanceError(wrong)


def _learned_wrongly(schema: Schema) -> str:
    """What one row has put into a schema learned from 400, or what most rows have not; empty where all is well."""
    colours, small, price = (schema[c] for c in ("colour, of 🎈", "small", "price"))
    if not isinstance(colours, Categorical) or not {"red", "green", "blue"} <= set(colours.labels):
        return "a frequent category was not learned"
    if not isinstance(small, Integer) or not -64 <= small.low <= small.high <= 127:
        return "a bound is one row's, or wide of the mark"
    if not isinstance(price, Decimal) or price.decimals != 2:
        return "decimals are one row's, or wrong"
    return ""


GENERATOR_CHECKS: tuple[Callable[[str], None], ...] = (
    check_charges_before_reading,
    check_refused_charge_leaves_rows_unread,
    check_second_fit_is_refused,
    check_never_above_budget,
    check_obeys_schema,
    check_conditions,
    check_edge_tables,
    check_constraints,
    check_undeclared_category_never_appears,
    check_values_outside_bounds_are_clipped,
    check_input_is_unchanged,
    check_save_and_load,
    check_noise_is_not_seeded,
    check_learns_from_charged_answers_only,
    check_holds_no_row,
    check_sentinel_is_nowhere,
    check_not_private_is_said,
    check_learning_is_in_the_price,
    check_learning_needs_a_delta,
    check_obeys_learned_schema,
    check_rare_values_are_not_learned,
    check_tiny_epsilon_says_nothing,
)
"""Every check a generator must pass, cheapest first."""


def check_generator(name: str) -> None:
    """Run all GENERATOR_CHECKS on the registered generator `name`; raises ConformanceError at the first that
    fails.
    """
    generators.get(name)
    for check in GENERATOR_CHECKS:
        check(name)
