"""NVIDIA's own counters of a GPU: which GPU it is, its memory in use, its energy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from profiles.measuring.measurement import Call, Clock
from profiles.measuring.statistics import NotNegative, Positive
from pruning.errors import NirvanaError

# Above this, or below 0, a driver reports no state of a GPU but a failure to read it.
MAX_CLOCK_MHZ = 10_000


class GpuCounters:
    """The counters of one GPU, while `open_gpu` is open."""

    def __init__(self, pynvml: ModuleType, handle: object) -> None:
        self._pynvml, self._handle = pynvml, handle

    def read_energy_joules(self) -> float | None:
        """Return the energy since the driver was loaded; None where it is not counted."""
        counted = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if counted is None else counted / 1000

    def read_used_mib(self) -> float | None:
        """Return the memory that is in use, by anyone; None where it is not told."""
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return None if memory is None else memory.used / 2**20

    def _ask(self, question: str) -> Any:
        try:
            return getattr(self._pynvml, question)(self._handle)
        except self._pynvml.NVMLError_NotSupported:
            return None
        except self._pynvml.NVMLError as error:
            raise NirvanaError(f"The GPU's counters are gone ({question}): {error}.") from error


@contextmanager
def open_gpu(uuid: str | None) -> Iterator[GpuCounters | None]:
    """Give the counters of the GPU `uuid`; None: of the only one. Gives None without NVML."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield _find(pynvml, uuid)
    finally:
        pynvml.nvmlShutdown()


def _find(pynvml: ModuleType, uuid: str | None) -> GpuCounters | None:
    try:
        if uuid is not None:
            return GpuCounters(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
        if pynvml.nvmlDeviceGetCount() == 1:
            return GpuCounters(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError:
        return None
    return None  # of several, nobody said which


def check_clock(megahertz: Any, which: str) -> object:
    """Return a clock as NVML told it; raise NirvanaError where no GPU can run at that."""
    if megahertz is None or 0 <= megahertz <= MAX_CLOCK_MHZ:
        return megahertz
    raise NirvanaError(
        f"NVML says that the {which} runs at {megahertz} MHz; expected 0 to {MAX_CLOCK_MHZ}. The "
        "driver has lost the GPU, or does not match it: see `nvidia-smi`, reload the driver."
    )


# Ten times the slowest update of the counter that was seen in the field, 100 to 200 ms.
MIN_SECONDS = 2.0
# Above what any board draws; below, a counter that was reset reads negative.
_MAX_WATTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReading:
    """What a call takes on the whole board.

    Attributes:
        idle_subtracted: False: what the GPU draws at rest is in the figures.
    """

    joules_per_call: NotNegative
    mean_watts: NotNegative
    num_calls: Positive
    seconds: NotNegative
    idle_subtracted: bool = False


def measure_energy(
    call: Call, counters: GpuCounters, *, clock: Clock, min_seconds: float = MIN_SECONDS
) -> EnergyReading | None:
    """Run `call` back to back for `min_seconds`; None where the GPU does not count energy.

    Raises:
        NirvanaError: the counter went back or jumped, or cannot be read any more.
    """
    before = counters.read_energy_joules()
    if before is None:
        return None
    started, num_calls = clock(), 0
    while (seconds := clock() - started) < min_seconds:
        call()
        num_calls += 1
    after = counters.read_energy_joules()
    joules = 0.0 if after is None else after - before
    if not 0 < joules < _MAX_WATTS * seconds:
        raise NirvanaError(
            f"The GPU counted {joules:g} J in {seconds:.1f} s, which cannot be: its counter was "
            "reset or stands still. Measure again."
        )
    return EnergyReading(
        joules_per_call=joules / num_calls,
        mean_watts=joules / seconds,
        num_calls=num_calls,
        seconds=seconds,
    )
