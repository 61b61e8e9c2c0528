"""Writes the boolean masks of Attention operators as numbers that are added to the scores.

TensorRT turns a boolean mask into numbers itself, with nine layers more for each attention.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.passes.graph_pass import GraphPass, NoMatchError, PassOutcome, Refusal
from exporters.passes.graph_reading import make_constant, make_node, name_node


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
