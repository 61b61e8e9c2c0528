"""Writes a decoder's attentions as the Attention operator of opset 23, with shared key-value heads.

TensorRT fuses that one whatever the cache before it, and without repeating keys and values; of the
same attention in its parts it leaves some unfused as soon as there is a cache. Without a cache the
parts fuse, also where a layer has one head left, for which the operator has no kernel.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporters.passes.attention_site import AttentionSite, find_attentions
from exporters.passes.graph_pass import (
    GraphPass,
    NoMatchError,
    PassOutcome,
    Refusal,
    require_opset,
)
from exporters.passes.graph_reading import find_producer, make_constant, make_node, take_over

_OPSET = 23


class WriteAttentionOperator(GraphPass):
    """Write each attention with a cache as one Attention node; the cache stays before it."""

    def requires(self, model: ir.Model) -> None:
        """Refuse a graph with a cache whose opset has no Attention."""
        if any(str(value.name).startswith("past_key_values.") for value in model.graph.inputs):
            require_opset(model, _OPSET, "A decoder's attention for TensorRT")

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Rewrite in place what fits."""
        refusals: list[Refusal] = []
        num_written = 0
        for site in find_attentions(model):
            if isinstance(site, Refusal):
                refusals.append(site)
                continue
            try:
                _write(model, site)
                num_written += 1
            except NoMatchError as error:
                refusals.append(Refusal(node=site.name, reason=str(error)))
        if num_written:
            RemoveUnusedNodesPass()(model)
        return self.tell(num_written, refusals)


def _write(model: ir.Model, site: AttentionSite) -> None:
    if not site.key_is_split or find_producer(site.key, "Concat", "TensorScatter") is None:
        raise NoMatchError("it has no cache: its parts are fused as they are")
    query = site.query
    end = site.output.producer()
    assert end is not None
    alone = site.num_heads == 1
    if alone:  # a kernel exists for two heads on one key-value head, and none for one
        twice = make_node("Concat", [query, query], like=site.anchor, attributes={"axis": 1})
        model.graph.insert_before(end, twice)
        query = twice.outputs[0]
    node = make_node(
        "Attention",
        [query, site.key, site.value, site.bias],
        like=site.anchor,
        attributes={
            "scale": site.scale,
            **({"softcap": site.softcap} if site.softcap else {}),
        },
    )
    model.graph.insert_before(end, node)
    output = node.outputs[0]
    if alone:
        output = _keep_first_head(model, node, end)
    take_over(site.output, output)


def _keep_first_head(model: ir.Model, node: ir.Node, before: ir.Node) -> ir.Value:
    zero, one = (
        make_constant(model, np.array([number], np.int64), name)
        for number, name in ((0, "zero_1"), (1, "one_1"))
    )
    first = make_node("Slice", [node.outputs[0], zero, one, one], like=node)
    model.graph.insert_before(before, first)
    return first.outputs[0]
