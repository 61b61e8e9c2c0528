"""Reads and writes YAML the way a recipe means it, and remembers the line of each key.

PyYAML follows YAML 1.1, where `1e-4` is text, `no` is false, `010` is 8 and `1:30` is 90. A recipe
means YAML 1.2: numbers as Python writes them, and only `true` and `false` are booleans.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pruning.errors import NirvanaError

_FLOAT = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
    r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_REPLACED_TAGS = tuple(
    f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "timestamp")
)


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2 scalars."""


class _Dumper(yaml.SafeDumper):
    """The safe dumper that quotes whatever either YAML version would not read as text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag not in _REPLACED_TAGS]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Dumper.yaml_implicit_resolvers = {
    first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", _BOOL, "tTfF"),
    ("tag:yaml.org,2002:int", _INT, "-+0123456789"),
    ("tag:yaml.org,2002:float", _FLOAT, "-+0123456789."),
):
    _Loader.add_implicit_resolver(_tag, _pattern, list(_first))
    _Dumper.add_implicit_resolver(_tag, _pattern, list(_first))


def parse_scalar(text: str) -> Any:
    """Read one value as YAML; raise ValueError when it is malformed."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not a valid YAML value") from error


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a YAML file that holds a mapping; return it and the line of each dotted key."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        data = {} if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise NirvanaError(f"{path}{line}: this is not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise NirvanaError(f"{path}: this is not a YAML text file: {error}.") from error
    if not isinstance(data, dict):
        raise NirvanaError(
            f"{path}: expected `key: value` lines at the top, came {type(data).__name__}."
        )
    lines: dict[str, int] = {}
    if node is not None:
        _collect_lines(node, "", lines, path)
    return data, lines


def _collect_lines(node: yaml.Node, prefix: str, lines: dict[str, int], path: Path) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        line = key_node.start_mark.line + 1
        if key in lines:
            raise NirvanaError(
                f"{path}:{line}: {key}: given twice (first on line {lines[key]}); remove one."
            )
        lines[key] = line
        _collect_lines(value_node, f"{key}.", lines, path)


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Write plain data so that `read_yaml` gives it back."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
