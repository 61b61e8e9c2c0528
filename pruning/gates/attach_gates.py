"""Gates for a Trainer of the user's own: put in by one call, taken out as a plan by another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from pruning.checkpoints.model_fingerprint import list_fingerprints
from pruning.cutting.repack import plan_for, read_dense
from pruning.errors import NirvanaError
from pruning.gates.gate_kinds import HardConcrete, SoftSigmoid
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.gated_projection import PrunableHeadAttention
from pruning.gates.one_shot_start import (
    find_one_shot_start,
    make_start_task,
    score_query_heads,
    start_at_budget,
)
from pruning.gates.projection import check_projectable
from pruning.gates.prune_config import BudgetConstraint, PruneConfig
from pruning.gates.pruning_callback import PruningCallback
from pruning.oneshot.oneshot_config import Pricing
from pruning.plans.cost import CostModel, make_cost_model
from pruning.plans.plan import PruningPlan
from pruning.plans.sub_block import SubBlock
from pruning.scoring.block_walk import Batch
from pruning.scoring.known_saliencies import find_saliency, score_units
from pruning.scoring.model_passes import leave_as_found
from pruning.tasks.data_config import DataConfig
from pruning.training.loss_watch import settle_loss_scale


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


def attach_gates(
    model: PreTrainedModel,
    config: PruneConfig,
    *,
    batches: Iterable[Batch] | None = None,
    data: DataConfig | None = None,
    resumes: bool = False,
    pricing: Pricing | None = None,
) -> PruningCallback:
    """Put gates into a dense model, in place, and return the callback that makes them learn.

    Call it before the Trainer is made. Of `config`, what a Trainer has arguments for (epochs,
    learning rate, batch size, seed, ...) is the Trainer's. With `batches` of labelled rows, without
    padding, the gates start from the ranking of `config.warm_start`; without, all alike. With the
    schedule "at_budget" the model's weights are repaired, in place, unless the training `resumes`:
    a checkpoint then has the weights and gates, and no batches are needed. With `pricing`
    `config.budget` is a fraction of what that counts, such as milliseconds, in place of
    `config.cost`.

    Raises:
        NirvanaError: the model cannot be pruned or was pruned before, the budget is out of reach,
            or the schedule wants batches and gets none.
    """
    at_budget = config.schedule.kind == "at_budget"
    if at_budget and batches is None and not resumes:
        raise NirvanaError(
            "The schedule at_budget starts from scores, so it needs batches of labelled rows "
            "without padding, got none. Pass batches=..., or choose another schedule.kind."
        )
    source = read_dense(model)
    weights = list_fingerprints(model, source)  # as they are before repair and training
    cost = cost_of(config, pricing)
    check_projectable(source.dims, cost, config.budget, config.constraints, config.units)
    scores = start = query_scores = None
    if batches is not None and config.warm_start is not None:
        task = make_start_task(model, list(batches))
        scores = score_units(find_saliency(config.warm_start), task)
        if config.units.query_heads:
            query_scores = score_query_heads(task)
        if at_budget and not resumes:
            budget, constraints = config.budget, config.constraints
            with leave_as_found(model):
                start = find_one_shot_start(task, source.dims, scores, cost, budget, constraints)
    registry = GateRegistry.attach(model, cost, config.gate_kind, config.units)
    settle_loss_scale(model)
    if start is not None:
        start_at_budget(registry, start)
    elif scores is not None:
        warm_start(registry, scores, query_scores)
    whole = replace(source.current, weights=weights)
    return PruningCallback(registry, config, whole, data, pricing)


def cost_of(config: PruneConfig, pricing: Pricing | None) -> CostModel:
    """Return what counts the cost of a budget."""
    if pricing is not None:
        return pricing.cost
    return make_cost_model(config.cost, config.sequence_length)


def finish_gates(model: PreTrainedModel, callback: PruningCallback) -> PruningPlan:
    """Take the gates out of a trained model, in place, and return what they keep.

    Until `repack(model, plan)` the model still has what they had closed.

    Raises:
        NirvanaError: training ended before the last pruning stage, so the budget is not met.
    """
    registry = callback.registry
    if not registry.frozen:
        raise NirvanaError(
            f"The gates still learn: {float(registry.kept_density()):.1%} is kept of a budget of "
            f"{callback.config.budget:.1%}. Train to the end before they are taken out."
        )
    registry.detach(model)
    plan = plan_for(
        model, registry.kept_layers(), **describe_making(callback.config, callback.pricing)
    )
    return replace(plan, weights=(*callback.first_weights, *plan.weights))


def describe_making(config: PruneConfig, pricing: Pricing | None = None) -> dict[str, object]:
    """Return what a plan says of how gates made it."""
    cost_name = cost_of(config, pricing).name
    constrained = isinstance(config.objective, BudgetConstraint)
    kinds = {HardConcrete: "hard_concrete", SoftSigmoid: "soft_sigmoid"}
    return {
        "method": "gates",
        "objective": "budget_constraint" if constrained else "fixed_penalty",
        "gates": kinds.get(type(config.gate_kind), "straight_through"),
        "budget": config.budget,
        "cost": cost_name,
        "sequence_length": config.sequence_length if cost_name == "macs" else None,
        **({} if pricing is None else {"latency": dict(pricing.about)}),
        "seed": config.seed,
    }
