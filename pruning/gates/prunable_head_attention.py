"""Puts one gate a KV group, with all its query heads, into an attention's forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pruning.gates.gate_tensor import GateTensor
from pruning.gates.gated_projection import gate_projection
from pruning.wirings.sites import Site

# H units: heads, or KV groups of heads.


class PrunableHeadAttention(nn.Module):
    """Scales the channels of each unit at the input of the output projection, and its output.

    A unit is a KV group with its query heads; in plain multi-head attention, one head. A gate at 0
    is the same as physical removal, biases of q, k and v included.

    `block_mask` returns the mask of the whole attention, whose gates the registry keeps: those of a
    model are one tensor [num_blocks].
    """

    def __init__(self, gate_H: GateTensor, block_mask: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.gate_H = gate_H
        self.block_mask = block_mask

    @property
    def units(self) -> GateTensor:
        """The gates of the units."""
        return self.gate_H

    def attach(self, site: Site) -> list[RemovableHandle]:
        """Gate the output projection of `site`, in place."""
        return gate_projection(site, self.gate_H.mask, self.block_mask)
