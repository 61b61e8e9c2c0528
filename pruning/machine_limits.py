"""Recognizes that a disk is full, a folder cannot be written or memory ran out, and says so.

The libraries that meet these limits raise errors of many types; the same three sentences come of
them, wherever they happen.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from pruning.errors import NirvanaError

_P = ParamSpec("_P")
_R = TypeVar("_R")

_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_CLOSED_ERRNOS = {
    errno.EROFS: "cannot be written",
    errno.EACCES: "cannot be read or written",
    errno.EPERM: "cannot be read or written",
    errno.ENOTDIR: "is not in a folder",
    errno.EISDIR: "is a folder",
    errno.ENAMETOOLONG: "has too long a name",
    errno.ELOOP: "is a link to itself",
}
# safetensors, torch, arrow and ONNX Runtime raise their own types; only the text says what it is.
_FULL_TEXTS = (
    "no space left",
    "os error 28",
    "disk quota exceeded",
    "pytorchstreamwriter failed",
    "errno 28",
)
_CLOSED_TEXTS = ("read-only file system", "os error 30")
_MEMORY_TEXTS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "unable to allocate",
    "failed to map segment",
    "os error 12",
    "is smaller than requested bytes",
    "can't start new thread",
    # What C code makes of a failed allocation that it did not look at.
    "error return without exception set",
    "without setting an exception",
)
_AMOUNT = re.compile(
    r"(?:allocate|of size|requested bytes of|mmap|requested) *:? *"
    r"(\d[\d.,]* *(?:bytes|[kmgt]i?b\b)?)",
    re.IGNORECASE,
)
# With so little left, whatever failed, failed for want of space.
_NOTHING_LEFT_BYTES = 64 << 10


class MachineLimitError(NirvanaError):
    """The machine did not let the work be done: disk, permissions or memory."""


class FullDiskError(MachineLimitError):
    """A disk is full; what was finished is kept."""


class OutOfMemoryError(MachineLimitError):
    """Memory ran out."""


@contextlib.contextmanager
def explain_limits(
    what: str, folder: Path | None = None, *, finished: Sequence[str] = (), resumes: bool = False
) -> Iterator[None]:
    """Turn a failure for want of space, memory or permission into one that says what to do.

    Every other error passes. `what` was at work, and writes in `folder`; what is in `finished` is
    kept, and with `resumes` the same command goes on from there.
    """
    try:
        yield
    except Exception as error:
        told = explain_limit(error, what, folder, finished=finished, resumes=resumes)
        if told is None:
            raise
        raise told from error


def explained(what: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Make a function explain its failures by `explain_limits`."""

    def wrap(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with explain_limits(what):
                return function(*args, **kwargs)

        return call

    return wrap


def explain_limit(
    error: Exception,
    what: str,
    folder: Path | None = None,
    *,
    finished: Sequence[str] = (),
    resumes: bool = False,
) -> MachineLimitError | None:
    """Return what to raise in place of `error`, None where no limit of the machine caused it."""
    if isinstance(error, MachineLimitError):
        return None
    if is_out_of_memory(error):
        return OutOfMemoryError(_describe_memory(error, what))
    if is_full_disk(error, folder):
        return FullDiskError(_describe_disk(error, what, folder, finished, resumes))
    closed = _find_closed(error, folder)
    return None if closed is None else MachineLimitError(closed)


def is_full_disk(error: BaseException, folder: Path | None = None) -> bool:
    """Return whether `error`, or what caused it, is a full disk."""
    for cause in _list_causes(error):
        if isinstance(cause, OSError) and cause.errno in _FULL_ERRNOS:
            return True
        if any(text in str(cause).lower() for text in _FULL_TEXTS):
            return True
    if folder is None or all(isinstance(cause, NirvanaError) for cause in _list_causes(error)):
        return False  # what was refused in words was not refused for want of space
    usage = shutil.disk_usage(_find_existing(folder))
    return usage.total > 0 and usage.free < _NOTHING_LEFT_BYTES  # /proc has no bytes at all


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error`, or what caused it, is a failed allocation."""
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or any(text in str(cause).lower() for text in _MEMORY_TEXTS)
        for cause in _list_causes(error)
    )


def measure_free_bytes(folder: Path) -> int:
    """Return the free space of the disk that holds `folder`, or its nearest parent that exists."""
    return shutil.disk_usage(_find_existing(folder)).free


def _list_causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    seen: set[int] = set()  # by identity: some errors cannot be compared
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        found.append(cause)
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return found


def _find_existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _find_closed(error: BaseException, folder: Path | None) -> str | None:
    for cause in _list_causes(error):
        if isinstance(cause, NirvanaError):
            return None  # it says what it is
        if folder is not None and (_is_closed(cause) or _is_forbidden_in(folder, cause)):
            reason = getattr(cause, "strerror", None) or _first_line(cause)
            return f"Cannot write in {folder}: {reason}. Choose a folder that can be written."
        if isinstance(cause, OSError) and cause.errno in _CLOSED_ERRNOS and cause.filename:
            return (
                f"{os.fsdecode(cause.filename)} {_CLOSED_ERRNOS[cause.errno]} ({cause.strerror}). "
                "Choose another place, or change its permissions."
            )
        if _is_closed(cause):
            return f"{_first_line(cause)}. Choose another place, or change its permissions."
    return None


def _is_forbidden_in(folder: Path, error: BaseException) -> bool:
    """Return whether permissions keep a file from being written in `folder`, or `folder` itself."""
    if not isinstance(error, PermissionError) or not error.filename:
        return False
    return Path(os.fsdecode(error.filename)).resolve().is_relative_to(folder.resolve())


def _is_closed(error: BaseException) -> bool:
    """Return whether a folder cannot be written, of an error that may not be about reading."""
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return True
    return any(text in str(error).lower() for text in _CLOSED_TEXTS)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _describe_disk(
    error: Exception, what: str, folder: Path | None, finished: Sequence[str], resumes: bool
) -> str:
    place = ""
    if folder is not None:
        written = _measure_bytes(folder)
        need = f"it needs more than the {written / 2**20:.1f} MiB written so far, " * bool(written)
        free = measure_free_bytes(folder) / 2**20
        place = f" in {folder} ({need}{free:.1f} MiB free there)"
    kept = f" Finished stages are kept ({', '.join(finished)})." if finished else ""
    again = ": it goes on from here" if resumes else ""
    return (
        f"The disk is full: {what} could not write{place}.{kept} Free some space and run the same "
        f"command again{again}. If that disk has room, another one is full (TMPDIR, HF_HOME). The "
        f"failure was: {_first_line(error)}"
    )


def _measure_bytes(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _describe_memory(error: Exception, what: str) -> str:
    causes = _list_causes(error)
    found = next((m for m in map(_AMOUNT.search, map(str, causes)) if m is not None), None)
    amount = found[1].strip() if found else ""
    if amount.isdigit():
        amount += " bytes"
    asked = f"asked for {amount} more" if amount else "asked for more (an unknown amount)"
    on_gpu = any("cuda" in str(cause).lower() for cause in causes)
    have = " of the GPU" if on_gpu else f"; {_describe_available()}"
    return (
        f"Memory ran out: {what} {asked}{have}. Close other programs or raise the limit, or take a "
        "smaller batch size, sequence length or model."
    )


def _describe_available() -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        return f"this process is limited to {limit / 2**20:.0f} MiB (ulimit -v)"
    with contextlib.suppress(OSError):
        found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
        if found:
            return f"{int(found[1]) / 2**20:.1f} GiB are available on this machine"
    return "the machine has no more"
