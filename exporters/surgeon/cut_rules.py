"""How cuts go through the operators of ONNX: one rule for each.

A rule gets a node of which an input is cut, and returns the cuts of its outputs. It may slice the
other operands, mend a shape, or refuse (`NirvanaError`, `NotRegular`). For heads 2 and 3 of 4:

    Add [B, S, 4, 2] + bias [4, 2]     `align`: the bias has axis 0 where the output has axis 2, and
                                       is sliced to [2, 2]; an axis of size 1 is left, it broadcasts
    Concat of keys and values          masks are put one behind the other: 0011 and 0011 -> 00110011
    Split in two, as of a fused qkv    the mask is cut in two, and the sizes become its counts
    Slice [1:3] of the heads           the mask 0011 gives 01; the bounds become those among the
                                       kept: [0:1]
    Gather of heads [3, 1]             head 1 is gone: the index becomes [1], where head 3 is now
    ReduceSum over the heads           refused: it mixes what the plan takes apart
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporters.graphs.node_reading import input_at, name_node, need_input, read_attribute
from exporters.graphs.shape_rules import (
    ELEMENTWISE,
    NORMS,
    PRODUCTS,
    REDUCTIONS,
    SOFTMAXES,
    UNARY,
    product_axes,
    reduced_axes,
    slice_ranges,
    split_sizes,
)
from exporters.surgeon.graph_cutter import NO_CUTS, GraphCutter
from exporters.surgeon.unit_cut import Mask, NotRegular, UnitCut, reshape_cuts
from pruning.errors import NirvanaError

Outputs = Sequence[Mapping[int, UnitCut]]
Rule = Callable[[GraphCutter, ir.Node], Outputs]
Placement = tuple[int, Mapping[int, int]]  # index of an input, and which axis of it goes where


def align(
    cutter: GraphCutter, node: ir.Node, placements: Sequence[Placement]
) -> dict[int, UnitCut]:
    """Bring operands to the same cuts, in place, and return those of the output.

    Where they differ, the narrowest counts: with grouped queries, keys come with more heads than
    the queries that they meet.
    """
    found: dict[int, UnitCut] = {}
    for index, axes in placements:
        for axis, cut in cutter.cuts_of(need_input(node, index)).items():
            if axis in axes:
                other = found.get(axes[axis])
                found[axes[axis]] = cut if other is None else _narrower(cut, other, node)
    for index, axes in placements:
        shape = cutter.shape(need_input(node, index), node)
        for axis, out_axis in axes.items():
            if out_axis in found and shape[axis] != 1:
                cutter.take(node, index, axis, found[out_axis])
    return found


def _narrower(cut: UnitCut, other: UnitCut, node: ir.Node) -> UnitCut:
    if cut.agrees(other):
        return other if cut.mask is None else cut
    for inner, outer in ((cut, other), (other, cut)):
        if inner.is_within(outer):
            return inner
    raise NirvanaError(
        f"{name_node(node)}: it joins units of which the plan keeps different ones. The graph is "
        "not what the wiring says."
    )


def require_whole(cutter: GraphCutter, node: ir.Node, index: int, axes: Sequence[int]) -> None:
    """Raise NirvanaError if an input is cut along one of the axes that the operator mixes."""
    value = input_at(node, index)
    if any(axis in cutter.cuts_of(value) for axis in axes):
        raise NirvanaError(
            f"{name_node(node)}: it mixes units that the plan takes apart ({value and value.name})."
        )


def present(node: ir.Node) -> list[int]:
    """Return the indices of the inputs that are there."""
    return [index for index, value in enumerate(node.inputs) if value is not None]


def rank_of(cutter: GraphCutter, node: ir.Node, index: int) -> int:
    """Return the rank of an input."""
    return len(cutter.shape(need_input(node, index), node))


def _elementwise(cutter: GraphCutter, node: ir.Node) -> Outputs:
    ranks = {index: rank_of(cutter, node, index) for index in present(node)}
    whole = max(ranks.values())
    placements = [
        (index, {axis: axis + whole - rank for axis in range(rank)})
        for index, rank in ranks.items()
    ]
    return [align(cutter, node, placements)]


def _unary(cutter: GraphCutter, node: ir.Node) -> Outputs:
    return [cutter.cuts_of(node.inputs[0])] * len(node.outputs)


def _matmul(cutter: GraphCutter, node: ir.Node) -> Outputs:
    # Which axis of each operand comes where: FusedMatMul transposes them.
    a, b = (product_axes(node, index, rank_of(cutter, node, index)) for index in (0, 1))
    require_whole(cutter, node, 0, [a[-1]])
    require_whole(cutter, node, 1, [b[-2]])
    rank = max(len(a), len(b))
    left = {axis: place + rank - len(a) for place, axis in enumerate(a[:-1])}
    right = {axis: place + rank - len(b) for place, axis in enumerate(b) if place != len(b) - 2}
    return [align(cutter, node, [(0, left), (1, right)])]


def _softmax(cutter: GraphCutter, node: ir.Node) -> Outputs:
    require_whole(cutter, node, 0, [read_attribute(node, "axis", -1) % rank_of(cutter, node, 0)])
    return [cutter.cuts_of(node.inputs[0])]


def _norm(cutter: GraphCutter, node: ir.Node) -> Outputs:
    rank = rank_of(cutter, node, 0)
    require_whole(cutter, node, 0, range(read_attribute(node, "axis", -1) % rank, rank))
    return [cutter.cuts_of(node.inputs[0])] * len(node.outputs)


def _reduce(cutter: GraphCutter, node: ir.Node) -> Outputs:
    axes = reduced_axes(node, cutter.facts_now(node))
    require_whole(cutter, node, 0, sorted(axes))
    cuts = cutter.cuts_of(node.inputs[0])
    if read_attribute(node, "keepdims", 1):
        return [cuts]
    return [{axis - sum(gone < axis for gone in axes): cut for axis, cut in cuts.items()}]


def _transpose(cutter: GraphCutter, node: ir.Node) -> Outputs:
    perm = list(read_attribute(node, "perm", None) or range(rank_of(cutter, node, 0))[::-1])
    return [{perm.index(axis): cut for axis, cut in cutter.cuts_of(node.inputs[0]).items()}]


def _reshape(cutter: GraphCutter, node: ir.Node) -> Outputs:
    value = need_input(node, 0)
    shapes = cutter.shape(value, node), cutter.shape(node.outputs[0], node)
    cuts = reshape_cuts(cutter.cuts_of(value), *shapes)
    if node.op_type == "Reshape":
        cutter.mend_shape(node, 1, cuts)
    return [cuts]


def _expand(cutter: GraphCutter, node: ir.Node) -> Outputs:
    shift = len(cutter.shape(node.outputs[0], node)) - rank_of(cutter, node, 0)
    cuts = {axis + shift: cut for axis, cut in cutter.cuts_of(node.inputs[0]).items()}
    dense, now = cutter.dense.of(node.inputs[1]), cutter.fact_now(need_input(node, 1))
    if dense is not None and dense.data is not None and now.data is not None:
        for axis, (old, new) in enumerate(zip(dense.data, now.data, strict=True)):
            if axis not in cuts and old != new:  # it takes its shape from what was cut
                cuts[axis] = UnitCut(None, int(new), int(old))
    cutter.mend_shape(node, 1, cuts)
    return [cuts]


def _concat(cutter: GraphCutter, node: ir.Node) -> Outputs:
    rank = rank_of(cutter, node, 0)
    axis = read_attribute(node, "axis", 0) % rank
    others = {other: other for other in range(rank) if other != axis}
    cuts = align(cutter, node, [(index, others) for index in present(node)])
    if any(axis in cutter.cuts_of(value) for value in node.inputs):
        cuts[axis] = UnitCut.of(
            np.concatenate([_mask_of(cutter, node, index, axis) for index in present(node)])
        )
    return [cuts]


def _mask_of(cutter: GraphCutter, node: ir.Node, index: int, axis: int) -> Mask:
    value = need_input(node, index)
    cut = cutter.cuts_of(value).get(axis)
    if cut is None:
        return np.ones(cutter.shape(value, node)[axis], bool)
    if cut.mask is None:
        raise NotRegular
    return cut.mask


def _split(cutter: GraphCutter, node: ir.Node) -> Outputs:
    value = need_input(node, 0)
    axis, sizes = split_sizes(node, [cutter.dense.of(operand) for operand in node.inputs])
    cuts = cutter.cuts_of(value)
    if axis not in cuts:
        return [cuts] * len(node.outputs)
    cutter.require_fixed(value, axis, node)
    pieces = np.split(_mask_of(cutter, node, 0, axis), np.cumsum(sizes)[:-1])
    counts = cutter.add_array("kept_split", np.array([piece.sum() for piece in pieces], np.int64))
    node.attributes.pop("num_outputs", None)
    if len(node.inputs) > 1:
        node.replace_input_with(1, counts)
    else:
        node.resize_inputs(2)
        node.replace_input_with(1, counts)
    others = {other: cut for other, cut in cuts.items() if other != axis}
    # Of a fused projection, a piece may be one that the plan keeps whole.
    return [others if piece.all() else {**others, axis: UnitCut.of(piece)} for piece in pieces]


def _slice(cutter: GraphCutter, node: ir.Node) -> Outputs:
    value = need_input(node, 0)
    cuts = dict(cutter.cuts_of(value))
    ranges = slice_ranges(node, [cutter.dense.of(operand) for operand in node.inputs])
    wanted = {axis: bounds for axis, bounds in ranges.items() if axis in cuts}
    bounds = {}
    for axis, (start, end, step) in wanted.items():
        mask = _mask_of(cutter, node, 0, axis)
        if step != 1:
            raise NotRegular
        cutter.require_fixed(value, axis, node)
        cuts[axis] = UnitCut.of(mask[start:end])
        bounds[axis] = (int(mask[:start].sum()), int(mask[:end].sum()))
    if bounds:
        _mend_bounds(cutter, node, bounds)
    return [{axis: cut for axis, cut in cuts.items() if cut.mask is None or not cut.mask.all()}]


def _mend_bounds(cutter: GraphCutter, node: ir.Node, bounds: Mapping[int, tuple[int, int]]) -> None:
    facts = cutter.facts_now(node)
    rank = rank_of(cutter, node, 0)
    axes = facts[3] if len(facts) > 3 else None
    for index in (1, 2):
        fact = facts[index]
        assert fact is not None and fact.data is not None
        positions = range(fact.data.size) if axes is None or axes.data is None else axes.data
        changed = np.array(fact.data).reshape(-1)
        for position, axis in enumerate(positions):
            if int(axis) % rank in bounds:
                changed[position] = bounds[int(axis) % rank][index - 1]
        if not np.array_equal(changed, fact.data.reshape(-1)):
            node.replace_input_with(index, cutter.add_array("kept_bound", changed))


def _gather(cutter: GraphCutter, node: ir.Node) -> Outputs:
    shape = cutter.shape(need_input(node, 0), node)
    axis = read_attribute(node, "axis", 0) % len(shape)
    cuts = cutter.cuts_of(node.inputs[0])
    if cutter.cuts_of(node.inputs[1]):
        raise NotRegular
    inserted = rank_of(cutter, node, 1)
    outputs = {
        other if other < axis else other + inserted - 1: cut
        for other, cut in cuts.items()
        if other != axis
    }
    if axis not in cuts:
        return [outputs]
    cutter.require_fixed(need_input(node, 0), axis, node)
    fact, mask = cutter.dense.of(node.inputs[1]), _mask_of(cutter, node, 0, axis)
    if fact is None or fact.data is None:
        raise NotRegular
    index = np.asarray(fact.data, np.int64) % shape[axis]
    kept = mask[index]
    if index.ndim == 0 or not kept.all():
        if index.ndim != 1:
            raise NotRegular
        outputs[axis] = UnitCut.of(kept)
    positions = (np.cumsum(mask) - 1)[index[kept]]
    node.replace_input_with(1, cutter.add_array("kept_index", positions.astype(np.int64)))
    return [outputs]


def _gather_elements(cutter: GraphCutter, node: ir.Node) -> Outputs:
    rank = rank_of(cutter, node, 0)
    axis = read_attribute(node, "axis", 0) % rank
    for index in (0, 1):
        require_whole(cutter, node, index, [axis])
    others = {other: other for other in range(rank) if other != axis}
    return [align(cutter, node, [(0, others), (1, others)])]


def _tile(cutter: GraphCutter, node: ir.Node) -> Outputs:
    fact = cutter.dense.of(node.inputs[1])
    if fact is None or fact.data is None:
        raise NotRegular
    repeats = [int(n) for n in fact.data]
    cuts = cutter.cuts_of(node.inputs[0])
    return [
        {axis: UnitCut.of(np.tile(_mask_of(cutter, node, 0, axis), repeats[axis])) for axis in cuts}
    ]


def _last_two_whole(cutter: GraphCutter, node: ir.Node) -> Outputs:
    rank = rank_of(cutter, node, 0)
    require_whole(cutter, node, 0, [rank - 2, rank - 1])
    return [cutter.cuts_of(node.inputs[0])]


def _tell_shape(_cutter: GraphCutter, _node: ir.Node) -> Outputs:
    return [NO_CUTS]


def _same_axes(cutter: GraphCutter, node: ir.Node) -> Outputs:
    """A cache and what is written into it: the same heads, other lengths."""
    rank = rank_of(cutter, node, 0)
    axis = read_attribute(node, "axis", -2) % rank
    others = {other: other for other in range(rank) if other != axis}
    return [align(cutter, node, [(0, others), (1, others)])]


# Their other inputs are scales, biases, bounds and sizes.
OF_THE_FIRST = (_unary, _softmax, _norm, _reduce, _split, _slice, _tile, _last_two_whole)
CUT_RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(SOFTMAXES, _softmax),
    **dict.fromkeys(NORMS, _norm),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten"), _reshape),
    **dict.fromkeys(PRODUCTS, _matmul),
    "Transpose": _transpose,
    "Expand": _expand,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Tile": _tile,
    "Trilu": _last_two_whole,
    "Shape": _tell_shape,
    "Size": _tell_shape,
    "TensorScatter": _same_axes,
}
