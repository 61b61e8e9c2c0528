"""Keeps a pruned model: a Hugging Face folder that loads with and without this package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from pruning import modeling_pruned
from pruning.errors import NirvanaError
from pruning.file_hash import hash_file
from pruning.model_source import load_stock_model
from pruning.plan import PruningPlan

PLAN_FILE = "plan.json"
MANIFEST_FILE = "manifest.json"
CODE_FILE = "modeling_pruned.py"

_MAPPINGS = {
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
}


def save_pruned(
    model: PreTrainedModel, plan: PruningPlan, out_dir: Path, tokenizer: Any = None
) -> None:
    """Write a repacked model to `out_dir`, which must not exist or be empty.

    The folder is written aside and renamed when whole: one that exists is complete.
    """
    if out_dir.exists() and any(out_dir.iterdir()):
        raise NirvanaError(f"{out_dir} is not empty. Choose a new folder; nothing was written.")
    aside = out_dir.with_name(f".{out_dir.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    stock = _auto_classes(model.config.model_type)
    module = CODE_FILE.removesuffix(".py")
    model.config.auto_map = {auto: f"{module}.Pruned{name}" for auto, name in stock.items()}
    model.save_pretrained(aside)
    (aside / CODE_FILE).write_text(_remote_code(sorted(set(stock.values()))))
    plan.save(aside / PLAN_FILE)
    if tokenizer is not None:
        tokenizer.save_pretrained(aside)
    _write_manifest(aside)
    if out_dir.exists():
        out_dir.rmdir()
    aside.rename(out_dir)


def load_pruned(folder: Path | str, **kwargs: Any) -> PreTrainedModel:
    """Load a pruned checkpoint with this package's own code, running none from the folder.

    `kwargs` go to `from_pretrained` (`attn_implementation`, `dtype`, ...).

    Raises:
        NirvanaError: the folder holds no pruned checkpoint, or a file differs from its manifest.
    """
    path = Path(folder)
    check_files(path)
    architecture = json.loads((path / "config.json").read_text())["architectures"][0]
    stock = getattr(transformers, architecture.removeprefix("Pruned"))
    return load_stock_model(modeling_pruned.pruned_class(stock), str(path), **kwargs)


def load_plan(folder: Path | str) -> PruningPlan:
    """Read the plan of a pruned checkpoint."""
    return PruningPlan.load(Path(folder) / PLAN_FILE)


def is_pruned(folder: Path | str) -> bool:
    """Tell whether a folder holds a pruned checkpoint."""
    return (Path(folder) / PLAN_FILE).is_file() and (Path(folder) / MANIFEST_FILE).is_file()


def check_files(folder: Path) -> None:
    """Raise NirvanaError for the first file that is missing or differs from the manifest."""
    if not is_pruned(folder):
        raise NirvanaError(
            f"Expected a pruned checkpoint in {folder}, found no {PLAN_FILE} and {MANIFEST_FILE}. "
            "`save_pruned` or `nirvana prune` writes one."
        )
    for name, sha256 in _read_manifest(folder).items():
        if not (folder / name).is_file():
            raise NirvanaError(f"The checkpoint {folder} lacks {name}. Copy or write it again.")
        if hash_file(folder / name) != sha256:
            raise NirvanaError(
                f"{folder / name} is corrupt: it differs from the checkpoint's {MANIFEST_FILE}. "
                "Copy or write the checkpoint again."
            )


def _read_manifest(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / MANIFEST_FILE).read_text())["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise NirvanaError(
            f"{folder / MANIFEST_FILE} is corrupt. Copy or write the checkpoint again."
        ) from error


def _auto_classes(model_type: str) -> dict[str, str]:
    found = {}
    for auto, mapping in _MAPPINGS.items():
        name = getattr(modeling_auto, mapping).get(model_type)
        if isinstance(name, str):
            found[auto] = name
    return found


def _remote_code(stock_names: list[str]) -> str:
    def lines() -> Iterator[str]:
        yield Path(modeling_pruned.__file__).read_text()
        yield f"\n\nfrom transformers import {', '.join(stock_names)}  # noqa: E402\n"
        for name in stock_names:
            yield f"\n\nclass Pruned{name}(PrunedMixin, {name}):\n    pass\n"

    return "".join(lines())


def _write_manifest(folder: Path) -> None:
    files = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    manifest = {"format": "nirvana-pruned-checkpoint", "versions": versions, "files": files}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n")
