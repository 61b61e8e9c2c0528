"""Owns every gate of a model: their state, their density, and what they say is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pruning.cost import CostModel, dense_cost
from pruning.plan import DenseDims, LayerPlan
from pruning.prunable_head_attention import PrunableHeadAttention
from pruning.prunable_mlp import PrunableMLP
from pruning.straight_through import harden
from pruning.structure import find_blocks, read_structure
from pruning.wiring import find_wiring

ATTRIBUTE = "nirvana_gates"
DECIDED = 10.0  # logit of a frozen gate: sigmoid is within 5e-5 of 0 or 1


class GateRegistry(nn.Module):
    """All gates of a model, as logits: a gate is open where its logit is above 0.

    Attached, the registry is a submodule of the model, so the gates are saved, restored and moved
    with it. Gates: per head [num_heads] and per neuron [intermediate_size] in each layer, and per
    MLP block [num_blocks].
    """

    frozen: torch.Tensor
    multiplier: torch.Tensor

    def __init__(self, dims: DenseDims, cost: CostModel) -> None:
        super().__init__()
        self.dims = dims
        self.cost = cost
        self.mlp_block_gate = nn.Parameter(torch.full((dims.num_layers,), DECIDED))
        self.attentions = nn.ModuleList(
            PrunableHeadAttention(dims.num_heads, dims.head_dim) for _ in range(dims.num_layers)
        )
        self.mlps = nn.ModuleList(
            PrunableMLP(dims.intermediate_size, partial(self._block_gate, layer))
            for layer in range(dims.num_layers)
        )
        self.register_buffer("frozen", torch.tensor(False))
        # Lambda 1 of the budget constraint: learned with the gates, so saved with them.
        self.register_buffer("multiplier", torch.tensor(0.0))
        self._handles: list[RemovableHandle] = []

    @classmethod
    def attach(cls, model: PreTrainedModel, cost: CostModel) -> GateRegistry:
        """Put open gates into a dense model, in place, and return them."""
        registry = cls(read_structure(model).dense_dims(), cost).to(model.device)
        wiring = find_wiring(model.config.model_type)
        for block, attention, mlp in zip(
            find_blocks(model, wiring), registry.head_gates(), registry.mlp_gates(), strict=True
        ):
            registry._handles += attention.attach(block.get_submodule(wiring.attention_output))
            registry._handles += mlp.attach(block.get_submodule(wiring.mlp_output))
        model.add_module(ATTRIBUTE, registry)
        return registry

    def detach(self, model: PreTrainedModel) -> None:
        """Take the gates out of the model again, in place."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        delattr(model, ATTRIBUTE)

    def head_gates(self) -> Iterator[PrunableHeadAttention]:
        """Yield the head gates, layer by layer."""
        for module in self.attentions:
            assert isinstance(module, PrunableHeadAttention)
            yield module

    def mlp_gates(self) -> Iterator[PrunableMLP]:
        """Yield the neuron gates, layer by layer."""
        for module in self.mlps:
            assert isinstance(module, PrunableMLP)
            yield module

    def kept_density(self) -> torch.Tensor:
        """Return the kept fraction of the blocks' cost: hard forward, straight-through backward."""
        dims, cost = self.dims, self.cost
        heads = torch.stack([gates.mask().sum() for gates in self.head_gates()]).sum()
        neuron_cost, bias_cost = cost.neuron_cost(dims), cost.mlp_bias_cost(dims)
        mlps = torch.stack(
            [g.block_mask() * (g.mask().sum() * neuron_cost + bias_cost) for g in self.mlp_gates()]
        ).sum()
        constant = dims.num_layers * (cost.fixed_cost(dims) + cost.attention_bias_cost(dims))
        total = heads * cost.head_cost(dims) + mlps + constant
        return total / dense_cost(dims, cost)

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
        """Set every gate to what `layers` keep, for good, in place."""
        for number, (layer, heads, mlp) in enumerate(
            zip(layers, self.head_gates(), self.mlp_gates(), strict=True)
        ):
            _decide(heads.gate_H, layer.kept_heads or ())
            _decide(mlp.gate_N, layer.kept_neurons or ())
            self.mlp_block_gate[number] = DECIDED if layer.kept_neurons is not None else -DECIDED
        self.frozen.fill_(True)

    def kept_layers(self) -> tuple[LayerPlan, ...]:
        """Return what the hard gates keep now."""
        blocks = (harden(self.mlp_block_gate) > 0).tolist()
        return tuple(
            LayerPlan(
                kept_heads=_open_units(heads.mask()),
                kept_neurons=_open_units(mlp.mask()) if block else None,
            )
            for heads, mlp, block in zip(self.head_gates(), self.mlp_gates(), blocks, strict=True)
        )

    def _block_gate(self, layer: int) -> torch.Tensor:
        return self.mlp_block_gate[layer]


def _decide(gate: torch.Tensor, kept: Sequence[int]) -> None:
    gate.fill_(-DECIDED)
    gate[list(kept)] = DECIDED


def _open_units(mask: torch.Tensor) -> tuple[int, ...]:
    return tuple(mask.detach().nonzero().flatten().tolist())
