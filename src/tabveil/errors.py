"""Every exception tabveil raises on purpose, each with the exit code the command line returns for it.

A message names the column, the rule and what to do. It never carries a cell value: messages end up in logs, and logs
leave the building.

Privacy: nothing here reads a table; messages are built from schema fields, file names and option values only.
"""

from __future__ import annotations


class TabveilError(Exception):
    """Base of every error a user can cause or meet; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(TabveilError):
    """An option or argument is wrong (an epsilon of zero, an unknown generator)."""

    exit_code = 2


class SchemaError(TabveilError):
    """The schema itself is wrong, or still a draft."""

    exit_code = 3


class DataError(TabveilError):
    """The table cannot be read, does not obey its schema, or is another table than the schema's."""

    exit_code = 4


class BudgetExceededError(TabveilError):
    """The account cannot pay. Raised before a single row is read."""

    exit_code = 5


class LedgerError(TabveilError):
    """The ledger is unreachable, has no such account, or keeps one under other terms."""

    exit_code = 6


class VerificationError(TabveilError):
    """A release folder, or a ledger's chain, does not match what it says of itself."""

    exit_code = 7


class MissingDependencyError(TabveilError):
    """An optional package is needed; the message names the extra, or the environment, that has it."""

    exit_code = 8


class StorageError(TabveilError):
    """The disk is full or a path cannot be written; nothing half-written is left behind."""

    exit_code = 9


class UnchargedError(TabveilError):
    """Code asked private rows for something its charge does not cover: always a bug, never a user's mistake."""

    exit_code = 70


INTERRUPTED_EXIT_CODE = 130
"""Exit code after Ctrl-C, as shells use it."""

INTERNAL_EXIT_CODE = 70
"""Exit code of an unexpected internal error (EX_SOFTWARE)."""
