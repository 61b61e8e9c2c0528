"""Turns gate logits into a plan that meets the budget exactly, within one unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from pruning.errors import NirvanaError
from pruning.gates.gate_registry import GateRegistry, LayerGates, list_heads
from pruning.plans.cost import LinearCostModel, dense_cost, group_cost
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.plan import LayerPlan
from pruning.training.baseline_config import require_positive

Part = Literal["heads", "cross_heads", "neurons"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What every layer keeps at least, and in what steps neurons are cut.

    Attributes:
        min_groups: KV groups, each with all its query heads: the best of an emptied attention are
            spared.
        neuron_multiple: kept neurons are a multiple of this (the remainder of a layer's width
            counts as one more step).
    """

    min_groups: int = 1
    neuron_multiple: int = 8

    def __post_init__(self) -> None:
        require_positive(self, "min_groups", "neuron_multiple")


@dataclass(frozen=True, slots=True)
class _Choice:
    """A KV group of heads, or some neurons, that can still be kept."""

    score: float
    price: int
    layer: int
    part: Part
    indices: tuple[int, ...]


def project(registry: GateRegistry, budget: float, limits: Limits) -> tuple[LayerPlan, ...]:
    """Return the layers to keep: best logits of all layers first, as many as the budget takes.

    An MLP block whose own gate is shut stays dropped, unless all that is open leaves room for it.

    Raises:
        NirvanaError: the budget is below what `limits` force; the message has the least reachable.
    """
    check_reachable(registry.dims, registry.cost, budget, limits)
    shut = _list_shut_blocks(registry)
    while True:
        kept, left = _fill(registry, budget, limits, shut)
        reopened = next((i for i in shut if _price_block(registry, limits, i) <= left), None)
        if reopened is None:
            break
        shut.remove(reopened)
    return tuple(
        _read_layer(kept, number, dims, number in shut)
        for number, dims in enumerate(registry.dims.layers)
    )


def check_reachable(dims: DenseDims, cost: LinearCostModel, budget: float, limits: Limits) -> None:
    """Raise NirvanaError when `limits` force more than the budget; the message has the least."""
    least = _constant_cost(dims, cost) + sum(
        _least_heads(layer, limits) * group_cost(layer, cost) * _count_attentions(layer)
        + min(limits.neuron_multiple, layer.intermediate_size) * cost.neuron_cost(layer)
        + cost.mlp_bias_cost(layer)
        for layer in dims.layers
    )
    if least > _allowed_cost(dims, cost, budget):
        raise NirvanaError(
            f"A budget of {budget} cannot be reached: each attention keeps at least "
            f"{limits.min_groups} head(s), or KV group(s) of heads, and each MLP "
            f"{limits.neuron_multiple} neurons, which is {least / dense_cost(dims, cost):.4f} of "
            f"the blocks' {cost.name}. Raise the budget."
        )


def _fill(
    registry: GateRegistry, budget: float, limits: Limits, shut: Sequence[int]
) -> tuple[list[_Choice], int]:
    """Return what to keep while the blocks in `shut` stay dropped, and the cost that is left."""
    dims, cost = registry.dims, registry.cost
    kept, optional = _split_choices(registry, limits, shut)
    left = _allowed_cost(dims, cost, budget) - _constant_cost(dims, cost)
    left -= sum(cost.mlp_bias_cost(d) for i, d in enumerate(dims.layers) if i not in shut)
    left -= sum(choice.price for choice in kept)
    for choice in sorted(optional, key=lambda c: -c.score):
        if choice.price <= left:
            kept.append(choice)
            left -= choice.price
    return kept, left


def _allowed_cost(dims: DenseDims, cost: LinearCostModel, budget: float) -> int:
    return int(budget * dense_cost(dims, cost) + 1e-6)


def _constant_cost(dims: DenseDims, cost: LinearCostModel) -> int:
    """Return what the blocks cost besides heads and MLPs; each attention keeps some head."""
    return sum(
        cost.block_cost(layer)
        + (cost.attention_bias_cost(layer) + cost.attention_rest_cost(layer))
        * _count_attentions(layer)
        for layer in dims.layers
    )


def _count_attentions(dims: StackDims) -> int:
    return 2 if dims.cross_attention else 1


def _least_heads(dims: StackDims, limits: Limits) -> int:
    return min(limits.min_groups, dims.num_kv_heads)


def _list_shut_blocks(registry: GateRegistry) -> list[int]:
    """Return the layers whose MLP block gate is shut, the one to reopen first at the front."""
    logits = registry.mlp_block_gate.detach().tolist()
    return sorted((i for i, logit in enumerate(logits) if logit <= 0), key=lambda i: -logits[i])


def _price_block(registry: GateRegistry, limits: Limits, number: int) -> int:
    """Return the least that an MLP block costs."""
    dims, cost = registry.dims.layers[number], registry.cost
    num_neurons = min(limits.neuron_multiple, dims.intermediate_size)
    return num_neurons * cost.neuron_cost(dims) + cost.mlp_bias_cost(dims)


def _split_choices(
    registry: GateRegistry, limits: Limits, shut: Sequence[int]
) -> tuple[list[_Choice], list[_Choice]]:
    """Return the choices that `limits` force, and the others."""
    forced: list[_Choice] = []
    optional: list[_Choice] = []
    for number, gates in enumerate(registry.layer_gates()):
        for choices, num_forced in _list_choices(gates, number, registry.cost, limits):
            if choices[0].part == "neurons" and number in shut:
                continue
            forced += choices[:num_forced]
            optional += choices[num_forced:]
    return forced, optional


def _list_choices(
    gates: LayerGates, number: int, cost: LinearCostModel, limits: Limits
) -> Iterator[tuple[list[_Choice], int]]:
    """Yield the choices of each part of a layer, best first, and how many of them are forced."""
    dims = gates.dims
    group, neuron = group_cost(dims, cost), cost.neuron_cost(dims)
    heads = _rank(gates.heads.gate_H, number, "heads", group)
    yield list(heads), limits.min_groups
    if gates.cross_heads is not None:
        cross = _rank(gates.cross_heads.gate_H, number, "cross_heads", group)
        yield list(cross), limits.min_groups
    neurons = _rank(gates.mlp.gate_N, number, "neurons", neuron, limits.neuron_multiple)
    yield list(neurons), 1


def _rank(
    gate: torch.Tensor, layer: int, part: Part, unit_cost: int, size: int = 1
) -> Iterator[_Choice]:
    """Yield the units of one gate, best first, in groups of `size`."""
    order = gate.detach().argsort(descending=True)
    for units in order.split(size):
        score = float(gate.detach()[units].mean())
        yield _Choice(score, unit_cost * len(units), layer, part, tuple(units.tolist()))


def _read_layer(
    kept: Sequence[_Choice], number: int, dims: StackDims, mlp_dropped: bool
) -> LayerPlan:
    def indices(part: Part) -> tuple[int, ...]:
        mine = (c.indices for c in kept if c.layer == number and c.part == part)
        return tuple(sorted(index for units in mine for index in units))

    return LayerPlan(
        kept_heads=list_heads(indices("heads"), dims),
        kept_neurons=None if mlp_dropped else indices("neurons"),
        kept_cross_heads=list_heads(indices("cross_heads"), dims) if dims.cross_attention else None,
    )
