"""Exports the dense and the pruned checkpoint in the same graph form, each verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, PreTrainedModel

from exporters.compare.verify import verify_onnx
from exporters.export_config import ExportConfig
from exporters.trace.trace_onnx import trace_onnx
from pruning.checkpoints.checkpoint import is_pruned, load_pruned
from pruning.checkpoints.file_hash import hash_file
from pruning.checkpoints.model_source import load_model
from pruning.errors import NirvanaError


def run_export(dense: Path, pruned: Path, config: ExportConfig, out_dir: Path) -> dict[str, Any]:
    """Export both checkpoints to `out_dir/dense/model.onnx` and `out_dir/pruned/model.onnx`."""
    return {
        name: {
            "onnx_path": f"{name}/model.onnx",
            **export_checkpoint(folder, out_dir / name, config),
        }
        for name, folder in (("dense", dense), ("pruned", pruned))
    }


def export_checkpoint(checkpoint: Path, out_dir: Path, config: ExportConfig) -> dict[str, Any]:
    """Write `out_dir/model.onnx` from a dense or pruned checkpoint and describe it.

    Raises:
        NirvanaError: the checkpoint is missing or corrupt, or the file differs from the model.
    """
    path = out_dir / "model.onnx"
    model = _load(checkpoint)
    trace_onnx(model, path, config)
    verification = verify_onnx(path, model, config.tolerance)
    described = {"task": _name_task(), "opset": config.opset, **_describe_file(path)}
    return {**described, **verification.to_json()}


def _load(checkpoint: Path) -> PreTrainedModel:
    if is_pruned(checkpoint):
        model = load_pruned(checkpoint, attn_implementation="eager")
        if "SequenceClassification" not in type(model).__name__:
            raise NirvanaError(
                f"Expected a sequence classifier to export, {checkpoint} holds a "
                f"{type(model).__name__}. Other heads are not exported yet."
            )
    else:
        model = load_model(
            AutoModelForSequenceClassification, str(checkpoint), attn_implementation="eager"
        )
    return model.float().eval()


def _name_task() -> str:
    """Name the task as optimum does, whose names the ecosystem reads."""
    from optimum.exporters.tasks import TasksManager

    return str(TasksManager.infer_task_from_model(AutoModelForSequenceClassification))


def _describe_file(path: Path) -> dict[str, Any]:
    import onnx

    files = [path, *path.parent.glob(f"{path.name}.data")]
    return {
        "sha256": hash_file(path),
        "size_bytes": sum(f.stat().st_size for f in files),
        "num_nodes": len(onnx.load(str(path), load_external_data=False).graph.node),
    }
