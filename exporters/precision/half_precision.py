"""Turns a float32 graph into one that computes in float16 or bfloat16.

What must stay in float32 does (see `float_nodes`). Logits and hidden states stay float32 too, so
that a caller sees no other types; a key-value cache has the type of what computes it, at half the
memory. Weights are converted one by one when they are written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.io_names import CACHE_PREFIXES
from exporters.precision.float_nodes import find_float_nodes, has_floats, is_float
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    from typing import Any


HALF_MAX = 65504.0

# Stands for a float32 "minus infinity" in a mask. At -65504 a masked score overflows to -inf as
# soon as it is added to a score below -16, and a row with nothing but masked tokens becomes NaN.
# exp(-30000) is 0 all the same.
HALF_MASK = 30000.0
# bfloat16 has float32's range, but its rounding makes infinity of float32's least number.
_BFLOAT_MAX, _BFLOAT_MASK = 3.38e38, 1e38

_SCATTER = "TensorScatter"
_NUMPY = {
    ir.DataType.FLOAT16: np.dtype(np.float16),
    ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfOutcome:
    """What became of the nodes of a graph.

    Attributes:
        num_half_nodes: that compute in the half type now.
        kept_float: by operator, how many nodes stayed in float32.
    """

    num_half_nodes: int
    kept_float: dict[str, int]


def convert_graph(model: ir.Model, dtype: ir.DataType, *, half_caches: bool = True) -> HalfOutcome:
    """Make a float32 graph compute in `dtype`, in place; its inputs and outputs keep their types.

    Caches are of `dtype`. Without `half_caches` only cache buffers are: TensorRT takes no cast
    between one and the `TensorScatter` that writes it in place.

    Raises:
        NirvanaError: a weight is beyond float16, a node has a graph of its own, or the type of a
            value cannot be told.
    """
    _prepare(model)
    kept = find_float_nodes(model.graph, dtype)
    conversion = _Conversion(model.graph, dtype)
    conversion.convert_inputs(half_caches)
    for node in list(model.graph):
        if has_floats(node) or any(map(conversion.is_half, node.inputs)):
            conversion.keep(node) if node in kept else conversion.convert(node)
    conversion.convert_outputs(half_caches)
    conversion.drop_unused_weights()
    names = Counter(node.op_type for node in kept)
    return HalfOutcome(
        num_half_nodes=conversion.num_converted, kept_float=dict(sorted(names.items()))
    )


def _prepare(model: ir.Model) -> None:
    """Bring all into one graph whose values have types, in place."""
    from onnx_ir.passes.common import InlinePass, ShapeInferencePass

    if model.functions:
        InlinePass()(model)
    for node in model.graph:
        for attribute in node.attributes.values():
            if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                raise NirvanaError(
                    f"the node {node.name} ({node.op_type}) has a graph of its own, which is not "
                    "converted to half precision. Export the model without control flow."
                )
    while any(_untyped(model)):
        ShapeInferencePass()(model)
        if not _type_fused_operators(model):
            break
    untyped = next(_untyped(model), None)
    if untyped is not None:
        raise NirvanaError(
            f"the type of {untyped.name} cannot be told, and so not whether to convert it. Run "
            "shape inference on the graph first."
        )


def _type_fused_operators(model: ir.Model) -> bool:
    """Give outputs of ONNX Runtime's operators, in place, the type of what they are computed from.

    Inference knows nothing of them; they have one type, which is that of their first input.
    """
    fused = [node for node in model.graph if node.domain == "com.microsoft"]
    found = False
    for node in fused:
        dtype = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
        for value in node.outputs:
            if value.dtype is None and value.name and dtype is not None:
                value.dtype = dtype
                found = True
    return found


def _untyped(model: ir.Model) -> Any:
    values = (value for node in model.graph for value in node.outputs)
    return (value for value in values if value.dtype is None and value.name)


class _Conversion:
    """A graph that is being converted: which values are half by now, and their casts."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType) -> None:
        self._graph = graph
        self._dtype = dtype
        self._half: set[ir.Value] = set()
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._weights: dict[ir.Value, ir.Value] = {}
        self.num_converted = 0

    def is_half(self, value: ir.Value | None) -> bool:
        """Return whether a value is of the half type by now."""
        return value in self._half

    def convert_inputs(self, half_caches: bool) -> None:
        """Give the caches the half type, in place; without `half_caches`, only the buffers."""
        for value in self._graph.inputs:
            is_cache = half_caches and str(value.name).startswith(CACHE_PREFIXES)
            if is_float(value) and (is_cache or _is_buffer(value)):
                self._make_half(value)

    def keep(self, node: ir.Node) -> None:
        """Let a node compute in float32, in place."""
        for index, value in enumerate(node.inputs):
            if value is not None and value in self._half:
                node.replace_input_with(index, self._cast(value, ir.DataType.FLOAT, before=node))

    def convert(self, node: ir.Node) -> None:
        """Let a node compute in the half type, in place."""
        for index, value in enumerate(node.inputs):
            if value is not None and is_float(value):
                node.replace_input_with(index, self._halve(value, node))
        _convert_attributes(node, self._dtype)
        for value in node.outputs:
            if is_float(value):
                self._make_half(value)
        self.num_converted += 1

    def convert_outputs(self, half_caches: bool) -> None:
        """Give back float32 under the names that the outputs have, in place."""
        for index, value in enumerate(self._graph.outputs):
            is_cache = half_caches and str(value.name).startswith(CACHE_PREFIXES)
            if value not in self._half or is_cache or _is_buffer(value):
                continue
            name = value.name
            value.name = f"{name}_half"
            cast = ir.node("Cast", [value], attributes={"to": ir.DataType.FLOAT})
            (output,) = cast.outputs
            output.name, output.dtype, output.shape = name, ir.DataType.FLOAT, value.shape
            self._graph.append(cast)
            self._graph.outputs[index] = output

    def _make_half(self, value: ir.Value) -> None:
        value.dtype = self._dtype
        self._half.add(value)

    def _halve(self, value: ir.Value, user: ir.Node) -> ir.Value:
        if value.is_initializer():
            return self._halve_weight(value)
        return self._cast(value, self._dtype, before=user)

    def _cast(self, value: ir.Value, dtype: ir.DataType, *, before: ir.Node) -> ir.Value:
        if (value, dtype) not in self._casts:
            cast = ir.node("Cast", [value], attributes={"to": dtype})
            for key, text in before.metadata_props.items():  # of the part that asks for it
                cast.metadata_props[key] = text
            (output,) = cast.outputs
            output.name = f"{value.name}_{dtype.name.lower()}"
            output.dtype, output.shape = dtype, value.shape
            self._graph.insert_before(before, cast)
            self._casts[value, dtype] = output
            if dtype == self._dtype:
                self._half.add(output)
        return self._casts[value, dtype]

    def _halve_weight(self, value: ir.Value) -> ir.Value:
        """Return the weight in the half type; the float32 one goes when no node takes it."""
        if value not in self._weights:
            assert value.const_value is not None
            tensor = _convert_tensor(value.const_value, self._dtype, str(value.name))
            half = ir.Value(
                name=f"{value.name}_half",
                shape=value.shape,
                type=ir.TensorType(self._dtype),
                const_value=tensor,
            )
            self._graph.register_initializer(half)
            self._weights[value] = half
            self._half.add(half)
        return self._weights[value]

    def drop_unused_weights(self) -> None:
        """Remove float32 weights that no node takes, and give their names on, in place."""
        for value, half in self._weights.items():
            if not value.uses() and not value.is_graph_output():
                name = str(value.name)
                del self._graph.initializers[name]
                half.name = name


def _is_buffer(value: ir.Value) -> bool:
    """Return whether a cache is written in place, before or after that."""
    producer = value.producer()
    return any(use.node.op_type == _SCATTER and use.idx == 0 for use in value.uses()) or (
        producer is not None and producer.op_type == _SCATTER
    )


def _convert_attributes(node: ir.Node, dtype: ir.DataType) -> None:
    """Give constants in the node's attributes the half type, and casts their new target."""
    if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
        zero = ir.tensor(np.zeros(1, np.float32))  # what it means without
        node.attributes["value"] = ir.AttrTensor("value", zero)
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype == ir.DataType.FLOAT:
                label = str(tensor.name or node.outputs[0].name or "a constant")
                node.attributes[name] = ir.AttrTensor(name, _convert_tensor(tensor, dtype, label))
        elif name in ("value_float", "value_floats") and node.op_type == "Constant":
            values = np.array(attribute.value, dtype=np.float32)
            tensor = _convert_tensor(ir.tensor(values), dtype, "a constant")
            del node.attributes[name]
            node.attributes["value"] = ir.AttrTensor("value", tensor)
        elif name in ("to", "dtype") and attribute.value == ir.DataType.FLOAT:
            node.attributes[name] = ir.AttrInt64(name, dtype)


def _convert_tensor(tensor: ir.TensorProtocol, dtype: ir.DataType, name: str) -> ir.TensorProtocol:
    """Return a tensor that is converted when it is read; its range is looked at now."""
    _check_range(tensor.numpy(), dtype, name)
    return ir.LazyTensor(
        lambda: ir.tensor(_round(tensor.numpy(), dtype), dtype=dtype, name=name),
        dtype=dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
    )


def _round(values: NDArray[Any], dtype: ir.DataType) -> NDArray[Any]:
    limit, mask = _limits(dtype)
    with np.errstate(over="ignore"):
        beyond = np.isfinite(values) & (np.abs(values) > limit)
        return np.where(beyond, np.copysign(mask, values), values).astype(_NUMPY[dtype])


def _check_range(values: NDArray[Any], dtype: ir.DataType, name: str) -> None:
    """Raise NirvanaError for a weight that the type cannot hold; a lone number is a mask."""
    limit, _ = _limits(dtype)
    beyond = np.isfinite(values) & (np.abs(values) > limit)
    if values.size > 1 and beyond.any():
        type_name = "float16" if dtype == ir.DataType.FLOAT16 else "bfloat16"
        raise NirvanaError(
            f"{name} has {int(beyond.sum())} values beyond {type_name} (largest magnitude "
            f"{np.abs(values[beyond]).max():.3g}, {type_name} ends at {limit:.6g}). Keep this "
            "model in precision fp32."
        )


def _limits(dtype: ir.DataType) -> tuple[float, float]:
    half = dtype == ir.DataType.FLOAT16
    return (HALF_MAX, HALF_MASK) if half else (_BFLOAT_MAX, _BFLOAT_MASK)
