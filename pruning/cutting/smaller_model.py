"""Builds the smaller model of a plan, in memory, from a model that was read."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from pruning.checkpoints.checkpoint_files import keep_files
from pruning.checkpoints.model_fingerprint import list_fingerprints
from pruning.checkpoints.modeling_pruned import pruned_class
from pruning.checkpoints.prunable_model import PrunableModel
from pruning.checkpoints.pruned_config import make_config, make_plain_config
from pruning.cutting.tensor_cutter import TensorCutter
from pruning.plans.plan import PruningPlan
from pruning.plans.plan_composition import check_within


def make_smaller(
    model: PreTrainedModel, source: PrunableModel, plan: PruningPlan
) -> PreTrainedModel:
    """Return the smaller model; see `pruning.cutting.repack.repack`, which reads the model first.

    Raises:
        NirvanaError: the plan was made for other dimensions, or keeps what is gone already.
    """
    plan = replace(plan, weights=plan.weights or list_fingerprints(model, source))
    plan.dims.check_same(source.current.dims)
    check_within(plan, source.current)
    return _build(model, source, plan)


def _build(model: PreTrainedModel, source: PrunableModel, plan: PruningPlan) -> PreTrainedModel:
    state = dict(model.state_dict())
    config = make_plain_config(source, plan, {n: tuple(t.shape) for n, t in state.items()})
    is_plain = config is not None
    cutter = TensorCutter(
        source.prefix, source.wiring, plan, source.current, (source.is_plain, is_plain)
    )
    smaller_class = source.stock_class if is_plain else pruned_class(source.stock_class)
    with torch.random.fork_rng():  # building draws random weights, which the caller must not feel
        smaller = smaller_class(config or make_config(source, plan))
    cut = cut_state(state, cutter)
    _take_types(smaller, {**dict(model.named_buffers()), **cut})
    smaller.load_state_dict(cut)
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        smaller.generation_config = copy.deepcopy(generation)
    keep_files(smaller, plan)
    placed: PreTrainedModel = smaller.to(device=model.device).train(model.training)
    return placed


def _take_types(smaller: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give each tensor of `smaller` the type that its source has, in place.

    Models mix them: T5 in float16 keeps some weights in float32, and rotary frequencies, which are
    in no state dict, stay in float32 while the weights are in bfloat16.
    """
    for name, tensor in (*smaller.named_parameters(), *smaller.named_buffers()):
        if name in tensors:
            tensor.data = tensor.data.to(tensors[name].dtype)


def cut_state(state: dict[str, torch.Tensor], cutter: TensorCutter) -> dict[str, torch.Tensor]:
    """Return the tensors that stay, under their new names."""
    fates = {name: cutter.follow(name) for name in state}
    return {fate.name: fate.apply(state[name]) for name, fate in fates.items() if fate is not None}
