"""Computes small values that depend on shapes: what exporters write to say a shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporters.graphs.node_reading import read_attribute

Array = npt.NDArray[np.generic]
# Larger values are not computed: shapes and indices are smaller, weights are not wanted.
MAX_ELEMENTS = 4096


@dataclass(frozen=True, slots=True)
class Fact:
    """The shape of a value, and the value itself where it is small and depends on shapes alone.

    Attributes:
        shape: None where it could not be told.
    """

    shape: tuple[int, ...] | None
    data: Array | None = None

    @classmethod
    def of(cls, data: Array) -> Fact:
        """Return what is known of an array, which is kept where it is small."""
        return cls(data.shape, data if data.size <= MAX_ELEMENTS else None)

    def same(self, other: Fact) -> bool:
        """Return whether both say the same."""
        if self.shape != other.shape or (self.data is None) != (other.data is None):
            return False
        return self.data is None or bool(np.array_equal(self.data, other.data))  # type: ignore[arg-type]


UNKNOWN = Fact(None)


_MOST_ELEMENTS = 1 << 24
Compute = Callable[[ir.Node, Sequence[Any]], Array]


def _divide(a: Any, b: object) -> object:
    if np.issubdtype(a.dtype, np.integer):
        return (np.trunc(a / b)).astype(a.dtype)  # ONNX rounds towards zero
    return a / b


def _slice(_node: ir.Node, x: Sequence[Any]) -> Array:
    data, starts, ends = x[0], x[1], x[2]
    axes = x[3] if len(x) > 3 and x[3] is not None else range(len(starts))
    steps = x[4] if len(x) > 4 and x[4] is not None else [1] * len(starts)
    index = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = data.shape[axis]
        index[int(axis)] = slice(*_clip(int(start), int(end), int(step), size))
    return np.asarray(data[tuple(index)])


def _clip(start: int, end: int, step: int, size: int) -> tuple[int, int | None, int]:
    found = range(size)[slice(start, end, step)]
    stop: int | None = found.stop
    return found.start, None if step < 0 and found.stop < 0 else stop, step


def _reshape(_node: ir.Node, x: Sequence[Any]) -> Array:
    shape = [x[0].shape[i] if n == 0 else int(n) for i, n in enumerate(x[1])]
    return np.asarray(x[0].reshape(shape))


def _squeeze(node: ir.Node, x: Sequence[Any]) -> Array:
    axes = x[1] if len(x) > 1 and x[1] is not None else read_attribute(node, "axes", None)
    return np.asarray(np.squeeze(x[0], None if axes is None else tuple(int(a) for a in axes)))


def _unsqueeze(node: ir.Node, x: Sequence[Any]) -> Array:
    axes = x[1] if len(x) > 1 else read_attribute(node, "axes", ())
    return np.asarray(np.expand_dims(x[0], tuple(int(a) for a in np.atleast_1d(axes))))


def _cast(node: ir.Node, x: Sequence[object]) -> Array:
    target = ir.DataType(read_attribute(node, "to", 1)).numpy()
    return np.asarray(np.asarray(x[0]).astype(target))


def _bound(shape: Any) -> tuple[int, ...]:
    """Return a shape; raise ValueError for one that no value that says a shape would have."""
    sizes = tuple(int(n) for n in shape)
    if math.prod(sizes) > _MOST_ELEMENTS:
        raise ValueError(f"{sizes} is too large a shape to compute with.")
    return sizes


def _range(_node: ir.Node, x: Sequence[Any]) -> Array:
    start, end, step = (part.item() for part in x)
    _bound([max(0.0, (end - start) / step)] if step else [0])
    return np.arange(start, end, step, dtype=x[0].dtype)


def _constant_of_shape(node: ir.Node, x: Sequence[Any]) -> Array:
    value = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if value is None else value.as_tensor().numpy()
    return np.full(_bound(x[0]), fill.item(), fill.dtype)


def _gather(node: ir.Node, x: Sequence[Any]) -> Array:
    return np.asarray(np.take(x[0], x[1], axis=read_attribute(node, "axis", 0)))


def _reduce(fold: Callable[..., object]) -> Compute:
    def compute(node: ir.Node, x: Sequence[Any]) -> Array:
        axes = x[1] if len(x) > 1 and x[1] is not None else read_attribute(node, "axes", None)
        chosen = None if axes is None else tuple(int(a) for a in axes)
        keep = bool(read_attribute(node, "keepdims", 1))
        return np.asarray(fold(x[0], axis=chosen, keepdims=keep))

    return compute


def _plain(function: Callable[..., object]) -> Compute:
    return lambda _node, x: np.asarray(function(*x))


VALUE_OPS: dict[str, Compute] = {
    "Add": _plain(np.add),
    "Sub": _plain(np.subtract),
    "Mul": _plain(np.multiply),
    "Div": _plain(_divide),
    "Mod": _plain(np.mod),
    "Neg": _plain(np.negative),
    "Abs": _plain(np.abs),
    "Sqrt": _plain(np.sqrt),
    "Floor": _plain(np.floor),
    "Ceil": _plain(np.ceil),
    "Pow": _plain(np.power),
    "Reciprocal": _plain(np.reciprocal),
    "Equal": _plain(np.equal),
    "Less": _plain(np.less),
    "LessOrEqual": _plain(np.less_equal),
    "Greater": _plain(np.greater),
    "GreaterOrEqual": _plain(np.greater_equal),
    "And": _plain(np.logical_and),
    "Or": _plain(np.logical_or),
    "Not": _plain(np.logical_not),
    "Where": _plain(np.where),
    "Min": lambda _node, x: np.asarray(reduce(np.minimum, x)),
    "Max": lambda _node, x: np.asarray(reduce(np.maximum, x)),
    "Identity": lambda _node, x: np.asarray(x[0]),
    "Cast": _cast,
    "Concat": lambda node, x: np.concatenate(list(x), axis=read_attribute(node, "axis", 0)),
    "Gather": _gather,
    "Slice": _slice,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": lambda node, x: np.transpose(x[0], read_attribute(node, "perm", None)),
    "Expand": lambda _node, x: np.asarray(x[0] * np.ones(_bound(x[1]), x[0].dtype)),
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
}
