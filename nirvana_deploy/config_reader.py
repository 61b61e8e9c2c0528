"""Reads plain data into the frozen config dataclasses, strictly.

Why not jsonargparse: 4.53 cannot take a slotted dataclass as the default of a union field
(`vars() argument must have __dict__`), and it names neither the nearest key nor the line.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pruning.errors import NirvanaError

T = TypeVar("T")

# A field in a docstring, and what is said of it, in further lines that are indented more.
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)
_SCALAR_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "null",
}


_TOO_LARGE = 10**300


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Say where the data came from, so that a message can point at the line."""

    path: Path | None = None
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def locate(self, key: str) -> str:
        """Return `file:line: dotted.key`, as much of it as is known."""
        if self.path is None or key not in self.lines:
            return key
        return f"{self.path}:{self.lines[key]}: {key}"


def read_config(
    config_type: type[T],
    data: Mapping[str, object],
    *,
    key: str = "",
    origin: Origin | None = None,
    default: object = None,
) -> T:
    """Make a `config_type` of a mapping; raise NirvanaError with the dotted key when it is wrong.

    A union of dataclasses is decided by the keys that are given, or by the name of a member that
    needs none: `repair: mean_shift`. `default` is a `config_type` from
    which the fields that are not given come.
    """
    origin = origin or Origin()
    hints = get_type_hints(config_type)
    defaults = {field.name: find_default(field) for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    if type(default) is config_type:
        defaults = {name: getattr(default, name) for name in defaults}
    _refuse_unknown_keys(data, hints, key, origin)
    values = {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}
    for name, value in data.items():
        place = join_key(key, name)
        values[name] = _convert(value, hints[name], place, origin, defaults[name])
    missing = [name for name in defaults if name not in values]
    if missing:
        raise NirvanaError(
            f"{origin.locate(join_key(key, missing[0]))}: required, but not given "
            f"({_describe_field(config_type, missing[0])})."
        )
    try:
        return config_type(**values)
    except NirvanaError as error:
        raise NirvanaError(_place_message(str(error), hints, key, origin)) from error


def read_union(
    config_types: tuple[type[Any], ...], data: Mapping[str, object], *, name: str
) -> Any:
    """Make the one of several config types that the keys of `data` are for.

    `name` is what a message calls them all together.
    """
    return read_config(_choose(config_types, data, name, Origin()), data)


def find_default(field: dataclasses.Field[Any]) -> Any:
    """Return a field's default, made if need be; `dataclasses.MISSING` when it is required."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def to_plain(value: object) -> Any:
    """Turn a config into what JSON and YAML can hold; `read_config` turns it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if not dataclasses.fields(value):  # no keys would tell it from the others of its union
            return member_name(type(value))
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def join_key(prefix: str, name: str) -> str:
    """Put a dotted key together; the prefix may be empty."""
    return f"{prefix}.{name}" if prefix else name


def suggest(word: str, candidates: Iterable[str]) -> str:
    """Name the nearest candidate, or list all of them."""
    names = [str(name) for name in candidates]
    nearest = get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(names)}."


def config_types(hint: object) -> tuple[type[Any], ...]:
    """Return the dataclasses of a type hint: one, several for a union, none for a plain value."""
    members = _members(hint)
    return tuple(m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m))


def member_name(config_type: type[Any]) -> str:
    """Return the name by which a member of a union is chosen: mean_shift for MeanShift."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", config_type.__name__).lower()


def name_members(hint: object) -> dict[str, type[Any]]:
    """Return the members of a union of dataclasses that a name is enough for, by name."""
    configs = config_types(hint)
    return {member_name(c): c for c in configs if len(configs) > 1 and not _required_keys(c)}


def describe_fields(config_type: type[Any]) -> Mapping[str, str]:
    """Return what a config's docstring says of each field: its `Attributes`, and those of bases."""
    found: dict[str, str] = {}
    for base in reversed(config_type.__mro__):
        text = inspect.cleandoc(vars(base).get("__doc__") or "")
        entries = _ENTRY.findall(text.partition("\nAttributes:\n")[2])
        found.update({name: " ".join(about.split()) for name, about in entries})
    return found


def describe_type(hint: Any) -> str:
    """Say in words what a type hint accepts."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    if len(_members(hint)) > 1:
        return " or ".join(dict.fromkeys(describe_type(member) for member in _members(hint)))
    if get_origin(hint) in (tuple, list):
        items = [item for item in get_args(hint) if item is not Ellipsis]
        if get_origin(hint) is tuple and Ellipsis not in get_args(hint):
            return f"a list of {len(items)}: " + ", ".join(describe_type(item) for item in items)
        return f"a list of {describe_type(items[0])}"
    if config_types(hint) or get_origin(hint) in (dict, Mapping):
        return "keys and values"
    return _SCALAR_NAMES.get(hint, str(hint))


def convert_value(value: object, hint: object) -> object:
    """Check a plain value against a type hint; raise ValueError saying what was expected."""
    origin = get_origin(hint)
    if origin is Literal:
        if value in get_args(hint) and type(value) in {type(choice) for choice in get_args(hint)}:
            return value
        near = f"; {suggest(value, get_args(hint))}" if isinstance(value, str) else ""
        raise ValueError(_mismatch(value, hint) + near)
    if len(_members(hint)) > 1:
        return _convert_union(value, hint)
    if origin in (tuple, list):
        return _convert_list(value, hint)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {str(name): convert_value(item, get_args(hint)[1]) for name, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= _TOO_LARGE:
            raise ValueError("expected a number, came an integer too large for one")
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if type(value) is hint:
        return value
    raise ValueError(_mismatch(value, hint))


def _convert(value: object, hint: object, key: str, origin: Origin, default: object) -> object:
    configs = config_types(hint)
    if configs and isinstance(value, Mapping):
        chosen = _choose(configs, value, key, origin)
        return read_config(chosen, value, key=key, origin=origin, default=default)
    if configs and type(value) in configs:
        return value
    if configs and isinstance(value, str) and (names := name_members(hint)):
        if value not in names:
            raise NirvanaError(
                f"{origin.locate(key)}: expected keys and values or a name, came {value!r}; "
                f"{suggest(value, names)}"
            )
        return read_config(names[value], {}, key=key, origin=origin, default=default)
    try:
        return convert_value(value, hint)
    except ValueError as error:
        raise NirvanaError(f"{origin.locate(key)}: {error}.") from error


def _choose(
    configs: tuple[type[Any], ...], data: Mapping[str, object], key: str, origin: Origin
) -> type[Any]:
    if len(configs) == 1:
        return configs[0]
    names = {config: {field.name for field in dataclasses.fields(config)} for config in configs}
    for config in configs:
        if _required_keys(config) <= set(data) <= names[config]:
            return config
    # Nothing fits as a whole: let the one that shares the most keys say what is wrong with it,
    # unless the keys are all known, but of different members.
    known = set().union(*names.values())
    best = max(configs, key=lambda config: len(names[config] & set(data)))
    if set(data) <= known and not set(data) <= names[best]:
        shapes = " or ".join(f"{{{', '.join(sorted(names[config]))}}}" for config in configs)
        raise NirvanaError(
            f"{origin.locate(key)}: the keys {', '.join(sorted(data))} do not go together; "
            f"expected {shapes}."
        )
    return best


def _required_keys(config_type: type[Any]) -> set[str]:
    fields = dataclasses.fields(config_type)
    return {field.name for field in fields if find_default(field) is dataclasses.MISSING}


def _convert_union(value: object, hint: object) -> object:
    for member in _members(hint):
        try:
            return convert_value(value, member)
        except ValueError:
            continue
    raise ValueError(_mismatch(value, hint))


def _convert_list(value: object, hint: Any) -> object:
    if not isinstance(value, (list, tuple)):
        raise ValueError(_mismatch(value, hint))
    items = get_args(hint)
    if get_origin(hint) is list or Ellipsis in items:
        return get_origin(hint)(convert_value(item, items[0]) for item in value)
    if len(value) != len(items):
        raise ValueError(_mismatch(value, hint))
    return tuple(convert_value(item, kind) for item, kind in zip(value, items, strict=True))


def _members(hint: object) -> tuple[object, ...]:
    if get_origin(hint) in (Union, types.UnionType):
        return get_args(hint)
    return (hint,)


def _mismatch(value: object, hint: object) -> str:
    if isinstance(value, Mapping):
        came = "keys and values"
    elif isinstance(value, (list, tuple)):
        came = f"the list {_shorten(repr(list(value)))}"
    else:
        name = _SCALAR_NAMES.get(type(value), type(value).__name__)
        came = name if value is None else f"{name}: {_shorten(repr(value))}"
    quotes = isinstance(value, (int, float)) and str in _members(hint)
    return f"expected {describe_type(hint)}, came {came}" + ("; put it in quotes" if quotes else "")


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse_unknown_keys(
    data: Mapping[str, object], hints: Mapping[str, object], key: str, origin: Origin
) -> None:
    for name in data:
        if name not in hints:
            place = origin.locate(join_key(key, str(name)))
            raise NirvanaError(f"{place}: unknown key; {suggest(_shorten(str(name)), hints)}")


def _place_message(message: str, hints: Mapping[str, object], key: str, origin: Origin) -> str:
    """Put the dotted key before a message of `__post_init__`, which starts with a field's name."""
    first = message.split(maxsplit=1)[0] if message else ""
    place = join_key(key, first) if first in hints else key
    return f"{origin.locate(place)}: {message}" if place else message


def _describe_field(config_type: type[Any], name: str) -> str:
    hint = typing.get_type_hints(config_type)[name]
    return (describe_fields(config_type).get(name) or describe_type(hint)).removesuffix(".")
