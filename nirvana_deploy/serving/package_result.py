"""What packaging gave, whatever the server is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageResult:
    """Say what was packaged.

    Attributes:
        folder: what the server is given, relative to the package's folder.
        models: names of the models in it.
        files: all files, relative to the package's folder.
        notes: what whoever serves it must know, a line each.
        server_check: what the real server was found to do with it; None: it was not asked.
    """

    folder: str
    models: tuple[str, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    server_check: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a stage manifest."""
        lists = {name: list(getattr(self, name)) for name in ("models", "files", "notes")}
        return {**asdict(self), **lists}
