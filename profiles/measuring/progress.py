"""Draws how far a measurement is, without taking part in what is measured."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

# (what is measured, fraction done)
OnProgress = Callable[[str, float], None]

_MIN_SECONDS_BETWEEN_DRAWS = 0.2


@contextlib.contextmanager
def draw_progress() -> Iterator[OnProgress]:
    """Give a callback that draws bars on the standard error when that is a terminal.

    It draws in the caller's thread, between samples; one of its own would run during them.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    tasks: dict[str, Any] = {}
    last_draw = 0.0
    with Progress(
        console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as bar:

        def watch(label: str, done: float) -> None:
            nonlocal last_draw
            if label not in tasks:
                tasks[label] = bar.add_task(f"profile {label}", total=1.0)
            bar.update(tasks[label], completed=done)
            if done >= 1 or time.monotonic() - last_draw > _MIN_SECONDS_BETWEEN_DRAWS:
                bar.refresh()
                last_draw = time.monotonic()

        yield watch
