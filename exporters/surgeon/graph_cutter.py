"""Takes units out of a graph: from the weights that make them along everything computed of them.

Each value that depends on units gets a cut for each axis along which they lie. Operator by
operator, in the order of the graph: operands that are constants are sliced as they meet a cut,
counts in shapes and attributes are mended, and what cannot be followed is refused. The cuts end at
the output projections, whose columns must be those that the plan keeps.

Whatever the operators are, a new value is the dense one where the cuts keep it; only at an output
projection do terms of a sum go.

The queries of four heads of 2 channels, of which the plan keeps heads 2 and 3; "cut" is what
`cuts_of` says of the output, by axis:

    x [B, S, 8]
    MatMul with W_q [8, 8]           start: W_q loses columns 0-3      cut {2: channels 4-7 of 8}
    Reshape to [B, S, 4, 2]          the constant 4 becomes 2          cut {2: heads 2, 3 of 4}
    Transpose to [B, 4, S, 2]                                          cut {1: heads 2, 3 of 4}
    MatMul with the keys             the keys must have the same cut   cut {1: heads 2, 3 of 4}
    Softmax, MatMul with values
    Transpose, Reshape to [B, S, 8]  the constant 8 becomes 4          cut {2: channels 4-7 of 8}
    MatMul with W_o [8, 8]           end: W_o loses rows 0-3           no cut: a sum of fewer terms
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from exporters.graphs.graph_facts import GraphFacts, read_constant
from exporters.graphs.linear_map import LinearMap
from exporters.graphs.node_reading import name_node, need_input
from exporters.graphs.op_values import UNKNOWN, Array, Fact
from exporters.surgeon.pulled_cut import SlicedTensor, pull_cut
from exporters.surgeon.shape_mending import mend_divisor, mend_shape
from exporters.surgeon.unit_cut import UnitCut
from pruning.errors import NirvanaError

NO_CUTS: Mapping[int, UnitCut] = {}
# Their values are equal along an axis that the shape gives them.
_FILLS = frozenset(("Expand", "ConstantOfShape"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionCut:
    """What stays of a projection, and the plan's name for it in messages."""

    linear: LinearMap
    cut: UnitCut
    what: str


@dataclass(slots=True, kw_only=True)
class GraphCutter:
    """The state of cutting one graph, in place.

    Attributes:
        dense: what is known of the values of the dense graph.
        starts: by product, which rows stay.
        ends: by product, which columns stay.
        follow: cuts a node in between, and returns the cuts of its outputs.
        start_attention: the same for an attention with its projections in it, and their cut.
    """

    graph: ir.Graph
    dense: GraphFacts
    starts: dict[ir.Node, ProjectionCut]
    ends: dict[ir.Node, ProjectionCut]
    follow: Callable[[GraphCutter, ir.Node], Sequence[Mapping[int, UnitCut]]]
    start_attention: Callable[[GraphCutter, ir.Node, UnitCut], Sequence[Mapping[int, UnitCut]]]
    cuts: dict[ir.Value, dict[int, UnitCut]] = field(default_factory=dict)
    now: dict[ir.Value, Fact] = field(default_factory=dict)
    made: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)
    sliced: dict[ir.Value, str] = field(default_factory=dict)
    num_names: int = 0

    def run(self) -> None:
        """Cut the graph."""
        for node in tuple(self.graph):
            self._visit(node)

    def cuts_of(self, value: ir.Value | None) -> Mapping[int, UnitCut]:
        """Return the cuts of a value by axis."""
        return NO_CUTS if value is None else self.cuts.get(value, NO_CUTS)

    def shape(self, value: ir.Value, node: ir.Node) -> tuple[int, ...]:
        """Return a value's dense shape, or refuse the node that needs it."""
        shape = self.dense.shape(value)
        if shape is None:
            raise NirvanaError(
                f"{name_node(node)}: the shape of {value.name} does not follow from the graph, so "
                "that the units of the plan cannot be followed through it."
            )
        return shape

    def facts_now(self, node: ir.Node) -> list[Fact | None]:
        """Return what is known of a node's inputs as they are by now."""
        return [None if value is None else self.fact_now(value) for value in node.inputs]

    def fact_now(self, value: ir.Value) -> Fact:
        """Return what is known of a value as it is by now."""
        return self.now.get(value) or self.dense.of(value) or UNKNOWN

    def take(self, node: ir.Node, index: int, axis: int, cut: UnitCut) -> None:
        """Replace an input of a node by what `cut` leaves of it along `axis`."""
        value = need_input(node, index)
        taken = self.cut_value(value, axis, cut, node)
        if taken is not value:
            node.replace_input_with(index, taken)

    def cut_value(self, value: ir.Value, axis: int, cut: UnitCut, node: ir.Node) -> ir.Value:
        """Return what `cut` leaves of a value along `axis`: `value` itself where that is so by now.

        Raises:
            NirvanaError: the axis has another size; `node` needs it.
        """
        size = self.shape(value, node)[axis]
        held = self.cuts_of(value).get(axis)
        if (size == 1 and cut.total != 1) or (held is not None and held.agrees(cut)):
            return value
        if size != cut.total:
            raise NirvanaError(
                f"{name_node(node)}: {value.name} has {size} entries where {cut.total} units meet "
                "it. This structure is not known; the graph was not changed."
            )
        if held is not None and not cut.is_within(held):
            raise NirvanaError(
                f"{name_node(node)}: the plan keeps other units of {value.name} than of what it "
                "meets. The graph is not what the wiring says."
            )
        key = (value, axis, cut.key)
        if key not in self.made:
            self.made[key] = self._make_cut(value, axis, cut)
        return self.made[key]

    def _make_cut(self, value: ir.Value, axis: int, cut: UnitCut) -> ir.Value:
        if value.is_initializer() and value.const_value is not None:
            return self._slice_constant(value, axis, cut)
        if value.is_graph_input():
            self.set_cuts(value, {**self.cuts_of(value), axis: cut})
            return value
        pulled = pull_cut(self, value, axis, cut)
        return pulled if pulled is not None else self._gather(value, axis, cut)

    def _slice_constant(self, value: ir.Value, axis: int, cut: UnitCut) -> ir.Value:
        assert value.const_value is not None
        name = self.fresh_name(f"{value.name}.kept")
        tensor = SlicedTensor(value.const_value, axis, cut, name)
        sliced = self.add_constant(tensor, value, {**self.cuts_of(value), axis: cut})
        self.sliced[sliced] = self.sliced.get(value, value.name or "")
        return sliced

    def _gather(self, value: ir.Value, axis: int, cut: UnitCut) -> ir.Value:
        """Select by an index: for what other layers need whole, as T5's position bias."""
        held = self.cuts_of(value).get(axis)
        self.require_fixed(value, axis, value.consumers()[0])
        positions = cut.kept if held is None else np.searchsorted(held.kept, cut.kept)
        index = self.add_array(f"{value.name}.kept_units", positions.astype(np.int64))
        node = ir.node("Gather", [value, index], {"axis": axis})
        return self.insert_after(value, node, {**self.cuts_of(value), axis: cut})

    def require_fixed(self, value: ir.Value, axis: int, node: ir.Node) -> None:
        """Raise NirvanaError if the length of an axis is free, so that no constant can cut it."""
        if self.dense.is_free(self.shape(value, node)[axis]):
            raise NirvanaError(
                f"{name_node(node)}: units of the plan lie with a free dimension on axis {axis} of "
                f"{value.name}. This structure is not known."
            )

    def insert_after(self, value: ir.Value, node: ir.Node, cuts: Mapping[int, UnitCut]) -> ir.Value:
        """Put a node with one output behind the one that makes `value`, and tell its cuts.

        The output stands for `value`, and has its dense shape.
        """
        (output,) = node.outputs
        output.name = node.name = self.fresh_name(f"{value.name}.kept")
        output.type, output.shape = value.type, value.shape and value.shape.copy()
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        self.dense.record(output, self.dense.of(value) or UNKNOWN)
        self.set_cuts(output, cuts)
        return output

    def set_cuts(self, value: ir.Value, cuts: Mapping[int, UnitCut]) -> None:
        """Say what stays of a value, and give it the shape that it then has."""
        shape = self.dense.shape(value)
        assert shape is not None
        self.cuts[value] = dict(cuts)
        self.now[value] = Fact(cut_shape(shape, cuts))
        if value.shape is not None and len(value.shape) == len(shape):
            dims = [
                dim if axis not in cuts else cuts[axis].count if isinstance(dim, int) else None
                for axis, dim in enumerate(value.shape)
            ]
            value.shape = ir.Shape(dims)

    def add_array(self, name: str, values: Array) -> ir.Value:
        """Add a small constant, once."""
        key = ("constant", name, values.tobytes())
        if key not in self.made:
            tensor = ir.Tensor(values, name=self.fresh_name(name))
            self.made[key] = self.add_constant(tensor, None, NO_CUTS)
        return self.made[key]

    def add_constant(
        self, tensor: ir.TensorProtocol, of: ir.Value | None, cuts: Mapping[int, UnitCut]
    ) -> ir.Value:
        """Add an initializer; `of` is the one that it is cut from."""
        shape = ir.Shape([int(n) for n in tensor.shape.numpy()])
        value = ir.Value(
            name=tensor.name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        if of is None:
            self.dense.record(value, read_constant(value))
        else:
            self.dense.record(value, self.dense.of(of) or UNKNOWN)
            self.cuts[value] = dict(cuts)
            self.now[value] = read_constant(value)
        return value

    def fresh_name(self, stem: str) -> str:
        """Return a name that no value has."""
        self.num_names += 1
        return f"{stem}_{self.num_names}"

    def name_like_dense(self) -> None:
        """Give what is left of each dense constant its name, where that has gone, in place."""
        for value in self.made.values():
            name = self.sliced.get(value, "")
            if value.is_initializer() and name and name not in self.graph.initializers:
                value.name = name

    def _visit(self, node: ir.Node) -> None:
        outputs: Sequence[Mapping[int, UnitCut]] = [NO_CUTS] * len(node.outputs)
        if node in self.starts and node.op_type == "Attention":
            outputs = self.start_attention(self, node, self.starts[node].cut)
        elif node in self.starts:
            outputs = [self._start(node, self.starts[node])]
        elif node in self.ends:
            self._end(node, self.ends[node])
        elif any(self.cuts_of(value) for value in node.inputs):
            outputs = self.follow(self, node)
        elif any(value in self.now for value in node.inputs):
            mend_divisor(self, node)
        else:
            return
        self._check(node, outputs)

    def _start(self, node: ir.Node, start: ProjectionCut) -> dict[int, UnitCut]:
        if self.cuts_of(node.inputs[0]):
            raise NirvanaError(f"{name_node(node)}: units of another layer reach {start.what}.")
        self.take(node, 1, start.linear.out_axis, start.cut)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            self.take(node, 2, len(self.shape(node.inputs[2], node)) - 1, start.cut)
        return {len(self.shape(node.outputs[0], node)) - 1: start.cut}

    def _end(self, node: ir.Node, end: ProjectionCut) -> None:
        value = need_input(node, 0)
        last = len(self.shape(value, node)) - 1
        cuts = self.cuts_of(value)
        if set(cuts) != {last} or not cuts[last].agrees(end.cut):
            raise NirvanaError(
                f"{name_node(node)}: what reaches {end.what} is not what the plan keeps of it. The "
                "graph is not what the wiring says."
            )
        self.take(node, 1, end.linear.in_axis, end.cut)

    def _check(self, node: ir.Node, outputs: Sequence[Mapping[int, UnitCut]]) -> None:
        """Hold the shapes that a node gives by now against those that the cuts say."""
        facts = self.dense.infer(node, self.facts_now(node))
        for value, cuts, fact in zip(node.outputs, outputs, facts, strict=True):
            dense = self.dense.of(value) or UNKNOWN
            if dense.shape is None or (not cuts and fact.same(dense)):
                continue
            if not cuts and fact.shape is not None and fact.shape != dense.shape:
                cuts = self._read_fill(node, dense.shape, fact.shape)
            expected = cut_shape(dense.shape, cuts)
            if fact.shape is not None and fact.shape != expected:
                raise NirvanaError(
                    f"{name_node(node)}: {value.name} would have the shape {list(fact.shape)}, "
                    f"expected {list(expected)}. This structure is not known."
                )
            if cuts:
                self.set_cuts(value, cuts)
            self.now[value] = Fact(expected, fact.data)

    @staticmethod
    def _read_fill(
        node: ir.Node, dense: tuple[int, ...], came: tuple[int, ...]
    ) -> dict[int, UnitCut]:
        """Return the cuts of a value that took its shape from a value that was cut."""
        if node.op_type not in _FILLS or len(dense) != len(came):
            return {}
        pairs = enumerate(zip(dense, came, strict=True))
        return {axis: UnitCut(None, new, old) for axis, (old, new) in pairs if old != new}

    def mend_shape(self, node: ir.Node, index: int, cuts: Mapping[int, UnitCut]) -> None:
        """Change the shape operand of a node so that its output has the cuts, in place."""
        mend_shape(self, node, index, cuts)


def cut_shape(shape: Sequence[int], cuts: Mapping[int, UnitCut]) -> tuple[int, ...]:
    """Return the shape that cuts leave."""
    return tuple(cuts[axis].count if axis in cuts else n for axis, n in enumerate(shape))
