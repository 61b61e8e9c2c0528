"""Cuts a plan into the weights: a dense model becomes a physically smaller one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from pruning.modeling_pruned import pruned_class
from pruning.plan import LayerPlan, PruningPlan, hash_config
from pruning.structure import Structure, read_structure
from pruning.wiring import Wiring


def plan_for(model: PreTrainedModel, layers: Sequence[LayerPlan], **made_by: Any) -> PruningPlan:
    """Make a plan for a dense model from what each layer keeps."""
    return PruningPlan(
        dims=read_structure(model).dense_dims(),
        layers=tuple(layers),
        config_hash=hash_config(model.config.to_dict()),
        made_by=made_by,
    )


def repack(model: PreTrainedModel, plan: PruningPlan) -> PreTrainedModel:
    """Return a new, smaller model that computes what `model` does under the plan's masks.

    `model` is dense, without gates, and is left as it was.

    Raises:
        NirvanaError: the plan was made for other dimensions.
    """
    structure = read_structure(model)
    plan.check_fits(structure.dense_dims())
    config = copy.deepcopy(model.config)
    config.nirvana = describe_pruning(structure, plan)
    with torch.random.fork_rng():  # building draws random weights, which the caller must not feel
        smaller = pruned_class(type(model))(config)
    smaller.load_state_dict(slice_state_dict(model, structure.wiring, plan))
    return smaller.to(dtype=model.dtype, device=model.device).train(model.training)


def describe_pruning(structure: Structure, plan: PruningPlan) -> dict[str, Any]:
    """Return what a checkpoint's config says of the pruning (see `modeling_pruned`).

    The kept indices stay in plan.json: a config with thousands of indices is read by nobody.
    """
    layers = [
        {
            "num_heads": None if layer.kept_heads is None else layer.num_kept_heads,
            "num_neurons": None if layer.kept_neurons is None else layer.num_kept_neurons,
        }
        for layer in plan.layers
    ]
    wiring = structure.wiring.to_json()
    return {"wiring": wiring, "head_dim": structure.head_dim, "layers": layers}


def slice_state_dict(
    model: PreTrainedModel, wiring: Wiring, plan: PruningPlan
) -> dict[str, torch.Tensor]:
    """Return the dense model's tensors with the rows and columns that the plan keeps."""
    state = dict(model.state_dict())
    names = {id(module): name for name, module in model.named_modules()}
    prefix = names[id(model.base_model.get_submodule(wiring.blocks))]
    for number, layer in enumerate(plan.layers):
        _slice_attention(state, f"{prefix}.{number}.", wiring, layer, plan.dims.head_dim)
        _slice_mlp(state, f"{prefix}.{number}.", wiring, layer)
    return state


def _slice_attention(
    state: dict[str, torch.Tensor], block: str, wiring: Wiring, layer: LayerPlan, head_dim: int
) -> None:
    output = block + wiring.attention_output
    if not layer.kept_heads:
        _drop(state, [block + name for name in wiring.qkv], output, layer.kept_heads is None)
        return
    rows = torch.tensor([h * head_dim + i for h in layer.kept_heads for i in range(head_dim)])
    for name in wiring.qkv:
        _select_rows(state, block + name, rows)
    state[f"{output}.weight"] = state[f"{output}.weight"][:, rows].clone()


def _slice_mlp(
    state: dict[str, torch.Tensor], block: str, wiring: Wiring, layer: LayerPlan
) -> None:
    output = block + wiring.mlp_output
    if not layer.kept_neurons:
        inputs = [block + name for name in wiring.mlp_inputs]
        _drop(state, inputs, output, layer.kept_neurons is None)
        return
    rows = torch.tensor(layer.kept_neurons)
    for name in wiring.mlp_inputs:
        _select_rows(state, block + name, rows)
    state[f"{output}.weight"] = state[f"{output}.weight"][:, rows].clone()


def _select_rows(state: dict[str, torch.Tensor], linear: str, rows: torch.Tensor) -> None:
    for name in _present(state, [f"{linear}.weight", f"{linear}.bias"]):
        state[name] = state[name][rows].clone()


def _drop(state: dict[str, torch.Tensor], entries: list[str], output: str, whole: bool) -> None:
    gone = [f"{linear}.{kind}" for linear in entries for kind in ("weight", "bias")]
    gone += [f"{output}.weight"] + ([f"{output}.bias"] if whole else [])
    for name in list(_present(state, gone)):
        del state[name]


def _present(state: dict[str, torch.Tensor], names: list[str]) -> Iterator[str]:
    return (name for name in names if name in state)
