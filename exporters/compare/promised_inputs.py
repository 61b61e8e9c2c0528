"""Checks that an ONNX file is valid, and takes what its part of the model promises."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.graphs.load_graph import load_graph
from exporters.trace.graph_part import GraphPart
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx

# Smaller ones may be shapes, which inference reads.
_LARGE = 64


def check_promised(onnx_path: Path, part: GraphPart) -> None:
    """Raise NirvanaError unless the graph is valid and has the inputs of `part`, dims included.

    Valid means besides that the types and shapes of all its values agree with each other.
    """
    model = load_graph(onnx_path)
    expected = {tensor.name: list(tensor.shape) for tensor in part.inputs}
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    found = {value.name: _read_shape(value) for value in inputs}
    if found != expected:
        raise NirvanaError(f"{onnx_path} should have the inputs {expected}, it has {found}.")
    _check_types(onnx_path, model)


def _check_types(onnx_path: Path, model: onnx.ModelProto) -> None:
    """Infer all types and shapes without the weights, of which inference would make copies."""
    from onnx import helper, shape_inference

    large = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) > _LARGE]
    for tensor in large:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)
        model.graph.initializer.remove(tensor)
    try:
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except shape_inference.InferenceError as error:
        first_line = str(error).strip().splitlines()[0]
        raise NirvanaError(f"{onnx_path} is not a valid ONNX file: {first_line}") from error


def _read_shape(value: onnx.ValueInfoProto) -> list[str | int]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_param if dim.dim_param else int(dim.dim_value) for dim in dims]
