"""Writes an ONNX file aside and renames it; large weights go into a file beside it, one by one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from exporters.surgeon.sliced_tensor import read_array
from pruning.errors import NirvanaError

# Protobuf holds 2 GB at most.
INLINE_BYTES = 1_500_000_000
_SMALL_BYTES = 1024  # such weights stay in the graph: shapes, scalars
_PAGE_BYTES = 4096  # what maps the file wants each tensor at the start of a page
_COPY_BYTES = 64 << 20

Progress = Callable[[int, int], None]  # bytes of weights written, bytes to write


def write_onnx(
    model: ir.Model,
    path: Path,
    check: Callable[[Path], None],
    *,
    external: bool,
    progress: Progress | None = None,
) -> None:
    """Write `model` to `path`, which appears when it is whole and `check` had nothing against it.

    With `external`, or above 1.5 GB, weights go to `path` + ".data". Each is read, cut and written
    on its own; those that stay whole are copied from file to file.

    Raises:
        NirvanaError: `path` is there, or cannot be written.
    """
    data = path.with_name(f"{path.name}.data")
    for there in (path, data):
        if there.exists():
            raise NirvanaError(f"{there} exists already. Choose a new file; nothing was changed.")
    with _write_aside(path) as aside:
        if external or sum(map(_count_bytes, _list_weights(model, least=0))) > INLINE_BYTES:
            _move_weights(model, aside / data.name, progress)
        ir.save(model, aside / path.name)
        check(aside / path.name)
        for file in sorted(aside.iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)  # the graph last: it needs the data


@contextmanager
def _write_aside(path: Path) -> Iterator[Path]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as aside:
            yield Path(aside)
    except OSError as error:
        raise NirvanaError(
            f"Cannot write {path}: {error.strerror or error}. Nothing was left there."
        ) from error


def _count_bytes(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.nbytes


def _list_weights(model: ir.Model, least: int) -> list[ir.Value]:
    return [
        value
        for value in model.graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype != ir.DataType.STRING
        and _count_bytes(value) >= least
    ]


def _move_weights(model: ir.Model, path: Path, progress: Progress | None) -> None:
    """Write the weights to a file, and let the graph point there, in place."""
    weights = _list_weights(model, least=_SMALL_BYTES)
    total = sum(map(_count_bytes, weights))
    done = 0
    with path.open("xb") as file:
        for value in weights:
            tensor = value.const_value
            assert tensor is not None
            start = _round_up(file.tell())
            file.seek(start)
            _write_tensor(tensor, file)
            assert file.tell() - start == tensor.nbytes, tensor.name
            value.const_value = ir.ExternalTensor(
                path.name,
                start,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape([int(n) for n in tensor.shape.numpy()]),
                name=value.name or "",
                base_dir=path.parent,
            )
            done += tensor.nbytes
            if progress is not None:
                progress(done, total)


def _round_up(position: int) -> int:
    return -(-position // _PAGE_BYTES) * _PAGE_BYTES


def _write_tensor(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    if isinstance(tensor, ir.ExternalTensor):
        with Path(tensor.path).open("rb") as source:
            source.seek(tensor.offset or 0)
            left = tensor.nbytes
            while left:
                piece = source.read(min(left, _COPY_BYTES))
                if not piece:
                    raise NirvanaError(f"The data of {tensor.name} in {tensor.path} ends early.")
                file.write(piece)
                left -= len(piece)
    elif tensor.dtype.itemsize >= 1:
        array = read_array(tensor) if not isinstance(tensor, ir.LazyTensor) else tensor.numpy()
        file.write(array.reshape(-1).view("u1").data)
    else:  # several values a byte
        file.write(tensor.tobytes())
