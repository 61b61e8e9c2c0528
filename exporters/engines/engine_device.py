"""Where an engine runs: memory, a stream, marks in it, graphs of what was queued.

The one that there is, `CudaDevice`, is torch's view of a GPU. Tests have one of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

Mark = Any


class EngineDevice(Protocol):
    """A device with one stream, on which all is queued in order."""

    @property
    def name(self) -> str:
        """What the device is called by its maker."""
        ...

    @property
    def uuid(self) -> str | None:
        """Which device of its kind it is, as NVML calls it."""
        ...

    @property
    def stream_handle(self) -> int:
        """The stream, as TensorRT takes it."""
        ...

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return memory of the device; some is set aside even for a tensor that holds nothing."""
        ...

    def empty_host(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return memory of the host that the device copies from and to by itself."""
        ...

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Queue a copy between host and device, or within the device."""
        ...

    def make_mark(self) -> Mark:
        """Return a mark that can be queued any number of times."""
        ...

    def queue_mark(self, mark: Mark) -> None:
        """Queue a mark: it keeps the device's time when the stream comes to it."""
        ...

    def elapsed_ms(self, begin: Mark, end: Mark) -> float:
        """Return the milliseconds between two marks that the stream has come to."""
        ...

    def capture(self, queue: Callable[[], None]) -> Callable[[], None]:
        """Record what `queue` queues as a graph, and return a call that queues all of it."""
        ...

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        ...


class CudaDevice:
    """A GPU, with a stream of its own: CUDA graphs cannot be recorded on the default one."""

    def __init__(self, index: int | None = None) -> None:
        number = torch.cuda.current_device() if index is None else index
        self._device = torch.device("cuda", number)
        self._stream = torch.cuda.Stream(self._device)
        self.name = torch.cuda.get_device_name(self._device)
        self.uuid = f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"
        self.stream_handle = int(self._stream.cuda_stream)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return memory of the GPU; see `EngineDevice.empty`."""
        with torch.cuda.stream(self._stream):
            return _shape_flat(shape, dtype, device=self._device)

    def empty_host(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return pinned memory."""
        return _shape_flat(shape, dtype, pin_memory=True)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Queue a copy."""
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def make_mark(self) -> Mark:
        """Return a CUDA event."""
        return torch.cuda.Event(enable_timing=True)

    def queue_mark(self, mark: Mark) -> None:
        """Record the event."""
        mark.record(self._stream)

    def elapsed_ms(self, begin: Mark, end: Mark) -> float:
        """Return the time between two events."""
        return float(begin.elapsed_time(end))

    def capture(self, queue: Callable[[], None]) -> Callable[[], None]:
        """Record a CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            queue()

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()


def _shape_flat(shape: Sequence[int], dtype: torch.dtype, **place: Any) -> torch.Tensor:
    """Return a tensor with memory behind it even where it holds nothing, as an empty cache does."""
    count = 1
    for size in shape:
        count *= size
    return torch.empty(max(count, 1), dtype=dtype, **place)[:count].view(tuple(shape))
