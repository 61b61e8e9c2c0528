"""Makes command-line flags of the config dataclasses: one flag per field, `--prune.budget 0.6`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from nirvana_deploy.config_reader import config_types as list_configs
from nirvana_deploy.config_reader import (
    convert_value,
    describe_fields,
    describe_type,
    find_default,
    join_key,
    member_name,
    name_members,
    to_plain,
)
from nirvana_deploy.yaml_text import dump_yaml, parse_scalar
from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject

# Marks the flags of a config in the argparse namespace; no other destination can start so.
_MARK = "config:"
_SWITCH = "{true,false}"
_SWITCH_VALUES = ("true", "false", "yes", "no", "on", "off", "null", "none")


def add_flags(
    parser: argparse.ArgumentParser,
    *config_types: type[Any],
    prefix: str = "",
    skip: tuple[str, ...] = (),
    title: str | None = None,
) -> None:
    """Add a flag for each field, and for each field of a nested config, to `parser` in place.

    A field that several of `config_types` have gets one flag, as the first of them has it.
    """
    about = " Or: ".join(_first_line(config_type) for config_type in config_types)
    group = parser.add_argument_group(title or prefix or "settings", about)
    seen: set[str] = set()
    for config_type in config_types:
        _add_fields(group, config_type, prefix=prefix, skip=skip, seen=seen, default=None, about="")


def collect_flags(namespace: argparse.Namespace) -> JsonObject:
    """Return the flags that were given, nested."""
    nested: JsonObject = {}
    for destination, value in vars(namespace).items():
        if not destination.startswith(_MARK):
            continue
        target = nested
        *parents, name = destination.removeprefix(_MARK).split(".")
        for number, parent in enumerate(parents):
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                _refuse_both(".".join(parents[: number + 1]), destination.removeprefix(_MARK))
        if isinstance(target.get(name), dict):
            key = destination.removeprefix(_MARK)
            _refuse_both(key, join_key(key, next(iter(target[name]))))
        target[name] = value
    return nested


def normalize_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Return arguments as `parser` has them: dashes in flags, and `=true` after a bare switch.

    Flags were written with underscores once, and still may be.
    """
    switches = {
        flag
        for action in parser._actions
        if action.metavar == _SWITCH
        for flag in action.option_strings
    }
    found: list[str] = []
    for number, word in enumerate(words):
        if word == "--":
            return [*found, *words[number:]]
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-") if flag.startswith("--") else flag
        after = words[number + 1].lower() if number + 1 < len(words) else ""
        is_bare = flag in switches and not equals and after not in _SWITCH_VALUES
        found.append(f"{flag}=true" if is_bare else f"{flag}{equals}{value}")
    return found


def hide_unusual(parser: argparse.ArgumentParser, usual: tuple[str, ...]) -> int:
    """Leave all settings but the usual ones out of the help of `parser`; return their number."""
    hidden = 0
    for action in parser._actions:
        key = action.dest.removeprefix(_MARK)
        if key == action.dest or any(f"{key}.".startswith(f"{name}.") for name in usual):
            continue
        action.help = argparse.SUPPRESS
        hidden += 1
    for group in parser._action_groups:
        if all(action.help == argparse.SUPPRESS for action in group._group_actions):
            group.description = None  # an empty group would show it
    return hidden


def name_flag(key: str) -> str:
    """Return the flag of a setting, such as `--data.text-column`."""
    return f"--{key.replace('_', '-')}"


def _refuse_both(name: str, setting: str) -> NoReturn:
    raise NirvanaError(
        f"{name_flag(name)} and {name_flag(setting)} do not go together: a setting says which kind "
        "it is for. Give one of them."
    )


def _add_fields(
    group: argparse._ArgumentGroup,
    config_type: type[Any],
    *,
    prefix: str,
    skip: tuple[str, ...],
    seen: set[str],
    default: Any,
    about: str,
) -> None:
    hints, told = get_type_hints(config_type), describe_fields(config_type)
    for field in dataclasses.fields(config_type):
        key, hint = join_key(prefix, field.name), hints[field.name]
        # Members of a union may share a field's name: the first one's flag serves both.
        if field.name in skip or key in seen:
            continue
        given = type(default) is config_type
        own_default = getattr(default, field.name) if given else find_default(field)
        nested = list_configs(hint)
        text = about + (told.get(field.name) or ("" if nested else describe_type(hint)))
        named = name_members(hint)
        if len(named) > 1 and key not in seen:
            seen.add(key)
            group.add_argument(
                name_flag(key),
                dest=f"{_MARK}{key}",
                default=argparse.SUPPRESS,
                choices=tuple(named),
                help=_name_help(text, own_default),
            )
        for member in nested:
            _add_fields(
                group,
                member,
                prefix=key,
                skip=(),
                seen=seen,
                default=own_default,
                about=f"{text.rstrip('.: ')}: " if text else "",
            )
        if not nested:
            seen.add(key)
            switch: JsonObject = {"nargs": "?", "const": True}
            group.add_argument(
                name_flag(key),
                dest=f"{_MARK}{key}",
                default=argparse.SUPPRESS,
                type=_flag_reader(hint),
                metavar=_metavar(hint),
                help=_help_text(text, own_default),
                **(switch if _metavar(hint) == _SWITCH else {}),
            )


def _flag_reader(hint: object) -> Callable[[str], Any]:
    def read(text: str) -> object:
        try:
            return convert_value(_parse(text, hint), hint)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _parse(text: str, hint: object) -> object:
    """Text stays text where the field takes text; everything else is YAML (`1,8` is a list)."""
    members = get_args(hint) or (hint,)
    if type(None) in members and text.lower() in ("null", "none"):
        return None
    if get_origin(hint) is Literal and all(isinstance(choice, str) for choice in members):
        return text
    if str in members and get_origin(hint) not in (tuple, list):
        return text
    if get_origin(hint) in (tuple, list) and not text.lstrip().startswith("["):
        if str in members:  # `8.9,12.0` are names here, not numbers
            return [part.strip() for part in text.split(",") if part.strip()]
        text = f"[{text}]"
    return parse_scalar(text)


def _metavar(hint: object) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(str(choice) for choice in get_args(hint)) + "}"
    if get_origin(hint) in (tuple, list):
        return "LIST"
    members = [member for member in get_args(hint) or (hint,) if member is not type(None)]
    return {int: "N", float: "X", bool: _SWITCH}.get(members[0], "TEXT")


def _help_text(text: str, default: object) -> str:
    end = "required" if default is dataclasses.MISSING else f"default: {_show(default)}"
    return f"{text} ({end})".replace("%", "%%")


def _name_help(text: str, default: object) -> str:
    """Return the help of a flag that chooses a member of a union by its name."""
    named = "none" if default is None else member_name(type(default))
    return f"{text or 'kind'}, by name (default: {named})".replace("%", "%%")


def _show(value: object) -> str:
    plain = to_plain(value)
    if isinstance(plain, list) and plain and not isinstance(plain[0], list):
        return ",".join(str(item) for item in plain)
    if isinstance(plain, (list, dict)):
        return str(plain)
    return "none" if plain is None else dump_yaml({"": plain}).split(":", 1)[1].strip()


def _first_line(config_type: type[Any]) -> str:
    return (config_type.__doc__ or "").strip().split("\n", 1)[0]
