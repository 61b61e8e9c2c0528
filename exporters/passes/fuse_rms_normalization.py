"""Fuses x / sqrt(mean(x^2) + epsilon) * weight, with the residual sum before it where there is one.

The sum goes in as ONNX Runtime's SkipSimplifiedLayerNormalization. A norm without one is left to
ONNX Runtime, which fuses it when it loads the graph: its operator for it is in no published opset
before RMSNormalization of opset 23.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    read_axis,
    read_constant,
    read_scalar,
    split_scalar,
    take_over,
)
from exporters.passes.residual_norms import read_residual


@dataclass(frozen=True, slots=True, kw_only=True)
class _Norm:
    node: ir.Node
    x: ir.Value
    weight: ir.Value
    epsilon: float


class FuseSkipRmsNormalization(GraphPass):
    """Write a residual sum and the RMS norm of it as one node with both as outputs."""

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Fuse in place what fits."""
        norms = ((node, _read_norm(node)) for node in list(model.graph))
        found = ((node, norm) for node, norm in norms if norm is not None)
        return self.tell(*fuse_each(model, found, _fuse))


def _read_norm(node: ir.Node) -> _Norm | None:
    """Return the norm that ends in `node`."""
    if node.op_type == "RMSNormalization" and not node.domain:
        return _read_operator(node)
    if node.op_type != "Mul":
        return None
    for weight, scaled in (node.inputs, node.inputs[::-1]):
        inner = find_producer(scaled, "Mul")
        if inner is None or weight is None or read_constant(weight) is None:
            continue
        for x, root in (inner.inputs, inner.inputs[::-1]):
            epsilon = _read_epsilon(root, x)
            if epsilon is not None and x is not None:
                return _Norm(node=node, x=x, weight=weight, epsilon=epsilon)
    return None


def _read_operator(node: ir.Node) -> _Norm | None:
    x, weight = node.inputs[:2]
    epsilon = node.attributes.get("epsilon")
    if x is None or weight is None or read_axis(node) != -1:
        return None
    value = epsilon.as_float() if epsilon is not None else 1e-5
    return _Norm(node=node, x=x, weight=weight, epsilon=value)


def _read_epsilon(root: ir.Value | None, x: ir.Value | None) -> float | None:
    """Return epsilon of 1 / sqrt(mean(x^2) + epsilon), or None where `root` is not that."""
    reciprocal = find_producer(root, "Reciprocal")
    sqrt = find_producer(reciprocal.inputs[0], "Sqrt") if reciprocal is not None else None
    add = find_producer(sqrt.inputs[0], "Add") if sqrt is not None else None
    split = split_scalar(add) if add is not None else None
    mean = find_producer(split[0], "ReduceMean") if split is not None else None
    square = find_producer(mean.inputs[0], "Pow", "Mul") if mean is not None else None
    if split is None or square is None or square.inputs[0] is not x:
        return None
    if square.op_type == "Pow" and read_scalar(square.inputs[1]) != 2.0:
        return None
    if square.op_type == "Mul" and square.inputs[1] is not x:
        return None
    return split[1]


def _fuse(model: ir.Model, norm: _Norm) -> None:
    residual = read_residual(norm.x)
    if norm.weight.shape is None or len(norm.weight.shape) != 1:
        raise NoMatchError(f"its weight has the shape {norm.weight.shape}")
    node = make_node(
        "SkipSimplifiedLayerNormalization",
        [residual.first, residual.second, norm.weight],
        like=norm.node,
        domain=CONTRIB,
        attributes={"epsilon": norm.epsilon},
        num_outputs=4,
    )
    node.outputs[1].name = node.outputs[2].name = ""  # the statistics, which nobody reads
    model.graph.insert_after(residual.add, node)
    take_over(norm.x, node.outputs[3])
    take_over(norm.node.outputs[0], node.outputs[0])
