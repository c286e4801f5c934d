"""Schema files: columns as plain dicts, and YAML read strictly and written for a person.

YAML is read with a safe loader made stricter: a key given twice is an error, 010 and 1:30 are texts and not 8 and 90,
and 1e3 is a number. `no` still reads as false, as in other YAML tools: a list of texts refuses it and asks for quotes.

Privacy: a schema is public knowledge, but the wrong file may be handed in as one: a syntax error tells the line, never
what the line says.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tabveil import constraints
from tabveil.columns import KINDS, Column, Date, Datetime
from tabveil.constraints import Constraint
from tabveil.errors import SchemaError

_Kind = TypeVar("_Kind", bound=Column | Constraint)

VERSION = 1
"""Version of the file format, under the key `tabveil_schema`."""

_SKIPPED_WHEN_DEFAULT = {"learn", "catch_all", "ordered", "note"}

HEADER = """\
# What is publicly known of one table. tabveil learns its columns, bounds and categories from this file, not from rows.
#
# Table:  name, description
#         public_rows         how many rows, where that is public; without it a noisy count is bought from the budget
#         privacy_unit        the identifier column that names a person, with
#         max_rows_per_unit   how many of a person's rows count at most; without both, one row is protected
#         target              the column analysts predict
#         quasi_identifiers   columns that others may know of a person; for the audit only, as is
#         sensitive           columns that nobody is to learn of a person
#         learn_share         share of each fit's budget for what columns with `learn: true` leave out
#         draft, approved_by, approved_on     a draft is refused by every private fit until a person approves it
# Column: name, kind, and by kind
#   categorical  categories (texts); catch_all: what undeclared values become; ordered: true where neighbours are alike
#   boolean      true, false: the texts that mean either, compared without case
#   integer      low, high: whole numbers, both included
#   decimal      low, high, decimals: digits after the point (0 to 12)
#   date         low, high, format: how a text file writes it (strftime, such as "%Y-%m-%d")
#   datetime     low, high, resolution: seconds between two values, format
#   identifier   never learned, made up anew; pattern: text with {n}, such as "P{n:06d}"
# and for each
#   learn    true: low, high, decimals or categories that are left out are bought under the budget of each fit; what is
#            given stays declared. Categories too rare to be learned become catch_all ("__other__" by default)
#   missing  texts that mean "missing" ("" is an empty cell); [] where a cell is never missing
#   invalid  clip (to the nearest bound) | missing | refuse (stop before anything is charged)
#   source   who vouches for bounds or categories: declared (a person) | draft (proposed from rows) | charged (ledger)
#   note     where they come from, for a reader
# Constraint (optional list `constraints`): kind, and by kind; rules that every row is publicly known to obey
#   inequality          low, high: columns, low <= high; strict: true for <
#   fixed_combinations  columns, and either allowed or forbidden: lists of one value per column
#   implied             column, given, mapping: value of given -> value of column (null: missing)
#   sum                 total, parts: columns
# Put quotes around texts that look like numbers, dates, yes or no.
"""

DRAFT_WARNING = """\
# DRAFT. THE BOUNDS AND CATEGORIES BELOW WERE READ FROM PRIVATE ROWS. THEY ARE NOT COVERED BY ANY EPSILON.
# REPLACE EACH OF THEM BY PUBLIC KNOWLEDGE BEFORE APPROVAL: WHOEVER APPROVES ANSWERS FOR THEM.
# (tabveil schema approve FILE --by "A NAME" turns a checked draft into a schema.)
#
"""


def did_you_mean(word: str, choices: Collection[str]) -> str:
    """'; did you mean "x"?' where one of `choices` is close to `word`, else an empty text."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_keys(given: Mapping[str, Any], *, known: Collection[str], where: str) -> None:
    """Raise SchemaError for the first key that is not known."""
    for key in given:
        if not isinstance(key, str):
            raise SchemaError(f"{where}: every key must be a text.")
        if key not in known:
            hint = did_you_mean(key, known) or f": known are {', '.join(sorted(known))}"
            raise SchemaError(f"{where}: unknown key {key[:60]!r}{hint.rstrip('.')}")


def column_to_dict(column: Column) -> dict[str, Any]:
    """A column as plain JSON values; dates as ISO text, fields at an uninteresting default left out."""
    data: dict[str, Any] = {"name": column.name, "kind": column.kind}
    last = ("missing", "invalid", "source", "note")
    fields = [f for f in dataclasses.fields(column) if f.name != "name"]
    for field in sorted(fields, key=lambda f: last.index(f.name) if f.name in last else -1):
        value = getattr(column, field.name)
        left_out = value is None or (field.name in _SKIPPED_WHEN_DEFAULT and value == field.default)
        if not left_out:
            data[field.name] = _plain(value)
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value.isoformat() if isinstance(value, dt.date) else value


def column_from_dict(data: Any, *, position: int) -> Column:
    """The column that `data` describes; `position` (from 1) names it where it has no name.

    Raises:
      SchemaError: unknown or missing key, unknown kind, or a rule of the column's kind is broken.
    """
    where = f"Column number {position}"
    if not isinstance(data, Mapping):
        raise SchemaError(f"{where} must be written as keys and values (name, kind, ...).")
    if isinstance(data.get("name"), str):
        where = f"Column {data['name']!r}"
    cls = _kind_of(data, KINDS, where=where)
    empty = [n for n in data if data[n] is None and n != "catch_all"]
    if empty:
        raise SchemaError(
            f"{where} ({cls.kind}): {' and '.join(map(repr, empty))} has no value: give one, or leave it out."
        )
    return cls(**{k: _typed(cls, k, v) for k, v in data.items() if k != "kind"})


def _kind_of(data: Mapping[str, Any], kinds: Mapping[str, type[_Kind]], *, where: str) -> type[_Kind]:
    """The class that `data` names; raises SchemaError where it names none, for a key that is not one of the class's
    fields, or one that is lacking.
    """
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        hint = did_you_mean(kind, kinds) if isinstance(kind, str) else ""
        raise SchemaError(f"{where}: 'kind' must be one of {', '.join(kinds)}{hint or '.'}")
    cls = kinds[kind]
    fields = {f.name: f for f in dataclasses.fields(cls)}
    check_keys(data, known={"kind", *fields}, where=where)
    lacking = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in data]
    if lacking:
        raise SchemaError(f"{where} ({cls.kind}): {' and '.join(map(repr, lacking))} must be given.")
    return cls


def constraint_from_dict(data: Any, *, position: int) -> Constraint:
    """The constraint that `data` describes; `position` (from 1) names it.

    Raises:
      SchemaError: unknown or missing key, unknown kind, or a rule of the constraint's kind is broken.
    """
    where = f"Constraint number {position}"
    if not isinstance(data, Mapping):
        raise SchemaError(f"{where} must be written as keys and values (kind, ...).")
    cls = _kind_of(data, constraints.KINDS, where=where)
    return cls(**{k: v for k, v in data.items() if k != "kind"})


def _typed(cls: type[Column], field: str, value: Any) -> Any:
    """Dates from text; everything else as it came, for the column's own checks."""
    if field not in ("low", "high") or cls not in (Date, Datetime):
        return value
    if cls is Datetime and isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return dt.datetime(value.year, value.month, value.day)
    try:
        parse = dt.date.fromisoformat if cls is Date else dt.datetime.fromisoformat
        return parse(value) if isinstance(value, str) else value
    except ValueError:
        return value


class _Loader(yaml.SafeLoader):
    """SafeLoader without the surprises of YAML 1.1 that would change a bound or lose a column."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are the texts as written (`true:` stays "true"), each given once."""
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value in result:
                raise yaml.constructor.ConstructorError(None, None, "key", key_node.start_mark)
            result[key_node.value] = self.construct_object(value_node, deep=deep)
        return result

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Turns what Python cannot hold (month 13, a number of 5,000 digits) into an error with a line."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError):
            mark = node.start_mark
        raise yaml.constructor.ConstructorError(None, None, "value", mark)


_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:merge")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBER_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\.[0-9]+|(0|[1-9][0-9_]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def read_text(path: str | Path, *, what: str) -> str:
    """The text of a small UTF-8 file the user named.

    Raises:
      SchemaError: there is no such file, it cannot be read, or it is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        problem = "is not UTF-8 text: save it as UTF-8"
    except FileNotFoundError:
        problem = "does not exist"
    except IsADirectoryError:
        problem = "is a folder"
    except (OSError, ValueError):
        problem = "cannot be read"
    raise SchemaError(f"The {what} {str(path)!r} {problem}.")


def parse_yaml(text: str, *, name: str) -> dict[str, Any]:
    """The mapping that a YAML text holds.

    Args:
      text: the file's text.
      name: what to call the file in an error.

    Raises:
      SchemaError: the text is no YAML, or no mapping; names the line, never its content.
    """
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, made stricter
    except RecursionError:
        problem = "is nested too deeply to be a schema"
    except yaml.YAMLError as error:
        problem = _yaml_problem(error)
    else:
        if isinstance(data, dict):
            return data
        problem = "is not a schema: it must hold keys and values, 'columns' among them"
    raise SchemaError(f"The schema file {name!r} {problem}.")


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What to say of a YAML error: where it is, and our own words for it (theirs may quote the file)."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return "holds a character that YAML does not allow"
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    known = {"key": "gives a key twice, or one that is no text,", "value": "holds a date or number that does not exist"}
    if isinstance(error, yaml.constructor.ConstructorError) and error.problem in known:
        return f"{known[error.problem]} at {where}"
    return f"is not valid YAML at {where}: look at indentation, quotes and colons there"


class _Dumper(yaml.SafeDumper):
    """SafeDumper that repeats shared lists instead of writing anchors, and quotes what our loader reads differently."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never write an anchor."""
        return True


_Dumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        *(r for r in _Loader.yaml_implicit_resolvers.get(first, []) if r[0] in _NUMBER_TAGS),
    ]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def dump_yaml(data: Mapping[str, Any], *, draft: bool) -> str:
    """`Schema.to_dict` as commented YAML; a draft begins with a warning in capitals."""
    head = {k: v for k, v in data.items() if k not in ("columns", "constraints")}
    parts = [DRAFT_WARNING if draft else "", HEADER, "\n", _dump(head, flow=False), "\ncolumns:\n"]
    for column in data["columns"]:
        parts += [_dump([_native(column)], flow=None), "\n"]
    if "constraints" in data:
        parts += ["constraints:\n", *(_dump([c], flow=None) for c in data["constraints"])]
    return "".join(parts).rstrip("\n") + "\n"


def _native(column: Mapping[str, Any]) -> dict[str, Any]:
    """Dates as YAML dates, so that they stand without quotes."""
    if column["kind"] not in (Date.kind, Datetime.kind):
        return dict(column)
    parse = dt.date.fromisoformat if column["kind"] == Date.kind else dt.datetime.fromisoformat
    return {k: parse(v) if k in ("low", "high") else v for k, v in column.items()}


def _dump(data: Any, *, flow: bool | None) -> str:
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=110))
