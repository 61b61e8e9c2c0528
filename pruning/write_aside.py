"""Writes files and folders that are there whole or not at all: beside their place, then renamed.

What a killed process leaves there is deleted by the next one that writes in the same folder,
whatever it writes: its name says that it is ours, and its lock that nobody works on it any more.

    .model.onnx.k3v9x2ab.nirvana-partial/   being written
    model.onnx                              whole

| to write | use |
|---|---|
| a file, old or new | `write_aside`, `write_text`, `write_json` |
| a file and others that it needs | `write_files` |
| the folder of a verb, or a checkpoint in place of another | `write_new_folder` |
| a folder in place of the one before | `make_folder_aside`, then `put_in_place` |
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pruning.errors import NirvanaError
from pruning.machine_limits import MachineLimitError, explain_limit, explain_limits

_SUFFIX = ".nirvana-partial"
_MOVED_FILE = "moved.json"
_MADE_BY_US = re.compile(rf"\..+\.\w{{8}}{re.escape(_SUFFIX)}")
_CHECKPOINT_FILE = "config.json"  # what a folder has that may be replaced


def write_json(path: Path, data: object, *, indent: int | None = 2) -> None:
    """Write JSON so that a reader finds the old file or the new one, never a half."""
    write_text(path, json.dumps(data, indent=indent) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file aside, flush it to the disk, and rename it."""
    with write_aside(path) as aside, aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file takes the place of `path` when the block went well.

    Where it did not, what was at `path` stays, and nothing is left beside it.
    """
    with write_files(path) as folder:
        yield folder / path.name


@contextlib.contextmanager
def write_files(path: Path, verb: str | None = None) -> Iterator[Path]:
    """Give a folder to write `path` and the files that it needs in; they move beside `path`.

    `path` comes last, when the block went well: where it is, all are.

    Raises:
        NirvanaError: with `verb`, the disk is full or nothing can be written there; else the error
            passes, to be explained by who knows what was at work.
    """
    with contextlib.ExitStack() as stack:
        try:
            aside = stack.enter_context(make_folder_aside(path))
        except OSError as error:
            if verb is not None:
                raise _explain(error, verb, path.parent) from error
            # Not the name of the folder aside, which means nothing to a user.
            raise OSError(error.errno, error.strerror, str(path.parent)) from error
        with explain_limits(verb, aside) if verb else contextlib.nullcontext():
            yield aside
            others = sorted({entry.name for entry in aside.iterdir()} - {path.name})
            move_in_place(aside, [*others, path.name])


@contextlib.contextmanager
def write_new_folder(out: Path, verb: str, *, replace: bool = False) -> Iterator[Path]:
    """Give a folder beside `out` to write in, and rename it to `out` when the block ends well.

    Whatever ends the block early leaves `out` as it was. With `replace`, a checkpoint that is there
    is kept until the new one is whole.

    Raises:
        NirvanaError: `out` holds something that is not to be replaced, or is no checkpoint; nothing
            can be written there, or the disk is full.
    """
    place = out.resolve()
    with contextlib.ExitStack() as stack:
        try:
            finish_replacing(place)
            if not replace:
                refuse_used_folder(out)
            elif not is_unused(place) and not (place / _CHECKPOINT_FILE).is_file():
                raise NirvanaError(
                    f"The output folder {out} holds something already, and no checkpoint that "
                    "could be replaced. Choose another folder; nothing was changed."
                )
            aside = stack.enter_context(make_folder_aside(place))
        except OSError as error:
            raise _explain(error, verb, out.parent) from error
        with explain_limits(verb, aside):  # before the clean-up: what is free then, misleads
            yield aside
            if not replace:
                refuse_used_folder(out)  # another process may have written there meanwhile
            put_in_place(aside, place)


def refuse_used_folder(out: Path) -> None:
    """Raise NirvanaError unless `out` is free or an empty folder."""
    if not is_unused(out):
        raise NirvanaError(
            f"The output folder {out} holds something already. Choose a new or empty folder; "
            "nothing was changed."
        )


def make_folder(folder: Path, verb: str) -> None:
    """Make a folder and those above it, unless it is there; raise NirvanaError where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explain(error, verb, folder) from error


def require_writable(path: Path, verb: str) -> None:
    """Raise NirvanaError where no file can be written at `path`: before the work, not after it."""
    while not path.parent.exists():
        path = path.parent
    try:
        with make_folder_aside(path):
            pass
    except OSError as error:
        raise _explain(error, verb, path.parent) from error


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


def delete_folder(folder: Path) -> None:
    """Delete a folder by way of one aside: where that is cut, no half of it is left at its place.

    The next process that writes beside it deletes the rest.
    """
    if folder.exists():
        with make_folder_aside(folder) as aside:
            folder.rename(aside / folder.name)


def move_in_place(aside: Path, names: Sequence[str]) -> None:
    """Move files of a folder that was made aside to beside it; they count once the last is there.

    A process that is killed in between leaves the first ones. They are noted before, so that the
    next process can tell them from files of somebody else and delete them.
    """
    *first, last = names
    if first:
        noted = {name: _identify(aside / name) for name in first}
        (aside / _MOVED_FILE).write_text(json.dumps({"last": last, "first": noted}))
    for name in names:
        (aside / name).replace(aside.parent / name)


def put_in_place(aside: Path, place: Path) -> None:
    """Rename a folder to `place`; the folder that was there is left at `aside`, or deleted."""
    try:
        aside.rename(place)  # over an empty folder, too
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        return
    if _exchange(aside, place):
        return
    old = _name_replaced(place)
    try:
        place.rename(old)
        aside.rename(place)
    finally:
        finish_replacing(place)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, and tell whether this system can (Linux: renameat2)."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def finish_replacing(place: Path) -> None:
    """Put back a folder that was moved away for a new one that never came; else delete it."""
    old = _name_replaced(place)
    if old.is_dir() and not place.exists():
        old.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _name_replaced(place: Path) -> Path:
    return place.with_name(f".{place.name}.replaced")


def _explain(error: OSError, verb: str, folder: Path) -> MachineLimitError:
    """Say why nothing can be written in a folder: the same words for every verb."""
    files = [p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()]
    if files:
        reason = f"{files[0]} is a file"
    else:
        told = explain_limit(error, verb, folder)
        if told is not None:
            return told
        reason = error.strerror or str(error)
    return MachineLimitError(
        f"Cannot write in {folder}: {reason}. Choose a folder that can be written."
    )


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
