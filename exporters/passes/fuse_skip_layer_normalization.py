"""Fuses a residual sum and its LayerNormalization into ONNX Runtime's operator for both."""

from __future__ import annotations

import onnx_ir as ir

from exporters.passes.fuse_each import fuse_each
from exporters.passes.graph_pass import (
    CONTRIB,
    GraphPass,
    NoMatchError,
    PassOutcome,
)
from exporters.passes.graph_reading import make_node, take_over
from exporters.passes.residual_norm import is_last_axis, read_residual


class FuseSkipLayerNormalization(GraphPass):
    """Write sum and norm as one node. For GPUs: on the CPU it is slower than its parts."""

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Fuse in place what fits."""
        found = (
            (node, node)
            for node in list(model.graph)
            if node.op_type == "LayerNormalization" and not node.domain
        )
        return self.tell(*fuse_each(model, found, _fuse))


def _fuse(model: ir.Model, norm: ir.Node) -> None:
    if not is_last_axis(norm):
        raise NoMatchError("it is not over the last dim alone")
    residual = read_residual(norm.inputs[0])
    epsilon = norm.attributes.get("epsilon")
    is_read = len(list(residual.total.uses())) > 1 or residual.total.is_graph_output()
    node = make_node(
        "SkipLayerNormalization",
        [residual.first, residual.second, *norm.inputs[1:]],
        like=norm,
        domain=CONTRIB,
        attributes={"epsilon": epsilon.as_float() if epsilon is not None else 1e-5},
        num_outputs=4 if is_read else 1,
    )
    model.graph.insert_after(residual.add, node)
    if is_read:
        node.outputs[1].name = node.outputs[2].name = ""  # the statistics, which nobody reads
        take_over(residual.total, node.outputs[3])
    take_over(norm.outputs[0], node.outputs[0])
