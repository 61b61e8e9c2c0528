"""Reads JSON that others may have written: bounded in depth, size and numbers, typed by a schema.

Python's own reader takes what no writer of ours makes: it ends in a RecursionError on deep nesting,
keeps the last of two equal keys, and reads NaN, Infinity and integers that no tensor can hold.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import msgspec

from pruning.errors import NirvanaError


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Return what nested mappings hold, by dotted name."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, object] = {}
    for name, item in value.items():
        flat.update(flatten(item, f"{prefix}.{name}" if prefix else str(name)))
    return flat


T = TypeVar("T")
# An object of JSON: what its values are is looked at where they are read.
JsonObject: TypeAlias = dict[str, Any]
JsonMapping: TypeAlias = Mapping[str, Any]

# Of the plans and tables that were written so far the largest has 3 MB and the deepest 9 levels.
MAX_BYTES = 256 << 20
MAX_DEPTH = 64
_MAX_INTEGER = 2**64 - 1
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_LONG_INTEGER = re.compile(rb"[0-9]{20}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PLACE = re.compile(r"(.*?)(?: - at `(.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_MAX_ENTRIES_TRIED = 1000
_TYPES = re.compile(r"(?<=[Ee]xpected )`([^`]*)`|(?<=got )`([^`]*)`")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
}


class _WrongError(ValueError):
    """Say what in a text is not the JSON that is read here."""


def read_json(path: Path, expected: type[T], *, remedy: str, finite: bool = True) -> T:
    """Read a JSON file as `expected`: a plain type, a TypedDict or a dataclass.

    `remedy` is the sentence that says what to do when the file is not readable. Keys that
    `expected` does not name are left out. With `finite=False`, NaN and Infinity are read, as
    figures of a training that diverged have them.

    Raises:
        NirvanaError: the file cannot be read, is not JSON within the limits, or holds a value of
            another type; it names the file, the place in it, and what was found and expected.
    """
    value = read_value(path, remedy=remedy, finite=finite)
    return convert_json(value, expected, name=str(path), remedy=remedy)


def read_value(path: Path, *, remedy: str, finite: bool = True) -> Any:
    """Read a JSON file that may hold anything; see `read_json`."""
    return _parse_named(_read_bytes(path, remedy), str(path), remedy, finite)


def read_object(path: Path, *, remedy: str, finite: bool = True) -> dict[str, Any]:
    """Read a JSON file that holds an object, whatever is in it; see `read_json`."""
    return read_json(path, dict[str, Any], remedy=remedy, finite=finite)


def parse_json(
    content: bytes | str, expected: type[T], *, name: str, remedy: str, finite: bool = True
) -> T:
    """Read JSON text as `expected`; `name` is what a message calls the text. See `read_json`."""
    encoded = content.encode(errors="replace") if isinstance(content, str) else content
    value = _parse_named(encoded, name, remedy, finite)
    return convert_json(value, expected, name=name, remedy=remedy)


def _parse_named(content: bytes, name: str, remedy: str, finite: bool) -> object:
    try:
        return _parse(content, finite)
    except (ValueError, RecursionError) as error:
        reason = str(error) or "it is nested too deeply"
        raise NirvanaError(f"{name} cannot be read: {reason}. {remedy}") from error


def convert_json(
    value: object, expected: type[T], *, name: str, remedy: str, exact: bool = False
) -> T:
    """Return plain JSON values as `expected`; with `exact`, refuse keys that it does not name.

    Raises:
        NirvanaError: a value has another type; it names the place in `name`.
    """
    if expected == dict[str, object] and isinstance(value, dict):
        return cast(T, value)
    try:
        converted: T = msgspec.convert(value, expected, strict=True)
    except msgspec.ValidationError as error:
        reason = _describe_mismatch(error, value, expected)
        raise NirvanaError(f"{name} cannot be read: {reason}. {remedy}") from error
    except RecursionError as error:
        raise NirvanaError(f"{name} is nested too deeply. {remedy}") from error
    if exact and (unknown := _find_unknown(value, msgspec.to_builtins(converted))):
        raise NirvanaError(f"{name} cannot be read: {unknown} is not a key of it. {remedy}")
    return converted


def _read_bytes(path: Path, remedy: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NirvanaError(f"{path} cannot be read: {error.strerror}. {remedy}") from error
    if len(content) > MAX_BYTES:
        raise NirvanaError(
            f"{path} has more than {MAX_BYTES >> 20} MiB, the most that is read as JSON. {remedy}"
        )
    return content


def _parse(content: bytes, finite: bool) -> object:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _WrongError(f"byte {error.start} is not UTF-8") from error
    has_long = _LONG_INTEGER.search(content) is not None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_make_object,
            parse_int=_read_integer if has_long else None,
            parse_float=_read_float if finite else None,
            parse_constant=_refuse_constant if finite else None,
        )
    except RecursionError as error:
        raise _WrongError(_TOO_DEEP) from error
    except json.JSONDecodeError as error:
        raise _WrongError(
            f"it is not JSON: {error.msg} on line {error.lineno}, column {error.colno}"
        ) from error
    if _is_too_deep(content):
        raise _WrongError(_TOO_DEEP)
    if _SURROGATE.search(content):
        _refuse_surrogates(value)
    return value


_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"


def _is_too_deep(content: bytes) -> bool:
    """Tell whether valid JSON nests beyond the limit: each pass takes the innermost level away."""
    if content.count(b"[") + content.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", content).translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = re.sub(rb"\[\]|\{\}", b"", brackets)
    return bool(brackets)


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _WrongError(f"the key {_show(twice)} is there twice in one object")
    return made


def _read_integer(text: str) -> int:
    if len(text) > 21 or abs(number := int(text)) > _MAX_INTEGER:
        raise _WrongError(f"the integer {_show_text(text)} does not fit in 64 bits")
    return number


def _read_float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise _WrongError(f"the number {_show_text(text)} is too large")
    return number


def _refuse_constant(text: str) -> object:
    raise _WrongError(f"{text} is not a number of JSON")


def _refuse_surrogates(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _WrongError("a text in it holds half of a surrogate pair") from error


def _find_unknown(value: object, known: Any) -> str | None:
    """Return the path of the first key that was left out when `value` became `known`."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in known:
                return str(key)
            if (inner := _find_unknown(item, known[key])) is not None:
                return f"{key}.{inner}"
    elif isinstance(value, list):
        for number, (item, other) in enumerate(zip(value, known, strict=True)):
            if (inner := _find_unknown(item, other)) is not None:
                return f"[{number}].{inner}"
    return None


def _describe_mismatch(error: msgspec.ValidationError, value: object, expected: object) -> str:
    """Say which value was found where, and what was expected, from msgspec's message."""
    found = _PLACE.fullmatch(str(error))
    reason, place = (found[1], found[2] or "$") if found else (str(error), "$")
    reason = _TYPES.sub(_name_types, reason)
    keyed, inner, culprit = _locate(value, place, str(error), expected)
    where = keyed or "its top level"
    reason = reason[:1].lower() + reason[1:]
    if inner and ", got " in reason:
        wanted = reason.partition(", got ")[0]
        return f"{where}: {wanted}, got {_show(culprit)}"
    return f"{where}: {reason}"


def _name_types(match: re.Match[str]) -> str:
    names = (match[1] or match[2]).split(" | ")
    return " or ".join(_WORDS.get(name, name) for name in names)


def _locate(value: Any, place: str, text: str, expected: object) -> tuple[str, bool, Any]:
    """Return the path without its root, whether its value was found, and the value."""
    steps = _STEP.findall(place.partition("$")[2])
    path: list[object] = []
    current = value
    for key, index in steps:
        if index == "...":
            step = _find_entry(value, path, current, text, expected)
            if step is None:
                return _join(path) + "[...]", False, None
        else:
            step = key or int(index)
        try:
            current = current[step]
        except (KeyError, IndexError, TypeError):
            return _join([*path, step]), False, None
        path.append(step)
    return _join(path), not place.startswith("key"), current


def _find_entry(
    value: object, path: list[object], current: object, text: str, expected: object
) -> object:
    """Return the key of a mapping whose value is refused: the first that alone is refused too."""
    if not isinstance(current, dict):
        return None
    for key in list(current)[:_MAX_ENTRIES_TRIED]:
        alone = _replace_at(value, path, {key: current[key]})
        try:
            msgspec.convert(alone, expected, strict=True)
        except msgspec.ValidationError as error:
            if str(error) == text:
                return key
    return None


def _replace_at(value: Any, path: list[object], new: object) -> object:
    if not path:
        return new
    copied: Any = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = _replace_at(copied[path[0]], path[1:], new)
    return copied


def _join(path: list[object]) -> str:
    parts = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(parts).removeprefix(".")


def _show(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return _show_text("null" if value is None else json.dumps(value, ensure_ascii=False))


def _show_text(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
