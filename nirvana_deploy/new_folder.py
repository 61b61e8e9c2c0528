"""An output folder of a single verb: it appears when it is whole, and replaces nothing."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nirvana_deploy.full_disk import explain_full_disk
from pruning.errors import NirvanaError


@contextlib.contextmanager
def write_new_folder(out: Path, verb: str) -> Iterator[Path]:
    """Give a folder beside `out` to write in, and rename it to `out` when the block ends well.

    Raises:
        NirvanaError: `out` holds something already, or cannot be made, or the disk is full.
    """
    refuse_used_folder(out)
    with explain_full_disk(verb, out, ()):
        aside = _make_aside(out)
        try:
            yield aside
            if out.exists():
                out.rmdir()
            # mkdtemp makes it private; what the user asked for is an ordinary folder.
            aside.chmod(0o755)
            aside.rename(out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _make_aside(out: Path) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise NirvanaError(
            f"No folder can be made in {out.parent}: {error.strerror}. Choose another output "
            "folder; nothing was changed."
        ) from error


def refuse_used_folder(out: Path) -> None:
    """Raise NirvanaError unless `out` is free or an empty folder."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise NirvanaError(
            f"The output folder {out} holds something already. Choose a new or empty folder; "
            "nothing was changed."
        )
