"""Fuses a bias and the exact GELU after it into ONNX Runtime's BiasGelu."""

from __future__ import annotations

import math

import onnx_ir as ir

from exporters.passes.graph_pass import (
    CONTRIB,
    GraphPass,
    NoMatchError,
    PassOutcome,
)
from exporters.passes.graph_reading import (
    find_producer,
    fuse_each,
    make_node,
    read_scalar,
    split_scalar,
    take_over,
)


class FuseBiasGelu(GraphPass):
    """Write x + bias, then 0.5 y (1 + erf(y / sqrt 2)), as one node.

    ONNX Runtime finds the GELU of some exporters when it loads a graph, not that of torch's.
    """

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Fuse in place what fits."""
        found = (
            (node, node)
            for node in list(model.graph)
            if node.op_type in ("Erf", "Gelu") and not node.domain
        )
        return self.tell(*fuse_each(model, found, _fuse))


def _fuse(model: ir.Model, node: ir.Node) -> None:
    y, output = _read_operator(node) if node.op_type == "Gelu" else _read_primitives(node)
    add = find_producer(y, "Add")
    if add is None:
        raise NoMatchError("no bias is added before it")
    for x, bias in (add.inputs, add.inputs[::-1]):
        if x is not None and bias is not None and _is_bias(bias):
            break
    else:
        raise NoMatchError("what is added before it is no constant vector")
    fused = make_node("BiasGelu", [x, bias], like=node, domain=CONTRIB)
    end = output.producer()
    assert end is not None
    model.graph.insert_before(end, fused)
    take_over(output, fused.outputs[0])


def _is_bias(value: ir.Value) -> bool:
    return value.is_initializer() and value.shape is not None and len(value.shape) == 1


def _read_operator(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    approximate = node.attributes.get("approximate")
    if approximate is not None and approximate.as_string() != "none":
        raise NoMatchError(f"it is the approximation {approximate.as_string()}")
    assert node.inputs[0] is not None
    return node.inputs[0], node.outputs[0]


def _read_primitives(erf: ir.Node) -> tuple[ir.Value, ir.Value]:
    """Return y and the output of a product of y, 0.5 and 1 + erf(y / sqrt 2), in any order."""
    y = _read_argument(erf)
    add = _only_user(erf.outputs[0], "Add")
    split = split_scalar(add)
    if split is None or split[1] != 1.0:
        raise NoMatchError("1 is not added to the erf")
    value, factor, times_y = add.outputs[0], 1.0, False
    for _ in range(2):
        product = _only_user(value, "Mul")
        other = product.inputs[0] if product.inputs[1] is value else product.inputs[1]
        number = read_scalar(other)
        if number is not None:
            factor *= number
        else:
            half = _read_scaled(other, y)
            if half is None:
                raise NoMatchError("1 + erf is multiplied by something other than its argument")
            factor, times_y = factor * half, True
        value = product.outputs[0]
        if times_y and math.isclose(factor, 0.5):
            return y, value
    raise NoMatchError(f"1 + erf is multiplied by {factor}, expected by 0.5 and its argument")


def _read_argument(erf: ir.Node) -> ir.Value:
    scaled = find_producer(erf.inputs[0], "Div", "Mul")
    if scaled is not None and scaled.inputs[0] is not None:
        number = read_scalar(scaled.inputs[1])
        expected = math.sqrt(2) if scaled.op_type == "Div" else math.sqrt(0.5)
        if number is not None and math.isclose(number, expected, rel_tol=1e-6):
            return scaled.inputs[0]
    raise NoMatchError("the argument of its erf is not divided by sqrt 2")


def _read_scaled(value: ir.Value | None, y: ir.Value) -> float | None:
    """Return the factor where `value` is y times a number."""
    if value is y:
        return 1.0
    product = find_producer(value, "Mul")
    split = split_scalar(product) if product is not None else None
    return split[1] if split is not None and split[0] is y else None


def _only_user(value: ir.Value, op_type: str) -> ir.Node:
    users = [use.node for use in value.uses()]
    if len(users) != 1 or users[0].op_type != op_type:
        raise NoMatchError(f"its erf does not lead to one {op_type}")
    return users[0]
