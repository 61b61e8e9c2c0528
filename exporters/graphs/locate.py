"""Finds the sub-blocks of a plan's dense model in a graph: by names, else by pattern."""

from __future__ import annotations

import onnx_ir as ir

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.linear_map import list_linear_maps
from exporters.graphs.locate_by_names import locate_by_names
from exporters.graphs.located_model import LocatedModel
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims
from pruning.wirings.known_wirings import WIRINGS


def locate(graph: ir.Graph, facts: GraphFacts, dims: DenseDims) -> LocatedModel:
    """Return where the attentions and MLPs of a dense model are.

    Raises:
        NirvanaError: they are not all there.
    """
    linears = list_linear_maps(graph, facts)
    wiring = WIRINGS.get(dims.model_type)
    located = None if wiring is None else locate_by_names(linears, wiring, dims)
    if located is None:
        raise NirvanaError(
            f"Found no attention of a {dims.model_type} in the graph, which has {len(linears)} "
            "linear maps."
        )
    return located
