"""Shows how far named steps are: a bar each on a terminal, a line every tenth in a log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@contextlib.contextmanager
def show_steps() -> Iterator[Progress]:
    """Give a function to call with (what, number done, number of all); it shows them on stderr."""
    if not sys.stderr.isatty():
        yield _make_logger()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def show(what: str, done: int, whole: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=whole)
            bars.update(tasks[what], completed=done)

        yield show


def _make_logger() -> Progress:
    said: dict[str, int] = {}

    def log(what: str, done: int, whole: int) -> None:
        tenth = done * 10 // max(whole, 1)
        if tenth > said.get(what, 0):
            said[what] = tenth
            sys.stderr.write(f"{what}: {done} of {whole}\n")
            sys.stderr.flush()

    return log
