"""What a plan keeps, in numbers: for results, reports and people. No torch here."""

from __future__ import annotations

from typing import Any

from pruning.plans.cost import CostModel, MacCost, ParameterCost, dense_cost, plan_cost
from pruning.plans.dense_dims import StackDims
from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.strict_json import JsonObject


def describe_budget(
    plan: PruningPlan, cost: CostModel, asked: float, unit_cost: int, sequence_length: int
) -> JsonObject:
    """Return what was asked and what is kept of the dense cost.

    Args:
        asked: fraction of the dense cost.
        unit_cost: of the largest step that a plan could come nearer by.
        sequence_length: tokens at which MACs are counted; other costs have none.
    """
    kept, dense = plan_cost(plan, cost), dense_cost(plan.dims, cost)
    return {
        "cost": cost.name,
        "asked_kept_fraction": asked,
        "kept_fraction": kept / dense,
        "kept_cost": kept,
        "dense_cost": dense,
        "unit_cost": unit_cost,
        "sequence_length": sequence_length if cost.name == "macs" else None,
    }


def describe_size(model: Any, plan: PruningPlan, sequence_length: int) -> dict[str, int]:
    """Return sizes; block MACs are those of one sequence of `sequence_length` tokens."""
    return {
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "block_parameters": plan_cost(plan, ParameterCost()),
        "block_macs": plan_cost(plan, MacCost(sequence_length)) * sequence_length,
        "size_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
    }


def describe_layers(plan: PruningPlan) -> list[dict[str, object]]:
    """Return what each layer keeps, for people and charts: the encoder's, then the decoder's."""
    pairs = zip(plan.layers, plan.dims.layers, strict=True)
    return [_describe_layer(i, layer, dims) for i, (layer, dims) in enumerate(pairs)]


def _describe_layer(number: int, layer: LayerPlan, dims: StackDims) -> dict[str, object]:
    cross = {
        "kept_cross_heads": list(layer.kept_cross_heads or ()),
        "cross_attention_dropped": layer.kept_cross_heads is None,
    }
    return {
        "layer": number,
        "stack": dims.name,
        "dropped": layer.dropped,
        "num_heads": dims.num_heads,
        "num_kv_heads": dims.num_kv_heads,
        "kept_heads": list(layer.kept_heads or ()),
        "num_neurons": dims.intermediate_size,
        "num_kept_neurons": layer.num_kept_neurons,
        "attention_dropped": layer.kept_heads is None,
        "mlp_dropped": layer.kept_neurons is None,
        **(cross if dims.cross_attention else {}),
    }
