"""The accountants against published and independently computed numbers (reference: privacy.md B2, B5, B6).

Each oracle names its parameters and its conversion. Not expressible, and why:
- B6.9, tree aggregation: dp-accounting prices it under replace-special only; this SDK has add-or-remove-one alone.
- B5's replace-one numbers: another relation, as before; only the one that equals an add-or-remove-one event is kept.
- B6.6's and B6.7's PRV values: Opacus's accountant is not a dependency; PLD must lie 0.009 to 0.011 below them.
- B6.6's GDP value: central-limit accounting under-reports and does not exist here; the test shows that it would.
- B2's "PLD with pure epsilon" for exponential mechanisms: expressed by discrete Laplace events, which are pure DP and
  nothing more; our exponential mechanism has a tighter dominating pair.
"""

from __future__ import annotations

import itertools
import json
import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
    TruncatedSubsampledGaussianDpEvent,
    UnsupportedDpEvent,
    ZCDpEvent,
    get_epsilon_gaussian,
)
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.pld.common import DifferentialPrivacyParameters
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st

from tabveil import _accounting_curves as curves
from tabveil import accounting as acc
from tabveil._accounting_curves import INTERVAL, ROUNDED
from tabveil.accounting import (
    DeltaDpEvent,
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    Epsilon,
    ExponentialMechanismDpEvent,
    Rho,
    Sigma,
    Spend,
    calibrate,
    epsilon,
    epsilons,
    event_of,
    rdp_epsilon,
    rho_budget,
    zcdp,
    zcdp_epsilon,
)
from tabveil.errors import UsageError


def times(event, count):
    return SelfComposedDpEvent(event, count)


def sgd(q, sigma, steps):
    return times(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), steps)


def pure(eps):
    """Pure DP and no more: dominated by randomised response."""
    return DiscreteLaplaceDpEvent(1 / eps)


TF_ORDERS = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))


# ----------------------------------------------------------------------------------------------------- B6, one by one
@pytest.mark.parametrize(("sigma", "expected"), [(1.0, 4.377178), (2.0, 1.993091), (5.0, 0.725522)])
def test_b6_1_analytic_gaussian_at_1e_5(sigma, expected):
    assert epsilon(GaussianDpEvent(sigma), 1e-5) == pytest.approx(expected, abs=2e-6)
    assert epsilon(GaussianDpEvent(sigma), 1e-5) >= get_epsilon_gaussian(sigma, 1e-5)


def test_b6_1_inverse_of_the_analytic_gaussian():
    sigma = calibrate(GaussianDpEvent, 1.0, 1e-5)
    assert 3.730632 <= sigma < 3.730632 * 1.001  # the classical formula would give 4.844805


def test_b6_2_four_gaussians_are_one_of_half_the_noise():
    four = epsilon(times(GaussianDpEvent(1.0), 4), 1e-5)
    assert four == pytest.approx(9.997256, abs=2e-5)
    assert four == pytest.approx(epsilon(GaussianDpEvent(0.5), 1e-5), abs=1e-9)


@pytest.mark.parametrize(
    ("sigma", "steps", "rdp_tight", "pld", "rdp_classic"),
    [
        (1.3, 3515, 0.95443, 0.86446, 1.1921),
        (1.1, 14062, 2.59656, 2.38169, 3.0083),
        (0.7, 10546, 6.31946, 5.63945, 7.1013),
    ],
)
def test_b6_3_one_curve_three_conversions(sigma, steps, rdp_tight, pld, rdp_classic):
    event = sgd(256 / 60000, sigma, steps)
    found = epsilons(event, 1e-5)
    assert found["pld"] == pytest.approx(pld, abs=1e-5, rel=ROUNDED / 2)
    assert found["rdp"] == pytest.approx(rdp_tight, abs=1e-5)
    classic = rdp_epsilon(event, 1e-5, orders=TF_ORDERS, conversion="classic")
    assert classic == pytest.approx(rdp_classic, abs=1e-4)


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "delta", "rdp_tight", "order", "pld"),
    [
        (150 / 60000, 1.3, 6000, 1e-5, 0.7242234026, 19, 0.640111),
        (100 / 100000, 1.0, 30000, 1e-7, 1.4154988495, 13, 1.098200),
    ],
)
def test_b6_4_tf_privacy_unit_tests(q, sigma, steps, delta, rdp_tight, order, pld):
    bounds = {b.accountant: b for b in acc.bounds(sgd(q, sigma, steps), delta)}
    assert bounds["rdp"].epsilon == pytest.approx(rdp_tight, abs=1e-9)
    assert bounds["rdp"].order == order
    assert bounds["pld"].epsilon == pytest.approx(pld, abs=2e-6)


def test_b6_5_tf_privacy_fractional_epochs():
    whole = times(GaussianDpEvent(0.7), 2)  # 1.2 epochs see each example at most twice
    assert rdp_epsilon(whole, 1e-5) == pytest.approx(10.8602, abs=1e-4)  # dp-accounting's own orders
    assert epsilons(whole, 1e-5)["pld"] == pytest.approx(10.1225, abs=1e-4)
    sampled = epsilons(sgd(0.01, 0.7, 120), 1e-5)
    assert sampled["rdp"] == pytest.approx(3.2392676, abs=1e-6)
    assert sampled["pld"] == pytest.approx(2.4612381, rel=ROUNDED / 2)


def test_b6_6_opacus_epsilon():
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))  # Opacus's; its fractional sums stop earlier
    assert rdp_epsilon(sgd(0.04, 1.5, 2250), 1e-5, orders=orders) == pytest.approx(7.32911117, abs=3e-4)
    pld = epsilons(sgd(0.04, 1.5, 2249), 1e-5)["pld"]
    assert pld == pytest.approx(6.767051, rel=ROUNDED / 2)
    assert 0.009 < 6.777395712 - pld < 0.011


def test_b6_6_opacus_noise_for_epsilon_8():
    sigma = calibrate(lambda s: sgd(0.04, s, 2250), 8.0, 1e-5)
    assert 1.3232421875 < sigma < 1.34765625 < 1.416  # GDP too small; PRV's tolerance is 0.01; RDP's is wasteful
    assert epsilon(sgd(0.04, sigma, 2250), 1e-5) <= 8
    assert epsilon(sgd(0.04, 1.3232421875, 2250), 1e-5) > 8


@pytest.mark.parametrize(
    ("sigma", "q", "steps", "prv", "pld"),
    [
        (0.8, 0.001, 1000, 0.4777713, 0.467695),
        (1.5, 0.05, 1000, 6.2099692, 6.199695),
        (0.8, 0.001, 20000, 1.2960093, 1.286152),
        (3.0, 0.05, 20000, 13.9611147, 13.950657),
    ],
)
def test_b6_7_microsoft_prv(sigma, q, steps, prv, pld):
    found = epsilons(sgd(q, sigma, steps), 1e-6)["pld"]
    assert found == pytest.approx(pld, abs=2e-4)
    assert 0.009 < prv - found < 0.011


@pytest.mark.parametrize(
    ("eps", "delta", "rho"),
    [(1, 1e-5, 0.030556595), (3, 1e-5, 0.224249168), (10, 1e-5, 1.782695616), (1, 1e-9, 0.014973058)],
)
def test_b6_8_rho_budget_tight_conversion(eps, delta, rho):
    found = rho_budget(eps, delta)
    assert float(found) == pytest.approx(rho, abs=1e-9)
    assert zcdp_epsilon(found, delta) <= eps < zcdp_epsilon(found * (1 + 1e-9), delta)


def test_b6_8_zcdp_to_epsilon_by_named_conversions():
    assert zcdp_epsilon(Rho(0.5), 1e-5, conversion="tight") == pytest.approx(4.728387, abs=1e-6)
    assert zcdp_epsilon(Rho(0.5), 1e-5, conversion="simple") == pytest.approx(5.298526, abs=1e-6)
    assert epsilon(GaussianDpEvent(1.0), 1e-5) == pytest.approx(4.377178, abs=1e-6)
    assert epsilon(ZCDpEvent(0.5), 1e-5) == pytest.approx(4.728387, abs=1e-6)


def test_b6_8_mst_gives_a_third_of_rho_to_each_of_three_rounds():
    third = rho_budget(1.0, 1e-5) * Fraction(1, 3)
    assert float(acc.sigma_of(third)) == pytest.approx(7.006371, abs=1e-6)


def test_b6_9_the_pure_curve_of_dp_accountings_own_test():
    assert curves.convert(range(2, 33), [1.1] * 31, 1e-5, "tight") == (pytest.approx(1.32783806176, abs=1e-9), 32)


def test_b6_10_ten_laplace():
    ten = times(LaplaceDpEvent(10.0), 10)
    assert epsilons(ten, 1e-6)["pld"] == pytest.approx(0.998978, abs=1e-6)
    assert epsilons(ten, 1e-5)["pld"] == pytest.approx(0.989962, abs=1e-6)
    assert epsilon(ten, 0.0) == 1.0


@pytest.mark.parametrize(("cap", "expected"), [(10000, 1.8282), (150, 1.8305), (128, 4.013)])
def test_b6_11_truncated_poisson_batches(cap, expected):
    event = times(TruncatedSubsampledGaussianDpEvent(10000, 0.01, cap, 1.0), 1000)
    assert epsilon(event, 1e-5) == pytest.approx(expected, abs=2e-4)


@pytest.mark.nightly
def test_b6_11_truncated_poisson_batches_of_110():
    event = times(TruncatedSubsampledGaussianDpEvent(10000, 0.01, 110, 1.0), 1000)
    assert epsilon(event, 1e-5) == pytest.approx(7.682, abs=2e-4)


def test_b5_replacing_a_row_is_twice_the_shift():
    assert epsilon(GaussianDpEvent(1.0), 1e-5) == pytest.approx(4.3772, abs=1e-4)  # = sigma 2 under replace-one


@pytest.mark.parametrize("delta", [1e-9, 1e-5])
@pytest.mark.parametrize(
    ("q", "sigma", "steps", "beside"),
    [(0.02, 1.0, 12, 8.0), (0.05, 2.5, 1200, 8.0), (0.1, 1.0, 30, 8.0), (0.3, 5.0, 4, 20.0), (0.02, 0.4, 3, 2.0)],
)
def test_b2_a_coarser_grid_for_samples_never_lowers_epsilon_and_barely_raises_it(q, sigma, steps, beside, delta):
    leaves = ((PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), steps), (GaussianDpEvent(beside), 1))
    bound = curves.pld_bound(leaves, delta)
    assert bound.interval > 2 * INTERVAL
    fine = curves._composed(leaves, INTERVAL / 2).get_epsilon_for_delta(delta)
    assert fine < bound.epsilon < fine * (1 + ROUNDED / 2)


@pytest.mark.parametrize("beside", [LaplaceDpEvent(1.0), ExponentialMechanismDpEvent(3.0)])
def test_b2_beside_a_bounded_loss_the_grid_stays_fine_and_more_never_costs_less(beside):
    """Its atoms would be moved by 0.7 % of epsilon, more at one grid than at the next."""
    costs = []
    for steps in (23, 24, 300):
        leaves = ((PoissonSampledDpEvent(1e-3, GaussianDpEvent(2.5)), steps), (beside, 1))
        bound = curves.pld_bound(leaves, 1e-6)
        assert bound.interval <= INTERVAL
        costs.append(bound.epsilon)
    assert costs == sorted(costs)


def test_b2_mixed_ledger():
    def mixed(choice):
        return ComposedDpEvent(
            [
                times(LaplaceDpEvent(10.0), 3),
                times(GaussianDpEvent(8.0), 5),
                times(choice, 10),
                sgd(0.01, 1.2, 1000),
            ]
        )

    assert epsilons(mixed(pure(0.05)), 1e-6)["pld"] == pytest.approx(2.20581, rel=ROUNDED / 2)
    exponential = epsilons(mixed(ExponentialMechanismDpEvent(0.05)), 1e-6)
    assert exponential["rdp"] == pytest.approx(2.28301, abs=1e-5)
    assert exponential["pld"] < 2.20581


def test_b2_which_mechanism_matters_not_only_its_epsilon():
    assert epsilons(times(pure(0.1), 100), 1e-6)["pld"] == pytest.approx(4.7746, abs=1e-4)
    assert epsilons(times(pure(0.1), 100), 1e-6)["rdp"] == pytest.approx(5.2215, abs=1e-4)
    assert epsilons(times(ExponentialMechanismDpEvent(0.1), 100), 1e-6)["rdp"] == pytest.approx(2.4191, abs=1e-4)


@pytest.mark.parametrize(
    ("sigma", "q", "steps", "delta", "pld", "gdp"),
    [
        (1.1, 256 / 60000, 14062, 1e-5, 2.38169, 2.32427),
        (1.5, 0.04, 2250, 1e-5, 6.76879, 6.60157),
        (0.5, 0.05, 1000, 1e-5, 59.576, 0),
        (0.3, 0.05, 1000, 1e-5, 262.58, 0),
        (0.8, 0.05, 20000, 1e-6, 140.642, 0),
        (1.0, 0.01, 1000, 1e-10, 3.29046, 2.54022),
    ],
)
def test_b2_table_and_never_the_central_limit_number(sigma, q, steps, delta, pld, gdp):
    found = epsilon(sgd(q, sigma, steps), delta)
    assert found == pytest.approx(pld, rel=1e-4)
    assert found > gdp


@pytest.mark.parametrize(("sigma", "pld", "gdp"), [(10.0, 0.00215, 0.00194), (50.0, 0.00063, 0.00025)])
def test_b2_tiny_losses_get_a_finer_grid(sigma, pld, gdp):
    assert gdp <= epsilon(sgd(0.001, sigma, 100), 1e-5) <= pld


def test_b2_collapsing_gaussians_changes_nothing():
    sigmas = [5 + i / 10 for i in range(200)]
    one = 1 / math.sqrt(sum(s**-2 for s in sigmas))
    many = epsilon(ComposedDpEvent([GaussianDpEvent(s) for s in sigmas]), 1e-5)
    assert many == pytest.approx(get_epsilon_gaussian(one, 1e-5), abs=1e-6)


# ------------------------------------------------------------------------------- discrete noise against its exact law
def exact_discrete_gaussian_epsilon(sigma, count, delta):
    """Epsilon of `count` discrete Gaussians, from the exact law of the sum S of their noises: the loss
    (count - 2 S) / (2 sigma^2) is linear in S, so it lies on a lattice and needs no grid.
    """
    half = math.ceil(14 * sigma)
    law = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * sigma**2))
    law /= law.sum()
    total, lowest = law, -half
    for _ in range(count - 1):
        total, lowest = np.convolve(total, law), lowest - half
    loss = (count - 2 * (lowest + np.arange(len(total)))) / (2 * sigma**2)

    def delta_at(eps):
        above = loss > eps
        return float(np.sum(total[above] * -np.expm1(eps - loss[above])))

    low, high = 0.0, float(loss.max())
    for _ in range(80):
        low, high = (low, (low + high) / 2) if delta_at((low + high) / 2) <= delta else ((low + high) / 2, high)
    return high


@pytest.mark.parametrize(
    ("sigma", "count", "delta"), [(0.5, 1, 1e-5), (1.0, 3, 1e-5), (3.0, 5, 1e-9), (10.0, 15, 1e-5), (50.0, 30, 1e-6)]
)
def test_discrete_gaussians_cost_their_exact_price(sigma, count, delta):
    exact = exact_discrete_gaussian_epsilon(sigma, count, delta)
    found = epsilon(times(DiscreteGaussianDpEvent(sigma), count), delta)
    assert exact <= found <= exact * (1 + 1e-4)


def test_wide_discrete_gaussians_cost_what_continuous_ones_do():
    found = epsilons(times(DiscreteGaussianDpEvent(200.0), 500), 1e-5)
    assert found["pld"] == pytest.approx(get_epsilon_gaussian(200 / math.sqrt(500), 1e-5), rel=1e-4)  # not 0.4097


def test_discrete_gaussian_of_larger_sensitivity_is_priced_by_zcdp_alone():
    found = epsilons(DiscreteGaussianDpEvent(15.0, 3), 1e-5)
    assert set(found) == {"rdp"}
    assert found["rdp"] == pytest.approx(zcdp_epsilon(Rho(1 / 50), 1e-5), abs=1e-9)
    assert "pld" in epsilons(DiscreteGaussianDpEvent(15.0, 1), 1e-5)


def test_discrete_laplace_costs_sensitivity_over_scale():
    assert epsilon(DiscreteLaplaceDpEvent(10.0, 3), 0.0) == pytest.approx(0.3, rel=1e-15)
    assert epsilon(DiscreteLaplaceDpEvent(10.0, 3), 0.0) >= Fraction(3, 10)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 6), st.lists(st.tuples(st.floats(-3, 3), st.floats(-0.5, 0.5)), min_size=2, max_size=6))
def test_the_pair_for_exponential_mechanisms_dominates_each_of_them(eps, scores):
    p = np.exp([a * eps for a, _ in scores])
    q = np.exp([(a + d) * eps for a, d in scores])
    p, q = p / p.sum(), q / q.sum()
    pair = curves._single(ExponentialMechanismDpEvent(eps), 1e-3)
    for loss in (0.0, 0.3 * eps, 0.7 * eps, 0.95 * eps):
        for one, other in ((p, q), (q, p)):
            divergence = float(np.maximum(one - math.exp(loss) * other, 0).sum())
            assert divergence <= float(pair.get_delta_for_epsilon(loss)) + 1e-12


def test_permute_and_flip_would_break_the_exponential_mechanisms_price():
    """Noisy max with exponential noise, two candidates: KL divergence near eps^2/2, four times what is charged."""
    eps = 0.1
    flip = 0.5 * math.exp(-eps)
    divergence = 0.5 * math.log(0.5 / flip) + 0.5 * math.log(0.5 / (1 - flip))
    assert divergence > 3 * float(zcdp(ExponentialMechanismDpEvent(eps)))
    assert divergence <= float(zcdp(pure(eps)))


# ------------------------------------------------------------------------------------------------ the accountants agree
@pytest.mark.parametrize(
    "event",
    [
        GaussianDpEvent(1.3),
        times(GaussianDpEvent(7.0), 20),
        sgd(0.01, 1.0, 500),
        times(LaplaceDpEvent(4.0), 30),
        times(DiscreteGaussianDpEvent(6.0), 15),
        times(pure(0.2), 50),
    ],
)
@pytest.mark.parametrize("delta", [1e-4, 1e-6, 1e-9])
def test_rdp_is_never_below_pld(event, delta):
    found = epsilons(event, delta)
    assert found["rdp"] >= found["pld"] - 1e-3
    assert epsilon(event, delta) == min(found.values())


def test_the_curve_read_from_inside_dp_accounting_is_the_one_it_uses():
    event = PoissonSampledDpEvent(0.01, GaussianDpEvent(1.1))
    orders = [1.5, 2.0, 8.0, 17.0, 33.0]
    curve = curves.rdp_curve(((event, 1),), orders)
    library = RdpAccountant(orders).compose(event).get_epsilon(1e-5)
    assert compute_epsilon(orders, curve, 1e-5)[0] == pytest.approx(library, abs=1e-11)


def test_composition_order_and_grouping_change_nothing():
    parts = [DiscreteGaussianDpEvent(6.0), DiscreteGaussianDpEvent(9.0), ExponentialMechanismDpEvent(0.1)]
    values = {epsilon(ComposedDpEvent([*p, *p]), 1e-6) for p in itertools.permutations(parts)}
    values |= {epsilon(ComposedDpEvent([times(e, 2) for e in parts]), 1e-6)}
    assert len(values) == 1


def test_more_events_never_cost_less():
    events = [DiscreteGaussianDpEvent(6.0), ExponentialMechanismDpEvent(0.2), GaussianDpEvent(9.0), sgd(0.01, 2.0, 50)]
    costs = [epsilon(ComposedDpEvent(events[:n]), 1e-6) for n in range(1, 5)]
    assert costs == sorted(costs)


def test_a_failing_accountant_never_makes_a_charge_cheaper(monkeypatch):
    event = DiscreteGaussianDpEvent(6.123456)
    before = epsilons(event, 1e-6)

    def failing(*_args, **_kwargs):
        raise MemoryError

    acc._bounds.cache_clear()
    monkeypatch.setattr(curves, "_composed", failing)
    assert epsilons(event, 1e-6) == {"rdp": before["rdp"]}
    acc._bounds.cache_clear()
    monkeypatch.setattr(acc, "rdp_bound", lambda *_: None)
    with pytest.raises(UsageError, match="No accountant"):
        epsilon(event, 1e-6)
    acc._bounds.cache_clear()


@pytest.mark.parametrize("nonsense", [math.nan, -1.0, math.inf])
def test_nonsense_from_an_accountant_is_no_bound(monkeypatch, nonsense):
    class Broken:
        def get_epsilon_for_delta(self, _):
            return nonsense

    acc._bounds.cache_clear()
    monkeypatch.setattr(curves, "_composed", lambda *_: Broken())
    assert set(epsilons(DiscreteGaussianDpEvent(6.5), 1e-6)) == {"rdp"}
    acc._bounds.cache_clear()


def test_tiny_noise_neither_explodes_nor_passes_for_cheap():
    tracemalloc.start()
    found = epsilon(GaussianDpEvent(0.05), 1e-5)
    assert found == pytest.approx(get_epsilon_gaussian(0.05, 1e-5), rel=1e-3)
    assert epsilon(GaussianDpEvent(1e-4), 1e-5) >= get_epsilon_gaussian(1e-4, 1e-5)
    assert tracemalloc.get_traced_memory()[1] < 4e8  # bytes; dp-accounting alone takes 1.4e9
    tracemalloc.stop()


def test_tiny_deltas_are_left_to_renyi_where_convolution_cannot_tell_them_from_rounding():
    assert set(epsilons(GaussianDpEvent(2.0), 1e-12)) == {"rdp"}
    assert epsilon(GaussianDpEvent(2.0), 1e-12) > get_epsilon_gaussian(2.0, 1e-12)


# ------------------------------------------------------------------------------------------------------------- delta 0
def test_pure_epsilons_add_up_exactly_at_delta_zero():
    event = event_of([Spend("a", ExponentialMechanismDpEvent(0.1), 3), Spend("b", LaplaceDpEvent(2.0), 2)])
    assert epsilon(event, 0.0) >= 3 * Fraction(0.1) + 1
    assert epsilon(event, 0.0) == pytest.approx(1.3, rel=1e-15)
    assert epsilon(ComposedDpEvent([event, GaussianDpEvent(100.0)]), 0.0) == math.inf
    assert epsilon(sgd(0.01, 1.0, 1), 0.0) == math.inf


def test_nothing_costs_nothing_and_no_privacy_costs_everything():
    assert epsilon(NoOpDpEvent(), 1e-5) == 0
    assert epsilon(ComposedDpEvent([]), 0.0) == 0
    assert epsilon(NonPrivateDpEvent(), 1e-5) == math.inf
    assert epsilon(ComposedDpEvent([GaussianDpEvent(5.0), NonPrivateDpEvent()]), 1e-5) == math.inf
    assert epsilon(PoissonSampledDpEvent(0.0, GaussianDpEvent(1.0)), 1e-5) == 0
    assert epsilon(PoissonSampledDpEvent(1.0, GaussianDpEvent(2.0)), 1e-5) == epsilon(GaussianDpEvent(2.0), 1e-5)


# ------------------------------------------------------------------------------------ sampling left out of account
LEFT_OUT = [(0.05, 3_000.0, 10), (0.5, 40.0, 1), (0.9, 5.0, 3), (0.99, 20.0, 100), (0.2, 400.0, 2_000)]
"""Rate, noise multiplier, steps: tiny epsilons, and rates so high that sampling hardly helps."""


def least_epsilon(q, sigma, steps, delta):
    """What dp-accounting proves that epsilon is no smaller than: privacy losses rounded down."""
    step = privacy_loss_distribution.from_gaussian_mechanism(
        sigma, pessimistic_estimate=False, value_discretization_interval=1e-5, sampling_prob=q
    )
    return step.self_compose(steps).get_epsilon_for_delta(delta)


@pytest.mark.parametrize(("q", "sigma", "steps"), LEFT_OUT)
@pytest.mark.parametrize("delta", [1e-9, 1e-5])
def test_no_bound_is_below_what_dp_accounting_proves_epsilon_to_be(q, sigma, steps, delta):
    """No tolerance but the convolutions' own error: both sides are bounds, one from below."""
    event = sgd(q, sigma, steps)
    least = least_epsilon(q, sigma, steps, delta) - 1e-9
    assert min(epsilons(event, delta).values()) >= least
    assert acc._cheap(event, delta) >= least
    unsampled = curves.rdp_bound(acc._unsampled(acc.leaves(event)), delta)
    assert unsampled is not None
    assert unsampled.epsilon >= least


def test_sampling_never_raises_a_renyi_divergence():
    """The argument of docs/accounting.md in dp-accounting's own numbers, at whole orders, where its sum is exact."""
    orders = np.arange(2, 65)
    for q, sigma in itertools.product([0.001, 0.05, 0.5, 0.99, 1.0], [0.5, 1.0, 5.0, 300.0]):
        sampled = RdpAccountant(orders).compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)))._rdp
        assert (np.asarray(sampled) <= orders / (2 * sigma**2) * (1 + 1e-9)).all()


def test_what_is_left_out_is_sampling_and_nothing_else():
    parts = acc.leaves(ComposedDpEvent([sgd(0.3, 2.0, 7), times(GaussianDpEvent(5.0), 2)]))
    assert set(acc._unsampled(parts)) == {(GaussianDpEvent(2.0), 7), (GaussianDpEvent(5.0), 2)}
    tiny, plain = epsilons(sgd(0.05, 1e5, 10), 1e-9), epsilons(times(GaussianDpEvent(1e5), 10), 1e-9)
    assert tiny["rdp"] == plain["rdp"] < 0.01  # a hundredth of what the orders of the sampled events give


# -------------------------------------------------------------------------------------------------------- bad arguments
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, 5e-324, 1e-300, 1e300, True, "3", None])
@pytest.mark.parametrize(
    "make",
    [
        GaussianDpEvent,
        LaplaceDpEvent,
        DiscreteGaussianDpEvent,
        DiscreteLaplaceDpEvent,
        ExponentialMechanismDpEvent,
        ZCDpEvent,
        lambda v: PoissonSampledDpEvent(0.1, GaussianDpEvent(v)),
        lambda v: TruncatedSubsampledGaussianDpEvent(100, 0.1, 20, v),
    ],
)
def test_a_number_out_of_range_is_refused_everywhere(make, value):
    with pytest.raises(UsageError):
        epsilon(make(value), 1e-5)
    with pytest.raises(UsageError):
        Spend("a", make(value))


@pytest.mark.parametrize("count", [0, -1, 1.5, math.nan, True, 10**13])
def test_counts_are_whole_numbers_from_one(count):
    with pytest.raises(UsageError):
        epsilon(times(GaussianDpEvent(2.0), count), 1e-5)
    with pytest.raises(UsageError):
        Spend("a", GaussianDpEvent(2.0), count)


def test_counts_that_only_multiply_to_too_many_are_refused():
    with pytest.raises(UsageError):
        epsilon(times(times(GaussianDpEvent(2.0), 10**7), 10**7), 1e-5)


@pytest.mark.parametrize("delta", [-1e-9, 1.0, 2.0, math.nan, math.inf, 5e-324, True, None])
def test_delta_out_of_range_is_refused(delta):
    with pytest.raises(UsageError, match="delta"):
        epsilon(GaussianDpEvent(2.0), delta)


@pytest.mark.parametrize(
    "event",
    [
        UnsupportedDpEvent(),
        SampledWithoutReplacementDpEvent(100, 10, GaussianDpEvent(1.0)),
        PoissonSampledDpEvent(0.1, LaplaceDpEvent(1.0)),
        PoissonSampledDpEvent(0.1, DiscreteGaussianDpEvent(1.0)),
        PoissonSampledDpEvent(0.1, NonPrivateDpEvent()),
        ComposedDpEvent([GaussianDpEvent(1.0), UnsupportedDpEvent()]),
    ],
)
def test_events_nobody_can_price_are_refused_also_inside_a_tree(event):
    with pytest.raises(UsageError):
        epsilon(event, 1e-5)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_sampling_probability_out_of_range_is_refused(q):
    with pytest.raises(UsageError):
        epsilon(PoissonSampledDpEvent(q, GaussianDpEvent(1.0)), 1e-5)


# -------------------------------------------------------------------------------------------------------- amounts, zCDP
def test_a18_rho_sigma_and_epsilon_cannot_be_mixed():
    assert Rho(0.5) + Rho(0.25) == Rho(0.75)
    assert Rho(0.5) != Epsilon(0.5)
    for mixed in (lambda: Rho(0.5) + Epsilon(0.5), lambda: Rho(0.5) < Sigma(0.5), lambda: Sigma(1.0) + Sigma(1.0)):
        with pytest.raises(TypeError):
            mixed()


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_amounts_are_finite_and_not_negative(value):
    with pytest.raises(UsageError):
        Rho(value)


def test_amounts_are_exact_and_round_up():
    third = Rho(1.0) * Fraction(1, 3)
    assert third + third + third == Rho(1.0)
    assert Fraction(float(third)) >= Fraction(1, 3)
    with pytest.raises(AttributeError):
        third.value = Fraction(0)


def test_zcdp_is_exact():
    assert zcdp(DiscreteGaussianDpEvent(10.0, 3)) == Rho(Fraction(9, 200))
    assert zcdp(ExponentialMechanismDpEvent(0.5)) == Rho(Fraction(1, 32))
    assert zcdp(DiscreteLaplaceDpEvent(4.0)) == Rho(Fraction(1, 32))
    assert zcdp(LaplaceDpEvent(4.0)) == Rho(Fraction(1, 32))
    assert zcdp(times(ZCDpEvent(0.25), 3)) == Rho(Fraction(3, 4))
    for event in (sgd(0.01, 1.0, 1), ZCDpEvent(0.25, 0.1), NonPrivateDpEvent()):
        with pytest.raises(UsageError):
            zcdp(event)


@pytest.mark.parametrize("eps", [0.01, 0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("parts", [1, 3, 7, 29])
def test_a18_shares_of_rho_sum_to_the_budget_and_never_above(eps, parts):
    budget = rho_budget(eps, 1e-6)
    sigma = float(acc.sigma_of(budget * Fraction(1, parts)))
    total = zcdp(event_of([Spend("a", DiscreteGaussianDpEvent(sigma), parts)]))
    assert total <= budget
    assert float(total) == pytest.approx(float(budget), rel=1e-9)
    assert acc.rho_of(Sigma(sigma)) == zcdp(DiscreteGaussianDpEvent(sigma))


# ---------------------------------------------------------------------------------------------------------- calibration
def three_sigmas(scale):
    return event_of([Spend(str(s), DiscreteGaussianDpEvent(s * scale), 5) for s in (6.0, 9.0, 14.0)])


@settings(max_examples=15, deadline=None)
@given(
    eps=st.sampled_from([0.1, 0.5, 1.0, 2.0, 5.0]),
    delta=st.sampled_from([1e-4, 1e-6, 1e-9]),
    sigmas=st.lists(st.floats(1.0, 50.0), min_size=1, max_size=3),
    choice=st.floats(0.01, 0.3),
    count=st.integers(1, 20),
)
def test_a19_a_calibrated_plan_never_costs_more_and_wastes_under_one_percent(eps, delta, sigmas, choice, count):
    def plan(scale):
        noisy = [Spend(f"n{i}", DiscreteGaussianDpEvent(s * scale), count) for i, s in enumerate(sigmas)]
        return event_of([*noisy, Spend("c", ExponentialMechanismDpEvent(choice / scale), count)])

    scale = calibrate(plan, eps, delta)
    assert epsilon(plan(scale), delta) <= eps
    assert epsilon(plan(scale * 0.99), delta) > eps


@pytest.mark.parametrize(("eps", "delta"), [(1e-6, 1e-5), (1e-3, 1e-9), (50.0, 1e-5)])
def test_calibration_at_the_ends(eps, delta):
    scale = calibrate(three_sigmas, eps, delta)
    assert epsilon(three_sigmas(scale), delta) <= eps < epsilon(three_sigmas(scale * 0.95), delta)


def test_calibration_at_delta_zero_is_exact():
    def plan(scale):
        counts = [Spend(f"q{i}", DiscreteLaplaceDpEvent(7 * 3 / scale**-1, 3)) for i in range(7)]
        return event_of([*counts, Spend("c", ExponentialMechanismDpEvent(0.1 / scale), 3)])

    scale = calibrate(plan, 1.0, 0.0)
    assert 1 - 1e-5 < epsilon(plan(scale), 0.0) <= 1


@pytest.mark.parametrize(
    ("make", "eps", "delta"),
    [
        (GaussianDpEvent, 0.0, 1e-5),
        (GaussianDpEvent, math.nan, 1e-5),
        (GaussianDpEvent, math.inf, 1e-5),
        (GaussianDpEvent, 1.0, 0.0),
        (lambda _: GaussianDpEvent(1.0), 1.0, 1e-5),
        (lambda _: GaussianDpEvent(9.0), 1.0, 1e-5),
        (lambda _: NonPrivateDpEvent(), 1.0, 1e-5),
    ],
)
def test_calibration_that_cannot_be_is_refused(make, eps, delta):
    with pytest.raises(UsageError):
        calibrate(make, eps, delta)


def test_calibration_never_tries_tiny_noise():
    tried = []

    def make(scale):
        tried.append(scale)
        return GaussianDpEvent(scale)

    best = calibrate(make, 0.01, 1e-6)
    # dp-accounting's own search starts at noise 0; ours never prices less than the Rényi bracket's first step
    assert min(tried) >= 0.5
    assert best == pytest.approx(calibrate(GaussianDpEvent, 0.01, 1e-6))


# ----------------------------------------------------------------------------------------------------------------- JSON
EVENTS = st.deferred(
    lambda: st.one_of(
        st.builds(GaussianDpEvent, st.floats(0.1, 1e6)),
        st.builds(DiscreteGaussianDpEvent, st.floats(0.1, 1e6), st.integers(1, 50)),
        st.builds(DiscreteLaplaceDpEvent, st.floats(0.1, 1e6), st.integers(1, 50)),
        st.builds(ExponentialMechanismDpEvent, st.floats(1e-6, 10)),
        st.builds(LaplaceDpEvent, st.floats(0.1, 1e6)),
        st.builds(ZCDpEvent, st.floats(1e-6, 10), st.floats(0, 1)),
        st.builds(PoissonSampledDpEvent, st.floats(0.001, 1), st.builds(GaussianDpEvent, st.floats(0.1, 9))),
        st.builds(SelfComposedDpEvent, EVENTS, st.integers(1, 1000)),
        st.builds(ComposedDpEvent, st.lists(EVENTS, max_size=3)),
        st.just(NoOpDpEvent()),
    )
)


@given(EVENTS)
def test_events_survive_json_exactly(event):
    text = json.dumps(acc.event_to_dict(event), allow_nan=False)
    assert acc.event_from_dict(json.loads(text)) == event


@given(st.builds(Spend, st.text(min_size=1, max_size=20), EVENTS, st.integers(1, 100)))
def test_spends_survive_json_exactly(spend):
    assert Spend.from_dict(json.loads(json.dumps(spend.to_dict()))) == spend


def test_numpy_numbers_become_plain_ones():
    event = DiscreteGaussianDpEvent(np.float64(3.5))
    assert type(acc.event_to_dict(event)["sigma"]) is float
    assert acc.leaves(event) == acc.leaves(DiscreteGaussianDpEvent(3.5))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"type": "Gaussian"},
        {"type": "Gaussian", "noise_multiplier": -1.0},
        {"type": "Gaussian", "noise_multiplier": "1"},
        {"type": "Gaussian", "noise_multiplier": 1.0, "extra": 1},
        {"type": "Unknown"},
        {"type": ["Gaussian"]},
        {"type": "Composed", "events": 3},
        {"type": "Composed", "events": [{"type": "Unsupported"}]},
        {"type": "SelfComposed", "event": {"type": "NoOp"}, "times": 0},
    ],
)
def test_json_of_no_event_is_refused(data):
    with pytest.raises(UsageError):
        acc.event_from_dict(data)


@pytest.mark.parametrize("label", ["", "x" * 201, 3, None])
def test_labels_are_short_texts(label):
    with pytest.raises(UsageError, match="label"):
        Spend(label, GaussianDpEvent(1.0))


# --------------------------------------------------------------------------------------- events with a delta of their
# own
def test_deltas_are_taken_off_the_delta_that_is_asked_at():
    noise = SelfComposedDpEvent(DiscreteGaussianDpEvent(30.0), 7)
    both = ComposedDpEvent([noise, SelfComposedDpEvent(DeltaDpEvent(2e-7), 3)])
    assert acc.epsilon(both, 1e-6) == acc.epsilon(noise, acc.float_down(Fraction(1e-6) - 3 * Fraction(2e-7)))
    assert acc.epsilon(both, 1e-6) > acc.epsilon(noise, 1e-6)
    assert acc.rdp_epsilon(both, 1e-6) > acc.rdp_epsilon(noise, 1e-6)
    assert acc.epsilon(both, 5e-7) == math.inf
    assert acc.rdp_epsilon(both, 5e-7) == math.inf
    assert acc.epsilon(DeltaDpEvent(1e-9), 0.0) == math.inf
    assert acc.epsilon(DeltaDpEvent(1e-9), 1e-9) == 0.0
    pure = ComposedDpEvent([DiscreteLaplaceDpEvent(5.0), DeltaDpEvent(1e-9)])
    assert acc.epsilon(pure, 1e-9) == pytest.approx(0.2)


@pytest.mark.parametrize(("sigma", "times", "failing"), [(30.0, 7, 1e-7), (3.0, 1, 9e-7), (60.0, 40, 5e-7)])
def test_deltas_agree_with_the_infinite_losses_of_a_privacy_loss_distribution(sigma, times, failing):
    """The oracle composes the two-point law of (0, delta)-DP, whose loss is infinite with probability delta."""
    event = ComposedDpEvent([SelfComposedDpEvent(DiscreteGaussianDpEvent(sigma), times), DeltaDpEvent(failing)])
    make = privacy_loss_distribution
    counts = make.from_discrete_gaussian_mechanism(sigma, value_discretization_interval=1e-5).self_compose(times)
    lost = make.from_privacy_parameters(DifferentialPrivacyParameters(0.0, failing), 1e-5)
    oracle = counts.compose(lost).get_epsilon_for_delta(1e-6)
    assert oracle * (1 - 1e-3) <= acc.epsilon(event, 1e-6) <= oracle * (1 + 1e-3) + 1e-9


def test_an_event_with_a_delta_survives_json_and_is_checked():
    event = ComposedDpEvent([DiscreteGaussianDpEvent(3.0), DeltaDpEvent(1e-9)])
    assert acc.event_from_dict(json.loads(json.dumps(acc.event_to_dict(event)))) == event
    assert acc.event_to_dict(event)["events"][1] == {"type": "Delta", "delta": 1e-9}
    for bad in (0.0, -1e-9, 1.5, math.nan, True):
        with pytest.raises(UsageError):
            acc.event_to_dict(DeltaDpEvent(bad))


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-9, 5e-7), st.floats(0.2, 5.0))
def test_calibration_never_forgets_a_delta(failing, epsilon):
    def make(scale):
        return ComposedDpEvent([DiscreteGaussianDpEvent(scale), DeltaDpEvent(failing)])

    assert acc.epsilon(make(acc.calibrate(make, epsilon, 1e-6)), 1e-6) <= epsilon
