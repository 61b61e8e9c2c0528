"""Turns a request of the Open Inference Protocol into arrays, and refuses what does not fit.

All of it happens before a worker sees the request: a model computes with whatever it is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nirvana_deploy.serving.onnx_signature import TensorSignature

# By the protocol's name of a type.
NUMPY_TYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
# The other way round, for answers; texts are arrays of objects.
WIRE_TYPES = {dtype: name for name, dtype in NUMPY_TYPES.items()} | {"object": "BYTES"}
# Parameters of a tensor that ask for another answer than we give: of Triton's extensions.
_EXTENSIONS = ("shared_memory", "classification")
# Inputs with one number per token.
_TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


class RefusedError(Exception):
    """A request that is not answered; the client reads the reason.

    Attributes:
        status: The HTTP status: 400 for what does not fit, 503 for what may fit later.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenTensor:
    """Hold one input as it came.

    Attributes:
        data: A list, flat or nested, as JSON has it, or bytes in the machine's order.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """Hold a request for one model.

    Attributes:
        outputs: The names that are asked for; empty for all.
    """

    inputs: tuple[GivenTensor, ...]
    outputs: tuple[str, ...] = ()
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReader:
    """Knows what a model takes.

    Attributes:
        max_batch_size: The most rows per request.
        max_tokens: The most tokens per request: rows times their length.
        max_positions: The most tokens per row; None where unknown.
        id_limits: For inputs that look rows of a table up, such as `input_ids`, the rows it has.
        max_text_chars: The most characters per text.
    """

    inputs: Mapping[str, TensorSignature]
    outputs: Sequence[str]
    max_batch_size: int
    max_tokens: int
    max_text_chars: int
    max_positions: int | None = None
    id_limits: Mapping[str, int] = field(default_factory=dict)

    def read(self, request: InferRequest) -> dict[str, object]:
        """Return the arrays by name.

        Raises:
            RefusedError: names, types, shapes, sizes or values do not fit.
        """
        given = {each.name: each for each in request.inputs}
        if sorted(given) != sorted(self.inputs) or len(given) != len(request.inputs):
            raise RefusedError(
                f"The model takes the inputs {', '.join(self.inputs)}, got "
                f"{', '.join(each.name for each in request.inputs) or 'none'}."
            )
        unknown = [name for name in request.outputs if name not in self.outputs]
        if unknown:
            raise RefusedError(
                f"The model has no output {', '.join(unknown)}; it has {', '.join(self.outputs)}."
            )
        feeds = {name: self._read_input(given[name], self.inputs[name]) for name in self.inputs}
        if len({array.shape[0] for array in feeds.values()}) > 1:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise RefusedError(f"The inputs have different numbers of rows: {shapes}.")
        return feeds

    def _read_input(self, given: GivenTensor, expected: TensorSignature) -> Any:
        wanted = expected.wire_type
        if given.datatype != wanted:
            raise RefusedError(f"{given.name} must be of type {wanted}, got {given.datatype}.")
        shape = list(given.shape)
        dims = zip(shape[1:], expected.dims, strict=False)
        fits = len(shape) == 1 + len(expected.dims) and all(d in (-1, n) for n, d in dims)
        if not fits or min(shape) < 1:
            written = ", ".join("any" if dim == -1 else str(dim) for dim in expected.dims)
            raise RefusedError(
                f"{given.name} must be of shape [rows{', ' if written else ''}{written}], with 1 "
                f"or more of each, got {shape}."
            )
        self._check_size(given.name, shape)
        if wanted == "BYTES":
            return self._read_text(given, shape)
        array = _read_array(given, shape, NUMPY_TYPES[wanted])
        self._check_values(given.name, array)
        return array

    def _check_size(self, name: str, shape: list[int]) -> None:
        if shape[0] > self.max_batch_size:
            raise RefusedError(
                f"{name} has {shape[0]} rows; at most {self.max_batch_size} are taken."
            )
        if not name.endswith(_TOKEN_INPUTS) or len(shape) != 2:
            return
        if self.max_positions is not None and shape[1] > self.max_positions:
            raise RefusedError(
                f"{name} has {shape[1]} tokens per row; the model has {self.max_positions} "
                "positions. Cut the rows."
            )
        if math.prod(shape) > self.max_tokens:
            raise RefusedError(
                f"{name} has {math.prod(shape)} tokens; at most {self.max_tokens} are taken per "
                "request. Send fewer rows, or start the server with a larger --max-tokens."
            )

    def _check_values(self, name: str, array: Any) -> None:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RefusedError(
                f"{name} must hold finite numbers; got NaN, infinity or one beyond {array.dtype}."
            )
        if name.endswith("attention_mask"):
            if not ((array == 0) | (array == 1)).all():
                raise RefusedError(f"{name} must hold 0 and 1 alone.")
        elif name.endswith(_TOKEN_INPUTS):
            limit = self.id_limits.get(name)
            if name == "position_ids":
                limit = limit or self.max_positions
            if array.min() < 0 or (limit is not None and array.max() >= limit):
                last = "" if limit is None else f" to {limit - 1}"
                raise RefusedError(
                    f"{name} must hold numbers from 0{last}, got {array.min()} to {array.max()}."
                )

    def _read_text(self, given: GivenTensor, shape: list[int]) -> object:
        """Read text, which comes as such in JSON and as UTF-8 by gRPC."""
        rows = split_bytes(given) if isinstance(given.data, bytes) else given.data
        rows = _flatten(rows, len(shape))
        try:
            texts = [row.decode("utf-8") if isinstance(row, bytes) else row for row in rows]
        except UnicodeDecodeError as error:
            raise RefusedError(f"{given.name} is not UTF-8: {error}.") from error
        if len(texts) != math.prod(shape) or not all(isinstance(text, str) for text in texts):
            raise RefusedError(
                f"The data of {given.name} must be {math.prod(shape)} texts, for shape {shape}."
            )
        longest = max(map(len, texts))
        if longest > self.max_text_chars:
            raise RefusedError(
                f"{given.name} has a text of {longest} characters; at most {self.max_text_chars} "
                "are taken. Cut it, or start the server with a larger --max-text-chars."
            )
        array = np.empty(len(texts), object)
        array[:] = texts
        return array.reshape(shape)


def refuse_extensions(name: str, parameters: Iterable[str]) -> None:
    """Refuse what a client would wait for in vain, as an answer in shared memory.

    Raises:
        RefusedError: a tensor's parameters ask for it.
    """
    for parameter in parameters:
        if parameter.startswith(_EXTENSIONS):
            raise RefusedError(
                f"{name} has the parameter {parameter}, of an extension that this server lacks: "
                "send and take tensors in the messages themselves, and choose classes yourself."
            )


def split_bytes(given: GivenTensor) -> list[bytes]:
    """Split texts as they travel in binary: each behind its length in four bytes.

    Raises:
        RefusedError: the bytes end within a text or a length.
    """
    data, rows, place = given.data, [], 0
    while place < len(data):
        end = place + 4 + int.from_bytes(data[place : place + 4], "little")
        if place + 4 > len(data) or end > len(data):
            raise RefusedError(f"The bytes of {given.name} end within a text.")
        rows.append(data[place + 4 : end])
        place = end
    return rows


def _flatten(data: object, depth: int) -> list[Any]:
    rows = data if isinstance(data, list) else [data]
    for _ in range(depth - 1):
        if not any(isinstance(row, list) for row in rows):
            break
        rows = [each for row in rows for each in (row if isinstance(row, list) else [row])]
    return rows


def _read_array(given: GivenTensor, shape: list[int], dtype: str) -> object:
    wanted, count = np.dtype(dtype), math.prod(shape)
    if isinstance(given.data, bytes):
        if len(given.data) != count * wanted.itemsize:
            raise RefusedError(
                f"The data of {given.name} must be {count * wanted.itemsize} bytes, for shape "
                f"{shape} of {given.datatype}; got {len(given.data)}."
            )
        return np.frombuffer(given.data, wanted).reshape(shape)
    numbers = _flatten(given.data, len(shape))
    kinds: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}
    allowed = kinds[wanted.kind]
    types = {type(number) for number in numbers}
    if len(numbers) != count or not types <= allowed:
        names = ", ".join(sorted(each.__name__ for each in types)) or "nothing"
        raise RefusedError(
            f"The data of {given.name} must be {count} numbers of type {dtype}, for shape {shape}; "
            f"got {len(numbers)} of {names}."
        )
    try:
        with np.errstate(over="ignore"):  # infinity is refused after this
            held = np.array(numbers, wanted)
    except (ValueError, OverflowError) as error:
        raise RefusedError(f"The data of {given.name} cannot be read: {error}.") from error
    return held.reshape(shape)
