"""What a transformer's ONNX file has, layer by layer: heads, widths, nodes. No weights are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from exporters.engines.engine_graph import ATTENTION_OPS
from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.linear_map import list_linear_maps
from exporters.graphs.node_reading import name_scope
from exporters.graphs.onnx_files import explain_malformed
from exporters.graphs.read_onnx import read_onnx
from exporters.graphs.sub_block_pattern import AttentionPattern, MlpPattern, SubBlockPattern
from exporters.io_names import is_past
from pruning.errors import NirvanaError

_FIRST = 11


def size_inputs(graph: ir.Graph) -> dict[ir.Value, tuple[int, ...]]:
    """Return a shape for each graph input that has one.

    A name of digits is a number (transformers' exporter writes such), `a + b` a sum, and a total
    is what is past plus what is new. Dimensions without a name are told apart by their axis. An
    exporter that does not see that two are equal names them apart: batches are equal here, and so
    are the lengths of ids and mask.
    """
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    names = [name for value in inputs for name in _list_names(value) if not name.isdigit()]
    sizes = _Sizes(_list_primes(_list_fixed(graph, inputs)), tuple(dict.fromkeys(names)))
    _tie(sizes, inputs)
    shapes = {}
    for value in inputs:
        if value.shape is not None:
            dims = tuple(value.shape)
            shapes[value] = tuple(
                dim if isinstance(dim, int) else sizes.of(_name_dim(dim, value, axis))
                for axis, dim in enumerate(dims)
            )
    return shapes


class _Sizes:
    def __init__(self, primes: Iterator[int], names: tuple[str, ...]) -> None:
        self._primes = primes
        self._past = [name for name in names if "past" in name and "+" not in name]
        self._new = [n for n in names if "seq" in n and not any(w in n for w in _NOT_NEW)]
        self._known: dict[str, int] = {}

    def tie(self, name: str | None, *others: str | None) -> None:
        """Let a name that nothing is known of stand for the sum of others."""
        if name is None or name.isdigit() or "+" in name or None in others or name in others:
            return
        self._known.setdefault(name, sum(self.of(other) for other in others if other is not None))

    def of(self, name: str) -> int:
        if name.isdigit():
            return int(name)
        if "+" in name:
            return sum(self.of(part.strip()) for part in name.split("+"))
        if name not in self._known:
            if "total" in name and self._past and self._new:
                self._known[name] = self.of(self._past[0]) + self.of(self._new[0])
            else:
                self._known[name] = next(self._primes)
        return self._known[name]


def _tie(sizes: _Sizes, inputs: list[ir.Value]) -> None:
    """Let the batches of all inputs be one, and a mask as long as cache and ids together."""
    batches = [name for value in inputs if (name := _free_name(value, 0)) is not None]
    for name in batches[1:]:
        sizes.tie(name, batches[0])
    by_name = {value.name: value for value in inputs}
    past = next((_free_name(v, 2) for v in inputs if is_past(v.name or "") and _rank(v) == 4), None)
    length = _free_name(by_name.get("input_ids"), 1)
    of_mask = _free_name(by_name.get("attention_mask"), 1)
    if of_mask is not None and not any(word in of_mask for word in ("total", "past")):
        sizes.tie(of_mask, length, *(() if past is None else (past,)))
    for name in ("token_type_ids", "position_ids"):
        sizes.tie(_free_name(by_name.get(name), 1), length)


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def _free_name(value: ir.Value | None, axis: int) -> str | None:
    """Return the name of a free dimension, None where it has none or is fixed."""
    if value is None or value.shape is None or len(value.shape) <= axis:
        return None
    dim = value.shape[axis]
    return None if isinstance(dim, int) else dim.value


_NOT_NEW = ("past", "total", "encoder", "+")


def _list_names(value: ir.Value) -> list[str]:
    dims = tuple(value.shape) if value.shape is not None else ()
    return [str(dim.value) for dim in dims if not isinstance(dim, int) and dim.value is not None]


def _name_dim(dim: ir.SymbolicDim, value: ir.Value, axis: int) -> str:
    if dim.value is not None:
        return str(dim.value)
    assert value.shape is not None
    return "batch" if axis == 0 else f"axis {axis} of {len(value.shape)}"


def _list_fixed(graph: ir.Graph, inputs: list[ir.Value]) -> set[int]:
    shapes = [value.shape for value in (*inputs, *graph.initializers.values())]
    dims = {dim for shape in shapes if shape is not None for dim in shape}
    return {dim for dim in dims if isinstance(dim, int) and dim > 1}


def _list_primes(fixed: set[int]) -> Iterator[int]:
    number = _FIRST
    while True:
        prime = all(number % smaller for smaller in range(2, int(number**0.5) + 1))
        if prime and not any(dim % number == 0 for dim in fixed):
            yield number
        number += 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SubBlockRow:
    """One attention or MLP of a graph, in the order of its nodes.

    Attributes:
        kind: "attention" or "mlp"; of the other kind's counts there are none.
        scope: the torch module of its output projection, empty where nothing tells it.
        weight: the initializer of that projection.
    """

    kind: str
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    num_neurons: int | None = None
    scope: str
    weight: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphStructure:
    """The structure of a graph.

    Attributes:
        num_parameters: values of all initializers that are weights.
        num_unknown_attentions: fused operators and softmaxes that are part of no attention in
            `rows`; a softmax over the logits is one.
    """

    producer: str
    opset: int
    num_nodes: int
    num_parameters: int
    num_unknown_attentions: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rows: tuple[SubBlockRow, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)


def inspect_onnx(path: Path) -> GraphStructure:
    """Describe a transformer's ONNX file, whoever wrote it, dense or pruned.

    Raises:
        NirvanaError: the file is not whole, or no attention and no MLP was found in it.
    """
    with explain_malformed(path):
        return _inspect(path)


def _inspect(path: Path) -> GraphStructure:
    model = read_onnx(path)
    num_nodes = sum(node.op_type != "Constant" for node in model.graph)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    facts = GraphFacts(model, size_inputs(model.graph))
    linears = list_linear_maps(model.graph, facts)
    pattern = SubBlockPattern(model.graph, facts, linears)
    parts: list[AttentionPattern | MlpPattern] = [*pattern.attentions, *pattern.mlps]
    found = sorted(parts, key=lambda part: part.order)
    if not found:
        raise NirvanaError(
            f"{path}: found no attention and no MLP with floating-point weights among "
            f"{num_nodes} nodes. Expected a transformer's graph that is not quantized."
        )
    weights = [value.const_value for value in model.graph.initializers.values()]
    num_attentions = sum(node.op_type in (*ATTENTION_OPS, "Softmax") for node in model.graph)
    return GraphStructure(
        producer=f"{model.producer_name or 'unknown'} {model.producer_version or ''}".strip(),
        opset=model.graph.opset_imports.get("", 0),
        num_nodes=num_nodes,
        num_unknown_attentions=max(0, num_attentions - len(pattern.attentions)),
        num_parameters=sum(w.size for w in weights if w is not None and _is_weight(w)),
        inputs=tuple(value.name or "" for value in model.graph.inputs),
        outputs=tuple(value.name or "" for value in model.graph.outputs),
        rows=tuple(map(_describe, found)),
    )


def _is_weight(tensor: Any) -> bool:
    return bool(tensor.dtype.is_floating_point()) and tensor.size > 1


def _describe(part: AttentionPattern | MlpPattern) -> SubBlockRow:
    scope, weight = name_scope(part.output.node), part.output.weight.name or ""
    if isinstance(part, MlpPattern):
        return SubBlockRow(kind="mlp", num_neurons=part.num_neurons, scope=scope, weight=weight)
    return SubBlockRow(
        kind="attention",
        num_heads=part.num_heads,
        num_kv_heads=part.num_kv_heads,
        head_dim=part.head_dim,
        scope=scope,
        weight=weight,
    )
