"""Puts one gate a neuron, and one for the whole block, into an MLP's forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pruning.gates.straight_through import harden

# B batch, S sequence, N neurons, D hidden size.


class PrunableMLP(nn.Module):
    """Scales each neuron at the input of the output projection, and the block's contribution.

    `block_gate` returns the logit of the block's own gate, which the registry keeps: the MLP block
    gates of a model are one tensor [num_blocks].
    """

    def __init__(self, num_neurons: int, block_gate: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.gate_N = nn.Parameter(torch.ones(num_neurons))
        self._block_gate = block_gate

    def mask(self) -> torch.Tensor:
        """Return the hard mask of the neurons, shape [intermediate_size]."""
        return harden(self.gate_N)

    def block_mask(self) -> torch.Tensor:
        """Return the hard mask of the whole block, a scalar."""
        return harden(self._block_gate())

    def attach(self, output_projection: nn.Module) -> list[RemovableHandle]:
        """Gate the input and the output of `output_projection`, in place."""
        return [
            output_projection.register_forward_pre_hook(self._scale_neurons),
            output_projection.register_forward_hook(self._scale_block),
        ]

    def _scale_neurons(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        (neurons_BSN,) = args
        return (neurons_BSN * self.mask().to(neurons_BSN.dtype),)

    def _scale_block(self, _: nn.Module, __: object, out_BSD: torch.Tensor) -> torch.Tensor:
        return out_BSD * self.block_mask().to(out_BSD.dtype)
