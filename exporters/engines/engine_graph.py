"""Reads an ONNX file for a build: checks it, finds its attentions, its blocks, its data files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx

# What may stand between the softmax of an attention and its second product.
_BETWEEN = ("Where", "Cast", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear")

# The path of a torch module up to the number of its block.
_BLOCK = re.compile(r"(.*?\.\d+)(?:\.|$)")


def load_graph(onnx_path: Path) -> onnx.ModelProto:
    """Load an ONNX file without its external data, and check it with that data.

    TensorRT's parser takes some garbage for an empty graph, so that the check has to come before.
    """
    import onnx

    from exporters.graphs.load_graph import check_proto
    from exporters.graphs.onnx_files import check_whole

    if onnx_path.is_dir():
        graphs = ", ".join(sorted(path.name for path in onnx_path.glob("*.onnx"))) or "none"
        raise NirvanaError(
            f"{onnx_path} is a folder: an engine is built from one ONNX file. Give one of those in "
            f"it: {graphs}."
        )
    if not onnx_path.is_file():
        raise NirvanaError(f"{onnx_path} is missing: expected an ONNX file to build from.")
    try:
        model = onnx.load(str(onnx_path), load_external_data=False, format="protobuf")
        check_proto(model)
    except Exception as error:  # the checker's, protobuf's and the file system's have no one base
        raise NirvanaError(
            f"{onnx_path} is not a valid ONNX file: {' '.join(str(error).split()).rstrip('.')}. "
            "Export it again."
        ) from error
    check_whole(onnx_path, model)
    return model


def list_external_data(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names, relative to the ONNX file, of the files that hold its weights."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    tensors = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    return tuple(sorted({ExternalDataInfo(tensor).location for tensor in tensors}))


# Operators that are a whole attention: ONNX's own, and ONNX Runtime's.
ATTENTION_OPS = ("Attention", "MultiHeadAttention", "GroupQueryAttention")


def count_fused_attentions(model: onnx.ModelProto) -> int:
    """Return the number of attentions in a graph that are one operator."""
    return sum(node.op_type in ATTENTION_OPS for node in model.graph.node)


def count_attentions(model: onnx.ModelProto) -> int:
    """Return the number of attentions in a graph: whole operators, or softmaxes before a product.

    A softmax over the logits is no attention: nothing multiplies its output.
    """
    return len(_find_attentions(model))


def name_attentions(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the nodes that stand for one attention each, as `count_attentions`."""
    return tuple(node.name or node.output[0] for node in _find_attentions(model))


def name_blocks(model: onnx.ModelProto) -> dict[str, str]:
    """Return by node the transformer block that it is of, such as `encoder.layer.0`.

    Nodes of no block, and those whose module nothing tells, are left out.
    """
    import onnx_ir as ir

    from exporters.graphs.node_reading import name_scope

    found = {}
    for node in ir.from_proto(model).graph:
        if (block := _BLOCK.match(name_scope(node))) and node.name:
            found[node.name] = block[1]
    return found


def read_graph_precision(model: onnx.ModelProto) -> str:
    """Tell a graph's number format: fp32, fp16, bf16, int8 or fp8."""
    import onnx

    from exporters.graphs.load_graph import read_precision

    found = read_precision(model)
    if not found.startswith("int8"):
        return found
    zeros = {node.input[2] for node in model.graph.node if _is_scaling(node)}
    types = {tensor.data_type for tensor in model.graph.initializer if tensor.name in zeros}
    return "fp8" if types and types <= {onnx.TensorProto.FLOAT8E4M3FN} else "int8"


def hash_structure(model: onnx.ModelProto) -> str:
    """Return a SHA-256 of a graph without the values of its weights.

    Two checkpoints of one plan give the same; one with another head or layer does not. Integers
    count: they are shapes and axes.
    """
    import onnx

    bare = onnx.ModelProto()
    bare.graph.CopyFrom(model.graph)
    for tensor in bare.graph.initializer:
        if tensor.data_type in _weight_types():
            shape = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            tensor.CopyFrom(shape)
    for part in (bare.graph, *bare.graph.node, *bare.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _weight_types() -> frozenset[int]:
    from onnx import TensorProto

    names = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "FLOAT8E4M3FN")
    return frozenset(TensorProto.DataType.Value(name) for name in names)


def _find_attentions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    products = {
        name for node in model.graph.node if node.op_type == "MatMul" for name in node.input
    }
    return [
        node
        for node in model.graph.node
        if node.op_type in ATTENTION_OPS
        or (node.op_type == "Softmax" and _reaches(model, node.output[0], products))
    ]


def _is_scaling(node: onnx.NodeProto) -> bool:
    return node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2


def _reaches(model: onnx.ModelProto, name: str, products: set[str]) -> bool:
    """Return whether a tensor gets into a product, as it is or with fully masked rows zeroed."""
    if name in products:
        return True
    between = [node for node in model.graph.node if node.op_type in _BETWEEN and name in node.input]
    return any(_reaches(model, node.output[0], products) for node in between)
