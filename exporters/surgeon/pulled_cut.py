"""Cuts a value that is not cut yet by cutting what it is made of.

For constants and caches behind a Transpose, and for grouped queries: a graph repeats each key head
once for each of its query heads (Expand, then Reshape), so that fewer queries a group mean fewer
copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from exporters.graphs.node_reading import Array, input_at, read_array, read_attribute
from exporters.graphs.op_values import UNKNOWN
from exporters.graphs.shape_rules import ELEMENTWISE, UNARY
from exporters.surgeon.unit_cut import Mask, UnitCut

if TYPE_CHECKING:
    from exporters.surgeon.graph_cutter import GraphCutter


# Integers of the same width: numpy takes slices of them fast, and knows no bfloat16.
_INTEGERS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class SlicedTensor(ir.LazyTensor):
    """What stays of `base` along `axis`."""

    def __init__(self, base: ir.TensorProtocol, axis: int, cut: UnitCut, name: str) -> None:
        shape = [int(n) for n in base.shape.numpy()]
        assert shape[axis] == cut.total, (name, shape, axis, cut.total)
        shape[axis] = cut.count
        self.base, self.axis, self.kept = base, axis, cut.kept

        def compute() -> ir.TensorProtocol:
            return ir.Tensor(self._take(), dtype=base.dtype, name=name)

        super().__init__(compute, base.dtype, ir.Shape(shape), name=name, cache=False)

    def _take(self) -> Array:
        whole = read_array(self.base)
        integer = _INTEGERS[whole.itemsize]
        return whole.view(integer).take(self.kept, axis=self.axis).view(whole.dtype)


def pull_cut(cutter: GraphCutter, value: ir.Value, axis: int, cut: UnitCut) -> ir.Value | None:
    """Return the value cut along `axis`, made by a copy of its node; None where that is no use."""
    node = value.producer()
    if node is None:
        held = cutter.cuts_of(value).get(axis)
        if held is not None and not held.agrees(cut):
            return None
        return cutter.cut_value(value, axis, cut, value.consumers()[0])
    if node.op_type == "Transpose":
        perm = read_attribute(node, "perm", None)
        rank = len(cutter.shape(value, node))
        return _copy(cutter, node, value, axis, cut, {0: (perm or range(rank)[::-1])[axis]})
    if node.op_type in UNARY:
        return _copy(cutter, node, value, axis, cut, {0: axis})
    if node.op_type in ELEMENTWISE:
        return _copy(cutter, node, value, axis, cut, _wide_operands(cutter, node, value, axis))
    if node.op_type == "Expand" and _is_repeated(cutter, node, axis):
        return _expand(cutter, node, value, axis, cut)
    if node.op_type == "Tile":
        return _tile(cutter, node, value, axis, cut)
    if node.op_type == "Reshape":
        return _repeat(cutter, node, value, axis, cut)
    return None


def _tile(
    cutter: GraphCutter, node: ir.Node, value: ir.Value, axis: int, cut: UnitCut
) -> ir.Value | None:
    """Return a copy of a Tile of fewer heads: DeBERTa repeats its positions for each row."""
    source, repeats = input_at(node, 0), cutter.dense.of(input_at(node, 1))
    if source is None or repeats is None or repeats.data is None or cut.mask is None:
        return None
    size, times = cutter.shape(source, node)[axis], int(repeats.data[axis])
    rows = cut.mask.reshape(times, size) if size * times == cut.total else None
    if rows is None or not (rows == rows[0]).all():
        return None
    pulled = pull_cut(cutter, source, axis, UnitCut.of(rows[0]))
    if pulled is None:
        return None
    return _insert(cutter, node, [pulled, *node.inputs[1:]], value, axis, cut)


def _copy(
    cutter: GraphCutter,
    node: ir.Node,
    value: ir.Value,
    axis: int,
    cut: UnitCut,
    axes: dict[int, int],
) -> ir.Value | None:
    """Return the output of a copy of a node whose inputs are cut along `axes`."""
    inputs = list(node.inputs)
    for index, input_axis in axes.items():
        source = node.inputs[index]
        assert source is not None
        pulled = pull_cut(cutter, source, input_axis, cut)
        if pulled is None:
            return None
        inputs[index] = pulled
    return _insert(cutter, node, inputs, value, axis, cut)


def _wide_operands(
    cutter: GraphCutter, node: ir.Node, value: ir.Value, axis: int
) -> dict[int, int]:
    from_end = axis - len(cutter.shape(value, node))
    shapes = {
        index: cutter.shape(operand, node)
        for index, operand in enumerate(node.inputs)
        if operand is not None
    }
    return {
        index: len(shape) + from_end
        for index, shape in shapes.items()
        if len(shape) >= -from_end and shape[from_end] != 1
    }


def _is_repeated(cutter: GraphCutter, node: ir.Node, axis: int) -> bool:
    """Return whether an Expand makes an axis of equal entries."""
    source = node.inputs[0]
    assert source is not None
    shape, new_shape = cutter.shape(source, node), cutter.shape(node.outputs[0], node)
    source_axis = axis - len(new_shape) + len(shape)
    return source_axis < 0 or shape[source_axis] == 1


def _expand(
    cutter: GraphCutter, node: ir.Node, value: ir.Value, axis: int, cut: UnitCut
) -> ir.Value:
    copy = _clone(node, list(node.inputs))
    cuts = {**cutter.cuts_of(value), axis: UnitCut(None, cut.count, cut.total)}
    output = cutter.insert_after(value, copy, cuts)
    cutter.mend_shape(copy, 1, cuts)
    return output


def _repeat(
    cutter: GraphCutter, node: ir.Node, value: ir.Value, axis: int, cut: UnitCut
) -> ir.Value | None:
    """Return repeated key heads with fewer copies of each: Reshape(Expand(keys))."""
    source = input_at(node, 0)
    expand = None if source is None else source.producer()
    if expand is None or source is None or expand.op_type != "Expand" or cut.mask is None:
        return None
    shape, new_shape = cutter.shape(source, node), cutter.shape(value, node)
    groups_axis = axis
    repeats_axis = axis + 1
    if (
        len(shape) != len(new_shape) + 1
        or shape[groups_axis] * shape[repeats_axis] != new_shape[axis]
        or not _is_repeated(cutter, expand, repeats_axis)
    ):
        return None
    kept = cut.mask.reshape(shape[groups_axis], shape[repeats_axis])
    groups, copies = kept.any(axis=1), sorted(set(kept.sum(axis=1)) - {0})
    held = cutter.cuts_of(source).get(groups_axis)
    held_groups: Mask | None = np.ones(shape[groups_axis], bool) if held is None else held.mask
    if len(copies) != 1 or held_groups is None or not np.array_equal(groups, held_groups):
        return None
    repeats = UnitCut(None, int(copies[0]), shape[repeats_axis])
    key = ("repeat", source, repeats.count)
    if key not in cutter.made:
        cutter.made[key] = (
            source
            if repeats.count == repeats.total
            else _expand(cutter, expand, source, repeats_axis, repeats)
        )
    copy = _clone(node, [cutter.made[key], *node.inputs[1:]])
    output = cutter.insert_after(value, copy, {**cutter.cuts_of(value), axis: cut})
    cutter.mend_shape(copy, 1, cutter.cuts_of(output))
    return output


def _insert(
    cutter: GraphCutter,
    node: ir.Node,
    inputs: list[ir.Value | None],
    value: ir.Value,
    axis: int,
    cut: UnitCut,
) -> ir.Value:
    copy = _clone(node, inputs)
    output = cutter.insert_after(value, copy, {**cutter.cuts_of(value), axis: cut})
    (fact,) = cutter.dense.infer(copy, cutter.facts_now(copy))
    assert fact is UNKNOWN or fact.shape == cutter.fact_now(output).shape, (node.name, fact)
    return output


def _clone(node: ir.Node, inputs: list[ir.Value | None]) -> ir.Node:
    copy = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        list(node.attributes.values()),
        num_outputs=1,
    )
    copy.metadata_props.update(node.metadata_props)
    return copy
