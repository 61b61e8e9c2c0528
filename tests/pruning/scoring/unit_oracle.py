"""Which weights go with a unit, found out by removing it, and a model with its weights scaled."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.func import functional_call
from transformers import PreTrainedModel

from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.plans.sub_block import SubBlock, count_units, list_sub_blocks, make_layer

# Every way in which projections are laid out: separate, Conv1D, grouped, fused, shared, gated.
FAMILIES = (
    "bert",
    "deberta-v2",
    "deberta-v2-own-position-keys",
    "modernbert",
    "llama",
    "phi3",
    "gpt2",
    "gpt_neox",
    "falcon-grouped",
    "t5-gated",
    "bart",
)

Marks = dict[str, torch.Tensor]


def some_units(model: PreTrainedModel) -> list[tuple[SubBlock, int]]:
    """The second and the last unit of each sub-block of one layer of each stack."""
    dims = read_model(model).dims
    layers = (1, dims.num_layers - 1) if len(dims.stacks) > 1 else (1,)
    return [
        (sub_block, unit)
        for sub_block in list_sub_blocks(dims)
        if sub_block.layer in layers
        for unit in (1, count_units(sub_block, dims) - 1)
    ]


def plan_without(model: PreTrainedModel, sub_block: SubBlock, unit: int) -> PruningPlan:
    dims = read_model(model).dims
    layers = [LayerPlan.dense(stack) for stack in dims.layers]
    kept = {
        s.part: [u for u in range(count_units(s, dims)) if (s, u) != (sub_block, unit)]
        for s in list_sub_blocks(dims)
        if s.layer == sub_block.layer
    }
    layers[sub_block.layer] = make_layer(dims.layers[sub_block.layer], **kept)
    return plan_for(model, layers)


def mark_unit(model: PreTrainedModel, sub_block: SubBlock, unit: int) -> Marks:
    """1 at every entry of a weight that is gone when a unit is removed, by the weight's name."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.data = torch.arange(weight.numel()).view_as(weight).float()
    after = repack(model, plan_without(model, sub_block, unit)).state_dict()
    for name, weight in model.named_parameters():
        weight.data = before[name]
    marks = {}
    for name, weight in before.items():
        if not name.endswith(".bias") and after[name].shape != weight.shape:
            gone = torch.ones(weight.numel())
            gone[after[name].long().flatten()] = 0
            marks[name] = gone.view_as(weight)
    return marks


def loss_with_scale(
    model: PreTrainedModel, marks: Mapping[str, torch.Tensor], scale: torch.Tensor, **batch
) -> torch.Tensor:
    """The loss when all weights of a unit are multiplied by `scale`."""
    weights = {
        name: weight.detach() * (1 + (scale - 1) * marks[name])
        for name, weight in model.named_parameters()
        if name in marks
    }
    return functional_call(model, weights, kwargs={**batch, "use_cache": False}).loss
