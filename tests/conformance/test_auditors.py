"""Every registered auditor against every check: a new file in audit/ is tested by being there."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tabveil.audit import audit, registry
from tabveil.audit.base import ALPHA, AuditInput, Auditor, Refit
from tabveil.audit.rates import beyond
from tabveil.audit.shadow import Shadow
from tabveil.columns import Boolean, Categorical, Date, Decimal, Identifier, Integer
from tabveil.records import Finding
from tabveil.schema import Schema

SENTINEL = "Qx7-sentinel-Zk"
SCHEMA = Schema(
    columns=(
        Identifier(name="id"),
        Integer(name="age", low=0, high=100, missing=("",)),
        Decimal(name="price, 🎈", low=0.0, high=999.99, decimals=2),
        Categorical(name="grade", categories=("low", "mid", "high"), catch_all="other", missing=("",)),
        Boolean(name="member", missing=("",), invalid="missing"),
        Date(name="born", low=dt.date(1920, 1, 1), high=dt.date(2020, 12, 31), missing=("",)),
    ),
    quasi_identifiers=("age", "price, 🎈", "grade", "born"),
    sensitive=("member",),
)


SMALL: dict[str, Callable[[], Auditor]] = {"shadow": partial(Shadow, targets=["achilles"], fits=16, rows=60, jobs=1)}
"""Auditors that would take too long here as they come."""


def table(rows: int, seed: int) -> pd.DataFrame:
    """Rows of one source: prices follow age; a third of all rows are one of four common ones."""
    rng = np.random.default_rng(seed)
    age = rng.integers(0, 101, rows)
    common = rng.random(rows) < 1 / 3
    frame = pd.DataFrame(
        {
            "id": [f"real-{seed}-{i}" for i in range(rows)],
            "age": pd.array(np.where(common, 40, age), dtype="Int64"),
            "price, 🎈": np.where(common, 1.0, np.round(age * rng.uniform(1, 9, rows), 2)),
            "grade": np.where(common, "low", rng.choice(["low", "mid", "high"], rows)).astype(object),
            "member": pd.array(rng.random(rows) < 0.5, dtype="boolean"),
            "born": pd.to_datetime("1960-01-01") + pd.to_timedelta(np.where(common, 0, 365 * age), unit="D"),
        }
    )
    frame.loc[rng.random(rows) < 0.05, ["age", "born"]] = [pd.NA, pd.NaT]
    return frame


def blind(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    return table(40, seed % 2**32)


def shuffled_apart(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    fresh = blind(rows, seed)
    return pd.DataFrame({c: fresh[c].array[rng.permutation(len(fresh))] for c in fresh})


def leaky(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    return rows


def made(name: str) -> Auditor:
    return SMALL.get(name, registry.get(name))()


def given(
    name: str, tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None], refit: Refit = blind
) -> AuditInput:
    """Synthetic table, train and holdout, and for auditors that fit again a generator."""
    synthetic, train, holdout = tables
    refits = refit if made(name).refits else None
    return AuditInput(synthetic=synthetic, train=train, holdout=holdout, schema=SCHEMA, refit=refits)


def run(
    name: str, synthetic: pd.DataFrame, train: pd.DataFrame, holdout: pd.DataFrame | None, refit: Refit = blind
) -> tuple[Finding, ...]:
    if name not in SMALL:
        refits = refit if made(name).refits else None
        return audit(synthetic, train=train, holdout=holdout, schema=SCHEMA, auditors=[name], refit=refits)
    return tuple(made(name).compute(given(name, (synthetic, train, holdout), refit)))


def check_blind_tables_are_rarely_found_guilty(name: str) -> None:
    """40 audits of at most 5 % error each: a chance of alpha = 1e-9 allows 15 guilty ones; half would give 20."""
    guilty = 0
    for seed in range(0, 120, 3):
        synthetic, train, holdout = table(300, seed), table(600, seed + 1), table(200, seed + 2)
        guilty += any(beyond(f) for f in run(name, synthetic, train, holdout))
    assert guilty <= stats.binom.isf(1e-9, 40, ALPHA)


def check_columns_shuffled_apart_are_not_found_guilty(name: str) -> None:
    rng = np.random.default_rng(0)
    train = table(2000, 1)
    noise = pd.DataFrame({c: train[c].array[rng.permutation(2000)] for c in train})
    for finding in run(name, noise, table(2000, 3), table(2000, 2), shuffled_apart):
        # 1,000 tries or more of a rate of at most 0.5: alpha = 1e-9 is 6 standard deviations of at most 0.016. With
        # fewer tries an interval that holds for several attacks reaches at least 3 deviations down: twice that.
        assert finding.value <= finding.baseline + max(0.1, 2 * (finding.value - finding.interval[0]))


def check_training_rows_are_found_out(name: str) -> None:
    train = table(1500, 1)
    findings = run(name, train, train, table(1500, 2), leaky)
    assert findings
    theirs = bool(
        registry.get(name).needs_environment
    )  # how much another package's attacks find is not ours to promise
    for finding in findings:
        assert theirs or finding.value >= 0.99
        assert beyond(finding)


def check_row_and_column_order_do_not_matter(name: str) -> None:
    synthetic, train, holdout = table(300, 0), table(600, 1), table(300, 2)
    again = (t.sample(frac=1, random_state=4)[t.columns[::-1]] for t in (synthetic, train, holdout))
    assert run(name, *again) == run(name, synthetic, train, holdout)


def check_raw_text_counts_as_typed_values_do(name: str) -> None:
    frames = (table(300, 0), table(600, 1), table(300, 2))
    texts = (f.astype("string").fillna("").astype(object) for f in frames)
    assert run(name, *texts) == run(name, *frames)


def check_few_rows_are_no_error(name: str) -> None:
    for rows in (0, 1, 5):
        for role in range(3):
            frames = [table(200, seed) for seed in range(3)]
            frames[role] = frames[role].iloc[:rows]
            data = given(name, (frames[0], frames[1], frames[2]))
            auditor = made(name)
            reason, found = auditor.why_not(data), tuple(auditor.compute(data))
            assert bool(reason) != bool(found)
            assert reason or rows or (auditor.refits and role == 2)
            assert run(name, *frames) == found
    assert bool(run(name, table(50, 0), table(50, 1), None)) == made(name).refits


def check_nothing_is_found_without_what_it_takes(name: str) -> None:
    if made(name).refits:
        data = AuditInput(synthetic=table(50, 0), train=table(50, 1), holdout=table(50, 2), schema=SCHEMA)
        assert "`refit`" in made(name).why_not(data)
        assert made(name).compute(data) == []


def check_findings_are_complete(name: str) -> None:
    findings = [*run(name, table(300, 0), table(600, 1), table(300, 2))]
    train = table(300, 3)
    findings += run(name, train, train, table(300, 2), leaky)
    assert findings
    for f in findings:
        assert f.internal
        assert f.auditor == name
        numbers = (f.value, *f.interval, f.baseline, f.control, f.ceiling)
        # An attack bounds epsilon from below only.
        assert all(0 <= n <= (np.inf if "epsilon" in f.name else 1) for n in numbers)
        assert 0 < f.confidence < 1
        assert f.interval[0] <= f.value <= f.interval[1]
        assert f.interval[0] <= f.ceiling
        assert f.verdict.endswith(".")
        assert f.threat_model.endswith(".")
        assert f.targets
        assert f.cost
        assert f.seed == 0
        assert "safe" not in f.verdict.lower()
        assert "\n" not in f.verdict
        assert Finding.from_json(f.to_json()) == f


def check_input_stays_unchanged_and_random_state_repeats(name: str) -> None:
    frames = [table(300, 0), table(600, 1), table(300, 2)]
    copies = [f.copy(deep=True) for f in frames]
    assert run(name, *frames) == run(name, *frames)
    for frame, copy in zip(frames, copies, strict=True):
        pd.testing.assert_frame_equal(frame, copy)


def check_alpha_is_shared_out(name: str) -> None:
    findings = run(name, table(300, 0), table(600, 1), table(300, 2))
    assert sum(1 - f.confidence for f in findings) == pytest.approx(ALPHA)


# --- Auditors of fits: on tables alone they have no finding, and say why; their own unit tests hold them to the rest.
OF_FITS = [name for name in registry.names() if not registry.get(name).needs_tables]
OF_TABLES = [name for name in registry.names() if name not in OF_FITS]


@pytest.mark.parametrize("name", OF_FITS)
def test_an_auditor_of_fits_says_that_it_needs_them(name: str) -> None:
    data = AuditInput(synthetic=table(9, 0), train=table(9, 1), holdout=table(9, 2), schema=SCHEMA)
    assert registry.get(name)().why_not(data).endswith(".")
    assert audit(table(9, 0), train=table(9, 1), holdout=table(9, 2), schema=SCHEMA, auditors=[name]) == ()


# ---


@pytest.mark.parametrize("name", registry.names())
def test_an_auditor_says_what_it_takes(name: str) -> None:
    takes = registry.get(name).takes
    assert takes
    assert not takes.endswith(".")


CHECKS: tuple[Callable[[str], None], ...] = tuple(f for n, f in list(globals().items()) if n.startswith("check_"))


@pytest.mark.nightly
@pytest.mark.parametrize("name", registry.quick())
def test_no_finding_goes_beyond_its_alpha_on_tables_made_blindly(name: str) -> None:
    """200 audits, in which each of n findings errs with a chance of ALPHA / n at most: alpha = 1e-9 in all."""
    guilty: dict[str, int] = {}
    for seed in range(0, 600, 3):
        for found in run(name, table(300, seed), table(600, seed + 1), table(200, seed + 2)):
            guilty[found.name] = guilty.get(found.name, 0) + beyond(found)
    assert guilty
    for hits in guilty.values():
        assert hits <= stats.binom.isf(1e-9 / len(guilty), 200, ALPHA / len(guilty))


# An auditor that works in an environment of its own is checked by night, when that is made with pip.
NAMES = [pytest.param(n, marks=pytest.mark.nightly) if registry.get(n).needs_environment else n for n in OF_TABLES]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", NAMES)
def test_auditor(name: str, check: Callable[[str], None], make_environment: Callable[[str], None]) -> None:
    make_environment(registry.get(name).needs_environment)
    check(name)


@pytest.mark.parametrize("name", NAMES)
def test_auditor_keeps_cell_values_to_itself(
    name: str, caplog: pytest.LogCaptureFixture, make_environment: Callable[[str], None]
) -> None:
    make_environment(registry.get(name).needs_environment)
    caplog.set_level(logging.DEBUG)
    frames = [table(100, seed).assign(grade=SENTINEL) for seed in range(3)]
    data = given(name, (frames[0], frames[1], frames[2]))
    said = "".join([*(f.to_json() for f in run(name, *frames)), repr(data), made(name).plan(data), caplog.text])
    assert SENTINEL not in said
    assert "real-" not in said
