import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from profiles.measuring.environment import Environment, capture_environment
from pruning.errors import NirvanaError
from pruning.strict_json import convert_json


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_the_machine_is_described_in_plain_data() -> None:
    found = capture_environment(2)
    assert json.loads(json.dumps(found)) == found
    assert found["num_threads"] == 2
    assert found["num_allowed_cpus"] == len(os.sched_getaffinity(0))
    assert found["python"] == platform.python_version()
    assert found["packages"]["onnx"] == importlib.metadata.version("onnx")
    assert found["cpu"] and found["memory_gib"] > 0


def test_versions_are_read_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would raise
    assert capture_environment(1)["packages"]["torch"] == importlib.metadata.version("torch")


def test_processor_memory_and_governor_are_read(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor : 0\nmodel name\t: Fast CPU @ 3 GHz\n")
    write(tmp_path, "proc/meminfo", "MemFree: 1 kB\nMemTotal:       16777216 kB\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    found = capture_environment(1, tmp_path)
    assert found["cpu"] == "Fast CPU @ 3 GHz"
    assert found["memory_gib"] == 16.0
    assert found["cpu_governor"] == "powersave"


def test_the_tightest_container_limit_counts(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/pod/box\n")
    write(tmp_path, "sys/fs/cgroup/pod/box/cpu.max", "max 100000\n")
    write(tmp_path, "sys/fs/cgroup/pod/cpu.max", "150000 100000\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "400000 100000\n")
    write(tmp_path, "sys/fs/cgroup/pod/box/memory.max", "4294967296\n")
    write(tmp_path, "sys/fs/cgroup/pod/memory.max", "max\n")
    found = capture_environment(1, tmp_path)
    assert (found["container_cpu_limit"], found["container_memory_gib"]) == (1.5, 4.0)


def test_limits_of_version_1_are_read(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:cpu:/box\n3:memory:/box\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    found = capture_environment(1, tmp_path)
    assert (found["container_cpu_limit"], found["container_memory_gib"]) == (0.5, None)


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    found = capture_environment(1, tmp_path)
    unknown = ("cpu_governor", "container_cpu_limit", "container_memory_gib", "memory_gib")
    assert [found[name] for name in unknown] == [None] * 4
    assert found["cpu"]


class FakeNvml(SimpleNamespace):
    """Stands for nvidia-ml-py on a machine with one GPU that does not tell its power limit."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    num_open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.num_open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.num_open -= 1

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetName": "L4",
            "nvmlSystemGetDriverVersion": "580.1",
            "nvmlDeviceGetCudaComputeCapability": (8, 9),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 * 2**30),
            "nvmlDeviceGetClockInfo": 1500,
            "nvmlDeviceGetMaxClockInfo": 2040,
            "nvmlDeviceGetPowerUsage": 33500,
            "nvmlDeviceGetTemperature": 41,
        }

        def answer(*_: Any) -> Any:
            if name not in answers:
                raise self.NVMLError("not supported")
            return answers[name]

        return answer


def test_gpus_are_described_with_clocks_and_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (gpu,) = capture_environment(1)["gpus"]
    assert (gpu["name"], gpu["driver"], gpu["compute_capability"]) == ("L4", "580.1", "8.9")
    assert (gpu["sm_clock_mhz"], gpu["max_sm_clock_mhz"]) == (1500, 2040)
    assert (gpu["power_watts"], gpu["power_limit_watts"]) == (33.5, None)
    assert gpu["memory_gib"] == 24.0
    assert nvml.num_open == 0


@pytest.mark.parametrize("megahertz", [-1, 4_294_967_295], ids=["negative", "absurd"])
def test_a_clock_that_no_gpu_has_is_an_error(
    monkeypatch: pytest.MonkeyPatch, megahertz: int
) -> None:
    class LostGpu(FakeNvml):
        def nvmlDeviceGetClockInfo(self, *_: Any) -> int:  # noqa: N802
            return megahertz

    monkeypatch.setitem(sys.modules, "pynvml", LostGpu())
    with pytest.raises(NirvanaError, match=rf"clock of GPU 0 runs at {megahertz} MHz; expected 0"):
        capture_environment(1)


def test_no_driver_means_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise FakeNvml.NVMLError("driver not loaded")

    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(nvmlInit=fail))
    assert capture_environment(1)["gpus"] == []


def test_what_is_captured_fits_its_record(tmp_path: Path) -> None:
    for root in (Path("/"), tmp_path):  # the second has no proc and no sys
        found = json.loads(json.dumps(capture_environment(2, root)))
        assert convert_json(found, Environment, name="here", remedy="", exact=True) == found
