"""An audit kept in parts is the audit made at once, and parts of another audit are never taken for its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tabveil import auditing
from tabveil.audit.base import AuditInput
from tabveil.auditing import Audited, conduct
from tabveil.columns import Categorical, Integer
from tabveil.errors import StorageError, UsageError, VerificationError
from tabveil.schema import Schema

SENTINEL = "Qx7-sentinel-Zk"
SCHEMA = Schema(
    columns=(Integer(name="age", low=0, high=99), Categorical(name="color", categories=("red", "blue", SENTINEL))),
    quasi_identifiers=("age",),
    sensitive=("color",),
)


def table(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"age": rng.integers(0, 100, rows), "color": rng.choice(["red", "blue", SENTINEL], rows)})


def data(**changed: Any) -> AuditInput:
    given: dict[str, Any] = {"synthetic": table(200, 1), "train": table(200, 2), "holdout": table(100, 3)}
    return AuditInput(**{**given, "schema": SCHEMA, **changed})


def plain(found: Audited) -> dict[str, Any]:
    """All but how long it took."""
    return {k: v for k, v in found.to_dict().items() if k != "seconds"}


def test_there_and_back(tmp_path: Path) -> None:
    found = conduct(data(), profiles=["wp29", "cms-11"])
    assert {f.auditor for f in found.findings} == {"attribute", "copies"}
    assert len(found.notes) >= 2, "two columns have few rows that occur once"
    assert {j.profile for j in found.judgements} == {"wp29", "cms-11"}
    assert Audited.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    (tmp_path / "a.json").write_text(json.dumps(found.to_dict()))
    assert Audited.read(tmp_path / "a.json") == found
    assert found.about["rows"] == {"synthetic": 200, "train": 200, "holdout": 100}


def test_in_parts_or_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, float]] = []
    asked = data(tell=lambda stage, share: heard.append((stage, share)))
    whole = conduct(asked, store=tmp_path / "parts")
    assert plain(whole) == plain(conduct(asked))
    assert heard[0] == ("audit: anonymity", 0.0)
    assert heard[-1] == ("audit: done", 1.0)
    monkeypatch.setattr(auditing, "_audited", lambda *_: pytest.fail("what is done was done again"))
    assert conduct(data(), store=tmp_path / "parts") == whole


@pytest.mark.parametrize(
    "changed",
    [
        {"synthetic": table(200, 9)},
        {"train": table(201, 2)},
        {"holdout": None},
        {"random_state": 1},
        {"schema": dataclasses.replace(SCHEMA, sensitive=())},
        {"population": table(500, 4)},
        {"refit": lambda frame, seed: frame},
    ],
    ids=lambda c: next(iter(c)),
)
def test_parts_of_another_audit_are_not_taken(tmp_path: Path, changed: dict[str, Any]) -> None:
    conduct(data(), store=tmp_path)
    assert plain(conduct(data(**changed), store=tmp_path)) == plain(conduct(data(**changed)))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_part_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    whole = conduct(data(), store=tmp_path)
    for part in tmp_path.rglob("*.json"):
        part.write_text(part.read_text()[:-9])
    assert plain(conduct(data(), store=tmp_path)) == plain(whole)


def test_parts_hold_no_cell_and_go_when_they_are_not_needed(tmp_path: Path) -> None:
    conduct(data(), store=tmp_path / "parts")
    kept = [p.read_text() for p in (tmp_path / "parts").rglob("*.json")]
    assert kept
    assert not any(SENTINEL in text for text in kept)
    auditing.forget(tmp_path / "parts", data())
    assert not (tmp_path / "parts").exists()


def test_a_folder_with_something_else_in_it_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    conduct(data(), store=tmp_path)
    auditing.forget(tmp_path, data())
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_what_is_no_audit_is_refused(tmp_path: Path) -> None:
    good = conduct(data(), auditors=["copies"]).to_dict()
    bad: list[Any] = [
        [],
        {},
        {**good, "tabveil_audit": 2},
        {**good, "findings": [{"auditor": "x"}]},
        {"tabveil_audit": 1},
    ]
    for document in bad:
        with pytest.raises(VerificationError):
            Audited.from_dict(document)
    with pytest.raises(StorageError):
        Audited.read(tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("no json")
    with pytest.raises(VerificationError, match="no JSON"):
        Audited.read(tmp_path / "text.json")
    with pytest.raises(UsageError, match="another release"):
        auditing.check_same_release(Audited.from_dict(good), "0" * 64)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        conduct(data(), store=tmp_path / "file")
    with pytest.raises(UsageError):
        conduct(data(), auditors=["nosuch"])
