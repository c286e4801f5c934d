"""SDV metadata in and out: `SINGLE_TABLE_V1`, `V1` (SDV 1.x) and `V2` (SDV 2.x).

Field names and rules follow SDV 1.38.0 and 2.0.0, `sdv/metadata`. V1 metadata holds no bound and no category. V2
metadata may (`range_min`, `range_max`, `range_values`, `range_is_nullable`, `decimal_places`), and SDV's detection
fills them from the rows without a trace.

Privacy: reads metadata, no rows. A range taken from V2 metadata may have been learned from private rows, so its column
is a draft until a person approves it (traps A1, A2).
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

from tabveil._schema_text import check_keys, column_from_dict, did_you_mean, read_text
from tabveil.columns import KINDS, Boolean, Categorical, Column, Date, Datetime, Decimal, Identifier, Integer
from tabveil.errors import SchemaError

VERSIONS = ("SINGLE_TABLE_V1", "SINGLE_TABLE_V2", "V1", "V2")
"""Metadata versions that are read; all but SINGLE_TABLE_V2, which SDV never published, are written."""

_NEEDED = {
    "integer": ("low", "high"),
    "decimal": ("low", "high", "decimals"),
    "date": ("low", "high"),
    "datetime": ("low", "high"),
    "categorical": ("categories",),
}
_BOUNDS = {"low", "high", "decimals", "categories"}
_TIME_OF_DAY = re.compile(r"%-?[HIMSpfXcT]")
_NUMBERED = re.compile(r"(?:\\d|\[0-9\])\{(\d{1,2})\}")
_LITERAL = re.compile(r"(?:[\w :#@/-]|\\[^A-Za-z0-9])*")


def read(
    metadata: Any, *, known: Mapping[str, Mapping[str, Any]], table: str | None = None
) -> tuple[str, tuple[Column, ...]]:
    """Table name and columns of SDV metadata, completed by `known`.

    Raises:
      SchemaError: see `Schema.from_sdv`.
    """
    name, columns = _table(metadata, table)
    for column in known:
        if column not in columns:
            hint = did_you_mean(column, columns) or "."
            raise SchemaError(f"'known' names {column!r}, which the SDV metadata does not{hint}")
    drafts = [_completed(c, _fields(c, sdv), known.get(c, {})) for c, sdv in columns.items()]
    lacking = [f"{d['name']}: {', '.join(_lacking(d))}" for d in drafts if _lacking(d)]
    if lacking:
        shown = "; ".join(lacking[:20]) + ("; ..." if len(lacking) > 20 else "")
        raise SchemaError(
            "SDV metadata lacks public knowledge that a private fit needs; give it in 'known', per column, and not "
            f"from the rows: {shown}."
        )
    return name, tuple(column_from_dict(d, position=i) for i, d in enumerate(drafts, start=1))


def kinds(metadata: Any) -> dict[str, dict[str, Any]]:
    """What SDV metadata says of each column's kind (kind, format, ordered, pattern), without any range."""
    _, columns = _table(metadata, None)
    kept = {"kind", "format", "ordered", "pattern"}
    return {c: {k: v for k, v in _fields(c, sdv).items() if k in kept} for c, sdv in columns.items()}


def _table(metadata: Any, table: str | None) -> tuple[str, Mapping[str, Any]]:
    data = _loaded(metadata)
    version = data.get("METADATA_SPEC_VERSION", "V2" if "tables" in data else "SINGLE_TABLE_V1")
    if version not in VERSIONS:
        raise SchemaError(f"SDV metadata must be of version {', '.join(VERSIONS)}: upgrade it with SDV first.")
    tables = data.get("tables", {table or "table": data})
    if not isinstance(tables, Mapping) or not tables:
        raise SchemaError("The SDV metadata names no table.")
    if table is None and len(tables) > 1:
        raise SchemaError(f"The SDV metadata holds {len(tables)} tables: say which with 'table'.")
    chosen = next(iter(tables)) if table is None else table
    if chosen not in tables:
        raise SchemaError(f"The SDV metadata has no table {chosen!r}{did_you_mean(chosen, list(tables)) or '.'}")
    columns = tables[chosen].get("columns") if isinstance(tables[chosen], Mapping) else None
    if not isinstance(columns, Mapping) or not all(isinstance(c, Mapping) for c in columns.values()):
        raise SchemaError("The SDV metadata has no 'columns' with an 'sdtype' each.")
    return chosen, columns


def _loaded(metadata: Any) -> Mapping[str, Any]:
    if isinstance(metadata, str | Path):
        text = read_text(metadata, what="SDV metadata file")
        try:
            metadata = json.loads(text)
        except (ValueError, RecursionError):
            metadata = None
    elif hasattr(metadata, "to_dict"):
        metadata = metadata.to_dict()
    if not isinstance(metadata, Mapping):
        raise SchemaError("SDV metadata must be a dict, or the path of the JSON file that SDV saved.")
    return metadata


def _fields(name: str, sdv: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields as far as SDV's metadata of one column tells them; `source` is draft where a range was used."""
    sdtype = sdv.get("sdtype")
    if not isinstance(sdtype, str):
        raise SchemaError(f"SDV metadata of column {name!r} has no 'sdtype'.")
    readers = {"numerical": _numerical, "datetime": _datetime, "categorical": _categories, "ordinal": _categories}
    if sdtype in readers:
        fields = readers[sdtype](sdv)
    elif sdtype == "boolean":
        fields = {"kind": Boolean.kind}
    elif sdtype == "unknown":
        fields = {}
    else:
        fields = {"kind": Identifier.kind, **_pattern(sdv.get("regex_format"))}
    if sdv.get("range_is_nullable") is True:
        fields["missing"] = [""]
    return fields


def _numerical(sdv: Mapping[str, Any]) -> dict[str, Any]:
    kind = None
    if isinstance(sdv.get("computer_representation"), str):
        kind = Decimal.kind if sdv["computer_representation"].startswith("Float") else Integer.kind
    elif "decimal_places" in sdv:
        kind = Integer.kind if sdv["decimal_places"] == 0 else Decimal.kind
    fields = {"kind": kind, "low": sdv.get("range_min"), "high": sdv.get("range_max")}
    if kind == Decimal.kind:
        fields["decimals"] = sdv.get("decimal_places")
    if kind == Integer.kind:  # SDV writes an integer column's range as floats where the column had gaps
        whole = {k: int(v) for k, v in fields.items() if isinstance(v, float) and v.is_integer()}
        fields.update(whole)
    return {k: v for k, v in fields.items() if v is not None}


def _datetime(sdv: Mapping[str, Any]) -> dict[str, Any]:
    pattern = sdv.get("datetime_format")
    if not isinstance(pattern, str):
        return {}
    kind = Datetime.kind if _TIME_OF_DAY.search(pattern) else Date.kind
    fields: dict[str, Any] = {"kind": kind, "format": pattern}
    for ours, theirs in (("low", "range_min"), ("high", "range_max")):
        try:
            moment = dt.datetime.strptime(sdv[theirs], pattern).replace(tzinfo=None)
        except (KeyError, TypeError, ValueError):
            continue
        fields[ours] = moment if kind == Datetime.kind else moment.date()
    return fields


def _categories(sdv: Mapping[str, Any]) -> dict[str, Any]:
    listed = sdv.get("range_values", sdv.get("order"))
    fields: dict[str, Any] = {"kind": Categorical.kind}
    if sdv["sdtype"] == "ordinal" or "order" in sdv:
        fields["ordered"] = True
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        fields["categories"] = [_category(v) for v in listed]
    return fields


def _category(value: Any) -> str:
    """A category as the text that encoding compares: true, 1 for 1.0."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _pattern(regex: Any) -> dict[str, str]:
    """`P[0-9]{6}` as "P{n:06d}"; nothing for a regex that is more than letters around one run of digits."""
    parts = _NUMBERED.split(regex) if isinstance(regex, str) else []
    if len(parts) != 3 or not all(_LITERAL.fullmatch(p) for p in (parts[0], parts[2])):
        return {}
    before, after = (_escaped(re.sub(r"\\(.)", r"\1", p)) for p in (parts[0], parts[2]))
    return {"pattern": f"{before}{{n:0{int(parts[1])}d}}{after}"}


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _completed(name: str, fields: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """SDV's fields overridden by `known`; a draft where any range comes from SDV."""
    kind = known.get("kind", fields.get("kind"))
    if kind != fields.get("kind") and "kind" in fields:
        fields = {k: v for k, v in fields.items() if k == "missing"}
    if kind in KINDS and known:
        check_keys(known, known={"kind", *KINDS[kind].__dataclass_fields__}, where=f"'known' of column {name!r}")
    taken = (_BOUNDS | {"missing"}) & (set(fields) - set(known))
    draft = {"source": "draft", "note": "Ranges from SDV metadata."} if taken else {}
    return {**draft, **fields, **known, "name": name, "kind": kind}


def _lacking(fields: Mapping[str, Any]) -> list[str]:
    if fields["kind"] is None:
        return ["kind", "and what that kind needs"]
    if fields.get("learn") is True:
        return []
    return [f for f in _NEEDED.get(fields["kind"], ()) if f not in fields]


def write(columns: Sequence[Column], *, name: str, version: str) -> dict[str, Any]:
    """SDV metadata of `version`; see `Schema.to_sdv`.

    No primary key is named: a schema does not say whether an identifier is unique.

    Raises:
      SchemaError: unknown version.
    """
    if version not in VERSIONS or version == "SINGLE_TABLE_V2":
        raise SchemaError("SDV metadata can be written as version V2, V1 or SINGLE_TABLE_V1.")
    ranges = version == "V2"
    described = {}
    for column in columns:
        column.require_known()
        sdv, bounds = _sdv(column)
        nullable = {"range_is_nullable": column.nullable}
        described[column.name] = {**sdv, **bounds, **nullable} if ranges else _without_ranges(sdv, column)
    if version == "SINGLE_TABLE_V1":
        return {"columns": described, "METADATA_SPEC_VERSION": version}
    return {"tables": {name: {"columns": described}}, "relationships": [], "METADATA_SPEC_VERSION": version}


def _without_ranges(sdv: Mapping[str, Any], column: Column) -> dict[str, Any]:
    """One column as SDV 1.x writes it: a number's representation instead of its decimals, no ordinal type."""
    if isinstance(column, Integer | Decimal):
        return {"sdtype": "numerical", "computer_representation": "Int64" if isinstance(column, Integer) else "Float"}
    if isinstance(column, Categorical) and column.ordered:
        return {"sdtype": "categorical", "order": list(column.labels)}
    return dict(sdv)


@singledispatch
def _sdv(column: Column) -> tuple[dict[str, Any], dict[str, Any]]:
    """SDV's description of a column, and its ranges apart."""
    return {"sdtype": "unknown"}, {}


@_sdv.register
def _(column: Integer) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"sdtype": "numerical"}, {"range_min": column.low, "range_max": column.high, "decimal_places": 0}


@_sdv.register
def _(column: Decimal) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"sdtype": "numerical"}, {
        "range_min": column.low,
        "range_max": column.high,
        "decimal_places": column.decimals,
    }


@_sdv.register(Date)
@_sdv.register(Datetime)
def _(column: Date | Datetime) -> tuple[dict[str, Any], dict[str, Any]]:
    low, high = (bound.strftime(column.format) for bound in (column.low, column.high))
    return {"sdtype": "datetime", "datetime_format": column.format}, {"range_min": low, "range_max": high}


@_sdv.register
def _(column: Categorical) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"sdtype": "ordinal" if column.ordered else "categorical"}, {"range_values": list(column.labels)}


@_sdv.register
def _(column: Boolean) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"sdtype": "boolean"}, {}


@_sdv.register
def _(column: Identifier) -> tuple[dict[str, Any], dict[str, Any]]:
    pattern = re.split(r"\{n(?::(0?)(\d{1,2})d?)?\}", column.pattern.replace("{{", "\0").replace("}}", "\1"))
    if len(pattern) != 4:
        return {"sdtype": "id"}, {}
    before, _, width, after = pattern
    literal = [re.escape(p.replace("\0", "{").replace("\1", "}")) for p in (before, after)]
    return {"sdtype": "id", "regex_format": f"{literal[0]}[0-9]{{{width or 6}}}{literal[1]}"}, {}
