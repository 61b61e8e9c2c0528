"""How cuts go through attention operators and ONNX Runtime's fused operators.

Sources: ONNX operators `Attention`, `RotaryEmbedding` (23); onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.graphs.node_reading import input_at, name_node, need_input, read_attribute
from exporters.surgeon.cut_rules import Outputs, Rule, align, rank_of
from exporters.surgeon.graph_cutter import NO_CUTS, GraphCutter
from exporters.surgeon.unit_cut import Mask, NotRegular, UnitCut
from pruning.errors import NirvanaError


def start_attention(cutter: GraphCutter, node: ir.Node, cut: UnitCut) -> Outputs:
    """Cut an Attention that has the projections in it; `cut` is of queries, keys and values."""
    if cut.mask is None:
        raise NotRegular
    heads = read_attribute(node, "num_heads", 0)
    sizes = read_attribute(node, "qkv_hidden_sizes", None) or [cut.total // 3] * 3
    query, key, value = np.split(cut.mask, np.cumsum(sizes)[:-1])
    head_cut = _read_heads(UnitCut.of(query), heads)
    cutter.take(node, 1, 1, cut)
    if input_at(node, 2) is not None:
        cutter.take(node, 2, 0, cut)
    if input_at(node, 4) is not None:
        raise NirvanaError(
            f"{name_node(node)}: it has a cache of keys and values in one, which is not known here."
        )
    _take_heads(cutter, node, 5, 1, head_cut)
    _set(node, "num_heads", head_cut.count)
    if "qkv_hidden_sizes" in node.attributes:
        counts = [int(mask.sum()) for mask in (query, key, value)]
        node.attributes["qkv_hidden_sizes"] = ir.AttrInt64s("qkv_hidden_sizes", counts)
    return [{2: UnitCut.of(value)}, *[NO_CUTS] * (len(node.outputs) - 1)]


def _multi_head(cutter: GraphCutter, node: ir.Node) -> Outputs:
    heads = read_attribute(node, "num_heads", 0)
    query = _channels(cutter, node, 0)
    head_cut = _read_heads(query, heads)
    masks = [query.mask]
    for index in (1, 2):
        if rank_of(cutter, node, index) == 4:
            cutter.take(node, index, 1, head_cut)
            masks.append(query.mask)
        else:
            masks.append(_channels(cutter, node, index).mask)
    if input_at(node, 3) is not None:
        cutter.take(node, 3, 0, UnitCut.of(np.concatenate([m for m in masks if m is not None])))
    _take_heads(cutter, node, 5, 1, head_cut)
    for index in (6, 7):
        _take_heads(cutter, node, index, 1, head_cut)
    _set(node, "num_heads", head_cut.count)
    value = masks[2]
    assert value is not None
    return [{2: UnitCut.of(value)}, {1: head_cut}, {1: head_cut}]


def _group_query(cutter: GraphCutter, node: ir.Node) -> Outputs:
    heads = read_attribute(node, "num_heads", 0)
    kv_heads = read_attribute(node, "kv_num_heads", 0)
    if input_at(node, 1) is None:
        raise NirvanaError(
            f"{name_node(node)}: queries, keys and values come packed, which is not known here."
        )
    query, value = _channels(cutter, node, 0), _channels(cutter, node, 2)
    head_cut, kv_cut = _read_heads(query, heads), _read_heads(value, kv_heads)
    _check_groups(node, head_cut, kv_cut)
    for index in (3, 4):
        _take_heads(cutter, node, index, 1, kv_cut)
    _set(node, "num_heads", head_cut.count)
    _set(node, "kv_num_heads", kv_cut.count)
    return [{2: query}, {1: kv_cut}, {1: kv_cut}]


def _attention(cutter: GraphCutter, node: ir.Node) -> Outputs:
    if node.domain:
        raise NirvanaError(f"{name_node(node)}: units of another layer reach it.")
    if rank_of(cutter, node, 0) == 4:
        values = [cutter.shape(need_input(node, index), node) for index in (0, 2)]
        if values[0][1] == values[1][1]:  # keys may come repeated: more than their queries need
            align(cutter, node, [(index, {1: 1}) for index in (0, 1, 2)])
        head_cut, kv_cut = (_heads(cutter, node, index) for index in (0, 2))
        output = {1: head_cut}
    else:
        heads = read_attribute(node, "q_num_heads", 0)
        kv_heads = read_attribute(node, "kv_num_heads", 0)
        query, value = _channels(cutter, node, 0), _channels(cutter, node, 2)
        head_cut, kv_cut = _read_heads(query, heads), _read_heads(value, kv_heads)
        _set(node, "q_num_heads", head_cut.count)
        _set(node, "kv_num_heads", kv_cut.count)
        output = {2: query}
    _check_groups(node, head_cut, kv_cut)
    if input_at(node, 3) is not None:
        axis = rank_of(cutter, node, 3) - 3
        if axis >= 0:
            _take_heads(cutter, node, 3, axis, head_cut)
    for index in (4, 5):
        _take_heads(cutter, node, index, 1, kv_cut)
    return [output, {1: kv_cut}, {1: kv_cut}]


def _rotary(cutter: GraphCutter, node: ir.Node) -> Outputs:
    cuts = cutter.cuts_of(node.inputs[0])
    heads = read_attribute(node, "num_heads", 0)
    if rank_of(cutter, node, 0) == 3 and 2 in cuts and heads:
        _set(node, "num_heads", _read_heads(cuts[2], heads).count)
    return [cuts]


def _heads(cutter: GraphCutter, node: ir.Node, index: int) -> UnitCut:
    """Return which heads of a [batch, heads, ...] input are left."""
    value = node.inputs[index]
    assert value is not None
    cut = cutter.cuts_of(value).get(1)
    return cut or UnitCut.of(np.ones(cutter.shape(value, node)[1], bool))


def _channels(cutter: GraphCutter, node: ir.Node, index: int) -> UnitCut:
    """Return which channels of a [batch, length, channels] input are left."""
    value = node.inputs[index]
    assert value is not None
    cut = cutter.cuts_of(value).get(2)
    return cut or UnitCut.of(np.ones(cutter.shape(value, node)[2], bool))


def _read_heads(cut: UnitCut, heads: int) -> UnitCut:
    """Return the heads whose channels a cut keeps, each as a whole."""
    if cut.mask is None or not heads or cut.total % heads:
        raise NotRegular
    channels: Mask = cut.mask.reshape(heads, -1)
    kept: Mask = np.asarray(channels.all(axis=1))
    if not np.array_equal(kept, channels.any(axis=1)):
        raise NotRegular
    return UnitCut.of(kept)


def _check_groups(node: ir.Node, heads: UnitCut, kv_heads: UnitCut) -> None:
    """Raise NirvanaError unless every key head that is left has equally many query heads."""
    if heads.mask is None or kv_heads.mask is None:
        raise NotRegular
    counts = heads.mask.reshape(kv_heads.total, -1).sum(axis=1)
    if not np.array_equal(counts > 0, kv_heads.mask) or len(set(counts) - {0}) > 1:
        raise NirvanaError(
            f"{name_node(node)}: the query heads that are left do not go with the key heads."
        )


def _take_heads(cutter: GraphCutter, node: ir.Node, index: int, axis: int, cut: UnitCut) -> None:
    if input_at(node, index) is not None:
        cutter.take(node, index, axis, cut)


def _set(node: ir.Node, name: str, count: int) -> None:
    node.attributes[name] = ir.AttrInt64(name, count)


FUSED_CUT_RULES: dict[str, Rule] = {
    "Attention": _attention,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _group_query,
    "RotaryEmbedding": _rotary,
}
