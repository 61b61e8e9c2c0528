"""Which nodes of a graph must keep computing in float32 when the rest becomes float16 or bfloat16.

Models say so in their code (norms and rotary angles are computed in float32 whatever the weights
are), but a graph traced in float32 has no trace of it. So it is read from the graph:

- What a sine, a cosine or an index is computed from. Positions are integers: float16 has them only
  up to 2048, bfloat16 up to 256, and from there on two tokens would have one position.
- Norms in parts, from the square to its root: squares overflow float16 from 256 on. Norms that are
  one operator compute in float32 inside (stash_type), and so does each runtime's Softmax.
- What the operator's schema does not have in the half type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    import onnx

_SQUARES = ("Pow", "ReduceMean", "ReduceSumSquare", "ReduceL2", "Sqrt", "Reciprocal")
_ANGLES = ("Sin", "Cos")


def find_float_nodes(graph: ir.Graph, dtype: ir.DataType) -> set[ir.Node]:
    """Return the nodes with floats that have to stay in float32 beside others in `dtype`."""
    nodes = list(graph)
    kept = {node for node in nodes if node.op_type in _SQUARES and has_floats(node)}
    kept |= {node for node in nodes if _squares_for_a_mean(node)}
    kept |= {node for node in nodes if has_floats(node) and not _knows(node, dtype)}
    kept |= _list_ancestors(node for node in nodes if node.op_type in _ANGLES or _to_integer(node))
    while between := {node for node in nodes if node not in kept and _is_between(node, kept)}:
        kept |= between
    return kept


def has_floats(node: ir.Node) -> bool:
    """Return whether a node takes or gives float32."""
    return any(map(is_float, (*node.inputs, *node.outputs)))


def is_float(value: ir.Value | None) -> bool:
    """Return whether a value is float32."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def _squares_for_a_mean(node: ir.Node) -> bool:
    """Return whether a node multiplies a value by itself, for a mean of squares."""
    return (
        node.op_type == "Mul"
        and node.inputs[0] is node.inputs[1]
        and any(user.op_type == "ReduceMean" for user in node.outputs[0].consumers())
    )


def _to_integer(node: ir.Node) -> bool:
    """Return whether a node makes an integer of a float."""
    integers = (ir.DataType.INT64, ir.DataType.INT32)
    return node.op_type == "Cast" and is_float(node.inputs[0]) and node.outputs[0].dtype in integers


def _list_ancestors(ends: Iterable[ir.Node]) -> set[ir.Node]:
    """Return these nodes, and all from which floats reach them."""
    found: set[ir.Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        makers = (
            value.producer() for value in node.inputs if value is not None and is_float(value)
        )
        waiting += [maker for maker in makers if maker is not None]
    return found


def _list_makers(node: ir.Node) -> list[ir.Node]:
    """Return the nodes that floats come from; weights and inputs come from none."""
    makers = [value.producer() for value in node.inputs if value is not None and is_float(value)]
    return [maker for maker in makers if maker is not None]


def _is_between(node: ir.Node, kept: set[ir.Node]) -> bool:
    """Return whether floats come from kept nodes only, and go to kept ones only."""
    if not any(map(is_float, node.outputs)):
        return False
    makers = _list_makers(node)
    users = [user for value in node.outputs for user in value.consumers()]
    ends = any(value.is_graph_output() for value in node.outputs)
    return bool(makers) and bool(users) and not ends and kept.issuperset([*makers, *users])


def _knows(node: ir.Node, dtype: ir.DataType) -> bool:
    """Return whether the operator exists in `dtype`; one that is not ONNX's own is taken to."""
    import onnx

    if node.domain not in ("", "ai.onnx"):
        return True
    graph = node.graph
    version = node.version or (graph.opset_imports.get("", 18) if graph is not None else 18)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return True
    wanted = f"tensor({'float16' if dtype == ir.DataType.FLOAT16 else 'bfloat16'})"
    floats = [
        _constraint_of(schema.inputs, index)
        for index, value in enumerate(node.inputs)
        if is_float(value)
    ]
    floats += [
        _constraint_of(schema.outputs, index)
        for index, value in enumerate(node.outputs)
        if is_float(value)
    ]
    return all(wanted in types for types in floats)


def _constraint_of(
    parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int
) -> set[str]:
    """Return the types that the parameter at `index` may have; the last one may repeat."""
    return set(parameters[min(index, len(parameters) - 1)].types)
