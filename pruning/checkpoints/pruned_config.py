"""Configs of pruned models: the stock one with smaller numbers where it can express the plan."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PretrainedConfig

from pruning.checkpoints.prunable_model import PrunableModel
from pruning.cutting.tensor_cutter import TensorCutter
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import StackDims
from pruning.plans.plan import LayerPlan, PruningPlan, kept_groups
from pruning.wirings.wiring import StackWiring

# Lists in a config with one entry a layer.
_PER_LAYER = ("layer_types", "no_rope_layers", "mlp_layer_types")


def make_config(source: PrunableModel, plan: PruningPlan) -> Any:
    """Return the config of a model whose layers differ (see `modeling_pruned`).

    Raises:
        NirvanaError: the plan drops a block that this type cannot do without.
    """
    config = _drop_blocks(source, plan)
    if source.is_plain:
        for stack, dims in zip(source.wiring.stacks, source.dims.stacks, strict=True):
            _set_counts(
                config, stack, dims, (dims.num_heads, dims.num_kv_heads, dims.intermediate_size)
            )
    config.nirvana = {
        "wiring": source.wiring.to_json(),
        "stacks": [
            {
                "num_heads": dims.num_heads,
                "head_dim": dims.head_dim,
                "layers": [
                    _describe_layer(stack, dims, layer) for layer in layers if not layer.dropped
                ],
            }
            for stack, (dims, layers) in zip(source.wiring.stacks, plan.stacks(), strict=True)
        ],
    }
    return config


def make_plain_config(
    source: PrunableModel, plan: PruningPlan, shapes: dict[str, tuple[int, ...]]
) -> Any | None:
    """Return the stock class's config for a plan that is the same in each layer, else None.

    None also where that config cannot say it: BERT's, for one, ties the width of a head to the
    number of heads. That is found out by building the stock class (without weights) and comparing
    every shape with what the plan leaves of `shapes`, the source's.
    """
    config = _drop_blocks(source, plan)
    for name in ("nirvana", "auto_map"):  # of a pruned source, or of a hub's own code
        config.__dict__.pop(name, None)
    counts: dict[str, int] = {}
    for stack, (dims, layers) in zip(source.wiring.stacks, plan.stacks(), strict=True):
        left = [layer for layer in layers if not layer.dropped]
        sizes = {_count_units(layer, dims) for layer in left}
        same_heads = len({layer.kept_heads for layer in left}) == 1
        fewer = any(layer.num_kept_heads < dims.num_heads for layer in left)
        if len(sizes) > 1 or None in sizes:
            return None
        if fewer and (stack.attention.per_head_inputs or not stack.config.head_dim):
            return None
        if stack.attention.shared_bias and not same_heads:
            return None
        size = sizes.pop()
        assert size is not None
        if any(counts.setdefault(name, n) != n for name, n in _name_counts(stack, size)):
            return None
        _set_counts(config, stack, dims, size)
    try:
        with torch.device("meta"):
            stock = source.stock_class(copy.deepcopy(config))
    except Exception:  # whatever its own checks raise: this config cannot say it
        return None
    cutter = TensorCutter(
        source.prefix, source.wiring, plan, source.current, (source.is_plain, True)
    )
    fates = {name: cutter.follow(name) for name in shapes}
    expected = {f.name: f.resize(shapes[name]) for name, f in fates.items() if f is not None}
    built = {n: tuple(t.shape) for n, t in stock.state_dict().items() if cutter.is_in_block(n)}
    return config if all(expected.get(name) == shape for name, shape in built.items()) else None


def _drop_blocks(source: PrunableModel, plan: PruningPlan) -> Any:
    """Return a copy of the source's config with fewer layers."""
    _check_depths(source, plan)
    config = copy.deepcopy(source.config)
    pairs = zip(plan.stacks(), source.current.stacks(), strict=True)
    for stack, ((_, new), (_, old)) in zip(source.wiring.stacks, pairs, strict=True):
        left = [layer.dropped for layer, before in zip(new, old, strict=True) if not before.dropped]
        _check_droppable(config, stack, [layer.dropped for layer in new])
        if any(left):
            keep_layers(config, stack, [not gone for gone in left])
    return config


def keep_layers(config: PretrainedConfig, stack: StackWiring, kept: list[bool]) -> None:
    """Leave only the layers of `stack` that are `kept` in a config, in place."""
    setattr(config, stack.config.num_layers, kept.count(True))
    for name in _PER_LAYER:
        values = getattr(config, name, None)
        if isinstance(values, list) and len(values) == len(kept):
            setattr(config, name, [v for v, stays in zip(values, kept, strict=True) if stays])


def _check_depths(source: PrunableModel, plan: PruningPlan) -> None:
    depths = [[not layer.dropped for layer in layers].count(True) for _, layers in plan.stacks()]
    before = [dims.num_layers for dims in source.dims.stacks]
    for number, stack in enumerate(source.wiring.stacks[:-1]):
        was_shorter = before[number] < before[number + 1]
        if stack.not_shorter and depths[number] < depths[number + 1] and not was_shorter:
            raise NirvanaError(
                f"The plan leaves {depths[number]} blocks in the {stack.name} and "
                f"{depths[number + 1]} in the {source.wiring.stacks[number + 1].name}, which would "
                f"no longer generate: {stack.not_shorter}. Drop as many blocks in both, or more in "
                "the latter."
            )


def _check_droppable(config: PretrainedConfig, stack: StackWiring, dropped: list[bool]) -> None:
    if dropped[0] and stack.keep_first:
        raise NirvanaError(
            f"The first block of the {stack.name} cannot be dropped: {stack.keep_first}."
        )
    if any(dropped) and stack.numbered_if and getattr(config, stack.numbered_if, False):
        raise NirvanaError(
            f"No block can be dropped: with {stack.numbered_if}, a block computes by its number."
        )


def _describe_layer(stack: StackWiring, dims: StackDims, layer: LayerPlan) -> dict[str, object]:
    described: dict[str, object] = {
        "num_heads": _count(layer.kept_heads),
        "num_kv_heads": len(kept_groups(layer.kept_heads or (), dims)),
        "num_neurons": _count(layer.kept_neurons),
    }
    if stack.cross_attention is not None:
        described["num_cross_heads"] = _count(layer.kept_cross_heads)
        described["num_cross_kv_heads"] = len(kept_groups(layer.kept_cross_heads or (), dims))
    if stack.attention.shared_bias or stack.attention.per_head_inputs:
        described["kept_heads"] = list(layer.kept_heads or ())
    return described


def _count(kept: tuple[int, ...] | None) -> int | None:
    return None if kept is None else len(kept)


def _count_units(layer: LayerPlan, dims: StackDims) -> tuple[int, int, int] | None:
    """Return (heads, KV heads, neurons); None where a part is empty or the attentions differ."""
    heads, neurons = layer.kept_heads or (), layer.num_kept_neurons
    cross = layer.kept_cross_heads or ()
    groups = len(kept_groups(heads, dims))
    if not heads or not neurons:
        return None
    if dims.cross_attention and (len(cross), len(kept_groups(cross, dims))) != (len(heads), groups):
        return None
    return len(heads), groups, neurons


def _name_counts(stack: StackWiring, size: tuple[int, int, int]) -> list[tuple[str, int]]:
    names = (stack.config.heads, stack.config.kv_heads, stack.config.neurons)
    return [(name, n) for name, n in zip(names, size, strict=True) if name]


def _set_counts(
    config: PretrainedConfig, stack: StackWiring, dims: StackDims, size: tuple[int, int, int]
) -> None:
    for name, n in _name_counts(stack, size):
        if getattr(config, name, None) != n:
            setattr(config, name, n)
    if size[0] != dims.num_heads:
        setattr(config, stack.config.head_dim, dims.head_dim)
