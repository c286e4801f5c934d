"""The account of a dataset, as `Ledger.export` writes it, boiled down to what a reader checks.

Privacy: an account holds prices, labels and times, never rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_KINDS = {
    "open": "opened",
    "reserve": "reserved",
    "commit": "charged",
    "release": "given back, unread",
    "note": "run without a promise",
}

RECOMPUTE = (
    ("Check every file of a release folder, the account and the epsilon in it:", "tabveil verify FOLDER"),
    ("Check in the ledger itself that no entry was changed or removed:", "tabveil ledger verify"),
    ("Write the account, with every event and its noise, as JSON:", "tabveil ledger export"),
    ("Compute the epsilon of that file with nothing but dp-accounting:", "python docs/recompute.py FILE"),
)
"""How an outsider gets to the same epsilon: what to do, and the command for it."""


def recompute() -> list[dict[str, str]]:
    """RECOMPUTE as plain values."""
    return [{"text": text, "command": command} for text, command in RECOMPUTE]


def summary(export: Mapping[str, Any]) -> dict[str, Any]:
    """Cap, spending and entries of an account; what the export does not hold is None."""
    cap = export.get("cap") or {}
    spent = export.get("spent") or {}
    return {
        "dataset": export.get("dataset"),
        "cap": cap.get("epsilon"),
        "delta": cap.get("delta"),
        "unit": cap.get("unit"),
        "spent": spent.get("epsilon"),
        "charges": spent.get("charges"),
        "head": export.get("head"),
        "caveats": list((export.get("statement") or {}).get("outside", ())),
        "entries": _entries(export.get("entries", ())),
    }


def _entries(entries: Any) -> list[dict[str, Any]]:
    """Entries in order; a commit or release has the label of what was reserved, and a commit its events."""
    read = {e.get("seq"): json.loads(e["payload"]) if isinstance(e.get("payload"), str) else {} for e in entries}
    return [_entry(e, read[e.get("seq")], about=read.get(read[e.get("seq")].get("ref"), {})) for e in entries]


def _entry(entry: Mapping[str, Any], data: Mapping[str, Any], *, about: Mapping[str, Any]) -> dict[str, Any]:
    charged = data.get("kind") == "commit"
    return {
        "number": entry.get("seq"),
        "at": data.get("time"),
        "kind": _KINDS.get(data.get("kind", ""), data.get("kind")),
        "label": data.get("label", about.get("label", "")),
        "events": sum(int(s.get("count", 1)) for s in about.get("spends", ())) if charged else 0,
        "hash": entry.get("hash"),
    }
