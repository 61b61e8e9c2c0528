"""The graphs of a model that writes a text after reading one: encoder, first step, further steps.

Names are optimum's. The first step makes the cross-attentions' keys and values, the others take
them, and return those of the decoder only: the encoder's do not change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from exporters.io_names import PAST_ARGUMENT
from exporters.trace.graph_cache import CacheEntry, find_entries, make_cache, read_cache
from exporters.trace.graph_inputs import cache_argument, describe_outputs, describe_tokens
from exporters.trace.graph_part import GraphPart, GraphTensor
from pruning.errors import NirvanaError
from pruning.tasks.position_limit import count_positions


def list_encoder_decoder_parts(model: PreTrainedModel) -> tuple[GraphPart, ...]:
    """Return `encoder_model`, `decoder_model` and `decoder_with_past_model`."""
    own, cross, num_layers = _probe(model)
    return (
        _make_encoder(model),
        _make_decoder(model, own, cross, num_layers, with_past=False),
        _make_decoder(model, own, cross, num_layers, with_past=True),
    )


class EncoderOnly(nn.Module):
    """The encoder of an encoder-decoder."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, *inputs: torch.Tensor) -> tuple[object, ...]:
        """Return the last hidden states of `input_ids` under `attention_mask`."""
        input_ids, attention_mask = inputs
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return (output.last_hidden_state,)


class DecoderOnly(nn.Module):
    """The decoder and its head. `own` and `cross` are the entries of the two caches.

    It takes `encoder_attention_mask` and `input_ids`, then either `encoder_hidden_states` or the
    cache as it was returned before.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        own: Sequence[CacheEntry],
        cross: Sequence[CacheEntry],
        num_layers: int,
        *,
        with_past: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.own, self.cross = tuple(own), tuple(cross)
        self.in_order = order_entries(own, cross)
        self.num_layers = num_layers
        self.with_past = with_past
        self.cache_argument = cache_argument(model)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits and the keys and values that are new."""
        mask_BE, input_ids, *rest = inputs
        cache, hidden_BED = self._prepare(mask_BE, rest)
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden_BED),
            attention_mask=mask_BE,
            decoder_input_ids=input_ids,
            **{self.cache_argument: cache},
            use_cache=True,
        )
        own = cache.self_attention_cache
        if self.with_past:
            return (output.logits, *read_cache(own, self.own))
        pairs = (
            read_cache(own if entry in self.own else cache.cross_attention_cache, (entry,))
            for entry in self.in_order
        )
        return (output.logits, *(tensor for pair in pairs for tensor in pair))

    def _prepare(
        self, mask_BE: torch.Tensor, rest: Sequence[torch.Tensor]
    ) -> tuple[EncoderDecoderCache, torch.Tensor]:
        """Return the cache, and the encoder's hidden states."""
        past_own, past_cross = self._part_past(rest) if self.with_past else ((), ())
        num_past = past_own[0].shape[2] if past_own else 0
        cache = EncoderDecoderCache(
            make_cache(self.own, self.num_layers, num_past, past_own),
            make_cache(self.cross, self.num_layers, 0, past_cross),
        )
        if not self.with_past:
            return cache, rest[0]
        cache.is_updated = dict.fromkeys(range(self.num_layers), True)
        # Keys and values are there: nothing reads these, but for their shape and that they exist.
        hidden_size = self.model.config.hidden_size
        return cache, torch.zeros((*mask_BE.shape, hidden_size), dtype=self.model.dtype)

    def _part_past(
        self, past: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the keys and values of self-attention, and those of cross-attention."""
        own: list[torch.Tensor] = []
        cross: list[torch.Tensor] = []
        for number, entry in enumerate(self.in_order):
            (own if entry in self.own else cross).extend(past[2 * number : 2 * number + 2])
        return own, cross


def order_entries(own: Sequence[CacheEntry], cross: Sequence[CacheEntry]) -> tuple[CacheEntry, ...]:
    """Return all entries layer by layer, each layer's own first: optimum reads them by place."""
    return tuple(sorted((*own, *cross), key=lambda entry: (entry.layer, entry in cross)))


def _make_encoder(model: PreTrainedModel) -> GraphPart:
    inputs = describe_tokens(model, "encoder_sequence", "encoder_sequence")
    module = EncoderOnly(model).eval()
    return GraphPart(
        name="encoder_model",
        module=module,
        inputs=inputs,
        outputs=describe_outputs(module, inputs, ("last_hidden_state",)),
        max_length=count_positions(model),
    )


def _make_decoder(
    model: PreTrainedModel,
    own: Sequence[CacheEntry],
    cross: Sequence[CacheEntry],
    num_layers: int,
    *,
    with_past: bool,
) -> GraphPart:
    module = DecoderOnly(model, own, cross, num_layers, with_past=with_past).eval()
    tokens, mask = describe_tokens(model, "encoder_sequence")
    inputs = [
        GraphTensor(name="encoder_attention_mask", dtype=mask.dtype, shape=mask.shape, limit=2)
    ]
    inputs.append(tokens)
    entries = [
        (entry, "past_sequence" if entry in own else "encoder_sequence")
        for entry in order_entries(own, cross)
    ]
    if with_past:
        for entry, length in entries:
            inputs += entry.describe(PAST_ARGUMENT, length, model.dtype)
    else:
        shape = ("batch", "encoder_sequence", model.config.hidden_size)
        inputs.append(GraphTensor(name="encoder_hidden_states", dtype=model.dtype, shape=shape))
    outputs = ["logits"]
    for entry, length in entries:
        if with_past and entry in cross:  # they stay as they are
            continue
        outputs += [tensor.name for tensor in entry.describe("present", length, model.dtype)]
    return GraphPart(
        name="decoder_with_past_model" if with_past else "decoder_model",
        module=module,
        inputs=tuple(inputs),
        outputs=describe_outputs(module, inputs, outputs),
        max_length=count_positions(model),
    )


def _probe(
    model: PreTrainedModel,
) -> tuple[tuple[CacheEntry, ...], tuple[CacheEntry, ...], int]:
    """Run a model, and return the entries of its two caches and the number of decoder layers."""
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    tokens = torch.ones((1, 2), dtype=torch.long, device=model.device)
    named = {"input_ids": tokens, "decoder_input_ids": tokens, cache_argument(model): cache}
    with torch.no_grad():
        model(**named, use_cache=True)
    own = find_entries(cache.self_attention_cache, model.config, ".decoder")
    cross = find_entries(cache.cross_attention_cache, model.config, ".encoder")
    if not own:
        raise NirvanaError(
            "The decoder has no self-attention left, so that no cache says how long the text is "
            "that it has written. Keep one head in one of its layers to export it."
        )
    num_layers = max(
        len(cache.self_attention_cache.layers), len(cache.cross_attention_cache.layers)
    )
    return own, cross, num_layers
