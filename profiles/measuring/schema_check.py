"""Checks data against as much of JSON Schema (2020-12) as our schemas use.

That is: types, properties, required and additional ones, items, minimum.
"""

from __future__ import annotations

from typing import Any

from pruning.errors import NirvanaError

_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def or_null(kind: str) -> dict[str, Any]:
    """Return the schema of a value that may be unknown."""
    return {"type": [kind, "null"]}


def check_data(data: Any, schema: dict[str, Any], place: str) -> None:
    """Raise NirvanaError naming the first place where `data` is not as `schema` has it."""
    if "type" not in schema:  # anything
        return
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    allowed = tuple(each for kind in kinds for each in _KINDS[kind])
    # A bool is an int to Python, and no number to JSON.
    fits = "boolean" in kinds if isinstance(data, bool) else isinstance(data, allowed)
    if not fits:
        raise NirvanaError(f"{place} should be {' or '.join(kinds)}, got {data!r}.")
    if data is None:
        return
    if "minimum" in schema and not data >= schema["minimum"]:
        raise NirvanaError(f"{place} should be {schema['minimum']} or more, got {data!r}.")
    if isinstance(data, dict):
        for name in schema.get("required", ()):
            if name not in data:
                raise NirvanaError(f"{place} lacks {name!r}.")
        for name, value in data.items():
            known = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if known is None:
                raise NirvanaError(f"{place} has an unknown {name!r}.")
            check_data(value, known, f"{place}.{name}")
    elif isinstance(data, list):
        for number, value in enumerate(data):
            check_data(value, schema["items"], f"{place}[{number}]")
