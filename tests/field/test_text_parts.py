"""Pad tokens and label names are found wherever transformers finds them, or missed in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from nirvana_deploy.serving.text_parts import read_text_parts
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.tiny_classifier import save_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a checkpoint whose pad token is named nowhere."""
    folder = save_checkpoint(tmp_path / "checkpoint")
    (folder / "tokenizer_config.json").unlink()
    return folder


def write(folder: Path, name: str, **document: Any) -> None:
    (folder / name).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("name", "pad"),
    [
        ("special_tokens_map.json", "[PAD]"),
        ("special_tokens_map.json", {"content": "[PAD]", "lstrip": False}),
        ("tokenizer_config.json", "[PAD]"),
        ("tokenizer_config.json", {"content": "[PAD]", "__type": "AddedToken"}),
    ],
)
def test_a_pad_token_is_found_in_either_file(folder: Path, name: str, pad: Any) -> None:
    write(folder, name, pad_token=pad, unk_token="[UNK]")
    parts = read_text_parts(folder)
    assert (parts.pad_id, parts.pad_token) == (0, "[PAD]")


def test_a_pad_token_is_found_in_the_tokenizer_or_the_config(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken("<pad>", special=True)])
    tokenizer.save(str(path))
    number = tokenizer.token_to_id("<pad>")
    assert read_text_parts(folder).pad_id == number
    tokenizer.enable_padding(pad_id=4, pad_token="first")
    tokenizer.save(str(path))
    assert read_text_parts(folder).pad_token == "first"
    # The model looks for the id that its config names; one that is no token's is passed over.
    for given, expected in ((5, 5), (-1, 4), (10**6, 4), (None, 4)):
        write(folder, "config.json", id2label={"0": "a"}, pad_token_id=given)
        assert read_text_parts(folder).pad_id == expected


def test_no_pad_token_anywhere_is_refused(folder: Path) -> None:
    with pytest.raises(NirvanaError, match=r"names no pad token .*found none in tokenizer_config"):
        read_text_parts(folder)
    write(folder, "special_tokens_map.json", pad_token="<nope>")
    with pytest.raises(NirvanaError, match=r"names no pad token .*found '<nope>' in"):
        read_text_parts(folder)


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({"id2label": {"1": "b", "0": "a", "2": "c"}}, ("a", "b", "c")),
        ({"id2label": {"0": "a", "1": None, "2": ""}}, ("a", "LABEL_1", "LABEL_2")),
        ({"id2label": {str(n): f"c{n}" for n in range(12)}}, tuple(f"c{n}" for n in range(12))),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": None}, ("LABEL_0", "LABEL_1")),
        ({}, ("LABEL_0", "LABEL_1")),
    ],
)
def test_labels_come_in_the_order_of_the_logits(
    folder: Path, config: dict[str, Any], labels: tuple[str, ...]
) -> None:
    write(folder, "tokenizer_config.json", pad_token="[PAD]")
    write(folder, "config.json", **config)
    assert read_text_parts(folder).labels == labels


@pytest.mark.parametrize(
    ("id2label", "message"),
    [
        ({"0": "a", "1": "b", "5": "c"}, r"names the labels 0, 1, 5 in id2label; .* from 0 to 2"),
        ({"1": "a", "2": "b"}, r"names the labels 1, 2 in id2label; .* from 0 to 1"),
        ({"0": "a", "00": "b"}, r"names the labels 0, 00 in id2label"),
        ({"zero": "a"}, r"has the id2label .*expected label names by number"),
        (["a", "b"], r"has the id2label .*expected label names by number"),
    ],
)
def test_gaps_in_the_labels_are_refused_in_words(folder: Path, id2label: Any, message: str) -> None:
    write(folder, "tokenizer_config.json", pad_token="[PAD]")
    write(folder, "config.json", id2label=id2label)
    with pytest.raises(NirvanaError, match=message):
        read_text_parts(folder)
