"""What every plugin must survive, as checks anyone can run on their own: scikit-learn's `check_estimator` for
privacy.

    from tabveil.conformance import check_generator
    check_generator("mst")

Each check is a function of a generator's name; it returns nothing or raises ConformanceError with one sentence. The
tables are made up (`_conformance_tables`), so that a failure says nothing about anybody; `_conformance_probes` looks.

Privacy: these checks run on made-up tables only. They can show that a promise is broken, never that it is kept.
"""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from tabveil import accounting, learning
from tabveil._conformance_probes import (
    ConformanceError,
    Listener,
    SpyTable,
    account,
    create,
    deafly,
    files_of,
    fitted,
    reachable,
    require,
    require_schema,
    usual,
)
from tabveil._conformance_tables import (
    OPPOSITE,
    ROWS,
    SENTINEL,
    SENTINEL_NUMBER,
    edge_tables,
    learned_schema,
    mixed_schema,
    mixed_table,
    opposites,
    ruled_schema,
    ruled_table,
)
from tabveil.accounting import Spend
from tabveil.columns import Categorical, Decimal, Integer
from tabveil.encoding import size
from tabveil.enforcing import violations
from tabveil.errors import BudgetExceededError, TabveilError, UsageError
from tabveil.generators import generators
from tabveil.generators.base import Generator, load
from tabveil.schema import Schema
from tabveil.tables import Table

__all__ = [
    "ALPHA",
    "FITS",
    "GENERATOR_CHECKS",
    "OPPOSITE",
    "ROWS",
    "SENTINEL",
    "SENTINEL_NUMBER",
    "ConformanceError",
    "SpyTable",
    "account",
    "check_charges_before_reading",
    "check_conditions",
    "check_constraints",
    "check_edge_tables",
    "check_generator",
    "check_holds_no_row",
    "check_input_is_unchanged",
    "check_learning_is_in_the_price",
    "check_learning_needs_a_delta",
    "check_learns_from_charged_answers_only",
    "check_never_above_budget",
    "check_noise_is_not_seeded",
    "check_not_private_is_said",
    "check_obeys_learned_schema",
    "check_obeys_schema",
    "check_rare_values_are_not_learned",
    "check_refused_charge_leaves_rows_unread",
    "check_save_and_load",
    "check_second_fit_is_refused",
    "check_sentinel_is_nowhere",
    "check_tiny_epsilon_says_nothing",
    "check_undeclared_category_never_appears",
    "check_values_outside_bounds_are_clipped",
    "edge_tables",
    "fitted",
    "learned_schema",
    "mixed_schema",
    "mixed_table",
    "ruled_schema",
    "ruled_table",
]

ALPHA = 1e-9
FITS = 20
"""Fits of each of two tables in the test at epsilon = 1e-6: 20 against 20 reach a p-value of 7e-12."""


def check_charges_before_reading(name: str) -> None:
    """No row is read before the ledger has committed the price."""
    ledger = account(1.0, 1e-6)
    spy = SpyTable(mixed_table(50), ledger, "conformance")
    create(name, epsilon=1.0, delta=1e-6).fit(spy, mixed_schema(), ledger=ledger, dataset="conformance")
    require(bool(spy.spent_when_read), "the fit never read the table")
    require(min(spy.spent_when_read) > 0, "rows were read before the price was committed")


def check_refused_charge_leaves_rows_unread(name: str) -> None:
    """A fit that the account cannot pay reads nothing and charges nothing."""
    ledger = account(0.5, 1e-6)
    spy = SpyTable(mixed_table(50), ledger, "conformance")
    try:
        create(name, epsilon=1.0, delta=1e-6).fit(spy, mixed_schema(), ledger=ledger, dataset="conformance")
    except BudgetExceededError:
        require(not spy.spent_when_read, "rows were read although the charge was refused")
        require(ledger.statement("conformance").epsilon == 0, "a refused fit was charged")
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
        if delta == 0 and not made.pure:
            _require_no_pure_plan(made, mixed_schema())
            continue
        plan = made.plan(mixed_schema())
        require(plan.cost <= epsilon, f"the plan costs more than epsilon {epsilon:g} at delta {delta:g}")
        made.fit(mixed_table(30), mixed_schema(), ledger=ledger, dataset="conformance")
        require(made.statement.epsilon == plan.cost, "plan and statement name different prices")
        require(abs(ledger.statement("conformance").epsilon - plan.cost) < 1e-9, "the ledger charged another price")


def _require_no_pure_plan(made: Generator, schema: Schema) -> None:
    try:
        made.plan(schema)
    except UsageError:
        return
    raise ConformanceError("a generator that needs a delta does not refuse delta 0")


def check_obeys_schema(name: str) -> None:
    """Exactly n rows, the schema's columns, types, bounds, decimals and categories."""
    for rows in (0, 1, 7, 2_000):
        require_schema(usual(name).sample(rows), mixed_schema(), rows)


def check_conditions(name: str) -> None:
    """Exactly n rows, all of which obey; what no row can obey is refused, and so is every condition by a generator that
    cannot condition exactly.

    At epsilon 20: where noise hides the rows, a model may rightly say that it never draws what a condition allows.
    """
    made, colour = fitted(name, mixed_table(ROWS), mixed_schema(), epsilon=20.0), "colour, of 🎈"
    where = {"small": (5, 12), colour: {"green", "blue"}, "born": (dt.date(1960, 1, 1), None)}
    if not made.conditional:
        _require_refused(made, where)
        return
    for rows in (0, 1, 2_000):
        sample = made.sample(rows, where=where)
        require_schema(sample, mixed_schema(), rows)
        kept = (
            sample["small"].between(5, 12) & sample[colour].isin(["green", "blue"]) & (sample["born"] >= "1960-01-01")
        )
        require(bool(kept.all()), "a row does not obey its conditions")
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
            require_schema(sample, schema, 50)
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
            require_schema(sample, schema, asked)
            broken = [rule for rule, times in violations(schema, sample).items() if times]
            require(not broken, f"a sampled row breaks the constraint {', '.join(broken)}")


def check_undeclared_category_never_appears(name: str) -> None:
    """A category that one row holds and the schema does not is in no output, whatever epsilon (trap A2)."""
    frame = mixed_table(200)
    frame["colour, of 🎈"] = frame["colour, of 🎈"].astype(object)
    frame.loc[3, "colour, of 🎈"] = SENTINEL
    for epsilon in (1.0, 1e6):
        sample = fitted(name, frame, mixed_schema(), epsilon=epsilon).sample(3_000)
        shown = set(sample["colour, of 🎈"])
        require(shown <= {"red", "green", "blue", "other"}, "an undeclared category appeared")


def check_values_outside_bounds_are_clipped(name: str) -> None:
    """Bounds are the schema's, never learned (trap A1)."""
    frame = mixed_table(200)
    frame["small"] = frame["small"].astype(float) * 1e9
    frame.loc[0, "price"] = -1e300
    require_schema(fitted(name, frame, mixed_schema(), epsilon=1e6).sample(2_000), mixed_schema(), 2_000)


def check_input_is_unchanged(name: str) -> None:
    """The table that was handed in is left as it was."""
    frame = mixed_table(100)
    before = frame.copy(deep=True)
    fitted(name, frame, mixed_schema())
    pd.testing.assert_frame_equal(frame, before)


def check_save_and_load(name: str) -> None:
    """A saved model samples as the fitted one does, from the same random_state."""
    made = usual(name)
    with tempfile.TemporaryDirectory() as folder:
        made.save(folder)
        again = load(folder)
        files = sorted(p.name for p in Path(folder).iterdir())
    require(all(f.endswith((".json", ".npz", ".safetensors")) for f in files), "a model file of an unknown format")
    for n in (0, 500):
        first, second = made.sample(n, random_state=3), again.sample(n, random_state=3)
        pd.testing.assert_frame_equal(first, second)
    require(again.statement == made.statement, "the statement changed on the way through a file")
    require(not made.sample(500, random_state=4).equals(made.sample(500, random_state=3)), "random_state has no effect")


def check_noise_is_not_seeded(name: str) -> None:
    """Two fits with the same random_state differ: privacy noise comes from the operating system (trap A12)."""
    table = mixed_table(300)
    first, second = (fitted(name, table, mixed_schema(), random_state=1) for _ in range(2))
    states = [_flat(g._state()[0]) for g in (first, second)]
    require(not np.array_equal(*states), "two fits with the same random_state learned the same: the noise is seeded")
    require(first.statement.release, "a fit outside tests says NOT A RELEASE")


def _flat(arrays: Mapping[str, Any]) -> Any:
    return np.concatenate([np.ravel(np.asarray(a, dtype=np.float64)) for _, a in sorted(arrays.items())])


def check_learns_from_charged_answers_only(name: str) -> None:
    """Whatever two tables hold, the same charged answers make the same model: nothing else is read from them.

    Bounds, edges, categories or a row count taken from the rows themselves would differ (traps A1, A2, A10, A16).
    """
    lone = mixed_table(7, seed=1).astype({"small": object, "colour, of 🎈": object})
    lone.loc[0, ["small", "colour, of 🎈"]] = [10**9, SENTINEL]
    for schema in (mixed_schema(), learned_schema()):
        first, second = (deafly(name, frame, schema) for frame in (mixed_table(150), lone))
        kept, other = first._state(), second._state()
        same = kept[0].keys() == other[0].keys() and all(np.array_equal(a, other[0][k]) for k, a in kept[0].items())
        same = same and first.schema == second.schema
        require(same and kept[1] == other[1], "the fit learned from rows what it was not charged for")
        require(first._default_rows() == second._default_rows(), "the row count is not from a charged answer")


def check_holds_no_row(name: str) -> None:
    """A fitted generator refers to no table and to no array with one entry per row."""
    made = fitted(name, mixed_table(ROWS), mixed_schema())
    for thing in reachable(made):
        require(not isinstance(thing, pd.DataFrame | pd.Series | Table), "a fitted generator holds on to a table")
        if isinstance(thing, np.ndarray):
            require(ROWS not in thing.shape, "a fitted generator holds an array with one entry per row")


def check_sentinel_is_nowhere(name: str) -> None:
    """A planted value is found in no exception, log, repr, progress message, statement or saved file."""
    frame = mixed_table(200).astype({"colour, of 🎈": object, "small": object, "patient id": object})
    frame.loc[5, ["colour, of 🎈", "patient id"]] = SENTINEL
    frame.loc[6, "small"] = SENTINEL_NUMBER
    words: list[str] = []
    handler = Listener(words)
    logging.getLogger().addHandler(handler)
    try:
        ledger = account(2.0, 1e-6)
        tell = {"progress": lambda stage, share: words.append(f"{stage} {share}")}
        made = create(name, epsilon=1.0, delta=1e-6, **tell)
        made.fit(frame, mixed_schema(), ledger=ledger, dataset="conformance")
        words += [repr(made), str(made), made.statement.to_json(), str(ledger.export("conformance"))]
        words += _refusals(name, frame)
        words += files_of(made)
    finally:
        logging.getLogger().removeHandler(handler)
    for word in words:
        require(SENTINEL not in word and str(SENTINEL_NUMBER) not in word, "a cell value left the table")


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


def check_not_private_is_said(name: str) -> None:
    """Epsilon inf needs no account, and everything that comes out says NOT PRIVATE."""
    made = create(name, epsilon=float("inf")).fit(mixed_table(200), mixed_schema())
    require(made.statement.stamp == "NOT PRIVATE", "a fit without privacy does not say so")
    require_schema(made.sample(300), mixed_schema(), 300)


def check_tiny_epsilon_says_nothing(name: str) -> None:
    """At epsilon = 1e-6 the output says nothing about which of two very different tables went in.

    The tables have 200 and 90 rows and share none, so by group privacy no test tells them apart with an advantage above
    290 * 1e-6. For every column, for the row count and for every bound, category
    and digit that is learned, FITS fits of one are ranked against FITS fits of the other (Mann
    & Whitney 1947, exact, ties broken by chance) at level ALPHA over all statistics together.
    """
    low, high = opposites()
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
        require(not p < ALPHA / first.shape[1], "at epsilon 1e-6 the output tells which table went in")


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
        require(not missing, "the plan leaves out what is to be learned")
        require(plan.cost <= epsilon, f"with learning the plan costs more than epsilon {epsilon:g} at delta {delta:g}")
        ledger = account(epsilon, delta)
        spy = SpyTable(mixed_table(30), ledger, "conformance")
        made.fit(spy, learned_schema(), ledger=ledger, dataset="conformance")
        require(min(spy.spent_when_read) > 0, "rows were read before the price was committed")
        spends = [Spend.from_dict(e) for e in made.statement.events]
        recomputed = accounting.epsilon(accounting.event_of(spends), delta)
        require(recomputed == made.statement.epsilon <= epsilon, "the statement's events cost another epsilon")


def check_learning_needs_a_delta(name: str) -> None:
    """Without delta categories cannot be learned, and numbers can."""
    numbers_only = Schema(columns=(Integer(name="small", learn=True), Decimal(name="price", learn=True)))
    unfitted = create(name, epsilon=1.0, delta=0.0)
    if not unfitted.pure:
        _require_no_pure_plan(unfitted, numbers_only)
        return
    made = fitted(name, mixed_table(60)[["small", "price"]], numbers_only, delta=0.0)
    require_schema(made.sample(20), made.schema, 20)
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
        require(not made.schema.unresolved, f"{what}: something was left unlearned")
        bought = [c.name for c in made.schema.columns if c.source == "charged"]
        require(len(bought) == len(learned_schema().unresolved), f"{what}: learned columns do not say that they are")
        price = made.schema["price"]
        require(isinstance(price, Decimal) and price.low == 0.0, f"{what}: a declared bound was replaced")
        require_schema(made.sample(50, random_state=2), made.schema, 50)
    with tempfile.TemporaryDirectory() as folder:
        made.save(folder)
        again = load(folder)
    require(again.schema == made.schema, "the learned schema changed on the way through a file")
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
        words = [made.sample(3_000).to_csv(), made.statement.to_json(), repr(made.schema.columns), *files_of(made)]
        require(all(SENTINEL not in w for w in words), "a rare value left the table")
        wrong = _learned_wrongly(made.schema)
        if not wrong:
            require(all(str(SENTINEL_NUMBER) not in w for w in words), "a rare value left the table")
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
