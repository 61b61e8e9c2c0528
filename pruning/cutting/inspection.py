"""What of a model can be pruned, and how much it is; no weights are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from pruning.checkpoints.model_fingerprint import list_stored_fingerprints
from pruning.checkpoints.model_skeleton import build_skeleton, find_architecture
from pruning.checkpoints.model_source import load_model, resolve_model
from pruning.checkpoints.prunable_model import PrunableModel, is_whole
from pruning.cutting.proof import Proof
from pruning.cutting.wiring_inference import prove, read_model
from pruning.errors import NirvanaError
from pruning.plans.cost import ParameterCost, attention_cost
from pruning.plans.dense_dims import StackDims
from pruning.plans.plan import LayerPlan, PruningPlan, kept_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """The units and parameters that one block has; None where a sub-block was dropped."""

    stack: str
    layer: int
    num_heads: int | None
    num_kv_heads: int | None
    head_dim: int
    num_cross_heads: int | None
    num_neurons: int | None
    attention_parameters: int
    cross_attention_parameters: int
    mlp_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStructure:
    """The prunable structure of a model.

    Attributes:
        inferred_from: the known types whose names fitted, when the wiring was inferred.
        rows: the blocks that are there; `layer` is their number in the dense model.
    """

    model_type: str
    architecture: str
    inferred_from: str
    num_parameters: int
    block_parameters: int
    rows: tuple[LayerRow, ...]

    @property
    def has_cross_attention(self) -> bool:
        """Return whether any block has a cross-attention."""
        return any(row.num_cross_heads is not None for row in self.rows)

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)


def inspect_model(source: str) -> ModelStructure:
    """Describe the prunable structure of a model, dense or pruned, from its config.

    Raises:
        NirvanaError: there is no model, or its type cannot be pruned.
    """
    return describe_model(build_skeleton(resolve_model(source), own_code=True))


def read_current_plan(source: str) -> PruningPlan:
    """Return what a model keeps now: for a dense one the plan that keeps everything."""
    path = resolve_model(source)
    model = build_skeleton(path)
    read = read_model(model)
    weights = list_stored_fingerprints(Path(path), model, read) if Path(path).is_dir() else ()
    return replace(read.current, weights=weights)


def prove_model(source: str, seed: int = 0) -> Proof:
    """Load a dense model in float32 and prove on it that repacking is right (see `prove`)."""
    path = resolve_model(source)
    skeleton = build_skeleton(path, own_code=True)
    if not is_whole(read_model(skeleton).current):  # before gigabytes are read
        raise NirvanaError(
            f"Expected a dense model to prove, {source} was pruned before. Prove the model that it "
            "was made of: the proof tries plans of its own."
        )
    stock = find_architecture(skeleton.config, path)
    return prove(load_model(stock, path, dtype=torch.float32), seed=seed)


def describe_model(model: PreTrainedModel) -> ModelStructure:
    """Describe the prunable structure of a model that is built."""
    source = read_model(model)
    blocks = tuple(f"{source.prefix}{stack.blocks}." for stack in source.wiring.stacks)
    return ModelStructure(
        model_type=source.wiring.model_type,
        architecture=source.stock_class.__name__,
        inferred_from=source.wiring.inferred_from,
        num_parameters=sum(p.numel() for p in model.parameters()),
        block_parameters=sum(
            p.numel() for name, p in model.named_parameters() if name.startswith(blocks)
        ),
        rows=tuple(_describe_layers(source)),
    )


def _describe_layers(source: PrunableModel) -> list[LayerRow]:
    return [
        _describe_layer(dims, number, layer)
        for dims, layers in source.current.stacks()
        for number, layer in enumerate(layers)
        if not layer.dropped
    ]


def _describe_layer(dims: StackDims, number: int, layer: LayerPlan) -> LayerRow:
    heads, neurons, sizes = layer.kept_heads, layer.kept_neurons, dims.sizes
    per_neuron = sizes.neuron_weights + sizes.neuron_biases
    return LayerRow(
        stack=dims.name,
        layer=number,
        num_heads=None if heads is None else len(heads),
        num_kv_heads=None if heads is None else len(kept_groups(heads, dims)),
        head_dim=dims.head_dim,
        num_cross_heads=None if layer.kept_cross_heads is None else len(layer.kept_cross_heads),
        num_neurons=None if neurons is None else len(neurons),
        attention_parameters=attention_cost(heads, dims, ParameterCost()),
        cross_attention_parameters=attention_cost(layer.kept_cross_heads, dims, ParameterCost()),
        mlp_parameters=0 if neurons is None else len(neurons) * per_neuron + sizes.mlp_bias,
    )
