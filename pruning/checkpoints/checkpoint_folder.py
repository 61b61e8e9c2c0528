"""A checkpoint folder comes to be whole or not at all, and never costs the one that was there."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from pruning.errors import NirvanaError

_SUFFIX = ".partial"


@contextlib.contextmanager
def write_checkpoint_folder(out_dir: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a folder beside `out_dir` to write in, and rename it to `out_dir` when all went well.

    Whatever ends the block early leaves `out_dir` as it was. With `replace`, a checkpoint that is
    there is kept until the new one is whole.

    Raises:
        NirvanaError: `out_dir` holds something and is not to be replaced, or something that is no
            checkpoint; or it cannot be written, or not to the end.
    """
    try:
        out_dir = out_dir.resolve()
        _finish_replacing(out_dir)
        _check_unused(out_dir, replace)
        _remove_leftovers(out_dir)
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(
            tempfile.mkdtemp(prefix=f".{out_dir.name}.", suffix=_SUFFIX, dir=out_dir.parent)
        )
        lock = _lock(aside)
    except OSError as error:
        raise NirvanaError(
            f"Cannot write in {out_dir.parent}: {error.strerror}. Choose a folder that can be "
            "written."
        ) from error
    try:
        yield aside
        aside.chmod(0o755)  # mkdtemp makes it private
        _put_in_place(aside, out_dir)
    except (OSError, SafetensorError) as error:
        raise NirvanaError(
            f"Cannot write {out_dir} to the end: {error}. What was there before is as it was."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _check_unused(out_dir: Path, replace: bool) -> None:
    used = out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir()))
    if used and not replace:
        raise NirvanaError(f"{out_dir} is not empty. Choose a new folder; nothing was written.")
    if used and not (out_dir / "config.json").is_file():
        raise NirvanaError(
            f"{out_dir} is not empty and holds no checkpoint that could be replaced. Choose "
            "another folder; nothing was written."
        )


def _put_in_place(aside: Path, out_dir: Path) -> None:
    """Move the new folder to its place; where the old one was, that is left at `aside`."""
    if not out_dir.exists():
        aside.rename(out_dir)
        return
    if _exchange(aside, out_dir):
        return
    old = _name_replaced(out_dir)
    try:
        out_dir.rename(old)
        aside.rename(out_dir)
    finally:
        _finish_replacing(out_dir)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, and tell whether this system can (Linux: renameat2)."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _lock(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives; None where another one has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_leftovers(out_dir: Path) -> None:
    """Delete what killed processes left of this checkpoint; one that is being written is locked."""
    made_by_us = re.compile(rf"\.{re.escape(out_dir.name)}\.\w{{8}}{re.escape(_SUFFIX)}")
    siblings = out_dir.parent.iterdir() if out_dir.parent.is_dir() else ()
    for leftover in [path for path in siblings if made_by_us.fullmatch(path.name)]:
        # An empty one may have been made a moment ago, and is not locked yet.
        lock = _lock(leftover) if any(leftover.iterdir()) else None
        if lock is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)


def _finish_replacing(out_dir: Path) -> None:
    """Put back a checkpoint that was moved away for a new one that never came; else delete it."""
    old = _name_replaced(out_dir)
    if old.is_dir() and not out_dir.exists():
        old.rename(out_dir)
    shutil.rmtree(old, ignore_errors=True)


def _name_replaced(out_dir: Path) -> Path:
    return out_dir.with_name(f".{out_dir.name}.replaced")
