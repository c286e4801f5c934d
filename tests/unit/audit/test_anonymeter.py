"""anonymeter as an auditor: what it is given, what is made of its counts, and what it gets wrong itself."""

from __future__ import annotations

import datetime as dt
import json
import logging
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tabveil import environments
from tabveil.audit import audit, notes
from tabveil.audit.anonymeter import Anonymeter
from tabveil.audit.base import ALPHA, AuditInput
from tabveil.audit.profiles import judge, load
from tabveil.audit.rates import beyond
from tabveil.columns import Categorical, Date, Decimal, Integer
from tabveil.records import Finding
from tabveil.schema import Schema

SCHEMA = Schema(
    columns=(
        Integer(name="balance [€]", low=-500, high=500, missing=("",)),
        Decimal(name="score", low=-1.0, high=1.0, decimals=2),
        Integer(name="age", low=17, high=90),
        Date(name="born", low=dt.date(1990, 1, 1), high=dt.date(1999, 12, 31)),
        Categorical(name="town", categories=("Ahaus", "Borken", "Coesfeld"), catch_all="other"),
    ),
    sensitive=("balance [€]", "town"),
)


def table(rows: int, seed: int) -> pd.DataFrame:
    """Columns that have nothing to do with each other, but for the town, which goes with the balance's sign."""
    rng = np.random.default_rng(seed)
    balance = rng.integers(-500, 501, rows)
    sign = np.where(rng.random(rows) < 0.75, np.sign(balance), rng.integers(-1, 2, rows))
    frame = pd.DataFrame(
        {
            "balance [€]": pd.array(balance, dtype="Int64"),
            "score": np.round(rng.uniform(-1, 1, rows), 2),
            "age": rng.integers(17, 91, rows),
            "born": pd.to_datetime("1990-01-01") + pd.to_timedelta(rng.integers(0, 3652, rows), unit="D"),
            "town": np.array(["Ahaus", "Borken", "Coesfeld"], dtype=object)[sign + 1],
        }
    )
    frame.loc[::17, "balance [€]"] = pd.NA
    return frame


def tables(rows: int = 200) -> dict[str, pd.DataFrame]:
    return {role: table(rows, seed) for seed, role in enumerate(("synthetic", "train", "holdout"))}


Answer = Callable[[Mapping[str, Any]], dict[str, Any]]
Worker = Callable[[Answer], dict[str, Any]]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Takes the worker's place: answers each attack as told, and keeps what was sent."""
    sent: dict[str, Any] = {}

    def become(answer: Answer) -> dict[str, Any]:
        def run(name: str, *, tables: Mapping[str, pa.Table], job: Mapping[str, Any], limit_s: float) -> list[Any]:
            sent.update(name=name, tables=tables, job=json.loads(json.dumps(job)))
            return [answer(attack) for attack in job["attacks"]]

        monkeypatch.setattr(environments, "is_there", lambda name: True)
        monkeypatch.setattr(environments, "run", run)
        return sent

    return become


def counts(train: int, holdout: int, *, tries: int = 1000, naive: int = 10, **more: Any) -> dict[str, Any]:
    return {
        "tries": tries,
        "train": train,
        "holdout": holdout,
        "naive": naive,
        "naive_tries": 1000,
        "failed": "",
        **more,
    }


def ask(schema: Schema = SCHEMA, **frames: pd.DataFrame) -> tuple[Finding, ...]:
    return audit(**{**tables(), **frames}, schema=schema, auditors=["anonymeter"])


# --------------------------------------------------------------------------------------------------------- what is sent


def test_tables_are_codes_without_names_words_or_numbers_below_zero(worker: Worker) -> None:
    sent = worker(lambda attack: counts(0, 0))
    frames = tables() | {"train": table(400, 1)}
    ask(**frames)
    shown = {name: rows.to_pydict() for name, rows in sent["tables"].items()}
    assert {name: len(rows["c0"]) for name, rows in shown.items()} == {
        "synthetic": 200, "train": 200, "holdout": 200, "train_targets": 200, "holdout_targets": 200
    }  # fmt: skip
    for rows in shown.values():
        for name, cells in rows.items():
            assert name[0] in "cnms"
            assert name[1:].isdigit()
            for cell in {c for c in cells if c is not None}:
                assert cell[0] == "v" and cell[1:].isdigit() if isinstance(cell, str) else cell >= 0
    town = dict(zip(shown["train"]["c4"], shown["train"]["s0"], strict=True))
    assert set(town) <= {"v0", "v1", "v2", "v3"}
    assert "Ahaus" not in json.dumps(shown)


def test_numbers_are_shifted_only_where_they_begin_below_one_and_missing_is_below_all(worker: Worker) -> None:
    sent = worker(lambda attack: counts(0, 0))
    frames = tables()
    ask(**frames)
    rows, train = sent["tables"]["train"].to_pydict(), frames["train"]
    balance = train["balance [€]"]
    assert sorted(rows["s0"]) == sorted((balance + 501).fillna(0).tolist())
    assert sorted(rows["s2"]) == sorted(train["age"].tolist())
    assert sum(cell is None for cell in rows["c0"]) == balance.isna().sum() > 0
    assert sum(cell == "v0" for cell in rows["m0"]) == balance.isna().sum()
    assert None not in rows["n0"]


@pytest.mark.statistical
def test_rows_of_the_larger_table_are_drawn_one_by_one_so_that_as_many_are_alone_on_both_sides(worker: Worker) -> None:
    """2,400 of 9,600 rows, and all of 2,400: on both sides a value of the 2,000 common ones is there once with a chance
    of 1/e, so 736 + 400 rows are alone, the difference with a deviation below 30. Were copies drawn together, 700 fewer
    of the larger table's would be. alpha = 1e-9 is 6.1 deviations.
    """
    sent = worker(lambda attack: counts(0, 0))
    schema = Schema(columns=(Integer(name="a", low=0, high=99_999),))
    rng = np.random.default_rng(0)
    drawn = [pd.DataFrame({"a": np.r_[rng.integers(0, 2000, n), np.arange(n // 5) + 10_000 * i]}) for i, n in
             enumerate((8_000, 2_000), start=1)]  # fmt: skip
    ask(schema, train=drawn[0], holdout=drawn[1], synthetic=drawn[1])
    alone = [int((sent["tables"][role]["c0"].to_pandas().value_counts() == 1).sum()) for role in ("train", "holdout")]
    assert sent["tables"]["train"].num_rows == sent["tables"]["holdout"].num_rows == 2_400
    assert abs(alone[0] - alone[1]) < 6.1 * 30


def hit(guess: float, secret: float) -> bool:
    """anonymeter 1.1.0's rule for numbers."""
    return abs(guess - secret) / (guess + 1e-12) <= 0.05


def test_the_rule_that_takes_every_guess_below_zero_for_a_hit_is_harmless_after_the_shift(worker: Worker) -> None:
    """The nightly test below shows the same of the package itself."""
    assert hit(-100, 5)
    assert hit(-3, 1000)
    sent = worker(lambda attack: counts(0, 0))
    ask()
    secrets = set(sent["tables"]["train"]["s0"].to_pylist())
    wrong = [(g, s) for g in secrets for s in secrets if abs(g - s) > 0.05 * g]
    assert len(wrong) > 1000
    assert not any(hit(g, s) for g, s in wrong)


def test_attacks_name_what_they_know_and_want(worker: Worker) -> None:
    sent = worker(lambda attack: counts(0, 0))
    found = ask()
    attacks = sent["job"]["attacks"]
    assert [a["kind"] for a in attacks] == ["singling out"] * 2 + ["linkability"] + ["inference"] * 2
    assert [a["at_once"] for a in attacks[:2]] == [1, 3]
    assert attacks[2]["halves"] == [["n1", "n3"], ["n2"]]
    assert [(a["known"], a["secret"], a["number"]) for a in attacks[3:]] == [
        (["n1", "n2", "n3"], "s0", True),
        (["n1", "n2", "n3"], "c4", False),
    ]
    assert all(f.threat_model and f.targets and f.cost for f in found)
    data = AuditInput(**tables(), schema=SCHEMA)
    Anonymeter(halves=(["balance [€]", "age"], ["score"])).compute(data)
    assert sent["job"]["attacks"][2]["halves"] == [["n0", "m0", "n2"], ["n1"]]


def test_one_column_and_no_secret_leave_one_attack(worker: Worker) -> None:
    sent = worker(lambda attack: counts(0, 0))
    schema = Schema(columns=(Integer(name="age", low=17, high=90_000),))
    frames = {role: f.assign(age=np.arange(200) + 1000 * i) for i, (role, f) in enumerate(tables().items())}
    found = ask(schema, **frames)
    assert [a["kind"] for a in sent["job"]["attacks"]] == ["singling out"]
    assert found[0].confidence == 1 - ALPHA


# --------------------------------------------------------------------------------------------------- what is made of it


def test_a_leak_is_beyond_the_holdout_and_has_a_risk(worker: Worker) -> None:
    worker(lambda attack: counts(300, 200))
    for f in ask():
        assert (f.value, f.control) == (0.3, 0.2)
        assert beyond(f)
        assert "a risk of 0.12" in f.verdict  # (0.3 - 0.2) / (1 - 0.2), of Wilson centres
        assert "which chance does not explain" in f.verdict


def test_failure_under_strong_privacy_is_a_result(worker: Worker) -> None:
    """Guessing beats the attack; no query could be made; anonymeter stops (a square root of a negative number)."""
    answers = iter(
        [
            counts(0, 0, tries=0, own={"tries": 0.0}),
            counts(3, 4, tries=50, naive=200, own={"train": 5.0, "holdout": 4.4, "tries": 60.0}),
            counts(3, 4, naive=400),
            counts(0, 0, tries=0, failed="ValueError"),
            counts(1000, 1000),
        ]
    )
    worker(lambda attack: next(answers))
    none, few, beaten, stopped, useful = ask()
    assert none.interval == (0.0, 1.0)
    assert none.ceiling == 0.0
    assert "Not one try" in none.verdict
    assert few.cost.startswith("50 tries a side")
    assert "anonymeter made 60 queries of 1,000 asked for" in few.verdict
    assert "blind guessing does as well, so the attack failed" in few.verdict
    assert "blind guessing does as well, so the attack failed" in beaten.verdict
    assert "ValueError" in stopped.verdict
    assert useful.control == 1.0
    assert not any(map(beyond, (none, few, beaten, stopped, useful)))


def test_a_worker_that_dies_leaves_findings_without_a_try(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker(lambda attack: counts(0, 0))

    def died(*args: object, **options: object) -> None:
        raise environments.WorkerError("The worker of anonymeter gave no answer: signal 9 ended it.")

    monkeypatch.setattr(environments, "run", died)
    found = ask()
    assert len(found) == 5
    assert all("signal 9" in f.verdict and f.interval == (0.0, 1.0) for f in found)
    assert sum(1 - f.confidence for f in found) == pytest.approx(ALPHA)


def test_without_its_environment_only_whoever_names_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    frames = tables()
    assert "anonymeter" not in {f.auditor for f in audit(**frames, schema=SCHEMA)}
    assert "nonymeter" not in caplog.text
    data = AuditInput(**frames, schema=SCHEMA)
    assert not any("nonymeter" in note for note in notes(data))
    assert "tabveil env create anonymeter" in notes(data, auditors=["anonymeter"])[0]
    assert ask() == ()
    assert "tabveil env create anonymeter" in caplog.text


def test_with_its_environment_it_runs_by_default(worker: Worker) -> None:
    worker(lambda attack: counts(0, 0))
    assert "anonymeter" in {f.auditor for f in audit(**tables(), schema=SCHEMA)}


def test_wp29_takes_its_findings_for_all_three_questions(worker: Worker) -> None:
    for train, outcome in ((210, "met"), (900, "not met"), (300, "not answered")):
        worker(lambda attack, train=train: counts(train, 200))
        judged = [j for j in judge(load("wp29"), findings=ask()) if j.auditor == "anonymeter"]
        assert [j.outcome for j in judged] == [outcome] * 3


# ----------------------------------------------------------------------------------------- by night: the package itself


@pytest.mark.nightly
def test_the_package_takes_every_guess_below_zero_for_a_hit(make_environment: Callable[[str], None]) -> None:
    """And its blind guesser loses guesses whose row numbers no target has; that is why we count both ourselves."""
    make_environment("anonymeter")
    code = """if True:
        import json
        import numpy as np, pandas as pd
        from anonymeter.evaluators import inference_evaluator as module
        rule = module.evaluate_inference_guesses
        below = rule(guesses=pd.Series([-100, -3]), secrets=pd.Series([5, 1000]), regression=True)
        above = rule(guesses=pd.Series([100, 3]), secrets=pd.Series([205, 1200]), regression=True)
        same = pd.DataFrame({"a": np.arange(1000) % 7, "b": 1})
        many = pd.DataFrame({"a": np.arange(20_000) % 7, "b": 1})
        asked = {"ori": same, "control": same, "syn": many, "aux_cols": ["a"], "secret": "b", "n_attacks": 1000}
        guesser = module.InferenceEvaluator(**asked).evaluate(n_jobs=1)
        print(json.dumps([below.tolist(), above.tolist(), int(guesser._n_baseline)]))
    """
    python = environments.python_of("anonymeter")
    out = subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True).stdout
    below, above, blind = json.loads(out)
    assert below == [True, True]
    assert above == [False, False]
    assert blind < 200  # every guess is right, 1,000 of them


@pytest.mark.nightly
@pytest.mark.statistical
def test_secrets_below_zero_are_not_found_in_tables_made_blindly(make_environment: Callable[[str], None]) -> None:
    """A balance of -500 to 500 that nothing tells, 1,000 tries. A guess is a hit within 5 % of itself, 500 steps above
    the lowest on average, so at most 51 of 1,001 balances are: the rate is above 0.051 + 6 deviations of 0.0072 (0.095)
    with a chance below alpha = 1e-9. Unshifted, half of all guesses would be hits.
    """
    make_environment("anonymeter")
    found = ask(**tables(1000))
    balance = next(f for f in found if "balance" in f.name)
    assert balance.value < 0.095
    assert not any(map(beyond, found))
    copied = ask(**tables(1000) | {"synthetic": table(1000, 1)})
    assert [beyond(f) for f in copied] == [True] * 5
    assert ask(**tables(1000) | {"synthetic": table(1000, 1)}) == copied


@pytest.mark.nightly
def test_a_table_of_one_row_repeated_is_a_result(make_environment: Callable[[str], None]) -> None:
    """What a generator with hardly any budget may give: no query singles out, and nothing can be told apart."""
    make_environment("anonymeter")
    one = pd.concat([table(1, 5)] * 300, ignore_index=True)
    found = ask(synthetic=one.assign(**{"balance [€]": pd.array([7] * 300, dtype="Int64")}))
    assert len(found) == 5
    assert not any(map(beyond, found))
