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
from pruning.gates.gate_tensor import any_open
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
