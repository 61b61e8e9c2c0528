"""Imports a user's own metric or saliency by its import path, and nothing else of their folder.

The current folder is on no import path while `nirvana` works: torch and transformers look for many
modules that are not installed, and a downloaded folder may hold a file of such a name.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from pruning.errors import NirvanaError


def import_own(path: str, what: str, expected: str) -> Any:
    """Return the attribute that `package.module:name` names, of an installed package or of a
    module or package of the current folder.

    Of the current folder only that module, or that package, can be imported, and only now: what
    else it needs belongs into the same package, or on PYTHONPATH. `what` and `expected` are for
    the message.

    Raises:
        NirvanaError: there is no such module or attribute, or the module's own code fails.
    """
    module_name, _, name = path.partition(":")
    try:
        with _importable_here(module_name.partition(".")[0]):
            found: object = import_module(module_name)
            for part in name.split("."):
                found = getattr(found, part)
    except Exception as error:  # the module's own code runs, and may raise anything
        kind = "" if isinstance(error, ImportError | AttributeError | ValueError) else _name(error)
        raise NirvanaError(
            f"The {what} {path!r} cannot be imported: {kind}{error}. Expected {expected}; install "
            "the package, put its folder on PYTHONPATH, or run `nirvana` in that folder."
            + _explain_sibling(error, module_name)
        ) from error
    return found


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: "


def _explain_sibling(error: Exception, module_name: str) -> str:
    """Say what to do where a module of the current folder wants another one of that folder."""
    missing = (getattr(error, "name", None) or "") if isinstance(error, ImportError) else ""
    top = missing.partition(".")[0]
    if not top or top == module_name.partition(".")[0] or _find_here(top) is None:
        return ""
    return (
        f" {top!r} is in the current folder, from which only {module_name!r} is imported: make a "
        f"package of the two ({top}/__init__.py), or add the folder to PYTHONPATH by its full path."
    )


def _find_here(top: str) -> ModuleSpec | None:
    return PathFinder.find_spec(top, [str(Path.cwd())])


class _OneModule(MetaPathFinder):
    """Finds one top-level module of the current folder, after all that is installed."""

    def __init__(self, top: str) -> None:
        self._top = top

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return _find_here(fullname) if fullname == self._top and path is None else None


@contextlib.contextmanager
def _importable_here(top: str) -> Iterator[None]:
    finder = _OneModule(top)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
