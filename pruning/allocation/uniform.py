"""Keeps the same share of every layer: the plainest allocation, and one that any server loads."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial

from pruning.allocation.constraints import Constraints
from pruning.allocation.levels import (
    Item,
    Scores,
    check_reachable,
    check_scores,
    fill_up,
    find_capacity,
    keep_best,
    list_items,
    total_cost,
)
from pruning.plans.cost import CostModel
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import count_units


def allocate_uniform(
    dims: DenseDims, scores: Scores, cost: CostModel, budget: float, constraints: Constraints
) -> tuple[LayerPlan, ...]:
    """Return the layers to keep: one share of all attentions, one of all MLPs, as equal as can be.

    Counts are the same in all layers of a stack. For each share of the attentions the MLPs get the
    largest that the budget takes; of these pairs, the most equal one is taken, and none that
    empties a sub-block if it can be helped. Whatever still fits into the budget is added: less
    than one more step of a stack's attentions or MLPs is left.

    Raises:
        NirvanaError: scores are missing or not finite, or the budget cannot be reached.
    """
    check_scores(scores, dims)
    check_reachable(dims, cost, budget, constraints)
    items = list_items(dims, cost, replace(constraints, uniform=True))
    capacity = find_capacity(dims, cost, budget)
    shares = [_list_shares(item, dims) for item in items]
    levels = _search_pair(items, shares, capacity)

    def spread(number: int, level: int) -> float:
        return -float(shares[number][level])

    return keep_best(items, fill_up(items, levels, capacity, spread), scores, dims)


def _list_shares(item: Item, dims: DenseDims) -> list[Fraction]:
    units = count_units(item.sub_blocks[0], dims)
    return [Fraction(count, units) for count in item.counts]


def _search_pair(
    items: Sequence[Item], shares: Sequence[Sequence[Fraction]], capacity: int
) -> list[int]:
    """Return the level of each item for the most equal pair of shares that fits."""

    def levels_of(attention: Fraction, mlp: Fraction) -> list[int]:
        asked = (mlp if item.part == "mlp" else attention for item in items)
        return [
            max(bisect_right(own, share) - 1, 0)  # no more than the share, or the lowest level
            for own, share in zip(shares, asked, strict=True)
        ]

    def price(attention: Fraction, mlp: Fraction) -> int:
        return total_cost(items, levels_of(attention, mlp))

    ranked = []
    mlps = _merge(shares, [item.part == "mlp" for item in items])
    for attention in _merge(shares, [item.part != "mlp" for item in items]):
        num_fitting = bisect_right(mlps, capacity, key=partial(price, attention))
        if num_fitting:
            mlp = mlps[num_fitting - 1]
            levels = levels_of(attention, mlp)
            emptied = sum(i.counts[level] == 0 for i, level in zip(items, levels, strict=True))
            unused = capacity - total_cost(items, levels)
            ranked.append((emptied, abs(attention - mlp), unused, levels))
    return min(ranked)[-1]


def _merge(shares: Sequence[Sequence[Fraction]], chosen: Sequence[bool]) -> list[Fraction]:
    return sorted(
        {share for own, is_in in zip(shares, chosen, strict=True) if is_in for share in own}
    )
