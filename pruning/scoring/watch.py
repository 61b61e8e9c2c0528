"""Looks into a block while it runs: what enters and leaves its output projections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pruning.plans.sub_block import Part
from pruning.wirings.sites import Site

# T tokens (batch x sequence), C channels at an output projection's input, O hidden size.


@dataclass(slots=True)
class Seen:
    """What passed through the sub-blocks of one block, by part.

    Attributes:
        inputs: what entered the output projection, [T, C].
        outputs: what left it, bias included, [T, O].
        entries: what entered the first input projection, [T, O].
    """

    inputs: dict[Part, torch.Tensor] = field(default_factory=dict)
    outputs: dict[Part, torch.Tensor] = field(default_factory=dict)
    entries: dict[Part, torch.Tensor] = field(default_factory=dict)


@contextlib.contextmanager
def watch(sites: Sequence[Site]) -> Iterator[Seen]:
    """Note what passes through the sub-blocks `sites` of one block during its next run."""
    seen = Seen()
    handles = []
    for site in sites:
        part = site.sub_block.part

        def note_output(
            _: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor, part: Part = part
        ) -> None:
            seen.inputs[part] = flatten(args[0])
            seen.outputs[part] = flatten(output).clone()  # Falcon adds to it in place

        def note_entry(_: nn.Module, args: tuple[Any, ...], part: Part = part) -> None:
            seen.entries.setdefault(part, flatten(args[0]))  # DeBERTa projects positions as well

        handles.append(site.output.register_forward_hook(note_output))
        handles.append(site.inputs[0][1].register_forward_pre_hook(note_entry))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def flatten(x_BSC: torch.Tensor) -> torch.Tensor:
    """Return [T, C]: every position of every row."""
    return x_BSC.reshape(-1, x_BSC.shape[-1])
