"""Tells the shape of every value of a graph, and the value itself where a shape is computed.

No weight is read. Exporters leave shapes out, or compute them from other shapes in dozens of nodes;
with sizes for the free dimensions (`graph_structure.py`) all of it can be followed, node by node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from exporters.graphs.fused_shape_rules import FUSED_SHAPE_RULES
from exporters.graphs.op_values import MAX_ELEMENTS, UNKNOWN, VALUE_OPS, Fact
from exporters.graphs.shape_rules import SHAPE_RULES, ShapeUnknown

# Of convolutions and pools whose channels ONNX Runtime puts into blocks (optimization level "all").
_BLOCKED_LAYOUT = "com.microsoft.nchwc"
# Larger constants are weights.
_CONSTANT_ELEMENTS = 64


class GraphFacts:
    """What is known of each value of a graph."""

    def __init__(self, model: ir.Model, sizes: Mapping[ir.Value, tuple[int, ...]]) -> None:
        self._opset = model.graph.opset_imports.get("", 18)
        self._facts: dict[ir.Value, Fact] = {value: Fact(shape) for value, shape in sizes.items()}
        self._free = free_sizes(sizes)
        for value in model.graph.initializers.values():
            self._facts[value] = read_constant(value)
        for node in model.graph:
            facts = self.infer(node, [self.of(value) for value in node.inputs])
            self._facts.update(zip(node.outputs, facts, strict=True))

    def of(self, value: ir.Value | None) -> Fact | None:
        """Return what is known of a value; None for an input that is left out."""
        return None if value is None else self._facts.get(value, UNKNOWN)

    def shape(self, value: ir.Value) -> tuple[int, ...] | None:
        """Return the shape of a value, None where it is not known."""
        return self._facts.get(value, UNKNOWN).shape

    def is_free(self, size: int) -> bool:
        """Return whether a size has a free dimension in it: it is another one in another call."""
        return size > 0 and any(size % free == 0 for free in self._free)

    def record(self, value: ir.Value, fact: Fact) -> None:
        """Add or change what is known of a value, in place."""
        self._facts[value] = fact

    def infer(self, node: ir.Node, facts: Sequence[Fact | None]) -> list[Fact]:
        """Return what is known of a node's outputs, given its inputs."""
        try:
            found = self._infer(node, facts)
        except _UNKNOWN_SHAPE:
            return [UNKNOWN] * len(node.outputs)
        return [*found[: len(node.outputs)], *[UNKNOWN] * (len(node.outputs) - len(found))]

    def _infer(self, node: ir.Node, facts: Sequence[Fact | None]) -> list[Fact]:
        compute = VALUE_OPS.get(node.op_type)
        data = [None if fact is None else fact.data for fact in facts]
        if compute is not None and not _lacks_data(facts):
            with contextlib.suppress(TypeError, ValueError):
                return [Fact.of(np.asarray(compute(node, data)))]
        rule = FUSED_SHAPE_RULES.get(node.op_type) or SHAPE_RULES.get(node.op_type)
        if rule is not None:
            return rule(node, facts)
        return self._ask_onnx(node, facts)

    def _ask_onnx(self, node: ir.Node, facts: Sequence[Fact | None]) -> list[Fact]:
        """Let ONNX itself infer the shapes of an operator that has no rule here."""
        if node.domain not in ("", "ai.onnx", _BLOCKED_LAYOUT):
            raise ShapeUnknown
        proto = ir.to_proto(node)
        proto.domain = ""
        types, data = {}, {}
        for value, fact in zip(node.inputs, facts, strict=True):
            if value is None or fact is None or value.name is None:
                continue
            element = int(value.dtype or ir.DataType.FLOAT)
            types[value.name] = onnx.helper.make_tensor_type_proto(element, fact.shape)
            if fact.data is not None:
                data[value.name] = onnx.numpy_helper.from_array(np.asarray(fact.data))
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset)
            found = onnx.shape_inference.infer_node_outputs(
                schema,
                proto,
                types,
                data,
                opset_imports=[onnx.helper.make_opsetid("", self._opset)],
            )
        except _ONNX_ERRORS as error:
            raise ShapeUnknown from error
        return [_read_type(found.get(value.name or "")) for value in node.outputs]


# Of what does not follow, and of attributes and operands that are not what the operator takes.
_UNKNOWN_SHAPE = (
    ShapeUnknown,
    ValueError,
    IndexError,
    ZeroDivisionError,
    OverflowError,
    TypeError,
    AttributeError,
    KeyError,
)
_ONNX_ERRORS = (
    onnx.defs.SchemaError,
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    RuntimeError,
)


def free_sizes(sizes: Mapping[ir.Value, tuple[int, ...]]) -> set[int]:
    """Return the sizes that were given to dimensions that are free."""
    return {
        size
        for value, shape in sizes.items()
        for size, dim in zip(shape, value.shape or (), strict=False)
        if not isinstance(dim, int) and not str(dim.value).isdigit()
    }


def read_constant(value: ir.Value) -> Fact:
    """Return what is known of an initializer; its values where they are few."""
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return UNKNOWN
    shape = tuple(int(n) for n in tensor.shape.numpy())
    is_integer = tensor.dtype in _INTEGERS
    if np.prod(shape) <= (MAX_ELEMENTS if is_integer else _CONSTANT_ELEMENTS):
        return Fact(shape, np.asarray(tensor.numpy()))
    return Fact(shape)


_INTEGERS = frozenset((ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL))


def _lacks_data(facts: Iterable[Fact | None]) -> bool:
    return any(fact is not None and fact.data is None for fact in facts)


def _read_type(found: onnx.TypeProto | None) -> Fact:
    if found is None or not found.tensor_type.HasField("shape"):
        return UNKNOWN
    dims = found.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") for dim in dims):
        return UNKNOWN
    return Fact(tuple(dim.dim_value for dim in dims))
