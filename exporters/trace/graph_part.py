"""What one ONNX graph of a model takes and gives: the contract between trace, forms and comparison.

Names and shapes are optimum's, which the ecosystem reads. Dimensions that are free have a name:
`batch`, `sequence` (the tokens of this call), `past_sequence` (those in the cache before it),
`total_sequence` (both), `encoder_sequence`; all others are fixed, layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

# Stands for a dimension that is the sum of two others.
TOTAL, PAST, PRESENT = "total_sequence", "past_sequence", "sequence"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphTensor:
    """Describe one input or output of a graph.

    Attributes:
        shape: a name for each dimension that is free, a number for each that is fixed.
        limit: of an integer input: its values are from 0 to below this.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[str | int, ...]
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPart:
    """One graph of a model, and the torch module that computes the same.

    Attributes:
        name: the file's stem: `model`, `encoder_model`, `decoder_model`,
            `decoder_with_past_model`.
        module: takes the inputs by position, in their order; returns a tuple, in the order of the
            outputs. Tracing it gives the graph, running it gives what the graph is compared with.
        max_length: the most tokens, those in the cache included, for which the model has positions;
            None where it has no such limit.
    """

    name: str
    module: nn.Module
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    max_length: int | None = None
