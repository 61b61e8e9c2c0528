"""Gives the tensors of an attention the layout of a fused operator: heads merged, masks whole.

New nodes are put before the node that needs them. Legend of dims: see attention_site.py.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.passes.attention_site import AttentionSite
from exporters.passes.graph_pass import NoMatchError
from exporters.passes.graph_reading import (
    expect_dims,
    find_producer,
    make_constant,
    make_node,
    read_perm,
    take_over,
)


def find_split_source(value: ir.Value) -> ir.Value | None:
    """Return [B, S, H, D] for a value [B, H, S, D] that is a transposition of it."""
    node = find_producer(value, "Transpose")
    if node is None or read_perm(node) != (0, 2, 1, 3):
        return None
    return node.inputs[0]


def merge_heads(model: ir.Model, split: ir.Value, like: ir.Node, before: ir.Node) -> ir.Value:
    """Return [B, S, H * D] for `split` [B, S, H, D]: what it was reshaped from, or its reshape."""
    dims = expect_dims(split, 4, "split heads")
    if not (isinstance(dims[2], int) and isinstance(dims[3], int)):
        raise NoMatchError(f"heads and head dim of {split.name} are not static: {dims}")
    width = dims[2] * dims[3]
    node = find_producer(split, "Reshape")
    source = node.inputs[0] if node is not None else None
    if (
        source is not None
        and source.shape is not None
        and len(source.shape) == 3
        and source.shape[2] == width
    ):
        return source
    shape = make_constant(model, np.array([0, 0, width], np.int64), f"merged_{width}")
    merge = make_node("Reshape", [split, shape], like=like)
    merge.outputs[0].name = f"{split.name}_merged"
    merge.name = f"{split.name}_merge"
    merge.outputs[0].shape = ir.Shape([*_leading(split), width])
    merge.outputs[0].type = split.type
    _put_after(model, split, merge, before)
    return merge.outputs[0]


def give_merged(model: ir.Model, node: ir.Node, merged: ir.Value) -> None:
    """Let the first output of a fused node, [B, S, H * D], stand for `merged`, in place."""
    output = node.outputs[0]
    assert merged.shape is not None
    if len(merged.shape) == 2:  # the next product is over flat tokens
        width = merged.shape[1]
        assert isinstance(width, int)
        shape = make_constant(model, np.array([-1, width], np.int64), f"flat_{width}")
        flat = make_node("Reshape", [output, shape], like=node)
        model.graph.insert_after(node, flat)
        output = flat.outputs[0]
    take_over(merged, output)


def widen_bias(model: ir.Model, bias: ir.Value, site: AttentionSite, before: ir.Node) -> ir.Value:
    """Return a bias whose last two dims are S and T where it is broadcast over one of them.

    The fused operators broadcast over batch and heads alone.
    """
    dims = expect_dims(bias, 4, "the mask")
    if dims[2] != 1 and dims[3] != 1:
        return bias
    scores = site.anchor.inputs[0]
    if site.anchor.op_type != "Softmax" or scores is None:
        raise NoMatchError(f"its mask {bias.name} is not as wide as its scores: {dims}")
    known = next((use.node for use in bias.uses() if use.node.op_type == "Expand"), None)
    if known is not None and known.name == f"{bias.name}_widen":
        return known.outputs[0]
    tail = ir.node("Shape", [scores], attributes={"start": 2}, name=f"{bias.name}_lengths")
    ones = make_constant(model, np.array([1, 1], np.int64), "ones_2")
    shape = ir.node("Concat", [ones, tail.outputs[0]], attributes={"axis": 0})
    widen = ir.node("Expand", [bias, shape.outputs[0]], name=f"{bias.name}_widen")
    widen.outputs[0].shape = ir.Shape([dims[0], dims[1], *_trailing(scores)])
    widen.outputs[0].type = bias.type
    model.graph.insert_before(before, [tail, shape, widen])
    return widen.outputs[0]


def _leading(value: ir.Value) -> list[ir.SymbolicDim | int]:
    assert value.shape is not None
    return list(value.shape)[:2]


def _trailing(value: ir.Value) -> list[ir.SymbolicDim | int]:
    assert value.shape is not None
    return list(value.shape)[-2:]


def _put_after(model: ir.Model, value: ir.Value, node: ir.Node, before: ir.Node) -> None:
    """Insert `node` right after what makes `value`, so that other attentions can use it too."""
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(before, node)
    else:
        model.graph.insert_after(producer, node)
