"""The white-box audit of a training: near its claim where all is right, beyond it where a bug is planted.

alpha is 1e-9 for all findings of an audit together. The audited trainings have 150 canaries with a row and as many
without, 150 steps and 2 runs: 45,000 observations of each, about 4,500 with the canary in the batch. `tests/mutants`
plants the bugs.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pandas as pd
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from scipy import stats

torch = pytest.importorskip("torch", reason="the extra deep is not installed")

from torch import nn  # noqa: E402

import tabveil as tv  # noqa: E402
from tabveil import accounting  # noqa: E402
from tabveil.accounting import Spend  # noqa: E402
from tabveil.audit import registry  # noqa: E402
from tabveil.audit import training as audited  # noqa: E402
from tabveil.audit._training_tests import Observations  # noqa: E402
from tabveil.audit.rates import beyond, empirical_epsilon, gaussian_mu  # noqa: E402
from tabveil.audit.training import (  # noqa: E402
    MARK,
    audit_training,
    evidence,
    findings,
    separation,
    watched,
    with_canaries,
)
from tabveil.columns import Categorical, Identifier, Integer  # noqa: E402
from tabveil.errors import UsageError  # noqa: E402
from tabveil.ledger import Ledger  # noqa: E402
from tabveil.mechanisms import PrivateRows  # noqa: E402
from tabveil.records import Finding  # noqa: E402
from tabveil.schema import Schema  # noqa: E402
from tabveil.sgd import Course, Descent, Schedule, train  # noqa: E402
from tabveil.tables import open_table  # noqa: E402

ALPHA = 1e-9
DELTA = 1e-5
A = Integer(name="a", low=0, high=9)
B = Categorical(name="b", categories=("x", "y", "z"))
SCHEMA = Schema(columns=(A, B))
PERSONS = Schema(columns=(Identifier(name="who"), A, B), privacy_unit="who", max_rows_per_unit=3)
SCHEDULE = Schedule("training", 0.1, 150, 1.0)


class Net(nn.Module):
    """Loss of a row: the squared output of two layers on its first two codes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 1)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(codes[:, :2].float()))).squeeze(1) ** 2


class Plain:
    """The least that `Course` needs of an optimiser."""

    def __init__(self) -> None:
        self.param_groups: list[dict[str, float]] = [{"lr": 0.0}]

    def step(self) -> None:
        return


def frame(rows: int) -> pd.DataFrame:
    numbers = np.arange(rows)
    return pd.DataFrame({"a": numbers % 10, "b": np.asarray(["x", "y", "z"])[numbers % 3]})


def fits(table: pd.DataFrame, schema: Schema, *, schedule: Schedule = SCHEDULE, runs: int = 2) -> list[Observations]:
    """Trainings under `watched`, their batches handed over 16 units at a time."""
    with watched(schema) as watch:
        for _ in range(runs):
            ledger = Ledger(":memory:")
            ledger.open("t", epsilon=1e6, delta=DELTA, unit=schema.unit)
            rows = PrivateRows(open_table(table), schema, ledger.charge("t", schedule.spends, label="fit"))
            descent = Descent(Net(), rows, schedule=schedule, clip=0.7, expected_units=20.0, most_units=16)
            train(descent, Course(Plain()))  # type: ignore[arg-type]
    return watch.observations


def told(found: tuple[Finding, ...]) -> str:
    """The verdicts of findings beyond what is charged."""
    return " ".join(f.verdict for f in found if beyond(f))


@functools.cache
def of_rows() -> tuple[Finding, ...]:
    table, schema = with_canaries(frame(100), SCHEMA, canaries=150)
    return findings(fits(table, schema), units=len(table), delta=DELTA, confidence=1 - ALPHA)


@functools.cache
def of_persons() -> tuple[Finding, ...]:
    people = frame(150).assign(who=[f"p{i // 3}" for i in range(150)])
    table, schema = with_canaries(people, PERSONS, canaries=150)
    units = table["who"].nunique()
    return findings(fits(table, schema), units=units, delta=DELTA, confidence=1 - ALPHA)


def claimed(schedule: Schedule) -> float:
    return accounting.epsilon(accounting.event_of(schedule.spends), DELTA)


# --------------------------------------------------------------------------------------------------- a right training
def test_a_right_training_stays_below_its_claim() -> None:
    assert not told(of_rows()), told(of_rows())


def test_a_right_training_of_persons_stays_below_its_claim() -> None:
    assert not told(of_persons()), told(of_persons())


@pytest.mark.parametrize("found", [of_rows, of_persons])
def test_the_audit_is_near_the_claim(found: functools._lru_cache_wrapper[tuple[Finding, ...]]) -> None:
    """4,500 observations in a batch give mu to 1.5 % (one standard deviation) and the rate to 1.4 %."""
    _, whole, outsider, steps, coins, noise = found()
    assert whole.baseline == pytest.approx(claimed(SCHEDULE))
    assert 0.85 * whole.baseline < whole.value < 1.15 * whole.baseline
    assert 0.6 * whole.baseline < whole.interval[0] < whole.baseline
    assert whole.control < 0.25 * whole.baseline
    assert outsider.value == pytest.approx(whole.baseline, rel=0.5)
    assert (steps.value, steps.baseline) == (150, 150)
    for tested in (coins, noise):
        assert 0 < tested.value < tested.baseline
    assert all(f.internal and f.auditor == "training" for f in found())
    assert all(Finding.from_json(f.to_json()) == f for f in found())


def test_a_training_that_is_watched_is_the_same_training() -> None:
    """Without canaries in the batch the sum is the plain one, and the module that is kept has no further layer."""
    table, schema = with_canaries(frame(50), SCHEMA, canaries=10)
    torch.manual_seed(0)
    net, other = Net(), Net()
    other.load_state_dict(net.state_dict())
    plain = Schedule("s", 1.0, 1, 0.0)
    from tabveil.ledger import Receipt

    def descent(module: Net, rows: pd.DataFrame) -> Descent:
        private = PrivateRows(open_table(rows), schema, Receipt.uncharged())
        return Descent(module, private, schedule=plain, clip=1.0, expected_units=1.0)

    with watched(schema) as watch:
        one = descent(net, table)
        one.gradient()
    two = descent(other, table[table[MARK] == 0])
    two.gradient()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert one.module is net
    assert len(list(net.parameters())) == 4
    assert watch.observations == []  # nothing was private
    assert Descent.__init__.__qualname__ == "Descent.__init__"


# ------------------------------------------------------------------------------------------------------ the statistics
def test_lower_bounds_err_no_more_often_than_they_say() -> None:
    """1,000 audits of 400 and 2,000 observations with mu = 0.5 and alpha = 0.05 each: where 5 % err, more than 97 do
    with a chance below 1e-9; an estimate without a margin would err 500 times, and is rejected.
    """
    rng, wrong = np.random.default_rng(0), np.zeros(3)
    epsilon = accounting.epsilon(GaussianDpEvent(2.0), DELTA)
    for _ in range(1_000):
        into, out = rng.standard_normal(400) + 0.5, rng.standard_normal(2_000)
        wrong += [
            separation(into, out, alpha=0.05)[1] > 0.5,
            gaussian_mu(into, out, confidence=0.95).low > 0.5,
            separation(into, out, alpha=0.05)[0] > 0.5,
        ]
    for _ in range(30):
        into, out = rng.standard_normal(400) + 0.5, rng.standard_normal(2_000)
        assert empirical_epsilon(into, out, delta=DELTA, confidence=1 - 1e-9).low < epsilon
    assert stats.binom.sf(97, 1_000, 0.05) < ALPHA
    assert wrong[:2].max() <= 97
    assert wrong[2] > 97


def made(steps: int = 400, rate: float = 0.1, *, noise: float = 1.0, seed: int = 0) -> Observations:
    """A training by the book, made with numpy: 100 canaries with a row among 300 units."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((steps, 200), dtype=np.int64)
    drawn[:, :100] = rng.random((steps, 100)) < rate
    sizes = drawn.sum(1) + rng.binomial(200, rate, steps)
    seen = drawn * (1 - 2.0**-8) + noise * rng.standard_normal(drawn.shape)
    return Observations(seen, drawn, sizes, Schedule("training", rate, steps, 1.0))


def test_made_trainings_are_rarely_found_guilty() -> None:
    """60 audits of at most 5 % error each: more than 18 would have a chance below alpha = 1e-9."""
    about = [(made(60, seed=s), made(60, seed=1000 + s)) for s in range(60)]
    tests = [audited._coins, audited._noise, audited._steps]
    guilty = 0
    for runs in about:
        audit = audited._About("training", 0.05 / 3, runs, 300, DELTA)
        guilty += any(beyond(t(audit)) for t in tests)
    assert stats.binom.sf(18, 60, 0.05) < ALPHA
    assert guilty <= 18


@pytest.mark.parametrize("off", [0.9, 1.1])
def test_noise_that_is_ten_percent_off_is_found(off: float) -> None:
    found = findings([made(150, noise=off)], units=300, delta=DELTA, confidence=1 - ALPHA)
    assert "The noise IS NOT AS CHARGED" in told(found)


def test_evidence_of_the_whole_run_is_the_likelihood_ratio() -> None:
    run = made(30)
    normal = stats.norm
    ratio = np.log(0.9 * normal.pdf(run.seen) + 0.1 * normal.pdf(run.seen - 1)) - normal.logpdf(run.seen)
    np.testing.assert_allclose(evidence(run), ratio.sum(0), rtol=1e-9)


def test_more_steps_than_charged_cost_what_they_cost() -> None:
    run = made(200)
    short = Observations(run.seen, run.drawn, run.sizes, Schedule("training", 0.1, 100, 1.0))
    found = findings([short], units=300, delta=DELTA, confidence=1 - ALPHA)
    assert "MORE THAN WERE CHARGED" in told(found)
    event = Spend("training", PoissonSampledDpEvent(0.1, GaussianDpEvent(1.0)), 200)
    assert found[1].value == pytest.approx(accounting.epsilon(accounting.event_of([event]), DELTA), rel=0.15)


# --------------------------------------------------------------------------------------------------------- interface
def test_a_generator_is_audited_through_its_own_fit() -> None:
    """alpha = 1e-9; 50 canaries, 12 steps."""
    generator = tv.create("tvae", epsilon=1.0, delta=DELTA, steps=12, hidden=8, rate=0.5)
    found = audit_training(generator, frame(200), SCHEMA, canaries=50, runs=1, confidence=1 - ALPHA)
    assert len(found) == 6
    assert not told(found), told(found)
    assert found[3].value == 12
    assert 0 < found[1].baseline < 1.0
    assert "training" not in registry.names()


def test_canaries_are_units_with_a_column_of_their_own() -> None:
    table, schema = with_canaries(frame(6).assign(who=list("aabbcc"), other=1), PERSONS, canaries=4)
    assert list(table) == ["who", "a", "b", MARK]
    assert table[MARK].tolist() == [0] * 6 + sorted([1, 2, 3, 4] * 3)
    assert table.groupby(MARK)["who"].nunique().tolist() == [3, 1, 1, 1, 1]
    assert schema.names[-1] == MARK
    public = with_canaries(frame(6), Schema(columns=(A, B), public_rows=6), canaries=4)[1]
    assert public.public_rows == 10


def test_mistakes_are_refused() -> None:
    private = tv.create("independent", epsilon=1.0, delta=DELTA)
    with pytest.raises(UsageError, match="trains nothing"):
        audit_training(private, frame(20), SCHEMA, canaries=10)
    for given in ({"canaries": 9}, {"runs": 0}, {"confidence": 1.0}):
        with pytest.raises(UsageError, match="needs a private generator"):
            audit_training(private, frame(20), SCHEMA, **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a private generator"):
        audit_training(tv.create("independent", epsilon=math.inf), frame(20), SCHEMA)
    with pytest.raises(UsageError, match="leave checkpoints out"):
        audit_training(tv.create("tvae", epsilon=1.0, delta=DELTA, checkpoints="states"), frame(20), SCHEMA)
    with pytest.raises(UsageError, match="leaves nothing to be learned"):
        with_canaries(frame(20), Schema(columns=(Integer(name="a", learn=True),)), canaries=10)
