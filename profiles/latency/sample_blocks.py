"""A model of random weights whose blocks each keep another width: what a latency table is cut from.

One trace of it gives the real exported graph of every width that is measured.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from transformers import PreTrainedModel

from pruning.checkpoints.prunable_model import PrunableModel, is_whole
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import StackDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import make_layer

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


# Token embeddings and heads are no part of a block: a short vocabulary keeps the sample small.
_VOCABULARY = 512
_TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleBlock:
    """What one block of the sample keeps: units of one sub-block, and nothing of the other."""

    part: Literal["attention", "mlp", "none"]
    kept: int

    @property
    def name(self) -> str:
        """The key of its samples."""
        return f"{self.part}.{self.kept}"


def list_sample_blocks(dims: StackDims, num_points: int) -> tuple[SampleBlock, ...]:
    """Return the blocks to measure: up to `num_points` widths of each kind, and an empty one.

    The widest attention comes first: a first block without attention counts positions in a way of
    its own.
    """
    groups = _spread(dims.num_kv_heads, num_points, 1)
    neurons = _spread(dims.intermediate_size, num_points, 64)
    return (
        *(SampleBlock(part="attention", kept=count) for count in reversed(groups)),
        *(SampleBlock(part="mlp", kept=count) for count in neurons),
        SampleBlock(part="none", kept=0),
    )


def make_sample_model(
    model: PreTrainedModel, num_points: int
) -> tuple[PreTrainedModel, tuple[SampleBlock, ...]]:
    """Build a model of the class and sizes of `model` with one block for each width.

    Raises:
        NirvanaError: the model has more than one stack, or none that can be built anew.
    """
    source = read_model(model)
    if len(source.dims.stacks) != 1 or source.wiring.stacks[0].cross_attention is not None:
        raise NirvanaError(
            f"Latency tables are of models with one stack of blocks, {source.dims.model_type} has "
            f"{len(source.dims.stacks)}. Give a budget in macs, parameters or bytes."
        )
    blocks = list_sample_blocks(source.dims.stacks[0], num_points)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense = source.stock_class(_make_config(source, len(blocks))).eval()
        with torch.no_grad():
            for parameter in dense.parameters():  # equal biases of blocks would be shared
                parameter.add_(0.02 * torch.randn_like(parameter))
    stack = read_model(dense).dims.stacks[0]
    layers = [_make_layer(block, stack) for block in blocks]
    return repack(dense, plan_for(dense, layers)).eval(), blocks


def _make_config(source: PrunableModel, num_layers: int) -> object:
    config = copy.deepcopy(source.config)
    if not is_whole(source.current):
        raise NirvanaError(
            "The model was pruned before; a latency table is measured for the dense model that it "
            "came from."
        )
    keys = source.wiring.stacks[0].config
    setattr(config, keys.num_layers, num_layers)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        config.layer_types = [kinds[0]] * num_layers
    config.vocab_size = min(config.vocab_size, _VOCABULARY)
    for name in _TOKEN_IDS:
        value = getattr(config, name, None)
        if isinstance(value, int) and value >= config.vocab_size:
            setattr(config, name, 0)
    config._attn_implementation = "eager"
    return config


def _make_layer(block: SampleBlock, dims: StackDims) -> LayerPlan:
    return make_layer(
        dims,
        attention=range(block.kept if block.part == "attention" else 0),
        mlp=range(block.kept if block.part == "mlp" else 0),
    )


def _spread(num_units: int, num_points: int, multiple: int) -> tuple[int, ...]:
    """Return up to `num_points` counts, ascending to all: evenly, in multiples where that goes."""
    step = multiple if num_units >= 2 * multiple * num_points else 1
    even = (num_units * point / num_points for point in range(1, num_points))
    counts = {max(step, round(count / step) * step) for count in even}
    return (*sorted(count for count in counts if count < num_units), num_units)
