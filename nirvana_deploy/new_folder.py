"""An output folder of a single verb: it appears when it is whole, and replaces nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nirvana_deploy.runs.run_folder import remove_empty_run
from pruning.errors import NirvanaError
from pruning.machine_limits import explain_limit, explain_limits
from pruning.write_aside import is_unused, make_folder_aside


@contextlib.contextmanager
def write_new_folder(out: Path, verb: str) -> Iterator[Path]:
    """Give a folder beside `out` to write in, and rename it to `out` when the block ends well.

    Raises:
        NirvanaError: `out` holds something already, or cannot be made, or the disk is full.
    """
    refuse_used_folder(out)
    with contextlib.ExitStack() as stack:
        try:
            aside = stack.enter_context(make_folder_aside(out))
        except (FileExistsError, NotADirectoryError) as error:
            raise NirvanaError(
                f"No folder can be made in {out.parent}: {error.strerror}. Choose another output "
                "folder; nothing was changed."
            ) from error
        except OSError as error:
            raise explain_limit(error, verb, out.parent) or error from error
        with explain_limits(verb, aside):  # before the clean-up: what is free then, misleads
            yield aside
            if out.exists():
                out.rmdir()
            aside.rename(out)


def refuse_used_folder(out: Path) -> None:
    """Raise NirvanaError unless `out` is free or an empty folder."""
    if not is_unused(out) and not remove_empty_run(out):
        raise NirvanaError(
            f"The output folder {out} holds something already. Choose a new or empty folder; "
            "nothing was changed."
        )
