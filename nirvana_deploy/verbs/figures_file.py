"""The file that a measuring verb writes its figures to: JSON, or a table as CSV or Markdown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nirvana_deploy.run_folder import write_json, write_text
from pruning.errors import NirvanaError

ENDINGS = (".json", ".csv", ".md")


def check_figures_file(path: Path | None) -> None:
    """Raise NirvanaError, before anything is measured, for a file that cannot be written."""
    if path is None:
        return
    if path.exists():
        raise NirvanaError(f"{path} exists already. Choose a new file for the figures.")
    if path.suffix not in ENDINGS:
        raise NirvanaError(
            f"{path} says by its ending what is written: {', '.join(ENDINGS)}, got "
            f"{path.suffix or 'none'}. Only the JSON has everything."
        )


def write_figures(
    path: Path,
    figures: dict[str, Any],
    *,
    to_csv: Callable[[], str],
    to_markdown: Callable[[], str],
) -> None:
    """Write what the ending of `path` asks for, in a folder that is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        write_text(path, to_csv())
    elif path.suffix == ".md":
        write_text(path, to_markdown())
    else:
        write_json(path, figures)
