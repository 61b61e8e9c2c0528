"""Finds the norms between a sub-block's output and the residual stream, by looking at a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pruning.wirings.structure import find_stacks
from pruning.wirings.wiring import AttentionWiring, MlpWiring, StackWiring, Wiring


@torch.no_grad()
def find_residual_norms(
    model: PreTrainedModel, wiring: Wiring, inputs: dict[str, torch.Tensor]
) -> Wiring:
    """Return `wiring` with the norm that each output projection's result goes into, alone.

    A norm of the residual stream reads a sum instead, as BERT's do and as the norms at the
    beginning of a block do.
    """
    found: dict[tuple[int, str], str] = {}  # stack and output projection: norm
    outputs: dict[tuple[int, str], torch.Tensor] = {}
    handles = []

    def note_output(key: tuple[int, str], _: nn.Module, __: Any, out: torch.Tensor) -> None:
        outputs[key] = out

    def note_norm(stack: int, path: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        for key, out in outputs.items():
            is_same = args and isinstance(args[0], torch.Tensor) and args[0].shape == out.shape
            if key[0] == stack and is_same and torch.equal(args[0], out):
                found.setdefault(key, path)

    stacks = find_stacks(model, wiring)
    try:
        for number, (stack, blocks) in enumerate(stacks):
            block = blocks[-1]
            for part in stack.parts:
                hook = partial(note_output, (number, part.output))
                handles.append(block.get_submodule(part.output).register_forward_hook(hook))
            for path, module in block.named_modules():
                if "norm" in type(module).__name__.lower():
                    handles.append(
                        module.register_forward_pre_hook(partial(note_norm, number, path))
                    )
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    by_stack: dict[str, dict[str, str]] = {stack.name: {} for stack in wiring.stacks}
    for (number, output), norm in found.items():
        by_stack[stacks[number][0].name][output] = norm
    with_norms = (_with_norms(stack, by_stack[stack.name]) for stack in wiring.stacks)
    return replace(wiring, stacks=tuple(with_norms))


def _with_norms(stack: StackWiring, found: Mapping[str, str]) -> StackWiring:
    def norm_of(part: AttentionWiring | MlpWiring) -> str:
        return found.get(part.output, "")

    cross = stack.cross_attention
    return replace(
        stack,
        attention=replace(stack.attention, residual_norm=norm_of(stack.attention)),
        cross_attention=None if cross is None else replace(cross, residual_norm=norm_of(cross)),
        mlp=replace(stack.mlp, residual_norm=norm_of(stack.mlp)),
    )
