"""Profile files: thresholds with citations as YAML, read strictly.

    tabveil_profile: 1
    name: mine
    version: "1"
    title: What we ask of a release
    about: Which table each threshold is about, and why.
    requirements:
      - name: rows like few people
        kind: measured            # a Measurement against a threshold
        auditor: anonymity
        measure: k-map
        table: synthetic against real
        number: value             # or 1/value
        at_least: 12              # or at_most
        why: Why this number and this table.
        citation: {source: ..., wording: paraphrase, text: ..., url: ...}
      - name: guesses of people in the table
        kind: attacked            # Findings against a limit on the share of what guessing leaves open
        auditor: attribute
        finding: ""               # only findings whose name contains this
        limit: 0.09
        only_against: false       # true: an attack that can count against, never for
        ...
      - name: an expert's judgement
        kind: open                # no number answers it
        ...

Privacy: profiles are public; nothing here reads a table. Errors name keys, never what a wrong file says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tabveil._schema_text import check_keys, parse_yaml
from tabveil.audit import registry
from tabveil.audit._definitions import K_MAP, OF_PAIRS, ORDERED, PRESENCE, REPLICATED, K
from tabveil.errors import SchemaError, UsageError

FORMAT = 1
"""Version of the file format, under the key `tabveil_profile`."""

WORDINGS = ("verbatim", "paraphrase", "own")
"""Whose words a citation's text is in: the source's, ours after the source, or ours without a source's number."""

TABLES = ("real", "synthetic", "synthetic against real", "real against population", "synthetic against population")

_MEASURES = {m.name: m for m in (K, K_MAP, PRESENCE, REPLICATED, ORDERED, *(m for m, _ in OF_PAIRS))}
_HEAD = ("tabveil_profile", "name", "version", "title", "about", "requirements")
_SHARED = ("name", "kind", "why", "citation")
_KEYS = {
    "measured": (*_SHARED, "auditor", "measure", "table", "number", "at_least", "at_most"),
    "attacked": (*_SHARED, "auditor", "finding", "limit", "only_against"),
    "open": _SHARED,
}
_PROMISES = re.compile(r"\b(safe|anonymous|compliant)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Citation:
    """Who asks so: `source`, and `text` in words that `wording` (one of WORDINGS) says are whose; perhaps a `url`."""

    source: str
    wording: str
    text: str
    url: str = ""

    def __str__(self) -> str:
        return f"{self.source} ({self.wording}: {self.text})"


@dataclass(frozen=True)
class Requirement:
    """One thing that a profile asks.

    Attributes:
      name: what is asked.
      kind: "measured", "attacked", or "open" where no number answers it.
      why: why this number and this table, or why no number.
      citation: who asks so.
      auditor: whose numbers count; "" for an open one.
      measure, table, number: of "measured": which `Measurement`s, and whether their value or one over it is compared.
      at_least, at_most: of "measured": exactly one of them.
      finding: of "attacked": what a finding's name must contain.
      limit: of "attacked": which share of what guessing leaves open an attack may get, 0 up to but without 1.
      only_against: of "attacked": whether an attack that fails leaves the question open, however many its tries.
    """

    name: str
    kind: str
    why: str
    citation: Citation
    auditor: str = ""
    measure: str = ""
    table: str = ""
    number: str = "value"
    at_least: float | None = None
    at_most: float | None = None
    finding: str = ""
    limit: float = 0.0
    only_against: bool = False


@dataclass(frozen=True)
class Profile:
    """Named, versioned thresholds; `about` says which table each is about, and why."""

    name: str
    version: str
    title: str
    about: str
    requirements: tuple[Requirement, ...]


def parse(text: str, *, file: str) -> Profile:
    """The profile that a file's text holds.

    Args:
      text: YAML as in the module's example.
      file: what to call the file in an error.

    Raises:
      UsageError: the text is no YAML, a key is unknown or lacking, or a value is not what its key takes.
    """
    where = f"The profile {file!r}"
    try:
        data = parse_yaml(text, name="")
    except SchemaError as error:
        said = str(error).replace("schema", "profile").replace("'columns'", "'requirements'")
        raise UsageError(said.replace("The profile file ''", where)) from None
    _keys(data, known=_HEAD, where=where)
    version = data.get("tabveil_profile")
    if isinstance(version, bool) or version != FORMAT:
        raise UsageError(f"{where}: 'tabveil_profile' must be {FORMAT}, the version of the file's format.")
    asked = data.get("requirements")
    if not isinstance(asked, list) or not asked:
        raise UsageError(f"{where}: 'requirements' must be a list of at least one.")
    made = tuple(_requirement(r, where=f"{where}, requirement {i}") for i, r in enumerate(asked, start=1))
    if len({r.name for r in made}) < len(made):
        raise UsageError(f"{where}: every requirement needs a name of its own.")
    head = {key: _text(data, key, where=where) for key in ("name", "version", "title", "about")}
    return Profile(**head, requirements=made)


def _requirement(data: Any, *, where: str) -> Requirement:
    if not isinstance(data, Mapping):
        raise UsageError(f"{where} must be written as keys and values (name, kind, ...).")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise UsageError(f"{where}: 'kind' must be one of {', '.join(_KEYS)}.")
    _keys(data, known=_KEYS[kind], where=where)
    fields: dict[str, Any] = {key: _text(data, key, where=where) for key in ("name", "why")}
    fields["citation"] = _citation(data.get("citation"), where=where)
    if kind != "open":
        fields["auditor"] = _one_of(data, "auditor", among=registry.names(), where=where)
        fields |= _of_measure(data, where=where) if kind == "measured" else _of_attack(data, where=where)
    return Requirement(kind=kind, **fields)


def _citation(data: Any, *, where: str) -> Citation:
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}: 'citation' must be given, with source, wording and text.")
    where = f"{where}, citation"
    _keys(data, known=("source", "wording", "text", "url"), where=where)
    wording = _one_of(data, "wording", among=WORDINGS, where=where)
    url = _text(data, "url", where=where) if "url" in data else ""
    return Citation(_text(data, "source", where=where), wording, _text(data, "text", where=where), url)


def _of_measure(data: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    given = [key for key in ("at_least", "at_most") if key in data]
    if len(given) != 1:
        raise UsageError(f"{where}: give one of 'at_least' and 'at_most'.")
    key = given[0]
    if data["auditor"] == "anonymity":
        measure = _one_of(data, "measure", among=_MEASURES, where=where)
    else:
        measure = _text(data, "measure", where=where)
    number = _one_of(data, "number", among=("value", "1/value"), where=where) if "number" in data else "value"
    _check_direction(measure, key, inverse=number != "value", where=where)
    table = _one_of(data, "table", among=TABLES, where=where)
    threshold = _number(data, key, where=where)
    return {"measure": measure, "table": table, "number": number, key: threshold}


def _check_direction(measure: str, key: str, *, inverse: bool, where: str) -> None:
    if measure not in _MEASURES:
        return
    greater = (_MEASURES[measure].goal == "max") != inverse
    if greater != (key == "at_least"):
        word = "greater" if greater else "smaller"
        raise UsageError(f"{where}: a {word} number protects more here, so {key!r} is the wrong side.")


def _of_attack(data: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    limit = _number(data, "limit", where=where)
    if limit >= 1:
        raise UsageError(f"{where}: 'limit' is a share of what guessing leaves open: a number from 0 up, below 1.")
    against = data.get("only_against", False)
    if not isinstance(against, bool):
        raise UsageError(f"{where}: 'only_against' must be true or false.")
    finding = _text(data, "finding", where=where) if data.get("finding", "") != "" else ""
    return {"finding": finding, "limit": limit, "only_against": against}


def _keys(data: Mapping[str, Any], *, known: tuple[str, ...], where: str) -> None:
    try:
        check_keys(data, known=known, where=where)
    except SchemaError as error:
        raise UsageError(str(error)) from None


def _text(data: Mapping[str, Any], key: str, *, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{where}: {key!r} must be given, as a text (in quotes where it looks like a number).")
    if _PROMISES.search(value):
        raise UsageError(f"{where}: {key!r} promises what no threshold can show: say which number is asked.")
    return " ".join(value.split())


def _one_of(data: Mapping[str, Any], key: str, *, among: Any, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or value not in among:
        raise UsageError(f"{where}: {key!r} must be one of: {'; '.join(among)}.")
    return value


def _number(data: Mapping[str, Any], key: str, *, where: str) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UsageError(f"{where}: {key!r} must be a finite number from 0 up.")
    return float(value)
