import pytest
import torch

from pruning.cost import ParameterCost
from pruning.errors import NirvanaError
from pruning.gate_registry import GateRegistry
from pruning.repack import plan_for, repack
from pruning.structure import read_structure
from tests.pruning.tiny_models import (
    TYPES,
    dropping_plan,
    make_tiny,
    padded_batch,
    uneven_plan,
)

PLANS = {"uneven": uneven_plan, "dropping": dropping_plan}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("make_plan", PLANS.values(), ids=PLANS.keys())
@pytest.mark.parametrize("model_type", TYPES)
@torch.no_grad()
def test_repacked_equals_masked(model_type: str, make_plan, attention: str) -> None:
    model, batch = make_tiny(model_type, attention), padded_batch()
    plan = make_plan(model)
    if any(layer.kept_heads is None for layer in plan.layers):
        # Head gates leave the output bias; a dropped attention loses it too.
        _zero_output_bias(model, plan)
    registry = GateRegistry.attach(model, ParameterCost())
    registry.freeze(plan.layers)
    masked = model(**batch).logits
    registry.detach(model)
    smaller = repack(model, plan)
    torch.testing.assert_close(smaller(**batch).logits, masked)
    assert not torch.allclose(model(**batch).logits, masked), "the plan changed nothing"


def _zero_output_bias(model, plan) -> None:
    structure = read_structure(model)
    blocks = model.base_model.get_submodule(structure.wiring.blocks)
    for block, layer in zip(blocks, plan.layers, strict=True):
        if layer.kept_heads is None:
            block.get_submodule(structure.wiring.attention_output).bias.zero_()


@pytest.mark.parametrize("model_type", TYPES)
def test_the_repacked_model_has_the_planned_sizes(model_type: str) -> None:
    model = make_tiny(model_type)
    shapes = read_structure(repack(model, dropping_plan(model))).layers
    assert [(s.num_heads, s.num_neurons) for s in shapes] == [(0, 10), (None, 0), (1, None)]


def test_repack_leaves_the_dense_model_and_the_random_state_alone() -> None:
    model, batch = make_tiny("bert"), padded_batch()
    before, state = model(**batch).logits, torch.random.get_rng_state()
    repack(model, uneven_plan(model))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(model(**batch).logits, before)
    assert not hasattr(model.config, "nirvana")


def test_gradients_flow_through_a_repacked_model() -> None:
    model = make_tiny("bert")
    smaller = repack(model, uneven_plan(model))
    smaller(**padded_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    block = smaller.base_model.encoder.layer[1]
    assert block.attention.self.query.weight.shape == (8, 32)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.output.parameters())


def test_a_plan_for_another_model_is_refused() -> None:
    plan = uneven_plan(make_tiny("bert"))
    with pytest.raises(NirvanaError, match="intermediate_size 48, the model has 64"):
        repack(make_tiny("bert", intermediate_size=64), plan)
    with pytest.raises(NirvanaError, match="model_type bert, the model has roberta"):
        repack(make_tiny("roberta"), plan)


def test_a_pruned_model_is_no_dense_model() -> None:
    model = make_tiny("bert")
    smaller = repack(model, uneven_plan(model))
    with pytest.raises(NirvanaError, match="already pruned"):
        plan_for(smaller, uneven_plan(model).layers)
