import pytest
import torch

from pruning.cost import MacCost, ParameterCost, dense_cost, plan_cost
from pruning.errors import NirvanaError
from pruning.gate_registry import GateRegistry
from pruning.plan import DenseDims, PruningPlan
from pruning.projection import Limits, project
from tests.pruning.test_gate_registry import randomise

DIMS = DenseDims(
    model_type="bert",
    num_layers=4,
    hidden_size=64,
    num_heads=4,
    head_dim=16,
    intermediate_size=256,
)


def make_registry(cost, seed: int = 0) -> GateRegistry:
    registry = GateRegistry(DIMS, cost)
    randomise(registry, seed)
    registry.mlp_block_gate.data.fill_(1.0)
    return registry


def cost_of(layers, cost) -> int:
    return plan_cost(PruningPlan(dims=DIMS, layers=layers, config_hash=""), cost)


@pytest.mark.parametrize("cost", [ParameterCost(), MacCost(128)], ids=["parameters", "macs"])
@pytest.mark.parametrize("multiple", [1, 8, 64])
@pytest.mark.parametrize("budget", [0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_budget_is_met_within_one_unit(cost, multiple, budget, seed) -> None:
    registry = make_registry(cost, seed)
    layers = project(registry, budget, Limits(neuron_multiple=multiple))
    left = budget * dense_cost(DIMS, cost) - cost_of(layers, cost)
    assert left + 1e-6 >= 0
    if budget < 1:
        assert left < multiple * cost.neuron_cost(DIMS)
    assert all(layer.num_kept_neurons % multiple == 0 for layer in layers)


def test_the_best_logits_are_kept() -> None:
    registry = make_registry(MacCost(128))
    layers = project(registry, 0.5, Limits(neuron_multiple=1))
    kept, cut = [], []
    for layer, gates in zip(layers, registry.mlp_gates(), strict=True):
        mask = torch.zeros(DIMS.intermediate_size, dtype=torch.bool)
        mask[list(layer.kept_neurons)] = True
        kept.append(gates.gate_N.detach()[mask].min())
        cut.append(gates.gate_N.detach()[~mask].max())
    assert min(kept) > max(cut)


def test_an_emptied_layer_keeps_its_best_unit() -> None:
    registry = make_registry(MacCost(128))
    gate = next(registry.head_gates()).gate_H
    gate.data = torch.tensor([-50.0, -40.0, -60.0, -70.0])
    assert project(registry, 0.5, Limits())[0].kept_heads == (1,)


def test_a_shut_block_is_dropped_and_its_budget_goes_elsewhere() -> None:
    registry = make_registry(ParameterCost())
    registry.mlp_block_gate.data[2] = -1.0
    layers = project(registry, 0.5, Limits(neuron_multiple=1))
    assert layers[2].kept_neurons is None
    left = 0.5 * dense_cost(DIMS, ParameterCost()) - cost_of(layers, ParameterCost())
    assert 0 <= left < ParameterCost().neuron_cost(DIMS)


@pytest.mark.parametrize("cost", [ParameterCost(), MacCost(128)], ids=["parameters", "macs"])
@pytest.mark.parametrize("budget", [0.7, 0.9])
def test_shut_blocks_are_reopened_when_there_is_room(cost, budget: float) -> None:
    registry = make_registry(cost)
    registry.mlp_block_gate.data = torch.tensor([-4.0, -1.0, -3.0, -2.0])
    layers = project(registry, budget, Limits(neuron_multiple=8))
    left = budget * dense_cost(DIMS, cost) - cost_of(layers, cost)
    assert left + 1e-6 >= 0
    assert left < 8 * cost.neuron_cost(DIMS) + cost.mlp_bias_cost(DIMS)
    assert layers[1].kept_neurons is not None, "the least shut comes first"
    if budget < 0.8:
        assert layers[0].kept_neurons is None, "the most shut comes last"


def test_an_impossible_budget_names_the_least() -> None:
    registry = make_registry(MacCost(128))
    with pytest.raises(NirvanaError, match=r"budget of 0.01 cannot be reached.*which is 0\.\d{4}"):
        project(registry, 0.01, Limits())
