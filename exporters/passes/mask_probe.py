"""Finds out what a mask does by computing it: the part of the graph that makes it is small.

Exporters write the same mask in many ways; what counts is which positions it lets through.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from exporters.passes.graph_pass import NoMatchError

# Scores have the magnitude of tens; what is added to a masked one must drown them.
_MASKED = -1e4
# (batch, new tokens, tokens in the cache): with and without a cache, and longer than a window.
_PROBED = ((2, 5, 3), (2, 7, 0), (1, 1, 6))
_MAX_NODES = 400


def is_causal(model: ir.Model, bias: ir.Value, *, has_cache: bool) -> bool:
    """Return whether no token sees a later one, tried on some lengths.

    Raises NoMatchError for a mask that cannot be computed from the lengths and the padding alone.
    """
    for batch, length, past in _PROBED:
        if past and not has_cache:
            continue
        mask = compute_mask(model, bias, batch=batch, length=length, past=past)
        total = past + length
        if mask.ndim != 4 or mask.shape[-2:] != (length, total):
            return False
        later = np.arange(total)[None, :] > np.arange(past, total)[:, None]
        if later.any() and not (mask[..., later] <= _MASKED).all():
            return False
    return True


def compute_mask(
    model: ir.Model, bias: ir.Value, *, batch: int, length: int, past: int
) -> np.ndarray[Any, Any]:
    """Return the values of `bias` for unpadded rows of these lengths."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    nodes, constants, inputs = _collect(bias)
    feeds = {
        value.name: _make_feed(value, {"batch": batch, "sequence": length, "past_sequence": past})
        for value in inputs
    }
    graph = helper.make_graph(
        [ir.to_proto(node) for node in nodes],
        "mask",
        [ir.to_proto(value) for value in inputs],
        [helper.make_empty_tensor_value_info(str(bias.name))],
        [ir.to_proto(value.const_value) for value in constants],
    )
    opsets = [
        helper.make_opsetid(domain, version)
        for domain, version in model.graph.opset_imports.items()
    ]
    small = helper.make_model(graph, opset_imports=opsets)
    try:
        (mask,) = ReferenceEvaluator(small).run(None, feeds)
    except Exception as error:  # The evaluator's errors have no base of their own.
        raise NoMatchError(f"its mask {bias.name} cannot be computed: {error}") from error
    return np.asarray(mask)


def _collect(bias: ir.Value) -> tuple[list[ir.Node], list[ir.Value], list[ir.Value]]:
    """Return the nodes that make `bias`, in order, their constants, and the graph inputs."""
    found: dict[ir.Node, None] = {}
    constants: dict[ir.Value, None] = {}
    inputs: dict[ir.Value, None] = {}
    pending = [bias]
    while pending:
        value = pending.pop()
        node = value.producer()
        if value.is_graph_input():
            inputs[value] = None
        elif node is None:
            constants[value] = None
        elif node not in found:
            found[node] = None
            pending += [v for v in node.inputs if v is not None]
        if len(found) > _MAX_NODES:
            raise NoMatchError(f"its mask {bias.name} depends on too much of the graph")
    if any(value.const_value is None for value in constants):
        raise NoMatchError(f"its mask {bias.name} is made from nothing")
    graph = bias.producer().graph if bias.producer() is not None else None  # type: ignore[union-attr]
    order = [node for node in graph if node in found] if graph is not None else []
    return order, list(constants), list(inputs)


def _make_feed(value: ir.Value, sizes: dict[str, int]) -> np.ndarray[Any, Any]:
    sizes = {**sizes, "total_sequence": sizes["past_sequence"] + sizes["sequence"]}
    if value.shape is None or value.dtype is None:
        raise NoMatchError(f"the graph input {value.name} has no shape")
    shape = []
    for dim in value.shape:
        size = dim if isinstance(dim, int) else sizes.get(str(dim.value))
        if size is None:
            raise NoMatchError(f"the graph input {value.name} has a dim {dim} of unknown meaning")
        shape.append(size)
    fill = np.ones if value.dtype.is_integer() or value.dtype == ir.DataType.BOOL else np.zeros
    made: np.ndarray[Any, Any] = fill(shape, value.dtype.numpy())
    return made
