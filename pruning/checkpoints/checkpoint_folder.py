"""A checkpoint folder is created whole or not at all, and never costs the one that was there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from pruning.errors import NirvanaError
from pruning.machine_limits import explain_limit
from pruning.write_aside import is_unused, make_folder_aside


@contextlib.contextmanager
def write_checkpoint_folder(out_dir: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a folder beside `out_dir` to write in, and rename it to `out_dir` when all went well.

    Whatever ends the block early leaves `out_dir` as it was. With `replace`, a checkpoint that is
    there is kept until the new one is whole.

    Raises:
        NirvanaError: `out_dir` holds something and is not to be replaced, or something that is no
            checkpoint; or it cannot be written, or not to the end.
    """
    out_dir = out_dir.resolve()
    with contextlib.ExitStack() as stack:
        try:
            _finish_replacing(out_dir)
            _check_unused(out_dir, replace)
            aside = stack.enter_context(make_folder_aside(out_dir))
        except OSError as error:
            raise explain_limit(error, "prune", out_dir.parent) or NirvanaError(
                f"Cannot write in {out_dir.parent}: {error.strerror}. Choose a folder that can be "
                "written."
            ) from error
        try:
            yield aside
            _put_in_place(aside, out_dir)
        except (OSError, SafetensorError) as error:
            raise explain_limit(error, "prune", aside) or NirvanaError(
                f"Cannot write {out_dir} to the end: {error}. What was there before is as it was."
            ) from error


def _check_unused(out_dir: Path, replace: bool) -> None:
    used = not is_unused(out_dir)
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


def _finish_replacing(out_dir: Path) -> None:
    """Put back a checkpoint that was moved away for a new one that never came; else delete it."""
    old = _name_replaced(out_dir)
    if old.is_dir() and not out_dir.exists():
        old.rename(out_dir)
    shutil.rmtree(old, ignore_errors=True)


def _name_replaced(out_dir: Path) -> Path:
    return out_dir.with_name(f".{out_dir.name}.replaced")
