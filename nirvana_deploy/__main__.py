"""Starts `nirvana`, and lets `python -m nirvana_deploy` do the same."""

import os
import sys
from pathlib import Path


def main() -> int:
    """Take the current folder off the import path, then run the command line."""
    _leave_current_folder()
    from nirvana_deploy import _refuse_hidden

    _refuse_hidden()
    from nirvana_deploy.cli import main as run

    return run()


def _leave_current_folder() -> None:
    """Remove what makes Python import from any folder that one happens to be in.

    These are the first entry of `python -m`, and `.` or nothing on PYTHONPATH, as `:/mine` has it:
    files there hide what is installed. Both stay where this package itself is found through them.
    """
    before = sys.path.copy()
    if __name__ == "__main__" and not sys.flags.safe_path:
        del sys.path[0]
    named = os.environ["PYTHONPATH"].split(os.pathsep) if os.environ.get("PYTHONPATH") else []
    kept = [entry for entry in named if os.path.normpath(entry or ".") != "."]
    if kept != named and str(Path.cwd()) not in kept:
        here = ("", ".", str(Path.cwd()))
        sys.path[:] = [entry for entry in sys.path if entry not in here]
    from importlib.util import find_spec

    if find_spec("pruning") is None:
        sys.path[:] = before
    elif kept != named:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)


if __name__ == "__main__":
    sys.exit(main())
