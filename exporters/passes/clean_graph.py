"""Folds constants, removes Identity, reshapes to the same shape, twice-written and unused nodes."""

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
        _replace_same_reshapes(model)
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


def _replace_same_reshapes(model: ir.Model) -> None:
    """Write each Reshape that changes nothing as Identity, in place."""
    for node in list(model.graph):
        if node.op_type != "Reshape" or node.domain or node.inputs[0] is None:
            continue
        value, output = node.inputs[0], node.outputs[0]
        if not _is_known(value.shape) or value.shape != output.shape:
            continue
        same = ir.node("Identity", [value], name=node.name)
        new = same.outputs[0]
        new.name, new.shape, new.type = output.name, output.shape, output.type
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [same], [output], [new])


def _is_known(shape: ir.Shape | None) -> bool:
    """Return whether each dim has a number or a name."""
    return shape is not None and all(isinstance(dim, int) or dim.value is not None for dim in shape)


def count_nodes(model: ir.Model) -> int:
    """Count the nodes of the main graph."""
    return len(model.graph)
