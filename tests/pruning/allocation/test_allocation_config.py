"""What every allocation owes, whatever its method: the budget, the constraints, the best units."""

from dataclasses import replace
from fractions import Fraction

import pytest

from nirvana_deploy.config_reader import convert_value, read_config, to_plain
from pruning.allocation.allocation_config import (
    Allocation,
    GlobalThreshold,
    KlKnapsack,
    Uniform,
    allocate,
)
from pruning.allocation.constraints import Constraints, allowed_counts
from pruning.allocation.levels import least_cost, list_items, sub_block_cost
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.oneshot.oneshot_config import ScoringConfig
from pruning.plans.cost import MacCost, dense_cost
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import count_units, kept_units, list_sub_blocks
from tests.pruning.allocation.small_dims import (
    PAIR,
    PLAIN,
    PRICES,
    SHAPES,
    cost_of,
    draw_curves,
    draw_scores,
)
from tests.pruning.tiny_models import make_tiny

METHODS = {
    "uniform": Uniform(),
    "threshold": GlobalThreshold(),
    "threshold 3": GlobalThreshold(gamma=3.0),
    "one threshold": GlobalThreshold(gamma=None),
    "knapsack": KlKnapsack(),
}
LIMITS = {
    "loose": Constraints(neuron_multiple=1),
    "eights": Constraints(neuron_multiple=8, avoid_one_head=True),
    "keeping": Constraints(neuron_multiple=8, may_drop=False),
    "uniform": Constraints(neuron_multiple=8, uniform=True),
    "least": Constraints(neuron_multiple=4, min_groups=2, min_neurons=10, may_drop=False),
}
METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
LIMIT = pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
SHAPE = pytest.mark.parametrize("dims", SHAPES.values(), ids=SHAPES.keys())
PRICE = pytest.mark.parametrize("cost", PRICES.values(), ids=PRICES.keys())


def run(method: Allocation, dims, cost, budget: float, limits: Constraints, seed: int = 0):
    scores = draw_scores(dims, seed)
    curves = draw_curves(dims, seed)
    return allocate(
        method, dims, scores, cost=cost, budget=budget, constraints=limits, curves=curves
    )


def count_kept(layers: tuple[LayerPlan, ...], dims) -> dict:
    kept = {}
    for sub_block in list_sub_blocks(dims):
        layer, stack = layers[sub_block.layer], dims.layers[sub_block.layer]
        units = kept_units(layer, sub_block.part, stack)
        assert units is not None, "emptied, not dropped"
        kept[sub_block] = units
    return kept


@METHOD
@LIMIT
@SHAPE
@PRICE
def test_the_budget_is_met_within_one_step(method, limits, dims, cost) -> None:
    """Never exceeded, all counts allowed, the best units kept, and no further step fits."""
    same = isinstance(method, Uniform) or limits.uniform
    items = list_items(dims, cost, replace(limits, uniform=same))
    least = least_cost(dims, cost, limits) / dense_cost(dims, cost)
    for number, share in enumerate((0.001, 0.2, 0.41, 0.85, 1.0)):
        budget = least + share * (1 - least)
        layers = run(method, dims, cost, budget, limits, seed=number)
        scores = draw_scores(dims, number)
        spent = cost_of(layers, dims, cost)
        allowed = Fraction(str(budget)) * dense_cost(dims, cost)
        assert spent <= allowed
        kept = count_kept(layers, dims)
        for sub_block, units in kept.items():
            assert len(units) in allowed_counts(sub_block, dims, limits)
            order = sorted(range(len(scores[sub_block])), key=lambda u: -scores[sub_block][u])
            assert sorted(order[: len(units)]) == list(units)
        for item in items:
            (count,) = {len(kept[s]) for s in item.sub_blocks}
            more = [c for c in item.counts if c > count]
            if more:
                step = sum(
                    sub_block_cost(s, more[0], dims, cost) - sub_block_cost(s, count, dims, cost)
                    for s in item.sub_blocks
                )
                assert spent + step > allowed
        if budget == 1.0:
            assert all(len(units) == count_units(s, dims) for s, units in kept.items())


@METHOD
@pytest.mark.parametrize("name", ["qwen3", "falcon-multi-query", "t5", "modernbert"])
def test_real_dimensions_are_allocated(method, name: str) -> None:
    dims = read_model(make_tiny(name)).dims
    cost, limits = MacCost(16), Constraints(neuron_multiple=8)
    layers = run(method, dims, cost, 0.5, limits)
    assert cost_of(layers, dims, cost) <= 0.5 * dense_cost(dims, cost)


@METHOD
def test_what_cannot_be_reached_is_told(method) -> None:
    with pytest.raises(NirvanaError, match=r"A budget of 0\.05 cannot be reached: .* at least 0\."):
        run(method, PLAIN, MacCost(16), 0.05, Constraints(may_drop=False))


@METHOD
def test_devices_that_keep_it_from_being_reached_are_told(method) -> None:
    limits = Constraints(may_drop=False, neuron_multiple=8, tensor_parallel=4)
    with pytest.raises(NirvanaError, match=r"cannot be reached: .*tensor_parallel=4 and"):
        run(method, PLAIN, MacCost(16), 0.05, limits)


@METHOD
def test_scores_are_checked(method) -> None:
    with pytest.raises(NirvanaError, match=r"4 finite scores for 0\.attention, got none"):
        allocate(method, PLAIN, {}, cost=MacCost(16), budget=0.5, curves=draw_curves(PLAIN))


def test_a_knapsack_needs_curves() -> None:
    with pytest.raises(NirvanaError, match="KlKnapsack needs a damage curve of each sub-block"):
        allocate(KlKnapsack(), PAIR, draw_scores(PAIR), cost=MacCost(16), budget=0.5)


@METHOD
def test_a_recipe_can_say_it(method) -> None:
    asked = ScoringConfig(allocation=method)
    plain = to_plain(asked)
    assert read_config(ScoringConfig, plain) == asked


def test_gamma_is_a_number_or_a_word() -> None:
    hint = float | None
    assert convert_value(None, hint) is None
    for gamma in ("auto", 2.5, None):
        assert read_config(GlobalThreshold, {"gamma": gamma}).gamma == gamma
    with pytest.raises(NirvanaError, match="gamma"):
        read_config(GlobalThreshold, {"gamma": "automatic"})


@pytest.mark.parametrize("gamma", [0, -1.0, float("nan"), float("inf"), "automatic"])
def test_gamma_is_above_0(gamma) -> None:
    with pytest.raises(NirvanaError, match=r"gamma must be a number above 0, 'auto' .*, got"):
        GlobalThreshold(gamma=gamma)


def test_levels_and_batches_are_enough() -> None:
    with pytest.raises(NirvanaError, match="num_levels must be 2 or more, got 1"):
        KlKnapsack(num_levels=1)
    with pytest.raises(NirvanaError, match="num_measured must be above 0, got 0"):
        KlKnapsack(num_measured=0)
