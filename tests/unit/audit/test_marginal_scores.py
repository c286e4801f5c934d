"""Scores of attacks on marginals: cells, trees, ratios and the tracing test by hand or beside a slow oracle."""

from __future__ import annotations

import numpy as np
import pytest

from tabveil.audit import _marginal_scores as scores
from tabveil.audit._marginal_scores import (
    Cells,
    Features,
    dependence,
    log_ratios,
    parts,
    ratio,
    spanning_tree,
    strongest,
    tracing,
)
from tabveil.columns import Categorical, Integer
from tabveil.encoding import Axis

COLUMNS = (Integer(name="n", low=0, high=99, missing=("",)), Categorical(name="c", categories=("a", "b")))


def cells(made: list[list[int]], real: list[list[int]], asked: list[list[int]]) -> Cells:
    return Cells(*(tuple(np.array(column) for column in table) for table in (made, real, asked)))


def random_cells(columns: int, rows: int, *, seed: int, values: int = 3) -> Cells:
    rng = np.random.default_rng(seed)
    tables = (tuple(rng.integers(0, values, n) for _ in range(columns)) for n in (rows, rows, rows // 2))
    return Cells(*tables)


def test_cells_are_public_bins_or_the_models() -> None:
    # codes: numbers 0 to 99, 100 missing, 101 not allowed; twenty bins of five
    table = (np.array([0, 4, 5, 99, 100, 101]), np.array([0, 1, 2, 3, 0, 0]))
    public = Cells.of(COLUMNS, [table] * 3, axes={})
    assert public.synthetic[0].tolist() == [0, 0, 1, 19, 20, 21]
    assert public.synthetic[1].tolist() == [0, 1, 2, 3, 0, 0]
    axis = Axis(COLUMNS[0], np.array([0, 50, 100]), np.array([0, 1, 2]), np.ones(3))
    known = Cells.of(COLUMNS, [table] * 3, axes={"n": axis})
    assert known.asked[0].tolist() == [1, 1, 1, 2, 3, 0]
    assert known.asked[1].tolist() == public.asked[1].tolist()


def test_ratios_by_hand() -> None:
    # synthetic 0 0 0 1, reference 0 1 1: one column; rows 0, 1 and 2 are asked about
    features = Features.of(cells([[0, 0, 0, 1]], [[0, 1, 1]], [[0, 1, 2]]), [(0,)])
    assert ratio(features) == pytest.approx([0.75 / (2 / 4), 0.25 / (3 / 4), 0])
    logs = log_ratios(features)[:, 0]
    assert logs == pytest.approx(np.log([3.5 / 5 / (1.5 / 4), 1.5 / 5 / (2.5 / 4), 0.5 / 5 / (0.5 / 4)]))


def test_features_number_combinations_without_gaps_whatever_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    given = random_cells(4, 60, seed=0)
    plain = Features.of(given, [(0, 1), (0, 1, 2, 3)])
    assert plain.made[plain.asked].shape == (30, 2)
    rows = np.column_stack(given.synthetic)
    for row, feature in zip(np.column_stack(given.asked), plain.asked, strict=True):
        assert plain.made[feature[1]] == (rows == row).all(axis=1).mean()
        assert plain.made[feature[0]] == (rows[:, :2] == row[:2]).all(axis=1).mean()
    monkeypatch.setattr(scores, "_ROOM", 4)
    tight = Features.of(given, [(0, 1), (0, 1, 2, 3)])
    assert (tight.asked == plain.asked).all()
    assert (tight.real == plain.real).all()


def test_dependence_beside_an_oracle() -> None:
    given = random_cells(3, 400, seed=1)
    first, second = given.synthetic[0], given.synthetic[2]
    joint = np.zeros((3, 3))
    np.add.at(joint, (first, second), 1 / 400)
    information = (joint * np.log(joint / np.outer(joint.sum(1), joint.sum(0)))).sum()
    assert dependence(given)[0, 2] == pytest.approx(information - 4 / 800)


def test_the_tree_is_the_one_that_made_the_rows() -> None:
    """A chain 2 - 0 - 3 - 1 of copies with a tenth redrawn; 2,000 rows leave no doubt."""
    rng = np.random.default_rng(2)
    columns = {2: rng.integers(0, 4, 2000)}
    for child, parent in ((0, 2), (3, 0), (1, 3)):
        columns[child] = np.where(rng.random(2000) < 0.1, rng.integers(0, 4, 2000), columns[parent])
    table = tuple(columns[i] for i in range(4))
    given = Cells(table, table, table)
    assert set(spanning_tree(given)) == {(0, 2), (0, 3), (1, 3)}
    chosen = strongest(given)
    assert len(chosen) == 6 + 4 + 1
    assert set(chosen[:3]) == {(0, 2), (0, 3), (1, 3)}
    assert chosen[-1] == (0, 1, 2, 3)


def test_one_column_has_no_pairs() -> None:
    given = random_cells(1, 10, seed=3)
    assert spanning_tree(given) == strongest(given) == [(0,)]


def test_no_more_marginals_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "WIDE", 5)
    given = random_cells(5, 50, seed=4)
    assert len(strongest(given)) == 5
    assert {len(m) for m in strongest(given)} == {2}
    assert len(parts([(0, 1, 2, 3, 4)])) == 5


def test_parts_hold_what_follows_from_a_marginal() -> None:
    assert parts([(0, 1, 4), (1, 2)]) == [(0, 1, 4), (1, 2), (0, 1), (0, 4), (1, 4), (0,), (1,), (4,), (2,)]


def test_tracing_beside_an_oracle() -> None:
    """Ridge regression written out; steps of conjugate gradients stop at a thousandth of the gap."""
    given = random_cells(3, 300, seed=5)
    features = Features.of(given, [(0, 1), (1, 2), (0,)])
    size = len(features.made)
    rows = np.zeros((300, size))
    np.put_along_axis(rows, features.reference, 1, axis=1)
    covariance = np.cov(rows.T, bias=True) + scores.RIDGE * np.eye(size)
    weights = np.linalg.solve(covariance, features.made - rows.mean(axis=0))
    assert tracing(features) == pytest.approx(weights[features.asked].sum(axis=1), abs=0.02 * np.abs(weights).max())


def test_tracing_undoes_what_marginals_say_twice() -> None:
    """A marginal given five times counts as given once; in a sum of ratios it outvotes the other one."""
    given = random_cells(2, 500, seed=6, values=6)
    once, often = (Features.of(given, [(0,)] * n + [(1,)]) for n in (1, 5))
    summed = [log_ratios(f).sum(axis=1) for f in (once, often)]
    assert np.corrcoef(tracing(once), tracing(often))[0, 1] > 0.999 > np.corrcoef(*summed)[0, 1]
