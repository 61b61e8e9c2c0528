"""Reads an ONNX file without its weights: is it valid, and in which number format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporters.export_config import GraphPrecision
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a graph without its weights, and check it with them.

    Raises:
        NirvanaError: it is no ONNX file, or weights beside it are missing or lie elsewhere.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path))  # first: it holds the weights once more
        model = onnx.load(str(path), load_external_data=False, format="protobuf")
    except Exception as error:  # the checker's, protobuf's and the file system's have no one base
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NirvanaError(f"{path} is no valid ONNX file: {first_line}") from error
    return model


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
