"""Exact discrete Laplace and discrete Gaussian draws, coins, and Gaussians, many at a time, from random bits alone.

Algorithms 1 to 3 of Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy", run on whole
arrays: every probability is a ratio of integers that fit 64 bits, every coin a comparison of a uniform integer, so
that no floating point stands between the random bits and the noise (trap A13). `bernoulli` is exact in the same way.
`gaussian` is not: it is double-precision arithmetic, for vectors of millions of coordinates, and says what that means.

Privacy: these are the laws that `DiscreteGaussianDpEvent`, `DiscreteLaplaceDpEvent` and `PoissonSampledDpEvent` charge
for. Bits come from the operating system unless a test hands in its own (trap A12). OpenDP's samplers are the oracle
the discrete laws are tested against.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Bits = Callable[[int], Words]
"""Gives that many independent uniform 64-bit words."""

_PAIRS = 8192
"""Pairs of Gaussians made at a time: what fits a core's cache."""

VARIANCE_BITS = 20
"""A variance is a fraction whose numerator has about this many bits: precise to one part in 500,000."""

MAX_SIGMA = 1000.0
MIN_SIGMA = 0.5
"""Between these every product below fits 64 bits with room to spare; outside them the caller uses OpenDP."""


def system_bits(count: int) -> Words:
    """`count` words from the operating system's entropy."""
    return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)


def variance(sigma: float) -> tuple[int, int]:
    """The least fraction (numerator, denominator) of the sampler's precision that is at least sigma squared."""
    shift = max(0, VARIANCE_BITS - math.frexp(sigma * sigma)[1])
    numerator, denominator = sigma.as_integer_ratio()
    return -(-(numerator * numerator << shift) // (denominator * denominator)), 1 << shift


def representable(sigma: float) -> float:
    """The standard deviation that `discrete_gaussian` draws for sigma, at least sigma: charge for this one.

    Rounded down to a float, so that what is drawn never has less noise than what is charged.
    """
    numerator, denominator = variance(sigma)
    rounded = math.sqrt(numerator / denominator)
    while variance(rounded) > (numerator, denominator):
        rounded = math.nextafter(rounded, 0.0)
    return rounded


def uniform(below: Words, bits: Bits) -> Words:
    """Uniform integers from 0 to below - 1, element by element, by rejection (no modulo bias)."""
    out = np.zeros(len(below), dtype=np.uint64)
    todo = np.arange(len(below))
    while len(todo):
        bound = below[todo]
        word = bits(len(todo))
        # 2^64 mod bound, in 64-bit arithmetic: the words below it would make small remainders likelier
        good = word >= (np.uint64(0) - bound) % bound
        out[todo[good]] = word[good] % bound[good]
        todo = todo[~good]
    return out


def bernoulli(count: int, probability: float, bits: Bits = system_bits) -> NDArray[np.bool_]:
    """`count` independent coins that show heads with `probability`, rounded down to a multiple of 2^-72.

    One byte decides 255 coins of 256, 64 further bits the rest: the probability is exact for every double from 2^-19.

    Raises:
      ValueError: a probability outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError("a probability must be from 0 to 1")
    whole, rest = divmod(math.floor(Fraction(probability) * 2**72), 2**64)
    first = bits(-(-count // 8)).view(np.uint8)[:count].astype(np.int16)
    heads = first < whole
    close = np.flatnonzero(first == whole)
    heads[close] = bits(len(close)) < np.uint64(rest)
    return heads


def gaussian(count: int, bits: Bits = system_bits) -> NDArray[np.float64]:
    """`count` draws of the standard normal law, in double precision (Box & Muller 1958): 64 bits each, none kept back.

    Radius sqrt(-2 ln u) with u an odd multiple of 2^-65, so that |x| reaches 9.4, beyond which the law has 1e-20 of
    its mass; the angle is a multiple of 2 pi / 2^64, up to the rounding of doubles, and its cosine and sine come from
    the tangent of its half. Doubles are no reals: whoever adds these to private numbers first rounds both to one grid
    (`mechanisms.rounded_noise`, trap A13), far coarser than the doubles and far finer than the noise.
    """
    out = np.empty(count + count % 2)
    half = len(out) // 2
    for start in range(0, half, _PAIRS):
        stop = min(start + _PAIRS, half)
        words = bits(2 * (stop - start))
        radius = words[: stop - start].astype(np.float64)
        radius += 0.5
        radius *= 2.0**-64
        radius = np.sqrt(-2 * np.log(radius))
        tangent = np.tan(words[stop - start :].view(np.int64) * (math.pi * 2.0**-64))
        scaled = radius / (tangent * tangent + 1)
        out[start:stop] = 2 * scaled - radius  # the cosine is (1 - t^2) / (1 + t^2)
        out[half + start : half + stop] = 2 * tangent * scaled
    return out[:count]


def bernoulli_exp(numerator: Words, denominator: Words, bits: Bits) -> NDArray[np.bool_]:
    """Coins that show heads with probability exp(-numerator/denominator), ratio in [0, 1] (CKS 2020, Algorithm 1)."""
    heads = np.zeros(len(numerator), dtype=bool)
    todo, k = np.arange(len(numerator)), 1
    while len(todo):
        go = uniform(denominator[todo] * np.uint64(k), bits) < numerator[todo]
        heads[todo[~go]] = k % 2 == 1
        todo, k = todo[go], k + 1
    return heads


def _geometric_exp(count: int, bits: Bits) -> Words:
    """How often in a row a coin of probability exp(-1) shows heads."""
    runs = np.zeros(count, dtype=np.uint64)
    todo = np.arange(count)
    while len(todo):
        one = np.ones(len(todo), dtype=np.uint64)
        todo = todo[bernoulli_exp(one, one, bits)]
        runs[todo] += np.uint64(1)
    return runs


def _laplace_some(count: int, scale: int, bits: Bits) -> Ints:
    """About count times 0.6 draws of the discrete Laplace law (CKS 2020, Algorithm 2): what survives one round."""
    t = np.full(count, scale, dtype=np.uint64)
    u = uniform(t, bits)
    kept = bernoulli_exp(u, t, bits)
    size = (u[kept] + np.uint64(scale) * _geometric_exp(int(kept.sum()), bits)).astype(np.int64)
    negative = (bits(len(size)) & np.uint64(1)).astype(bool)
    fair = ~(negative & (size == 0))
    return np.asarray(np.where(negative, -size, size)[fair], dtype=np.int64)


def _repeat(draw: Callable[[int], Ints], count: int, yield_: float) -> Ints:
    parts: list[Ints] = []
    missing = count
    while missing > 0:
        parts.append(draw(int(missing / yield_) + 16)[:missing])
        missing -= len(parts[-1])
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def discrete_laplace(count: int, scale: int, bits: Bits = system_bits) -> Ints:
    """`count` draws with P(x) proportional to exp(-|x|/scale), scale a whole number >= 1."""
    return _repeat(lambda n: _laplace_some(n, scale, bits), count, 0.55)


def discrete_gaussian(count: int, sigma: float, bits: Bits = system_bits) -> Ints:
    """`count` draws with P(x) proportional to exp(-x^2 / (2 v)), v = representable(sigma)^2 (CKS 2020, Algorithm 3).

    Args:
      count: how many.
      sigma: from MIN_SIGMA to MAX_SIGMA.
      bits: where random words come from.

    Raises:
      ValueError: sigma outside its range.
    """
    if not MIN_SIGMA <= sigma <= MAX_SIGMA:
        raise ValueError(f"sigma must be from {MIN_SIGMA} to {MAX_SIGMA}")
    top, bottom = variance(sigma)
    return _repeat(lambda n: _gaussian_some(n, (top, bottom), bits), count, 0.6)


def _gaussian_some(count: int, v: tuple[int, int], bits: Bits) -> Ints:
    top, bottom = v
    t = math.isqrt(top // bottom) + 1
    y = discrete_laplace(count, t, bits)
    distance = np.abs(np.abs(y) * (t * bottom) - top)
    if len(distance) and int(distance.max()) >= 2**31:  # |y| over 500 scales: chance below exp(-500), yet never wrong
        raise OverflowError("a draw too far out for 64-bit arithmetic")
    numerator = (distance * distance).astype(np.uint64)
    denominator = np.full(len(y), 2 * top * bottom * t * t, dtype=np.uint64)
    whole, rest = np.divmod(numerator, denominator)
    kept = _geometric_exp(len(y), bits) >= whole
    kept &= bernoulli_exp(rest, denominator, bits)
    return y[kept]
