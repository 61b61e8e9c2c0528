"""Finds the attentions and the MLP of an unknown block by the names in the known records.

A pattern is a known record's attention or MLP with its place left open: the same names inside, at
whatever path, in whatever combination.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pruning.wirings.known_wirings import WIRINGS
from pruning.wirings.structure import find_module, find_stacks, is_linear
from pruning.wirings.wiring import AttentionWiring, Count, MlpWiring, StackWiring, Wiring


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

    def note_output(key: tuple[int, str], _: nn.Module, __: object, out: torch.Tensor) -> None:
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


@dataclass(frozen=True, slots=True)
class Match:
    """A part of a block that fits a known record's, moved to its place."""

    root: str
    like: str
    part: AttentionWiring | MlpWiring


def match_attentions(block: nn.Module, stack_name: str) -> list[Match]:
    """Return every attention of a block that fits a known one, one for each place.

    Of records that fit alike, one of a `stack_name` ("encoder", "decoder") wins.
    """
    found: dict[str, Match] = {}
    for stack, like in _list_stacks(stack_name):
        for attention in stack.attentions:
            for match in _place(block, attention, like):
                found.setdefault(match.part.core, match)
    return list(found.values())


def match_mlps(block: nn.Module, stack_name: str) -> list[Match]:
    """Return every MLP of a block that fits a known one, one for each place."""
    found: dict[str, Match] = {}
    for stack, like in _list_stacks(stack_name):
        for match in _place(block, stack.mlp, like):
            found.setdefault(match.part.output, match)
    return list(found.values())


def list_counts() -> dict[str, Count]:
    """Return the attributes in which known attentions hold a count."""
    pairs = (
        pair
        for stack, _ in _list_stacks()
        for attention in stack.attentions
        for pair in attention.counts
    )
    return dict(pairs)


def list_head_dims() -> list[str]:
    """Return the attributes in which known attentions hold the width of a head."""
    return sorted({a.head_dim for stack, _ in _list_stacks() for a in stack.attentions})


def _list_stacks(first: str = "") -> list[tuple[StackWiring, str]]:
    found = [(stack, wiring.model_type) for wiring in WIRINGS.values() for stack in wiring.stacks]
    return sorted(found, key=lambda pair: pair[0].name != first)


def _place(block: nn.Module, part: AttentionWiring | MlpWiring, like: str) -> Iterator[Match]:
    """Yield the part at every place of the block where all its linear maps are."""
    root = _common_root(part)
    for place, _ in block.named_modules():
        moved = _move(part, root, place)
        inputs = [p for p in moved.inputs if _has_linear(block, p.path)]
        required = [p for p in moved.inputs if not p.optional]
        if inputs and all(p in inputs for p in required) and _has_linear(block, moved.output):
            core = moved.core
            if not core or find_module(block, core) is not None:
                yield Match(place, like, moved)


def _common_root(part: AttentionWiring | MlpWiring) -> str:
    paths = [p.path for p in part.inputs] + [part.output] + ([part.core] if part.core else [])
    common = os.path.commonpath([path.replace(".", "/") for path in paths])
    return common.replace("/", ".")


def _move(part: AttentionWiring | MlpWiring, root: str, place: str) -> AttentionWiring | MlpWiring:
    def moved(path: str) -> str:
        inside = path.removeprefix(root).lstrip(".")
        return ".".join(name for name in (place, inside) if name)

    inputs = tuple(replace(p, path=moved(p.path)) for p in part.inputs)
    core = moved(part.core) if part.core else ""
    return replace(part, inputs=inputs, output=moved(part.output), core=core)


def _has_linear(block: nn.Module, path: str) -> bool:
    module = find_module(block, path)
    return module is not None and is_linear(module)
