"""The files that a pruned checkpoint has besides its weights: code, plan, manifest."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypedDict

import transformers
from transformers.models.auto import modeling_auto

from pruning.checkpoints import modeling_pruned
from pruning.checkpoints.checkpoint_source import INDEX_FILE, SINGLE_FILE
from pruning.checkpoints.file_hash import check_inside, hash_file
from pruning.checkpoints.prunable_model import PLAN_FILE
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from pruning.strict_json import read_json


class _FileHashes(TypedDict):
    files: dict[str, str]


MANIFEST_FILE = "manifest.json"
CODE_FILE = "modeling_pruned.py"


def load_plan(folder: Path | str) -> PruningPlan:
    """Read the plan of a pruned checkpoint."""
    return PruningPlan.load(Path(folder) / PLAN_FILE)


def is_pruned(folder: Path | str) -> bool:
    """Return whether a folder holds a pruned checkpoint."""
    return (Path(folder) / PLAN_FILE).is_file() and (Path(folder) / MANIFEST_FILE).is_file()


def check_files(folder: Path, *, weights: bool = True) -> None:
    """Raise NirvanaError for the first file that is missing or differs from the manifest.

    Without `weights` these are left out, as for a package that needs config and tokenizer only.
    """
    if not is_pruned(folder):
        raise NirvanaError(
            f"Expected a pruned checkpoint in {folder}, found no {PLAN_FILE} and {MANIFEST_FILE}. "
            "`save_pruned` or `nirvana prune` writes one."
        )
    manifest = _read_manifest(folder)
    unnamed = [name for name in _list_needed(folder) if name not in manifest]
    if unnamed:
        raise NirvanaError(
            f"{folder / MANIFEST_FILE} has no hash of {unnamed[0]}, which is loaded from it. Copy "
            "or write the checkpoint again."
        )
    for name, sha256 in manifest.items():
        check_inside(name, folder)
        if not weights and name.endswith(".safetensors"):
            continue
        if not (folder / name).is_file():
            raise NirvanaError(f"The checkpoint {folder} lacks {name}. Copy or write it again.")
        if hash_file(folder / name) != sha256:
            raise NirvanaError(
                f"{folder / name} is corrupt: it differs from the checkpoint's {MANIFEST_FILE}. "
                "Copy or write the checkpoint again."
            )


def describe_remote_code(
    model_type: str, autos: Collection[str] | None = None
) -> tuple[dict[str, str], str]:
    """Return (auto_map, code) that let transformers load a model type with layers that differ.

    `autos` are the auto classes that it is for; by default all. An older transformers may lack a
    class that this one has, and then loads none of them.
    """
    stock = {
        auto: name
        for auto, name in _list_stock_classes(model_type)
        if autos is None or auto in autos
    }
    module = CODE_FILE.removesuffix(".py")
    auto_map = {auto: f"{module}.Pruned{name}" for auto, name in stock.items()}
    return auto_map, "".join(_write_code(sorted(set(stock.values()))))


def _list_stock_classes(model_type: str) -> Iterator[tuple[str, str]]:
    """Yield (auto class, transformers' class) for every task that the type has a head for."""
    for auto_name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if not auto_name.startswith("AutoModel") or mapping is None:
            continue
        name = mapping._model_mapping.get(model_type)
        name = name[0] if isinstance(name, (list, tuple)) else name
        if isinstance(name, str) and hasattr(transformers, name):
            yield auto_name, name


def _write_code(stock_names: list[str]) -> Iterator[str]:
    yield Path(modeling_pruned.__file__).read_text()
    yield f"\n\nfrom transformers import {', '.join(stock_names)}  # noqa: E402\n"
    for name in stock_names:
        yield f"\n\nclass Pruned{name}(PrunedMixin, {name}):\n    pass\n"


def _read_manifest(folder: Path) -> dict[str, str]:
    remedy = "Copy or write the checkpoint again."
    return read_json(folder / MANIFEST_FILE, _FileHashes, remedy=remedy)["files"]


def _list_needed(folder: Path) -> list[str]:
    """Return the files that loading reads or runs: config, plan, weights, code."""
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    there = [name for name in (INDEX_FILE, CODE_FILE) if (folder / name).is_file()]
    return ["config.json", PLAN_FILE, *(weights or [SINGLE_FILE]), *there]


def keep_files(model: Any, plan: PruningPlan) -> None:
    """Keep with a pruned model, in place, what goes with every save of it (see `PrunedMixin`)."""
    files = {PLAN_FILE: json.dumps(plan.to_json()) + "\n"}
    if getattr(model.config, "nirvana", None) is not None:
        model.config.auto_map, files[CODE_FILE] = describe_remote_code(model.config.model_type)
    model.nirvana_files = files
