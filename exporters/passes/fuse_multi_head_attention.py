"""Fuses attentions with one key-value head a query head into ONNX Runtime's MultiHeadAttention."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporters.passes.attention_inputs import (
    find_split_source,
    give_merged,
    merge_heads,
    widen_bias,
)
from exporters.passes.attention_site import AttentionSite, find_attentions
from exporters.passes.graph_pass import (
    CONTRIB,
    GraphPass,
    NoMatchError,
    PassOutcome,
    Refusal,
    use_contrib,
)
from exporters.passes.graph_reading import find_producer, make_node, read_axis, take_over


class FuseMultiHeadAttention(GraphPass):
    """Write softmax(scale * Q @ K^T + bias) @ V as one node, with the head count of its own layer.

    A cache that is a graph input in front of the new keys goes into the node as well.
    """

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Fuse in place what fits."""
        refusals: list[Refusal] = []
        num_fused = 0
        for site in find_attentions(model):
            if isinstance(site, Refusal):
                refusals.append(site)
                continue
            try:
                _fuse(model, site)
                num_fused += 1
            except NoMatchError as error:
                refusals.append(Refusal(node=site.name, reason=str(error)))
        if num_fused:
            use_contrib(model)
            RemoveUnusedNodesPass()(model)  # else the next pass finds what is left of them
        return self.tell(num_fused, refusals)


def _fuse(model: ir.Model, site: AttentionSite) -> None:
    if site.num_kv_heads != site.num_heads:
        raise NoMatchError(
            f"{site.num_heads} query heads share {site.num_kv_heads} key-value heads, "
            "MultiHeadAttention has as many of the one as of the other"
        )
    if site.softcap:
        raise NoMatchError("MultiHeadAttention has no softcap")
    end = site.merged.producer()
    assert end is not None
    query = _merge_query(model, site, end)
    key, value, pasts, presents = _read_keys(model, site, end)
    bias = site.bias
    if bias is not None:
        bias = widen_bias(model, bias, site, end)
    node = make_node(
        "MultiHeadAttention",
        [query, key, value, None, None, bias, *pasts],
        like=site.anchor,
        domain=CONTRIB,
        attributes={"num_heads": site.num_heads, "scale": site.scale},
        num_outputs=1 + len(presents),
    )
    model.graph.insert_before(end, node)
    for present, output in zip(presents, node.outputs[1:], strict=True):
        take_over(present, output)
    give_merged(model, node, site.merged)


def _merge_query(model: ir.Model, site: AttentionSite, end: ir.Node) -> ir.Value:
    split = find_split_source(site.query)
    if split is None:
        raise NoMatchError("the heads of its query are not split off by Reshape and Transpose")
    return merge_heads(model, split, site.anchor, end)


def _read_keys(
    model: ir.Model, site: AttentionSite, end: ir.Node
) -> tuple[ir.Value, ir.Value, list[ir.Value], list[ir.Value]]:
    """Return key and value as the operator takes them, the cache before them and that after."""
    if not site.key_is_split:
        value_split = find_split_source(site.value)
        if value_split is None:
            raise NoMatchError("its value has other heads than its key")
        key = merge_heads(model, site.key, site.anchor, end)
        return key, merge_heads(model, value_split, site.anchor, end), [], []
    caches = [_read_cache(site.key), _read_cache(site.value)]
    if all(cache is not None for cache in caches):
        (past_key, key), (past_value, value) = (c for c in caches if c is not None)
        splits = [find_split_source(key), find_split_source(value)]
        if splits[0] is None or splits[1] is None:
            raise NoMatchError("the new keys and values are not split by Reshape and Transpose")
        merged = [merge_heads(model, s, site.anchor, end) for s in splits if s is not None]
        return merged[0], merged[1], [past_key, past_value], [site.key, site.value]
    splits = [find_split_source(site.key), find_split_source(site.value)]
    if splits[0] is not None and splits[1] is not None:
        merged = [merge_heads(model, s, site.anchor, end) for s in splits if s is not None]
        return merged[0], merged[1], [], []
    return site.key, site.value, [], []  # both [B, H, T, D], as a cross-attention's cache is


def _read_cache(value: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """Return the cache and the new part of a Concat over the positions."""
    node = find_producer(value, "Concat")
    if node is None or len(node.inputs) != 2 or read_axis(node) not in (-2, 2):
        return None
    past, new = node.inputs
    if past is None or new is None or not past.is_graph_input():
        return None
    return past, new
