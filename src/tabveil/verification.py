"""Does a release folder hold what it says? Every claim in it is recomputed from the rest.

A manifest proves that nothing was changed by accident. Against somebody who rewrites the folder and its manifest
stand the ledger of the dataset (`verify(folder, ledger=...)`: the folder's account must be that ledger's) and the
manifest's digest, which `synthesize` prints and whoever publishes can pass on another way.

Privacy: reads a release, which may be published; no private row.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tabveil
from tabveil import accounting, learning
from tabveil._ledger_chain import History, replay
from tabveil._ledger_store import Entry
from tabveil.accounting import Spend
from tabveil.caveats import bought_before
from tabveil.columns import Boolean, Column, Date, Datetime, Decimal, Identifier, Integer
from tabveil.encoding import Codes, Floats, decode, parse
from tabveil.enforcing import violations
from tabveil.errors import DataError, LedgerError, SchemaError, TabveilError, UsageError, VerificationError
from tabveil.generators.base import load
from tabveil.ledger import Ledger
from tabveil.records import PrivacyStatement, rounded_up
from tabveil.release import DECLARED_FILE, FORMAT, MANIFEST, STAMP_FILE, Manifest, files_of, hash_of
from tabveil.report.document import Report
from tabveil.schema import Schema
from tabveil.tables import Table, open_table

TOLERANCE = 1e-9
"""How far below the recomputed epsilon a stated one may lie: another machine's rounding."""

REQUIRED = (
    "model/arrays.npz",
    "model/model.json",
    "report.html",
    "report.json",
    "report.md",
    "schema.yaml",
    "statement.json",
    "synthetic.csv",
    "synthetic.parquet",
)
"""What every release holds beside its manifest; a private one also holds ledger.json, any other one STAMP_FILE."""


def verify(folder: str | os.PathLike[str], *, ledger: Ledger | None = None) -> tuple[str, ...]:
    """Recompute everything a release says of itself.

    Args:
      folder: what `synthesize` made.
      ledger: the ledger that paid; its chain is verified too, and must hold the entry that the release names.

    Returns:
      One sentence for each check, in order.

    Raises:
      VerificationError: the first thing that does not match.
    """
    try:
        done = _checked(Path(folder))
        if ledger is not None:
            done.append(_check_against(ledger, read_manifest(Path(folder))))
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError):
        done = []
    if not done:
        raise VerificationError("A file of the release has its manifest's SHA-256, but not the form of a release.")
    return tuple(done)


def _checked(place: Path) -> list[str]:
    manifest = read_manifest(place)
    done = [_check_files(place, manifest)]
    statement = read_statement(place)
    schema = _read_schema(place, manifest)
    done += [
        _check_promise(place, manifest, statement),
        _check_epsilon(manifest, statement),
        _check_stamp(place, manifest),
    ]
    declared = _read_declared(place) if DECLARED_FILE in manifest.files else schema
    done += [_check_declared(declared, schema, statement)] if DECLARED_FILE in manifest.files else []
    _check_bought(declared, statement)
    history = read_ledger(place, manifest)
    if history is not None:
        done.append(_check_account(statement, history))
    done += [_check_model(place, statement, schema), _check_report(place, manifest)]
    return [*done, _check_tables(place, manifest, schema)]


# -------------------------------------------------------------------------------------------------------------- reading


def read_manifest(folder: Path) -> Manifest:
    """The manifest, proved to be unchanged by its own hash."""
    text = _text(folder, MANIFEST)
    try:
        manifest = Manifest.from_dict(json.loads(text))
        intact = manifest.sealed() == manifest and manifest.text() == text
    except (ValueError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise VerificationError(f"{MANIFEST} was changed, or is no manifest of a release.")
    if manifest.tabveil_release != FORMAT:
        raise VerificationError(f"The release has another format; this version reads format {FORMAT}.")
    return manifest


def read_statement(folder: Path) -> PrivacyStatement:
    """The promise of a release."""
    try:
        return PrivacyStatement.from_dict(_json(folder, "statement.json"))
    except TypeError:
        pass
    raise VerificationError("statement.json is no privacy statement.")


def read_ledger(folder: Path, manifest: Manifest) -> History | None:
    """The account as the release exports it, its chain recomputed; None where none paid."""
    if manifest.dataset is None:
        return None
    account = _json(folder, "ledger.json")
    try:
        entries = [Entry(e["seq"], e["payload"], e["hash"]) for e in account["entries"]]
        head, dataset = account["head"], account["dataset"]
        history = replay(str(dataset), entries)
    except (KeyError, TypeError, LedgerError):
        raise VerificationError("ledger.json is no export of an account.") from None
    if not (dataset == manifest.dataset and history.head == head == manifest.ledger_head):
        raise VerificationError("ledger.json is not the account that the manifest names, or not its newest entry.")
    return history


def _read_schema(folder: Path, manifest: Manifest) -> Schema:
    try:
        schema = Schema.from_yaml(folder / "schema.yaml")
    except SchemaError:
        raise VerificationError("schema.yaml is no valid schema.") from None
    if schema.digest != manifest.schema:
        raise VerificationError("schema.yaml is not the schema that the manifest names.")
    return schema


def _read_declared(folder: Path) -> Schema:
    try:
        return Schema.from_yaml(folder / DECLARED_FILE)
    except SchemaError:
        raise VerificationError(f"{DECLARED_FILE} is no valid schema.") from None


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_bytes().decode()
    except FileNotFoundError:
        problem = f"{os.fspath(folder)!r} holds no {name}: it is no release folder, or an incomplete one."
    except (OSError, UnicodeDecodeError):
        problem = f"{name} cannot be read."
    raise VerificationError(problem)


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        data = json.loads(_text(folder, name))
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise VerificationError(f"{name} is no JSON object.")
    return data


# --------------------------------------------------------------------------------------------------------------- checks


def _check_files(folder: Path, manifest: Manifest) -> str:
    wanted = {*REQUIRED, *(["ledger.json"] if manifest.dataset else []), *([STAMP_FILE] if manifest.stamp else [])}
    present = files_of(folder)
    for name in sorted({*wanted, *manifest.files}):
        if name not in present:
            raise VerificationError(f"{name} is missing.")
        if name not in manifest.files:
            raise VerificationError(f"The manifest does not name {name}.")
    for name in present:
        if name not in manifest.files:
            raise VerificationError(f"{name[:200]!r} does not belong to the release: the manifest does not name it.")
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise VerificationError(f"{name} is no regular file.")
        if hash_of(folder / name) != manifest.files[name]:
            raise VerificationError(f"{name} was changed: its SHA-256 is not the manifest's.")
    return f"{len(present)} files have the manifest's SHA-256, and there is no other file"


def _check_declared(declared: Schema, schema: Schema, statement: PrivacyStatement) -> str:
    """schema.yaml is what the user declared, with what was left to be learned filled in and nothing else changed: as
    charged where the release is private, else as a draft.
    """
    source = "draft" if statement.stamp else "charged"
    drafted = {"draft": True, "approved_by": None, "approved_on": None} if statement.stamp else {}
    heads = [_head(declared) | (drafted if declared.unresolved else {}), _head(schema)]
    pairs = zip(declared.columns, schema.columns, strict=True) if declared.names == schema.names else ()
    if heads[0] != heads[1] or declared.names != schema.names or not all(_filled_in(d, s, source) for d, s in pairs):
        raise VerificationError(f"schema.yaml is not {DECLARED_FILE} with what was learned filled in.")
    learned = sum(bool(c.unknown) for c in declared.columns)
    return f"schema.yaml is what was declared, with what was learned of {learned} columns filled in"


def _head(schema: Schema) -> dict[str, Any]:
    return {k: v for k, v in schema.to_dict().items() if k not in ("learn_share", "columns")}


def _check_bought(declared: Schema, statement: PrivacyStatement) -> None:
    """What a private release calls bought is in its statement: as a charged step, or as said to be paid for before."""
    if statement.stamp:
        return
    if not set(learning.labels(declared)) <= {event.get("label") for event in statement.events}:
        raise VerificationError("The statement holds no charge for some bound or category that was learned.")
    if not set(bought_before(declared)) <= set(statement.outside):
        raise VerificationError("schema.yaml calls a column charged that the statement does not account for.")


def _filled_in(declared: Column, whole: Column, source: str) -> bool:
    """Whether `whole` differs from `declared` in what the latter left out, and in saying so, only."""
    if not declared.unknown:
        return declared == whole
    free = {*declared.unknown, "learn", "source", "note"}
    kept = [f.name for f in fields(declared) if f.name not in free]
    same = type(declared) is type(whole) and all(getattr(declared, k) == getattr(whole, k) for k in kept)
    return same and not whole.unknown and whole.source == source


def _check_promise(folder: Path, manifest: Manifest, statement: PrivacyStatement) -> str:
    """The same promise in the statement, the model, the report and the manifest."""
    model = _json(folder, "model/model.json")
    if model.get("statement") != statement.to_dict():
        raise VerificationError("The model carries another privacy statement than statement.json.")
    said = _json(folder, "report.json")
    promise, stamps = said.get("promise"), said.get("stamps")
    data = statement.to_dict()
    keys = ("epsilon", "delta", "unit", "relation", "accountant", "theorem", "dataset")
    wanted = {k: data[k] for k in keys} | ({"sentence": statement.sentence()} if _is_ours(manifest) else {})
    stamped = [s.get("text") for s in stamps] if isinstance(stamps, list) else None
    same = isinstance(promise, dict) and {k: promise.get(k) for k in wanted} == wanted
    if not same or stamped != [w for w in [statement.stamp] if w]:
        raise VerificationError("The report states another promise than statement.json.")
    asked = (float(model["epsilon"]), model["delta"])
    stated = (statement.delta, statement.stamp, statement.dataset)
    if (manifest.epsilon, manifest.delta) != asked or (manifest.delta, manifest.stamp, manifest.dataset) != stated:
        raise VerificationError("The manifest states another promise than statement.json.")
    return "statement, model, report and manifest state the same promise"


def _check_epsilon(manifest: Manifest, statement: PrivacyStatement) -> str:
    if not math.isfinite(statement.epsilon):
        return "no epsilon is stated"
    if manifest.dataset is None or statement.epsilon > manifest.epsilon:
        raise VerificationError("The statement's epsilon is more than was asked for, or no account has paid for it.")
    try:
        spends = [Spend.from_dict(e) for e in statement.events]
        recomputed = accounting.epsilon(accounting.event_of(spends), statement.delta)
    except (UsageError, KeyError, TypeError, AttributeError):
        raise VerificationError("The events of the statement cannot be priced.") from None
    if not statement.epsilon >= recomputed - TOLERANCE:
        raise VerificationError(
            f"The events of the statement cost epsilon {recomputed:.9g}, more than the stated {statement.epsilon:.9g}."
        )
    bound = f"epsilon {rounded_up(statement.epsilon)} at delta {rounded_up(statement.delta)}"
    return f"{bound} follows from {len(spends)} events"


def _check_stamp(folder: Path, manifest: Manifest) -> str:
    if not manifest.stamp:
        if STAMP_FILE in manifest.files:
            raise VerificationError(f"A private release holds {STAMP_FILE}.")
        return "no stamp is needed"
    if not _text(folder, STAMP_FILE).startswith(manifest.stamp):
        raise VerificationError(f"{STAMP_FILE} does not say {manifest.stamp}.")
    return f"the folder is stamped {manifest.stamp}"


def _check_account(statement: PrivacyStatement, history: History) -> str:
    """The charge of this release is in the account, for the unit that the statement promises."""
    if not math.isfinite(statement.epsilon):
        return "the account's chain holds; this release asked nothing of it"
    events = list(statement.events)
    if not any([s.to_dict() for s in charge.spends] == events for charge in history.paid):
        raise VerificationError("The account holds no committed charge for the events of the statement.")
    if history.cap is None or history.cap.unit != statement.unit:
        raise VerificationError("The account protects another unit than the statement says.")
    return f"the account's chain of {len(history.charges)} charges holds, and has paid for the statement's events"


def _check_model(folder: Path, statement: PrivacyStatement, schema: Schema) -> str:
    try:
        made = load(folder / "model")
        sound = made.statement == statement and made.schema.digest == schema.digest and len(made.sample(2)) == 2
    except (TabveilError, KeyError, TypeError, ValueError, IndexError):
        sound = False
    if not sound:
        raise VerificationError("The model cannot be loaded, or is of another schema or statement.")
    return "the model loads under the same schema and statement, and samples"


def _check_report(folder: Path, manifest: Manifest) -> str:
    """A release edition without internal figures; made by this version, its pages are what report.json renders to."""
    said = _json(folder, "report.json")
    series = [c.get(k) for c in said.get("charts", ()) for k in ("real", "holdout")]
    figures = [f for key in ("utility", "findings", "measurements", "judgements") for f in said.get(key, ())]
    if said.get("edition") != "release" or any(series) or any(f.get("internal") for f in figures):
        raise VerificationError("The report is not a release edition: it holds figures computed from real rows.")
    if not _is_ours(manifest):
        return (
            "the report is a release edition (another version wrote its pages: they are not compared with report.json)"
        )
    page = Report(said)
    for name, text in (("report.html", page.html()), ("report.md", page.markdown())):
        if _text(folder, name) != text:
            raise VerificationError(f"{name} is not what report.json shows.")
    return "the report is a release edition, and its pages show what report.json says"


def _is_ours(manifest: Manifest) -> bool:
    """Whether this version made the release: others may put things in other words."""
    return bool(manifest.provenance.get("tabveil") == tabveil.__version__)


def _check_against(ledger: Ledger, manifest: Manifest) -> str:
    if manifest.dataset is None:
        raise VerificationError("The release was paid from no account: there is nothing to find in the ledger.")
    if manifest.dataset not in ledger.datasets():
        raise VerificationError(
            f"The ledger has no account {manifest.dataset!r}: the release was paid from another one."
        )
    ledger.verify(manifest.dataset, head=manifest.ledger_head)
    return "the ledger's chain holds, with the entry that the release names"


# --------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class _Content:
    """What a table holds: its rows, and for each column a hash of its codes, whatever the chunks were."""

    rows: int
    hashes: Mapping[str, str]


def _check_tables(folder: Path, manifest: Manifest, schema: Schema) -> str:
    try:
        found = {n: _content(open_table(folder / n), schema, name=n) for n in ("synthetic.parquet", "synthetic.csv")}
    except DataError:
        found = {}
    if not found:
        raise VerificationError("synthetic.parquet or synthetic.csv cannot be read.")
    for name, content in found.items():
        if content.rows != manifest.provenance.get("rows"):
            raise VerificationError(f"{name} has {content.rows} rows, the manifest says otherwise.")
    first, second = found.values()
    for column in schema.names:
        if first.hashes[column] != second.hashes[column]:
            raise VerificationError(f"synthetic.csv and synthetic.parquet differ in column {column!r}.")
    rules = " and its constraints" if schema.constraints else ""
    return f"synthetic.csv and synthetic.parquet hold the same {first.rows} rows, and obey the schema{rules}"


def _content(table: Table, schema: Schema, *, name: str) -> _Content:
    if table.columns != schema.names:
        raise VerificationError(f"{name} has other columns than the schema, or in another order.")
    hashes = {c: hashlib.sha256() for c in schema.names}
    rows = 0
    for chunk in table.chunks():
        for column in schema.columns if len(chunk) else ():
            codes = _strict(column, chunk[column.name], first=rows + 1, typed=name.endswith(".parquet"))
            if codes is None:
                raise VerificationError(f"{name} breaks the schema in column {column.name!r}.")
            hashes[column.name].update(codes.tobytes())
        _check_constraints(schema, chunk, name=name)
        rows += len(chunk)
    return _Content(rows, {c: h.hexdigest() for c, h in hashes.items()})


def _check_constraints(schema: Schema, rows: pd.DataFrame, *, name: str) -> None:
    for constraint, broken in violations(schema, rows).items():
        if broken:
            raise VerificationError(f"{name} breaks the schema's constraint {constraint}.")


def _strict(column: Column, values: pd.Series, *, first: int, typed: bool) -> Codes | None:
    """Codes of values that obey the schema to the letter (type, bounds, digits, categories), else None.

    Args:
      column: what the values should be.
      values: as read.
      first: number of the first row, which identifiers count.
      typed: whether the file keeps types.
    """
    if isinstance(column, Identifier):
        made = [column.pattern.format(n=n) for n in range(first, first + len(values))]
        return np.arange(len(values), dtype=np.int64) if values.tolist() == made else None
    codes, bad = parse(replace(column, invalid="refuse"), _in_words(column, values) if typed else values)
    if bad.any():
        return None
    return codes if (_exact if typed else _exact_text)(column, values, codes) else None


def _in_words(column: Column, values: pd.Series) -> pd.Series:
    """Truth values of a typed file in the schema's words, which need not be "true" and "false"."""
    if not (isinstance(column, Boolean) and pd.api.types.is_bool_dtype(values.dtype)):
        return values
    return values.map({True: column.true[0], False: column.false[0]}, na_action="ignore").astype(object)


def _exact_text(column: Column, values: pd.Series, codes: Codes) -> bool:
    """Text has no type to check; numbers must be those of the grid, up to the last digit of a double."""
    if not isinstance(column, Integer | Decimal):
        return True
    wanted = _floats(decode(column, codes))
    there = ~np.isnan(wanted)
    gap = np.abs(_floats(pd.to_numeric(values, errors="coerce")) - wanted)[there]
    return bool((gap <= 4 * np.spacing(np.abs(wanted[there]))).all())


def _exact(column: Column, values: pd.Series, codes: Codes) -> bool:
    """Typed values have the column's type and are exactly those of the grid."""
    if isinstance(column, Date | Datetime):
        return _same_moments(values, decode(column, codes))
    if isinstance(column, Integer | Decimal):
        fits = pd.api.types.is_integer_dtype if isinstance(column, Integer) else pd.api.types.is_float_dtype
        same = np.array_equal(_floats(values), _floats(decode(column, codes)), equal_nan=True)
        return bool(fits(values.dtype)) and same
    fits = pd.api.types.is_bool_dtype if isinstance(column, Boolean) else pd.api.types.is_object_dtype
    return bool(fits(values.dtype))


def _floats(values: pd.Series) -> Floats:
    floats: Floats = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return floats


def _same_moments(values: pd.Series, wanted: pd.Series) -> bool:
    """Compared in whole seconds, of which nothing may be cut off; nanoseconds do not reach all years."""
    if not pd.api.types.is_datetime64_any_dtype(values.dtype):
        return False
    given = values.to_numpy()
    seconds = given.astype("datetime64[s]")
    whole = np.array_equal(seconds.astype(given.dtype), given, equal_nan=True)
    return whole and np.array_equal(seconds, wanted.to_numpy().astype("datetime64[s]"), equal_nan=True)
