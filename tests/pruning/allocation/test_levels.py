import itertools
import re

import pytest

from pruning.allocation.constraints import Constraints, allowed_counts
from pruning.allocation.levels import (
    check_reachable,
    check_scores,
    find_capacity,
    least_cost,
    list_items,
    sub_block_cost,
)
from pruning.errors import NirvanaError
from pruning.plans.cost import ParameterCost, dense_cost
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock, list_sub_blocks
from tests.pruning.allocation.small_dims import (
    PAIR,
    PLAIN,
    PRICES,
    SHAPES,
    TableCost,
    cost_of,
    draw_scores,
)

EIGHT = Constraints(neuron_multiple=8)
KEEPING = Constraints(neuron_multiple=8, may_drop=False)
SHAPE = pytest.mark.parametrize("dims", SHAPES.values(), ids=SHAPES.keys())
PRICE = pytest.mark.parametrize("cost", PRICES.values(), ids=PRICES.keys())


@SHAPE
@PRICE
def test_blocks_and_sub_blocks_make_up_the_whole(dims, cost) -> None:
    items = list_items(dims, cost, EIGHT)
    everything = sum(item.costs[-1] for item in items)
    assert find_capacity(dims, cost, 1.0) == everything
    nothing = [LayerPlan(kept_heads=(), kept_neurons=()) for _ in dims.layers]
    crossed = [
        LayerPlan(kept_heads=(), kept_neurons=(), kept_cross_heads=()) if d.cross_attention else n
        for n, d in zip(nothing, dims.layers, strict=True)
    ]
    assert least_cost(dims, cost, EIGHT) == cost_of(tuple(crossed), dims, cost)


@SHAPE
@PRICE
@pytest.mark.parametrize("uniform", [False, True])
def test_only_counts_that_save_something_are_listed(dims, cost, uniform: bool) -> None:
    limits = Constraints(neuron_multiple=4, uniform=uniform)
    items = list_items(dims, cost, limits)
    assert sorted(s for item in items for s in item.sub_blocks) == sorted(list_sub_blocks(dims))
    for item in items:
        prices = {
            count: sum(sub_block_cost(s, count, dims, cost) for s in item.sub_blocks)
            for count in allowed_counts(item.sub_blocks[0], dims, limits)
        }
        saving = [c for c in prices if all(prices[c] < prices[d] for d in prices if d > c)]
        assert list(item.counts) == saving
        assert list(item.costs) == [prices[count] for count in saving]


def test_a_count_that_is_slower_than_a_larger_one_is_never_kept() -> None:
    """Two heads are faster than one, so one is never kept."""
    assert list_items(PLAIN, TableCost(), EIGHT)[0].counts == (0, 2, 3, 4)
    assert list_items(PLAIN, TableCost(), KEEPING)[0].counts == (2, 3, 4)


def test_the_budget_is_read_in_decimal_digits() -> None:
    """0.29 of 100 is 29, not the 28 of 28.999999999999996."""

    class Hundred(TableCost):
        def attention_cost(self, dims, num_heads, num_kv_heads):
            return 5 * num_heads

        def mlp_cost(self, dims, num_neurons):
            return 10 * num_neurons // 48

        def block_cost(self, dims):
            return 0 if dims is PLAIN.stacks[0] else 10

    assert dense_cost(PLAIN, Hundred()) == 100
    assert find_capacity(PLAIN, Hundred(), 0.29) == 29 - 10


@SHAPE
@PRICE
@pytest.mark.parametrize("limits", [EIGHT, KEEPING], ids=["dropping", "keeping"])
def test_the_least_is_the_least(dims, cost, limits: Constraints) -> None:
    least = sum(cost.block_cost(stack) for stack in dims.layers)
    for sub_block in list_sub_blocks(dims):
        counts = allowed_counts(sub_block, dims, limits)
        least += min(sub_block_cost(sub_block, count, dims, cost) for count in counts)
    assert least_cost(dims, cost, limits) == least


@PRICE
def test_an_impossible_budget_is_told_the_least_possible(cost) -> None:
    with pytest.raises(NirvanaError, match=r"leave at least 0\.\d+ of the blocks'") as caught:
        check_reachable(PAIR, cost, 0.03, KEEPING)
    (least,) = re.findall(r"at least (\S+) of", str(caught.value))
    check_reachable(PAIR, cost, float(least), KEEPING)
    with pytest.raises(NirvanaError, match=r"may_drop=False.*Raise the budget"):
        check_reachable(PAIR, cost, float(least) - 1e-4, KEEPING)


@pytest.mark.parametrize("budget", [0, -0.5, 1.01, 50])
def test_a_budget_is_a_fraction(budget: float) -> None:
    with pytest.raises(NirvanaError, match=r"keeps half of the blocks' parameters\), got"):
        check_reachable(PLAIN, ParameterCost(), budget, EIGHT)


def test_every_unit_needs_a_finite_score() -> None:
    scores = draw_scores(PLAIN)
    check_scores(scores, PLAIN)
    mlp = SubBlock(2, "mlp")
    wrongs = ({**scores, mlp: [1.0]}, {k: v for k, v in scores.items() if k != mlp})
    for wrong, came in zip(wrongs, ("got 1", "got none"), strict=True):
        with pytest.raises(NirvanaError, match=rf"48 finite scores for 2\.mlp, {came}\."):
            check_scores(wrong, PLAIN)
    with pytest.raises(NirvanaError, match=r"2\.mlp, got 48 of them not all finite"):
        check_scores({**scores, mlp: [float("nan")] * 48}, PLAIN)


def test_uniform_items_hold_one_kind_of_one_stack() -> None:
    items = list_items(PAIR, ParameterCost(), Constraints(neuron_multiple=8, uniform=True))
    kinds = [(item.part, sorted({s.layer for s in item.sub_blocks})) for item in items]
    encoder = list(itertools.product(["attention", "mlp"], [[0, 1]]))
    decoder = list(itertools.product(["attention", "cross_attention", "mlp"], [[2, 3]]))
    assert kinds == encoder + decoder
