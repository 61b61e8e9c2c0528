"""Finds the modules of each sub-block in a loaded dense model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from pruning.checkpoints.prunable_model import PrunableModel
from pruning.plans.dense_dims import StackDims
from pruning.plans.sub_block import Part, SubBlock, count_units
from pruning.wirings.structure import find_stacks, present_inputs
from pruning.wirings.wiring import AttentionWiring, MlpWiring, Projection, StackWiring

# O outputs (hidden size), C channels at the output projection's input, U units, W = C / U.


@dataclass(frozen=True, slots=True)
class Site:
    """Where a sub-block lives in a loaded model.

    Attributes:
        block: the block that it is part of.
        output: the linear map whose input channels belong to units; `unit_width` channels each,
            in the order of the units.
        inputs: the linear maps whose output rows belong to units, with what their rows hold.
        transposed: weights are [in, out], as in transformers' Conv1D.
        residual_norm: the norm between `output` and the residual stream, where there is one.
    """

    sub_block: SubBlock
    dims: StackDims
    block: nn.Module
    output: nn.Module
    inputs: tuple[tuple[Projection, nn.Module], ...]
    num_units: int
    unit_width: int
    transposed: bool
    residual_norm: nn.Module | None = None

    def output_weight(self) -> torch.Tensor:
        """Return the output projection's weight as [O, C]: a view, also of a transposed one."""
        weight = cast(torch.Tensor, self.output.weight)
        return weight.T if self.transposed else weight

    def channels(self, units: torch.Tensor) -> torch.Tensor:
        """Return the input channels of the output projection that belong to `units` [n]."""
        offsets = torch.arange(self.unit_width, device=units.device)
        return (units[:, None] * self.unit_width + offsets).flatten()

    def sum_channels(self, values_C: torch.Tensor) -> torch.Tensor:
        """Return the sum over each unit's channels, [U]."""
        return values_C.view(self.num_units, self.unit_width).sum(dim=1)


def find_sites(model: PreTrainedModel, source: PrunableModel) -> dict[SubBlock, Site]:
    """Return the site of every sub-block, in the order in which a forward pass meets them."""
    sites: dict[SubBlock, Site] = {}
    layer = 0
    for stack, blocks in find_stacks(model, source.wiring):
        for block in blocks:
            for part, wiring in _list_parts(stack):
                sub_block = SubBlock(layer, part)
                sites[sub_block] = _find_site(sub_block, block, stack, wiring, source)
            layer += 1
    return sites


def _list_parts(stack: StackWiring) -> list[tuple[Part, AttentionWiring | MlpWiring]]:
    parts: list[tuple[Part, AttentionWiring | MlpWiring]] = [("attention", stack.attention)]
    if stack.cross_attention is not None:
        parts.append(("cross_attention", stack.cross_attention))
    return [*parts, ("mlp", stack.mlp)]


def _find_site(
    sub_block: SubBlock,
    block: nn.Module,
    stack: StackWiring,
    wiring: AttentionWiring | MlpWiring,
    source: PrunableModel,
) -> Site:
    dims = source.dims.layers[sub_block.layer]
    width = 1 if sub_block.part == "mlp" else dims.heads_per_group * dims.head_dim
    return Site(
        sub_block=sub_block,
        dims=dims,
        block=block,
        output=block.get_submodule(wiring.output),
        inputs=tuple((p, block.get_submodule(p.path)) for p in present_inputs(block, wiring)),
        num_units=count_units(sub_block, source.dims),
        unit_width=width,
        transposed=stack.transposed,
        residual_norm=block.get_submodule(wiring.residual_norm) if wiring.residual_norm else None,
    )
