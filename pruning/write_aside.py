"""Writes a file or a folder beside its place first, so that a reader finds the old or the new one.

What a killed process leaves there is deleted by the next one that writes in the same folder,
whatever it writes: its name says that it is ours, and its lock that nobody works on it any more.

    .model.onnx.k3v9x2ab.nirvana-partial/   being written
    model.onnx                              whole
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

_SUFFIX = ".nirvana-partial"
_MOVED_FILE = "moved.json"
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
    remove_leftovers(place.parent)
    aside, lock = _make_locked(place)
    try:
        aside.chmod(0o755)  # mkdtemp makes it private
        yield aside
    finally:
        _take_back(aside)
        shutil.rmtree(aside, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def move_in_place(aside: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Move files of a folder that was made aside to beside it; they count once the last is there.

    A process that is killed in between leaves the first ones. They are noted before, so that the
    next process can tell them from files of somebody else and delete them.
    """
    *first, last = names
    if first:
        noted = {name: _identify(aside / name) for name in first}
        (aside / _MOVED_FILE).write_text(json.dumps({"last": last, "first": noted}))
    return tuple((aside / name).replace(aside.parent / name) for name in names)


def is_unused(folder: Path) -> bool:
    """Tell whether a folder is empty or not there, after deleting what killed processes left."""
    for place in (folder.parent, folder):
        remove_leftovers(place)
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


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


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left in a folder, if it is one."""
    found = [path for path in folder.iterdir() if is_leftover(path)] if folder.is_dir() else []
    for leftover in found:
        lock = _lock(leftover)
        if lock is not None:
            _take_back(leftover)
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)


def _take_back(aside: Path) -> None:
    """Delete the files that were moved out of a folder, unless all of them were."""
    try:
        noted = json.loads((aside / _MOVED_FILE).read_text())
        is_whole = not (aside / Path(noted["last"]).name).exists()
        moved = {aside.parent / Path(name).name: was for name, was in noted["first"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # there was one file, or it was killed before it moved any
    for path, was in moved.items():
        if not is_whole and path.is_file() and _identify(path) == was:
            path.unlink()


def _identify(path: Path) -> list[int]:
    """Return what stays the same when a file is moved, and differs in another at its place."""
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
