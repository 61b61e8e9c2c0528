"""The plain soft gate: a mask is the sigmoid of its logit, in training and outside of it."""

from __future__ import annotations

import torch

from pruning.gates.gate_function import decide
from pruning.gates.gate_kinds import SoftSigmoid

_LIMIT = 8.0  # of a logit that learns: beyond it a sigmoid has hardly a slope


class SoftSigmoidFunction:
    """Masks strictly between 0 and 1 until they are decided; what is above 1/2 counts as open."""

    spread = _LIMIT

    def __init__(self, kind: SoftSigmoid) -> None:
        self.unit_start = min(kind.start_logit, _LIMIT)
        self.block_start = _LIMIT

    def mask(self, logit_U: torch.Tensor, training: bool) -> torch.Tensor:
        """Return the sigmoid."""
        return decide(logit_U, torch.sigmoid(logit_U))

    def is_open(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Tell which masks are above 1/2."""
        return logit_U > 0

    def kept(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return the sigmoid: the density is how open all gates are together."""
        return self.mask(logit_U, training=False)

    def probability(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return the sigmoid."""
        return self.mask(logit_U, training=False)

    def value(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return the sigmoid, by which survivors go on being scaled."""
        return self.mask(logit_U, training=False)

    def constrain(self, logit_U: torch.Tensor) -> None:
        """Clamp to [-8, 8], in place."""
        logit_U.clamp_(-_LIMIT, _LIMIT)
