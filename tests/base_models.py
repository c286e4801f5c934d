"""Tiny language models with random weights and a tokenizer of single bytes, as folders in Hugging Face's format.

Written byte by byte from numpy alone, so that no test downloads anything and none needs torch to find them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BEGIN = "<|endoftext|>"
POSITIONS = 8_192
Weights = Mapping[str, NDArray[np.float32]]


def _byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    more = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(more)) for b in range(256)]


def _tokenizer() -> dict[str, Any]:
    vocabulary = {BEGIN: 0} | {c: i + 1 for i, c in enumerate(_byte_alphabet())}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {"id": 0, "content": BEGIN, "special": True}
    special |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": level,
        "decoder": level,
        "model": {**model, "vocab": vocabulary, "merges": []},
    }


def _safetensors(weights: Weights) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, value in weights.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [end, end + value.nbytes]}
        end += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(v.tobytes() for v in weights.values())


def _drawn(seed: int, spread: float) -> Callable[..., NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return lambda *shape: (spread * rng.standard_normal(shape)).astype(np.float32)


def gpt2(folder: Path, *, width: int = 32, layers: int = 2, seed: int = 0, spread: float = 0.1) -> Path:
    """A GPT-2: Conv1D layers, tied embeddings, learned positions."""
    draw = _drawn(seed, spread)
    ones, zeros = (lambda n: np.ones(n, np.float32)), (lambda n: np.zeros(n, np.float32))
    weights = {"transformer.wte.weight": draw(257, width), "transformer.wpe.weight": 0.1 * draw(POSITIONS, width)}
    for i in range(layers):
        sizes = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
        sizes |= {"mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width)}
        for name, (a, b) in sizes.items():
            weights |= {f"transformer.h.{i}.{name}.weight": draw(a, b), f"transformer.h.{i}.{name}.bias": zeros(b)}
        for name in ("ln_1", "ln_2"):
            weights |= {f"transformer.h.{i}.{name}.weight": ones(width), f"transformer.h.{i}.{name}.bias": zeros(width)}
    weights |= {"transformer.ln_f.weight": ones(width), "transformer.ln_f.bias": zeros(width)}
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": width, "n_layer": layers}
    config |= {"n_head": 2, "n_positions": POSITIONS, "vocab_size": 257, "bos_token_id": 0, "eos_token_id": 0}
    return _written(folder, config, weights)


def llama(folder: Path, *, width: int = 32, layers: int = 2, seed: int = 0, spread: float = 0.1) -> Path:
    """A Llama: linear layers, grouped keys, rotary positions, a head of its own."""
    draw, ones = _drawn(seed, spread), np.ones(width, np.float32)
    weights = {"model.embed_tokens.weight": draw(257, width), "lm_head.weight": draw(257, width)}
    for i in range(layers):
        sizes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (width // 2, width)}
        sizes |= {"self_attn.v_proj": (width // 2, width), "self_attn.o_proj": (width, width)}
        sizes |= {"mlp.gate_proj": (2 * width, width), "mlp.up_proj": (2 * width, width)}
        sizes |= {"mlp.down_proj": (width, 2 * width)}
        weights |= {f"model.layers.{i}.{name}.weight": draw(*shape) for name, shape in sizes.items()}
        weights |= {f"model.layers.{i}.{n}.weight": ones for n in ("input_layernorm", "post_attention_layernorm")}
    weights["model.norm.weight"] = ones
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width, "vocab_size": 257}
    config |= {"intermediate_size": 2 * width, "num_hidden_layers": layers, "num_attention_heads": 2}
    config |= {"num_key_value_heads": 1, "max_position_embeddings": POSITIONS, "tie_word_embeddings": False}
    config |= {"bos_token_id": 0, "eos_token_id": 0}
    return _written(folder, config, weights)


def _written(folder: Path, config: dict[str, Any], weights: Weights) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": BEGIN}
    parts = {"config.json": config, "tokenizer.json": _tokenizer(), "tokenizer_config.json": kind}
    for name, content in parts.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(_safetensors(weights))
    return folder
