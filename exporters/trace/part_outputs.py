"""Finds out what a graph's module returns: which dimensions follow its inputs, which are fixed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from exporters.trace.graph_inputs import complete_sizes, draw_inputs
from exporters.trace.graph_part import GraphTensor
from pruning.errors import NirvanaError

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
