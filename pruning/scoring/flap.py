"""FLAP (arXiv 2312.11983): how much what a unit gives the residual stream fluctuates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from pruning.plans.sub_block import SubBlock
from pruning.scoring.block_walk import prepare_inputs
from pruning.scoring.model_passes import leave_as_found, require_batches
from pruning.scoring.saliency import Scores, ScoringTask
from pruning.scoring.watch import flatten
from pruning.wirings.sites import Site

# T tokens, C channels at an output projection's input, O its outputs, U units.

_CHUNK = 1024  # tokens that are held in float64 at a time


class ChannelVariance:
    """The variance of each channel over all tokens, from chunks of them, in float64."""

    def __init__(self, num_channels: int, device: torch.device) -> None:
        self.num_tokens = 0
        self._mean_C = torch.zeros(num_channels, device=device, dtype=torch.float64)
        self._squares_C = torch.zeros_like(self._mean_C)  # of the distances from the mean

    def add(self, x_TC: torch.Tensor) -> None:
        """Add tokens, in place (Chan et al. 1983: two means and their distance)."""
        for chunk in x_TC.split(_CHUNK):
            chunk = chunk.double()
            mean_C = chunk.mean(dim=0)
            distance_C = mean_C - self._mean_C
            total = self.num_tokens + len(chunk)
            self._squares_C += (chunk - mean_C).square().sum(dim=0)
            self._squares_C += distance_C.square() * (self.num_tokens * len(chunk) / total)
            self._mean_C += distance_C * (len(chunk) / total)
            self.num_tokens = total

    def read(self) -> torch.Tensor:
        """Return the variance, [C]."""
        return self._squares_C / max(self.num_tokens, 1)


@dataclass(frozen=True, slots=True)
class Flap:
    """Score a channel by `WIFV_j = Var(x_j) * ||W_:j||^2`, and a unit by its channels' mean.

    The channels of a sub-block are first standardised to mean 0 and deviation 1, so that
    sub-blocks of one kind can be compared; scores may be negative.
    """

    @torch.no_grad()
    def score(self, task: ScoringTask) -> Scores:
        """Return scores from one forward pass a batch."""
        require_batches(task)
        with leave_as_found(task.model), _collect_variances(task) as variances:
            for batch in task.batches:
                task.model(**prepare_inputs(task.model, batch))
        return {s: _score_site(site, variances[s].read()) for s, site in task.sites.items()}


def _score_site(site: Site, variance_C: torch.Tensor) -> torch.Tensor:
    fluctuation_C = variance_C * site.output_weight().double().square().sum(dim=0)
    deviation = fluctuation_C.std(correction=0)
    # Channels that all fluctuate alike differ by rounding alone, and are worth the same.
    flat = deviation <= 1e-12 * fluctuation_C.mean()
    centred_C = fluctuation_C - fluctuation_C.mean()
    standard_C = torch.zeros_like(centred_C) if flat else centred_C / deviation
    return (site.sum_channels(standard_C) / site.unit_width).float()


@contextlib.contextmanager
def _collect_variances(task: ScoringTask) -> Iterator[dict[SubBlock, ChannelVariance]]:
    """Follow what enters every output projection."""

    def note(variance: ChannelVariance, _: nn.Module, args: tuple[Any, ...]) -> None:
        variance.add(flatten(args[0]))

    variances = {
        sub_block: ChannelVariance(site.num_units * site.unit_width, task.model.device)
        for sub_block, site in task.sites.items()
    }
    handles = [
        site.output.register_forward_pre_hook(partial(note, variances[sub_block]))
        for sub_block, site in task.sites.items()
    ]
    try:
        yield variances
    finally:
        for handle in handles:
            handle.remove()
