"""Adds what attentions add to their scores, positions and mask, before it comes to the scores.

T5 adds one after the other; a fused operator takes one sum.
"""

from __future__ import annotations

from itertools import zip_longest

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporters.passes.attention_site import leads_to_product
from exporters.passes.graph_pass import GraphPass, NoMatchError, PassOutcome, Refusal
from exporters.passes.graph_reading import find_producer, make_node, name_node

Dim = int | str | None


class JoinBiases(GraphPass):
    """Write (scores + a) + b before a softmax as scores + (a + b); layers share their sums."""

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Rewrite in place what fits."""
        refusals: list[Refusal] = []
        made: dict[tuple[ir.Value, ir.Value], ir.Value] = {}
        num_joined = 0
        for node in list(model.graph):
            outer = find_producer(node.inputs[0], "Add") if node.op_type == "Softmax" else None
            if outer is None:
                continue
            try:
                num_joined += _join(model, outer, made)
            except NoMatchError as error:
                refusals.append(Refusal(node=name_node(node), reason=str(error)))
        if num_joined:
            RemoveUnusedNodesPass()(model)
        return self.tell(num_joined, refusals)


def _join(model: ir.Model, outer: ir.Node, made: dict[tuple[ir.Value, ir.Value], ir.Value]) -> bool:
    """Rewrite one sum in place; tell whether it is one of three."""
    found = _find_sum(outer)
    if found is None:
        return False
    inner, last = found
    scores, first = _order(inner)
    if len(list(inner.outputs[0].uses())) > 1 or inner.outputs[0].is_graph_output():
        raise NoMatchError("the scores without their mask are used elsewhere")
    if (first, last) not in made:
        total = make_node("Add", [first, last], like=outer)
        total.outputs[0].shape = _broadcast(first, last)
        total.outputs[0].type = last.type
        model.graph.insert_before(outer, total)
        made[first, last] = total.outputs[0]
    outer.replace_input_with(0, scores)
    outer.replace_input_with(1, made[first, last])
    return True


def _find_sum(outer: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """Return the sum that the scores are in, and what is added to it."""
    for mine, other in ((0, 1), (1, 0)):
        inner = find_producer(outer.inputs[mine], "Add")
        if inner is not None and any(map(leads_to_product, inner.inputs)):
            added = outer.inputs[other]
            return None if added is None else (inner, added)
    return None


def _order(inner: ir.Node) -> tuple[ir.Value, ir.Value]:
    """Return the scores and what is added to them."""
    left, right = inner.inputs
    assert left is not None and right is not None
    if leads_to_product(left) and leads_to_product(right):
        raise NoMatchError("both sides of a sum before its softmax are products")
    return (left, right) if leads_to_product(left) else (right, left)


def _broadcast(first: ir.Value, last: ir.Value) -> ir.Shape | None:
    if first.shape is None or last.shape is None:
        return None
    pairs = zip_longest(_reversed(first), _reversed(last), fillvalue=1)
    return ir.Shape([_wider(*pair) for pair in pairs][::-1])


def _reversed(value: ir.Value) -> list[Dim]:
    assert value.shape is not None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape][::-1]


def _wider(one: Dim, other: Dim) -> Dim:
    if one == 1 or one == other:
        return other
    if other == 1 or isinstance(one, int):
        return one
    return other if isinstance(other, int) else None
