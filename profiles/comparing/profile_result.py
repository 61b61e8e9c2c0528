"""What a profile found, as frozen records and as plain data for a manifest."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from profiles.measuring.statistics import Samples, Speedup, find_variation, take_percentile


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Hold one model's latencies on one batch shape; all figures are of `samples_ms`."""

    median_ms: float
    mean_ms: float
    p90_ms: float | None
    p90_note: str | None
    num_samples: int
    coefficient_of_variation: float
    throughput_per_s: float
    samples_ms: tuple[float, ...]

    @classmethod
    def of(cls, samples_ms: Samples, *, batch: int) -> "Timing":
        """Summarise samples in the order of time; throughput counts rows."""
        median_ms = float(np.median(samples_ms))
        p90_ms, p90_note = take_percentile(samples_ms, 90)
        return cls(
            median_ms=median_ms,
            mean_ms=float(samples_ms.mean()),
            p90_ms=p90_ms,
            p90_note=p90_note,
            num_samples=samples_ms.size,
            coefficient_of_variation=find_variation(samples_ms),
            throughput_per_s=batch * 1000 / median_ms,
            samples_ms=tuple(samples_ms.tolist()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileCase:
    """Hold both models on one batch shape.

    Attributes:
        stationary: whether both latencies were shown to be steady while they were measured.
        other_cpu_fraction: share of the CPUs that other programs took meanwhile; None: not known.
        notes: what a reader must know to trust the figures, in words.
    """

    batch: int
    length: int
    dense: Timing
    pruned: Timing
    speedup: Speedup
    stationary: bool
    warmup_seconds: float
    measured_seconds: float
    other_cpu_fraction: float | None
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Say of the pruned model: faster, slower, or no significant difference."""
        return self.speedup.verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileResult:
    """Hold all cases, where they were measured, and how."""

    environment: dict[str, Any]
    method: dict[str, Any]
    cases: tuple[ProfileCase, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a stage manifest."""
        return {
            "environment": self.environment,
            "cases": [{**_listed(asdict(case)), "verdict": case.verdict} for case in self.cases],
            "method": self.method,
        }


def _listed(value: Any) -> Any:
    """Turn tuples into lists, so that the data is what JSON gives back."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value
