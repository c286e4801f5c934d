"""A user's desk: a small table with a secret in it, its schema, an account, and the command line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tabveil._cli_output import run
from tabveil.cli import app
from tabveil.ledger import Ledger
from tabveil.schema import Schema

SENTINEL = "Qx7-sentinel-Zk"
"""A cell value that must turn up in no message."""

ROWS = 200
SCHEMA = f"""\
name: people
public_rows: {ROWS}
target: income
columns:
- {{name: age, kind: integer, low: 0, high: 99}}
- {{name: color, kind: categorical, categories: [red, green, blue]}}
- {{name: income, kind: decimal, low: 0, high: 100, decimals: 2, missing: ['']}}
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left on the screen and in the folder.

    `left` names every file and folder, hidden ones too, that was not there before.
    """

    code: int
    out: str
    err: str
    left: frozenset[str]

    @property
    def json(self) -> dict[str, Any]:
        """stdout, which must be one JSON object."""
        data: dict[str, Any] = json.loads(self.out)
        return data


@dataclass(frozen=True)
class Desk:
    """A folder with table.csv, schema.yaml, and ledger.db with the account "people"."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    frame: pd.DataFrame = field(repr=False)

    def run(self, *arguments: str | Path) -> Outcome:
        """Run a command in this process, as `tabveil` would."""
        self.capture.readouterr()
        before = self.names()
        with contextlib.chdir(self.folder):
            code = run(app, [str(a) for a in arguments])
        shown = self.capture.readouterr()
        return Outcome(code, shown.out, shown.err, frozenset(self.names() - before))

    def synthesize(self, *more: str | Path, table: str = "table.csv", **changed: str) -> Outcome:
        """A run that works unless something on the desk was changed; options as keywords, "" leaves one out."""
        given = {
            "schema": "schema.yaml",
            "epsilon": "1",
            "delta": "1e-5",
            "ledger": "ledger.db",
            "dataset": "people",
            "out": "release",
            "generator": "independent",
            **changed,
        }
        options = [part for k, v in given.items() if v for part in (f"--{k}", v)]
        return self.run("synthesize", table, *options, *more)

    def write(self, frame: pd.DataFrame, name: str = "table.csv") -> None:
        """Put another table on the desk."""
        frame.to_csv(self.folder / name, index=False)

    def schema(self, text: str) -> None:
        """Put another schema on the desk."""
        (self.folder / "schema.yaml").write_text(text)

    @property
    def ledger(self) -> Ledger:
        """The ledger on the desk."""
        return Ledger(self.folder / "ledger.db", create=False)

    def entries(self, dataset: str = "people") -> list[str]:
        """Kinds of the account's entries."""
        return [json.loads(e["payload"])["kind"] for e in self.ledger.export(dataset)["entries"]]

    def names(self) -> set[str]:
        """Everything that lies in the folder, hidden files too."""
        return {p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*")}


def people(rows: int = ROWS) -> pd.DataFrame:
    """The table: two columns that depend on each other, one with missing cells."""
    rng = np.random.default_rng(0)
    age = rng.integers(0, 90, rows)
    income = (age / 2 + rng.normal(20, 5, rows)).clip(0, 100).round(2)
    color = np.where(age > 45, "red", rng.choice(["green", "blue"], rows))
    return pd.DataFrame({"age": age, "color": color, "income": pd.Series(income).where(rng.random(rows) > 0.1)})


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    """A desk where `synthesize()` works."""
    made = Desk(tmp_path, capsys, people())
    made.write(made.frame)
    made.schema(SCHEMA)
    Ledger(tmp_path / "ledger.db").open("people", epsilon=3.0, delta=1e-5)
    return made


@pytest.fixture
def refused(desk: Desk) -> Callable[..., Outcome]:
    """Checks a refusal: exit code, one line, no cell value, nothing left behind, nothing charged."""

    def check(outcome: Outcome, code: int, *words: str, charged: bool = False) -> Outcome:
        assert outcome.code == code, outcome.err
        assert outcome.err.startswith("tabveil: ")
        assert outcome.err.count("\n") == 1, outcome.err
        assert outcome.out == ""
        assert SENTINEL not in outcome.err
        for word in words:
            assert word in outcome.err, outcome.err
        assert outcome.left == frozenset()
        assert ("commit" in desk.entries()) == charged
        pending = desk.entries().count("reserve") - desk.entries().count("commit") - desk.entries().count("release")
        assert pending == 0
        return outcome

    return check


@pytest.fixture(scope="session")
def approved() -> Schema:
    """The desk's schema."""
    return Schema.from_dict(
        {
            "name": "people",
            "public_rows": ROWS,
            "columns": [
                {"name": "age", "kind": "integer", "low": 0, "high": 99},
                {"name": "color", "kind": "categorical", "categories": ["red", "green", "blue"]},
                {"name": "income", "kind": "decimal", "low": 0, "high": 100, "decimals": 2, "missing": [""]},
            ],
        }
    )
