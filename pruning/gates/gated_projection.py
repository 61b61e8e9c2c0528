"""Puts masks around the output projection of a sub-block, and works them into its weights.

Most blocks add what the projection gives to the residual stream. Gemma 2 and its kin norm it first:

    units x mask -> projection -> x block mask -> (+)         most
    units x mask -> projection -> norm -> x block mask -> (+)  with a residual norm

The norm takes a common scale out of its input, so that a block mask before it would do nothing.
The same goes for the last open unit of a sub-block: its mask acts behind the norm once more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from pruning.errors import NirvanaError
from pruning.gates.gate_tensor import GateTensor, any_open
from pruning.wirings.sites import Site

# B batch, S sequence, C channels of U units, D hidden size.

Mask = Callable[[], torch.Tensor]


def gate_projection(site: Site, unit_mask: Mask, block_mask: Mask) -> list[RemovableHandle]:
    """Scale the units [U] at the projection's input, and what is added to the residual, in place.

    Of an attention, U may be its query heads, or KV groups with as many channels as their heads.

    Raises:
        NirvanaError: the norm before the residual has no weight that could take up a mask.
    """
    handles = [site.output.register_forward_pre_hook(partial(_scale_units, unit_mask))]
    if site.residual_norm is None:
        handles.append(site.output.register_forward_hook(partial(_scale_block, block_mask)))
        return handles
    if getattr(site.residual_norm, "weight", None) is None:
        raise NirvanaError(
            f"Gates cannot be put into {site.sub_block.name}: the norm between its output and the "
            f"residual stream, {type(site.residual_norm).__name__}, has no weight for them to be "
            "worked into. Prune this model by scores (`nirvana score`), without gates."
        )

    def mask_behind() -> torch.Tensor:
        mask = block_mask()
        return mask if _bias_of(site.output) is not None else mask * any_open(unit_mask())

    behind = partial(_scale_normed, mask_behind)
    handles.append(site.residual_norm.register_forward_hook(behind))
    return handles


@torch.no_grad()
def fold_scales(
    site: Site,
    unit_scale_U: torch.Tensor,
    joint_scale: torch.Tensor,
    block_scale: torch.Tensor,
) -> None:
    """Work into weights, in place, what masks scale by: units, all of them together, the block."""
    bias = _bias_of(site.output)
    weight = site.output_weight()
    scale_C = unit_scale_U.repeat_interleave(weight.shape[1] // len(unit_scale_U))
    if site.residual_norm is None:
        scale_C = scale_C * block_scale
        if bias is not None:
            bias.mul_(block_scale.to(bias))
    else:
        _fold_into_norm(site.residual_norm, block_scale * (joint_scale if bias is None else 1))
    weight.mul_(scale_C.to(weight))


def _fold_into_norm(norm: nn.Module, scale: torch.Tensor) -> None:
    """Scale a norm's gain, in place; the gain is `weight`, or as Gemma has it `1 + weight`."""
    if bool(scale == 1):
        return
    weight = cast(torch.Tensor, norm.weight)
    probe_D = torch.linspace(-1.0, 1.0, len(weight), device=weight.device, dtype=weight.dtype)
    parameters = {name: torch.zeros_like(p) for name, p in norm.named_parameters()}
    at_zero_D = functional_call(norm, parameters, (probe_D[None],))
    offset = 1.0 if bool(at_zero_D.any()) else 0.0
    weight.copy_(((weight.float() + offset) * scale - offset).to(weight))


def _bias_of(module: nn.Module) -> torch.Tensor | None:
    return cast(torch.Tensor | None, getattr(module, "bias", None))


def _scale_units(mask: Mask, _: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
    (x_BSC,) = args
    mask_U = mask()
    width = x_BSC.shape[-1] // len(mask_U)
    mask_C = mask_U.repeat_interleave(width) if width > 1 else mask_U
    return (x_BSC * mask_C.to(x_BSC.dtype),)


def _scale_block(mask: Mask, _: nn.Module, __: object, out_BSD: torch.Tensor) -> torch.Tensor:
    return out_BSD * mask().to(out_BSD.dtype)


def _scale_normed(mask: Mask, norm: nn.Module, _: object, out_BSD: torch.Tensor) -> torch.Tensor:
    """Scale a norm's gain; its bias stays, as it does where the sub-block is dropped."""
    scale, bias_D = mask().to(out_BSD.dtype), _bias_of(norm)
    scaled_BSD = out_BSD * scale
    return scaled_BSD if bias_D is None else scaled_BSD + bias_D * (1 - scale)


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
