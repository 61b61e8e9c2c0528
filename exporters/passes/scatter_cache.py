"""Lets new keys and values be written into a cache buffer, by TensorScatter of opset 24.

The buffer has one fixed length, which TensorRT asks for, and the engine may write it in place;
`past_sequence` and the cache of `total_sequence` are gone from inputs and outputs. Attention goes
over the whole buffer, whose unwritten end the mask hides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporters.io_names import is_past
from exporters.passes.graph_pass import (
    GraphPass,
    NoMatchError,
    PassOutcome,
    Refusal,
    require_opset,
)
from exporters.passes.graph_reading import (
    find_producer,
    make_constant,
    make_node,
    name_node,
    read_axis,
    take_over,
)
from pruning.errors import NirvanaError

MASK, TOKENS = "attention_mask", "input_ids"


def find_input(model: ir.Model, name: str) -> ir.Value | None:
    """Return the graph input of that name."""
    return next((value for value in model.graph.inputs if value.name == name), None)


def take_lengths_from_mask(model: ir.Model) -> None:
    """Replace the length of a cache by that of the mask less that of the new tokens, in place."""
    mask, tokens = find_input(model, MASK), find_input(model, TOKENS)
    if mask is None or tokens is None:
        return
    past: ir.Value | None = None
    for node in list(model.graph):
        if node.op_type != "Shape" or not _is_cache(node.inputs[0]):
            continue
        if (_read_int(node, "start"), _read_int(node, "end")) != (2, 3):
            continue
        past = past or _subtract_lengths(model, mask, tokens)
        ir.convenience.replace_all_uses_with(node.outputs[0], past)


def _subtract_lengths(model: ir.Model, mask: ir.Value, tokens: ir.Value) -> ir.Value:
    total = ir.node("Shape", [mask], attributes={"start": 1, "end": 2})
    new = ir.node("Shape", [tokens], attributes={"start": 1, "end": 2})
    past = ir.node("Sub", [total.outputs[0], new.outputs[0]])
    model.graph.insert_before(model.graph[0], [total, new, past])
    return past.outputs[0]


def _is_cache(value: ir.Value | None) -> bool:
    return (
        value is not None
        and value.is_graph_input()
        and value.shape is not None
        and len(value.shape) == 4
    )


def _read_int(node: ir.Node, name: str) -> int | None:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else None


_OPSET = 24


class ScatterCache(GraphPass):
    """Write each Concat of a cache and new keys or values before Attention as TensorScatter.

    `length` is that of the buffer: no prompt and its answer can be longer.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        if length < 1:
            raise NirvanaError(f"a cache buffer needs a length of at least 1, got {length}.")
        self.length = length

    def requires(self, model: ir.Model) -> None:
        """Refuse a graph with Attention over a cache whose opset has no TensorScatter."""
        if any(_read_caches(node) for node in model.graph if node.op_type == "Attention"):
            require_opset(model, _OPSET, "A cache buffer for TensorRT")

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Rewrite in place what fits; the outcome counts attentions."""
        refusals: list[Refusal] = []
        places = _Places()
        num_rewritten = 0
        for node in list(model.graph):
            if node.op_type != "Attention" or node.domain:
                continue
            try:
                _rewrite(model, node, places, self.length)
                num_rewritten += 1
            except NoMatchError as error:
                refusals.append(Refusal(node=name_node(node), reason=str(error)))
        if num_rewritten:
            take_lengths_from_mask(model)
            RemoveUnusedNodesPass()(model)
        return self.tell(num_rewritten, refusals)


def require_buffers(model: ir.Model, outcomes: Sequence[PassOutcome]) -> None:
    """Raise NirvanaError unless each cache that the graph takes is written in place."""
    left = [
        str(value.name)
        for value in model.graph.inputs
        if is_past(str(value.name))
        and not any(use.node.op_type == "TensorScatter" for use in value.uses())
    ]
    if left:
        refusals = [refusal for outcome in outcomes for refusal in outcome.refusals]
        reasons = "; ".join(f"{refusal.node}: {refusal.reason}" for refusal in refusals)
        raise NirvanaError(
            f"{left[0]} cannot be a cache buffer in this model's graph ({reasons}). Leave "
            "cache_length out."
        )


class _Places:
    """What all attentions of a graph share: where to write, and masks as long as the buffer."""

    __slots__ = ("indices", "masks", "rest")

    def __init__(self) -> None:
        self.indices: ir.Value | None = None
        self.rest: ir.Value | None = None
        self.masks: dict[ir.Value, ir.Value] = {}


def _read_caches(node: ir.Node) -> list[ir.Node]:
    """Return the Concats of a cache with new keys, and with new values."""
    found = []
    for value in node.inputs[1:3]:
        concat = find_producer(value, "Concat")
        past = concat.inputs[0] if concat is not None and len(concat.inputs) == 2 else None
        if concat is not None and past is not None and past.is_graph_input():
            found.append(concat)
    return found


def _rewrite(model: ir.Model, node: ir.Node, places: _Places, length: int) -> None:
    caches = _read_caches(node)
    if len(caches) != 2 or any(read_axis(concat) not in (-2, 2) for concat in caches):
        raise NoMatchError("its keys and values are no graph input followed by new ones")
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is None or mask.dtype is None or not mask.dtype.is_floating_point():
        raise NoMatchError("it has no additive mask to hide the end of the buffer with")
    if places.indices is None:
        places.indices, places.rest = _find_places(model, length)
    if mask not in places.masks:
        places.masks[mask] = _lengthen(model, mask, places, node, length)
    for concat in caches:
        past, new = concat.inputs
        assert past is not None and past.shape is not None
        scatter = make_node(
            "TensorScatter", [past, new, places.indices], like=concat, attributes={"axis": 2}
        )
        model.graph.insert_before(concat, scatter)
        present = concat.outputs[0]
        past.shape = ir.Shape([*list(past.shape)[:2], length, past.shape[3]])
        take_over(present, scatter.outputs[0])
        scatter.outputs[0].shape = past.shape.copy()
    node.replace_input_with(3, places.masks[mask])


def _find_places(model: ir.Model, length: int) -> tuple[ir.Value, ir.Value]:
    """Return the first new position by row [B], and how much longer the buffer is than the mask."""
    mask, tokens = find_input(model, MASK), find_input(model, TOKENS)
    if mask is None or tokens is None:
        raise NoMatchError(f"the graph has no inputs {MASK} and {TOKENS} to read lengths from")
    nodes: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value | None], **attributes: Any) -> ir.Value:
        nodes.append(ir.node(op, inputs, attributes=attributes))
        return nodes[-1].outputs[0]

    batch = add("Shape", [mask], start=0, end=1)
    total = add("Shape", [mask], start=1, end=2)
    first = add("Sub", [total, add("Shape", [tokens], start=1, end=2)])
    indices = add("Expand", [first, batch])
    buffer = make_constant(model, np.array([length], np.int64), f"buffer_{length}")
    rest = add("Sub", [buffer, total])
    model.graph.insert_before(model.graph[0], nodes)
    return indices, rest


def _lengthen(
    model: ir.Model, mask: ir.Value, places: _Places, before: ir.Node, length: int
) -> ir.Value:
    """Return the mask [B, 1, S, T] as long as the buffer, its end hidden."""
    assert places.rest is not None and mask.dtype is not None and mask.shape is not None
    zeros = make_constant(model, np.zeros(7, np.int64), "zeros_7")
    pads = ir.node("Concat", [zeros, places.rest], attributes={"axis": 0})
    short = mask.dtype.short_name()
    hidden = make_constant(
        model, np.array(mask.dtype.min, mask.dtype.numpy()), f"mask_hidden_{short}"
    )
    pad = make_node("Pad", [mask, pads.outputs[0], hidden], like=before)
    pad.outputs[0].name = f"{mask.name}_buffer"
    pad.outputs[0].type = mask.type
    pad.outputs[0].shape = ir.Shape([*list(mask.shape)[:3], length])
    model.graph.insert_before(before, [pads, pad])
    return pad.outputs[0]
