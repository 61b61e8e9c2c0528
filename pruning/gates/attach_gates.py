"""Gates for a Trainer of the user's own: put in by one call, taken out as a plan by another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from pruning.checkpoints.dense_source import read_dense
from pruning.cutting.repack import plan_for
from pruning.errors import NirvanaError
from pruning.gates.fisher import score_fisher
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.projection import Limits, check_reachable
from pruning.gates.prune_config import BudgetConstraint, PruneConfig
from pruning.gates.pruning_callback import PruningCallback
from pruning.gates.warm_start import warm_start
from pruning.plans.cost import make_cost_model
from pruning.plans.plan import PruningPlan
from pruning.training.data_config import DataConfig
from pruning.training.loss_scale import settle_loss_scale


def attach_gates(
    model: PreTrainedModel,
    config: PruneConfig,
    *,
    batches: Iterable[Mapping[str, torch.Tensor]] | None = None,
    data: DataConfig | None = None,
) -> PruningCallback:
    """Put gates into a dense model, in place, and return the callback that makes them learn.

    Call it before the Trainer is made. Of `config`, what a Trainer has arguments for (epochs,
    learning rate, batch size, seed, ...) is the Trainer's. With `batches` of labelled rows the
    gates start from their Fisher ranking; without, all alike.

    Raises:
        NirvanaError: the model cannot be pruned or was pruned before, or the budget is out of
            reach.
    """
    source = read_dense(model)
    cost = make_cost_model(config.cost, config.sequence_length)
    check_reachable(
        source.dims, cost, config.budget, Limits(neuron_multiple=config.neuron_multiple)
    )
    registry = GateRegistry.attach(model, cost)
    settle_loss_scale(model)
    if batches is not None:
        warm_start(registry, score_fisher(model, registry, batches))
    return PruningCallback(registry, config, source.current, data)


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
    return plan_for(model, registry.kept_layers(), **describe_making(callback.config))


def describe_making(config: PruneConfig) -> dict[str, Any]:
    """Return what a plan says of how gates made it."""
    constrained = isinstance(config.objective, BudgetConstraint)
    return {
        "method": "gates",
        "objective": "budget_constraint" if constrained else "fixed_penalty",
        "budget": config.budget,
        "cost": config.cost,
        "sequence_length": config.sequence_length if config.cost == "macs" else None,
        "seed": config.seed,
    }
