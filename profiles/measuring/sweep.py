"""Throughput by batch size, and by how many callers there are at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from profiles.measuring.environment import (
    Environment,
    capture_environment,
    count_allowed_cpus,
)
from profiles.measuring.load import LoadResult, measure_closed_loop
from profiles.measuring.measure_config import SweepConfig
from profiles.measuring.measurement import Clock, RotatingTimer
from profiles.runners.runner import Runner, Tensors
from profiles.runners.token_inputs import make_call_inputs
from pruning.errors import NirvanaError

MakeInputs = Callable[[int], Tensors]  # of a batch size


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPoint:
    """What one batch size takes.

    Attributes:
        rows_per_s: at the median latency.
    """

    batch: int
    median_ms: float
    rows_per_s: float
    num_samples: int


def sweep_batches(
    runner: Runner,
    make_inputs: MakeInputs,
    batches: Sequence[int],
    *,
    num_rounds: int = 32,
    clock: Clock = time.perf_counter,
) -> tuple[BatchPoint, ...]:
    """Measure each batch size, all in the same rounds.

    Raises:
        NirvanaError: there are no batch sizes, or one is there twice.
    """
    _check(batches, "batch sizes")
    calls = {str(batch): runner.bind(make_inputs(batch)) for batch in batches}
    timer = RotatingTimer(calls, clock=clock)
    timer.warm_up(2)
    samples = timer.measure(num_rounds)
    points = []
    for batch in batches:
        median_ms = float(np.median(samples[str(batch)]))
        points.append(
            BatchPoint(
                batch=batch,
                median_ms=median_ms,
                rows_per_s=batch * 1000 / median_ms,
                num_samples=num_rounds,
            )
        )
    return tuple(points)


def sweep_callers(
    runner: Runner,
    make_inputs: MakeInputs,
    counts: Sequence[int],
    *,
    batch: int = 1,
    num_requests: int = 32,
    clock: Clock = time.perf_counter,
) -> tuple[LoadResult, ...]:
    """Measure a closed loop for each number of callers at a time; each has buffers of its own.

    Raises:
        NirvanaError: there are no counts, or one is there twice.
    """
    _check(counts, "numbers of callers")
    calls = [runner.bind(make_inputs(batch)) for _ in range(max(counts))]
    return tuple(
        measure_closed_loop(calls[:count], num_requests=num_requests, clock=clock)
        for count in counts
    )


def _check(counts: Sequence[int], what: str) -> None:
    if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
        raise NirvanaError(
            f"A sweep needs {what} of 1 or more, none twice, got "
            f"{', '.join(map(str, counts)) or 'none'}."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """Hold both curves of a model, where they were measured, and how.

    Attributes:
        batches: empty where no batch sizes were asked for; so are `callers`.
    """

    model: str
    length: int
    environment: Environment
    method: Mapping[str, object]
    batches: tuple[BatchPoint, ...] = ()
    callers: tuple[LoadResult, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values; `nirvana report` draws them."""
        return {
            "model": self.model,
            "length": self.length,
            "environment": self.environment,
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


def _describe_load(result: LoadResult) -> dict[str, object]:
    p90_ms, p90_note = result.percentile_ms(90)
    return {
        "num_callers": result.num_callers,
        "achieved_per_s": result.achieved_per_s,
        "median_ms": result.median_ms,
        "p90_ms": p90_ms,
        "p90_note": p90_note,
        "num_samples": int(result.latency_ms.size),
    }
