"""The graphs of a decoder: one that fills and extends a cache, or one for each."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from exporters.io_names import PAST_ARGUMENT, to_present
from exporters.trace.graph_cache import CacheEntry, find_entries, make_cache, read_cache
from exporters.trace.graph_inputs import cache_argument, describe_outputs, describe_tokens, is_live
from exporters.trace.graph_part import GraphPart, GraphTensor
from pruning.tasks.position_limit import count_positions


def list_decoder_parts(model: PreTrainedModel, *, merged: bool) -> tuple[GraphPart, ...]:
    """Return `model` (a cache that may be empty in and out), or prefill and decode apart."""
    if merged:
        return (_make_part(model, "model", with_past=True),)
    return (
        _make_part(model, "decoder_model", with_past=False),
        _make_part(model, "decoder_with_past_model", with_past=True),
    )


class DecoderStep(nn.Module):
    """A decoder that takes and returns its cache as tensors."""

    def __init__(
        self,
        model: PreTrainedModel,
        names: Sequence[str],
        entries: Sequence[CacheEntry],
        num_layers: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.entries = tuple(entries)
        self.num_layers = num_layers
        self.cache_argument = cache_argument(model)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits, then all keys and values."""
        named = dict(zip(self.names, inputs, strict=False))
        past = inputs[len(self.names) :]
        num_new, num_all = named["input_ids"].shape[1], named["attention_mask"].shape[1]
        num_past = past[0].shape[2] if past else num_all - num_new
        if past:  # else the exporter takes them for two lengths that know nothing of each other
            torch._check(num_all == num_past + num_new)
        cache = make_cache(self.entries, self.num_layers, num_past, past)
        output = self.model(**named, **{self.cache_argument: cache}, use_cache=True)
        return (output.logits, *read_cache(cache, self.entries))


def _make_part(model: PreTrainedModel, name: str, *, with_past: bool) -> GraphPart:
    entries, num_layers = _probe(model)
    length = "total_sequence" if with_past else "sequence"
    inputs = [*describe_tokens(model, length)]
    if "position_ids" in inspect.signature(model.forward).parameters:
        limit = count_positions(model)
        positions = GraphTensor(
            name="position_ids", dtype=torch.int64, shape=("batch", "sequence"), limit=limit
        )
        plain = DecoderStep(model, ("input_ids", "attention_mask", "position_ids"), (), num_layers)
        if is_live(plain, (*describe_tokens(model, "sequence"), positions), "position_ids"):
            inputs.append(positions)
    module = DecoderStep(model, [tensor.name for tensor in inputs], entries, num_layers).eval()
    outputs = ["logits"]
    for entry in entries:
        past = entry.describe(PAST_ARGUMENT, "past_sequence", model.dtype)
        inputs += past if with_past else ()
        outputs += [to_present(tensor.name) for tensor in past]
    return GraphPart(
        name=name,
        module=module,
        inputs=tuple(inputs),
        outputs=describe_outputs(module, inputs, outputs),
        max_length=count_positions(model),
    )


def _probe(model: PreTrainedModel) -> tuple[tuple[CacheEntry, ...], int]:
    """Run a decoder, and return its cache's entries and number of layers."""
    cache = DynamicCache()
    tokens = torch.ones((1, 2), dtype=torch.long, device=model.device)
    with torch.no_grad():
        model(input_ids=tokens, **{cache_argument(model): cache}, use_cache=True)
    return find_entries(cache, model.config), len(cache.layers)
