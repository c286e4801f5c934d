"""What does the table tell of somebody whose other columns are known? Attribute inference beside a holdout.

The attacker knows a person's quasi-identifiers (every other column, where none are declared) and guesses what is
sensitive (the target, where nothing is declared so): what the closest synthetic row shows, by Gower's distance over
what he knows, as in correct attribution (Taub, Elliot, Pampaka and Smith 2018, "Differential Correct Attribution
Probability for Synthetic Data", section 3), whose exact matches are rows at distance 0. A guess of a listed value is
right where it is the same; of a number, where it is within CLOSE of the declared range. Cells that are missing, or not
allowed, are not guessed at, and a guess of one is wrong.

That a table is useful makes guesses right: whoever learns that smoking kills learns it of everybody. Only what is
guessed better of people in the table than of held-out people tells that they were in it, so held-out people are the
baseline (Giomi et al. 2023, "A Unified Framework for Quantifying Privacy Risk in Synthetic Data", section 4.4).

Privacy: reads real rows outside any budget; findings are INTERNAL. One guess by one rule: a finding at its baseline
bounds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil.audit._known import known, secrets
from tabveil.audit._membership_scores import around, scaled
from tabveil.audit.base import ALPHA, AuditInput, Auditor, lacking
from tabveil.audit.rates import Count, beyond, finding
from tabveil.columns import Column, Grid
from tabveil.encoding import Codes, size
from tabveil.records import Finding

TARGETS = 2_000
"""No more rows than this are attacked on each side."""

SYNTHETIC_ROWS = 20_000
"""A guess looks at no more synthetic rows than this, taken at random, and at those that agree in all that is known."""

CLOSE = 0.05
"""Share of the declared range by which a guessed number may be off."""

NAMED = 8
"""More columns than this are not listed by name in a sentence."""

SIDES = ("train", "holdout")

_WHAT = "What can be guessed of people"

Rows = NDArray[np.int64]


class Attribute(Auditor):
    """Sensitive cells of training rows guessed from the closest synthetic row, beside those of held-out rows."""

    takes = "held-out rows, and `sensitive` columns or a `target` in the schema"

    def why_not(self, data: AuditInput) -> str:
        """There must be rows in all three tables, something to guess and something to guess it from."""
        if not secrets(data.schema):
            return f"{_WHAT} was not measured: the schema names neither sensitive columns nor a target."
        if not known(data.schema):
            return f"{_WHAT} was not measured: no column is left to guess it from."
        reason = lacking(data, roles=("holdout", "train", "synthetic"), what=_WHAT)
        if reason or all(len(_targets(data, role)) for role in SIDES):
            return reason
        return f"{_WHAT} was not measured: no training row, or no held-out row, occurs only once."

    def compute(self, data: AuditInput) -> list[Finding]:
        """A finding for each sensitive column with cells to guess on both sides; its control is the rate among held-out
        rows, its baseline the upper end of that rate's interval.
        """
        if self.why_not(data):
            return []
        hidden = secrets(data.schema)
        counts = zip(hidden, *_guessed(data, hidden), strict=True)
        return [
            self._found(data, c, (attack, control), together=len(hidden))
            for c, attack, control in counts
            if attack.tries and control.tries
        ]

    def _found(self, data: AuditInput, column: Column, counts: tuple[Count, Count], *, together: int) -> Finding:
        attack, control = counts
        return finding(
            auditor=self.plugin_name(),
            name=f"{column.name!r} of people in the table guessed from their other columns",
            attack=attack,
            baseline=control,
            control=control,
            confidence=1 - ALPHA / together,
            verdict=lambda found: _verdict(found, column, attack, control),
            threat_model=_threat(known(data.schema)),
            targets=f"{attack.tries:,} training and {control.tries:,} held-out rows that occur once",
            seed=data.random_state,
            cost=f"guesses from {len(data.synthetic):,} synthetic rows, no fit",
        )


def _guessed(data: AuditInput, hidden: Sequence[Column]) -> list[list[Count]]:
    """For each of SIDES, how many cells of each hidden column are guessed right."""
    targets = {role: _targets(data, role) for role in SIDES}
    seen, at = known(data.schema), {c.name: i for i, c in enumerate(data.schema.learned)}
    shown, made = data.codes["synthetic"], _looked_at(data, targets, [at[c.name] for c in seen])
    theirs = scaled(seen, tuple(shown[at[c.name]][made] for c in seen))
    counts = []
    for role, rows in targets.items():
        truth = data.codes[role]
        ours = scaled(seen, tuple(truth[at[c.name]][rows] for c in seen))
        guess = made[around(ours, theirs, k=1).index[:, 0]]
        counts.append([_right(c, truth[at[c.name]][rows], shown[at[c.name]][guess]) for c in hidden])
    return counts


def _looked_at(data: AuditInput, targets: Mapping[str, Rows], columns: Sequence[int]) -> Rows:
    """Positions of synthetic rows: a random part where they are many, and all that agree with a target in `columns`;
    that holds for held-out targets as for training rows.
    """
    tables = [(data.codes[role], rows) for role, rows in targets.items()]
    tables.append((data.codes["synthetic"], np.arange(len(data.synthetic))))
    key = np.zeros(sum(len(rows) for _, rows in tables), dtype=np.int64)
    for i in columns:
        code = pd.factorize(np.concatenate([codes[i][rows] for codes, rows in tables]))[0].astype(np.int64)
        key = pd.factorize(key * len(key) + code)[0].astype(np.int64)  # both below the number of rows
    asked, made = np.split(key, [len(key) - len(data.synthetic)])
    order = data.shuffled("synthetic", np.arange(len(made)), purpose="attribute")
    agreeing = np.isin(made[order], asked) & ~pd.Series(made[order]).duplicated().to_numpy()
    looked_at: Rows = order[(np.arange(len(order)) < SYNTHETIC_ROWS) | agreeing]
    return looked_at


def _targets(data: AuditInput, role: str) -> Rows:
    """Rows of one table that are attacked: TARGETS at most, none that occurs in the other real table or twice."""
    return data.shuffled(role, data.once[role], purpose="attributed")[:TARGETS]


def _right(column: Column, truth: Codes, guess: Codes) -> Count:
    values = size(column)
    right = (truth == guess) if not isinstance(column, Grid) else np.abs(truth - guess) <= CLOSE * column.units
    there = truth < values
    return Count(int((right & there & (guess < values)).sum()), int(there.sum()))


def _threat(seen: Sequence[Column]) -> str:
    names = ", ".join(c.name for c in seen) if len(seen) <= NAMED else f"{len(seen)} columns"
    return (
        f"The attacker has the synthetic table, and knows {names} of some people; what he wants to know of them he "
        "takes from the synthetic row that is closest."
    )


def _verdict(found: Finding, column: Column, attack: Count, control: Count) -> str:
    shares = f"{attack.rate:.1%} of training rows and {control.rate:.1%} of held-out rows"
    rates = f"{column.name!r} is guessed right for {shares}"
    if beyond(found):
        return f"{rates}: the table tells more of the people it was made from than of others."
    return f"{rates}: no more, chance allowed for; what it tells of both is what the table is useful for."
