"""Puts constants where dropped sub-blocks were, and folds what becomes constant by that.

The output projection of a sub-block without units gives its bias at every position, or zero. What
follows is followed as a vector over the channels (zero: one number), until a variable meets it:
adding zero is then no node, adding a bias stays one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporters.graphs.graph_facts import GraphFacts, read_constant
from exporters.graphs.linear_map import find_weight
from exporters.graphs.node_reading import (
    input_at,
    name_node,
    need_input,
    read_array,
    read_attribute,
)
from exporters.graphs.op_values import UNKNOWN, VALUE_OPS, Fact
from exporters.graphs.shape_rules import NORMS, UNARY
from exporters.surgeon.replace_value import replace_value
from pruning.errors import NirvanaError

Vector = npt.NDArray[np.float32]
ZERO: Vector = np.zeros((), np.float32)
# Of zero they give zero.
_KEEP_ZERO = UNARY - {
    "Exp",
    "Cos",
    "Sigmoid",
    "HardSigmoid",
    "Log",
    "Reciprocal",
    "Softplus",
    "Not",
}
_SKIP_NORMS = frozenset(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"))
_MOVES = frozenset(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand"))
_ARITHMETIC = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg"))


class ConstantOutputs:
    """Folds constants through a graph, in place."""

    def __init__(self, graph: ir.Graph, facts: GraphFacts, dtype: ir.DataType) -> None:
        self._graph = graph
        self._dtype = dtype  # where a graph does not say it
        self._facts = facts
        self._known: dict[ir.Value, Vector] = {}
        self._without_bias: set[ir.Value] = set()

    def fold(self, vectors: Mapping[ir.Value, Vector], without_bias: set[ir.Value]) -> None:
        """Put `vectors` in the place of values; of `without_bias`, a fused bias goes too."""
        self._known.update(vectors)
        self._without_bias |= without_bias
        for node in tuple(self._graph):
            if any(value in self._known for value in node.inputs):
                self._fold(node)
        for value in self._known:
            if value.is_graph_output():
                raise NirvanaError(f"The plan leaves nothing of the graph's output {value.name}.")

    def _fold(self, node: ir.Node) -> None:
        known = [None if value is None else self._read(value) for value in node.inputs]
        if node.op_type in _SKIP_NORMS:
            self._open_skip_norm(node)
        elif node.op_type in ("Shape", "Size"):
            self._refuse(node)
        elif node.op_type in _MOVES:
            self._known[node.outputs[0]] = self._move(node, known)
        elif node.op_type in NORMS:
            self._known[node.outputs[0]] = self._normalise(node, known)
        elif node.op_type in UNARY and node.op_type in ("Cast", "Identity", "Dropout"):
            self._known[node.outputs[0]] = _vector(known[0])
        elif node.op_type in _KEEP_ZERO and not np.any(known[0]):
            self._known[node.outputs[0]] = ZERO
        elif node.op_type == "ReduceMean" and known[0] is not None:
            self._known[node.outputs[0]] = np.asarray(np.mean(known[0], keepdims=True)).reshape(-1)
        elif node.op_type in _ARITHMETIC:
            self._compute(node, known)
        else:
            self._refuse(node)

    def _read(self, value: ir.Value) -> Vector | None:
        """Return a value that is the same at every position, None for any other."""
        if value in self._known:
            return self._known[value]
        if value.is_initializer() and value.const_value is not None:
            shape = self._facts.shape(value)
            if shape is not None and all(n == 1 for n in shape[:-1]):
                return read_array(value.const_value).astype(np.float32).reshape(-1)
        return None

    def _compute(self, node: ir.Node, known: list[Vector | None]) -> None:
        if None not in [None if vector is None else 0 for vector in known]:
            computed = np.asarray(VALUE_OPS[node.op_type](node, known), np.float32)
            if node.op_type == "Div" and not np.any(known[0]):
                computed = ZERO  # zero over its own root mean square, which has an epsilon
            self._known[node.outputs[0]] = ZERO if not np.any(computed) else computed
            return
        index = 0 if known[0] is not None and node.inputs[0] in self._known else 1
        vector = _vector(known[index])
        other = need_input(node, 1 - index)
        if not np.any(vector):
            if node.op_type == "Mul":
                self._known[node.outputs[0]] = ZERO
                return
            if node.op_type == "Add" or (node.op_type == "Sub" and index == 1):
                replace_value(self._graph, node.outputs[0], other)
                return
            self._refuse(node)
        if node.op_type not in ("Add", "Mul"):
            self._refuse(node)
        node.replace_input_with(index, self._add_constant(node, index, vector))

    def _move(self, node: ir.Node, known: list[Vector | None]) -> Vector:
        vector = _vector(known[0])
        before = self._facts.shape(need_input(node, 0))
        after = self._facts.shape(node.outputs[0])
        same = before is not None and after is not None and before[-1] == after[-1]
        if np.any(vector) and (node.op_type == "Transpose" or not same):
            self._refuse(node)
        return vector

    def _normalise(self, node: ir.Node, known: list[Vector | None]) -> Vector:
        scale = known[1]
        if known[0] is None or scale is None:
            self._refuse(node)
        x = np.broadcast_to(_vector(known[0]), _vector(scale).shape)
        epsilon = read_attribute(node, "epsilon", 1e-5)
        if node.op_type == "LayerNormalization":
            x = x - x.mean()
        normalised = x / np.sqrt((x * x).mean() + epsilon) * scale
        shift = known[2] if len(known) > 2 and known[2] is not None else ZERO
        return np.asarray(normalised + shift, np.float32)

    def _open_skip_norm(self, node: ir.Node) -> None:
        """Replace a fused sum and norm by a norm of the one term that is left."""
        index = 0 if node.inputs[0] in self._known else 1
        source = node.inputs[index]
        assert source is not None
        vector, rest = self._known[source], need_input(node, 1 - index)
        bias = input_at(node, 4 if node.op_type == "SkipLayerNormalization" else 3)
        if bias is not None and source not in self._without_bias:
            vector = vector + _vector(self._read(bias))
        if rest in self._known:
            self._refuse(node)
        if np.any(vector):
            addend = self._add_constant(node, index, np.asarray(vector, np.float32))
            add = ir.node("Add", [rest, addend], name=f"{node.name}/sum")
            (total,) = add.outputs
            total.name = f"{node.name}.sum"
            total.type, total.shape = rest.type, rest.shape
            self._graph.insert_before(node, add)
            self._facts.record(total, self._fact(rest))
            rest = total
        self._norm_alone(node, rest)

    def _norm_alone(self, node: ir.Node, value: ir.Value) -> None:
        simplified = node.op_type == "SkipSimplifiedLayerNormalization"
        parameters = [need_input(node, 2), *([] if simplified else [input_at(node, 3)])]
        attributes = {"axis": -1, "epsilon": read_attribute(node, "epsilon", 1e-5)}
        norm = ir.node(
            "SimplifiedLayerNormalization" if simplified else "LayerNormalization",
            [value, *parameters],
            attributes,
            name=f"{node.name}/norm",
        )
        (output,) = norm.outputs
        output.name = f"{node.outputs[0].name}.alone"
        output.type, output.shape = node.outputs[0].type, node.outputs[0].shape
        self._graph.insert_before(node, norm)
        self._facts.record(output, self._fact(node.outputs[0]))
        replace_value(self._graph, node.outputs[0], output)
        if len(node.outputs) > 3:
            replace_value(self._graph, node.outputs[3], value)

    def _add_constant(self, node: ir.Node, index: int, vector: Vector) -> ir.Value:
        source = need_input(node, index)
        dtype = source.dtype or self._dtype
        tensor = ir.Tensor(
            vector.astype(dtype.numpy()), dtype=dtype, name=f"{source.name}.constant"
        )
        value = ir.Value(
            name=tensor.name,
            shape=ir.Shape(vector.shape),
            type=ir.TensorType(dtype),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        self._facts.record(value, read_constant(value))
        return value

    def _fact(self, value: ir.Value) -> Fact:
        return self._facts.of(value) or UNKNOWN

    def _refuse(self, node: ir.Node) -> object:
        raise NirvanaError(
            f"{name_node(node)}: it uses what a dropped sub-block gave, in a way that the surgeon "
            "does not know. Export the pruned checkpoint instead: `nirvana export`."
        )


def bias_vector(bias: ir.Value | None) -> Vector:
    """Return the values of a bias, zero where there is none."""
    weight = find_weight(bias)
    if weight is None or weight.const_value is None:
        return ZERO
    return read_array(weight.const_value).astype(np.float32)


def _vector(vector: Vector | None) -> Vector:
    assert vector is not None
    return vector
