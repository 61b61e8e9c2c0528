"""Names the parts of a model that are cut each on its own, and counts their units. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.plan import LayerPlan, kept_groups

Part = Literal["attention", "cross_attention", "mlp"]


@dataclass(frozen=True, slots=True, order=True)
class SubBlock:
    """One attention or MLP of a model.

    Its units are what is kept or removed: KV groups with all their query heads (in plain
    multi-head attention: heads), or MLP neurons.

    Attributes:
        layer: counted over all stacks, the encoder's layers first, as in a plan.
    """

    layer: int
    part: Part

    @property
    def name(self) -> str:
        """The key of this sub-block in files, such as "3.mlp"."""
        return f"{self.layer}.{self.part}"

    @classmethod
    def from_name(cls, name: str) -> SubBlock:
        """Read back what `name` gave."""
        found = re.fullmatch(r"(\d{1,6})\.(\w+)", name, re.ASCII)
        if found is None or found[2] not in get_args(Part):
            raise NirvanaError(
                f"Expected the name of a sub-block, such as 3.mlp, got {name!r}. Score the model "
                "again."
            )
        return cls(int(found[1]), cast(Part, found[2]))


def list_sub_blocks(dims: DenseDims) -> Iterator[SubBlock]:
    """Yield every sub-block, layer by layer, in the order in which a block runs them."""
    for layer, stack in enumerate(dims.layers):
        yield SubBlock(layer, "attention")
        if stack.cross_attention:
            yield SubBlock(layer, "cross_attention")
        yield SubBlock(layer, "mlp")


def count_units(sub_block: SubBlock, dims: DenseDims) -> int:
    """Return the number of units of a dense sub-block."""
    stack = dims.layers[sub_block.layer]
    return stack.intermediate_size if sub_block.part == "mlp" else stack.num_kv_heads


def make_layer(
    dims: StackDims,
    *,
    attention: Sequence[int] | None,
    mlp: Sequence[int] | None,
    cross_attention: Sequence[int] | None = None,
) -> LayerPlan:
    """Return what a block keeps, from the kept units of each sub-block; None drops it."""

    def heads(groups: Sequence[int] | None) -> tuple[int, ...] | None:
        if groups is None:
            return None
        size = dims.heads_per_group
        return tuple(group * size + i for group in sorted(groups) for i in range(size))

    return LayerPlan(
        kept_heads=heads(attention),
        kept_neurons=None if mlp is None else tuple(sorted(mlp)),
        kept_cross_heads=heads(cross_attention) if dims.cross_attention else None,
    )


def kept_units(layer: LayerPlan, part: Part, dims: StackDims) -> tuple[int, ...] | None:
    """Return the units that a layer keeps of one sub-block; None where it is dropped."""
    if part == "mlp":
        return layer.kept_neurons
    heads = layer.kept_heads if part == "attention" else layer.kept_cross_heads
    return None if heads is None else kept_groups(heads, dims)
