"""The cells of the comparison: what was measured, kept in a file so that nothing is measured twice.

A cell's key holds a hash of the sources that it was made with: those of its method, and all that
they import from this repository. A change to another method leaves it valid.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_FOLDERS = (ROOT / "benchmarks", ROOT)  # that imports are looked up in


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What tells a cell from all others.

    Attributes:
        steps: of fine-tuning, 0 for none; for gates all steps, those that learn the gates too.
        settings: of calibration and training, as text.
        sources: hash of the code.
    """

    model: str
    method: str
    budget: float
    seed: int
    steps: int
    settings: str
    sources: str


@dataclass(slots=True)
class CellFile:
    """Cells by key, in a file of JSON lines; the last line of a key counts."""

    path: Path
    _cells: dict[Key, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.is_file():
            return
        for line in self.path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # a killed run leaves half a line
                entry = json.loads(line)
                self._cells[Key(**entry["key"])] = entry["cell"]

    def find(self, key: Key) -> dict[str, Any] | None:
        """Return a cell, None where it was not measured yet."""
        return self._cells.get(key)

    def find_older(self, key: Key) -> dict[str, Any] | None:
        """Return the last cell that earlier sources made, with their hash in it."""
        older = [
            {**cell, "sources": found.sources}
            for found, cell in self._cells.items()
            if replace(found, sources=key.sources) == key
        ]
        return older[-1] if older else None

    def add(self, key: Key, cell: dict[str, Any]) -> None:
        """Keep a cell, here and in the file."""
        self._cells[key] = cell
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            # On a line of its own, also behind half a line.
            file.write("\n" + json.dumps({"key": asdict(key), "cell": cell}) + "\n")


def hash_sources(*names: str) -> str:
    """Hash benchmark modules, and what they import from this repository, directly or not."""
    found: set[Path] = set()
    waiting = [path for name in names for path in _find_files(name)]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _list_imports(path)
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _list_imports(path: Path) -> tuple[Path, ...]:
    return tuple(
        file
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _list_names(node)
        for file in _find_files(name)
    )


def _list_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _find_files(name: str) -> list[Path]:
    places = [folder / Path(*name.split(".")).with_suffix(".py") for folder in _FOLDERS]
    return [path for path in places if path.is_file()]
