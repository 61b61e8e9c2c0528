"""Puts one gate a head into an attention's forward pass."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pruning.straight_through import harden

# B batch, S sequence, H heads, D = H x head_dim.


class PrunableHeadAttention(nn.Module):
    """Scales each head's channels at the input of the output projection.

    A gate at 0 is the same as physical removal, biases of q, k and v included.
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.gate_H = nn.Parameter(torch.ones(num_heads))

    def mask(self) -> torch.Tensor:
        """Return the hard mask, shape [num_heads]."""
        return harden(self.gate_H)

    def attach(self, output_projection: nn.Module) -> list[RemovableHandle]:
        """Gate the input of `output_projection`, in place."""
        return [output_projection.register_forward_pre_hook(self._scale_heads)]

    def _scale_heads(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        (context_BSD,) = args
        mask_D = self.mask().repeat_interleave(self.head_dim)
        return (context_BSD * mask_D.to(context_BSD.dtype),)
