"""What an auditor overhears of a fit: every question, the charge it was asked under, and its noisy answer.

`overheard` stands in front of `PrivateRows` and writes down what goes through; neither the rows nor the generator
know. Since the auditor made both tables himself, he knows what each would have answered without noise, and so how much
likelier an answer is with the further unit than without: the likelihood ratio, the best score there is (Neyman and
Pearson). Answers to an adaptive fit's questions multiply: given what was said before, each is a fresh draw.

Privacy: holds answers about made-up rows only.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dp_accounting import ComposedDpEvent, DpEvent
from numpy.typing import NDArray

from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, ExponentialMechanismDpEvent
from tabveil.audit._canary_laws import Floats, Noise, at_least, least_threshold, log_mass
from tabveil.audit._canary_worlds import World
from tabveil.columns import Categorical
from tabveil.encoding import Axis, size
from tabveil.mechanisms import Contest, PrivateRows, Question

CERTAIN = 1e6
"""The log likelihood ratio of what one of the tables cannot give."""


@dataclass(frozen=True, eq=False)
class Counted:
    """A noisy histogram.

    Attributes:
      event: charged under its label; None where nothing was.
      noisy: what came out, flat.
      exact: what the two tables hold.
      columns: names of the columns counted.
    """

    event: DpEvent | None
    noisy: Floats
    exact: tuple[Floats, Floats]
    columns: tuple[str, ...] = ()

    @property
    def noise(self) -> Noise | None:
        """The charge, where it is for noise."""
        return self.event if isinstance(self.event, DiscreteGaussianDpEvent | DiscreteLaplaceDpEvent) else None

    @property
    def evidence(self) -> float:
        """Logarithm of how much likelier it is with the further unit than without."""
        if self.noise is None:
            return 0.0
        moved = self.exact[0] != self.exact[1]
        without, with_it = (log_mass(self.noise, self.noisy[moved] - e[moved]) for e in self.exact)
        return float((with_it - without).sum())


@dataclass(frozen=True, eq=False)
class Chosen:
    """A choice among candidates.

    Attributes:
      event: charged under its label.
      picked: position among those allowed.
      utilities: of those allowed, for each table, in scales of the charged Gumbel noise.
      rivals: the same where estimates are first scaled to the table's own rows, as if their number were public: one
        unit then moves scores by twice as much.
    """

    event: DpEvent | None
    picked: int
    utilities: tuple[Floats, Floats]
    rivals: tuple[Floats, Floats]

    @property
    def evidence(self) -> float:
        """As `Counted.evidence`."""
        without, with_it = (_log_chances(u)[self.picked] for u in self.utilities)
        return float(with_it - without)

    def growth(self, which: int, tilt: float) -> float:
        """Logarithm of a bet on better (or, below 0, worse) choices than the charged noise makes on that table: its
        exponential has mean 1 where the noise is as charged, whatever was chosen before.
        """
        utilities = self.utilities[which] - self.utilities[which].max()
        return float(tilt * utilities[self.picked] - np.log(self.chances(which) @ np.exp(tilt * utilities)))

    def rivalry(self, which: int) -> float:
        """Logarithm of a bet on `rivals`, as `growth`."""
        rival, charged = (_log_chances(u[which])[self.picked] for u in (self.rivals, self.utilities))
        return float(rival - charged)

    def chances(self, which: int) -> Floats:
        """How likely the charged noise makes each candidate on that table."""
        return np.asarray(np.exp(_log_chances(self.utilities[which])))


def _log_chances(utilities: Floats) -> Floats:
    shifted = utilities - utilities.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


@dataclass(frozen=True, eq=False)
class Selected:
    """Categories that were learned.

    Attributes:
      event: charged under its label.
      learned: which of the texts that occur came out, shape (texts,).
      exact: how many counted rows of the two tables hold each.
    """

    event: DpEvent | None
    learned: NDArray[np.bool_]
    exact: tuple[Floats, Floats]

    @property
    def evidence(self) -> float:
        """As `Counted.evidence`, for what cannot come out of the smaller table."""
        return CERTAIN if self.learned[self.exact[0] == 0].any() else 0.0

    def growth(self, which: int, tilt: float) -> float:
        """Logarithm of a bet, `tilt` above 0, that more texts come out than the least threshold lets through that the
        charged delta pays for: its exponential has a mean of at most 1 where the threshold is no lower.
        """
        if not isinstance(self.event, ComposedDpEvent):
            return 0.0
        noise, failure = self.event.events
        most = at_least(noise, least_threshold(noise, failure.delta) - self.exact[which])
        there = self.exact[which] > 0
        return float((tilt * self.learned - np.log1p(most * math.expm1(tilt)))[there].sum())


Answer = Counted | Chosen | Selected


@dataclass(eq=False)
class Transcript:
    """One fit.

    Attributes:
      answers: with their labels, in the order they were given.
      asked: numbers that describe each question, by label: public knowledge and earlier answers alone may shape it.
    """

    answers: list[tuple[str, Answer]] = field(default_factory=list)
    asked: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def evidence(self) -> float:
        """The log likelihood ratio of the whole fit."""
        return sum(a.evidence for _, a in self.answers)

    def note(self, label: str, answer: Answer, asked: tuple[float, ...]) -> None:
        """Write an answer down."""
        self.answers.append((label, answer))
        self.asked[label] = asked


@contextlib.contextmanager
def overheard(world: World, charged: Mapping[str, DpEvent]) -> Iterator[list[Transcript]]:
    """Inside, what `PrivateRows` answers is written into the last transcript of the list, which the caller adds to.

    Args:
      world: the tables that are fitted to.
      charged: events by label.
    """
    transcripts: list[Transcript] = []
    ear = _Ear(world, charged, transcripts)
    originals = {name: getattr(PrivateRows, name) for name in ("counts", "choose", "survey", "categories")}
    try:
        for name, original in originals.items():
            setattr(PrivateRows, name, _between(original, getattr(ear, name)))
        yield transcripts
    finally:
        for name, original in originals.items():
            setattr(PrivateRows, name, original)


def _between(original: Any, note: Any) -> Any:
    def answering(rows: PrivateRows, *args: Any, **named: Any) -> Any:
        answer = original(rows, *args, **named)
        note(answer, *args, **named)
        return answer

    return answering


@dataclass(frozen=True, eq=False)
class _Ear:
    world: World
    charged: Mapping[str, DpEvent]
    transcripts: list[Transcript]

    def _note(self, label: str, answer: Answer, asked: tuple[float, ...]) -> None:
        self.transcripts[-1].note(label, answer, asked)

    def counts(self, answer: NDArray[Any], axes: Sequence[Axis], *, label: str) -> None:
        names = tuple(a.column.name for a in axes)
        counted = _counted(self.charged.get(label), answer, self.world.exact(axes), names)
        self._note(label, counted, tuple(number for a in axes for number in _shape(a)))

    def choose(self, answer: int, contest: Contest, allowed: Sequence[int], *, label: str) -> None:
        event, k = self.charged.get(label), self.world.schema.contributions
        price = float(event.epsilon) if isinstance(event, ExponentialMechanismDpEvent) else 0.0
        tables = tuple(zip(*(self.world.exact(contest.candidates[i]) for i in allowed), strict=True))
        estimates = [np.clip(contest.estimates[i], 0.0, None) for i in allowed]
        compared = [estimates, estimates], [[_scaled(e, c) for e, c in zip(estimates, t, strict=True)] for t in tables]
        utilities, rivals = (
            [_scores(contest, allowed, (t, e)) * price / (2 * k) for t, e in zip(tables, both, strict=True)]
            for both in compared
        )
        self._note(
            label,
            Chosen(event, list(allowed).index(answer), (utilities[0], utilities[1]), (rivals[0], rivals[1])),
            (float(len(allowed)), float(np.mean(allowed)), *_expected(contest, allowed, tables)),
        )

    def survey(self, answer: Sequence[NDArray[Any]], questions: Sequence[Question]) -> None:
        for noisy, question in zip(answer, questions, strict=True):
            event, exact = self.charged.get(question.label), self.world.surveyed(question)
            self._note(question.label, _counted(event, noisy, exact, (question.column,)), (float(question.bins),))

    def categories(
        self, answer: Sequence[Sequence[str]], columns: Sequence[Categorical], *, labels: Sequence[str]
    ) -> None:
        for texts, column, label in zip(answer, columns, labels, strict=True):
            without, with_it = (t[column.name].astype(str).value_counts() for t in self.world.counted)
            occur = with_it.index.union(without.index)
            exact = tuple(counts.reindex(occur, fill_value=0).to_numpy(np.float64) for counts in (without, with_it))
            answered = Selected(self.charged.get(label), np.asarray(occur.isin(texts)), (exact[0], exact[1]))
            self._note(label, answered, (float(len(texts)),))


def _counted(event: DpEvent | None, noisy: Any, exact: tuple[Any, Any], columns: tuple[str, ...]) -> Counted:
    flat = [np.asarray(a, dtype=np.float64).ravel() for a in (noisy, *exact)]
    return Counted(event, flat[0], (flat[1], flat[2]), columns)


def _shape(axis: Axis) -> tuple[float, ...]:
    """Numbers that move with an axis: cells, where it begins, ends and has its middle, and the column's own size."""
    edges = np.asarray(axis.edges, dtype=np.float64)
    return float(axis.size), float(edges[0]), float(edges[-1]), float(edges.mean()), float(size(axis.column))


def _expected(contest: Contest, allowed: Sequence[int], tables: Sequence[Sequence[NDArray[Any]]]) -> tuple[float, ...]:
    """Numbers that move with what is expected of the candidates: rows of one on average, those in cells that the
    further unit moves, and the shares of candidates with exactly as many rows as either table.
    """
    expected = [contest.estimates[i] for i in allowed]
    moved = [float(e[a != b].sum()) for e, a, b in zip(expected, *tables, strict=True)]
    rows = np.array([e.sum() for e in expected])
    exact = [float(np.isclose(rows, [c.sum() for c in counts], rtol=1e-9).mean()) for counts in tables]
    return float(rows.mean()), float(np.mean(moved)), *exact


def _scaled(estimate: Floats, counts: NDArray[Any]) -> Floats:
    """`estimate` scaled to as many rows as were counted."""
    total = float(estimate.sum())
    return estimate * (float(counts.sum()) / total) if total > 0 else estimate


def _scores(
    contest: Contest, allowed: Sequence[int], compared: tuple[Sequence[NDArray[Any]], Sequence[Floats]]
) -> Floats:
    """What a choice compares, in rows: as `mechanisms` says it does, computed from the exact counts of a table."""
    apart = np.array([float(np.abs(c - e).sum()) for c, e in zip(*compared, strict=True)])
    which = np.asarray(allowed)
    found: Floats = apart - np.clip(contest.handicaps[which], 0.0, None)
    return found if contest.weights is None else found * contest.weights[which] / contest.weights[which].max()
