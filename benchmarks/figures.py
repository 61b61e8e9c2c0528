"""What every benchmark's result says of itself: the hardware, and each figure against its bar."""

from __future__ import annotations

import os
from typing import Any


def describe_hardware() -> str:
    """Name the processor, its threads and its memory."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    bf16 = "with" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "without"
    return (
        f"{capabilities['cpu_name']}, {len(os.sched_getaffinity(0))} cores, {bf16} native bf16, "
        f"{memory:.0f} GB, {torch.cuda.device_count()} GPUs"
    )


def make_bar(name: str, value: float, target: float, direction: str) -> dict[str, Any]:
    """Hold a figure against its target; `direction` is "at_least" or "at_most"."""
    met = value >= target if direction == "at_least" else value <= target
    return {"name": name, "value": value, "target": target, "direction": direction, "met": met}
