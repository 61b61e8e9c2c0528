"""A row of gates that are decided together, with their state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pruning.gates.gate_function import DECIDED, GateFunction

# U gates.


def any_open(mask_U: torch.Tensor) -> torch.Tensor:
    """Return how open the most open gates are together, []: 1 where one is 1, 0 where all are 0.

    `1 - prod(1 - m)`: a single gate's own mask; of several open ones it moves with none.
    """
    return 1 - (1 - mask_U).prod()


class GateTensor(nn.Module):
    """The logits of gates [U], and what survivors are multiplied by once all is decided.

    Gates that do not learn (`start` is None) are open for good: their logits are a buffer.
    """

    logit: torch.Tensor
    scale: torch.Tensor

    def __init__(self, num_gates: int, function: GateFunction, start: float | None) -> None:
        super().__init__()
        self._function = function
        if start is None:
            self.register_buffer("logit", torch.full((num_gates,), DECIDED))
        else:
            self.logit = nn.Parameter(torch.full((num_gates,), start))
        self.register_buffer("scale", torch.ones(num_gates))

    @property
    def learns(self) -> bool:
        """Return whether these gates have a gradient."""
        return isinstance(self.logit, nn.Parameter)

    def mask(self) -> torch.Tensor:
        """Return what the forward pass multiplies by, [U]."""
        if not self.learns:
            return self.kept() * self.scale
        return self._function.mask(self.logit, self.training) * self.scale

    def kept(self) -> torch.Tensor:
        """Return what counts as kept, with a gradient: 0 or 1, or a probability, [U]."""
        return self._function.kept(self.logit)

    def probability(self) -> torch.Tensor:
        """Return how open each gate is, [U]."""
        return self._function.probability(self.logit)

    @torch.no_grad()
    def list_open(self) -> tuple[int, ...]:
        """Return the gates that are open outside of training."""
        return tuple(self._function.is_open(self.logit).nonzero().flatten().tolist())

    @torch.no_grad()
    def decide(self, kept: Sequence[int]) -> None:
        """Open the gates `kept` and shut the others, for good, in place.

        What is kept goes on being scaled as it was outside of training.
        """
        units = list(kept)
        self.scale[units] *= self._function.value(self.logit)[units]
        self.logit.fill_(-DECIDED)
        self.logit[units] = DECIDED

    @torch.no_grad()
    def constrain(self) -> None:
        """Put logits that learn back into their range, in place."""
        if self.learns:
            self._function.constrain(self.logit)
