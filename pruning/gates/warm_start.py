"""Starts the gates from a ranking, so that the constraint closes the least useful first."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pruning.gates.gate_registry import GateRegistry
from pruning.gates.prunable_head_attention import PrunableHeadAttention
from pruning.plans.sub_block import SubBlock


@torch.no_grad()
def warm_start(
    registry: GateRegistry,
    scores: Mapping[SubBlock, torch.Tensor],
    query_scores: Mapping[SubBlock, torch.Tensor] | None = None,
) -> None:
    """Set every head and neuron gate that learns by its rank in score per cost, in place.

    The logit is the gate kind's spread times the share of the whole cost that ranks below the unit:
    a common shift of all logits then prunes in rank order. Block gates stay as they are.

    Args:
        scores: any saliency's, [num_units] for each sub-block; the higher, the more is lost.
        query_scores: the same of query heads, [num_heads], for each attention that gates them.
    """
    learning: list[tuple[torch.Tensor, torch.Tensor, float]] = []  # logits, scores, price
    for sub_block, gates in registry.sub_block_gates():
        if gates.units.learns:
            price = float(registry.price_unit(sub_block))
            learning.append((gates.units.logit, scores[sub_block], price))
        heads = gates.gate_Q if isinstance(gates, PrunableHeadAttention) else None
        if heads is not None and query_scores is not None:
            price = float(registry.price_query_head(sub_block))
            learning.append((heads.logit, query_scores[sub_block], price))
    if not learning:
        return
    worth = torch.cat([score.to(logit) / price for logit, score, price in learning])
    costs = torch.cat([torch.full_like(logit, price) for logit, _, price in learning])
    order = worth.argsort(stable=True)
    below = torch.empty_like(costs)
    below[order] = costs[order].cumsum(0) / costs.sum()
    shares = below.split([len(logit) for logit, _, _ in learning])
    for (logit, _, _), share in zip(learning, shares, strict=True):
        logit.copy_(registry.spread * share)
