"""Makes a batch of tokens for a model's inputs, unpadded, so that every row is full work."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.io_names import PAST_ENTRY, PAST_PREFIX
from profiles.runners.run_config import RunConfig
from profiles.runners.runner import Runner, Tensors, TensorSpec
from pruning.errors import NirvanaError

_KNOWN = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def make_call_inputs(runner: Runner, config: RunConfig, batch: int) -> Tensors:
    """Return what `runner` takes for `batch` rows; see `make_token_inputs`."""
    return make_token_inputs(
        runner.inputs,
        batch=batch,
        length=config.length,
        past=config.past,
        vocab_size=config.num_ids,
        seed=config.seed,
    )


def make_token_inputs(
    specs: Sequence[TensorSpec],
    *,
    batch: int,
    length: int,
    vocab_size: int,
    seed: int,
    past: int = 0,
) -> Tensors:
    """Return random token ids below `vocab_size`, an attention mask of ones, segment 0.

    A decoder's cache is of `past` random tokens per row, which mask and positions count. Token ids
    are alike for models whose caches are not.

    Raises NirvanaError for an input that is not of a text model, or not free to take the shape.
    """
    draw = np.random.default_rng([seed, batch, length])
    draw_cache = np.random.default_rng([seed, batch, past])
    if past and not any(PAST_ENTRY.fullmatch(spec.name) for spec in specs):
        raise NirvanaError(
            f"past is {past}, and the model takes no cache ({PAST_PREFIX}*). Leave past at 0, "
            "or give a decoder that was exported with its cache."
        )
    values: dict[str, Callable[[], NDArray[np.generic]]] = {
        "input_ids": lambda: draw.integers(0, vocab_size, (batch, length)),
        "attention_mask": lambda: np.ones((batch, past + length)),
        "token_type_ids": lambda: np.zeros((batch, length)),
        "position_ids": lambda: np.tile(np.arange(past, past + length), (batch, 1)),
    }
    inputs = {}
    for spec in specs:
        if PAST_ENTRY.fullmatch(spec.name):
            shape = _fill_cache(spec, batch, past, length)
            inputs[spec.name] = _cast(draw_cache.standard_normal(shape), spec)
        else:
            _check(spec, batch, past + length if spec.name == "attention_mask" else length)
            inputs[spec.name] = _cast(values[spec.name](), spec)
    return inputs


def _fill_cache(spec: TensorSpec, batch: int, past: int, length: int) -> tuple[int, ...]:
    """Return [batch, heads, past, head width] as the graph's own heads and width say.

    A cache of one length is a buffer that the call's own tokens are written into: its end is free
    for them, and hidden by the mask.
    """
    known = spec.shape
    expected = "[batch, heads, past, head width] with heads and width as numbers"
    if len(known) == 4 and isinstance(known[1], int) and isinstance(known[3], int):
        held = known[2] if isinstance(known[2], int) else past
        if known[0] in (batch, None) or isinstance(known[0], str):
            if held == past or held >= past + length:
                return batch, known[1], held, known[3]
            expected = f"past and length of no more than {held} tokens together"
    raise NirvanaError(
        f"The cache {spec.name!r} has shape {list(known)} and cannot take batch {batch}, past "
        f"{past}, length {length}. Expected {expected}."
    )


def _check(spec: TensorSpec, batch: int, length: int) -> None:
    if spec.name not in _KNOWN:
        raise NirvanaError(
            f"The model has an input {spec.name!r}, for which no values can be made. Known inputs: "
            f"{', '.join(_KNOWN)}, {PAST_PREFIX}*."
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
