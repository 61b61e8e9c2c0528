"""Estimates latency from a target's figures alone. Never a measurement, and always said to be none.

Each part of a block takes the longest of three: its operations at the target's rate, its bytes at
the bandwidth, its launches (S. Williams et al., "Roofline", 2009). Real kernels reach a part of the
peak; where measurements exist, `calibrate` finds that part and the error that is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from profiles.targets.block_work import CallShape, Work, attention_work, block_work, mlp_work
from profiles.targets.target import BYTES_OF, Target
from pruning.errors import NirvanaError
from pruning.plans.cost import dense_cost, plan_cost
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
class LatencyFit:
    """How estimates compare with measurements on a target.

    Attributes:
        factor: measured over estimated latency, the geometric mean.
        error_fraction: mean error of estimates times the factor that the other measurements give
            (leave one out).
    """

    factor: float
    error_fraction: float
    num_measurements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineEstimate:
    """What the blocks of a plan take on a target, estimated. Embeddings and heads are not in it.

    Attributes:
        calibration: None where nothing was measured; then the peaks are taken as they are, and
            the latency is a lower bound rather than an estimate.
    """

    target: str
    precision: str
    call: CallShape
    parts: tuple[PartEstimate, ...]
    calibration: LatencyFit | None = None

    @property
    def latency_ms(self) -> float:
        """The sum over all parts, times the calibration's factor."""
        factor = self.calibration.factor if self.calibration else 1.0
        return factor * sum(part.latency_ms for part in self.parts)

    @property
    def shares(self) -> dict[Bound, float]:
        """The share of the time that is spent waiting for each of the three."""
        shares: dict[Bound, float] = {"compute": 0.0, "memory": 0.0, "launch": 0.0}
        whole = sum(part.latency_ms for part in self.parts)
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
        if self.calibration is None:
            how = "estimate from peak rates, not calibrated: at least"
        else:
            how = f"estimate, calibrated to {self.calibration.error_fraction:.0%}:"
        return f"{how} {self.latency_ms:.3g} ms, {self.bound}-bound"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        calibration = self.calibration
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
            "calibration": None
            if calibration is None
            else {
                "factor": calibration.factor,
                "error_fraction": calibration.error_fraction,
                "num_measurements": calibration.num_measurements,
            },
            "covers": "the blocks: without embeddings and heads",
        }


def estimate_plan(
    plan: PruningPlan,
    target: Target,
    call: CallShape,
    precision: str,
    calibration: LatencyFit | None = None,
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
        calibration=calibration,
    )


def calibrate(estimates: Sequence[RooflineEstimate], measured_ms: Sequence[float]) -> LatencyFit:
    """Find how much longer measurements take than estimates; see `calibrate_latencies`."""
    raw_ms = [sum(part.latency_ms for part in estimate.parts) for estimate in estimates]
    return calibrate_latencies(raw_ms, measured_ms)


def calibrate_latencies(estimated_ms: Sequence[float], measured_ms: Sequence[float]) -> LatencyFit:
    """Find the factor between latencies of uncalibrated estimates and measurements, and its error.

    Raises:
        NirvanaError: there are fewer than two measurements, one for each estimate, all above 0.
    """
    if len(estimated_ms) < 2 or len(estimated_ms) != len(measured_ms) or not min(measured_ms) > 0:
        raise NirvanaError(
            "Calibration needs two or more measurements above 0 ms, one for each estimate, got "
            f"{len(estimated_ms)} estimates and {len(measured_ms)} measurements."
        )
    logs = [math.log(took / guess) for took, guess in zip(measured_ms, estimated_ms, strict=True)]
    others = [(sum(logs) - own) / (len(logs) - 1) for own in logs]
    errors = [abs(math.exp(other - own) - 1) for other, own in zip(others, logs, strict=True)]
    return LatencyFit(
        factor=math.exp(sum(logs) / len(logs)),
        error_fraction=sum(errors) / len(errors),
        num_measurements=len(logs),
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

    def plan_ms(self, plan: PruningPlan) -> float:
        """Return the estimate of a plan, in milliseconds."""
        return plan_cost(plan, self) / 1e6

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
