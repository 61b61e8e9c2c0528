"""What a saliency is: it gives each unit of a dense model a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel

from pruning.plans.sub_block import SubBlock
from pruning.scoring.block_walk import Batch
from pruning.wirings.sites import Site

Scores = dict[SubBlock, torch.Tensor]


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """What a saliency may look at.

    Attributes:
        model: dense, in evaluation mode; a saliency leaves it as it was, without gradients.
        sites: the modules of each sub-block.
        batches: calibration batches without padding, with `labels`; on the model's device.
    """

    model: PreTrainedModel
    sites: Mapping[SubBlock, Site]
    batches: Sequence[Batch]


class Saliency(Protocol):
    """Scores units: the higher, the more is lost without the unit.

    Scores of one sub-block are compared with each other; those of several sub-blocks only by the
    allocations `global_threshold` and `uniform` over all layers of one kind.
    """

    def score(self, task: ScoringTask) -> Scores:
        """Return a tensor [num_units] of finite numbers for every sub-block."""
