"""Prunes a graph in memory: finds what the plan speaks of, drops, cuts, cleans."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import PassError, PassManager
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from exporters.graphs.free_dims import size_inputs
from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.locate import locate
from exporters.graphs.located_weights import fingerprint_located
from exporters.surgeon.cut_units import CutUnits
from exporters.surgeon.drop_blocks import DropBlocks
from exporters.surgeon.drop_sub_blocks import DropSubBlocks
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from pruning.plans.weight_fingerprint import check_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPruning:
    """What pruning a graph came to.

    Attributes:
        located_by: `names` of torch modules, or the `pattern` of the graph.
        nodes_before: without those that only hold a constant.
        weights: whether the plan was made on these weights, or why that was not checked.
        unchecked_heads: layers of which the graph does not show how many heads they have.
    """

    located_by: str
    num_layers: int
    nodes_before: int
    nodes_after: int
    weights: str
    unchecked_heads: tuple[int, ...]


def prune_graph(model: ir.Model, plan: PruningPlan, *, force: bool = False) -> GraphPruning:
    """Prune a dense graph by a plan, in place; with `force` also one made on other weights.

    Raises:
        NirvanaError: the graph is not of the model that the plan was made for, or has a structure
            that is not known; what was found where is said.
    """
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
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
    return GraphPruning(
        located_by=located.by,
        num_layers=len(located.layers),
        nodes_before=nodes_before,
        nodes_after=len(model.graph),
        weights=weights,
        unchecked_heads=located.unchecked_heads,
    )
