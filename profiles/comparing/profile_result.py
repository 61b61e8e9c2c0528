"""What a profile found, as frozen records and as plain data for a manifest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import numpy as np

from profiles.comparing.generation_result import GenerationCase
from profiles.comparing.load_points import LoadPoint
from profiles.measuring.environment import Environment
from profiles.measuring.memory import MemoryFigures
from profiles.measuring.nvml import EnergyReading
from profiles.measuring.statistics import (
    NotNegative,
    Positive,
    Samples,
    Speedup,
    find_median_interval,
    find_variation,
    take_percentile,
)
from pruning.strict_json import JsonObject, convert_json


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTiming:
    """Hold what one part of a run took, as trtexec tells them apart."""

    median_ms: NotNegative
    coefficient_of_variation: NotNegative

    @classmethod
    def of(cls, samples_ms: Samples) -> "PartTiming":
        """Summarize samples; a part that took no time does not vary."""
        median_ms = float(np.median(samples_ms))
        variation = find_variation(samples_ms) if samples_ms.any() else 0.0
        return cls(median_ms=round(median_ms, 4), coefficient_of_variation=variation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Hold one model's latencies on one batch shape; all figures are of `samples_ms`.

    Attributes:
        median_low_ms: lower end of the 95 % interval of the median (order statistics); None below
            6 samples.
        parts: by name, of runs on a GPU: `h2d_ms`, `gpu_compute_ms`, `d2h_ms`, and `enqueue_ms`,
            which is the host's and runs beside them.
        energy: of a call on a GPU whose driver counts it, measured after the samples.
    """

    median_ms: NotNegative
    mean_ms: NotNegative
    median_low_ms: NotNegative | None
    median_high_ms: NotNegative | None
    p90_ms: NotNegative | None
    p90_note: str | None
    num_samples: Positive
    coefficient_of_variation: NotNegative
    throughput_per_s: NotNegative
    samples_ms: tuple[NotNegative, ...]
    parts: dict[str, PartTiming] = field(default_factory=dict)
    energy: EnergyReading | None = None

    @classmethod
    def of(
        cls,
        samples_ms: Samples,
        *,
        batch: int,
        parts_ms: Mapping[str, Samples] | None = None,
        energy: EnergyReading | None = None,
    ) -> "Timing":
        """Summarize samples in the order of time; throughput counts rows."""
        low_ms, high_ms = find_median_interval(samples_ms)
        median_ms = float(np.median(samples_ms))
        p90_ms, p90_note = take_percentile(samples_ms, 90)
        return cls(
            median_ms=median_ms,
            median_low_ms=low_ms,
            median_high_ms=high_ms,
            mean_ms=float(samples_ms.mean()),
            p90_ms=p90_ms,
            p90_note=p90_note,
            num_samples=samples_ms.size,
            coefficient_of_variation=find_variation(samples_ms),
            throughput_per_s=batch * 1000 / median_ms,
            samples_ms=tuple(samples_ms.tolist()),
            parts={name: PartTiming.of(part) for name, part in (parts_ms or {}).items()},
            energy=energy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileCase:
    """Hold both models on one batch shape.

    Attributes:
        stationary: whether both latencies were shown to be steady while they were measured.
        other_cpu_fraction: share of the CPUs that other programs took meanwhile; None: not known.
        notes: what a reader must know to trust the figures, in words.
    """

    batch: Positive
    length: Positive
    dense: Timing
    pruned: Timing
    speedup: Speedup
    stationary: bool
    warmup_seconds: NotNegative
    measured_seconds: NotNegative
    other_cpu_fraction: NotNegative | None
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Say of the pruned model: faster, slower, or no significant difference."""
        return self.speedup.verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileResult:
    """Hold all cases, where they were measured, and how.

    Attributes:
        memory: by model, what grew while it was loaded and run (`MemoryGrowth`); empty where the
            models were loaded already.
        generations: what generating text took, by batch size; empty where none was asked for.
        loads: what each model gave under load; empty where none was asked for.
        partial: what ended the measurement early, in words; None: all that was asked is there.
    """

    environment: Environment
    method: JsonObject
    cases: tuple[ProfileCase, ...]
    memory: dict[str, MemoryFigures] = field(default_factory=dict)
    generations: tuple[GenerationCase, ...] = ()
    loads: tuple[LoadPoint, ...] = ()
    partial: str | None = None

    @classmethod
    def from_json(cls, data: object, *, name: str = "The profile") -> "ProfileResult":
        """Read what `to_json` wrote; `name` is what a message calls it.

        Raises:
            NirvanaError: something is missing or of another type; the message names the place.
        """
        return convert_json(data, cls, name=name, remedy="Measure again.")

    def to_json(self) -> dict[str, object]:
        """Return plain data for a stage manifest."""
        return {
            "environment": self.environment,
            "cases": [{**_listed(asdict(case)), "verdict": case.verdict} for case in self.cases],
            "method": self.method,
            "memory": self.memory,
            "generations": [_listed(asdict(case)) for case in self.generations],
            "loads": [_listed(asdict(point)) for point in self.loads],
            "partial": self.partial,
        }


def describe_schema() -> dict[str, object]:
    """Return the JSON Schema (2020-12) of `ProfileResult.to_json`, made from the records."""
    schema: dict[str, object] = msgspec.json.schema(ProfileResult)
    return schema


def _listed(value: object) -> Any:
    """Turn tuples into lists, so that the data is what JSON gives back."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value
