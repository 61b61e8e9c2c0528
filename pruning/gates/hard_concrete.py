"""Hard concrete gates (Louizos et al. 2018, arXiv 1712.01312), as CoFi and Sheared-LLaMA use them.

With `l = -stretch`, `r = 1 + stretch`, temperature b and a logit a (their `log alpha`):
in training `z = clamp((r - l) sigmoid((log u - log(1 - u) + a) / b) + l, 0, 1)`, u uniform;
`P(z > 0) = sigmoid(a - b log(-l / r))`; outside of training `z = sigmoid(0.8 a / b)`, and the
`round(expected number of zeros)` smallest of a tensor are 0.
"""

from __future__ import annotations

import math

import torch

from pruning.gates.gate_function import decide
from pruning.gates.gate_kinds import HardConcrete

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
