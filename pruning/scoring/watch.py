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

# T tokens, C channels at an output projection's input, O its outputs.

_EXACT_CHANNELS = 2048  # beyond it float64 would take too much memory
_ROUNDING = 1.2e-7  # of float32, in which products are made; C channels err about sqrt(C) times it


class Gram:
    """Sums of inputs and of their products, by batches of tokens.

    With `num_outputs`, also of targets, and of targets times inputs.

    Attributes:
        products_CC: sum of x x^T; targets_OC: sum of y x^T; sums_C, sums_O: sums of x and of y.
    """

    def __init__(self, num_channels: int, device: torch.device, num_outputs: int = 0) -> None:
        dtype = torch.float64 if num_channels <= _EXACT_CHANNELS else torch.float32
        self.num_tokens = 0
        self.products_CC = torch.zeros(num_channels, num_channels, device=device, dtype=dtype)
        self.sums_C = torch.zeros(num_channels, device=device, dtype=dtype)
        self.targets_OC = torch.zeros(num_outputs, num_channels, device=device, dtype=dtype)
        self.sums_O = torch.zeros(num_outputs, device=device, dtype=dtype)

    def add(self, x_TC: torch.Tensor, y_TO: torch.Tensor | None = None) -> None:
        """Add the tokens of one batch, in place."""
        x_TC = x_TC.float()
        self.num_tokens += len(x_TC)
        self.products_CC += x_TC.T @ x_TC
        self.sums_C += x_TC.sum(dim=0)
        if y_TO is not None:
            y_TO = y_TO.float()
            self.targets_OC += y_TO.T @ x_TC
            self.sums_O += y_TO.sum(dim=0)

    def fit(
        self, kept: torch.Tensor, prior_OC: torch.Tensor, *, centred: bool, damping: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fit the targets from the input channels `kept` by least squares.

        Ridge regression towards `prior_OC` (all channels), with `damping` times the mean of the
        diagonal: `W = (Y X^T + l W0) (X X^T + l I)^-1`.

        Returns:
            weight [O, kept], bias [O]: zeros when not `centred`.
        """
        products, targets = self.products_CC[kept][:, kept], self.targets_OC[:, kept]
        sums = self.sums_C[kept]
        if centred:
            products = products - torch.outer(sums, sums) / self.num_tokens
            targets = targets - torch.outer(self.sums_O, sums) / self.num_tokens
        weight = prior_OC.to(products.dtype)[:, kept]
        if len(kept):
            # Where inputs hardly vary, the centred sums are mostly rounding: they may be negative.
            diagonal = self.products_CC.diagonal()[kept]
            rounding = _ROUNDING * len(kept) ** 0.5 * diagonal.mean().clamp(min=1e-12)
            strength = (damping * products.diagonal().mean()).clamp(min=rounding)
            products = products + strength * torch.eye(len(kept), device=products.device)
            factor = torch.linalg.cholesky(products)
            weight = torch.cholesky_solve((targets + strength * weight).T, factor).T
        bias = (self.sums_O - weight @ sums) / self.num_tokens
        return weight, bias if centred else torch.zeros_like(bias)


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
