"""Writes a file beside its place first, so that a reader finds the old one or the new one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file takes the place of `path` when the block went well.

    Where it did not, what was at `path` stays, and nothing is left beside it.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
