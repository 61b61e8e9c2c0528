"""Times many calls in rounds: each once a round, in a drawn order, so that a disturbance meets all.

For two models `measurement.py` is the finer tool; this one is for the many parts of a table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from profiles.measuring.measurement import Call, Clock, no_garbage_collection
from profiles.measuring.statistics import Samples


class RotatingTimer:
    """Holds the calls, and the milliseconds of each round so far."""

    def __init__(
        self,
        calls: Mapping[str, Call],
        *,
        seed: int = 0,
        clock: Clock = time.perf_counter,
        samples_ms: Mapping[str, list[float]] | None = None,
    ) -> None:
        """`samples_ms` of earlier rounds are gone on from; `clock` gives seconds."""
        self._calls = dict(calls)
        self._names = list(calls)
        self._clock = clock
        self.samples_ms = {name: list((samples_ms or {}).get(name, [])) for name in calls}
        # An interrupted run that goes on draws other orders than those it had.
        self._draw = np.random.default_rng([seed, self.num_rounds])

    @property
    def num_rounds(self) -> int:
        """Whole rounds so far."""
        return min(map(len, self.samples_ms.values()), default=0)

    def warm_up(self, num_rounds: int) -> None:
        """Run every call some times, untimed."""
        for _ in range(num_rounds):
            for call in self._calls.values():
                call()

    def measure(
        self, num_rounds: int, after_round: Callable[[int], None] | None = None
    ) -> dict[str, Samples]:
        """Go on until there are `num_rounds`; return the samples of each call, in ms."""
        with no_garbage_collection():
            while self.num_rounds < num_rounds:
                for number in self._draw.permutation(len(self._names)):
                    name = self._names[number]
                    call = self._calls[name]
                    started = self._clock()
                    call()
                    self.samples_ms[name].append((self._clock() - started) * 1000)
                if after_round is not None:
                    after_round(self.num_rounds)
        return {name: np.array(values) for name, values in self.samples_ms.items()}
