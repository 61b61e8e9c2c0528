"""Oracles: sums over all masks, scipy's hull, and what an allocation calls the dense cost."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from pruning.gates.attach_gates import warm_start
from pruning.gates.expected_cost import count_distribution, find_convex_below, make_prices
from pruning.gates.gate_kinds import GateUnits, HardConcrete
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.prune_config import BudgetConstraint
from pruning.gates.pruning_scheduler import ascend_multiplier, penalise
from pruning.plans.cost import attention_cost, dense_cost
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.sub_block import SubBlock
from tests.pruning.allocation.small_dims import PLAIN, TableCost, make_stack
from tests.pruning.gates.test_gate_registry import randomise

# Small enough for all masks of a layer: 3 heads, 5 neurons.
SMALL = DenseDims(model_type="any", stacks=(make_stack("layers", 2, 3, 3, 5),))
COST = TableCost()
ONLY_NEURONS = GateUnits(heads=False, mlp_blocks=False, attention_blocks=False)
STEPS = [0, 10, 10, 10, 10, 30, 30, 31, 31, 31, 60]


class Stairs(TableCost):
    """Neurons cost by the 16."""

    def attention_cost(self, dims: StackDims, num_heads: int, num_kv_heads: int) -> int:
        return 100

    def mlp_cost(self, dims: StackDims, num_neurons: int) -> int:
        return 500 * -(-num_neurons // 16)


def price_mask(kept: tuple[int, ...], layer: int) -> float:
    """What a layer costs that keeps these of 3 heads, 5 neurons, its attention and its MLP."""
    dims = SMALL.layers[layer]
    heads = tuple(np.flatnonzero(kept[:3]).tolist())
    attention = attention_cost(heads if kept[8] else None, dims, COST)
    return attention + (COST.mlp_cost(dims, sum(kept[3:8])) if kept[9] else 0)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_expected_is_the_sum_over_all_masks(seed: int) -> None:
    registry = GateRegistry(SMALL, COST, HardConcrete())
    randomise(registry, seed)
    expected = 0.0
    for layer in range(2):
        expected += COST.block_cost(SMALL.layers[layer])
        attention, mlp = registry.attentions[layer].units, registry.mlps[layer].units
        chances = [*attention.kept().tolist(), *mlp.kept().tolist()]
        chances += [registry.block_gates(p).kept()[layer].item() for p in ("attention", "mlp")]
        for kept in product((0, 1), repeat=10):
            chance = np.prod([p if k else 1 - p for p, k in zip(chances, kept, strict=True)])
            expected += float(chance) * price_mask(kept, layer)
    density = float(registry.kept_density().detach())
    assert density == pytest.approx(expected / dense_cost(SMALL, COST), rel=1e-5)


@pytest.mark.parametrize("num_units", [1, 2, 7, 300])
def test_counts_are_those_of_units_added_one_by_one(num_units: int) -> None:
    kept = torch.rand(num_units, generator=torch.Generator().manual_seed(num_units))
    chances = torch.ones(1, dtype=torch.float64)
    for p in kept.double():
        more = torch.cat([chances * (1 - p), torch.zeros(1)])
        chances = more + torch.cat([torch.zeros(1), chances * p])
    torch.testing.assert_close(count_distribution(kept), chances)


def test_decided_gates_have_one_count() -> None:
    assert count_distribution(torch.tensor([0.0, 1.0, 1.0])).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_the_convex_curve_is_the_lower_hull(seed: int) -> None:
    draw = np.random.default_rng(seed)
    prices = np.cumsum(draw.exponential(size=30) * (draw.random(30) < 0.3))
    points = np.stack([np.arange(30), prices], axis=1)
    hull = ConvexHull(points)
    lower = hull.equations[hull.equations[:, 1] < -1e-9]  # faces that look down
    expected = (-(lower[:, :1] * points[:, 0] + lower[:, 2:]) / lower[:, 1:2]).max(axis=0)
    np.testing.assert_allclose(find_convex_below(prices), expected, atol=1e-9)


def test_on_a_plateau_the_value_is_flat_and_the_pull_is_not() -> None:
    prices = make_prices(STEPS)
    for count in (2, 3, 4):
        kept = torch.zeros(10)
        kept[:count] = 1
        kept.requires_grad_()
        expected = prices.expect(kept)
        expected.backward()
        assert float(expected.detach()) == 10.0
        assert bool((kept.grad > 0).all())
    assert prices.mean_price == 6.0


@pytest.mark.parametrize("kind", [None, HardConcrete()], ids=["hard", "hard-concrete"])
def test_the_constraint_leads_gates_over_plateaus_to_the_budget(kind) -> None:
    """No task: only prices pull, and by their own slope no neuron of 48 would save anything."""
    registry = GateRegistry(PLAIN, Stairs(), kind, ONLY_NEURONS)
    objective, seen = BudgetConstraint(), []
    optimizer = torch.optim.Adam(registry.parameters(), lr=0.1)
    warm_start(registry, {SubBlock(i, "mlp"): torch.arange(1.0, 49) for i in range(3)})
    for _ in range(60):
        optimizer.zero_grad()
        penalise(registry, objective, 0.7).backward()
        optimizer.step()
        registry.constrain()
        ascend_multiplier(registry, objective, 0.7)
        seen.append(float(registry.kept_density().detach()))
    assert seen[0] > 0.9 and min(seen) < 0.7


def test_a_warm_start_ranks_by_the_mean_price_of_a_unit() -> None:
    registry = GateRegistry(PLAIN, COST)
    whole, empty = COST.mlp_cost(PLAIN.layers[0], 48), COST.mlp_cost(PLAIN.layers[0], 0)
    assert registry.price_unit(SubBlock(0, "mlp")) == (whole - empty) / 48
