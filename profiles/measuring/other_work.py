"""Measures how much of the processor others took during a measurement (Linux, /proc/stat)."""

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

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
