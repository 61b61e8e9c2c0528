import pytest
import torch

from pruning.gates.gate_registry import GateRegistry
from pruning.gates.objective import ascend_multiplier, penalise
from pruning.gates.prune_config import BudgetConstraint, FixedPenalty
from pruning.plans.cost import MacCost
from tests.pruning.gates.test_gate_registry import randomise
from tests.pruning.tiny_models import make_tiny


@pytest.fixture(params=["bert", "llama", "t5"])
def registry(request: pytest.FixtureRequest) -> GateRegistry:
    registry = GateRegistry.attach(make_tiny(request.param), MacCost(32))
    randomise(registry)
    return registry


def test_the_fixed_penalty_is_alpha_heads_plus_beta_mlps(registry: GateRegistry) -> None:
    state = registry.state_dict()
    heads = sum(v.sigmoid().sum() for k, v in state.items() if k.endswith("gate_H"))
    neurons = sum(v.sigmoid().sum() for k, v in state.items() if k.endswith("gate_N"))
    blocks = state["mlp_block_gate"].sigmoid().sum()
    came = penalise(registry, FixedPenalty(alpha=0.3, beta=0.01), target=0.5)
    torch.testing.assert_close(came, 0.3 * heads + 0.01 * (neurons + blocks))


def test_the_constraint_is_the_augmented_lagrangian(registry: GateRegistry) -> None:
    registry.multiplier.fill_(2.0)
    excess = registry.kept_density().detach() - 0.2
    came = penalise(registry, BudgetConstraint(quadratic=7.0), target=0.2)
    torch.testing.assert_close(came, 2.0 * excess + 7.0 * excess**2)
    came.backward()  # too much is kept: descending closes gates
    assert all((gate.grad > 0).all() for gate in (g.gate_H for g in registry.head_gates()))


def test_the_multiplier_climbs_with_the_excess_and_falls_below_the_target(registry) -> None:
    density = float(registry.kept_density())
    ascend_multiplier(registry, BudgetConstraint(multiplier_lr=10.0), density - 0.1)
    assert float(registry.multiplier) == pytest.approx(1.0, abs=1e-4)
    ascend_multiplier(registry, BudgetConstraint(multiplier_lr=10.0), density + 0.2)
    assert float(registry.multiplier) == pytest.approx(-1.0, abs=1e-4)
    ascend_multiplier(registry, FixedPenalty(alpha=1.0, beta=1.0), 0.0)
    assert float(registry.multiplier) == pytest.approx(-1.0, abs=1e-4)
