"""Folds constants, removes Identity, twice-written and unused nodes."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common as clean

from exporters.passes.graph_pass import GraphPass, PassOutcome

# A folded constant larger than this would cost more disk than the nodes cost time.
_LARGEST_FOLDED = 64 * 1024


class CleanGraph(GraphPass):
    """Leave the graph with no more nodes than its computation needs; names of its ends are kept."""

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Change `model` in place; the outcome counts the nodes that went."""
        from onnxscript import optimizer

        before = count_nodes(model)
        optimizer.fold_constants(
            model,
            onnx_shape_inference=False,
            input_size_limit=_LARGEST_FOLDED,
            output_size_limit=_LARGEST_FOLDED,
        )
        for step in (
            clean.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            clean.IdentityEliminationPass(),
            clean.CommonSubexpressionEliminationPass(),
            clean.DeduplicateInitializersPass(size_limit=1024),
            clean.RemoveUnusedNodesPass(),
            clean.RemoveUnusedOpsetsPass(),
        ):
            step(model)
        return self.tell(before - count_nodes(model))

    def ensures(self, model: ir.Model) -> None:
        """Refuse a graph that lost its order."""
        seen = set(model.graph.inputs) | set(model.graph.initializers.values())
        for node in model.graph:
            if any(value is not None and value not in seen for value in node.inputs):
                raise ir.passes.PostconditionError(f"{node.name} is used before it is made")
            seen.update(node.outputs)


def count_nodes(model: ir.Model) -> int:
    """Count the nodes of the main graph."""
    return len(model.graph)
