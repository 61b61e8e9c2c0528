"""Writes an ONNX file aside and renames it; its weights one by one, so that few are in memory.

Small models have them inside: a protobuf message is its fields one after the other, so that the
weights can follow the rest of the graph. Others have them in a file beside the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from exporters.graphs.node_reading import read_array
from pruning.errors import NirvanaError
from pruning.progress import CountProgress
from pruning.write_aside import remove_leftovers, write_files

_SMALL_BYTES = 1024  # such constants stay: shapes, scalars


def list_weights(graph: ir.Graph) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """Return the initializers that are weights, with their tensors."""
    return [
        (value, value.const_value)
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype != ir.DataType.STRING
        and value.const_value.nbytes >= _SMALL_BYTES
        and not value.is_graph_output()
    ]


def take_in_constants(graph: ir.Graph) -> None:
    """Read what lies beside the graph and is no weight, in place: it is written with the graph."""
    weights = {value for value, _ in list_weights(graph)}
    for value in graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor) and value not in weights:
            array = read_array(value.const_value)
            value.const_value = ir.Tensor(array, dtype=value.const_value.dtype, name=value.name)


@contextmanager
def without_weights(graph: ir.Graph, *, as_inputs: bool = False) -> Iterator[None]:
    """Take the weights out of a graph until the block ends; `as_inputs` makes inputs of them."""
    weights = [value for value, _ in list_weights(graph)]
    for value in weights:
        del graph.initializers[value.name or ""]
        if as_inputs:
            graph.inputs.append(value)
    try:
        yield
    finally:
        for value in weights:
            if as_inputs:
                graph.inputs.remove(value)
            graph.register_initializer(value)


INLINE_BYTES = 1_500_000_000  # protobuf holds 2 GB at most
_PAGE_BYTES = 4096  # what maps the file wants each tensor at the start of a page
_COPY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files of a graph, and the weights in them that hold NaN or plus infinity.

    Minus infinity is what masks are made of.
    """

    files: tuple[Path, ...]
    nan_tensors: tuple[str, ...]


def write_onnx(
    model: ir.Model, path: Path, *, external: bool, progress: CountProgress | None = None
) -> Written:
    """Write `model` to `path`, which appears when it is whole.

    With `external`, or above 1.5 GB, weights go to `path` + ".data". Each is read, cut and written
    on its own; those that stay whole are copied from file to file.

    Raises:
        NirvanaError: `path` is there, or cannot be written.
    """
    data = path.with_name(f"{path.name}.data")
    remove_leftovers(path.parent)
    for there in (path, data):
        if there.exists():
            raise NirvanaError(f"{there} exists already. Choose a new file; nothing was changed.")
    with write_files(path, "surgeon") as aside:
        tell = _Written(sum(tensor.nbytes for _, tensor in list_weights(model.graph)), progress)
        if external or tell.total > INLINE_BYTES:
            _move_weights(model.graph, aside / data.name, tell)
            ir.save(model, aside / path.name)
        else:
            _write_inline(model, aside / path.name, tell)
        names = sorted((file.name for file in aside.iterdir()), key=path.name.__eq__)
    files = tuple(path.with_name(name) for name in names)
    return Written(files=files, nan_tensors=tuple(tell.nan_tensors))


class _Written:
    """Counts the bytes that are done, and keeps which weights are not finite."""

    def __init__(self, total: int, progress: CountProgress | None) -> None:
        self.total = total
        self.nan_tensors: list[str] = []
        self._done = 0
        self._progress = progress

    def add(self, value: ir.Value, num_bytes: int, *, has_nan: bool) -> None:
        self._done += num_bytes
        if has_nan:
            self.nan_tensors.append(value.name or "")
        if self._progress is not None:
            self._progress(self._done, self.total)


def _write_inline(model: ir.Model, path: Path, tell: _Written) -> None:
    weights = list_weights(model.graph)
    with without_weights(model.graph):
        proto = ir.to_proto(model)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    heads = [_describe_tensor(value, tensor) for value, tensor in weights]
    sizes = [len(h) + t.nbytes for h, (_, t) in zip(heads, weights, strict=True)]
    length = len(graph) + sum(len(_INITIALIZER + _varint(size)) + size for size in sizes)
    with path.open("xb") as file:
        file.write(proto.SerializeToString())
        file.write(_GRAPH + _varint(length) + graph)
        for head, size, (value, tensor) in zip(heads, sizes, weights, strict=True):
            file.write(_INITIALIZER + _varint(size) + head)
            has_nan = _write_tensor(tensor, file)
            tell.add(value, tensor.nbytes, has_nan=has_nan)


# Field number and wire type 2: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data.
_GRAPH, _INITIALIZER, _RAW_DATA = b"\x3a", b"\x2a", b"\x4a"


def _describe_tensor(value: ir.Value, tensor: ir.TensorProtocol) -> bytes:
    """Return the serialized TensorProto up to its data, which has to follow."""
    proto = onnx.TensorProto(
        dims=[int(n) for n in tensor.shape.numpy()], data_type=int(tensor.dtype), name=value.name
    )
    return bytes(proto.SerializeToString()) + _RAW_DATA + _varint(tensor.nbytes)


def _varint(number: int) -> bytes:
    """Return protobuf's code of a number: seven bits a byte, the lowest first."""
    code = bytearray()
    while number > 0x7F:
        code.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*code, number])


def _move_weights(graph: ir.Graph, path: Path, tell: _Written) -> None:
    """Write the weights to a file, and let the graph point there, in place."""
    with path.open("xb") as file:
        for value, tensor in list_weights(graph):
            start = -(-file.tell() // _PAGE_BYTES) * _PAGE_BYTES
            file.seek(start)
            has_nan = _write_tensor(tensor, file)
            value.const_value = ir.ExternalTensor(
                path.name,
                start,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape([int(n) for n in tensor.shape.numpy()]),
                name=value.name or "",
                base_dir=path.parent,
            )
            tell.add(value, tensor.nbytes, has_nan=has_nan)


def _write_tensor(tensor: ir.TensorProtocol, file: BinaryIO) -> bool:
    """Write a tensor's values, and tell whether NaN or plus infinity is among them."""
    start, found = file.tell(), False
    if isinstance(tensor, ir.ExternalTensor):
        found = _copy(tensor, file)
    elif tensor.dtype.itemsize >= 1:
        array = tensor.numpy() if isinstance(tensor, ir.LazyTensor) else read_array(tensor)
        raw = array.reshape(-1).view("u1").data
        file.write(raw)
        found = _has_nan(raw, tensor.dtype)
    else:  # several values a byte
        file.write(tensor.tobytes())
    assert file.tell() - start == tensor.nbytes, tensor.name
    return found


def _copy(tensor: ir.ExternalTensor, file: BinaryIO) -> bool:
    found = False
    with Path(tensor.path).open("rb") as source:
        source.seek(tensor.offset or 0)
        left = tensor.nbytes
        while left:
            piece = source.read(min(left, _COPY_BYTES))
            if not piece:
                raise NirvanaError(f"The data of {tensor.name} in {tensor.path} ends early.")
            file.write(piece)
            found = found or _has_nan(piece, tensor.dtype)
            left -= len(piece)
    return found


# Plus infinity as an integer: NaN is above it, whatever its sign, and all other numbers below.
_INFINITY: dict[ir.DataType, tuple[str, int]] = {
    ir.DataType.FLOAT16: ("u2", 0x7C00),
    ir.DataType.BFLOAT16: ("u2", 0x7F80),
    ir.DataType.FLOAT: ("u4", 0x7F800000),
    ir.DataType.DOUBLE: ("u8", 0x7FF0000000000000),
}


def _has_nan(raw: bytes | memoryview, dtype: ir.DataType) -> bool:
    if dtype not in _INFINITY or not len(raw):
        return False
    name, infinity = _INFINITY[dtype]
    bits = np.frombuffer(raw, name)
    without_sign = bits.dtype.type((1 << (8 * bits.itemsize - 1)) - 1)
    largest = (bits & without_sign).max()
    return bool(largest > infinity or (largest == infinity and np.any(bits == infinity)))
