"""An audit from tables to one record: every chosen auditor in turn, each result kept as it comes, judged by profiles.

Long audits are killed. With a store, what an auditor found is on disk as soon as it ends, and what single fits gave as
soon as they end; the same audit then goes on from there. "The same" is decided by a digest of the coded tables, the
schema, the random state, the version and what is fitted again: parts of another audit are never mixed in.

Privacy: reads real rows outside any budget. The record, and whatever is in the store, is INTERNAL: findings, counts,
digests of tables; no cell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

import tabveil
from tabveil import _atomic
from tabveil.audit import registry
from tabveil.audit.base import AuditInput, Auditor
from tabveil.audit.profiles import judge, load
from tabveil.errors import StorageError, UsageError, VerificationError
from tabveil.records import Finding, Judgement, Measurement

FORMAT = 1
"""Version of an audit's JSON, under the key `tabveil_audit`."""

THREE_QUESTIONS = "wp29"
"""The profile that every audit is judged by unless another is asked for: singling out, linkability, inference."""


@dataclass(frozen=True)
class Audited:
    """What an audit came to; INTERNAL.

    Attributes:
      findings: what attacks got, in the auditors' order.
      measurements: what was counted.
      judgements: what each asked profile makes of both.
      notes: one sentence for each auditor that found nothing to attack, and why.
      seconds: how long each auditor took; of parts taken from a store, how long they took then.
      about: what was audited: version, schema digest, rows of each table, random state, manifest of a release or None.
    """

    findings: tuple[Finding, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, stamped INTERNAL."""
        return {
            "tabveil_audit": FORMAT,
            "stamp": "INTERNAL",
            "about": dict(self.about),
            "findings": [f.to_dict() for f in self.findings],
            "measurements": [m.to_dict() for m in self.measurements],
            "judgements": [j.to_dict() for j in self.judgements],
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` gave.

        Raises:
          VerificationError: this is no audit of this format.
        """
        if not isinstance(data, Mapping) or data.get("tabveil_audit") != FORMAT:
            raise VerificationError(f"This is no tabveil audit of format {FORMAT}.")
        try:
            return cls(
                findings=tuple(Finding.from_dict(f) for f in data["findings"]),
                measurements=tuple(Measurement.from_dict(m) for m in data["measurements"]),
                judgements=tuple(Judgement.from_dict(j) for j in data["judgements"]),
                notes=tuple(data["notes"]),
                seconds=data["seconds"],
                about=data["about"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise VerificationError("This audit has been changed or cut off: it cannot be read.") from error

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The audit in a JSON file.

        Raises:
          StorageError: the file cannot be read.
          VerificationError: it holds no audit of this format.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            return cls.from_dict(json.loads(text))
        except OSError as error:
            raise StorageError(f"{os.fspath(path)!r} cannot be read.") from error
        except ValueError as error:
            raise VerificationError(f"{os.fspath(path)!r} is no audit: it is no JSON.") from error


def conduct(
    data: AuditInput,
    *,
    auditors: Sequence[str] | None = None,
    profiles: Sequence[str | Path] = (THREE_QUESTIONS,),
    store: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> Audited:
    """Every auditor in turn, and what the profiles make of it.

    Args:
      data: the tables; its `tell` hears each auditor's name and the share of auditors that are done.
      auditors: names from `registry.names()`; all by default.
      profiles: names or files, as `audit.profiles.load` takes them.
      store: a folder for parts, made where there is none; `forget` removes what this audit left in it.
      about: further facts for the record, such as a release's manifest.

    Raises:
      UsageError: no such auditor or profile.
      StorageError: the store cannot be written.
    """
    chosen = [(name, registry.get(name)()) for name in (registry.names() if auditors is None else auditors)]
    asked = [load(p) for p in profiles]
    place = None if store is None else _place(store, data)
    parts = _parts(dataclasses.replace(data, store=place), chosen, place)
    findings = tuple(f for part in parts for f in part.findings)
    measurements = tuple(m for part in parts for m in part.measurements)
    return Audited(
        findings=findings,
        measurements=measurements,
        judgements=tuple(j for p in asked for j in judge(p, findings=findings, measurements=measurements)),
        notes=tuple(part.note for part in parts if part.note),
        seconds={name: part.seconds for (name, _), part in zip(chosen, parts, strict=True)},
        about={**_about(data), "profiles": [p.name for p in asked], **(about or {})},
    )


def forget(store: Path, data: AuditInput) -> None:
    """Remove what an audit of `data` kept in `store`, and the folder where nothing else is in it."""
    shutil.rmtree(store / _digest(data)[:16], ignore_errors=True)
    with contextlib.suppress(OSError):
        store.rmdir()


def _about(data: AuditInput) -> dict[str, Any]:
    tables = {role: getattr(data, role) for role in ("synthetic", "train", "holdout", "population")}
    return {
        "tabveil": tabveil.__version__,
        "schema": data.schema.digest,
        "rows": {role: len(table) for role, table in tables.items() if table is not None},
        "random_state": data.random_state,
        "refit": data.refit is not None,
        "manifest_sha256": None,
    }


# ---------------------------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True)
class _Part:
    """What one auditor came to."""

    findings: tuple[Finding, ...]
    measurements: tuple[Measurement, ...]
    note: str
    seconds: float

    def to_json(self) -> str:
        found, counted = ([r.to_dict() for r in records] for records in (self.findings, self.measurements))
        return json.dumps({"findings": found, "measurements": counted, "note": self.note, "seconds": self.seconds})

    @classmethod
    def from_json(cls, text: str) -> Self:
        data = json.loads(text)
        return cls(
            findings=tuple(Finding.from_dict(f) for f in data["findings"]),
            measurements=tuple(Measurement.from_dict(m) for m in data["measurements"]),
            note=data["note"],
            seconds=data["seconds"],
        )


def _parts(data: AuditInput, chosen: Sequence[tuple[str, Auditor]], place: Path | None) -> list[_Part]:
    parts = []
    for at, (name, auditor) in enumerate(chosen):
        data.tell(f"audit: {name}", at / len(chosen))
        kept = None if place is None else place / f"{name}.json"
        part = _kept(kept)
        if part is None:
            part = _audited(auditor, data)
            if kept is not None:
                _atomic.write_text(kept, part.to_json())
        parts.append(part)
    data.tell("audit: done", 1.0)
    return parts


def _audited(auditor: Auditor, data: AuditInput) -> _Part:
    start = time.perf_counter()
    note = auditor.why_not(data)
    findings = () if note else tuple(auditor.compute(data))
    return _Part(findings, tuple(auditor.measure(data)), note, round(time.perf_counter() - start, 3))


def _kept(file: Path | None) -> _Part | None:
    """The part in `file`, or None where there is none that can be read."""
    try:
        return None if file is None else _Part.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _place(store: Path, data: AuditInput) -> Path:
    """The folder for parts of just this audit."""
    place = store / _digest(data)[:16]
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{os.fspath(store)!r} cannot be made a folder for the audit's parts.") from error
    return place


def _digest(data: AuditInput) -> str:
    """SHA-256 of what an audit depends on."""
    refit = "" if data.refit is None else repr(data.refit)
    about = [tabveil.__version__, data.schema.to_dict(), data.random_state, refit, data.promise]
    total = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for role, columns in data.codes.items():
        total.update(role.encode())
        for column in columns:
            total.update(column.tobytes())
    if data.population is not None:
        total.update(pd.util.hash_pandas_object(data.population.astype("string"), index=False).to_numpy().tobytes())
    return total.hexdigest()


def check_same_release(audited: Audited, manifest: str) -> None:
    """Raises UsageError where an audit is of another release than the one with this manifest's hash."""
    if audited.about.get("manifest_sha256") != manifest:
        raise UsageError("This audit is of another release, or of a bare table: audit this release's folder.")
