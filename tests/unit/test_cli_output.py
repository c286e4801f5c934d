from __future__ import annotations

import io
import sys

import pytest

from tabveil import _cli_output, errors


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_stage_whose_words_change_keeps_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    with _cli_output.progress() as show:
        assert show is not None
        show("counting columns", 1.0)
        for left in range(40, -1, -1):
            show(f"training: {left} steps left", 1 - left / 40)
    last = terminal.getvalue().rsplit("counting columns", 1)[1]
    assert "training: 0 steps left" in last
    assert last.count("training") == 1


def test_there_is_no_bar_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with _cli_output.progress() as show:
        assert show is None


def test_an_error_that_asks_ends_with_its_question() -> None:
    error = errors.UsageError("There is no 'a'; did you mean 'b'?")
    error.add_note("Nothing was done")
    assert _cli_output.outcome(error) == (2, "There is no 'a'; did you mean 'b'? Nothing was done.")
