"""Finds the sub-blocks of a plan's dense model in a graph: by names, else by pattern."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.linear_map import LinearMap, list_linear_maps
from exporters.graphs.locate_by_names import list_types_named, locate_by_names
from exporters.graphs.locate_by_pattern import explain_pattern, locate_by_pattern
from exporters.graphs.located_model import LocatedModel, check_once, check_sizes
from exporters.graphs.node_reading import name_node
from exporters.graphs.sub_block_pattern import SubBlockPattern
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims
from pruning.wirings.known_wirings import WIRINGS

# ONNX Runtime's optimizer puts the projections of an attention into one.
_FUSED = frozenset(("Attention",))


def locate(graph: ir.Graph, facts: GraphFacts, dims: DenseDims) -> LocatedModel:
    """Return where the attentions and MLPs of a dense model are.

    Raises:
        NirvanaError: they are not all there, share weights, or have other sizes or heads.
    """
    linears = list_linear_maps(graph, facts)
    wiring = WIRINGS.get(dims.model_type)
    fused = any(node.op_type in _FUSED and node.domain for node in graph)
    located = None
    pattern = SubBlockPattern(graph, facts, linears)
    if wiring is not None and not fused:
        located = locate_by_names(linears, wiring, dims)
    if located is None:
        _refuse_other_type(linears, dims)
        located = locate_by_pattern(pattern, wiring, dims)
        if located is None:
            raise NirvanaError(
                f"This is not a dense graph of the plan's model ({dims.model_type}): "
                f"{explain_pattern(pattern, dims)}. Give the graph of the model that the plan was "
                "made for, before it was quantized."
            )
    for sub_block in located.sub_blocks:
        check_sizes(sub_block)
    check_once(tuple(located.sub_blocks))
    unchecked = _check_heads(located, pattern)
    return dataclasses.replace(located, unchecked_heads=unchecked)


def _check_heads(located: LocatedModel, pattern: SubBlockPattern) -> tuple[int, ...]:
    """Compare the heads of the plan's model with those of the graph, where it shows them.

    8 heads of 8 channels and 4 of 16 have weights of the same sizes. Returns the layers whose
    heads the graph does not show.

    Raises:
        NirvanaError: they differ.
    """
    by_output = {found.output.node: found for found in pattern.attentions}
    unchecked = []
    for sub_block in located.sub_blocks:
        found = by_output.get(sub_block.output.node)
        if sub_block.sub_block.part == "mlp":
            continue
        if found is None:
            unchecked.append(sub_block.sub_block.layer)
            continue
        dims = sub_block.dims
        counts = [("num_heads", found.num_heads), ("head_dim", found.head_dim)]
        if found.inputs[1] and found.inputs[2]:
            counts.insert(1, ("num_kv_heads", found.num_kv_heads))
        for name, count in counts:
            if count != getattr(dims, name):
                raise NirvanaError(
                    f"The plan was made for {name} {getattr(dims, name)} of the {dims.name}, the "
                    f"graph has {count} in layer {sub_block.sub_block.layer} "
                    f"({name_node(sub_block.output.node)}). Apply it to the dense graph of the "
                    "model that it was made for."
                )
    return tuple(dict.fromkeys(unchecked))


def _refuse_other_type(linears: Sequence[LinearMap], dims: DenseDims) -> None:
    named = list_types_named(linears)
    if named and dims.model_type in WIRINGS and dims.model_type not in named:
        names = ", ".join(named)
        raise NirvanaError(
            f"This is not a dense graph of the plan's model ({dims.model_type}): its modules are "
            f"named as those of {names}. Give the graph of the model that the plan was made for."
        )
