"""Estimates latency from a target's figures alone. Never a measurement, and always said to be none.

Each part of a block takes the longest of three: its operations at the target's rate, its bytes at
the bandwidth, its launches (S. Williams et al., "Roofline", 2009). Real kernels reach a part of the
peak, so that an estimate is a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from profiles.targets.block_work import CallShape, Work, attention_work, block_work, mlp_work
from profiles.targets.target import BYTES_OF, Target
from pruning.plans.cost import dense_cost
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.plan import LayerPlan, PruningPlan, kept_groups

Bound = Literal["compute", "memory", "launch"]

# What one kernel costs at least when they are launched one after the other: an assumption, of the
# order that NVIDIA's and ONNX Runtime's profilers show.
LAUNCH_SECONDS = {"gpu": 3e-6, "cpu": 2e-6}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEstimate:
    """The three times of one part, in milliseconds.

    Attributes:
        name: such as "0.attention", "0.mlp", "0.block" (its norms).
    """

    name: str
    compute_ms: float
    memory_ms: float
    launch_ms: float

    @property
    def latency_ms(self) -> float:
        """The longest of the three."""
        return max(self.compute_ms, self.memory_ms, self.launch_ms)

    @property
    def bound(self) -> Bound:
        """What the part waits for."""
        times: dict[Bound, float] = {
            "compute": self.compute_ms,
            "memory": self.memory_ms,
            "launch": self.launch_ms,
        }
        return max(times, key=lambda name: times[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineEstimate:
    """What the blocks of a plan take on a target, estimated. Embeddings and heads are not in it.

    The peaks are taken as they are, so that the latency is a lower bound.
    """

    target: str
    precision: str
    call: CallShape
    parts: tuple[PartEstimate, ...]

    @property
    def latency_ms(self) -> float:
        """The sum over all parts."""
        return sum(part.latency_ms for part in self.parts)

    @property
    def shares(self) -> dict[Bound, float]:
        """The share of the time that is spent waiting for each of the three."""
        shares: dict[Bound, float] = {"compute": 0.0, "memory": 0.0, "launch": 0.0}
        whole = self.latency_ms
        for part in self.parts:
            shares[part.bound] += part.latency_ms / whole if whole else 0.0
        return shares

    @property
    def bound(self) -> Bound:
        """What most of the time is spent waiting for."""
        shares = self.shares
        return max(shares, key=lambda name: shares[name])

    def describe(self) -> str:
        """Return the latency in words that cannot be taken for a measurement."""
        how = "estimate from peak rates, not calibrated: at least"
        return f"{how} {self.latency_ms:.3g} ms, {self.bound}-bound"

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "is_estimate": True,
            "target": self.target,
            "precision": self.precision,
            "batch": self.call.batch,
            "length": self.call.length,
            "past": self.call.past,
            "latency_ms": self.latency_ms,
            "bound": self.bound,
            "shares": dict(self.shares),
            "calibration": None,
            "covers": "the blocks: without embeddings and heads",
        }


def estimate_plan(
    plan: PruningPlan,
    target: Target,
    call: CallShape,
    precision: str,
) -> RooflineEstimate:
    """Estimate what the blocks that a plan leaves take on a target.

    Raises:
        NirvanaError: the target has no rate for the precision.
    """
    parts = [
        part
        for number, (layer, dims) in enumerate(zip(plan.layers, plan.dims.layers, strict=True))
        for part in _estimate_layer(number, layer, dims, target, call, precision)
    ]
    return RooflineEstimate(
        target=target.name,
        precision=precision,
        call=call,
        parts=tuple(parts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineCost:
    """Price blocks by estimated latency, in nanoseconds: a cost model for targets not at hand."""

    target: Target
    call: CallShape
    precision: str
    name: str = "estimated nanoseconds"

    def __post_init__(self) -> None:
        self.target.rate(self.precision)  # a precision that it has no rate for is refused

    def attention_cost(self, dims: StackDims, num_heads: int, num_kv_heads: int) -> int:
        """Return the estimate of an attention; without heads its bias is taken to cost nothing."""
        size = BYTES_OF[self.precision]
        return self._price(attention_work(dims, num_heads, num_kv_heads, self.call, size))

    def mlp_cost(self, dims: StackDims, num_neurons: int) -> int:
        """Return the estimate of an MLP; without neurons its bias is taken to cost nothing."""
        return self._price(mlp_work(dims, num_neurons, self.call, BYTES_OF[self.precision]))

    def block_cost(self, dims: StackDims) -> int:
        """Return the estimate of the norms."""
        return self._price(block_work(dims, self.call, BYTES_OF[self.precision]))

    def dense_ms(self, dims: DenseDims) -> float:
        """Return the estimate of a dense model's blocks, in milliseconds."""
        return dense_cost(dims, self) / 1e6

    def _price(self, work: Work) -> int:
        return round(_time("", work, self.target, self.precision).latency_ms * 1e6)


def _estimate_layer(
    number: int,
    layer: LayerPlan,
    dims: StackDims,
    target: Target,
    call: CallShape,
    precision: str,
) -> list[PartEstimate]:
    if layer.dropped:
        return []
    size = BYTES_OF[precision]
    works = [("block", block_work(dims, call, size))]
    for name, heads in (("attention", layer.kept_heads), ("cross", layer.kept_cross_heads)):
        if heads:
            groups = len(kept_groups(heads, dims))
            works.append((name, attention_work(dims, len(heads), groups, call, size)))
    if layer.kept_neurons:
        works.append(("mlp", mlp_work(dims, len(layer.kept_neurons), call, size)))
    return [_time(f"{number}.{name}", work, target, precision) for name, work in works]


def _time(name: str, work: Work, target: Target, precision: str) -> PartEstimate:
    return PartEstimate(
        name=name,
        compute_ms=work.operations / target.rate(precision).value / 1e9,
        memory_ms=work.num_bytes / target.memory_bandwidth_gb_per_s.value / 1e6,
        launch_ms=work.num_kernels * LAUNCH_SECONDS[target.kind] * 1e3,
    )
