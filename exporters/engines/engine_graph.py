"""Reads an ONNX file for a build: checks it, lists its external data, names its shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporters.engines.engine_config import EngineConfig, ShapeRange
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx

# One optimisation profile: by input name, then `min`, `opt` and `max`, a shape.
Profile = dict[str, dict[str, list[int]]]


def load_graph(onnx_path: Path) -> onnx.ModelProto:
    """Load an ONNX file without its external data, and check it with that data.

    TensorRT's parser takes some garbage for an empty graph, so that the check has to come before.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not onnx_path.is_file():
        raise NirvanaError(f"{onnx_path} is missing: expected an ONNX file to build from.")
    try:
        model = onnx.load(str(onnx_path), load_external_data=False, format="protobuf")
        onnx.checker.check_model(str(onnx_path))
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        raise NirvanaError(
            f"{onnx_path} is not a valid ONNX file: {str(error).strip()} Export it again."
        ) from error
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
    products = {
        name for node in model.graph.node if node.op_type == "MatMul" for name in node.input
    }
    return sum(
        node.op_type in ATTENTION_OPS
        or (node.op_type == "Softmax" and _reaches(model, node.output[0], products))
        for node in model.graph.node
    )


def plan_profile(model: onnx.ModelProto, config: EngineConfig) -> Profile:
    """Return the shapes of every input: free dimensions by the config, the rest fixed."""
    past, new = config.past, config.length
    ranges = {
        "batch": config.batch,
        "sequence": new,
        "past_sequence": past,
        "total_sequence": ShapeRange(
            min=past.min + new.min, opt=past.opt + new.opt, max=past.max + new.max
        ),
    }
    profile: Profile = {}
    for graph_input in model.graph.input:
        dims = [
            _range_of(dim, graph_input.name, ranges)
            for dim in graph_input.type.tensor_type.shape.dim
        ]
        profile[graph_input.name] = {
            "min": [dim.min for dim in dims],
            "opt": [dim.opt for dim in dims],
            "max": [dim.max for dim in dims],
        }
    return profile


def _reaches(model: onnx.ModelProto, name: str, products: set[str]) -> bool:
    """Tell whether a tensor gets into a product, as it is or with fully masked rows zeroed."""
    if name in products:
        return True
    between = [
        node
        for node in model.graph.node
        if node.op_type in ("Where", "Cast", "Identity", "Dropout") and name in node.input
    ]
    return any(_reaches(model, node.output[0], products) for node in between)


def _range_of(
    dim: onnx.TensorShapeProto.Dimension, input_name: str, ranges: dict[str, ShapeRange]
) -> ShapeRange:
    if dim.HasField("dim_value"):
        return ShapeRange(min=dim.dim_value, opt=dim.dim_value, max=dim.dim_value)
    if dim.dim_param not in ranges:
        raise NirvanaError(
            f"input {input_name} has the dynamic dimension {dim.dim_param!r}; an engine knows "
            f"{', '.join(ranges)}. Export the graph with these names."
        )
    return ranges[dim.dim_param]
