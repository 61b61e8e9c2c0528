"""Shows progress: a bar on a terminal, a line every tenth in a log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from nirvana_deploy.runs.pipeline import say_on_stderr, say_tenths
from pruning.progress import CountProgress, Progress


@contextlib.contextmanager
def show_steps() -> Iterator[Progress]:
    """Give a function to call with (what, number done, number of all); it shows them on stderr."""
    if not sys.stderr.isatty():
        yield say_tenths(say_on_stderr)
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


@contextlib.contextmanager
def show_bytes(name: str) -> Iterator[CountProgress]:
    """Give a function to call with (bytes done, bytes of all); it shows them on stderr."""
    if not sys.stderr.isatty():
        tenths = say_tenths(say_on_stderr, _show)
        yield lambda done, whole: tenths(name, done, whole)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, whole: bar.update(task, completed=done, total=whole)


def _show(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB" if size_bytes >= 10e6 else f"{size_bytes / 1e3:,.0f} kB"
