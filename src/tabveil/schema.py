"""Schema: everything a generator may know of a table before it spends privacy budget.

Privacy: a schema is public knowledge, declared by a person. The one exception is `Schema.draft`, which looks at rows to
propose one; its result is marked as a draft, every private fit refuses it, and its repr shows no bound or category.
Taking bounds or categories from private rows unnoticed is the commonest way to break differential privacy
(Annamalai et al. 2024, arXiv 2405.10994; Ganev et al. 2025, arXiv 2504.06923).
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

from tabveil import _schema_text
from tabveil._atomic import write_text
from tabveil.columns import Column, Date, Datetime, Decimal, Identifier, writable
from tabveil.constraints import Constraint, check_constraints, derived
from tabveil.errors import DataError, SchemaError

LEARN_SHARE = 0.1
"""Share of a fit's budget for bounds, decimals and categories; chosen by measurement
(benchmarks/learned_domains.py)."""

ROLES = ("quasi_identifiers", "sensitive")
"""Fields that say what a column means to an attacker; left out of a schema's text where empty."""


class _Proposer(Protocol):
    """The signature of `Schema.draft`."""

    def __call__(
        self, source: Any, *, sdv: Mapping[str, Any] | str | Path | None = None, name: str = "table"
    ) -> Schema:
        """See `Schema._propose`."""


class _Draft:
    """`Schema.draft(table)` proposes a schema, `schema.draft` says whether it is only proposed: one word for both."""

    @overload
    def __get__(self, schema: None, owner: type[Schema]) -> _Proposer: ...
    @overload
    def __get__(self, schema: Schema, owner: type[Schema]) -> bool: ...
    def __get__(self, schema: Schema | None, owner: type[Schema]) -> Any:
        """The proposing function on the class, the flag on a schema."""
        return owner._propose if schema is None else schema.__dict__["draft"]

    def __set__(self, schema: Schema, value: bool) -> None:
        """Keep the flag; the class attribute, which a dataclass takes for the default, means False."""
        schema.__dict__["draft"] = False if callable(value) else value


@dataclass(frozen=True, repr=False)
class Schema:
    """What is publicly known of one table.

    Attributes:
      columns: the columns, in the order they are published; at least one is learned, no name appears twice.
      name: what to call the table.
      description: for a reader.
      public_rows: number of rows, where that is public; None means that the count is private and bought.
      privacy_unit: the identifier column naming the person who is protected; None means one row is.
      max_rows_per_unit: how many rows of one person count at most; given exactly where `privacy_unit` is.
      target: the column analysts predict; used by metrics only.
      draft: True where bounds or categories were proposed from rows and nobody has approved them. On the class itself,
        `Schema.draft(table)` makes such a proposal.
      learn_share: share of the budget of a fit (of rho where delta is above 0, of epsilon where it is 0), above 0 and
        below 1, that pays for what columns with `learn` leave out; without such a column it means nothing.
      approved_by, approved_on: who approved a draft, and the ISO date.
      constraints: rules between columns that every row is publicly known to obey (`tabveil.constraints`).
      quasi_identifiers: learned columns that others may know of a person, by judgement; used by the audit only.
      sensitive: learned columns that nobody is to learn of a person, none of them a quasi-identifier; likewise.

    Raises:
      SchemaError: any of the rules above is broken.
    """

    columns: tuple[Column, ...]
    name: str = "table"
    description: str = ""
    public_rows: int | None = None
    privacy_unit: str | None = None
    max_rows_per_unit: int | None = None
    target: str | None = None
    learn_share: float = LEARN_SHARE
    draft: _Draft = _Draft()
    approved_by: str | None = None
    approved_on: str | None = None
    constraints: tuple[Constraint, ...] = ()
    quasi_identifiers: tuple[str, ...] = ()
    sensitive: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if not all(isinstance(c, Column) for c in self.columns):
            raise SchemaError("'columns' must hold columns such as Integer(name='age', low=0, high=120).")
        doubled = [n for n, times in collections.Counter(self.names).items() if times > 1]
        if doubled:
            raise SchemaError(f"The schema names {_listed(doubled)} more than once.")
        if not self.learned:
            raise SchemaError("The schema names no column to learn: it needs at least one that is not an identifier.")
        self._check_texts()
        self._check_roles()
        self._check_counts()
        self._check_approval()
        self._check_constraints()

    def _check_constraints(self) -> None:
        if not isinstance(self.constraints, list | tuple):
            raise SchemaError("The schema's 'constraints' must be a list.")
        object.__setattr__(self, "constraints", tuple(self.constraints))
        open_ones = {c.name for c in self.columns if c.unknown}
        for constraint in self.constraints:
            if isinstance(constraint, Constraint) and open_ones & set(constraint.members):
                raise constraint.error(
                    f"{_listed(sorted(open_ones & set(constraint.members)))} must be declared whole, not learned: a "
                    "rule between columns needs to know what they may hold"
                )
        check_constraints(self.constraints, self.columns)

    def _check_texts(self) -> None:
        for field in ("name", "description"):
            value = getattr(self, field)
            if not isinstance(value, str) or not writable(value):
                raise SchemaError(f"The schema's {field!r} must be a text (put quotes around numbers, yes and no).")
        if not self.name:
            raise SchemaError("The schema's 'name' must not be empty.")
        if self.target is not None and self.target not in [c.name for c in self.learned]:
            raise SchemaError("The schema's 'target' must be the name of one of its learned columns.")

    def _check_roles(self) -> None:
        learned = {c.name for c in self.learned}
        for role in ROLES:
            names = getattr(self, role)
            if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n in learned for n in names):
                raise SchemaError(f"The schema's {role!r} must list names of its learned columns.")
            if len(set(names)) != len(names):
                raise SchemaError(f"The schema's {role!r} lists a column twice.")
            object.__setattr__(self, role, tuple(names))
        both = [n for n in self.quasi_identifiers if n in self.sensitive]
        if both:
            raise SchemaError(f"The schema lists {_listed(both)} as quasi-identifier and as sensitive: choose one.")

    def _check_counts(self) -> None:
        for field in ("public_rows", "max_rows_per_unit"):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise SchemaError(f"The schema's {field!r} must be a whole number, at least 1, or left out.")
        share = self.learn_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise SchemaError("The schema's 'learn_share' must be a number above 0 and below 1.")
        if (self.privacy_unit is None) != (self.max_rows_per_unit is None):
            raise SchemaError("'privacy_unit' and 'max_rows_per_unit' belong together: give both or neither.")
        identifiers = [c.name for c in self.columns if isinstance(c, Identifier)]
        if self.privacy_unit is not None and self.privacy_unit not in identifiers:
            raise SchemaError("The schema's 'privacy_unit' must be the name of one of its identifier columns.")

    def _check_approval(self) -> None:
        if not isinstance(self.draft, bool):
            raise SchemaError("The schema's 'draft' must be true or false.")
        drafted = [c.name for c in self.columns if c.source == "draft"]
        if drafted and not self.draft:
            raise SchemaError(
                f"The schema is not marked as a draft, but {_listed(drafted)} still says 'source: draft': approve it "
                "with Schema.approve or `tabveil schema approve`."
            )
        if self.draft and self.approved_by is not None:
            raise SchemaError("A draft cannot have been approved: remove 'approved_by', or approve it.")
        if (self.approved_by is None) != (self.approved_on is None):
            raise SchemaError("'approved_by' and 'approved_on' belong together: give both or neither.")
        by = self.approved_by
        if by is not None and not (isinstance(by, str) and by.strip() and writable(by)):
            raise SchemaError("'approved_by' must be the name of a person or group.")
        if self.approved_on is not None and not _is_day(self.approved_on):
            raise SchemaError("'approved_on' must be a date such as 2026-01-31.")

    def __repr__(self) -> str:
        state = ", draft" if self.draft else ""
        learn = f", {len(self.unresolved)} of them to be learned" if self.unresolved else ""
        return f"Schema(name={self.name!r}, {len(self.columns)} columns{learn}{state})"

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""
        return tuple(c.name for c in self.columns)

    @property
    def learned(self) -> tuple[Column, ...]:
        """The columns a fit learns from: all but identifiers."""
        return tuple(c for c in self.columns if not isinstance(c, Identifier))

    @cached_property
    def derived(self) -> dict[str, Constraint]:
        """The columns that follow from others by a constraint, each after those it needs."""
        return derived(self.constraints, self._by_name)

    @property
    def modelled(self) -> tuple[Column, ...]:
        """The columns a fit reads and a model holds: the learned ones, less those that follow from others."""
        return tuple(c for c in self.learned if c.name not in self.derived)

    @property
    def unresolved(self) -> tuple[Column, ...]:
        """The columns of which a bound, the decimals or the categories are still to be learned."""
        return tuple(c for c in self.columns if c.unknown)

    @property
    def unit(self) -> str:
        """Who is protected, in words: "row", or the person an identifier names and how many rows of theirs count."""
        if self.privacy_unit is None:
            return "row"
        return f"person named by {self.privacy_unit!r} (at most {self.max_rows_per_unit} rows each)"

    @property
    def contributions(self) -> int:
        """How many rows one protected unit may have: the factor on every sensitivity."""
        return self.max_rows_per_unit or 1

    @cached_property
    def _by_name(self) -> dict[str, Column]:
        return {c.name: c for c in self.columns}

    def column(self, name: str) -> Column:
        """The column called `name`; raises SchemaError where there is none."""
        if name not in self._by_name:
            hint = _schema_text.did_you_mean(str(name), self.names) or "."
            raise SchemaError(f"Schema {self.name!r} has no column {str(name)[:60]!r}{hint}")
        return self._by_name[name]

    def __getitem__(self, name: str) -> Column:
        return self.column(name)

    @property
    def digest(self) -> str:
        """SHA-256 of `to_json`, as 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    # ------------------------------------------------------------------------------------------------------ approval

    @classmethod
    def _propose(cls, source: Any, *, sdv: Mapping[str, Any] | str | Path | None = None, name: str = "table") -> Schema:
        """Propose a schema by looking at rows; called as `Schema.draft(table)`.

        Args:
          source: whatever `tables.open_table` opens.
          sdv: SDV metadata whose column types are to be kept.
          name: what to call the table.

        Raises:
          DataError: the table cannot be read, or holds a type that has no column kind.

        Privacy: reads every row outside any budget. The result is a draft: it names bounds and categories that rows
        have, so treat it as the table itself until a person has replaced them by public knowledge.
        """
        from tabveil import _draft, _sdv_metadata

        kinds = {} if sdv is None else _sdv_metadata.kinds(sdv)
        return cls(columns=_draft.propose(source, kinds=kinds), name=name, draft=True)

    def approve(self, *, by: str, on: str | None = None) -> Schema:
        """The schema with every drafted column declared by `by`, who thereby answers for it.

        Args:
          by: the person's name, recorded in the file.
          on: ISO date, by default today.
        """
        on = dt.datetime.now(dt.UTC).date().isoformat() if on is None else on
        columns = tuple(_declared(c, by=by, on=on) for c in self.columns)
        return dataclasses.replace(self, columns=columns, draft=False, approved_by=by, approved_on=on)

    def require_approved(self) -> None:
        """Raise SchemaError for a draft."""
        if self.draft:
            raise SchemaError(
                f"Schema {self.name!r} is a draft: its bounds and categories come from private rows. Replace them by "
                "public knowledge, then approve it with Schema.approve(by=...) or `tabveil schema approve`."
            )

    # --------------------------------------------------------------------------------------------------------- tables

    def check_columns(self, names: Sequence[str]) -> None:
        """Compare a table's column names with the schema; their order does not matter.

        Args:
          names: the table's column names.

        Raises:
          DataError: a column is missing, given twice, or not named by the schema. Names of the schema are quoted; names
            that only the table has are counted, since without a header they would be cells.
        """
        counts = collections.Counter(names)
        missing = [n for n in self.names if n not in counts]
        if len(missing) == len(self.columns):
            raise DataError(
                f"None of the table's {len(names)} columns is named by schema {self.name!r}: is it another table, does "
                "it use another delimiter, or does it lack a header line?"
            )
        doubled = [n for n in self.names if counts[n] > 1]
        unexpected = sum(times for n, times in counts.items() if n not in self._by_name)
        problems = [
            f"lacks {_listed(missing)}" if missing else "",
            f"has {_listed(doubled)} more than once" if doubled else "",
            f"has {unexpected} column{'s' * (unexpected > 1)} that the schema does not name" if unexpected else "",
        ]
        if any(problems):
            raise DataError(f"The table does not fit schema {self.name!r}: it {' and '.join(filter(None, problems))}.")

    def check_learned(self, names: Sequence[str], *, role: str) -> None:
        """Raise DataError unless each learned column is once among `names`, those of the `role` (train, ...) table."""
        for column in self.learned:
            times = names.count(column.name)
            if times != 1:
                problem = "has more than once" if times else "lacks"
                raise DataError(f"The {role} table {problem} column {column.name!r} of schema {self.name!r}.")

    @property
    def text_formats(self) -> dict[str, dict[str, Any]]:
        """Keyword arguments for `tables.write_table`: digits of each decimal column, format of each date column."""
        return {
            "decimals": {c.name: c.decimals for c in self.columns if isinstance(c, Decimal) and not c.unknown},
            "date_formats": {c.name: c.format for c in self.columns if isinstance(c, Date | Datetime)},
        }

    # ---------------------------------------------------------------------------------------------------------- files

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain JSON values."""
        listed = ("columns", "constraints")
        head = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in listed}
        if not self.unresolved:
            head.pop("learn_share")
        head = {k: list(v) if k in ROLES else v for k, v in head.items() if k not in ROLES or v}
        columns = [_schema_text.column_to_dict(c) for c in self.columns]
        rules = {"constraints": [c.to_dict() for c in self.constraints]} if self.constraints else {}
        return {"tabveil_schema": _schema_text.VERSION, **head, "columns": columns, **rules}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """Rebuild what `to_dict` gave, or what a person wrote by hand.

        Raises:
          SchemaError: a key is unknown or missing, or a rule of the schema is broken.
        """
        if not isinstance(data, Mapping):
            raise SchemaError("A schema must hold keys and values, 'columns' among them.")
        fields = {f.name for f in dataclasses.fields(cls)}
        if data.get("tabveil_schema", _schema_text.VERSION) != _schema_text.VERSION:
            raise SchemaError("The schema's 'tabveil_schema' must be 1: a newer tabveil may have written it.")
        _schema_text.check_keys(data, known={"tabveil_schema", *fields}, where="Schema")
        columns = data.get("columns")
        if not isinstance(columns, list | tuple):
            raise SchemaError("Schema: 'columns' must be a list, each entry beginning with '- name:'.")
        head = {k: v for k, v in data.items() if k in fields - {"columns", "constraints"}}
        if isinstance(head.get("approved_on"), dt.date):
            head["approved_on"] = head["approved_on"].isoformat()
        made = (_schema_text.column_from_dict(c, position=i) for i, c in enumerate(columns, start=1))
        rules = data.get("constraints", ())
        if not isinstance(rules, list | tuple):
            raise SchemaError("Schema: 'constraints' must be a list, each entry beginning with '- kind:'.")
        said = tuple(_schema_text.constraint_from_dict(c, position=i) for i, c in enumerate(rules, start=1))
        return cls(columns=tuple(made), constraints=said, **head)

    def to_json(self) -> str:
        """`to_dict` as one canonical line of JSON: sorted keys, no blanks."""
        return json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Rebuild what `to_json` gave; raises SchemaError for text that is no schema."""
        try:
            data = json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            data = None
        if data is None:
            raise SchemaError("The schema is not valid JSON, or gives a key twice.")
        return cls.from_dict(data)

    def to_yaml(self, path: str | Path) -> None:
        """Write the schema as commented YAML; a draft begins with a warning. Raises StorageError where it cannot."""
        write_text(path, _schema_text.dump_yaml(self.to_dict(), draft=self.draft))

    @classmethod
    def from_yaml(cls, path: str | Path) -> Schema:
        """Read a YAML schema file.

        Raises:
          SchemaError: no such file, not UTF-8, not YAML (names the line, never its content), or no valid schema.
        """
        text = _schema_text.read_text(path, what="schema file")
        return cls.from_dict(_schema_text.parse_yaml(text, name=str(path)))

    # ------------------------------------------------------------------------------------------------------------ SDV

    @classmethod
    def from_sdv(
        cls,
        metadata: Mapping[str, Any] | str | Path,
        *,
        known: Mapping[str, Mapping[str, Any]] | None = None,
        table: str | None = None,
    ) -> Schema:
        """A schema from SDV metadata plus the public knowledge that SDV metadata lacks.

        Args:
          metadata: SDV metadata (`SINGLE_TABLE_V1`, `V1` or `V2`) as a dict or the path of its JSON file.
          known: for each column the fields of its kind that the metadata does not hold (low, high, decimals,
            categories, missing, ...), or another `kind` altogether.
          table: which table, where the metadata holds several.

        Returns:
          A schema. Ranges that `V2` metadata holds are used, but SDV fills them from the rows without a trace of it, so
          such columns are drafts and so is the schema, unless `known` gives all their bounds or categories.

        Raises:
          SchemaError: not SDV metadata, or public knowledge is missing; names each column and what it lacks.
        """
        from tabveil import _sdv_metadata

        name, columns = _sdv_metadata.read(metadata, known=known or {}, table=table)
        return cls(columns=columns, name=name, draft=any(c.source == "draft" for c in columns))

    def to_sdv(self, *, version: str = "V2") -> dict[str, Any]:
        """The schema as SDV metadata of `version` ("V2", "V1" or "SINGLE_TABLE_V1"); only V2 can hold bounds."""
        from tabveil import _sdv_metadata

        return _sdv_metadata.write(self.columns, name=self.name, version=version)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError
    return data


def _is_day(text: Any) -> bool:
    try:
        return bool(dt.date.fromisoformat(text).isoformat() == text)
    except (TypeError, ValueError):
        return False


def _declared(column: Column, *, by: str, on: str) -> Column:
    if column.source != "draft":
        return column
    note = f"{column.note} Approved by {by} on {on}.".strip()
    return dataclasses.replace(column, source="declared", note=note)


def _listed(names: Sequence[str]) -> str:
    """Up to five quoted names, and how many more there are."""
    shown = ", ".join(repr(n) for n in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"column{'s' * (len(names) > 1)} {shown}{more}"
