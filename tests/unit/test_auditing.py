"""An audit kept in parts is the audit made at once, and parts of another audit are never taken for its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tabveil import auditing
from tabveil.audit.base import AuditInput
from tabveil.auditing import Audited, conduct
from tabveil.columns import Categorical, Identifier, Integer
from tabveil.errors import DataError, StorageError, UsageError, VerificationError
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


def test_parts_of_an_audit_with_other_units_are_not_taken(tmp_path: Path) -> None:
    """Who owns which row decides what an auditor leaves out, though no coded column says it."""
    schema = dataclasses.replace(
        SCHEMA, columns=(*SCHEMA.columns, Identifier(name="who")), privacy_unit="who", max_rows_per_unit=9
    )
    for names in (["a", "b"], ["a", "a", "b"]):
        for role in ("train", "holdout"):
            frames = {r: table(100, seed).assign(who="z") for seed, r in enumerate(("train", "holdout"))}
            frames[role] = frames[role].assign(who=np.resize(names, 100))
            conduct(data(schema=schema, **frames), store=tmp_path, auditors=["copies"])
    assert len(list(tmp_path.iterdir())) == 4


def test_parts_of_another_version_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conduct(data(), store=tmp_path, auditors=["copies"])
    monkeypatch.setattr("tabveil.__version__", "another")
    conduct(data(), store=tmp_path, auditors=["copies"])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_part_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    whole = conduct(data(), store=tmp_path)
    parts = sorted(tmp_path.rglob("*.json"))
    good = {part: json.loads(part.read_text()) for part in parts}
    for change in BROKEN:
        for part in parts:
            part.write_text(change(good[part]))
        assert plain(conduct(data(), store=tmp_path)) == plain(whole)


def first(part: dict[str, Any], **changed: Any) -> str:
    """The part with its first finding changed, or with one that is nothing where it has none."""
    return json.dumps({**part, "findings": [{**found, **changed} for found in part["findings"][:1]] or [5]})


BROKEN: tuple[Callable[[dict[str, Any]], str], ...] = (
    lambda part: json.dumps(part)[:-9],
    lambda part: "[" * 100_000,
    lambda part: json.dumps({**part, "seconds": "long"}),
    lambda part: json.dumps({**part, "note": 5}),
    lambda part: json.dumps({k: v for k, v in part.items() if k != "measurements"}),
    lambda part: first(part, value="high"),
    lambda part: first(part, value=10**400),
    lambda part: first(part, interval=[0.5]),
    lambda part: first(part, interval=[0.6, 0.5]),
    lambda part: first(part, confidence="inf"),
    lambda part: first(part, false_alarms=[0.5]),
    lambda part: first(part, name=None),
    lambda part: first(part, internal=False),
)


def test_what_is_kept_elsewhere_stays(tmp_path: Path) -> None:
    """A short audit that is through leaves a longer one's parts alone; where nothing can be kept, the audit goes on."""
    conduct(data(), store=tmp_path / "parts")
    auditing.forget(data(), tmp_path / "parts", ["copies"])
    left = sorted(p.name for p in (tmp_path / "parts").rglob("*.json"))
    assert left == [f"{n}.json" for n in auditing.registry.runnable(refit=False) if n != "copies"]
    (tmp_path / "file").write_text("")
    assert plain(conduct(data(), store=tmp_path / "file")) == plain(conduct(data()))


def test_cells_that_the_schema_does_not_allow_are_told_of() -> None:
    some, all_ = table(200, 1).astype({"age": object}), table(200, 1).assign(age="x")
    some.loc[:49, "age"] = "x"
    said = conduct(data(synthetic=some), auditors=["copies"]).notes
    assert said[0].startswith("Column 'age' of the synthetic table: the schema does not allow 50 of 200 cells;")
    with pytest.raises(DataError, match=r"'age' of the synthetic table.*200 of 200 cells"):
        conduct(data(synthetic=all_))
    assert "200 of 200 cells" in conduct(data(train=all_), auditors=["copies"]).notes[0]


def test_a_holdout_that_is_none_is_told_of() -> None:
    said = conduct(data(holdout=table(200, 2).head(100)), auditors=["copies"]).notes
    assert any("100 of 100 held-out rows are also training rows" in note for note in said)
    assert not any("held-out rows are also" in note for note in conduct(data(), auditors=["copies"]).notes)


def test_names_given_twice_count_once() -> None:
    twice = conduct(data(), auditors=["copies", "copies"], profiles=["wp29", "wp29"])
    assert plain(twice) == plain(conduct(data(), auditors=["copies"], profiles=["wp29"]))


def test_parts_hold_no_cell_and_go_when_they_are_not_needed(tmp_path: Path) -> None:
    conduct(data(), store=tmp_path / "parts")
    kept = [p.read_text() for p in (tmp_path / "parts").rglob("*.json")]
    assert kept
    assert not any(SENTINEL in text for text in kept)
    auditing.forget(data(), tmp_path / "parts", auditing.registry.names())
    assert not (tmp_path / "parts").exists()


def test_a_folder_with_something_else_in_it_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    conduct(data(), store=tmp_path)
    auditing.forget(data(), tmp_path, auditing.registry.names())
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
    bad += [
        {**good, key: value} for key in ("about", "notes", "seconds", "judgements") for value in (5, "x", [5], None)
    ]
    judged = good["judgements"][0]
    for key, value in (("outcome", "approved"), ("threshold", "many"), ("notes", [None]), ("internal", False)):
        bad.append({**good, "judgements": [{**judged, key: value}]})
    for document in bad:
        with pytest.raises(VerificationError):
            Audited.from_dict(document)
    with pytest.raises(StorageError):
        Audited.read(tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("no json")
    with pytest.raises(VerificationError, match="no JSON"):
        Audited.read(tmp_path / "text.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(VerificationError, match="no JSON"):
        Audited.read(tmp_path / "deep.json")
    with pytest.raises(UsageError, match="another release"):
        auditing.check_same(Audited.from_dict(good), data(), manifest="0" * 64)
    of_release = Audited.from_dict({**good, "about": {**good["about"], "manifest_sha256": "0" * 64}})
    auditing.check_same(of_release, data(), manifest="0" * 64)
    with pytest.raises(UsageError, match="other training or held-out rows"):
        auditing.check_same(of_release, data(train=table(200, 7)), manifest="0" * 64)
    with pytest.raises(UsageError, match="among the auditors"):
        conduct(data(), auditors=["nosuch"])
