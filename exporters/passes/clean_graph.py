"""Folds constants, removes Identity, reshapes to the same shape, twice-written and unused nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as clean

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
