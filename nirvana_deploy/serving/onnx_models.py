"""Exported graphs as models that are called, and generate, as transformers' are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    GenerationConfig,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import ModelOutput

from nirvana_deploy.serving.graph_decoder import GraphDecoder, open_session
from nirvana_deploy.serving.package_manifest import check_inside
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError

_NUMPY_TYPES: dict[str, Any] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(float16)": np.float16,
}
EXPORT_FILE = "export.json"
MODEL_NAME = "model.onnx"
# transformers 5.24 gave the cache another name.
_CACHE = "cache" if "cache" in CausalLMOutputWithPast.__annotations__ else "past_key_values"


def load_onnx(folder: Path) -> OnnxEncoder | OnnxDecoder:
    """Load the folder of an export: an encoder to call, or a decoder that generates.

    Raises:
        NirvanaError: a file is missing or not the one that was exported, or the model is of a kind
            that is not loaded.
    """
    graphs = _check_export(folder)
    if set(graphs) != {"model"}:
        raise NirvanaError(
            f"{folder} holds the graphs {', '.join(graphs)}; `load` takes one graph, model.onnx. "
            "Export a decoder with graphs: merged; an encoder-decoder is not loaded yet."
        )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    names = [tensor["name"] for tensor in graphs["model"]["inputs"]]
    if any(name.startswith("past_key_values.") for name in names):
        return OnnxDecoder(folder, config)
    return OnnxEncoder(folder, config)


class OnnxEncoder:
    """A graph without a cache; its outputs are attributes, as `logits`."""

    def __init__(self, folder: Path, config: PretrainedConfig) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self._session = open_session(folder / MODEL_NAME)
        self._inputs = {node.name: node.type for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]

    def __call__(self, **inputs: Any) -> ModelOutput:
        """Run a batch of tensors by name, such as a tokenizer makes them.

        Without an attention mask, all tokens count; without token types, they are 0.

        Raises:
            NirvanaError: an input is missing that has no default, or one is not known.
        """
        given = {name: value for name, value in inputs.items() if value is not None}
        if unknown := sorted(set(given) - set(self._inputs) - {"return_dict"}):
            raise NirvanaError(
                f"The graph takes {', '.join(self._inputs)}; it has no input {unknown[0]}."
            )
        feeds = {name: _to_array(given, name, kind) for name, kind in self._inputs.items()}
        arrays = self._session.run(self._outputs, feeds)
        tensors = {
            name: torch.from_numpy(array) for name, array in zip(self._outputs, arrays, strict=True)
        }
        return ModelOutput(**tensors)

    def eval(self) -> OnnxEncoder:
        """Return itself: a graph is never in training."""
        return self


class OnnxDecoder(PreTrainedModel, GenerationMixin):
    """A graph with a cache. `generate` is transformers' own, with sampling, beams and the rest."""

    main_input_name = "input_ids"

    def __init__(self, folder: Path, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.generation_config = _read_generation_config(folder, config)
        self._decoder = GraphDecoder(folder / MODEL_NAME)

    @property
    def device(self) -> torch.device:
        """Where tensors are expected; there are no torch parameters to tell it."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the logits."""
        return torch.float32

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits and the longer cache, which the older transformers call past_key_values.

        The mask is of all tokens, those in the cache too; positions count its ones.
        """
        cache = cache if cache is not None else past_key_values
        cache = cache if cache is not None else self.make_cache()
        batch, num_new = input_ids.shape
        total = int(cache.get_seq_length()) + num_new
        if attention_mask is None:
            attention_mask = torch.ones((batch, total), dtype=torch.long)
        logits, present = self._decoder.step(
            input_ids.numpy(), attention_mask[:, -total:].numpy(), self._read_cache(cache, batch)
        )
        self._write_cache(cache, present)
        named: dict[str, Any] = {"logits": torch.from_numpy(logits), _CACHE: cache}
        return CausalLMOutputWithPast(**named)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as transformers does; its arguments and results."""
        kwargs.setdefault(_CACHE, self.make_cache())
        with torch.no_grad():
            return super().generate(*args, **kwargs)

    def make_cache(self) -> Cache:
        """Return an empty cache: a layer for each attention that the graph still has."""
        return Cache(layers=[DynamicLayer() for _ in self._list_layers()])

    @classmethod
    def can_generate(cls) -> bool:
        """Tell transformers that it does."""
        return True

    def _list_layers(self) -> Sequence[int]:
        return sorted({each.layer for each in self._decoder.inputs.cache})

    def _read_cache(self, cache: Cache, batch: int) -> dict[str, Any]:
        if not cache.get_seq_length():
            return self._decoder.start(batch)
        tensors = {
            f"past_key_values.{number}.{name}": getattr(layer, f"{name}s").numpy()
            for number, layer in zip(self._list_layers(), cache.layers, strict=True)
            for name in ("key", "value")
        }
        return {each.name: tensors[each.name] for each in self._decoder.inputs.cache}

    def _write_cache(self, cache: Cache, present: dict[str, Any]) -> None:
        layers: list[Any] = list(cache.layers)
        for number, layer in zip(self._list_layers(), layers, strict=True):
            layer.keys = torch.from_numpy(present[f"past_key_values.{number}.key"])
            layer.values = torch.from_numpy(present[f"past_key_values.{number}.value"])
            layer.dtype, layer.device = layer.keys.dtype, layer.keys.device
            layer.is_initialized = True


def _to_array(given: dict[str, Any], name: str, kind: str) -> np.ndarray[Any, Any]:
    dtype = _NUMPY_TYPES.get(kind, np.float32)
    if name in given:
        return np.asarray(given[name]).astype(dtype)
    if name not in ("attention_mask", "token_type_ids") or "input_ids" not in given:
        raise NirvanaError(f"The graph needs the input {name}, got {', '.join(given) or 'none'}.")
    fill = 1 if name == "attention_mask" else 0
    return np.full(tuple(given["input_ids"].shape), fill, dtype)


def _read_generation_config(folder: Path, config: PretrainedConfig) -> GenerationConfig:
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)


def _check_export(folder: Path) -> dict[str, Any]:
    """Return the graphs of an export whose files are as they were written."""
    path = folder / EXPORT_FILE
    if not path.is_file():
        raise NirvanaError(f"{path} is missing: {folder} is no folder of `nirvana export`.")
    try:
        graphs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["graphs"]
        hashes = [item for graph in graphs.values() for item in graph["sha256"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NirvanaError(f"{path} cannot be read: {error}. Export the model again.") from error
    for name, expected in hashes:
        file = folder / check_inside(name, folder)
        if not file.is_file():
            raise NirvanaError(f"{file} is missing. Export the model again.")
        if hash_file(file) != expected:
            raise NirvanaError(
                f"{file} is not the file that {EXPORT_FILE} vouches for. Export the model again."
            )
    return graphs
