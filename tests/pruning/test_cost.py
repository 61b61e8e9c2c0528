import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pruning.cost import MacCost, ParameterCost, dense_cost, make_cost_model, plan_cost
from pruning.repack import repack
from pruning.structure import find_blocks, read_structure
from tests.pruning.tiny_models import TYPES, dropping_plan, make_tiny, uneven_plan

PLANS = {"uneven": uneven_plan, "dropping": dropping_plan}


@pytest.mark.parametrize("make_plan", PLANS.values(), ids=PLANS.keys())
@pytest.mark.parametrize("model_type", TYPES)
def test_parameters_are_those_of_the_repacked_blocks(model_type: str, make_plan) -> None:
    model = make_tiny(model_type)
    plan = make_plan(model)
    smaller = repack(model, plan)
    blocks = find_blocks(smaller, read_structure(smaller).wiring)
    assert plan_cost(plan, ParameterCost()) == sum(
        p.numel() for block in blocks for p in block.parameters()
    )


@pytest.mark.parametrize("make_plan", PLANS.values(), ids=PLANS.keys())
@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
@torch.no_grad()
def test_macs_are_what_torch_counts(model_type: str, make_plan) -> None:
    model = make_tiny(model_type, "eager")
    plan = make_plan(model)
    smaller, length = repack(model, plan), 24
    with FlopCounterMode(display=False) as counter:
        smaller.base_model(input_ids=torch.full((1, length), 5))
    pooler = getattr(smaller.base_model, "pooler", None)
    outside = 0 if pooler is None else 2 * pooler.dense.weight.numel()
    flops = counter.get_total_flops() - outside
    assert plan_cost(plan, MacCost(length)) * length * 2 == flops


def test_the_dense_cost_is_that_of_the_whole_plan() -> None:
    model = make_tiny("bert")
    dims = read_structure(model).dense_dims()
    blocks = sum(p.numel() for p in model.base_model.encoder.parameters())
    assert dense_cost(dims, make_cost_model("parameters", 128)) == blocks
    assert make_cost_model("macs", 77) == MacCost(77)
