"""Constraints on codes: laws against brute force, wrong samplers that must be rejected, and no violation anywhere."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mutants.planting import Edit, planted
from tabveil import _groups, enforcing
from tabveil.columns import Boolean, Categorical, Column, Date, Decimal, Integer
from tabveil.constraints import Constraint, FixedCombinations, Implied, Inequality, Sum
from tabveil.encoding import Axis, size
from tabveil.enforcing import Rules, violations
from tabveil.estimation import estimate
from tabveil.graphical_model import GraphicalModel, Measurement, junction_tree
from tabveil.laws import Law
from tabveil.schema import Schema

ALPHA = 1e-9
N = 200_000

A = Integer(name="a", low=0, high=9)
B = Integer(name="b", low=2, high=13, missing=("",))
C = Integer(name="c", low=-1, high=15)
LOW_HIGH = Inequality(low="a", high="b")
CITY = Categorical(name="city", categories=tuple("tuvwxyz"), missing=("",), invalid="missing")
LAND = Categorical(name="land", categories=("k", "l", "m"))
CAPITAL = Boolean(name="capital")


def grid_axis(column: Column, cells: Sequence[Sequence[int]], seed: int = 0) -> Axis:
    """Cells given by the widths of their leaves; random weights, one leaf of weight 0; missing its own cell."""
    rng = np.random.default_rng(seed)
    widths = list(itertools.chain.from_iterable(cells))
    cell = [i for i, leaves in enumerate(cells) for _ in leaves]
    weight = rng.uniform(1, 4, len(widths))
    weight[-1] = 0.0
    if column.nullable:
        cell, weight = [*cell, len(cells)], np.append(weight, 1.0)
    return Axis(column, np.append(0, np.cumsum(widths)), np.array(cell), weight)


AXES = [
    grid_axis(A, [[2], [1, 2], [3], [1, 1]], 1),
    grid_axis(B, [[1, 1], [4], [1], [2, 1], [1, 1]], 2),
    grid_axis(C, [[3, 1], [5], [4, 4]], 3),
]


def code_law(axis: Axis) -> np.ndarray:
    """P(code | cell), shape (cells, codes), written by hand."""
    codes = size(axis.column) + axis.column.nullable
    law = np.zeros((axis.size, codes))
    for leaf in range(axis.leaves):
        held = range(axis.edges[leaf], axis.edges[leaf + 1]) if leaf < len(axis.edges) - 1 else [size(axis.column)]
        law[axis.cell[leaf], list(held)] = axis.weight[leaf] / len(held)
    return law / law.sum(axis=1, keepdims=True)


def over_codes(table: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    """A table over cells as the product law over codes."""
    for i, axis in enumerate(axes):
        table = np.moveaxis(np.tensordot(code_law(axis), table, axes=(0, i)), 0, i)
    return table


def holding(schema: Schema, axes: Sequence[Axis]) -> np.ndarray:
    """Which code tuples obey, by plain Python on values."""
    shape = [size(a.column) + a.column.nullable for a in axes]
    names = [a.column.name for a in axes]
    frame = {n: i.ravel() for n, i in zip(names, np.indices(shape), strict=True)}
    kept = np.ones(int(np.prod(shape)), dtype=bool)
    for rule in schema.constraints:
        kept &= np.array(
            [_obeys(rule, schema, dict(zip(frame, r, strict=True))) for r in zip(*frame.values(), strict=True)]
        )
    return kept.reshape(shape)


def _obeys(rule: Constraint, schema: Schema, row: dict[str, int]) -> bool:
    values = {n: None if c == size(schema[n]) else c for n, c in row.items()}
    if any(values[m] is None for m in rule.members if m in values):
        return True
    if isinstance(rule, Inequality):
        low, high = (values[m] + schema[m].low for m in rule.members)
        return low < high if rule.strict else low <= high
    if isinstance(rule, FixedCombinations):
        entry = tuple(schema[m].labels[values[m]] for m in rule.columns)
        return (entry in rule.listed) == (rule.allowed is not None)
    total = sum(values[p] + schema[p].low for p in rule.parts)
    return schema[rule.total].low <= total <= schema[rule.total].high


def random_model(axes: Sequence[Axis], cliques: list[tuple[int, ...]]) -> GraphicalModel:
    rng = np.random.default_rng(5)
    sizes = [a.size for a in axes]
    tree = junction_tree(sizes, cliques)
    return GraphicalModel(sizes, tree, [rng.normal(size=[sizes[a] for a in c]) for c in tree.cliques], 1000.0)


def cells_of(model: GraphicalModel, rows: int, seed: int = 0) -> np.ndarray:
    """Independent draws of the model's cells, from its joint table."""
    joint = model.marginal(range(len(model.sizes))).ravel()
    drawn = np.random.default_rng(seed).choice(len(joint), rows, p=joint / joint.sum())
    return np.stack(np.unravel_index(drawn, model.sizes), axis=1)


def p_value(drawn: np.ndarray, law: np.ndarray) -> float:
    """Chi-square of code tuples against `law`, tuples expected less than 20 times joined; 0 where a tuple cannot be."""
    counts = np.zeros(law.shape)
    np.add.at(counts, tuple(drawn.T), 1)
    expected = (law / law.sum() * len(drawn)).ravel()
    counts = counts.ravel()
    if counts[expected < 1e-3].sum() > 5:  # EVEN: a billionth of a cell lies where its leaves weigh nothing
        return 0.0
    counts, expected = counts[np.argsort(expected)], np.sort(expected)
    first = int(np.searchsorted(np.cumsum(expected), 20))  # the rarest joined into one that is expected 20 times
    starts = np.append(0, np.arange(max(first, int((expected < 20).sum()) - 1) + 1, len(expected)))
    found = stats.chisquare(np.add.reduceat(counts, starts), np.add.reduceat(expected, starts)).pvalue
    assert not np.isnan(found)
    return float(found)


CASES: dict[str, tuple[tuple[Column, ...], tuple[Constraint, ...], list[Axis], list[tuple[int, ...]]]] = {
    "pair": ((A, B, C), (LOW_HIGH,), AXES, [(0, 1), (1, 2)]),
    "strict pair, other way": ((A, B, C), (Inequality(low="b", high="a", strict=True),), AXES, [(0, 1), (1, 2)]),
    "chain": ((A, B, C), (LOW_HIGH, Inequality(low="b", high="c", strict=True)), AXES, [(0, 1, 2)]),
    "missing within a cell": (
        (A, B, C),
        (LOW_HIGH, Inequality(low="b", high="c", strict=True)),
        [AXES[0], Axis(B, AXES[1].edges, np.append(AXES[1].cell[:-1], 1), AXES[1].weight), AXES[2]],
        [(0, 1, 2)],
    ),
    "listed": (
        (CITY, LAND, CAPITAL),
        (
            FixedCombinations(columns=("city", "land"), allowed=[*zip("tuvw", "kklm", strict=True), ("x", "m")]),
            FixedCombinations(columns=("land", "capital"), forbidden=[("k", True)]),
        ),
        [
            Axis(CITY, np.arange(8), np.array([0, 1, 2, 2, 2, 2, 2, 1]), np.arange(1.0, 9.0)),
            Axis(LAND, np.arange(4), np.array([0, 1, 1]), np.array([1.0, 2.0, 3.0])),
            Axis.singles(CAPITAL),
        ],
        [(0, 1, 2)],
    ),
}


@pytest.mark.statistical
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_codes_follow_the_model_under_the_condition_that_constraints_hold(case: tuple) -> None:
    """alpha = 1e-9, n = 200,000 rows; brute force over every tuple of codes."""
    columns, given, axes, cliques = case
    schema = Schema(columns=columns, constraints=given)
    rules, free = Rules(schema), random_model(axes, cliques)
    allowed = holding(schema, axes)
    model = free.weighted(rules.factors(axes))
    law = over_codes(free.marginal(range(3)), axes) * allowed
    drawn = rules.draw(axes, cells_of(model, N), np.random.default_rng(1))
    codes = np.stack([drawn[c.name] for c in columns], axis=1)
    assert allowed[tuple(codes.T)].all()
    assert p_value(codes, law) > ALPHA
    other = law * np.where(np.arange(law.size).reshape(law.shape) % 2, 1.05, 0.95)
    assert p_value(codes, other) < ALPHA


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_weights_are_the_probabilities_that_constraints_hold(case: tuple) -> None:
    columns, given, axes, _ = case
    schema = Schema(columns=columns, constraints=given)
    product = holding(schema, axes).astype(float)
    for i, axis in enumerate(axes):
        product = np.moveaxis(np.tensordot(code_law(axis), product, axes=(1, i)), 0, i)
    sizes = [a.size for a in axes]
    found = np.ones(sizes)
    for factor in Rules(schema).factors(axes):
        shape = [s if i in factor.attributes else 1 for i, s in enumerate(sizes)]
        found = found * np.transpose(factor.weights, np.argsort(factor.attributes)).reshape(shape)
    np.testing.assert_allclose(found, product, atol=1e-8)


MASKED: dict[str, tuple[tuple[Column, ...], tuple[Constraint, ...]]] = {
    "branching": ((A, B, C), (LOW_HIGH, Inequality(low="a", high="c", strict=True))),
    "bounded sum": (
        (A, B, C, Integer(name="all", low=12, high=25, missing=("",))),
        (Sum(total="all", parts=tuple("abc")),),
    ),
}


@pytest.mark.statistical
@pytest.mark.parametrize("case", MASKED.values(), ids=MASKED.keys())
def test_what_is_drawn_by_redraws_follows_its_law_given_the_cells(case: tuple) -> None:
    """alpha = 1e-9, n = 200,000 rows; in every cell the law is the product law where the constraints hold."""
    schema = Schema(columns=case[0], constraints=case[1])
    rules, allowed = Rules(schema), holding(schema, AXES)
    model = random_model(AXES, [(0, 1, 2)]).weighted(rules.factors(AXES))
    cells = cells_of(model, N)
    drawn = rules.draw(AXES, cells, np.random.default_rng(1))
    codes = np.stack([drawn[a.column.name] for a in AXES], axis=1)
    kept = allowed[tuple(codes.T)]
    assert kept.mean() > 0.9
    seen, held = np.zeros(model.sizes), allowed.astype(float)
    np.add.at(seen, tuple(cells[kept].T), 1)
    for i, axis in enumerate(AXES):
        held = np.moveaxis(np.tensordot(code_law(axis), held, axes=(1, i)), 0, i)
    law = over_codes(np.divide(seen, held, out=np.zeros_like(seen), where=held > 0), AXES) * allowed
    assert p_value(codes[kept], law) > ALPHA
    assert p_value(codes[kept], law * np.where(np.arange(law.size).reshape(law.shape) % 2, 1.05, 0.95)) < ALPHA


def _swapped(axes: Sequence[Axis], cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The biased repair: values that break the rule change places."""
    a, b = (axis.draw(cells[:, i], rng) for i, axis in enumerate(axes[:2]))
    wrong = (b != size(B)) & (a > b + 2)
    return np.stack([np.where(wrong, b + 2, a), np.where(wrong, a - 2, b), axes[2].draw(cells[:, 2], rng)], axis=1)


def _one_sided(axes: Sequence[Axis], cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The biased rejection: only the second value is drawn anew."""
    a, b, c = (axis.draw(cells[:, i], rng) for i, axis in enumerate(axes))
    for _ in range(200):
        wrong = np.flatnonzero((b != size(B)) & (a > b + 2))
        b[wrong] = axes[1].draw(cells[wrong, 1], rng)
    return np.stack([a, b, c], axis=1)


@pytest.mark.statistical
@pytest.mark.parametrize("sampler", [_swapped, _one_sided])
def test_biased_samplers_are_rejected(sampler: Callable[..., np.ndarray]) -> None:
    """alpha = 1e-9, n = 200,000 rows: the test above has power against the usual ways to do it wrong."""
    columns, given, axes, cliques = CASES["pair"]
    schema = Schema(columns=columns, constraints=given)
    free = random_model(axes, cliques)
    law = over_codes(free.marginal(range(3)), axes) * holding(schema, axes)
    cells = cells_of(free.weighted(Rules(schema).factors(axes)), N)
    codes = sampler(axes, cells, np.random.default_rng(1))
    codes = codes[(codes >= 0).all(axis=1) & (codes < law.shape).all(axis=1)]
    assert p_value(codes, law) < ALPHA


@pytest.mark.statistical
@pytest.mark.parametrize(
    "edit",
    [
        Edit("tabveil._chains:Chain._ordered", "np.maximum(points - i, 0)", "points"),
        Edit("tabveil._chains:_Walk._values", "- ties +", "- 0 * ties +"),
        Edit("tabveil._chains:_Walk._segment", "passed + spot", "spot"),
        Edit("tabveil._chains:_Walk._segment", "sums.missing[p][which]", "0 * sums.missing[p][which]"),
        Edit("tabveil._chains:Chain._line", "share[leaf] * part", "share[leaf]"),
        Edit("tabveil._chains:subsets", "np.where(taken, top, drawn)", "drawn"),
    ],
    ids=["ties", "tie shift", "segments passed", "missing", "segment shares", "subset repeats"],
)
def test_mutants_of_the_draw_are_rejected(edit: Edit) -> None:
    """alpha = 1e-9, n = 200,000 rows."""
    with planted(edit) as ran, pytest.raises((AssertionError, ValueError, IndexError)):
        test_codes_follow_the_model_under_the_condition_that_constraints_hold(CASES["missing within a cell"])
    assert ran == {edit}


@pytest.mark.statistical
def test_a_factor_left_out_is_rejected() -> None:
    """alpha = 1e-9, n = 200,000 rows."""
    edit = Edit("tabveil.graphical_model:GraphicalModel.weighted", "sign * logs", "0.0 * np.maximum(logs, -700)")
    with planted(edit) as ran, pytest.raises(AssertionError):
        test_codes_follow_the_model_under_the_condition_that_constraints_hold(CASES["pair"])
    assert ran == {edit}


# ------------------------------------------------------------------------------------------------------------ the fit
def test_a_fit_under_an_inequality_keeps_both_marginals() -> None:
    """Both one-way marginals are met; conditioning after the fit would move them."""
    rng = np.random.default_rng(0)
    axes = [Axis.singles(Integer(name=n, low=0, high=19)) for n in "ab"]
    schema = Schema(columns=tuple(a.column for a in axes), constraints=(LOW_HIGH,))
    start = rng.binomial(19, 0.4, 50_000)
    stay = np.minimum(start + rng.geometric(0.4, len(start)) - 1, 19)
    counts = [np.bincount(x, minlength=20).astype(float) for x in (start, stay)]
    measured = [Measurement((i,), c, 5.0) for i, c in enumerate(counts)]
    factors = Rules(schema).factors(axes)
    model = estimate([20, 20], measured, factors=factors)
    assert (np.tril(model.marginal((0, 1)), -1) == 0).all()
    afterwards = estimate([20, 20], measured).weighted([])
    later = np.triu(afterwards.marginal((0, 1)))
    for axis, wanted in enumerate(counts):
        kept = np.abs(model.marginal((axis,)) - wanted).sum() / len(start)
        moved = np.abs(later.sum(axis=1 - axis) * len(start) / later.sum() - wanted).sum() / len(start)
        assert kept < 0.01
        assert moved > 0.1


def test_noise_in_impossible_cells_does_not_reach_the_fit() -> None:
    axes = [Axis.singles(Integer(name=n, low=0, high=9)) for n in "ab"]
    schema = Schema(columns=tuple(a.column for a in axes), constraints=(LOW_HIGH,))
    truth = np.triu(np.random.default_rng(0).uniform(50, 150, (10, 10)))
    factors = Rules(schema).factors(axes)
    models = [
        estimate([10, 10], [Measurement((0, 1), truth + bad, 1.0)], total=truth.sum(), factors=factors)
        for bad in (np.zeros((10, 10)), np.tril(np.full((10, 10), 1e4), -1))
    ]
    np.testing.assert_array_equal(models[0].marginal((0, 1)), models[1].marginal((0, 1)))
    np.testing.assert_allclose(models[0].marginal((0, 1)), truth, rtol=0.02)


def test_factors_and_their_exchange_match_brute_force() -> None:
    rng = np.random.default_rng(1)
    free = random_model(AXES, [(0, 1), (1, 2)])
    first, second = (Rules(Schema(columns=(A, B, C), constraints=(LOW_HIGH,))).factors(x) for x in (AXES, AXES))
    shape = first[0].weights.shape
    second = [type(first[0])((1, 0), first[0].weights.T * rng.uniform(0.5, 1, shape).T)]
    joint = free.marginal((0, 1, 2))
    for model, factor in (
        (free.weighted(first), first[0].weights),
        (free.weighted(first).weighted(second, instead_of=first), second[0].weights.T),
    ):
        wanted = joint * factor[:, :, None]
        np.testing.assert_allclose(model.marginal((0, 1, 2)), wanted * 1000 / wanted.sum(), rtol=1e-9, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- every kind
DAY = dt.date(2020, 1, 1)
EVERY = Schema(
    columns=(
        Date(name="in", low=DAY, high=dt.date(2021, 12, 31)),
        Date(name="out", low=DAY, high=dt.date(2022, 12, 31), missing=("",)),
        Date(name="due", low=dt.date(2019, 6, 1), high=dt.date(2023, 6, 1), missing=("",)),
        Integer(name="few", low=0, high=40),
        Integer(name="many", low=10, high=50),
        Integer(name="most", low=0, high=60, missing=("",)),
        CITY,
        LAND,
        CAPITAL,
        Categorical(name="grade", categories=("low", "high"), missing=("",), invalid="missing"),
        Integer(name="years", low=0, high=20, missing=("",)),
        Integer(name="euro", low=0, high=100),
        Decimal(name="cent", low=-5.0, high=5.0, decimals=2, missing=("",)),
        Decimal(name="cost", low=20.0, high=80.0, decimals=2, missing=("",)),
        Decimal(name="double", low=-1000.0, high=1000.0, decimals=3, missing=("",)),
    ),
    constraints=(
        Inequality(low="in", high="out"),
        Inequality(low="out", high="due", strict=True),
        Inequality(low="few", high="many"),
        Inequality(low="few", high="most"),
        FixedCombinations(columns=("city", "land"), allowed=list(zip("tuvwxyz", "kkllmmm", strict=True))),
        Implied(column="capital", given="land", mapping={"k": True}),
        Implied(column="years", given="grade", mapping={"low": 9, "high": 13}),
        Sum(total="cost", parts=("euro", "cent")),
        Sum(total="double", parts=("cost", "cent")),
    ),
)


def every_axis(schema: Schema, cells: int) -> list[Axis]:
    axes = []
    for i, column in enumerate(schema.modelled):
        if isinstance(column, Categorical | Boolean):
            axes.append(Axis.singles(column))
            continue
        edges = np.unique(np.linspace(0, size(column), cells + 1).astype(int))
        weight = np.random.default_rng(i).uniform(0, 1, len(edges) - 1 + column.nullable)
        axes.append(Axis(column, edges, np.arange(len(weight)), weight))
    return axes


def broken(frame: pd.DataFrame) -> dict[str, int]:
    """Violations of EVERY, written out for pandas."""
    listed = dict(zip("tuvwxyz", "kkllmmm", strict=True))
    cost = frame["euro"] + frame["cent"]
    return {
        "in, out": int((frame["in"] > frame["out"]).sum()),
        "out, due": int((frame["out"] >= frame["due"]).sum()),
        "few, many": int((frame["few"] > frame["many"]).sum()),
        "few, most": int((frame["few"] > frame["most"]).fillna(False).sum()),
        "city": int((frame["city"].map(listed).fillna(frame["land"]) != frame["land"]).sum()),
        "capital": int(((frame["land"] == "k") & ~frame["capital"].astype(bool)).sum()),
        "years": int(
            (frame["grade"].map({"low": 9, "high": 13}).astype("Int64").ne(frame["years"])).fillna(False).sum()
        ),
        "years missing": int((frame["grade"].isna() != frame["years"].isna()).sum()),
        "cost": int(((cost - frame["cost"]).abs() > 1e-9).sum()),
        "cost missing": int((cost.isna() != frame["cost"].isna()).sum()),
        "bounds": int(((frame["cost"] < 20) | (frame["cost"] > 80)).sum()),
        "double": int(((cost + frame["cent"] - frame["double"]).abs() > 1e-9).sum()),
    }


@pytest.mark.parametrize("cells", [3, 40], ids=["joint chain", "pairs of a chain"])
def test_no_row_of_200_000_breaks_any_constraint(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from tabveil.encoding import decode

    rules, axes = Rules(EVERY), every_axis(EVERY, cells)
    sizes = [a.size for a in axes]
    if cells > 3:
        monkeypatch.setattr(_groups, "MAX_JOINT", 1000)
    factors = rules.factors(axes)
    model = estimate(sizes, [], total=100.0, factors=factors)
    codes = Law(tuple(axes), model, rules).sample(N, np.random.default_rng(0))
    frame = pd.DataFrame({c.name: decode(c, codes[c.name]) for c in EVERY.columns})
    assert set(broken(frame).values()) == {0}
    assert set(violations(EVERY, frame).values()) == {0}
    assert frame["out"].isna().any()
    assert (frame["few"] > 40 / cells * 2).any()


def test_violations_are_counted_by_constraint() -> None:
    from tabveil.encoding import decode

    rules, axes = Rules(EVERY), every_axis(EVERY, 3)
    model = estimate([a.size for a in axes], [], total=100.0, factors=rules.factors(axes))
    codes = Law(tuple(axes), model, rules).sample(50, np.random.default_rng(0))
    frame = pd.DataFrame({c.name: decode(c, codes[c.name]) for c in EVERY.columns})
    frame["out"] = pd.Timestamp("2020-01-01")
    frame.loc[:2, "in"] = pd.Timestamp("2020-01-02")
    frame.loc[3:, "in"] = pd.Timestamp("2020-01-01")
    frame["due"] = pd.NaT
    frame.loc[0, "due"] = pd.Timestamp("2020-01-01")
    frame.loc[:4, ["grade", "years"]] = "low", 13
    frame.loc[0, "grade"] = None
    frame.loc[:1, ["cost", "euro", "cent"]] = 50.0, 49, 0.5
    frame.loc[:6, ["city", "land"]] = "t", "l"
    frame.loc[0, "city"] = "no city"
    found = violations(EVERY, frame)
    assert found["'in' <= 'out'"] == 3
    assert found["'out' < 'due'"] == 1
    assert found["'years' implied by 'grade'"] == 4
    assert found["'cost' = 'euro' + 'cent'"] == 2
    assert found["combinations of 'city', 'land'"] == 6


def test_rows_that_cannot_be_drawn_take_values_that_obey(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redraws the repair alone must do: from rows that obey, or, where there is none, from public values."""
    rules, axes = Rules(EVERY), every_axis(EVERY, 3)
    free = estimate([a.size for a in axes], [], total=100.0)
    monkeypatch.setattr(enforcing, "PASSES", 0)
    for rows in (400, 1):
        for seed in range(20):
            codes = Law(tuple(axes), free, rules).sample(rows, np.random.default_rng(seed))
            assert rules.hold(codes).all()


def test_chances_of_a_chain_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = Schema(columns=(A, B, C), constraints=CASES["chain"][1])
    whole = Rules(schema).factors(AXES)[0].weights
    monkeypatch.setattr("tabveil._chains.BLOCK", 20)
    np.testing.assert_allclose(Rules(schema).factors(AXES)[0].weights, whole)
    cells = cells_of(random_model(AXES, [(0, 1, 2)]), 2_000)
    drawn = Rules(schema).draw(AXES, cells, np.random.default_rng(0))
    possible = whole[tuple(cells.T)] > 0
    assert Rules(schema).hold({n: c[possible] for n, c in drawn.items()}).all()


def test_wide_grids_are_drawn_without_running_over() -> None:
    wide = [Integer(name=n, low=-(2**51), high=2**51) for n in "ab"]
    axes = [Axis(c, np.array([0, c.units]), np.array([0]), np.ones(1)) for c in wide]
    rules = Rules(Schema(columns=tuple(wide), constraints=(Inequality(low="a", high="b", strict=True),)))
    assert rules.factors(axes)[0].weights == pytest.approx(0.5)
    codes = rules.draw(axes, np.zeros((10_000, 2), dtype=np.int64), np.random.default_rng(0))
    assert (codes["a"] < codes["b"]).all()
    assert abs(codes["a"].mean() / wide[0].units - 1 / 3) < 0.02


def test_what_counts_never_saw_stays_possible_where_nothing_else_is() -> None:
    """Noise may leave every allowed value without weight; the rules hold all the same, and the model is sound."""
    both = Schema(
        columns=(A, B, CITY, LAND),
        constraints=(LOW_HIGH, FixedCombinations(columns=("city", "land"), allowed=[("t", "k")])),
    )
    high = np.zeros(10)
    high[9] = 1.0
    axes = [
        Axis(A, np.arange(11), np.zeros(10, dtype=int), high),
        Axis(replace(B, missing=()), np.arange(13), np.zeros(12, dtype=int), np.append(1.0, np.zeros(11))),
        Axis(CITY, np.arange(8), np.zeros(8, dtype=int), np.append(0.0, np.ones(7))),
        Axis(LAND, np.arange(4), np.zeros(3, dtype=int), np.array([0.0, 1.0, 1.0])),
    ]
    both = replace(both, columns=(A, axes[1].column, replace(CITY, missing=(), invalid="refuse"), LAND))
    axes[2] = Axis(both["city"], axes[2].edges, axes[2].cell[:-1], axes[2].weight[:-1])
    rules = Rules(both)
    model = estimate([1] * 4, [Measurement((0,), np.ones(1), 1.0)], factors=rules.factors(axes))
    codes = rules.draw(axes, model.sample(1_000, np.random.default_rng(0)), np.random.default_rng(0))
    assert rules.hold(codes).all()
    assert set(codes["city"]) == {0}


def test_schemas_without_constraints_are_sampled_as_before() -> None:
    rules = Rules(Schema(columns=(A, B, C)))
    assert rules.factors(AXES) == []
    assert rules.groups == ()
    codes = Law(tuple(AXES), random_model(AXES, []), rules).sample(10, np.random.default_rng(0))
    assert list(codes) == ["a", "b", "c"]
