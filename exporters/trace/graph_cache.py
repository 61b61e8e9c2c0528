"""Key-value caches as inputs and outputs of a graph: one entry a layer that has an attention.

What transformers' own caches know by counting is given here: the length comes from the inputs, so
that it stays free, also at 0 and where the first layers have no attention. Sliding-window layers
keep all keys, as optimum's graphs do: their mask hides the old ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, DynamicLayer

from exporters.io_names import CACHE_PREFIXES, is_past
from exporters.trace.graph_part import PAST, TOTAL, GraphPart, GraphTensor


def give_buffers(part: GraphPart, length: int) -> GraphPart:
    """Return `part` as a graph that writes into caches of `length` tokens has it.

    A graph without a cache to take, a prefill, stays as it is.
    """
    if not any(is_past(tensor.name) for tensor in part.inputs):
        return part
    return replace(
        part,
        inputs=tuple(_fix_length(tensor, length) for tensor in part.inputs),
        outputs=tuple(_fix_length(tensor, length) for tensor in part.outputs),
    )


def _fix_length(tensor: GraphTensor, length: int) -> GraphTensor:
    if not tensor.name.startswith(CACHE_PREFIXES):
        return tensor
    shape = tuple(length if dim in (PAST, TOTAL) else dim for dim in tensor.shape)
    return replace(tensor, shape=shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """The cache of one attention.

    Attributes:
        layer: of the blocks that are left, counted in their stack.
        kind: "" in a decoder; in an encoder-decoder ".decoder" or ".encoder", as optimum has it.
        key_shape, value_shape: (KV heads, channels of a head).
    """

    layer: int
    kind: str
    key_shape: tuple[int, int]
    value_shape: tuple[int, int]

    def describe(self, prefix: str, length: str, dtype: torch.dtype) -> tuple[GraphTensor, ...]:
        """Return its key and its value, [batch, KV heads, `length`, head dim]."""
        return tuple(
            GraphTensor(
                name=f"{prefix}.{self.layer}{self.kind}.{name}",
                dtype=dtype,
                shape=("batch", heads, length, width),
            )
            for name, (heads, width) in (("key", self.key_shape), ("value", self.value_shape))
        )


class GivenLayer(DynamicLayer):
    """One layer's keys and values, of a cache that is `num_past` tokens long."""

    def __init__(self, num_past: int, keys: Any = None, values: Any = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_past = num_past
        self.keys, self.values = keys, values
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put keys and values behind those that are there; return all."""
        if self.keys is not None and self.values is not None:
            key_states = torch.cat([self.keys, key_states], dim=-2)
            value_states = torch.cat([self.values, value_states], dim=-2)
        self.keys, self.values = key_states, value_states
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Return the length before this call."""
        return self.num_past

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length after this call, and that the first key is of the first token."""
        return self.num_past + query_length, 0


def make_cache(
    entries: Sequence[CacheEntry], num_layers: int, num_past: int, tensors: Sequence[torch.Tensor]
) -> Cache:
    """Return a cache of `num_layers`, filled with keys and values in the order of `entries`.

    Without `tensors` it is empty.
    """
    layers: list[Any] = [GivenLayer(num_past) for _ in range(num_layers)]
    if tensors:
        for number, entry in enumerate(entries):
            keys, values = tensors[2 * number : 2 * number + 2]
            layers[entry.layer] = GivenLayer(num_past, keys, values)
    return Cache(layers=layers)


def read_cache(cache: Cache, entries: Sequence[CacheEntry]) -> tuple[torch.Tensor, ...]:
    """Return the keys and values of `entries`, in their order."""
    layers: list[Any] = [cache.layers[entry.layer] for entry in entries]
    return tuple(tensor for layer in layers for tensor in (layer.keys, layer.values))


def find_entries(cache: Cache, config: PretrainedConfig, kind: str = "") -> tuple[CacheEntry, ...]:
    """Return the entries of a cache that a model has filled.

    In a pruned model, the first layer counts positions with a channel of zeros where it has no
    attention (see `modeling_pruned`): that is none.
    """
    layers: list[Any] = cache.layers
    return tuple(
        CacheEntry(
            layer=number,
            kind=kind,
            key_shape=(layer.keys.shape[1], layer.keys.shape[3]),
            value_shape=(layer.values.shape[1], layer.values.shape[3]),
        )
        for number, layer in enumerate(layers)
        if layer.keys is not None and layer.keys.dim() == 4 and _has_heads(config, number, kind)
    )


def _has_heads(config: PretrainedConfig, layer: int, kind: str) -> bool:
    pruning = getattr(config, "nirvana", None)
    if pruning is None:
        return True
    name = "num_cross_heads" if kind == ".encoder" else "num_heads"
    return bool(pruning["stacks"][-1]["layers"][layer][name])
