"""Finds the sub-blocks of a plan's dense model in a graph: by names, else by pattern."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.linear_map import LinearMap, list_linear_maps
from exporters.graphs.locate_by_names import list_types_named, locate_by_names
from exporters.graphs.locate_by_pattern import explain_pattern, locate_by_pattern
from exporters.graphs.located_model import LocatedModel
from exporters.graphs.sub_block_pattern import SubBlockPattern
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims
from pruning.wirings.known_wirings import WIRINGS

# ONNX Runtime's optimiser puts the projections of an attention into one.
_FUSED = frozenset(("Attention",))


def locate(graph: ir.Graph, facts: GraphFacts, dims: DenseDims) -> LocatedModel:
    """Return where the attentions and MLPs of a dense model are.

    Raises:
        NirvanaError: they are not all there.
    """
    linears = list_linear_maps(graph, facts)
    wiring = WIRINGS.get(dims.model_type)
    fused = any(node.op_type in _FUSED and node.domain for node in graph)
    located = None
    if wiring is not None and not fused:
        located = locate_by_names(linears, wiring, dims)
    if located is None:
        _refuse_other_type(linears, dims)
        pattern = SubBlockPattern(graph, facts, linears)
        located = locate_by_pattern(pattern, wiring, dims)
        if located is None:
            raise NirvanaError(
                f"This is no dense graph of the plan's model ({dims.model_type}): "
                f"{explain_pattern(pattern, dims)}. Give the graph of the model that the plan was "
                "made for, before it was quantised."
            )
    return located


def _refuse_other_type(linears: Sequence[LinearMap], dims: DenseDims) -> None:
    named = list_types_named(linears)
    if named and dims.model_type in WIRINGS and dims.model_type not in named:
        names = ", ".join(named)
        raise NirvanaError(
            f"This is no dense graph of the plan's model ({dims.model_type}): its modules are "
            f"named as those of {names}. Give the graph of the model that the plan was made for."
        )
