"""From scores to a pruned model in memory, at one budget: allocate, cut, repair."""

from __future__ import annotations

from pruning.allocation.allocation_config import allocate
from pruning.oneshot.oneshot_config import OneShotConfig, Pricing, cost_of
from pruning.plans.plan import LayerPlan
from pruning.progress import CountProgress
from pruning.repair.repair import ResidualStyle, prune_in_place
from pruning.scoring.saliency import ScoringTask
from pruning.scoring.scoring_run import ScoringRun


def allocate_budget(
    run: ScoringRun, config: OneShotConfig, budget: float, pricing: Pricing | None = None
) -> tuple[LayerPlan, ...]:
    """Return what each layer keeps at a budget; no model is needed.

    Raises:
        NirvanaError: the budget cannot be reached; the message has the least that can.
    """
    return allocate(
        config.allocation or run.config.allocation,
        run.dims,
        {sub_block: values.tolist() for sub_block, values in run.scores.items()},
        cost=cost_of(config, pricing),
        budget=budget,
        constraints=config.constraints,
        curves=run.curves,
    )


def prune_to_budget(
    task: ScoringTask,
    run: ScoringRun,
    config: OneShotConfig,
    budget: float,
    progress: CountProgress | None = None,
    pricing: Pricing | None = None,
) -> tuple[tuple[LayerPlan, ...], dict[int, ResidualStyle]]:
    """Zero what a budget does not keep, and repair what it keeps, in place.

    Returns:
        what each layer keeps, and how each block adds to its residual stream (see
        `prune_in_place`).
    """
    layers = allocate_budget(run, config, budget, pricing)
    return layers, prune_in_place(task, layers, config.repair, progress=progress)
