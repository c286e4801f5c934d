"""The account of a dataset, as `Ledger.export` writes it, boiled down to what a reader checks.

Privacy: an account holds prices and labels, never rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary(export: Mapping[str, Any]) -> dict[str, Any]:
    """Cap, spending and entries of an account; a field the export does not have is None."""
    entries = [_entry(e) for e in export.get("entries", ())]
    return {
        "dataset": _first(export, "dataset", "name"),
        "cap": _first(export, "epsilon", "cap", "epsilon_cap"),
        "delta": _first(export, "delta"),
        "unit": _first(export, "unit"),
        "spent": _first(export, "spent"),
        "head": _first(export, "head") or (entries[-1]["hash"] if entries else None),
        "entries": entries,
    }


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": _first(entry, "number", "seq", "index", "id"),
        "at": _first(entry, "at", "created", "time", "timestamp"),
        "kind": _first(entry, "kind", "type", "action"),
        "label": _first(entry, "label") or "",
        "events": len(_first(entry, "spends", "events") or ()),
        "hash": _first(entry, "hash", "entry_hash", "sha256"),
    }


def _first(data: Mapping[str, Any], *names: str) -> Any:
    return next((data[n] for n in names if data.get(n) is not None), None)


RECOMPUTE = (
    ("Check that no entry of the account was changed or removed:", "tabveil ledger verify"),
    ("Write the account, with every event and its noise, as JSON:", "tabveil ledger export"),
    (
        "Check every file of a release folder against its manifest, and its epsilon against the events:",
        "tabveil verify",
    ),
    (
        "Compute epsilon from the exported events with the script of the documentation, which imports dp-accounting only.",
        "",
    ),
)
"""How an outsider gets to the same epsilon: what to do, and the command for it."""


def recompute() -> list[dict[str, str]]:
    """RECOMPUTE as plain values."""
    return [{"text": text, "command": command} for text, command in RECOMPUTE]
