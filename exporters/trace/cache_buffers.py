"""What a decoder's graphs take and give when its caches are buffers of one length."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel

from exporters.trace.graph_part import PAST, TOTAL, GraphPart, GraphTensor
from pruning.errors import NirvanaError

_PAST, _PRESENT = "past_key_values.", "present."


def give_buffers(part: GraphPart, length: int) -> GraphPart:
    """Return `part` as a graph that writes into caches of `length` tokens has it.

    A graph without a cache to take, a prefill, stays as it is.
    """
    if not any(tensor.name.startswith(_PAST) for tensor in part.inputs):
        return part
    return replace(
        part,
        inputs=tuple(_fix_length(tensor, length) for tensor in part.inputs),
        outputs=tuple(_fix_length(tensor, length) for tensor in part.outputs),
    )


def check_buffers(model: PreTrainedModel, parts: tuple[GraphPart, ...], length: int) -> None:
    """Raise NirvanaError unless `model` is a decoder with positions for `length` tokens."""
    if not model.can_generate() or model.config.is_encoder_decoder:
        raise NirvanaError(
            "cache_length is for decoders that generate, whose attention_mask says how much of a "
            f"cache is filled; {type(model).__name__} is none. Leave it out."
        )
    limits = [part.max_length for part in parts if part.max_length is not None]
    if limits and length > min(limits):
        raise NirvanaError(
            f"cache_length is {length}, and the model has positions for {min(limits)} tokens. "
            "Choose no more than that."
        )


def _fix_length(tensor: GraphTensor, length: int) -> GraphTensor:
    if not tensor.name.startswith((_PAST, _PRESENT)):
        return tensor
    shape = tuple(length if dim in (PAST, TOTAL) else dim for dim in tensor.shape)
    return replace(tensor, shape=shape)
