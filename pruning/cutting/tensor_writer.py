"""Writes a safetensors file tensor by tensor, so that only one of them is in memory.

The `safetensors` package writes a file from tensors that are all there; the format itself (a
length, a JSON header, the bytes) lets the header come first when the shapes are known.
Source: the format's description in the safetensors repository, README "Format".
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

_ALIGNMENT = 8
_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """The name, type and shape under which a tensor is written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * _BYTES[self.dtype]


def write_tensors(path: Path, specs: list[TensorHeader], tensors: Iterable[torch.Tensor]) -> str:
    """Write `tensors`, which come in the order of `specs`, to a new file; return its sha256."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        header = _make_header(specs)
        file.write(header)
        digest.update(header)
        for spec, tensor in zip(specs, tensors, strict=True):
            data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            assert tuple(tensor.shape) == spec.shape and data.nbytes == spec.size_bytes, spec
            file.write(data.data)
            digest.update(data.data)
    return digest.hexdigest()


def _make_header(specs: list[TensorHeader]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for spec in specs:
        end = start + spec.size_bytes
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
