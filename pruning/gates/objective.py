"""What pulls the gates shut, beside the task: a fixed penalty or a budget constraint.

Neither depends on the data, so each adds its gradient to the gates once an optimizer step: gradient
accumulation, mixed precision and the caller's own loss stay as they are.
"""

from __future__ import annotations

import torch

from pruning.gates.gate_registry import GateRegistry
from pruning.gates.prune_config import BudgetConstraint, FixedPenalty


def penalise(
    registry: GateRegistry, objective: BudgetConstraint | FixedPenalty, target: float
) -> torch.Tensor:
    """Return the term to add to the task loss.

    FixedPenalty: `alpha * sum(head gates) + beta * sum(mlp gates)`.
    BudgetConstraint: `l1 * (s - s_t) + l2 * (s - s_t)^2`, s the kept hard density.
    """
    if isinstance(objective, FixedPenalty):
        heads, mlps = registry.head_gate_sum(), registry.mlp_gate_sum()
        return objective.alpha * heads + objective.beta * mlps
    excess = registry.kept_density() - target
    return registry.multiplier * excess + objective.quadratic * excess**2


@torch.no_grad()
def ascend_multiplier(
    registry: GateRegistry, objective: BudgetConstraint | FixedPenalty, target: float
) -> None:
    """Take one gradient ascent step on lambda 1, in place; a fixed penalty has none."""
    if isinstance(objective, BudgetConstraint):
        excess = registry.kept_density() - target
        registry.multiplier += objective.multiplier_lr * excess
