"""The prunable structure of a real model, checked against its wiring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from pruning.errors import NirvanaError
from pruning.plan import DenseDims
from pruning.wiring import Wiring, find_wiring


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """How many units one block has now; None where the sub-block was dropped."""

    num_heads: int | None
    num_neurons: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A model's wiring with its sizes, layer by layer."""

    wiring: Wiring
    hidden_size: int
    head_dim: int
    layers: tuple[LayerShape, ...]

    def dense_dims(self) -> DenseDims:
        """Return the dimensions of a dense model; refuse one whose layers differ."""
        first = self.layers[0]
        if any(layer != first for layer in self.layers) or not first.num_heads:
            raise NirvanaError(
                "Expected a dense model with equal layers, this one is already pruned. "
                "Start from the dense model."
            )
        assert first.num_neurons is not None
        return DenseDims(
            model_type=self.wiring.model_type,
            num_layers=len(self.layers),
            hidden_size=self.hidden_size,
            num_heads=first.num_heads,
            head_dim=self.head_dim,
            intermediate_size=first.num_neurons,
        )


def find_blocks(model: PreTrainedModel, wiring: Wiring) -> list[nn.Module]:
    """Return the list of blocks of a model (with or without a task head)."""
    try:
        return list(cast(nn.ModuleList, model.base_model.get_submodule(wiring.blocks)))
    except AttributeError as error:
        raise NirvanaError(
            f"The wiring of {wiring.model_type!r} expects blocks at {wiring.blocks!r}, "
            f"{type(model.base_model).__name__} has none there."
        ) from error


def read_structure(model: PreTrainedModel) -> Structure:
    """Read and check the structure of a model, dense or pruned.

    Raises:
        NirvanaError: the type is not wired, a path does not exist, sizes do not divide, or a block
            holds a Linear that the record does not claim.
    """
    config = model.config
    wiring = find_wiring(config.model_type)
    head_dim = config.hidden_size // config.num_attention_heads
    layers = []
    for number, block in enumerate(find_blocks(model, wiring)):
        _check_linears(block, wiring, number)
        _check_paths(block, wiring, number)
        layers.append(_read_layer(block, wiring, head_dim, number))
    return Structure(
        wiring=wiring, hidden_size=config.hidden_size, head_dim=head_dim, layers=tuple(layers)
    )


def _check_linears(block: nn.Module, wiring: Wiring, number: int) -> None:
    found = {name for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    unclaimed = sorted(found - set(wiring.linears))
    if unclaimed:
        raise NirvanaError(
            f"Layer {number}: the wiring of {wiring.model_type!r} does not claim {unclaimed}. "
            "Cross-attention, adapters and other additions are not supported."
        )


def _find_module(block: nn.Module, path: str) -> nn.Module | None:
    try:
        return block.get_submodule(path)
    except AttributeError:
        return None


def _check_paths(block: nn.Module, wiring: Wiring, number: int) -> None:
    """Refuse a block that lacks what a sub-block with an output projection must have."""
    wanted = []
    if isinstance(_find_module(block, wiring.attention_output), nn.Linear):
        core = _find_module(block, wiring.attention_core)
        wanted += [name for name in wiring.qkv if _find_module(block, name) is None]
        for name in (*wiring.head_count, *wiring.head_width):
            wanted += [] if hasattr(core, name) else [f"{wiring.attention_core}.{name}"]
    if isinstance(_find_module(block, wiring.mlp_output), nn.Linear):
        wanted += [name for name in wiring.mlp_inputs if _find_module(block, name) is None]
    if wanted:
        raise NirvanaError(
            f"Layer {number}: the wiring of {wiring.model_type!r} expects {wanted}, which "
            f"{type(block).__name__} lacks."
        )


def _read_layer(block: nn.Module, wiring: Wiring, head_dim: int, number: int) -> LayerShape:
    query, up = _find_module(block, wiring.query), _find_module(block, wiring.mlp_inputs[0])
    output, down = (
        _find_module(block, wiring.attention_output),
        _find_module(block, wiring.mlp_output),
    )
    if output is None or down is None:
        raise NirvanaError(
            f"Layer {number}: the wiring of {wiring.model_type!r} expects "
            f"{wiring.attention_output!r} and {wiring.mlp_output!r}; "
            f"{type(block).__name__} lacks one of them."
        )
    if isinstance(query, nn.Linear) and query.out_features % head_dim:
        raise NirvanaError(
            f"Layer {number}: {wiring.query} has {query.out_features} rows, which head_dim "
            f"{head_dim} does not divide."
        )
    return LayerShape(
        num_heads=_count_units(query, output, head_dim), num_neurons=_count_units(up, down, 1)
    )


def _count_units(entry: nn.Module | None, output: nn.Module, rows_per_unit: int) -> int | None:
    if isinstance(entry, nn.Linear):
        return entry.out_features // rows_per_unit
    return None if getattr(output, "bias", None) is None else 0
