"""Pass: takes out whole blocks, norms included; the residual stream goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.located_model import LocatedModel, LocatedSubBlock
from exporters.graphs.node_reading import name_node
from exporters.io_names import PAST_ARGUMENT
from exporters.surgeon.replace_value import remove_unused, replace_value
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan

_ENTRY = re.compile(rf"^({PAST_ARGUMENT}|past|present_key_values|present)([._])(\d+)([._].*)$")
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


def check_cache(graph: ir.Graph) -> None:
    """Refuse a graph whose cache does not go into the next call as it came out of this one.

    Raises:
        NirvanaError: a cache that is taken and the one that is given differ in heads or channels.
    """
    given = {_split_entry(value): value for value in graph.outputs}
    for value in graph.inputs:
        entry = _split_entry(value)
        after = None if entry is None else given.get(entry)
        if after is None:
            continue
        taken, left = tuple(value.shape or ()), tuple(after.shape or ())
        known = [
            (a, b)
            for a, b in zip(taken, left, strict=False)
            if isinstance(a, int) and isinstance(b, int)
        ]
        if any(a != b for a, b in known):
            raise NirvanaError(
                f"The pruned graph would take {value.name} {list(taken)} and give {after.name} "
                f"{list(left)}, so that no call could follow another. This "
                "structure is not known. Export the pruned checkpoint instead: `nirvana export`."
            )


def _split_entry(value: ir.Value) -> tuple[str, str] | None:
    """Return the number and the rest of a cache entry's name."""
    match = _ENTRY.match(value.name or "")
    return None if match is None else (match[3], match[4])


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
            if node is located.output.node or node.op_type == "Shape":  # lengths lead everywhere
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
