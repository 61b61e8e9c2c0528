"""Measures both models under load: callers that wait in turn, and requests that come by themselves.

One model after the other, not in turns: a load is a state that takes a while.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from profiles.measuring.load import LoadResult, measure_open_loop
from profiles.measuring.measure_config import ProfileConfig
from profiles.measuring.measurement import describe_failure
from profiles.measuring.statistics import NotNegative, Positive
from profiles.measuring.sweep import sweep_callers
from profiles.runners.runner import Runner
from profiles.runners.token_inputs import make_call_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPoint:
    """What a model gave at one load.

    Attributes:
        offered_per_s: arrivals a second (Poisson); None: `num_callers` that wait for their answer.
        overloaded: the model cannot keep up, and latency depends on how long is measured.
    """

    model: str
    batch: Positive
    length: Positive
    offered_per_s: NotNegative | None
    num_callers: Positive
    num_requests: Positive
    achieved_per_s: NotNegative
    median_ms: NotNegative
    p90_ms: NotNegative | None
    p90_note: str | None
    overloaded: bool


def measure_loads(
    runners: tuple[Runner, Runner], config: ProfileConfig
) -> tuple[tuple[LoadPoint, ...], str | None]:
    """Measure `config.callers` and `config.rates_per_s` on the smallest batch size.

    Return the points, and what ended them early in words.
    """
    points: list[LoadPoint] = []
    try:
        for runner in runners:
            for result in _measure(runner, config):
                points.append(_summarise(runner.name, result, config))
    except Exception as error:  # each run-time has errors of its own for a device
        if not points:
            raise
        return tuple(points), f"under load: {describe_failure(error)}"
    return tuple(points), None


def _measure(runner: Runner, config: ProfileConfig) -> Iterator[LoadResult]:
    make_inputs = partial(make_call_inputs, runner, config)
    batch, num_requests = min(config.batch_sizes), config.min_samples
    if config.callers:
        yield from sweep_callers(
            runner, make_inputs, config.callers, batch=batch, num_requests=num_requests
        )
    call = runner.bind(make_inputs(batch)) if config.rates_per_s else None
    for rate in config.rates_per_s:
        assert call is not None
        yield measure_open_loop(call, rate_per_s=rate, num_requests=num_requests, seed=config.seed)


def _summarise(model: str, result: LoadResult, config: ProfileConfig) -> LoadPoint:
    p90_ms, p90_note = result.percentile_ms(90)
    return LoadPoint(
        model=model,
        batch=min(config.batch_sizes),
        length=config.length,
        offered_per_s=result.offered_per_s,
        num_callers=result.num_callers,
        num_requests=result.latency_ms.size,
        achieved_per_s=result.achieved_per_s,
        median_ms=result.median_ms,
        p90_ms=p90_ms,
        p90_note=p90_note,
        overloaded=result.overloaded,
    )
