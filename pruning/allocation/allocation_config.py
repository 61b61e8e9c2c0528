"""How the budget is shared between layers: one config a method, and the call that follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pruning.allocation.constraints import Constraints
from pruning.allocation.kl_knapsack import Curves, allocate_knapsack
from pruning.allocation.levels import Scores
from pruning.allocation.threshold_allocations import (
    allocate_by_threshold,
    allocate_uniform,
    check_gamma,
)
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers
from pruning.plans.cost import CostModel
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.training.training_configs import require_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Keep the same share of every layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalThreshold:
    """Cut the units with the lowest scores of all layers (NIRVANA).

        prune:
          scoring: {saliency: magnitude, allocation: {gamma: auto}}

    Attributes:
        gamma: Fraction cut of the MLPs over that of the attentions. auto: the ratio of their costs;
            null: one threshold on the score per cost.
    """

    gamma: float | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        check_numbers(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class KlKnapsack:
    """Measure what pruning each sub-block alone does to the predictions, and minimize the sum.

        prune:
          scoring: {allocation: {num_levels: 12, num_measured: 4}}

    Attributes:
        num_levels: Number of counts at which each sub-block is measured, including 0 and all.
        num_measured: Number of calibration batches to measure on; null: all.
    """

    num_levels: int = 12
    num_measured: int | None = 4

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.num_levels < 2:
            raise NirvanaError(f"num_levels must be 2 or more, got {self.num_levels}.")
        if self.num_measured is not None:
            require_positive(self, "num_measured")


# In a recipe {} is Uniform, {gamma: ...} GlobalThreshold, {num_levels: ...} KlKnapsack.
Allocation = Uniform | GlobalThreshold | KlKnapsack


def allocate(
    config: Allocation,
    dims: DenseDims,
    scores: Scores,
    *,
    cost: CostModel,
    budget: float,
    constraints: Constraints | None = None,
    curves: Curves | None = None,
) -> tuple[LayerPlan, ...]:
    """Return what each layer keeps, so that the blocks cost at most `budget` of the dense ones.

    Args:
        scores: of each unit of every sub-block; the highest stay.
        budget: in (0, 1], of what `cost` counts.
        curves: of every sub-block; only `KlKnapsack` needs them.

    Raises:
        NirvanaError: scores or curves are missing or malformed, or the budget cannot be reached;
            then the message has the least that can.
    """
    limits = constraints or Constraints()
    if isinstance(config, Uniform):
        return allocate_uniform(dims, scores, cost, budget, limits)
    if isinstance(config, GlobalThreshold):
        return allocate_by_threshold(dims, scores, cost, budget, limits, config.gamma)
    if curves is None:
        raise NirvanaError(
            "KlKnapsack needs a damage curve of each sub-block, got none. Measure them first "
            "(`measure_curves`), or allocate by Uniform or GlobalThreshold."
        )
    return allocate_knapsack(dims, scores, curves, cost, budget, limits)
