"""Follows each tensor of a source model into the pruned one: its new name, and what stays of it.

A plan counts in units of the dense model, and the source may have been pruned before. So there are
three numberings, and a cut is expressed in positions of the source's tensor:

    heads of the dense layer    0  1  2  3
    the source has              0  .  2  3      at its positions 0, 1, 2
    the plan keeps              .  .  2  3      so that positions (1, 2) of the source are taken

Blocks alike: where the source has dropped block 1 and the plan drops block 0, too,

    dense block      0  1  2  3
    in the source    0  .  1  2      source's "layer.1.x" is of dense block 2 ...
    in the new one   .  .  0  1      ... and becomes "layer.0.x"
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pruning.cutting.cuts import BlockCuts, Cut, cut_block
from pruning.plans.dense_dims import StackDims
from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.wirings.wiring import StackWiring, Wiring


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a tensor: its new name, and the indices to take along an axis, or all.

    Attributes:
        kept: positions in the source's tensor; None takes it whole.
        scatter: (positions, size): put the tensor there, into zeros of that size.
    """

    name: str
    axis: int = 0
    kept: tuple[int, ...] | None = None
    scatter: tuple[tuple[int, ...], int] | None = None

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what stays of `tensor`: a new one where it is cut."""
        if self.scatter is not None:
            positions, size = self.scatter
            shape = list(tensor.shape)
            shape[self.axis] = size
            index = torch.tensor(positions, device=tensor.device)
            return tensor.new_zeros(shape).index_copy(self.axis, index, tensor)
        if self.kept is None:
            return tensor
        return take(tensor, self.axis, self.kept)

    def resize(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that a tensor of `shape` will have."""
        if self.kept is None and self.scatter is None:
            return shape
        size = len(self.kept) if self.kept is not None else self.scatter[1]  # type: ignore[index]
        return (*shape[: self.axis], size, *shape[self.axis + 1 :])


def take(tensor: torch.Tensor, axis: int, indices: tuple[int, ...]) -> torch.Tensor:
    """Return the slices `indices` of `tensor` along `axis`, copied."""
    if tensor.device.type == "cpu" and tensor.element_size() in _INTEGERS:
        # numpy takes columns four times faster than torch, and knows no bfloat16.
        whole = tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()]).numpy()
        return torch.from_numpy(whole.take(indices, axis=axis)).view(tensor.dtype)
    return tensor.index_select(axis, torch.tensor(indices, device=tensor.device))


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class TensorCutter:
    """Cuts the tensors of one source model, dense or pruned before, to a plan.

    Args:
        prefix: where the base model's tensors are: "bert." in a model with a head, "" without.
        current: what the source was pruned to before; the dense plan where it was not.
        tables_cut: the (current, new) bias tables have the kept heads only, as in a checkpoint of
            the stock class, not all dense ones.
    """

    def __init__(
        self,
        prefix: str,
        wiring: Wiring,
        plan: PruningPlan,
        current: PruningPlan,
        tables_cut: tuple[bool, bool] = (False, False),
    ) -> None:
        stacks = zip(wiring.stacks, plan.stacks(), current.stacks(), strict=True)
        self._stacks = {
            f"{prefix}{stack.blocks}.": _StackCutter(stack, dims, new, old, tables_cut)
            for stack, (dims, new), (_, old) in stacks
        }

    def follow(self, name: str) -> Fate | None:
        """Return what becomes of the tensor `name` of the source; None where it goes."""
        for prefix, stack in self._stacks.items():
            if name.startswith(prefix):
                number, _, tensor = name.removeprefix(prefix).partition(".")
                return stack.follow(prefix, int(number), tensor)
        return Fate(name)

    def is_in_block(self, name: str) -> bool:
        """Return whether a tensor belongs to a block."""
        return any(name.startswith(prefix) for prefix in self._stacks)


class _StackCutter:
    def __init__(
        self,
        wiring: StackWiring,
        dims: StackDims,
        new: tuple[LayerPlan, ...],
        old: tuple[LayerPlan, ...],
        tables_cut: tuple[bool, bool],
    ) -> None:
        self.source_blocks = [i for i, layer in enumerate(old) if not layer.dropped]
        self.new_blocks = {
            number: position
            for position, number in enumerate(i for i, lay in enumerate(new) if not lay.dropped)
        }
        self.old_cuts = {i: cut_block(wiring, dims, old[i]) for i in self.source_blocks}
        self.new_cuts = {i: cut_block(wiring, dims, new[i]) for i in self.new_blocks}
        attention = wiring.attention
        self.table = attention.bias_table and f"{attention.core}.{attention.bias_table}.weight"
        self.table_fate = self._follow_table(dims, new, old, tables_cut)

    def follow(self, prefix: str, source_number: int, tensor: str) -> Fate | None:
        if tensor == self.table:  # it is in the first block, whichever that is
            fate = self.table_fate
            return Fate(f"{prefix}0.{tensor}", fate.axis, fate.kept, fate.scatter)
        number = self.source_blocks[source_number]
        if number not in self.new_blocks:
            return None
        name = f"{prefix}{self.new_blocks[number]}.{tensor}"
        return _join(name, self.new_cuts[number], self.old_cuts[number], tensor)

    @staticmethod
    def _follow_table(
        dims: StackDims,
        new: tuple[LayerPlan, ...],
        old: tuple[LayerPlan, ...],
        tables_cut: tuple[bool, bool],
    ) -> Fate:
        """Return what becomes of the shared bias table [buckets, heads]."""
        old_heads, new_heads = (
            _first_heads(layers) if cut else tuple(range(dims.num_heads))
            for layers, cut in zip((old, new), tables_cut, strict=True)
        )
        if set(new_heads) <= set(old_heads):
            kept = tuple(old_heads.index(head) for head in new_heads)
            return Fate("", 1, None if new_heads == old_heads else kept)
        return Fate("", 1, None, (old_heads, dims.num_heads))


def _first_heads(layers: tuple[LayerPlan, ...]) -> tuple[int, ...]:
    return next(layer.kept_heads for layer in layers if not layer.dropped) or ()


def _join(name: str, new: BlockCuts, old: BlockCuts, tensor: str) -> Fate | None:
    """Express the cut of the dense tensor in positions of the source's, which may be cut before."""
    cut, before = new.find(tensor), old.find(tensor)
    if cut is None:
        return Fate(name)
    if cut.kept is None:
        return None
    return Fate(name, cut.axis, _find_positions(cut, before))


def _find_positions(cut: Cut, before: Cut | None) -> tuple[int, ...] | None:
    assert cut.kept is not None
    if before is None or before.kept is None:
        return cut.kept
    if before.kept == cut.kept:
        return None
    positions = {index: position for position, index in enumerate(before.kept)}
    return tuple(positions[index] for index in cut.kept)
