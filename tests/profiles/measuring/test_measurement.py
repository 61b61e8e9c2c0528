"""All time here is made up: a fake run moves a fake clock."""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from profiles.measuring import measurement
from profiles.measuring.measure_config import ProfileConfig
from profiles.measuring.measurement import Measurement, measure_in_turns
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import FakeClock, FakeRunner, noisy

Cost = Callable[[int, float], float]
CONFIG = {"warmup_seconds": 0.5, "min_samples": 64, "min_seconds": 1.0, "max_seconds": 60.0}


class Trial:
    """One measurement of two fakes, and all that can be seen of it."""

    def __init__(self, dense: Cost, pruned: Cost, seed: int = 0, **settings: Any) -> None:
        self.clock, self.log = FakeClock(), []
        self.dense = FakeRunner(self.clock, dense, name="D", log=self.log)
        self.pruned = FakeRunner(self.clock, pruned, name="P", log=self.log)
        self.progress: list[int] = []
        self.config = ProfileConfig(**{**CONFIG, **settings})
        self.result: Measurement = measure_in_turns(
            self.dense.bind({}),
            self.pruned.bind({}),
            self.config,
            draw=np.random.default_rng(seed),
            clock=self.clock,
            progress=lambda done, _: self.progress.append(done),
        )

    @property
    def blocks(self) -> list[str]:
        text = "".join(self.log)
        return [text[start : start + 4] for start in range(0, len(text), 4)]


def test_runs_are_interleaved_in_drawn_mirrored_blocks() -> None:
    trial = Trial(noisy(0.02), noisy(0.01))
    assert set(trial.blocks) == {"DPPD", "PDDP"}
    share = trial.blocks.count("DPPD") / len(trial.blocks)
    assert 0.25 < share < 0.75
    assert Trial(noisy(0.02), noisy(0.01), seed=1).blocks != trial.blocks
    assert Trial(noisy(0.02), noisy(0.01)).blocks == trial.blocks


def test_samples_are_milliseconds_of_their_own_model() -> None:
    result = Trial(lambda *_: 0.02, lambda *_: 0.008).result
    np.testing.assert_allclose(result.dense_ms, 20.0)
    np.testing.assert_allclose(result.pruned_ms, 8.0)
    assert result.dense_ms.shape == result.pruned_ms.shape == (32, 2)


def test_samples_are_in_the_order_of_time() -> None:
    trial = Trial(lambda run, _: 0.02 + run * 1e-6, noisy(0.01))
    num_warmup = trial.dense.num_runs - trial.result.dense_ms.size
    expected = 20 + 1e-3 * np.arange(num_warmup, trial.dense.num_runs)
    np.testing.assert_allclose(trial.result.dense_ms.ravel(), expected)


def test_drift_of_the_machine_cancels_in_the_ratio() -> None:
    def slowing(seconds: float) -> Cost:
        return lambda _run, now: seconds * (1 + 0.1 * (now - 100))

    result = Trial(slowing(0.02), slowing(0.01)).result
    assert np.median(result.dense_ms) / np.median(result.pruned_ms) == pytest.approx(2, rel=0.01)


def test_measuring_goes_on_until_samples_and_seconds_are_enough() -> None:
    few_but_long = Trial(noisy(0.5), noisy(0.2), max_seconds=500.0).result
    assert few_but_long.dense_ms.size == 64 and few_but_long.complete
    many_but_short = Trial(noisy(0.002), noisy(0.001)).result
    assert many_but_short.measured_seconds >= 1.0 and many_but_short.dense_ms.size > 64


def test_a_very_fast_model_stops_at_the_largest_number_of_samples() -> None:
    result = Trial(noisy(2e-5), noisy(1e-5)).result
    assert result.dense_ms.size == measurement.MAX_SAMPLES
    assert result.complete


def test_the_cap_holds_and_is_reported() -> None:
    trial = Trial(noisy(0.5), noisy(0.5), max_seconds=30.0)
    assert not trial.result.complete
    assert 25 < trial.clock.seconds - 100 <= 31
    assert trial.result.dense_ms.size < 64


def test_one_block_is_measured_whatever_the_cap() -> None:
    result = Trial(lambda *_: 40.0, lambda *_: 20.0).result
    assert result.dense_ms.size == 2 and not result.complete


def test_warm_up_is_not_in_the_samples_and_lasts_until_steady() -> None:
    """The first 3 s are slow: longer than the 0.5 s that were asked for."""

    def warming(seconds: float) -> Cost:
        return lambda _run, now: seconds * (1 + max(0.0, 103 - now))

    result = Trial(warming(0.02), warming(0.01)).result
    assert result.warmup_steady
    assert result.warmup_seconds > 3
    np.testing.assert_allclose(result.dense_ms, 20.0)


def test_warm_up_takes_its_time_even_if_steady_at_once() -> None:
    result = Trial(lambda *_: 0.01, lambda *_: 0.01, warmup_seconds=5.0).result
    assert 5.0 <= result.warmup_seconds < 5.1 and result.warmup_steady


def test_warm_up_gives_up_at_a_quarter_of_the_cap_and_says_so() -> None:
    result = Trial(lambda run, _: 0.01 * 1.01**run, noisy(0.01), max_seconds=40.0).result
    assert not result.warmup_steady
    assert 10 < result.warmup_seconds < 15


def test_progress_rises_to_one() -> None:
    progress = Trial(noisy(0.02), noisy(0.01)).progress
    assert progress == sorted(progress)
    assert 0 < progress[0] < 10 and progress[-1] == 100


def test_garbage_is_not_collected_meanwhile_and_is_afterwards() -> None:
    states: list[bool] = []

    def watch_collector(_run: int, _now: float) -> float:
        states.append(gc.isenabled())
        return 0.01

    Trial(watch_collector, noisy(0.01))
    assert not any(states)
    assert gc.isenabled()


def test_collector_comes_back_after_an_error() -> None:
    def fail(_run: int, _now: float) -> float:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Trial(fail, noisy(0.01))
    assert gc.isenabled()


class LostGpuError(RuntimeError):
    pass


def lose_after(num_runs: int) -> Cost:
    def cost(run: int, _now: float) -> float:
        if run >= num_runs:
            raise LostGpuError("CUDA error: the device is lost\nand more")
        return 0.01

    return cost


def test_a_device_that_is_lost_leaves_the_whole_blocks_before() -> None:
    trial = Trial(noisy(0.02), lose_after(71))
    assert trial.result.failure == "CUDA error: the device is lost"
    assert not trial.result.complete
    num_warm = 0.5 / 0.06 * 2  # about that many runs of each went into the warm-up
    assert trial.result.dense_ms.shape == trial.result.pruned_ms.shape
    assert trial.result.pruned_ms.size == pytest.approx(70 - num_warm, abs=4)


def test_a_device_that_is_lost_before_is_an_error() -> None:
    with pytest.raises(LostGpuError):
        Trial(noisy(0.02), lose_after(3))
    with pytest.raises(LostGpuError):
        Trial(noisy(0.02), lose_after(0), warmup_seconds=0.0)


@pytest.mark.parametrize("seconds", [-0.5, 0.0, 1e6], ids=["back", "still", "by days"])
def test_a_clock_that_cannot_be_is_an_error(seconds: float) -> None:
    with pytest.raises(NirvanaError, match="by the host's clock, which cannot be"):
        Trial(lambda *_: seconds, noisy(0.01))
    late = Trial(lambda run, _: seconds if run == 60 else 0.01, noisy(0.01)).result
    assert late.failure is not None and "which cannot be" in late.failure
    assert 0 < late.dense_ms.size < 60


def test_parts_of_the_samples_are_kept_in_their_order() -> None:
    clock, draw = FakeClock(), np.random.default_rng(0)

    class Parted:
        def __init__(self) -> None:
            self.num_runs = 0

        def __call__(self) -> dict[str, Any]:
            self.num_runs += 1
            clock.seconds += 0.01 + 0.001 * self.num_runs
            return {}

        def read_parts(self) -> dict[str, float]:
            return {"gpu_compute_ms": 10.0 + self.num_runs, "h2d_ms": 0.0}

    config = ProfileConfig(**{**CONFIG, "warmup_seconds": 0.0, "max_seconds": 200.0})
    plain = FakeRunner(clock, noisy(0.01)).bind({})
    found = measure_in_turns(
        Parted(), plain, config, draw=draw, clock=clock, progress=lambda *_: None
    )
    assert found.parts_ms[1] == {}
    np.testing.assert_allclose(found.parts_ms[0]["gpu_compute_ms"], found.dense_ms.ravel())
    assert not found.parts_ms[0]["h2d_ms"].any()


def test_a_devices_clock_that_cannot_be_is_an_error() -> None:
    class Backwards(FakeRunner):
        def read_parts(self) -> dict[str, float]:
            return {"gpu_compute_ms": -1.0}

        def __call__(self) -> dict[str, Any]:
            return dict(self._run())

    clock = FakeClock()
    call = Backwards(clock, noisy(0.01))
    with pytest.raises(NirvanaError, match=r"device's clock \(gpu_compute_ms\), which cannot"):
        measure_in_turns(
            call,
            call,
            ProfileConfig(**CONFIG),
            draw=np.random.default_rng(0),
            clock=clock,
            progress=lambda *_: None,
        )
