"""What one-shot pruning did to a model, in numbers. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from pruning.allocation.levels import list_items
from pruning.oneshot.oneshot_config import OneShotConfig, Pricing, cost_of
from pruning.plans.cost import CostModel, dense_cost, plan_cost
from pruning.plans.plan import PruningPlan
from pruning.plans.plan_figures import describe_budget
from pruning.strict_json import JsonMapping


def describe_spare(
    plan: PruningPlan, config: OneShotConfig, budget: float, pricing: Pricing | None = None
) -> dict[str, object]:
    """Return what was asked and what is kept, and how far the one is below the other."""
    cost = cost_of(config, pricing)
    unit_cost = _largest_step(plan, cost, config)
    described = describe_budget(plan, cost, budget, unit_cost, config.sequence_length)
    return {**described, "spare_fraction": budget - described["kept_fraction"]}


def describe_latency(plan: PruningPlan, pricing: Pricing) -> dict[str, object]:
    """Return what was asked in milliseconds, and what the prices predict of the whole model."""
    saved = dense_cost(plan.dims, pricing.cost) - plan_cost(plan, pricing.cost)
    return {**pricing.about, "predicted_ms": pricing.about["dense_ms"] - saved / 1e6}


def _largest_step(plan: PruningPlan, cost: CostModel, config: OneShotConfig) -> int:
    """Return the most that raising one sub-block by one level costs: the spare is less."""
    items = list_items(plan.dims, cost, config.constraints)
    return max(more - less for item in items for less, more in pairwise(item.costs))


def summarise(figures: JsonMapping) -> list[tuple[str, str]]:
    """Return the first figures as (what, value) for a person to read."""
    budget = figures["budget"]
    rows = [
        (
            f"kept of the blocks' {'MACs' if budget['cost'] == 'macs' else budget['cost']}",
            f"{budget['kept_fraction']:.2%} (asked: {budget['asked_kept_fraction']:.2%}, "
            f"{budget['spare_fraction']:.3%} below)",
        )
    ]
    latency = figures.get("latency")
    if latency is not None:
        rows.append(summarise_latency(latency))
    metric = figures.get("metric")
    if metric is not None:
        rows.append(describe_metric(metric, figures["dense"][metric], figures["pruned"][metric]))
    for name in ("calibration", "held_out"):
        part = figures[name]
        if part is not None:
            rows.append((f"KL to dense, {name.replace('_', ' ')}", _show_part(part)))
    sizes = [figures[name]["size_bytes"] / 1e6 for name in ("dense", "pruned")]
    return [*rows, ("checkpoint size", f"{sizes[0]:.1f} MB -> {sizes[1]:.1f} MB")]


def _show_part(part: Mapping[str, object]) -> str:
    text = f"{part['kl_divergence']:.4f} nats"
    if part["dense_loss"] is not None:
        text += f" (loss {part['dense_loss']:.3f} -> {part['pruned_loss']:.3f})"
    return text


def summarise_latency(latency: JsonMapping) -> tuple[str, str]:
    """Return what a budget in milliseconds asked and what is predicted, as (what, value)."""
    return (
        "latency, " + latency["how"],
        f"{latency['dense_ms']:.4g} ms -> {latency['predicted_ms']:.4g} ms (asked: "
        f"{latency['asked_ms']:.4g} ms)",
    )


def describe_metric(name: str, dense: float, pruned: float) -> tuple[str, str]:
    """Return what a score was and is, as (what, value)."""
    words = name.replace("_", " ")
    if name in ("perplexity", "loss"):
        return words, f"{dense:.2f} -> {pruned:.2f} ({pruned / dense - 1:+.1%})"
    return words, f"{dense:.1%} -> {pruned:.1%} ({100 * (pruned - dense):+.1f} points)"
