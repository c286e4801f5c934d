"""File name = plugin name: names without importing, one class per file, other packages join by entry points.

Privacy: nothing here touches a table.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
from types import ModuleType

from tabveil.errors import MissingDependencyError, UsageError

_HELPERS = {"base"}


class Registry:
    """The plugins of one family.

    Args:
      package: dotted package whose modules are the plugins, e.g. "tabveil.generators"; also the entry-point group
        through which other packages add theirs.
      base: name of the base class in `package`.base that each plugin module subclasses exactly once.
    """

    def __init__(self, package: str, *, base: str) -> None:
        self.package = package
        self.base = base

    def names(self) -> list[str]:
        """Plugin names in alphabetical order; imports no plugin."""
        path = importlib.import_module(self.package).__path__
        own = {m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_") and m.name not in _HELPERS}
        return sorted(own | {e.name for e in importlib.metadata.entry_points(group=self.package)})

    def get(self, name: str) -> type:
        """The plugin class called `name`.

        Raises:
          UsageError: no such plugin; the message lists those there are.
          MissingDependencyError: the plugin needs a package that is not installed; the message names the extra.
          TypeError: the plugin's file does not define exactly one subclass of the base.
        """
        if name not in self.names():
            family = f"{self.base.lower()}s"
            raise UsageError(f"There is no {name!r} among the {family}: choose one of {', '.join(self.names())}.")
        return self._only_class(self._module(name), name)

    def _module(self, name: str) -> ModuleType:
        entries = importlib.metadata.entry_points(group=self.package, name=name)
        target = next(iter(entries)).module if entries else f"{self.package}.{name}"
        try:
            return importlib.import_module(target)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("tabveil"):
                raise
            raise MissingDependencyError(_advice(name, error.name)) from error

    def _only_class(self, module: ModuleType, name: str) -> type:
        base = getattr(importlib.import_module(f"{self.package}.base"), self.base)
        found = [
            c
            for c in vars(module).values()
            if inspect.isclass(c) and issubclass(c, base) and c is not base and c.__module__ == module.__name__
        ]
        if len(found) != 1:
            raise TypeError(f"{module.__name__} must define exactly one subclass of {self.base}, found {len(found)}.")
        return found[0]


def _advice(plugin: str, missing: str) -> str:
    for requirement in importlib.metadata.requires("tabveil") or []:
        if requirement.lower().startswith(missing.lower()) and "extra ==" in requirement:
            extra = requirement.split("extra ==")[1].strip(" \"'")
            return f"{plugin} needs {missing}: pip install 'tabveil[{extra}]'."
    return f"{plugin} needs {missing}: pip install {missing}."
