"""Latency tables that are made up."""

from profiles.latency.latency_table import LatencyCurve, LatencyTable
from pruning.plans.dense_dims import StackDims
from tests.pruning.allocation.small_dims import GROUPED


def make_small_table(stack: StackDims = GROUPED.stacks[0], dense_ms: float = 20.0) -> LatencyTable:
    """4 groups at 2 ms, 50 neurons at 3 ms, blocks at 0.1 ms, 3 times; the rest is embeddings."""
    return LatencyTable(
        stack=stack,
        attention=LatencyCurve(kept=(0, 1, 4), latency_ms=(0.0, 0.8, 2.0)),
        mlp=LatencyCurve(kept=(0, 10, 30, 50), latency_ms=(0.0, 1.0, 1.0, 3.0)),
        block_ms=0.1,
        dense_ms=dense_ms,
        rest_ms=dense_ms - 3 * (2 + 3 + 0.1),
        measured={"key": {"target": "made up"}},
    )
