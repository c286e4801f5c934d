"""A generator as a function from table to table: promises, fresh noise, accounts left alone."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tabveil.audit.base import AuditInput
from tabveil.audit.shadow import Shadow
from tabveil.columns import Categorical, Integer
from tabveil.errors import UsageError
from tabveil.refitting import Refitting
from tabveil.schema import Schema

SCHEMA = Schema(columns=(Integer(name="x", low=0, high=9), Categorical(name="c", categories=("a", "b", "c"))))
REFIT = Refitting(generator="independent", schema=SCHEMA, rows=30, epsilon=1.0, delta=1e-6)


def table(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"x": rng.integers(0, 10, rows), "c": rng.choice(["a", "b"], rows)})


def test_noise_is_fresh_and_sampling_repeats() -> None:
    assert len(REFIT(table(40), 3)) == 30
    # The same noise twice would take equal draws of all of 13 counts at a scale of about 2.
    assert not REFIT(table(40), 3).equals(REFIT(table(40), 3))
    free = replace(REFIT, epsilon=math.inf, delta=None)
    assert free(table(40), 3).equals(free(table(40), 3))
    assert not free(table(40), 3).equals(free(table(40), 4))


def test_promises() -> None:
    assert REFIT.promise == (1.0, 1e-6)
    assert replace(REFIT, epsilon=math.inf, delta=None).promise is None


def test_one_call_does_not_spend_what_another_needs() -> None:
    for seed in range(3):
        REFIT(table(40), seed)


def test_a_public_row_count_is_that_of_the_release_and_not_of_a_shadow_fit() -> None:
    """With it, delta above one over the count would be refused."""
    refit = replace(REFIT, schema=replace(SCHEMA, public_rows=10**7))
    assert len(refit(table(40), 0)) == 30


def test_it_pickles_and_its_text_says_what_it_is() -> None:
    assert pickle.loads(pickle.dumps(REFIT)) == REFIT
    other = Schema(columns=(Integer(name="x", low=0, high=8), SCHEMA.columns[1]))
    assert repr(REFIT) == repr(replace(REFIT))
    for changed in ({"epsilon": 2.0}, {"rows": 31}, {"options": {"a": 1}}, {"schema": other}, {"generator": "mst"}):
        assert repr(REFIT) != repr(replace(REFIT, **changed))


def test_options_reach_the_generator() -> None:
    with pytest.raises(UsageError, match="no option"):
        replace(REFIT, options={"magic": 1})(table(40), 0)


def test_a_generator_is_audited_beside_its_promise() -> None:
    train = table(60)
    train.loc[0] = [9, "c"]
    data = AuditInput(synthetic=train, train=train, holdout=None, schema=SCHEMA, refit=REFIT, promise=REFIT.promise)
    area, bound = Shadow(targets=["outlier"], fits=16, rows=40, jobs=1).compute(data)
    assert (bound.baseline, area.baseline) == (1.0, 0.5)
    assert "at delta 1e-06" in bound.name
