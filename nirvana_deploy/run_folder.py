"""The output folder of a run: claimed, locked, never taken from someone else."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pruning.errors import NirvanaError
from pruning.strict_json import read_object
from pruning.write_aside import write_aside

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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NirvanaError(
            f"Expected a folder at {folder}, found a file. Choose another --out; nothing was "
            "changed."
        ) from error
    except PermissionError as error:
        raise NirvanaError(f"Cannot make the folder {folder}: {error.strerror}.") from error
    _refuse_foreign_folder(folder)
    with _lock(folder):
        if not (folder / RUN_FILE).exists():
            write_json(folder / RUN_FILE, {"format": _FORMAT, "created": now()})
        yield folder


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one, never a half."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file aside, flush it to the disk, and rename it."""
    with write_aside(path) as aside, aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


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
    harmless = {LOCK_FILE, f".{RUN_FILE}.tmp"}
    others = sorted(path.name for path in folder.iterdir() if path.name not in harmless)
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
        raise NirvanaError(f"Cannot write in {folder}: {error.strerror}.") from error
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
