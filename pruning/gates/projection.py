"""Turns gate logits into a plan that meets the budget exactly, within one unit."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from pruning.allocation.constraints import Constraints, describe_constraints
from pruning.allocation.levels import (
    Item,
    check_reachable,
    fill_up,
    find_capacity,
    keep_best,
    list_items,
    total_cost,
)
from pruning.errors import NirvanaError
from pruning.gates.gate_kinds import GateUnits
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.query_heads import QueryHeads, keep_heads
from pruning.plans.cost import CostModel, dense_cost
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import Part, SubBlock, count_units


def project(
    registry: GateRegistry, budget: float, constraints: Constraints
) -> tuple[LayerPlan, ...]:
    """Return the layers to keep: best logits of all layers first, as many as the budget takes.

    What has no gates stays whole. A sub-block whose own gate is shut stays dropped, unless all that
    is open leaves room for it. Where `constraints` want equal layers or nothing emptied, no
    sub-block is dropped by its own gate.

    Raises:
        NirvanaError: the budget is below what `constraints` force; the message has the least
            reachable.
    """
    dims, cost, units = registry.dims, registry.cost, registry.units
    check_projectable(dims, cost, budget, constraints, units)
    capacity = find_capacity(dims, cost, budget)
    ranking = _Ranking(registry)
    heads = QueryHeads(registry.query_logits(), dims, constraints)
    items = _list_items(dims, cost, constraints, units, heads)
    while total_cost(items, [0] * len(items)) > capacity:
        heads.lower()  # nothing may be emptied, and the groups that must stay are too wide
        items = _list_items(dims, cost, constraints, units, heads)
    shut = ranking.list_shut(registry) if _may_drop_one(constraints) else []
    while True:
        choices = [_drop(item) if item.sub_blocks[0] in shut else item for item in items]
        levels = ranking.fill(choices, capacity)
        left = capacity - total_cost(choices, levels)
        prices = {item.sub_blocks[0]: _price_first(item) for item in items}
        reopened = next((sub_block for sub_block in shut if prices[sub_block] <= left), None)
        if reopened is None:
            break
        shut.remove(reopened)
    layers = keep_best(choices, levels, ranking.logits, dims)
    heads.fill(choices, levels, cost, left)
    layers = keep_heads(layers, heads.logits, dims, heads.counts)
    emptied = {
        sub_block
        for item, level in zip(choices, levels, strict=True)
        for sub_block in item.sub_blocks
        if item.counts[level] == 0 and not _has_unit_gates(item, units)
    }
    return _drop_sub_blocks(layers, {*shut, *emptied})


def check_projectable(
    dims: DenseDims, cost: CostModel, budget: float, constraints: Constraints, units: GateUnits
) -> None:
    """Raise NirvanaError when a budget cannot be reached; the message has the least that can."""
    if units.heads and units.neurons and not units.query_heads:
        check_reachable(dims, cost, budget, constraints)
        return
    narrowest = QueryHeads.narrowest(dims, constraints) if units.query_heads else None
    least = sum(item.costs[0] for item in _list_items(dims, cost, constraints, units, narrowest))
    capacity = find_capacity(dims, cost, budget)
    if least > capacity:
        dense = dense_cost(dims, cost)
        reachable = (least + sum(cost.block_cost(stack) for stack in dims.layers)) / dense
        raise NirvanaError(
            f"A budget of {budget} cannot be reached: what has no gates ({units}) and "
            f"{describe_constraints(constraints)} leave at least "
            f"{math.ceil(reachable * 10_000) / 10_000} of the blocks' {cost.name}. Raise the "
            "budget, or give more units gates."
        )


def find_unit_cost(
    dims: DenseDims, cost: CostModel, constraints: Constraints, units: GateUnits
) -> int:
    """Return the cost of a unit that is kept or cut at once, of the kind that is finest.

    What a projection leaves of a budget is below it, while a sub-block of that kind can take more.
    """
    largest: dict[Part, int] = {}
    for item in _list_items(dims, cost, constraints, units):
        steps = [later - earlier for earlier, later in pairwise(item.costs)]
        step = max([*steps, _price_first(item)] if _may_drop_one(constraints) else steps, default=0)
        largest[item.part] = max(largest.get(item.part, 0), step)
    return min((step for step in largest.values() if step), default=0)


class _Ranking:
    """The logits of all gates, and what raising an item by a level gains: their mean."""

    def __init__(self, registry: GateRegistry) -> None:
        self.logits: dict[SubBlock, list[float]] = {}
        self._sums: dict[SubBlock, list[float]] = {}
        self._blocks: dict[SubBlock, float] = {}
        self._units = registry.units
        for sub_block, gates in registry.sub_block_gates():
            logits: list[float] = gates.units.logit.detach().double().tolist()
            blocks = registry.block_gates(sub_block.part).logit
            self.logits[sub_block] = logits
            self._sums[sub_block] = [0.0, *accumulate(sorted(logits, reverse=True))]
            self._blocks[sub_block] = float(blocks.detach()[registry.block_place(sub_block)])

    def list_shut(self, registry: GateRegistry) -> list[SubBlock]:
        """Return the sub-blocks whose own gate is shut, the one to reopen first at the front."""
        shut = registry.list_shut()
        return sorted(shut, key=lambda sub_block: -self._blocks[sub_block])

    def fill(self, items: Sequence[Item], capacity: int) -> list[int]:
        """Return the level of each item: the best logits that fit."""
        gains = [self._gains(item) for item in items]
        return fill_up(items, [0] * len(items), capacity, lambda i, level: gains[i][level - 1])

    def _gains(self, item: Item) -> list[float]:
        """Return the mean logit of what each level adds to the one before."""
        size = len(item.sub_blocks)
        if not _has_unit_gates(item, self._units):
            return [sum(self._blocks[s] for s in item.sub_blocks) / size]
        return [
            sum(self._sums[s][later] - self._sums[s][earlier] for s in item.sub_blocks)
            / ((later - earlier) * size)
            for earlier, later in pairwise(item.counts)
        ]


def _list_items(
    dims: DenseDims,
    cost: CostModel,
    constraints: Constraints,
    units: GateUnits,
    heads: QueryHeads | None = None,
) -> list[Item]:
    """Return what there is to choose; a sub-block without gates for its units is whole or gone.

    With `heads` KV groups are priced with as many query heads as they keep.
    """
    items = []
    for item in list_items(dims, cost, constraints):
        item = item if heads is None else heads.price(item, cost)
        if not _has_unit_gates(item, units):
            num_units = count_units(item.sub_blocks[0], dims)
            whole = sum(_price_whole(sub_block, dims, cost) for sub_block in item.sub_blocks)
            has_gate = units.mlp_blocks if item.part == "mlp" else units.attention_blocks
            may_go = has_gate and _may_drop_one(constraints)
            counts, costs = ((0, num_units), (0, whole)) if may_go else ((num_units,), (whole,))
            item = replace(item, counts=counts, costs=costs)
        items.append(item)
    return items


def _has_unit_gates(item: Item, units: GateUnits) -> bool:
    return units.neurons if item.part == "mlp" else units.heads


def _may_drop_one(constraints: Constraints) -> bool:
    return constraints.may_drop and not constraints.uniform


def _price_whole(sub_block: SubBlock, dims: DenseDims, cost: CostModel) -> int:
    stack = dims.layers[sub_block.layer]
    if sub_block.part == "mlp":
        return cost.mlp_cost(stack, stack.intermediate_size)
    return cost.attention_cost(stack, stack.num_heads, stack.num_kv_heads)


def _drop(item: Item) -> Item:
    """Return the same sub-block with nothing to choose: it goes, with its bias."""
    return replace(item, counts=(0,), costs=(0,))


def _price_first(item: Item) -> int:
    """Return the least that a sub-block costs which keeps something."""
    return next(cost for count, cost in zip(item.counts, item.costs, strict=True) if count)


def _drop_sub_blocks(
    layers: Sequence[LayerPlan], dropped: Collection[SubBlock]
) -> tuple[LayerPlan, ...]:
    left = list(layers)
    for part, layer in ((sub_block.part, sub_block.layer) for sub_block in dropped):
        if part == "mlp":
            left[layer] = replace(left[layer], kept_neurons=None)
        elif part == "attention":
            left[layer] = replace(left[layer], kept_heads=None)
        else:
            left[layer] = replace(left[layer], kept_cross_heads=None)
    return tuple(left)
