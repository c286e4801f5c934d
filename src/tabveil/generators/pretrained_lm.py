"""A pretrained language model that writes rows as text, fine-tuned by low-rank adapters.

The three phases of Pred-LLM (Nguyen, Gupta, Do, Nguyen, Venkatesh 2024, "Generating Realistic Tabular Data with Large
Language Models"):

1. fine-tuning on rows as text, "age is 39, sex is F, ...", features in random order and the label last, beside rows in
   any order, so that anything can be asked given anything (`_row_losses`). Only adapters are trained (LoRA, Hu et al.
   2022), by DP-SGD where the fit is private (Yu et al. 2022, "Differentially Private Fine-tuning of Language Models");
2. feature-conditional sampling: each feature begins the same number of rows, with a value from its charged one-way
   marginal, never one of a training row (`_text_law`);
3. the label of each row is asked for given all its features, unless its shares were asked for.

Unlike the paper, every row is valid (prefix tries, `_trie`), nothing is written row by row, the temperature is 1, and a
row is one record. As for the other deep generators numbers are cells, charged for; a cell is written as a value in its
middle. Before the training the base model's opinion of a column, asked without a row, is replaced by the charged shares
("contextual calibration", Zhao et al. 2021, "Calibrate Before Use").

Privacy: charged histograms of columns, and one charged training of the adapters (unit, relation, sensitivity and event
as in `_deep`). Base model, tokenizer, words and tries are public, or follow from charged counts. What the base model
has read before is outside the promise, and the statement says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tabveil._torch import nn, torch
from tabveil.encoding import Codes, Floats
from tabveil.errors import DataError, UsageError
from tabveil.generators import _vllm
from tabveil.generators._base_model import BaseModel, Tokens, digest_of, folder_of, positions_of
from tabveil.generators._deep import Cells, Counted, DeepGenerator, seeded
from tabveil.generators._row_losses import Neighbours, RowLosses
from tabveil.generators._saved import Arrays
from tabveil.generators._text_law import Examples, TextLaw
from tabveil.generators._wording import Wording, most_tokens
from tabveil.generators._writing import Reading
from tabveil.generators.base import Plan, Progress, whole
from tabveil.ledger import Ledger, Receipt
from tabveil.mechanisms import PrivateRows
from tabveil.schema import Schema
from tabveil.sgd import Average, Course, Descent, warm_up
from tabveil.units import ClippedSum

Tensor = torch.Tensor

CLIP = 1.0
"""Longest gradient of a unit."""

PLAIN_BATCH = 64
"""Expected rows of a batch where nothing is private."""

RANK, PLAIN_RANK = 4, 8
"""Of the adapters, private and not: every weight more is one more coordinate of noise."""

LEARNING_RATE, PLAIN_LEARNING_RATE = 1e-3, 1e-3
"""Of Adam, private and not."""

WARM_UP = 20
"""Steps over which the learning rate rises."""

STEPS, MOST_STEPS, PLAIN_STEPS = 200, (10, 1_000), 2_000
"""Noisy gradients at epsilon 1 (they grow with its root), least and most of them, and most without privacy."""

DECAY = 0.99
"""Of the average of weights."""

ACTIVATIONS = 2**27
"""Numbers kept for one backward pass: as many rows are read at a time as fit, 64 at least."""

PER_TOKEN = 32
"""Of these, for each token and layer, in widths of the model."""

MOST_NEIGHBOURS = 8

BACKENDS = ("torch", "vllm")

POOL = 512
"""Synthetic rows among which neighbours are looked for when sampling."""

REAL_POOL = 20_000
"""Real ones, in a training without privacy."""


class Tuned(nn.Module):
    """What a fit keeps of the language model: its adapters, and the biases of the columns' choices.

    Args:
      reading: the model with fresh adapters, and the words.
    """

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self._frozen = (reading,)  # in a tuple, so that the base model's weights are no part of this module's
        self.adapters = reading.model.adapters
        for i, bias in enumerate(reading.bias):
            self.register_buffer(f"bias{i}", bias)

    @property
    def reading(self) -> Reading:
        """The model as it is tuned by now."""
        (reading,) = self._frozen
        return replace(reading, bias=tuple(self.get_buffer(f"bias{i}") for i in range(len(reading.bias))))


class PretrainedLM(DeepGenerator):
    """A pretrained language model with adapters trained by DP-SGD.

    Args:
      base_model: folder of a causal language model in Hugging Face's format, with safetensors; the environment variable
        TABVEIL_BASE_MODEL where nobody says. Nothing is downloaded and no code from it is run. No saved model names the
        folder: a model names the SHA-256 of its files, and needs it again to be loaded.
      rank: of the adapters, from 1 to 256; RANK or PLAIN_RANK where nobody says.
      backend: what reads the rows that a fitted model writes: "torch", or "vllm" (`_vllm`), by the same law.
      neighbours: how many real rows like it are shown before a row in training (HARMONIC, Wang et al. 2024), and as
        many synthetic rows like each other before one is written; 0 to MOST_NEIGHBOURS. Only for epsilon inf.

    Others as `DeepGenerator`.
    """

    guarantee: ClassVar[str] = (
        "Charged noisy histograms of columns, then adapters of a pretrained language model trained by DP-SGD; what the "
        "base model read before is outside."
    )
    local: ClassVar[frozenset[str]] = DeepGenerator.local | {"base_model", "backend"}
    least_strength: ClassVar[float] = 0.0
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"steps": 4, "rank": 1, "cells": 6, "match": False})

    def __init__(
        self,
        *,
        epsilon: float,
        delta: float | None = None,
        random_state: int | None = None,
        progress: Progress | None = None,
        base_model: str | Path | None = None,
        steps: int | None = None,
        rate: float | None = None,
        rank: int | None = None,
        learning_rate: float | None = None,
        cells: int | None = None,
        match: bool = True,
        neighbours: int = 0,
        device: str = "cpu",
        backend: str = "torch",
        checkpoints: str | Path | None = None,
    ) -> None:
        super().__init__(
            epsilon=epsilon,
            delta=delta,
            random_state=random_state,
            progress=progress,
            steps=steps,
            rate=rate,
            learning_rate=learning_rate,
            cells=cells,
            match=match,
            device=device,
            checkpoints=checkpoints,
        )
        self.base_model = None if base_model is None else str(base_model)
        self.rank = None if rank is None else whole("rank", rank, 1, 256)
        self.neighbours = self._checked_neighbours(neighbours)
        if backend not in BACKENDS:
            raise UsageError(f"backend must be one of {', '.join(BACKENDS)}.")
        self.backend = backend
        self._model: BaseModel | None = None
        self._engine: _vllm.Engine | None = None

    def _checked_neighbours(self, neighbours: int) -> int:
        if neighbours and math.isfinite(self.epsilon):
            raise UsageError(
                "neighbours shows real rows to the model: it is for epsilon inf only, where nothing is private."
            )
        return whole("neighbours", neighbours, 0, MOST_NEIGHBOURS)

    @property
    def _steps(self) -> int:
        return self.steps or steps_for(self.epsilon)

    @property
    def _rank(self) -> int:
        return self.rank or (RANK if math.isfinite(self.epsilon) else PLAIN_RANK)

    @property
    def _learning_rate(self) -> float:
        return self.learning_rate or (LEARNING_RATE if math.isfinite(self.epsilon) else PLAIN_LEARNING_RATE)

    def _plain_rate(self, counted: Counted) -> float:
        return min(1.0, PLAIN_BATCH / max(counted.total, 1.0)) if self.rate is None else self.rate

    # ---------------------------------------------------------------------------------------------------------- plan
    def plan(self, schema: Schema) -> Plan:
        """As `Generator.plan`.

        Raises:
          UsageError: there is no base model to start from, or rows may be longer than it can read.
          MissingDependencyError: vllm was asked for and cannot run here.
        """
        folder = folder_of(self.base_model)
        if self.backend == "vllm":
            _vllm.check()
        plan = super().plan(schema)
        self._check_length(schema, folder)
        return plan

    def _check_length(self, schema: Schema, folder: Path) -> None:
        """Before anything is charged: what the longest row may take, by public knowledge."""
        most = (1 + self.neighbours) * most_tokens(schema, Tokens(folder))
        if most > positions_of(folder):
            raise UsageError(
                f"A row may take {most} tokens, and the base model reads {positions_of(folder)}: use one with a longer "
                "context, or fewer columns or shorter names and categories."
            )

    def settings(self) -> dict[str, Any]:
        """The options, and the base model's SHA-256."""
        return {**super().settings(), "base_model_sha256": self._digest}

    @property
    def _digest(self) -> str:
        return digest_of(folder_of(self.base_model)) if self._model is None else self._model.digest

    def _outside(self) -> tuple[str, ...]:
        return (
            f"The base model (SHA-256 {self._digest}) was trained by others on data of their choice: what it knew of "
            "anybody before this fit is not covered.",
        )

    # ----------------------------------------------------------------------------------------------------------- fit
    def _pay(self, plan: Plan, schema: Schema, *, ledger: Ledger | None, dataset: str | None) -> Receipt:
        self._model = self._net = self._law = self._engine = None
        self._model = self._loaded()  # a model that cannot be loaded must not cost anything
        return super()._pay(plan, schema, ledger=ledger, dataset=dataset)

    def _loaded(self) -> BaseModel:
        """The base model, its adapters fresh."""
        with seeded(self.random_state):
            return BaseModel(folder_of(self.base_model), rank=self._rank, device=self.device)

    def _learn(self, rows: PrivateRows, plan: Plan) -> None:
        super()._learn(rows, plan)
        if self.neighbours:
            self._law = self._text_law.among(POOL, self.neighbours, np.random.default_rng(self.random_state))

    def _trained(self, rows: PrivateRows, plan: Plan, counted: Counted) -> Tuned:
        net = Tuned(self._untrained(counted).reading.calibrated([torch.from_numpy(s) for s in _floored(counted)]))
        schedule, adapters = self._training(plan, counted), net.adapters
        near = self._neighbours(rows, counted) if self.neighbours else None
        losses = RowLosses(net.reading, counted.axes, label=self._label, neighbours=near)
        average = Average(adapters, decay=DECAY)
        course = Course(
            torch.optim.Adam(adapters.parameters(), lr=self._learning_rate), factor=warm_up(WARM_UP), average=average
        )
        descent = Descent(
            adapters,
            rows,
            schedule=schedule,
            clip=CLIP,
            expected_units=self._expected_units(counted, schedule),
            losses=losses,
            most_units=self._rows_at_a_time(net.reading),
        )
        self._run(descent, course)
        average.copy_to(adapters)
        return net

    def _rows_at_a_time(self, reading: Reading) -> int:
        """How many rows a gradient is taken of at a time."""
        kept = PER_TOKEN * reading.model.width * reading.model.layers * reading.wording.longest * (1 + self.neighbours)
        return int(np.clip(ACTIVATIONS // kept, 64, 4096))

    def _untrained(self, counted: Counted) -> Tuned:
        model = self._model or self._loaded()
        self._model = model
        wording = Wording.of(counted.axes, model.tokens, model.tokens.begin).to(self.device)
        bias = tuple(torch.zeros(t.open.shape, device=self.device) for t in wording.tries)
        return Tuned(Reading(model, wording, bias))

    def _neighbours(self, rows: PrivateRows, counted: Counted) -> Neighbours:
        """Real rows to look for neighbours among, where nothing is private; the sum is refused where anything is."""
        cells, found = Cells(counted.axes), list[Tensor]()

        def kept(codes: Codes, owners: Codes) -> Floats:
            found.append(cells(torch.from_numpy(codes).to(self.device)))
            return np.zeros(1)

        rate = min(1.0, REAL_POOL / max(counted.total, 1.0))
        rows.noisy_sum(ClippedSum(rate, math.inf, 1, 4096, kept), label="neighbours")
        return Neighbours(torch.cat(found), self.neighbours)

    @property
    def _label(self) -> int | None:
        names = [c.name for c in self.schema.modelled]
        return names.index(self.schema.target) if self.schema.target in names else None

    def _plain_law(self, counted: Counted, net: nn.Module) -> TextLaw:
        if not isinstance(net, Tuned):
            raise TypeError("no tuned language model")
        return TextLaw.of(counted.axes, net.reading, _floored(counted), label=self._label)

    @property
    def _text_law(self) -> TextLaw:
        law = self._fitted[2]
        if not isinstance(law, TextLaw):
            raise TypeError("no law of a language model")
        return law

    @property
    def _drawing(self) -> TextLaw:
        """As `DeepGenerator._drawing`, read by `backend`."""
        law = self._text_law
        if self.backend == "torch":
            return law
        if self._engine is None:
            longest = (1 + self.neighbours) * law.reading.wording.longest
            self._engine = _vllm.Engine(law.reading.model, longest=longest)
        return law.read_by(self._engine)

    # ---------------------------------------------------------------------------------------------------------- save
    def _state(self) -> tuple[Arrays, dict[str, Any]]:
        (arrays, state), law = super()._state(), self._text_law
        shown = {} if law.examples is None else {"examples": law.examples.cells}
        return {**arrays, **shown}, {**state, "base_model_sha256": law.reading.model.digest}

    def _restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        self._model, self._engine = self._base_of(state["base_model_sha256"]), None
        super()._restore(arrays, state)
        if "examples" in arrays:
            self._law = replace(self._text_law, examples=Examples.of(arrays["examples"], self.neighbours))

    def _base_of(self, digest: str) -> BaseModel:
        """The base model that a saved model was fitted to; DataError where another one, or none, is at hand."""
        try:
            model = self._loaded()
        except UsageError as error:
            raise DataError(f"The model needs its base model, whose SHA-256 is {digest}. {error}") from error
        if model.digest != digest:
            raise DataError(
                f"The model was fitted to a base model whose SHA-256 is {digest}; the folder that base_model or "
                f"TABVEIL_BASE_MODEL names holds another one ({model.digest})."
            )
        return model


def steps_for(epsilon: float) -> int:
    """Noisy gradients that epsilon is worth: with less of it, fewer and less noisy ones teach more."""
    return PLAIN_STEPS if math.isinf(epsilon) else int(np.clip(round(STEPS * math.sqrt(epsilon)), *MOST_STEPS))


def _floored(counted: Counted) -> tuple[Floats, ...]:
    """The columns' charged shares, none quite 0, each summing to 1."""
    floored = [np.maximum(s, 1e-6) for s in counted.shares]
    return tuple(s / s.sum() for s in floored)
