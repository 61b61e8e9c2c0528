"""What a builder calls while it works: a log in memory, a progress bar, and a way to stop.

TensorRT calls these from C++, where a Python exception must not escape: they only store and count.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class BuildLog:
    """The messages of one build, in order: severity and text."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str]] = []

    def add(self, severity: str, message: str) -> None:
        """Append one message; `severity` is TensorRT's name for it, such as `WARNING`."""
        self.messages.append((severity, message))

    @property
    def text(self) -> str:
        """The messages alone, so that a table that is printed in one message stays whole."""
        return "\n".join(message for _, message in self.messages) + "\n"

    @property
    def errors(self) -> tuple[str, ...]:
        """The messages of severity ERROR and INTERNAL_ERROR."""
        return tuple(text for severity, text in self.messages if severity.endswith("ERROR"))


class StopFlag:
    """Set when the user asks to stop."""

    def __init__(self) -> None:
        self.is_set = False


def make_logger(trt: Any, log: BuildLog) -> object:
    """Return a TensorRT logger, at VERBOSE, that writes into `log`."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.add(severity.name, msg)

    return Logger()


def make_monitor(trt: Any, stop: StopFlag, bar: Any) -> object:
    """Return a progress monitor that drives a `rich.progress.Progress` and ends the build on stop.

    Phases nest, and the same name may run again later: each has a bar of its own while it runs.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._tasks: dict[str, object] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._tasks[phase_name] = bar.add_task(phase_name, total=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            bar.update(self._tasks[phase_name], completed=step + 1)
            return not stop.is_set

        def phase_finish(self, phase_name: str) -> None:
            bar.remove_task(self._tasks.pop(phase_name))

    return Monitor()


@contextmanager
def stop_on_interrupt() -> Iterator[StopFlag]:
    """Turn Ctrl-C into a flag while a build runs, and into KeyboardInterrupt when it has ended.

    Only the main thread may set signal handlers; elsewhere the flag stays as it is.
    """
    stop = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def set_flag(_signal_number: int, _frame: FrameType | None) -> None:
        stop.is_set = True

    previous = signal.signal(signal.SIGINT, set_flag)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
    if stop.is_set:
        raise KeyboardInterrupt
