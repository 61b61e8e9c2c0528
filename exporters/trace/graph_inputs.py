"""Random inputs of a graph, with and without padding: for tracing it and for comparing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from exporters.io_names import PAST_ARGUMENT
from exporters.trace.graph_part import PAST, PRESENT, TOTAL, GraphTensor
from pruning.errors import NirvanaError


def describe_tokens(
    model: PreTrainedModel, mask_length: str, length: str = "sequence"
) -> tuple[GraphTensor, GraphTensor]:
    """Return `input_ids` [batch, `length`] and `attention_mask` [batch, `mask_length`]."""
    config = model.config.get_text_config()
    vocabulary = min(config.vocab_size, getattr(config, "decoder_vocab_size", config.vocab_size))
    return (
        GraphTensor(name="input_ids", dtype=torch.int64, shape=("batch", length), limit=vocabulary),
        GraphTensor(
            name="attention_mask", dtype=torch.int64, shape=("batch", mask_length), limit=2
        ),
    )


def cache_argument(model: PreTrainedModel) -> str:
    """Return the name of the argument that takes a cache; transformers 5.24 gave it another."""
    names = inspect.signature(model.forward).parameters
    return "cache" if "cache" in names else PAST_ARGUMENT


Padding = Literal["left", "right"]


def complete_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return `sizes` with the total length, which is that of the cache and of this call."""
    total = sizes.get(PAST, 0) + sizes.get(PRESENT, 0)
    return {**sizes, TOTAL: total}


def draw_inputs(
    inputs: Sequence[GraphTensor],
    sizes: Mapping[str, int],
    *,
    padding: Padding | None = None,
    seed: int = 0,
) -> tuple[torch.Tensor, ...]:
    """Return a tensor for each of `inputs`, in their order.

    `sizes` has the length of each free dimension, but for `total_sequence`. With `padding`, row i
    has fewer live tokens the higher i is, at least one, and at least one row stays whole; position
    numbers count the live tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    known = complete_sizes(sizes)
    drawn: dict[str, torch.Tensor] = {}
    for tensor in sorted(inputs, key=lambda tensor: not _is_mask(tensor)):
        shape = [known[dim] if isinstance(dim, str) else dim for dim in tensor.shape]
        if _is_mask(tensor):
            drawn[tensor.name] = _make_mask(shape[0], shape[1], padding).to(tensor.dtype)
        elif tensor.name == "position_ids":
            mask = drawn.get("attention_mask", torch.ones(shape[0], known[TOTAL]))
            drawn[tensor.name] = count_positions(mask)[:, -shape[1] :]
        elif tensor.limit is not None:
            drawn[tensor.name] = torch.randint(tensor.limit, shape, generator=generator)
        else:
            drawn[tensor.name] = torch.randn(shape, generator=generator).to(tensor.dtype)
    return tuple(drawn[tensor.name] for tensor in inputs)


def count_positions(mask_BT: torch.Tensor) -> torch.Tensor:
    """Return the position of each token among the live ones of its row; 0 for padding before."""
    return (mask_BT.long().cumsum(dim=1) - 1).clamp(min=0)


def _is_mask(tensor: GraphTensor) -> bool:
    return tensor.name.endswith("attention_mask")


def _make_mask(batch: int, length: int, padding: Padding | None) -> torch.Tensor:
    mask = torch.ones(batch, length, dtype=torch.long)
    if padding is None:
        return mask
    for row in range(batch):
        padded = (row + (batch == 1)) * max(1, length // (batch + 1))
        mask[row, max(1, length - padded) :] = 0
    return mask.flip(1) if padding == "left" else mask


# Two shapes, of which no two lengths are the same.
_PROBES = (
    {"batch": 2, "sequence": 3, "past_sequence": 4, "encoder_sequence": 5},
    {"batch": 3, "sequence": 5, "past_sequence": 6, "encoder_sequence": 7},
)


def describe_outputs(
    module: nn.Module, inputs: Sequence[GraphTensor], names: Sequence[str]
) -> tuple[GraphTensor, ...]:
    """Return the outputs of `module` under `names`, by running it on two shapes.

    Raises:
        NirvanaError: a dimension follows none of the inputs'.
    """
    runs = []
    for sizes in _PROBES:
        with torch.no_grad():
            runs.append(module(*draw_inputs(inputs, sizes)))
    free = {dim for tensor in inputs for dim in tensor.shape if isinstance(dim, str)}
    if {"sequence", "past_sequence"} <= free:
        free.add("total_sequence")
    symbols = {tuple(complete_sizes(sizes)[dim] for sizes in _PROBES): dim for dim in sorted(free)}
    return tuple(
        GraphTensor(name=name, dtype=first.dtype, shape=_match(name, first, second, symbols))
        for name, first, second in zip(names, *runs, strict=True)
    )


def _match(
    name: str, first: torch.Tensor, second: torch.Tensor, symbols: dict[tuple[int, ...], str]
) -> tuple[str | int, ...]:
    found: list[str | int] = []
    for pair in zip(first.shape, second.shape, strict=True):
        if pair[0] == pair[1]:
            found.append(pair[0])
        elif pair in symbols:
            found.append(symbols[pair])
        else:
            raise NirvanaError(
                f"The output {name} should have dimensions that are fixed or those of an input "
                f"({', '.join(symbols.values())}); its shape was {tuple(first.shape)}, then "
                f"{tuple(second.shape)}. This model cannot be exported."
            )
    return tuple(found)


def is_live(module: nn.Module, inputs: Sequence[GraphTensor], name: str) -> bool:
    """Return whether what `module` returns depends on its input `name`, by trying other values."""
    number = [tensor.name for tensor in inputs].index(name)
    drawn = draw_inputs(inputs, _PROBES[0])
    changed = list(drawn)
    if name.endswith("attention_mask"):
        changed[number] = draw_inputs(inputs, _PROBES[0], padding="right")[number]
    else:
        changed[number] = torch.arange(drawn[number].numel()).view_as(drawn[number]).flip(-1)
        changed[number] = changed[number] % (inputs[number].limit or 2)
    with torch.no_grad():
        pairs = zip(module(*drawn), module(*changed), strict=True)
        return any(not torch.equal(before, after) for before, after in pairs)
