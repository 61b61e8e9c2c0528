"""Reads an ONNX file without its large weights: what they take is skipped, not loaded.

A message is a row of fields; one of bytes is its tag, its length and its content
(https://protobuf.dev/programming-guides/encoding). All but the weights' content goes to protobuf.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx

# Smaller ones are read: among them are the shapes that shape inference needs.
_LARGE_BYTES = 64 * 1024
# Field numbers of onnx.proto.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
# How a field is written: a number, so many bytes, or bytes after their length.
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
# TensorProto's types of four bits, two numbers a byte: UINT4, INT4, FLOAT4E2M1, and those of two.
_PACKED = (21, 22, 23, 25, 26)


def read_structure(path: Path) -> onnx.ModelProto:
    """Return the model in `path`, whose large initializers say name, type and shape, and are empty.

    Raises:
        NirvanaError: the file is cut off, or is no protobuf message.
    """
    import onnx

    model = onnx.ModelProto()
    with path.open("rb") as file:
        for field in _list_fields(file, 0, path.stat().st_size):
            if field.number == _GRAPH:
                _read_graph(file, field, model.graph)
            else:
                model.MergeFromString(_read(file, field.start, field.end))
    return model


def is_skipped(tensor: onnx.TensorProto) -> bool:
    """Return whether the content of an initializer was not read."""
    return tensor.HasField("raw_data") and not tensor.raw_data and math.prod(tensor.dims) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """Where a field begins, its content begins, and it ends, in bytes from the file's start."""

    number: int
    start: int
    content: int
    end: int


def _read_graph(file: BinaryIO, whole: _Field, graph: onnx.GraphProto) -> None:
    """Read a graph, in place, but for the content of large initializers."""
    for field in _list_fields(file, whole.content, whole.end):
        if field.number == _INITIALIZER and field.end - field.content > _LARGE_BYTES:
            _read_tensor(file, field, graph.initializer.add())
        else:
            graph.MergeFromString(_read(file, field.start, field.end))


def _read_tensor(file: BinaryIO, whole: _Field, tensor: onnx.TensorProto) -> None:
    """Read a tensor, in place, but for its content, which must be as long as its shape says."""
    from onnx import helper

    length = 0
    for field in _list_fields(file, whole.content, whole.end):
        if field.number == _RAW_DATA:
            tensor.raw_data, length = b"", field.end - field.content
        else:
            tensor.MergeFromString(_read(file, field.start, field.end))
    if not tensor.HasField("raw_data"):  # as numbers of their own, which some writers prefer
        return
    expected = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if length != expected and tensor.data_type not in _PACKED:
        raise NirvanaError(
            f"the weight {tensor.name} should have {expected} bytes, for its shape "
            f"{list(tensor.dims)}, and has {length}."
        )


def _list_fields(file: BinaryIO, start: int, end: int) -> Iterator[_Field]:
    """Yield the fields between two places; the file may be moved meanwhile."""
    while start < end:
        file.seek(start)
        tag = _read_varint(file)
        kind = tag & 7
        if kind == _BYTES:
            length = _read_varint(file)
            content = file.tell()
        elif kind in _FIXED:
            content, length = file.tell(), _FIXED[kind]
        elif kind == _VARINT:
            content = file.tell()
            _read_varint(file)
            length = file.tell() - content
        else:
            raise NirvanaError(f"byte {start} should begin a field, and is of kind {kind}.")
        if content + length > end:
            raise NirvanaError(
                f"it is cut off: a field at byte {start} should end at {content + length}, "
                f"what holds it ends at {end}."
            )
        yield _Field(number=tag >> 3, start=start, content=content, end=content + length)
        start = content + length


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _read_varint(file: BinaryIO) -> int:
    """Read a number of seven bits a byte, the lowest first."""
    number = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise NirvanaError("it is cut off inside a number.")
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return number
    raise NirvanaError("a number in it is longer than 64 bits.")
