"""The finite range of every number in a config, checked whoever makes the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from pruning.errors import NirvanaError

# Beyond these a number is a slip or an attack: no run takes so long, no tensor is so large.
_LARGEST = 1e9
_LARGEST_COUNT = 2**31 - 1
_RANGES: Mapping[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),  # what numpy's generators take
    "num_epochs": (0, 100_000),
    "learning_rate": (0, 1000),
    "gate_learning_rate": (0, 1000),
    "temperature": (0, 1e6),
    "num_threads": (0, 65_536),
    "num_workers": (0, 65_536),
}


def check_numbers(config: Any) -> None:
    """Raise NirvanaError for the first number of a config, its lists included, out of its range.

    The message starts with the field's name. Limits of meaning, such as a fraction's, are checked
    by the config itself.
    """
    for field in fields(config):
        for value in _list_numbers(getattr(config, field.name)):
            most = _LARGEST_COUNT if isinstance(value, int) else _LARGEST
            least, most = _RANGES.get(field.name, (-most, most))
            if not least <= value <= most:  # neither infinity nor NaN is between
                raise NirvanaError(
                    f"{field.name} must be a finite number from {least:.10g} to {most:.10g}, got "
                    f"{_show(value)}."
                )


def _list_numbers(value: object) -> Iterator[int | float]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _list_numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _show(value: int | float) -> str:
    if isinstance(value, int) and value.bit_length() > 128:  # Python refuses to print the longest
        return f"an integer of {value.bit_length()} bits"
    return str(value)
