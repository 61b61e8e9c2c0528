"""Puts gates on KV groups, and on query heads where asked, into an attention's forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pruning.gates.gate_tensor import GateTensor
from pruning.gates.gated_projection import gate_projection
from pruning.wirings.sites import Site

# H units: heads, or KV groups of heads; Q query heads, H groups of Q / H each.


class PrunableHeadAttention(nn.Module):
    """Scales the channels of each unit at the input of the output projection, and its output.

    A unit is a KV group with its query heads; in plain multi-head attention, one head. A gate at 0
    is the same as physical removal, biases of q, k and v included. With `gate_Q` each query head
    is scaled by a gate of its own too:

        group      0         1
        gate_H    [a]       [b]
        gate_Q    [c  d]    [e  f]
        heads    ac  ad    be  bf

    `block_mask` returns the mask of the whole attention, whose gates the registry keeps: those of a
    model are one tensor [num_blocks].
    """

    def __init__(
        self,
        gate_H: GateTensor,
        block_mask: Callable[[], torch.Tensor],
        gate_Q: GateTensor | None = None,
    ) -> None:
        super().__init__()
        self.gate_H = gate_H
        self.gate_Q = gate_Q
        self.block_mask = block_mask

    @property
    def units(self) -> GateTensor:
        """The gates of the units."""
        return self.gate_H

    def mask(self) -> torch.Tensor:
        """Return what each unit is scaled by, [H], or each query head, [Q]."""
        return self._join(self.gate_H.mask(), None if self.gate_Q is None else self.gate_Q.mask())

    def scale(self) -> torch.Tensor:
        """Return what each is scaled by where its gates are open, [H] or [Q]."""
        return self._join(self.gate_H.scale, None if self.gate_Q is None else self.gate_Q.scale)

    def kept_heads(self) -> torch.Tensor | None:
        """Return what counts as kept of each query head with its group, [Q]; None without gates."""
        if self.gate_Q is None:
            return None
        return self._join(self.gate_H.kept(), self.gate_Q.kept())

    def attach(self, site: Site) -> list[RemovableHandle]:
        """Gate the output projection of `site`, in place."""
        return gate_projection(site, self.mask, self.block_mask)

    def _join(self, groups_H: torch.Tensor, heads_Q: torch.Tensor | None) -> torch.Tensor:
        if heads_Q is None:
            return groups_H
        return groups_H.repeat_interleave(len(heads_Q) // len(groups_H)) * heads_Q
