"""vLLM as the reader of rows: by a stand-in with the real one's signatures, the rows are those that torch gives."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import base_models

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import stand_in_vllm  # noqa: E402
import tabveil  # noqa: E402
from tabveil.conditions import Conditions  # noqa: E402
from tabveil.encoding import size  # noqa: E402
from tabveil.errors import MissingDependencyError, UsageError  # noqa: E402
from tabveil.generators import _vllm  # noqa: E402
from tabveil.generators._text_law import TextLaw  # noqa: E402
from tabveil.generators.base import create  # noqa: E402
from unit.generators.test_pretrained_lm import SCHEMA, plainly, table  # noqa: E402

ROWS = 60


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> stand_in_vllm.Seen:
    """vLLM and a GPU, as far as anybody can see; what vLLM is asked."""
    seen = stand_in_vllm.Seen()
    monkeypatch.setattr(stand_in_vllm.LLM, "seen", seen)
    monkeypatch.setitem(sys.modules, "vllm", stand_in_vllm.module())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in _vllm.SURROUNDINGS:
        monkeypatch.setenv(name, "")
    return seen


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def law(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextLaw:
    """Of a model whose adapters weigh as much as it does, its opinions far from even."""
    folder = getattr(base_models, request.param)(tmp_path_factory.mktemp(request.param), layers=1, spread=0.4)
    found: TextLaw = plainly(folder)._law
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in found.reading.model.adapters.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=rng))
    return found


def read_by_vllm(law: TextLaw) -> TextLaw:
    return law.read_by(_vllm.Engine(law.reading.model, longest=law.reading.wording.longest))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_a_seed_gives_the_rows_that_torch_gives_by_one_call_for_all_of_them(
    law: TextLaw, installed: stand_in_vllm.Seen
) -> None:
    """Draws are ours, so that equal laws are equal rows: 60 of them, some 300 choices."""
    theirs = read_by_vllm(law)
    rows = [x.sample(ROWS, np.random.default_rng(0)) for x in (law, theirs)]
    assert same(*rows)
    assert len(np.unique(np.stack(list(rows[0].values())), axis=1).T) > 8
    depth = [int((trie.at >= 0).sum(1).max()) for trie in law.reading.wording.tries]
    assert len(installed.calls) <= len(law.axes) * max(depth)
    assert sum(installed.calls) > 4 * len(installed.calls)
    theirs.sample(ROWS, np.random.default_rng(1))
    assert len(installed.folders) == 1
    assert installed.modes == [0o700]
    assert not Path(installed.folders[0]).exists()
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_conditions_balance_and_imputation_are_those_of_torch(law: TextLaw) -> None:
    conditions = Conditions.of(SCHEMA, {"hand, is": {"a", "b"}, "n": {"1", "13"}}, None)
    balance = Conditions.of(SCHEMA, None, {"n": {"1": 0.7, "2": 0.3}}).balance
    assert balance is not None
    holes = {a.column.name: np.tile([0, size(a.column)], ROWS // 2) for a in law.axes}
    found = [
        (
            x.given(conditions.allowed).sample(ROWS, np.random.default_rng(0)),
            x.balanced(balance, ROWS, np.random.default_rng(0))[0],
            *x.completed(holes, 2, np.random.default_rng(0)),
        )
        for x in (law, read_by_vllm(law))
    ]
    assert all(map(same, *found))


def test_more_tokens_than_a_request_may_ask_for_take_several(
    law: TextLaw, installed: stand_in_vllm.Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read_by_vllm(law).sample(ROWS, np.random.default_rng(0))
    calls, asked = len(installed.calls), sum(installed.calls)
    monkeypatch.setattr(_vllm, "MOST_TOKENS", 2)
    assert same(plain, read_by_vllm(law).sample(ROWS, np.random.default_rng(0)))
    assert len(installed.calls) == 2 * calls
    assert sum(installed.calls) > 2 * asked


# ------------------------------------------------------------------------------------------------------------- mutants


class Deaf(stand_in_vllm.LLM):
    """Does not say what it was asked for."""

    @staticmethod
    def asked_for(asked: stand_in_vllm.SamplingParams) -> list[int]:
        return []


class Elsewhere(stand_in_vllm.LLM):
    """Speaks of the tokens after those asked for."""

    @staticmethod
    def asked_for(asked: stand_in_vllm.SamplingParams) -> list[int]:
        return [t + 1 for t in asked.logprob_token_ids or []]


class Broken(stand_in_vllm.LLM):
    """Overflows."""

    def generate(self, *args: Any, **options: Any) -> Any:
        answers = super().generate(*args, **options)
        for answer in answers:
            for said in answer.outputs[0].logprobs or []:
                said.update((t, replace(p, logprob=math.nan)) for t, p in list(said.items()))
        return answers


class Silent(stand_in_vllm.LLM):
    """Gives tokens alone."""

    def generate(self, *args: Any, **options: Any) -> Any:
        answers = super().generate(*args, **options)
        for answer in answers:
            answer.outputs[0].logprobs = None
        return answers


class Short(stand_in_vllm.LLM):
    """Loses an answer."""

    def generate(self, *args: Any, **options: Any) -> Any:
        return super().generate(*args, **options)[1:]


class Older(stand_in_vllm.LLM):
    """Does not know what it is asked."""

    def generate(self, *args: Any, **options: Any) -> Any:
        raise TypeError(f"prompt {args[0]}")


class Cooled(stand_in_vllm.LLM):
    """Makes likely tokens likelier."""

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(model, **options)
        self._model.get_output_embeddings().weight.data *= 1.2


class Stale(stand_in_vllm.LLM):
    """Forgets the last token of a prompt."""

    def _answer(self, number: str, tokens: list[int], asked: Any) -> Any:
        return super()._answer(number, tokens[:-1], asked)


@pytest.mark.parametrize(
    ("llm", "words"),
    [
        (Deaf, "does not say how likely every token"),
        (Elsewhere, "does not say how likely every token"),
        (Silent, "does not say how likely every token"),
        (Short, r"vLLM failed \(ValueError\):"),
        (Older, r"vLLM failed \(TypeError\): leave"),
        (Broken, "does not say how likely every token"),
        (Cooled, "otherwise than torch"),
        (Stale, "otherwise than torch"),
    ],
)
def test_answers_that_are_not_the_models_are_refused(
    law: TextLaw, monkeypatch: pytest.MonkeyPatch, llm: type[stand_in_vllm.LLM], words: str
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", stand_in_vllm.module(llm))
    with pytest.raises(UsageError, match=words):
        read_by_vllm(law).sample(ROWS, np.random.default_rng(0))


def test_a_model_without_its_adapters_is_refused(law: TextLaw, monkeypatch: pytest.MonkeyPatch) -> None:
    class Untuned(stand_in_vllm.LLM):
        def __init__(self, model: str, **options: Any) -> None:
            super().__init__(str(law.reading.model._folder), **options)

    monkeypatch.setitem(sys.modules, "vllm", stand_in_vllm.module(Untuned))
    with pytest.raises(UsageError, match="otherwise than torch"):
        read_by_vllm(law).sample(ROWS, np.random.default_rng(0))


def test_an_engine_that_does_not_start_is_one_sentence(law: TextLaw, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(stand_in_vllm.LLM):
        def __init__(self, model: str, **options: Any) -> None:
            raise RuntimeError(f"no memory for {model}")

    monkeypatch.setitem(sys.modules, "vllm", stand_in_vllm.module(Full))
    with pytest.raises(MissingDependencyError, match=r"could not load the model \(RuntimeError\)"):
        read_by_vllm(law).sample(ROWS, np.random.default_rng(0))


# -------------------------------------------------------------------------------------------------------- the generator


def test_a_model_is_sampled_by_either_and_keeps_neither(tmp_path: Path, installed: stand_in_vllm.Seen) -> None:
    base = base_models.gpt2(tmp_path / "base", layers=1)
    made = plainly(base, backend="vllm")
    made.save(tmp_path / "model")
    options = {"base_model": str(base)}
    both = [tabveil.load(tmp_path / "model", **options, backend=b) for b in ("torch", "vllm")]
    rows = [m.sample(ROWS, random_state=0) for m in (made, *both)]
    assert rows[0].equals(rows[1])
    assert rows[0].equals(rows[2])
    assert len(installed.folders) == 2
    assert "vllm" not in (tmp_path / "model" / "model.json").read_text()


@pytest.mark.parametrize(("module", "gpu", "words"), [(None, True, "pip install vllm"), ("vllm", False, "needs a GPU")])
def test_what_is_missing_is_said_in_one_sentence_before_anything_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str | None, gpu: bool, words: str
) -> None:
    if module is None:
        monkeypatch.delitem(sys.modules, "vllm")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    base = base_models.gpt2(tmp_path, layers=1)
    made = create("pretrained_lm", epsilon=1.0, delta=1e-5, base_model=str(base), backend="vllm")
    ledger = tabveil.Ledger(":memory:")
    ledger.open("people", epsilon=1.0, delta=1e-5)
    with pytest.raises(MissingDependencyError, match=words):
        made.fit(table(300), SCHEMA, ledger=ledger, dataset="people")
    assert [json.loads(e["payload"])["kind"] for e in ledger.export("people")["entries"]] == ["open"]


def test_a_base_model_that_changed_since_is_refused(tmp_path: Path) -> None:
    base = base_models.gpt2(tmp_path, layers=1)
    made = plainly(base, backend="vllm")
    (base / "more.json").write_text("{}")
    with pytest.raises(UsageError, match="has changed"):
        made.sample(3)


def test_another_backend_is_refused() -> None:
    with pytest.raises(UsageError, match="torch, vllm"):
        create("pretrained_lm", epsilon=math.inf, backend="other")
