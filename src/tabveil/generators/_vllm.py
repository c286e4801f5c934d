"""vLLM as the reader of a tuned language model's rows: the law is ours, vLLM says how likely tokens are.

Whenever rows come to a choice, one call of `LLM.generate` asks for all of them what may come next: a row's prompt is
all that was written of it, and of the next token only the log-probabilities of those that its column's trie allows are
asked for (`logprob_token_ids`), before temperature, masks or penalties. What vLLM itself draws is thrown away. A
log-probability is a logit less one number for the row, so that biases, conditions, weights and draws are done by
`_writing` as ever, and a seed gives the rows that torch would give, but for rounding. Prefix caching reads each token
once, as `Text` does.

vLLM is given the base model with the adapters added to its weights, in single precision, from a temporary folder that
only this user can open and that is gone once it was loaded. It works in this process (no worker), and its report of
usage to its makers is turned off. The first answers are held against torch's: models that the two read differently
(scaled or capped logits, say) are refused.

Written against the interface of vLLM 0.33.0, and tested by a stand-in with its signatures. It has never run on a GPU.

Privacy: post-processing of a fitted model. Nothing here sees a private row.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabveil._torch import torch
from tabveil.errors import MissingDependencyError, UsageError
from tabveil.generators._base_model import BaseModel
from tabveil.generators._writing import Lines, Question, Reading

Tensor = torch.Tensor

MOST_TOKENS = 128
"""Log-probabilities that one request may ask for (vLLM's MAX_LOGPROB_TOKEN_IDS); more take further requests."""

MEMORY = 0.5
"""Share of the GPU's memory that vLLM takes; the rest is left to torch. Nobody has measured."""

CHECKED, CLOSE = 8, 1e-3
"""So many of the first answers are held against torch's, and by how much a chance may differ."""

SURROUNDINGS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""Nothing is reported to anybody, no process is started, nothing is told."""


def check() -> None:
    """Raise MissingDependencyError where vLLM cannot run."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingDependencyError("backend='vllm' needs vllm: pip install vllm, or leave backend at 'torch'.")
    if not torch.cuda.is_available():
        raise MissingDependencyError("backend='vllm' needs a GPU, and torch finds none: leave backend at 'torch'.")


class Engine:
    """vLLM with a tuned model, loaded when it is first asked.

    Args:
      model: the base model and its adapters, as they are when it is loaded.
      longest: tokens of the longest row, those before it counted.

    Attributes:
      most_rows: to be given side by side; vLLM queues what is too much for it.
    """

    most_rows = 1_024

    def __init__(self, model: BaseModel, *, longest: int) -> None:
        self._model, self._longest = model, longest
        self._llm: Any = None
        self._checked = False

    def text(self, reading: Reading, rows: int) -> Prompts:
        """As `Reader.text`."""
        return Prompts(self, reading, rows)

    def scores(self, prompts: Sequence[list[int]], asked: Sequence[list[int]]) -> list[list[float]]:
        """Log-probabilities, in one call, of the tokens asked for after each prompt.

        Raises:
          MissingDependencyError: vLLM cannot be loaded.
          UsageError: it failed, or left out a token.
        """
        if self._llm is None:
            self._llm = self._loaded()
        parts = [(i, ids[j : j + MOST_TOKENS]) for i, ids in enumerate(asked) for j in range(0, len(ids), MOST_TOKENS)]
        try:
            said = self._llm.generate(
                [{"prompt_token_ids": prompts[i]} for i, _ in parts],
                [_request(ids) for _, ids in parts],
                use_tqdm=False,
            )
            answers = list(zip(parts, said, strict=True))
        except Exception as error:  # whose words may quote prompts
            raise UsageError(f"vLLM failed ({type(error).__name__}): leave backend at 'torch'.") from None
        found: list[list[float]] = [[] for _ in prompts]
        for (i, ids), answer in answers:
            found[i] += _of(answer, ids)
        return found

    def _loaded(self) -> Any:
        check()
        os.environ.update(SURROUNDINGS)
        with tempfile.TemporaryDirectory(prefix="tabveil-") as folder:
            self._model.save_tuned(Path(folder))
            try:
                vllm: Any = importlib.import_module("vllm")
                return vllm.LLM(
                    folder,
                    skip_tokenizer_init=True,
                    trust_remote_code=False,
                    dtype="float32",
                    gpu_memory_utilization=MEMORY,
                    max_model_len=self._longest,
                    enable_prefix_caching=True,
                    logprobs_mode="raw_logprobs",
                )
            except Exception as error:  # it has dozens of its own
                raise MissingDependencyError(
                    f"vLLM could not load the model ({type(error).__name__}): leave backend at 'torch'."
                ) from error

    def check_once(self, reading: Reading, prompts: Sequence[list[int]], question: Question, said: Tensor) -> None:
        """Hold the first answers to the first question, logits of shape (rows, branches), against torch's."""
        if self._checked:
            return
        c, node = question[0], question[2][:CHECKED]
        with torch.no_grad():
            hidden = torch.cat([_read(self._model, tokens) for tokens in prompts[: len(node)]])
            ours = torch.softmax(reading.logits(c, hidden, node), -1)
        if not torch.allclose(torch.softmax(said[: len(node)], -1), ours, rtol=0.0, atol=CLOSE):
            raise UsageError("vLLM reads this base model otherwise than torch does: leave backend at 'torch'.")
        self._checked = True


def _request(asked: list[int]) -> Any:
    """For the log-probabilities of these tokens, whatever vLLM draws."""
    vllm: Any = importlib.import_module("vllm")
    return vllm.SamplingParams(
        temperature=0.0, max_tokens=1, logprob_token_ids=asked, ignore_eos=True, detokenize=False
    )


def _of(answer: Any, asked: Sequence[int]) -> list[float]:
    """The log-probabilities of one request; raises UsageError where one is missing or no number."""
    known = (answer.outputs[0].logprobs or [{}])[0]
    found = [float(known[token].logprob) if token in known else -torch.inf for token in asked]
    if not all(-torch.inf < x < torch.inf for x in found):
        raise UsageError("vLLM does not say how likely every token is that may come next: leave backend at 'torch'.")
    return found


def _read(model: BaseModel, tokens: Sequence[int]) -> Tensor:
    """Hidden state after a whole prompt, shape (1, width)."""
    row = torch.tensor([tokens], device=model.device)
    spots = torch.arange(len(tokens), device=model.device)[None]
    return model.hidden(row, torch.ones_like(row, dtype=torch.bool), spots)[:, -1]


class Prompts(Lines):
    """Rows that vLLM reads: all their tokens are kept, and sent whenever something is asked."""

    def __init__(self, engine: Engine, reading: Reading, rows: int) -> None:
        super().__init__(reading.wording.begin, rows, reading.model.device)
        self._engine = engine

    def logits(self, writer: Reading, questions: Sequence[Question]) -> list[Tensor]:
        """As `Read.logits`."""
        prompts, asked = self._prompts(questions), _asked(writer, questions)
        scores = iter(self._engine.scores(prompts, asked))
        out = []
        for c, rows, node in questions:
            trie = writer.wording.tries[c]
            plain = torch.full((len(rows), len(trie.choices)), -torch.inf, device=trie.open.device)
            plain[trie.open[node]] = plain.new_tensor([x for _ in range(len(rows)) for x in next(scores)])
            out.append(writer.biased(c, plain, node))
        self._engine.check_once(writer, prompts, questions[0], out[0])
        return out

    def _prompts(self, questions: Sequence[Question]) -> list[list[int]]:
        """All that was written of each row that is asked about."""
        rows = torch.cat([rows for _, rows, _ in questions])
        wide, ends = self._waiting[rows].tolist(), self._lengths[rows].tolist()
        return [tokens[:end] for tokens, end in zip(wide, ends, strict=True)]


def _asked(writer: Reading, questions: Sequence[Question]) -> list[list[int]]:
    """The tokens that may come next in each row, rising."""
    tries = [(writer.wording.tries[c], node) for c, _, node in questions]
    return [trie.choices[open_].tolist() for trie, node in tries for open_ in trie.open[node]]
