"""What a sub-block of a given size computes and moves: operations, bytes, kernels."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers
from pruning.plans.dense_dims import StackDims

# Launches of a well-fused engine: q, k, v and output projections with the attention between; up
# (with its gate and activation) and down; two norms with their residual sums.
ATTENTION_KERNELS = 5
MLP_KERNELS = 3
BLOCK_KERNELS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShape:
    """One call of a model.

    Attributes:
        length: tokens of a row that are computed: all of them for an encoder or a prefill, 1 for
            a decoding step.
        past: tokens of a row in the cache before.
    """

    batch: int
    length: int
    past: int = 0

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.batch < 1 or self.length < 1 or self.past < 0:
            raise NirvanaError(
                "A call needs a batch and a length of 1 or more and a past of 0 or more, got "
                f"batch {self.batch}, length {self.length}, past {self.past}."
            )

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return self.batch * self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one part of a model does in a call.

    Attributes:
        operations: multiplications and additions of matrix products.
        num_bytes: read and written, each tensor once an operator.
        num_kernels: launches.
    """

    operations: float
    num_bytes: float
    num_kernels: int


def attention_work(
    dims: StackDims, num_heads: int, num_kv_heads: int, call: CallShape, bytes_a_value: float
) -> Work:
    """Return the work of an attention that keeps `num_heads` query heads; with none, nothing.

    Scores are counted for all pairs, as kernels without a causal or a sliding mask compute them.
    """
    if not num_heads:
        return Work(operations=0, num_bytes=0, num_kernels=0)
    sizes, tokens, span = dims.sizes, call.num_tokens, call.past + call.length
    weights = num_heads * sizes.query_head_weights + num_kv_heads * sizes.kv_head_weights
    scores = 4 * tokens * span * num_heads * dims.head_dim  # q k^T, and its product with v
    wide = (num_heads + 2 * num_kv_heads) * dims.head_dim  # q, k, v: written, then read
    moved = tokens * 2 * (dims.hidden_size + wide + num_heads * dims.head_dim)
    cache = call.batch * call.past * 2 * num_kv_heads * dims.head_dim
    return Work(
        operations=2 * tokens * weights + scores,
        num_bytes=(weights + moved + cache) * bytes_a_value,
        num_kernels=ATTENTION_KERNELS,
    )


def mlp_work(dims: StackDims, num_neurons: int, call: CallShape, bytes_a_value: float) -> Work:
    """Return the work of an MLP that keeps `num_neurons`; with none, nothing."""
    if not num_neurons:
        return Work(operations=0, num_bytes=0, num_kernels=0)
    weights = num_neurons * dims.sizes.neuron_weights
    # One matrix leads out of the neurons; the others (up, and a gate where there is one) lead in.
    num_inner = max(dims.sizes.neuron_weights // dims.hidden_size - 1, 1)
    moved = call.num_tokens * 2 * (dims.hidden_size + num_inner * num_neurons)
    return Work(
        operations=2 * call.num_tokens * weights,
        num_bytes=(weights + moved) * bytes_a_value,
        num_kernels=MLP_KERNELS,
    )


def block_work(dims: StackDims, call: CallShape, bytes_a_value: float) -> Work:
    """Return the work of a block besides: two norms, each with its residual sum."""
    moved = BLOCK_KERNELS * call.num_tokens * 3 * dims.hidden_size  # two in, one out
    return Work(operations=0, num_bytes=moved * bytes_a_value, num_kernels=BLOCK_KERNELS)
