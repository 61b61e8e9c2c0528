"""Runs a model as if a plan had been cut into it: the oracle that repacking is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.wirings.structure import find_stacks
from pruning.wirings.wiring import StackWiring, Wiring

# B batch, S sequence, C channels or neurons, D hidden size.


@contextlib.contextmanager
def masked(model: PreTrainedModel, plan: PruningPlan, wiring: Wiring) -> Iterator[None]:
    """Mask what `plan` does not keep of a dense model, in place, until the block ends.

    Masks stand at the input of an output projection (heads, neurons), at its output (a dropped
    sub-block, whose bias goes too) and around a dropped block. No weight is touched.
    """
    handles: list[RemovableHandle] = []
    try:
        stacks = zip(find_stacks(model, wiring), plan.stacks(), strict=True)
        for (stack, blocks), (dims, layers) in stacks:
            for block, layer in zip(blocks, layers, strict=True):
                handles += _mask_block(block, stack, dims.head_dim, layer)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mask_block(
    block: nn.Module, stack: StackWiring, head_dim: int, layer: LayerPlan
) -> Iterator[RemovableHandle]:
    if layer.dropped:
        yield block.register_forward_hook(_return_input, with_kwargs=True)
        return
    parts = [(stack.attention.output, layer.kept_heads, head_dim)]
    if stack.cross_attention is not None:
        parts.append((stack.cross_attention.output, layer.kept_cross_heads, head_dim))
    parts.append((stack.mlp.output, layer.kept_neurons, 1))
    for path, kept, width in parts:
        output = block.get_submodule(path)
        if kept is None:
            yield output.register_forward_hook(_return_zeros)
        else:
            yield output.register_forward_pre_hook(partial(_mask_input, kept=kept, width=width))


def _mask_input(
    _: nn.Module, args: tuple[torch.Tensor, ...], *, kept: tuple[int, ...], width: int
) -> tuple[torch.Tensor]:
    (x_BSC,) = args
    mask = x_BSC.new_zeros(x_BSC.shape[-1] // width)
    mask[list(kept)] = 1
    return (x_BSC * mask.repeat_interleave(width),)


def _return_zeros(_: nn.Module, __: object, out_BSD: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(out_BSD)


def _return_input(
    _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object
) -> object:
    hidden_BSD = args[0] if args else kwargs["hidden_states"]
    return (hidden_BSD, *output[1:]) if isinstance(output, tuple) else hidden_BSD
