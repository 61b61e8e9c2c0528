"""Cuts an exported graph into its blocks, each a graph of its own from hidden states to the next.

What all blocks share (masks, rotary tables, shapes of the inputs) is computed once in a model: it
is no part of a block, but comes to it as an input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx_ir


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGraph:
    """One block.

    Attributes:
        model: takes `inputs`, returns the next hidden states, and what else of the whole graph's
            outputs is computed in it (keys and values).
        inputs: names of values of the whole graph; the hidden states are the first.
        num_nodes: operators; 0 for a block that hands on what it gets.
    """

    model: onnx_ir.Model
    inputs: tuple[str, ...]
    num_nodes: int


def cut_blocks(model: onnx_ir.Model, cuts: Sequence[str]) -> tuple[BlockGraph, ...]:
    """Cut `model` between the values named `cuts`: block i leads from cut i to cut i + 1.

    Raises:
        NirvanaError: a cut is no value of the graph, or one does not follow from the one before.
    """
    from onnx_ir.convenience import create_value_mapping

    values = create_value_mapping(model.graph)
    missing = [name for name in cuts if name not in values]
    if missing:
        raise NirvanaError(f"The graph has no value {missing[0]!r} to be cut at.")
    pairs = [(values[start], values[end]) for start, end in pairwise(cuts)]
    nodes = [_find_nodes(model.graph, start, end) for start, end in pairs]
    used = Counter(node for of_block in nodes for node in of_block)
    varying = _find_descendants(model.graph, list(model.graph.inputs))
    return tuple(
        _extract(model, start, end, {node for node in of_block if used[node] == 1}, varying)
        for (start, end), of_block in zip(pairs, nodes, strict=True)
    )


def _find_nodes(
    graph: onnx_ir.Graph, start: onnx_ir.Value, end: onnx_ir.Value
) -> list[onnx_ir.Node]:
    """Return all nodes that `end` is computed by, but for those behind `start`."""
    if end not in _find_descendants(graph, [start]):
        raise NirvanaError(f"The value {end.name!r} does not follow from {start.name!r}.")
    found: dict[onnx_ir.Node, None] = {}
    waiting = [end]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value is not start and node is not None and node not in found:
            found[node] = None
            waiting += [value for value in node.inputs if value is not None]
    return list(found)


def _extract(
    model: onnx_ir.Model,
    start: onnx_ir.Value,
    end: onnx_ir.Value,
    own: set[onnx_ir.Node],
    varying: set[onnx_ir.Value],
) -> BlockGraph:
    """Make a graph of the nodes that are the block's `own`.

    Of the others, those that only depend on constants stay in it as well: the run-time folds them,
    as it does in the whole graph.
    """
    import onnx_ir
    from onnx_ir.convenience import extract

    taken = {value for node in own for value in node.inputs if value is not None}
    shared = [v for v in taken if v in varying and v.producer() not in own and v is not start]
    given = [start, *sorted(shared, key=lambda value: str(value.name))]
    also = [v for v in model.graph.outputs if v.producer() in own and v is not end]
    graph = extract(model.graph, given, [end, *also])
    return BlockGraph(
        model=onnx_ir.Model(graph, ir_version=model.ir_version),
        inputs=tuple(str(value.name) for value in given),
        num_nodes=sum(node.op_type not in ("Identity", "Constant") for node in own),
    )


def _find_descendants(graph: onnx_ir.Graph, roots: Sequence[onnx_ir.Value]) -> set[onnx_ir.Value]:
    """Return the roots, and all values that are computed from them."""
    found = set(roots)
    for node in graph:  # in the order of computation
        if any(value in found for value in node.inputs if value is not None):
            found.update(node.outputs)
    return found
