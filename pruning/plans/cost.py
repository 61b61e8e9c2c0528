"""What a unit costs: the currency of budgets. Exact integers, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.plan import LayerPlan, PruningPlan, kept_groups


class CostModel(Protocol):
    """Price the units of one block; a block's cost is the sum over what it keeps."""

    @property
    def name(self) -> str:
        """What is counted."""

    def query_head_cost(self, dims: StackDims) -> int:
        """Return the cost of one query head, with its columns of the output projection."""

    def kv_head_cost(self, dims: StackDims) -> int:
        """Return the cost of the key and the value that a group of query heads shares."""

    def neuron_cost(self, dims: StackDims) -> int:
        """Return the cost of one MLP neuron: its rows in and its column out."""

    def attention_rest_cost(self, dims: StackDims) -> int:
        """Return what an attention costs besides while it has a head (norms of q and k)."""

    def attention_bias_cost(self, dims: StackDims) -> int:
        """Return what an attention without heads still costs, until it is dropped."""

    def mlp_bias_cost(self, dims: StackDims) -> int:
        """Return what an MLP without neurons still costs, until it is dropped."""

    def fixed_cost(self, dims: StackDims) -> int:
        """Return what a block costs that keeps nothing (its norms), until it is dropped."""


@dataclass(frozen=True, slots=True)
class ParameterCost:
    """Count the parameters of the blocks.

    Without a position bias table that all layers share: T5's keeps its size. A first block that
    lacks a norm of the others (ModernBERT's) counts like them.
    """

    name: str = "parameters"

    def query_head_cost(self, dims: StackDims) -> int:
        """Return weights and biases."""
        return dims.sizes.query_head_weights + dims.sizes.query_head_biases

    def kv_head_cost(self, dims: StackDims) -> int:
        """Return weights and biases."""
        return dims.sizes.kv_head_weights + dims.sizes.kv_head_biases

    def neuron_cost(self, dims: StackDims) -> int:
        """Return weights and biases."""
        return dims.sizes.neuron_weights + dims.sizes.neuron_biases

    def attention_rest_cost(self, dims: StackDims) -> int:
        """Return the norms of q and k, which heads share."""
        return dims.sizes.attention_rest

    def attention_bias_cost(self, dims: StackDims) -> int:
        """Return the output projection's biases."""
        return dims.sizes.attention_bias

    def mlp_bias_cost(self, dims: StackDims) -> int:
        """Return the output projection's biases."""
        return dims.sizes.mlp_bias

    def fixed_cost(self, dims: StackDims) -> int:
        """Return the norms, and what else pruning leaves alone."""
        return dims.sizes.norms


@dataclass(frozen=True, slots=True)
class MacCost:
    """Count multiply-accumulates of matrix products, a token, at one sequence length.

    Scores are counted for all pairs of positions, as kernels without a causal or a sliding mask
    compute them; the source of a cross-attention is taken to be as long. Biases, norms, activations
    and relative positions (DeBERTa's) count nothing.
    """

    sequence_length: int
    name: str = "macs"

    def query_head_cost(self, dims: StackDims) -> int:
        """Return the weights, and 2 L d_h for scores and weighted sum."""
        return dims.sizes.query_head_weights + 2 * self.sequence_length * dims.head_dim

    def kv_head_cost(self, dims: StackDims) -> int:
        """Return the weights."""
        return dims.sizes.kv_head_weights

    def neuron_cost(self, dims: StackDims) -> int:
        """Return the weights."""
        return dims.sizes.neuron_weights

    def attention_rest_cost(self, dims: StackDims) -> int:
        """Return 0."""
        return 0

    def attention_bias_cost(self, dims: StackDims) -> int:
        """Return 0."""
        return 0

    def mlp_bias_cost(self, dims: StackDims) -> int:
        """Return 0."""
        return 0

    def fixed_cost(self, dims: StackDims) -> int:
        """Return 0."""
        return 0


def make_cost_model(cost: Literal["macs", "parameters"], sequence_length: int) -> CostModel:
    """Return the cost model of a name."""
    return MacCost(sequence_length) if cost == "macs" else ParameterCost()


def group_cost(dims: StackDims, cost: CostModel) -> int:
    """Return the cost of one KV group with all its query heads, the unit that gates cut."""
    return dims.heads_per_group * cost.query_head_cost(dims) + cost.kv_head_cost(dims)


def layer_cost(layer: LayerPlan, dims: StackDims, cost: CostModel) -> int:
    """Return the cost of one block."""
    if layer.dropped:
        return 0
    total = cost.fixed_cost(dims) + layer.num_kept_neurons * cost.neuron_cost(dims)
    total += 0 if layer.kept_neurons is None else cost.mlp_bias_cost(dims)
    attentions = (layer.kept_heads, layer.kept_cross_heads)
    return total + sum(attention_cost(heads, dims, cost) for heads in attentions)


def plan_cost(plan: PruningPlan, cost: CostModel) -> int:
    """Return the cost of all blocks that a plan leaves."""
    pairs = zip(plan.layers, plan.dims.layers, strict=True)
    return sum(layer_cost(layer, dims, cost) for layer, dims in pairs)


def dense_cost(dims: DenseDims, cost: CostModel) -> int:
    """Return the cost of all blocks of the dense model."""
    return plan_cost(PruningPlan.dense(dims, ""), cost)


def attention_cost(heads: tuple[int, ...] | None, dims: StackDims, cost: CostModel) -> int:
    """Return the cost of an attention that keeps the query heads `heads`."""
    if heads is None:
        return 0
    total = cost.attention_bias_cost(dims) + len(heads) * cost.query_head_cost(dims)
    total += len(kept_groups(heads, dims)) * cost.kv_head_cost(dims)
    return total + (cost.attention_rest_cost(dims) if heads else 0)
