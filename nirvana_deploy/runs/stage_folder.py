"""The folder of one stage: written aside, renamed when whole, replaced only by a whole one.

.prune.partial/   being written; key.json says for which key
prune/            finished; manifest.json lists its files
.prune.old/       the finished one before, for the moment between two renames
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pruning.checkpoints.file_hash import describe_file, hash_file
from pruning.errors import NirvanaError
from pruning.strict_json import JsonMapping, JsonObject, convert_json, read_object
from pruning.write_aside import delete_folder, is_leftover, remove_leftovers, write_json

MANIFEST_FILE = "manifest.json"
KEY_FILE = "key.json"
# Files up to this size are hashed at each look; larger ones when anything that the file system
# says of them is not as it was when their hash was taken.
_ALWAYS_HASHED_BYTES = 4 << 20


class _File(TypedDict):
    size_bytes: int
    stat: NotRequired[list[int]]  # of manifests since the files are compared by it
    sha256: str


class _StageManifest(TypedDict):
    """What is read of a finished stage's manifest."""

    key: str
    digest: str
    files: dict[str, _File]
    result: dict[str, object]
    key_parts: NotRequired[dict[str, object]]


class _Interrupted(TypedDict):
    """What is read of an interrupted stage's key file."""

    key: str
    started: str
    num_attempts: int
    key_parts: NotRequired[dict[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFolder:
    """Where one stage of the run in `run_dir` keeps its files.

    Attributes:
        scratch: what an interrupted stage resumes from; it is deleted when the stage is done.
    """

    run_dir: Path
    name: str
    scratch: tuple[str, ...] = ()

    @property
    def final(self) -> Path:
        """The finished folder."""
        return self.run_dir / self.name

    @property
    def partial(self) -> Path:
        """The folder in which the stage works."""
        return self.run_dir / f".{self.name}.partial"

    @property
    def old(self) -> Path:
        """The finished folder that is being replaced."""
        return self.run_dir / f".{self.name}.old"

    def recover(self) -> None:
        """Bring a replacement or a deletion that was cut in the middle to its end."""
        remove_leftovers(self.partial)  # of the manifest's own writing
        if _read_json(self.partial / MANIFEST_FILE, _StageManifest):
            self._swap_in()
        if (
            self.old.exists()
            and not self.final.exists()
            and _read_json(self.old / MANIFEST_FILE, _StageManifest)
        ):
            self.old.rename(self.final)
        delete_folder(self.old)
        delete_folder(self.run_dir / f".{self.name}.trash")  # left by version 0.1

    def read_manifest(self) -> JsonObject | None:
        """Return the finished folder's manifest; None when there is none, or it is damaged.

        Raises:
            NirvanaError: something that is no stage lies where the finished folder belongs.
        """
        if not self.final.exists():
            return None
        if not (self.final / MANIFEST_FILE).is_file():
            if self.final.is_dir() and not any(self.final.iterdir()):
                self.final.rmdir()
                return None
            raise NirvanaError(
                f"{self.final} has no {MANIFEST_FILE}: it is not a finished stage. Move it away "
                "and run again; nothing was changed."
            )
        return _read_json(self.final / MANIFEST_FILE, _StageManifest)

    def find_damage(self, manifest: JsonMapping) -> str | None:
        """Name the first file that is missing or differs from the manifest; None when all hold."""
        for name, expected in manifest["files"].items():
            path = self.final / name
            if not path.is_file():
                return f"{name} is missing"
            stat = path.stat()
            if stat.st_size != expected["size_bytes"]:
                return f"{name} has {stat.st_size} bytes, not {expected['size_bytes']}"
            is_small = stat.st_size <= _ALWAYS_HASHED_BYTES
            # Manifests of older versions have no such record: their files are hashed.
            is_same = list(describe_file(path)) == expected.get("stat")
            if (is_small or not is_same) and hash_file(path) != expected["sha256"]:
                return f"{name} was changed"
        return None

    def read_interrupted(self) -> JsonObject | None:
        """Return what the working folder of an interrupted attempt says of it; None without one."""
        return _read_json(self.partial / KEY_FILE, _Interrupted)

    def open_partial(
        self, key: str, key_parts: Mapping[str, object], started: str
    ) -> tuple[int, str]:
        """Prepare the working folder; return how often it was begun before, and since when.

        One of the same key keeps its scratch and nothing else; one of another key is discarded.
        `key_parts` are kept to tell later how another key differs.

        Raises:
            NirvanaError: the folder holds something that is not a stage's.
        """
        marker = self.read_interrupted()
        if self.partial.exists() and marker is None:
            unwritten = {KEY_FILE, MANIFEST_FILE}
            names = {path.name for path in self.partial.iterdir() if not is_leftover(path)}
            if not names <= unwritten:
                raise NirvanaError(
                    f"{self.partial} holds files but no readable {KEY_FILE}: it is not ours to "
                    "delete. Move it away and run again."
                )
        num_attempts = 0
        if marker is not None and marker.get("key") == key:
            num_attempts, started = int(marker["num_attempts"]), str(marker["started"])
            self._clear_partial()
        else:
            delete_folder(self.partial)
        self.partial.mkdir(exist_ok=True)
        write_json(
            self.partial / KEY_FILE,
            {
                "stage": self.name,
                "key": key,
                "started": started,
                "num_attempts": num_attempts + 1,
                "key_parts": key_parts,
            },
        )
        return num_attempts, started

    def finish(self, manifest: Mapping[str, object]) -> dict[str, object]:
        """List the files in the manifest, write it, and put the folder in place; return it all."""
        files = _list_files(self.partial, leave_out=(KEY_FILE, MANIFEST_FILE, *self.scratch))
        whole = {**manifest, "digest": _digest(files), "files": files}
        write_json(self.partial / MANIFEST_FILE, whole)
        self._swap_in()
        delete_folder(self.old)
        return whole

    def _clear_partial(self) -> None:
        """Delete half-written outputs, which a stage may refuse to write over."""
        for path in self.partial.iterdir():
            if path.name != KEY_FILE and path.name not in self.scratch:
                _remove(path)

    def _swap_in(self) -> None:
        for name in (KEY_FILE, *self.scratch):
            _remove(self.partial / name)
        if self.final.exists():
            delete_folder(self.old)
            self.final.rename(self.old)
        self.partial.rename(self.final)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _list_files(folder: Path, leave_out: tuple[str, ...]) -> dict[str, dict[str, object]]:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name.split("/", 1)[0] not in leave_out:
            stat = describe_file(path)  # before the hash: what is written after it is seen
            files[name] = {
                "size_bytes": stat[0],
                "stat": list(stat),
                "sha256": hash_file(path),
            }
    return files


def _digest(files: Mapping[str, Mapping[str, object]]) -> str:
    lines = "".join(f"{name}\0{file['sha256']}\n" for name, file in files.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def _read_json(path: Path, shape: type[Any]) -> dict[str, object] | None:
    """Return the object in a file of ours; None when it is missing, was cut, or is another."""
    try:
        data = read_object(path, remedy="", finite=False)
        convert_json(data, shape, name=path.name, remedy="")
    except NirvanaError:
        return None
    return data
