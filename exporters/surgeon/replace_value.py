"""Puts one value of a graph in the place of another, and takes out what nothing needs any more."""

from __future__ import annotations

import onnx_ir as ir


def replace_value(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let all that uses `old` use `new`, in place; a graph output keeps its name."""
    if old.is_graph_output():
        if new.is_graph_output() or new.is_graph_input() or new.is_initializer():
            node = ir.node("Identity", [new], name=f"{old.name}/same")
            (same,) = node.outputs
            same.type, same.shape = new.type, new.shape
            last = old.producer()
            assert last is not None
            graph.insert_after(last, node)
            new = same
        name = old.name
        old.name = f"{name}.replaced"
        new.name = name
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def remove_no_ops(graph: ir.Graph) -> None:
    """Remove nodes that give what they take, in place: TorchScript writes a Concat of one cache."""
    for node in tuple(graph):
        is_no_op = node.op_type in ("Identity", "Concat") and len(node.inputs) == 1
        source = node.inputs[0] if is_no_op else None
        if source is not None and not node.outputs[0].is_graph_output():
            replace_value(graph, node.outputs[0], source)
            graph.remove(node, safe=True)


def remove_unused(graph: ir.Graph) -> int:
    """Remove nodes and initializers that lead to no output, in place; return how many nodes."""
    removed = 0
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
            removed += 1
    for name, value in tuple(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    return removed
