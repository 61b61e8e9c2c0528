"""A graph's keys and values as a cache of transformers: a layer for each attention that is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

# transformers 5.24 gave the cache another name.
CACHE_NAME = "cache" if "cache" in CausalLMOutputWithPast.__annotations__ else "past_key_values"


def make_cache(prefixes: Sequence[str]) -> Cache:
    """Return an empty cache for attentions whose inputs begin so, as `past_key_values.0.`."""
    return Cache(layers=[DynamicLayer() for _ in prefixes])


def read_layers(cache: Cache, prefixes: Sequence[str]) -> dict[str, Any]:
    """Return arrays by the names that a graph's inputs have."""
    layers: list[Any] = list(cache.layers)
    return {
        f"{prefix}{name}": getattr(layer, f"{name}s").numpy()
        for prefix, layer in zip(prefixes, layers, strict=True)
        for name in ("key", "value")
    }


def write_layers(cache: Cache, prefixes: Sequence[str], arrays: Mapping[str, Any]) -> None:
    """Put arrays, by the names of the inputs that they become, into a cache in place."""
    layers: list[Any] = list(cache.layers)
    for prefix, layer in zip(prefixes, layers, strict=True):
        layer.keys = torch.from_numpy(arrays[f"{prefix}key"])
        layer.values = torch.from_numpy(arrays[f"{prefix}value"])
        layer.dtype, layer.device = layer.keys.dtype, layer.keys.device
        layer.is_initialized = True
