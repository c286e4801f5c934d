"""Plants a mutant: one text of one function of ours is replaced by another, everywhere the function is known.

The function object stays and only its code changes, so that every module that imported it by name runs the mutant too.
Before the changed statement a call is put in that notes that the mutant really ran.
"""

from __future__ import annotations
import __future__

import ast
import functools
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any


@dataclass(frozen=True)
class Edit:
    """`old`, which occurs once in the text of the function `target` ("package.module:Class.method"), becomes `new`."""

    target: str
    old: str
    new: str


def function_of(target: str) -> FunctionType:
    """The plain function behind a name, decorators and properties taken off."""
    module, _, path = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, functools.cached_property):
        found = found.func
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    return inspect.unwrap(found)


def mutated(function: FunctionType, edit: Edit, reached: str) -> CodeType:
    """The function's code with the edit made and a call of the global `reached` before the first changed statement."""
    source = inspect.getsource(function)
    if source.count(edit.old) != 1:
        raise LookupError(f"{edit.target}: the text to replace occurs {source.count(edit.old)} times, not once")
    same = next((i for i, (a, b) in enumerate(zip(edit.old, edit.new, strict=False)) if a != b), len(edit.old))
    line = source[: source.index(edit.old) + same].count("\n") + 1
    tree = ast.parse(textwrap.dedent(source.replace(edit.old, edit.new)))
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise LookupError(f"{edit.target} is no function")
    definition.decorator_list = []
    _mark(definition, line, reached)
    flags = __future__.annotations.compiler_flag
    made: dict[str, FunctionType] = {}
    code = compile(ast.fix_missing_locations(tree), f"<mutant of {edit.target}>", "exec", flags, dont_inherit=True)
    exec(code, {}, made)
    return made[definition.name].__code__


def _mark(definition: ast.FunctionDef, line: int, reached: str) -> None:
    holders = [
        (statement.end_lineno - statement.lineno, block, statement)
        for node in ast.walk(definition)
        for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody"))
        if isinstance(block, list)
        for statement in block
        if isinstance(statement, ast.stmt) and statement.lineno <= line <= (statement.end_lineno or 0)
    ]
    if not holders:
        raise LookupError("the changed text is in no statement of the function's body")
    _, block, statement = min(holders, key=lambda h: h[0])
    block.insert(block.index(statement), ast.parse(f"{reached}()").body[0])


@contextmanager
def planted(*edits: Edit) -> Iterator[set[Edit]]:
    """Inside, the mutant lives; the set given holds every edit whose text has been run so far."""
    ran: set[Edit] = set()
    if len({e.target for e in edits}) < len(edits):
        raise LookupError("two edits of one function: make them one")
    with ExitStack() as undo:
        undo.callback(forget)
        for number, edit in enumerate(edits):
            function, name = function_of(edit.target), f"_mutant_{number}_reached"
            code = mutated(function, edit, name)
            undo.callback(setattr, function, "__code__", function.__code__)
            undo.callback(function.__globals__.pop, name)
            function.__globals__[name] = _noter(ran, edit)
            function.__code__ = code
        forget()
        yield ran


def _noter(ran: set[Edit], edit: Edit) -> Callable[[], None]:
    return lambda: ran.add(edit)


def forget() -> None:
    """Empty every cache of ours: an answer remembered from before would hide a mutant, one from after would keep it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("tabveil", "unit", "statistical"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
