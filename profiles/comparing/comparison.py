"""Compares the latency of a dense and a pruned model, case by case."""

import time

import numpy as np

from exporters.io_names import is_past
from profiles.comparing.judgement import judge_case
from profiles.comparing.profile_result import ProfileCase, ProfileResult
from profiles.measuring.environment import capture_environment, count_allowed_cpus
from profiles.measuring.measure_config import ProfileConfig
from profiles.measuring.measurement import (
    Call,
    Clock,
    describe_failure,
    measure_in_turns,
)
from profiles.measuring.nvml import EnergyReading, measure_energy, open_gpu
from profiles.measuring.statistics import NUM_RESAMPLES, find_sample_floor
from profiles.measuring.throttling import (
    find_other_fraction,
    judge_throttling,
    read_cpu_time,
    read_throttling,
)
from profiles.runners.runner import Runner
from profiles.runners.token_inputs import make_call_inputs
from pruning.errors import NirvanaError
from pruning.progress import Progress, name_progress


def compare_latency(
    dense: Runner,
    pruned: Runner,
    config: ProfileConfig,
    *,
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> ProfileResult:
    """Compare two loaded models on the same inputs, in turns. `clock` gives seconds.

    Where a device is lost on the way, the result has what was measured before, and `partial`.
    """
    _require_same_inputs(dense, pruned)
    environment = capture_environment(config.num_threads or count_allowed_cpus())
    before = read_throttling()
    cases: list[ProfileCase] = []
    partial = None
    for batch in config.batch_sizes:
        label = f"batch {batch} x {config.length}"
        try:
            case, failure = _compare_case(dense, pruned, batch, config, clock, progress)
        except Exception as error:  # each run-time has errors of its own for a device
            if not cases:
                raise
            partial = f"{label}, before a first sample: {describe_failure(error)}"
            break
        cases.append(case)
        if failure is not None:
            partial = f"{label}: {failure}"
            break
    throttled = judge_throttling(before, read_throttling())
    return ProfileResult(
        environment={
            **environment,
            "throttled_fraction": throttled.fraction,
            "throttling": throttled.describe(),
        },
        method=_describe_method(dense, pruned, config),
        cases=tuple(cases),
        partial=partial,
    )


def _compare_case(
    dense: Runner,
    pruned: Runner,
    batch: int,
    config: ProfileConfig,
    clock: Clock,
    progress: Progress | None,
) -> tuple[ProfileCase, str | None]:
    """Return the case, and what ended it early in words."""
    label = f"batch {batch} x {config.length}"
    # Each has a cache of its own heads; all else is the same.
    dense_call, pruned_call = (
        runner.bind(make_call_inputs(runner, config, batch)) for runner in (dense, pruned)
    )
    calls = dense_call, pruned_call
    before = read_cpu_time()
    measured = measure_in_turns(
        *calls,
        config,
        draw=np.random.default_rng([config.seed, batch, config.length]),
        clock=clock,
        progress=name_progress(progress, label),
    )
    other_fraction = find_other_fraction(before, read_cpu_time())
    energies: tuple[EnergyReading | None, EnergyReading | None] = (None, None)
    failure = measured.failure
    if failure is None:
        try:
            energies = (
                _measure_energy(dense, dense_call, clock),
                _measure_energy(pruned, pruned_call, clock),
            )
        except Exception as error:
            failure = f"energy: {describe_failure(error)}"
    case = judge_case(measured, batch, config, other_fraction, energies)
    return case, failure


def _measure_energy(runner: Runner, call: Call, clock: Clock) -> EnergyReading | None:
    described = runner.describe()
    if "gpu" not in described:
        return None
    with open_gpu(described["gpu"]) as counters:
        return None if counters is None else measure_energy(call, counters, clock=clock)


def _require_same_inputs(dense: Runner, pruned: Runner) -> None:
    # A layer without attention takes no cache.
    taken = [
        {spec.name: str(spec.dtype) for spec in runner.inputs if not is_past(spec.name)}
        for runner in (dense, pruned)
    ]
    if taken[0] != taken[1]:
        raise NirvanaError(
            f"{dense.name} and {pruned.name} must take the same inputs to be compared; they take "
            f"{_list_inputs(taken[0])} and {_list_inputs(taken[1])}. Export both the same way."
        )


def _list_inputs(inputs: dict[str, str]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in inputs.items()) or "none"


def _describe_method(dense: Runner, pruned: Runner, config: ProfileConfig) -> dict[str, object]:
    described = {"dense": dense.describe(), "pruned": pruned.describe()}
    alike = described["dense"] == described["pruned"]
    return {
        **(described["dense"] if alike else described),
        "order": "in turns: blocks of ABBA or BAAB, drawn at random",
        "first_run": "excluded",
        "energy": "of the whole board, by its own counter, back to back, idle not subtracted",
        "inputs": "random token ids, no padding",
        "past_tokens": config.past,
        "warmup": f"at least {config.warmup_seconds:g} s, until the latency is steady",
        "min_samples": config.min_samples,
        "min_seconds": config.min_seconds,
        "max_seconds": config.max_seconds,
        "seed": config.seed,
        "p90_sample_floor": find_sample_floor(90),
        "throughput": "rows per second at the median latency",
        "interval": f"bootstrap of paired blocks in runs of neighbours, {NUM_RESAMPLES} resamples",
    }
