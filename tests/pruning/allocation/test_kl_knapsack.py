import itertools
import math

import numpy as np
import pytest

from pruning.allocation.constraints import Constraints, allowed_counts
from pruning.allocation.kl_knapsack import allocate_knapsack, interpolate
from pruning.allocation.levels import DamageCurve, sub_block_cost
from pruning.errors import NirvanaError
from pruning.plans.cost import ParameterCost, dense_cost
from pruning.plans.dense_dims import DenseDims
from pruning.plans.sub_block import SubBlock, kept_units, list_sub_blocks
from tests.pruning.allocation.small_dims import (
    PAIR,
    PLAIN,
    TableCost,
    cost_of,
    draw_curves,
    draw_scores,
    make_stack,
)

TWO = DenseDims(model_type="any", stacks=(make_stack("layers", 2, 3, 3, 30),))
MIXED = DenseDims(
    model_type="any",
    stacks=(make_stack("encoder", 1, 3, 3, 16), make_stack("decoder", 1, 4, 2, 16)),
)


def damage_at(curve: DamageCurve, count: int) -> float:
    """One point at a time."""
    worst = [max(curve.damage[i:]) for i in range(len(curve.damage))]
    for i, known in enumerate(curve.kept_counts):
        if known == count:
            return worst[i]
        if known > count:
            low, high = worst[i - 1], worst[i]
            share = (count - curve.kept_counts[i - 1]) / (known - curve.kept_counts[i - 1])
            if low > 0 and high > 0:
                return math.exp((1 - share) * math.log(low) + share * math.log(high))
            return (1 - share) * low + share * high
    raise AssertionError


@pytest.mark.parametrize("seed", range(5))
def test_curves_are_joined_point_by_point(seed: int) -> None:
    for sub_block, curve in draw_curves(PLAIN, seed).items():
        counts = range(curve.kept_counts[-1] + 1)
        expected = [damage_at(curve, count) for count in counts]
        np.testing.assert_allclose(interpolate(curve, counts), expected, rtol=1e-12)
        assert (np.diff(expected) <= 1e-12).all(), sub_block


def test_noise_below_0_counts_nothing() -> None:
    curve = DamageCurve((0, 2, 4, 6), (0.5, 0.1, -1e-4, 0.0))
    np.testing.assert_allclose(
        interpolate(curve, range(7)), [0.5, math.sqrt(0.05), 0.1, 0.05, 0, 0, 0], rtol=1e-12
    )


def test_a_curve_of_the_dense_count_alone_is_enough_for_that() -> None:
    assert interpolate(DamageCurve((6,), (0.0,)), [6]).tolist() == [0.0]


@pytest.mark.parametrize("counts", [[0, 4], [2, 7]])
def test_a_count_outside_the_curve_is_refused(counts) -> None:
    with pytest.raises(NirvanaError, match=r"counts from 2 to 6, .* Measure the curve from 0 on"):
        interpolate(DamageCurve((2, 6), (0.5, 0.0)), counts)


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("dims", [TWO, MIXED], ids=["two", "mixed"])
@pytest.mark.parametrize("cost", [ParameterCost(), TableCost()], ids=lambda c: c.name)
@pytest.mark.parametrize("budget", [0.25, 0.5, 0.8])
def test_no_choice_of_counts_does_less_damage(uniform: bool, dims, cost, budget: float) -> None:
    """By trying every combination of allowed counts."""
    limits = Constraints(neuron_multiple=7, uniform=uniform)
    for seed in range(2):
        curves = draw_curves(dims, seed)
        layers = allocate_knapsack(dims, draw_scores(dims), curves, cost, budget, limits)
        assert cost_of(layers, dims, cost) <= budget * dense_cost(dims, cost)
        sub_blocks = list(list_sub_blocks(dims))
        fixed = sum(cost.block_cost(stack) for stack in dims.layers)
        best = math.inf
        for counts in itertools.product(*(allowed_counts(s, dims, limits) for s in sub_blocks)):
            pairs = list(zip(sub_blocks, counts, strict=True))
            kinds = {(s.part, dims.layers[s.layer].name, count) for s, count in pairs}
            if uniform and len(kinds) > len({kind[:2] for kind in kinds}):
                continue
            price = fixed + sum(sub_block_cost(s, c, dims, cost) for s, c in pairs)
            if price <= budget * dense_cost(dims, cost):
                best = min(best, sum(damage_at(curves[s], c) for s, c in pairs))
        found = 0.0
        for s in sub_blocks:
            units = kept_units(layers[s.layer], s.part, dims.layers[s.layer]) or ()
            found += damage_at(curves[s], len(units))
        assert found == pytest.approx(best, abs=1e-12)


def test_a_missing_curve_is_named() -> None:
    curves = draw_curves(PAIR)
    del curves[SubBlock(3, "cross_attention")]
    with pytest.raises(NirvanaError, match=r"no damage curve of 3\.cross_attention"):
        allocate_knapsack(PAIR, draw_scores(PAIR), curves, ParameterCost(), 0.5, Constraints())


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (DamageCurve((0, 24), (1.0, 0.0)), r"counts that end at \(24,\)"),
        (DamageCurve((), ()), r"counts that end at \(\)"),
        (DamageCurve((0, 48), (1.0, 0.1)), r"damages at \(0\.1,\)"),
        (DamageCurve((24, 0, 48), (1.0, 1.0, 0.0)), r"counts \(24, 0, 48\) with 3 damages"),
        (DamageCurve((0, 48), (1.0, 0.5, 0.0)), "with 3 damages"),
        (DamageCurve((0, 48), (math.nan, 0.0)), r"damages \(nan, 0\.0\)"),
    ],
)
def test_a_malformed_curve_is_named(curve: DamageCurve, reason: str) -> None:
    curves = {**draw_curves(PLAIN), SubBlock(1, "mlp"): curve}
    expected = rf"damage curve of 1\.mlp should have ascending counts up to 48, .*{reason}"
    with pytest.raises(NirvanaError, match=expected):
        allocate_knapsack(PLAIN, draw_scores(PLAIN), curves, ParameterCost(), 0.5, Constraints())
