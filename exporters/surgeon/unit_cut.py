"""What stays along one axis of a value, and how it follows the value through reshapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class UnitCut:
    """The indices that stay along an axis.

    Attributes:
        mask: for each index of the dense axis whether it stays. None: the values along the axis
            are all equal, and any `count` of them stay.
        groups: with no mask, those that stay of equal groups along the axis; the values in each
            are equal, and equally many stay in all that do.
    """

    mask: Mask | None
    count: int
    total: int
    groups: Mask | None = None

    @classmethod
    def of(cls, mask: Mask) -> UnitCut:
        """Return the cut that keeps where `mask` is true."""
        return cls(mask, int(mask.sum()), len(mask))

    @classmethod
    def keep(cls, kept: Sequence[int], total: int) -> UnitCut:
        """Return the cut that keeps the indices `kept` of `total`."""
        mask = np.zeros(total, bool)
        mask[list(kept)] = True
        return cls.of(mask)

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """The indices that stay."""
        return np.arange(self.count) if self.mask is None else np.flatnonzero(self.mask)

    @property
    def key(self) -> bytes:
        """A key under which equal cuts are equal."""
        return b"" if self.mask is None else self.mask.tobytes()

    def agrees(self, other: UnitCut) -> bool:
        """Return whether the values that both leave are the same."""
        if self.total != other.total or self.count != other.count:
            return False
        if self.mask is not None and other.mask is not None:
            return bool((self.mask == other.mask).all())
        return self._fills(other) if other.mask is not None else other._fills(self)

    def _fills(self, other: UnitCut) -> bool:
        if self.groups is None or other.mask is None:
            return self.groups is None or other.groups is not None
        kept = other.mask.reshape(len(self.groups), -1).sum(axis=1)
        each = self.count // int(self.groups.sum())
        return bool((kept == np.where(self.groups, each, 0)).all())

    def is_within(self, other: UnitCut) -> bool:
        """Return whether `other` keeps all that this keeps."""
        if self.mask is None or other.mask is None or self.total != other.total:
            return False
        return bool((other.mask | ~self.mask).all())


Cuts = Mapping[int, UnitCut]  # by axis
Shape = tuple[int, ...]


class NotRegular(Exception):  # noqa: N818
    """What stays is no block of the reshaped value."""


def reshape_cuts(cuts: Cuts, shape: Shape, new_shape: Shape) -> dict[int, UnitCut]:
    """Return the cuts of a value after its dense version went from `shape` to `new_shape`.

    Raises:
        NotRegular: what stays cannot be said axis by axis.
    """
    found: dict[int, UnitCut] = {}
    for axes, new_axes in _group_axes(shape, new_shape):
        inside = [axis for axis in axes if axis in cuts]
        if not inside:
            continue
        wide = [axis for axis in axes if shape[axis] != 1]
        new_wide = [axis for axis in new_axes if new_shape[axis] != 1]
        if len(wide) == len(new_wide) == 1:
            found[new_wide[0]] = cuts[inside[0]]
            continue
        if len(wide) == 2 and len(new_wide) == 1 and wide[1] in cuts and cuts[wide[1]].mask is None:
            found[new_wide[0]] = _join_groups(cuts, shape, wide)
            continue
        whole = np.ones([shape[axis] for axis in axes], bool)
        for position, axis in enumerate(axes):
            if axis in cuts:
                whole &= _spread(cuts[axis], position, len(axes))
        found.update(_read_axes(whole.reshape([new_shape[a] for a in new_axes]), new_axes))
    return found


def _join_groups(cuts: Cuts, shape: Shape, axes: Sequence[int]) -> UnitCut:
    """Return the cut of groups of equal values that became one axis."""
    outer, inner = cuts.get(axes[0]), cuts[axes[1]]
    groups = np.ones(shape[axes[0]], bool) if outer is None else outer.mask
    if groups is None:
        raise NotRegular
    count = int(groups.sum()) * inner.count
    return UnitCut(None, count, shape[axes[0]] * shape[axes[1]], groups)


def _spread(cut: UnitCut, position: int, rank: int) -> Mask:
    if cut.mask is None:
        raise NotRegular
    return cut.mask.reshape([-1 if axis == position else 1 for axis in range(rank)])


def _read_axes(whole: Mask, axes: Sequence[int]) -> dict[int, UnitCut]:
    """Return the cut of each axis of a block of true values."""
    masks: list[Mask] = []
    for position in range(whole.ndim):
        others = tuple(axis for axis in range(whole.ndim) if axis != position)
        masks.append(np.asarray(whole.any(axis=others)))
    expected = math.prod(int(mask.sum()) for mask in masks)
    if int(whole.sum()) != expected:
        raise NotRegular
    return {
        axis: UnitCut.of(mask) for axis, mask in zip(axes, masks, strict=True) if not mask.all()
    }


def _group_axes(shape: Shape, new_shape: Shape) -> list[tuple[list[int], list[int]]]:
    """Return which axes become which: groups of equal size, as small as they can be."""
    groups = []
    i = j = 0
    while i < len(shape) or j < len(new_shape):
        axes: list[int] = []
        new_axes: list[int] = []
        size = new_size = 1
        if i < len(shape):
            axes.append(i)
            size, i = shape[i], i + 1
        while size != new_size or not new_axes:
            if new_size < size or (size == new_size and not new_axes and j < len(new_shape)):
                if j == len(new_shape):
                    raise NotRegular
                new_axes.append(j)
                new_size, j = new_size * new_shape[j], j + 1
            elif size < new_size:
                if i == len(shape):
                    raise NotRegular
                axes.append(i)
                size, i = size * shape[i], i + 1
            else:
                break
        groups.append((axes, new_axes))
    return groups
