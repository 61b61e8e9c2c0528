"""Takes cuts through one node, by the rule of its operator; none for what is not known."""

from __future__ import annotations

import onnx_ir as ir

from exporters.graphs.node_reading import name_node
from exporters.surgeon.cut_rules import CUT_RULES, OF_THE_FIRST, Outputs, Rule
from exporters.surgeon.fused_cut_rules import FUSED_CUT_RULES
from exporters.surgeon.graph_cutter import NO_CUTS, GraphCutter
from exporters.surgeon.unit_cut import NotRegular
from pruning.errors import NirvanaError


def follow_cuts(cutter: GraphCutter, node: ir.Node) -> Outputs:
    """Cut a node's inputs and attributes in place, and return the cuts of its outputs.

    Raises:
        NirvanaError: no rule for the operator, or the units do not lie as it needs them.
    """
    rule = _find_rule(node)
    if rule is None:
        raise NirvanaError(
            f"{name_node(node)}: units of the plan reach an operator that the surgeon does not "
            "know. Export the pruned checkpoint instead: `nirvana export`."
        )
    if rule in OF_THE_FIRST and any(cutter.cuts_of(value) for value in node.inputs[1:]):
        raise NirvanaError(
            f"{name_node(node)}: units of the plan reach an input of it that should be a constant. "
            "The graph is not what the wiring says."
        )
    try:
        outputs = rule(cutter, node)
    except NotRegular as error:
        raise NirvanaError(
            f"{name_node(node)}: what the plan keeps does not lie as heads or neurons here. The "
            "graph is not what the wiring says."
        ) from error
    # Optional outputs may be left out, and others carry no units.
    return [*outputs, *[NO_CUTS] * len(node.outputs)][: len(node.outputs)]


def _find_rule(node: ir.Node) -> Rule | None:
    return FUSED_CUT_RULES.get(node.op_type) or CUT_RULES.get(node.op_type)
