"""Fisher scores of all units (Kwon et al. 2022): `I_k = sum over batches (dL/dm_k)^2` at m = 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from transformers import PreTrainedModel

from pruning.gates.gate_registry import GateRegistry


def score_fisher(
    model: PreTrainedModel,
    registry: GateRegistry,
    batches: Iterable[Mapping[str, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """Return a score a gate, keyed and shaped as the registry's parameters.

    The gates must be open and equal; batches hold labels. The model is left in its mode and
    without gradients. dL/dm differs from the gate's gradient by the sigmoid's slope at the common
    logit only, which cancels.
    """
    was_training = model.training
    needs = [p for p in model.parameters() if p.requires_grad]
    gates = dict(registry.named_parameters())
    scores = {name: torch.zeros_like(gate) for name, gate in gates.items()}
    model.eval().requires_grad_(False)
    registry.requires_grad_(True)
    for batch in batches:
        registry.zero_grad(set_to_none=True)
        model(**{key: value.to(model.device) for key, value in batch.items()}).loss.backward()
        for name, gate in gates.items():
            if gate.grad is not None:
                slope = torch.sigmoid(gate) * (1 - torch.sigmoid(gate))
                scores[name] += (gate.grad / slope).detach() ** 2
    registry.zero_grad(set_to_none=True)
    for parameter in needs:
        parameter.requires_grad_(True)
    model.train(was_training)
    return scores
