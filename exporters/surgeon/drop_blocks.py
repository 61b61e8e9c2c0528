"""Pass: takes out whole blocks, norms included; the residual stream goes on."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.located_model import LocatedModel, LocatedSubBlock
from exporters.graphs.node_reading import name_node
from exporters.surgeon.cache_entries import remove_cache_entries, renumber_cache
from exporters.surgeon.replace_value import remove_unused, replace_value
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan

_PASS_ON = frozenset(("Reshape", "Dropout", "Identity", "Cast"))
_SUMS = frozenset(("Add", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"))


class DropBlocks(InPlacePass):
    """Drop the blocks whose norms come after the sums.

    Where norms come before, nothing of a block is left when its sub-blocks give zero; there is
    nothing to do here. Cache entries are numbered anew.
    """

    def __init__(self, located: LocatedModel, plan: PruningPlan, facts: GraphFacts) -> None:
        super().__init__()
        self._located, self._plan, self._facts = located, plan, facts

    def requires(self, model: ir.Model) -> None:
        """The blocks are such that each can go."""
        for number, located in self._located.layers.items():
            stack = located[0].stack
            is_first = number - 1 not in self._located.layers or (
                self._located.layers[number - 1][0].stack.name != stack.name
            )
            if self._plan.layers[number].dropped and is_first and stack.keep_first:
                raise NirvanaError(
                    f"The first block of the {stack.name} cannot be dropped: {stack.keep_first}."
                )

    def call(self, model: ir.Model) -> PassResult:
        """Drop them."""
        gone = [n for n in self._located.layers if self._plan.layers[n].dropped]
        if not gone:
            return PassResult(model, modified=False)
        # What the maps of the next layer take must still be what the dense graph has.
        bounds = [bound for n in gone if (bound := self._find_bounds(model.graph, n)) is not None]
        for number in gone:
            remove_cache_entries(model.graph, self._located.layers[number])
        replaced: dict[ir.Value, ir.Value] = {}
        for start, end in bounds:
            start = replaced.get(start, start)
            replace_value(model.graph, end, start)
            replaced[end] = start
        self._renumber(model.graph)
        remove_unused(model.graph)
        return PassResult(model, modified=True)

    def _renumber(self, graph: ir.Graph) -> None:
        last = next(reversed(self._located.layers.values()))[0].stack.name
        numbers = [
            n for n, located in self._located.layers.items() if located[0].stack.name == last
        ]
        left = [n for n in numbers if not self._plan.layers[n].dropped]
        renumber_cache(graph, {n - numbers[0]: position for position, n in enumerate(left)})

    def _find_bounds(self, graph: ir.Graph, number: int) -> tuple[ir.Value, ir.Value] | None:
        """Return the value before a block and the one behind it; None for norms before sums."""
        located = self._located.layers[number]
        before = _input_of(located[0])
        if not any(before in node.inputs for node in _find_sums(located[0].output.result)):
            return None
        following = self._located.layers.get(number + 1)
        if following is not None and following[0].stack.name == located[0].stack.name:
            return before, _input_of(following[0])
        return before, self._find_end(graph, located[-1])

    def _find_end(self, graph: ir.Graph, mlp: LocatedSubBlock) -> ir.Value:
        """Return what the norm behind the last sum of a stack gives."""
        total = next(_find_sums(mlp.output.result), None)
        if total is None:
            raise NirvanaError(
                f"Layer {mlp.sub_block.layer}: found no sum behind {name_node(mlp.output.node)}, "
                "so that the block cannot be dropped."
            )
        if total.op_type != "Add":
            return total.outputs[0]
        return _follow_norm(graph, total.outputs[0], mlp.sub_block.layer)


def _input_of(located: LocatedSubBlock) -> ir.Value:
    """Return the hidden states that an attention takes."""
    value = located.inputs[0][1][0].node.inputs[0]
    while value is not None:
        node = value.producer()
        if node is None or node.op_type not in ("Reshape", "Identity", "Cast"):
            return value
        value = node.inputs[0]
    raise AssertionError(located)


def _find_sums(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the sums with the residual stream that a sub-block's output goes into."""
    for node in value.consumers():
        if node.op_type in _SUMS:
            yield node
        elif node.op_type in _PASS_ON:
            yield from _find_sums(node.outputs[0])


def _follow_norm(graph: ir.Graph, value: ir.Value, layer: int) -> ir.Value:
    """Return the output of the norm of a value: a node, or several that end in adding a shift."""
    consumers = set(value.consumers())
    norms = [node for node in consumers if node.op_type == "LayerNormalization"]
    if norms and len(consumers) == 1:
        return norms[0].outputs[0]
    open_values = {value}
    for node in graph:
        if not any(operand in open_values for operand in node.inputs):
            continue
        consumers.discard(node)
        open_values |= set(node.outputs)
        consumers |= {user for output in node.outputs for user in output.consumers()}
        ends = {v for v in open_values if any(user in consumers for user in v.consumers())}
        if node.op_type == "Add" and ends == {node.outputs[0]} and _is_shift(node):
            return node.outputs[0]
    raise NirvanaError(f"Layer {layer}: found no norm behind the block, so that it cannot go.")


def _is_shift(node: ir.Node) -> bool:
    constants = [v for v in node.inputs if v is not None and v.is_initializer()]
    return any(v.shape is not None and len(v.shape) == 1 and v.shape[0] != 1 for v in constants)
