"""Puts one gate a neuron, and one for the whole block, into an MLP's forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pruning.gates.gate_tensor import GateTensor
from pruning.gates.gated_projection import gate_projection
from pruning.wirings.sites import Site

# N neurons.


class PrunableMLP(nn.Module):
    """Scales each neuron at the input of the output projection, and the block's contribution.

    `block_mask` returns the mask of the whole block, whose gates the registry keeps: the MLP block
    gates of a model are one tensor [num_blocks].
    """

    def __init__(self, gate_N: GateTensor, block_mask: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.gate_N = gate_N
        self.block_mask = block_mask

    @property
    def units(self) -> GateTensor:
        """The gates of the neurons."""
        return self.gate_N

    def mask(self) -> torch.Tensor:
        """Return what each neuron is scaled by, [N]."""
        return self.gate_N.mask()

    def scale(self) -> torch.Tensor:
        """Return what each neuron is scaled by where its gate is open, [N]."""
        return self.gate_N.scale

    def attach(self, site: Site) -> list[RemovableHandle]:
        """Gate the output projection of `site`, in place."""
        return gate_projection(site, self.mask, self.block_mask)
