"""What of a model can be pruned, and how much it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from transformers import AutoConfig, AutoModel, PreTrainedModel

from pruning.checkpoint import is_pruned, load_pruned
from pruning.model_source import load_stock_model, resolve_model
from pruning.structure import find_blocks, read_structure
from pruning.wiring import find_wiring


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """The prunable units and the parameters of one block; None where a sub-block was dropped."""

    layer: int
    num_heads: int | None
    head_dim: int
    num_neurons: int | None
    attention_parameters: int
    mlp_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStructure:
    """The prunable structure of a model."""

    model_type: str
    num_parameters: int
    block_parameters: int
    rows: tuple[LayerRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def inspect_model(source: str) -> ModelStructure:
    """Load a model (dense or pruned) and describe its prunable structure.

    Raises:
        NirvanaError: the model cannot be loaded or its type is not wired.
    """
    path = resolve_model(source)
    if is_pruned(path):
        return describe_model(load_pruned(path))
    find_wiring(load_stock_model(AutoConfig, path).model_type)  # before gigabytes are read
    return describe_model(load_stock_model(AutoModel, path))


def describe_model(model: PreTrainedModel) -> ModelStructure:
    """Describe the prunable structure of a loaded model."""
    structure = read_structure(model)
    wiring = structure.wiring
    rows = []
    for number, (block, layer) in enumerate(
        zip(find_blocks(model, wiring), structure.layers, strict=True)
    ):
        rows.append(
            LayerRow(
                layer=number,
                num_heads=layer.num_heads,
                head_dim=structure.head_dim,
                num_neurons=layer.num_neurons,
                attention_parameters=_count(block, (*wiring.qkv, wiring.attention_output)),
                mlp_parameters=_count(block, (*wiring.mlp_inputs, wiring.mlp_output)),
            )
        )
    return ModelStructure(
        model_type=wiring.model_type,
        num_parameters=sum(p.numel() for p in model.parameters()),
        block_parameters=sum(
            p.numel() for block in find_blocks(model, wiring) for p in block.parameters()
        ),
        rows=tuple(rows),
    )


def _count(block: Any, paths: tuple[str, ...]) -> int:
    present = {name: p.numel() for name, p in block.named_parameters()}
    return sum(
        size for name, size in present.items() for path in paths if name.startswith(f"{path}.")
    )
