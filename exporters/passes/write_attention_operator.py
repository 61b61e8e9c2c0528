"""Writes a decoder's attentions as the Attention operator of opset 23, with shared key-value heads.

TensorRT fuses that one whatever the cache before it, and without repeating keys and values; of the
same attention in its parts it leaves some unfused as soon as there is a cache, or one sum of
positions and mask. An encoder's parts fuse, also where a layer has one head left, for which the
operator has no kernel.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporters.io_names import CACHE_PREFIXES
from exporters.passes.attention_site import AttentionSite, find_attentions
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
    take_over,
)


class AdditiveMasks(GraphPass):
    """Give each Attention operator 0 where its mask is true, and the lowest number elsewhere."""

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Rewrite in place what fits."""
        refusals: list[Refusal] = []
        made: dict[ir.Value, ir.Value] = {}
        num_rewritten = 0
        for node in list(model.graph):
            mask = node.inputs[3] if node.op_type == "Attention" and len(node.inputs) > 3 else None
            if node.domain or mask is None or mask.dtype != ir.DataType.BOOL:
                continue
            try:
                if mask not in made:
                    made[mask] = _write_additive(model, mask, node)
                node.replace_input_with(3, made[mask])
                num_rewritten += 1
            except NoMatchError as error:
                refusals.append(Refusal(node=name_node(node), reason=str(error)))
        return self.tell(num_rewritten, refusals)


def _write_additive(model: ir.Model, mask: ir.Value, node: ir.Node) -> ir.Value:
    query = node.inputs[0]
    dtype = query.dtype if query is not None else None
    if dtype is None or not dtype.is_floating_point():
        raise NoMatchError("the number type of its query is not known")
    kind, short = dtype.numpy(), dtype.short_name()
    seen = make_constant(model, np.array(0, kind), f"mask_seen_{short}")
    hidden = make_constant(model, np.array(dtype.min, kind), f"mask_hidden_{short}")
    where = make_node("Where", [mask, seen, hidden], like=node)
    where.outputs[0].name = f"{mask.name}_additive"
    where.outputs[0].shape, where.outputs[0].type = mask.shape, ir.TensorType(dtype)
    maker = mask.producer()
    if maker is None:
        model.graph.insert_before(node, where)
    else:
        model.graph.insert_after(maker, where)
    return where.outputs[0]


_OPSET = 23


class WriteAttentionOperator(GraphPass):
    """Write each attention of a decoder as one Attention node; its cache stays before it.

    Besides, those of an encoder to whose scores a sum is added (see JoinBiases).
    """

    def requires(self, model: ir.Model) -> None:
        """Refuse a graph with a cache whose opset has no Attention."""
        if _has_cache(model):
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


def _has_cache(model: ir.Model) -> bool:
    """Return whether a graph takes or gives keys and values."""
    values = (*model.graph.inputs, *model.graph.outputs)
    return any(str(value.name).startswith(CACHE_PREFIXES) for value in values)


def _write(model: ir.Model, site: AttentionSite) -> None:
    is_cached = find_producer(site.key, "Concat", "TensorScatter") is not None
    if not is_cached and not _has_cache(model):
        if find_producer(site.bias, "Add") is None:
            raise NoMatchError("it has no cache: its parts are fused as they are")
        if (model.graph.opset_imports.get("") or 0) < _OPSET:
            raise NoMatchError(f"the Attention operator needs opset {_OPSET} or newer")
    if site.softcap:
        raise NoMatchError("TensorRT's Attention takes no softcap: it stays in its parts")
    query, key = site.query, site.key
    end = site.output.producer()
    assert end is not None
    if not site.key_is_split:
        split = make_node("Transpose", [key], like=site.anchor, attributes={"perm": (0, 2, 1, 3)})
        model.graph.insert_before(end, split)
        key = split.outputs[0]
    alone = site.num_heads == 1
    if alone:  # a kernel exists for two heads on one key-value head, and none for one
        twice = make_node("Concat", [query, query], like=site.anchor, attributes={"axis": 1})
        model.graph.insert_before(end, twice)
        query = twice.outputs[0]
    node = make_node(
        "Attention",
        [query, key, site.value, site.bias],
        like=site.anchor,
        attributes={"scale": site.scale},
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
