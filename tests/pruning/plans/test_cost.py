from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from pruning.checkpoints.prunable_model import read_model
from pruning.cutting.repack import repack
from pruning.plans.cost import (
    MacCost,
    ParameterCost,
    dense_cost,
    group_cost,
    layer_cost,
    make_cost_model,
    plan_cost,
)
from pruning.plans.plan import LayerPlan
from pruning.wirings.structure import find_module, find_stacks
from pruning.wirings.wiring import StackWiring
from tests.pruning.tiny_models import PLANS, TINY, batch_for, make_tiny

PLANS_IDS = pytest.mark.parametrize("make_plan", PLANS.values(), ids=PLANS.keys())
COSTS = pytest.mark.parametrize("cost", [ParameterCost(), MacCost(128)], ids=["parameters", "macs"])


def list_blocks(model: PreTrainedModel) -> list[tuple[StackWiring, nn.Module]]:
    stacks = find_stacks(model, read_model(model).wiring)
    return [(stack, block) for stack, blocks in stacks for block in blocks]


def count_parameters(stack: StackWiring, block: nn.Module) -> int:
    """Without T5's position bias table, which belongs to all layers."""
    table = find_module(block, f"{stack.attention.core}.{stack.attention.bias_table}")
    shared = [] if table is None or not stack.attention.bias_table else list(table.parameters())
    return sum(p.numel() for p in block.parameters()) - sum(p.numel() for p in shared)


def count_absent_norms(dense: PreTrainedModel) -> int:
    """What ModernBERT's first block lacks of the others: its price says that it is there."""
    first, second = [count_parameters(*pair) for pair in list_blocks(dense)[:2]]
    assert first == second or dense.config.model_type == "modernbert"
    return second - first


@PLANS_IDS
@pytest.mark.parametrize("name", TINY)
def test_parameters_are_those_of_the_repacked_blocks(name: str, make_plan) -> None:
    model = make_tiny(name)
    plan = make_plan(model)
    counted = sum(count_parameters(*pair) for pair in list_blocks(repack(model, plan)))
    assert plan_cost(plan, ParameterCost()) - count_absent_norms(model) == counted


@pytest.mark.parametrize("name", TINY)
def test_the_dense_cost_is_that_of_the_dense_blocks(name: str) -> None:
    model = make_tiny(name)
    counted = sum(count_parameters(*pair) for pair in list_blocks(model))
    cost = make_cost_model("parameters", 128)
    assert dense_cost(read_model(model).dims, cost) - count_absent_norms(model) == counted


# DeBERTa multiplies its queries and keys with relative positions besides, which MacCost leaves out.
@PLANS_IDS
@pytest.mark.parametrize("name", [name for name in TINY if "deberta" not in name])
@torch.no_grad()
def test_macs_are_what_torch_counts(name: str, make_plan) -> None:
    model = make_tiny(name, "eager")
    plan = make_plan(model)
    smaller = repack(model, plan)
    batch = {key: value[:1] for key, value in batch_for(model).items()}
    if "decoder_input_ids" in batch:  # a source as long as the target
        batch["decoder_input_ids"] = batch["input_ids"]
    length = 17  # also 16 patches and a class token
    with FlopCounterMode(display=False) as counter:
        smaller(**batch)
    paths = {id(module): path for path, module in smaller.named_modules()}
    names = [f"{type(smaller).__name__}.{paths[id(block)]}" for _, block in list_blocks(smaller)]
    flops = sum(sum(counter.flop_counts[name].values()) for name in names)
    assert plan_cost(plan, MacCost(length)) * length * 2 == flops


@COSTS
@pytest.mark.parametrize("name", ["bert", "qwen3", "falcon-multi-query", "t5"])
def test_a_group_costs_what_its_removal_saves(name: str, cost) -> None:
    for dims in read_model(make_tiny(name)).dims.stacks:
        whole = LayerPlan.dense(dims)
        heads = whole.kept_heads[dims.heads_per_group :]
        saved = layer_cost(whole, dims, cost) - layer_cost(
            replace(whole, kept_heads=heads), dims, cost
        )
        rest = 0 if heads else cost.attention_rest_cost(dims)
        assert saved == group_cost(dims, cost) + rest


@COSTS
def test_a_dropped_block_costs_nothing(cost) -> None:
    (dims,) = read_model(make_tiny("llama")).dims.stacks
    assert layer_cost(LayerPlan.drop_block(), dims, cost) == 0
    empty = LayerPlan(kept_heads=None, kept_neurons=None)
    assert layer_cost(empty, dims, cost) == cost.fixed_cost(dims)


def test_a_cost_model_has_a_name() -> None:
    assert make_cost_model("macs", 77) == MacCost(77)
    assert make_cost_model("parameters", 77) == ParameterCost()
