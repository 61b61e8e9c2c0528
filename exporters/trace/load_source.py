"""Loads what is exported, and what an export is held against: a checkpoint in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from pruning.checkpoints.checkpoint import is_pruned, load_pruned
from pruning.checkpoints.config_file import read_config_file
from pruning.checkpoints.model_source import find_own_class, load_model
from pruning.errors import NirvanaError


def load_source(folder: Path) -> PreTrainedModel:
    """Load a checkpoint in float32, with the head it was saved with and eager attention."""
    if is_pruned(folder):
        model = load_pruned(folder, attn_implementation="eager")
    else:
        model = load_model(_find_class(folder), str(folder), attn_implementation="eager")
    return model.float().eval()


def _find_class(folder: Path) -> Any:
    config = read_config_file(folder)
    named = config.get("architectures") or [""]
    found = getattr(transformers, named[0], None)
    if found is None:
        found = find_own_class(config, named[0], str(folder))
    if found is None:
        raise NirvanaError(
            f"The config of {folder} should name a class of transformers in `architectures`, it "
            f"has {named[0]!r}. Save the model by save_pretrained."
        )
    return found
