"""An engine whose inputs and outputs have their places: what is left is to run it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from exporters.engines.engine_device import EngineDevice
from pruning.errors import NirvanaError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeBounds:
    """What one input may be in one profile."""

    min: Shape
    opt: Shape
    max: Shape

    def find_misfit(self, shape: Shape) -> str | None:
        """Return what is wrong with a shape in words, or None where it fits."""
        if len(shape) != len(self.min):
            return f"has {len(shape)} dimensions, expected {len(self.min)}"
        for axis, (size, low, high) in enumerate(zip(shape, self.min, self.max, strict=True)):
            if not low <= size <= high:
                wanted = f"{low}" if low == high else f"{low} to {high}"
                return f"has {size} in dimension {axis}, expected {wanted}"
        return None

    def distance(self, shape: Shape) -> float:
        """Return how far a shape is from the one that was tuned for; 0 is that one."""
        pairs = zip(shape, self.opt, strict=True)
        return sum(abs(math.log(max(size, 1) / max(tuned, 1))) for size, tuned in pairs)


Profile = Mapping[str, ShapeBounds]


def choose_profile(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int:
    """Return the number of the profile that takes `shapes`, of several the one tuned nearest.

    Raises NirvanaError where none does, saying of each which input and dimension does not fit.
    """
    misfits = [_find_misfits(profile, shapes) for profile in profiles]
    fitting = [number for number, found in enumerate(misfits) if not found]
    if not fitting:
        reasons = "; ".join(
            f"profile {number}: {', '.join(found)}" for number, found in enumerate(misfits)
        )
        raise NirvanaError(
            f"The engine takes no such shapes. {reasons}. Keep within its optimization profiles, "
            "or build it with wider ones."
        )
    return min(fitting, key=lambda number: _find_distance(profiles[number], shapes))


def _find_misfits(profile: Profile, shapes: Mapping[str, Shape]) -> list[str]:
    found = ((name, profile[name].find_misfit(shape)) for name, shape in shapes.items())
    return [f"{name} {misfit}" for name, misfit in found if misfit is not None]


def _find_distance(profile: Profile, shapes: Mapping[str, Shape]) -> float:
    return sum(profile[name].distance(shape) for name, shape in shapes.items())


# trtexec's parts of an end-to-end latency; beside them it tells what launching costs the host.
DEVICE_PARTS = ("h2d_ms", "gpu_compute_ms", "d2h_ms")
ENQUEUE = "enqueue_ms"


class BoundEngine:
    """Runs an engine on one set of shapes. Its tensors are overwritten by the next call.

    Attributes:
        profile: number of the optimization profile.
        on_device: inputs and outputs by name, where the engine reads and writes them.
    """

    def __init__(
        self,
        *,
        context: Any,
        profile: int,
        device: EngineDevice,
        inputs: Mapping[str, torch.Tensor],
        outputs: Mapping[str, tuple[Shape, torch.dtype]],
        aliases: Mapping[str, str],
        host_names: frozenset[str],
        resident: frozenset[str],
        record: bool,
        fail: Callable[[str], None],
    ) -> None:
        """Set memory aside, bind it, run once, and with `record` record that as a CUDA graph.

        Inputs in `host_names` are read by the host; an output in `aliases` has its input's place;
        what is in `resident` is not copied by a call.
        """
        self._context, self._device, self._fail = context, device, fail
        self.profile = profile
        self._marks = [device.make_mark() for _ in range(len(DEVICE_PARTS) + 1)]
        self._from_host: dict[str, torch.Tensor] = {}
        self._to_host: dict[str, torch.Tensor] = {}
        self.on_device: dict[str, torch.Tensor] = {}
        for name, tensor in inputs.items():
            self._place_input(name, tensor, on_host=name in host_names)
        for name, (shape, dtype) in outputs.items():
            source = aliases.get(name)
            self.on_device[name] = (
                device.empty(shape, dtype) if source is None else self.on_device[source]
            )
            if name not in resident:
                self._to_host[name] = device.empty_host(shape, dtype)
        self._bind_addresses()
        for name, tensor in self._from_host.items():
            device.copy(self.on_device[name], tensor)
        # Kept alive, but not copied again.
        self._resident_source = {n: self._from_host.pop(n) for n in resident & set(inputs)}
        self._launch = self._execute
        self.enqueue()
        device.synchronize()
        if record:  # TensorRT settles its buffers in a first run, which must not be in the graph
            self._launch = device.capture(self._execute)
            device.synchronize()

    def __call__(self) -> dict[str, torch.Tensor]:
        """Copy in, run, copy out, wait; return the outputs that are copied, on the host."""
        self.enqueue()
        self._device.synchronize()
        return self._to_host

    def enqueue(self) -> None:
        """Queue copies and run without waiting."""
        device, marks = self._device, self._marks
        device.queue_mark(marks[0])
        for name, tensor in self._from_host.items():
            device.copy(self.on_device[name], tensor)
        device.queue_mark(marks[1])
        started = time.perf_counter()
        self._launch()
        self._enqueue_ms = (time.perf_counter() - started) * 1000
        device.queue_mark(marks[2])
        for name, tensor in self._to_host.items():
            device.copy(tensor, self.on_device[name])
        device.queue_mark(marks[3])

    def read_parts(self) -> dict[str, float]:
        """Return the milliseconds of the last call that was waited for: the parts, `ENQUEUE`."""
        pairs = zip(DEVICE_PARTS, pairwise(self._marks), strict=True)
        parts = {part: self._device.elapsed_ms(*pair) for part, pair in pairs}
        return {**parts, ENQUEUE: self._enqueue_ms}

    def _place_input(self, name: str, tensor: torch.Tensor, *, on_host: bool) -> None:
        if on_host:
            self.on_device[name] = tensor.clone()
            return
        self.on_device[name] = self._device.empty(tensor.shape, tensor.dtype)
        self._from_host[name] = self._device.empty_host(tensor.shape, tensor.dtype)
        self._from_host[name].copy_(tensor)

    def _bind_addresses(self) -> None:
        for name, tensor in self.on_device.items():
            if not self._context.set_tensor_address(name, _find_address(tensor)):
                self._fail(f"it does not take memory for {name}")
        missing = self._context.infer_shapes()
        if missing:
            self._fail(f"the shapes of {', '.join(missing)} are not settled by its inputs")

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._device.stream_handle):
            self._fail("it did not start")


def _find_address(tensor: torch.Tensor) -> int:
    """Return where a tensor's memory is; torch calls that of one that holds nothing 0."""
    return tensor.data_ptr() or tensor.untyped_storage().data_ptr()
