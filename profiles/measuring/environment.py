"""Records where a measurement was made: processor, limits, memory, system, versions, GPUs."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from profiles.measuring.nvml import check_clock

_PACKAGES = (
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "numpy",
)
_GIB = 2**30
# A version 1 memory limit of "none" is a number near 2**63.
_NO_LIMIT_BYTES = 2**60


class Gpu(TypedDict):
    """A GPU and its state when it was looked at; what the driver does not tell is None."""

    name: str | None
    driver: str | None
    compute_capability: str | None
    memory_gib: float | None
    sm_clock_mhz: float | None
    max_sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    power_watts: float | None
    power_limit_watts: float | None
    temperature_celsius: float | None


class Environment(TypedDict):
    """Where a measurement was made; what cannot be read is None."""

    cpu: str
    num_threads: Annotated[int, Meta(ge=1)]
    num_allowed_cpus: Annotated[int, Meta(ge=1)]
    num_cpus: int | None
    cpu_governor: str | None
    container_cpu_limit: float | None
    container_memory_gib: float | None
    memory_gib: float | None
    load_average: list[Annotated[float, Meta(ge=0)]] | None
    system: str
    python: str
    packages: dict[str, str | None]
    gpus: list[Gpu]
    captured_at: str
    throttled_fraction: NotRequired[Annotated[float, Meta(ge=0)] | None]
    throttling: NotRequired[str]


def capture_environment(num_threads: int, root: Path = Path("/")) -> Environment:
    """Return plain data for the report; what cannot be read is None. `root` holds proc and sys."""
    return {
        "cpu": read_cpu_name(root),
        "num_threads": num_threads,
        "num_allowed_cpus": count_allowed_cpus(),
        "num_cpus": os.cpu_count(),
        "cpu_governor": _read_line(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "container_cpu_limit": _read_cpu_limit(root),
        "container_memory_gib": _read_memory_limit(root),
        "memory_gib": _read_memory_gib(root),
        "load_average": _read_load(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: find_version(name) for name in _PACKAGES},
        "gpus": list_gpus(),
        "captured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def count_allowed_cpus() -> int:
    """Count the CPUs that this process may run on, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_cpu_name(root: Path = Path("/")) -> str:
    """Return the processor's model name."""
    for line in _read_lines(root / "proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def list_gpus() -> list[Gpu]:
    """Describe the NVIDIA GPUs and their state now; empty without a driver.

    Raises NirvanaError for a clock at which no GPU runs.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_describe_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _describe_gpu(pynvml: ModuleType, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)

    def ask(question: str, *details: object) -> Any:
        """Return None for what this GPU or driver does not tell."""
        try:
            return getattr(pynvml, question)(handle, *details)
        except pynvml.NVMLError:
            return None

    def ask_clock(question: str, domain: int) -> Any:
        which = "memory" if domain == pynvml.NVML_CLOCK_MEM else "multiprocessors"
        return check_clock(ask(question, domain), f"{which} clock of GPU {index}")

    capability = ask("nvmlDeviceGetCudaComputeCapability")
    power_mw, limit_mw = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetEnforcedPowerLimit")
    memory = ask("nvmlDeviceGetMemoryInfo")
    return {
        "name": ask("nvmlDeviceGetName"),
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "compute_capability": capability and "{}.{}".format(*capability),
        "memory_gib": memory and round(memory.total / _GIB, 1),
        "sm_clock_mhz": ask_clock("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM),
        "max_sm_clock_mhz": ask_clock("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": ask_clock("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM),
        "power_watts": power_mw and power_mw / 1000,
        "power_limit_watts": limit_mw and limit_mw / 1000,
        "temperature_celsius": ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
    }


def _read_cpu_limit(root: Path) -> float | None:
    """Return how many CPUs' time the container gets: the tightest limit, cgroup version 2 or 1."""
    pairs = [(_read_line(folder / "cpu.max") or "").split() for folder in _list_cgroups(root)]
    old = root / "sys/fs/cgroup/cpu"
    pairs.append([_read_line(old / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")])
    limits = [int(pair[0]) / int(pair[1]) for pair in pairs if _are_digits(pair, 2)]
    return min(limits, default=None)


def _read_memory_limit(root: Path) -> float | None:
    files = [folder / "memory.max" for folder in _list_cgroups(root)]
    files.append(root / "sys/fs/cgroup/memory/memory.limit_in_bytes")
    found = [[_read_line(path) or ""] for path in files]
    limits = [int(words[0]) for words in found if _are_digits(words, 1)]
    limit = min(limits, default=_NO_LIMIT_BYTES)
    return round(limit / _GIB, 2) if limit < _NO_LIMIT_BYTES else None


def _are_digits(words: list[str], num_words: int) -> bool:
    return len(words) == num_words and all(word.isdigit() for word in words)


def _list_cgroups(root: Path) -> Iterator[Path]:
    """Yield this process's version 2 group and those above it: any of them may set the limit."""
    top = root / "sys/fs/cgroup"
    for line in _read_lines(root / "proc/self/cgroup"):
        if line.startswith("0::/"):
            group = top / line.removeprefix("0::/")
            yield group
            yield from (parent for parent in group.parents if parent.is_relative_to(top))


def _read_memory_gib(root: Path) -> float | None:
    for line in _read_lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) * 1024 / _GIB, 1)
    return None


def _read_load() -> list[float] | None:
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None


def find_version(package: str) -> str | None:
    """Return the installed version of a distribution without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _read_line(path: Path) -> str | None:
    lines = _read_lines(path)
    return lines[0].strip() if lines else None
