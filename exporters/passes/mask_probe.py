"""Finds out what a mask does by computing it: the part of the graph that makes it is small.

Exporters write the same mask in many ways; what counts is which positions it lets through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from exporters.passes.graph_pass import NoMatchError

MaskKind = Literal["causal and padding", "causal and more", "other"]

# Scores have the magnitude of tens; what is added to a masked one must drown them.
_MASKED = -1e4
# (batch, new tokens, tokens in the cache): with and without a cache, and longer than a window.
_PROBED = ((3, 5, 3), (3, 7, 0), (2, 1, 6))
_MAX_NODES = 400
# A window of this many tokens or fewer shows in _PROBED; a longer one is a constant of the graph.
_LONGEST_PROBED = 3
_LONGEST_CONSTANT = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _MaskGraph:
    """The nodes that make a mask, in order, their constants, and the graph inputs they read."""

    nodes: list[ir.Node]
    constants: list[ir.Value]
    inputs: list[ir.Value]


def read_mask_kind(model: ir.Model, bias: ir.Value, *, has_cache: bool) -> MaskKind:
    """Say what the mask `bias` hides: later tokens and padding, more than that, or something else.

    It is computed for some lengths with padding on both sides, and for lengths beyond each whole
    number that its nodes hold, where a window would end.

    Raises NoMatchError for a mask that cannot be computed from the lengths and the padding alone.
    """
    part = _collect(bias)
    sizes = [size for size in _PROBED if has_cache or not size[2]]
    kind: MaskKind = "causal and padding"
    for batch, length, past in (*sizes, *_beyond_constants(part, has_cache=has_cache)):
        feeds = _make_feeds(part, batch, length, past)
        mask = _compute(model, part, bias, feeds)
        total = past + length
        if mask.ndim != 4 or mask.shape[-2:] != (length, total):
            return "other"
        hidden = np.arange(total)[None, :] > np.arange(past, total)[:, None]
        if not (mask[..., hidden] <= _MASKED).all():
            return "other"
        padding = feeds.get("attention_mask")
        if padding is None or padding.shape != (batch, total):
            kind = "causal and more"
            continue
        expected = hidden[None, None] | (padding[:, None, None, :] == 0)
        whole = np.broadcast_to(mask, expected.shape)
        if not ((whole <= _MASKED) == expected).all() or whole[~expected].any():
            kind = "causal and more"
    return kind


def _beyond_constants(part: _MaskGraph, *, has_cache: bool) -> list[tuple[int, int, int]]:
    """Return sizes that go beyond each whole number in the mask's nodes."""
    numbers: set[int] = set()
    for value in part.constants:
        array = value.const_value.numpy() if value.const_value is not None else np.zeros(0)
        if np.issubdtype(array.dtype, np.integer):
            numbers.update(abs(int(number)) for number in array.reshape(-1)[:64])
    lengths = [n + 2 for n in sorted(numbers) if _LONGEST_PROBED < n < _LONGEST_CONSTANT]
    return [(2, 2, length) if has_cache else (2, length, 0) for length in lengths]


def _compute(
    model: ir.Model, part: _MaskGraph, bias: ir.Value, feeds: dict[str, np.ndarray[Any, Any]]
) -> np.ndarray[Any, Any]:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    graph = helper.make_graph(
        [ir.to_proto(node) for node in part.nodes],
        "mask",
        [ir.to_proto(value) for value in part.inputs],
        [helper.make_empty_tensor_value_info(str(bias.name))],
        [_name_constant(value) for value in part.constants],
    )
    opsets = [helper.make_opsetid(*opset) for opset in model.graph.opset_imports.items()]
    try:
        (mask,) = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(
            None, feeds
        )
    except Exception as error:  # The evaluator's errors have no base of their own.
        raise NoMatchError(f"its mask {bias.name} cannot be computed: {error}") from error
    return np.asarray(mask)


def _name_constant(value: ir.Value) -> Any:
    """Return a constant under the name of its value: tensors of a trace have none of their own."""
    proto = ir.to_proto(value.const_value)  # type: ignore[arg-type]  # _collect has looked
    proto.name = value.name or ""
    return proto


def _collect(bias: ir.Value) -> _MaskGraph:
    found: set[ir.Node] = set()
    constants: dict[ir.Value, None] = {}
    inputs: dict[ir.Value, None] = {}
    pending = [bias]
    while pending:
        value = pending.pop()
        node = value.producer()
        if value.is_graph_input():
            inputs[value] = None
        elif node is None:
            constants[value] = None
        elif node not in found:
            found.add(node)
            pending += [v for v in node.inputs if v is not None]
        if len(found) > _MAX_NODES:
            raise NoMatchError(f"its mask {bias.name} depends on too much of the graph")
    if any(value.const_value is None for value in constants):
        raise NoMatchError(f"its mask {bias.name} is made from nothing")
    maker = bias.producer()
    order = [node for node in maker.graph if node in found] if maker and maker.graph else []
    return _MaskGraph(nodes=order, constants=list(constants), inputs=list(inputs))


def _make_feeds(
    part: _MaskGraph, batch: int, length: int, past: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the inputs for these sizes; the second row is padded left, the third right."""
    total = past + length
    sizes = {
        "batch": batch,
        "sequence": length,
        "past_sequence": past,
        "total_sequence": total,
    }
    feeds = {str(value.name): _make_feed(value, sizes) for value in part.inputs}
    mask = feeds.get("attention_mask")
    if mask is not None and mask.ndim == 2:
        if batch > 1:
            mask[1, : total // 3] = 0
        if batch > 2:
            mask[2, total - total // 3 :] = 0
    return feeds


def _make_feed(value: ir.Value, sizes: dict[str, int]) -> np.ndarray[Any, Any]:
    if value.shape is None or value.dtype is None:
        raise NoMatchError(f"the graph input {value.name} has no shape")
    shape = []
    for dim in value.shape:
        size = dim if isinstance(dim, int) else sizes.get(str(dim.value))
        if size is None:
            raise NoMatchError(f"the graph input {value.name} has a dim {dim} of unknown meaning")
        shape.append(size)
    is_float = value.dtype.is_floating_point()
    made: np.ndarray[Any, Any] = (np.zeros if is_float else np.ones)(shape, value.dtype.numpy())
    return made
