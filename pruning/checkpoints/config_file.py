"""Reads a checkpoint's config.json as far as we look into it ourselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject, convert_json, read_object

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONFIG_FILE = "config.json"
_REMEDY = "Fetch the model again, or save it by save_pretrained."


class _Config(TypedDict, total=False):
    """What is read here; a config holds much besides."""

    architectures: list[str] | None
    model_type: str
    auto_map: dict[str, object] | None
    vocab_size: int | None
    pad_token_id: int | None
    max_position_embeddings: int | None
    n_positions: int | None
    max_sequence_length: int | None
    nirvana: dict[str, object] | None


def read_config_file(folder: Path, *, remedy: str = _REMEDY) -> JsonObject:
    """Return the config of the checkpoint in `folder` as plain values.

    Raises:
        NirvanaError: it cannot be read, or what we read of it has another type.
    """
    path = folder / CONFIG_FILE
    config = read_object(path, remedy=remedy, finite=False)  # some types write Infinity
    check_config(config, name=str(path), remedy=remedy)
    return config


def check_config(config: dict[str, object], *, name: str, remedy: str = _REMEDY) -> None:
    """Raise NirvanaError where a value of a config that we read has another type."""
    convert_json(config, _Config, name=name, remedy=remedy)


def list_architectures(config: PretrainedConfig) -> list[str]:
    """Return the classes that a config of transformers names.

    Raises:
        NirvanaError: `architectures` is no list of names.
    """
    named = {"architectures": getattr(config, "architectures", None)}
    check_config(named, name="The model's config")
    names = named["architectures"] or []
    if wrong := [name for name in names if not name.isidentifier()]:
        raise NirvanaError(
            f"The model's config names the class {wrong[0]!a} in `architectures`, which is no "
            f"class name. {_REMEDY}"
        )
    return names


def read_tokenizer_file(path: Path) -> dict[str, object]:
    """Return a JSON file that is saved with a tokenizer; empty where there is none.

    Python's own reader takes it: transformers writes 1e30 there as an integer, for no limit.

    Raises:
        NirvanaError: it cannot be read, or is no object.
    """
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NirvanaError(
            f"{path} cannot be read: {str(error) or 'it is nested too deeply'}. Save the tokenizer "
            "again."
        ) from error
    if not isinstance(document, dict):
        raise NirvanaError(f"{path} cannot be read: it holds no object. Save the tokenizer again.")
    return document
