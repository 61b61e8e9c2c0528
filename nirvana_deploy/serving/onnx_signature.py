"""Reads from an ONNX file what a server must know of it: names, types, shapes, further files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.engines.engine_graph import list_external_data
from exporters.graphs.load_graph import check_proto
from exporters.graphs.onnx_files import check_whole, explain_malformed
from exporters.graphs.trial_session import require_loadable
from exporters.io_names import is_past
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx

# By the name of ONNX's element type, Triton's. https://github.com/triton-inference-server/server,
# docs/user_guide/model_configuration.md, "Datatypes".
_TRITON_TYPES = {
    "BOOL": "TYPE_BOOL",
    "UINT8": "TYPE_UINT8",
    "UINT16": "TYPE_UINT16",
    "UINT32": "TYPE_UINT32",
    "UINT64": "TYPE_UINT64",
    "INT8": "TYPE_INT8",
    "INT16": "TYPE_INT16",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "FLOAT16": "TYPE_FP16",
    "FLOAT": "TYPE_FP32",
    "DOUBLE": "TYPE_FP64",
    "STRING": "TYPE_STRING",
    "BFLOAT16": "TYPE_BF16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSignature:
    """Describe one input or output.

    Attributes:
        data_type: in Triton's words, such as TYPE_INT64.
        dims: without the batch; -1 is a dimension that is free.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]

    @property
    def wire_type(self) -> str:
        """The protocol's name of the type, which for text is not that of the configuration."""
        name = self.data_type.removeprefix("TYPE_")
        return "BYTES" if name == "STRING" else name


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxSignature:
    """Describe a graph from outside.

    Attributes:
        data_files: external data, relative to the ONNX file.
    """

    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    data_files: tuple[str, ...]


def fill_dims(name: str, dims: Iterable[int], length: int, names: Iterable[str]) -> tuple[int, ...]:
    """Return the dims of an input of `names` with `length` tokens where they are free.

    A decoder's cache holds as many tokens as the call brings, and its mask is of both.
    """
    has_cache = any(is_past(other) for other in names)
    size = 2 * length if has_cache and name == "attention_mask" else length
    return tuple(size if dim == -1 else dim for dim in dims)


def read_signature(onnx_path: Path) -> OnnxSignature:
    """Read an ONNX file whose tensors all begin with a free batch dimension.

    Raises NirvanaError for a missing or corrupt file, external data that is not whole or lies
    elsewhere, files that are not the ones that the export beside them wrote, and a graph that
    crashes ONNX Runtime or cannot be batched.
    """
    import onnx

    if onnx_path.is_dir():
        raise NirvanaError(
            f"{onnx_path} is a folder: expected an ONNX file, such as the model.onnx that `nirvana "
            "export` writes. Only vllm and tensorrt-llm take a checkpoint's folder."
        )
    if not onnx_path.is_file():
        raise NirvanaError(f"{onnx_path} is missing: expected an ONNX file to package.")
    try:
        model = onnx.load(str(onnx_path), load_external_data=False)
        check_proto(model)
    except Exception as error:  # the checker's, protobuf's and the file system's have no one base
        reason = str(error).strip().rstrip(".")
        raise NirvanaError(
            f"{onnx_path} is not a valid ONNX file: {reason}. Export it again."
        ) from error
    check_whole(onnx_path, model)
    require_loadable(onnx_path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    with explain_malformed(onnx_path):
        return OnnxSignature(
            inputs=_read_tensors(inputs),
            outputs=_read_tensors(model.graph.output),
            data_files=list_external_data(model),
        )


def _read_tensors(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSignature, ...]:
    return tuple(_read_tensor(value) for value in values)


def _read_tensor(value: onnx.ValueInfoProto) -> TensorSignature:
    import onnx

    tensor = value.type.tensor_type
    type_name = onnx.TensorProto.DataType.Name(tensor.elem_type)
    if type_name not in _TRITON_TYPES:
        raise NirvanaError(f"{value.name} is of type {type_name}, which Triton does not know.")
    dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    if not dims or dims[0] != -1:
        raise NirvanaError(
            f"{value.name} has shape {dims}: to be batched by a server, its first dimension must "
            "be a free batch. Export the model with a dynamic batch."
        )
    return TensorSignature(
        name=value.name, data_type=_TRITON_TYPES[type_name], dims=tuple(dims[1:])
    )
