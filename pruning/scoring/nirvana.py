"""NIRVANA's saliency (arXiv 2509.14230): it needs logits, and no labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from pruning.scoring.block_walk import Batch
from pruning.scoring.model_passes import hold_gradients, multiply_gradient, read_logits
from pruning.scoring.saliency import Scores, ScoringTask
from pruning.scoring.unit_weights import sum_over_units

# B sequences, S token positions, V vocabulary or classes.


@dataclass(frozen=True, slots=True)
class Nirvana:
    """Score a unit by `sum over its weights of |W * dF/dW|`.

    F is the mean over sequences and vocabulary of the logits' maximum over token positions; where
    the model gives one vector of logits a sequence, the mean of these. It is one mean over the
    sequences of all batches: how they are batched makes no difference.
    """

    def score(self, task: ScoringTask) -> Scores:
        """Return scores from one gradient of all batches together."""
        num_sequences = 0

        def sum_sequences(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
            nonlocal num_sequences
            logits = read_logits(model, batch)
            num_sequences += len(logits)
            return reduce_logits(logits).sum()

        with hold_gradients(task, sum_sequences):
            return {
                sub_block: sum_over_units(site, _absolute_product) / num_sequences
                for sub_block, site in task.sites.items()
            }


def reduce_logits(logits: torch.Tensor) -> torch.Tensor:
    """Return each sequence's part in F, [B], from logits [B, S, V] or [B, V]."""
    peaks_BV = logits.amax(dim=1) if logits.dim() == 3 else logits
    return peaks_BV.mean(dim=1)


def _absolute_product(weight: nn.Parameter) -> torch.Tensor:
    return multiply_gradient(weight).abs()
