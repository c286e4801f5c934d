"""A module that stands in for vLLM 0.33.0: its signatures, and what they refuse, around a model that torch reads whole.

Copied from the wheel: the fields of `SamplingParams` (vllm/sampling_params.py), the arguments of `LLM` and of
`LLM.generate` (vllm/entrypoints/llm.py), `RequestOutput` and `CompletionOutput` (vllm/outputs.py), `Logprob`
(vllm/logprobs.py), the limits of `logprob_token_ids`, of prompts and of lists. Types are left out where they are
vLLM's own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
import transformers

MAX_LOGPROB_TOKEN_IDS = 128
ENGINE_ARGS = {
    "block_size",
    "disable_log_stats",
    "enable_lora",
    "enable_prefix_caching",
    "load_format",
    "logprobs_mode",
    "max_logprobs",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
}
"""Of the 259 fields of `EngineArgs` that `LLM` hands its other keywords to, those one could think of here."""


@dataclass
class SamplingParams:
    """What is asked of each prompt."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    watermarking: bool | None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprob_token_ids: Any = None
    prompt_logprob_start: int | None = None
    logprob_token_ids: list[int] | None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: int = 0
    stream_interval: int | None = None
    skip_clone: bool = False
    output_text_buffer_length: int = 0
    structured_outputs: Any = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    extra_args: dict[str, Any] | None = None
    bad_words: list[str] | None = None
    skip_reading_prefix_cache: bool | None = None
    thinking_token_budget: int | None = None
    repetition_detection: Any = None
    routed_experts_prompt_start: int = 0
    trace_decode_token_ids: list[int] | None = None


@dataclass
class Logprob:
    """Of one token."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    """What a prompt is answered."""

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    routed_experts: Any = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: Any = None
    sampling_mask: Any = None
    spec_decode_metrics: Any = None
    weight_versions: Any = None


@dataclass
class RequestOutput:
    """A prompt and its answers."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: Any
    outputs: list[CompletionOutput]
    finished: bool


@dataclass
class Seen:
    """What the stand-in was asked: requests of each call, and of the folder who may open it."""

    calls: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


class LLM:
    """A model on the CPU that reads every prompt whole, without a cache."""

    seen = Seen()

    def __init__(
        self,
        model: str,
        *,
        runner: str = "auto",
        convert: str = "auto",
        tokenizer: str | None = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        allowed_local_media_path: str = "",
        allowed_media_domains: list[str] | None = None,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        chat_template: Any = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        cpu_offload_gb: float = 0,
        offload_group_size: int = 0,
        offload_num_in_group: int = 1,
        offload_prefetch_step: int = 1,
        offload_params: set[str] | None = None,
        enforce_eager: bool = False,
        enable_return_routed_experts: bool = False,
        return_sampling_mask: bool = False,
        disable_custom_all_reduce: bool = False,
        hf_token: bool | str | None = None,
        hf_overrides: Any = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
        pooler_config: Any = None,
        structured_outputs_config: Any = None,
        profiler_config: Any = None,
        attention_config: Any = None,
        kv_cache_memory_bytes: int | None = None,
        compilation_config: Any = None,
        quantization_config: Any = None,
        logits_processors: Any = None,
        spec_method: str | None = None,
        spec_model: str | None = None,
        spec_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        if set(kwargs) - ENGINE_ARGS:
            raise TypeError(f"EngineArgs has no {sorted(set(kwargs) - ENGINE_ARGS)}")
        assert skip_tokenizer_init, "the folder holds no tokenizer"
        assert dtype == "float32"
        assert kwargs["logprobs_mode"] == "raw_logprobs"
        assert kwargs["enable_prefix_caching"]
        self.seen.folders.append(model)
        self.seen.modes.append(os.stat(model).st_mode & 0o777)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._longest = kwargs["max_model_len"]

    def generate(
        self,
        prompts: Any,
        sampling_params: Any = None,
        *,
        use_tqdm: Any = True,
        lora_request: Any = None,
        priority: Any = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """The answers, in the order of the prompts."""
        assert len(prompts) == len(sampling_params)
        self.seen.calls.append(len(prompts))
        pairs = zip(prompts, sampling_params, strict=True)
        return [self._answer(str(i), p["prompt_token_ids"], s) for i, (p, s) in enumerate(pairs)]

    def _answer(self, number: str, tokens: list[int], asked: SamplingParams) -> RequestOutput:
        ids = self.asked_for(asked)
        if not 0 < len(tokens) < self._longest or len(ids) > MAX_LOGPROB_TOKEN_IDS or asked.max_tokens != 1:
            raise ValueError("VLLMValidationError")
        with torch.no_grad():
            scores = torch.log_softmax(self._model(torch.tensor([tokens])).logits[0, -1].float(), -1)
        drawn = int(scores.argmax())
        said = {t: Logprob(float(scores[t]), rank) for rank, t in enumerate([drawn, *ids], 1)}
        output = CompletionOutput(0, "", [drawn], float(scores[drawn]), [said], finish_reason="length")
        return RequestOutput(number, None, tokens, None, [output], True)

    @staticmethod
    def asked_for(asked: SamplingParams) -> list[int]:
        """Tokens whose log-probabilities are given beside that of the token drawn."""
        return asked.logprob_token_ids or []


def module(llm: type[LLM] = LLM) -> ModuleType:
    """What `import vllm` shall find."""
    found = ModuleType("vllm")
    found.__spec__ = ModuleSpec("vllm", None)
    vars(found).update(LLM=llm, SamplingParams=SamplingParams)
    return found
