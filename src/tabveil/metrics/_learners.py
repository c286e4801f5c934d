"""Features and learners of `ml_utility`: gradient boosting and a linear model, each for classes and for numbers.

Privacy: fits to whatever rows it is given, outside any budget; keeps none of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from tabveil.columns import Column, Discrete
from tabveil.encoding import size
from tabveil.metrics.base import Coded

TREES = 100
"""Rounds of boosting for two classes or a number; fewer for more classes, each of which costs a tree per round."""

MAX_BRANCHED = 255
"""Categories that histogram trees can split as sets; a column with more is ordered as declared."""

MIN_FREQUENCY = 20
"""Rows a category needs for a coefficient of its own in the linear model."""

Floats = NDArray[np.float64]


class Learner(Protocol):
    """A scikit-learn estimator."""

    def fit(self, x: Floats, y: NDArray[Any]) -> Any:
        """Learn y, shape (rows,), from x, shape (rows, columns)."""


@dataclass(frozen=True, eq=False)
class Features:
    """The columns that predict: `x` of shape (rows, columns), NaN where a cell is missing or not allowed."""

    columns: tuple[Column, ...]
    x: Floats

    @classmethod
    def of(cls, table: Coded, target: str) -> Features:
        """All columns but the target, as codes: label numbers, or steps from the low bound."""
        parts = [
            np.where(codes < size(column), codes, np.nan)
            for column, codes in zip(table.columns, table.codes, strict=True)
            if column.name != target
        ]
        return cls(tuple(c for c in table.columns if c.name != target), np.column_stack(parts).astype(np.float64))

    def pick(self, keep: NDArray[np.bool_]) -> Features:
        """The columns where `keep`, shape (columns,), is true."""
        return Features(tuple(c for c, k in zip(self.columns, keep, strict=True) if k), self.x[:, keep])

    @property
    def branched(self) -> list[bool]:
        """Which columns trees split as sets of categories."""
        return [isinstance(c, Discrete) and size(c) <= MAX_BRANCHED for c in self.columns]


Maker = Callable[[Features, int], Learner]
"""Makes an unfitted learner for given features, with a seed."""


def classifiers(classes: int) -> dict[str, Maker]:
    """Learners of `classes` classes by name."""
    rounds = TREES if classes <= 2 else max(20, 2 * TREES // classes)
    return {
        "gradient boosting": lambda f, seed: HistGradientBoostingClassifier(
            max_iter=rounds, categorical_features=f.branched, early_stopping=False, random_state=seed
        ),
        "linear model": lambda f, seed: _linear(f, LogisticRegression(max_iter=300, random_state=seed)),
    }


def regressors() -> dict[str, Maker]:
    """Learners of a number by name."""
    return {
        "gradient boosting": lambda f, seed: HistGradientBoostingRegressor(
            max_iter=TREES, categorical_features=f.branched, early_stopping=False, random_state=seed
        ),
        "linear model": lambda f, seed: _linear(f, Ridge(random_state=seed)),
    }


def _linear(features: Features, model: Learner) -> Learner:
    """`model` behind imputation and scaling of numbers, and one coefficient per frequent category."""
    listed = [i for i, c in enumerate(features.columns) if isinstance(c, Discrete)]
    numbers = [i for i in range(len(features.columns)) if i not in listed]
    categories = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=MIN_FREQUENCY)
    prepare = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
            ("categories", make_pipeline(SimpleImputer(strategy="constant", fill_value=-1), categories), listed),
        ]
    )
    made: Learner = make_pipeline(prepare, model)
    return made


@dataclass(frozen=True, eq=False)
class Taught:
    """A fitted learner, and which of the predicting columns it looks at."""

    model: Any
    keep: NDArray[np.bool_]
    target: str

    def guess(self, table: Coded) -> Floats:
        """Predicted numbers, shape (rows,)."""
        with _one_thread():
            return np.asarray(self.model.predict(self._features(table)), dtype=np.float64)

    def chances(self, table: Coded, *, classes: int) -> Floats:
        """Probabilities, shape (rows, classes); 0 for a class that the learner was not taught."""
        chances = np.zeros((table.rows, classes))
        with _one_thread():
            chances[:, self.model.classes_] = self.model.predict_proba(self._features(table))
        return chances

    def _features(self, table: Coded) -> Floats:
        return Features.of(table, self.target).x[:, self.keep]


def teach(maker: Maker, table: Coded, *, target: str, y: NDArray[Any], seed: int) -> Taught | None:
    """The learner fitted to `table`, or None where nothing can be learned: no row, one value of y, no known feature."""
    features = Features.of(table, target)
    keep: NDArray[np.bool_] = np.logical_not(np.isnan(features.x).all(axis=0))
    if not keep.any() or len(np.unique(y)) < 2:
        return None
    features = features.pick(keep)
    model = maker(features, seed)
    with warnings.catch_warnings(), _one_thread():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features.x, y)
    return Taught(model, keep, target)


def _one_thread() -> threadpool_limits:
    """Threads that wait for each other on a busy core cost more than they bring: on Adult 142 s against 5 s."""
    return threadpool_limits(limits=1)
