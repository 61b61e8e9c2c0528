"""The shapes that attention operators and ONNX Runtime's fused operators give.

Sources: ONNX operator `Attention` (23); onnxruntime docs/ContribOperators.md.
B batch, S new positions, T all positions, H query heads, K key heads, D head width.
"""

from __future__ import annotations

import onnx_ir as ir

from exporters.graphs.node_reading import read_attribute
from exporters.graphs.op_values import UNKNOWN, Fact
from exporters.graphs.shape_rules import Facts, Rule, Shape, ShapeUnknown, has_input, shape_of


def _attention(node: ir.Node, facts: Facts) -> list[Fact]:
    return _contrib_attention(node, facts) if node.domain else _onnx_attention(node, facts)


def _contrib_attention(node: ir.Node, facts: Facts) -> list[Fact]:
    batch, new, _ = shape_of(facts, 0)
    sizes = read_attribute(node, "qkv_hidden_sizes", None)
    width = sizes[2] if sizes else shape_of(facts, 1)[1] // 3
    return [Fact((batch, new, width)), UNKNOWN]


def _onnx_attention(node: ir.Node, facts: Facts) -> list[Fact]:
    query, value = shape_of(facts, 0), shape_of(facts, 2)
    if len(query) == 4:
        present = [_append(shape_of(facts, i), facts, i + 3) for i in (1, 2)]
        return [Fact((*query[:3], value[3])), *map(Fact, present), UNKNOWN]
    heads = read_attribute(node, "q_num_heads", 0)
    kv_heads = read_attribute(node, "kv_num_heads", 0)
    present = [_append(_split_heads(shape_of(facts, i), kv_heads), facts, i + 3) for i in (1, 2)]
    return [Fact((*query[:2], heads * value[2] // kv_heads)), *map(Fact, present), UNKNOWN]


def _split_heads(shape: Shape, heads: int) -> Shape:
    return shape[0], heads, shape[1], shape[2] // heads


def _append(new: Shape, facts: Facts, past_index: int) -> Shape:
    """Return the shape of a cache [B, K, T, D] after new positions were put behind it."""
    if not has_input(facts, past_index):
        return new
    past = shape_of(facts, past_index)
    return (*new[:2], past[2] + new[2], new[3])


def _multi_head(node: ir.Node, facts: Facts) -> list[Fact]:
    query = shape_of(facts, 0)
    heads = read_attribute(node, "num_heads", 0)
    if len(query) != 3 or not has_input(facts, 2):
        raise ShapeUnknown
    value = shape_of(facts, 2)
    keys = shape_of(facts, 1)
    width = value[2] if len(value) == 3 else value[1] * value[3]
    if len(keys) == 4:
        return [Fact((*query[:2], width)), Fact(keys), Fact(value), UNKNOWN]
    present = [_append(_split_heads(shape_of(facts, i), heads), facts, i + 5) for i in (1, 2)]
    return [Fact((*query[:2], width)), *map(Fact, present), UNKNOWN]


def _group_query(node: ir.Node, facts: Facts) -> list[Fact]:
    query = shape_of(facts, 0)
    heads = read_attribute(node, "num_heads", 0)
    kv_heads = read_attribute(node, "kv_num_heads", 0)
    head_dim = query[2] // (heads if has_input(facts, 1) else heads + 2 * kv_heads)
    new = (query[0], kv_heads, query[1], head_dim)
    present = [_append(new, facts, i) for i in (3, 4)]
    return [Fact((*query[:2], heads * head_dim)), *map(Fact, present)]


def _skip_norm(_node: ir.Node, facts: Facts) -> list[Fact]:
    shape = Fact(shape_of(facts, 0))
    return [shape, UNKNOWN, UNKNOWN, shape]


def _embed_norm(_node: ir.Node, facts: Facts) -> list[Fact]:
    ids, table = shape_of(facts, 0), shape_of(facts, 2)
    whole = Fact((*ids, table[-1]))
    return [whole, Fact(ids[:1]), whole]


def _like_first(_node: ir.Node, facts: Facts) -> list[Fact]:
    return [Fact(shape_of(facts, 0))]


def _reorder_output(node: ir.Node, facts: Facts) -> list[Fact]:
    rows, _, height, width = shape_of(facts, 0)  # channels are filled up to whole blocks
    channels = read_attribute(node, "channels", 0)
    last = read_attribute(node, "channels_last", 0)
    return [Fact((rows, height, width, channels) if last else (rows, channels, height, width))]


def _reorder_input(node: ir.Node, facts: Facts) -> list[Fact]:
    rows, *others = shape_of(facts, 0)
    if read_attribute(node, "channels_last", 0):
        others = [others[-1], *others[:-1]]
    return [Fact((rows, *others))]


FUSED_SHAPE_RULES: dict[str, Rule] = {
    "Attention": _attention,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _group_query,
    "SkipLayerNormalization": _skip_norm,
    "SkipSimplifiedLayerNormalization": _skip_norm,
    "EmbedLayerNormalization": _embed_norm,
    "RotaryEmbedding": _like_first,
    "ReorderInput": _reorder_input,
    "ReorderOutput": _reorder_output,
}
