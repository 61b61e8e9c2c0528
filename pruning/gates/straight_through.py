"""The straight-through estimator: hard gates forward, the sigmoid's gradient backward."""

from __future__ import annotations

import torch

from pruning.gates.gate_function import DECIDED


def harden(logit: torch.Tensor) -> torch.Tensor:
    """Return exactly 0 or 1 for each gate, with the gradient of sigmoid(logit).

    `h = 1[sigmoid(t) > .5] + sigmoid(t) - stopgrad(sigmoid(t))`; the last two are subtracted first,
    so that they cancel to an exact zero.
    """
    probability = torch.sigmoid(logit)
    hard = (probability > 0.5).to(probability.dtype)
    return hard + (probability - probability.detach())


class StraightThroughFunction:
    """Hard masks, the same in training and outside of it."""

    unit_start = 1.0
    block_start = DECIDED
    spread = 12.0  # the best unit starts at sigmoid(12), the worst at 1/2

    def mask(self, logit_U: torch.Tensor, training: bool) -> torch.Tensor:
        """Return 0 or 1."""
        return harden(logit_U)

    def is_open(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Tell which masks are 1."""
        return harden(logit_U) > 0

    def kept(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return the mask."""
        return harden(logit_U)

    def probability(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return the sigmoid."""
        return torch.sigmoid(logit_U)

    def value(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return 1."""
        return torch.ones_like(logit_U)

    def constrain(self, logit_U: torch.Tensor) -> None:
        """Leave all as it is."""
