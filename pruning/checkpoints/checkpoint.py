"""Keeps a pruned model: a Hugging Face folder that loads with and without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from pruning.checkpoints import modeling_pruned
from pruning.checkpoints.checkpoint_files import check_files, is_pruned, keep_files, load_plan
from pruning.checkpoints.config_file import read_config_file
from pruning.checkpoints.model_source import load_model, quiet_transformers
from pruning.checkpoints.prunable_model import PLAN_FILE, read_plan, refuse_adapters
from pruning.errors import NirvanaError
from pruning.write_aside import write_new_folder

__all__ = ["is_pruned", "load_plan", "load_pruned", "save_pruned"]


def save_pruned(
    model: PreTrainedModel,
    out_dir: Path | str,
    tokenizer: Any = None,
    *,
    max_shard_size: int | str = "5GB",
    replace: bool = False,
) -> None:
    """Write a repacked model to `out_dir`, which must not exist or be empty.

    The folder is written aside and renamed when whole: one that exists is complete. With
    `replace`, a checkpoint that is there is replaced once the new one is whole. Weights
    beyond `max_shard_size` go into several files.

    Raises:
        NirvanaError: the model was not pruned, has adapters that were not merged, or the folder
            cannot be written.
    """
    refuse_adapters(model)
    plan = read_plan(model)
    if plan is None:
        raise NirvanaError(
            "Expected a pruned model, this one carries no plan: call repack(model, plan) first. A "
            "dense model is saved by its own save_pretrained."
        )
    with write_new_folder(Path(out_dir), "prune", replace=replace) as aside:
        with quiet_transformers():
            model.save_pretrained(aside, max_shard_size=max_shard_size)
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
        plan.save(aside / PLAN_FILE)
        modeling_pruned.write_manifest(aside, also={path.name for path in aside.iterdir()})


def load_pruned(folder: Path | str, **kwargs: object) -> PreTrainedModel:
    """Load a pruned checkpoint with this package's own code, running none from the folder.

    `kwargs` go to `from_pretrained` (`attn_implementation`, `dtype`, ...).

    Raises:
        NirvanaError: the folder holds no pruned checkpoint, or a file differs from its manifest.
    """
    path = Path(folder)
    check_files(path)
    config = read_config_file(path, remedy="Copy or write the checkpoint again.")
    named = (config.get("architectures") or [""])[0]
    stock = getattr(transformers, named.removeprefix("Pruned"), None)
    if stock is None:
        raise NirvanaError(
            f"The config of {path} should name a class of transformers in `architectures`, it has "
            f"{named!r}. Copy or write the checkpoint again."
        )
    loaded = modeling_pruned.pruned_class(stock) if "nirvana" in config else stock
    model: PreTrainedModel = load_model(loaded, str(path), **kwargs)
    keep_files(model, load_plan(path))
    return model
