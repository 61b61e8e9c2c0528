"""Checks that an ONNX file is valid, and takes what its part of the model promises."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporters.graph_files import load_graph
from exporters.trace.graph_part import GraphPart
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx


def check_promised(onnx_path: Path, part: GraphPart) -> None:
    """Raise NirvanaError unless the graph is valid and has the inputs of `part`, dims included."""
    graph = load_graph(onnx_path).graph
    expected = {tensor.name: list(tensor.shape) for tensor in part.inputs}
    weights = {tensor.name for tensor in graph.initializer}
    found = {value.name: _read_shape(value) for value in graph.input if value.name not in weights}
    if found != expected:
        raise NirvanaError(f"{onnx_path} should have the inputs {expected}, it has {found}.")


def _read_shape(value: onnx.ValueInfoProto) -> list[str | int]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_param if dim.dim_param else int(dim.dim_value) for dim in dims]
