"""The smallest release end to end: `independent` on a table with two cells, fitted thousands of times.

What leaves the mechanism is held to the law that was charged, on a table and on the table without one row, and an
attacker who knows both tables never finds an epsilon above the one that is claimed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mutants.planting import Edit, planted
from tabveil.accounting import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, DpEvent, Spend
from tabveil.columns import Boolean
from tabveil.generators.base import create
from tabveil.ledger import Ledger, Receipt
from tabveil.mechanisms import PrivateRows
from tabveil.schema import Schema
from tabveil.tables import open_table

pytestmark = pytest.mark.statistical

ALPHA = 1e-9
EPSILON = 1.0
SCHEMA = Schema(columns=(Boolean(name="ill"),))
WELL, ILL = 2, 3
"""The table: two well, three ill. Its neighbour lacks one who is ill."""

THRESHOLDS = (ILL, ILL + 1)
"""The attacker bets on the larger table where the released number of ill reaches this; both fixed in advance."""

DELTAS = {"gaussian": 1e-2, "laplace": 0.0}
"""A large delta, so that two thousand releases can show what one row may do under Gaussian noise."""

FITS = {"gaussian": 2_500, "laplace": 600}


class OneFit(Ledger):
    """Pays for every fit anew, so that one plan can be fitted thousands of times."""

    def charge(self, dataset: str, spends: DpEvent | Iterable[Spend], *, label: str) -> Receipt:
        if isinstance(spends, DpEvent):
            raise TypeError("a fit charges spends")
        return Receipt(tuple(spends), dataset=dataset, head="")


def released(kind: str, ill: int, fits: int) -> tuple[np.ndarray, DpEvent]:
    """What `fits` fits measured, shape (fits, 2), and the one event each was charged for."""
    seen: list[np.ndarray] = []
    original = PrivateRows.counts

    def noted(rows: PrivateRows, *args: Any, **named: Any) -> Any:
        answer = original(rows, *args, **named)
        seen.append(answer)
        return answer

    table = open_table(pd.DataFrame({"ill": [False] * WELL + [True] * ill}))
    made, ledger = create("independent", epsilon=EPSILON, delta=DELTAS[kind]), OneFit()
    ledger.open("clinic", epsilon=EPSILON, delta=DELTAS[kind])
    plan = made.plan(SCHEMA)
    (spend,) = plan.spends
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateRows, "counts", noted)
        patch.setattr(made, "plan", lambda schema: plan)
        for _ in range(fits):
            made.fit(table, SCHEMA, ledger=ledger, dataset="clinic")
    assert made.statement.epsilon <= EPSILON
    assert len(seen) == fits
    return np.array(seen), spend.event


@functools.cache
def releases(kind: str) -> tuple[np.ndarray, np.ndarray, DpEvent]:
    """FITS releases of the table and of its neighbour."""
    (whole, event), (less, _) = (released(kind, ill, FITS[kind]) for ill in (ILL, ILL - 1))
    return whole, less, event


def law(event: DpEvent, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Support and probabilities of the charged noise, its scale changed by `factor`."""
    support = np.arange(-200, 201)
    if isinstance(event, DiscreteGaussianDpEvent):
        p = np.exp(-(support**2) / (2 * (event.sigma * factor) ** 2))
    else:
        assert isinstance(event, DiscreteLaplaceDpEvent)
        p = np.exp(-np.abs(support) / (event.scale * factor))
    return support, p / p.sum()


def p_value(noise: np.ndarray, event: DpEvent, factor: float = 1.0) -> float:
    """The smaller of two p-values: chi-square over single whole numbers, tails joined until 10 draws are expected in
    each;
    and, sharper where the scale is wrong, the mean of x^2, normal for so many draws.
    """
    support, p = law(event, factor)
    inner = support[p * len(noise) >= 10]
    expected = np.array(
        [p[support <= inner[0]].sum(), *p[np.isin(support, inner[1:-1])], p[support >= inner[-1]].sum()]
    )
    counts = np.bincount(np.clip(noise, inner[0], inner[-1]) - inner[0], minlength=len(inner))
    square = support.astype(float) ** 2
    deviation = math.sqrt(square**2 @ p - (square @ p) ** 2)
    z = ((noise.astype(float) ** 2).mean() - square @ p) / deviation * math.sqrt(len(noise))
    return float(min(stats.chisquare(counts, expected * len(noise)).pvalue, 2 * stats.norm.sf(abs(z))))


def epsilon_bound(whole: np.ndarray, less: np.ndarray, delta: float, threshold: int) -> float:
    """An epsilon that the releases themselves prove at confidence 1 - ALPHA, were there no claim at all.

    If P(reach | whole) > exp(e) P(reach | less) + delta, then epsilon > e at delta. Both probabilities are bounded by
    Clopper & Pearson 1934, each at half of ALPHA.
    """
    hits, false_alarms = int((whole[:, 1] >= threshold).sum()), int((less[:, 1] >= threshold).sum())
    low = stats.beta.ppf(ALPHA / 2, hits, len(whole) - hits + 1) if hits else 0.0
    high = stats.beta.isf(ALPHA / 2, false_alarms + 1, len(less) - false_alarms)
    return math.log((low - delta) / high) if low > delta else -math.inf


def test_released_counts_follow_the_charged_law() -> None:
    """alpha = 1e-9, n = 2,500 fits of 2 cells each of 2 tables: 10,000 draws; noise 10 % too small or too large is
    rejected.
    """
    whole, less, event = releases("gaussian")
    assert isinstance(event, DiscreteGaussianDpEvent)
    noise = np.concatenate([whole - [WELL, ILL], less - [WELL, ILL - 1]]).ravel()
    assert p_value(noise, event) > ALPHA
    for wrong in (0.9, 1.1):
        assert p_value(noise, event, wrong) < ALPHA
    for part in (whole[:, 0] - WELL, whole[:, 1] - ILL, less[:, 0] - WELL, less[:, 1] - (ILL - 1)):
        assert p_value(part, event) > ALPHA
        assert p_value(part + 1, event) < ALPHA  # the neighbour's counts told as the table's own
    assert abs(np.corrcoef(whole[:, 0] - WELL, whole[:, 1] - ILL)[0, 1]) < 6.2 / math.sqrt(len(whole))


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_no_attacker_proves_more_than_is_claimed(kind: str) -> None:
    """Confidence 1 - 1e-9, n = 2,500 and 600 fits of each of two neighbours."""
    whole, less, _ = releases(kind)
    for threshold in THRESHOLDS:
        assert epsilon_bound(whole, less, DELTAS[kind], threshold) <= EPSILON


@pytest.mark.parametrize(
    ("kind", "fits", "edit"),
    [
        pytest.param(
            "gaussian",
            1_500,
            Edit("tabveil.noise:gaussian_noise", "float(event.sigma))", "float(event.sigma) / 3)"),
            marks=pytest.mark.nightly,
        ),
        ("laplace", 600, Edit("tabveil.noise:laplace_noise", "float(event.scale))", "float(event.scale) / 3)")),
    ],
    ids=["gaussian", "laplace"],
)
def test_the_attacker_proves_it_where_a_third_of_the_noise_is_drawn(kind: str, fits: int, edit: Edit) -> None:
    """The attack has power: with a third of the charged noise it proves an epsilon above the claimed one."""
    guard = Edit("tabveil.noise:_price", "return float(", "return 0.0 * float(")
    with planted(edit, guard) as ran:
        (whole, _), (less, _) = (released(kind, ill, fits) for ill in (ILL, ILL - 1))
    assert ran == {edit, guard}
    assert max(epsilon_bound(whole, less, DELTAS[kind], t) for t in THRESHOLDS) > EPSILON
