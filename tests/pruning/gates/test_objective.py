import math

import pytest
import torch

from pruning.gates.gate_kinds import HardConcrete
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.prune_config import BudgetConstraint, FixedPenalty
from pruning.gates.pruning_scheduler import ascend_multiplier, penalise
from pruning.plans.cost import MacCost, dense_cost
from tests.pruning.gates.test_gate_registry import randomise
from tests.pruning.tiny_models import make_tiny


@pytest.fixture(params=["bert", "llama", "t5"])
def registry(request: pytest.FixtureRequest) -> GateRegistry:
    registry = GateRegistry.attach(make_tiny(request.param), MacCost(32))
    randomise(registry)
    return registry


def logits_of(registry: GateRegistry, *parts: str) -> torch.Tensor:
    state = registry.state_dict()
    chosen = [v for k, v in state.items() if k.endswith(".logit") and k.split(".")[0] in parts]
    return torch.cat(chosen)


HEADS = ("attentions", "cross_attentions", "attention_block_gate", "cross_attention_block_gate")
MLPS = ("mlps", "mlp_block_gate")


def test_the_fixed_penalty_is_alpha_heads_plus_beta_mlps(registry: GateRegistry) -> None:
    heads, mlps = logits_of(registry, *HEADS).sigmoid(), logits_of(registry, *MLPS).sigmoid()
    came = penalise(registry, FixedPenalty(alpha=0.3, beta=0.01), target=0.5)
    torch.testing.assert_close(came, 0.3 * heads.sum() + 0.01 * mlps.sum())
    came.backward()
    for name, gate in registry.named_parameters():
        weight = 0.01 if name.split(".")[0] in MLPS else 0.3
        slope = gate.detach().sigmoid() * (1 - gate.detach().sigmoid())
        torch.testing.assert_close(gate.grad, weight * slope)


def test_the_penalty_of_hard_concrete_gates_is_their_chance_to_be_open() -> None:
    registry = GateRegistry.attach(make_tiny("t5"), MacCost(32), HardConcrete())
    randomise(registry)
    shift = 2 / 3 * math.log(11)
    heads, mlps = logits_of(registry, *HEADS) + shift, logits_of(registry, *MLPS) + shift
    came = penalise(registry, FixedPenalty(alpha=0.3, beta=0.01), target=0.5)
    torch.testing.assert_close(came, 0.3 * heads.sigmoid().sum() + 0.01 * mlps.sigmoid().sum())


def test_the_constraint_is_the_augmented_lagrangian(registry: GateRegistry) -> None:
    registry.multiplier.fill_(2.0)
    excess = registry.kept_density().detach() - 0.2
    came = penalise(registry, BudgetConstraint(quadratic=7.0), target=0.2)
    torch.testing.assert_close(came, 2.0 * excess + 7.0 * excess**2)
    came.backward()  # too much is kept: descending closes gates
    blocks = (registry.mlp_block_gate, registry.attention_block_gate)
    assert all((gates.logit.grad > 0).all() for gates in blocks)
    # d/dt of a neuron in an open MLP: (l1 + 2 l2 excess) * its share of the cost * sigmoid'.
    neurons = registry.mlps[0].gate_N.logit
    is_open = float(registry.mlp_block_gate.logit[0] > 0)
    dims = registry.dims.layers[0]
    share = registry.cost.neuron_cost(dims) / dense_cost(registry.dims, registry.cost)
    probability = neurons.detach().sigmoid()
    slope = (2.0 + 14.0 * excess) * share * probability * (1 - probability)
    torch.testing.assert_close(neurons.grad, is_open * slope + 0.0)


def test_the_multiplier_climbs_with_the_excess_and_falls_below_the_target(registry) -> None:
    density = float(registry.kept_density().detach())
    ascend_multiplier(registry, BudgetConstraint(multiplier_lr=10.0), density - 0.1)
    assert float(registry.multiplier) == pytest.approx(1.0, abs=1e-4)
    ascend_multiplier(registry, BudgetConstraint(multiplier_lr=10.0), density + 0.2)
    assert float(registry.multiplier) == pytest.approx(-1.0, abs=1e-4)
    ascend_multiplier(registry, FixedPenalty(alpha=1.0, beta=1.0), 0.0)
    assert float(registry.multiplier) == pytest.approx(-1.0, abs=1e-4)
