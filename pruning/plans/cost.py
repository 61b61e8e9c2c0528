"""What a plan costs: the currency of budgets. Exact integers, no torch.

Allocation asks a `CostModel` for whole sub-blocks, so that a table of latencies can answer as well.
What is counted has a price for each unit: a `LinearCostModel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeGuard

from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.plan import LayerPlan, PruningPlan, kept_groups

CostName = Literal["macs", "parameters", "bytes"]


class CostModel(Protocol):
    """Price what a block keeps; a plan costs the sum over its blocks."""

    @property
    def name(self) -> str:
        """What is counted."""

    def attention_cost(self, dims: StackDims, num_heads: int, num_kv_heads: int) -> int:
        """Return the cost of an attention that is not dropped; with no head, its output's bias."""

    def mlp_cost(self, dims: StackDims, num_neurons: int) -> int:
        """Return the cost of an MLP that is not dropped; with no neuron, its output's bias."""

    def block_cost(self, dims: StackDims) -> int:
        """Return what a block costs besides (its norms), until it is dropped."""


class LinearCostModel(CostModel, Protocol):
    """Price single units; what is kept costs the sum of its units."""

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

    def attention_cost(self, dims: StackDims, num_heads: int, num_kv_heads: int) -> int:
        """Return the sum over query heads, KV heads and what goes with them."""
        units = num_heads * self.query_head_cost(dims) + num_kv_heads * self.kv_head_cost(dims)
        rest = self.attention_rest_cost(dims) if num_heads else 0
        return units + rest + self.attention_bias_cost(dims)

    def mlp_cost(self, dims: StackDims, num_neurons: int) -> int:
        """Return the sum over neurons, and the bias."""
        return num_neurons * self.neuron_cost(dims) + self.mlp_bias_cost(dims)


class _SizeCost(LinearCostModel, Protocol):
    """Price what is stored; position bias tables that all layers share (T5's) count nothing."""

    def weigh(self, weights: int, rest: int) -> int:
        """Return the cost of matrix weights, and of other parameters (biases, norms)."""

    def query_head_cost(self, dims: StackDims) -> int:
        """Return that of weights and biases."""
        return self.weigh(dims.sizes.query_head_weights, dims.sizes.query_head_biases)

    def kv_head_cost(self, dims: StackDims) -> int:
        """Return that of weights and biases."""
        return self.weigh(dims.sizes.kv_head_weights, dims.sizes.kv_head_biases)

    def neuron_cost(self, dims: StackDims) -> int:
        """Return that of weights and biases."""
        return self.weigh(dims.sizes.neuron_weights, dims.sizes.neuron_biases)

    def attention_rest_cost(self, dims: StackDims) -> int:
        """Return that of the norms of q and k, which heads share."""
        return self.weigh(0, dims.sizes.attention_rest)

    def attention_bias_cost(self, dims: StackDims) -> int:
        """Return that of the output projection's biases."""
        return self.weigh(0, dims.sizes.attention_bias)

    def mlp_bias_cost(self, dims: StackDims) -> int:
        """Return that of the output projection's biases."""
        return self.weigh(0, dims.sizes.mlp_bias)

    def block_cost(self, dims: StackDims) -> int:
        """Return that of the norms, and what else pruning leaves alone."""
        return self.weigh(0, dims.sizes.norms)


@dataclass(frozen=True, slots=True)
class ParameterCost(_SizeCost):
    """Count the parameters of the blocks."""

    name: str = "parameters"

    def weigh(self, weights: int, rest: int) -> int:
        """Count all alike."""
        return weights + rest


# Bytes of a matrix weight, and of the other parameters, which int8 quantization leaves alone.
_BYTES = {"float32": (4, 4), "float16": (2, 2), "bfloat16": (2, 2), "int8": (1, 2)}


@dataclass(frozen=True, slots=True)
class BytesCost(_SizeCost):
    """Count the bytes of the blocks' parameters, as they are stored and read.

    In int8 only the matrices are, the other parameters are float16; scales count nothing.
    """

    dtype: str = "float16"
    name: str = "bytes"

    def __post_init__(self) -> None:
        if self.dtype not in _BYTES:
            raise NirvanaError(f"dtype must be one of {', '.join(_BYTES)}, got {self.dtype!r}.")

    def weigh(self, weights: int, rest: int) -> int:
        """Count in bytes."""
        weight_bytes, rest_bytes = _BYTES[self.dtype]
        return weights * weight_bytes + rest * rest_bytes


@dataclass(frozen=True, slots=True)
class MacCost(LinearCostModel):
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

    def block_cost(self, dims: StackDims) -> int:
        """Return 0."""
        return 0


def make_cost_model(
    cost: CostName, sequence_length: int, dtype: str = "float16"
) -> LinearCostModel:
    """Return the cost model of a name; `sequence_length` is for MACs, `dtype` for bytes."""
    if cost == "macs":
        return MacCost(sequence_length)
    return BytesCost(dtype) if cost == "bytes" else ParameterCost()


def is_linear(cost: CostModel) -> TypeGuard[LinearCostModel]:
    """Return whether a cost model prices single units, of which sub-blocks are the sums."""
    priced = ("query_head_cost", "kv_head_cost", "neuron_cost", "attention_rest_cost")
    return all(hasattr(cost, name) for name in priced)


def group_cost(dims: StackDims, cost: LinearCostModel) -> int:
    """Return the cost of one KV group with all its query heads, the unit that gates cut."""
    return dims.heads_per_group * cost.query_head_cost(dims) + cost.kv_head_cost(dims)


def layer_cost(layer: LayerPlan, dims: StackDims, cost: CostModel) -> int:
    """Return the cost of one block."""
    if layer.dropped:
        return 0
    total = cost.block_cost(dims)
    if layer.kept_neurons is not None:
        total += cost.mlp_cost(dims, len(layer.kept_neurons))
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
    """Return the cost of an attention that keeps the query heads `heads`; None is dropped."""
    if heads is None:
        return 0
    return cost.attention_cost(dims, len(heads), len(kept_groups(heads, dims)))
