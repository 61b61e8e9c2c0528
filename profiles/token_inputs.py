"""Makes a batch of tokens for a model's inputs, unpadded, so that every row is full work."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.runner import Tensors, TensorSpec
from pruning.errors import NirvanaError

_KNOWN = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def make_token_inputs(
    specs: Sequence[TensorSpec], *, batch: int, length: int, vocab_size: int, seed: int
) -> Tensors:
    """Return random token ids below `vocab_size`, an attention mask of ones, segment 0.

    Raises NirvanaError for an input that is not of a text encoder, or not free to take the shape.
    """
    draw = np.random.default_rng([seed, batch, length])
    values = {
        "input_ids": lambda: draw.integers(0, vocab_size, (batch, length)),
        "attention_mask": lambda: np.ones((batch, length)),
        "token_type_ids": lambda: np.zeros((batch, length)),
        "position_ids": lambda: np.tile(np.arange(length), (batch, 1)),
    }
    for spec in specs:
        _check(spec, batch, length)
    return {spec.name: _cast(values[spec.name](), spec) for spec in specs}


def _check(spec: TensorSpec, batch: int, length: int) -> None:
    if spec.name not in _KNOWN:
        raise NirvanaError(
            f"The model has an input {spec.name!r}, for which no values can be made. Known inputs: "
            f"{', '.join(_KNOWN)}."
        )
    fits = len(spec.shape) == 2 and all(
        not isinstance(found, int) or found == asked
        for found, asked in zip(spec.shape, (batch, length), strict=True)
    )
    if not fits:
        raise NirvanaError(
            f"The input {spec.name!r} has shape {list(spec.shape)} and cannot take batch {batch}, "
            f"length {length}. Export it with a free batch and length, or set batch_sizes and "
            "length to what it takes."
        )


def _cast(values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=spec.dtype)
