"""How much memory a model takes to load and run: of this process, and of its GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from profiles.measuring.nvml import open_gpu

_KIB_A_MIB = 1024


class MemoryFigures(TypedDict):
    """`MemoryGrowth` as plain data, with what the figures are."""

    host_peak_mib: float | None
    gpu_mib: float | None
    what: str


@dataclass(slots=True, kw_only=True)
class MemoryGrowth:
    """What grew while a model was loaded and run. Filled when the watch ends.

    Attributes:
        host_peak_mib: the most that was resident, over what was before; None where the kernel
            does not tell (outside of Linux).
        gpu_mib: memory in use on the GPU, by anyone, over what was before; None without NVML.
    """

    host_peak_mib: float | None = None
    gpu_mib: float | None = None

    def to_json(self) -> MemoryFigures:
        """Return plain data, with what the figures are."""
        return {
            "host_peak_mib": self.host_peak_mib,
            "gpu_mib": self.gpu_mib,
            "what": "growth from before loading, loaded and run once at the largest batch; memory "
            "that an earlier model gave back may be used again unseen",
        }


@contextmanager
def watch_memory(gpu_uuid: str | None = None, root: Path = Path("/")) -> Iterator[MemoryGrowth]:
    """Give a record that is filled at the end; `root` holds proc."""
    growth = MemoryGrowth()
    resident = _reset_peak(root)
    with open_gpu(gpu_uuid) as counters:
        used = None if counters is None else counters.read_used_mib()
        yield growth
        if counters is not None and used is not None:
            now = counters.read_used_mib()
            growth.gpu_mib = None if now is None else round(now - used, 1)
    peak = _read_status(root, "VmHWM")
    if resident is not None and peak is not None:
        growth.host_peak_mib = round(max(peak - resident, 0) / _KIB_A_MIB, 1)


def _reset_peak(root: Path) -> int | None:
    """Return what is resident, KiB, and make the kernel forget the peak before; None if not."""
    try:
        # 5: see proc(5), /proc/pid/clear_refs.
        (root / "proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _read_status(root, "VmRSS")


def _read_status(root: Path, name: str) -> int | None:
    try:
        lines = (root / "proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return next((int(text) for text in found if text.isdigit()), None)
