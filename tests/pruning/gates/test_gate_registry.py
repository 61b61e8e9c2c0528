from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.gates.gate_function import harden
from pruning.gates.gate_kinds import GateUnits
from pruning.gates.gate_registry import ATTRIBUTE, GateRegistry
from pruning.plans.cost import BytesCost, MacCost, ParameterCost, dense_cost, plan_cost
from pruning.plans.dense_dims import StackDims
from pruning.plans.plan import LayerPlan, PruningPlan
from tests.pruning.allocation.small_dims import TableCost
from tests.pruning.tiny_models import (
    TINY,
    batch_for,
    live_logits,
    make_tiny,
    uneven_plan,
)

COSTS = pytest.mark.parametrize(
    "cost",
    [ParameterCost(), MacCost(128), BytesCost("int8"), TableCost()],
    ids=["parameters", "macs", "bytes", "table"],
)
# One family each: plain encoder, encoder-decoder, grouped queries with norms of their own.
ONLY_HEADS = GateUnits(heads=True, neurons=False, mlp_blocks=False, attention_blocks=False)
FAMILIES = pytest.mark.parametrize("name", ["bert", "t5", "qwen3"])


def list_heads(groups: tuple[int, ...] | None, dims: StackDims) -> tuple[int, ...] | None:
    if groups is None:
        return None
    size = dims.heads_per_group
    return tuple(group * size + i for group in groups for i in range(size))


def randomise(registry: GateRegistry, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for gate in registry.parameters():
        gate.data = torch.randn(gate.shape, generator=generator)


def whole_group_plan(model: PreTrainedModel) -> PruningPlan:
    """Other counts in each layer, of whole KV groups: what gates can say, block gates included.

    The second layer drops its attention and its MLP, the third its cross-attention.
    """
    layers = []
    for number, dims in enumerate(read_model(model).dims.layers):
        last = dims.num_kv_heads - 1
        groups = (tuple(range(1, last + 1)) or (0,), None, ())[number % 3]
        cross = (tuple(range(last)) or (0,), (), None)[number % 3]
        neurons = (tuple(range(1, 48, 3)), None, (0, 5, 7, 11, 40))[number % 3]
        layers.append(
            LayerPlan(
                kept_heads=list_heads(groups, dims),
                kept_neurons=neurons,
                kept_cross_heads=list_heads(cross if dims.cross_attention else None, dims),
            )
        )
    return plan_for(model, layers)


def test_the_straight_through_estimator_is_hard_forward_and_soft_backward() -> None:
    logit = torch.tensor([-2.0, -1e-6, 0.0, 1e-3, 5.0], requires_grad=True)
    hard = harden(logit)
    assert hard.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    hard.sum().backward()
    probability = torch.sigmoid(logit.detach())
    torch.testing.assert_close(logit.grad, probability * (1 - probability))


@pytest.mark.parametrize(
    ("name", "groups", "cross_layers", "num_layers"),
    [
        ("bert", 4, [], 3),
        ("llama", 3, [], 3),
        ("falcon-multi-query", 1, [], 3),
        ("bart", 4, [3, 4, 5], 6),
    ],
)
def test_gates_have_the_documented_names_and_shapes(
    name: str, groups: int, cross_layers: list[int], num_layers: int
) -> None:
    registry = GateRegistry.attach(make_tiny(name), ParameterCost())
    shapes = {name: tuple(p.shape) for name, p in registry.named_parameters()}
    layers = range(num_layers)
    assert shapes == {
        "mlp_block_gate.logit": (num_layers,),
        "attention_block_gate.logit": (num_layers,),
        **({"cross_attention_block_gate.logit": (3,)} if cross_layers else {}),
        **{f"attentions.{number}.gate_H.logit": (groups,) for number in layers},
        **{f"cross_attentions.{number}.gate_H.logit": (groups,) for number in cross_layers},
        **{f"mlps.{number}.gate_N.logit": (48,) for number in layers},
    }


@pytest.mark.parametrize(
    ("unit", "names"),
    [
        ("heads", {"attentions", "cross_attentions"}),
        ("neurons", {"mlps"}),
        ("mlp_blocks", {"mlp_block_gate"}),
        ("attention_blocks", {"attention_block_gate", "cross_attention_block_gate"}),
    ],
)
def test_what_gets_no_gates_has_nothing_to_learn(unit: str, names: set[str]) -> None:
    model = make_tiny("bart")
    units = replace(ONLY_HEADS, **{"heads": False, unit: True})
    registry = GateRegistry.attach(model, ParameterCost(), units=units)
    assert {name.split(".")[0] for name, _ in registry.named_parameters()} == names
    heads, mlps = registry.head_gate_sum(), registry.mlp_gate_sum()
    assert (heads > 0, mlps > 0) == (
        unit in ("heads", "attention_blocks"),
        unit in ("neurons", "mlp_blocks"),
    )
    registry.freeze(whole_group_plan(model).layers)
    assert registry.kept_layers() == whole_group_plan(model).layers, "they can be shut all the same"


def test_gates_for_nothing_are_refused() -> None:
    with pytest.raises(NirvanaError, match="all of heads, neurons, mlp_blocks, attention_blocks"):
        replace(ONLY_HEADS, heads=False)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_open_gates_change_nothing_and_leave_no_trace(name: str) -> None:
    model = make_tiny(name)
    batch = batch_for(model)
    before, names = live_logits(model, batch), list(model.state_dict())
    registry = GateRegistry.attach(model, ParameterCost())
    assert torch.equal(live_logits(model, batch), before)
    for gate in registry.parameters():
        opened = gate.data.clone()
        gate.data[: (gate.numel() + 1) // 2] = -1.0
        assert not torch.allclose(live_logits(model, batch), before), "every gate is in the way"
        gate.data = opened
    registry.detach(model)
    assert torch.equal(live_logits(model, batch), before)
    assert list(model.state_dict()) == names
    assert not hasattr(model, ATTRIBUTE)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_gates_do_what_repacking_does(name: str) -> None:
    model = make_tiny(name)
    batch, plan = batch_for(model), whole_group_plan(model)
    before = live_logits(model, batch)
    registry = GateRegistry.attach(model, ParameterCost())
    registry.freeze(plan.layers)
    gated = live_logits(model, batch)
    registry.detach(model)
    torch.testing.assert_close(live_logits(repack(model, plan), batch), gated)
    assert not torch.allclose(before, gated), "the plan changed nothing"


@COSTS
@FAMILIES
@pytest.mark.parametrize("seed", range(4))
def test_the_density_is_the_cost_of_what_is_kept(name: str, cost, seed: int) -> None:
    model = make_tiny(name)
    registry = GateRegistry.attach(model, cost)
    randomise(registry, seed)
    if seed == 0:  # an attention without heads has no norms of q and k either
        registry.attentions[0].gate_H.logit.data.fill_(-1.0)
    registry.detach(model)
    plan = plan_for(model, registry.kept_layers())
    expected = plan_cost(plan, cost) / dense_cost(plan.dims, cost)
    assert registry.kept_density().item() == pytest.approx(expected, rel=1e-6)


@FAMILIES
def test_the_density_has_a_gradient_for_every_gate(name: str) -> None:
    registry = GateRegistry.attach(make_tiny(name), ParameterCost())
    registry.kept_density().backward()
    assert all((gate.grad > 0).all() for gate in registry.parameters())


@FAMILIES
def test_gates_are_state_of_the_model(name: str) -> None:
    model = make_tiny(name)
    randomise(GateRegistry.attach(model, ParameterCost()))
    other = make_tiny(name)
    registry = GateRegistry.attach(other, ParameterCost())
    other.load_state_dict(model.state_dict())
    assert registry.kept_layers() == getattr(model, ATTRIBUTE).kept_layers()


@FAMILIES
def test_freezing_decides_every_gate(name: str) -> None:
    model = make_tiny(name)
    layers = whole_group_plan(model).layers
    registry = GateRegistry.attach(model, ParameterCost())
    randomise(registry)
    assert registry.undecided_fraction() > 0.5
    registry.freeze(layers)
    assert registry.kept_layers() == layers
    assert registry.undecided_fraction() == 0.0
    assert bool(registry.frozen)


def test_what_no_gate_can_say_is_refused_and_nothing_is_frozen() -> None:
    model = make_tiny("llama")
    layers = list(whole_group_plan(model).layers)
    registry = GateRegistry.attach(model, ParameterCost())
    before = registry.kept_layers()
    for wrong, message in [
        (replace(layers[2], kept_heads=(0,)), r"Layer 2: gates keep whole KV groups of 2 .*\[0\]"),
        (LayerPlan.drop_block(), "Layer 2: no gate can drop a whole block with its norms"),
    ]:
        with pytest.raises(NirvanaError, match=message):
            registry.freeze([*layers[:2], wrong])
    assert registry.kept_layers() == before
    assert not registry.frozen


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_a_pruned_model_gets_no_gates(name: str) -> None:
    model = make_tiny(name)
    smaller = repack(model, uneven_plan(model))
    with pytest.raises(NirvanaError, match=r"Expected a dense model .* was pruned before"):
        GateRegistry.attach(smaller, ParameterCost())
    assert not hasattr(smaller, ATTRIBUTE)
