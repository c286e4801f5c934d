"""Privacy-first synthesis of tables: declare what is public, spend a budget, sample, measure, and show an auditor why.

The public names below are loaded on first use, so that `import tabveil` costs nothing and imports no library.

Privacy: nothing here reads a table.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tabveil import errors
    from tabveil.audit import audit
    from tabveil.generators.base import create, load
    from tabveil.ledger import Ledger
    from tabveil.pipeline import evaluate, report, synthesize
    from tabveil.planning import plan
    from tabveil.records import Finding, PrivacyStatement, Score
    from tabveil.schema import Schema

__version__ = "0.1.0"

__all__ = [
    "Finding",
    "Ledger",
    "PrivacyStatement",
    "Schema",
    "Score",
    "__version__",
    "audit",
    "create",
    "errors",
    "evaluate",
    "load",
    "names",
    "plan",
    "report",
    "synthesize",
]

_HOMES = {
    "Finding": "records",
    "Ledger": "ledger",
    "PrivacyStatement": "records",
    "Schema": "schema",
    "Score": "records",
    "audit": "audit",
    "create": "generators.base",
    "evaluate": "pipeline",
    "load": "generators.base",
    "plan": "planning",
    "report": "pipeline",
    "synthesize": "pipeline",
}
"""The module each public name comes from."""

_FAMILIES = ("auditors", "generators", "metrics")


def names(family: str = "generators") -> list[str]:
    """Names of all plugins of `family`, one of _FAMILIES, in alphabetical order; imports none of them.

    Raises:
      UsageError: there is no such family.
    """
    from tabveil.errors import UsageError
    from tabveil.registry import Registry

    if family not in _FAMILIES:
        raise UsageError(f"There is no family {family!r} of plugins: choose one of {', '.join(_FAMILIES)}.")
    if family == "auditors":
        found: list[str] = importlib.import_module("tabveil.audit").registry.names()
        return found
    return Registry(f"tabveil.{family}", base="").names()


def __getattr__(name: str) -> Any:
    """The public name `name`, or the generator whose class is called so (`tabveil.TVAE`), imported now.

    Raises:
      AttributeError: there is neither.
      MissingDependencyError: the generator needs a package that is not installed.
    """
    if name == "errors":
        return importlib.import_module("tabveil.errors")
    if name in _HOMES:
        return getattr(importlib.import_module(f"tabveil.{_HOMES[name]}"), name)
    plugins = {n.replace("_", ""): n for n in names()} if name[:1].isupper() else {}
    if name.lower() in plugins:
        kind = importlib.import_module("tabveil.generators").generators.get(plugins[name.lower()])
        if kind.__name__ == name:
            return kind
    raise AttributeError(f"module 'tabveil' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `tabveil.report` and `tabveil.audit` functions: importing the packages would bind their names to those."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
