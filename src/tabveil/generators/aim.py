"""AIM in rounds: the marginals that the model explains worst, chosen and counted a round at a time (McKenna, Mullins,
Sheldon, Miklau 2022, "AIM: An Adaptive and Iterative Mechanism for Differentially Private Synthetic Data", arXiv
2201.12677), over a domain learned under the same budget.

One-way marginals are counted; then, in each round, marginals of two and three columns are chosen by report-noisy-max
and counted, and one graphical model is fitted to all counts so far. A candidate's score is the paper's: its weight
times its distance from what is expected of it, less the noise its counts would bear. Unlike the paper, a model is
fitted once per round and not once per marginal; within a round, what is expected of a candidate is raked to the counts
that it shares with a marginal chosen before it. Noise levels are fixed beforehand instead of annealed by what was seen:
every event is known before a row is read, and a fit takes seconds.

Privacy: charged histograms and choices only (unit: the schema's; add or remove one; sensitivity k for every histogram
and, in L1, for every score, weights being at most 1). What may be chosen is decided by the schema and by earlier noisy
answers; noise levels are fixed before the first row is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import ClassVar

import numpy as np

from tabveil.accounting import Spend
from tabveil.domains import cells_for, start_axes
from tabveil.encoding import Floats
from tabveil.errors import UsageError
from tabveil.estimation import THREADS, estimate
from tabveil.generators._marginals import (
    MarginalGenerator,
    Part,
    divide,
    noise_of,
    one_way_label,
    refining,
    refining_noise,
)
from tabveil.generators.base import Plan, Progress, whole
from tabveil.graphical_model import Clique, GraphicalModel, Measurement, expand, model_cells, others
from tabveil.mechanisms import Contest, PrivateRows
from tabveil.schema import Schema

SHARES = {"refine": 0.12, "one_way": 0.08, "choose": 0.04, "count": 0.76}
"""How the budget is divided; variants are in benchmarks/README.md."""

ROUNDS = 3
"""Models fitted; between two, a third of the marginals is chosen and counted."""

PER_COLUMN = (1, 3)
"""Least and greatest number of marginals counted for each column but one, see `per_column`."""

CELLS = (4, 24)
"""Least and greatest number of cells of a number column where nobody says: three columns make a marginal."""

ROW_NOISE = 3.0
"""A pair of number columns gets about as many cells as leave this many standard deviations of noise in each cell."""

EXPECTED_NOISE = math.sqrt(2 / math.pi)
"""Mean distance of Gaussian noise from 0, in standard deviations (AIM, Algorithm 2)."""

TARGET_WEIGHT = 3.0
"""Weight of the schema's target column where nobody says."""

CELL_BYTES = 8
"""One cell of a model's tables."""

SAMPLED = (20_000, 1_000_000)
"""Least and most rows drawn from a model to see what it expects of every candidate; between them 16 times the table."""

MOST_TRIPLES = 3_000
"""With more triples than this, those with heavy columns and few cells are candidates."""

MOST_CELLS = 20_000_000
"""All candidates together have at most this many cells: pairs come first, then heavy triples of few cells."""

TRIPLE_COLUMNS = 60
"""With more columns than this, triples are made of the heaviest, those of few cells first."""

CHECKED_AHEAD = 600
"""With more candidates than this, whether they fit the model is asked again not before every choice but the more seldom
the more there are; a choice that turns out not to fit leaves its step unused."""

ROUND_ITERATIONS = 150
LAST_ITERATIONS = 500

SECONDS_PER_CELL = 5e-8
"""What one step of `estimate` takes per cell of the model, roughly, on two cores."""


@dataclass(frozen=True)
class _Candidate:
    """A marginal by column positions, the product of its columns' weights, and how many cells it has."""

    columns: Clique
    weight: float
    cells: int

    @classmethod
    def of(cls, columns: Clique, weigh: Sequence[float], sizes: Sequence[int]) -> _Candidate:
        """The marginal of `columns`."""
        return cls(columns, math.prod(weigh[a] for a in columns), math.prod(sizes[a] for a in columns))


@dataclass(frozen=True)
class _Search:
    """What a round may choose from.

    Attributes:
      candidates: column positions of every marginal.
      weights: shape (candidates,), above 0.
      sizes: cells per column.
    """

    candidates: tuple[Clique, ...]
    weights: Floats
    sizes: tuple[int, ...]


class AIM(MarginalGenerator):
    """Noisy marginals of two and three columns, chosen where the model is worst.

    Args:
      cells: a number column is binned into about this many cells, from 2 to 1000; as many as the noise leaves room
        for by default.
      marginals: how many are counted beside single columns, over all rounds, 0 to 10,000; by default three times the
        number of columns less one.
      max_model_bytes: most memory for the model's tables, 1e4 to 1e10 bytes. A larger model fits more marginals at
        once and takes longer, see `expected_seconds`.
      weights: how much each column matters, from 0 (not at all) up; 1 for a column not named. A marginal weighs the
        product of its columns. By default the schema's `target` weighs 3.

    Others as `Generator`.
    """

    guarantee: ClassVar[str] = (
        "Charged noisy histograms of columns, pairs and triples, chosen by report-noisy-max in rounds."
    )
    least_strength: ClassVar[float] = 100.0

    def __init__(
        self,
        *,
        epsilon: float,
        delta: float | None = None,
        random_state: int | None = None,
        progress: Progress | None = None,
        cells: int | None = None,
        marginals: int | None = None,
        max_model_bytes: int = 10_000_000,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(epsilon=epsilon, delta=delta, random_state=random_state, progress=progress)
        self.cells = None if cells is None else whole("cells", cells, 2, 1000)
        self.marginals = None if marginals is None else whole("marginals", marginals, 0, 10_000)
        self.max_model_bytes = whole("max_model_bytes", max_model_bytes, 10_000, 10_000_000_000)
        self.weights = None if weights is None else _checked(weights)

    def _spends(self, schema: Schema) -> tuple[Spend, ...]:
        column_weights(schema, self.weights)
        steps = range(self._steps(schema))
        parts = [
            refining(schema, SHARES["refine"]),
            Part(tuple(one_way_label(c) for c in schema.modelled), SHARES["one_way"]),
            Part(tuple(_choice_label(i) for i in steps), SHARES["choose"], choice=True),
            Part(tuple(_count_label(i) for i in steps), SHARES["count"]),
        ]
        return divide(parts, schema, epsilon=self.epsilon, delta=self.delta)

    def _steps(self, schema: Schema) -> int:
        columns = len(schema.modelled)
        if columns < 2:
            return 0
        return per_column(self.epsilon) * (columns - 1) if self.marginals is None else self.marginals

    def expected_seconds(self, schema: Schema) -> float:
        """What a fit under `schema` may take on two cores beside reading the rows, from public knowledge alone: an
        order of magnitude, for a model as large as `max_model_bytes` allows.
        """
        steps = ROUNDS * ROUND_ITERATIONS + LAST_ITERATIONS if self._steps(schema) else 0
        return steps * SECONDS_PER_CELL * self.max_model_bytes / CELL_BYTES

    def _learn(self, rows: PrivateRows, plan: Plan) -> None:
        refined = refining_noise(self.schema, plan.spends)
        axes = start_axes(self.schema.modelled, rows, sigma=refined, cells=self.cells or self._cells_for(plan))
        self._axes, measured = self._count_columns(axes, rows, plan)
        sizes = tuple(a.size for a in self._axes)
        model = estimate(sizes, measured, factors=self._factors())
        steps = self._steps(self.schema)
        search = self._search(sizes, model.total, noise_of(plan.spends, _count_label(0)))
        held: list[Clique] = [f.attributes for f in self._factors()]
        ends = [steps * (r + 1) // ROUNDS for r in range(ROUNDS)]
        for r, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            chosen = self._round(search, model, held, (rows, plan, range(begin, end)))
            measured = measured + chosen
            if chosen:
                model = self._refit(model, measured, r)
            self._tell(f"fitting the model, round {r + 1} of {ROUNDS}", 1.0)
        self._model = model

    def _refit(self, model: GraphicalModel, measured: Sequence[Measurement], r: int) -> GraphicalModel:
        """The model of all counts so far, started from the one before."""
        steps = LAST_ITERATIONS if r == ROUNDS - 1 else ROUND_ITERATIONS
        fitting = partial(self._tell, f"fitting the model, round {r + 1} of {ROUNDS}")
        return estimate(model.sizes, measured, iterations=steps, start=model, factors=self._factors(), progress=fitting)

    def _cells_for(self, plan: Plan) -> Callable[[float], int]:
        sigma = noise_of(plan.spends, _count_label(0))
        return lambda rows: cells_for(self.schema.public_rows or rows, sigma, noise=ROW_NOISE, most=CELLS)

    def _search(self, sizes: tuple[int, ...], total: float, sigma: float) -> _Search:
        """Marginals whose noise would leave something of the table, and that a model may hold."""
        weigh = column_weights(self.schema, self.weights)
        most = min(total / (EXPECTED_NOISE * sigma), self.max_model_bytes / CELL_BYTES)
        told = [a for a in range(len(sizes)) if sizes[a] > 1 and weigh[a] > 0]  # a single cell has nothing to say
        heavy = sorted(sorted(told, key=lambda a: (-weigh[a], sizes[a]))[:TRIPLE_COLUMNS])
        found = [_Candidate.of(c, weigh, sizes) for k, among in ((2, told), (3, heavy)) for c in combinations(among, k)]
        small = sorted((c for c in found if c.cells <= most), key=lambda c: (len(c.columns), -c.weight, c.cells))
        room = np.cumsum([c.cells for c in small]) <= MOST_CELLS
        triple = np.array([len(c.columns) == 3 for c in small], dtype=bool)
        kept = [c for c, fits in zip(small, room & (np.cumsum(triple) <= MOST_TRIPLES), strict=True) if fits]
        return _Search(tuple(c.columns for c in kept), np.array([c.weight for c in kept]), sizes)

    def _round(
        self,
        search: _Search,
        model: GraphicalModel,
        held: list[Clique],
        source: tuple[PrivateRows, Plan, range],
    ) -> list[Measurement]:
        """Marginals chosen and counted in one round; `held` grows by them.

        The model may grow in proportion to the steps done, as in the paper: else the first choices would fill it, and
        leave the last ones nothing that fits.
        """
        rows, plan, steps = source
        if steps:
            self._tell("choosing and counting marginals", steps.start / self._steps(self.schema))
        if not search.candidates or not steps:
            return []
        sigma = noise_of(plan.spends, _count_label(steps.start))
        contest = self._contest(search, model, sigma)
        rows.tabulate(contest.candidates)
        open_ones = list(range(len(search.candidates)))
        allowed = open_ones
        measured: list[Measurement] = []
        for step in steps:
            room = self.max_model_bytes * (step + 1) / self._steps(self.schema)
            if (step - steps.start) % (1 + len(open_ones) // CHECKED_AHEAD) == 0:
                allowed = [i for i in open_ones if _bytes_with(search, held, i) <= room]
            if allowed:
                best = rows.choose(contest, allowed, label=_choice_label(step))
                chosen = search.candidates[best]
                if _bytes_with(search, held, best) <= room:
                    held.append(chosen)
                    counts = rows.counts([self._axes[a] for a in chosen], label=_count_label(step)).astype(float)
                    measured.append(Measurement(chosen, counts, sigma))
                    contest = _informed(contest, search.candidates, measured[-1])
                inside = {i for i in open_ones if set(search.candidates[i]) <= set(chosen)}
                open_ones, allowed = ([i for i in some if i not in inside] for some in (open_ones, allowed))
            self._tell("choosing and counting marginals", (step + 1) / self._steps(self.schema))
        return measured

    def _contest(self, search: _Search, model: GraphicalModel, sigma: float) -> Contest:
        """Every candidate with what the model expects of it, weighed."""
        expected, blur = self._expected(search, model)
        sizes = np.array([e.size for e in expected])
        candidates = tuple(tuple(self._axes[a] for a in c) for c in search.candidates)
        return Contest(candidates, expected, EXPECTED_NOISE * (sigma * sizes) + blur, search.weights)

    def _expected(self, search: _Search, model: GraphicalModel) -> tuple[tuple[Floats, ...], Floats]:
        """Expected counts of every candidate, and how far sampling puts them off, in L1: from rows drawn from the
        model, so that the cost is the same for any model; exact where columns are independent.
        """
        if all(len(c) == 1 for c in model.tree.cliques):
            ones = [model.marginal((a,)) / model.total for a in range(len(search.sizes))]
            exact = tuple(model.total * _product([ones[a] for a in c]) for c in search.candidates)
            return exact, np.zeros(len(exact))
        drawn = int(np.clip(16 * model.total, *SAMPLED))
        rng = np.random.default_rng(self.random_state)
        columns = np.ascontiguousarray(model.sample(drawn, rng).T.astype(np.int32))
        scale = model.total / drawn

        def counted(c: Clique) -> Floats:
            shape = [search.sizes[a] for a in c]
            joint = np.ravel_multi_index(tuple(columns[a] for a in c), shape)
            return np.asarray(np.bincount(joint, minlength=math.prod(shape)).reshape(shape) * scale, dtype=np.float64)

        with ThreadPoolExecutor(THREADS) as pool:
            expected = tuple(pool.map(counted, search.candidates))
        return expected, np.array([EXPECTED_NOISE * float(np.sqrt(e * scale).sum()) for e in expected])


def _bytes_with(search: _Search, held: Sequence[Clique], i: int) -> int:
    """How large a model of the marginals held and candidate i is; 0 where they hold it already."""
    wanted = search.candidates[i]
    if any(set(wanted) <= set(h) for h in held):
        return 0
    return model_cells(search.sizes, [*held, wanted]) * CELL_BYTES


def _informed(contest: Contest, candidates: Sequence[Clique], measured: Measurement) -> Contest:
    """`contest` with what a new measurement says of the other candidates: where they share two columns or more, their
    expected counts are raked to its counts.

    Without it, candidates that share a badly explained pair would all be chosen for that pair in one round.
    """
    estimates = list(contest.estimates)
    for i, candidate in enumerate(candidates):
        common = tuple(a for a in measured.attributes if a in candidate)
        if len(common) > 1:
            wanted = np.maximum(measured.counts.sum(axis=others(measured.attributes, common)), 0.0)
            held = estimates[i].sum(axis=others(candidate, common))
            ratio = np.divide(wanted, held, out=np.zeros_like(wanted), where=held > 0)
            estimates[i] = estimates[i] * expand(ratio, common, candidate)
    return replace(contest, estimates=tuple(estimates))


def _product(shares: Sequence[Floats]) -> Floats:
    found = shares[0]
    for share in shares[1:]:
        found = np.multiply.outer(found, share)
    return found


def per_column(epsilon: float) -> int:
    """Marginals counted for each column but one where nobody says: 1 up to epsilon 0.5, 2 at 1, 3 from 1.8.

    More of them, at more noise each, tell more only where noise is small; the paper anneals towards the same end by
    what it sees.
    """
    return round(float(np.clip(2 + math.log(epsilon, 3), *PER_COLUMN)))


def column_weights(schema: Schema, weights: Mapping[str, float] | None) -> list[float]:
    """A weight per learned column: the user's, else TARGET_WEIGHT for the target, else 1.

    Raises:
      UsageError: a name that is no learned column, or fewer than two columns with a weight above 0.
    """
    names = [c.name for c in schema.modelled]
    given = ({n: TARGET_WEIGHT for n in names if n == schema.target}) if weights is None else weights
    unknown = [n for n in given if n not in names]
    if unknown:
        raise UsageError("'weights' may only name learned columns of the schema: one of its names is none.")
    found = [float(given.get(n, 1.0)) for n in names]
    if len(found) > 1 and sum(w > 0 for w in found) < 2:
        raise UsageError("'weights' must leave at least two columns a weight above 0: marginals need two.")
    return found


def _checked(weights: Mapping[str, float]) -> dict[str, float]:
    """`weights` if each is a number from 0 to a million; raises UsageError otherwise."""
    numbers = isinstance(weights, Mapping) and all(
        isinstance(n, str) and isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w <= 1e6
        for n, w in weights.items()
    )
    if not numbers:
        raise UsageError("weights must give a number from 0 to 1,000,000 for each column it names.")
    return {n: float(w) for n, w in weights.items()}


def _choice_label(step: int) -> str:
    return f"choice of marginal {step + 1}"


def _count_label(step: int) -> str:
    return f"counts of marginal {step + 1}"
