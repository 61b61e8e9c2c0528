"""Which query heads stay in the KV groups that stay: equally many in each of an attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pruning.allocation.constraints import Constraints
from pruning.allocation.levels import Item, sub_block_cost
from pruning.plans.cost import CostModel
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock, kept_units, list_sub_blocks

Logits = Mapping[SubBlock, Sequence[float]]


def count_open(logits: Sequence[float], size: int, groups: Sequence[int]) -> int:
    """Return how many heads the `groups` keep each: the mean of their open gates, at least one."""
    if not groups:
        return size
    opened = sum(logits[group * size + i] > 0 for group in groups for i in range(size))
    return min(size, max(1, round(opened / len(groups))))


def rank_heads(logits: Sequence[float], size: int, group: int) -> list[int]:
    """Return the heads of a group, the best first."""
    return sorted(range(group * size, (group + 1) * size), key=lambda head: -logits[head])


def keep_heads(
    layers: Sequence[LayerPlan],
    logits: Logits,
    dims: DenseDims,
    counts: Mapping[SubBlock, int] | None = None,
) -> tuple[LayerPlan, ...]:
    """Return the layers with the best query heads of each KV group that they keep.

    Args:
        logits: [num_heads] of each attention whose query heads have gates; the others stay whole.
        counts: heads that each group of an attention keeps; by default as many as are open.
    """
    left = list(layers)
    for sub_block, values in logits.items():
        stack, layer = dims.layers[sub_block.layer], left[sub_block.layer]
        groups = kept_units(layer, sub_block.part, stack)
        if not groups:
            continue
        size = stack.heads_per_group
        number = count_open(values, size, groups) if counts is None else counts[sub_block]
        ranked = (rank_heads(values, size, group)[:number] for group in groups)
        heads = tuple(sorted(head for best in ranked for head in best))
        if sub_block.part == "attention":
            left[sub_block.layer] = replace(layer, kept_heads=heads)
        else:
            left[sub_block.layer] = replace(layer, kept_cross_heads=heads)
    return tuple(left)


class QueryHeads:
    """How many query heads each KV group of an attention keeps, on the way to a budget.

    The gates say how many; what KV groups and neurons leave of the budget is filled up with more.
    Under `constraints.uniform` the attentions of a stack keep equally many.
    """

    def __init__(self, logits: Logits, dims: DenseDims, constraints: Constraints) -> None:
        self.logits = logits
        self.counts: dict[SubBlock, int] = {}
        self._dims = dims
        self._least = 2 if constraints.avoid_one_head else 1
        self._equal = self._list_equal(constraints.uniform)
        for group in self._equal:
            mean = round(sum(self._count(s) for s in group) / len(group))
            self.counts.update(dict.fromkeys(group, mean))

    @classmethod
    def narrowest(cls, dims: DenseDims, constraints: Constraints) -> QueryHeads:
        """Return the fewest heads that any gates could leave."""
        shut = {
            s: [-1.0] * dims.layers[s.layer].num_heads
            for s in list_sub_blocks(dims)
            if s.part != "mlp" and dims.layers[s.layer].heads_per_group > 1
        }
        return cls(shut, dims, constraints)

    def price(self, item: Item, cost: CostModel) -> Item:
        """Return an attention's item with the prices of groups that keep so many heads."""
        number = self.counts.get(item.sub_blocks[0])
        if number is None:
            return item
        counts: list[int] = []
        costs: list[int] = []
        for count in reversed(item.counts):
            price = self._price(item, count, number, cost)
            if not costs or price < costs[-1]:
                counts.append(count)
                costs.append(price)
        return replace(item, counts=tuple(reversed(counts)), costs=tuple(reversed(costs)))

    def lower(self) -> None:
        """Take a head from each group of the attention whose heads are worth least, in place."""
        wide = [group for group in self._equal if self.counts[group[0]] > self._least]
        assert wide, "the budget was checked with the fewest heads"
        worst = min(wide, key=lambda group: self._worth(group, self.counts[group[0]]))
        for sub_block in worst:
            self.counts[sub_block] -= 1

    def fill(
        self, items: Sequence[Item], levels: Sequence[int], cost: CostModel, left: int
    ) -> None:
        """Add heads to the groups that are kept, the best first, while `left` pays for them."""
        kept = {
            item.sub_blocks: (item, item.counts[level])
            for item, level in zip(items, levels, strict=True)
            if item.counts[level] and item.sub_blocks[0] in self.counts
        }
        while True:
            steps = []
            for group, (item, count) in kept.items():
                number = self.counts[group[0]]
                if number == self._dims.layers[group[0].layer].heads_per_group:
                    continue
                now, then = (self._price(item, count, n, cost) for n in (number, number + 1))
                if then - now <= left:
                    steps.append((self._worth(group, number + 1), group, then - now))
            if not steps:
                return
            _, group, price = max(steps, key=lambda step: step[0])
            left -= price
            for sub_block in group:
                self.counts[sub_block] += 1

    def _price(self, item: Item, count: int, number: int, cost: CostModel) -> int:
        return sum(sub_block_cost(s, count, self._dims, cost, number) for s in item.sub_blocks)

    def _count(self, sub_block: SubBlock) -> int:
        stack = self._dims.layers[sub_block.layer]
        groups = range(stack.num_kv_heads)
        number = count_open(self.logits[sub_block], stack.heads_per_group, groups)
        return max(number, min(self._least, stack.heads_per_group))

    def _worth(self, group: Sequence[SubBlock], number: int) -> float:
        """Return the mean logit of the head with this place in each KV group."""
        values = [
            self.logits[s][rank_heads(self.logits[s], stack.heads_per_group, g)[number - 1]]
            for s in group
            for stack in (self._dims.layers[s.layer],)
            for g in range(stack.num_kv_heads)
        ]
        return sum(values) / len(values)

    def _list_equal(self, uniform: bool) -> list[tuple[SubBlock, ...]]:
        """Return the attentions that keep equally many heads, as items list them."""
        stacks = [n for n, stack in enumerate(self._dims.stacks) for _ in range(stack.num_layers)]
        groups: dict[tuple[int, str], list[SubBlock]] = {}
        for sub_block in list_sub_blocks(self._dims):
            if sub_block in self.logits:
                place = stacks[sub_block.layer] if uniform else sub_block.layer
                groups.setdefault((place, sub_block.part), []).append(sub_block)
        return [tuple(group) for group in groups.values()]
