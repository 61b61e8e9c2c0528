"""Mends the operands that say shapes, where an axis has fewer entries than the dense graph's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from exporters.graphs.node_reading import name_node, need_input
from exporters.graphs.op_values import Array
from exporters.surgeon.unit_cut import UnitCut
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    from exporters.surgeon.graph_cutter import GraphCutter


def mend_shape(cutter: GraphCutter, node: ir.Node, index: int, cuts: Mapping[int, UnitCut]) -> None:
    """Replace the counts of a shape operand that are still the dense ones, in place.

    A count that is -1 or 0, or that comes from a value that was cut, follows by itself.
    """
    operand = need_input(node, index)
    data = cutter.fact_now(operand).data
    if data is None:
        raise NirvanaError(
            f"{name_node(node)}: its shape {operand.name} does not follow from the graph, so that "
            "it cannot be mended for the units that are left."
        )
    wanted = {
        axis: cut.count for axis, cut in cuts.items() if int(data[axis]) not in (-1, 0, cut.count)
    }
    for axis in wanted:
        cutter.require_fixed(node.outputs[0], axis, node)
    if wanted:
        key = ("shape", operand, tuple(sorted(wanted.items())))
        if key not in cutter.made:
            cutter.made[key] = _make_shape(cutter, operand, wanted)
        node.replace_input_with(index, cutter.made[key])


def mend_divisor(cutter: GraphCutter, node: ir.Node) -> None:
    """Replace the dense count by which a length was divided that has fewer units now, in place.

    DeBERTa has batch and heads on one axis, and takes the batch from it so.
    """
    if node.op_type != "Div":
        return
    facts = [cutter.dense.of(value) for value in node.inputs]
    dense = [None if fact is None else fact.data for fact in facts]
    now = cutter.fact_now(need_input(node, 0)).data
    if now is None or dense[0] is None or dense[1] is None or now.size != 1 or dense[1].size != 1:
        return
    length, divisor, left = (int(data.item()) for data in (dense[0], dense[1], now))
    divides = length and divisor and length % divisor == 0
    if divides and left != length and left * divisor % length == 0:
        new = np.full_like(dense[1], left * divisor // length)
        node.replace_input_with(1, cutter.add_array("kept_divisor", new))


def _make_shape(cutter: GraphCutter, operand: ir.Value, wanted: Mapping[int, int]) -> ir.Value:
    producer = operand.producer()
    data = cutter.fact_now(operand).data
    assert data is not None
    if producer is None or operand.is_initializer():
        changed = np.array(data)
        for axis, count in wanted.items():
            changed[axis] = count
        return cutter.add_array("kept_shape", changed)
    if producer.op_type == "Concat":
        pieces = _replace_pieces(cutter, producer, wanted)
        if pieces is not None:
            return _concat(cutter, operand, pieces)
    return _concat(cutter, operand, _cut_up(cutter, operand, len(data), wanted))


def _replace_pieces(
    cutter: GraphCutter, concat: ir.Node, wanted: Mapping[int, int]
) -> list[ir.Value] | None:
    """Return the pieces of a shape with the counts put in; None where a piece has several."""
    pieces: list[ir.Value] = []
    start = 0
    for value in concat.inputs:
        assert value is not None
        data = cutter.fact_now(value).data
        if data is None:
            return None
        inside = {axis - start: n for axis, n in wanted.items() if 0 <= axis - start < len(data)}
        if inside and len(data) > 1 and not value.is_initializer():
            return None
        pieces.append(value if not inside else _change(cutter, data, inside))
        start += len(data)
    return pieces


def _change(cutter: GraphCutter, data: Array, counts: Mapping[int, int]) -> ir.Value:
    changed = np.array(data)
    for position, count in counts.items():
        changed[position] = count
    return cutter.add_array("kept_shape", changed)


def _cut_up(
    cutter: GraphCutter, operand: ir.Value, length: int, wanted: Mapping[int, int]
) -> list[ir.Value]:
    """Return slices of a computed shape with the counts between them."""
    pieces: list[ir.Value] = []
    start = 0
    for axis, count in sorted(wanted.items()):
        if axis > start:
            pieces.append(_slice(cutter, operand, start, axis))
        pieces.append(cutter.add_array("kept_shape", np.array([count], np.int64)))
        start = axis + 1
    return [*pieces, *([_slice(cutter, operand, start, length)] if start < length else [])]


def _slice(cutter: GraphCutter, operand: ir.Value, start: int, end: int) -> ir.Value:
    bounds = [cutter.add_array("kept_bound", np.array([n], np.int64)) for n in (start, end)]
    return _insert(cutter, operand, ir.node("Slice", [operand, *bounds]))


def _concat(cutter: GraphCutter, operand: ir.Value, pieces: list[ir.Value]) -> ir.Value:
    return _insert(cutter, operand, ir.node("Concat", pieces, {"axis": 0}))


def _insert(cutter: GraphCutter, operand: ir.Value, node: ir.Node) -> ir.Value:
    """Put a node behind all that its inputs come from."""
    (output,) = node.outputs
    output.name = cutter.fresh_name(f"{operand.name}.kept")
    output.dtype = ir.DataType.INT64
    node.name = output.name
    producers = {value.producer() for value in (operand, *node.inputs) if value is not None}
    last = next(other for other in reversed(cutter.graph) if other in producers)
    cutter.graph.insert_after(last, node)
    (fact,) = cutter.dense.infer(node, cutter.facts_now(node))
    cutter.dense.record(output, fact)
    return output
