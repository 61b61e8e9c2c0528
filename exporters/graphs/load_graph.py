"""Reads an ONNX file without its weights: whether it is valid, its number format, its ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporters.export_config import GraphPrecision
from exporters.graphs.onnx_files import check_whole, explain_malformed
from exporters.graphs.read_structure import is_skipped, read_structure
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a graph without its weights, and check it with them.

    Raises:
        NirvanaError: it is no ONNX file, or its files are not whole (see `check_whole`).
    """
    if not path.is_file():
        raise NirvanaError(f"{path} is not a valid ONNX file: there is no such file.")
    try:
        model = read_structure(path)
        check_proto(model)
    except Exception as error:  # the checker's, protobuf's and the file system's have no one base
        # The checker breaks its sentence where it names a node; then it prints the node.
        sentence = " ".join(str(error).split("==> Context")[0].split()) or type(error).__name__
        raise NirvanaError(f"{path} is not a valid ONNX file: {sentence}") from error
    check_whole(path, model)
    return model


# What neither changes which rows of a table are looked up, nor which rows the table has.
_SAME_IDS = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_SAME_ROWS = ("Cast", "Identity", "DequantizeLinear")


def find_id_limits(graph: Path | onnx.ModelProto) -> dict[str, int]:
    """Return, for each input that looks rows of a table up, how many rows the table has.

    ONNX's Gather counts negative indices from the end, so that a negative id is answered as if it
    were another. Inputs whose table is not among the graph's weights are left out.
    """
    if isinstance(graph, Path):
        with explain_malformed(graph):
            return find_id_limits(read_structure(graph))
    inputs = {value.name for value in graph.graph.input}
    tables = {tensor.name: tensor.dims for tensor in graph.graph.initializer}
    same = {node.output[0]: node.input[0] for node in graph.graph.node if node.op_type in _SAME_IDS}
    # A table may be quantized, or stored in half precision.
    stored = {
        node.output[0]: node.input[0] for node in graph.graph.node if node.op_type in _SAME_ROWS
    }
    limits: dict[str, int] = {}
    for node in graph.graph.node:
        if node.op_type != "Gather" or any(a.name == "axis" and a.i for a in node.attribute):
            continue
        table, ids = node.input[0], node.input[1]
        while table in stored:
            table = stored[table]
        while ids in same:
            ids = same[ids]
        if table in tables and ids in inputs:
            limits[ids] = min(limits.get(ids, 2**63), tables[table][0])
    return limits


def check_proto(model: onnx.ModelProto) -> None:
    """Have onnx check a model; weights that were not read, or lie beside it, count as inputs."""
    import onnx

    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    known = {value.name for value in checked.graph.input}
    for number, tensor in reversed(list(enumerate(model.graph.initializer))):
        if not (is_skipped(tensor) or tensor.external_data):
            continue
        del checked.graph.initializer[number]  # an input has a type and a shape, which is enough
        if tensor.name not in known:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            checked.graph.input.append(value)
    onnx.checker.check_model(checked)


def read_precision(model: onnx.ModelProto) -> GraphPrecision:
    """Tell a graph's number format by its operators and its weights."""
    from onnx import TensorProto

    ops = {node.op_type for node in model.graph.node}
    if ops & {"MatMulInteger", "DynamicQuantizeLinear", "MatMulNBits", "DynamicQuantizeMatMul"}:
        return "int8"
    if ops & {"QuantizeLinear", "QLinearMatMul"}:
        return "int8-static"
    types = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}
    if TensorProto.BFLOAT16 in types:
        return "bf16"
    return "fp16" if TensorProto.FLOAT16 in types else "fp32"
