"""What rows are drawn from: a graphical model over cells, axes that draw codes within cells, and the rules between
columns; under conditions, with a label's shares set, and around what is known of a row.

Conditions act on the model and the axes together: an axis keeps the codes that are allowed, the model is given how
likely each cell is to show one, and the rules' weights of cells are replaced by those under the restricted axes. So
rows have exactly the law of unconditioned ones that happen to obey; nothing is drawn and thrown away.

Privacy: post-processing of a fitted model. Nothing here sees a private row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from tabveil._chains import EVEN
from tabveil._groups import PASSES
from tabveil.completion import UNKNOWN, completed
from tabveil.conditions import Balance, may_hold
from tabveil.encoding import INVALID, Axis, Codes, CodeSet, Floats, size
from tabveil.enforcing import Rules
from tabveil.errors import UsageError
from tabveil.graphical_model import NEVER, Factor, GraphicalModel, Ints, systematic


@dataclass(frozen=True, eq=False)
class Law:
    """What rows are drawn from.

    Attributes:
      axes: one per modelled column: it draws codes within cells.
      model: over the axes' cells; holds the rules' weights of cells.
      rules: constraints between columns, and the columns that follow from others.
      free: no condition is set, so that public values may stand in where no row obeys the rules.
    """

    axes: tuple[Axis, ...]
    model: GraphicalModel
    rules: Rules
    free: bool = True

    def place(self, name: str) -> int:
        """Position of the column called `name`."""
        return next(i for i, a in enumerate(self.axes) if a.column.name == name)

    def given(self, allowed: Mapping[str, CodeSet]) -> Law:
        """The law of rows whose codes are all `allowed`: restricted axes, and the model given their evidence.

        A cell that an allowed range cuts counts by the share of its rows that the axis puts inside; the conjunction of
        all columns is conditioned on at once, so rows have the law of unconditioned ones that happen to obey.

        Raises:
          UsageError: no row of the model obeys.
        """
        axes, evidence = list(self.axes), dict[int, Floats]()
        for name, codes in allowed.items():
            i = self.place(name)
            axes[i], evidence[i] = self.axes[i].restricted(codes)
            if not self.chance(i, evidence[i]) > NEVER:
                raise UsageError(
                    f"Column {name!r}, in a condition: the model never draws what it allows; it holds "
                    f"{may_hold(axes[i].column)}."
                )
        try:
            model = self.model.conditioned(evidence, factors=self._factors(axes), instead_of=self._factors(self.axes))
            return replace(self, axes=tuple(axes), model=model, free=False)
        except UsageError as error:
            names = ", ".join(repr(n) for n in allowed)
            raise UsageError(f"The model never draws what the conditions on {names} allow together.") from error

    def chance(self, i: int, evidence: Floats) -> float:
        """Probability of what is known of column i, whose probability given each cell is `evidence`."""
        return float(self.model.marginal((i,)) @ evidence) / self.model.total

    def cell_shares(self, i: int) -> Floats:
        """How likely each cell of column i is, shape (cells,)."""
        return np.asarray(self.model.marginal((i,)) / self.model.total)

    def _factors(self, axes: Sequence[Axis]) -> list[Factor]:
        """The rules' weights of cells under `axes`, which may lack the last cells of the model's."""
        return [_widened(f, self.model.sizes) for f in self.rules.factors(axes, self.model.sizes)]

    def draw(self, cells: Ints, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes within `cells`, shape (rows, axes), of every modelled column; rules hold wherever they can."""
        return self.rules.draw(self.axes, cells, rng)

    def sample(self, rows: int, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes of `rows` rows for every learned column; rules hold in each.

        Raises:
          UsageError: there are conditions, and no row obeys them and the rules together.
        """

        def draw(wanted: Ints) -> dict[str, Codes]:
            return self.draw(self.model.sample(len(wanted), rng), rng)

        return self.rules.obeyed(draw, rows, rng, free=self.free)

    def balanced(self, balance: Balance, rows: int, rng: np.random.Generator) -> tuple[dict[str, Codes], Floats]:
        """`sample` with the shares that `balance` asks for, by quota, and the model's own shares."""
        split = Split.of(self, balance)
        group = split.quotas(rows, rng)
        if any(balance.column in g.names for g in self.rules.groups):
            return self._by_group(balance, group, rng), split.model
        label = self.place(balance.column)

        def draw(wanted: Ints) -> dict[str, Codes]:
            known = np.full((len(wanted), len(self.axes)), UNKNOWN, dtype=np.int64)
            known[:, label] = split.cells(group[wanted], rng)
            cells = completed(self.model, known, rng, draw=systematic)[0]
            own = split.codes(group[wanted], cells[:, label], rng)
            return {**self.draw(cells, rng), balance.column: own}

        return self.rules.obeyed(draw, rows, rng, kind=group), split.model

    def _by_group(self, balance: Balance, group: Codes, rng: np.random.Generator) -> dict[str, Codes]:
        """A label that rules speak of: each group is drawn under the condition that it is this group."""
        codes: dict[str, Codes] = {}
        for number in np.unique(group).tolist():
            rows = np.flatnonzero(group == number)
            for name, found in self.given({balance.column: balance.groups[number]}).sample(len(rows), rng).items():
                codes.setdefault(name, np.empty(len(group), dtype=np.int64))[rows] = found
        return codes

    def without_missing(self, allowed: Mapping[str, CodeSet] | None = None) -> Law:
        """The law of rows in which nothing is missing, of columns that the model has seen filled, and whose codes are
        `allowed`; no cell is impossible to know, whatever the model says of it, and none that holds a value without
        weight.
        """
        axes, evidence, asked = list(self.axes), dict[int, Floats](), allowed or {}
        for i, axis in enumerate(self.axes):
            name = axis.column.name
            if not axis.column.nullable and name not in asked:
                continue
            present, shares = axis.restricted(asked.get(name, CodeSet.of([(0, size(axis.column))])))
            held = np.isin(np.arange(axis.size), present.cell)
            if held.any() if name in asked else self.chance(i, shares) > NEVER:
                axes[i], evidence[i] = present, np.where((shares > 0) | ~held, shares, EVEN)
        model = self.model
        if evidence:
            model = model.weighted(self._factors(axes), instead_of=self._factors(self.axes))
        return replace(self, axes=tuple(axes), model=model.floored().times(evidence))

    def completed(self, codes: Mapping[str, Codes], draws: int, rng: np.random.Generator) -> list[dict[str, Codes]]:
        """`codes` with missing ones drawn given the others, `draws` times, and every learned column.

        What is known of computed columns counts: one that another implies restricts that other, the one unknown part of
        a sum is computed. Rows that break a rule are completed anew, PASSES times at most: what is known of them may
        break it already.
        """
        known = self.rules.known(codes)
        out = [{n: c.copy() for n, c in known.items()} for _ in range(draws)]
        for law, rows in self._by_implied(known):
            part = {n: c[rows] for n, c in known.items()}
            for into, found in zip(out, law._completions(part, draws, rng), strict=True):
                for name, c in found.items():
                    into[name][rows] = c
        return out

    def _by_implied(self, known: Mapping[str, Codes]) -> Iterator[tuple[Law, Ints]]:
        """Rows by what they know of implied columns and not of what implies them, and the law given that."""
        rows = len(next(iter(known.values())))
        implied = self.rules.implied(known)
        kinds = np.stack([np.zeros(rows, dtype=np.int64), *implied.values()], axis=1)
        distinct, which = np.unique(kinds, axis=0, return_inverse=True)
        for number, kind in enumerate(distinct[:, 1:].tolist()):
            asked = {n: CodeSet.of([(v, v + 1)]) for n, v in zip(implied, kind, strict=True) if v != INVALID}
            yield self._asked(asked), np.flatnonzero(which.ravel() == number)

    def _asked(self, asked: Mapping[str, CodeSet]) -> Law:
        """The law of filled rows given implied columns; without these where they follow from a sum."""
        try:
            return self.without_missing(self.rules.on_modelled(asked))
        except UsageError:
            return self.without_missing()

    def _completions(self, known: Mapping[str, Codes], draws: int, rng: np.random.Generator) -> list[dict[str, Codes]]:
        """Rows around what is `known` of every learned column."""
        pairs = [(a, known[a.column.name]) for a in self.axes]
        cells = np.stack([np.where(c == INVALID, UNKNOWN, a.cells(c)) for a, c in pairs], axis=1)
        return [self._completion(known, cells, at, rng) for at in completed(self.model, cells, rng, draws=draws)]

    def _completion(
        self, known: Mapping[str, Codes], fixed: Ints, cells: Ints, rng: np.random.Generator
    ) -> dict[str, Codes]:
        every = self._around(known, cells, rng)
        open_ = np.logical_or.reduce([known[a.column.name] == INVALID for a in self.axes])
        for _ in range(PASSES):
            worst = self.rules.broken(every)
            rows = np.flatnonzero(open_ & (worst > 0))
            if not len(rows):
                break
            again = completed(self.model, fixed[rows], rng)[0]
            fresh = self._around({n: c[rows] for n, c in known.items()}, again, rng)
            better = self.rules.broken(fresh) <= worst[rows]  # one rule that cannot hold must not cost others
            for name, found in fresh.items():
                every[name][rows[better]] = found[better]
        return every

    def _around(self, known: Mapping[str, Codes], cells: Ints, rng: np.random.Generator) -> dict[str, Codes]:
        """Every learned column, drawn within `cells` or computed around what is known."""
        return self.rules.around(self.rules.given(self.axes, cells, known, rng), known)


def restricted(
    axes: Sequence[Axis], evidence: Mapping[int, Floats], allowed: Mapping[str, CodeSet]
) -> tuple[tuple[Axis, ...], dict[int, Floats]]:
    """Axes cut down to codes that are all `allowed`, and by position how likely each cell of these columns is to show
    one, times the `evidence` there was, as wide as that or as the axis was before.

    Raises:
      UsageError: no cell of a column shows what it allows.
    """
    cut, found = list(axes), dict(evidence)
    for name, codes in allowed.items():
        i = next(i for i, a in enumerate(axes) if a.column.name == name)
        width = len(found[i]) if i in found else cut[i].size
        cut[i], shares = cut[i].restricted(codes)
        wide = np.pad(shares, (0, width - len(shares)))
        found[i] = found[i] * wide if i in found else wide
        if not found[i].any():
            raise UsageError(
                f"Column {name!r}, in a condition: the model never draws what it allows; it holds "
                f"{may_hold(cut[i].column)}."
            )
    return tuple(cut), found


def too_few(names: Iterable[str], found: int, tried: int) -> UsageError:
    """What is said where a search for rows that obey conditions on `names` reaches its bound."""
    return UsageError(
        f"Only {found} of {tried} rows that the model drew meet the conditions on {', '.join(map(repr, names))} "
        "together, too few for what is asked: widen the conditions, ask for fewer rows, or use a generator that need "
        "not search, such as aim."
    )


def not_missing(axes: Sequence[Axis]) -> dict[str, CodeSet]:
    """The condition that no column is missing, of those of which some cell holds a value."""
    present = {a.column.name: CodeSet.of([(0, size(a.column))]) for a in axes}
    return {a.column.name: present[a.column.name] for a in axes if a.restricted(present[a.column.name])[1].any()}


class Celled(Protocol):
    """A law of rows by way of cells."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """One per column; those under a condition may lack the last cells of the law's."""

    def place(self, name: str) -> int:
        """Position of the column called `name`."""

    def cell_shares(self, i: int) -> Floats:
        """How likely each cell of column i is, shape (cells,)."""


class Searched(Celled, Protocol):
    """One whose rows under conditions are drawn by `given`."""

    def given(self, allowed: Mapping[str, CodeSet]) -> Self:
        """The law of rows whose codes are all `allowed`."""

    def sample(self, rows: int, rng: np.random.Generator) -> dict[str, Codes]:
        """Codes of `rows` rows."""


def balanced(law: Searched, balance: Balance, rows: int, rng: np.random.Generator) -> tuple[dict[str, Codes], Floats]:
    """Rows with the shares that `balance` asks for, by quota, each group drawn under the condition that it is this one;
    and the law's own shares.
    """
    split = Split.of(law, balance)
    group = split.quotas(rows, rng)
    codes = {a.column.name: np.empty(rows, dtype=np.int64) for a in law.axes}
    for number in np.unique(group).tolist():
        at = np.flatnonzero(group == number)
        for name, found in law.given({balance.column: balance.groups[number]}).sample(len(at), rng).items():
            codes[name][at] = found
    return codes, split.model


@dataclass(frozen=True, eq=False)
class Split:
    """A label's groups of values under a law, and the shares they shall have.

    Attributes:
      axes: for each group the label's axis, restricted to it.
      chances: shape (groups, cells), probability of each group in each cell of the label.
      shares: shape (groups,), summing to 1.
    """

    axes: tuple[Axis, ...]
    chances: Floats
    shares: Floats

    @classmethod
    def of(cls, law: Celled, balance: Balance) -> Split:
        """Raises UsageError where the model never draws a group that shall have a share."""
        i = law.place(balance.column)
        parts = [law.axes[i].restricted(group) for group in balance.groups]
        chances = np.array([law.cell_shares(i)[: len(evidence)] * evidence for _, evidence in parts])
        able = chances.sum(axis=1) > NEVER
        shares = able / max(able.sum(), 1) if balance.shares is None else np.asarray(balance.shares)
        if not able.any() or (shares[~able] > 0).any():
            raise UsageError(
                f"Column {balance.column!r}: the model never draws a value that balance gives a share, under these "
                f"conditions; it holds {may_hold(law.axes[i].column)}."
            )
        return cls(tuple(axis for axis, _ in parts), chances, shares)

    @property
    def model(self) -> Floats:
        """The share of each group in the law itself, among all groups together."""
        return np.asarray(self.chances.sum(axis=1) / self.chances.sum())

    def quotas(self, rows: int, rng: np.random.Generator) -> Codes:
        """A group per row in random order: each `rows` times its share, rounded up or down, by chance, once for all."""
        ends = np.cumsum(self.shares)
        steps = np.floor(ends / ends[-1] * rows + rng.random()).astype(np.int64)
        counts = steps - np.append(0, steps[:-1])
        return rng.permutation(np.repeat(np.arange(len(counts)), counts))

    def cells(self, group: Codes, rng: np.random.Generator) -> Codes:
        """A cell of the label for each row, by the model's law given its group."""
        return systematic(self.chances, group, rng)

    def codes(self, group: Codes, cells: Codes, rng: np.random.Generator) -> Codes:
        """A code of the label for each row, in its group and its cell."""
        order = np.argsort(group, kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(group, minlength=len(self.axes)))[:-1])
        codes = np.empty(len(group), dtype=np.int64)
        for axis, part in zip(self.axes, parts, strict=True):
            if len(part):
                codes[part] = axis.draw(cells[part], rng)
        return codes


def _widened(factor: Factor, sizes: Sequence[int]) -> Factor:
    """The factor with weight 0 for cells beyond its table: cells of which no code is allowed."""
    wide = np.zeros([sizes[a] for a in factor.attributes])
    wide[tuple(slice(n) for n in factor.weights.shape)] = factor.weights
    return Factor(factor.attributes, wide)
