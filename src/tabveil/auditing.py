"""An audit from tables to one record: every chosen auditor in turn, each result kept as it comes, judged by profiles.

Long audits are killed. With a store, what an auditor found is on disk as soon as it ends, and what single fits gave as
soon as they end; the same audit then goes on from there. "The same" is decided by a digest of the coded tables, the
schema, the random state, the version and what is fitted again: parts of another audit are never mixed in.

Privacy: reads real rows outside any budget. The record, and whatever is in the store, is INTERNAL: findings, counts,
digests of tables; no cell.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

import tabveil
from tabveil import _audit_parts as parts
from tabveil import environments
from tabveil.audit import registry
from tabveil.audit.base import AuditInput, Auditor
from tabveil.audit.profiles import judge, load
from tabveil.columns import Column
from tabveil.encoding import Codes, size
from tabveil.errors import DataError, StorageError, UsageError, VerificationError
from tabveil.records import Finding, Judgement, Measurement

FORMAT = 1
"""Version of an audit's JSON, under the key `tabveil_audit`."""

THREE_QUESTIONS = "wp29"
"""The profile that every audit is judged by unless another is asked for: singling out, linkability, inference."""

ROLES = {"synthetic": "synthetic", "train": "training", "holdout": "held-out"}
"""The tables of every audit, and what messages call them."""

NO_HOLDOUT = 0.95
"""A holdout of which such a share are training rows is none."""

_log = logging.getLogger(__name__)


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
                findings=parts.findings_of(data.get("findings")),
                measurements=parts.measurements_of(data.get("measurements")),
                judgements=parts.judgements_of(data.get("judgements")),
                notes=tuple(parts.word(n) for n in parts.listed(data.get("notes"))),
                seconds={parts.word(k): parts.figure(v) for k, v in parts.mapping(data.get("seconds")).items()},
                about=parts.mapping(data.get("about")),
            )
        except ValueError as error:
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
        except (ValueError, RecursionError) as error:
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
      auditors: names from `registry.names()`; by default all but those that need an environment, or a `refit`, that
        is not there.
      profiles: names or files, as `audit.profiles.load` takes them.
      store: a folder for parts, made where there is none; they stay until `forget` removes them.
      about: further facts for the record, such as a release's manifest.

    Raises:
      UsageError: no such auditor or profile.
      DataError: the schema allows no cell of some column of the synthetic table.
    """
    able = auditors if auditors is not None else registry.runnable(refit=data.refit is not None)
    names = list(dict.fromkeys(able))
    chosen = {name: registry.get(name)() for name in names}
    asked = list({p.name: p for p in map(load, profiles)}.values())
    doubts = _doubts(data)
    done = _done(data, chosen, parts.Parts(store, _digest(data)))
    findings = tuple(f for part in done.values() for f in part.findings)
    measurements = tuple(m for part in done.values() for m in part.measurements)
    return Audited(
        findings=findings,
        measurements=measurements,
        judgements=tuple(j for p in asked for j in judge(p, findings=findings, measurements=measurements)),
        notes=(*doubts, *(part.note for part in done.values() if part.note)),
        seconds={name: part.seconds for name, part in done.items()},
        about={**_about(data), "auditors": names, "profiles": [p.name for p in asked], **(about or {})},
    )


def forget(data: AuditInput, store: Path, auditors: Sequence[str]) -> None:
    """Remove what these auditors kept in `store` of an audit of `data`, and folders where nothing else is in them."""
    parts.Parts(store, _digest(data)).forget([_key(name) for name in auditors])


def _key(name: str) -> str:
    """What an auditor's part is kept under: one that needs an environment answers for that one alone."""
    kind: type[Auditor] = registry.get(name)
    if not kind.needs_environment:
        return name
    return f"{name}-{hashlib.sha256(environments.state(kind.needs_environment).encode()).hexdigest()[:8]}"


def _done(data: AuditInput, chosen: Mapping[str, Auditor], kept: parts.Parts) -> dict[str, parts.Part]:
    """What each auditor came to, taken from what is kept where it is."""
    done = {}
    for at, (name, auditor) in enumerate(chosen.items()):
        data.tell(f"audit: {name}", at / len(chosen))
        key = _key(name)
        part = kept.read(key)
        if part is None:
            if (plan := auditor.plan(data)) and not auditor.why_not(data):
                _log.info("%s: %s", name, plan)
            part = _audited(auditor, _with_store(data, kept.of(key)))
            if not kept.keep(key, part):
                _log.warning("What %s found could not be kept: a killed audit would run it again.", name)
        done[name] = part
    data.tell("audit: done", 1.0)
    return done


def _with_store(data: AuditInput, place: Path | None) -> AuditInput:
    """The same tables, coded once, with a place to keep things in."""
    given = copy.copy(data)
    object.__setattr__(given, "store", place)
    return given


def _audited(auditor: Auditor, data: AuditInput) -> parts.Part:
    start = time.perf_counter()
    note = auditor.why_not(data)
    findings = () if note else tuple(auditor.compute(data))
    return parts.Part(findings, tuple(auditor.measure(data)), note, round(time.perf_counter() - start, 3))


def _doubts(data: AuditInput) -> tuple[str, ...]:
    """What makes findings say less than they seem to: cells that the schema does not allow, a holdout that is none.

    Raises:
      DataError: the schema allows no cell of some column of the synthetic table.
    """
    tables = [(role, *pair) for role, table in data.codes.items() for pair in _columns(data, table)]
    said = [_refused(column, role, codes) for role, column, codes in tables]
    if data.holdout is not None and len(data.train):
        known = np.isin(data.groups["holdout"], data.groups["train"])
        if known.mean() >= NO_HOLDOUT:
            said.append(
                f"{known.sum():,} of {len(known):,} held-out rows are also training rows: this is no holdout, and no "
                "attack can show anything beside it."
            )
    return tuple(s for s in said if s)


def _columns(data: AuditInput, table: Sequence[Codes]) -> Iterator[tuple[Column, Codes]]:
    return zip(data.schema.learned, table, strict=True)


def _refused(column: Column, role: str, codes: Codes) -> str:
    bad = int((codes == size(column) + 1).sum())
    if not bad:
        return ""
    where = (
        f"Column {column.name!r} of the {ROLES[role]} table: the schema does not allow {bad:,} of {len(codes):,} cells"
    )
    if role == "synthetic" and bad == len(codes):
        raise DataError(f"{where}. Nothing can be compared with them: check the column's type and spelling.")
    return f"{where}; attacks that compare them find less than there is."


def _about(data: AuditInput) -> dict[str, Any]:
    tables = {role: getattr(data, role) for role in (*ROLES, "population")}
    return {
        "tabveil": tabveil.__version__,
        "schema": data.schema.digest,
        "rows": {role: len(table) for role, table in tables.items() if table is not None},
        "tables_sha256": _of_tables(data).hexdigest(),
        "random_state": data.random_state,
        "refit": data.refit is not None,
        "manifest_sha256": None,
    }


def _digest(data: AuditInput) -> str:
    """SHA-256 of what an audit depends on."""
    total, refit = _of_tables(data), "" if data.refit is None else repr(data.refit)
    about = [tabveil.__version__, data.schema.to_dict(), data.random_state, refit, data.promise]
    total.update(json.dumps(about, sort_keys=True, default=str).encode())
    if data.population is not None:
        total.update(repr(data.population.columns.tolist()).encode())
        total.update(pd.util.hash_pandas_object(data.population.astype("string"), index=False).to_numpy().tobytes())
    return total.hexdigest()


def _of_tables(data: AuditInput) -> hashlib._Hash:
    """SHA-256 of the coded tables, and of which of their rows are one unit's."""
    total = hashlib.sha256()
    for role, columns in data.codes.items():
        units = data.units(role)
        numbers = columns if units is None else (*columns, units)
        total.update(f"{role} {len(columns)} {len(numbers)}".encode())
        for column in numbers:
            total.update(column.tobytes())
    return total


def check_same(audited: Audited, data: AuditInput, *, manifest: str) -> None:
    """Raises UsageError where an audit is of another release, or of other rows, than these."""
    if audited.about.get("manifest_sha256") != manifest:
        raise UsageError("This audit is of another release, or of a bare table: audit this release's folder.")
    about = _about(data)
    if any(audited.about.get(key) != about[key] for key in ("schema", "tables_sha256")):
        raise UsageError("This audit is of other training or held-out rows: give the tables that it was made with.")
