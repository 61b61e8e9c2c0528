"""Pass: takes out attentions and MLPs of which the plan keeps no unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError

from exporters.graphs.graph_facts import GraphFacts, read_constant
from exporters.graphs.linear_map import is_activated
from exporters.graphs.located_model import LocatedModel, LocatedSubBlock
from exporters.graphs.node_reading import name_node
from exporters.surgeon.constant_outputs import ZERO, ConstantOutputs, Vector, bias_vector
from exporters.surgeon.drop_blocks import remove_cache_entries
from exporters.surgeon.replace_value import remove_unused
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from pruning.plans.sub_block import SubBlock


def reach(located: LocatedSubBlock) -> set[ir.Value]:
    """Return the values that a sub-block computes before its output projection."""
    reached: set[ir.Value] = set()
    frontier = [linear.result for _, linears in located.inputs for linear in linears]
    frontier += [linear.node.outputs[0] for _, linears in located.inputs for linear in linears]
    while frontier:
        value = frontier.pop()
        if value not in reached:
            reached.add(value)
            for node in value.consumers():
                if node is not located.output.node and node.op_type != "Shape":
                    frontier += node.outputs
    return reached


def keep_lengths(graph: ir.Graph, facts: GraphFacts, gone: Sequence[LocatedSubBlock]) -> None:
    """Let what asks a dropped sub-block for the free sizes of a value ask others, in place.

    What no other value tells is left as it is.
    """
    for located in gone:
        sources = [*graph.inputs, located.inputs[0][1][0].node.inputs[0]]
        for value in reach(located):
            for node in value.consumers():
                if node.op_type == "Shape":
                    _ask_others(graph, facts, node, [v for v in sources if v is not None])


def _ask_others(
    graph: ir.Graph, facts: GraphFacts, node: ir.Node, sources: Iterable[ir.Value]
) -> None:
    fact, static = facts.of(node.outputs[0]), _list_fixed(node)
    if fact is None or fact.data is None:
        return
    places = [
        None if n in static else _find_place(int(n), facts, sources) for n in fact.data.tolist()
    ]
    pieces = []
    for n, place in zip(fact.data.tolist(), places, strict=True):
        if place is None:
            pieces.append(_constant(graph, facts, int(n)))
        else:
            value, axis = place
            asked = ir.node("Shape", [value], {"start": axis, "end": axis + 1})
            pieces.append(_insert(graph, facts, node, asked, f"{len(pieces)}"))
    joined = _insert(graph, facts, node, ir.node("Concat", pieces, {"axis": 0}), "lengths")
    node.outputs[0].replace_all_uses_with(joined)


def _list_fixed(node: ir.Node) -> set[int]:
    """Return the sizes that are fixed: those that no free dimension can have."""
    value = node.inputs[0]
    shape = None if value is None else value.shape
    return set() if shape is None else {dim for dim in shape if isinstance(dim, int)}


def _find_place(
    size: int, facts: GraphFacts, sources: Iterable[ir.Value]
) -> tuple[ir.Value, int] | None:
    """Return a value and its axis of a size, which is a prime of its own if it is free."""
    for value in sources:
        shape = facts.shape(value) or ()
        if size in shape:
            return value, shape.index(size)
    return None


def _constant(graph: ir.Graph, facts: GraphFacts, number: int) -> ir.Value:
    name = f"length_{number}"
    if name not in graph.initializers:
        tensor = ir.Tensor(np.array([number], np.int64), name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape([1]),
            type=ir.TensorType(ir.DataType.INT64),
            const_value=tensor,
        )
        graph.register_initializer(value)
        facts.record(value, read_constant(value))
    return graph.initializers[name]


def _insert(graph: ir.Graph, facts: GraphFacts, node: ir.Node, new: ir.Node, what: str) -> ir.Value:
    (output,) = new.outputs
    output.name = f"{node.outputs[0].name}.{what}"
    new.name = output.name
    output.type = ir.TensorType(ir.DataType.INT64)
    graph.insert_before(node, new)
    (fact,) = facts.infer(new, [facts.of(value) for value in new.inputs])
    facts.record(output, fact)
    return output


def kept_units(plan: PruningPlan, sub_block: SubBlock) -> tuple[int, ...] | None:
    """Return what a plan keeps of a sub-block: query heads, or neurons."""
    layer = plan.layers[sub_block.layer]
    kept = {
        "attention": layer.kept_heads,
        "cross_attention": layer.kept_cross_heads,
        "mlp": layer.kept_neurons,
    }
    return kept[sub_block.part]


class DropSubBlocks(InPlacePass):
    """Put the constant that is left of each such sub-block in its place, and fold it."""

    def __init__(self, located: LocatedModel, plan: PruningPlan, facts: GraphFacts) -> None:
        super().__init__()
        self._located, self._plan, self._facts = located, plan, facts

    def call(self, model: ir.Model) -> PassResult:
        """Drop them; a cache that goes with one is dropped too."""
        gone = list(self._dropped())
        if not gone:
            return PassResult(model, modified=False)
        remove_cache_entries(model.graph, gone)
        vectors: dict[ir.Value, Vector] = {}
        without_bias = set()
        for located in gone:
            linear = located.output
            if is_activated(linear.node):
                raise NirvanaError(
                    f"{name_node(linear.node)}: it applies an activation to what a dropped "
                    "sub-block gave, which is not known here. Export the pruned checkpoint instead:"
                    " `nirvana export`."
                )
            if kept_units(self._plan, located.sub_block) is None:
                vectors[linear.result] = ZERO
                without_bias.add(linear.result)
            else:
                vectors[linear.result] = bias_vector(linear.bias)
        weight = gone[0].output.weight.const_value
        assert weight is not None
        keep_lengths(model.graph, self._facts, gone)
        ConstantOutputs(model.graph, self._facts, weight.dtype).fold(vectors, without_bias)
        remove_unused(model.graph)
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """No weight of a dropped sub-block is left."""
        for located in self._dropped():
            for linear in located.linears:
                if linear.node.graph is not None:
                    what = f"layer {located.sub_block.layer}, {located.sub_block.part}"
                    raise PostconditionError(
                        f"{what}: {linear.weight.name} is needed beside it, so that it cannot be "
                        "dropped"
                    )

    def _dropped(self) -> Iterator[LocatedSubBlock]:
        for located in self._located.sub_blocks:
            if not kept_units(self._plan, located.sub_block):
                yield located
