"""Times two calls in turns: warm-up, then blocks in the order ABBA or BAAB, drawn at random.

Turns, because a machine's speed wanders: what comes close in time is slowed alike. ABBA, because
within a block a linear drift then falls on both alike, and the draw, so that no rhythm of the
machine can favour one of the two.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from profiles.measuring.measure_config import ProfileConfig
from profiles.measuring.statistics import MIN_SAMPLES_FOR_DRIFT, Samples, find_drift
from profiles.runners.runner import Tensors, read_parts
from pruning.errors import NirvanaError
from pruning.progress import CountProgress, Progress

_MIN_SECONDS_BETWEEN_DRAWS = 0.2


@contextlib.contextmanager
def draw_progress() -> Iterator[Progress]:
    """Give a callback that draws bars on the standard error when that is a terminal.

    It draws in the caller's thread, between samples; one of its own would run during them.
    """
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    tasks: dict[str, Any] = {}
    last_draw = 0.0
    with progress.Progress(
        console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as bar:

        def draw(what: str, done: int, whole: int) -> None:
            nonlocal last_draw
            if what not in tasks:
                tasks[what] = bar.add_task(f"profile {what}", total=whole)
            bar.update(tasks[what], completed=done)
            if done >= whole or time.monotonic() - last_draw > _MIN_SECONDS_BETWEEN_DRAWS:
                bar.refresh()
                last_draw = time.monotonic()

        yield draw


Call = Callable[[], Tensors]
Clock = Callable[[], float]

_DENSE, _PRUNED = 0, 1
_ORDERS = ((_DENSE, _PRUNED, _PRUNED, _DENSE), (_PRUNED, _DENSE, _DENSE, _PRUNED))
_SAMPLES_A_BLOCK = 2
# Samples are stored and drawn: a model of microseconds need not fill a disk to fill its seconds.
MAX_SAMPLES = 2000
# No model here takes a day; a clock that jumps by years does.
_MAX_RUN_SECONDS = 86_400.0
# Of `max_seconds`; a latency that has not settled by then is measured and called so.
_MAX_WARMUP_FRACTION = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Hold the samples of two models, in milliseconds.

    Attributes:
        dense_ms: [num_blocks, 2], in the order of time.
        pruned_ms: the same blocks.
        warmup_steady: False when the warm-up ran out of time before the latencies settled.
        complete: False when `max_seconds` came before `min_samples` and `min_seconds`.
        parts_ms: of each model, by part, a value for each sample: where a run's time went.
        failure: what ended the measurement, in words; the samples are those from before.
    """

    dense_ms: Samples
    pruned_ms: Samples
    warmup_seconds: float
    warmup_steady: bool
    measured_seconds: float
    complete: bool
    parts_ms: tuple[dict[str, Samples], dict[str, Samples]] = ({}, {})
    failure: str | None = None


def measure_in_turns(
    dense: Call,
    pruned: Call,
    config: ProfileConfig,
    *,
    draw: np.random.Generator,
    clock: Clock,
    progress: CountProgress,
) -> Measurement:
    """Warm both up and time them; `clock` gives seconds, `progress` gets the percent done, of 100.

    A call that fails, as when a GPU is lost, ends the measurement: what was measured is kept.
    Raises what it raised where there is nothing to keep, NirvanaError for a clock that goes back.
    """
    timer = _BlockTimer((dense, pruned), draw, clock)
    with no_garbage_collection():
        started = clock()
        warmup_steady = _warm_up(timer, config, started, clock)
        timer.forget_parts()
        warm = clock()
        blocks: list[_Block] = []
        failure = None
        while True:
            try:
                blocks.append(timer.time_block())
            except Exception as error:  # each run-time has errors of its own for a device
                if not blocks:
                    raise
                failure = describe_failure(error)
                complete = False
                break
            now = clock()
            complete = _is_enough(config, len(blocks) * _SAMPLES_A_BLOCK, now - warm)
            mean_block_seconds = (now - warm) / len(blocks)
            late = now - started + mean_block_seconds > config.max_seconds
            done = 1.0 if complete or late else _find_progress(config, blocks, now - warm)
            progress(round(100 * done), 100)
            if complete or late:
                break
    samples_ms = np.array(blocks) * 1000
    return Measurement(
        dense_ms=samples_ms[:, _DENSE],
        pruned_ms=samples_ms[:, _PRUNED],
        warmup_seconds=warm - started,
        warmup_steady=warmup_steady,
        measured_seconds=now - warm,
        complete=complete,
        parts_ms=timer.take_parts(2 * len(blocks)),
        failure=failure,
    )


def describe_failure(error: Exception) -> str:
    """Return the first line of an error, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


_Parts = dict[str, list[float]]
# Seconds by model, then by turn.
_Block = tuple[list[float], list[float]]


class _BlockTimer:
    """Times one block after the other."""

    def __init__(self, calls: tuple[Call, Call], draw: np.random.Generator, clock: Clock) -> None:
        self._calls = calls
        self._draw = draw
        self._clock = clock
        self._parts: tuple[_Parts, _Parts] = ({}, {})

    def forget_parts(self) -> None:
        """Forget the parts of the runs so far."""
        self._parts = ({}, {})

    def take_parts(self, num_samples: int) -> tuple[dict[str, Samples], dict[str, Samples]]:
        """Return the parts of each model's first `num_samples` runs."""
        dense, pruned = (
            {part: np.array(values[:num_samples]) for part, values in parts.items()}
            for parts in self._parts
        )
        return dense, pruned

    def time_block(self) -> _Block:
        """Run both twice, in a drawn order."""
        seconds: _Block = ([], [])
        for model in _ORDERS[self._draw.integers(len(_ORDERS))]:
            call = self._calls[model]
            started = self._clock()
            call()
            seconds[model].append(require_time(self._clock() - started, "the host's clock"))
            for part, value in read_parts(call).items():
                require_time(value / 1000, f"the device's clock ({part})", or_none=True)
                self._parts[model].setdefault(part, []).append(value)
        return seconds


def require_time(seconds: float, clock_name: str, *, or_none: bool = False) -> float:
    """Return what a run took; raise NirvanaError where no run can have taken that."""
    if 0 < seconds < _MAX_RUN_SECONDS or (or_none and seconds == 0):
        return seconds
    raise NirvanaError(
        f"A run took {seconds:g} s by {clock_name}, which cannot be: the clock went back, stood "
        "still or jumped. Measure again on a machine whose clock is steady (a virtual machine "
        "that is moved or suspended has none)."
    )


def _warm_up(timer: _BlockTimer, config: ProfileConfig, started: float, clock: Clock) -> bool:
    """Run until the time is up and both latencies are steady; return False if they never were."""
    blocks: list[_Block] = []
    while True:
        blocks.append(timer.time_block())
        seconds = clock() - started
        if seconds < config.warmup_seconds:
            continue
        if _is_steady(blocks):
            return True
        if seconds > config.max_seconds * _MAX_WARMUP_FRACTION:
            return False


def _is_steady(blocks: list[_Block]) -> bool:
    """Look at the newer half alone, since the older one holds what the warm-up is for."""
    window = max(len(blocks) // 2, MIN_SAMPLES_FOR_DRIFT // _SAMPLES_A_BLOCK)
    if len(blocks) < window:
        return False
    recent = np.array(blocks[-window:])
    return all(find_drift(recent[:, model].ravel()) is None for model in (_DENSE, _PRUNED))


def _is_enough(config: ProfileConfig, num_samples: int, seconds: float) -> bool:
    if num_samples < config.min_samples:
        return False
    return seconds >= config.min_seconds or num_samples >= MAX_SAMPLES


def _find_progress(config: ProfileConfig, blocks: list[_Block], seconds: float) -> float:
    parts = [len(blocks) * _SAMPLES_A_BLOCK / config.min_samples]
    if config.min_seconds:
        parts.append(seconds / config.min_seconds)
    return min(*parts, 1.0)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep Python's collector out of the samples, as `timeit` does."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
