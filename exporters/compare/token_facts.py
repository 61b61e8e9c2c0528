"""Reads from a model's config which tokens it takes, and how many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporters.compare.artefact import TokenFacts
from pruning.checkpoints.config_file import CONFIG_FILE, read_config_file
from pruning.training.position_limit import count_config_positions


def read_config_facts(folder: Path) -> TokenFacts | None:
    """Return what config.json in `folder` says; None where there is no such file."""
    if not (folder / CONFIG_FILE).is_file():
        return None
    return make_facts(read_config_file(folder))


def make_facts(config: dict[str, Any]) -> TokenFacts:
    """Return what a config says, given as a plain mapping."""
    pad = config.get("pad_token_id")
    return TokenFacts(
        num_tokens=config.get("vocab_size"),
        pad_token=pad if isinstance(pad, int) else None,
        max_length=count_config_positions(config),
    )
