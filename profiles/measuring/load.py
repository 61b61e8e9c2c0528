"""Measures a model under load: requests that arrive by themselves, and callers that wait in turn.

Open loop: requests arrive as a Poisson process, whether or not the model is free. The latency of
one counts from its arrival, so that the time in which it waited for those before is in it.
Closed loop: each caller sends its next request when it has the answer to the last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from profiles.measuring.measurement import Call, Clock, no_garbage_collection
from profiles.measuring.statistics import Samples, find_drift, take_percentile
from pruning.errors import NirvanaError

Sleep = Callable[[float], None]
# Sleeping is late by about this much; the rest of a wait is spun.
_SPUN_SECONDS = 0.002
# The queue grows without end when the model is busy for longer than this share of the time.
_MAX_BUSY_FRACTION = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What requests waited and took at one load.

    Attributes:
        offered_per_s: arrivals a second; None in a closed loop.
        achieved_per_s: answers per second.
        num_callers: that were served at a time.
        latency_ms: of each request, in the order of arrival (closed loop: of completion).
        busy_fraction: share of the time in which the model ran; None where it was not watched.
        overloaded: the model cannot keep up: latency depends on how long is measured.
    """

    offered_per_s: float | None
    achieved_per_s: float
    num_callers: int
    latency_ms: Samples
    busy_fraction: float | None
    overloaded: bool

    @property
    def median_ms(self) -> float:
        """The median latency."""
        return float(np.median(self.latency_ms))

    def percentile_ms(self, percentile: float) -> tuple[float | None, str | None]:
        """Return (value, None), or (None, why it is withheld) below its sample floor."""
        return take_percentile(self.latency_ms, percentile)


def measure_open_loop(
    call: Call,
    *,
    rate_per_s: float,
    num_requests: int,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    sleep: Sleep = time.sleep,
) -> LoadResult:
    """Send requests at random times, `rate_per_s` on average, to a model that runs one at a time.

    Raises:
        NirvanaError: the rate or the number of requests is not above 0.
    """
    if not rate_per_s > 0 or num_requests < 1:
        raise NirvanaError(
            "An open loop needs a rate above 0 and one request or more, got "
            f"{rate_per_s:g} per second and {num_requests}."
        )
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, num_requests)
    latency_ms, busy = np.empty(num_requests), 0.0
    with no_garbage_collection():
        started = clock()
        for number, arrival in enumerate(started + np.cumsum(gaps)):
            _wait_until(float(arrival), clock, sleep)
            begun = clock()
            call()
            ended = clock()
            busy += ended - begun
            latency_ms[number] = (ended - arrival) * 1000
    seconds = ended - started
    drift = find_drift(latency_ms)
    busy_fraction = busy / seconds
    return LoadResult(
        offered_per_s=rate_per_s,
        achieved_per_s=num_requests / seconds,
        num_callers=1,
        latency_ms=latency_ms,
        busy_fraction=busy_fraction,
        overloaded=busy_fraction > _MAX_BUSY_FRACTION and (drift is None or drift > 0),
    )


def measure_closed_loop(
    calls: Sequence[Call], *, num_requests: int, clock: Clock = time.perf_counter
) -> LoadResult:
    """Let each of `calls` be sent again when it is answered, all at a time, each by a thread.

    Args:
        calls: one for each caller, with buffers of its own.
        num_requests: of each caller.

    Raises:
        NirvanaError: there are no calls or requests; what a call raised is raised again.
    """
    if not calls or num_requests < 1:
        raise NirvanaError(
            f"A closed loop needs a caller and a request, got {len(calls)} and {num_requests}."
        )
    answers: list[tuple[float, float]] = []
    failures: list[BaseException] = []
    together = threading.Barrier(len(calls) + 1)

    def run(call: Call) -> None:
        together.wait()
        try:
            for _ in range(num_requests):
                begun = clock()
                call()
                answers.append((clock(), begun))  # appending is atomic
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    with no_garbage_collection():
        for thread in threads:
            thread.start()
        together.wait()
        started = clock()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    answers.sort()
    seconds = max(answers[-1][0] - started, 1e-9)
    return LoadResult(
        offered_per_s=None,
        achieved_per_s=len(answers) / seconds,
        num_callers=len(calls),
        latency_ms=np.array([(ended - begun) * 1000 for ended, begun in answers]),
        busy_fraction=None,
        overloaded=False,
    )


def _wait_until(moment: float, clock: Clock, sleep: Sleep) -> None:
    while (left := moment - clock()) > 0:
        if left > _SPUN_SECONDS:
            sleep(left - _SPUN_SECONDS)
        else:
            sleep(0)
