"""Reads from a model's config which tokens it takes, and how many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporters.compare.artefact import TokenFacts
from pruning.checkpoints.config_file import CONFIG_FILE, read_config_file

# What the types call the length of their table of positions.
_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length")
# RoBERTa and its kin count positions from 2 on, in a table that the config calls so much longer.
_ROOM = 2


def read_config_facts(folder: Path) -> TokenFacts | None:
    """Return what config.json in `folder` says; None where there is no such file."""
    if not (folder / CONFIG_FILE).is_file():
        return None
    return make_facts(read_config_file(folder))


def make_facts(config: dict[str, Any]) -> TokenFacts:
    """Return what a config says, given as a plain mapping."""
    pad = config.get("pad_token_id")
    length = next((config[name] for name in _LENGTHS if config.get(name) is not None), None)
    return TokenFacts(
        num_tokens=config.get("vocab_size"),
        pad_token=pad if isinstance(pad, int) else None,
        max_length=None if length is None else max(1, length - _ROOM),
    )
