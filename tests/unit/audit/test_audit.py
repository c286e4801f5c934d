"""The family: registry, door, inputs."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tabveil
from tabveil.audit import audit, notes, registry
from tabveil.audit.base import AuditInput
from tabveil.columns import Integer
from tabveil.errors import DataError, UsageError
from tabveil.records import Finding
from tabveil.schema import Schema

SCHEMA = Schema(columns=(Integer(name="a", low=0, high=999), Integer(name="b", low=0, high=9)))
FRAME = pd.DataFrame({"a": range(60), "b": [i % 10 for i in range(60)]})
OTHER = FRAME.assign(a=FRAME["a"] + 500)


def test_auditors_are_registered_and_helpers_are_not() -> None:
    assert registry.names() == [
        "anonymeter",
        "anonymity",
        "attribute",
        "canary",
        "copies",
        "membership",
        "mia_marginal",
        "shadow",
    ]
    with pytest.raises(UsageError, match="choose one of anonymeter, anonymity, attribute, canary, copies, membership"):
        registry.get("rates")


def test_audit_is_public_and_stays_a_function_after_its_package_is_imported() -> None:
    assert tabveil.audit is audit
    source = str(Path(__file__).resolve().parents[3] / "src")
    code = f"import sys; sys.path.insert(0, {source!r}); import tabveil.audit.rates, tabveil; "
    result = subprocess.run(
        [sys.executable, "-c", code + "print(type(tabveil.audit).__name__, 'pandas' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["function", "False"]


def test_findings_come_by_auditor() -> None:
    found = audit(FRAME, train=FRAME, holdout=OTHER, schema=SCHEMA)
    assert [f.auditor for f in found] == ["copies"] + 7 * ["membership"] + 7 * ["mia_marginal"]
    assert len(audit(FRAME, train=FRAME, holdout=OTHER, schema=SCHEMA, auditors=["copies"])) == 1


def test_no_holdout_is_a_note(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for holdout in (None, FRAME.iloc[:0]):
        assert audit(FRAME, train=FRAME, holdout=holdout, schema=SCHEMA) == ()
        data = AuditInput(synthetic=FRAME, train=FRAME, holdout=holdout, schema=SCHEMA)
        assert notes(data) == (
            "Anonymity was not measured: the schema declares no quasi-identifiers.",
            "What can be guessed of people was not measured: the schema names neither sensitive columns nor a target.",
            "How many rows are copies was not measured: there are no held-out rows.",
            "Membership was not measured: there are no held-out rows.",
            "Membership by marginals was not measured: there are no held-out rows.",
        )
    assert "no held-out rows" in caplog.text


def test_wrong_arguments_are_refused_in_one_sentence() -> None:
    given = {"train": FRAME, "holdout": OTHER, "schema": SCHEMA}
    with pytest.raises(UsageError, match="choose one of"):
        audit(FRAME, **given, auditors=["magic"])
    with pytest.raises(DataError, match="synthetic table lacks column 'a'"):
        audit(FRAME[["b"]], **given)
    with pytest.raises(DataError, match="holdout table has more than once column 'a'"):
        audit(FRAME, train=FRAME, holdout=pd.concat([OTHER, OTHER[["a"]]], axis=1), schema=SCHEMA)
    for wrong in (-1, 1.5, True):
        with pytest.raises(UsageError, match="random_state"):
            audit(FRAME, **given, random_state=wrong)


def test_copies_have_one_number_across_tables() -> None:
    data = AuditInput(synthetic=FRAME.iloc[::-1], train=FRAME, holdout=OTHER, schema=SCHEMA)
    groups = data.groups
    assert groups["synthetic"].tolist() == groups["train"][::-1].tolist()
    assert len({*groups["train"], *groups["holdout"]}) == 120


def test_random_state_chooses_rows_whatever_their_order() -> None:
    chosen = []
    for frame, state in ((FRAME, 0), (FRAME.sample(frac=1, random_state=1), 0), (FRAME, 1), (FRAME, None)):
        data = AuditInput(synthetic=frame, train=frame, holdout=None, schema=SCHEMA, random_state=state)
        rows = data.shuffled("train", data.groups["train"], purpose="p")
        assert sorted(rows) == list(range(60))
        chosen.append(frame["a"].to_numpy()[rows].tolist())
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]
    assert chosen[3] not in (chosen[0], chosen[2])


def test_a_random_state_of_numpy_is_a_whole_number_in_findings() -> None:
    given = {"train": FRAME, "holdout": OTHER, "schema": SCHEMA, "auditors": ["copies"]}
    (found,) = audit(FRAME, **given, random_state=np.int64(3))
    assert found == audit(FRAME, **given, random_state=3)[0]
    assert Finding.from_json(found.to_json()) == found


def test_rows_that_occur_once_in_both_real_tables() -> None:
    train, holdout = FRAME.iloc[[0, 1, 1, 2]], pd.concat([FRAME.iloc[[2]], OTHER.iloc[[0, 0, 1]]])
    data = AuditInput(synthetic=FRAME, train=train, holdout=holdout, schema=SCHEMA)
    assert {role: rows.tolist() for role, rows in data.once.items()} == {"train": [0], "holdout": [3]}
    alone = AuditInput(synthetic=FRAME, train=train, holdout=None, schema=SCHEMA)
    assert {role: rows.tolist() for role, rows in alone.once.items()} == {"train": [0, 3]}
