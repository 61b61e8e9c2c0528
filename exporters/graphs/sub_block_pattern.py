"""Finds attentions and MLPs by what they compute, whatever their nodes are called.

An attention is a softmax between two products of variables, or one of the fused operators; an MLP
is linear maps, arithmetic without any other map, and the map back to the hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.linear_map import LinearMap, find_weight
from exporters.graphs.node_reading import input_at, need_input, read_attribute
from exporters.graphs.shape_rules import ELEMENTWISE, NORMS, PRODUCTS, UNARY

_MOVES = frozenset(
    (
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile", "Slice", "Split"),
        *("Concat", "Gather", "RotaryEmbedding", "TensorScatter"),
    )
)
_FUSED = frozenset(("Attention", "MultiHeadAttention", "GroupQueryAttention"))
_POINTWISE = ELEMENTWISE | UNARY


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPattern:
    """One attention: its maps, and the sizes that its shapes say.

    Attributes:
        inputs: for query, key and value, the maps that they come from; empty where they come from
            a cache alone. A fused projection is in all three.
        output: the map that mixes the heads.
        order: the number of the node that it was found by, among the graph's.
    """

    inputs: tuple[tuple[LinearMap, ...], ...]
    output: LinearMap
    num_heads: int
    num_kv_heads: int
    head_dim: int
    order: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpPattern:
    """One MLP: its maps, and how many neurons lie between them."""

    inputs: tuple[LinearMap, ...]
    output: LinearMap
    num_neurons: int
    order: int


class SubBlockPattern:
    """The attentions and MLPs of a graph."""

    def __init__(self, graph: ir.Graph, facts: GraphFacts, linears: Sequence[LinearMap]) -> None:
        self._facts = facts
        self._order = {node: number for number, node in enumerate(graph)}
        self._by_result = {linear.result: linear for linear in linears}
        self._by_result.update({linear.node.outputs[0]: linear for linear in linears})
        self._by_input = {linear.node: linear for linear in linears}
        self.attentions = tuple(found for node in graph if (found := self._read(node)) is not None)
        taken = {
            linear.node
            for attention in self.attentions
            for linears_of in (*attention.inputs, (attention.output,))
            for linear in linears_of
        }
        self.mlps = tuple(self._find_mlps([li for li in linears if li.node not in taken]))

    def _read(self, node: ir.Node) -> AttentionPattern | None:
        if node.op_type in _FUSED:
            return self._read_fused(node)
        return self._read_softmax(node) if node.op_type == "Softmax" else None

    def _read_softmax(self, node: ir.Node) -> AttentionPattern | None:
        weighted = self._follow_product(node.outputs[0])
        scores = self._trace_product(need_input(node, 0))
        if weighted is None or scores is None:
            return None
        query, key, value = (*scores.inputs[:2], weighted.inputs[1])
        shape = self._facts.shape(weighted.outputs[0])
        score_shape = self._facts.shape(need_input(node, 0))
        if shape is None or score_shape is None:
            return None
        return self._assemble(node, weighted.outputs[0], (query, key, value), shape[-1])

    def _read_fused(self, node: ir.Node) -> AttentionPattern | None:
        if node.op_type == "Attention" and node.domain:
            weight = find_weight(input_at(node, 1))
            shape = None if weight is None else self._facts.shape(weight)
            heads = read_attribute(node, "num_heads", 0)
            sizes = read_attribute(node, "qkv_hidden_sizes", None)
            output = self._follow_map(node.outputs[0])
            if weight is None or shape is None or output is None:
                return None
            linear = LinearMap(
                node=node,
                weight=weight,
                out_axis=1,
                num_in=shape[0],
                num_out=shape[1],
                result=node.outputs[0],
                bias=input_at(node, 2),
                bias_node=None,
            )
            return AttentionPattern(
                inputs=((linear,),) * 3,
                output=output,
                num_heads=heads,
                num_kv_heads=heads,
                head_dim=(sizes[2] if sizes else shape[1] // 3) // heads,
                order=self._order[node],
            )
        query = need_input(node, 0)
        values = [query, *(input_at(node, i) or query for i in (1, 2))]
        shape = self._facts.shape(query)
        if shape is None:
            return None
        if len(shape) == 4:
            return self._assemble(node, node.outputs[0], values, shape[3])
        heads = read_attribute(node, "num_heads", 0) or read_attribute(node, "q_num_heads", 0)
        kv_heads = read_attribute(node, "kv_num_heads", heads)
        packed = 0 if input_at(node, 1) is not None else 2 * kv_heads
        return self._assemble(node, node.outputs[0], values, shape[2] // (heads + packed), kv_heads)

    def _assemble(
        self,
        node: ir.Node,
        result: ir.Value,
        values: Sequence[ir.Value | None],
        head_dim: int,
        kv_heads: int = 0,
    ) -> AttentionPattern | None:
        inputs = tuple(tuple(self._trace(value)) for value in values)
        output = self._follow_map(result)
        if output is None or not inputs[0] or output.num_in % head_dim:
            return None
        heads = output.num_in // head_dim
        if not kv_heads:
            own = len(inputs[2]) == 1 and inputs[2] != inputs[0]
            kv_heads = inputs[2][0].num_out // head_dim if own else 0
        if not kv_heads:  # fused, or from a cache
            shape = None if values[2] is None else self._facts.shape(values[2])
            fused = inputs[0][0].num_out - heads * head_dim if inputs[0] == inputs[2] else 0
            kv_heads = fused // (2 * head_dim) or (shape[1] if shape and len(shape) == 4 else heads)
        return AttentionPattern(
            inputs=inputs,
            output=output,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            order=self._order[node],
        )

    def _follow_product(self, value: ir.Value) -> ir.Node | None:
        """Return the product of the probabilities with the values."""
        for node in value.consumers():
            if node.op_type in PRODUCTS and node.inputs[0] is value and not self._is_map(node):
                return node
            if node.op_type in _POINTWISE or node.op_type == "Reshape":
                found = self._follow_product(node.outputs[0])
                if found is not None:
                    return found
        return None

    def _trace_product(self, value: ir.Value) -> ir.Node | None:
        """Return the product of queries and keys behind scores."""
        frontier = [value]
        seen: set[ir.Value] = set()
        while frontier:
            current = frontier.pop(0)
            node = current.producer()
            if current in seen or node is None:
                continue
            seen.add(current)
            if node.op_type in PRODUCTS:
                return None if self._is_map(node) else node
            if node.op_type in _POINTWISE or node.op_type == "Reshape":
                frontier += [operand for operand in node.inputs if operand is not None]
        return None

    def _follow_map(self, value: ir.Value) -> LinearMap | None:
        """Return the first map that takes a value, moved or not."""
        for node in value.consumers():
            if node in self._by_input and node.inputs[0] is value:
                return self._by_input[node]
            if node.op_type in _MOVES or node.op_type in ("Cast", "Identity"):
                found = self._follow_map(node.outputs[0])
                if found is not None:
                    return found
        return None

    def _is_map(self, node: ir.Node) -> bool:
        return node in self._by_input

    def _trace(self, value: ir.Value | None) -> Iterator[LinearMap]:
        """Yield the maps that a value comes from, through arithmetic, moves and norms."""
        frontier = [value]
        seen: set[ir.Value] = set()
        found: dict[ir.Node, LinearMap] = {}
        while frontier:
            current = frontier.pop()
            if current is None or current in seen:
                continue
            seen.add(current)
            if current in self._by_result:
                linear = self._by_result[current]
                found.setdefault(linear.node, linear)
                continue
            node = current.producer()
            if node is None:
                continue
            if node.op_type in _POINTWISE or node.op_type == "Concat":
                frontier += node.inputs
            elif node.op_type in _MOVES or node.op_type in NORMS:
                frontier.append(node.inputs[0])
            elif node.op_type.startswith("Reduce"):
                continue
        yield from sorted(found.values(), key=lambda linear: self._order[linear.node])

    def _find_mlps(self, linears: Sequence[LinearMap]) -> Iterator[MlpPattern]:
        nodes: Mapping[ir.Node, LinearMap] = {linear.node: linear for linear in linears}
        for linear in linears:
            source = linear.node.inputs[0]
            inputs = tuple(self._trace(source))
            alike = inputs and all(i.node in nodes and i.num_in == linear.num_out for i in inputs)
            total = sum(i.num_out for i in inputs)
            if alike and total % linear.num_in == 0 and total // linear.num_in in (1, 2):
                yield MlpPattern(
                    inputs=inputs,
                    output=linear,
                    num_neurons=linear.num_in,
                    order=self._order[linear.node],
                )
