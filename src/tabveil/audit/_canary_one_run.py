"""Many canaries in a single fit: each has a cell of its own, and is in or out by a fair coin.

Cells are categories of a declared column that nothing else uses, so canaries do not disturb each other, and each is a
unit of its own. The auditor, who does not know the coins, says "in" of those whose cells came out highest and "out" of
those that came out lowest; how often he is right bounds epsilon (Steinke, Nasr, Jagielski 2023, "Privacy auditing with
one (1) training run", Theorem 5.2), in one fit where `canary.audit_generator` takes hundreds. The price: a canary among
many is told less surely than one unit that the whole fit is asked about, so that the bound stays far below the claim.

Privacy: all rows are made up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil.audit._canary_fits import Fits, planned_once, purse
from tabveil.audit._canary_laws import Floats, variance
from tabveil.audit._canary_transcripts import Counted, Transcript, overheard
from tabveil.audit._canary_worlds import World
from tabveil.columns import Boolean, Categorical
from tabveil.schema import Schema

CELL = "canary"

SAMPLED = 50
"""Rows sampled for each canary."""


@dataclass(frozen=True, eq=False)
class OneRun:
    """A fit with canaries.

    Attributes:
      included: shape (canaries,), which had a row.
      heard: how much their noisy counts say for each, shape (canaries,): white box.
      sampled: how many sampled rows each has: black box.
    """

    included: NDArray[np.bool_]
    heard: Floats
    sampled: Floats

    def right(self, scores: Floats, guesses: int) -> int:
        """How many of `guesses` are right: half say "in" of the highest scores, half "out" of the lowest."""
        order = np.argsort(scores, kind="stable")
        half = guesses // 2
        return int(self.included[order[len(order) - half :]].sum() + (~self.included[order[:half]]).sum())


def one_run(generator: Fits, *, canaries: int, coins: np.random.Generator) -> OneRun:
    """Fit once to canaries drawn by `coins`."""
    names = tuple(f"c{i}" for i in range(canaries))
    schema = Schema(columns=(Categorical(name=CELL, categories=names), Boolean(name="mark")))
    included = coins.random(canaries) < 0.5
    table = pd.DataFrame({CELL: np.array(names, dtype=object)[included], "mark": True})
    world = World(schema, (table, table), (table, table))
    with planned_once(generator, schema) as spends, overheard(world, {s.label: s.event for s in spends}) as heard:
        heard.append(Transcript())
        generator.fit(table, schema, ledger=purse(generator, schema), dataset="audit")
    sample = generator.sample(SAMPLED * canaries, random_state=0)
    shown = sample[CELL].value_counts().reindex(names, fill_value=0).to_numpy(dtype=np.float64)
    return OneRun(included, _said(heard[0], canaries), shown + coins.random(canaries) / 2)


def _said(transcript: Transcript, canaries: int) -> Floats:
    """Noisy counts of each canary's cell, weighed by how little noise they carry; joined cells say nothing."""
    said = np.zeros(canaries)
    for _, answer in transcript.answers:
        if isinstance(answer, Counted) and answer.noise is not None and CELL in answer.columns:
            other, joined = divmod(len(answer.noisy), canaries)
            if joined or not other:
                continue
            by_cell = answer.noisy.reshape((canaries, other) if answer.columns[0] == CELL else (other, canaries))
            said += by_cell.sum(axis=1 if answer.columns[0] == CELL else 0) / (other * variance(answer.noise))
    return said
