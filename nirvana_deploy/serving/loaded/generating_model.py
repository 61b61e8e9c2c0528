"""Loaded graphs that write text: transformers' own `generate`, with a cache that fits the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationMixin, PretrainedConfig
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from exporters.io_names import PAST_ARGUMENT, PAST_PREFIX
from nirvana_deploy.serving.graph_decoder import GraphDecoder
from nirvana_deploy.serving.loaded.onnx_model import MODEL_NAME, OnnxModel, read_generation_config

# transformers 5.24 gave the cache another name.
CACHE_NAME = "cache" if "cache" in CausalLMOutputWithPast.__annotations__ else PAST_ARGUMENT


def make_cache(prefixes: Sequence[str]) -> Cache:
    """Return an empty cache for attentions whose inputs begin so."""
    return Cache(layers=[DynamicLayer() for _ in prefixes])


def read_layers(cache: Cache, prefixes: Sequence[str]) -> dict[str, object]:
    """Return arrays by the names that a graph's inputs have."""
    layers: list[object] = list(cache.layers)
    return {
        f"{prefix}{name}": getattr(layer, f"{name}s").numpy()
        for prefix, layer in zip(prefixes, layers, strict=True)
        for name in ("key", "value")
    }


def write_layers(cache: Cache, prefixes: Sequence[str], arrays: Mapping[str, object]) -> None:
    """Put arrays, by the names of the inputs that they become, into a cache in place."""
    layers: list[Any] = list(cache.layers)
    for prefix, layer in zip(prefixes, layers, strict=True):
        layer.keys = torch.from_numpy(arrays[f"{prefix}key"])
        layer.values = torch.from_numpy(arrays[f"{prefix}value"])
        layer.dtype, layer.device = layer.keys.dtype, layer.keys.device
        layer.is_initialized = True


class GeneratingModel(OnnxModel, GenerationMixin):
    """`generate` is transformers' own, with sampling, beams and the rest."""

    def generate(self, *args: Any, **kwargs: Any) -> object:
        """Generate as transformers does; its arguments and results."""
        settings = kwargs.get("generation_config") or self.generation_config
        if kwargs.get("use_cache", settings.use_cache) is not False:
            kwargs.setdefault(CACHE_NAME, self.make_cache())
        with torch.no_grad():
            return super().generate(*args, **kwargs)

    def make_cache(self) -> Cache:
        """Return an empty cache: a layer for each attention that the graph still has."""
        raise NotImplementedError

    def choose_cache(
        self, cache: Cache | None, older_cache: Cache | None, use_cache: bool | None
    ) -> Any:
        """Return the cache that was given, under its new or its old name, or an empty one."""
        given = cache if cache is not None else older_cache
        return self.make_cache() if given is None or use_cache is False else given

    @classmethod
    def can_generate(cls) -> bool:
        """Tell transformers that it does."""
        return True


class OnnxDecoder(GeneratingModel):
    """A graph with a cache. `generate` is transformers' own, with sampling, beams and the rest."""

    def __init__(self, folder: Path, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.generation_config = read_generation_config(folder, config)
        self._decoder = GraphDecoder(folder / MODEL_NAME)
        numbers = sorted({each.layer for each in self._decoder.inputs.cache})
        self._layers = [f"{PAST_PREFIX}{number}." for number in numbers]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: object,
    ) -> CausalLMOutputWithPast:
        """Return logits and the longer cache, which the older transformers call past_key_values.

        The mask is of all tokens, those in the cache too; positions count its ones.
        """
        cache = self.choose_cache(cache, past_key_values, use_cache)
        batch, num_new = input_ids.shape
        total = int(cache.get_seq_length()) + num_new
        if attention_mask is None:
            attention_mask = torch.ones((batch, total), dtype=torch.long)
        logits, present = self._decoder.step(
            input_ids.numpy(), attention_mask[:, -total:].numpy(), self._read_cache(cache, batch)
        )
        write_layers(cache, self._layers, present)
        named: dict[str, Any] = {"logits": torch.from_numpy(logits)}
        if use_cache is not False:
            named[CACHE_NAME] = cache
        return CausalLMOutputWithPast(**named)

    def make_cache(self) -> Cache:
        """Return an empty cache: a layer for each attention that the graph still has."""
        return make_cache(self._layers)

    def _read_cache(self, cache: Cache, batch: int) -> dict[str, Any]:
        if not cache.get_seq_length():
            return self._decoder.start(batch)
        return read_layers(cache, self._layers)
