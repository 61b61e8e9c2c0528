"""Reads the length of a cache from the attention mask, not from the cache itself.

A graph that does so also runs with a cache buffer that is longer than what is in it.
"""

from __future__ import annotations

import onnx_ir as ir

MASK, TOKENS = "attention_mask", "input_ids"


def find_input(model: ir.Model, name: str) -> ir.Value | None:
    """Return the graph input of that name."""
    return next((value for value in model.graph.inputs if value.name == name), None)


def take_lengths_from_mask(model: ir.Model) -> None:
    """Replace the length of a cache by that of the mask less that of the new tokens, in place."""
    mask, tokens = find_input(model, MASK), find_input(model, TOKENS)
    if mask is None or tokens is None:
        return
    past: ir.Value | None = None
    for node in list(model.graph):
        if node.op_type != "Shape" or not _is_cache(node.inputs[0]):
            continue
        if (_read_int(node, "start"), _read_int(node, "end")) != (2, 3):
            continue
        past = past or _subtract_lengths(model, mask, tokens)
        ir.convenience.replace_all_uses_with(node.outputs[0], past)


def _subtract_lengths(model: ir.Model, mask: ir.Value, tokens: ir.Value) -> ir.Value:
    total = ir.node("Shape", [mask], attributes={"start": 1, "end": 2})
    new = ir.node("Shape", [tokens], attributes={"start": 1, "end": 2})
    past = ir.node("Sub", [total.outputs[0], new.outputs[0]])
    model.graph.insert_before(model.graph[0], [total, new, past])
    return past.outputs[0]


def _is_cache(value: ir.Value | None) -> bool:
    return (
        value is not None
        and value.is_graph_input()
        and value.shape is not None
        and len(value.shape) == 4
    )


def _read_int(node: ir.Node, name: str) -> int | None:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else None
