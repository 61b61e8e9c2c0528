"""Taylor (LLM-Pruner, arXiv 2305.11627): the loss's first-order change without a unit."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.saliencies.model_passes import hold_gradients, multiply_gradient, read_loss
from pruning.saliencies.saliency import Scores, ScoringTask
from pruning.saliencies.unit_weights import sum_over_units


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
