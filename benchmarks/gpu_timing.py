"""Times two calls in turns, at the host's clock and by events on the device at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from gpu_calls import DeviceCall

from profiles.measuring.measure_config import ProfileConfig
from profiles.measuring.measurement import Call, Clock, Measurement, measure_in_turns
from profiles.measuring.statistics import Samples, estimate_speedup, find_drift, find_variation

_SEED = 0
# Enough for a median with an interval; nothing here quotes a percentile above it.
TIMING = ProfileConfig(warmup_seconds=0.08, min_samples=32, min_seconds=0.25, max_seconds=4.0)
REHEARSAL = ProfileConfig(warmup_seconds=0.0, min_samples=4, min_seconds=0.0, max_seconds=1.0)


def compare_calls(
    dense: Callable[[], Any],
    pruned: Callable[[], Any],
    config: ProfileConfig,
    *,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Return medians, and the speed-up with its interval: end to end, and on the device.

    End to end is one call at a time, from before its first launch until the device is done with
    it; inputs and outputs stay on the device.
    """
    calls = (DeviceCall(dense), DeviceCall(pruned))
    measured = _measure(*calls, config, clock)
    result = _describe(measured)
    if calls[0].device_ms:
        result["device"] = _describe_pair(
            *(_take_last(call.device_ms, measured.dense_ms) for call in calls)
        )
    return result


def compare_runs(
    dense: Call, pruned: Call, config: ProfileConfig, *, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """Return the same of calls that tell their own parts, such as an engine's on its own stream.

    End to end has the copies from and to the host in it; on the device are the kernels alone.
    """
    measured = _measure(dense, pruned, config, clock)
    result = _describe(measured)
    on_device = [parts.get("gpu_compute_ms") for parts in measured.parts_ms]
    if all(part is not None for part in on_device):
        result["device"] = _describe_pair(
            *(np.reshape(part, measured.dense_ms.shape) for part in on_device)
        )
    return result


def _measure(dense: Call, pruned: Call, config: ProfileConfig, clock: Clock) -> Measurement:
    draw = np.random.default_rng(_SEED)
    return measure_in_turns(dense, pruned, config, draw=draw, clock=clock, progress=lambda *_: None)


def _describe(measured: Measurement) -> dict[str, Any]:
    return {
        "end_to_end": _describe_pair(measured.dense_ms, measured.pruned_ms),
        "num_samples": int(measured.dense_ms.size),
        "warmup_steady": measured.warmup_steady,
    }


def _take_last(device_ms: list[float], like: Samples) -> Samples:
    """Return the device's times of the same calls as `like`: the last ones, without the warm-up."""
    return np.array(device_ms[-like.size :]).reshape(like.shape)


def _describe_pair(dense: Samples, pruned: Samples) -> dict[str, Any]:
    speedup = estimate_speedup(dense, pruned, seed=_SEED)
    return {
        "dense_ms": _round(float(np.median(dense))),
        "pruned_ms": _round(float(np.median(pruned))),
        "speedup": _round(speedup.ratio),
        "low": _round(speedup.low),
        "high": _round(speedup.high),
        "variation": [_round(find_variation(samples.ravel())) for samples in (dense, pruned)],
        "drift": [find_drift(samples.ravel()) for samples in (dense, pruned)],
        **({"note": speedup.note} if speedup.note else {}),
    }


def _round(value: float | None) -> float | None:
    """Keep four digits: the rest is noise."""
    return None if value is None else float(f"{value:.4g}")
