"""Writes a graph with its weights, one weight at a time in memory.

protobuf's own writer holds all weights twice more: in the message and in its bytes. Here the
message is put together from its parts, as its encoding allows: a field is its tag, its length and
its content, and those of a repeated field may stand anywhere in the message
(https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

# Weights beyond this go into a file beside the graph: protobuf holds 2 GB at most.
EXTERNAL_DATA_BYTES = 1_500_000_000
# Smaller ones stay in the message.
_LARGE_BYTES = 64 * 1024
# Field numbers of onnx.proto; the 2 says that bytes follow.
_GRAPH_TAG = bytes([7 << 3 | 2])  # of ModelProto
_INITIALIZER_TAG = bytes([5 << 3 | 2])  # of GraphProto
_RAW_DATA_TAG = bytes([9 << 3 | 2])  # of TensorProto


def write_graph(
    model: onnx_ir.Model, path: Path, *, external_beyond: int = EXTERNAL_DATA_BYTES
) -> None:
    """Write `model` to `path`, and its weights to `path`.data where they are beyond a size."""
    import onnx_ir

    weights = (value.const_value for value in model.graph.initializers.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    if sum(weight.nbytes for weight in weights if weight is not None) > external_beyond:
        onnx_ir.save(model, path, external_data=f"{path.name}.data")
        return
    _write_in_one_file(model, path)


def _write_in_one_file(model: onnx_ir.Model, path: Path) -> None:
    import onnx_ir

    initializers = model.graph.initializers
    large = {
        name: value.const_value
        for name, value in initializers.items()
        if value.const_value is not None and value.const_value.nbytes > _LARGE_BYTES
    }
    values = {name: initializers.pop(name) for name in large}
    try:
        message = onnx_ir.serde.serialize_model(model)
    finally:
        initializers.update(values)
    body = message.graph.SerializeToString()
    message.ClearField("graph")
    heads = {name: _serialize_head(tensor, name) for name, tensor in large.items()}
    lengths = {name: len(heads[name]) + tensor.nbytes for name, tensor in large.items()}
    fields = (len(_INITIALIZER_TAG) + len(_encode(n)) + n for n in lengths.values())
    with path.open("wb") as file:
        file.write(message.SerializeToString())
        file.write(_GRAPH_TAG + _encode(len(body) + sum(fields)) + body)
        for name, tensor in large.items():
            file.write(_INITIALIZER_TAG + _encode(lengths[name]))
            file.write(heads[name])
            file.write(tensor.tobytes())


def _serialize_head(tensor: onnx_ir.TensorProtocol, name: str) -> bytes:
    """Return a tensor's message as far as the length of its content, which comes last."""
    from onnx import TensorProto

    message = TensorProto(name=name, data_type=tensor.dtype.value, dims=tensor.shape.numpy())
    return message.SerializeToString() + _RAW_DATA_TAG + _encode(tensor.nbytes)


def _encode(number: int) -> bytes:
    """Return a length as protobuf writes it: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
