"""Keys and values among a graph's inputs and outputs: takes out entries, renumbers the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from exporters.graphs.located_model import LocatedSubBlock
from exporters.graphs.node_reading import name_node
from pruning.errors import NirvanaError

_ENTRY = re.compile(r"^(past_key_values|past|present_key_values|present)([._])(\d+)([._].*)$")
_RANK = 4  # [batch, heads, positions, channels]


def remove_cache_entries(graph: ir.Graph, gone: Sequence[LocatedSubBlock]) -> None:
    """Remove the cache entries of attentions, in place, before these are taken out."""
    inputs: list[ir.Value] = []
    for located in gone:
        if located.sub_block.part != "mlp":
            inputs += _remove_outputs(graph, located)
    removed = set(inputs)
    left = [v for v in graph.inputs if v not in removed and _is_entry(v)]
    for value in dict.fromkeys(inputs):
        _ask_another(value, left)
        graph.inputs.remove(value)


def renumber_cache(graph: ir.Graph, positions: Mapping[int, int]) -> None:
    """Name cache entries by the number that their block has among those left, in place."""
    for values in (graph.inputs, graph.outputs):
        for value in values:
            match = _ENTRY.match(value.name or "")
            if match is not None:
                number = positions.get(int(match[3]), int(match[3]))
                value.name = f"{match[1]}{match[2]}{number}{match[4]}"


def _is_entry(value: ir.Value) -> bool:
    floating = value.dtype is not None and value.dtype.is_floating_point()
    return value.shape is not None and len(value.shape) == _RANK and floating


def _remove_outputs(graph: ir.Graph, located: LocatedSubBlock) -> list[ir.Value]:
    """Remove the outputs that an attention computes, and return the inputs that it alone takes."""
    reached, past = set(), []
    frontier = [linear.result for _, linears in located.inputs for linear in linears]
    while frontier:
        value = frontier.pop()
        if value in reached:
            continue
        reached.add(value)
        for node in value.consumers():
            if node is located.output.node:
                continue
            past += [v for v in map(_find_source, node.inputs) if v is not None and _is_entry(v)]
            frontier += node.outputs
    for value in reached:
        if value.is_graph_output() and _is_entry(value):
            graph.outputs.remove(value)
    return past


def _find_source(value: ir.Value | None) -> ir.Value | None:
    """Return the graph input that a value is, with its axes moved or its type changed."""
    while value is not None and not value.is_graph_input():
        node = value.producer()
        if node is None or node.op_type not in ("Transpose", "Cast", "Identity", "Reshape"):
            return None
        value = node.inputs[0]
    return value


def _free_dims(value: ir.Value) -> list[str | None]:
    """Return which dimensions are free, and their names: caches of one kind have the same."""
    dims = () if value.shape is None else tuple(value.shape)
    return [None if isinstance(dim, int) else str(dim.value) for dim in dims]


def _ask_another(value: ir.Value, left: Sequence[ir.Value]) -> None:
    """Let what asks an entry for its length ask one that stays."""
    for node, index in tuple(value.uses()):
        if node.op_type != "Shape":
            continue
        same = [other for other in left if _free_dims(other) == _free_dims(value)]
        if not same:
            raise NirvanaError(
                f"{name_node(node)}: the plan keeps no attention, and the graph asks the cache of "
                f"one ({value.name}) for its length. Keep one, or export the pruned checkpoint."
            )
        node.replace_input_with(index, same[0])
