"""What long work calls while it goes on, and whoever shows it gives."""

from collections.abc import Callable

# What is done, how much of it, and of how much.
Progress = Callable[[str, int, int], None]
# The same of work that is one thing: bytes, cases, steps.
CountProgress = Callable[[int, int], None]


# Lines for a person to read, meanwhile.
Say = Callable[[str], None]


def name_progress(progress: Progress | None, what: str) -> CountProgress:
    """Return a `CountProgress` for the part `what` of some work."""
    return lambda done, whole: None if progress is None else progress(what, done, whole)


def show_nothing(what: str, done: int, whole: int) -> None:
    """Be the `Progress` of those who want none."""
