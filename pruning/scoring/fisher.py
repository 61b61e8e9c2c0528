"""Fisher scores (Kwon et al. 2022, arXiv 2204.09656): how steep the loss is in a unit's mask."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from pruning.plans.sub_block import SubBlock
from pruning.scoring.model_passes import (
    hold_gradients,
    leave_as_found,
    multiply_gradient,
    read_loss,
    require_batches,
)
from pruning.scoring.saliency import Scores, ScoringTask
from pruning.scoring.unit_weights import sum_over_units


@dataclass(frozen=True, slots=True)
class Taylor:
    """Score a unit by `|sum over its weights of W * dL/dW|`, L the model's loss with labels."""

    def score(self, task: ScoringTask) -> Scores:
        """Return scores from the gradients of all batches' mean losses together."""
        with hold_gradients(task, read_loss):
            return {
                sub_block: sum_over_units(site, multiply_gradient).abs()
                for sub_block, site in task.sites.items()
            }


# U units.


@dataclass(frozen=True, slots=True)
class Fisher:
    """Score a unit by `I_k = sum over batches (dL/dm_k)^2` at the mask m = 1.

    The mask scales what enters the output projection, so 0 would be the unit's removal. L is the
    model's loss with labels.
    """

    def score(self, task: ScoringTask) -> Scores:
        """Return scores in float32; smaller batches come nearer to the Fisher information."""
        require_batches(task)
        scores = {s: _per_unit(task, s, 0.0) for s in task.sites}
        masks = {s: _per_unit(task, s, 1.0).requires_grad_() for s in task.sites}
        with leave_as_found(task.model), _mask_units(task, masks), torch.enable_grad():
            task.model.requires_grad_(False)
            for batch in task.batches:
                slopes = torch.autograd.grad(
                    read_loss(task.model, batch), list(masks.values()), materialize_grads=True
                )
                for sub_block, slope_U in zip(masks, slopes, strict=True):
                    scores[sub_block] += slope_U.square()
        return scores


def _per_unit(task: ScoringTask, sub_block: SubBlock, value: float) -> torch.Tensor:
    return torch.full((task.sites[sub_block].num_units,), value, device=task.model.device)


@contextlib.contextmanager
def _mask_units(task: ScoringTask, masks: dict[SubBlock, torch.Tensor]) -> Iterator[None]:
    """Scale what enters each output projection by its units' masks."""

    def scale(
        mask_U: torch.Tensor, width: int, _: nn.Module, args: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        mask_C = mask_U.repeat_interleave(width).to(args[0].dtype)
        return (args[0] * mask_C, *args[1:])

    handles = [
        site.output.register_forward_pre_hook(partial(scale, masks[sub_block], site.unit_width))
        for sub_block, site in task.sites.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
