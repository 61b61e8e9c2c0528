"""The shapes that operators give, for sizes that are all known.

Free dimensions that a graph does not relate to one another may disagree here (a mask's length and
the cache's): the longer one counts, since no unit of a model lies along either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from exporters.graphs.node_reading import read_attribute
from exporters.graphs.op_values import Fact

Facts = Sequence[Fact | None]
Rule = Callable[[ir.Node, Facts], list[Fact]]
Shape = tuple[int, ...]


class ShapeUnknown(Exception):  # noqa: N818
    """The shape does not follow from what is known."""


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """Return the shape of operands that are stretched to each other."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(0 if 0 in dims else max(dims) for dims in zip(*padded, strict=True))


def shape_of(facts: Facts, index: int) -> Shape:
    """Return the shape of an input."""
    fact = facts[index] if index < len(facts) else None
    if fact is None or fact.shape is None:
        raise ShapeUnknown
    return fact.shape


def integers_of(facts: Facts, index: int) -> list[int]:
    """Return the values of an input that says a shape, axes or indices."""
    fact = facts[index] if index < len(facts) else None
    if fact is None or fact.data is None:
        raise ShapeUnknown
    return [int(n) for n in fact.data.reshape(-1)]


def has_input(facts: Facts, index: int) -> bool:
    """Return whether an optional input is there."""
    return index < len(facts) and facts[index] is not None


def _broadcast_all(_node: ir.Node, facts: Facts) -> list[Fact]:
    shapes = [shape_of(facts, i) for i, fact in enumerate(facts) if fact is not None]
    return [Fact(broadcast(shapes))]


def _like_first(node: ir.Node, facts: Facts) -> list[Fact]:
    return [Fact(shape_of(facts, 0))] * len(node.outputs)


def _matmul(_node: ir.Node, facts: Facts) -> list[Fact]:
    a, b = shape_of(facts, 0), shape_of(facts, 1)
    if len(a) < 2 or len(b) < 2:
        raise ShapeUnknown
    return [Fact((*broadcast([a[:-2], b[:-2]]), a[-2], b[-1]))]


PRODUCTS = frozenset(("MatMul", "FusedMatMul"))


def product_axes(node: ir.Node, index: int, rank: int) -> list[int]:
    """Return which axis of an operand comes where, as its product takes it.

    ONNX Runtime's FusedMatMul transposes its operands: `trans` the last two axes, `transBatch` the
    first axis to the last but one (ContribOperators.md).
    """
    axes = list(range(rank))
    side = "AB"[index]
    if rank > 1 and read_attribute(node, f"transBatch{side}", 0):
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if rank > 1 and read_attribute(node, f"trans{side}", 0):
        axes[-2:] = axes[-1], axes[-2]
    return axes


def _fused_matmul(node: ir.Node, facts: Facts) -> list[Fact]:
    turned = []
    for index in (0, 1):
        shape = shape_of(facts, index)
        axes = product_axes(node, index, len(shape))
        turned.append(Fact(tuple(shape[axis] for axis in axes)))
    return _matmul(node, turned)


def _gemm(node: ir.Node, facts: Facts) -> list[Fact]:
    a, b = shape_of(facts, 0), shape_of(facts, 1)
    rows = a[1] if read_attribute(node, "transA", 0) else a[0]
    columns = b[0] if read_attribute(node, "transB", 0) else b[1]
    return [Fact((rows, columns))]


def _transpose(node: ir.Node, facts: Facts) -> list[Fact]:
    shape = shape_of(facts, 0)
    perm = read_attribute(node, "perm", None) or range(len(shape))[::-1]
    if sorted(perm) != list(range(len(shape))):
        raise ShapeUnknown
    return [Fact(tuple(shape[axis] for axis in perm))]


def _reshape(node: ir.Node, facts: Facts) -> list[Fact]:
    shape, asked = shape_of(facts, 0), integers_of(facts, 1)
    keep_zero = bool(read_attribute(node, "allowzero", 0))
    dims = [shape[i] if n == 0 and not keep_zero else n for i, n in enumerate(asked)]
    if -1 in dims:
        rest = math.prod(n for n in dims if n != -1)
        if not rest or math.prod(shape) % rest:
            raise ShapeUnknown
        dims[dims.index(-1)] = math.prod(shape) // rest
    if math.prod(dims) != math.prod(shape):
        raise ShapeUnknown
    return [Fact(tuple(dims))]


def _expand(_node: ir.Node, facts: Facts) -> list[Fact]:
    return [Fact(broadcast([shape_of(facts, 0), tuple(integers_of(facts, 1))]))]


def _squeeze(node: ir.Node, facts: Facts) -> list[Fact]:
    shape = shape_of(facts, 0)
    axes = integers_of(facts, 1) if has_input(facts, 1) else read_attribute(node, "axes", None)
    if axes is None:
        return [Fact(tuple(n for n in shape if n != 1))]
    gone = {axis % len(shape) for axis in axes}
    return [Fact(tuple(n for axis, n in enumerate(shape) if axis not in gone))]


def _unsqueeze(node: ir.Node, facts: Facts) -> list[Fact]:
    shape = shape_of(facts, 0)
    axes = integers_of(facts, 1) if has_input(facts, 1) else read_attribute(node, "axes", ())
    rank = len(shape) + len(axes)
    new = {axis % rank for axis in axes}
    left = iter(shape)
    return [Fact(tuple(1 if axis in new else next(left) for axis in range(rank)))]


def _concat(node: ir.Node, facts: Facts) -> list[Fact]:
    shapes = [shape_of(facts, i) for i in range(len(facts))]
    axis = read_attribute(node, "axis", 0) % len(shapes[0])
    dims = [max(sizes) for sizes in zip(*shapes, strict=True)]
    dims[axis] = sum(shape[axis] for shape in shapes)
    return [Fact(tuple(dims))]


def split_sizes(node: ir.Node, facts: Facts) -> tuple[int, list[int]]:
    """Return the axis of a Split, and the size of each part."""
    shape = shape_of(facts, 0)
    axis = read_attribute(node, "axis", 0) % len(shape)
    if has_input(facts, 1):
        return axis, integers_of(facts, 1)
    parts = len(node.outputs)
    size = -(-shape[axis] // parts)
    return axis, [min(size, shape[axis] - size * i) for i in range(parts)]


def _split(node: ir.Node, facts: Facts) -> list[Fact]:
    shape = shape_of(facts, 0)
    axis, sizes = split_sizes(node, facts)
    data = facts[0].data if facts[0] is not None else None
    if data is not None:  # ONNX Runtime splits a shape where exporters gather from it
        return [Fact.of(piece) for piece in np.split(data, np.cumsum(sizes)[:-1], axis)]
    return [Fact((*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]


def slice_ranges(_node: ir.Node, facts: Facts) -> dict[int, tuple[int, int, int]]:
    """Return, by axis, (start, end, step) of a Slice, counted from the front."""
    shape = shape_of(facts, 0)
    starts, ends = integers_of(facts, 1), integers_of(facts, 2)
    axes = integers_of(facts, 3) if has_input(facts, 3) else list(range(len(starts)))
    steps = integers_of(facts, 4) if has_input(facts, 4) else [1] * len(starts)
    found = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        chosen = range(shape[axis % len(shape)])[slice(start, end, step)]
        found[axis % len(shape)] = (chosen.start, chosen.stop, step)
    return found


def _slice(node: ir.Node, facts: Facts) -> list[Fact]:
    shape = list(shape_of(facts, 0))
    for axis, (start, end, step) in slice_ranges(node, facts).items():
        shape[axis] = len(range(start, end, step))
    return [Fact(tuple(shape))]


def _gather(node: ir.Node, facts: Facts) -> list[Fact]:
    shape, index = shape_of(facts, 0), shape_of(facts, 1)
    axis = read_attribute(node, "axis", 0) % len(shape)
    return [Fact((*shape[:axis], *index, *shape[axis + 1 :]))]


def _gather_nd(node: ir.Node, facts: Facts) -> list[Fact]:
    shape, index = shape_of(facts, 0), shape_of(facts, 1)
    taken = read_attribute(node, "batch_dims", 0) + index[-1]
    return [Fact((*index[:-1], *shape[taken:]))]


def _shape(node: ir.Node, facts: Facts) -> list[Fact]:
    shape = shape_of(facts, 0)
    chosen = shape[slice(read_attribute(node, "start", 0), read_attribute(node, "end", None))]
    return [Fact.of(np.array(chosen, np.int64))]


def _size(_node: ir.Node, facts: Facts) -> list[Fact]:
    return [Fact.of(np.array(math.prod(shape_of(facts, 0)), np.int64))]


def _constant_of_shape(_node: ir.Node, facts: Facts) -> list[Fact]:
    return [Fact(tuple(integers_of(facts, 0)))]


def _range(_node: ir.Node, _facts: Facts) -> list[Fact]:
    raise ShapeUnknown


def _reduce(node: ir.Node, facts: Facts) -> list[Fact]:
    shape = shape_of(facts, 0)
    axes = reduced_axes(node, facts)
    if read_attribute(node, "keepdims", 1):
        return [Fact(tuple(1 if axis in axes else n for axis, n in enumerate(shape)))]
    return [Fact(tuple(n for axis, n in enumerate(shape) if axis not in axes))]


def reduced_axes(node: ir.Node, facts: Facts) -> set[int]:
    """Return the axes over which a Reduce operator runs."""
    rank = len(shape_of(facts, 0))
    axes = integers_of(facts, 1) if has_input(facts, 1) else read_attribute(node, "axes", None)
    return {axis % rank for axis in axes} if axes is not None else set(range(rank))


def _tile(_node: ir.Node, facts: Facts) -> list[Fact]:
    shape = shape_of(facts, 0)
    return [Fact(tuple(n * r for n, r in zip(shape, integers_of(facts, 1), strict=True)))]


def _index_like_last(_node: ir.Node, facts: Facts) -> list[Fact]:
    return [Fact(shape_of(facts, 1))]


def _norm(node: ir.Node, facts: Facts) -> list[Fact]:
    shape = shape_of(facts, 0)
    axis = read_attribute(node, "axis", -1) % len(shape)
    inverse = (*shape[:axis], *(1 for _ in shape[axis:]))
    return [Fact(shape), *(Fact(inverse) for _ in node.outputs[1:])]


ELEMENTWISE = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "PRelu"),
        *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
        *("And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "Where", "FastGelu", "BiasGelu"),
    )
)
UNARY = frozenset(
    (
        *("Abs", "Cast", "CastLike", "Ceil", "Clip", "Dropout", "Floor", "Identity", "Round"),
        *("Exp", "Log", "Neg", "Not", "Reciprocal", "Sign", "Sqrt", "IsInf", "IsNaN"),
        *("Cos", "Erf", "Sigmoid", "Sin", "Tanh", "HardSigmoid", "Softplus"),
        *("Celu", "Elu", "Gelu", "HardSwish", "LeakyRelu", "Mish", "QuickGelu", "Relu", "Selu"),
        *("Silu", "Swish", "ThresholdedRelu"),
    )
)
SOFTMAXES = frozenset(("Softmax", "LogSoftmax"))
NORMS = frozenset(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"))
REDUCTIONS = frozenset(
    (
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"),
        *("ReduceL2", "ReduceSumSquare"),
    )
)
_LIKE_FIRST = UNARY | SOFTMAXES | {"Trilu", "CumSum", "ScatterND", "TensorScatter"}

SHAPE_RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _broadcast_all),
    **dict.fromkeys(_LIKE_FIRST, _like_first),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(NORMS, _norm),
    "MatMul": _matmul,
    "FusedMatMul": _fused_matmul,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Expand": _expand,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _index_like_last,
    "GatherND": _gather_nd,
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Tile": _tile,
}
