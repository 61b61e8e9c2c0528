"""Reads from a model's config which tokens it takes, and how many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporters.compare.artefact import TokenFacts
from pruning.checkpoints.config_file import CONFIG_FILE, read_config_file
from pruning.token_ids import find_pad, list_steering
from pruning.training.position_limit import count_config_positions


def read_config_facts(folder: Path) -> TokenFacts | None:
    """Return what config.json in `folder` says; None where there is no such file."""
    if not (folder / CONFIG_FILE).is_file():
        return None
    return make_facts(read_config_file(folder))


def make_facts(config: dict[str, Any]) -> TokenFacts:
    """Return what a config says, given as a plain mapping."""
    max_length = count_config_positions(config)
    inner = config.get("text_config")
    config = {**config, **inner} if isinstance(inner, dict) else config
    num_tokens = config.get("vocab_size")
    return TokenFacts(
        num_tokens=num_tokens,
        pad_token=find_pad(config.get("pad_token_id"), num_tokens),
        avoided=list_steering(config),
        num_types=config.get("type_vocab_size"),
        max_length=max_length,
    )
