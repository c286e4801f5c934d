"""`tabveil env`, as a person and as a script uses it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

from e2e.conftest import Desk
from tabveil import environments


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that would have made an environment, which is taken to be made."""
    programs: list[list[str]] = []

    def instead(command: list[str], *, lock: object = None, failed: str) -> None:
        programs.append(command)
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)

    monkeypatch.setattr(environments, "_call", instead)
    monkeypatch.setenv("TABVEIL_HOME", str(tmp_path / "home"))
    return programs


def test_listing_making_and_removing(desk: Desk, made: list[list[str]]) -> None:
    listed = desk.run("env", "list", "--json").json["environments"]
    assert [(e["name"], e["there"], e["accepted_on"]) for e in listed] == [("anonymeter", False, "")]
    outcome = desk.run("env", "create", "anonymeter", "--accept-licence", "--json")
    assert outcome.code == 0
    assert outcome.json["there"]
    assert outcome.json["accepted_on"]
    assert "patent rights are granted by this license" in outcome.err
    assert [p[-1] for p in made] == [outcome.json["folder"], ":all:", f"{outcome.json['folder']}/requirements.txt"]
    assert "--require-hashes" in made[1]  # so that pip refuses a package without one, too
    assert "there" in desk.run("env", "list").out
    desk.run("env", "create", "anonymeter", "--accept-licence")
    assert len(made) == 3
    assert desk.run("env", "remove", "anonymeter").out == "Removed anonymeter.\n"
    assert not desk.run("env", "remove", "anonymeter", "--json").json["removed"]


def test_nothing_is_made_unless_somebody_agrees(
    desk: Desk, made: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = desk.run("env", "create", "anonymeter")
    assert (outcome.code, outcome.out, made) == (2, "", [])
    assert "--accept-licence" in outcome.err
    answers = iter([False, True])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", lambda *words, **options: next(answers))
    assert desk.run("env", "create", "anonymeter").code == 2
    assert made == []
    assert desk.run("env", "create", "anonymeter").code == 0
    assert len(made) == 3


def test_an_unknown_environment_is_a_usage_error(desk: Desk) -> None:
    for command in ("create", "remove"):
        outcome = desk.run("env", command, "other")
        assert outcome.code == 2
        assert "choose one of anonymeter" in outcome.err
