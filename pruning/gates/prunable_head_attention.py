"""Puts one gate a KV group, with all its query heads, into an attention's forward pass."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pruning.gates.straight_through import harden

# B batch, S sequence, H units (heads, or KV groups of heads), D = H x unit_width.


class PrunableHeadAttention(nn.Module):
    """Scales the channels of each unit at the input of the output projection.

    A unit is a KV group with its query heads; in plain multi-head attention, one head. A gate at 0
    is the same as physical removal, biases of q, k and v included.
    """

    def __init__(self, num_units: int, unit_width: int) -> None:
        super().__init__()
        self.unit_width = unit_width
        self.gate_H = nn.Parameter(torch.ones(num_units))

    def mask(self) -> torch.Tensor:
        """Return the hard mask, shape [num_units]."""
        return harden(self.gate_H)

    def attach(self, output_projection: nn.Module) -> list[RemovableHandle]:
        """Gate the input of `output_projection`, in place."""
        return [output_projection.register_forward_pre_hook(self._scale_units)]

    def _scale_units(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        (context_BSD,) = args
        mask_D = self.mask().repeat_interleave(self.unit_width)
        return (context_BSD * mask_D.to(context_BSD.dtype),)
