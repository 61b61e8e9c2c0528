"""Reads a request of the Open Inference Protocol into arrays, and refuses what does not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, RequestInput

from nirvana_deploy.serving.onnx_signature import TensorSignature

# By the protocol's name of a type.
_NUMPY_TYPES = {
    "BOOL": "bool",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReader:
    """Knows what a model takes.

    Attributes:
        max_batch_size: most rows of a request.
    """

    inputs: Mapping[str, TensorSignature]
    max_batch_size: int

    def read(self, payload: InferenceRequest) -> dict[str, Any]:
        """Return the arrays by name; raise InferenceError, which the client reads."""
        given = {each.name: each for each in payload.inputs}
        if sorted(given) != sorted(self.inputs) or len(given) != len(payload.inputs):
            raise InferenceError(
                f"The model takes the inputs {', '.join(self.inputs)}, got "
                f"{', '.join(each.name for each in payload.inputs) or 'none'}."
            )
        feeds = {name: self._read_input(given[name], self.inputs[name]) for name in self.inputs}
        if len({array.shape[0] for array in feeds.values()}) > 1:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise InferenceError(f"The inputs have different numbers of rows: {shapes}.")
        return feeds

    def _read_input(self, given: RequestInput, expected: TensorSignature) -> Any:
        wanted = expected.wire_type
        if _name_type(given) != wanted:
            raise InferenceError(f"{given.name} must be of type {wanted}, got {_name_type(given)}.")
        shape = list(given.shape)
        dims = zip(shape[1:], expected.dims, strict=False)
        fits = len(shape) == 1 + len(expected.dims) and all(d in (-1, n) for n, d in dims)
        if not fits or min(shape) < 1:
            written = ", ".join("any" if dim == -1 else str(dim) for dim in expected.dims)
            raise InferenceError(
                f"{given.name} must be of shape [rows{', ' if written else ''}{written}], with 1 "
                f"or more of each, got {shape}."
            )
        if shape[0] > self.max_batch_size:
            raise InferenceError(
                f"{given.name} has {shape[0]} rows; at most {self.max_batch_size} are taken."
            )
        if wanted == "BYTES":
            return _read_text(given, shape)
        return _read_array(given, shape, _NUMPY_TYPES[wanted])


def _name_type(given: RequestInput) -> str:
    """MLServer has the name, or a member of its enumeration."""
    return str(getattr(given.datatype, "value", given.datatype))


def _read_array(given: RequestInput, shape: list[int], dtype: str) -> Any:
    data = getattr(given.data, "root", given.data)
    try:
        array = np.frombuffer(data, dtype) if isinstance(data, bytes) else np.array(data)
        # A number that the type cannot hold is a mistake, not another number.
        held = array.astype(dtype)
        exact = np.issubdtype(array.dtype, np.number) or array.dtype == bool
        if np.issubdtype(np.dtype(dtype), np.integer):
            exact = exact and bool((held == array).all())
    except (ValueError, TypeError, OverflowError) as error:
        raise InferenceError(f"The data of {given.name} cannot be read: {error}.") from error
    if not exact or held.size != math.prod(shape):
        raise InferenceError(
            f"The data of {given.name} must be {math.prod(shape)} numbers of type {dtype}, for "
            f"shape {shape}; got {held.size} of {array.dtype}."
        )
    return held.reshape(shape)


def _read_text(given: RequestInput, shape: list[int]) -> Any:
    """Read text, which comes as such in JSON and as UTF-8 by gRPC."""
    data = getattr(given.data, "root", given.data)
    rows = data if isinstance(data, list) else [data]
    try:
        texts = [row.decode("utf-8") if isinstance(row, bytes) else row for row in rows]
    except UnicodeDecodeError as error:
        raise InferenceError(f"{given.name} is not UTF-8: {error}.") from error
    if len(texts) != math.prod(shape) or not all(isinstance(text, str) for text in texts):
        raise InferenceError(
            f"The data of {given.name} must be {math.prod(shape)} texts, for shape {shape}."
        )
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)
