"""The game that membership auditors play: whom they ask about, how an attack's scores are judged, what a finding says.

Targets are random rows, and the tenths of them that have the rarest values or lie farthest from their neighbours
(Achilles' heels, Meeus et al. 2023). Of half of the rows asked about the attacker knows the side: they set his
thresholds and weights, and the other half alone is measured. Of each kind of targets the best attack is reported, and
its interval holds for all attacks at once (Bonferroni): an attack that was lucky among eight shows nothing.

Rows that occur more than once in train and holdout together are left out on both sides. A held-out copy of a training
row is no outsider; and leaving out these alone would keep common rows on one side only, so that a table made without
looking at train would seem to know it. Among rows that occur once, who is in train is chance, as in a random split.

Privacy: reads real rows outside any budget; findings are INTERNAL. The rows of one release are attacked together: rates
describe this release and bound no epsilon, which takes many fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tabveil.audit._membership_scores import Floats, Rows, Table
from tabveil.audit.base import ALPHA, AuditInput, lacking
from tabveil.audit.rates import Count, beyond, finding, pairs, roc, threshold_at
from tabveil.records import Finding

TARGETS = 2_000
"""No more rows than this are attacked on each side."""

FEWEST = 20
"""Fewer rows than this on a side say nothing; held-out rows make two sides, outsiders and reference."""

EXPOSED = 0.1
"""Share of the rows that are attacked again as outliers and as Achilles' heels."""

REFERENCE_ROWS = 5_000
"""No more held-out rows than this serve as reference."""

FALSE_ALARMS = (0.01, 0.001)
"""Shares of outsiders that may be taken for training rows; the second only for random targets, the others are few."""

POINTS = 100
"""Most points of a ROC curve."""

SHRINKAGE = 0.1
"""Strength of the data against a ridge penalty where many weights are fitted to few rows (measured: docs/audit.md)."""

NO_BOUND = "A rate over the rows of one release describes that release and is no bound on epsilon."

_WHOM = {
    "random": "random rows",
    "outliers": "the rows with the rarest values",
    "achilles": "the rows farthest from their neighbours",
}


# -------------------------------------------------------------------------------------------------------------- targets


@dataclass(frozen=True, eq=False, repr=False)
class Targets:
    """Positions of the rows under attack, of those the attacker knows, and how many were left out.

    Attributes:
      members: in train, shape (n,), in random order.
      outsiders: in holdout, shape (n to 2 * TARGETS,), in random order; the attack takes the first n.
      reference: in holdout, shape (r,), in random order; those that occur more than once included.
      copies: held-out rows that copy a training row, out of all held-out rows.
    """

    members: Rows
    outsiders: Rows
    reference: Rows
    copies: Count

    @property
    def sides_known(self) -> int:
        """Of how many rows the attacker knows whether they were in train."""
        return 2 * (len(self.members) // 2)

    @property
    def sides(self) -> tuple[Rows, Rows]:
        """Places of members and of outsiders among the asked rows, as many of each."""
        n = len(self.members)
        return np.arange(n), np.arange(n, 2 * n)

    @property
    def posing(self) -> tuple[Rows, Rows]:
        """Places of held-out rows that pose as training rows, and of others: the control."""
        n, half = len(self.members), min(TARGETS, len(self.outsiders) // 2)
        outside = np.arange(n, n + len(self.outsiders))
        return outside[half : 2 * half], outside[:half]

    def asked(self, data: AuditInput) -> Table:
        """Codes of the rows asked about: members, then outsiders."""
        real = zip(data.codes["train"], data.codes["holdout"], strict=True)
        return tuple(np.concatenate([inside[self.members], outside[self.outsiders]]) for inside, outside in real)

    def groups(self, data: AuditInput) -> Rows:
        """Of each asked row the number that its copies in any table share (`AuditInput.groups`)."""
        return np.concatenate([data.groups["train"][self.members], data.groups["holdout"][self.outsiders]])


def targets_of(data: AuditInput) -> Targets:
    """Whom a game about `data` asks about; it has all three tables."""
    train, holdout = data.groups["train"], data.groups["holdout"]
    members, fresh = (data.shuffled(role, data.once[role], purpose="targets") for role in ("train", "holdout"))
    outsiders, known = fresh[: len(fresh) // 2][: 2 * TARGETS], fresh[len(fresh) // 2 :]
    # Nobody asks about rows that repeat, so the attacker may know them; without them common rows would look leaked.
    known = np.concatenate([known, np.setdiff1d(np.arange(len(holdout)), data.once["holdout"])])
    tried = min(TARGETS, len(members), len(outsiders))
    return Targets(
        members=members[:tried],
        outsiders=outsiders,
        reference=data.shuffled("holdout", known, purpose="reference")[:REFERENCE_ROWS],
        copies=Count(int(np.isin(holdout, train).sum()), len(holdout)),
    )


def too_few(data: AuditInput, *, what: str) -> str:
    """A sentence on why `what` cannot be played, "" where it can."""
    reason = lacking(data, roles=("holdout", "train", "synthetic"), what=what)
    if reason or len(targets_of(data).members) >= FEWEST:
        return reason
    few = f"{FEWEST} training and {2 * FEWEST} held-out rows that occur only once"
    return f"{what} was not measured: it takes {few}."


def rows_of(table: Table, rows: Rows) -> Table:
    """Those rows of a table of codes."""
    return tuple(column[rows] for column in table)


# -------------------------------------------------------------------------------------------------------------- contest


@dataclass(frozen=True, eq=False)
class Scores:
    """What attacks think of the asked rows, before anybody's side is known; higher speaks for membership.

    Attributes:
      found: each attack's score, shape (rows,), finite.
      exposure: how exposed each row is, by kind of targets, shape (rows,).
      weighed: attacks that are a weighted sum of many parts, by name: the parts, shape (rows, parts). The weights are
        fitted to the rows whose side is known.
    """

    found: Mapping[str, Floats]
    exposure: Mapping[str, Floats]
    weighed: Mapping[str, Floats]


@dataclass(frozen=True)
class Outcome:
    """What one attack got on the half that it had not chosen its thresholds on.

    Attributes:
      pairs: pairs of one member and one outsider in which the member scores higher, ties counted every other time: the
        area under the ROC curve. Each row is in one pair, so that pairs are independent.
      recognised: members above the threshold, for each of FALSE_ALARMS.
      alarms: outsiders above it, likewise.
      curve: false alarms and recognised members under a falling threshold (`rates.roc`).
    """

    pairs: Count
    recognised: tuple[Count, ...]
    alarms: tuple[Count, ...]
    curve: tuple[tuple[float, ...], tuple[float, ...]]


Outcomes = dict[str, dict[str, Outcome]]
"""By kind of targets ("random", "outliers", "achilles"), then by attack."""


def contest(scores: Scores, *, members: Rows, outsiders: Rows) -> Outcomes:
    """Every attack, and the ensemble of those in `found`, on every kind of targets.

    Args:
      scores: of all rows.
      members: positions of rows that are (or pose as) training rows, shape (n,), n >= 2, in random order.
      outsiders: positions of as many others, in random order.

    Every other row of a side chooses thresholds and weights, the rest measure.
    """
    sides, exposure = (members, outsiders), scores.exposure
    everything = _fitted(scores, members=members[1::2], outsiders=outsiders[1::2])
    outcomes = {}
    for whom in _WHOM:
        cut = exposure_cut(exposure[whom][np.concatenate(sides)]) if whom in exposure else -np.inf
        of = exposure.get(whom, np.zeros(0))
        chosen = [[part[of[part] >= cut] if whom in exposure else part for part in (s[1::2], s[::2])] for s in sides]
        outcomes[whom] = {
            name: attacked(*([score[part] for part in side] for side in chosen)) for name, score in everything.items()
        }
    return outcomes


def exposure_cut(exposure: Floats) -> float:
    """The exposure from which a row belongs to the exposed: one cut for both sides, whatever side a row is on."""
    exposed = min(len(exposure), max(4 * FEWEST, round(EXPOSED * len(exposure))))
    return float(np.sort(exposure)[-exposed])


def _fitted(scores: Scores, *, members: Rows, outsiders: Rows) -> dict[str, Floats]:
    """All scores by attack, those that are fitted to these rows included.

    Weighed scores are no part of the ensemble: on the rows that they were fitted to they look better than they are.
    """
    known = np.concatenate([members, outsiders])
    inside = np.repeat([1, 0], [len(members), len(outsiders)])
    parts = {name: (matrix.T, SHRINKAGE) for name, matrix in scores.weighed.items()}
    parts["ensemble"] = np.array(list(scores.found.values())), 1.0
    return {**scores.found, **{name: _odds(columns, known, inside, by) for name, (columns, by) in parts.items()}}


def _odds(columns: Floats, known: Rows, inside: Rows, strength: float) -> Floats:
    """A logistic regression on the columns' ranks among the known rows, shape (rows,)."""
    from sklearn.linear_model import LogisticRegression

    ranks = np.column_stack([_ranks(score, score[known]) for score in columns])
    odds: Floats = LogisticRegression(C=strength).fit(ranks[known], inside).decision_function(ranks)
    return odds


def _ranks(score: Floats, known: Floats) -> Floats:
    """The share of known scores below each, less a half; equal ones count as half below."""
    ordered = np.sort(known)
    below, up_to = (np.searchsorted(ordered, score, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(ordered)) - 0.5


def attacked(members: list[Floats], outsiders: list[Floats]) -> Outcome:
    """One attack's outcome; of each side the scores that choose thresholds, then those that are measured on."""
    thresholds = [threshold_at(members[0], outsiders[0], share=share) for share in FALSE_ALARMS]
    return Outcome(
        pairs=pairs(members[1], outsiders[1]),
        recognised=tuple(_reached(members[1], t) for t in thresholds),
        alarms=tuple(_reached(outsiders[1], t) for t in thresholds),
        curve=roc(members[1], outsiders[1], points=POINTS),
    )


def _reached(score: Floats, threshold: float) -> Count:
    return Count(int((score >= threshold).sum()), len(score))


# ------------------------------------------------------------------------------------------------------------- findings


@dataclass(frozen=True)
class Question:
    """What a finding answers: about whom, and at which of FALSE_ALARMS (None: the area under the ROC curve)."""

    whom: str
    alarms: int | None

    def counts(self, outcome: Outcome) -> tuple[Count, float | Count]:
        """What the attack got, and what guessing gets."""
        if self.alarms is None:
            return outcome.pairs, 0.5
        return outcome.recognised[self.alarms], outcome.alarms[self.alarms]

    @property
    def name(self) -> str:
        """What a finding calls it."""
        if self.alarms is None:
            return f"training rows told from others (area under the ROC curve): {_WHOM[self.whom]}"
        rate = f"{FALSE_ALARMS[self.alarms]:.1%}".replace(".0%", "%")
        return f"training rows recognised at {rate} false alarms (true positive rate): {_WHOM[self.whom]}"


QUESTIONS = tuple(Question(w, a) for w in _WHOM for a in (None, 0, 1) if a != 1 or w == "random")
"""One finding each; they share ALPHA evenly."""

CONFIDENCE = 1 - ALPHA / len(QUESTIONS)
"""Of each finding, for all attacks together."""


@dataclass(frozen=True)
class Told:
    """What an auditor says beside its numbers.

    Attributes:
      auditor: plugin name.
      beside: one attack, and what to call it: every verdict gives its value too.
      threat_model, cost, seed: as in `Finding`.
    """

    auditor: str
    beside: tuple[str, str]
    threat_model: str
    cost: str
    seed: int | None


@dataclass(frozen=True, eq=False)
class Measured:
    """All attacks on all targets.

    Attributes:
      attack: on training rows.
      control: on held-out rows that pose as training rows.
      copies: held-out rows that copy a training row, out of all; they were left out.
      told: what is said beside.
    """

    attack: Outcomes
    control: Outcomes
    copies: Count
    told: Told


def played(scores: Scores, targets: Targets, told: Told) -> Measured:
    """The game: the attack, and the same on held-out rows alone."""
    (members, outsiders), (posing, others) = targets.sides, targets.posing
    return Measured(
        attack=contest(scores, members=members, outsiders=outsiders),
        control=contest(scores, members=posing, outsiders=others),
        copies=targets.copies,
        told=told,
    )


def findings(measured: Measured) -> list[Finding]:
    """One finding for each of QUESTIONS, of the attack that does best."""
    return [_best(measured, question) for question in QUESTIONS]


def per_attack(measured: Measured, question: Question) -> dict[str, Finding]:
    """Each attack's answer to one of QUESTIONS, with an interval that holds for all attacks at once."""
    outcomes, control = measured.attack[question.whom], measured.control[question.whom]
    return {
        attack: _answer(question, (outcome, control[attack]), measured, attacks=len(outcomes))
        for attack, outcome in outcomes.items()
    }


def _answer(question: Question, outcomes: tuple[Outcome, Outcome], measured: Measured, *, attacks: int) -> Finding:
    outcome, control = outcomes
    got, guessing = question.counts(outcome)
    alarms, recognised = outcome.curve if question.alarms is None else ((), ())
    return finding(
        auditor=measured.told.auditor,
        name=question.name,
        attack=got,
        baseline=guessing,
        control=question.counts(control)[0],
        confidence=1 - (1 - CONFIDENCE) / attacks,
        verdict="",
        threat_model=measured.told.threat_model,
        targets=_targets_said(question, outcome, measured.copies),
        seed=measured.told.seed,
        cost=measured.told.cost,
        false_alarms=alarms,
        recognised=recognised,
    )


def _targets_said(question: Question, outcome: Outcome, copies: Count) -> str:
    inside, outside = outcome.recognised[0].tries, outcome.alarms[0].tries
    return (
        f"{_WHOM[question.whom]}: {inside:,} training and {outside:,} held-out rows; {copies.hits:,} of "
        f"{copies.tries:,} held-out rows copy a training row and were left out, as all that repeat"
    )


def _best(measured: Measured, question: Question) -> Finding:
    answers = per_attack(measured, question)
    attack = max(answers, key=lambda name: answers[name].interval[0] - answers[name].baseline)
    best = replace(answers[attack], confidence=CONFIDENCE)
    name, called = measured.told.beside
    how = f"best of {len(answers)} attacks: {attack}; {called} alone got {answers[name].value:.3f}"
    if beyond(best):
        return replace(best, verdict=f"Training rows are told from held-out rows ({how}): people are exposed.")
    shown = f"had every try worked, {best.ceiling:.3f} beside {best.baseline:.3f} would have shown"
    failed = "Training rows were not told from held-out rows beyond chance"
    return replace(best, verdict=f"{failed} ({how}): these attacks failed, a stronger one may not; {shown}.")
