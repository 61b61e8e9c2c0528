"""Prunes a graph in memory: finds what the plan speaks of, drops, cuts, cleans."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassError, PassManager, PassResult
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.graph_structure import size_inputs
from exporters.graphs.linear_map import LinearMap
from exporters.graphs.locate import locate
from exporters.graphs.located_model import (
    LocatedModel,
    LocatedSubBlock,
    count_columns,
    count_rows,
    fingerprint_located,
)
from exporters.graphs.node_reading import name_node
from exporters.surgeon.cut_rules import CUT_RULES, OF_THE_FIRST, Outputs, Rule
from exporters.surgeon.drop_blocks import DropBlocks, check_cache
from exporters.surgeon.drop_sub_blocks import DropSubBlocks
from exporters.surgeon.fused_cut_rules import FUSED_CUT_RULES, start_attention
from exporters.surgeon.graph_cutter import NO_CUTS, GraphCutter, ProjectionCut
from exporters.surgeon.replace_value import remove_no_ops, remove_unused
from exporters.surgeon.unit_cut import NotRegular, UnitCut
from pruning.cutting.cuts import cut_block
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from pruning.plans.weight_fingerprint import check_weights


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


class CutUnits(InPlacePass):
    """Cut the projections of each sub-block, and all that their units go through."""

    def __init__(self, located: LocatedModel, plan: PruningPlan, facts: GraphFacts) -> None:
        super().__init__()
        self._located, self._plan, self._facts = located, plan, facts

    def call(self, model: ir.Model) -> PassResult:
        """Cut them."""
        cutter = GraphCutter(
            graph=model.graph,
            dense=self._facts,
            starts={},
            ends={},
            follow=follow_cuts,
            start_attention=start_attention,
        )
        for located in self._located.sub_blocks:
            self._add_cuts(cutter, located)
        if not cutter.starts and not cutter.ends:
            return PassResult(model, modified=False)
        cutter.run()
        remove_unused(model.graph)
        cutter.name_like_dense()
        return PassResult(model, modified=True)

    def _add_cuts(self, cutter: GraphCutter, located: LocatedSubBlock) -> None:
        layer, dims = located.sub_block.layer, located.dims
        cuts = cut_block(located.stack, dims, self._plan.layers[layer])

        def add(
            cuts_by: dict[ir.Node, ProjectionCut], linear: LinearMap, path: str, n: int
        ) -> None:
            cut = cuts.find(f"{path}.weight")
            if cut is None or cut.kept is None or len(cut.kept) == n:
                return
            what = f"layer {layer}, {path}"
            kept = UnitCut.keep(cut.kept, n)
            cuts_by[linear.node] = ProjectionCut(linear=linear, cut=kept, what=what)

        for projection, linears in located.inputs:
            for linear in linears:
                if linear.node.graph is not None:
                    add(cutter.starts, linear, projection.path, count_rows(projection, dims))
        if located.output.node.graph is not None:
            columns = count_columns(dims, located.sub_block.part)
            add(cutter.ends, located.output, located.wiring.output, columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPruning:
    """What pruning a graph came to.

    Attributes:
        located_by: `names` of torch modules, or the `pattern` of the graph.
        nodes_before: without those that only hold a constant.
        weights: whether the plan was made on these weights, or why that was not checked.
        unchecked_heads: layers of which the graph does not show how many heads they have.
        unchecked_sizes: of the plan's dims, those that the graph does not show.
    """

    located_by: str
    num_layers: int
    nodes_before: int
    nodes_after: int
    weights: str
    unchecked_heads: tuple[int, ...]
    unchecked_sizes: tuple[str, ...]


def prune_graph(model: ir.Model, plan: PruningPlan, *, force: bool = False) -> GraphPruning:
    """Prune a dense graph by a plan, in place; with `force` also one made on other weights.

    Raises:
        NirvanaError: the graph is not of the model that the plan was made for, or has a structure
            that is not known; what was found where is said.
    """
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    remove_no_ops(model.graph)
    facts = GraphFacts(model, size_inputs(model.graph))
    nodes_before = len(model.graph)
    located = locate(model.graph, facts, plan.dims)
    found = fingerprint_located(located, plan.dims) if plan.weights else ()
    weights = check_weights(plan.weights, found, force=force)
    passes = [kind(located, plan, facts) for kind in (DropBlocks, DropSubBlocks, CutUnits)]
    try:
        PassManager(passes)(model)
    except PassError as error:
        cause: BaseException = error  # the passes' own words are around ours
        while cause.__cause__ is not None and not isinstance(cause, NirvanaError):
            cause = cause.__cause__
        raise NirvanaError(str(cause)) from error
    check_cache(model.graph)
    return GraphPruning(
        located_by=located.by,
        num_layers=len(located.layers),
        nodes_before=nodes_before,
        nodes_after=len(model.graph),
        weights=weights,
        unchecked_heads=located.unchecked_heads,
        unchecked_sizes=located.unchecked_sizes,
    )
