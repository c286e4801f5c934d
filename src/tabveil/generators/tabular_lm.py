"""A language model over column tokens, trained from scratch on one table: Pred-LLM (Nguyen, Gupta, Do, Nguyen,
Venkatesh 2024, "Generating Realistic Tabular Data with Large Language Models") without the language.

What the paper gains, it gains by order: features permuted, the label last, rows begun by each feature in turn, and the
label asked for once all features are there. Here a column is one token (a category, a cell of a number, missing), or
several: a date's week, weekday and hour, and where nothing is private a number's cell and its place within it
(`tabveil.spelling`). The network gives the distribution of any column given any others (`_conditionals`), and every row
is valid, since a column has no logits but its own. Rows are drawn by `tabveil.conditionals`: any subset of columns may
be given.

Without privacy the network is one hidden layer per column ("fast"), or attention ("full"). Under DP-SGD it is one
linear map per pair of columns, which is a convex model. Or it is trained in two stages: `marginal_share` of the budget
fits our marginal model (aim, or mst for wide tables); the hidden layers are trained on rows drawn from that, which is
free; and DP-SGD spends the rest on linear maps beside them, on the real rows. At share 1 nothing is left for that: an
any-order model of what the marginals say.

Privacy: charged histograms (or the marginal model's charged answers) and one charged training (`_deep`, `sgd`),
together at most epsilon at delta. Which order a row is read in is drawn for each row by itself, and a row is one record
whatever its order. Hidden layers see no private row where anything is private. Where columns are read as several
tokens, dates' weekdays and hours are one more charged histogram each, which the plan names by public knowledge alone
(unit: the schema's; add or remove one; sensitivity k); where cells are cut follows from charged counts. The rest is
post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from tabveil._torch import nn, torch
from tabveil.accounting import Spend
from tabveil.columns import Column
from tabveil.conditionals import ConditionalLaw
from tabveil.domains import brief, in_weeks, settled
from tabveil.encoding import Axis, Floats, encode_present
from tabveil.errors import UsageError
from tabveil.generators._conditionals import HEADS, Attention, Conditionals, Orders, Part, Perceptrons, Wide, Within
from tabveil.generators._deep import TRAINING, Counted, DeepGenerator, between, flat
from tabveil.generators._likelihood import Likelihood
from tabveil.generators._marginals import MarginalGenerator
from tabveil.generators.base import Form, Plan, Progress, check_subset, create, whole
from tabveil.mechanisms import PrivateRows
from tabveil.schema import Schema
from tabveil.sgd import Average, Course, Descent, Schedule, warm_up
from tabveil.spelling import Written, calendar_axes, calendar_parts, raked

Tensor = torch.Tensor

SIZES = ("fast", "full")
"""One hidden layer per column; attention."""

HIDDEN = {"fast": 128, "full": 64}
"""Width where nobody says."""

LAYERS = 2
"""Of attention."""

ORDERS = (1 / 3, 1 / 3)
"""Shares of the rows in random order, and with features in random order and the label last; the rest in the schema's
order, the label last."""

CLIP = 1.0
"""Longest gradient of a unit; nearly all are longer, so that only their directions count."""

RATE = 0.3
"""Chance of each unit to be in a batch: few large batches."""

STEPS, MOST_STEPS, PLAIN_STEPS = 75, (10, 400), 900
"""Noisy gradients at epsilon 1 (they grow with its root), least and most of them, and most without privacy."""

LEARNING_RATE, PLAIN_LEARNING_RATE = 0.05, 0.003
"""Of Adam, private and not."""

WARM_UP = 0.1
"""Share of the steps over which the learning rate rises."""

BETAS, DECAY = (0.9, 0.99), (0.99, 0.999)
"""Of Adam; of the average of weights, private and not."""

CELLS = 128
"""Cells of a number column where nothing is private."""

MARGINAL_SHARE = 0.5
"""Part of the budget for a marginal model where nobody says: on three tables nowhere far from the best of 0, 1/2, 1."""

WIDE = 64
"""With more columns than this the marginal model is mst."""

PRETRAINING = 900
"""Steps on rows of the marginal model where nobody says."""

MADE_UP = 600
"""Rows of the marginal model for each of these steps: most are seen once."""

BATCH = 500
"""Of these rows at a time."""

CALENDAR_SHARE = 0.08
"""For weekdays and hours beside a marginal model: part of the budget that the model leaves."""


class TabularLM(DeepGenerator):
    """An any-order model of column tokens, trained from scratch.

    Args:
      size: of the hidden layers: "fast", one per column; "full", attention. Under plain DP-SGD there are none.
      layers: of attention, from 1 to 8.
      marginal_share: part of a private budget, 0 to 1, for a marginal model on whose rows hidden layers are trained; 0
        is DP-SGD alone, 1 leaves nothing for it. Without privacy only 0.
      pretraining: steps on rows of the marginal model, from 1; they cost no privacy.
      parts: whether dates are read as several tokens, and where nothing is private wide number columns too.
      orders: in how many orders a row is read in a step on real rows, 1 to 16: its loss is their average.
      temperature: of sampling, above 0 and at most 10; below 1 likely values become likelier.
      top_p: of sampling, above 0 and at most 1: of every column of every row the likeliest cells of this probability.

    Others as `DeepGenerator`. `hidden` is a multiple of 4 for attention.
    """

    guarantee: ClassVar[str] = (
        "Charged noisy histograms, then linear maps between columns trained by DP-SGD; other layers see synthetic rows."
    )
    least_strength: ClassVar[float] = 100.0
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"steps": 4, "hidden": 8, "pretraining": 4, "marginal_share": 0.0}
    )

    def __init__(
        self,
        *,
        epsilon: float,
        delta: float | None = None,
        random_state: int | None = None,
        progress: Progress | None = None,
        steps: int | None = None,
        rate: float | None = None,
        hidden: int | None = None,
        learning_rate: float | None = None,
        cells: int | None = None,
        match: bool = True,
        device: str = "cpu",
        checkpoints: str | Path | None = None,
        size: str = "fast",
        layers: int = LAYERS,
        marginal_share: float | None = None,
        pretraining: int = PRETRAINING,
        parts: bool = True,
        orders: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        super().__init__(
            epsilon=epsilon,
            delta=delta,
            random_state=random_state,
            progress=progress,
            steps=steps,
            rate=rate,
            hidden=hidden,
            learning_rate=learning_rate,
            cells=cells,
            match=match,
            device=device,
            checkpoints=checkpoints,
        )
        if size not in SIZES:
            raise UsageError("size must be 'fast' or 'full'.")
        if size == "full" and (self.hidden or 0) % HEADS:
            raise UsageError(f"hidden must be a multiple of {HEADS} for attention.")
        self.size, self.layers = size, whole("layers", layers, 1, 8)
        self.marginal_share = None if marginal_share is None else self._checked_share(marginal_share)
        self.temperature, self.top_p = between("temperature", temperature, 0.0, 10.0), between("top_p", top_p, 0.0, 1.0)
        if checkpoints is not None and self.marginal_share == 1:
            raise UsageError("checkpoints resume a training; with marginal_share 1 there is none: leave them out.")
        self.pretraining = whole("pretraining", pretraining, 1, 10_000_000)
        self.orders = whole("orders", orders, 1, 16)
        self.parts = bool(parts)
        self._marginal: MarginalGenerator | None = None
        self._calendars: list[list[Floats]] | None = None
        self._known: tuple[Counted, Written] | None = None

    def _checked_share(self, share: float) -> float:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise UsageError("marginal_share must be a number from 0 to 1.")
        if share and math.isinf(self.epsilon):
            raise UsageError("marginal_share parts a budget; where epsilon is inf there is none: leave it out.")
        return float(share)

    # ---------------------------------------------------------------------------------------------------------- plan
    @property
    def _share(self) -> float:
        """Part of the budget for the marginal model."""
        if math.isinf(self.epsilon):
            return 0.0
        return MARGINAL_SHARE if self.marginal_share is None else self.marginal_share

    @property
    def _steps(self) -> int:
        return self.steps or steps_for(self.epsilon)

    @property
    def _rate(self) -> float:
        return self.rate or RATE

    @property
    def _hidden(self) -> int:
        return self.hidden or HIDDEN[self.size]

    @property
    def _trains(self) -> bool:
        """Whether there is a training on real rows."""
        return self._share < 1

    def _marginal_of(self, schema: Schema) -> MarginalGenerator:
        """The marginal model for its share of the budget (of rho, which goes by the square of epsilon)."""
        name = "mst" if len(schema.modelled) > WIDE else "aim"
        epsilon = self.epsilon * math.sqrt(self._share)
        made = create(name, epsilon=epsilon, delta=self.delta, random_state=self.random_state, progress=self.progress)
        if not isinstance(made, MarginalGenerator):
            raise TypeError(f"{name} is no marginal generator")
        return made

    def _beside(self, schema: Schema) -> tuple[Spend, ...]:
        if not self._share:
            return super()._beside(schema)
        return (*self._marginal_of(schema)._spends(schema), *self._calendar_spends(schema))

    def _calendar_spends(self, schema: Schema) -> tuple[Spend, ...]:
        """What weekdays and hours cost beside a marginal model: a part of what that leaves."""
        labels = self._also(schema)
        return self._histograms(labels, CALENDAR_SHARE * (1 - self._share), schema)

    def _also(self, schema: Schema) -> tuple[str, ...]:
        parted = schema.modelled if self._parted else ()
        return tuple(calendar_label(c, part) for c in parted for part in calendar_parts(c))

    def _spends(self, schema: Schema) -> tuple[Spend, ...]:
        return super()._spends(schema) if self._trains or not self.delta else self._beside(schema)

    def _training(self, plan: Plan, counted: Counted) -> Schedule:
        return super()._training(plan, counted) if self._trains else Schedule(TRAINING, self._rate, self._steps, 0.0)

    def rehearsal(self, plan: Plan, rows: int) -> tuple[int, float] | None:
        """As `Generator.rehearsal`; a marginal model says nothing on made-up rows of how long it takes on real ones."""
        return None if self._share else super().rehearsal(plan, rows)

    # ----------------------------------------------------------------------------------------------------------- fit
    def _learn(self, rows: PrivateRows, plan: Plan) -> None:
        try:
            if self._share:
                both = self._kept("marginals", lambda: self._marginals(rows, plan), self._marginal_form)
                self._marginal, self._calendars = both
            super()._learn(rows, plan)
        finally:
            self._marginal, self._calendars = None, None

    def _marginals(self, rows: PrivateRows, plan: Plan) -> tuple[MarginalGenerator, list[list[Floats]]]:
        """The marginal model, fitted to `rows` by the steps that `plan` charges for it; counts of weekdays and hours.

        They are learned together: what a process that was stopped in between has asked for is not asked for again.
        """
        calendars = self._counted_calendars(rows)
        made = self._marginal_of(self.schema)
        made._schema = self.schema
        made._learn(rows, plan)
        return made, calendars

    @property
    def _marginal_form(self) -> Form[tuple[MarginalGenerator, list[list[Floats]]]]:
        def pack(both: tuple[MarginalGenerator, list[list[Floats]]]) -> dict[str, Any]:
            arrays, state = both[0]._state()
            return {"arrays": arrays, "state": state, "calendars": both[1]}

        def unpack(tree: Mapping[str, Any]) -> tuple[MarginalGenerator, list[list[Floats]]]:
            made = self._marginal_of(self.schema)
            made._schema = self.schema
            made._restore(dict(tree["arrays"]), dict(tree["state"]))
            return made, [list(counts) for counts in tree["calendars"]]

        return pack, unpack

    def _count(self, rows: PrivateRows, plan: Plan) -> Counted:
        if self._marginal is None or self._calendars is None:
            return self._raked(super()._count(rows, plan), self._counted_calendars(rows))
        model = self._marginal._fitted_model
        shares = tuple(np.asarray(model.marginal((i,)) / model.total) for i in range(len(self._marginal._axes)))
        return self._raked(Counted(tuple(self._marginal._axes), shares, float(model.total)), self._calendars)

    @property
    def _parted(self) -> bool:
        """Whether columns may be read as several tokens: not where nothing would learn what they say of each other."""
        return self.parts and self._trains

    def _start(self, rows: PrivateRows, plan: Plan) -> list[Axis]:
        axes = super()._start(rows, plan)
        return [in_weeks(a) for a in axes] if self._parted else axes

    def _counted_calendars(self, rows: PrivateRows) -> list[list[Floats]]:
        """Counts of weekdays and hours, for every column, each under its own charge."""
        asked = [calendar_axes(c) if self._parted else [] for c in self.schema.modelled]
        axes = [a for some in asked for a in some]
        if axes:
            rows.tabulate([(a,) for a in axes])
        found = [[rows.counts([a], label=n).astype(np.float64) for n, a in self._labelled(some)] for some in asked]
        rows.forget(axes)
        return found

    def _labelled(self, axes: Sequence[Axis]) -> Iterator[tuple[str, Axis]]:
        """The calendar axes of one column, with what they are charged under."""
        labels = [calendar_label(a.column, p) for a in axes[:1] for p in calendar_parts(a.column)]
        return zip(labels, axes, strict=False)

    def _raked(self, counted: Counted, calendars: Sequence[Sequence[Floats]]) -> Counted:
        """Dates with the weekdays and hours that were counted."""
        if not self._parted:
            return counted
        columns = zip(counted.axes, counted.shares, calendars, strict=True)
        return replace(
            counted, axes=tuple(raked(a, s, [settled(c, counted.total) for c in counts]) for a, s, counts in columns)
        )

    def _written(self, counted: Counted) -> Written:
        if self._known is None or self._known[0] is not counted:
            places = math.isinf(self.epsilon)
            self._known = counted, Written.of(counted.axes, counted.shares, parts=self._parted, places=places)
        return self._known[1]

    def _wanted(self, counted: Counted) -> Sequence[Floats]:
        return self._written(counted).shares

    def _cells_for(self, plan: Plan) -> Any:
        return super()._cells_for(plan) if plan.private else lambda rows: CELLS

    @property
    def _resumable(self) -> tuple[str, ...]:
        return (TRAINING,)

    def _order(self) -> tuple[int, ...]:
        """Columns as the schema has them, the label last."""
        names = [c.name for c in self.schema.modelled]
        return tuple(sorted(range(len(names)), key=lambda i: names[i] == self.schema.target))

    def _orders(self, written: Written) -> Orders:
        return Orders(self._order(), *ORDERS, written.columns)

    def _part(self, written: Written) -> Part:
        """The hidden layers."""
        ordered = written.ordered if self._parted and math.isinf(self.epsilon) else ()
        if self.size == "full":
            return Attention(written.sizes, flat(written.margins), self._hidden, self.layers, ordered)
        return Perceptrons(written.sizes, flat(written.margins), self._hidden, ordered)

    def _untrained(self, counted: Counted) -> Conditionals:
        parts, written = dict[str, Part](), self._written(counted)
        if self._share or math.isinf(self.epsilon):
            parts["deep"] = self._part(written)
        if self._trains and math.isfinite(self.epsilon):
            parts["wide"] = Wide(written.sizes, flat(written.margins), biased=not parts)
        within = Within(written.spellings, written.shares) if written.columns else None
        return Conditionals(written.sizes, parts, within)

    def _trained(self, rows: PrivateRows, plan: Plan, counted: Counted) -> nn.Module:
        net = self._untrained(counted).to(self.device)
        if self._marginal is not None:
            self._pretrain(net, counted)
        if self._trains:
            self._descend(net, rows, plan, counted)
        return net

    def _descend(self, net: Conditionals, rows: PrivateRows, plan: Plan, counted: Counted) -> None:
        """Train on the rows: linear maps by DP-SGD, hidden layers where nothing is private."""
        schedule = self._training(plan, counted)
        written = self._written(counted)
        likelihood = Likelihood(written, net, self._orders(written), averaged=self.orders)
        rate = self.learning_rate or (LEARNING_RATE if plan.private else PLAIN_LEARNING_RATE)
        trained = [p for p in net.parameters() if p.requires_grad]
        average = Average(likelihood, decay=DECAY[not plan.private])
        course = Course(
            torch.optim.Adam(trained, lr=rate, betas=BETAS),
            factor=warm_up(round(WARM_UP * schedule.steps)),
            average=average,
        )
        expected = self._expected_units(counted, schedule)
        self._run(Descent(likelihood, rows, schedule=schedule, clip=CLIP, expected_units=expected), course)
        average.copy_to(likelihood)

    def _pretrain(self, net: Conditionals, counted: Counted) -> None:
        """Train the hidden layers on rows of the marginal model, and leave them as they are from then on."""
        written = self._written(counted)
        deep, orders = net.parts["deep"], self._orders(written)
        alone, steps = Conditionals(net.sizes, {"deep": deep}, net.within), self.pretraining
        cells = self._made_up(written)
        optimizer = torch.optim.Adam(deep.parameters(), lr=PLAIN_LEARNING_RATE, betas=BETAS)
        average, factor = Average(deep, decay=DECAY[1]), warm_up(round(WARM_UP * steps))
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = PLAIN_LEARNING_RATE * factor(step) * min(1.0, 4 * (steps - step) / steps)
            batch = cells[torch.randint(len(cells), (BATCH,))].to(self.device)
            optimizer.zero_grad()
            alone(batch, orders.known(len(batch), batch.device)).mean().backward()
            optimizer.step()
            average.update()
            self._tell("training on rows of the marginal model", (step + 1) / steps)
        average.copy_to(deep)
        deep.eval().requires_grad_(False)

    def _made_up(self, written: Written) -> Tensor:
        """Tokens of rows drawn from the marginal model, shape (rows, tokens)."""
        if self._marginal is None:
            raise TypeError("there is no marginal model")
        rng = np.random.default_rng(self.random_state)
        drawn = np.asarray(self._marginal._fitted_model.sample(MADE_UP * self.pretraining, rng), dtype=np.int64)
        if not written.columns:
            return torch.from_numpy(drawn)
        return torch.from_numpy(written.drawn(drawn, rng))

    # -------------------------------------------------------------------------------------------------------- sample
    def _plain_law(self, counted: Counted, net: nn.Module) -> ConditionalLaw:
        net = net.to(self.device)
        if not isinstance(net, Conditionals):
            raise TypeError("no network of conditionals")
        written = self._written(counted)
        return ConditionalLaw.of(
            written.axes,
            net.opened,
            order=self._order(),
            starts=written.shares,
            spellings=written.spellings,
            lifted=True,
        )

    @property
    def _drawing(self) -> ConditionalLaw:
        law = self._fitted[2]
        if not isinstance(law, ConditionalLaw):
            raise TypeError("no law of conditionals")
        if (law.temperature, law.top_p) == (self.temperature, self.top_p):
            return law
        return replace(law, temperature=self.temperature, top_p=self.top_p)

    def log_prob(self, table: pd.DataFrame) -> Floats:
        """Natural logarithm of the probability that a sampled row is this one, for each row of `table`.

        Args:
          table: the user's own rows in all of the schema's learned columns, read as `impute` reads them.

        Returns:
          Shape (rows,); -inf for a row that is never drawn. Probabilities are of values as the schema publishes them
          (of a number, one step of its grid), so that they compare between rows, and between models of one schema.

        Raises:
          UsageError: not fitted.
          DataError: columns missing or unknown, or a value that its column refuses.

        Privacy: post-processing of the fitted model. `table` is the user's own; what comes out is as private as it is.
        """
        self.schema  # noqa: B018  (raises where there is no fit)
        check_subset(self.schema, table)
        self.schema.check_columns(table.columns)
        return self._drawing.log_prob({c.name: encode_present(c, table[c.name]) for c in self.schema.modelled})


def calendar_label(column: Column, part: str) -> str:
    """Label of a histogram of the column's weekdays, or of its hours."""
    return f"{part} of {brief(column)}"


def steps_for(epsilon: float) -> int:
    """Noisy gradients that epsilon is worth."""
    return PLAIN_STEPS if math.isinf(epsilon) else int(np.clip(round(STEPS * math.sqrt(epsilon)), *MOST_STEPS))
