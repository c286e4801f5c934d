"""Who was in the table? Attacks that take a synthetic table and tell training rows from held-out rows.

Threat model, no-box: the attacker has the synthetic table, the public schema, reference rows of the same source that no
fit has seen, and the rows he asks about; he knows neither the generator nor how it was fitted. Of half of the rows
asked about he knows whether they were in train: they set his thresholds and the weights of the ensemble. He wants to
know it of the other half, on which alone he is measured. `_membership_scores` has the attacks and their sources.

Targets are random rows, and the tenths of them that have the rarest values or lie farthest from their neighbours
(Achilles' heels, Meeus et al. 2023). Of each, the best attack is reported, and its interval holds for all attacks at
once (Bonferroni): an attack that was lucky among eight shows nothing.

Rows that occur more than once in train and holdout together are left out on both sides. A held-out copy of a training
row is no outsider; and leaving out these alone would keep common rows on one side only, so that a table made without
looking at train would seem to know it. Among rows that occur once, who is in train is chance, as in a random split.

Privacy: reads real rows outside any budget; findings are INTERNAL. The rows of one release are attacked together: rates
describe this release and bound no epsilon, which takes many fits. A release on which these attacks fail may fall to
others, to those that know the generator first of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tabveil.audit._membership_scores import Floats, Material, Rows, Table, scores
from tabveil.audit.base import ALPHA, AuditInput, Auditor, lacking
from tabveil.audit.rates import Count, beyond, finding, pairs, threshold_at
from tabveil.records import Finding

TARGETS = 2_000
"""No more rows than this are attacked on each side."""

FEWEST = 20
"""Fewer rows than this on a side say nothing; held-out rows make two sides, outsiders and reference."""

EXPOSED = 0.1
"""Share of the rows that are attacked again as outliers and as Achilles' heels."""

SYNTHETIC_ROWS = 20_000
"""Distances are taken to no more different synthetic rows than this, and to those that equal an asked row."""

REFERENCE_ROWS = 5_000
"""No more held-out rows than this serve as reference."""

CELLS = 4_000_000_000
"""Most cells compared: tables with many columns are compared with fewer synthetic rows."""

FALSE_ALARMS = (0.01, 0.001)
"""Shares of outsiders that may be taken for training rows; the second only for random targets, the others are few."""

_WHAT = "Membership"

_WHOM = {
    "random": "random rows",
    "outliers": "the rows with the rarest values",
    "achilles": "the rows farthest from their neighbours",
}


class Membership(Auditor):
    """Training rows told from held-out rows by the best of eight attacks."""

    def why_not(self, data: AuditInput) -> str:
        """There must be rows in all three tables, and enough of them that occur once."""
        reason = lacking(data, roles=("holdout", "train", "synthetic"), what=_WHAT)
        if reason or len(_targets(data).members) >= FEWEST:
            return reason
        few = f"{FEWEST} training and {2 * FEWEST} held-out rows that occur only once"
        return f"{_WHAT} was not measured: it takes {few}."

    def compute(self, data: AuditInput) -> list[Finding]:
        """For each kind of targets the area under the ROC curve and the rate of recognised rows, by the best attack."""
        return [] if self.why_not(data) else _findings(measure(data))


@dataclass(frozen=True, eq=False, repr=False)
class _Targets:
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


@dataclass(frozen=True)
class Outcome:
    """What one attack got on the half that it had not chosen its thresholds on.

    Attributes:
      pairs: pairs of one member and one outsider in which the member scores higher, ties counted every other time: the
        area under the ROC curve. Each row is in one pair, so that pairs are independent.
      recognised: members above the threshold, for each of FALSE_ALARMS.
      alarms: outsiders above it, likewise.
    """

    pairs: Count
    recognised: tuple[Count, ...]
    alarms: tuple[Count, ...]


Outcomes = dict[str, dict[str, Outcome]]
"""By kind of targets ("random", "outliers", "achilles"), then by attack."""


@dataclass(frozen=True, eq=False)
class Measured:
    """All attacks on all targets.

    Attributes:
      attack: on training rows.
      control: on held-out rows that pose as training rows.
      about: the threat model, seed and cost, as sentences.
    """

    attack: Outcomes
    control: Outcomes
    about: str


def measure(data: AuditInput) -> Measured:
    """Every attack's outcome, not only the best one's: for tables that compare attacks.

    Raises:
      ValueError: there are too few rows (`Membership().why_not(data)` says so first).

    Privacy: counts of real rows outside any budget; INTERNAL.
    """
    targets = _targets(data)
    material = _material(data, targets)
    found, exposure = scores(material)
    n, half = len(targets.members), min(TARGETS, len(targets.outsiders) // 2)
    outside = np.arange(n, n + len(targets.outsiders))
    return Measured(
        attack=contest(found, exposure, members=np.arange(n), outsiders=outside[:n]),
        control=contest(found, exposure, members=outside[half : 2 * half], outsiders=outside[:half]),
        about=_about(data, targets, material),
    )


# -------------------------------------------------------------------------------------------------------------- targets


def _targets(data: AuditInput) -> _Targets:
    train, holdout = data.groups["train"], data.groups["holdout"]
    times = np.bincount(np.concatenate([train, holdout]))
    once = {"train": np.flatnonzero(times[train] == 1), "holdout": np.flatnonzero(times[holdout] == 1)}
    members, fresh = (data.shuffled(role, rows, purpose="targets") for role, rows in once.items())
    outsiders, known = fresh[: len(fresh) // 2][: 2 * TARGETS], fresh[len(fresh) // 2 :]
    # Nobody asks about rows that repeat, so the attacker may know them; without them common rows would look leaked.
    known = np.concatenate([known, np.flatnonzero(times[holdout] > 1)])
    tried = min(TARGETS, len(members), len(outsiders))
    return _Targets(
        members=members[:tried],
        outsiders=outsiders,
        reference=data.shuffled("holdout", known, purpose="reference")[:REFERENCE_ROWS],
        copies=Count(int(np.isin(holdout, train).sum()), len(holdout)),
    )


def _material(data: AuditInput, targets: _Targets) -> Material:
    real = zip(data.codes["train"], data.codes["holdout"], strict=True)
    asked = tuple(np.concatenate([inside[targets.members], outside[targets.outsiders]]) for inside, outside in real)
    group = np.concatenate([data.groups["train"][targets.members], data.groups["holdout"][targets.outsiders]])
    kept, times = _different(data, group)
    entropy = None if data.random_state is None else [int(data.random_state), 1]
    return Material(
        columns=data.schema.learned,
        synthetic=_rows(data.codes["synthetic"], kept),
        times=times,
        reference=_rows(data.codes["holdout"], targets.reference),
        asked=asked,
        seed=int(np.random.SeedSequence(entropy).generate_state(1)[0]),
    )


def _rows(table: Table, rows: Rows) -> Table:
    return tuple(column[rows] for column in table)


def _different(data: AuditInput, asked: Rows) -> tuple[Rows, Rows]:
    """Positions of different synthetic rows, a random part where they are many, and how often each occurs.

    Those that equal an asked row are all there, so that no copy is missed; that holds for outsiders as for members.
    """
    made = data.groups["synthetic"]
    group, first, times = np.unique(made, return_index=True, return_counts=True)
    order = data.shuffled("synthetic", first, purpose="synthetic")
    most = min(SYNTHETIC_ROWS, max(1, CELLS // (len(asked) * len(data.schema.learned))))
    kept = order[(np.arange(len(order)) < most) | np.isin(made[order], asked)]
    return kept, times[np.searchsorted(group, made[kept])]


# -------------------------------------------------------------------------------------------------------------- contest


def contest(found: Mapping[str, Floats], exposure: Mapping[str, Floats], *, members: Rows, outsiders: Rows) -> Outcomes:
    """Every attack, and their ensemble, on every kind of targets.

    Args:
      found: each attack's score of each row, shape (rows,).
      exposure: how exposed each row is, by kind, shape (rows,).
      members: positions of rows that are (or pose as) training rows, shape (n,), n >= 2, in random order.
      outsiders: positions of as many others, in random order.

    Every other row of a side chooses thresholds and weights, the rest measure.
    """
    sides = (members, outsiders)
    everything = {**found, "ensemble": _ensemble(found, members=members[1::2], outsiders=outsiders[1::2])}
    outcomes = {}
    for whom in _WHOM:
        cut = _cut(exposure[whom][np.concatenate(sides)]) if whom in exposure else -np.inf
        of = exposure.get(whom, np.zeros(0))
        chosen = [[part[of[part] >= cut] if whom in exposure else part for part in (s[1::2], s[::2])] for s in sides]
        outcomes[whom] = {
            name: attacked(*([score[part] for part in side] for side in chosen)) for name, score in everything.items()
        }
    return outcomes


def _cut(exposure: Floats) -> float:
    """The exposure from which a row belongs to the exposed: one cut for both sides, whatever side a row is on."""
    exposed = min(len(exposure), max(4 * FEWEST, round(EXPOSED * len(exposure))))
    return float(np.sort(exposure)[-exposed])


def _ensemble(found: Mapping[str, Floats], *, members: Rows, outsiders: Rows) -> Floats:
    """All scores in one: a logistic regression on their ranks among the rows whose side is known, shape (rows,)."""
    from sklearn.linear_model import LogisticRegression

    known = np.concatenate([members, outsiders])
    ranks = np.column_stack([_ranks(score, score[known]) for score in found.values()])
    model = LogisticRegression().fit(ranks[known], np.repeat([1, 0], [len(members), len(outsiders)]))
    odds: Floats = model.decision_function(ranks)
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
        recognised=tuple(_above(members[1], t) for t in thresholds),
        alarms=tuple(_above(outsiders[1], t) for t in thresholds),
    )


def _above(score: Floats, threshold: float) -> Count:
    return Count(int((score >= threshold).sum()), len(score))


# ------------------------------------------------------------------------------------------------------------- findings


@dataclass(frozen=True)
class _Question:
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
        if self.alarms is None:
            return f"training rows told from others (area under the ROC curve): {_WHOM[self.whom]}"
        rate = f"{FALSE_ALARMS[self.alarms]:.1%}".replace(".0%", "%")
        return f"training rows recognised at {rate} false alarms (true positive rate): {_WHOM[self.whom]}"


QUESTIONS = tuple(_Question(w, a) for w in _WHOM for a in (None, 0, 1) if a != 1 or w == "random")
"""One finding each; they share ALPHA evenly."""

CONFIDENCE = 1 - ALPHA / len(QUESTIONS)
"""Of each finding, for all attacks together."""


def _findings(measured: Measured) -> list[Finding]:
    return [_best(measured, question) for question in QUESTIONS]


def per_attack(measured: Measured, question: _Question) -> dict[str, Finding]:
    """Each attack's answer to one of QUESTIONS, with an interval that holds for all attacks at once."""
    outcomes, control = measured.attack[question.whom], measured.control[question.whom]
    found = {}
    for attack, outcome in outcomes.items():
        got, guessing = question.counts(outcome)
        found[attack] = finding(
            auditor=Membership.plugin_name(),
            name=question.name,
            attack=got,
            baseline=guessing,
            control=question.counts(control[attack])[0],
            confidence=1 - (1 - CONFIDENCE) / len(outcomes),
            verdict="",
        )
    return found


def _best(measured: Measured, question: _Question) -> Finding:
    answers = per_attack(measured, question)
    attack = max(answers, key=lambda name: answers[name].interval[0] - answers[name].baseline)
    best = replace(answers[attack], confidence=CONFIDENCE)
    tries = question.counts(measured.attack[question.whom][attack])[0].tries
    alone = f"distance to the closest row alone got {answers['nearest'].value:.3f}"
    how = f"best of {len(answers)} attacks: {attack}; {alone}"
    said = "are told from held-out rows" if beyond(best) else "were not told from held-out rows beyond chance"
    whom = f"{_WHOM[question.whom]}, {tries:,} tries"
    return replace(best, verdict=f"Training rows {said} ({whom}; {how}): {_meaning(best)}. {measured.about}")


def _meaning(best: Finding) -> str:
    if beyond(best):
        return "people in the table are exposed"
    shown = f"had every try worked, {best.ceiling:.3f} beside {best.baseline:.3f} would have shown"
    return f"these attacks failed, a stronger one may not; {shown}"


def _about(data: AuditInput, targets: _Targets, material: Material) -> str:
    state = "not fixed" if data.random_state is None else str(data.random_state)
    known, copies = 2 * (len(targets.members) // 2), targets.copies
    return (
        f"The attacker has the synthetic table, the schema, {len(targets.reference):,} reference rows and rows to ask "
        f"about, and knows of {known:,} other rows whether they were in train; he wants to know who was. "
        f"Random state {state}; cost: {material.row_pairs:,} pairs of rows and one classifier, no further fit. "
        "A rate over the rows of one release describes that release and is no bound on epsilon; "
        f"{copies.hits:,} of {copies.tries:,} held-out rows copy a training row and were left out, as all that repeat."
    )
