"""Gives the parser a graph in the precision that was asked for: the graph's types are the engine's.

A graph in fp32 is converted to fp16 or bf16; one that has its types already, int8 and fp8 with
their scales included, is built as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporters.engines.engine_graph import read_graph_precision
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx

# A protobuf message, in which the parser takes a converted graph, ends at 2 GiB.
MAX_GRAPH_BYTES = 2**31 - 1
_HALVES = ("fp16", "bf16")


def choose_precision(model: onnx.ModelProto, asked: str, onnx_path: Path) -> str:
    """Return the precision that an engine gets: the asked one, or for `graph` the graph's.

    Raises:
        NirvanaError: the graph has another one already, from which it is not converted.
    """
    found = read_graph_precision(model)
    if asked in ("graph", found):
        return found
    if found == "fp32" and asked in _HALVES:
        return asked
    raise NirvanaError(
        f"{onnx_path} is in {found}, and precision is {asked}. Build it with precision graph, as "
        "it is, or export the model in fp32."
    )


def convert_types(onnx_path: Path, model: onnx.ModelProto, precision: str) -> bytes | None:
    """Return the graph in fp16 or bf16; None where the file has its types already.

    Inputs and outputs keep their types, but for caches that are written in place: those must be
    inputs of the operator that writes them, with no cast between.
    """
    if precision not in _HALVES or read_graph_precision(model) == precision:
        return None
    import onnx_ir as ir

    from exporters.graphs.onnx_files import load_external
    from exporters.precision.half_precision import convert_graph

    load_external(onnx_path, model)
    graph = ir.from_proto(model)
    in_place = any(node.op_type == "TensorScatter" for node in model.graph.node)
    dtype = ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.BFLOAT16
    convert_graph(graph, dtype, half_caches=in_place)
    half = ir.to_proto(graph)
    size_bytes = half.ByteSize()
    if size_bytes > MAX_GRAPH_BYTES:
        raise NirvanaError(
            f"{onnx_path} has {size_bytes} bytes in {precision}; a graph that is converted here "
            f"ends at {MAX_GRAPH_BYTES}. Export it with precision {precision}, and build it with "
            "precision graph."
        )
    return half.SerializeToString()
