"""Stores a weight as its product takes it, in place of transposing it in the graph.

A head that is tied to the embeddings is such a transposition. ONNX Runtime folds it whenever it
loads the graph, and holds both; its quantizers see a weight only where it is stored. The file grows
by that weight.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.passes.graph_pass import GraphPass, NoMatchError, PassOutcome, Refusal
from exporters.passes.graph_reading import (
    make_constant,
    name_node,
    read_constant,
    read_perm,
)


class FoldWeightTransposes(GraphPass):
    """Replace each Transpose of a constant that goes into a MatMul by the transposed constant."""

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Fold in place what fits."""
        refusals: list[Refusal] = []
        num_folded = 0
        for node in list(model.graph):
            weight = node.inputs[0] if node.inputs else None
            if node.op_type != "Transpose" or weight is None or not weight.is_initializer():
                continue
            try:
                _fold(model, node, weight)
                num_folded += 1
            except NoMatchError as error:
                refusals.append(Refusal(node=name_node(node), reason=str(error)))
        return self.tell(num_folded, refusals)


def _fold(model: ir.Model, node: ir.Node, weight: ir.Value) -> None:
    users = [use.node.op_type for use in node.outputs[0].uses()]
    if set(users) != {"MatMul"}:
        raise NoMatchError(f"the transposed {weight.name} goes to {', '.join(users) or 'no node'}")
    array = read_constant(weight)
    if array is None:
        raise NoMatchError(f"{weight.name} has no values")
    turned = np.ascontiguousarray(array.transpose(read_perm(node) or None))
    constant = make_constant(model, turned, f"{weight.name}_transposed")
    ir.convenience.replace_all_uses_with(node.outputs[0], constant)
    model.graph.remove(node, safe=True)
