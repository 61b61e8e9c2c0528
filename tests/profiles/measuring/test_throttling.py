import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from profiles.measuring.throttling import ThrottleReading, judge_throttling, read_throttling


def reading(at: float, **seconds: float) -> ThrottleReading:
    return ThrottleReading(taken_at=at, seconds=seconds)


def test_the_share_of_the_time_is_that_of_the_worst() -> None:
    verdict = judge_throttling(reading(10, heat=5.0, power=1.0), reading(20, heat=8.0, power=1.05))
    assert verdict.fraction == pytest.approx(0.3) and verdict.reasons == {"heat": 0.3}
    assert verdict.describe() == "THROTTLED for 30% of the run (heat 30%)"


def test_a_free_run_is_not_throttled() -> None:
    verdict = judge_throttling(reading(0, heat=5.0), reading(10, heat=5.0))
    assert verdict.fraction == 0 and verdict.describe() == "not throttled"


def test_without_counters_nothing_is_claimed() -> None:
    verdict = judge_throttling(reading(0), reading(10))
    assert verdict.fraction is None and "not known" in verdict.describe()


def test_the_kernels_counters_are_read(tmp_path: Path) -> None:
    for cpu, ms in (("cpu0", "1500"), ("cpu1", "2500"), ("cpu2", "?")):
        path = tmp_path / "sys/devices/system/cpu" / cpu / "thermal_throttle"
        path.mkdir(parents=True)
        (path / "core_throttle_total_time_ms").write_text(f"{ms}\n")
    assert read_throttling(tmp_path).seconds == {"CPU heat, core": 2.5}


def test_gpu_violations_are_read_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NVMLError(Exception):
        pass

    def violation(_handle: int, policy: int) -> SimpleNamespace:
        if policy == 1:
            raise NVMLError
        return SimpleNamespace(violationTime=3_000_000_000)

    fake = SimpleNamespace(
        NVMLError=NVMLError,
        NVML_PERF_POLICY_POWER=0,
        NVML_PERF_POLICY_THERMAL=1,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetViolationStatus=violation,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert read_throttling(tmp_path).seconds == {"GPU 0 power": 3.0, "GPU 1 power": 3.0}
