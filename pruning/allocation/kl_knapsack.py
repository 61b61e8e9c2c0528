"""Spends a budget where least is lost: measured damage curves, and an exact knapsack over them.

Minimizes the sum over sub-blocks of what pruning each alone does to the predictions. That sum tells
less the more is pruned at once: measure again after each 10 to 15 % where that can be afforded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pruning.allocation.constraints import Constraints
from pruning.allocation.knapsack import solve
from pruning.allocation.levels import (
    DamageCurve,
    Item,
    Scores,
    check_reachable,
    check_scores,
    fill_up,
    find_capacity,
    keep_best,
    list_items,
)
from pruning.errors import NirvanaError
from pruning.plans.cost import CostModel
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock, count_units, list_sub_blocks

Floats = npt.NDArray[np.float64]
Curves = Mapping[SubBlock, DamageCurve]


def allocate_knapsack(
    dims: DenseDims,
    scores: Scores,
    curves: Curves,
    cost: CostModel,
    budget: float,
    constraints: Constraints,
) -> tuple[LayerPlan, ...]:
    """Return the layers to keep: the counts of least damage within the budget, best units first.

    Under `constraints.uniform` the damages of all layers of a stack are summed at equal counts.

    Raises:
        NirvanaError: scores or curves are missing or malformed, or the budget cannot be reached.
    """
    check_scores(scores, dims)
    check_curves(curves, dims)
    check_reachable(dims, cost, budget, constraints)
    items = list_items(dims, cost, constraints)
    capacity = find_capacity(dims, cost, budget)
    damages = [_sum_damages(item, curves) for item in items]
    levels = solve(damages, [item.costs for item in items], capacity)

    def saved(number: int, level: int) -> float:
        return damages[number][level - 1] - damages[number][level]

    return keep_best(items, fill_up(items, levels, capacity, saved), scores, dims)


def interpolate(curve: DamageCurve, counts: Sequence[int]) -> Floats:
    """Return the damage at each count: never less where fewer units are kept.

    Between two points its logarithm is linear in the count; the damage itself is where one of the
    two is 0.

    Raises:
        NirvanaError: a count is outside the curve.
    """
    if min(counts) < curve.kept_counts[0] or max(counts) > curve.kept_counts[-1]:
        raise NirvanaError(
            f"Expected counts from {curve.kept_counts[0]} to {curve.kept_counts[-1]}, which the "
            f"curve covers, got {min(counts)} to {max(counts)}. Measure the curve from 0 on."
        )
    known = np.asarray(curve.kept_counts, np.float64)
    damage = np.maximum.accumulate(np.asarray(curve.damage, np.float64)[::-1])[::-1]
    asked = np.asarray(counts, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithmic = np.exp(np.interp(asked, known, np.log(damage)))
    above = np.searchsorted(known, asked).clip(1, len(known) - 1) if len(known) > 1 else 0
    linear = np.minimum(damage[above], damage[np.maximum(above - 1, 0)]) <= 0
    return np.where(linear, np.interp(asked, known, damage), logarithmic)


def check_curves(curves: Curves, dims: DenseDims) -> None:
    """Raise NirvanaError unless every sub-block has a curve that ends at its dense count with 0."""
    for sub_block in list_sub_blocks(dims):
        curve = curves.get(sub_block)
        if curve is None:
            raise NirvanaError(
                f"There is no damage curve of {sub_block.name}. Measure one of every sub-block."
            )
        units = count_units(sub_block, dims)
        ascending = list(curve.kept_counts) == sorted(set(curve.kept_counts))
        if not ascending or len(curve.kept_counts) != len(curve.damage):
            wrong = f"counts {curve.kept_counts} with {len(curve.damage)} damages"
        elif curve.kept_counts[-1:] != (units,) or curve.damage[-1] != 0:
            wrong = f"counts that end at {curve.kept_counts[-1:]}, damages at {curve.damage[-1:]}"
        elif not np.isfinite(curve.damage).all():
            wrong = f"damages {curve.damage}"
        else:
            continue
        raise NirvanaError(
            f"The damage curve of {sub_block.name} should have ascending counts up to {units}, "
            f"with a finite damage each and 0 at the last, got {wrong}."
        )


def _sum_damages(item: Item, curves: Curves) -> list[float]:
    summed = sum(interpolate(curves[sub_block], item.counts) for sub_block in item.sub_blocks)
    damages: list[float] = np.asarray(summed, np.float64).tolist()
    return damages
