from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

torch = pytest.importorskip("torch")

from tabveil.accounting import Spend  # noqa: E402
from tabveil.columns import Integer  # noqa: E402
from tabveil.conformance import account  # noqa: E402
from tabveil.errors import UnchargedError  # noqa: E402
from tabveil.generators import _mixture  # noqa: E402
from tabveil.generators._mixture import (  # noqa: E402
    CLIP,
    COMPONENTS,
    Mixture,
    Sums,
    clipped_total,
    collected,
    measured,
)
from tabveil.ledger import Receipt  # noqa: E402
from tabveil.mechanisms import PrivateRows  # noqa: E402
from tabveil.schema import Schema  # noqa: E402
from tabveil.tables import open_table  # noqa: E402

WIDTH = 3


def latents(rows: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    side = rng.integers(0, 2, (rows, 1)) * 4.0 - 2.0
    return torch.from_numpy((side + 0.5 * rng.standard_normal((rows, WIDTH))).astype(np.float32))


def fitted(rows: int = 2_000) -> Mixture:
    mixture = Mixture(WIDTH)
    mixture.fit(latents(rows), np.random.default_rng(0))
    return mixture


def sums_of(mixture: Mixture, found: torch.Tensor, *, noise: float = 0.0) -> Sums:
    parts = mixture.parts(found).double().numpy()
    values = found.double().numpy()
    return Sums(parts.sum(0), parts.T @ values, parts.T @ values**2, noise)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_adding_a_unit_moves_the_sum_by_at_most_the_clip(scale: float) -> None:
    """Units of several rows too, however far their latents are."""
    mixture, rng = fitted(), np.random.default_rng(0)
    found = torch.from_numpy(scale * rng.standard_normal((12, WIDTH))).float()
    vectors = _mixture._features(mixture.parts(found), found)
    owners = np.array([0, 0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 7])
    whole = clipped_total(vectors, owners, CLIP)
    for unit in range(8):
        kept = owners != unit
        renumbered = np.unique(owners[kept], return_inverse=True)[1]
        moved = whole - clipped_total(vectors[torch.from_numpy(kept)], renumbered, CLIP)
        assert np.linalg.norm(moved) <= CLIP * (1 + 1e-12)


def test_latents_of_rows_are_drawn_by_chance_nobody_knows() -> None:
    """Trap A8: by a public seed, a row put first would give all others another latent: many clips."""
    mixture = fitted()
    table = open_table(pd.DataFrame({"a": np.arange(50) % 10}))
    schema = Schema(columns=(Integer(name="a", low=0, high=9),))
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        before = torch.get_rng_state()
        rows = PrivateRows(table, schema, Receipt.uncharged())
        found.append(measured(mixture, lambda c: torch.randn(len(c), WIDTH), rows, label="latents", noise=0.0))
        assert torch.equal(before, torch.get_rng_state()), "the state of the generator tells how many rows there are"
    assert not np.array_equal(found[0].firsts, found[1].firsts), "a public seed fixes the latents"


def test_a_unit_that_is_not_finite_counts_as_zero() -> None:
    vectors = torch.tensor([[1.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
    assert clipped_total(vectors, np.array([0, 1, 2]), CLIP).tolist() == [1.0, 0.0]
    assert clipped_total(vectors[:0], np.array([], dtype=np.int64), CLIP).tolist() == [0.0, 0.0]


def test_most_rows_are_not_clipped() -> None:
    mixture = Mixture(WIDTH)
    found = torch.from_numpy(np.random.default_rng(0).standard_normal((1_000, WIDTH))).float()
    vectors = _mixture._features(mixture.parts(found), found)
    assert float((torch.linalg.vector_norm(vectors, dim=1) < CLIP).float().mean()) > 0.9


def test_exact_sums_give_the_moments_of_the_rows() -> None:
    mixture, found = fitted(), latents(3_000, seed=1) + 0.3
    sums = sums_of(mixture, found)
    mixture.correct(sums)
    assert mixture.shares.double().numpy() == pytest.approx(np.maximum(sums.counts, 6) / 3_000, rel=0.02)
    big = sums.counts > 100
    assert mixture.means.numpy()[big] == pytest.approx((sums.firsts / sums.counts[:, None])[big], abs=1e-5)
    variances = mixture.factors.square().sum(2).numpy()
    wanted = (sums.seconds / sums.counts[:, None] - (sums.firsts / sums.counts[:, None]) ** 2)[big]
    assert variances[big] == pytest.approx(np.clip(wanted, *_mixture.VARIANCES), rel=1e-4)


def test_sums_that_are_all_noise_leave_the_means_alone() -> None:
    mixture, rng = fitted(), np.random.default_rng(0)
    before = mixture.means.clone()
    noise = rng.standard_normal((3, COMPONENTS, WIDTH)) * 1e7
    mixture.correct(Sums(noise[0, :, 0], noise[1], noise[2], 1e9))
    assert torch.allclose(mixture.means, before, atol=0.01)
    assert bool(torch.isfinite(mixture.factors).all())


@pytest.mark.statistical
def test_draws_have_the_mixtures_mean_and_covariance() -> None:
    """alpha = 1e-9: 40,000 draws, means of a standard deviation of 2.1 within six of its 200th part."""
    mixture = fitted()
    drawn = mixture.draw(40_000, np.random.default_rng(1)).double().numpy()
    shares, means = mixture.shares.double().numpy(), mixture.means.double().numpy()
    inner = np.einsum("kij,klj->kil", *2 * [mixture.factors.double().numpy()])
    mean = shares @ means
    second = np.einsum("k,kij->ij", shares, inner + np.einsum("ki,kj->kij", means, means))
    assert drawn.mean(0) == pytest.approx(mean, abs=6 * 2.1 / 200)
    assert np.cov(drawn.T) == pytest.approx(second - np.outer(mean, mean), abs=6 * 2.1**2 * 1.5 / 200)


@pytest.mark.parametrize("rows", [torch.zeros(60, WIDTH), torch.full((60, WIDTH), math.nan), 1e30 * latents(60)])
def test_no_latents_fail_a_fit(rows: torch.Tensor) -> None:
    mixture = Mixture(WIDTH)
    mixture.fit(rows, np.random.default_rng(0))
    assert bool(torch.isfinite(mixture.draw(50, np.random.default_rng(0))).all())


def test_a_mixture_has_as_many_parts_as_there_are_latents_for() -> None:
    for rows, parts in ((0, COMPONENTS), (1, COMPONENTS), (2, 1), (30, 2), (600, COMPONENTS)):
        mixture = Mixture(WIDTH)
        mixture.fit(latents(rows), np.random.default_rng(0))
        assert int((mixture.shares > 0).sum()) == parts
        assert float(mixture.shares.sum()) == pytest.approx(1)
        drawn = mixture.draw(2_000, np.random.default_rng(0))
        assert not rows > 1 or float(drawn.abs().max()) < 5


NUMBERS = Schema(columns=(Integer(name="a", low=0, high=9), Integer(name="b", low=0, high=9)))


def rows(ledger_epsilon: float | None) -> PrivateRows:
    """20 rows; under a receipt for one sum with rate 1, or under none that promises anything."""
    frame = pd.DataFrame({"a": np.arange(20) % 10, "b": np.arange(20) // 2})
    if ledger_epsilon is None:
        return PrivateRows(open_table(frame), NUMBERS, Receipt.uncharged())
    ledger = account(ledger_epsilon, 1e-6)
    spend = Spend("latents", PoissonSampledDpEvent(1.0, GaussianDpEvent(50.0)))
    return PrivateRows(open_table(frame), NUMBERS, ledger.charge("conformance", [spend], label="test"))


def test_latents_are_collected_where_nothing_is_private() -> None:
    found = collected(Mixture(2), lambda codes: codes.float(), rows(None), label="latents", expected=20)
    assert sorted(map(tuple, found.tolist())) == sorted((i % 10, i // 2) for i in range(20))


def test_no_private_latent_is_collected() -> None:
    seen: list[torch.Tensor] = []

    def look(codes: torch.Tensor) -> torch.Tensor:
        seen.append(codes)
        return codes.float()

    with pytest.raises(UnchargedError):
        collected(Mixture(2), look, rows(1.0), label="latents", expected=20)
    assert not seen
