"""The files of an ONNX model: whole, beside each other, and those that the export wrote.

Every reader of a graph asks here, so that what one refuses the others refuse too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from exporters.graphs.export_manifest import find_manifest
from pruning.checkpoints.file_hash import check_inside
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx

# TensorProto's types of four bits, UINT4, INT4 and FLOAT4E2M1, and of two, by values per byte.
_PACKED = {21: 2, 22: 2, 23: 2, 25: 4, 26: 4}


@contextlib.contextmanager
def explain_malformed(path: Path) -> Iterator[None]:
    """Turn what a malformed graph makes of our own reading of it into a message with the node."""
    try:
        yield
    except (NirvanaError, OSError, MemoryError):
        raise
    except Exception as error:  # of numpy, protobuf, onnx and of sizes that do not go together
        place, trace = "", error.__traceback__
        while trace is not None:
            found = trace.tb_frame.f_locals.get("node")
            if found is not None and hasattr(found, "op_type"):
                place = f"node {found.name or '(unnamed)'} ({found.op_type}): "
            trace = trace.tb_next
        reason = "".join(str(error).strip().splitlines()[:1])[:200] or type(error).__name__
        raise NirvanaError(
            f"{path}: {place}the graph is malformed: {reason.rstrip('.')}. Export it again."
        ) from error


def check_whole(path: Path, model: onnx.ModelProto) -> None:
    """Check the files of a graph that was read without its weights.

    Raises:
        NirvanaError: a file is not the one that the export beside it wrote, or external data is
            missing, lies elsewhere, or is not as long as its tensor.
    """
    check_hashes(path)
    for tensor in model.graph.initializer:
        if tensor.external_data:
            locate_external(path, tensor)
    for node, tensor in _list_attributes(model.graph):
        if tensor.external_data:
            raise NirvanaError(
                f"{path}: node {node.name or '(unnamed)'} ({node.op_type}) keeps a value in a file "
                "beside the graph; only initializers may. Save the model again without."
            )


def check_hashes(path: Path, *, fresh: bool = False) -> None:
    """Compare an ONNX file and its data with the export.json beside it, where that names the file.

    With `fresh` the files are read even where this process hashed them before, as for a package.

    Raises:
        NirvanaError: export.json cannot be read, or a file is missing or another.
    """
    manifest = find_manifest(path)
    graph = None if manifest is None else manifest.find(path.name)
    if manifest is not None and graph is not None:
        manifest.check_graph(graph, fresh=fresh)


def locate_external(path: Path, tensor: onnx.TensorProto) -> tuple[Path, int, int]:
    """Return the file of a tensor's data, where it begins there, and its length in bytes.

    Raises:
        NirvanaError: the file is missing or elsewhere, or the data is not all in it.
    """
    told = {entry.key: entry.value for entry in tensor.external_data}
    file = resolve_beside(path, told.get("location", ""), tensor.name)
    need = _count_bytes(path, tensor)
    try:
        offset, length = int(told.get("offset") or 0), int(told.get("length") or need)
    except ValueError as error:
        raise NirvanaError(
            f"{path}: offset {told.get('offset')!r} and length {told.get('length')!r} of the data "
            f"of {tensor.name} are not numbers. Export the model again."
        ) from error
    size = file.stat().st_size
    if length != need or offset < 0 or offset + need > size:
        raise NirvanaError(
            f"{path}: the data of {tensor.name} should be {need:,} bytes from byte {offset:,} on, "
            f"up to byte {offset + need:,} of {told['location']}, which has {size:,} (the graph "
            f"says {length:,} bytes). It was cut short, or is of another graph. Copy it again."
        )
    return file, offset, need


def resolve_beside(path: Path, location: str, name: str) -> Path:
    """Return the real file of external data that is said to be in `location` beside a graph.

    Links are followed within the folder, and to where the graph itself is linked to: a snapshot in
    the Hugging Face hub's cache links all its files into one folder of blobs.

    Raises:
        NirvanaError: it is missing, or outside.
    """
    place = PurePosixPath(location.replace("\\", "/"))
    is_named = bool(place.parts) and not place.is_absolute() and ".." not in place.parts
    if is_named:
        check_inside(str(place), path.parent)
    homes = (path.parent.resolve(), path.resolve().parent, *_list_blobs(path))
    file = (path.parent / place).resolve() if is_named else path
    if not is_named or not any(file.is_relative_to(home) for home in homes):
        raise NirvanaError(
            f"{path}: the data of {name} is said to be in {location!r}, outside of the file's "
            "folder. Such files are not read; put the data beside the graph."
        )
    if not file.is_file():
        raise NirvanaError(
            f"{path.parent / place} is missing: {path.name} keeps the data of {name} there. Copy "
            "it beside the graph, or export the model again."
        )
    return file


def load_external(path: Path, model: onnx.ModelProto) -> None:
    """Read the external data of a graph's initializers into the graph, in place."""
    from onnx import TensorProto

    for tensor in model.graph.initializer:
        if not tensor.external_data:
            continue
        file, offset, length = locate_external(path, tensor)
        with file.open("rb") as data:
            data.seek(offset)
            tensor.raw_data = data.read(length)
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT


def _list_blobs(path: Path) -> Iterator[Path]:
    """Yield the folder of blobs of a hub's cache: .../blobs beside .../snapshots/COMMIT."""
    for parent in path.absolute().parents:
        if parent.name == "snapshots":
            yield (parent.parent / "blobs").resolve()


def _count_bytes(path: Path, tensor: onnx.TensorProto) -> int:
    from onnx import helper

    count = int(math.prod(tensor.dims))
    try:
        if tensor.data_type in _PACKED:
            return -(-count // _PACKED[tensor.data_type])
        return count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, TypeError, ValueError) as error:
        raise NirvanaError(
            f"{path}: {tensor.name} is of the type {tensor.data_type}, which ONNX does not know. "
            "Export the model again."
        ) from error


def _list_attributes(
    graph: onnx.GraphProto,
) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    for node in graph.node:
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                yield node, tensor
            for inner in (attribute.g, *attribute.graphs):
                yield from ((node, tensor) for tensor in inner.initializer)
                yield from _list_attributes(inner)
