"""Oracles: queueing theory (M/D/1) on a made-up clock, and counts with real threads."""

import threading

import numpy as np
import pytest

from profiles.measuring.load import LoadResult, measure_closed_loop, measure_open_loop
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import FakeClock, FakeRunner

SERVICE_SECONDS = 0.010


class Sleeper:
    """Sleeping moves the clock: a bit even where it is asked for nothing, as real calls do."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def __call__(self, seconds: float) -> None:
        self.clock.seconds += max(seconds, 2e-5)


def run_open(rate_per_s: float, num_requests: int = 4000) -> LoadResult:
    clock = FakeClock()
    call = FakeRunner(clock, lambda _run, _now: SERVICE_SECONDS).bind({})
    return measure_open_loop(
        call, rate_per_s=rate_per_s, num_requests=num_requests, clock=clock, sleep=Sleeper(clock)
    )


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
def test_waiting_is_that_of_a_queue(load: float) -> None:
    """M/D/1: the mean latency is the service time times (2 - load) / (2 (1 - load))."""
    found = run_open(load / SERVICE_SECONDS, 20_000)
    expected = 1000 * SERVICE_SECONDS * (2 - load) / (2 * (1 - load))
    assert found.latency_ms.mean() == pytest.approx(expected, rel=0.08)
    assert found.busy_fraction == pytest.approx(load, rel=0.05)
    assert found.achieved_per_s == pytest.approx(load / SERVICE_SECONDS, rel=0.05)
    assert not found.overloaded


def test_latency_counts_from_the_arrival() -> None:
    """Twice what it can serve: the last of n waits about half the time it took."""
    found = run_open(2 / SERVICE_SECONDS, 400)
    assert found.latency_ms[-1] > 0.4 * 400 * SERVICE_SECONDS * 1000
    assert found.overloaded
    assert found.achieved_per_s == pytest.approx(1 / SERVICE_SECONDS, rel=0.02)


def test_a_lonely_request_takes_what_it_takes() -> None:
    found = run_open(0.5, 100)
    assert found.median_ms == pytest.approx(1000 * SERVICE_SECONDS, abs=0.05)
    assert found.percentile_ms(90)[0] == pytest.approx(10, abs=0.1)
    assert found.percentile_ms(99) == (None, "100 samples; p99 needs 662")


def test_arrivals_are_a_poisson_process() -> None:
    """Gaps are exponential: their deviation is their mean."""
    clock = FakeClock()
    moments: list[float] = []

    def note() -> dict[str, np.ndarray]:
        moments.append(clock.seconds)
        return {}

    measure_open_loop(note, rate_per_s=50, num_requests=5000, clock=clock, sleep=Sleeper(clock))
    gaps = np.diff(moments)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_callers_run_at_a_time_and_each_as_often() -> None:
    counts = [0, 0, 0]
    meeting = threading.Barrier(3, timeout=20)  # breaks unless all three are under way at once

    def make(number: int):
        def call() -> dict[str, np.ndarray]:
            meeting.wait()
            counts[number] += 1
            return {}

        return call

    found = measure_closed_loop([make(number) for number in range(3)], num_requests=7)
    assert counts == [7, 7, 7] and found.latency_ms.size == 21 and found.num_callers == 3
    assert found.offered_per_s is None and found.achieved_per_s > 0


def test_what_a_call_raises_is_not_lost() -> None:
    def fail() -> dict[str, np.ndarray]:
        raise NirvanaError("the card fell off the bus")

    with pytest.raises(NirvanaError, match="the card fell off the bus"):
        measure_closed_loop([fail, fail], num_requests=2)


def test_loads_that_are_none_are_refused() -> None:
    with pytest.raises(NirvanaError, match=r"a rate above 0 and one request .*, got 0 per second"):
        run_open(0)
    with pytest.raises(NirvanaError, match="needs a caller and a request, got 0 and 3"):
        measure_closed_loop([], num_requests=3)
