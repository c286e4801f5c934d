"""What every generator is: a plan, a price, a fit that pays first, and samples that are free.

Privacy: `fit` checks structure only (names, approval, delta), commits the whole plan to the ledger, and then hands
rows to the subclass behind a `PrivateRows`, which gives out nothing but charged answers. A fitted generator holds
charged answers and public knowledge; sampling from it is post-processing. Neighbouring tables differ by adding or
removing one unit.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import pandas as pd
from dp_accounting import DpEvent, NonPrivateDpEvent

from tabveil import accounting, learning
from tabveil.accounting import Spend
from tabveil.caveats import outside
from tabveil.columns import Identifier
from tabveil.conditions import Balance, Conditions, Prior, Where
from tabveil.encoding import Codes, Floats, decode, encode_present, name_rows, size
from tabveil.errors import DataError, LedgerError, UsageError
from tabveil.generators import generators
from tabveil.generators._saved import Arrays, read_model, reading, write_model
from tabveil.ledger import Ledger, Receipt
from tabveil.mechanisms import PrivateRows
from tabveil.noise import noise_is_seeded
from tabveil.records import RELATION, PrivacyStatement
from tabveil.schema import Schema
from tabveil.tables import Table, open_table

Progress = Callable[[str, float], None]
"""Told what is being done and which share of it, 0 to 1; neither depends on the data."""

T = TypeVar("T")
Form = tuple[Callable[[T], Any], Callable[[Any], T]]
"""To a tree of dicts, lists, arrays and JSON values, and back."""

BATCH_ROWS = 1_000_000
"""Most rows drawn at a time where a sample is written to a file."""

_SMALLER_STEPS = 100
"""How often a generator that does not plan for learning is asked for less, 3 % each time."""


@dataclass(frozen=True)
class Plan:
    """What a fit will do and cost, from public knowledge alone.

    Attributes:
      generator: plugin name.
      epsilon, delta: what the user allows; epsilon inf means not private.
      spends: every charged step with its label; empty where epsilon is inf.
      seconds: roughly what the fit may take beside reading the rows; None where the generator does not say.
    """

    generator: str
    epsilon: float
    delta: float
    spends: tuple[Spend, ...]
    seconds: float | None = None

    @property
    def private(self) -> bool:
        """Whether anything is promised."""
        return math.isfinite(self.epsilon)

    @property
    def event(self) -> DpEvent:
        """All steps as one event."""
        return accounting.event_of(self.spends) if self.private else NonPrivateDpEvent()

    @property
    def cost(self) -> float:
        """The epsilon the steps add up to at `delta`; never above `epsilon`."""
        return accounting.epsilon(self.event, self.delta) if self.private else math.inf


def check_epsilon(epsilon: float) -> float:
    """`epsilon` if it is a number above 0 (inf allowed); raises UsageError otherwise."""
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or math.isnan(epsilon) or epsilon <= 0:
        raise UsageError("epsilon must be a number above 0; write inf to say that nothing is private.")
    return float(epsilon)


def check_delta(delta: float | None, epsilon: float) -> float:
    """`delta` if it is a number from 0 to below 1; raises UsageError otherwise, or where a private fit has none."""
    if delta is None:
        if math.isfinite(epsilon):
            raise UsageError(
                "delta must be given: 0 for pure differential privacy, else well below 1 / rows, such as 1e-6."
            )
        return 0.0
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 <= delta < 1:
        raise UsageError("delta must be a number from 0 to below 1.")
    return float(delta)


def whole(name: str, value: int, low: int, high: int) -> int:
    """`value` if it is a whole number from `low` to `high`; raises UsageError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise UsageError(f"{name} must be a whole number from {low} to {high}.")
    return int(value)


def check_unit(ledger: Ledger, dataset: str, schema: Schema) -> None:
    """Raise LedgerError unless the account protects what the schema protects: a row's price is not a person's."""
    unit = ledger.statement(dataset).unit
    if unit != schema.unit:
        raise LedgerError(
            f"The account {dataset!r} protects each {unit}, the schema each {schema.unit}: open an account whose unit "
            "is the schema's."
        )


@dataclass(frozen=True, eq=False)
class Drawn:
    """Codes drawn under conditions.

    Attributes:
      codes: for every learned column, shape (rows,).
      shares: where a label was balanced, how often the model itself shows each of its groups under the same
        conditions, summing to 1 over the groups asked for.
    """

    codes: Mapping[str, Codes]
    shares: Floats | None = None


class Generator(ABC):
    """Base of all generators.

    Args:
      epsilon: privacy budget of one fit, above 0; math.inf says aloud that nothing is private.
      delta: in [0, 1); asked for wherever epsilon is finite; at most 1 / public_rows.
      random_state: repeats initialisation and sampling. Privacy noise cannot be seeded.
      progress: called as progress(stage, share).

    Raises:
      UsageError: an argument out of its range.
    """

    guarantee: ClassVar[str] = ""
    """One sentence: what makes this generator private."""

    keeps_constraints: ClassVar[bool] = False
    """Whether every sampled row obeys the constraints of the schema; if not, a schema with constraints is refused."""

    pure: ClassVar[bool] = True
    """Whether it can do without a delta; one that cannot refuses delta 0."""

    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Options under which a fit takes seconds whatever the table: the conformance checks make it with them."""

    conditional: ClassVar[bool] = False
    """Whether it draws exactly under conditions: `_draw_given` and `_complete` are its own."""

    least_strength: ClassVar[float] = 0.0
    """Rows per standard deviation of noise (`planning`) below which single columns say more; 0 where not measured."""

    local: ClassVar[frozenset[str]] = frozenset({"progress"})
    """Options that are of this process or machine only: no model and no release names them."""

    def __init__(
        self,
        *,
        epsilon: float,
        delta: float | None = None,
        random_state: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.epsilon = check_epsilon(epsilon)
        self.delta = check_delta(delta, self.epsilon)
        self.random_state = random_state
        self.progress = progress
        self._schema: Schema | None = None
        self._statement: PrivacyStatement | None = None

    @classmethod
    def plugin_name(cls) -> str:
        """The name this generator is registered under: its file's."""
        return cls.__module__.rsplit(".", 1)[-1]

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Constructor arguments, as scikit-learn's get_params lists them."""
        return tuple(p for p in inspect.signature(cls.__init__).parameters if p != "self")

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Constructor arguments and their values, as scikit-learn's."""
        return {name: getattr(self, name) for name in self.option_names()}

    def settings(self) -> dict[str, Any]:
        """What a release says of a fit beside its budget: the options, and what the fit settled for itself."""
        return self._options()

    def _options(self) -> dict[str, Any]:
        return {k: v for k, v in self.get_params().items() if k not in {*self.local, "epsilon", "delta"}}

    def set_params(self, **params: Any) -> Self:
        """Set constructor arguments, checked as the constructor does; the generator must be fitted again."""
        unknown = sorted(set(params) - set(self.option_names()))
        if unknown:
            raise UsageError(f"{self.plugin_name()} has no option {', '.join(unknown)}.")
        self.__dict__.update(vars(type(self)(**{**self.get_params(), **params})))
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(epsilon={self.epsilon:g}, delta={self.delta:g})"

    @abstractmethod
    def _spends(self, schema: Schema) -> tuple[Spend, ...]:
        """The charged steps of a private fit under `schema`, adding up to at most epsilon at delta."""

    @abstractmethod
    def _learn(self, rows: PrivateRows, plan: Plan) -> None:
        """Fit to charged answers of `rows`."""

    @abstractmethod
    def _draw(self, rows: int, rng: np.random.Generator) -> Mapping[str, Codes]:
        """Codes of `rows` synthetic rows for every learned column."""

    def _draw_given(self, rows: int, conditions: Conditions, rng: np.random.Generator) -> Drawn:
        """Codes of `rows` synthetic rows that obey `conditions`, with exactly the model's law given them."""
        raise self._unconditional()

    def _complete(self, codes: Mapping[str, Codes], draws: int, rng: np.random.Generator) -> Sequence[dict[str, Codes]]:
        """`codes` with missing ones (code `size(column)`) filled from the model given the others, `draws` times;
        columns not among them are all missing.
        """
        raise self._unconditional()

    def _unconditional(self) -> UsageError:
        return UsageError(
            f"The generator {self.plugin_name()!r} cannot condition exactly: use one that can, such as mst."
        )

    @abstractmethod
    def _default_rows(self) -> int:
        """How many rows to sample where nobody says: an estimate from charged answers."""

    @abstractmethod
    def _state(self) -> tuple[Arrays, dict[str, Any]]:
        """What a saved model needs: arrays, and JSON values."""

    @abstractmethod
    def _restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Undo `_state`; `self.schema` is set already."""

    def plan(self, schema: Schema) -> Plan:
        """The price of a fit under `schema`, before any data.

        Raises:
          SchemaError: a private fit under a draft.
          UsageError: delta above 1 / public_rows, or constraints that this generator does not keep.
        """
        if schema.constraints and not self.keeps_constraints:
            raise UsageError(
                f"{self.plugin_name()} does not keep constraints between columns: take them out of the schema, or use "
                "a generator that does, such as mst."
            )
        if not math.isfinite(self.epsilon):
            return Plan(self.plugin_name(), math.inf, self.delta, (), self.expected_seconds(schema))
        schema.require_approved()
        if schema.public_rows is not None and self.delta > 1 / schema.public_rows:
            raise UsageError(
                f"delta must be at most 1 / public_rows = {1 / schema.public_rows:.3g}: above it, publishing whole "
                "rows at random would count as private."
            )
        spends = self._all_spends(schema)
        return Plan(self.plugin_name(), self.epsilon, self.delta, spends, self.expected_seconds(schema))

    def expected_seconds(self, schema: Schema) -> float | None:
        """What a fit under `schema` may take beside reading the rows, from public knowledge alone: an order of
        magnitude, on two cores. None where the generator cannot say.
        """
        return None

    def rehearsal(self, plan: Plan, rows: int) -> tuple[int, float] | None:
        """Steps and sampling rate of a fit's training, for `planning` to measure a few steps on made-up rows.

        (0, 1.0) without a training; None where a fit on made-up rows would say nothing of how long one on real rows is.
        """
        return None

    def shorter(self, steps: int, rate: float) -> dict[str, Any]:
        """Options of a training of so many steps at this rate, every step as long as one of its own."""
        return {"steps": steps, "rate": rate}

    def delegate(self, schema: Schema) -> Generator:
        """The generator that does the work of a fit under `schema`: itself, where it does not choose another one."""
        return self

    def reasons(self, schema: Schema) -> tuple[str, ...]:
        """Sentences on what it chooses for a fit under `schema`; none where there is nothing to choose."""
        return ()

    def _all_spends(self, schema: Schema) -> tuple[Spend, ...]:
        """The subclass's steps and, where it has not planned for them itself (`divide` does), those that resolve
        `schema`.

        The latter get the schema's `learn_share`; the subclass is then asked again with less epsilon, until all fit.
        """
        spends = self._spends(schema)
        if set(learning.labels(schema)) <= {s.label for s in spends}:
            return spends
        pure = self.delta == 0
        budget = self.epsilon if pure else float(accounting.rho_budget(self.epsilon, self.delta))
        first = learning.spends(schema, learning.share(schema) * budget, delta=self.delta)
        left = 1 - learning.share(schema)
        for step in range(_SMALLER_STEPS):
            smaller = self.epsilon * (left if pure else math.sqrt(left)) * 0.97**step
            both = first + type(self)(**{**self.get_params(), "epsilon": smaller})._spends(schema)
            if accounting.epsilon(accounting.event_of(both), self.delta) <= self.epsilon:
                return both
        raise UsageError(f"{self.plugin_name()} leaves no budget for what the schema leaves to be learned.")

    def fit(self, table: Any, schema: Schema, *, ledger: Ledger | None = None, dataset: str | None = None) -> Self:
        """Learn from `table`, once it is paid for.

        Args:
          table: what `open_table` takes: a DataFrame, a path, a Table.
          schema: approved public knowledge.
          ledger: keeps the account; needed wherever epsilon is finite.
          dataset: name of the account that pays.

        Raises:
          SchemaError, DataError, UsageError: before anything is charged where structure is wrong (a column missing);
            after it where a row holds a value that its column refuses.
          BudgetExceededError, LedgerError: before anything is read.
        """
        source = open_table(table)
        schema.check_columns(source.columns)
        plan = self.plan(schema)
        if plan.private and ledger is not None and dataset is not None:
            check_unit(ledger, dataset, schema)
        receipt = self._pay(plan, schema, ledger=ledger, dataset=dataset)
        self._schema = self._statement = None
        self._fit_paid(source, schema, (plan, receipt))
        self._statement = self._state_privacy(plan, schema, dataset)
        return self

    def _fit_paid(self, source: Table, schema: Schema, paid: tuple[Plan, Receipt]) -> None:
        plan, receipt = paid
        rows = PrivateRows(source, schema, receipt)
        try:
            form = (Schema.to_dict, Schema.from_dict)
            self._schema = self._kept("schema", lambda: learning.resolve(schema, rows, plan.spends), form)
            self._learn(rows.under(self._schema), plan)
        except BaseException:
            self._schema = None
            raise

    def _kept(self, name: str, ask: Callable[[], T], form: Form[T]) -> T:
        """What `ask` learns of charged rows in one go; generators that save it give what an earlier process learned."""
        return ask()

    def _pay(self, plan: Plan, schema: Schema, *, ledger: Ledger | None, dataset: str | None) -> Receipt:
        if not plan.private:
            if ledger is not None and dataset is None:
                raise LedgerError("Give dataset= with ledger=, so that a run without privacy is recorded.")
            if ledger is not None and dataset is not None:
                ledger.record(dataset, label=f"{plan.generator}, not private")
            return Receipt.uncharged()
        if ledger is None or dataset is None:
            raise LedgerError("A private fit needs an account that pays: give ledger= and dataset=.")
        return ledger.charge(dataset, plan.spends, label=f"{plan.generator} fit")

    def _state_privacy(self, plan: Plan, schema: Schema, dataset: str | None) -> PrivacyStatement:
        return PrivacyStatement(
            epsilon=plan.cost,
            delta=plan.delta,
            unit=schema.unit,
            relation=RELATION,
            events=tuple(accounting.event_to_dict(s.event) | {"label": s.label, "count": s.count} for s in plan.spends),
            accountant=accounting.ACCOUNTANT if plan.private else "none",
            theorem=accounting.COMPOSITION if plan.private else "none",
            dataset=dataset,
            outside=(*outside(schema, bought=plan.private and not noise_is_seeded()), *self._outside()),
            release=not noise_is_seeded(),
        )

    def _outside(self) -> tuple[str, ...]:
        """Sentences naming what the guarantee of this generator's fits does not cover, beside what `outside` names."""
        return ()

    def _tell(self, stage: str, share: float) -> None:
        if self.progress is not None:
            self.progress(stage, share)

    @property
    def schema(self) -> Schema:
        """The schema of the fit, what it left to be learned filled in; raises UsageError before one."""
        if self._schema is None:
            raise UsageError(f"{type(self).__name__} is not fitted yet: call fit first.")
        return self._schema

    @property
    def statement(self) -> PrivacyStatement:
        """What is promised about everything sampled from this fit; raises UsageError before one."""
        if self._statement is None:
            raise UsageError(f"{type(self).__name__} is not fitted yet: call fit first.")
        return self._statement

    def sample(
        self,
        n: int | None = None,
        *,
        where: Where | None = None,
        balance: Prior | None = None,
        random_state: int | None = None,
    ) -> pd.DataFrame:
        """Synthetic rows in the schema's columns, order and types.

        Args:
          n: how many rows, 0 or more; the public (or charged, estimated) row count by default.
          where: what every row obeys, column by column: a value, a 2-tuple (low, high) with both ends included and None
            for an open one, None for missing, or a set or list of these. Rows have exactly the model's law given all of
            it at once: the marginal generators draw nothing and throw it away, the deep ones search within a bound
            (`ctgan` is given a condition that fewer than 1 in 100 of its rows meet).
          balance: a label whose values shall be equally frequent (those the model can draw, missing not among them), or
            {label: {value: share, ...}} with shares that add up to 1. Counts are the shares' up to rounding; all else
            follows the model given the label. `frame.attrs["balance"]` holds both marginals, see `balance_report`.
          random_state: repeats the sample; the constructor's by default.

        Raises:
          UsageError: not fitted; n no whole number from 0 up; a condition that no row of the model meets; conditions
            asked of a generator that cannot draw under them exactly.

        Privacy: post-processing, conditions or not: it looks at the fitted model, the schema and what is asked.
        """
        rows, rng = self._rows(n), self._chance(random_state)
        return self._sampled(rows, self._conditions(where, balance), rng)

    def sample_batches(
        self,
        n: int | None = None,
        *,
        batch_rows: int = BATCH_ROWS,
        where: Where | None = None,
        balance: Prior | None = None,
        random_state: int | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Synthetic rows as `sample` gives them, at most `batch_rows` at a time, in memory for one batch.

        Each batch is drawn from the model by itself, so that the batches together follow its law as one sample does;
        where all rows fit into one batch it is `sample`'s frame. Identifiers are numbered through.

        Args:
          n: how many rows in all, 0 or more; as `sample`.
          batch_rows: most rows in one frame, at least 1.
          where: as `sample`.
          balance: as `sample`, in every batch.
          random_state: repeats the frames, for the same `batch_rows`.

        Returns:
          At least one frame, an empty one where n is 0.

        Raises:
          UsageError: as `sample`; not fitted, or a number out of range, at once.
        """
        rows, most = self._rows(n), whole("batch_rows", batch_rows, 1, 2**40)
        rng, conditions = self._chance(random_state), self._conditions(where, balance)
        starts = range(0, max(rows, 1), most)
        return (self._sampled(min(most, rows - s), conditions, rng, first=s + 1) for s in starts)

    def _chance(self, random_state: int | None) -> np.random.Generator:
        return np.random.default_rng(self.random_state if random_state is None else random_state)

    def _conditions(self, where: Where | None, balance: Prior | None) -> Conditions | None:
        """What is asked of the rows; None where it is nothing."""
        return Conditions.of(self.schema, where, balance) if where or balance is not None else None

    def _sampled(
        self, rows: int, conditions: Conditions | None, rng: np.random.Generator, *, first: int = 1
    ) -> pd.DataFrame:
        if conditions is None:
            return self._frame(self._draw(rows, rng), rows, first=first)
        drawn = self._draw_given(rows, conditions, rng)
        frame = self._frame(drawn.codes, rows, first=first)
        if conditions.balance is not None and drawn.shares is not None:
            frame.attrs["balance"] = self._balance_report(conditions.balance, drawn, drawn.shares)
        return frame

    def _frame(self, codes: Mapping[str, Codes], rows: int, *, first: int = 1) -> pd.DataFrame:
        parts = [
            name_rows(c, rows, first=first) if isinstance(c, Identifier) else decode(c, codes[c.name])
            for c in self.schema.columns
        ]
        return pd.concat(parts, axis=1)

    def _balance_report(self, balance: Balance, drawn: Drawn, shares: Floats) -> dict[str, Any]:
        """Both marginals of the label: {"column", "values": [{"value" (None for missing), "rows", "sample", "model"}]},
        `sample` and `model` being shares.
        """
        codes, column = drawn.codes[balance.column], self.schema[balance.column]
        counts = [int(g.holds(column, codes).sum()) for g in balance.groups]
        values = [
            {"value": name, "rows": count, "sample": count / max(len(codes), 1), "model": float(share)}
            for name, count, share in zip(balance.names, counts, shares, strict=True)
        ]
        return {"column": balance.column, "values": values}

    def impute(
        self, table: pd.DataFrame, m: int = 1, *, random_state: int | None = None
    ) -> pd.DataFrame | list[pd.DataFrame]:
        """`table` with its missing cells filled from the fitted model, given the known cells of each row.

        Args:
          table: the user's own rows in some or all of the schema's columns. None, NaN, NaT, declared missing texts and
            empty texts that are no category are missing; a column that is not there is filled whole. Other values are
            treated as the schema says (`invalid`): where that makes them missing, they are filled.
          m: how many completed tables, 1 or more.
          random_state: repeats the draws; the constructor's by default.

        Returns:
          For m = 1 one table, else a list of m, drawn one by one: in the schema's columns, order and types, with
          `table`'s index; identifiers are kept. Without constraints filled cells have the model's law given what the
          row knows, as cells of the model, and that nothing filled is missing. With constraints they are drawn around
          the known values, and obey wherever the known values let them and redraws find a way; docs/conditions.md says
          which draws are exact. The one unknown part of a known sum is computed. A column that the model has seen only
          missing stays so. Known cells that contradict the model or a constraint are kept, and the rest drawn so that
          the fewest of the model's tables are contradicted.

          The draws vary as missing values do, not as a refitted model would: combined by Rubin's rules, intervals are
          a little narrow.

        Raises:
          UsageError: not fitted; m no whole number from 1 up; a generator that cannot condition exactly.
          DataError: columns the schema does not have, or a value that its column refuses.

        Privacy: post-processing of the fitted model, no charge. `table` is the user's own: nothing of it is kept, and
        no message quotes it. What comes out is as private as `table` is.
        """
        self.schema  # noqa: B018  (raises where there is no fit)
        if isinstance(m, bool) or not isinstance(m, int | np.integer) or m < 1:
            raise UsageError("m must be a whole number of completed tables, 1 or more.")
        check_subset(self.schema, table)
        known = {c.name: encode_present(c, table[c.name]) for c in self.schema.learned if c.name in table}
        if not known:
            known = {c.name: np.full(len(table), size(c)) for c in self.schema.learned[:1]}
        filled = self._complete(known, int(m), self._chance(random_state))
        frames = [self._completed_frame(table, codes) for codes in filled]
        return frames[0] if m == 1 else frames

    def _completed_frame(self, table: pd.DataFrame, codes: Mapping[str, Codes]) -> pd.DataFrame:
        frame = self._frame(codes, len(table))
        for column in self.schema.columns:
            if isinstance(column, Identifier) and column.name in table:
                frame[column.name] = table[column.name].astype("string").astype(object).to_numpy()
        return frame.set_axis(table.index, axis=0)

    @property
    def default_rows(self) -> int:
        """How many rows `sample` gives where nobody says: the public, or the charged and estimated, row count."""
        return self.schema.public_rows or self._default_rows()

    def _rows(self, n: int | None) -> int:
        if n is None:
            return self.default_rows
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise UsageError("n must be a whole number of rows, 0 or more.")
        self.schema  # noqa: B018  (raises where there is no fit)
        return int(n)

    def save(self, folder: str | Path) -> None:
        """Write the model into `folder`: arrays.npz and model.json, no pickle, no rows.

        Raises:
          UsageError: not fitted.
          StorageError: the folder cannot be written.
        """
        arrays, state = self._state()
        model = {
            "generator": self.plugin_name(),
            "epsilon": str(self.epsilon),
            "delta": self.delta,
            "options": self._options(),
            "schema": self.schema.to_dict(),
            "statement": self.statement.to_dict(),
            "state": state,
        }
        write_model(folder, model, arrays)


def check_subset(schema: Schema, table: pd.DataFrame) -> None:
    """Raise DataError unless `table` holds some of the schema's columns, each once, and no others."""
    if not isinstance(table, pd.DataFrame):
        raise UsageError("impute takes a pandas DataFrame.")
    names = list(table.columns)
    unexpected = sum(n not in schema.names for n in names)
    if unexpected:
        raise DataError(f"The table has {unexpected} column(s) that the schema does not name: leave them out.")
    if len(set(names)) < len(names):
        raise DataError("The table has a column more than once.")


def create(name: str, *, epsilon: float, delta: float | None = None, **options: Any) -> Generator:
    """The generator called `name`, ready to fit: the one door to all of them.

    Raises:
      UsageError: no such generator or option, or a value out of range.
      MissingDependencyError: the generator needs a package that is not installed.
    """
    kind = kind_of(name)
    unknown = sorted(set(options) - set(kind.option_names()))
    if unknown:
        known = ", ".join(kind.option_names())
        raise UsageError(f"{name} has no option {', '.join(unknown)}; it has {known}.")
    return kind(epsilon=epsilon, delta=delta, **options)


def kind_of(name: str) -> type[Generator]:
    """The class of the generator called `name`; raises as `create`."""
    kind = generators.get(name)
    if not issubclass(kind, Generator):
        raise TypeError(f"{name} is no Generator")
    return kind


def load(folder: str | Path, **here: Any) -> Generator:
    """The fitted generator saved in `folder`; runs no code from it.

    Args:
      folder: as `save` wrote it.
      here: options of this process or machine (`Generator.local`), which no model keeps: `device`, `progress`, and the
        `base_model` that a `pretrained_lm` was fitted to.

    Raises:
      DataError: the folder holds no model, one of a newer format, or one that was changed since it was saved; or the
        base model is another one, or none is named.
      UsageError: an option that is not of this process or machine, or a value out of range.
      MissingDependencyError: the generator needs a package that is not installed.
    """
    source = Path(folder)
    with reading(source):
        model, arrays = read_model(source)
        kind = kind_of(model["generator"])
    made = _unfitted(kind, model, here, source)
    with reading(source):
        made._schema = Schema.from_dict(model["schema"])
        made._statement = PrivacyStatement.from_dict(model["statement"])
        made._restore(arrays, model["state"])
    return made


def _unfitted(kind: type[Generator], model: Mapping[str, Any], here: Mapping[str, Any], source: Path) -> Generator:
    """The generator as it was made, with the options of this machine."""
    foreign = sorted(set(here) - (kind.local & set(kind.option_names())))
    if foreign:
        raise UsageError(f"A saved {model['generator']} keeps its options: {', '.join(foreign)} cannot be given again.")
    with reading(source):
        made = create(model["generator"], epsilon=float(model["epsilon"]), delta=model["delta"], **model["options"])
    return made.set_params(**here) if here else made
