"""Singling out, linkability and inference, by statice/anonymeter 1.1 in an environment of its own.

The attacks of Giomi et al. 2023, "A Unified Framework for Quantifying Privacy Risk in Synthetic Data" (PETS 2023),
after the three questions of the Article 29 Working Party. The attacker has the synthetic table and nothing else:

- singling out: he makes queries that fit one synthetic row, of one column and of three, and claims that each fits one
  real person;
- linkability: he has a person's columns in two tables without a common key, and joins them where both are closest to
  the same synthetic row;
- inference: he knows a person's quasi-identifiers and guesses each sensitive column from the closest synthetic row.

anonymeter attacks; the statistics are ours. Each finding's baseline is the upper end of what the same attack gets on as
many held-out people, since what holds for everybody is no leak; what blind guessing gets is in the verdict, and so is
anonymeter's risk, (attack - control) / (1 - control). That guessing beats an attack, that no query can be made, or that
anonymeter stops with an error, is a result: a finding with the tries there were.

Independence: linkability and inference try each person once, people who occur twice being left out. Queries overlap, so
singling out counts rows instead: those that some query fits alone among training and held-out rows together. Given
these rows, only chance decides whose side each was on (a hypergeometric law, which scatters less than the binomial).

What anonymeter is given are codes: columns without names, categories without words, numbers above zero. With a
secret below zero it would take every negative guess for a hit: it divides by the guess, not by its size.

Privacy: reads real rows outside any budget; they reach the worker in a private temporary folder. Findings are INTERNAL
and bound no epsilon: the rows of one table share one fit. anonymeter's licence grants no patent rights; its notice is
shown where its environment is made (`tabveil env create anonymeter`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tabveil import environments
from tabveil.audit._known import known, secrets
from tabveil.audit.base import ALPHA, AuditInput, Auditor, lacking
from tabveil.audit.rates import Count, beyond, finding, risk
from tabveil.columns import Column, Decimal, Grid, Integer
from tabveil.encoding import Codes, size
from tabveil.records import Finding

_log = logging.getLogger(__name__)

NAME = "anonymeter"

TARGETS = 2_000
"""No more people than this are attacked on each side by linkability and inference."""

ROWS = 20_000
"""Singling out looks at no more rows than this of each real table, and every attack at no more synthetic ones."""

QUERIES = 2_000
"""Queries that singling out is asked for; it often cannot make so many."""

ATTEMPTS = 50_000
"""Synthetic rows that it may look at for them."""

AT_ONCE = 3
"""Columns in a query of several."""

LEAST = 20
"""Fewer people than this on one side are not attacked."""

_SIDES = ("train", "holdout")

_WHAT = "Anonymeter's three questions"

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class _Attack:
    """One attack: its finding's name and attacker, and how the worker is asked for it."""

    name: str
    threat: str
    asked: Mapping[str, Any]


class Anonymeter(Auditor):
    """Singling out by one and by three columns, linkability, and inference of each sensitive column.

    Args:
      halves: the two lists of columns that linkability joins; by default what is known of people (quasi-identifiers,
        or all that is not sensitive), dealt out in turn.
      limit_s: seconds that all attacks together may take.
    """

    needs_environment = NAME
    takes = "its environment (`tabveil env create anonymeter`), and 20 training and held-out rows without copies"

    def __init__(
        self, *, halves: tuple[Sequence[str], Sequence[str]] | None = None, limit_s: float = environments.LIMIT_S
    ) -> None:
        self._halves, self._limit_s = halves, limit_s

    def why_not(self, data: AuditInput) -> str:
        """There must be the environment, and LEAST people on both sides who occur only once."""
        reason = lacking(data, roles=("holdout", "train", "synthetic"), what=_WHAT)
        if reason:
            return reason
        if not environments.is_there(NAME):
            return f"{_WHAT} were not asked: `tabveil env create {NAME}` makes the environment that it needs."
        if len(data.synthetic) < LEAST or _people(data)[1] < LEAST:
            return f"{_WHAT} were not asked: that takes {LEAST} synthetic, training and held-out rows that occur once."
        return ""

    def compute(self, data: AuditInput) -> list[Finding]:
        """A finding for each attack; its control is the same attack on held-out people, its baseline the upper end of
        that rate's interval.
        """
        if self.why_not(data):
            return []
        attacks = self._attacks(data)
        data.tell("anonymeter", 0.0)
        answers = self._answers(data, attacks)
        data.tell("anonymeter", 1.0)
        share = ALPHA / len(attacks)
        return [_found(data, a, said, confidence=1 - share) for a, said in zip(attacks, answers, strict=True)]

    def _attacks(self, data: AuditInput) -> list[_Attack]:
        columns = _Columns.of(data)
        attacks = [_singling_out(columns, at_once) for at_once in (1, AT_ONCE) if at_once <= len(columns.all)]
        halves = self._halves or _dealt(known(data.schema))
        if all(halves):
            attacks.append(_linkability(columns, halves))
        if known(data.schema):
            attacks += [_inference(columns, c, known(data.schema)) for c in secrets(data.schema)]
        return attacks

    def _answers(self, data: AuditInput, attacks: Sequence[_Attack]) -> list[dict[str, Any]]:
        """What the worker counts; where it gives no answer at all, attacks without a try."""
        job = {"seed": _seed(data), "attacks": [a.asked for a in attacks]}
        try:
            said: list[dict[str, Any]] = environments.run(NAME, tables=_tables(data), job=job, limit_s=self._limit_s)
        except environments.WorkerError as error:
            _log.warning("anonymeter: %s", error)
            nothing = {"tries": 0, "train": 0, "holdout": 0, "naive": 0, "naive_tries": 0, "failed": str(error)}
            return [nothing] * len(attacks)
        return said


# ------------------------------------------------------------------------------------------------------------- attacks


@dataclass(frozen=True)
class _Columns:
    """How the schema's learned columns are called in the tables that are sent.

    Attributes:
      all: one name each, with empty cells: for queries.
      near: the names that stand for each in a search for neighbours, where no cell may be empty.
      guessed: the name of each as a secret.
    """

    all: tuple[str, ...]
    near: Mapping[str, tuple[str, ...]]
    guessed: Mapping[str, str]

    @classmethod
    def of(cls, data: AuditInput) -> _Columns:
        """The columns of `data`; that a number is missing is told to a search where any is."""
        near, guessed = {}, {}
        for i, column in enumerate(data.schema.learned):
            grid = isinstance(column, Grid)
            gaps = grid and any((codes[i] >= size(column)).any() for codes in data.codes.values())
            near[column.name] = (f"n{i}", f"m{i}") if gaps else (f"n{i}",) if grid else (f"c{i}",)
            guessed[column.name] = f"s{i}" if grid else f"c{i}"
        return cls(tuple(f"c{i}" for i in range(len(near))), near, guessed)

    def known(self, names: Sequence[str]) -> list[str]:
        """What stands for the columns `names` in a search for neighbours."""
        return [sent for name in names for sent in self.near[name]]


def _singling_out(columns: _Columns, at_once: int) -> _Attack:
    words = "one column" if at_once == 1 else f"{at_once} columns"
    return _Attack(
        f"people singled out by {words} of synthetic rows",
        f"Knows the synthetic table; wants a query of {words} that fits one real person and nobody else.",
        {
            "kind": "singling out",
            "columns": columns.all,
            "at_once": at_once,
            "tries": QUERIES,
            "attempts": ATTEMPTS,
        },
    )


def _linkability(columns: _Columns, halves: tuple[Sequence[str], Sequence[str]]) -> _Attack:
    sent = [columns.known(half) for half in halves]
    return _Attack(
        "two halves of one person's columns linked through synthetic rows",
        "Knows the synthetic table, and people's columns in two tables without a common key; wants to join the two.",
        {"kind": "linkability", "halves": sent},
    )


def _inference(columns: _Columns, secret: Column, seen: Sequence[Column]) -> _Attack:
    return _Attack(
        f"{secret.name!r} of people in the table inferred from their other columns",
        f"Knows the synthetic table and a person's {len(seen)} other columns; wants to know {secret.name!r}.",
        {
            "kind": "inference",
            "known": columns.known([c.name for c in seen]),
            "secret": columns.guessed[secret.name],
            "number": isinstance(secret, Grid),
        },
    )


def _dealt(columns: Sequence[Column]) -> tuple[Sequence[str], Sequence[str]]:
    names = [c.name for c in columns]
    return names[::2], names[1::2]


# -------------------------------------------------------------------------------------------------------------- tables


def _tables(data: AuditInput) -> dict[str, pa.Table]:
    rows, targets = _people(data)
    tables = {"synthetic": _sent(data, "synthetic", _drawn(data, "synthetic", ROWS))}
    for role in _SIDES:
        tables[role] = _sent(data, role, _drawn(data, role, rows))
        tables[f"{role}_targets"] = _sent(data, role, data.shuffled(role, data.once[role], purpose=NAME)[:targets])
    return tables


def _drawn(data: AuditInput, role: str, rows: int) -> Rows:
    """That many rows of a table at random, in whatever order it is stored.

    `shuffled` keeps copies together, so that its first rows would have all copies of a few: of two tables of different
    size the larger would then have fewer rows that are alone. So places in its order are drawn.
    """
    order = data.shuffled(role, np.arange(len(data.groups[role])), purpose=NAME)
    if rows >= len(order):
        return order
    keys = np.random.SeedSequence([_seed(data), len(order)]).generate_state(len(order), np.uint64)
    drawn: Rows = order[np.argsort(keys, kind="stable")[:rows]]
    return drawn


def _people(data: AuditInput) -> tuple[int, int]:
    """How many rows of each real table are sent, and how many of those that occur once are attacked: equally many of
    both, so that neither side is easier to be alone in.
    """
    sides = [len(data.groups[role]) for role in _SIDES]
    return min(*sides, ROWS), min(*(len(rows) for rows in data.once.values()), TARGETS)


def _sent(data: AuditInput, role: str, rows: Rows) -> pa.Table:
    """Rows as anonymeter gets them: no names, no words, nothing below zero, and no order of their own."""
    out: dict[str, pa.Array] = {}
    for i, (column, codes) in enumerate(zip(data.schema.learned, data.codes[role], strict=True)):
        code = codes[rows].astype(np.int64)
        if isinstance(column, Grid):
            out |= _numbers(column, code, at=i)
        else:
            out[f"c{i}"] = _words(code)
    return pa.table(out)


def _numbers(column: Grid, code: Codes, *, at: int) -> dict[str, pa.Array]:
    """A column of numbers for queries (c), for neighbours (n, and m for what is missing), and as a secret (s).

    As a secret each is at least 1, and 0 where it is missing: a guess is right within 5 % of itself, and anonymeter
    takes every guess below 0 for right (`rel_abs_diff` of its `inference_evaluator.py`).
    """
    there = code < column.units
    return {
        f"c{at}": pa.array(code, mask=~there),
        f"n{at}": pa.array(np.where(there, code, column.units // 2)),
        f"m{at}": _words(there.astype(np.int64)),
        f"s{at}": pa.array(np.where(there, code + max(1, _lowest(column)), 0)),
    }


def _lowest(column: Grid) -> int:
    """The low bound in steps; dates have no zero to count from."""
    if isinstance(column, Integer):
        return int(column.low)
    return round(column.low * 10.0**column.decimals) if isinstance(column, Decimal) else 1


def _words(code: NDArray[np.int64]) -> pa.Array:
    values, at = np.unique(code, return_inverse=True)
    return pa.array([f"v{v}" for v in values.tolist()]).take(pa.array(at)) if len(values) else pa.array([], pa.string())


def _seed(data: AuditInput) -> int:
    return int(np.random.SeedSequence(data.random_state).generate_state(1)[0])


# ------------------------------------------------------------------------------------------------------------ findings


def _found(data: AuditInput, attack: _Attack, said: Mapping[str, Any], *, confidence: float) -> Finding:
    tried, control = Count(said["train"], said["tries"]), Count(said["holdout"], said["tries"])
    people = _people(data)[0 if attack.asked["kind"] == "singling out" else 1]
    return finding(
        auditor=NAME,
        name=attack.name,
        attack=tried,
        baseline=control,
        control=control,
        confidence=confidence,
        verdict=lambda found: _verdict(found, said),
        threat_model=attack.threat,
        targets=f"{people:,} training and {people:,} held-out rows",
        seed=data.random_state,
        cost=f"{said['tries']:,} tries a side, on {min(len(data.synthetic), ROWS):,} synthetic rows",
    )


def _verdict(found: Finding, said: Mapping[str, Any]) -> str:
    ended = f" anonymeter stopped: {said['failed'].rstrip('.')}." if said["failed"] else ""
    if not said["tries"]:
        return f"Not one try could be made, which shows nothing.{ended}{_own(said)}"
    rates = f"It works on {found.value:.1%} of training and {found.control:.1%} of held-out tries"
    naive = said["naive"] / said["naive_tries"] if said["naive_tries"] else 0.0
    guess = f"guessing blindly on {naive:.1%}"
    told = f"{rates}, {guess}: {_risk(found, said)}"
    if beyond(found):
        return f"{told}, which chance does not explain: the table gives away who it was made from.{_own(said)}{ended}"
    weak = "; blind guessing does as well, so the attack failed" if naive >= _own_rate(found, said) else ""
    return f"{told}, no more than chance allows for{weak}.{_own(said)}{ended}"


def _risk(found: Finding, said: Mapping[str, Any]) -> str:
    attack, control = (Count(said[side], said["tries"]) for side in ("train", "holdout"))
    shown = risk(attack, control, found.confidence)
    return f"a risk of {shown.value:.3f} ({shown.interval[0]:.3f} to {shown.interval[1]:.3f})"


def _own_rate(found: Finding, said: Mapping[str, Any]) -> float:
    """The attack's rate as anonymeter counts it, which is how blind guessing is counted."""
    own = said.get("own")
    return found.value if own is None else float(own.get("train", 0.0)) / max(1.0, float(own["tries"]))


def _own(said: Mapping[str, Any]) -> str:
    """anonymeter's own counts, where they are of something else than ours."""
    own = said.get("own")
    if own is None:
        return ""
    short = f" of {said['naive_tries']:,} asked for" if own["tries"] < said["naive_tries"] else ""
    shown = f" anonymeter made {own['tries']:,.0f} queries{short}"
    if "train" in own and "holdout" in own:
        shown += f"; by its own counts {own['train']:,.0f} fit one training row, {own['holdout']:,.0f} one held-out row"
    return f"{shown}."
