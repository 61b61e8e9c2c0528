"""What a transformer's ONNX file has, layer by layer: heads, widths, nodes. No weights are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx_ir.passes.common import LiftConstantsToInitializersPass

from exporters.engines.engine_graph import ATTENTION_OPS
from exporters.graphs.free_dims import size_inputs
from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.linear_map import list_linear_maps
from exporters.graphs.node_reading import name_scope
from exporters.graphs.onnx_files import explain_malformed
from exporters.graphs.read_onnx import read_onnx
from exporters.graphs.sub_block_pattern import AttentionPattern, MlpPattern, SubBlockPattern
from pruning.errors import NirvanaError


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

    def to_json(self) -> dict[str, Any]:
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
