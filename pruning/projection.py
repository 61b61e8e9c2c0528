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

    MLP blocks whose own gate is shut stay dropped.

    Raises:
        NirvanaError: the budget is below what `limits` force; the message has the least reachable.
    """
    dims, cost = registry.dims, registry.cost
    allowed = int(budget * dense_cost(dims, cost) + 1e-6)
    forced, optional = _split_choices(registry, limits)
    dropped = (registry.mlp_block_gate.detach() <= 0).tolist()
    spent = _constant_cost(dims, cost, dropped) + sum(_price(c, dims, cost) for c in forced)
    if spent > allowed:
        raise NirvanaError(
            f"A budget of {budget} cannot be reached: each layer keeps at least {limits.min_heads} "
            f"heads and {limits.neuron_multiple} neurons, which is "
            f"{spent / dense_cost(dims, cost):.4f} of the blocks' {cost.name}. Raise the budget."
        )
    kept = list(forced)
    for choice in sorted(optional, key=lambda c: -c.score):
        price = _price(choice, dims, cost)
        if spent + price <= allowed:
            kept.append(choice)
            spent += price
    return tuple(_read_layer(kept, layer, dropped[layer]) for layer in range(dims.num_layers))


def _split_choices(registry: GateRegistry, limits: Limits) -> tuple[list[_Choice], list[_Choice]]:
    forced: list[_Choice] = []
    optional: list[_Choice] = []
    shut = (registry.mlp_block_gate.detach() <= 0).tolist()
    for layer, (heads, mlp) in enumerate(
        zip(registry.head_gates(), registry.mlp_gates(), strict=True)
    ):
        head_choices = list(_group(heads.gate_H, layer, True, 1))
        neuron_choices = list(_group(mlp.gate_N, layer, False, limits.neuron_multiple))
        if shut[layer]:
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


def _constant_cost(dims: DenseDims, cost: CostModel, dropped: Sequence[bool]) -> int:
    always = dims.num_layers * (cost.fixed_cost(dims) + cost.attention_bias_cost(dims))
    return always + sum(not d for d in dropped) * cost.mlp_bias_cost(dims)


def _read_layer(kept: Sequence[_Choice], layer: int, mlp_dropped: bool) -> LayerPlan:
    def indices(is_head: bool) -> tuple[int, ...]:
        mine = (c.indices for c in kept if c.layer == layer and c.is_head is is_head)
        return tuple(sorted(index for group in mine for index in group))

    return LayerPlan(kept_heads=indices(True), kept_neurons=None if mlp_dropped else indices(False))
