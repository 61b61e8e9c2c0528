"""The straight-through estimator: hard gates forward, the sigmoid's gradient backward."""

import torch


def harden(logit: torch.Tensor) -> torch.Tensor:
    """Return exactly 0 or 1 for each gate, with the gradient of sigmoid(logit).

    `h = 1[sigmoid(t) > .5] + sigmoid(t) - stopgrad(sigmoid(t))`; the last two are subtracted first,
    so that they cancel to an exact zero.
    """
    probability = torch.sigmoid(logit)
    hard = (probability > 0.5).to(probability.dtype)
    return hard + (probability - probability.detach())
