import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from pruning.cutting.repack import repack
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.plans.cost import (
    BytesCost,
    MacCost,
    ParameterCost,
    dense_cost,
    group_cost,
    layer_cost,
    make_cost_model,
    plan_cost,
)
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.wirings.structure import find_module, find_stacks
from pruning.wirings.wiring import StackWiring
from tests.pruning.tiny_models import PLANS, TINY, batch_for, make_tiny

PLANS_IDS = pytest.mark.parametrize("make_plan", PLANS.values(), ids=PLANS.keys())
COSTS = pytest.mark.parametrize(
    "cost", [ParameterCost(), MacCost(128), BytesCost("int8")], ids=lambda cost: cost.name
)


def list_blocks(model: PreTrainedModel) -> list[tuple[StackWiring, nn.Module]]:
    stacks = find_stacks(model, read_model(model).wiring)
    return [(stack, block) for stack, blocks in stacks for block in blocks]


def count_parameters(stack: StackWiring, block: nn.Module) -> int:
    """Without T5's position bias table, which belongs to all layers."""
    table = find_module(block, f"{stack.attention.core}.{stack.attention.bias_table}")
    shared = [] if table is None or not stack.attention.bias_table else list(table.parameters())
    return sum(p.numel() for p in block.parameters()) - sum(p.numel() for p in shared)


@PLANS_IDS
@pytest.mark.parametrize("name", TINY)
def test_parameters_are_those_of_the_repacked_blocks(name: str, make_plan) -> None:
    model = make_tiny(name)
    plan = make_plan(model)
    counted = sum(count_parameters(*pair) for pair in list_blocks(repack(model, plan)))
    assert plan_cost(plan, ParameterCost()) == counted


@pytest.mark.parametrize("name", TINY)
def test_the_dense_cost_is_that_of_the_dense_blocks(name: str) -> None:
    model = make_tiny(name)
    counted = sum(count_parameters(*pair) for pair in list_blocks(model))
    cost = make_cost_model("parameters", 128)
    assert dense_cost(read_model(model).dims, cost) == counted


@PLANS_IDS
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_bytes_are_those_of_the_repacked_blocks(dtype: str, make_plan) -> None:
    model = make_tiny("modernbert").to(getattr(torch, dtype))
    plan = make_plan(model)
    stored = sum(
        parameter.nbytes
        for _, b in list_blocks(repack(model, plan))
        for parameter in b.parameters()
    )
    assert plan_cost(plan, make_cost_model("bytes", 128, dtype)) == stored


@pytest.mark.parametrize("name", ["qwen3", "bert"])
def test_int8_halves_only_the_matrices(name: str) -> None:
    model = make_tiny(name)
    parameters = [p for _, block in list_blocks(model) for p in block.parameters()]
    expected = sum(p.numel() * (1 if p.ndim == 2 else 2) for p in parameters)
    assert dense_cost(read_model(model).dims, BytesCost("int8")) == expected


def test_an_unknown_dtype_is_told_the_known_ones() -> None:
    with pytest.raises(NirvanaError, match=r"one of float32, float16, .*, got 'int3'"):
        BytesCost("int3")


@COSTS
@pytest.mark.parametrize("name", ["qwen3", "modernbert", "t5"])
def test_whole_sub_blocks_cost_what_their_units_do(name: str, cost) -> None:
    """The same sum from single units, one attention or MLP at a time."""
    for dims in read_model(make_tiny(name)).dims.layers:
        for groups in range(dims.num_kv_heads + 1):
            units = sum(group_cost(dims, cost) for _ in range(groups))
            rest = cost.attention_bias_cost(dims)
            rest += cost.attention_rest_cost(dims) if groups else 0
            priced = cost.attention_cost(dims, groups * dims.heads_per_group, groups)
            assert priced == units + rest
        neurons = sum(cost.neuron_cost(dims) for _ in range(5))
        assert cost.mlp_cost(dims, 5) == neurons + cost.mlp_bias_cost(dims)


def test_old_plans_have_first_blocks_like_the_others() -> None:
    dims = read_model(make_tiny("modernbert")).dims
    data = json.loads(json.dumps(asdict(dims)))
    assert DenseDims.from_json(data) == dims
    del data["stacks"][0]["sizes"]["first_block_lacks"]
    (stack,) = DenseDims.from_json(data).stacks
    assert stack.first_block == stack != dims.stacks[0]


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
    assert layer_cost(empty, dims, cost) == cost.block_cost(dims)


def test_a_cost_model_has_a_name() -> None:
    assert make_cost_model("macs", 77) == MacCost(77)
    assert make_cost_model("parameters", 77) == ParameterCost()
    assert make_cost_model("bytes", 77, "int8") == BytesCost("int8")
