"""The JSON reader takes what its schema names, and refuses the rest with file, place and value."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pytest

from pruning import strict_json
from pruning.errors import NirvanaError
from pruning.strict_json import convert_json, parse_json, read_json, read_object


class _File(TypedDict):
    size_bytes: int
    sha256: str


class _Manifest(TypedDict):
    files: dict[str, _File]
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    kept: tuple[int, ...]
    name: str = "mlp"


def _parse(content: bytes | str, expected: Any = dict[str, Any], **options: Any) -> Any:
    return parse_json(content, expected, name="x.json", remedy="Write it again.", **options)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 5000 + "]" * 5000, "nested more than 64 levels"),
        ("[" * 100_000, "nested more than 64 levels"),
        ("[" * 65 + "]" * 65, "nested more than 64 levels"),
        ('{"a": ' * 65 + "1" + "}" * 65, "nested more than 64 levels"),
        ('{"a": ' + "9" * 5000 + "}", r"the integer 9+\.\.\. does not fit in 64 bits"),
        ('{"a": -' + "9" * 25 + "}", "the integer -9+ does not fit in 64 bits"),
        ('{"a": 1e999}', "the number 1e999 is too large"),
        ('{"a": NaN}', "NaN is not a number of JSON"),
        ('{"a": [-Infinity]}', "-Infinity is not a number of JSON"),
        ('{"b": {"a": 1, "a": 1}}', 'the key "a" is there twice'),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ("", "Expecting value on line 1, column 1"),
        ('{"a": 1}\n{"a": 2}', "Extra data on line 2, column 1"),
        ('{"a": 1', "Expecting ',' delimiter on line 1, column 8"),
    ],
)
def test_what_is_no_json_within_the_limits_is_refused(content: bytes | str, reason: str) -> None:
    with pytest.raises(NirvanaError, match=rf"x\.json cannot be read: .*{reason}.*\. Write"):
        _parse(content)


def test_the_limits_themselves_are_read() -> None:
    assert _parse("[" * 64 + "]" * 64, list[Any])
    assert len(_parse("[" + ",".join(["[]"] * 1000) + "]", list[Any])) == 1000
    assert _parse('{"a": "' + "[" * 1000 + '"}')["a"] == "[" * 1000
    assert _parse('{"a": "\\"' + "{" * 1000 + '"}')["a"].startswith('"{')
    assert _parse('{"a": 18446744073709551615}') == {"a": 2**64 - 1}
    assert _parse('{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}
    assert _parse(b"\xef\xbb\xbf{}") == {}
    assert str(_parse('{"a": NaN}', finite=False)) == "{'a': nan}"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([], "its top level: expected an object, got a list"),
        ({"files": {}}, "its top level: object missing required field `seconds`"),
        ({"files": {}, "seconds": "1"}, 'seconds: expected a number or null, got "1"'),
        ({"files": [], "seconds": 1}, "files: expected an object, got a list"),
        (
            {"files": {"a": {"size_bytes": 1, "sha256": ""}, "b.c": {"size_bytes": 1.5}}},
            r"files\.b\.c\.size_bytes: expected a whole number, got 1\.5",
        ),
        ({"files": {"a": {"size_bytes": True}}}, r"files\.a\.size_bytes: .* got true"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(data: Any, reason: str) -> None:
    with pytest.raises(NirvanaError, match=rf"x\.json cannot be read: {reason}"):
        _parse(json.dumps(data), _Manifest)


def test_lists_become_the_tuples_of_a_dataclass() -> None:
    assert _parse('{"kept": [1, 2]}', _Layer) == _Layer(kept=(1, 2))
    with pytest.raises(NirvanaError, match=r'kept\[1\]: expected a whole number, got "2"'):
        _parse('{"kept": [1, "2"]}', _Layer)


def test_unknown_keys_are_left_out_or_refused() -> None:
    data = {"kept": [], "naem": "attention"}
    assert _parse(json.dumps(data), _Layer) == _Layer(kept=())
    with pytest.raises(NirvanaError, match=r"naem is not a key of it\. Write"):
        convert_json(data, _Layer, name="x.json", remedy="Write it again.", exact=True)


def test_a_file_is_named_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(NirvanaError, match=r"x\.json cannot be read: No such file"):
        read_object(path, remedy="Write it again.")
    with pytest.raises(NirvanaError, match="cannot be read: Is a directory"):
        read_object(tmp_path, remedy="Write it again.")
    path.write_text('{"kept": [3]}')
    assert read_json(path, _Layer, remedy="") == _Layer(kept=(3,))
    monkeypatch.setattr(strict_json, "MAX_BYTES", 4)
    with pytest.raises(NirvanaError, match=r"x\.json has more than 0 MiB"):
        read_object(path, remedy="Write it again.")
