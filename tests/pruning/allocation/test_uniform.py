import itertools

import pytest

from pruning.allocation.constraints import Constraints, allowed_counts
from pruning.allocation.threshold_allocations import allocate_uniform
from pruning.plans.cost import ParameterCost, dense_cost
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock
from tests.pruning.allocation.small_dims import (
    GROUPED,
    PAIR,
    PLAIN,
    cost_of,
    draw_scores,
    make_stack,
)

COST = ParameterCost()


def widths(layers: tuple[LayerPlan, ...]) -> list[tuple[int, int, int]]:
    return [
        (layer.num_kept_heads, len(layer.kept_cross_heads or ()), layer.num_kept_neurons)
        for layer in layers
    ]


@pytest.mark.parametrize("dims", [PLAIN, GROUPED], ids=["plain", "grouped"])
@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("budget", [0.25, 0.35, 0.5, 0.77, 0.95])
def test_no_pair_is_more_equal(dims, multiple: int, budget: float) -> None:
    """Of all pairs that leave no room for another step, by trying every one."""
    limits = Constraints(neuron_multiple=multiple)
    (stack,) = dims.stacks
    allowed = budget * dense_cost(dims, COST)

    def price(groups: int, neurons: int) -> int:
        heads, mlp = tuple(range(groups * stack.heads_per_group)), tuple(range(neurons))
        layer = LayerPlan(kept_heads=heads, kept_neurons=mlp)
        return cost_of((layer,) * dims.num_layers, dims, COST)

    groups = allowed_counts(SubBlock(0, "attention"), dims, limits)
    neurons = allowed_counts(SubBlock(0, "mlp"), dims, limits)

    def unequal(pair: tuple[int, int]) -> float:
        return abs(pair[0] / stack.num_kv_heads - pair[1] / stack.intermediate_size)

    fitting = [p for p in itertools.product(groups, neurons) if 0 not in p and price(*p) <= allowed]
    widest = [max(p for p in fitting if p[0] == g) for g in {p[0] for p in fitting}]
    best = min(map(unequal, widest))
    layers = allocate_uniform(dims, draw_scores(dims), COST, budget, limits)
    ((heads, _, kept),) = set(widths(layers))
    found = (heads // stack.heads_per_group, kept)
    raised = [p for p in widest if p[1] == kept and unequal(p) == pytest.approx(best)]
    assert unequal(found) == pytest.approx(best) or (raised and found[0] > raised[0][0])


def test_both_stacks_keep_the_share_of_their_own() -> None:
    layers = allocate_uniform(PAIR, draw_scores(PAIR), COST, 0.6, Constraints(neuron_multiple=8))
    encoder, decoder = widths(layers)[:2], widths(layers)[2:]
    assert len(set(encoder)) == len(set(decoder)) == 1
    assert 0.5 <= encoder[0][2] / 40 <= 0.75
    assert 0.5 <= decoder[0][2] / 48 <= 0.75
    assert encoder[0][0] in (2, 3)
    assert {decoder[0][0], decoder[0][1]} <= {2, 4}


def test_little_is_emptied_only_where_it_must_be() -> None:
    limits = Constraints(neuron_multiple=8)
    some = allocate_uniform(PLAIN, draw_scores(PLAIN), COST, 0.35, limits)
    assert all(layer.kept_heads and layer.kept_neurons for layer in some)
    least = allocate_uniform(PLAIN, draw_scores(PLAIN), COST, 0.1, limits)
    assert any(not layer.kept_heads or not layer.kept_neurons for layer in least)


def test_the_only_group_stays_though_that_is_less_equal() -> None:
    """One group of all heads: 0 of it would be nearer to the few neurons that the budget leaves."""
    dims = DenseDims(model_type="any", stacks=(make_stack("layers", 2, 8, 1, 192),))
    layers = allocate_uniform(dims, draw_scores(dims), COST, 0.4, Constraints(neuron_multiple=8))
    assert [layer.num_kept_heads for layer in layers] == [8, 8]
    assert 0 < layers[0].num_kept_neurons < 96
