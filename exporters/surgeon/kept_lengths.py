"""Takes lengths from elsewhere that a graph asks a dropped attention for.

T5's first attention makes the position bias of all layers, as long as its own keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from exporters.graphs.graph_facts import GraphFacts, read_constant
from exporters.graphs.located_model import LocatedSubBlock


def reach(located: LocatedSubBlock) -> set[ir.Value]:
    """Return the values that a sub-block computes before its output projection."""
    reached: set[ir.Value] = set()
    frontier = [linear.result for _, linears in located.inputs for linear in linears]
    frontier += [linear.node.outputs[0] for _, linears in located.inputs for linear in linears]
    while frontier:
        value = frontier.pop()
        if value not in reached:
            reached.add(value)
            for node in value.consumers():
                if node is not located.output.node and node.op_type != "Shape":
                    frontier += node.outputs
    return reached


def keep_lengths(graph: ir.Graph, facts: GraphFacts, gone: Sequence[LocatedSubBlock]) -> None:
    """Let what asks a dropped sub-block for the free sizes of a value ask others, in place.

    What no other value tells is left as it is.
    """
    for located in gone:
        sources = [*graph.inputs, located.inputs[0][1][0].node.inputs[0]]
        for value in reach(located):
            for node in value.consumers():
                if node.op_type == "Shape":
                    _ask_others(graph, facts, node, [v for v in sources if v is not None])


def _ask_others(
    graph: ir.Graph, facts: GraphFacts, node: ir.Node, sources: Iterable[ir.Value]
) -> None:
    fact, static = facts.of(node.outputs[0]), _list_fixed(node)
    if fact is None or fact.data is None:
        return
    places = [
        None if n in static else _find_place(int(n), facts, sources) for n in fact.data.tolist()
    ]
    pieces = []
    for n, place in zip(fact.data.tolist(), places, strict=True):
        if place is None:
            pieces.append(_constant(graph, facts, int(n)))
        else:
            value, axis = place
            asked = ir.node("Shape", [value], {"start": axis, "end": axis + 1})
            pieces.append(_insert(graph, facts, node, asked, f"{len(pieces)}"))
    joined = _insert(graph, facts, node, ir.node("Concat", pieces, {"axis": 0}), "lengths")
    node.outputs[0].replace_all_uses_with(joined)


def _list_fixed(node: ir.Node) -> set[int]:
    """Return the sizes that are fixed: those that no free dimension can have."""
    value = node.inputs[0]
    shape = None if value is None else value.shape
    return set() if shape is None else {dim for dim in shape if isinstance(dim, int)}


def _find_place(
    size: int, facts: GraphFacts, sources: Iterable[ir.Value]
) -> tuple[ir.Value, int] | None:
    """Return a value and its axis of a size, which is a prime of its own if it is free."""
    for value in sources:
        shape = facts.shape(value) or ()
        if size in shape:
            return value, shape.index(size)
    return None


def _constant(graph: ir.Graph, facts: GraphFacts, number: int) -> ir.Value:
    name = f"length_{number}"
    if name not in graph.initializers:
        tensor = ir.Tensor(np.array([number], np.int64), name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape([1]),
            type=ir.TensorType(ir.DataType.INT64),
            const_value=tensor,
        )
        graph.register_initializer(value)
        facts.record(value, read_constant(value))
    return graph.initializers[name]


def _insert(graph: ir.Graph, facts: GraphFacts, node: ir.Node, new: ir.Node, what: str) -> ir.Value:
    (output,) = new.outputs
    output.name = f"{node.outputs[0].name}.{what}"
    new.name = output.name
    output.type = ir.TensorType(ir.DataType.INT64)
    graph.insert_before(node, new)
    (fact,) = facts.infer(new, [facts.of(value) for value in new.inputs])
    facts.record(output, fact)
    return output
