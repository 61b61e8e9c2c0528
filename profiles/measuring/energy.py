"""Energy of a call on a GPU, by the counter that NVML reads.

The counter moves a few times a second, so that calls are run back to back for seconds, one model
after the other; what an idle GPU draws is in the figure.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiles.measuring.measurement import Call, Clock
from profiles.measuring.nvml import GpuCounters
from pruning.errors import NirvanaError

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

    joules_per_call: float
    mean_watts: float
    num_calls: int
    seconds: float
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
