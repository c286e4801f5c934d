"""Does a generator keep the epsilon it claims? Many cheap fits of worst-case neighbours, heard from within and without.

`audit_generator` makes two tables of made-up rows that differ in one unit, fits a generator to each some hundred
times, and asks of every fit which table it was given. Two threat models:

- *Black box*: the auditor has what was sampled. Half of the fits teach him what to look at, the other half is counted.
- *White box*: he also overhears every question and noisy answer (`_canary_transcripts`) and scores a fit by the
  likelihood ratio of all of them under the charged noise. No rule finds more, so the bound comes near to the claim as
  fits grow in number.

A bound on epsilon needs many fits to see a small error. What it takes for granted is tested too, and shows an error of
a tenth within a few hundred fits: that noise has the charged law, is fresh and independent; that choices follow theirs
and categories come out no more often than the charged delta pays for; that one unit moves answers by what was charged;
that all that came out, priced again, is within the claim; that questions tell no more than answers may.

`Canary` is the auditor of a release: black box only, it fits the release's generator to worst-case neighbours.
`audit_canaries` puts many canaries into a single fit (Steinke, Nasr, Jagielski 2023).

Privacy: nobody's rows are read but those of the generator's own fits, all to made-up tables. Findings are INTERNAL all
the same, as every auditor's are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tabveil import accounting
from tabveil.accounting import Spend, event_of
from tabveil.audit import _canary_laws as laws
from tabveil.audit._canary_fits import Fits, Runs, refitted, run
from tabveil.audit._canary_laws import Floats
from tabveil.audit._canary_one_run import one_run
from tabveil.audit._canary_tests import choice_tests, law_tests
from tabveil.audit._canary_transcripts import Transcript
from tabveil.audit._canary_worlds import ROWS, worst_case
from tabveil.audit._white_box import About, against
from tabveil.audit.base import ALPHA, AuditInput, Auditor, Tell, untold
from tabveil.audit.rates import (
    Count,
    above,
    ceiling,
    empirical_epsilon,
    epsilon_of_counts,
    finding,
    interval,
    most_right,
    one_run_epsilon,
)
from tabveil.errors import UsageError
from tabveil.records import Finding
from tabveil.schema import Schema

AUDITOR = "canary"

FITS = 500
"""Fits to each table, where nobody says."""

LEAST_FITS = 10
"""Below which nothing is worth a bound."""

REFITS = 24
"""Fits to each table where the auditor of a release asks for them."""

CANARIES = 2_000
"""In a single fit, where nobody says."""

GUESSED = 20
"""One in so many canaries is said to be in, and one to be out."""

FINDINGS = 6
"""Of one audit of a generator, among which its chance of error is shared."""

WHITE = "White box: the auditor made both tables and overhears every noisy answer; was the further unit in?"
TARGET = "one unit, as far from all others as a unit can be"
BLACK = "Black box: the auditor made both tables and has what was sampled; was the further unit in?"


def audit_generator(
    generator: Fits,
    schema: Schema,
    *,
    fits: int = FITS,
    nameless: bool = False,
    table: pd.DataFrame | None = None,
    confidence: float = 1 - ALPHA,
    tell: Tell = untold,
) -> tuple[Finding, ...]:
    """What fits to worst-case neighbours tell of the further unit, beside what is claimed.

    Args:
      generator: private, with its options; fitted anew each time, to made-up rows, so throw it away afterwards.
      schema: approved, without constraints: two or three columns are enough, and quick.
      fits: to each of the two tables, from 10.
      nameless: the further unit is a person whose rows name nobody.
      table: made-up rows of the smaller table, each a unit of its own, in place of ROWS rows of two kinds: choices say
        most of their noise where candidates differ by a few times that, thresholds where categories are about as rare.
      confidence: of all findings together.
      tell: told of progress.

    Returns:
      Findings whose baseline is what is claimed: `rates.beyond` says that more is given away. The chance that it says
      so of a right generator is at most 1 - confidence.

    Raises:
      UsageError: a number out of range, a generator that is not private, constraints.
    """
    if fits < LEAST_FITS or not 0.75 <= confidence < 1 or not math.isfinite(generator.epsilon):
        raise UsageError("An audit needs a private generator, 10 fits to each table or more, and a confidence of 3/4.")
    runs = run(generator, worst_case(schema, table=table, nameless=nameless), fits=fits, tell=tell)
    about = _About(AUDITOR, (1 - confidence) / FINDINGS, runs, generator.epsilon, generator.delta)
    return (_black(about), _white(about), _apart(about), _priced(about), _law(about), _asked(about))


@dataclass(frozen=True, eq=False)
class _About(About):
    """What all findings are made of."""

    runs: Runs
    epsilon: float
    delta: float

    def finding(
        self, name: str, found: tuple[float, tuple[float, float]], beside: tuple[float, float, float], verdict: str
    ) -> Finding:
        """As `About.finding`, with the threat model that the name begins with."""
        threat = BLACK if name.startswith("black") else WHITE
        return replace(
            super().finding(name, found, beside, verdict),
            threat_model=threat,
            targets=TARGET,
            cost=f"{2 * self.runs.fits} fits",
        )

    def bounded(self, name: str, out: Floats, into: Floats, *, blind: Floats) -> Finding:
        """The epsilon that scores of fits show, by counts; both halves of `blind` are scores of fits to one table."""
        found = empirical_epsilon(into, out, delta=self.delta, confidence=1 - self.alpha)
        control = empirical_epsilon(blind[::2], blind[1::2], delta=self.delta, confidence=1 - self.alpha)
        return self.finding(
            f"{name} (epsilon at delta {self.delta:g}, by counts)",
            (found.estimate, found.interval),
            (self.epsilon, control.estimate, found.ceiling),
            against(
                "A fit", found.low, self.epsilon, f"{len(into):,} fits with the further unit, {len(out):,} without"
            ),
        )

    def taught(self, name: str, out: Floats, into: Floats) -> Finding:
        """The same of a linear score of features, shape (fits, features), learned from fits that are not counted, nor
        in the control: what taught a score differs from the rest by it, in whatever it was lucky.
        """
        weights = direction(into[1::2], out[1::2])
        return self.bounded(name, out @ weights, into @ weights, blind=out[::2] @ weights)


# --------------------------------------------------------------------------------------------------------- epsilon
def _black(about: _About) -> Finding:
    """By samples alone: every other fit teaches a linear score, the rest is counted."""
    return about.taught("black box: samples", *about.runs.features)


def direction(into: Floats, out: Floats) -> Floats:
    """Fisher's linear discriminant, shape (features,), of both sides' features, shapes (fits, features)."""
    spread = np.maximum(np.sqrt((into.var(axis=0) + out.var(axis=0)) / 2), 1e-6)
    left = np.concatenate([(side - side.mean(axis=0)) / spread for side in (into, out)])
    covariance = left.T @ left / len(left) + 0.1 * np.eye(left.shape[1])
    shift = (into.mean(axis=0) - out.mean(axis=0)) / spread
    weights: Floats = np.linalg.solve(covariance, shift) / spread
    return weights


def _white(about: _About) -> Finding:
    """By the likelihood ratio of all answers."""
    out, into = _evidence(about.runs)
    return about.bounded("white box: answers", out, into, blind=out)


def _evidence(runs: Runs) -> tuple[Floats, Floats]:
    out, into = (np.array([t.evidence for t in side]) for side in runs.transcripts)
    return out, into


def _apart(about: _About) -> Finding:
    """How often answers that are likelier with the further unit come of a fit to it, and others do not.

    The cut is fixed beforehand, so that all fits count, and the baseline is what the charges allow any rule, by the
    accountant that priced the claim: whatever the noise, and however adaptive the fit. It is less than the claim at one
    delta allows, so that less is needed to contradict it.
    """
    out, into = _evidence(about.runs)
    right, fair = (above(i, 0.0) + above(o, 0.0).misses for i, o in ((into, out), (out[::2], out[1::2])))
    low = interval(right, 1 - 2 * about.alpha)[0]
    allowed = most_right([(about.epsilon, about.delta), *laws.charged(event_of(about.runs.spends))])
    said = f"Answers told apart {right.hits:,} of {right.tries:,} fits, so at least {low:.4g}; {allowed:.4g} is allowed"
    return about.finding(
        "white box: answers, told apart (share of fits; beside the most that the charges allow)",
        (right.rate, (low, 1.0)),
        (allowed, fair.rate, ceiling(right.tries, 1 - 2 * about.alpha)),
        f"{said}: {'MORE THAN IS CHARGED' if low > allowed else 'no contradiction, and no proof'}.",
    )


def _priced(about: _About) -> Finding:
    """What came out of a fit, priced again by its charges."""
    costs = {_key(t): t for side in about.runs.transcripts for t in side}
    cost = max(_cost(t, about) for t in costs.values())
    more = cost > about.epsilon * (1 + 1e-9)
    said = f"What came out of the dearest fit costs {cost:.6g} by its charges, where {about.epsilon:.6g} is claimed"
    return about.finding(
        "white box: all answers that came out, priced",
        (cost, (cost, cost)),
        (about.epsilon * (1 + 1e-9), about.epsilon, math.inf),
        f"{said}: {'MORE THAN IS CLAIMED' if more else 'no more than is claimed'}.",
    )


def _key(transcript: Transcript) -> tuple[str, ...]:
    return tuple(sorted(label for label, _ in transcript.answers))


def _cost(transcript: Transcript, about: _About) -> float:
    """Epsilon of the answers of one fit; infinite where one was not charged."""
    given = [label for label, _ in transcript.answers]
    charged = about.runs.charged
    if any(label not in charged for label in given):
        return math.inf
    spends = [Spend(label, charged[label], given.count(label)) for label in dict.fromkeys(given)]
    return accounting.epsilon(event_of(spends), about.delta) if spends else 0.0


def _asked(about: _About) -> Finding:
    """By what was asked: questions are shaped by public knowledge and earlier answers, so they may tell no more than
    these do; learned as samples are.
    """
    out, into = described(about.runs.transcripts)
    return about.taught("white box: questions", out, into)


def described(sides: tuple[Sequence[Transcript], Sequence[Transcript]]) -> tuple[Floats, Floats]:
    """Numbers that describe all questions of each fit, shape (fits, numbers), 0 where one was not asked."""
    longest: dict[str, int] = {}
    for transcript in (t for side in sides for t in side):
        for label, numbers in transcript.asked.items():
            longest[label] = max(longest.get(label, 0), len(numbers))

    def row(transcript: Transcript) -> list[float]:
        told = ((transcript.asked.get(label, ()), n) for label, n in longest.items())
        return [x for numbers, n in told for x in (*numbers, *(0.0,) * (n - len(numbers)))]

    out, into = (np.array([row(t) for t in side], dtype=np.float64).reshape(len(side), -1) for side in sides)
    return out, into


# ------------------------------------------------------------------------------------------------------------- law
def _law(about: _About) -> Finding:
    """Is the noise as charged, fresh and independent, and does one unit move answers by what was charged?"""
    sides = about.runs.transcripts
    tested = [*choice_tests(sides), *(test for side in (0, 1) for test in law_tests(sides[side], side))]
    return about.least_likely(
        "white box: the noise, the least likely of what was seen of it",
        tested,
        right="The noise of the answers shows",
        wrong="The noise of the answers is NOT AS CHARGED",
    )


# --------------------------------------------------------------------------------------------------------- one run
def audit_canaries(
    generator: Fits, *, canaries: int = CANARIES, confidence: float = 1 - ALPHA, random_state: int | None = None
) -> tuple[Finding, ...]:
    """What a single fit tells of many canaries, each put in by a fair coin: by its answers, and by its samples.

    Args:
      generator: private, of marginals: a column with a category for each canary must keep them apart.
      canaries: from 16.
      confidence: of both findings together.
      random_state: repeats the coins, which must be known to nobody who shapes the generator; by default a number is
        drawn from the operating system's entropy. Either is recorded as the findings' `seed`.

    Raises:
      UsageError: a number out of range, or a generator that is not private.
    """
    if canaries < 16 or not math.isfinite(generator.epsilon):
        raise UsageError("An audit needs a private generator and 16 canaries or more.")
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if random_state is None else int(random_state)
    seen = one_run(generator, canaries=canaries, coins=np.random.Generator(np.random.SFC64(seed)))
    guesses = 2 * max(4, canaries // GUESSED)
    blind = seen.right(np.roll(seen.heard, canaries // 2), guesses)
    ways = (("white box: answers", seen.heard, WHITE), ("black box: samples", seen.sampled, BLACK))
    each = 1 - (1 - confidence) / len(ways)
    return tuple(
        _one_run(
            f"{n} of one fit", _Guessed(seen.right(s, guesses), blind, guesses, canaries, seed), generator, (t, each)
        )
        for n, s, t in ways
    )


@dataclass(frozen=True)
class _Guessed:
    """Right guesses, those of a blind guesser, all guesses, all canaries; what their coins were drawn from."""

    right: int
    blind: int
    guesses: int
    canaries: int
    seed: int


def _one_run(name: str, seen: _Guessed, generator: Fits, about: tuple[str, float]) -> Finding:
    threat, confidence = about
    found, control = (
        one_run_epsilon(n, seen.guesses, canaries=seen.canaries, delta=generator.delta, confidence=confidence)
        for n in (seen.right, seen.blind)
    )
    said = f"{seen.right} of {seen.guesses} guesses about {seen.canaries:,} canaries were right"
    return Finding(
        auditor=AUDITOR,
        name=f"{name} (epsilon at delta {generator.delta:g}, canaries by coins)",
        value=found.estimate,
        interval=found.interval,
        confidence=confidence,
        baseline=generator.epsilon,
        control=control.estimate,
        ceiling=found.ceiling,
        verdict=against("A fit", found.low, generator.epsilon, said),
        threat_model=threat.replace("was the further unit in", "which canaries were in"),
        targets=f"{seen.canaries:,} units, each in a cell of its own",
        seed=seen.seed,
        cost="1 fit",
        baseline_of="claim",
    )


# ------------------------------------------------------------------------------------------------ auditor of a release
class Canary(Auditor):
    """Which of two worst-case neighbours was the generator fitted to? Asked of its samples alone.

    The baseline is the share of right guesses that the promise allows, (e^epsilon + delta) / (1 + e^epsilon), which
    randomised response reaches; where nothing is promised, that of a blind guess.

    Privacy: fits the release's generator to tables made up from the schema, REFITS times each; no real row is read.
    """

    refits = True
    needs_tables = False
    takes = "`refit` (`--refit`), and a schema without constraints between columns"

    def why_not(self, data: AuditInput) -> str:
        """As `Auditor.why_not`: fits are needed, and a schema from which worst-case neighbours can be made."""
        if data.refit is None:
            return "Worst-case neighbours were not fitted: nothing to fit again was given."
        if data.schema.constraints:
            return "Worst-case neighbours were not fitted: the schema has constraints between columns."
        return ""

    def plan(self, data: AuditInput) -> str:
        """As `Auditor.plan`."""
        return f"Worst-case neighbours: {2 * REFITS} fits to tables of {ROWS} rows and one unit more."

    def compute(self, data: AuditInput) -> list[Finding]:
        """As `Auditor.compute`: one finding, the share of fits of which a score that the other fits taught says which
        table they had.
        """
        if self.why_not(data) or data.refit is None:
            return []
        out, into = refitted(data.refit, worst_case(data.schema), fits=REFITS, tell=data.tell)
        weights = direction(into[1::2], out[1::2])
        hits, alarms = told_apart(out @ weights, into @ weights)
        counted = out[::2] @ weights
        blind = told_apart(counted[::2], counted[1::2])
        bound = epsilon_of_counts(hits, alarms, confidence=1 - ALPHA, method="accuracy")
        wrong = f"a claim of pure epsilon below {bound.low:.3g} would be wrong"
        found = finding(
            auditor=AUDITOR,
            name="which of two worst-case neighbours a fit had",
            attack=hits + alarms.misses,
            baseline=_allowed(data.promise),
            control=blind[0] + blind[1].misses,
            confidence=1 - ALPHA,
            verdict=f"Of {hits.tries + alarms.tries} fits {hits.hits + alarms.misses.hits} were told apart: "
            f"{wrong if bound.low else 'no claim is contradicted'}.",
            threat_model=BLACK,
            targets=TARGET,
            seed=data.random_state,
            cost=f"{2 * REFITS} fits",
            baseline_of="guessing" if data.promise is None else "claim",
        )
        return [found]


def _allowed(promise: tuple[float, float] | None) -> float:
    """The largest share of right guesses between two neighbours (Kairouz, Oh, Viswanath 2015, section 3)."""
    return 0.5 if promise is None else most_right([promise])


def told_apart(out: Floats, into: Floats) -> tuple[Count, Count]:
    """Hits and alarms of the fits with even numbers, beyond the cut that is right most often of those with odd ones."""
    tried = np.unique(np.concatenate([out[1::2], into[1::2]]))
    cuts = np.concatenate([[tried[0] - 1.0], (tried[1:] + tried[:-1]) / 2])
    right = [int((into[1::2] > c).sum() + (out[1::2] <= c).sum()) for c in cuts]
    cut = float(cuts[int(np.argmax(right))])
    return above(into[::2], cut), above(out[::2], cut)
