"""Turns arrays by name into tensors as an engine takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pruning.errors import NirvanaError


def check_inputs(
    specs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], inputs: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Return `inputs` in the engine's order and types; shapes are left to its profiles.

    Raises NirvanaError for an input that is missing, not known, of too few or many dimensions, or
    whose values are not kept by the engine's type.
    """
    missing = [name for name in specs if name not in inputs]
    unknown = [name for name in inputs if name not in specs]
    if missing or unknown:
        raise NirvanaError(
            f"The engine takes {', '.join(_describe(*item) for item in specs.items())}. "
            f"Missing: {', '.join(missing) or 'none'}; not known: {', '.join(unknown) or 'none'}."
        )
    return {name: _convert(name, spec, inputs[name]) for name, spec in specs.items()}


def _convert(name: str, spec: tuple[torch.dtype, tuple[int, ...]], value: Any) -> torch.Tensor:
    dtype, shape = spec
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    if array.ndim != len(shape):
        raise NirvanaError(
            f"The engine takes {_describe(name, spec)}, got {array.ndim} dimensions: "
            f"{list(array.shape)}."
        )
    try:
        given = torch.from_numpy(array)
    except TypeError as error:
        raise NirvanaError(
            f"The engine takes {_describe(name, spec)}, got {array.dtype}."
        ) from error
    converted = given.to(dtype)
    if given.dtype != dtype and not _is_kept(given, converted):
        raise NirvanaError(
            f"The engine takes {_describe(name, spec)}, got {array.dtype} with values that "
            "it does not hold."
        )
    return converted


def _is_kept(given: torch.Tensor, converted: torch.Tensor) -> bool:
    """Whether integers stay what they are; floats are rounded, but stay floats."""
    if given.is_floating_point() and converted.is_floating_point():
        return True
    if given.is_floating_point():
        return False
    return bool((converted.to(given.dtype) == given).all())


def _describe(name: str, spec: tuple[torch.dtype, tuple[int, ...]]) -> str:
    dtype, shape = spec
    return f"{name} ({str(dtype).removeprefix('torch.')} {list(shape)})"
