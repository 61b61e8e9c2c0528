"""The choices that every allocation makes: of each item one level, within a budget. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pruning.allocation.constraints import Constraints, allowed_counts, describe_constraints
from pruning.errors import NirvanaError
from pruning.plans.cost import CostModel, dense_cost
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import Part, SubBlock, count_units, list_sub_blocks, make_layer

Scores = Mapping[SubBlock, Sequence[float]]


@dataclass(frozen=True, slots=True)
class DamageCurve:
    """The damage of keeping each number of units, nats of KL divergence in the default allocation.

    Attributes:
        kept_counts: ascending, the last is the dense count, whose damage is 0.
        damage: one a count.
    """

    kept_counts: tuple[int, ...]
    damage: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """Sub-blocks that keep equally many units: one alone, or under `uniform` those of all layers.

    Attributes:
        counts: units that each may keep, ascending.
        costs: of all of them together at each count, strictly ascending.
    """

    sub_blocks: tuple[SubBlock, ...]
    counts: tuple[int, ...]
    costs: tuple[int, ...]

    @property
    def part(self) -> Part:
        """What they are."""
        return self.sub_blocks[0].part

    def level_of(self, count: float) -> int:
        """Return the lowest level that keeps at least `count` units."""
        return min(int(np.searchsorted(self.counts, count)), len(self.counts) - 1)


def list_items(dims: DenseDims, cost: CostModel, constraints: Constraints) -> tuple[Item, ...]:
    """Return what there is to choose, in the order of the layers.

    A count that costs no less than a larger one is left out: more is kept for nothing.
    """
    stack_of = [number for number, stack in enumerate(dims.stacks) for _ in range(stack.num_layers)]
    groups: dict[tuple[int, Part], list[SubBlock]] = {}
    for sub_block in list_sub_blocks(dims):
        place = stack_of[sub_block.layer] if constraints.uniform else sub_block.layer
        groups.setdefault((place, sub_block.part), []).append(sub_block)
    return tuple(_make_item(group, dims, cost, constraints) for group in groups.values())


def sub_block_cost(
    sub_block: SubBlock, count: int, dims: DenseDims, cost: CostModel, heads: int | None = None
) -> int:
    """Return the cost of a sub-block that keeps `count` units.

    `heads`: query heads that each KV group keeps; all by default.
    """
    stack = dims.layers[sub_block.layer]
    if sub_block.part == "mlp":
        return cost.mlp_cost(stack, count)
    return cost.attention_cost(stack, count * (heads or stack.heads_per_group), count)


def find_capacity(dims: DenseDims, cost: CostModel, budget: float) -> int:
    """Return what all sub-blocks may cost together: the budget, less what blocks cost besides.

    The budget is taken as its decimal digits say, and rounded down to whole units of cost.
    """
    allowed = Fraction(str(budget)) * dense_cost(dims, cost)
    return int(allowed // 1) - sum(cost.block_cost(stack) for stack in dims.layers)


def least_cost(dims: DenseDims, cost: CostModel, constraints: Constraints) -> int:
    """Return the least that the blocks of a model cost under the constraints."""
    items = list_items(dims, cost, constraints)
    blocks = sum(cost.block_cost(stack) for stack in dims.layers)
    return blocks + sum(item.costs[0] for item in items)


def check_reachable(
    dims: DenseDims, cost: CostModel, budget: float, constraints: Constraints
) -> None:
    """Raise NirvanaError unless the budget is a fraction that the constraints leave reachable."""
    if not 0 < budget <= 1:
        raise NirvanaError(
            f"budget must be a fraction above 0 and at most 1 (0.5 keeps half of the blocks' "
            f"{cost.name}), got {budget}."
        )
    least, dense = least_cost(dims, cost, constraints), dense_cost(dims, cost)
    if least > Fraction(str(budget)) * dense:
        raise NirvanaError(
            f"A budget of {budget} cannot be reached: {describe_constraints(constraints)} and what "
            f"is not pruned (norms, biases) leave at least {_round_up(least / dense)} of the "
            f"blocks' {cost.name}. Raise the budget, or loosen the constraints."
        )


def total_cost(items: Sequence[Item], levels: Iterable[int]) -> int:
    """Return the cost of the sub-blocks at one level an item."""
    return sum(item.costs[level] for item, level in zip(items, levels, strict=True))


def fill_up(
    items: Sequence[Item],
    levels: Sequence[int],
    capacity: int,
    gain: Callable[[int, int], float],
) -> list[int]:
    """Return the levels raised, step by step, until no step fits into the capacity.

    Args:
        gain: of raising the item of a number to a level; of the steps that fit, the one with the
            most goes first.
    """
    raised = list(levels)
    left = capacity - total_cost(items, raised)
    while steps := [
        (gain(number, level + 1), -number)
        for number, (item, level) in enumerate(zip(items, raised, strict=True))
        if level + 1 < len(item.costs) and item.costs[level + 1] - item.costs[level] <= left
    ]:
        number = -max(steps)[1]
        item, level = items[number], raised[number]
        left -= item.costs[level + 1] - item.costs[level]
        raised[number] += 1
    return raised


def keep_best(
    items: Sequence[Item], levels: Iterable[int], scores: Scores, dims: DenseDims
) -> tuple[LayerPlan, ...]:
    """Return what each layer keeps: of every sub-block the units with the highest scores."""
    kept: dict[SubBlock, tuple[int, ...]] = {}
    for item, level in zip(items, levels, strict=True):
        for sub_block in item.sub_blocks:
            order = np.argsort(-np.asarray(scores[sub_block], np.float64), kind="stable")
            kept[sub_block] = tuple(sorted(order[: item.counts[level]].tolist()))
    return tuple(_read_layer(kept, layer, stack) for layer, stack in enumerate(dims.layers))


def check_scores(scores: Scores, dims: DenseDims) -> None:
    """Raise NirvanaError unless every unit of every sub-block has one finite score."""
    for sub_block in list_sub_blocks(dims):
        expected = count_units(sub_block, dims)
        given = scores.get(sub_block)
        came = "none" if given is None else f"{len(given)}"
        if given is None or len(given) != expected or not np.isfinite(given).all():
            what = f"{came} of them not all finite" if came == f"{expected}" else came
            raise NirvanaError(
                f"Expected {expected} finite scores for {sub_block.name}, got {what}. Score every "
                "sub-block of the model that is pruned."
            )


def _make_item(
    group: Sequence[SubBlock], dims: DenseDims, cost: CostModel, constraints: Constraints
) -> Item:
    counts: list[int] = []
    costs: list[int] = []
    for count in reversed(allowed_counts(group[0], dims, constraints)):
        price = sum(sub_block_cost(sub_block, count, dims, cost) for sub_block in group)
        if not costs or price < costs[-1]:
            counts.append(count)
            costs.append(price)
    return Item(tuple(group), tuple(reversed(counts)), tuple(reversed(costs)))


def _read_layer(
    kept: Mapping[SubBlock, tuple[int, ...]], layer: int, stack: StackDims
) -> LayerPlan:
    return make_layer(
        stack,
        attention=kept[SubBlock(layer, "attention")],
        mlp=kept[SubBlock(layer, "mlp")],
        cross_attention=kept.get(SubBlock(layer, "cross_attention")),
    )


def _round_up(fraction: float) -> float:
    """Return a fraction with four digits that is surely reachable."""
    return -(-fraction * 10_000 // 1) / 10_000
