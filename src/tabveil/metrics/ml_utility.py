"""Train on synthetic, test on real: how well a learner taught by synthetic rows does on real rows it has never seen.

The schema's `target` is predicted from all other learned columns by gradient boosting (histogram trees) and by a
linear model (logistic or ridge regression). A categorical or boolean target gives ROC AUC, accuracy and macro F1, a
number or date R2 and mean absolute error; all on the holdout. Beside each stands the same number for learners taught
by as many rows of train ("real", the ceiling), of train with its columns shuffled ("independent", the floor) and of a
bootstrap of train. Protocol: Esteban, Hyland and Raetsch 2017 (arXiv 1706.02633); Xu et al. 2019 (arXiv 1907.00503).
One target sees one side of a table, and the measure saturates: read it beside the marginals.

Privacy: learns from and is tested on real rows outside any budget: INTERNAL.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from tabveil.columns import Column, Datetime, Decimal, Grid
from tabveil.encoding import size
from tabveil.metrics._learners import Floats, Maker, classifiers, regressors, teach
from tabveil.metrics.base import COMPARED_ROWS, Coded, Metric, MetricInput
from tabveil.records import Score

MAX_CLASSES = 10
"""A target's classes beyond this many, by how frequent they are in train, are merged into one more."""

_ROLES = ("synthetic", "real", "independent", "bootstrap")


class Measure(NamedTuple):
    """What a measured number can be, and which way is better."""

    low: float
    high: float
    goal: Literal["min", "max"]


class MlUtility(Metric):
    """ROC AUC, accuracy and macro F1, or R2 and mean absolute error, of learners taught by the synthetic table."""

    goal = "max"

    def why_not(self, data: MetricInput) -> str:
        """No target, no holdout, or nothing to predict it from."""
        lead = "Train on synthetic, test on real was not measured: "
        if data.schema.target is None:
            return lead + "the schema names no target."
        if data.holdout is None:
            return lead + "it needs a holdout that no fit has seen."
        if len(data.schema.learned) < 2:
            return lead + "there is no column to predict the target from."
        if not _known(data.coded["holdout"], data.schema.column(data.schema.target)).rows:
            return lead + "the target is missing in every row of the holdout."
        return ""

    def compute(self, data: MetricInput) -> list[Score]:
        """For each learner three scores where the target has classes, two where it is a number or date."""
        if data.schema.target is None or self.why_not(data):
            return []
        target = data.schema.column(data.schema.target)
        test = _known(data.coded["holdout"], target).take(COMPARED_ROWS)
        taught = {role: _known(table, target) for role, table in data.alike(_ROLES).items()}
        train = _known(data.coded["train"], target)
        task: Task = Numbers(target) if isinstance(target, Grid) else Classes(target, train)
        seed = int(data.rng("learners").integers(2**31))
        sizes = {"rows learned from": float(taught["synthetic"].rows), "rows tested on": float(test.rows)}
        scores = []
        for learner in task.learners:
            made = {role: task.judge(table, test, learner=learner, seed=seed) for role, table in taught.items()}
            scores += [_score(task, made, measure=m, learner=learner, details=sizes) for m in task.measures]
        return scores


def _score(
    task: Task, made: Mapping[str, Mapping[str, float]], *, measure: str, learner: str, details: dict[str, float]
) -> Score:
    low, high, goal = task.measures[measure]
    return Score(
        metric="ml_utility",
        name=f"{measure} for {task.target.name}, {learner}",
        value=made["synthetic"][measure],
        goal=goal,
        low=low,
        high=high,
        references={role: values[measure] for role, values in made.items() if role != "synthetic"},
        details=details,
    )


def _known(table: Coded, target: Column) -> Coded:
    """The rows whose target is neither missing nor outside what its column allows."""
    return table.take(np.flatnonzero(_target_codes(table, target) < size(target)))


def _target_codes(table: Coded, target: Column) -> NDArray[np.unsignedinteger]:
    return table.codes[[c.name for c in table.columns].index(target.name)]


class Task(ABC):
    """A target and how its prediction is judged.

    Attributes:
      target: the column to predict.
      measures: what is measured, by name.
      learners: who learns, by name.
    """

    target: Column
    measures: Mapping[str, Measure]
    learners: Mapping[str, Maker]

    @abstractmethod
    def judge(self, learn: Coded, test: Coded, *, learner: str, seed: int) -> dict[str, float]:
        """Every measure, on `test`, of the learner taught by `learn`; defined for any `learn`, even without rows."""


class Classes(Task):
    """A target with classes: train's most frequent ones, and one for all others where there are too many."""

    def __init__(self, target: Column, train: Coded) -> None:
        self.target = target
        counts = np.bincount(_target_codes(train, target), minlength=size(target))
        kept = np.sort(np.argsort(-counts, kind="stable")[:MAX_CLASSES])
        self.classes = min(size(target), MAX_CLASSES + 1)
        self._class_of = np.full(size(target), MAX_CLASSES)
        self._class_of[kept] = np.arange(len(kept))
        self.learners = classifiers(self.classes)
        self.measures = {name: Measure(0.0, 1.0, "max") for name in ("ROC AUC", "accuracy", "macro F1")}

    def judge(self, learn: Coded, test: Coded, *, learner: str, seed: int) -> dict[str, float]:
        """ROC AUC (mean over classes of one against the rest), accuracy and macro F1."""
        y = self._class_of[_target_codes(test, self.target)]
        chances = self._chances(learn, test, learner=learner, seed=seed)
        guess = chances.argmax(axis=1)
        return {
            "ROC AUC": _auc(y, chances),
            "accuracy": float(accuracy_score(y, guess)),
            "macro F1": float(f1_score(y, guess, average="macro", zero_division=0.0)),
        }

    def _chances(self, learn: Coded, test: Coded, *, learner: str, seed: int) -> Floats:
        """Probability of each class, shape (test rows, classes); the classes' shares where nothing can be learned."""
        y = self._class_of[_target_codes(learn, self.target)]
        taught = teach(self.learners[learner], learn, target=self.target.name, y=y, seed=seed)
        if taught is None:
            return np.tile(np.bincount(y, minlength=self.classes) / max(1, len(y)), (test.rows, 1))
        return taught.chances(test, classes=self.classes)


def _auc(y: NDArray[np.int64], chances: Floats) -> float:
    """Mean one-against-the-rest ROC AUC of the classes that the test rows can tell apart, 0.5 where there are none."""
    told = [c for c in range(chances.shape[1]) if 0 < (y == c).sum() < len(y)]
    return float(np.mean([roc_auc_score(y == c, chances[:, c]) for c in told])) if told else 0.5


class Numbers(Task):
    """A number or date. The measure R2 is cut at -1: below it, the prediction is simply useless."""

    def __init__(self, target: Grid) -> None:
        self.target = target
        self._step = _step(target)
        self._top = (target.units - 1) * self._step
        self.learners = regressors()
        self.measures = {"R2": Measure(-1.0, 1.0, "max"), "mean absolute error": Measure(0.0, self._top, "min")}

    def judge(self, learn: Coded, test: Coded, *, learner: str, seed: int) -> dict[str, float]:
        """R2 and mean absolute error, predictions clipped to the column's bounds."""
        y = self._values(test)
        errors = y - np.clip(self._guess(learn, test, learner=learner, seed=seed), 0.0, self._top)
        return {"R2": _r2(y, errors), "mean absolute error": float(np.abs(errors).mean())}

    def _values(self, table: Coded) -> Floats:
        return _target_codes(table, self.target).astype(np.float64) * self._step

    def _guess(self, learn: Coded, test: Coded, *, learner: str, seed: int) -> Floats:
        """Predictions, shape (test rows,); with nothing to learn the mean, without rows the middle of the bounds."""
        y = self._values(learn)
        taught = teach(self.learners[learner], learn, target=self.target.name, y=y, seed=seed)
        if taught is None:
            return np.full(test.rows, y.mean() if len(y) else self._top / 2)
        return taught.guess(test)


def _step(target: Grid) -> float:
    """What one grid step is worth: the last decimal of a number, a day of a date, the seconds of a point in time."""
    if isinstance(target, Decimal):
        return float(10.0**-target.decimals)
    return float(target.resolution) if isinstance(target, Datetime) else 1.0


def _r2(y: Floats, errors: Floats) -> float:
    """Explained share of variance, from -1 (or worse) to 1; of a constant y 1 where it is met exactly, else 0."""
    around, off = float(((y - y.mean()) ** 2).sum()), float((errors**2).sum())
    if around == 0.0:
        return float(off == 0.0)
    return max(-1.0, 1.0 - off / around)
