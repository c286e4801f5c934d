"""What every generator inherits: arguments, plans that never cost too much, one unit everywhere, saved models."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone

from tabveil import accounting
from tabveil._conformance_probes import create
from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent
from tabveil.caveats import outside
from tabveil.columns import Boolean, Categorical, Column, Identifier, Integer
from tabveil.constraints import Implied, Inequality, Sum
from tabveil.enforcing import violations
from tabveil.errors import (
    BudgetExceededError,
    DataError,
    LedgerError,
    SchemaError,
    StorageError,
    UsageError,
)
from tabveil.generators import generators
from tabveil.generators.base import Generator, load
from tabveil.ledger import Ledger
from tabveil.mechanisms import PrivateRows
from tabveil.noise import seeded_noise_for_tests
from tabveil.records import RELATION
from tabveil.schema import Schema
from tabveil.tables import Table

ALPHA = 1e-9
DELTA = 1e-6
K = 3
NAMES = generators.names()
MARGINAL = ("aim", "independent", "mst")
COLUMNS = (Categorical(name="c", categories=("x", "y")), Integer(name="n", low=0, high=9), Boolean(name="b"))
SCHEMA = Schema(columns=COLUMNS)
PERSONS = Schema(columns=(Identifier(name="person"), *COLUMNS), privacy_unit="person", max_rows_per_unit=K)


def table(rows: int = 30) -> pd.DataFrame:
    i = np.arange(rows)
    return pd.DataFrame({"c": np.where(i % 3, "x", "y"), "n": i % 10, "b": i % 2 == 0})


def account(schema: Schema = SCHEMA, epsilon: float = 1.0, delta: float = DELTA) -> Ledger:
    ledger = Ledger(":memory:")
    ledger.open("d", epsilon=epsilon, delta=delta, unit=schema.unit)
    return ledger


def fitted(name: str, schema: Schema = SCHEMA, frame: pd.DataFrame | None = None, **options: Any) -> Generator:
    given = {"epsilon": 1.0, "delta": DELTA, **options}
    made = create(name, **given)
    paid = account(schema, given["epsilon"], given["delta"])
    return made.fit(table() if frame is None else frame, schema, ledger=paid, dataset="d")


class Unreadable(Table):
    """A table whose rows nobody may ask for."""

    def __init__(self, columns: tuple[str, ...] = SCHEMA.names) -> None:
        super().__init__(columns, chunk_rows=10)

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        raise AssertionError("rows were read")


# ------------------------------------------------------------------------------------------------------------
# arguments
@pytest.mark.parametrize("epsilon", [0, -1.0, math.nan, -math.inf, True, "1", None])
def test_epsilon_must_be_a_number_above_zero(epsilon: Any) -> None:
    with pytest.raises(UsageError, match="epsilon must be a number above 0"):
        create("independent", epsilon=epsilon, delta=DELTA)


@pytest.mark.parametrize("delta", [-1e-9, 1, 1.5, math.nan, math.inf, True, "1e-6"])
def test_delta_must_be_a_probability_below_one(delta: Any) -> None:
    with pytest.raises(UsageError, match="delta must be a number from 0 to below 1"):
        create("independent", epsilon=1.0, delta=delta)


@pytest.mark.parametrize("name", NAMES)
def test_epsilon_has_no_default_and_delta_is_asked_for(name: str) -> None:
    with pytest.raises(TypeError, match="epsilon"):
        generators.get(name)(delta=DELTA)
    with pytest.raises(UsageError, match="delta must be given"):
        create(name, epsilon=1.0)
    assert create(name, epsilon=math.inf).delta == 0


@pytest.mark.parametrize("name", NAMES)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="has no option depth"):
        create(name, epsilon=1.0, delta=DELTA, depth=3)
    with pytest.raises(UsageError, match="has no option depth"):
        create(name, epsilon=1.0, delta=DELTA).set_params(depth=3)
    with pytest.raises(UsageError, match="choose one of"):
        create(name + "x", epsilon=1.0, delta=DELTA)


@pytest.mark.parametrize("name", MARGINAL)
@pytest.mark.parametrize("cells", [1, 1001, 2.5, True, "9", math.nan])
def test_options_out_of_range_are_refused(name: str, cells: Any) -> None:
    with pytest.raises(UsageError, match="cells must be a whole number from 2 to 1000"):
        create(name, epsilon=1.0, delta=DELTA, cells=cells)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_scikit_learns(name: str) -> None:
    made = create(name, epsilon=2, delta=DELTA, random_state=5)
    assert made.get_params() | {"epsilon": 2.0, "delta": DELTA, "random_state": 5} == made.get_params()
    assert made.set_params(epsilon=3.0) is made
    assert (made.epsilon, made.delta, made.random_state) == (3.0, DELTA, 5)
    for bad in ({"epsilon": 0.0}, {"delta": None}):
        with pytest.raises(UsageError):
            made.set_params(**bad)
    assert clone(made).get_params() == made.get_params()


@pytest.mark.parametrize("name", NAMES)
def test_new_parameters_ask_for_a_new_fit(name: str) -> None:
    made = fitted(name).set_params(epsilon=0.5)
    with pytest.raises(UsageError, match="not fitted"):
        made.sample(3)


# ---------------------------------------------------------------------------------------------- before anything is
# read
@pytest.mark.parametrize("name", NAMES)
def test_delta_above_one_in_public_rows_is_refused(name: str) -> None:
    public = Schema(columns=COLUMNS, public_rows=100)
    ledger = account(epsilon=1.0, delta=0.5)
    with pytest.raises(UsageError, match="delta must be at most 1 / public_rows"):
        create(name, epsilon=1.0, delta=0.0101).fit(Unreadable(), public, ledger=ledger, dataset="d")
    assert ledger.statement("d").epsilon == 0
    assert create(name, epsilon=1.0, delta=0.01).plan(public).cost <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_a_draft_is_refused_by_a_private_fit(name: str) -> None:
    draft = Schema.draft(table())
    ledger = account()
    with pytest.raises(SchemaError, match="draft"):
        create(name, epsilon=1.0, delta=DELTA).fit(Unreadable(draft.names), draft, ledger=ledger, dataset="d")
    assert ledger.statement("d").epsilon == 0
    approved = draft.approve(by="a person")
    assert create(name, epsilon=1.0, delta=DELTA).plan(approved).private
    assert create(name, epsilon=math.inf).fit(table(), draft).statement.stamp == "NOT PRIVATE"


@pytest.mark.parametrize("name", NAMES)
def test_a_private_fit_needs_an_account(name: str) -> None:
    made = create(name, epsilon=1.0, delta=DELTA)
    for given in ({}, {"ledger": account()}, {"dataset": "d"}, {"ledger": account(), "dataset": "another"}):
        with pytest.raises(LedgerError, match="account"):
            made.fit(Unreadable(), SCHEMA, **given)
    with pytest.raises(BudgetExceededError):
        made.fit(Unreadable(), SCHEMA, ledger=account(epsilon=0.5), dataset="d")
    with pytest.raises(DataError, match="lacks column 'b'"):
        made.fit(Unreadable(("c", "n")), SCHEMA, ledger=account(), dataset="d")


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_that_fails_leaves_no_model(name: str, tmp_path: Path) -> None:
    made = create(name, epsilon=1.0, delta=DELTA)
    frame = table().assign(c="undeclared")
    ledger = account()
    with pytest.raises(DataError, match="'c'"):
        made.fit(frame, SCHEMA, ledger=ledger, dataset="d")
    assert ledger.statement("d").epsilon > 0
    for use in (lambda: made.sample(1), lambda: made.statement, lambda: made.schema, lambda: made.save(tmp_path)):
        with pytest.raises(UsageError, match="not fitted"):
            use()
    assert not list(tmp_path.iterdir())


def test_a_fit_under_a_test_seed_is_no_release() -> None:
    with seeded_noise_for_tests(1):
        made = fitted("independent")
    assert made.statement.stamp == "NOT A RELEASE"
    assert fitted("independent").statement.stamp == ""


# ---------------------------------------------------------------------------------------------------------------
# budget
def many(count: int, like: Callable[[str], Column]) -> tuple[Column, ...]:
    return tuple(like(f"column {i}") for i in range(count))


SHAPES: dict[str, Schema] = {
    "one cell": Schema(columns=(Integer(name="n", low=7, high=7),)),
    "two cells": Schema(columns=(Boolean(name="b"),)),
    "mixed": SCHEMA,
    "persons": PERSONS,
    "wide numbers": Schema(columns=many(4, lambda n: Integer(name=n, low=0, high=5_000_000, missing=("",)))),
    "long lists": Schema(columns=many(3, lambda n: Categorical(name=n, categories=tuple(map(str, range(3_000)))))),
    "many columns": Schema(columns=many(30, lambda n: Integer(name=n, low=0, high=300))),
}
"""Degree, number of rounds and sizes of domains."""


CASES = [(e, 0.0, s) for e in (0.01, 0.3, 1.0, 10.0) for s in SHAPES] + [
    (e, d, s)
    for e, d in ((0.01, 1e-5), (1.0, 1e-9), (1.0, 1e-5), (10.0, 1e-9))
    for s in ("two cells", "persons", "wide numbers", "many columns")
]
"""Epsilon, delta and shape; fewer shapes where privacy loss distributions take a second each."""


def amount(plan_event: Any, delta: float) -> float:
    """What adds up: rho where delta is above 0, epsilon where it is 0. Exact, rounded once."""
    return float(accounting.zcdp(plan_event)) if delta else accounting.epsilon(plan_event, 0.0)


@pytest.mark.parametrize(("epsilon", "delta", "shape"), CASES)
@pytest.mark.parametrize("name", MARGINAL)
def test_a_plan_costs_what_was_allowed_and_never_more(name: str, epsilon: float, delta: float, shape: str) -> None:
    """Trap A18: the recorded events add up to the plan, the plan to epsilon, and never above."""
    schema = SHAPES[shape]
    plan = create(name, epsilon=epsilon, delta=delta).plan(schema)
    assert plan.cost <= epsilon
    assert accounting.epsilon(plan.event, delta) <= epsilon
    assert plan.cost == accounting.epsilon(accounting.event_of(plan.spends), delta)
    parts = sum(s.count * amount(s.event, delta) for s in plan.spends)
    assert parts == pytest.approx(amount(plan.event, delta), rel=1e-9)
    if delta == 0:
        assert parts == pytest.approx(epsilon, rel=2e-6)
    else:
        assert parts >= float(accounting.rho_budget(epsilon, delta)) * 0.998  # nothing wasted either
    assert all(getattr(s.event, "sensitivity", schema.contributions) == schema.contributions for s in plan.spends)
    assert len({s.label for s in plan.spends}) == len(plan.spends)


@pytest.mark.parametrize("schema", [SCHEMA, PERSONS], ids=["rows", "persons"])
@pytest.mark.parametrize("name", MARGINAL)
def test_noise_solves_for_rho_exactly(name: str, schema: Schema) -> None:
    """Trap A18: sigma = k / sqrt(2 rho), epsilon_0 = sqrt(8 rho), scale = k / epsilon, recomputed by hand."""
    k = schema.contributions
    for delta in (0.0, DELTA):
        for spend in create(name, epsilon=1.0, delta=delta).plan(schema).spends:
            event: Any = spend.event
            if isinstance(event, DiscreteGaussianDpEvent):
                assert amount(event, delta) == pytest.approx(k**2 / (2 * event.sigma**2), rel=1e-12)
            elif isinstance(event, DiscreteLaplaceDpEvent):
                assert amount(event, delta) == pytest.approx(k / event.scale, rel=1e-12)
            else:
                expected = event.epsilon**2 / 8 if delta else event.epsilon
                assert amount(event, delta) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", MARGINAL)
def test_every_part_of_a_plan_gets_its_share(name: str) -> None:
    """Trap A18: parts with more queries get no more; 1e-5 is the precision of the vectorised sampler's variance."""
    from tabveil.generators import aim, mst

    parts = {
        "histogram of": "refine",
        "counts of 'column": "one_way",
        "choice of": "choose",
        "counts of pair": "two_way",
        "counts of marginal": "count",
    }
    shares = {"aim": aim.SHARES, "independent": {"refine": 0.5, "one_way": 0.5}, "mst": mst.SHARES}[name]
    assert set(shares) <= set(parts.values())
    assert sum(shares.values()) == pytest.approx(1.0, rel=1e-12)
    for delta in (0.0, DELTA):
        plan = create(name, epsilon=1.0, delta=delta).plan(SHAPES["wide numbers"])
        whole = sum(amount(s.event, delta) for s in plan.spends)
        for begin, part in parts.items():
            spent = [amount(s.event, delta) for s in plan.spends if s.label.startswith(begin)]
            assert sum(spent) / whole == pytest.approx(shares.get(part, 0.0), rel=1e-5)
            assert not spent or max(spent) == pytest.approx(min(spent), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_one_relation_and_one_unit_everywhere(name: str) -> None:
    for schema, frame in ((SCHEMA, table()), (PERSONS, table().assign(person="p"))):
        ledger = account(schema)
        made = create(name, epsilon=1.0, delta=DELTA).fit(frame, schema, ledger=ledger, dataset="d")
        assert made.statement.relation == ledger.statement("d").relation == RELATION == "add_or_remove_one"
        assert made.statement.unit == ledger.statement("d").unit == schema.unit
        assert made.statement.epsilon == made.plan(schema).cost <= 1.0


# ------------------------------------------------------------------------------------------------------- one person
@pytest.mark.parametrize("delta", [DELTA, 0.0])
@pytest.mark.parametrize("name", MARGINAL)
def test_noise_covers_all_rows_of_one_person(name: str, delta: float) -> None:
    """Trap A17: the noise that was really drawn has the law of k times one row's noise.

    alpha = 1e-9, n >= 32,000 cells of empty histograms; noise 10 % too small or too large is rejected.
    """
    codes = tuple(f"{i:04d}" for i in range(4_000))
    columns = (Identifier(name="person"), Categorical(name="code", categories=codes))
    schema = Schema(columns=columns, privacy_unit="person", max_rows_per_unit=K)
    empty = pd.DataFrame({"person": [], "code": []}, dtype=object)
    noise, events = observed(name, schema, empty, repeats=8, delta=delta)
    (event,) = set(events)
    assert event.sensitivity == K
    (alone,) = create(name, epsilon=1.0, delta=delta).plan(Schema(columns=columns)).spends
    scale, row_scale = ((e.sigma if delta else e.scale) for e in (event, alone.event))
    assert 0.999 * K <= scale / row_scale <= 1.2 * K
    assert law_of_noise(noise, scale, delta) > ALPHA
    for wrong in (0.9, 1.1, 1 / K):
        assert law_of_noise(noise, scale * wrong, delta) < ALPHA


def observed(
    name: str, schema: Schema, frame: pd.DataFrame, *, repeats: int, delta: float
) -> tuple[np.ndarray, list[Any]]:
    """Every count released from an empty table, and every event it was charged as."""
    seen: list[np.ndarray] = []
    events: list[Any] = []
    counts = PrivateRows.counts

    def noted(rows: PrivateRows, *args: Any, **named: Any) -> Any:
        answer = counts(rows, *args, **named)
        seen.append(answer.ravel())
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateRows, "counts", noted)
        for _ in range(repeats):
            made = fitted(name, schema, frame, delta=delta)
            events += [s.event for s in made.plan(schema).spends]
    return np.concatenate(seen), events


def law_of_noise(noise: np.ndarray, scale: float, delta: float) -> float:
    """The smaller of two p-values against the discrete Gaussian (Laplace where delta is 0) of `scale`: chi-square
    over 40
    bins of equal mass, and, sharper where the scale is wrong, the mean of x^2 (of |x|), normal for so many draws.
    """
    support = np.arange(-400, 401)
    p = np.exp(-(support**2) / (2 * scale**2) if delta else -np.abs(support) / scale)
    p /= p.sum()
    bins = np.minimum((np.cumsum(p) * 40).astype(int), 39)
    used = np.unique(bins)
    found = np.bincount(bins[np.clip(noise, -400, 400) + 400], minlength=40)[used]
    shape = stats.chisquare(found, np.bincount(bins, weights=p, minlength=40)[used] * len(noise)).pvalue
    size = np.abs(support.astype(float)) ** (2 if delta else 1)
    mean, deviation = size @ p, math.sqrt(size**2 @ p - (size @ p) ** 2)
    z = ((np.abs(noise.astype(float)) ** (2 if delta else 1)).mean() - mean) / deviation * math.sqrt(len(noise))
    return float(min(shape, 2 * stats.norm.sf(abs(z))))


@pytest.mark.parametrize("name", MARGINAL)
def test_a_person_with_many_rows_counts_k_times(name: str) -> None:
    """At epsilon 1e7 noise is gone: 500 rows of one person weigh as K, end to end."""
    greedy = pd.DataFrame({"person": ["z"] * 500, "c": "y", "n": 9, "b": True})
    others = pd.DataFrame({"person": [f"p{i}" for i in range(40)], "c": "x", "n": 0, "b": False})
    frame = pd.concat([greedy, others], ignore_index=True)
    made = fitted(name, PERSONS, frame, epsilon=1e7)
    assert len(made.sample()) == 40 + K
    assert (made.sample(4_300, random_state=0)["c"] == "y").mean() == pytest.approx(K / (40 + K), abs=0.03)
    assert made.statement.unit == "person named by 'person' (at most 3 rows each)"


# -------------------------------------------------------------------------------------------------------------
# sampling
@pytest.mark.parametrize("name", NAMES)
def test_number_of_rows_is_checked(name: str) -> None:
    made = fitted(name)
    for bad in (-1, 1.0, 2.5, True, "5", math.nan):
        with pytest.raises(UsageError, match="n must be a whole number of rows"):
            made.sample(bad)  # type: ignore[arg-type]
    for good in (0, 1, np.int64(4)):
        assert len(made.sample(good)) == good


@pytest.mark.parametrize("name", NAMES)
def test_public_rows_are_the_default_and_else_an_estimate(name: str) -> None:
    assert len(fitted(name, Schema(columns=COLUMNS, public_rows=77)).sample()) == 77
    assert len(fitted(name, epsilon=1e6).sample()) == 30
    assert len(fitted(name, frame=table(0), epsilon=0.01).sample()) >= 0


@pytest.mark.parametrize("name", NAMES)
def test_random_state_repeats_samples(name: str) -> None:
    made = fitted(name, random_state=3, epsilon=1e6)  # at epsilon 1 the noise may leave one value of each column
    pd.testing.assert_frame_equal(made.sample(200), made.sample(200, random_state=3))
    assert not made.sample(200).equals(made.sample(200, random_state=4))
    free = fitted(name, epsilon=1e6)
    assert not free.sample(200).equals(free.sample(200))


@pytest.mark.parametrize("name", NAMES)
def test_progress_says_nothing_about_rows(name: str) -> None:
    told: list[list[tuple[str, float]]] = []
    for frame in (table(3), table(300)):
        words: list[tuple[str, float]] = []
        fitted(name, frame=frame, progress=lambda stage, share, words=words: words.append((stage, share)))
        told.append(words)
        assert words
        assert all(0 <= share <= 1 for _, share in words)
    assert {stage for stage, _ in told[0]} == {stage for stage, _ in told[1]}


# --------------------------------------------------------------------------------------------------------- saved
# models
@pytest.fixture(params=MARGINAL)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    fitted(request.param).save(folder)
    return folder


def test_a_saved_model_is_the_fitted_one(saved: Path) -> None:
    first, second = load(saved), load(saved)
    pd.testing.assert_frame_equal(first.sample(50, random_state=1), second.sample(50, random_state=1))
    (saved.parent / "again").mkdir()
    first.save(saved.parent / "again")
    for file in ("model.json", "arrays.npz"):
        assert (saved / file).exists()
    assert (saved.parent / "again" / "model.json").read_bytes() == (saved / "model.json").read_bytes()
    assert first.epsilon == 1.0
    assert first.delta == DELTA


def test_a_model_without_privacy_is_saved_and_says_so(tmp_path: Path) -> None:
    create("mst", epsilon=math.inf).fit(table(), SCHEMA).save(tmp_path)
    again = load(tmp_path)
    assert again.epsilon == math.inf
    assert again.statement.stamp == "NOT PRIVATE"


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(StorageError):
        fitted("independent").save(tmp_path / "file")


def _json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        model = json.loads((folder / "model.json").read_text())
        changed = change(model)
        (folder / "model.json").write_text(json.dumps(model if changed is None else changed))

    return tamper


def _arrays(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        with np.load(folder / "arrays.npz") as stored:
            arrays = {k: stored[k] for k in stored.files}
        change(arrays)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        (folder / "arrays.npz").write_bytes(buffer.getvalue())

    return tamper


def _bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def _empty_archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / "arrays.npz", "w"):
        pass


TAMPERED: dict[str, Callable[[Path], None]] = {
    "no model": lambda f: (f / "model.json").unlink(),
    "no arrays": lambda f: (f / "arrays.npz").unlink(),
    "empty model": _bytes("model.json", lambda b: b""),
    "half a model": _bytes("model.json", lambda b: b[: len(b) // 2]),
    "not UTF-8": _bytes("model.json", lambda b: b"\xff" + b),
    "a list": _json(lambda m: [m]),
    "a number": _json(lambda m: 5),
    "deep nesting": _bytes("model.json", lambda b: b"[" * 100_000),
    "another format": _json(lambda m: m.update(tabveil_model=2)),
    "no format": _json(lambda m: m.pop("tabveil_model") and None),
    "no schema": _json(lambda m: m.pop("schema") and None),
    "no statement": _json(lambda m: m.pop("statement") and None),
    "no state": _json(lambda m: m.pop("state") and None),
    "no generator": _json(lambda m: m.pop("generator") and None),
    "unknown generator": _json(lambda m: m.update(generator="os")),
    "generator of another type": _json(lambda m: m.update(generator=["mst"])),
    "epsilon is text": _json(lambda m: m.update(epsilon="much")),
    "epsilon is negative": _json(lambda m: m.update(epsilon="-1")),
    "options are a list": _json(lambda m: m.update(options=["cells"])),
    "unknown option": _json(lambda m: m["options"].update(depth=3)),
    "schema is text": _json(lambda m: m.update(schema="all of them")),
    "schema of other columns": _json(lambda m: m["schema"]["columns"].pop() and None),
    "statement is empty": _json(lambda m: m.update(statement={})),
    "state is a number": _json(lambda m: m.update(state=4)),
    "state is empty": _json(lambda m: m.update(state={})),
    "total is no number": _json(lambda m: m["state"].update(total="NaN?")),
    "arrays are no archive": _bytes("arrays.npz", lambda b: b"PK"),
    "arrays are cut": _bytes("arrays.npz", lambda b: b[: len(b) // 2]),
    "arrays are flipped": _bytes("arrays.npz", lambda b: b[:60] + bytes([b[60] ^ 0xFF]) + b[61:]),
    "no array inside": _empty_archive,
    "an array is missing": _arrays(lambda a: a.pop("axis0_cell") is None),
    "an array of objects": _arrays(lambda a: a.update(axis0_cell=np.array([{}], dtype=object))),
    "an array of text": _arrays(lambda a: a.update(axis0_cell=np.array(["x", "y"]))),
    "an array of another shape": _arrays(lambda a: a.update(axis0_cell=np.zeros((2, 2), dtype=np.int64))),
    "an array too short": _arrays(lambda a: a.update(axis0_edges=a["axis0_edges"][:1])),
    "an array of NaN": _arrays(lambda a: a.update(axis0_weight=a["axis0_weight"] * np.nan)),
    "cells beyond the model": _arrays(lambda a: a.update(axis0_cell=a["axis0_cell"] + 1000)),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_model_is_refused_in_one_sentence(saved: Path, how: str) -> None:
    TAMPERED[how](saved)
    with pytest.raises(DataError, match="model") as caught:
        load(saved)
    assert str(caught.value).count("\n") == 0


def test_nothing_is_unpickled(saved: Path) -> None:
    """An array of objects would run code when it is loaded."""

    class Bomb:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("code from a model file was run",))

    _arrays(lambda a: a.update(axis0_cell=np.array([Bomb()], dtype=object)))(saved)
    with pytest.raises(DataError):
        load(saved)


# ------------------------------------------------------------------------------------------------------------
# constraints
RULED = Schema(
    columns=(
        Integer(name="low", low=0, high=30),
        Integer(name="high", low=0, high=30, missing=("",)),
        Categorical(name="town", categories=("a", "b")),
        Integer(name="rank", low=0, high=9),
        Integer(name="sum", low=0, high=60, missing=("",)),
        Boolean(name="spare"),
    ),
    constraints=(
        Inequality(low="low", high="high"),
        Implied(column="rank", given="town", mapping={"a": 1, "b": 2}),
        Sum(total="sum", parts=("low", "high")),
    ),
)


class Asked(Table):
    """A table that remembers which columns were read; every row breaks the inequality."""

    def __init__(self) -> None:
        super().__init__(RULED.names, chunk_rows=100)
        self.read: set[str] = set()

    def _read(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        self.read |= set(columns)
        frame = pd.DataFrame({"low": [30] * 50, "high": [0] * 50, "town": ["a"] * 50, "spare": [True] * 50})
        yield frame[columns]


@pytest.mark.parametrize("name", MARGINAL)
def test_columns_that_follow_are_neither_read_nor_paid_for(name: str) -> None:
    plan = create(name, epsilon=1.0, delta=DELTA).plan(RULED)
    assert not [s.label for s in plan.spends if "'rank'" in s.label or "'sum'" in s.label]
    source = Asked()
    made = create(name, epsilon=1.0, delta=DELTA).fit(source, RULED, ledger=account(RULED), dataset="d")
    assert source.read == {"low", "high", "town", "spare"}
    sample = made.sample(500)
    assert (sample["rank"] == sample["town"].map({"a": 1, "b": 2})).all()


@pytest.mark.parametrize("name", MARGINAL)
def test_rows_that_break_a_constraint_are_not_refused_and_not_copied(name: str) -> None:
    sample = create(name, epsilon=math.inf).fit(Asked(), RULED).sample(2_000)
    assert set(violations(RULED, sample).values()) == {0}
    pd.testing.assert_series_equal(sample["sum"].isna(), sample["high"].isna(), check_names=False)


def test_constraints_are_outside_of_the_promise() -> None:
    plain = Schema(columns=RULED.columns)
    assert not any("Constraints" in s for s in outside(plain))
    (said,) = [s for s in outside(RULED) if s not in outside(plain)]
    assert said == (
        "Constraints between columns are public knowledge that a person vouches for: 'low' <= 'high'; 'rank' implied "
        "by 'town'; 'sum' = 'low' + 'high'."
    )


def test_pairs_that_constraints_join_are_counted_without_a_choice() -> None:
    plan = create("mst", epsilon=1.0, delta=DELTA).plan(RULED)
    choices = [s.label for s in plan.spends if s.label.startswith("choice")]
    pairs = [s.label for s in plan.spends if s.label.startswith("counts of pair")]
    assert len(pairs) == len(choices) + 1


def test_a_generator_that_does_not_keep_constraints_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made = create("independent", epsilon=1.0, delta=DELTA)
    monkeypatch.setattr(type(made), "keeps_constraints", False)
    with pytest.raises(UsageError, match="independent does not keep constraints between columns"):
        made.fit(Unreadable(RULED.names), RULED, ledger=account(RULED), dataset="d")
    made.plan(Schema(columns=RULED.columns))


@pytest.mark.parametrize("name", MARGINAL)
def test_a_saved_model_keeps_constraints(name: str, tmp_path: Path) -> None:
    made = create(name, epsilon=math.inf).fit(Asked(), RULED)
    made.save(tmp_path)
    again = load(tmp_path)
    assert again.schema == RULED
    pd.testing.assert_frame_equal(made.sample(300, random_state=1), again.sample(300, random_state=1))
