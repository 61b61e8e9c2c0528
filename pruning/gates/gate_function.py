"""What a kind of gate is: it turns logits into masks. A gate is open where its logit is above 0."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from pruning.gates.gate_kinds import HardConcrete, SoftSigmoid

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


_EDGE = 1e-6  # u keeps away from 0 and 1, where its logarithms are infinite
_LIMITS = (math.log(0.01), math.log(100.0))  # of a logit that learns
_SHARPEN = 0.8  # the factor that CoFi calls its magical number


class HardConcreteFunction:
    """Masks between 0 and 1, drawn anew in each forward pass of the training.

    Draws come from torch's global generator of the logits' device, which the Trainer seeds, saves
    and restores.
    """

    unit_start = 2.0
    block_start = _LIMITS[1]
    spread = _LIMITS[1]

    def __init__(self, kind: HardConcrete) -> None:
        self._temperature = kind.temperature
        self._low, self._high = -kind.stretch, 1 + kind.stretch

    def mask(self, logit_U: torch.Tensor, training: bool) -> torch.Tensor:
        """Return a draw, or outside of training the mask that is expected."""
        return self._draw(logit_U) if training else self._expect(logit_U)

    def is_open(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Tell which masks are above 0."""
        return self._expect(logit_U) > 0

    def kept(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return the probability of not being 0."""
        return self.probability(logit_U)

    def probability(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return `P(z > 0)`."""
        shift = self._temperature * math.log(-self._low / self._high)
        return decide(logit_U, torch.sigmoid(logit_U - shift))

    def value(self, logit_U: torch.Tensor) -> torch.Tensor:
        """Return `sigmoid(0.8 a / b)`."""
        return decide(logit_U, torch.sigmoid(logit_U / self._temperature * _SHARPEN))

    def constrain(self, logit_U: torch.Tensor) -> None:
        """Clamp to [log 0.01, log 100], in place."""
        logit_U.clamp_(*_LIMITS)

    def _draw(self, logit_U: torch.Tensor) -> torch.Tensor:
        u_U = torch.empty_like(logit_U).uniform_(_EDGE, 1 - _EDGE)
        noise_U = u_U.log() - (1 - u_U).log()
        soft_U = torch.sigmoid((noise_U + logit_U) / self._temperature)
        stretched_U = (self._high - self._low) * soft_U + self._low
        return decide(logit_U, stretched_U.clamp(0, 1))

    def _expect(self, logit_U: torch.Tensor) -> torch.Tensor:
        value_U = self.value(logit_U)
        num_zeros = (1 - self.probability(logit_U)).sum().round()
        rank_U = value_U.argsort(stable=True).argsort()
        return value_U * (rank_U >= num_zeros)
