"""Budgets in milliseconds: from what a recipe asks to a fraction, and the prices behind it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.latency.latency_config import LatencyConfig

if TYPE_CHECKING:
    from profiles.latency.latency_table import LatencyTable
    from profiles.targets.roofline import RooflineCost
    from pruning.allocation.constraints import Constraints
    from pruning.oneshot.oneshot_config import Pricing
    from pruning.plans.dense_dims import DenseDims
    from pruning.progress import Progress


def price_latency(
    dims: DenseDims,
    config: LatencyConfig,
    constraints: Constraints,
    *,
    model: str,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[float, Pricing]:
    """Return what fraction of the blocks' latency meets a budget, and the prices behind it.

    The target "cpu" is this machine: a table of `model` is measured, or found in the cache. Others
    are estimated, and what comes of it says so: the estimate has the blocks alone, which are taken
    for the whole model.

    Raises:
        NirvanaError: the budget cannot be reached, or the target or the model has no table.
    """
    table = None
    if config.is_measured:
        table = measure_latency_table(model, config, cache=cache, progress=progress)
    return price_by_table(dims, config, constraints, table)


def price_by_table(
    dims: DenseDims, config: LatencyConfig, constraints: Constraints, table: LatencyTable | None
) -> tuple[float, Pricing]:
    """Return the same from a table that is there; None where the target is estimated.

    Raises:
        NirvanaError: the budget cannot be reached, or there is no such target.
    """
    from profiles.latency.latency_config import find_fraction
    from pruning.oneshot.oneshot_config import Pricing

    cost: LatencyTable | RooflineCost
    if table is None:
        cost = _estimate(config)
        dense_ms, how = cost.dense_ms(dims), "estimated from peak rates, nothing was run"
    else:
        cost, dense_ms, how = table, table.dense_ms, "predicted from a measured table"
    settings = config.table
    about = {
        "target": config.target,
        "how": how,
        "is_estimate": table is None,
        "asked_ms": config.budget.asked_ms(dense_ms),
        "dense_ms": dense_ms,
        "call": dataclasses.asdict(settings.call),
        "clock": None if table is None else settings.clock,  # nothing was timed for an estimate
        "num_threads": None if table is None else settings.num_threads,
        "precision": config.chosen_precision,
    }
    fraction = find_fraction(cost, dense_ms, dims, config.budget, constraints)
    return fraction, Pricing(cost=cost, about=about)


def measure_latency_table(
    source: str,
    config: LatencyConfig,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Return the table of a dense model on this machine, from the cache where it is there."""
    from transformers import AutoConfig

    from profiles.latency.measure_table import measure_table
    from pruning.checkpoints.model_skeleton import find_architecture
    from pruning.checkpoints.model_source import load_stock_model, load_with_head

    architecture = find_architecture(load_stock_model(AutoConfig, source))
    # Only its speed counts: a head that is yet to be trained may be missing.
    model, _ = load_with_head(architecture, source, fresh=True, attn_implementation="eager")
    config.check(model)
    model = model.float().eval()
    return measure_table(model, config.table, cache=cache, progress=progress)


def _estimate(config: LatencyConfig) -> RooflineCost:
    from profiles.targets.roofline import RooflineCost
    from profiles.targets.target import load_target

    return RooflineCost(
        target=load_target(config.target),
        call=config.table.call,
        precision=config.chosen_precision,
    )
