"""Reads a residual sum and the norm that follows it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from exporters.passes.graph_pass import (
    CONTRIB,
    GraphPass,
    NoMatchError,
    PassOutcome,
    Refusal,
)
from exporters.passes.graph_reading import (
    find_producer,
    fuse_each,
    make_node,
    name_node,
    read_axis,
    take_over,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualNorm:
    """A norm over the last dim of first + second, both [B, S, N].

    Attributes:
        total: the sum, which others may read too.
    """

    first: ir.Value
    second: ir.Value
    total: ir.Value
    add: ir.Node


def read_residual(x: ir.Value | None) -> ResidualNorm:
    """Return the sum that makes `x`, the input of a norm."""
    add = find_producer(x, "Add", "Sum")
    if add is None or x is None or len(add.inputs) != 2:
        raise NoMatchError("no residual sum comes before it")
    first, second = add.inputs
    if first is None or second is None or first.shape is None or second.shape is None:
        raise NoMatchError("the shapes of its residual sum are not known")
    if len(first.shape) != 3 or first.shape != second.shape:
        raise NoMatchError(f"it sums {first.shape} and {second.shape}, expected twice the same")
    return ResidualNorm(first=first, second=second, total=x, add=add)


def is_last_axis(norm: ir.Node) -> bool:
    """Return whether a LayerNormalization is over the last dim alone."""
    x = norm.inputs[0]
    rank = len(x.shape) if x is not None and x.shape is not None else 0
    return read_axis(norm) in (-1, rank - 1)


class KeepNormsApart(GraphPass):
    """Write the Add before each LayerNormalization as a Sum."""

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Rewrite in place what fits."""
        refusals: list[Refusal] = []
        num_rewritten = 0
        for node in list(model.graph):
            if node.op_type != "LayerNormalization" or node.domain:
                continue
            try:
                residual = read_residual(node.inputs[0])
            except NoMatchError as error:
                refusals.append(Refusal(node=name_node(node), reason=str(error)))
                continue
            if residual.add.op_type == "Sum":
                continue
            total = make_node("Sum", [residual.first, residual.second], like=residual.add)
            model.graph.insert_before(residual.add, total)
            take_over(residual.total, total.outputs[0])
            model.graph.remove(residual.add, safe=True)
            num_rewritten += 1
        return self.tell(num_rewritten, refusals)


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
