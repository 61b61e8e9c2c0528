"""The sha256 of a file, which every manifest carries, and the names that a manifest may have."""

import hashlib
import os
from pathlib import Path, PurePosixPath

from pruning.errors import NirvanaError

_LONGEST_NAME, _LONGEST_PATH = 255, 2048
# By path and what the file system said of the file before it was read.
_hashes: dict[tuple[str, tuple[int, ...]], str] = {}


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_unchanged(path: Path) -> str:
    """Return a file's sha256; it is read once in a process while nothing about it changes."""
    before = describe_file(path)
    key = (os.fspath(path.resolve()), before)
    if key not in _hashes:
        found = hash_file(path)
        if describe_file(path) != before:  # written while it was read
            return found
        _hashes[key] = found
    return _hashes[key]


def describe_file(path: Path) -> tuple[int, int, int, int]:
    """Return size, inode, and the times of the last write and of the last change in nanoseconds.

    The last one cannot be set by a program: a file whose bytes were changed has another.
    """
    stat = path.stat()
    return stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


def check_inside(name: str, folder: Path) -> str:
    """Return a relative path that stays in its folder; raise NirvanaError for any other.

    What a file system takes for no name (a null character, too many bytes) is none either.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise NirvanaError(f"{folder} names a file outside its folder: {name}.")
    sizes = [len(part.encode(errors="replace")) for part in path.parts]
    if "\0" in name or max(sizes) > _LONGEST_NAME or sum(sizes) > _LONGEST_PATH:
        raise NirvanaError(f"{folder} names a file that cannot be there: {name[:40]!r}...")
    return name
