import pytest
import torch

from pruning.cost import MacCost, ParameterCost, dense_cost, plan_cost
from pruning.gate_registry import ATTRIBUTE, GateRegistry
from pruning.repack import plan_for
from pruning.straight_through import harden
from tests.pruning.tiny_models import TYPES, make_tiny, padded_batch, uneven_plan


def randomise(registry: GateRegistry, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for gate in registry.parameters():
        gate.data = torch.randn(gate.shape, generator=generator)


def test_the_straight_through_estimator_is_hard_forward_and_soft_backward() -> None:
    logit = torch.tensor([-2.0, -1e-6, 0.0, 1e-3, 5.0], requires_grad=True)
    hard = harden(logit)
    assert hard.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    hard.sum().backward()
    probability = torch.sigmoid(logit.detach())
    torch.testing.assert_close(logit.grad, probability * (1 - probability))


def test_gates_have_the_documented_shapes() -> None:
    registry = GateRegistry.attach(make_tiny("bert"), ParameterCost())
    assert [tuple(g.gate_H.shape) for g in registry.head_gates()] == [(4,)] * 3
    assert [tuple(g.gate_N.shape) for g in registry.mlp_gates()] == [(48,)] * 3
    assert registry.mlp_block_gate.shape == (3,)


@pytest.mark.parametrize("model_type", TYPES)
@torch.no_grad()
def test_open_gates_change_nothing_and_leave_no_trace(model_type: str) -> None:
    model, batch = make_tiny(model_type), padded_batch()
    before, names = model(**batch).logits, list(model.state_dict())
    registry = GateRegistry.attach(model, ParameterCost())
    assert torch.equal(model(**batch).logits, before)
    randomise(registry)
    assert not torch.allclose(model(**batch).logits, before)
    registry.detach(model)
    assert torch.equal(model(**batch).logits, before)
    assert list(model.state_dict()) == names
    assert not hasattr(model, ATTRIBUTE)


@pytest.mark.parametrize("cost", [ParameterCost(), MacCost(128)], ids=["parameters", "macs"])
@pytest.mark.parametrize("seed", range(4))
def test_the_density_is_the_cost_of_what_is_kept(cost, seed: int) -> None:
    model = make_tiny("bert")
    registry = GateRegistry.attach(model, cost)
    randomise(registry, seed)
    registry.detach(model)
    plan = plan_for(model, registry.kept_layers())
    expected = plan_cost(plan, cost) / dense_cost(plan.dims, cost)
    assert registry.kept_density().item() == pytest.approx(expected, rel=1e-6)


def test_the_density_has_a_gradient_for_every_gate() -> None:
    registry = GateRegistry.attach(make_tiny("bert"), ParameterCost())
    registry.kept_density().backward()
    assert all((gate.grad > 0).all() for gate in registry.parameters())


def test_gates_are_state_of_the_model() -> None:
    model = make_tiny("bert")
    randomise(GateRegistry.attach(model, ParameterCost()))
    other = make_tiny("bert")
    registry = GateRegistry.attach(other, ParameterCost())
    other.load_state_dict(model.state_dict())
    assert registry.kept_layers() == getattr(model, ATTRIBUTE).kept_layers()


def test_freezing_decides_every_gate() -> None:
    model = make_tiny("bert")
    registry = GateRegistry.attach(model, ParameterCost())
    randomise(registry)
    assert registry.undecided_fraction() > 0.5
    registry.detach(model)
    layers = uneven_plan(model).layers
    registry.freeze(layers)
    assert registry.kept_layers() == layers
    assert registry.undecided_fraction() == 0.0
    assert bool(registry.frozen)
