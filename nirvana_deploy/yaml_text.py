"""Reads and writes YAML the way a recipe means it, and remembers the line of each key.

PyYAML follows YAML 1.1, where `1e-4` is text, `no` is false, `010` is 8 and `1:30` is 90. A recipe
means YAML 1.2: numbers as Python writes them, and only `true` and `false` are booleans.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pruning.errors import NirvanaError

_FLOAT = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
    r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_REPLACED_TAGS = tuple(
    f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "timestamp", "value")
)
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
# What a scalar of a tag looks like; of other tags only lists and mappings are read.
_SCALARS: dict[str, re.Pattern[str] | None] = {
    _TEXT: None,
    _MERGE: None,
    "tag:yaml.org,2002:null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "tag:yaml.org,2002:bool": _BOOL,
    "tag:yaml.org,2002:int": _INT,
    "tag:yaml.org,2002:float": _FLOAT,
}
_COLLECTIONS = ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")
# The longest recipe has 3 kB, the deepest 5 levels. Aliases count as often as they are used.
_MAX_BYTES = 256 << 10
_MAX_DEPTH = 32
_MAX_NODES = 100_000
_MAX_INTEGER = 2**63 - 1


class _RefusedError(yaml.MarkedYAMLError):
    """YAML, but not such as a recipe is."""


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2 scalars, bounded in depth and in what aliases repeat."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open: list[str | None] = []  # anchors of the nodes that are being read
        self._num_nodes: dict[yaml.Node, int] = {}  # with all below it, aliases written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read one node, and refuse what would not end or not fit."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        anchor = event.anchor
        if isinstance(event, yaml.AliasEvent) and anchor in self._open:
            self._refuse(f"the alias *{_shorten(anchor)} is inside what it stands for", event)
        if len(self._open) >= _MAX_DEPTH:
            self._refuse(f"nested deeper than {_MAX_DEPTH} levels, as no recipe is", event)
        if isinstance(event, yaml.AliasEvent):
            return super().compose_node(parent, index)
        self._open.append(anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        assert node is not None
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node, event)
            self._num_nodes[node] = 1
            return node
        if node.tag not in _COLLECTIONS:
            self._refuse(f"the tag {_shorten(node.tag)} is not read here; leave it out", event)
        is_map = isinstance(node, yaml.MappingNode)
        below = [child for pair in node.value for child in pair] if is_map else node.value
        self._num_nodes[node] = 1 + sum(self._num_nodes[child] for child in below)
        if self._num_nodes[node] > _MAX_NODES:
            self._refuse(
                f"aliases make this more than {_MAX_NODES} values; write out what is meant", event
            )
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what `<<` names into a mapping: its own keys win, then those of the earlier source.

        PyYAML's own merges a source that has a merge itself by the identity of its keys.
        """
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        names, merged = {key.value for key, _ in own}, []
        for key, value in node.value:
            if key.tag != _MERGE:
                continue
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(source, yaml.MappingNode):
                    self._refuse("<< takes a mapping or a list of mappings", source)
                self.flatten_mapping(source)
                fresh = [pair for pair in source.value if pair[0].value not in names]
                names.update(key.value for key, _ in fresh)
                merged += fresh
        node.value = merged + own

    def _check_scalar(self, node: yaml.ScalarNode, event: object) -> None:
        shown = _shorten(node.value)
        if node.tag not in _SCALARS:
            self._refuse(f"the tag {_shorten(node.tag)} is not read here; leave it out", event)
        pattern = _SCALARS[node.tag]
        if pattern is not None and not pattern.match(node.value):
            self._refuse(f"{shown} is not of the tag {node.tag.rpartition(':')[2]}", event)
        if node.tag.endswith(":int"):
            digits = node.value.replace("_", "")
            if len(digits) > 20 or abs(int(digits)) > _MAX_INTEGER:
                self._refuse(f"the number {shown} does not fit in 64 bits", event)
        if any("\ud800" <= char <= "\udfff" or char == "\0" for char in node.value):
            self._refuse("text must be without NUL and without halves of surrogate pairs", event)

    def _refuse(self, problem: str, event: Any) -> NoReturn:
        raise _RefusedError(problem=problem, problem_mark=event.start_mark)


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


def parse_scalar(text: str) -> object:
    """Read one value as YAML; raise ValueError when it is malformed."""
    try:
        return _read(text)[0]
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(f"{_shorten(repr(text))} is not a valid YAML value") from error


def read_yaml(path: Path) -> tuple[dict[str, object], dict[str, int]]:
    """Read a YAML file that holds a mapping; return it and the line of each dotted key.

    A key beside `<<` wins over one that is merged. The line of a merged key is where it is written.

    Raises:
        NirvanaError: the file is no UTF-8 text or no YAML, nests or repeats itself beyond what a
            recipe needs, or has a key twice; the message names the line.
    """
    try:
        content = path.read_bytes()
        if len(content) > _MAX_BYTES:
            raise NirvanaError(
                f"{path} has {len(content)} bytes, expected at most {_MAX_BYTES}. Give a recipe, "
                "as recipes/quickstart.yaml is one."
            )
        data, lines = _read(content.decode("utf-8"))
    except OSError as error:
        raise NirvanaError(f"{path} cannot be read: {error.strerror}.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        kind = "" if isinstance(error, _RefusedError) else "this is not valid YAML: "
        raise NirvanaError(f"{path}{line}: {kind}{error.problem}.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise NirvanaError(f"{path}: this is not a YAML text file: {reason}.") from error
    if data is None:
        return {}, {}
    if not isinstance(data, dict):
        raise NirvanaError(
            f"{path}: expected `key: value` lines at the top, came {type(data).__name__}."
        )
    return data, lines


def _read(text: str) -> tuple[Any, dict[str, int]]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[str, int] = {}
        _check_keys(node, "", set())
        _collect_lines(node, "", lines)
        return loader.construct_document(node), lines  # this puts merged keys into the nodes
    finally:
        loader.dispose()


def _check_keys(node: yaml.Node, prefix: str, seen: set[yaml.Node]) -> None:
    """Refuse keys that are there twice, in every mapping, however often aliases repeat it."""
    if node in seen:
        return
    seen.add(node)
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, prefix, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise _RefusedError(
                problem="a key must be text, came a list or a mapping; write `key: value`",
                problem_mark=key_node.start_mark,
            )
        if key_node.value in first:
            raise _RefusedError(
                problem=f"{_shorten(prefix + key_node.value)}: given twice (first on line "
                f"{first[key_node.value]}); remove one",
                problem_mark=key_node.start_mark,
            )
        first[key_node.value] = line
        if key_node.tag != _MERGE:
            key_node.tag = _TEXT  # `1:` and `no:` are names here
        _check_keys(value_node, f"{prefix}{key_node.value}.", seen)


def _collect_lines(node: yaml.Node, prefix: str, lines: dict[str, int]) -> None:
    """Note the line of each key: those beside `<<` first, then those of the earlier mapping."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        if key_node.tag != _MERGE:
            key = f"{prefix}{key_node.value}"
            if key not in lines:
                lines[key] = key_node.start_mark.line + 1
                _collect_lines(value_node, f"{key}.", lines)
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE:
            is_list = isinstance(value_node, yaml.SequenceNode)
            for merged in value_node.value if is_list else [value_node]:
                _collect_lines(merged, prefix, lines)


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def dump_yaml(data: Mapping[str, object]) -> str:
    """Write plain data so that `read_yaml` gives it back."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
