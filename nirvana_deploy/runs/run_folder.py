"""The output folder of a run: claimed, locked, never taken from someone else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pruning.errors import NirvanaError
from pruning.machine_limits import explain_limit
from pruning.strict_json import read_object
from pruning.write_aside import is_leftover, make_folder, refuse_used_folder, write_json

RUN_FILE = "run.json"
RECIPE_FILE = "recipe.yaml"
LOCK_FILE = ".lock"
_FORMAT = "nirvana-run"


@contextlib.contextmanager
def claim_run_folder(folder: Path) -> Iterator[Path]:
    """Make `folder` a run folder and hold its lock; nothing in it is ever deleted here.

    Raises:
        NirvanaError: the folder holds something else, cannot be written, or is in use by a run.
    """
    was_there = folder.is_dir() and not (folder / RUN_FILE).exists()
    make_folder(folder, "the run")
    _refuse_foreign_folder(folder)
    with _lock(folder):
        if not (folder / RUN_FILE).exists():
            write_json(folder / RUN_FILE, {"format": _FORMAT, "created": now()})
        try:
            yield folder
        except BaseException:
            if _is_empty_run(folder):  # nothing to go on from, and in the way of other verbs
                _clear(folder, keep_folder=was_there)
            raise


def free_folder(out: Path) -> None:
    """Raise NirvanaError unless `out` is free for a verb; a run without a result is removed.

    Only files that a run writes before its first stage are deleted, and only while no run works
    in the folder. The folder stays.
    """
    if (out / LOCK_FILE).is_file() and _is_empty_run(out):
        # Another run may work there, or nothing can be written.
        with contextlib.suppress(NirvanaError, OSError), _lock(out):
            if _is_empty_run(out):
                _clear(out, keep_folder=True)
    refuse_used_folder(out)


def _is_empty_run(folder: Path) -> bool:
    """Return whether a folder holds nothing but what a run writes before its first result."""
    ours = {LOCK_FILE, RUN_FILE, RECIPE_FILE}
    if not folder.is_dir():
        return False
    for path in folder.iterdir():
        is_started = re.fullmatch(r"\.\w+\.partial", path.name) and path.is_dir()
        if is_started and not _has_work(path):
            continue
        if path.name not in ours and not is_leftover(path):
            return False
    return True


def _has_work(partial: Path) -> bool:
    return any(path.name != "key.json" and path.is_file() for path in partial.rglob("*"))


def _clear(folder: Path, *, keep_folder: bool) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if not keep_folder:
        folder.rmdir()


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _refuse_foreign_folder(folder: Path) -> None:
    if (folder / RUN_FILE).exists():
        try:
            found = read_object(folder / RUN_FILE, remedy="").get("format")
        except NirvanaError:
            found = None
        if found == _FORMAT:
            return
        raise NirvanaError(
            f"{folder / RUN_FILE} was not written by a nirvana run. Choose another --out, or move "
            "that folder away; nothing was changed."
        )
    others = sorted(
        path.name for path in folder.iterdir() if path.name != LOCK_FILE and not is_leftover(path)
    )
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise NirvanaError(
            f"The output folder {folder} holds something else ({shown}) and no {RUN_FILE}. Choose "
            "a new or empty folder with --out; nothing was changed."
        )


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel drops it when the process ends, however it ends."""
    try:
        file = (folder / LOCK_FILE).open("a+", encoding="utf-8")
    except PermissionError as error:
        raise explain_limit(error, "the run", folder) or error from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise NirvanaError(
                f"Another run works in {folder} (process {file.read().strip() or 'unknown'}). Wait "
                "for it, or choose another --out."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
