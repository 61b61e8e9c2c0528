"""Writes a file or a folder beside its place first, so that a reader finds the old or the new one.

What a killed process leaves there is deleted by the next one that writes in the same folder,
whatever it writes: its name says that it is ours, and its lock that nobody works on it any more.

    .model.onnx.k3v9x2ab.nirvana-partial/   being written
    model.onnx                              whole
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_SUFFIX = ".nirvana-partial"
_MADE_BY_US = re.compile(rf"\..+\.\w{{8}}{re.escape(_SUFFIX)}")


@contextlib.contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file takes the place of `path` when the block went well.

    Where it did not, what was at `path` stays, and nothing is left beside it.
    """
    with make_folder_aside(path) as folder:
        yield folder / path.name
        (folder / path.name).replace(path)


@contextlib.contextmanager
def make_folder_aside(place: Path) -> Iterator[Path]:
    """Make a folder beside `place` to write in, and delete what is left of it after the block.

    Raises:
        OSError: no folder can be made there.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(place.parent)
    aside, lock = _make_locked(place)
    try:
        aside.chmod(0o755)  # mkdtemp makes it private
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def is_leftover(path: Path) -> bool:
    """Tell by its name whether a folder was made here to write in."""
    return _MADE_BY_US.fullmatch(path.name) is not None


def _make_locked(place: Path) -> tuple[Path, int | None]:
    """Make a folder beside `place` and lock it for as long as this process lives."""
    # A name has 255 bytes.
    prefix = f".{os.fsencode(place.name)[:200].decode(errors='ignore')}."
    while True:
        aside = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=place.parent))
        lock = _lock(aside)
        # Before it was locked, another process may have taken it for a leftover.
        if aside.exists():
            return aside, lock
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder; None where another process has it, or the file system knows no locks."""
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def _remove_leftovers(folder: Path) -> None:
    for leftover in [path for path in folder.iterdir() if is_leftover(path)]:
        lock = _lock(leftover)
        if lock is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)
