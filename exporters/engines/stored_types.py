"""Holds a frozen record that was read from JSON against the types that it declares."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints


def find_wrong_field(record: Any) -> str | None:
    """Return what is wrong with the first field that has another type, None where none has.

    Fields that are records themselves are looked into; lists, tuples and dictionaries too.
    """
    hints = get_type_hints(type(record))
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            if (wrong := find_wrong_field(value)) is not None:
                return f"{field.name}.{wrong}"
        elif not _fits(value, hints[field.name]):
            return f"{field.name} is {value!r}"
    return None


def _fits(value: Any, hint: Any) -> bool:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (types.UnionType, Union):
        return any(_fits(value, member) for member in inner)
    if kind is float:
        return type(value) in (int, float)
    if kind in (int, bool):
        return type(value) is kind
    if not isinstance(value, kind):
        return False
    if kind is dict:
        return all(_fits(k, inner[0]) and _fits(item, inner[1]) for k, item in value.items())
    return kind not in (list, tuple) or all(_fits(item, inner[0]) for item in value)
