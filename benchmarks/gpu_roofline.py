"""What this GPU reaches on a large copy and a large matrix product: the scale for all the rest."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from gpu_calls import DeviceCall, capture
from gpu_record import PartRecord

_NUM_RUNS = 20
_TINY_SIZE, _SIZE = 64, 8192
_TINY_BYTES, _BYTES = 2**16, 2**31


def measure_roofline(record: PartRecord) -> None:
    """Add achieved bandwidth, matrix products in three formats, and the cost of a launch."""
    record.attempt(lambda: _copy(record), what="copy")
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for tf32 in (False, True) if dtype == torch.float32 else (False,):
            record.attempt(
                lambda dtype=dtype, tf32=tf32: _multiply(record, dtype, tf32),
                what=f"matrix product {dtype}",
            )
    if record.device == "cuda":
        record.attempt(lambda: _launch(record), what="launches")


def _copy(record: PartRecord) -> None:
    num_bytes = _TINY_BYTES if record.rehearse else _BYTES
    source = torch.ones(num_bytes, dtype=torch.uint8, device=record.device)
    target = torch.empty_like(source)
    ms = _time(record, lambda: target.copy_(source))
    record.add(what="copy", bytes=num_bytes, ms=ms, gb_per_second=2 * num_bytes / ms / 1e6)


def _multiply(record: PartRecord, dtype: torch.dtype, tf32: bool) -> None:
    size = _TINY_SIZE if record.rehearse else _SIZE
    left, right = (torch.randn(size, size, device=record.device).to(dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        ms = _time(record, lambda: left @ right)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    name = "tf32" if tf32 else str(dtype)
    record.add(what="matrix product", dtype=name, size=size, ms=ms, tflops=2 * size**3 / ms / 1e9)


def _launch(record: PartRecord) -> None:
    """Time 200 tiny kernels one by one and as a graph: what a launch costs."""
    value = torch.ones(1, device=record.device)

    def kernels() -> torch.Tensor:
        for _ in range(200):
            value.add_(0)
        return value

    for mode, step in (("eager", kernels), ("cuda_graph", capture(kernels))):
        record.add(what="launch", mode=mode, microseconds=_time(record, step) * 1000 / 200)


def _time(record: PartRecord, step: Callable[[], Any]) -> float:
    """Return the median milliseconds on the device; 1.0 in a rehearsal, where nothing is timed."""
    call = DeviceCall(step)
    for _ in range(1 if record.rehearse else _NUM_RUNS + 3):
        call()
    return statistics.median(call.device_ms[3:]) if call.device_ms else 1.0
