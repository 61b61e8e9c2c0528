"""Cuts units of all layers below one threshold of their scores (NIRVANA, arXiv 2509.14230).

Attentions and MLPs have a threshold each: the share `s_A` of the attentions goes, and the share
`s_M = gamma s_A` of the MLPs. With P for what all units of a kind cost, cutting s of both together
takes `s_A = s (P_A + P_M) / (P_A + gamma P_M)`; here `s_A` is searched, since counts are rounded.
Scores are compared between layers, so they must be on one scale.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

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
    sub_block_cost,
    total_cost,
)
from pruning.errors import NirvanaError
from pruning.plans.cost import CostModel
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock, count_units, list_sub_blocks


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


Gamma = float | Literal["auto"] | None
Floats = npt.NDArray[np.float64]


def allocate_by_threshold(
    dims: DenseDims,
    scores: Scores,
    cost: CostModel,
    budget: float,
    constraints: Constraints,
    gamma: Gamma = "auto",
) -> tuple[LayerPlan, ...]:
    """Return the layers to keep: units above the thresholds, counts rounded up to allowed ones.

    What rounding adds is made good by higher thresholds: the share cut is the least that fits. What
    that leaves of the budget goes to the units that the thresholds cut last.

    Args:
        gamma: how much more of the MLPs than of the attentions is cut; "auto" is P_M / P_A, so that
            the smaller kind loses less. None: one threshold for all units, on score per cost.

    Raises:
        NirvanaError: gamma is not above 0, scores are missing or not finite, or the budget cannot
            be reached.
    """
    check_scores(scores, dims)
    check_gamma(gamma)
    check_reachable(dims, cost, budget, constraints)
    items = list_items(dims, cost, constraints)
    capacity = find_capacity(dims, cost, budget)
    survived = _find_survived(dims, scores, cost, gamma)
    shares = [np.stack([survived[sub_block] for sub_block in item.sub_blocks]) for item in items]

    def survived_by(number: int, level: int) -> float:
        counts = items[number].counts
        return float(shares[number][:, counts[level - 1] : counts[level]].mean())

    levels = _search_share(items, shares, capacity)
    return keep_best(items, fill_up(items, levels, capacity, survived_by), scores, dims)


def check_gamma(gamma: Gamma) -> None:
    """Raise NirvanaError unless gamma is above 0, "auto" or None."""
    if gamma is None or gamma == "auto" or (not isinstance(gamma, str) and 0 < gamma < np.inf):
        return
    raise NirvanaError(
        f"gamma must be a number above 0, 'auto' (cost of all neurons over that of all attention "
        f"units) or null (one threshold on score per cost), got {gamma!r}."
    )


@dataclass(frozen=True, slots=True)
class _Kind:
    """Units under one threshold; of them goes `cut_ratio` times the share of the attentions."""

    sub_blocks: tuple[SubBlock, ...]
    prices: Mapping[SubBlock, float]
    values: Mapping[SubBlock, Floats]
    cut_ratio: float


def _find_survived(
    dims: DenseDims, scores: Scores, cost: CostModel, gamma: Gamma
) -> dict[SubBlock, Floats]:
    """Return the largest `s_A` at which each unit is still kept, descending in each sub-block."""
    found: dict[SubBlock, Floats] = {}
    for kind in _list_kinds(dims, scores, cost, gamma):
        values = np.concatenate([kind.values[s] for s in kind.sub_blocks])
        lengths = [len(kind.values[s]) for s in kind.sub_blocks]
        prices = np.repeat([kind.prices[s] for s in kind.sub_blocks], lengths)
        order = np.argsort(-values, kind="stable")
        shares = np.empty_like(values)
        kept = prices[order].cumsum()
        shares[order] = (1 - kept / kept[-1]) / kind.cut_ratio
        ends = np.cumsum(lengths)[:-1]
        for sub_block, own in zip(kind.sub_blocks, np.split(shares, ends), strict=True):
            found[sub_block] = -np.sort(-own)
    return found


def _list_kinds(dims: DenseDims, scores: Scores, cost: CostModel, gamma: Gamma) -> list[_Kind]:
    sub_blocks = tuple(list_sub_blocks(dims))
    prices = {s: _unit_price(s, dims, cost) for s in sub_blocks}
    values = {s: np.asarray(scores[s], np.float64) for s in sub_blocks}
    if gamma is None:
        return [_Kind(sub_blocks, prices, {s: values[s] / prices[s] for s in sub_blocks}, 1.0)]
    attentions = tuple(s for s in sub_blocks if s.part != "mlp")
    mlps = tuple(s for s in sub_blocks if s.part == "mlp")
    total_attention = sum(prices[s] * len(values[s]) for s in attentions)
    total_mlp = sum(prices[s] * len(values[s]) for s in mlps)
    ratio = total_mlp / total_attention if isinstance(gamma, str) else gamma
    return [
        _Kind(attentions, prices, values, 1.0),
        _Kind(mlps, prices, values, ratio),
    ]


def _unit_price(sub_block: SubBlock, dims: DenseDims, cost: CostModel) -> float:
    units = count_units(sub_block, dims)
    empty, full = (sub_block_cost(sub_block, count, dims, cost) for count in (0, units))
    return max(full - empty, 1) / units


def _search_share(items: Sequence[Item], shares: Sequence[Floats], capacity: int) -> list[int]:
    """Return the levels at the least share cut that fits, by bisection."""

    def levels_at(share: float) -> list[int]:
        return [
            item.level_of(np.count_nonzero(own >= share) / len(item.sub_blocks))
            for item, own in zip(items, shares, strict=True)
        ]

    low, high = 0.0, max(float(own.max()) for own in shares) + 1.0
    if total_cost(items, levels_at(low)) <= capacity:
        return levels_at(low)
    for _ in range(60):
        middle = (low + high) / 2
        if total_cost(items, levels_at(middle)) <= capacity:
            high = middle
        else:
            low = middle
    return levels_at(high)
