"""What single auditors came to, kept on disk while an audit goes on, and what is checked of records that are read back.

    STORE/<digest of the audit>/<auditor>.json    what it found
    STORE/<digest of the audit>/<auditor>/        what it keeps itself, such as the results of single fits

Privacy: INTERNAL: findings, counts and digests; no cell.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from tabveil import _atomic
from tabveil.errors import StorageError
from tabveil.records import Finding, Judgement, Measurement

OUTCOMES = ("met", "not met", "not answered")


@dataclass(frozen=True)
class Part:
    """What one auditor came to, and how many seconds it took."""

    findings: tuple[Finding, ...]
    measurements: tuple[Measurement, ...]
    note: str
    seconds: float

    def to_json(self) -> str:
        """One JSON object."""
        found, counted = ([r.to_dict() for r in records] for records in (self.findings, self.measurements))
        return json.dumps({"findings": found, "measurements": counted, "note": self.note, "seconds": self.seconds})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild what `to_json` gave; raises ValueError where it is something else."""
        data = mapping(json.loads(text))
        return cls(
            findings=findings_of(data.get("findings")),
            measurements=measurements_of(data.get("measurements")),
            note=word(data.get("note")),
            seconds=figure(data.get("seconds")),
        )


class Parts:
    """The folder of one audit's parts; made when the first is kept.

    Args:
      store: the folder for all audits' parts; None keeps nothing.
      digest: of what the audit depends on.
    """

    def __init__(self, store: Path | None, digest: str) -> None:
        self._store = store
        self._place = None if store is None else store / digest[:16]

    def of(self, auditor: str) -> Path | None:
        """The folder in which that auditor may keep what it needs to go on; it makes it itself."""
        return None if self._place is None else self._place / auditor

    def read(self, auditor: str) -> Part | None:
        """What is kept of that auditor; None where there is nothing that can be read."""
        if self._place is None:
            return None
        try:
            return Part.from_json((self._place / f"{auditor}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None

    def keep(self, auditor: str, part: Part) -> bool:
        """Keep a part; whether that worked. An audit whose parts cannot be kept goes on all the same."""
        if self._place is None:
            return True
        try:
            self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
            _atomic.write_text(self._place / f"{auditor}.json", part.to_json())
        except (OSError, StorageError):
            return False
        return True

    def forget(self, auditors: Sequence[str]) -> None:
        """Remove what is kept of these auditors, and the folders where nothing else is in them."""
        if self._place is None or self._store is None:
            return
        for auditor in auditors:
            shutil.rmtree(self._place / auditor, ignore_errors=True)
            with contextlib.suppress(OSError):
                (self._place / f"{auditor}.json").unlink()
        for folder in (self._place, self._store):
            with contextlib.suppress(OSError):
                folder.rmdir()


def any_kept(store: Path) -> bool:
    """Whether some audit has left something in `store` to go on from."""
    return any(path.is_file() for path in store.glob("*/**/*"))


# ------------------------------------------------------------------------------------------- records that are read back


def findings_of(data: Any) -> tuple[Finding, ...]:
    """Findings as `Finding.to_dict` wrote them; raises ValueError where they are something else."""
    return tuple(_finding(f) for f in listed(data))


def measurements_of(data: Any) -> tuple[Measurement, ...]:
    """Measurements as `Measurement.to_dict` wrote them; raises ValueError where they are something else."""
    return tuple(_measurement(m) for m in listed(data))


def judgements_of(data: Any) -> tuple[Judgement, ...]:
    """Judgements as `Judgement.to_dict` wrote them; raises ValueError where they are something else."""
    return tuple(_judgement(j) for j in listed(data))


def _finding(data: Any) -> Finding:
    found = _record(Finding, data)
    for text in (found.auditor, found.name, found.verdict, found.threat_model, found.targets, found.cost):
        word(text)
    numbers = (found.value, *listed(found.interval), found.baseline, found.control, found.ceiling, found.confidence)
    for number in numbers:
        require(not math.isnan(figure(number)))
    require(found.baseline_of in ("guessing", "claim"))
    require(len(found.interval) == 2 and found.interval[0] <= found.interval[1] and 0 < found.confidence < 1)
    curve = [*listed(found.false_alarms), *listed(found.recognised)]
    require(len(found.false_alarms) == len(found.recognised) and all(0 <= figure(p) <= 1 for p in curve))
    require(found.seed is None or (isinstance(found.seed, int) and not isinstance(found.seed, bool)))
    return found


def _measurement(data: Any) -> Measurement:
    counted = _record(Measurement, data)
    texts = (counted.auditor, counted.name, counted.table, counted.sensitive, counted.definition, counted.source)
    for text in (*texts, *listed(counted.columns), *listed(counted.notes)):
        word(text)
    require(not math.isnan(figure(counted.value)))
    for name, number in mapping(counted.details).items():
        require(isinstance(name, str) and not math.isnan(figure(number)))
    require(counted.goal in ("min", "max"))
    return counted


def _judgement(data: Any) -> Judgement:
    judged = _record(Judgement, data)
    texts = (judged.profile, judged.version, judged.requirement, judged.auditor, judged.citation, judged.sentence)
    for text in (*texts, *listed(judged.notes)):
        word(text)
    for number in (judged.value, judged.threshold):
        require(number is None or not math.isnan(figure(number)))
    require(judged.outcome in OUTCOMES)
    return judged


Kind = TypeVar("Kind", Finding, Measurement, Judgement)


def _record(kind: type[Kind], data: Any) -> Kind:
    try:
        made = kind.from_dict(mapping(data))
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no {kind.__name__}") from error
    require(made.internal is True)
    return made


def mapping(value: Any) -> Mapping[str, Any]:
    """`value`, which must be a mapping."""
    if not isinstance(value, Mapping):
        raise ValueError("no mapping")
    return value


def listed(value: Any) -> Sequence[Any]:
    """`value`, which must be a list or a tuple."""
    if not isinstance(value, list | tuple):
        raise ValueError("no list")
    return value


def word(value: Any) -> str:
    """`value`, which must be a text."""
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def figure(value: Any) -> float:
    """`value`, which must be a number; infinite ones are."""
    require(isinstance(value, int | float) and not isinstance(value, bool))
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("too large") from error


def require(holds: bool) -> None:
    """Raises ValueError where it does not hold."""
    if not holds:
        raise ValueError("not what was written")
