"""What one part of the GPU benchmark has found so far, on disk after every row."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class PartRecord:
    """Rows and facts of a part, rewritten whole at each addition: a part that dies keeps its rows.

    Attributes:
        device: "cuda", or "cpu" in a rehearsal.
    """

    def __init__(self, path: Path, *, seconds: float, device: str, rehearse: bool) -> None:
        self._path = path
        self._deadline = time.monotonic() + seconds
        self._started = time.monotonic()
        self.device = device
        self.rehearse = rehearse
        self.data: dict[str, Any] = {"status": "running", "rows": [], "failed": [], "not_run": []}
        self.write()

    def seconds_left(self) -> float:
        """Return the seconds that this part may still take."""
        return self._deadline - time.monotonic()

    def add(self, **row: Any) -> None:
        """Keep a row."""
        self.data["rows"].append(row)
        self.write()

    def state(self, **facts: Any) -> None:
        """Keep facts that are no rows."""
        self.data.update(facts)
        self.write()

    def attempt(self, step: Callable[[], T], **what: Any) -> T | None:
        """Return what `step` returns; None where it fails or no time is left, and keep the reason.

        `what` says in the record what was tried.
        """
        if self.seconds_left() <= 0:
            self.data["not_run"].append({**what, "reason": "the part's time was used up"})
            self.write()
            return None
        try:
            return step()
        except Exception as error:
            found = traceback.extract_tb(error.__traceback__)
            lines = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in found[-4:]]
            self.data["failed"].append({**what, "reason": describe(error), "at": lines})
            return None
        finally:
            self.write()

    def finish(self, status: str) -> None:
        """Say how the part ended."""
        self.data["seconds"] = round(time.monotonic() - self._started, 1)
        self.state(status=status)

    def write(self) -> None:
        """Write all aside and rename: a reader never sees half a file."""
        aside = self._path.with_suffix(".aside")
        aside.write_text(json.dumps(self.data) + "\n")
        aside.replace(self._path)


def describe(error: BaseException) -> str:
    """Return an error's type and the beginning of its text."""
    return f"{type(error).__name__}: {error}"[:600]
