"""The language model that a fit starts from: a folder on this machine, never the network, never code from the folder.

Weights are read from safetensors alone (a pickle runs code), in single precision, and frozen. Low-rank adapters (LoRA,
Hu et al. 2022) are put beside its linear layers, found by their type; they are all that is ever trained, and all that a
saved model keeps. The folder is known by the SHA-256 of its files.

Privacy: nothing here sees a row. What the base model was trained on is outside every promise made here.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tabveil._torch import nn, torch
from tabveil.errors import MissingDependencyError, UsageError

Tensor = torch.Tensor

FOLDER = "TABVEIL_BASE_MODEL"
"""Environment variable that names the base model's folder, where no option does."""

SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Files of a folder that decide what the model and its tokenizer do."""

ADAPTER = "tabveil"
"""Name of the adapters within peft."""

CLOSE = 1e-3
"""By how much, of their size, hidden states may differ when rows are read in pieces, with padding between them."""


def folder_of(given: str | None) -> Path:
    """The folder that the option or the environment names; UsageError where it is none with safetensors in it."""
    named = given or os.environ.get(FOLDER)
    if not named:
        raise UsageError(
            "pretrained_lm needs the folder of a causal language model in Hugging Face's format: give base_model=, or "
            f"set {FOLDER}."
        )
    folder = Path(named)
    if not folder.is_dir():
        raise UsageError("base_model must be a folder on this machine; nothing is ever downloaded.")
    if not any(folder.glob("*.safetensors")):
        raise UsageError(
            "The folder of the base model holds no .safetensors file. Other formats may run code when they are loaded: "
            "save the model again with safetensors (save_pretrained does)."
        )
    return folder


def digest_of(folder: Path) -> str:
    """SHA-256 over names and contents of all files that decide what the model does, in hex."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in SUFFIXES):
        with path.open("rb") as file:
            part = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{part}  {path.name}\n".encode())
    return whole.hexdigest()


def positions_of(folder: Path) -> int:
    """Most tokens of a text, as the folder's config.json says; no limit where it says nothing."""
    try:
        said = json.loads((folder / "config.json").read_bytes())
        known = [int(said[k]) for k in ("max_position_embeddings", "n_positions", "n_ctx") if k in said]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError("The folder of the base model holds no config.json that can be read.") from error
    return min(known, default=2**31)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Inside, neither transformers nor peft says anything."""
    said: Any = importlib.import_module("transformers.utils.logging")
    level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    before = logging.root.manager.disable
    try:
        said.set_verbosity_error()
        said.disable_progress_bar()
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()


def _library(name: str) -> Any:
    """transformers or peft, imported when needed: they take seconds."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"pretrained_lm needs {name}: pip install 'tabveil[llm]'.") from error


class Tokens:
    """The tokenizer of a folder.

    Attributes:
      begin: what a text begins with, one token at least.
    """

    def __init__(self, folder: Path) -> None:
        transformers = _library("transformers")
        with _silence(), _refusing("tokenizer"):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        self._unknown = self._tokenizer.unk_token_id
        known = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, self._tokenizer.pad_token_id)
        first = next((t for t in known if t is not None), None)
        if not all(self([" 0,", " name is"])):
            raise UsageError("The folder of the base model holds no tokenizer that knows plain text.")
        self.begin = (int(first),) if first is not None else tuple(self._plain(["\n"])[0]) or (0,)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text as it stands inside a line; an empty list where the tokenizer does not know all of it."""
        if not texts:
            return []
        anchors = ["," if text.startswith(" ") else "0" for text in texts]
        heads = dict(zip(",0", self._plain([",", "0"]), strict=True))
        whole, alone = self._plain([a + t for a, t in zip(anchors, texts, strict=True)]), self._plain(list(texts))
        inside = [
            long[len(heads[a]) :] if long[: len(heads[a])] == heads[a] and len(long) > len(heads[a]) else short
            for a, long, short in zip(anchors, whole, alone, strict=True)
        ]
        return [[] if self._unknown in tokens else tokens for tokens in inside]

    def _plain(self, texts: list[str]) -> list[list[int]]:
        with _silence():
            return [list(map(int, t)) for t in self._tokenizer(texts, add_special_tokens=False)["input_ids"]]


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Inside, whatever goes wrong is the folder's fault: transformers raises a dozen kinds of errors."""
    try:
        yield
    except Exception as error:
        raise UsageError(
            f"The folder of the base model holds no {what} that transformers can load by itself: it must be a whole "
            "causal language model in Hugging Face's format, of a kind that needs no code of its own."
        ) from error


def _loaded(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model in a folder, in single precision, and what transformers told about its weights."""
    with _silence(), _refusing("model"):
        found: tuple[Any, dict[str, Any]] = _library("transformers").AutoModelForCausalLM.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    return found


class BaseModel:
    """A frozen causal language model with fresh adapters.

    Args:
      folder: as `folder_of` gives it.
      rank: of the adapters, from 1.
      device: of torch.

    Attributes:
      digest: SHA-256 of the folder's files.
      tokens: its tokenizer.
      adapters: the linear layers of all adapters; their parameters are all that can be trained.

    Raises:
      UsageError: the folder is no language model that can be loaded, lacks weights, or does not tell padding from text.
    """

    def __init__(self, folder: Path, *, rank: int, device: str) -> None:
        transformers, peft = _library("transformers"), _library("peft")
        self.digest, self.tokens, self._folder = digest_of(folder), Tokens(folder), folder
        model, told = _loaded(folder)
        if told["missing_keys"] or told["mismatched_keys"]:
            raise UsageError("The safetensors of the base model lack some of its weights: they would be made up.")
        self._model = model.eval().requires_grad_(False)
        self._head = model.get_output_embeddings()
        self._body = getattr(model, model.base_model_prefix)
        if not isinstance(self._head, nn.Linear):
            raise UsageError("The base model has no linear layer that gives its logits: it cannot be used.")
        with _silence():
            self.adapters = _adapted(self._model, self._head, transformers=transformers, peft=peft, rank=rank)
        self._model.to(device)
        self.device, self._cache = device, transformers.DynamicCache
        known = inspect.signature(self._body.forward).parameters
        self._cache_name = "cache" if "cache" in known else "past_key_values"  # as it is called until transformers 5.20
        self._check_padding()

    @property
    def width(self) -> int:
        """Of a hidden state."""
        return int(self._head.in_features)

    @property
    def layers(self) -> int:
        """Transformer blocks."""
        return int(getattr(self._model.config, "num_hidden_layers", 1))

    def save_tuned(self, folder: Path) -> None:
        """Write the model into a folder, its adapters added to its weights.

        Raises:
          UsageError: the base model's folder is no longer what it was.
        """
        if digest_of(self._folder) != self.digest:
            raise UsageError("The folder of the base model has changed since it was loaded.")
        whole, peft = _loaded(self._folder)[0], _library("peft")
        for name, layer in self._model.named_modules():
            if isinstance(layer, peft.tuners.lora.LoraLayer):
                whole.get_submodule(name).weight.data += layer.get_delta_weight(ADAPTER).cpu()
        with _silence():
            whole.save_pretrained(str(folder))

    def head(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and biases that turn a hidden state into logits of some tokens: (tokens, width) and (tokens,)."""
        bias = self._head.bias
        weight = self._head.weight[tokens]
        return weight, weight.new_zeros(len(tokens)) if bias is None else bias[tokens]

    def new_cache(self) -> Any:
        """Of keys and values, for `hidden`."""
        return self._cache()

    def hidden(self, tokens: Tensor, real: Tensor, positions: Tensor, cache: Any = None) -> Tensor:
        """Hidden states of the last layer.

        Args:
          tokens: shape (rows, tokens).
          real: shape (rows, tokens read so far + tokens), which of them are text and no padding.
          positions: shape (rows, tokens), in each row's own text.
          cache: of what has been read so far; what is read now is added to it.

        Returns:
          Shape (rows, tokens, width); of padding, anything.
        """
        found: Tensor = self._body(
            input_ids=tokens,
            attention_mask=real.long(),
            position_ids=positions,
            use_cache=cache is not None,
            return_dict=True,
            **{self._cache_name: cache},
        ).last_hidden_state
        return found

    def _check_padding(self) -> None:
        """Raise UsageError unless a row that is read in two pieces, padding between them, is read as it is whole."""
        tokens = torch.tensor([[*self.tokens.begin[:1], 1, 2, 3, 4, 5]], device=self.device) % self._head.out_features
        spots = torch.arange(6, device=self.device)[None]
        cache, real = self.new_cache(), torch.ones(1, 6, dtype=torch.bool, device=self.device)
        try:
            with torch.no_grad():
                whole = self.hidden(tokens, real, spots)
                first = torch.cat([real[:, :3], ~real[:, :2]], 1)
                self.hidden(tokens[:, [0, 1, 2, 0, 0]], first, spots[:, [0, 1, 2, 2, 2]], cache)
                rest = self.hidden(tokens[:, 3:], torch.cat([first, real[:, 3:]], 1), spots[:, 3:], cache)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UsageError("The base model does not take masks, positions and a cache: it cannot be used.") from error
        if not torch.allclose(whole[:, 3:], rest, atol=CLOSE * float(whole.abs().max())):
            raise UsageError("The base model does not tell padding from text: it cannot be used.")


def _adapted(model: nn.Module, head: nn.Module, *, transformers: Any, peft: Any, rank: int) -> nn.ModuleList:
    """Put adapters beside every linear layer but the last one, and give their own layers."""
    linear = (nn.Linear, transformers.pytorch_utils.Conv1D)
    names = [name for name, layer in model.named_modules() if isinstance(layer, linear) and layer is not head]
    turned = any(isinstance(model.get_submodule(n), transformers.pytorch_utils.Conv1D) for n in names)
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, bias="none", target_modules=names, fan_in_fan_out=turned
    )
    peft.inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    pairs = [m for m in model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    layers = [part[ADAPTER] for m in pairs for part in (m.lora_A, m.lora_B)]
    return nn.ModuleList(layers).requires_grad_(True)
