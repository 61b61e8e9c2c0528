"""Linear maps of a graph: products with a constant weight, and the bias behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.node_reading import input_at, name_scope, read_attribute
from exporters.graphs.shape_rules import PRODUCTS

_GEMMS = frozenset(("Gemm", "FusedGemm"))
# Of Gemm and FusedMatMul: a map in another layout than [rows, channels] times [in, out].
_OTHER_LAYOUTS = ("transA", "transBatchA", "transBatchB")
# What may stand between a weight and its product.
_PASS_ON = frozenset(("Transpose", "Cast", "Identity"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearMap:
    """A product with a constant weight.

    Attributes:
        weight: the initializer, which may reach the product through a Transpose or a Cast.
        out_axis: of the operand `node.inputs[1]`; the other axis meets the input's channels.
        result: what the map gives, its bias included.
        bias: the initializer that is added; `bias_node` adds it, None where the product does.
    """

    node: ir.Node
    weight: ir.Value
    out_axis: int
    num_in: int
    num_out: int
    result: ir.Value
    bias: ir.Value | None
    bias_node: ir.Node | None

    @property
    def in_axis(self) -> int:
        """The axis of the operand that meets the input's channels."""
        return 1 - self.out_axis

    def paths(self) -> Iterator[str]:
        """Yield where the map may be in the torch model: by its scope, then by its tensors."""
        yield name_scope(self.node)
        for value, suffix in ((self.weight, ".weight"), (self.bias, ".bias")):
            name = "" if value is None else value.name or ""
            if name.endswith(suffix):
                yield name.removesuffix(suffix)


def list_linear_maps(graph: ir.Graph, facts: GraphFacts) -> list[LinearMap]:
    """Return the linear maps of a graph, in the order of its nodes."""
    found = (_read_linear(node, facts) for node in graph if node.op_type in PRODUCTS | _GEMMS)
    return [linear for linear in found if linear is not None]


def is_activated(node: ir.Node) -> bool:
    """Return whether a product applies an activation to what it gives, as FusedGemm can."""
    return node.op_type == "FusedGemm" and bool(read_attribute(node, "activation", ""))


def find_weight(value: ir.Value | None) -> ir.Value | None:
    """Return the initializer that reaches a value through transposes and casts, if one does."""
    while value is not None:
        if value.is_initializer() and value.const_value is not None:
            return value
        node = value.producer()
        if node is None or node.op_type not in _PASS_ON:
            return None
        value = node.inputs[0]
    return None


def _read_linear(node: ir.Node, facts: GraphFacts) -> LinearMap | None:
    operand = input_at(node, 1)
    weight, shape = find_weight(operand), None if operand is None else facts.shape(operand)
    if weight is None or shape is None or len(shape) != 2:
        return None
    is_gemm = node.op_type in _GEMMS
    transposed = any(read_attribute(node, name, 0) for name in _OTHER_LAYOUTS)
    if transposed or (is_gemm and read_attribute(node, "beta", 1.0) != 1.0):
        return None
    out_axis = 0 if read_attribute(node, "transB", 0) else 1
    result, bias, bias_node = node.outputs[0], input_at(node, 2), None
    if bias is None and not is_activated(node):
        result, bias, bias_node = _find_bias(result, shape[out_axis], facts)
    return LinearMap(
        node=node,
        weight=weight,
        out_axis=out_axis,
        num_in=shape[1 - out_axis],
        num_out=shape[out_axis],
        result=result,
        bias=bias,
        bias_node=bias_node,
    )


def _find_bias(
    product: ir.Value, num_out: int, facts: GraphFacts
) -> tuple[ir.Value, ir.Value | None, ir.Node | None]:
    """Return the sum of a product and a constant a channel, if nothing else uses the product."""
    uses = product.uses()
    if len(uses) == 1 and not product.is_graph_output():
        ((node, index),) = uses
        other = input_at(node, 1 - index) if node.op_type == "Add" else None
        if other is not None and find_weight(other) and facts.shape(other) == (num_out,):
            return node.outputs[0], other, node
    return product, None, None
