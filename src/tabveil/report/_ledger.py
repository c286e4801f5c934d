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
