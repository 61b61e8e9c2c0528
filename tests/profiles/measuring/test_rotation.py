import numpy as np
import pytest

from profiles.measuring.measurement import RotatingTimer
from tests.profiles.fake_runners import FakeClock, FakeRunner


def make_timer(log: list[str], seconds: dict[str, float], **settings) -> RotatingTimer:
    clock = FakeClock()
    calls = {
        name: FakeRunner(clock, lambda _run, _now, took=took: took, name=name, log=log).bind({})
        for name, took in seconds.items()
    }
    return RotatingTimer(calls, clock=clock, **settings)


SECONDS = {"a": 0.001, "b": 0.002, "c": 0.004}


def test_each_call_runs_once_a_round_in_drawn_orders() -> None:
    log: list[str] = []
    samples = make_timer(log, SECONDS).measure(50)
    rounds = [tuple(log[start : start + 3]) for start in range(0, 150, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) == 6  # every order comes about
    for name, took in SECONDS.items():
        np.testing.assert_allclose(samples[name], np.full(50, 1000 * took))


def test_a_warm_up_leaves_no_samples() -> None:
    log: list[str] = []
    timer = make_timer(log, SECONDS)
    timer.warm_up(2)
    assert len(log) == 6 and timer.num_rounds == 0


def test_an_interrupted_run_goes_on() -> None:
    log: list[str] = []
    seen: list[int] = []
    earlier = {"a": [7.0, 7.0], "b": [8.0, 8.0], "c": [9.0, 9.0]}
    samples = make_timer(log, SECONDS, samples_ms=earlier).measure(5, seen.append)
    assert len(log) == 9 and seen == [3, 4, 5]
    assert samples["b"].tolist() == pytest.approx([8.0, 8.0, 2.0, 2.0, 2.0])
    assert earlier["a"] == [7.0, 7.0]  # the caller's own are left alone
