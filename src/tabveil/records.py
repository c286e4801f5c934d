"""Frozen results that cross stages, each JSON both ways.

Privacy: a record holds numbers and schema names, never rows. A record whose numbers were computed from real rows
without being charged says `internal=True`, and the release edition of a report drops it.
"""

from __future__ import annotations

import dataclasses
import decimal
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

_ASIDE = re.compile(r" \((?!epsilon)[^()]*\)")

RELATION = "add_or_remove_one"
"""The one neighbouring relation of the SDK: tables differ by adding or removing one unit (Dwork & Roth 2014, 2.3)."""


def _plain(value: Any) -> Any:
    """JSON has no infinity and no tuple: say "inf" and lists instead."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _back(value: Any, annotation: str) -> Any:
    if isinstance(value, str) and value in {"inf", "-inf", "nan"} and "float" in annotation:
        return float(value)
    if isinstance(value, list) and annotation.startswith("tuple"):
        return tuple(_back(v, annotation.removeprefix("tuple[").removesuffix("]")) for v in value)
    if isinstance(value, dict) and "float" in annotation:
        return {k: _back(v, "float") for k, v in value.items()}
    return value


@dataclass(frozen=True)
class Record:
    """Base of every record: a flat frozen dataclass of JSON values, tuples and mappings."""

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values; infinities become the strings "inf" and "-inf"."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def to_json(self) -> str:
        """`to_dict` as one canonical line of JSON (sorted keys)."""
        return json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` gave; raises TypeError on unknown or missing fields."""
        kinds = {f.name: str(f.type) for f in dataclasses.fields(cls)}
        return cls(**{k: _back(v, kinds.get(k, "")) for k, v in data.items()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild what `to_json` gave."""
        return cls.from_dict(json.loads(text))


def rounded_up(value: float, digits: int = 6) -> str:
    """`value` in at most `digits` significant digits, never less than it is: a bound may only grow when shown."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exact = decimal.Decimal(value)
    shown = decimal.Context(prec=digits, rounding=decimal.ROUND_CEILING).plus(exact)
    return f"{shown.normalize():g}"


def most_recognised(epsilon: float, delta: float, false_alarms: float) -> float:
    """The largest share of members any attack can recognise under (epsilon, delta)-DP, at such a share of false alarms.

    It is 1 - f(false_alarms) for the trade-off function f of (epsilon, delta) (Wasserman and Zhou 2010; Kairouz, Oh,
    Viswanath 2015, Theorem 2.1; Dong, Roth and Su 2022, Proposition 3). What is surely more contradicts the claim.

    Args:
      epsilon: from 0 up; infinite gives 1.
      delta: from 0 to 1.
      false_alarms: 0 to 1.
    """
    if math.isinf(epsilon):
        return 1.0
    other = 1 - math.exp(-epsilon) * (1 - delta - false_alarms)
    return min(1.0, math.exp(min(epsilon, 700.0)) * false_alarms + delta, max(other, false_alarms))


def without_asides(name: str) -> str:
    """A finding's name without what it says in brackets, but for epsilons, and for names of columns, in quotes."""
    parts = name.split("'")
    return "'".join(part if at % 2 else _ASIDE.sub("", part) for at, part in enumerate(parts))


def readable(value: float) -> str:
    """`value` in three significant digits or more, without an exponent where it is neither huge nor tiny."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e12 else f"{value:.3g}"


@dataclass(frozen=True)
class PrivacyStatement(Record):
    """What is promised about one release or one account, in terms an outsider can recompute.

    Attributes:
      epsilon: privacy loss bound at `delta`, for one `unit` under `relation`; inf means not private.
      delta: probability bound in [0, 1).
      unit: "row", or "NAME of COLUMN, at most K rows" where the schema names a privacy unit.
      relation: always RELATION.
      events: the charged events as `accounting.event_to_dict` writes them, each with its "label".
      accountant: which accountant and conversion gave `epsilon`.
      theorem: the composition theorem the claim rests on.
      dataset: the ledger account, None where no ledger was used.
      outside: sentences naming what the guarantee does not cover.
      release: False where noise was seeded for a test: then the statement says NOT A RELEASE.
    """

    epsilon: float
    delta: float
    unit: str
    relation: str
    events: tuple[dict[str, Any], ...]
    accountant: str
    theorem: str
    dataset: str | None = None
    outside: tuple[str, ...] = ()
    release: bool = True

    @property
    def private(self) -> bool:
        """Whether anything is promised at all."""
        return math.isfinite(self.epsilon) and self.release

    @property
    def stamp(self) -> str:
        """The words to stamp on everything that comes out; empty for a private release."""
        if not self.release:
            return "NOT A RELEASE"
        return "" if math.isfinite(self.epsilon) else "NOT PRIVATE"

    def sentence(self) -> str:
        """The promise in one sentence."""
        if self.stamp:
            return f"{self.stamp}: no privacy is promised for this table."
        return (
            f"Adding or removing one {self.unit} changes the probability of any outcome by at most a factor "
            f"exp({rounded_up(self.epsilon)}), up to a probability of {rounded_up(self.delta)}."
        )


@dataclass(frozen=True)
class Score(Record):
    """One utility number of a synthetic table, beside the numbers that give it meaning.

    Attributes:
      metric: plugin name, e.g. "marginals".
      name: what was measured, e.g. "3-way total variation distance to train".
      value: the synthetic table's number.
      goal: whether higher ("max") or lower ("min") is better.
      low, high: the range `value` can take.
      references: the same number for "holdout", "independent", "bootstrap", "real" where they make sense.
      details: further plain numbers (per column, per subgroup).
      internal: True where real rows were read: not covered by epsilon.
    """

    metric: str
    name: str
    value: float
    goal: Literal["min", "max"]
    low: float
    high: float
    references: dict[str, float] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)
    internal: bool = True


@dataclass(frozen=True)
class Finding(Record):
    """One attack's outcome, beside its baseline, control, interval and ceiling.

    Attributes:
      auditor: plugin name, e.g. "copies".
      name: what was attempted.
      value: the attack's success rate or risk.
      interval: confidence interval of `value` at `confidence`.
      baseline: what guessing gets, or what is claimed: `baseline_of` says which. An interval that starts above it shows
        a leak, or contradicts the claim.
      control: what the attack gets on people who were not in the table.
      ceiling: the largest value this sample size could have shown.
      verdict: one plain sentence, without the word "safe".
      threat_model: who knows what, and wants what, in a sentence.
      targets: whom the attack is about, and how many.
      seed: the `random_state` that repeats it; None where it was not fixed.
      cost: what it took, in numbers that repeat: rows compared, fits; not in seconds.
      baseline_of: "guessing" where the baseline is what guessing gets, "claim" where it is what is promised or charged.
      false_alarms, recognised: the ROC curve's points, where the attack has one: shares of outsiders and of members
        above a falling threshold, each from 0 to 1 and never falling. A picture: the interval is `interval`.
    """

    auditor: str
    name: str
    value: float
    interval: tuple[float, ...]
    confidence: float
    baseline: float
    control: float
    ceiling: float
    verdict: str
    internal: bool = True
    threat_model: str = ""
    targets: str = ""
    seed: int | None = None
    cost: str = ""
    baseline_of: Literal["guessing", "claim"] = "guessing"
    false_alarms: tuple[float, ...] = ()
    recognised: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measurement(Record):
    """One number counted from tables, without an attack, a baseline or an interval: the tables are all there is.

    Attributes:
      auditor: plugin name, e.g. "anonymity".
      name: what was counted, e.g. "k-anonymity".
      table: of which table, or of which against which: "real", "synthetic", "synthetic against real", ...
      columns: the columns that an attacker is taken to know.
      sensitive: the column he wants to learn; "" where there is none.
      value: the number; may be infinite.
      goal: whether higher ("max") or lower ("min") protects more.
      definition: what the number is, in a sentence.
      source: who defined it, and where.
      details: further plain numbers that go with it.
      notes: sentences on how cells were read: bins, missing cells, rows left out.
    """

    auditor: str
    name: str
    table: str
    columns: tuple[str, ...]
    sensitive: str
    value: float
    goal: Literal["min", "max"]
    definition: str
    source: str
    details: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    internal: bool = True


@dataclass(frozen=True)
class Judgement(Record):
    """What one requirement of a named profile makes of an audit's numbers: never more than about that number.

    Attributes:
      profile: name of the profile, e.g. "cms-11".
      version: of the profile.
      requirement: what the profile asks.
      outcome: whether the number keeps to the threshold; "not answered" where there is no number or it cannot tell.
      auditor: whose number; "" where no auditor has one.
      value: the number that decided; None where there is none.
      threshold: what the profile asks of it; None where the source has no number.
      citation: who asks so and where, and whether in his words.
      sentence: why the outcome is what it is.
      notes: sentences on why this number and this table.
    """

    profile: str
    version: str
    requirement: str
    outcome: Literal["met", "not met", "not answered"]
    auditor: str
    value: float | None
    threshold: float | None
    citation: str
    sentence: str
    notes: tuple[str, ...] = ()
    internal: bool = True


@dataclass(frozen=True)
class MarginalChart(Record):
    """One column's distribution, ready to draw: shares over the same bins for each table, each summing to 1 or less.

    `synthetic` is always there; `real` and `holdout` are empty where real rows may not be shown. `edges` are the bin
    edges of a numeric column (len(synthetic) + 1 numbers), empty for a categorical one. `internal` is True where
    `real` or `holdout` is filled.
    """

    column: str
    kind: str
    labels: tuple[str, ...]
    synthetic: tuple[float, ...]
    real: tuple[float, ...] = ()
    holdout: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()
    internal: bool = True


@dataclass(frozen=True)
class Provenance(Record):
    """How a result came to be: versions, platform, settings, seconds; never a path or a value from the table."""

    tabveil: str
    python: str
    packages: dict[str, str]
    generator: str
    options: dict[str, Any]
    seconds: dict[str, float]
    created: str
    rows: int
