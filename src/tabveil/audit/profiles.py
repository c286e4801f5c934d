"""What do named thresholds make of an audit? Each requirement is met, not met, or not answered.

    from tabveil.audit import audit, measure
    from tabveil.audit.profiles import judge, load, names

    found = audit(synthetic, train=train, holdout=holdout, schema=schema)
    counted = measure(synthetic, train=train, schema=schema)
    for j in judge(load("ema-hc-0.09"), findings=found, measurements=counted):
        print(j.outcome, j.requirement, j.value, j.threshold, j.citation, j.sentence)

A **measured** requirement compares the worst of all matching measurements with its threshold. An **attacked** one
draws a line above guessing: baseline + limit x (1 - baseline), `limit` being the share of what guessing leaves open
(Anonymeter's risk, (attack - control) / (1 - control), Giomi et al. 2023, with the finding's baseline as control).
Findings beside a claim, and numbers that are no shares (bounds on epsilon), are not judged. Then

- not met: the finding's interval starts above the line;
- met: the interval ends at or below the line, and the ceiling is above it: had every try worked, it would have shown;
- not answered: everything else. An attack that failed on too few tries answers nothing.

"Met" is about one number of one attack or count. It says neither that a table keeps anybody's secret nor that a law is
obeyed, and there is no overall outcome.

Privacy: judges INTERNAL numbers, so every judgement is INTERNAL: it must not leave with a release. Reads no table.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from tabveil._schema_text import did_you_mean, read_text
from tabveil.audit import registry
from tabveil.audit._profile_files import Citation, Profile, Requirement, parse
from tabveil.audit.base import Auditor
from tabveil.audit.rates import beyond
from tabveil.errors import SchemaError, UsageError
from tabveil.records import Finding, Judgement, Measurement, readable

__all__ = ["Citation", "Profile", "Requirement", "judge", "line", "load", "names"]

_ENDINGS = (".yaml", ".yml")


def names() -> list[str]:
    """Names of the profiles that come with tabveil, in alphabetical order."""
    return sorted(p.name.removesuffix(".yaml") for p in _folder().iterdir() if p.name.endswith(".yaml"))


def load(profile: str | Path) -> Profile:
    """A profile by name, or one of your own by its file's path.

    Args:
      profile: one of `names()`, or the path of a file (a Path, or a text that ends in .yaml or .yml).

    Raises:
      UsageError: there is no such profile or file, the file is no profile, or bears the name of one that comes with
        tabveil; one sentence says what is wrong.
    """
    if isinstance(profile, Path) or profile.endswith(_ENDINGS):
        own = parse(_own_text(profile), file=Path(profile).name)
        if own.name in names():
            raise UsageError(f"The name {own.name!r} belongs to a profile that comes with tabveil: choose another.")
        return own
    if profile not in names():
        hint = did_you_mean(profile, names()) or f": choose one of {', '.join(names())}, or give a .yaml file."
        raise UsageError(f"There is no profile {profile!r}{hint}")
    file = f"{profile}.yaml"
    return parse((_folder() / file).read_text(encoding="utf-8"), file=file)


def judge(
    profile: Profile, *, findings: Sequence[Finding] = (), measurements: Sequence[Measurement] = ()
) -> tuple[Judgement, ...]:
    """What a profile makes of an audit: one judgement for each requirement, in the profile's order.

    Args:
      profile: as `load` gives it.
      findings: of `tabveil.audit.audit`.
      measurements: of `tabveil.audit.measure`.

    Source: the rule for findings is in the module's text; thresholds and their sources are in the profile.
    """
    return tuple(_judged(profile, r, findings, measurements) for r in profile.requirements)


def _folder() -> Traversable:
    return importlib.resources.files("tabveil") / "data" / "profiles"


def _own_text(path: str | Path) -> str:
    try:
        return read_text(path, what="profile")
    except SchemaError as error:
        raise UsageError(str(error)) from None


@dataclass(frozen=True)
class _Answer:
    """An outcome, and the numbers and the sentence that go with it."""

    outcome: Literal["met", "not met", "not answered"]
    sentence: str
    value: float | None = None
    threshold: float | None = None


def _judged(
    profile: Profile, asked: Requirement, findings: Sequence[Finding], measurements: Sequence[Measurement]
) -> Judgement:
    if asked.kind == "measured":
        answer = _of_counts(asked, [m for m in measurements if _is_measure(m, asked)])
    elif asked.kind == "attacked":
        answer = _of_attacks(asked, [f for f in findings if f.auditor == asked.auditor and asked.finding in f.name])
    else:
        answer = _Answer("not answered", "No number of an audit answers this; a person has to.")
    return Judgement(
        profile=profile.name,
        version=profile.version,
        requirement=asked.name,
        outcome=answer.outcome,
        auditor=asked.auditor,
        value=answer.value,
        threshold=answer.threshold,
        citation=str(asked.citation),
        sentence=answer.sentence,
        notes=(asked.why,),
    )


def _absent(asked: Requirement, what: str, *, threshold: float | None) -> _Answer:
    auditor: type[Auditor] = registry.get(asked.auditor)
    needs = auditor.takes or "what that auditor asks for"
    if "population" in asked.table:
        needs += " and a `population`"
    where = f"There is no {what} here: run the auditor {asked.auditor!r}, which needs {needs}."
    return _Answer("not answered", where, threshold=threshold)


# -------------------------------------------------------------------------------------------------------------- counts


def _is_measure(counted: Measurement, asked: Requirement) -> bool:
    named = (counted.auditor, counted.name, counted.table)
    return named == (asked.auditor, asked.measure, asked.table)


def _of_counts(asked: Requirement, counted: Sequence[Measurement]) -> _Answer:
    """The worst of all matching measurements decides; one that is no number leaves it open."""
    least = asked.at_least is not None
    threshold = asked.at_least if asked.at_least is not None else asked.at_most
    if not counted or threshold is None:
        return _absent(asked, f"measurement {asked.measure!r} of {asked.table}", threshold=threshold)
    values = [_number(m, asked) for m in counted]
    if any(math.isnan(v) for v in values):
        return _Answer("not answered", f"A {asked.measure} of {asked.table} is no number.", threshold=threshold)
    value = min(values) if least else max(values)
    worst = counted[values.index(value)]
    met = value >= threshold if least else value <= threshold
    shown = f"{worst.name} of {worst.table} over {', '.join(worst.columns)} is {readable(worst.value)}"
    inverse = "" if asked.number == "value" else f", and one over it {readable(value)}"
    side = "at least" if least else "at most"
    sentence = f"{shown}{inverse}; asked is {side} {threshold:g}.{_left_out(worst)}"
    return _Answer("met" if met else "not met", sentence, value, threshold)


def _number(counted: Measurement, asked: Requirement) -> float:
    if asked.number == "value":
        return counted.value
    return 1 / counted.value if counted.value else math.inf


def _left_out(counted: Measurement) -> str:
    """A sentence on what the number is not about."""
    rows = sum(v for k, v in counted.details.items() if k.startswith("left_out_"))
    said = f" {rows:,.0f} rows with missing cells were left out of it." if rows else ""
    if math.isinf(counted.value):
        said += " It is infinite where there is nothing to count."
    return said


# ------------------------------------------------------------------------------------------------------------- attacks


def _is_share(found: Finding) -> bool:
    """Whether a finding is a share beside what guessing gets: bounds on epsilon and what stands beside a claim leave
    open no share that a limit could be taken of.
    """
    return found.baseline_of == "guessing" and all(0 <= n <= 1 for n in (*found.interval, found.baseline))


def _of_attacks(asked: Requirement, found: Sequence[Finding]) -> _Answer:
    """The worst of all matching shares decides: one that is not met, else one that is open, else the largest."""
    if not found:
        what = f"finding that speaks of {asked.finding!r}" if asked.finding else "finding"
        return _absent(asked, what, threshold=None)
    shares = [f for f in found if _is_share(f)]
    if not shares:
        said = f"What the auditor {asked.auditor!r} found is beside a claim, or no share: guessing leaves nothing open."
        return _Answer("not answered", said)
    ranks = {"not met": 0, "not answered": 1, "met": 2}
    largest_first = sorted(shares, key=lambda f: line(f, limit=asked.limit) - f.value)
    return min((_of_attack(asked, f) for f in largest_first), key=lambda a: ranks[a.outcome])


def line(found: Finding, *, limit: float) -> float:
    """What an attack may get: its baseline, and `limit` (0 to 1) of what the baseline leaves open.

    Source: the risk of Anonymeter (Giomi et al. 2023), solved for the attack; the finding's baseline is the control.
    """
    return found.baseline + limit * (1 - found.baseline)


def _of_attack(asked: Requirement, found: Finding) -> _Answer:
    allowed = line(found, limit=asked.limit)
    low, high = found.interval
    shown = (
        f"{found.name}: {found.value:.3f} ({low:.3f} to {high:.3f}); guessing gets {found.baseline:.3f}, and the line "
        f"at a limit of {asked.limit:g} is {allowed:.3f}"
    )
    if low > allowed:
        return _Answer("not met", f"{shown}. The interval starts above the line.", found.value, allowed)
    reason = _open(asked, found, allowed)
    if reason:
        return _Answer("not answered", f"{shown}. {reason}", found.value, allowed)
    leak = " The attack did better than guessing, within the limit." if beyond(found) else ""
    sentence = f"{shown}. So many tries could have shown up to {found.ceiling:.3f}, and did not.{leak}"
    return _Answer("met", f"{sentence} It says nothing of stronger attacks.", found.value, allowed)


def _open(asked: Requirement, found: Finding, allowed: float) -> str:
    """Why a finding that does not start above the line answers nothing; "" where it does."""
    if not found.ceiling > allowed:
        return f"With so few tries no more than {found.ceiling:.3f} could have been shown, which is not above the line."
    if not found.interval[1] <= allowed:
        return "The interval ends above the line, or nowhere: more tries are needed."
    if asked.only_against:
        return "This attack can count against a table, never for it."
    return ""
