"""Runs code that a model's folder brings along (`auto_map`) only where it was allowed to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_ALLOWED: ContextVar[bool] = ContextVar("remote_code_allowed", default=False)


@contextmanager
def allow_remote_code(allowed: bool = True) -> Iterator[None]:
    """Let models, configs and tokenizers that are loaded in the block run code of their folders.

    With False, nothing changes: what an outer block allows stays allowed.
    """
    token = _ALLOWED.set(allowed or _ALLOWED.get())
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def is_remote_code_allowed() -> bool:
    """Return whether code of a model's folder may run now."""
    return _ALLOWED.get()


def explain_remote_code(source: str) -> str:
    """Say that a model needs code of its own, which, and how to allow it."""
    names = _list_code(Path(source))
    what = f" ({', '.join(names)})" if names else ""
    return (
        f"{source} needs code of its own{what}, and that was not run: it could do anything with "
        "your account. Read it, then allow it by --trust-remote-code (in a recipe: "
        "trust_remote_code: true), or take a model of a type that transformers knows."
    )


def _list_code(folder: Path) -> list[str]:
    names: set[str] = set()
    for file in ("config.json", "tokenizer_config.json"):
        try:
            named: object = json.loads((folder / file).read_text(encoding="utf-8"))["auto_map"]
            values = named.values() if isinstance(named, dict) else [named]
            for value in values:
                several = value if isinstance(value, list) else [value]
                names |= {f"{str(v).rpartition('--')[2].split('.')[0]}.py" for v in several if v}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return sorted(names)
