"""What long work calls while it goes on, and whoever shows it gives."""

from collections.abc import Callable

# What is done, how much of it, and of how much.
Progress = Callable[[str, int, int], None]
# The same of work that is one thing: bytes, cases, steps.
CountProgress = Callable[[int, int], None]


def show_nothing(what: str, done: int, whole: int) -> None:
    """Be the `Progress` of those who want none."""
