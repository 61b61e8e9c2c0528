"""Turns gate logits into a plan that meets the budget exactly, within one unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pruning.cost import CostModel, dense_cost
from pruning.errors import NirvanaError
from pruning.gate_registry import GateRegistry
from pruning.plan import DenseDims, LayerPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What every layer keeps at least, and in what steps neurons are cut.

    Attributes:
        min_heads: the best of an emptied layer are spared.
        neuron_multiple: kept neurons are a multiple of this (the remainder of a layer's width
            counts as one more step).
    """

    min_heads: int = 1
    neuron_multiple: int = 8


@dataclass(frozen=True, slots=True)
class _Choice:
    """A head, or a group of neurons, that can still be kept."""

    score: float
    layer: int
    is_head: bool
    indices: tuple[int, ...]


def project(registry: GateRegistry, budget: float, limits: Limits) -> tuple[LayerPlan, ...]:
    """Return the layers to keep: best logits first, as many as the budget takes.

    An MLP block whose own gate is shut stays dropped, unless all that is open leaves room for it.

    Raises:
        NirvanaError: the budget is below what `limits` force; the message has the least reachable.
    """
    check_reachable(registry.dims, registry.cost, budget, limits)
    shut = _list_shut_blocks(registry)
    while True:
        kept, left = _fill(registry, budget, limits, shut)
        if not shut or left < _price_block(registry, limits):
            break
        shut = shut[1:]
    layers = range(registry.dims.num_layers)
    return tuple(_read_layer(kept, layer, layer in shut) for layer in layers)


def check_reachable(dims: DenseDims, cost: CostModel, budget: float, limits: Limits) -> None:
    """Raise NirvanaError when `limits` force more than the budget; the message has the least."""
    heads = limits.min_heads * cost.head_cost(dims)
    neurons = limits.neuron_multiple * cost.neuron_cost(dims)
    least = dims.num_layers * (heads + neurons) + _constant_cost(dims, cost, num_dropped=0)
    dense = dense_cost(dims, cost)
    if least > _allowed_cost(dims, cost, budget):
        raise NirvanaError(
            f"A budget of {budget} cannot be reached: each layer keeps at least {limits.min_heads} "
            f"head(s) and {limits.neuron_multiple} neurons, which is {least / dense:.4f} of the "
            f"blocks' {cost.name}. Raise the budget."
        )


def _fill(
    registry: GateRegistry, budget: float, limits: Limits, shut: Sequence[int]
) -> tuple[list[_Choice], int]:
    """Return what to keep while the blocks in `shut` stay dropped, and the cost that is left."""
    dims, cost = registry.dims, registry.cost
    kept, optional = _split_choices(registry, limits, shut)
    left = _allowed_cost(dims, cost, budget) - _constant_cost(dims, cost, num_dropped=len(shut))
    left -= sum(_price(choice, dims, cost) for choice in kept)
    for choice in sorted(optional, key=lambda c: -c.score):
        price = _price(choice, dims, cost)
        if price <= left:
            kept.append(choice)
            left -= price
    return kept, left


def _allowed_cost(dims: DenseDims, cost: CostModel, budget: float) -> int:
    return int(budget * dense_cost(dims, cost) + 1e-6)


def _list_shut_blocks(registry: GateRegistry) -> list[int]:
    """Return the layers whose MLP block gate is shut, the one to reopen first at the front."""
    logits = registry.mlp_block_gate.detach().tolist()
    return sorted((i for i, logit in enumerate(logits) if logit <= 0), key=lambda i: -logits[i])


def _price_block(registry: GateRegistry, limits: Limits) -> int:
    """Return the least that an MLP block costs."""
    neurons = limits.neuron_multiple * registry.cost.neuron_cost(registry.dims)
    return neurons + registry.cost.mlp_bias_cost(registry.dims)


def _split_choices(
    registry: GateRegistry, limits: Limits, shut: Sequence[int]
) -> tuple[list[_Choice], list[_Choice]]:
    """Return the choices that `limits` force, and the others."""
    forced: list[_Choice] = []
    optional: list[_Choice] = []
    for layer, (heads, mlp) in enumerate(
        zip(registry.head_gates(), registry.mlp_gates(), strict=True)
    ):
        head_choices = list(_group(heads.gate_H, layer, True, 1))
        neuron_choices = list(_group(mlp.gate_N, layer, False, limits.neuron_multiple))
        if layer in shut:
            neuron_choices = []
        forced += head_choices[: limits.min_heads] + neuron_choices[:1]
        optional += head_choices[limits.min_heads :] + neuron_choices[1:]
    return forced, optional


def _group(gate: torch.Tensor, layer: int, is_head: bool, size: int) -> Iterator[_Choice]:
    """Yield the units of one layer, best first, in groups of `size`."""
    order = gate.detach().argsort(descending=True)
    for part in order.split(size):
        score = float(gate.detach()[part].mean())
        yield _Choice(score, layer, is_head, tuple(part.tolist()))


def _price(choice: _Choice, dims: DenseDims, cost: CostModel) -> int:
    unit = cost.head_cost(dims) if choice.is_head else cost.neuron_cost(dims)
    return unit * len(choice.indices)


def _constant_cost(dims: DenseDims, cost: CostModel, *, num_dropped: int) -> int:
    always = dims.num_layers * (cost.fixed_cost(dims) + cost.attention_bias_cost(dims))
    return always + (dims.num_layers - num_dropped) * cost.mlp_bias_cost(dims)


def _read_layer(kept: Sequence[_Choice], layer: int, mlp_dropped: bool) -> LayerPlan:
    def indices(is_head: bool) -> tuple[int, ...]:
        mine = (c.indices for c in kept if c.layer == layer and c.is_head is is_head)
        return tuple(sorted(index for group in mine for index in group))

    return LayerPlan(kept_heads=indices(True), kept_neurons=None if mlp_dropped else indices(False))
