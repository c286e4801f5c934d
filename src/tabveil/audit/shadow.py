"""Was this row in the table? The privacy game: the generator is fitted many times with the row and without it.

The game (Stadler, Oprisanu and Troncoso 2022, Synthetic Data - Anonymisation Groundhog Day; Houssiau et al. 2022,
TAPAS). For each target row t there are two tables that differ by this one row, D and D + t, as in the definition of
differential privacy (add or remove one). The generator is fitted to each of them many times. From half of the synthetic
tables an attack learns what tells the one kind from the other; the other half measures it. `_shadow_features` has what
attacks look at, `_shadow_attacks` which attacks there are, `_shadow_fits` how fits are made and kept.

D is the same in all fits: a random sample of the training rows without the targets, and without other rows of their
units. That is the game of the definition, whose attacker knows all rows but one. A game that draws D anew for each fit
asks how uncertain an attacker is who does not know D; its rates differ from those of a fixed D and bound no epsilon
without more ado (Sarkar et al. 2024, arXiv 2407.07926, on the prior in Groundhog Day).

What is independent of what: given D and t, fits are independent draws of the mechanism on D and on D + t, whatever t is
and however it was chosen. So intervals and `rates.empirical_epsilon` hold for each target. The targets share the fits
to D: their findings depend on each other, which the even split of ALPHA allows (Bonferroni).

Threat model, black box: the attacker knows the generator and all its settings, D and t; he sees one synthetic table and
wants to know whether t was in. Targets are Achilles' heels (Meeus et al. 2023: the largest mean distance to the closest
rows), rows with the rarest values, random rows.

Privacy: `refit` reads real rows outside any account, a few hundred times; nothing but features stays. Findings are
INTERNAL. What failed here may fall to an attacker who sees the model. The generator is audited on as many
rows as D has: on fewer rows than the release has, one without a promise shows more of each.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import tabveil
from tabveil.audit._membership_scores import NEIGHBOURS, Rows, around, rarity, scaled
from tabveil.audit._shadow_attacks import Features, Scores, best
from tabveil.audit._shadow_features import VERSION, Questions, target
from tabveil.audit._shadow_fits import OUT, Fitted, Game, Place, places, play
from tabveil.audit.base import ALPHA, AuditInput, Auditor, lacking
from tabveil.audit.rates import EpsilonBound, auc, beyond, empirical_epsilon, roc
from tabveil.errors import UsageError
from tabveil.records import Finding

TARGETS = ("achilles", "outlier", "random")
"""One row of each kind."""

FITS = 64
"""Fits of D, and of D with each target."""

ROWS = 1_000
"""Rows of D: enough that one row is little, few enough that a fit is quick."""

FEWEST_FITS, FEWEST_ROWS = 16, 20
"""A fourth of the fits without targets is what the control learns from; fewer rows than these are no table."""

CANDIDATES = 5_000
"""Training rows among which targets are chosen."""

_WHAT = "The game with shadow fits"

_WHOM = {
    "achilles": "the row farthest from its neighbours",
    "outlier": "the row with the rarest values",
    "random": "a random row",
}

_THREAT = (
    "Black box: the attacker knows the generator with its settings, every row of the table that was fitted but one, "
    "and that one; from one synthetic table he wants to know whether it was in."
)


class Shadow(Auditor):
    """Fits with a row told from fits without it, by the best of several attacks, for a few rows.

    Args:
      targets: kinds of target rows, "achilles", "outlier" or "random"; a kind named twice gives two rows.
      fits: of the table without targets, and of the table with each target; FEWEST_FITS or more. Half of them measure:
        64 can show an epsilon of 2.5 at most, 1,000 of 5.3.
      rows: most training rows in the table.
      jobs: processes at a time. None: this process alone where all fits together take less than 20 s (so is it said by
        the second fit), else as many as there are cores. A generator that uses all cores itself, or a GPU, wants 1.

    Raises:
      UsageError: an argument out of range.
    """

    refits = True
    takes = "`refit` (`--refit`), and 20 training rows, some of which occur once"

    def __init__(
        self, *, targets: Sequence[str] = TARGETS, fits: int = FITS, rows: int = ROWS, jobs: int | None = None
    ) -> None:
        if not targets or not set(targets) <= set(_WHOM):
            raise UsageError(f"targets are some of {', '.join(_WHOM)}.")
        if fits < FEWEST_FITS or rows < FEWEST_ROWS or (jobs is not None and jobs < 1):
            raise UsageError(f"It takes {FEWEST_FITS} fits, {FEWEST_ROWS} rows and one process, or more.")
        self.targets, self.fits, self.rows, self.jobs = tuple(targets), fits, rows, jobs

    def why_not(self, data: AuditInput) -> str:
        """There must be a `refit`, a release, and training rows enough, some of which occur once."""
        if data.refit is None:
            return f"{_WHAT} was not played: it takes `refit` (`--refit`), which fits the generator anew."
        reason = lacking(data, roles=("train", "synthetic"), what=_WHAT)
        if reason or (len(data.train) >= FEWEST_ROWS and len(_once(data)[1]) >= len(self.targets)):
            return reason
        return f"{_WHAT} was not played: it takes {FEWEST_ROWS} training rows, and targets that occur only once."

    def plan(self, data: AuditInput) -> str:
        """How many fits, of how many rows; how long they take is told once the second one is done."""
        rows = min(self.rows, max(0, len(data.train) - len(self.targets)))
        return (
            f"{self._cost} of the generator on {rows:,} rows: {self.fits:,} without a target, "
            f"{self.fits:,} with each of {len(self.targets)}."
        )

    def compute(self, data: AuditInput) -> list[Finding]:
        """For each target the area under the ROC curve, and the least epsilon that the fits allow."""
        if self.why_not(data) or data.refit is None:
            return []
        cast = self._cast(data)
        game = _game(data, cast)
        file = None if data.store is None or data.random_state is None else data.store / _file(data, cast)
        wanted = places(len(self.targets), self.fits)
        fitted = play(game, wanted, file=file, jobs=self.jobs, tell=data.tell)
        return [f for side in range(len(self.targets)) for f in self._judged(data, cast, (fitted, side))]

    @property
    def _cost(self) -> str:
        return f"{self.fits * (1 + len(self.targets)):,} fits"

    def _cast(self, data: AuditInput) -> _Cast:
        chosen = _chosen(data, self.targets)
        left = np.setdiff1d(np.arange(len(data.train)), chosen)
        units = data.units("train")
        if units is not None:
            left = left[~np.isin(units[left], units[chosen])]
        return _Cast(chosen, data.shuffled("train", left, purpose="shadow rows")[: self.rows])

    def _judged(self, data: AuditInput, cast: _Cast, of: tuple[dict[Place, Fitted], int]) -> list[Finding]:
        """Both findings about one target."""
        fitted, side = of
        inside, outside = (_features(fitted, (s, side), self.fits) for s in (side, OUT))
        constant = _constant(fitted, side, self.fits)
        promised = data.promise is not None and math.isfinite(data.promise[0])
        void = constant and promised and not getattr(data.refit, "fresh_noise", False)
        seed = (data.random_state or 0) % 2**32
        asked = _Asked(
            whom=_named(self.targets, side),
            attack=_emptied(best(inside, outside, seed=seed), void=void),
            control=_emptied(best(outside[::2], outside[1::2], seed=seed), void=void),
            confidence=1 - ALPHA / (2 * len(self.targets)),
            note=_note(void=void, constant=constant),
            beside=len(cast.base),
            seed=data.random_state,
            cost=self._cost,
        )
        return [_area(asked), _epsilon(asked, data.promise)]


# -------------------------------------------------------------------------------------------------------- the players


@dataclass(frozen=True, eq=False, repr=False)
class _Cast:
    """Positions in train of the targets, shape (targets,), and of the rows of D, shape (rows,)."""

    targets: Rows
    base: Rows


def _once(data: AuditInput) -> tuple[Rows, Rows]:
    """Training rows among which targets are chosen, and those of them that occur once, in random order."""
    group = data.groups["train"]
    rows = data.shuffled("train", np.arange(len(group)), purpose="shadow targets")[:CANDIDATES]
    return rows, rows[np.bincount(group)[group[rows]] == 1]


def _chosen(data: AuditInput, kinds: Sequence[str]) -> Rows:
    """The most exposed rows of each kind, each row once."""
    rows, once = _once(data)
    columns, train = data.schema.learned, data.codes["train"]
    known, asked = (tuple(column[r] for column in train) for r in (rows, once))
    # The closest row is the row itself.
    near = around(scaled(columns, asked), scaled(columns, known), k=NEIGHBOURS + 1).distance[:, 1:]
    exposure = {
        "achilles": near.mean(axis=1, dtype=np.float64),
        "outlier": rarity(columns, asked, known),
        "random": np.zeros(len(once)),
    }
    chosen: list[int] = []
    for kind in kinds:
        order = once[np.argsort(-exposure[kind], kind="stable")]
        chosen.append(int(order[~np.isin(order, chosen)][0]))
    return np.array(chosen)


def _game(data: AuditInput, cast: _Cast) -> Game:
    if data.refit is None:
        raise UsageError("There is no refit.")
    fresh = np.random.SeedSequence().generate_state(2, np.uint64)
    entropy = (*(map(int, fresh) if data.random_state is None else [data.random_state]), VERSION)
    asked = (tuple(int(c[t]) for c in data.codes["train"]) for t in cast.targets)
    questions = tuple(target(codes, (*entropy, side)) for side, codes in enumerate(asked))
    return Game(
        refit=data.refit,
        base=data.train.iloc[cast.base].reset_index(drop=True),
        added=tuple(data.train.iloc[[t]] for t in cast.targets),
        questions=Questions(data.schema, questions),
        entropy=entropy,
    )


def _file(data: AuditInput, cast: _Cast) -> Path:
    """Name of the file of just these fits: of these rows and their units, this refit, schema, state and version."""
    about = (VERSION, tabveil.__version__, data.schema.digest, data.random_state, repr(data.refit))
    total = hashlib.sha256(repr(about).encode())
    units = data.units("train")
    for column in (*data.codes["train"], *(() if units is None else (units,))):
        total.update(column[np.concatenate([cast.targets, cast.base])].tobytes())
    return Path(f"shadow-{total.hexdigest()[:16]}.jsonl")


# -------------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is known of one target.

    Attributes:
      whom: the target in words.
      attack, control: scores of the fits, and of fits without the row of which half pose as fits with it.
      confidence: of each finding.
      note: a sentence that comes first, or "".
      beside: rows of D.
      seed, cost: of the audit, as in `Finding`.
    """

    whom: str
    attack: Scores
    control: Scores
    confidence: float
    note: str
    beside: int
    seed: int | None
    cost: str

    @property
    def tries(self) -> str:
        """What was measured, and by which attack."""
        fits = len(self.attack.asked[0]) + len(self.attack.asked[1])
        return f"{fits:,} independent fits, attack: {self.attack.attack}" if fits else "nothing was measured"

    def finding(
        self, name: str, found: tuple[float, tuple[float, float]], beside: tuple[float, float, float]
    ) -> Finding:
        """Of `found` (value, interval) `beside` (baseline, control, ceiling), without a verdict yet."""
        return Finding(
            auditor=Shadow.plugin_name(),
            name=f"{name}: {self.whom}",
            value=found[0],
            interval=found[1],
            confidence=self.confidence,
            baseline=beside[0],
            control=beside[1],
            ceiling=beside[2],
            verdict="",
            threat_model=_THREAT,
            targets=f"{self.whom}, beside {self.beside:,} other training rows, the same in all fits",
            seed=self.seed,
            cost=self.cost,
        )

    def verdict(self, meaning: str) -> str:
        """One sentence on what was found, after the note."""
        return f"{self.note}. {meaning}." if self.note else f"{meaning}."


def _features(fitted: dict[Place, Fitted], of: tuple[int, int], fits: int) -> Features:
    """Of the fits of one side, what was asked about one target."""
    side, asked = of
    made = [fitted[side, number].features for number in range(fits)]
    return Features(np.array([f[0] for f in made]), np.array([f[1 + asked] for f in made]))


def _constant(fitted: dict[Place, Fitted], side: int, fits: int) -> bool:
    """Whether all fits of each side gave one table, and the two tables differ: there is no chance in a fit."""
    out, into = ({fitted[s, number].digest for number in range(fits)} for s in (OUT, side))
    return len(out) == len(into) == 1 and out != into


def _note(*, void: bool, constant: bool) -> str:
    """What comes before all else that is said of fits without chance; "" for others.

    Fits whose noise is said to be fresh (`Refit`) count as what they are: draws of a generator that has no noise.
    """
    if void:
        return (
            "MEASURED NOTHING: every fit of the same rows gave the same table, so that either `refit` fixes the noise, "
            "which it must not, or there is none and the promise is broken"
        )
    return "Every fit of the same rows gave the same table: no chance is in it" if constant else ""


def _emptied(scores: Scores, *, void: bool) -> Scores:
    """Scores of no fit, where fits are copies of each other and measure nothing."""
    nothing = (np.zeros(0), np.zeros(0))
    return Scores(scores.attack, nothing, nothing) if void else scores


def _named(kinds: Sequence[str], side: int) -> str:
    """The target in words, numbered where there are several of its kind."""
    kind, before = kinds[side], Counter(kinds[:side])[kinds[side]]
    return _WHOM[kind] if Counter(kinds)[kind] == 1 else f"{_WHOM[kind]}, number {before + 1}"


def _area(asked: _Asked) -> Finding:
    area, other = (auc(*s.asked, confidence=asked.confidence) for s in (asked.attack, asked.control))
    found = asked.finding(
        "fits with a row told from fits without it (area under the ROC curve)",
        (area.value, area.interval),
        (0.5, other.value, area.ceiling),
    )
    alarms, recognised = roc(*asked.attack.asked)
    verdict = asked.verdict(_meaning_of_area(found, asked))
    return replace(found, verdict=verdict, false_alarms=alarms, recognised=recognised)


def _meaning_of_area(found: Finding, asked: _Asked) -> str:
    if beyond(found):
        return f"Whoever knows all other rows can tell whether {asked.whom} was in ({asked.tries})"
    return (
        f"{asked.whom[0].upper()}{asked.whom[1:]} was not noticed ({asked.tries}): these attacks failed, a stronger "
        f"one may not; had every pair been told right, {found.ceiling:.3f} beside {found.baseline} would have shown"
    )


def _epsilon(asked: _Asked, promise: tuple[float, float] | None) -> Finding:
    claimed, delta = promise or (0.0, 0.0)
    bound, other = (
        empirical_epsilon(*s.asked, delta=delta, confidence=asked.confidence, known=s.known)
        for s in (asked.attack, asked.control)
    )
    found = asked.finding(
        f"what one row changes (epsilon at delta {delta:g})",
        (max(bound.estimate, bound.low), bound.interval),
        (claimed, other.estimate, bound.ceiling),
    )
    meaning = asked.verdict(_meaning_of_epsilon(bound, promise, asked.tries))
    return replace(found, verdict=meaning, baseline_of="guessing" if promise is None else "claim")


def _meaning_of_epsilon(bound: EpsilonBound, promise: tuple[float, float] | None, tries: str) -> str:
    if promise is None and not bound.low:
        return f"These fits rule out no epsilon ({tries}); none is promised here"
    if promise is None:
        return f"An epsilon below {bound.low:.3f} would be a false promise ({tries}); none is promised here"
    claimed = promise[0]
    if bound.low > claimed:
        return f"Epsilon is at least {bound.low:.3f}, and {claimed:g} is promised: the promise is broken ({tries})"
    most = f"an attack that is always right would have shown {bound.ceiling:.3f}"
    if bound.ceiling <= claimed:
        return f"So few fits cannot contradict the {claimed:g} that is promised: {most} ({tries})"
    least = f"Epsilon is at least {bound.low:.3f}, which does" if bound.low else "These fits rule out no epsilon and do"
    return f"{least} not contradict the promise of {claimed:g} ({tries}); {most}"
