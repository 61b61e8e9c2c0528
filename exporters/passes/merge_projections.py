"""Merges the query, key and value products of a decoder's attention into one, and their rotations.

One product of three times the width and one rotation cost less than three and two where a step has
a single token. Legend of dims: see attention_site.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporters.passes.graph_pass import CONTRIB, GraphPass, NoMatchError, PassOutcome, Refusal
from exporters.passes.graph_reading import (
    expect_producer,
    find_producer,
    make_constant,
    make_node,
    name_node,
    read_constant,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Projection:
    """x @ weight + bias, [B, S, N]."""

    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None

    @property
    def width(self) -> int:
        assert self.weight.shape is not None
        return int(self.weight.shape[1])  # type: ignore[arg-type]


class MergeProjections(GraphPass):
    """Write the three products of each GroupQueryAttention as one, followed by Split."""

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Merge in place what fits."""
        refusals: list[Refusal] = []
        num_merged = 0
        for node in list(model.graph):
            if node.op_type != "GroupQueryAttention" or node.domain != CONTRIB:
                continue
            try:
                _merge(model, node)
                num_merged += 1
            except NoMatchError as error:
                refusals.append(Refusal(node=name_node(node), reason=str(error)))
        if num_merged:
            RemoveUnusedNodesPass()(model)
        return self.tell(num_merged, refusals)


def _merge(model: ir.Model, node: ir.Node) -> None:
    rotations = [
        expect_producer(node.inputs[i], f"the {what}", "RotaryEmbedding")
        for i, what in enumerate(("query", "key"))
    ]
    if rotations[0].inputs[1:] != rotations[1].inputs[1:]:
        raise NoMatchError("query and key are rotated by different angles")
    query, key, value = (
        _read_projection(value, what)
        for value, what in (
            (rotations[0].inputs[0], "query"),
            (rotations[1].inputs[0], "key"),
            (node.inputs[2], "value"),
        )
    )
    if not query.x is key.x is value.x:
        raise NoMatchError("query, key and value are products of different tensors")
    joint = _join(model, node, (query, key, value))
    rotated, plain = _split(model, node, joint, (query.width + key.width, value.width))
    turn = make_node(
        "RotaryEmbedding",
        [rotated, *rotations[0].inputs[1:]],
        like=rotations[0],
        domain=CONTRIB,
        attributes={name: attr.value for name, attr in rotations[0].attributes.items()},
    )
    turn.outputs[0].name = f"{node.outputs[0].name}_rotated"
    model.graph.insert_before(node, turn)
    halves = _split(model, node, turn.outputs[0], (query.width, key.width))
    for index, new in enumerate((*halves, plain)):
        node.replace_input_with(index, new)


def _read_projection(value: ir.Value | None, what: str) -> _Projection:
    bias = None
    add = find_producer(value, "Add")
    if add is not None:
        value, bias = add.inputs
        if bias is None or bias.shape is None or len(bias.shape) != 1 or not bias.is_initializer():
            raise NoMatchError(f"the {what} is a sum with no constant bias")
    product = expect_producer(value, f"the {what}", "MatMul")
    x, weight = product.inputs
    if x is None or weight is None or not weight.is_initializer():
        raise NoMatchError(f"the {what} is a product with no constant weight")
    if weight.shape is None or len(weight.shape) != 2:
        raise NoMatchError(f"the weight of the {what} has the shape {weight.shape}")
    return _Projection(x=x, weight=weight, bias=bias)


def _join(model: ir.Model, node: ir.Node, parts: tuple[_Projection, ...]) -> ir.Value:
    stem = node.outputs[0].name
    weights = [_read(part.weight) for part in parts]
    weight = make_constant(model, np.concatenate(weights, axis=1), f"{stem}_qkv_weight")
    product = make_node("MatMul", [parts[0].x, weight], like=node)
    product.outputs[0].name = f"{stem}_qkv_product"
    model.graph.insert_before(node, product)
    if all(part.bias is None for part in parts):
        return product.outputs[0]
    biases = [
        np.zeros(part.width, weights[0].dtype) if part.bias is None else _read(part.bias)
        for part in parts
    ]
    bias = make_constant(model, np.concatenate(biases), f"{stem}_qkv_bias")
    add = make_node("Add", [product.outputs[0], bias], like=node)
    add.outputs[0].name = f"{stem}_qkv"
    model.graph.insert_before(node, add)
    return add.outputs[0]


def _read(value: ir.Value) -> np.ndarray[Any, Any]:
    array = read_constant(value)
    if array is None:
        raise NoMatchError(f"{value.name} has no values")
    return array


def _split(
    model: ir.Model, node: ir.Node, value: ir.Value, widths: tuple[int, ...]
) -> tuple[ir.Value, ...]:
    name = "split_" + "_".join(map(str, widths))
    sizes = make_constant(model, np.array(widths, np.int64), name)
    split = make_node(
        "Split",
        [value, sizes],
        like=node,
        attributes={"axis": -1},
        num_outputs=len(widths),
    )
    for index, output in enumerate(split.outputs):
        output.name = f"{value.name}_part_{index}"
    split.name = f"{value.name}_split"
    model.graph.insert_before(node, split)
    return tuple(split.outputs)
