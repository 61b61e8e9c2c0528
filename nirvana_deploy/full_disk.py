"""Recognises a full disk, however the library that hit it puts it, and says what to do."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from pruning.errors import NirvanaError

_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
# safetensors, torch, arrow and ONNX Runtime raise their own types; only the text says what it is.
_TEXTS = (
    "no space left",
    "os error 28",
    "disk quota exceeded",
    "pytorchstreamwriter failed",
    "errno 28",
)
# With so little left, whatever failed, failed for want of space.
_NOTHING_LEFT_BYTES = 64 << 10


class FullDiskError(NirvanaError):
    """A disk is full; what was finished is kept."""


@contextlib.contextmanager
def explain_full_disk(stage: str, folder: Path, finished: Sequence[str]) -> Iterator[None]:
    """Turn a failure for want of disk space into a FullDiskError; let every other one through."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FullDiskError) or not is_full_disk(error, folder):
            raise
        raise FullDiskError(_describe(error, stage, folder, finished)) from error


def is_full_disk(error: BaseException, folder: Path) -> bool:
    """Tell whether `error`, or what caused it, is a full disk."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in _ERRNOS:
            return True
        if any(text in str(cause).lower() for text in _TEXTS):
            return True
        cause = cause.__cause__ or cause.__context__
    usage = shutil.disk_usage(_find_existing(folder))
    return usage.total > 0 and usage.free < _NOTHING_LEFT_BYTES  # /proc has no bytes at all


def measure_free_bytes(folder: Path) -> int:
    """Return the free space of the disk that holds `folder`, or its nearest parent that exists."""
    return shutil.disk_usage(_find_existing(folder)).free


def _find_existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _describe(error: Exception, stage: str, folder: Path, finished: Sequence[str]) -> str:
    kept = f"Finished stages are kept ({', '.join(finished)})." if finished else ""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"The disk is full: {stage} could not write in {folder} "
        f"({measure_free_bytes(folder) / 2**20:.1f} MiB free there). {kept} Free some space and "
        "run the same command again: it goes on from here. If that disk has room, another one is "
        f"full (TMPDIR, HF_HOME). The failure was: {first_line}"
    ).replace("  ", " ")
