"""Says for how much of a measurement the machine was held back by heat or power.

Counters are read before and after: nothing runs during the measurement.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

_PROC_STAT = Path("/proc/stat")
_IDLE_COLUMNS = (3, 4)  # idle, iowait
_NUM_COLUMNS = 8  # user to steal; the guest columns after them are in user already


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuReading:
    """Hold the seconds of processor time up to now.

    Attributes:
        busy_seconds: of the CPUs that this process may use, by anyone, another guest included.
        own_seconds: of this process, all threads.
        elapsed_seconds: of all those CPUs, busy or not.
    """

    busy_seconds: float
    own_seconds: float
    elapsed_seconds: float


def read_cpu_time() -> CpuReading | None:
    """Read the counters; None where the system has none."""
    try:
        text = _PROC_STAT.read_text(encoding="ascii")
        allowed = os.sched_getaffinity(0)
    except (OSError, AttributeError):
        return None
    ticks_a_second = os.sysconf("SC_CLK_TCK")
    return CpuReading(
        busy_seconds=count_busy_ticks(text, allowed) / ticks_a_second,
        own_seconds=time.process_time(),
        elapsed_seconds=time.perf_counter() * len(allowed),
    )


def count_busy_ticks(proc_stat: str, cpus: Collection[int]) -> int:
    """Add up what is not idle in the lines of these CPUs."""
    wanted = {f"cpu{number}" for number in cpus}
    total = 0
    for line in proc_stat.splitlines():
        name, *columns = line.split()
        if name in wanted:
            ticks = [int(column) for column in columns[:_NUM_COLUMNS]]
            total += sum(ticks) - sum(ticks[column] for column in _IDLE_COLUMNS)
    return total


def find_other_fraction(before: CpuReading | None, after: CpuReading | None) -> float | None:
    """Return the share of these CPUs that others used in between; None when it cannot be told."""
    if before is None or after is None:
        return None
    own = after.own_seconds - before.own_seconds
    busy = after.busy_seconds - before.busy_seconds
    elapsed = after.elapsed_seconds - before.elapsed_seconds
    # Some sandboxes keep /proc/stat still; then it cannot even account for this process.
    if elapsed <= 0 or busy < own / 2:
        return None
    return min(max(0.0, (busy - own) / elapsed), 1.0)


# Below this share of the time, what was lost is less than what a measurement can tell.
_MATERIAL_FRACTION = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleReading:
    """Hold the seconds for which each device was held back up to now, by device and reason."""

    taken_at: float
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleVerdict:
    """Say how much of a measurement was throttled.

    Attributes:
        fraction: of the time, of the device that was worst off; None where nothing could be read.
        reasons: devices and reasons, with their share of the time.
    """

    fraction: float | None
    reasons: dict[str, float]

    def describe(self) -> str:
        """Return the verdict in words."""
        if self.fraction is None:
            return "throttling: not known, this machine has no counters for it"
        if self.fraction <= _MATERIAL_FRACTION:
            return "not throttled"
        worst = ", ".join(f"{name} {share:.0%}" for name, share in self.reasons.items())
        return f"THROTTLED for {self.fraction:.0%} of the run ({worst})"


def read_throttling(root: Path = Path("/")) -> ThrottleReading:
    """Read the counters of the CPUs (Linux) and of NVIDIA GPUs; `root` holds sys."""
    return ThrottleReading(taken_at=time.monotonic(), seconds={**_read_cpus(root), **_read_gpus()})


def judge_throttling(before: ThrottleReading, after: ThrottleReading) -> ThrottleVerdict:
    """Compare two readings."""
    elapsed = after.taken_at - before.taken_at
    known = before.seconds.keys() & after.seconds.keys()
    if not known or elapsed <= 0:
        return ThrottleVerdict(fraction=None, reasons={})
    shares = {
        name: min(max(after.seconds[name] - before.seconds[name], 0.0) / elapsed, 1.0)
        for name in sorted(known)
    }
    return ThrottleVerdict(
        fraction=max(shares.values()),
        reasons={name: share for name, share in shares.items() if share > _MATERIAL_FRACTION},
    )


def _read_cpus(root: Path) -> dict[str, float]:
    """Return the longest of all cores: the kernel counts milliseconds since it started."""
    found = {}
    for reason in ("core", "package"):
        pattern = f"cpu[0-9]*/thermal_throttle/{reason}_throttle_total_time_ms"
        counted = []
        for path in (root / "sys/devices/system/cpu").glob(pattern):
            text = path.read_text(encoding="ascii").strip()
            counted += [int(text)] if text.isdigit() else []
        if counted:
            found[f"CPU heat, {reason}"] = max(counted) / 1000
    return found


def _read_gpus() -> dict[str, float]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        policies = {"power": pynvml.NVML_PERF_POLICY_POWER, "heat": pynvml.NVML_PERF_POLICY_THERMAL}
        return {
            f"GPU {index} {reason}": seconds
            for index in range(pynvml.nvmlDeviceGetCount())
            for reason, policy in policies.items()
            if (seconds := _read_violation(pynvml, index, policy)) is not None
        }
    finally:
        pynvml.nvmlShutdown()


def _read_violation(pynvml: ModuleType, index: int, policy: int) -> float | None:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        found = pynvml.nvmlDeviceGetViolationStatus(handle, policy)
    except pynvml.NVMLError:  # a consumer card or a virtual one may not tell
        return None
    return float(found.violationTime) / 1e9
