"""Makes of a half-precision graph one that a CPU runs, rounding each value as the graph would.

ONNX Runtime has no bfloat16 operators on a CPU, and runs most float16 ones in float32 without the
roundings in between: what overflows on a GPU would pass here. So each operator computes in float32,
and what it gives is rounded to the half type, which is what a GPU's operators do.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from pruning.errors import NirvanaError

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_MAX_BYTES = 2**31 - 1


def round_in_float(model: ir.Model) -> None:
    """Make the graph compute in float32 with half-precision values, in place.

    Raises:
        NirvanaError: in float32 it has more than the 2 GB that a graph in memory can have.
    """
    graph = model.graph
    _check_size(graph)
    for value in [*graph.inputs, *graph.initializers.values()]:
        _widen(value)
    for node in list(graph):
        _widen_attributes(node)
        for value in node.outputs:
            if value.dtype in _HALVES:
                _round_output(graph, node, value)


def _widen(value: ir.Value) -> None:
    if value.dtype not in _HALVES:
        return
    value.dtype = ir.DataType.FLOAT
    if value.const_value is not None:
        value.const_value = _to_float(value.const_value, str(value.name))


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _HALVES:
            node.attributes[name] = ir.AttrTensor(name, _to_float(attribute.as_tensor(), name))


def _round_output(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Put a rounding between a node and those that take its output, in place."""
    name, dtype = str(value.name), value.dtype
    assert dtype is not None
    if node.op_type == "Cast":  # it rounds as it is
        rounding, rounded = node, value
    else:
        value.dtype = ir.DataType.FLOAT
        rounding, rounded = _cast_after(graph, node, value, dtype, f"{name}_rounded")
    back, widened = _cast_after(graph, rounding, rounded, ir.DataType.FLOAT, name)
    for user, index in list(value.uses()):
        if user not in (rounding, back):
            user.replace_input_with(index, widened)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = widened
    value.name = f"{name}_exact"


def _cast_after(
    graph: ir.Graph, node: ir.Node, value: ir.Value, dtype: ir.DataType, name: str
) -> tuple[ir.Node, ir.Value]:
    cast = ir.node("Cast", [value], attributes={"to": dtype})
    graph.insert_after(node, cast)
    (output,) = cast.outputs
    output.name, output.dtype, output.shape = name, dtype, value.shape
    return cast, output


def _to_float(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    values = tensor.numpy()
    if values.dtype not in (np.float16, ml_dtypes.bfloat16):
        raise NirvanaError(f"{name} is of type {values.dtype}, expected float16 or bfloat16.")
    return ir.tensor(values.astype(np.float32), name=name)


def _check_size(graph: ir.Graph) -> None:
    weights = [value.const_value for value in graph.initializers.values()]
    size_bytes = sum(2 * weight.nbytes for weight in weights if weight is not None)
    if size_bytes > _MAX_BYTES:
        raise NirvanaError(
            f"in float32 the graph has {size_bytes} bytes of weights; a half-precision graph is "
            f"compared on a CPU up to {_MAX_BYTES}. Compare it on the GPU that it is for."
        )
