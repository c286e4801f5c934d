"""Every mutant of mutants.py is planted, and the test it names must fail for the reason it gives."""

from __future__ import annotations

import functools
import importlib
import inspect
import tempfile
import traceback
from contextlib import ExitStack
from pathlib import Path
from types import FunctionType

import pytest

from mutants.mutants import MUTANTS, TRAPS, Check, Mutant, document
from mutants.planting import Edit, forget, planted
from tabveil.errors import TabveilError

ROOT = Path(__file__).parents[2]
FAILURES = (AssertionError, pytest.fail.Exception)
"""What a test that says no raises; pytest.fail's comes from pytest.raises where nothing was raised."""


def function_of(check: Check) -> FunctionType:
    return getattr(importlib.import_module(check.module), check.function)


def run(check: Check) -> BaseException | None:
    """What the check raised, None where it passed."""
    function = function_of(check)
    with ExitStack() as undo:
        fixtures: dict[str, object] = {}
        if "monkeypatch" in inspect.signature(function).parameters:
            fixtures["monkeypatch"] = undo.enter_context(pytest.MonkeyPatch.context())
        if "tmp_path" in inspect.signature(function).parameters:
            fixtures["tmp_path"] = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        try:
            function(*check.given, **fixtures)
        except (Exception, pytest.fail.Exception) as error:
            return error
    return None


@functools.cache
def passes(check: Check) -> bool:
    forget()
    error = run(check)
    if error is not None:
        raise error
    return True


def rejects(error: BaseException, mutant: Mutant) -> bool:
    """Whether this is the rejection the mutant names, and not a crash on the way to it."""
    if mutant.error != "AssertionError":
        return type(error).__name__ == mutant.error
    cause = error.__cause__
    return isinstance(error, FAILURES) and isinstance(cause, AssertionError | TabveilError | None)


def told(error: BaseException) -> str:
    """The message, and the lines of code the error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    return "\n".join([str(error), *(f"{f.name} {f.line}" for f in frames)])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.id)
def test_mutant_is_rejected(mutant: Mutant) -> None:
    assert passes(mutant.check)
    with planted(*mutant.edits) as ran:
        error = run(mutant.check)
    assert ran == set(mutant.edits), "the planted text never ran"
    assert error is not None, "the mutant survived"
    assert rejects(error, mutant), f"{type(error).__name__} is a crash, not a rejection: {error}"
    assert mutant.says in told(error)


def test_every_trap_has_its_mutants() -> None:
    numbers = (*range(1, 15), 16, 17, 18, 19)
    assert {m.trap for m in MUTANTS} == set(TRAPS) == {*(f"A{n}" for n in numbers), "C2", "C4"}
    assert len({m.id for m in MUTANTS}) == len(MUTANTS)
    assert all(len([m for m in MUTANTS if m.trap == trap]) >= 2 for trap in TRAPS)


def test_named_checks_are_tests_that_the_suite_runs() -> None:
    """A check that nobody runs outside of here would reject nothing."""
    from tabveil.conformance import GENERATOR_CHECKS

    for check in {m.check for m in MUTANTS}:
        if check.module == "tabveil.conformance":
            assert function_of(check) in GENERATOR_CHECKS
        else:
            assert ROOT.joinpath("tests", *check.module.split(".")).with_suffix(".py").is_file()
            assert check.function.startswith("test_")


def test_the_documented_table_is_this_one() -> None:
    assert (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8") == document()


def test_planting_changes_every_reference_and_is_undone() -> None:
    from tabveil.samplers import uniform

    before = uniform.__code__
    edit = Edit("tabveil.samplers:uniform", "good = word >=", "good = word >")
    with planted(edit) as ran:
        assert uniform.__code__ is not before
        assert not ran
    assert uniform.__code__ is before
    with pytest.raises(LookupError, match="0 times"), planted(Edit("tabveil.samplers:uniform", "no such text", "")):
        pass
    assert not [name for name in uniform.__globals__ if name.startswith("_mutant")]
