"""Attacks that tell fits with a row from fits without, learned from half of the fits and measured on the other half.

- Features that are scores by themselves: how close rows come to the target, how many agree with it.
- The one feature whose means lie farthest apart, in standard deviations; what it says of fits it has learned from comes
  from a choice made on the other four fifths of them.
- Ridge regression on all counting queries, or on all features; few fits and many features, so that what it says of a
  fit it has learned from is taken as if it had not (leave-one-out, from the hat matrix: Allen 1974, PRESS).
- A random forest on all features, as in TAPAS (Houssiau et al. 2022, section 5); of fits it has learned from, only
  trees speak that have not seen them (out of bag).

The attack with the largest area under the ROC curve on the half it was learned from is the one that is measured, so
that only one was tried on the fits that count.

Privacy: sees features of synthetic tables, no row; INTERNAL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tabveil.audit._membership_scores import Floats
from tabveil.audit._shadow_features import DIRECT
from tabveil.audit.rates import auc

STRENGTHS = (0.03, 1.0, 30.0)
"""Of the ridge, in units of the mean squared length of a fit's features."""

TREES = 50

FOLDS = 5


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """Of some fits: about the table, shape (fits, s), and about the target, shape (fits, t)."""

    table: Floats
    target: Floats

    def __getitem__(self, rows: slice) -> Features:
        return Features(self.table[rows], self.target[rows])

    def __len__(self) -> int:
        return len(self.target)

    def all(self) -> Floats:
        """Shape (fits, s + t)."""
        return np.concatenate([self.table, self.target], axis=1)


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """What one attack says of each fit, high where the row seems to be in.

    Attributes:
      attack: which.
      known: of the fits it was learned from, with the row and without, each as if it had not seen them.
      asked: of the fits it is measured on, likewise.
    """

    attack: str
    known: tuple[Floats, Floats]
    asked: tuple[Floats, Floats]


def best(inside: Features, outside: Features, *, seed: int) -> Scores:
    """The attack that does best on every other fit, and what it says of the rest.

    Args:
      inside: fits with the row, 4 or more, in an order that does not depend on them.
      outside: fits without it.
      seed: of the forest.
    """
    known, asked = (inside[1::2], outside[1::2]), (inside[::2], outside[::2])
    # The first of equals, and the simplest come first.
    return max(_attacks(known, asked, seed), key=lambda s: auc(*s.known).value)


def _attacks(known: tuple[Features, Features], asked: tuple[Features, Features], seed: int) -> Iterator[Scores]:
    for at, name in enumerate(DIRECT):
        learned, fresh = (np.concatenate([f.target[:, at] for f in part]) for part in (known, asked))
        yield _scores(name, (learned, fresh), known, asked)
    for name, of in (("queries", lambda f: f.target), ("everything", Features.all)):
        features, sides = _stacked(tuple(map(of, known)))
        new = np.concatenate([of(f) for f in asked])
        yield _scores(f"one of {name}", _single(features, sides, new), known, asked)
        for strength in STRENGTHS:
            said = _ridge(features, sides, new, strength=strength)
            yield _scores(f"ridge {strength:g} on {name}", said, known, asked)
    # The last of these features are everything.
    yield _scores("forest on everything", _forest(features, sides, new, seed=seed), known, asked)


def _stacked(sides: tuple[Floats, ...]) -> tuple[Floats, NDArray[np.int64]]:
    """Features of both sides below each other, and 1 for fits with the row, -1 for fits without."""
    return np.concatenate(sides), np.repeat([1, -1], [len(s) for s in sides])


def _scores(
    attack: str, said: tuple[Floats, Floats], known: tuple[Features, Features], asked: tuple[Features, Features]
) -> Scores:
    first, second = (np.split(s, [len(part[0])]) for s, part in zip(said, (known, asked), strict=True))
    return Scores(attack, (first[0], first[1]), (second[0], second[1]))


def _single(features: Floats, sides: NDArray[np.int64], fresh: Floats) -> tuple[Floats, Floats]:
    """The most telling feature, of known fits as chosen without their fold, and of fresh ones."""
    fold, said = np.arange(len(sides)) % FOLDS, np.zeros(len(sides))
    for left_out in range(FOLDS):
        asked = fold == left_out
        said[asked] = _telling(features[~asked], sides[~asked], features[asked])
    return said, _telling(features, sides, fresh)


def _telling(features: Floats, sides: NDArray[np.int64], fresh: Floats) -> Floats:
    """How far fresh fits lie on the side of "in" of the middle of both means, in standard deviations, shape (n,)."""
    into, out = (features[sides == side] for side in (1, -1))
    spread = np.sqrt((into.var(axis=0) + out.var(axis=0)) / 2 + 1e-18)
    apart = (into.mean(axis=0) - out.mean(axis=0)) / spread
    at = int(np.abs(apart).argmax())
    middle = (into[:, at].mean() + out[:, at].mean()) / 2
    found: Floats = np.sign(apart[at]) * (fresh[:, at] - middle) / spread[at]
    return found


def _ridge(features: Floats, sides: NDArray[np.int64], fresh: Floats, *, strength: float) -> tuple[Floats, Floats]:
    """Leave-one-out predictions of the fits learned from, and predictions of fresh ones; in the dual: fits are few."""
    middle, spread = features.mean(axis=0), features.std(axis=0)
    used = spread > 1e-12
    known, asked = ((f[:, used] - middle[used]) / spread[used] for f in (features, fresh))
    gram, n, level = known @ known.T, len(known), sides.mean()
    shrunk = gram + strength * max(float(gram.trace()) / n, 1e-12) * np.eye(n)
    weights = np.linalg.solve(shrunk, sides - level)
    hat = np.linalg.solve(shrunk, gram).diagonal() + 1 / n
    missed = (sides - level - gram @ weights) / np.maximum(1 - hat, 1e-9)
    return sides - missed, level + asked @ known.T @ weights


def _forest(features: Floats, sides: NDArray[np.int64], fresh: Floats, *, seed: int) -> tuple[Floats, Floats]:
    """Shares of trees that say "in": of trees that did not see the fit, and of all trees for fresh ones."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(TREES, oob_score=True, min_samples_leaf=2, random_state=seed, n_jobs=1)
    forest.fit(features, sides)
    # Of a fit that every tree has seen nothing is known.
    unseen = np.nan_to_num(forest.oob_decision_function_[:, 1], nan=0.5)
    return unseen, forest.predict_proba(fresh)[:, 1]
