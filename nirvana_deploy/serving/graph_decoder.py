"""A decoder's ONNX graph with its cache, step by step in ONNX Runtime. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporters.io_names import PAST_ENTRY, PAST_PREFIX, to_present
from exporters.onnx_session import open_session
from nirvana_deploy.serving.onnx_signature import TensorSignature, read_signature
from pruning.errors import NirvanaError

Past = dict[str, "np.ndarray[Any, Any]"]

_NUMPY_TYPES = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInput:
    """One input of the cache: [batch, num_heads, past_sequence, head_dim]."""

    name: str
    layer: int
    num_heads: int
    head_dim: int
    dtype: object

    @property
    def output(self) -> str:
        """The output that becomes this input in the next step."""
        return to_present(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderInputs:
    """What a decoder's graph takes: of each step's tokens, and the cache."""

    tokens: tuple[str, ...]
    cache: tuple[CacheInput, ...]


def read_decoder(onnx_path: Path) -> DecoderInputs:
    """Read a graph's inputs, but no weights.

    Raises NirvanaError for a graph without a cache, or with one whose sizes are free.
    """
    signature = read_signature(onnx_path)
    caches = [tensor for tensor in signature.inputs if PAST_ENTRY.fullmatch(tensor.name)]
    tokens = tuple(tensor.name for tensor in signature.inputs if tensor not in caches)
    if not caches:
        raise NirvanaError(
            f"{onnx_path} has the inputs {', '.join(tokens)}: expected a decoder with a cache, "
            f"{PAST_PREFIX}*. Export it with graphs: merged."
        )
    return DecoderInputs(
        tokens=tokens, cache=tuple(_read_cache_input(onnx_path, tensor) for tensor in caches)
    )


class GraphDecoder:
    """A graph `input_ids, attention_mask[, position_ids], cache -> logits, cache`."""

    def __init__(self, onnx_path: Path) -> None:
        """Open the graph; for what it raises see `read_decoder` and `open_session`."""
        self.inputs = read_decoder(onnx_path)
        self._session = open_session(onnx_path)

    def start(self, batch: int) -> Past:
        """Return the cache before the first token."""
        return {
            each.name: np.zeros((batch, each.num_heads, 0, each.head_dim), each.dtype)
            for each in self.inputs.cache
        }

    def step(
        self, input_ids_BS: np.ndarray[Any, Any], mask_BT: np.ndarray[Any, Any], past: Past
    ) -> tuple[np.ndarray[Any, Any], Past]:
        """Return logits [B, S, vocabulary] and the longer cache; the mask is of all T tokens."""
        positions_BT = np.maximum(np.cumsum(mask_BT, axis=1) - 1, 0)
        known = {
            "input_ids": input_ids_BS,
            "attention_mask": mask_BT,
            "position_ids": positions_BT[:, -input_ids_BS.shape[1] :],
        }
        feeds = {name: np.asarray(known[name], np.int64) for name in self.inputs.tokens}
        names = ["logits", *(each.output for each in self.inputs.cache)]
        logits, *present = self._session.run(names, {**feeds, **past})
        return logits, {
            each.name: new for each, new in zip(self.inputs.cache, present, strict=True)
        }


def _read_cache_input(onnx_path: Path, tensor: TensorSignature) -> CacheInput:
    match = PAST_ENTRY.fullmatch(tensor.name)
    assert match is not None
    kind, dims = tensor.data_type, tensor.dims
    if kind not in _NUMPY_TYPES or len(dims) != 3 or -1 in (dims[0], dims[2]):
        raise NirvanaError(
            f"{onnx_path}: {tensor.name} is {kind} [batch, {', '.join(map(str, dims))}]; expected "
            "a float cache [batch, heads, past_sequence, head_dim] whose heads and head_dim are "
            "numbers. Export it again."
        )
    return CacheInput(
        name=tensor.name,
        layer=int(match[1]),
        num_heads=dims[0],
        head_dim=dims[2],
        dtype=_NUMPY_TYPES[kind],
    )
