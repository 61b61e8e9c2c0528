"""A decoder in torch that keeps its cache between steps, as its exported graph takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from exporters.trace.graph_part import GraphPart, GraphTensor
from profiles.runners.stepper import Ids, make_step_inputs

_PAST = "past_key_values"


class TorchStepper:
    """A graph part with a cache in its inputs and outputs; the cache grows by concatenation."""

    def __init__(self, part: GraphPart, run: Callable[..., Any], device: torch.device) -> None:
        self._run, self._device = run, device
        self._cache = tuple(t for t in part.inputs if t.name.startswith(_PAST))
        self._tokens = tuple(t.name for t in part.inputs if not t.name.startswith(_PAST))
        self._past: list[torch.Tensor] = []
        self._num_past = 0

    def start(self, batch: int) -> None:
        """Empty the cache; see `Stepper.start`."""
        self._num_past = 0
        self._past = [
            torch.zeros(_size_empty(tensor, batch), dtype=tensor.dtype, device=self._device)
            for tensor in self._cache
        ]

    def step(self, ids_BS: Ids) -> Ids:
        """Run the next tokens; see `Stepper.step`."""
        given = make_step_inputs(self._tokens, ids_BS, self._num_past)
        tokens = [torch.from_numpy(given[name]).to(self._device) for name in self._tokens]
        with torch.inference_mode():
            logits, *present = self._run(*tokens, *self._past)
            chosen = logits[:, -1:].argmax(-1)
        self._past = present
        self._num_past += ids_BS.shape[1]
        found: Ids = chosen.cpu().numpy()  # waits for a GPU
        return found


def _size_empty(tensor: GraphTensor, batch: int) -> tuple[int, ...]:
    _, heads, _, width = tensor.shape
    return batch, int(heads), 0, int(width)
