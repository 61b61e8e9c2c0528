"""What a unit costs: the currency of budgets. Exact integers, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pruning.plan import DenseDims, LayerPlan, PruningPlan


class CostModel(Protocol):
    """Price the units of one block; a block's cost is the sum over what it keeps."""

    @property
    def name(self) -> str:
        """What is counted."""

    def head_cost(self, dims: DenseDims) -> int:
        """Return the cost of one head: its rows of q, k, v and its columns of the output."""

    def neuron_cost(self, dims: DenseDims) -> int:
        """Return the cost of one MLP neuron: its row in and its column out."""

    def attention_bias_cost(self, dims: DenseDims) -> int:
        """Return what an attention without heads still costs, until it is dropped."""

    def mlp_bias_cost(self, dims: DenseDims) -> int:
        """Return what an MLP without neurons still costs, until it is dropped."""

    def fixed_cost(self, dims: DenseDims) -> int:
        """Return what a block costs that keeps nothing (its norms)."""


@dataclass(frozen=True, slots=True)
class ParameterCost:
    """Count parameters of encoder blocks with biases and two LayerNorms."""

    name: str = "parameters"

    def head_cost(self, dims: DenseDims) -> int:
        """Return 4 d d_h weights and 3 d_h biases (q, k, v)."""
        return 4 * dims.hidden_size * dims.head_dim + 3 * dims.head_dim

    def neuron_cost(self, dims: DenseDims) -> int:
        """Return 2 d weights and 1 bias."""
        return 2 * dims.hidden_size + 1

    def attention_bias_cost(self, dims: DenseDims) -> int:
        """Return the output projection's d biases."""
        return dims.hidden_size

    def mlp_bias_cost(self, dims: DenseDims) -> int:
        """Return the output projection's d biases."""
        return dims.hidden_size

    def fixed_cost(self, dims: DenseDims) -> int:
        """Return two LayerNorms: scale and shift each."""
        return 4 * dims.hidden_size


@dataclass(frozen=True, slots=True)
class MacCost:
    """Count multiply-accumulates of matrix products, a token, at one sequence length.

    Biases, norms and activations are not matrix products and count nothing.
    """

    sequence_length: int
    name: str = "macs"

    def head_cost(self, dims: DenseDims) -> int:
        """Return 4 d d_h for the projections and 2 L d_h for scores and weighted sum."""
        return 4 * dims.hidden_size * dims.head_dim + 2 * self.sequence_length * dims.head_dim

    def neuron_cost(self, dims: DenseDims) -> int:
        """Return 2 d."""
        return 2 * dims.hidden_size

    def attention_bias_cost(self, dims: DenseDims) -> int:
        """Return 0."""
        return 0

    def mlp_bias_cost(self, dims: DenseDims) -> int:
        """Return 0."""
        return 0

    def fixed_cost(self, dims: DenseDims) -> int:
        """Return 0."""
        return 0


def make_cost_model(cost: Literal["macs", "parameters"], sequence_length: int) -> CostModel:
    """Return the cost model of a name."""
    return MacCost(sequence_length) if cost == "macs" else ParameterCost()


def layer_cost(layer: LayerPlan, dims: DenseDims, cost: CostModel) -> int:
    """Return the cost of one block."""
    total = cost.fixed_cost(dims)
    total += layer.num_kept_heads * cost.head_cost(dims)
    total += layer.num_kept_neurons * cost.neuron_cost(dims)
    total += 0 if layer.kept_heads is None else cost.attention_bias_cost(dims)
    return total + (0 if layer.kept_neurons is None else cost.mlp_bias_cost(dims))


def plan_cost(plan: PruningPlan, cost: CostModel) -> int:
    """Return the cost of all blocks that a plan leaves."""
    return sum(layer_cost(layer, plan.dims, cost) for layer in plan.layers)


def dense_cost(dims: DenseDims, cost: CostModel) -> int:
    """Return the cost of all blocks of the dense model."""
    return plan_cost(PruningPlan.dense(dims, ""), cost)
