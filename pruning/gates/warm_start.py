"""Starts the gates from a ranking, so that the constraint closes the least useful first."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pruning.gates.gate_registry import GateRegistry
from pruning.plans.sub_block import SubBlock


@torch.no_grad()
def warm_start(registry: GateRegistry, scores: Mapping[SubBlock, torch.Tensor]) -> None:
    """Set every head and neuron gate that learns by its rank in score per cost, in place.

    The logit is the gate kind's spread times the share of the whole cost that ranks below the unit:
    a common shift of all logits then prunes in rank order. Block gates stay as they are.

    Args:
        scores: any saliency's, [num_units] for each sub-block; the higher, the more is lost.
    """
    learning = {s: g.units.logit for s, g in registry.sub_block_gates() if g.units.learns}
    if not learning:
        return
    prices = {s: float(registry.price_unit(s)) for s in learning}
    worth = torch.cat([scores[s].to(logit) / prices[s] for s, logit in learning.items()])
    costs = torch.cat([torch.full_like(logit, prices[s]) for s, logit in learning.items()])
    order = worth.argsort(stable=True)
    below = torch.empty_like(costs)
    below[order] = costs[order].cumsum(0) / costs.sum()
    shares = below.split([len(logit) for logit in learning.values()])
    for logit, share in zip(learning.values(), shares, strict=True):
        logit.copy_(registry.spread * share)
