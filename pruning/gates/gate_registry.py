"""Owns every gate of a model: their state, their density, and what they say is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pruning.cutting.repack import read_dense
from pruning.errors import NirvanaError
from pruning.gates.expected_cost import PriceList
from pruning.gates.gate_function import (
    GateFunction,
    HardConcreteFunction,
    SoftSigmoidFunction,
    StraightThroughFunction,
)
from pruning.gates.gate_kinds import (
    GateKind,
    GateUnits,
    HardConcrete,
    SoftSigmoid,
    StraightThrough,
)
from pruning.gates.gate_tensor import GateTensor, any_open
from pruning.gates.gated_projection import PrunableHeadAttention, PrunableMLP, fold_scales
from pruning.gates.query_heads import keep_heads
from pruning.plans.cost import CostModel, LinearCostModel, dense_cost, group_cost, is_linear
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import (
    Part,
    SubBlock,
    count_units,
    kept_units,
    list_sub_blocks,
    make_layer,
)
from pruning.wirings.sites import Site, find_sites

ATTRIBUTE = "nirvana_gates"

SubBlockGates = PrunableHeadAttention | PrunableMLP


class GateRegistry(nn.Module):
    """All gates of a model, as logits: a gate is open where its logit is above 0.

    Attached, the registry is a submodule of the model, so the gates are saved, restored and moved
    with it. Gates: per KV group [num_kv_heads] of each attention, where asked per query head
    [num_heads] besides, per neuron [intermediate_size] in
    each layer, per MLP block [num_layers], per attention [num_layers] and per cross-attention
    [num_layers of the decoder]. `units` says which of them learn; the others stay open.
    """

    frozen: torch.Tensor
    multiplier: torch.Tensor

    def __init__(
        self,
        dims: DenseDims,
        cost: CostModel,
        kind: GateKind | None = None,
        units: GateUnits | None = None,
    ) -> None:
        super().__init__()
        self.dims = dims
        self.cost = cost
        self._price_list = PriceList(dims, cost)
        self._layers = dims.layers
        self.units = units or GateUnits()
        self._function = _make_function(kind or StraightThrough())
        cross_layers = [i for i, layer in enumerate(dims.layers) if layer.cross_attention]
        self._cross_places = {layer: place for place, layer in enumerate(cross_layers)}
        self.mlp_block_gate = self._make_blocks(dims.num_layers, self.units.mlp_blocks)
        attention_blocks = self.units.attention_blocks
        self.attention_block_gate = self._make_blocks(dims.num_layers, attention_blocks)
        self.cross_attention_block_gate = self._make_blocks(len(cross_layers), attention_blocks)
        layers = range(dims.num_layers)
        self.attentions = nn.ModuleList(self._make_attention(i, "attention") for i in layers)
        self.cross_attentions = nn.ModuleDict(
            {str(i): self._make_attention(i, "cross_attention") for i in cross_layers}
        )
        self.mlps = nn.ModuleList(self._make_mlp(i) for i in layers)
        self.register_buffer("frozen", torch.tensor(False))
        # Lambda 1 of the budget constraint: learned with the gates, so saved with them.
        self.register_buffer("multiplier", torch.tensor(0.0))
        self._handles: list[RemovableHandle] = []
        self._sites: dict[SubBlock, Site] = {}

    @classmethod
    def attach(
        cls,
        model: PreTrainedModel,
        cost: CostModel,
        kind: GateKind | None = None,
        units: GateUnits | None = None,
    ) -> GateRegistry:
        """Put open gates into a dense model, in place, and return them.

        Raises:
            NirvanaError: the model cannot be pruned, or was pruned before.
        """
        source = read_dense(model)
        registry = cls(source.dims, cost, kind, units).to(model.device)
        registry._sites = find_sites(model, source)
        for sub_block, gates in registry.sub_block_gates():
            registry._handles += gates.attach(registry._sites[sub_block])
        registry.train(model.training)
        model.add_module(ATTRIBUTE, registry)
        return registry

    def detach(self, model: PreTrainedModel) -> None:
        """Take the gates out of the model again, in place.

        What frozen gates still scale is worked into the weights: `repack` by `kept_layers` then
        computes what the gated model did.
        """
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for sub_block, gates in self.sub_block_gates():
            block_scale = self.block_gates(sub_block.part).scale[self.block_place(sub_block)]
            joint_scale = torch.ones_like(block_scale)
            if self.frozen and bool(gates.mask().any()):
                joint_scale = any_open(gates.mask())
            fold_scales(self._sites[sub_block], gates.scale(), joint_scale, block_scale)
        delattr(model, ATTRIBUTE)

    def sub_block_gates(self) -> Iterator[tuple[SubBlock, SubBlockGates]]:
        """Yield the gates of each sub-block, layer by layer: the encoder's, then the decoder's."""
        for sub_block in list_sub_blocks(self.dims):
            if sub_block.part == "cross_attention":
                found = self.cross_attentions[str(sub_block.layer)]
            else:
                gates = self.mlps if sub_block.part == "mlp" else self.attentions
                found = gates[sub_block.layer]
            yield sub_block, cast(SubBlockGates, found)

    @property
    def spread(self) -> float:
        """The logit at which a warm start puts the best unit."""
        return self._function.spread

    def gate_tensors(self) -> Iterator[GateTensor]:
        """Yield every row of gates, those that do not learn too."""
        yield from (module for module in self.modules() if isinstance(module, GateTensor))

    def block_gates(self, part: Part) -> GateTensor:
        """Return the gates of all sub-blocks of a kind."""
        if part == "mlp":
            return self.mlp_block_gate
        is_cross = part == "cross_attention"
        return self.cross_attention_block_gate if is_cross else self.attention_block_gate

    def block_place(self, sub_block: SubBlock) -> int:
        """Return the place of a sub-block's own gate among those of its kind."""
        is_cross = sub_block.part == "cross_attention"
        return self._cross_places[sub_block.layer] if is_cross else sub_block.layer

    def kept_density(self) -> torch.Tensor:
        """Return the kept fraction of the blocks' cost.

        It is what the hard masks keep, with the straight-through gradient, or for hard concrete
        gates what they are expected to keep. A latency table is read at each number of units that
        may stay (see `expected_cost`).
        """
        kept = torch.stack([self._price_kept(s, gates) for s, gates in self.sub_block_gates()])
        fixed = sum(self.cost.block_cost(layer) for layer in self._layers)
        return (kept.sum() + fixed) / dense_cost(self.dims, self.cost)

    def head_gate_sum(self) -> torch.Tensor:
        """Return the sum of all gates of attentions that learn, the term that alpha weighs."""
        cross = self.cross_attention_block_gate
        return self._sum_open([self.attention_block_gate, cross], mlps=False)

    def mlp_gate_sum(self) -> torch.Tensor:
        """Return the sum of all gates of MLPs that learn, the term that beta weighs."""
        return self._sum_open([self.mlp_block_gate], mlps=True)

    @torch.no_grad()
    def undecided_fraction(self) -> float:
        """Return the share of the gates that learn which are between 10 % and 90 % open."""
        learning = [gate.probability() for gate in self.gate_tensors() if gate.learns]
        probabilities = torch.cat(learning)
        return float(((probabilities > 0.1) & (probabilities < 0.9)).float().mean())

    def constrain(self) -> None:
        """Put logits back into the range in which they can learn, in place, after each step."""
        for gate in self.gate_tensors():
            gate.constrain()

    @torch.no_grad()
    def freeze(self, layers: Sequence[LayerPlan]) -> None:
        """Set every gate to what `layers` keep, for good, in place.

        Raises:
            NirvanaError: a layer keeps part of a KV group, or drops its block with the norms, which
                no gate can say.
        """
        for number, layer in enumerate(layers):
            _check_layer(layer, self._layers[number], number, self.units.query_heads)
        open_blocks: dict[Part, list[int]] = {"attention": [], "cross_attention": [], "mlp": []}
        for sub_block, gates in self.sub_block_gates():
            layer, dims = layers[sub_block.layer], self._layers[sub_block.layer]
            units = kept_units(layer, sub_block.part, dims)
            gates.units.decide(units or ())
            if isinstance(gates, PrunableHeadAttention) and gates.gate_Q is not None:
                is_cross = sub_block.part == "cross_attention"
                gates.gate_Q.decide(
                    (layer.kept_cross_heads if is_cross else layer.kept_heads) or ()
                )
            if units is not None:
                open_blocks[sub_block.part].append(self.block_place(sub_block))
        for part, places in open_blocks.items():
            self.block_gates(part).decide(places)
        self.frozen.fill_(True)

    def list_shut(self) -> list[SubBlock]:
        """Return the sub-blocks whose own gate is shut, outside of training."""
        parts: tuple[Part, ...] = ("attention", "cross_attention", "mlp")
        opened = {part: set(self.block_gates(part).list_open()) for part in parts}
        sub_blocks = list_sub_blocks(self.dims)
        return [s for s in sub_blocks if self.block_place(s) not in opened[s.part]]

    def kept_layers(self) -> tuple[LayerPlan, ...]:
        """Return what the gates keep now, outside of training."""
        shut = self.list_shut()
        kept = {
            sub_block: None if sub_block in shut else gates.units.list_open()
            for sub_block, gates in self.sub_block_gates()
        }
        layers = tuple(
            make_layer(
                dims,
                attention=kept[SubBlock(number, "attention")],
                mlp=kept[SubBlock(number, "mlp")],
                cross_attention=kept.get(SubBlock(number, "cross_attention")),
            )
            for number, dims in enumerate(self._layers)
        )
        return keep_heads(layers, self.query_logits(), self.dims)

    def query_logits(self) -> dict[SubBlock, list[float]]:
        """Return the logits of the query heads' gates, for each attention that has them."""
        return {
            sub_block: gates.gate_Q.logit.detach().double().tolist()
            for sub_block, gates in self.sub_block_gates()
            if isinstance(gates, PrunableHeadAttention) and gates.gate_Q is not None
        }

    def _make_blocks(self, num_blocks: int, learn: bool) -> GateTensor:
        start = self._function.block_start if learn and num_blocks else None
        return GateTensor(num_blocks, self._function, start)

    def _make_units(self, sub_block: SubBlock, learn: bool) -> GateTensor:
        start = self._function.unit_start if learn else None
        return GateTensor(count_units(sub_block, self.dims), self._function, start)

    def _make_attention(self, layer: int, part: Part) -> PrunableHeadAttention:
        sub_block = SubBlock(layer, part)
        units = self._make_units(sub_block, self.units.heads)
        dims = self._layers[layer]
        gates_heads = self.units.query_heads and dims.heads_per_group > 1
        start = self._function.unit_start
        heads = GateTensor(dims.num_heads, self._function, start) if gates_heads else None
        return PrunableHeadAttention(units, partial(self._block_mask, sub_block), heads)

    def _make_mlp(self, layer: int) -> PrunableMLP:
        sub_block = SubBlock(layer, "mlp")
        units = self._make_units(sub_block, self.units.neurons)
        return PrunableMLP(units, partial(self._block_mask, sub_block))

    def _block_mask(self, sub_block: SubBlock) -> torch.Tensor:
        return self.block_gates(sub_block.part).mask()[self.block_place(sub_block)]

    def _sum_open(self, gates: list[GateTensor], mlps: bool) -> torch.Tensor:
        for sub_block, sub_gates in self.sub_block_gates():
            if (sub_block.part == "mlp") == mlps:
                gates += [m for m in sub_gates.children() if isinstance(m, GateTensor)]
        learning = [gate.probability().sum() for gate in gates if gate.learns]
        return torch.stack(learning).sum() if learning else self.multiplier.new_zeros(())

    def price_unit(self, sub_block: SubBlock) -> float:
        """Return what one unit of a sub-block costs, on the average where units differ."""
        dims, cost = self._layers[sub_block.layer], self.cost
        if not is_linear(cost):
            return self._price_list.find(sub_block).mean_price
        return cost.neuron_cost(dims) if sub_block.part == "mlp" else group_cost(dims, cost)

    def price_query_head(self, sub_block: SubBlock) -> float:
        """Return what one query head of an attention costs, without its KV group."""
        dims = self._layers[sub_block.layer]
        if is_linear(self.cost):
            return self.cost.query_head_cost(dims)
        return self.price_unit(sub_block) / dims.heads_per_group

    def _price_kept(self, sub_block: SubBlock, gates: SubBlockGates) -> torch.Tensor:
        """Return the cost of what is open in a sub-block."""
        block = self.block_gates(sub_block.part).kept()[self.block_place(sub_block)]
        kept_U = gates.units.kept()
        kept_Q = gates.kept_heads() if isinstance(gates, PrunableHeadAttention) else None
        if is_linear(self.cost):
            return block * self._sum_prices(sub_block, kept_U, kept_Q, self.cost)
        if kept_Q is None:
            return block * self._price_list.find(sub_block).expect(kept_U)
        return block * self._price_list.expect_heads(sub_block, kept_U, kept_Q)

    def _sum_prices(
        self,
        sub_block: SubBlock,
        kept_U: torch.Tensor,
        kept_Q: torch.Tensor | None,
        cost: LinearCostModel,
    ) -> torch.Tensor:
        dims = self._layers[sub_block.layer]
        if sub_block.part == "mlp":
            return kept_U.sum() * cost.neuron_cost(dims) + cost.mlp_bias_cost(dims)
        rest = any_open(kept_U) * cost.attention_rest_cost(dims) + cost.attention_bias_cost(dims)
        if kept_Q is None:
            return kept_U.sum() * group_cost(dims, cost) + rest
        heads = kept_Q.sum() * cost.query_head_cost(dims)
        return heads + kept_U.sum() * cost.kv_head_cost(dims) + rest


def _make_function(kind: GateKind) -> GateFunction:
    if isinstance(kind, HardConcrete):
        return HardConcreteFunction(kind)
    if isinstance(kind, SoftSigmoid):
        return SoftSigmoidFunction(kind)
    return StraightThroughFunction()


def _check_layer(layer: LayerPlan, dims: StackDims, number: int, has_query_gates: bool) -> None:
    """Raise NirvanaError for what no gate can say."""
    if layer.dropped:
        raise NirvanaError(
            f"Layer {number}: no gate can drop a whole block with its norms. Apply the plan by "
            "`repack`."
        )
    for heads in (layer.kept_heads, layer.kept_cross_heads):
        size = dims.heads_per_group
        if (
            heads is not None
            and not has_query_gates
            and any(head - head % size + i not in heads for head in heads for i in range(size))
        ):
            raise NirvanaError(
                f"Layer {number}: gates keep whole KV groups of {size} query heads, got the heads "
                f"{list(heads)}. Apply the plan by `repack`."
            )
