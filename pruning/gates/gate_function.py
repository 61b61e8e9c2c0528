"""What a kind of gate is: it turns logits into masks. A gate is open where its logit is above 0."""

from __future__ import annotations

from typing import Protocol

import torch

# U gates of one tensor.

# Logit of a gate that is decided for good: such a gate is exactly 0 or 1, whatever its kind.
DECIDED = 10.0


class GateFunction(Protocol):
    """Turn logits [U] into masks [U], and into what masks are expected to be."""

    @property
    def unit_start(self) -> float:
        """The logit at which the gates of units start."""

    @property
    def block_start(self) -> float:
        """The logit at which the gates of whole sub-blocks start: wide open."""

    @property
    def spread(self) -> float:
        """The logit at which a warm start puts the best unit; the worst gets 0."""

    def mask(self, logit_U: torch.Tensor, training: bool) -> torch.Tensor:
        """Return what the forward pass multiplies by; 0 where a unit is cut."""

    def is_open(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Tell which gates are open outside of training, as booleans."""

    def kept(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return what counts as kept: 0 or 1, or the probability of not being cut."""

    def probability(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return how open each gate is, in (0, 1)."""

    def value(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return what the mask of each gate is when it is not cut, outside of training."""

    def constrain(self, logit_U: torch.Tensor) -> None:
        """Put logits back, in place, into the range in which they can learn."""


def decide(logit_U: torch.Tensor, undecided_U: torch.Tensor) -> torch.Tensor:
    """Return 0 or 1 for the gates that are decided for good, what is given for the others."""
    return torch.where(logit_U.abs() < DECIDED, undecided_U, (logit_U > 0).to(undecided_U.dtype))
