"""Starts the gates from a ranking, so that the constraint closes the least useful first."""

from __future__ import annotations

import torch

from pruning.gates.gate_registry import GateRegistry
from pruning.plans.cost import group_cost

SPREAD = 12.0  # the best unit starts at sigmoid(12), the worst at 1/2


@torch.no_grad()
def warm_start(registry: GateRegistry, scores: dict[str, torch.Tensor]) -> None:
    """Set every head and neuron gate by its rank in score per cost, in place.

    The logit is SPREAD times the share of the whole cost that ranks below the unit: a common shift
    of all logits then prunes in rank order. Block gates stay as they are.
    """
    gates = {n: p for n, p in registry.named_parameters() if n != "mlp_block_gate"}
    unit_costs = {name: float(_price_unit(registry, name)) for name in gates}
    density = torch.cat([scores[name] / unit_costs[name] for name in gates])
    costs = torch.cat([torch.full_like(gate, unit_costs[name]) for name, gate in gates.items()])
    order = density.argsort()
    below = torch.empty_like(costs)
    below[order] = costs[order].cumsum(0) / costs.sum()
    for gate, share in zip(
        gates.values(), below.split([g.numel() for g in gates.values()]), strict=True
    ):
        gate.copy_(SPREAD * share)


def _price_unit(registry: GateRegistry, name: str) -> int:
    """Return the cost of one unit of a gate called `attentions.3.gate_H` or the like."""
    part, number, _ = name.split(".")
    dims, cost = registry.dims.layers[int(number)], registry.cost
    return cost.neuron_cost(dims) if part == "mlps" else group_cost(dims, cost)
