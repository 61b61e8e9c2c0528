"""Sweeps one model over batch sizes and over callers at a time, and keeps what was found."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from profiles.measuring.environment import capture_environment, count_allowed_cpus
from profiles.measuring.load import LoadResult
from profiles.measuring.measurement import Clock
from profiles.measuring.sweep import BatchPoint, sweep_batches, sweep_callers
from profiles.measuring.sweep_config import SweepConfig
from profiles.runners.runner import Runner
from profiles.runners.token_inputs import make_call_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """Hold both curves of a model, where they were measured, and how.

    Attributes:
        batches: empty where no batch sizes were asked for; so are `callers`.
    """

    model: str
    length: int
    environment: Mapping[str, Any]
    method: Mapping[str, Any]
    batches: tuple[BatchPoint, ...] = ()
    callers: tuple[LoadResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `nirvana report` draws them."""
        return {
            "model": self.model,
            "length": self.length,
            "environment": dict(self.environment),
            "method": dict(self.method),
            "batches": [asdict(point) for point in self.batches],
            "callers": [_describe_load(result) for result in self.callers],
        }


def sweep_model(
    runner: Runner, config: SweepConfig, *, clock: Clock = time.perf_counter
) -> SweepResult:
    """Measure a loaded model as `config` says.

    Raises:
        NirvanaError: the model takes no such batch, or no text.
    """
    make_inputs = partial(make_call_inputs, runner, config)
    environment = capture_environment(config.num_threads or count_allowed_cpus())
    batches: tuple[BatchPoint, ...] = ()
    callers: tuple[LoadResult, ...] = ()
    if config.batch_sizes:
        batches = sweep_batches(
            runner, make_inputs, config.batch_sizes, num_rounds=config.num_rounds, clock=clock
        )
    if config.callers:
        callers = sweep_callers(
            runner, make_inputs, config.callers, num_requests=config.num_requests, clock=clock
        )
    return SweepResult(
        model=runner.name,
        length=config.length,
        environment=environment,
        method={
            **runner.describe(),
            "batches": "all in the same rounds, rows per second at the median",
            "callers": "closed loop, one row a request, answers per second",
            "past_tokens": config.past,
            "seed": config.seed,
        },
        batches=batches,
        callers=callers,
    )


def _describe_load(result: LoadResult) -> dict[str, Any]:
    p90_ms, p90_note = result.percentile_ms(90)
    return {
        "num_callers": result.num_callers,
        "achieved_per_s": result.achieved_per_s,
        "median_ms": result.median_ms,
        "p90_ms": p90_ms,
        "p90_note": p90_note,
        "num_samples": int(result.latency_ms.size),
    }
