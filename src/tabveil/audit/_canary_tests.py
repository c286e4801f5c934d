"""Do answers follow the law that was charged? Tests of what was overheard of many fits.

Each gives a p-value that holds for any number of fits. Given what was answered before, each answer is a fresh draw, so
that bets (on choices, on categories) hold however adaptive a fit is; tests of noise hold where the number of cells that
a fit asks for does not follow from their noise, and nearly so where it does.

Privacy: arithmetic on answers about made-up rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from tabveil.audit import _canary_laws as laws
from tabveil.audit._canary_laws import Floats
from tabveil.audit._canary_transcripts import Chosen, Counted, Selected, Transcript
from tabveil.audit._white_box import Test, successive

TILTS = tuple(sign * 2.0**k for k in range(-5, 2) for sign in (-1, 1))
"""Bets on how good choices are, in scales of the charged noise."""

MORE = tuple(t for t in TILTS if t > 0)
"""Bets on how many categories are learned."""


def law_tests(transcripts: Sequence[Transcript], side: int) -> list[Test]:
    """P-values of the answers of fits to one table, each with what a small one says."""
    coins = np.random.Generator(np.random.SFC64(side))
    seen = [_deviates(t, side, coins) for t in transcripts]
    moved = np.concatenate([np.concatenate([d[m] for d, m in fit]) if fit else np.zeros(0) for fit in seen])
    each = [np.concatenate([d for d, _ in fit]) if fit else np.zeros(0) for fit in seen]
    pooled = np.concatenate(each)
    return [
        ("answers are not whole numbers", 0.0 if not _whole(transcripts) else 1.0),
        ("the noise does not have its law", laws.normal(pooled)),
        ("the noise is too small or too large", laws.scale(pooled)),
        ("answers are off on the whole", laws.centre(pooled)),
        ("the further unit moves answers by another amount than it may", laws.centre(moved)),
        ("fits have the same noise", _repeated(transcripts, side)),
        ("the noise of a fit depends on the one before", successive(_rows(each))),
        ("the noise of a cell depends on its neighbour's", successive(pooled)),
    ]


def choice_tests(sides: tuple[Sequence[Transcript], Sequence[Transcript]]) -> list[Test]:
    """The same of choices, and of the categories that were learned, of fits to both tables together."""
    answers = [[(side, a) for t in transcripts for _, a in t.answers] for side, transcripts in enumerate(sides)]
    chosen = [(side, a) for side, a in itertools.chain(*answers) if isinstance(a, Chosen)]
    learned = [(side, a) for side, a in itertools.chain(*answers) if isinstance(a, Selected)]
    return [
        ("choices do not follow the charged noise", _best_bet(_bets_on(chosen))),
        ("choices favour some candidates beyond the charged noise", _places(chosen)),
        (
            "more categories are learned than the charged delta pays for",
            _best_bet([[a.growth(side, t) for side, a in learned] for t in MORE]),
        ),
    ]


def _rows(each: Sequence[Floats]) -> Floats:
    """The deviates of each fit as a row, 0 beyond the last."""
    rows = np.zeros((len(each), max(map(len, each), default=0)))
    for row, deviates in zip(rows, each, strict=True):
        row[: len(deviates)] = deviates
    return rows


def _noisy(transcript: Transcript) -> list[Counted]:
    """Histograms whose noise is known."""
    return [a for _, a in transcript.answers if isinstance(a, Counted) and a.noise is not None]


def _deviates(
    transcript: Transcript, side: int, coins: np.random.Generator
) -> list[tuple[Floats, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]]:
    """Of each histogram the noise as normal deviates, and which cells the further unit moves."""
    return [
        (laws.deviates(c.noise, c.noisy - c.exact[side], coins.random(c.noisy.size)), c.exact[0] != c.exact[1])
        for c in _noisy(transcript)
        if c.noise is not None
    ]


def _whole(transcripts: Sequence[Transcript]) -> bool:
    return all((c.noisy == np.rint(c.noisy)).all() for t in transcripts for c in _noisy(t))


def _repeated(transcripts: Sequence[Transcript], side: int) -> float:
    """P-value of two fits with the same noise in every cell: 1 where there are none."""
    heard = [_noisy(t) for t in transcripts]
    left = [np.concatenate([c.noisy - c.exact[side] for c in fit]) for fit in heard if fit]
    if len({a.tobytes() for a in left}) == len(left):
        return 1.0
    equal = max(sum(c.noisy.size * math.log(laws.collision(c.noise)) for c in fit if c.noise) for fit in heard if fit)
    return min(1.0, len(left) ** 2 / 2 * math.exp(equal))


def _bets_on(chosen: Sequence[tuple[int, Chosen]]) -> list[list[float]]:
    """What bets won on each choice: on better and worse ones than the charged noise makes, and on scores of a kind that
    costs twice as much.
    """
    tilted = [[choice.growth(side, tilt) for side, choice in chosen] for tilt in TILTS]
    return [*tilted, [choice.rivalry(side) for side, choice in chosen]]


def _best_bet(won: Sequence[Sequence[float]]) -> float:
    """P-value of the best of several bets against the charged law, by Ville's inequality.

    Args:
      won: logarithms of what each won on each answer.
    """
    return min(1.0, len(won) * math.exp(-min(max(map(sum, won)), 700.0)))


def _places(chosen: Sequence[tuple[int, Chosen]]) -> float:
    """P-value of how often each place among the candidates was picked, against its chances under the charged noise: the
    best of TILTS bets on any place (Chernoff's bound for each). Noise that repeats favours a place.
    """
    most = max((len(choice.utilities[0]) for _, choice in chosen), default=0)
    picked, expected = np.zeros(most), np.zeros(most)
    for side, choice in chosen:
        chances = choice.chances(side)
        expected[: len(chances)] += chances
        picked[choice.picked] += 1
    won = max((float((tilt * picked - math.expm1(tilt) * expected).max(initial=0.0)) for tilt in TILTS), default=0.0)
    return min(1.0, max(most, 1) * len(TILTS) * math.exp(-min(won, 700.0)))
