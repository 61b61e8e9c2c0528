"""Puts masks around the output projection of a sub-block, and works them into its weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pruning.wirings.sites import Site

# B batch, S sequence, C channels of U units, D hidden size.

Mask = Callable[[], torch.Tensor]


def gate_projection(site: Site, unit_mask: Mask, block_mask: Mask) -> list[RemovableHandle]:
    """Scale the units [U] at the projection's input, and the block [] at its output, in place."""
    return [
        site.output.register_forward_pre_hook(partial(_scale_units, unit_mask, site.unit_width)),
        site.output.register_forward_hook(partial(_scale_block, block_mask)),
    ]


@torch.no_grad()
def fold_scales(site: Site, unit_scale_U: torch.Tensor, block_scale: torch.Tensor) -> None:
    """Multiply the projection's columns and its bias by what masks scale them with, in place."""
    weight = site.output_weight()
    scale_C = unit_scale_U.repeat_interleave(site.unit_width) * block_scale
    weight.mul_(scale_C.to(weight))
    bias = cast(torch.Tensor | None, getattr(site.output, "bias", None))
    if bias is not None:
        bias.mul_(block_scale.to(bias))


def _scale_units(
    mask: Mask, width: int, _: nn.Module, args: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor]:
    (x_BSC,) = args
    mask_C = mask().repeat_interleave(width) if width > 1 else mask()
    return (x_BSC * mask_C.to(x_BSC.dtype),)


def _scale_block(mask: Mask, _: nn.Module, __: object, out_BSD: torch.Tensor) -> torch.Tensor:
    return out_BSD * mask().to(out_BSD.dtype)
