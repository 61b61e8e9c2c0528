"""Tiny pruned checkpoints whose layers differ, and packages of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import nirvana_deploy
from nirvana_deploy import LayerPlan
from nirvana_deploy.serving.package import package_model
from nirvana_deploy.serving.package_config import CheckpointSources, PackageConfig
from nirvana_deploy.serving.package_manifest import PackageResult
from tests.nirvana_deploy.serving.tiny_decoder import save_tokenizer
from tests.pruning.tiny_models import make_tiny

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [40, 3, 77, 12, 61, 33]])


def keep(heads: tuple[int, ...] | None, neurons: Any) -> LayerPlan:
    return LayerPlan(kept_heads=heads, kept_neurons=neurons)


ALL = tuple(range(48))
# Six query heads on three KV heads while dense.
MIXED = [keep((0, 1, 2, 3, 4, 5), ALL), keep((0, 2), ALL[:9]), keep((4, 5), ALL[:33])]
EMPTY = [keep(None, ALL[:20]), keep((0, 2), None), keep(None, None)]
BIASES = [keep((), ALL[:20]), keep((0, 2), ()), keep(None, ALL)]


def save(
    folder: Path, layers: list[LayerPlan], name: str = "llama", **changes: Any
) -> torch.Tensor:
    """Save a tiny model cut as `layers` say; return its logits for IDS."""
    dense = make_tiny(name, "eager", **changes)
    pruned = nirvana_deploy.repack(dense, nirvana_deploy.plan_for(dense, layers)).eval()
    nirvana_deploy.save_pruned(pruned, folder)
    save_tokenizer(folder)
    with torch.no_grad():
        logits: torch.Tensor = pruned(IDS).logits
    return logits


def package(folder: Path, out: Path, to: Any = "vllm", **settings: Any) -> PackageResult:
    config = PackageConfig(to=to, model_name="small", **settings)
    return package_model(CheckpointSources(checkpoint=folder), out, config)


def read_config(package_dir: Path) -> Any:
    return json.loads((package_dir / "small" / "config.json").read_text())
