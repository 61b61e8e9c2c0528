"""Owns every gate of a model: their state, their density, and what they say is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pruning.checkpoints.dense_source import read_dense
from pruning.errors import NirvanaError
from pruning.gates.prunable_head_attention import PrunableHeadAttention
from pruning.gates.prunable_mlp import PrunableMLP
from pruning.gates.straight_through import harden
from pruning.plans.cost import LinearCostModel, dense_cost, group_cost
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.plan import LayerPlan, kept_groups
from pruning.wirings.structure import find_stacks

ATTRIBUTE = "nirvana_gates"
DECIDED = 10.0  # logit of a frozen gate: sigmoid is within 5e-5 of 0 or 1


@dataclass(frozen=True, slots=True)
class LayerGates:
    """The gates of one layer; `cross_heads` where it has a cross-attention."""

    dims: StackDims
    heads: PrunableHeadAttention
    cross_heads: PrunableHeadAttention | None
    mlp: PrunableMLP

    @property
    def attentions(self) -> tuple[PrunableHeadAttention, ...]:
        """The gates of the self-attention, and of the cross-attention where there is one."""
        return (self.heads,) if self.cross_heads is None else (self.heads, self.cross_heads)


class GateRegistry(nn.Module):
    """All gates of a model, as logits: a gate is open where its logit is above 0.

    Attached, the registry is a submodule of the model, so the gates are saved, restored and moved
    with it. Gates: per KV group [num_kv_heads] of each attention, per neuron [intermediate_size] in
    each layer, and per MLP block [num_layers].
    """

    frozen: torch.Tensor
    multiplier: torch.Tensor

    def __init__(self, dims: DenseDims, cost: LinearCostModel) -> None:
        super().__init__()
        self.dims = dims
        self.cost = cost
        self.mlp_block_gate = nn.Parameter(torch.full((dims.num_layers,), DECIDED))
        self.attentions = nn.ModuleList(_make_head_gates(layer) for layer in dims.layers)
        self.cross_attentions = nn.ModuleDict(
            {
                str(number): _make_head_gates(layer)
                for number, layer in enumerate(dims.layers)
                if layer.cross_attention
            }
        )
        self.mlps = nn.ModuleList(
            PrunableMLP(layer.intermediate_size, partial(self._block_gate, number))
            for number, layer in enumerate(dims.layers)
        )
        self.register_buffer("frozen", torch.tensor(False))
        # Lambda 1 of the budget constraint: learned with the gates, so saved with them.
        self.register_buffer("multiplier", torch.tensor(0.0))
        self._handles: list[RemovableHandle] = []

    @classmethod
    def attach(cls, model: PreTrainedModel, cost: LinearCostModel) -> GateRegistry:
        """Put open gates into a dense model, in place, and return them.

        Raises:
            NirvanaError: the model cannot be pruned, or was pruned before.
        """
        source = read_dense(model)
        registry = cls(source.dims, cost).to(model.device)
        stacks = find_stacks(model, source.wiring)
        blocks = ((wiring, block) for wiring, blocks in stacks for block in blocks)
        for (wiring, block), gates in zip(blocks, registry.layer_gates(), strict=True):
            for attention, heads in zip(wiring.attentions, gates.attentions, strict=True):
                registry._handles += heads.attach(block.get_submodule(attention.output))
            registry._handles += gates.mlp.attach(block.get_submodule(wiring.mlp.output))
        model.add_module(ATTRIBUTE, registry)
        return registry

    def detach(self, model: PreTrainedModel) -> None:
        """Take the gates out of the model again, in place."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        delattr(model, ATTRIBUTE)

    def layer_gates(self) -> Iterator[LayerGates]:
        """Yield the gates of each layer: the encoder's layers, then the decoder's."""
        for number, dims in enumerate(self.dims.layers):
            heads, mlp = self.attentions[number], self.mlps[number]
            cross = self.cross_attentions[str(number)] if dims.cross_attention else None
            assert isinstance(heads, PrunableHeadAttention)
            assert isinstance(mlp, PrunableMLP)
            assert cross is None or isinstance(cross, PrunableHeadAttention)
            yield LayerGates(dims, heads, cross, mlp)

    def head_gates(self) -> Iterator[PrunableHeadAttention]:
        """Yield the head gates of every attention, layer by layer."""
        for gates in self.layer_gates():
            yield from gates.attentions

    def mlp_gates(self) -> Iterator[PrunableMLP]:
        """Yield the neuron gates, layer by layer."""
        for gates in self.layer_gates():
            yield gates.mlp

    def kept_density(self) -> torch.Tensor:
        """Return the kept fraction of the blocks' cost: hard forward, straight-through backward."""
        kept = torch.stack([_price_kept(g, self.cost) for g in self.layer_gates()]).sum()
        return kept / dense_cost(self.dims, self.cost)

    def head_gate_sum(self) -> torch.Tensor:
        """Return the sum of all head gates (sigmoid), the term that alpha weighs."""
        return torch.stack([torch.sigmoid(g.gate_H).sum() for g in self.head_gates()]).sum()

    def mlp_gate_sum(self) -> torch.Tensor:
        """Return the sum of all MLP gates, of blocks and neurons, the term that beta weighs."""
        neurons = torch.stack([torch.sigmoid(g.gate_N).sum() for g in self.mlp_gates()]).sum()
        return neurons + torch.sigmoid(self.mlp_block_gate).sum()

    def undecided_fraction(self) -> float:
        """Return the share of gates whose sigmoid lies between 0.1 and 0.9."""
        probabilities = torch.cat([torch.sigmoid(p.detach()).flatten() for p in self.parameters()])
        return float(((probabilities > 0.1) & (probabilities < 0.9)).float().mean())

    @torch.no_grad()
    def freeze(self, layers: Sequence[LayerPlan]) -> None:
        """Set every gate to what `layers` keep, for good, in place.

        Raises:
            NirvanaError: a layer keeps part of a KV group, or drops an attention or its block,
                which no gate can say.
        """
        all_gates = tuple(self.layer_gates())
        open_groups = [
            _find_open_groups(layer, gates, number)
            for number, (layer, gates) in enumerate(zip(layers, all_gates, strict=True))
        ]
        for number, (layer, gates) in enumerate(zip(layers, all_gates, strict=True)):
            for heads, groups in zip(gates.attentions, open_groups[number], strict=True):
                _decide(heads.gate_H, groups)
            _decide(gates.mlp.gate_N, layer.kept_neurons or ())
            self.mlp_block_gate[number] = DECIDED if layer.kept_neurons is not None else -DECIDED
        self.frozen.fill_(True)

    def kept_layers(self) -> tuple[LayerPlan, ...]:
        """Return what the hard gates keep now."""
        blocks = (harden(self.mlp_block_gate) > 0).tolist()
        return tuple(
            LayerPlan(
                kept_heads=list_heads(_open_units(g.heads.mask()), g.dims),
                kept_neurons=_open_units(g.mlp.mask()) if block else None,
                kept_cross_heads=None
                if g.cross_heads is None
                else list_heads(_open_units(g.cross_heads.mask()), g.dims),
            )
            for g, block in zip(self.layer_gates(), blocks, strict=True)
        )

    def _block_gate(self, layer: int) -> torch.Tensor:
        return self.mlp_block_gate[layer]


def list_heads(groups: Sequence[int], dims: StackDims) -> tuple[int, ...]:
    """Return the query heads of whole KV groups, in the order of `groups`."""
    size = dims.heads_per_group
    return tuple(group * size + i for group in groups for i in range(size))


def _make_head_gates(dims: StackDims) -> PrunableHeadAttention:
    return PrunableHeadAttention(dims.num_kv_heads, dims.heads_per_group * dims.head_dim)


def _price_kept(gates: LayerGates, cost: LinearCostModel) -> torch.Tensor:
    """Return the cost of what is open in a layer."""
    dims, mlp = gates.dims, gates.mlp
    neurons = mlp.mask().sum() * cost.neuron_cost(dims) + cost.mlp_bias_cost(dims)
    total = cost.block_cost(dims) + mlp.block_mask() * neurons
    for mask_H in (heads.mask() for heads in gates.attentions):
        any_open = 1 - (1 - mask_H).prod()
        total = total + mask_H.sum() * group_cost(dims, cost) + cost.attention_bias_cost(dims)
        total = total + any_open * cost.attention_rest_cost(dims)
    return total


def _find_open_groups(layer: LayerPlan, gates: LayerGates, number: int) -> list[tuple[int, ...]]:
    """Return the KV groups that each attention of a layer keeps, which must be whole."""
    found, dims = [], gates.dims
    for heads, _ in zip((layer.kept_heads, layer.kept_cross_heads), gates.attentions, strict=False):
        if heads is None:
            raise NirvanaError(
                f"Layer {number}: no gate can drop an attention or a whole block. Apply the plan "
                "by `repack`."
            )
        groups = kept_groups(heads, dims)
        if heads != list_heads(groups, dims):
            raise NirvanaError(
                f"Layer {number}: gates keep whole KV groups of {dims.heads_per_group} query heads,"
                f" got the heads {list(heads)}. Apply the plan by `repack`."
            )
        found.append(groups)
    return found


def _decide(gate: torch.Tensor, kept: Sequence[int]) -> None:
    gate.fill_(-DECIDED)
    gate[list(kept)] = DECIDED


def _open_units(mask: torch.Tensor) -> tuple[int, ...]:
    return tuple(mask.detach().nonzero().flatten().tolist())
