"""What an attacker is taken to know of a person, and what he wants to learn: as the schema declares.

Privacy: reads the schema, which is public.
"""

from __future__ import annotations

from tabveil.columns import Column
from tabveil.schema import Schema


def secrets(schema: Schema) -> tuple[Column, ...]:
    """The columns to guess: the sensitive ones, or else the target."""
    names = schema.sensitive or ((schema.target,) if schema.target else ())
    return tuple(c for c in schema.learned if c.name in names)


def known(schema: Schema) -> tuple[Column, ...]:
    """The columns to guess from: the quasi-identifiers, or else all that are not to be guessed."""
    hidden, declared = {c.name for c in secrets(schema)}, schema.quasi_identifiers
    return tuple(c for c in schema.learned if c.name not in hidden and (not declared or c.name in declared))
