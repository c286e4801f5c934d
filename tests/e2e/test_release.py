"""A release verifies; whatever is changed in it, and however carefully, does not."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from e2e.conftest import ROWS, SENTINEL, Desk, people
from tabveil import learning, pipeline, verification
from tabveil.caveats import outside
from tabveil.columns import Categorical, Decimal, Identifier, Integer
from tabveil.constraints import Implied
from tabveil.errors import VerificationError
from tabveil.ledger import Ledger
from tabveil.noise import seeded_noise_for_tests
from tabveil.records import PrivacyStatement
from tabveil.release import MANIFEST, STAMP_FILE, Manifest, files_of, json_text, seal, write_rows
from tabveil.report.document import Report
from tabveil.schema import Schema
from tabveil.verification import _check_bought, read_manifest, verify

FILES = [
    "ledger.json",
    "manifest.json",
    "model/arrays.npz",
    "model/model.json",
    "report.html",
    "report.json",
    "report.md",
    "schema.yaml",
    "statement.json",
    "synthetic.csv",
    "synthetic.parquet",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, approved: Schema) -> Path:
    """A folder with a private release, one that is not private, and the ledger that paid for the first."""
    home = tmp_path_factory.mktemp("made")
    ledger = Ledger(home / "ledger.db")
    ledger.open("people", epsilon=3.0, delta=1e-5)
    asked: dict[str, Any] = {"generator": "independent", "random_state": 3}
    paid = {"ledger": ledger, "dataset": "people", "epsilon": 1.0, "delta": 1e-5}
    pipeline.synthesize(people(), approved, **asked, **paid, out=home / "private")
    pipeline.synthesize(people(), approved, **asked, epsilon=math.inf, out=home / "open")
    return home


@pytest.fixture
def private(made: Path, tmp_path: Path) -> Path:
    """A copy of the private release, to be spoilt."""
    return Path(shutil.copytree(made / "private", tmp_path / "private"))


@pytest.fixture
def open_(made: Path, tmp_path: Path) -> Path:
    """A copy of the release that is not private."""
    return Path(shutil.copytree(made / "open", tmp_path / "open"))


def _reseal(folder: Path, **changed: Any) -> None:
    """What somebody does who changes files and covers it up: a manifest that fits."""
    manifest = Manifest.from_dict(json.loads((folder / MANIFEST).read_text()))
    seal(folder, replace(manifest, **changed))


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json_text(data))


def _fails(folder: Path, *words: str, ledger: Ledger | None = None) -> None:
    with pytest.raises(VerificationError) as caught:
        verify(folder, ledger=ledger)
    for word in words:
        assert word in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------- sound


def test_a_release_holds_exactly_its_files_and_verifies(made: Path) -> None:
    assert sorted([*files_of(made / "private"), MANIFEST]) == FILES
    done = verify(made / "private", ledger=Ledger(made / "ledger.db", create=False))
    assert len(done) == 9


def test_a_release_that_is_not_private_says_so_everywhere_and_verifies(made: Path) -> None:
    assert STAMP_FILE in files_of(made / "open")
    for name in ("manifest.json", "report.html", "report.json", "report.md", STAMP_FILE):
        assert "NOT PRIVATE" in (made / "open" / name).read_text(), name
    assert "the folder is stamped NOT PRIVATE" in verify(made / "open")


def test_both_tables_are_the_same_and_as_long_as_the_public_count(made: Path, approved: Schema) -> None:
    typed = pd.read_parquet(made / "private" / "synthetic.parquet")
    text = pd.read_csv(made / "private" / "synthetic.csv")
    assert len(typed) == ROWS
    assert list(typed.columns) == list(approved.names)
    pd.testing.assert_frame_equal(typed, text, check_dtype=False)


@pytest.mark.parametrize("name", ["mark", "\ufeffmark"])
def test_a_release_of_names_and_categories_that_begin_with_a_byte_order_mark_verifies(
    tmp_path: Path, name: str
) -> None:
    categories = ("\ufeff", "\ufeffa", '\ufeff"a"')
    columns = (Categorical(name=name, categories=categories), Categorical(name="b", categories=categories))
    schema = Schema(columns=columns, approved_by="A. Person", approved_on="2026-01-31")
    table = pd.DataFrame({c.name: np.resize(categories, 12) for c in columns})
    pipeline.synthesize(table, schema, generator="independent", epsilon=math.inf, rows=12, out=tmp_path / "out")
    assert any("hold the same 12 rows" in line for line in verify(tmp_path / "out"))
    assert list(pd.read_csv(tmp_path / "out" / "synthetic.csv").columns) == [name, "b"]


def test_nothing_internal_is_in_a_release(made: Path) -> None:
    document = json.loads((made / "private" / "report.json").read_text())
    assert document["edition"] == "release"
    assert document["utility"] == document["findings"] == document["notes"] == []
    assert not any(c["real"] or c["holdout"] for c in document["charts"])
    assert document["provenance"]["seconds"] == {}
    assert read_manifest(made / "private").provenance["seconds"] == {}


def test_a_release_says_nothing_of_this_machine(made: Path) -> None:
    for path in (p for p in (made / "private").rglob("*") if p.is_file()):
        assert str(made).encode() not in path.read_bytes(), path.name
        assert b"/root" not in path.read_bytes(), path.name


def test_a_sentinel_in_the_table_is_in_no_file(tmp_path: Path, approved: Schema) -> None:
    ledger = Ledger()
    ledger.open("people", epsilon=3.0, delta=1e-5)
    columns = [replace(c, catch_all="other") if c.name == "color" else c for c in approved.columns]
    frame = people().assign(color=SENTINEL, age=86_420)
    schema = replace(approved, columns=tuple(columns))
    paid: dict[str, Any] = {"ledger": ledger, "dataset": "people", "epsilon": 1.0, "delta": 1e-5}
    release = pipeline.synthesize(frame, schema, **paid, out=tmp_path / "release")
    for path in (p for p in release.folder.rglob("*") if p.is_file()):
        assert SENTINEL.encode() not in path.read_bytes(), path.name
        assert b"86420" not in path.read_bytes(), path.name


def test_seeded_noise_makes_no_release(tmp_path: Path, approved: Schema) -> None:
    ledger = Ledger()
    ledger.open("people", epsilon=3.0, delta=1e-5)
    paid: dict[str, Any] = {"ledger": ledger, "dataset": "people", "epsilon": 1.0, "delta": 1e-5}
    with seeded_noise_for_tests(1):
        release = pipeline.synthesize(people(), approved, **paid, out=tmp_path / "release")
    assert release.statement.stamp == "NOT A RELEASE"
    assert "NOT A RELEASE" in (release.folder / STAMP_FILE).read_text()
    assert "the folder is stamped NOT A RELEASE" in verify(release.folder)


# ------------------------------------------------------------------------------------------------------------ accidents


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_in_any_file_is_found(private: Path, name: str, desk: Desk) -> None:
    path = private / name
    content = bytearray(path.read_bytes())
    for position in np.random.default_rng(len(name)).integers(0, len(content), 12).tolist():
        for bit in (0, 5):
            content[position] ^= 1 << bit
            path.write_bytes(content)
            _fails(private)
            content[position] ^= 1 << bit
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    outcome = desk.run("verify", private)
    assert (outcome.code, outcome.err.count("\n")) == (7, 1)
    assert name in outcome.err


def test_every_byte_of_the_manifest_counts(private: Path) -> None:
    path = private / MANIFEST
    content = bytearray(path.read_bytes())
    for position in range(len(content)):
        content[position] ^= 1
        path.write_bytes(content)
        _fails(private, MANIFEST)
        content[position] ^= 1
    path.write_bytes(content + b"\n")
    _fails(private, MANIFEST)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(private: Path, name: str) -> None:
    (private / name).unlink()
    _fails(private, name)


@pytest.mark.parametrize("name", ["extra.csv", ".hidden", "model/rows.csv", "deep/er/notes.txt"])
def test_a_file_too_many_is_found(private: Path, name: str) -> None:
    (private / name).parent.mkdir(parents=True, exist_ok=True)
    (private / name).write_text("more")
    _fails(private, name)


def test_a_link_is_no_file_of_a_release(private: Path) -> None:
    moved = private.parent / "elsewhere.csv"
    (private / "synthetic.csv").rename(moved)
    (private / "synthetic.csv").symlink_to(moved)
    _fails(private, "synthetic.csv", "no regular file")
    (private / "loop").symlink_to(private)
    _fails(private, "loop")


@pytest.mark.parametrize("folder", ["nosuch", "empty"])
def test_a_folder_without_manifest_is_no_release(tmp_path: Path, desk: Desk, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    outcome = desk.run("verify", folder)
    assert (outcome.code, outcome.out) == (7, "")
    assert "manifest.json" in outcome.err


# -------------------------------------------------------------------------------------------------------------- forgery


def _everywhere(folder: Path, field: str, value: Any) -> None:
    """Change one field of the promise in each place that states it."""
    _edit(folder / "statement.json", lambda s: s.update({field: value}))
    _edit(folder / "model/model.json", lambda m: m["statement"].update({field: value}))
    _edit(folder / "report.json", lambda r: r["promise"].update({field: value}))


def _say(folder: Path) -> None:
    """Let the report's sentence and pages follow its numbers."""
    statement = verification.read_statement(folder)
    _edit(folder / "report.json", lambda r: r["promise"].update(sentence=statement.sentence()))
    page = Report(json.loads((folder / "report.json").read_text()))
    for suffix in ("html", "md", "json"):
        page.save(folder / f"report.{suffix}")


def test_a_smaller_epsilon_stated_everywhere_does_not_follow_from_the_events(private: Path) -> None:
    _everywhere(private, "epsilon", 0.1)
    _say(private)
    _reseal(private)
    _fails(private, "cost epsilon 0.99", "stated 0.1")


def test_more_noise_stated_everywhere_is_not_what_the_account_paid_for(private: Path) -> None:
    def quieter(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [e | {"sigma": e["sigma"] * 10} for e in events]

    events = quieter(json.loads((private / "statement.json").read_text())["events"])
    _edit(private / "statement.json", lambda s: s.update(events=events, epsilon=0.1))
    _edit(private / "model/model.json", lambda m: m["statement"].update(events=events, epsilon=0.1))
    _edit(private / "report.json", lambda r: r["promise"].update(epsilon=0.1))
    _say(private)
    _reseal(private)
    _fails(private, "no committed charge")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("delta", 1e-9, "another promise"),
        ("unit", "person", "another unit"),
        ("dataset", "patients", "another promise"),
    ],
)
def test_another_promise_is_found(private: Path, field: str, value: Any, words: str) -> None:
    _everywhere(private, field, value)
    _say(private)
    _reseal(private)
    _fails(private, words)


@pytest.mark.parametrize("place", ["statement.json", "model/model.json", "report.json"])
def test_a_promise_changed_in_one_place_is_found(private: Path, place: str) -> None:
    def larger(data: dict[str, Any]) -> None:
        {"statement.json": data, "model/model.json": data.get("statement"), "report.json": data.get("promise")}[
            place
        ].update(epsilon=1.5)

    _edit(private / place, larger)
    _reseal(private)
    _fails(private, "another p")


def test_a_stamp_taken_off_is_found(open_: Path) -> None:
    (open_ / STAMP_FILE).unlink()
    _reseal(open_)
    _fails(open_, STAMP_FILE)
    _reseal(open_, stamp="")
    _fails(open_, "another promise")


def test_a_stamp_that_says_something_else_is_found(open_: Path) -> None:
    (open_ / STAMP_FILE).write_text("PRIVATE\n")
    _reseal(open_)
    _fails(open_, "does not say NOT PRIVATE")


def _spoil(folder: Path, schema: Schema, change: Callable[[pd.DataFrame], pd.DataFrame], *names: str) -> None:
    frame = change(pd.read_parquet(folder / "synthetic.parquet"))
    for name in names or ("synthetic.csv", "synthetic.parquet"):
        write_rows(frame, schema, folder / name)
    _reseal(folder)


TABLES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "above the bounds": (lambda f: f.assign(age=f["age"].where(f.index > 0, 100)), "column 'age'"),
    "below the bounds": (lambda f: f.assign(income=f["income"].where(f.index > 0, -0.01)), "column 'income'"),
    "digits too many": (lambda f: f.assign(income=f["income"] + 0.001), "column 'income'"),
    "undeclared category": (lambda f: f.assign(color="purple"), "column 'color'"),
    "missing where nothing may be": (lambda f: f.assign(color=f["color"].where(f.index > 0)), "column 'color'"),
    "a row less": (lambda f: f.iloc[1:], f"{ROWS - 1} rows"),
    "a row more": (lambda f: pd.concat([f, f.iloc[:1]]), f"{ROWS + 1} rows"),
    "another order of columns": (lambda f: f[["color", "age", "income"]], "other columns"),
    "a column more": (lambda f: f.assign(extra=1), "other columns"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_break_the_schema_are_found(private: Path, approved: Schema, case: str) -> None:
    change, words = TABLES[case]
    wide = replace(approved, columns=(approved["age"], approved["color"], replace(approved["income"], decimals=3)))
    _spoil(private, wide, change)
    _fails(private, words)


def test_a_table_that_breaks_a_constraint_is_found(tmp_path: Path, approved: Schema) -> None:
    hue = Categorical(name="hue", categories=("warm", "cold"))
    rule = Implied(column="hue", given="color", mapping={"red": "warm", "green": "cold", "blue": "cold"})
    ruled = replace(approved, columns=(*approved.columns, hue), constraints=(rule,))
    table = people().assign(hue="warm")
    pipeline.synthesize(table, ruled, generator="independent", epsilon=math.inf, out=tmp_path / "out")
    assert any("obey the schema and its constraints" in line for line in verify(tmp_path / "out"))
    _spoil(tmp_path / "out", ruled, lambda f: f.assign(hue=f["hue"].where(f.index > 0, "cold"), color="red"))
    _fails(tmp_path / "out", "synthetic.parquet breaks the schema's constraint 'hue' implied by 'color'")


@pytest.mark.parametrize("name", ["synthetic.csv", "synthetic.parquet"])
def test_tables_that_differ_are_found(private: Path, approved: Schema, name: str) -> None:
    _spoil(private, approved, lambda f: f.assign(age=f["age"].where(f.index != 9, 99 - f["age"])), name)
    _fails(private, "differ in column 'age'")


def test_a_type_that_is_not_the_schemas_is_found(private: Path, approved: Schema) -> None:
    _spoil(private, approved, lambda f: f.assign(age=f["age"].astype(float)), "synthetic.parquet")
    _fails(private, "synthetic.parquet", "'age'")
    _spoil(private, approved, lambda f: f.assign(age=f["age"].astype(int).astype(str)), "synthetic.parquet")
    _fails(private, "synthetic.parquet", "'age'")


def test_figures_of_real_rows_in_the_report_are_found(private: Path) -> None:
    _edit(private / "report.json", lambda r: r["charts"][0].update(real=[0.5]))
    _reseal(private)
    _fails(private, "real rows")


def test_a_page_that_shows_something_else_is_found(private: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (private / name).read_text()
        (private / name).write_text(text.replace("0.99", "0.01"))
        _reseal(private)
        _fails(private, name)
        (private / name).write_text(text)


def test_a_release_of_another_version_may_use_other_words_but_no_other_numbers(private: Path) -> None:
    provenance = read_manifest(private).provenance | {"tabveil": "0.0.9"}
    _edit(private / "report.json", lambda r: r["promise"].update(sentence="Said otherwise."))
    _reseal(private)
    _fails(private, "another promise")
    _reseal(private, provenance=provenance)
    assert any("another version" in sentence for sentence in verify(private))
    _edit(private / "report.json", lambda r: r["promise"].update(epsilon=0.1))
    _reseal(private, provenance=provenance)
    _fails(private, "another promise")


def test_another_schema_is_found(private: Path, approved: Schema) -> None:
    replace(approved, name="others").to_yaml(private / "schema.yaml")
    _reseal(private)
    _fails(private, "schema.yaml")
    _reseal(private, schema=replace(approved, name="others").digest)
    _fails(private, "model")


def test_a_model_that_does_not_load_is_found(private: Path) -> None:
    (private / "model" / "arrays.npz").write_bytes(b"PK")
    _reseal(private)
    _fails(private, "model")


def test_an_account_cut_short_or_altered_is_found(private: Path) -> None:
    original = (private / "ledger.json").read_text()
    account = json.loads(original)
    payload = account["entries"][1]["payload"]
    for change in (
        lambda a: a["entries"].pop(),
        lambda a: a["entries"][1].update(payload=payload.replace('"sensitivity":1', '"sensitivity":0')),
        lambda a: a.update(head="0" * 64),
        lambda a: a.update(dataset="patients"),
        lambda a: a.update(entries=None),
    ):
        (private / "ledger.json").write_text(original)
        _edit(private / "ledger.json", change)
        _reseal(private)
        _fails(private)


def test_another_ledger_did_not_pay(made: Path, private: Path) -> None:
    other = Ledger()
    _fails(private, "no account 'people'", ledger=other)
    other.open("people", epsilon=3.0, delta=1e-5)
    _fails(private, "no longer holds an entry", ledger=other)
    _fails(made / "open", "no account", ledger=Ledger(made / "ledger.db", create=False))


@pytest.mark.parametrize("name", ["statement.json", "report.json", "ledger.json", "model/model.json", "schema.yaml"])
@pytest.mark.parametrize("content", ["", "[]", "{}", '"x"', "null", "[" * 3000, "\x00", '{"epsilon": []}'])
def test_a_file_of_another_form_never_ends_in_an_internal_error(private: Path, name: str, content: str) -> None:
    (private / name).write_text(content)
    _reseal(private)
    _fails(private)


@pytest.mark.parametrize("field", ["files", "provenance", "epsilon", "stamp", "dataset", "ledger_head", "schema"])
@pytest.mark.parametrize("value", [None, [], "x", 7])
def test_a_manifest_of_another_form_never_ends_in_an_internal_error(private: Path, field: str, value: Any) -> None:
    manifest = Manifest.from_dict(json.loads((private / MANIFEST).read_text()))
    (private / MANIFEST).write_text(replace(manifest, **{field: value}).sealed().text())
    _fails(private)


# ------------------------------------------------------------------------------------------------------ learned domains
LEFT_OUT = Schema(
    columns=(
        Identifier(name="who", pattern="P{n}"),
        Categorical(name="kind", learn=True),
        Integer(name="count", learn=True, low=0),
        Decimal(name="price", learn=True),
    ),
    target="kind",
)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release whose schema left everything it can to be learned."""
    home = tmp_path_factory.mktemp("learned")
    ledger = Ledger(home / "ledger.db")
    ledger.open("things", epsilon=1.0, delta=1e-6)
    chance = np.random.default_rng(0)
    frame = pd.DataFrame({"who": [f"w{i}" for i in range(3_000)], "kind": chance.choice(["a", "b"], 3_000)})
    frame = frame.assign(count=chance.integers(0, 50, 3_000), price=np.round(chance.gamma(2.0, 9.0, 3_000), 2))
    frame.loc[0, "kind"] = SENTINEL
    paid = {"ledger": ledger, "dataset": "things", "epsilon": 1.0, "delta": 1e-6}
    pipeline.synthesize(frame, LEFT_OUT, generator="independent", **paid, out=home / "out", holdout=frame.head(500))
    return home / "out"


def test_a_release_holds_the_learned_schema_and_the_declared_one(learned: Path) -> None:
    assert files_of(learned) == sorted({*FILES, "schema.declared.yaml"} - {MANIFEST})
    assert Schema.from_yaml(learned / "schema.declared.yaml") == LEFT_OUT
    whole = Schema.from_yaml(learned / "schema.yaml")
    assert [c.source for c in whole.columns] == ["declared", "charged", "charged", "charged"]
    assert whole["kind"].labels == ("a", "b", "__other__")  # type: ignore[attr-defined]
    said = verify(learned)
    assert any("what was learned of 3 columns filled in" in line for line in said)
    page, statement = (learned / "report.html").read_text(), (learned / "statement.json").read_text()
    assert "bounds and categories are declared by a person, not learned" not in page
    assert "learned inside the guarantee: categories of &#39;kind&#39;" in page.replace("&#x27;", "&#39;")
    assert "learned inside the guarantee: categories of 'kind'" in statement
    assert all(SENTINEL not in p.read_bytes().decode("latin-1") for p in learned.rglob("*") if p.is_file())


def test_a_release_without_privacy_holds_what_it_read_as_a_draft(tmp_path: Path) -> None:
    frame = pd.DataFrame({"who": list("xyz"), "kind": ["a", "b", "b"], "count": [1, 2, 3], "price": [0.5, 1.0, 2.0]})
    approved = replace(LEFT_OUT, approved_by="A. Person", approved_on="2026-01-31")
    pipeline.synthesize(frame, approved, generator="independent", epsilon=math.inf, out=tmp_path / "out")
    whole = Schema.from_yaml(tmp_path / "out" / "schema.yaml")
    assert whole.draft
    assert [c.source for c in whole.columns] == ["declared", "draft", "draft", "draft"]
    assert any("what was learned of 3 columns filled in" in line for line in verify(tmp_path / "out"))
    assert "were read from rows, outside any privacy budget" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("drop", ["labels", "declared"])
def test_what_nobody_paid_for_is_not_called_charged(learned: Path, tmp_path: Path, drop: str) -> None:
    """A statement without the steps that learned bounds, with or without the declared schema beside it."""
    folder = Path(shutil.copytree(learned, tmp_path / "changed"))
    statement = PrivacyStatement.from_dict(json.loads((folder / "statement.json").read_text()))
    schema, declared = (Schema.from_yaml(folder / f) for f in ("schema.yaml", "schema.declared.yaml"))
    asked = learning.labels(declared)
    if drop == "labels":
        fewer = replace(statement, events=tuple(e for e in statement.events if e["label"] not in asked))
        with pytest.raises(VerificationError, match="no charge for some bound"):
            _check_bought(declared, fewer)
        return
    (folder / "schema.declared.yaml").unlink()
    _reseal(folder)
    with pytest.raises(VerificationError, match="calls a column charged"):
        verify(folder)
    _check_bought(schema, replace(statement, outside=outside(schema)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("low: 0", "low: 1"),
        ("learn: true", "learn: true, low: 0"),
        ("target: kind", "target: null"),
        ("kind: in", "k: in"),
    ],
)
def test_a_declared_schema_that_was_changed_is_found(learned: Path, tmp_path: Path, old: str, new: str) -> None:
    folder = Path(shutil.copytree(learned, tmp_path / "changed"))
    text = (folder / "schema.declared.yaml").read_text()
    body = text[text.index("\ncolumns:") :] if old != "target: kind" else text
    changed = (
        body.replace(old, new, 1) if ", " not in new else body.replace("  learn: true\n", "  learn: true\n  low: 3\n")
    )
    assert changed != body
    (folder / "schema.declared.yaml").write_text(text.replace(body, changed))
    _reseal(folder)
    with pytest.raises(VerificationError, match=r"schema\.declared\.yaml"):
        verify(folder)
