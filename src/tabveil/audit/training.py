"""Does a training keep the epsilon it is charged for? A white-box audit: the auditor stands where the noise is added.

Canaries are units with a gradient as bad as can be: far longer than the clip, and all of it in one coordinate of their
own (the Dirac gradient of Nasr, Hayes, Steinke, Balle, Tramèr, Jagielski, Carlini, Terzis 2023, "Tight auditing of
differentially private machine learning"). Each is a row of the table that is trained on, drawn by the training's own
coins, clipped by its own clipper and noised by its own noise; as many more have a coordinate but no row. What comes out
in a canary's coordinate is one observation a step, so that one run has as many as steps times canaries.

Two threat models. *Step by step*: the auditor knows which canaries were in each batch (he watches the coins), and what
he sees of a step bounds its noise; that and the coins, composed over all steps by dp-accounting, bound the epsilon of
the run. *Whole run*: he does not know the coins, and tells canaries with a row from those without by all their steps.
Whatever the composition takes for granted (coins as charged, each by itself; noise as charged, fresh each time, in this
run and the next; no more steps than charged) is tested too.

Privacy: reads real rows outside any budget and tells what no training tells: every finding is INTERNAL, and the models
trained here are thrown away. The training itself is not changed: only `Descent` is handed a module with one more layer,
whose gradient is 0 for every row that is no canary. Nothing in `sgd` or `mechanisms` knows of this file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from scipy import stats

from tabveil import accounting
from tabveil._sgd_clipping import Losses
from tabveil._torch import Tensor, nn, torch
from tabveil.accounting import Spend
from tabveil.audit._training_tests import Floats, Ints, Observations, between, coin_tests, noise_tests
from tabveil.audit._white_box import About, against
from tabveil.audit.base import ALPHA
from tabveil.audit.rates import Count, empirical_epsilon, gaussian_mu, interval
from tabveil.columns import Identifier, Integer
from tabveil.encoding import decode, name_rows, size
from tabveil.errors import UsageError
from tabveil.ledger import Ledger
from tabveil.mechanisms import PrivateRows
from tabveil.records import Finding
from tabveil.schema import Schema
from tabveil.sgd import Descent, Schedule
from tabveil.units import ClippedSum

AUDITOR = "training"

_THREAT = "White box: the auditor made the canaries and overhears every noisy sum; which canaries were in a batch?"

MARK = "tabveil canary"
"""Name of the column that says which canary a row is; 0 for none."""

CANARIES = 1_000
"""Canaries with a row, where nobody says; as many more have none."""

LENGTH = 1_000.0
"""How many clips long a canary's gradient is before it is clipped."""

FINDINGS = 6
"""Findings of one audit, among which its chance of error is shared."""

MOST_MU = 3.0
"""A step's separation is shown up to here, or to twice what is charged: beyond, dp-accounting gets slow."""


# ------------------------------------------------------------------------------------------------------------ watching
class _Canaries(nn.Module):
    """A module with one more layer: a canary's loss moves one weight of it and nothing else, another row's does not."""

    def __init__(self, module: nn.Module, losses: Losses, marks: _Marks) -> None:
        super().__init__()
        self.module, self._losses, self._marks = module, losses, marks
        parameter = next(p for p in module.parameters() if p.requires_grad)
        self.own = nn.Linear(marks.coordinates, 1, bias=False).to(parameter.device, parameter.dtype)

    def forward(self, codes: Tensor) -> Tensor:
        """The loss of each row, shape (rows,)."""
        which = codes[:, self._marks.position]
        hot = nn.functional.one_hot(which, self._marks.coordinates + 1)[:, 1:].to(self.own.weight.dtype)
        losses = self._losses(codes)
        own: Tensor = self.own(self._marks.length * hot).squeeze(1)
        return torch.where(which > 0, torch.zeros_like(losses), losses) + own


@dataclass(frozen=True)
class _Marks:
    """Where canaries are marked among the codes, how many coordinates they have, how long their gradients are."""

    position: int
    coordinates: int
    length: float


@dataclass(eq=False)
class Watch:
    """Collects the observations of every training inside `watched`.

    Attributes:
      canaries: with a row.
      runs: one for each training.
    """

    canaries: int
    runs: list[_Run] = field(default_factory=list)

    @property
    def observations(self) -> list[Observations]:
        """Those of the trainings that were private and took a step."""
        return [run.observations for run in self.runs if run.seen and run.schedule.private]


@dataclass(eq=False)
class _Run:
    schedule: Schedule
    grid: float = 0.0
    seen: list[Floats] = field(default_factory=list)
    drawn: list[Ints] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    @property
    def observations(self) -> Observations:
        return Observations(np.stack(self.seen), np.stack(self.drawn), np.asarray(self.sizes), self.schedule, self.grid)


class _Overheard:
    """Private rows whose noisy sums are written down, with who was in them."""

    def __init__(self, rows: PrivateRows, marks: _Marks, run: _Run) -> None:
        self._rows, self._marks, self._run = rows, marks, run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def noisy_sum(self, asked: ClippedSum, *, label: str) -> Floats:
        """`PrivateRows.noisy_sum`, overheard."""
        drawn = np.zeros(self._marks.coordinates, dtype=np.int64)
        sizes: list[int] = []

        def total(codes: Ints, owners: Ints) -> Floats:
            marked = codes[:, self._marks.position]
            units = np.unique(np.stack([owners, marked]), axis=1)[1]
            drawn.__iadd__(np.bincount(units, minlength=self._marks.coordinates + 1)[1:])
            sizes.append(int(owners[-1]) + 1 if len(owners) else 0)
            return asked.total(codes, owners)

        noisy = self._rows.noisy_sum(replace(asked, total=total), label=label)
        self._run.seen.append(noisy[-self._marks.coordinates :] / asked.clip)
        self._run.drawn.append(drawn)
        self._run.sizes.append(sum(sizes))
        return noisy


@contextlib.contextmanager
def watched(schema: Schema, *, length: float = LENGTH) -> Iterator[Watch]:
    """Inside, every `Descent` on rows of `schema` has canaries and is watched. One at a time in a process.

    Args:
      schema: from `with_canaries`.
      length: of a canary's gradient, in clips.
    """
    position = [c.name for c in schema.modelled].index(MARK)
    marks = _Marks(position, size(schema.modelled[position]) - 1, length)
    watch, original = Watch(marks.coordinates // 2), Descent.__init__

    def begin(
        self: Descent, module: nn.Module, rows: PrivateRows, *, losses: Losses | None = None, **given: Any
    ) -> None:
        run = _Run(given["schedule"])
        watch.runs.append(run)
        scaled = replace(marks, length=marks.length * float(given["clip"]))
        overheard: Any = _Overheard(rows, marks, run)
        whole = _Canaries(module, losses or module, scaled)
        original(self, whole, overheard, losses=whole, **given)
        self.module = module
        run.grid = 2.0**-24 * math.sqrt(self._asked.size)

    setattr(Descent, "__init__", begin)  # noqa: B010
    try:
        yield watch
    finally:
        setattr(Descent, "__init__", original)  # noqa: B010


def with_canaries(table: pd.DataFrame, schema: Schema, *, canaries: int) -> tuple[pd.DataFrame, Schema]:
    """Table and schema with one more column, and with the rows of the canaries that have one, at the end.

    A canary is a unit of its own, with as many rows as a unit may have; what else its rows hold is made up and evenly
    drawn.
    """
    mark = Integer(name=MARK, low=0, high=2 * canaries)
    if MARK in schema.names or schema.unresolved or schema.constraints:
        raise UsageError("An audit of a training needs a schema without constraints that leaves nothing to be learned.")
    each, rng = schema.contributions, np.random.Generator(np.random.SFC64(0))  # made up: no row, always the same
    which = np.repeat(np.arange(1, canaries + 1), each)
    parts = [
        name_rows(c, canaries).map("canary {}".format).repeat(each).reset_index(drop=True)
        if isinstance(c, Identifier)
        else decode(c, rng.integers(0, size(c), len(which)))
        for c in schema.columns
    ]
    rows = pd.concat([*parts, pd.Series(which, name=MARK)], axis=1)
    wider = dataclasses.replace(
        schema,
        columns=(*schema.columns, mark),
        public_rows=None if schema.public_rows is None else schema.public_rows + len(rows),
    )
    names = [n for n in schema.names if n in table]
    return pd.concat([table[names].assign(**{MARK: 0}), rows[[*names, MARK]]], ignore_index=True), wider


# -------------------------------------------------------------------------------------------------------------- audit
class Trainable(Protocol):
    """What is audited: a generator whose fit trains by `sgd`."""

    epsilon: float
    delta: float

    def fit(self, table: Any, schema: Schema, *, ledger: Ledger, dataset: str) -> Any:
        """Learn from the table, once it is paid for."""


def audit_training(
    generator: Trainable,
    table: pd.DataFrame,
    schema: Schema,
    *,
    canaries: int = CANARIES,
    runs: int = 2,
    confidence: float = 1 - ALPHA,
) -> tuple[Finding, ...]:
    """What the trainings of `runs` fits leak about canaries, beside what they are charged for.

    Args:
      generator: private, with its options; fitted anew each time, to canaries too, so throw it away afterwards.
      table: rows to train on, real or made up.
      schema: theirs, approved, with nothing left to be learned.
      canaries: how many have a row, from 10.
      runs: fits, from 1; it takes two to see noise that repeats from run to run.
      confidence: of all findings together.

    Returns:
      Findings whose baseline is what was charged: `rates.beyond` says that a training leaks more. The chance that it
      says so of a right one is at most 1 - confidence.

    Raises:
      UsageError: a number out of range, a generator that is not private or trains nothing, a schema to be learned.
    """
    if canaries < 10 or runs < 1 or not 0 < confidence < 1 or not math.isfinite(generator.epsilon):
        raise UsageError("An audit of a training needs a private generator, 10 canaries and one run, or more.")
    if getattr(generator, "checkpoints", None) is not None:
        raise UsageError("An audit fits to canaries and throws the models away: leave checkpoints out.")
    wider, public = with_canaries(table, schema, canaries=canaries)
    with watched(public) as watch:
        for _ in range(runs):
            ledger = Ledger(":memory:")
            ledger.open("audit", epsilon=generator.epsilon, delta=generator.delta, unit=public.unit)
            generator.fit(wider, public, ledger=ledger, dataset="audit")
    if not watch.observations:
        raise UsageError("The generator trains nothing by sgd: there is no training to audit.")
    units = wider[public.privacy_unit].nunique(dropna=False) if public.privacy_unit else len(wider)
    return findings(watch.observations, units=units, delta=generator.delta, confidence=confidence)


def findings(
    runs: Sequence[Observations], *, units: int, delta: float, confidence: float = 1 - ALPHA
) -> tuple[Finding, ...]:
    """Findings about trainings of one schedule.

    Args:
      runs: what was seen of each, with the same canaries.
      units: in the table, canaries included.
      delta: at which epsilons are given, above 0.
      confidence: of all findings together.
    """
    about = _About(AUDITOR, (1 - confidence) / FINDINGS, tuple(runs), units, delta)
    return (_one_step(about), _composed(about), _whole_run(about), _steps(about), _coins(about), _noise(about))


@dataclass(frozen=True, eq=False)
class _About(About):
    """What all findings are made of."""

    runs: tuple[Observations, ...]
    units: int
    delta: float

    def finding(
        self, name: str, found: tuple[float, tuple[float, float]], beside: tuple[float, float, float], verdict: str
    ) -> Finding:
        """As `About.finding`, with whom it is about."""
        canaries = self.runs[0].seen.shape[1]
        return replace(
            super().finding(name, found, beside, verdict),
            threat_model=_THREAT,
            targets=f"{canaries:,} made-up units with a gradient of their own, of {self.units:,} units",
            cost=f"{len(self.runs)} fits",
        )

    @property
    def schedule(self) -> Schedule:
        return self.runs[0].schedule

    @property
    def steps(self) -> int:
        """Of the longest run."""
        return max(len(r.seen) for r in self.runs)

    def claimed(self, *, sampled: bool) -> float:
        """The epsilon that was charged for the training, or for one step on units that are surely in the batch."""
        gaussian = GaussianDpEvent(self.schedule.noise)
        event = PoissonSampledDpEvent(self.schedule.rate, gaussian) if sampled else gaussian
        times = self.schedule.steps if sampled else 1
        return accounting.epsilon(accounting.event_of([Spend("training", event, times)]), self.delta)

    def split(self, *, shifted: bool = False) -> tuple[Floats, Floats]:
        """Observations of canaries in the batch, and of all others; `shifted` labels them by another step's coins."""
        into, out = [], []
        for run in self.runs:
            there = (np.roll(run.drawn, 1, axis=0) if shifted else run.drawn) > 0
            into.append(run.seen[there])
            out.append(run.seen[~there])
        return np.concatenate(into), np.concatenate(out)


# --------------------------------------------------------------------------------------------------- step by step
def _one_step(about: _About) -> Finding:
    """Epsilon of one step for a unit that is surely in the batch, by counts alone: whatever law the noise has."""
    into, out = about.split()
    found, other = (
        empirical_epsilon(*sides, delta=about.delta, confidence=1 - about.alpha)
        for sides in ((into, out), about.split(shifted=True))
    )
    claimed = about.claimed(sampled=False)
    return about.finding(
        f"one step, a unit surely in its batch (epsilon at delta {about.delta:g}, by counts)",
        (found.estimate, found.interval),
        (claimed, other.estimate, found.ceiling),
        against(
            "One step",
            found.low,
            claimed,
            f"{len(into):,} observations with a canary in the batch, {len(out):,} without",
        ),
    )


def _composed(about: _About) -> Finding:
    """Epsilon of the whole training: from how far a canary moves a step against its noise, and how often it does."""
    rate = _drawn(about)
    (mu, least), control = separation(*about.split(), alpha=about.alpha / 2), separation(*about.split(shifted=True))[0]
    slow = interval(rate, 1 - about.alpha)[0]
    value, low = (about_run(m, q, about) for m, q in ((mu, rate.rate), (least, slow)))
    claimed = about.claimed(sampled=True)
    charged = 1 / about.schedule.noise
    seen = f"a canary moves a step by {mu:.4f} standard deviations of its noise where {charged:.4f} is charged"
    return about.finding(
        f"the whole training, composed from its steps (epsilon at delta {about.delta:g})",
        (value, (low, math.inf)),
        (claimed, about_run(control, rate.rate, about), math.inf),
        against("The training", low, claimed, seen),
    )


def separation(into: Floats, out: Floats, *, alpha: float = 0.5) -> tuple[float, float]:
    """How far a canary moves a step, in standard deviations of its noise (mu of Gaussian differential privacy, Dong,
    Roth, Su 2022): estimate, and lower bound that errs with a chance of about `alpha`.

    Means of thousands of observations are normal to good precision, and `_noise` tests the law of each.
    """
    if min(len(into), len(out)) < 4:
        return 0.0, 0.0
    spread = float(np.std(out, ddof=1))
    shift = abs(float(into.mean() - out.mean()))
    wrong = math.sqrt(into.var(ddof=1) / len(into) + out.var(ddof=1) / len(out))
    least = shift - float(stats.norm.isf(alpha / 2)) * wrong
    widest = spread * math.sqrt((len(out) - 1) / float(stats.chi2.ppf(alpha / 2, len(out) - 1)))
    return _ratio(shift, spread), max(0.0, _ratio(least, widest))


def _ratio(shift: float, spread: float) -> float:
    return shift / spread if spread > 0 else math.inf if shift > 0 else 0.0


def about_run(mu: float, rate: float, about: _About) -> float:
    """Epsilon of as many steps as the longest run had, at the separation and the rate found."""
    if mu <= 1e-6 or rate <= 0:
        return 0.0
    shown = min(mu, max(MOST_MU, 2 / about.schedule.noise))
    event = PoissonSampledDpEvent(min(rate, 1.0), GaussianDpEvent(1 / shown))
    return accounting.epsilon(accounting.event_of([Spend("training", event, about.steps)]), about.delta)


def _drawn(about: _About) -> Count:
    """How often canaries that have a row were in a batch."""
    there = [run.drawn[:, : run.canaries] for run in about.runs]
    return Count(sum(int((d > 0).sum()) for d in there), sum(d.size for d in there))


# ------------------------------------------------------------------------------------------------------- whole run
def _whole_run(about: _About) -> Finding:
    """Epsilon of the whole training for somebody who does not know the coins: canaries with a row or without?"""
    scores = [evidence(run) for run in about.runs]
    into = np.concatenate([s[: run.canaries] for s, run in zip(scores, about.runs, strict=True)])
    out = np.concatenate([s[run.canaries :] for s, run in zip(scores, about.runs, strict=True)])
    found, fair = (
        gaussian_mu(*sides, confidence=1 - about.alpha).epsilon(about.delta)
        for sides in ((into, out), (out[::2], out[1::2]))
    )
    claimed = about.claimed(sampled=True)
    return about.finding(
        f"the whole training, the coins unknown: has a canary a row? (epsilon at delta {about.delta:g})",
        (found.estimate, found.interval),
        (claimed, fair.estimate, found.ceiling),
        against("The whole run", found.low, claimed, f"{len(into):,} canaries with a row, {len(out):,} without"),
    )


def evidence(run: Observations) -> Floats:
    """How much likelier each canary's observations are if it has a row: the likelihood ratio of the mixture of both
    coins, added up over the steps; shape (2 * canaries,).
    """
    rate, noise = run.schedule.rate, run.schedule.noise * (1 + run.grid)
    towards = (run.seen - 0.5) / noise**2
    ratios: Floats = np.logaddexp(math.log1p(-rate) if rate < 1 else -math.inf, math.log(rate) + towards).sum(0)
    return ratios


# ------------------------------------------------------------------------------------- what composing takes for granted
def _steps(about: _About) -> Finding:
    taken, charged = float(about.steps), float(about.schedule.steps)
    more = "MORE THAN WERE CHARGED" if taken > charged else "no more than were charged"
    verdict = f"{about.steps:,} noisy gradients came out where {about.schedule.steps:,} were charged: {more}."
    beside = charged, charged, math.inf
    return about.finding("noisy gradients of one training", (taken, (taken, taken)), beside, verdict)


def _coins(about: _About) -> Finding:
    """Is every unit drawn at the charged rate, by a coin of its own, in each step anew?"""
    tested = [p for run in about.runs for p in coin_tests(run, units=about.units)]
    return about.least_likely(
        "Poisson samples: the least likely of what was seen of the coins",
        tested,
        right="The coins show",
        wrong="The coins ARE NOT AS CHARGED",
    )


def _noise(about: _About) -> Finding:
    """Is the noise Gaussian and as large as charged, fresh in each step, coordinate and run?"""
    tested = [p for run in about.runs for p in noise_tests(run)]
    tested += [between(a, b) for a, b in zip(about.runs, about.runs[1:], strict=False)]
    return about.least_likely(
        "the noise: the least likely of what was seen of it",
        tested,
        right="The noise shows",
        wrong="The noise IS NOT AS CHARGED",
    )
