"""Fuses a decoder's attention and its cache into ONNX Runtime's GroupQueryAttention.

The operator is causal by itself. Padding and windows stay in the graph's own mask, which it adds to
the scores: so a batch that is padded on the left is right, and every row counts as total_sequence
long. Legend of dims: see attention_site.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporters.passes.attention_inputs import find_split_source, give_merged, merge_heads
from exporters.passes.attention_site import AttentionSite, find_attentions
from exporters.passes.graph_pass import (
    CONTRIB,
    GraphPass,
    NoMatchError,
    PassOutcome,
    Refusal,
    use_contrib,
)
from exporters.passes.graph_reading import (
    find_producer,
    make_constant,
    make_node,
    read_axis,
    take_over,
)
from exporters.passes.mask_probe import read_mask_kind
from exporters.passes.scatter_cache import MASK, TOKENS, find_input, take_lengths_from_mask

_HEAD_DIM_STEP = 8


class FuseGroupQueryAttention(GraphPass):
    """Write attention, cache and repeated key-value heads as one node, with its own layer's counts.

    The lengths are taken from the attention mask afterwards, not from the cache: the graph then
    also runs with a cache buffer that is longer than what is in it.
    """

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Fuse in place what fits."""
        refusals: list[Refusal] = []
        biases: dict[ir.Value, ir.Value] = {}
        lengths: tuple[ir.Value, ir.Value] | None = None
        num_fused = 0
        for site in find_attentions(model):
            if isinstance(site, Refusal):
                refusals.append(site)
                continue
            try:
                keys = _read_keys(site)
                bias = _find_bias(model, site, biases, has_cache=keys.past_key is not None)
                lengths = lengths or _make_lengths(model)
                _fuse(model, site, keys, bias, lengths)
                num_fused += 1
            except NoMatchError as error:
                refusals.append(Refusal(node=site.name, reason=str(error)))
        if num_fused:
            use_contrib(model)
            RemoveUnusedNodesPass()(model)  # else the next pass finds what is left of them
            take_lengths_from_mask(model)
        return self.tell(num_fused, refusals)


class _Keys:
    """New keys and values [B, S, G, D], the caches before them, and [B, G, T, D] after."""

    __slots__ = ("key", "past_key", "past_value", "present_key", "present_value", "value")

    def __init__(self, site: AttentionSite) -> None:
        self.past_key, new_key = _split_cache(site.key)
        self.past_value, new_value = _split_cache(site.value)
        if (self.past_key is None) != (self.past_value is None):
            raise NoMatchError("only one of its key and value has a cache")
        self.present_key, self.present_value = site.key, site.value
        self.key, self.value = _expect_split(new_key, "key"), _expect_split(new_value, "value")


def _read_keys(site: AttentionSite) -> _Keys:
    if not site.key_is_split:
        raise NoMatchError("it has no cache, and its keys are no output of the graph")
    keys = _Keys(site)
    if keys.past_key is None and not site.key.is_graph_output():
        raise NoMatchError("it has no cache, and its keys are no output of the graph")
    _expect_split(site.query, "query")
    if site.head_dim % _HEAD_DIM_STEP:
        raise NoMatchError(
            f"its head dim is {site.head_dim}, GroupQueryAttention takes multiples of "
            f"{_HEAD_DIM_STEP}"
        )
    return keys


def _expect_split(value: ir.Value, what: str) -> ir.Value:
    split = find_split_source(value)
    if split is None:
        raise NoMatchError(f"the heads of its {what} are not split off by Reshape and Transpose")
    return split


def _split_cache(value: ir.Value) -> tuple[ir.Value | None, ir.Value]:
    node = find_producer(value, "Concat")
    if node is None:
        return None, value
    if len(node.inputs) != 2 or read_axis(node) not in (-2, 2):
        raise NoMatchError("its cache is not put in front of the new keys along the positions")
    past, new = node.inputs
    if past is None or new is None or not past.is_graph_input():
        raise NoMatchError("its cache is no input of the graph")
    return past, new


def _find_bias(
    model: ir.Model,
    site: AttentionSite,
    known: dict[ir.Value, ir.Value],
    *,
    has_cache: bool,
) -> ir.Value:
    """Return what to add to the scores: the graph's own mask, or one of the padding alone.

    The operator hides later tokens; so a mask that hides nothing but them and the padding needs
    fewer nodes, which counts where a step has one token.
    """
    bias = site.bias
    if bias is None:
        raise NoMatchError("it has no mask, so it is not causal")
    if bias not in known:
        kind = read_mask_kind(model, bias, has_cache=has_cache)
        if kind == "other":
            raise NoMatchError(f"its mask {bias.name} is not causal")
        known[bias] = bias if kind == "causal and more" else _make_padding(model, bias)
    return known[bias]


def _make_padding(model: ir.Model, like: ir.Value) -> ir.Value:
    """Put 0 for each token and the lowest number for padding, [B, 1, S, T], before the graph."""
    mask, tokens = find_input(model, MASK), find_input(model, TOKENS)
    if mask is None or tokens is None:
        raise NoMatchError(f"the graph has no input {TOKENS} to read the new length from")
    nodes: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
        nodes.append(ir.node(op, inputs, attributes=attributes))
        return nodes[-1].outputs[0]

    dtype = like.dtype or ir.DataType.FLOAT
    one = make_constant(model, np.array(1, dtype.numpy()), f"one_{dtype.short_name()}")
    largest = make_constant(
        model, np.array(dtype.max, dtype.numpy()), f"largest_{dtype.short_name()}"
    )
    inner = make_constant(model, np.array([1, 2], np.int64), "axes_1_2")
    live = add("Cast", [mask], to=dtype)
    columns = add("Unsqueeze", [add("Mul", [add("Sub", [live, one]), largest]), inner])
    ones = make_constant(model, np.array([1, 1], np.int64), "ones_2")
    last = make_constant(model, np.array([1], np.int64), "one_1")
    length = add("Shape", [tokens], start=1, end=2)
    padding = add("Expand", [columns, add("Concat", [ones, length, last], axis=0)])
    padding.name = "padding_bias"
    model.graph.insert_before(model.graph[0], nodes)
    return padding


def _make_lengths(model: ir.Model) -> tuple[ir.Value, ir.Value]:
    """Put seqlens_k [B] and total_sequence_length [] in front of the graph, int32."""
    mask = find_input(model, MASK)
    if mask is None or mask.shape is None or len(mask.shape) != 2:
        raise NoMatchError(f"the graph has no input {MASK} to read the total length from")
    one = make_constant(model, np.array([1], np.int64), "one_1")
    batch = ir.node("Shape", [mask], attributes={"start": 0, "end": 1})
    total = ir.node("Shape", [mask], attributes={"start": 1, "end": 2})
    last = ir.node("Sub", [total.outputs[0], one])
    rows = ir.node("Expand", [last.outputs[0], batch.outputs[0]])
    seqlens = ir.node("Cast", [rows.outputs[0]], attributes={"to": ir.DataType.INT32})
    scalar = ir.node("Squeeze", [total.outputs[0]])
    length = ir.node("Cast", [scalar.outputs[0]], attributes={"to": ir.DataType.INT32})
    seqlens.outputs[0].name, length.outputs[0].name = "seqlens_k", "total_sequence_length"
    nodes = [batch, total, last, rows, seqlens, scalar, length]
    model.graph.insert_before(model.graph[0], nodes)
    return seqlens.outputs[0], length.outputs[0]


def _fuse(
    model: ir.Model,
    site: AttentionSite,
    keys: _Keys,
    bias: ir.Value,
    lengths: tuple[ir.Value, ir.Value],
) -> None:
    end = site.merged.producer()
    assert end is not None
    query = merge_heads(model, _expect_split(site.query, "query"), site.anchor, end)
    new_key = merge_heads(model, keys.key, site.anchor, end)
    new_value = merge_heads(model, keys.value, site.anchor, end)
    attributes = {
        "num_heads": site.num_heads,
        "kv_num_heads": site.num_kv_heads,
        "scale": site.scale,
        **({"softcap": site.softcap} if site.softcap else {}),
    }
    node = make_node(
        "GroupQueryAttention",
        [
            *(query, new_key, new_value, keys.past_key, keys.past_value),
            *lengths,
            *(None, None, None, bias),  # no rotation, no positions
        ],
        like=site.anchor,
        domain=CONTRIB,
        attributes=attributes,
        num_outputs=3,
    )
    model.graph.insert_before(end, node)
    take_over(keys.present_key, node.outputs[1])
    take_over(keys.present_value, node.outputs[2])
    give_merged(model, node, site.merged)
