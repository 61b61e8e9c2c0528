"""Exports checkpoints: the graphs of each, verified, in a folder that loads as a model's does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from exporters.compare.verify import Verification, verify_part
from exporters.export_config import ExportConfig
from exporters.trace.graph_part import GraphPart, GraphTensor
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_part
from pruning.checkpoints.checkpoint import is_pruned, load_pruned
from pruning.checkpoints.file_hash import hash_file
from pruning.checkpoints.model_source import fetch_model, load_model
from pruning.checkpoints.prunable_model import find_stock_class
from pruning.errors import NirvanaError

EXPORT_FILE = "export.json"
# What goes with a model besides its weights: configs, tokenizers and image processors.
_COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja")
_NOT_COMPANIONS = ("manifest.json", "*.index.json", EXPORT_FILE)


def run_export(dense: Path, pruned: Path, config: ExportConfig, out_dir: Path) -> dict[str, Any]:
    """Export both checkpoints to `out_dir/dense` and `out_dir/pruned`."""
    results = {}
    for name, folder in (("dense", dense), ("pruned", pruned)):
        described = export_checkpoint(folder, out_dir / name, config)
        onnx = next(iter(described["graphs"].values()))["file"]
        results[name] = {"onnx_path": f"{name}/{onnx}", **described}
    return results


def export_checkpoint(
    checkpoint: Path | str, out_dir: Path, config: ExportConfig
) -> dict[str, Any]:
    """Write the graphs of a dense or pruned checkpoint to `out_dir`, and describe them.

    Config and tokenizer go with them, and `export.json`, which holds what is returned.

    Raises:
        NirvanaError: the checkpoint is missing or corrupt, its head or what was asked for is not
            exported, or a graph differs from the model.
    """
    if (config.form, config.precision) != ("portable", "fp32"):
        raise NirvanaError(
            f"Only the form portable in fp32 is exported yet, got {config.form} in "
            f"{config.precision}."
        )
    folder = fetch_model(str(checkpoint))
    model = _load(folder)
    out_dir.mkdir(parents=True, exist_ok=True)
    graphs, verifications = {}, []
    for part in list_parts(model, config):
        path = out_dir / f"{part.name}.onnx"
        trace_part(part, path, config.chosen_opset)
        verified = verify_part(path, part, config.chosen_tolerance)
        verifications.append(verified)
        graphs[part.name] = _describe_graph(path, part, verified)
    _copy_companions(folder, out_dir)
    described = {
        "task": _name_task(model, graphs),
        "model_type": model.config.model_type,
        "form": config.form,
        "precision": config.precision,
        "opset": config.chosen_opset,
        **_sum_up(list(graphs.values()), verifications),
        "graphs": graphs,
    }
    (out_dir / EXPORT_FILE).write_text(json.dumps(described, indent=2) + "\n")
    return described


def _load(folder: Path) -> PreTrainedModel:
    """Load a checkpoint in float32, with the head it was saved with and eager attention."""
    if is_pruned(folder):
        model = load_pruned(folder, attn_implementation="eager")
    else:
        model = load_model(_find_class(folder), str(folder), attn_implementation="eager")
    return model.float().eval()


def _find_class(folder: Path) -> Any:
    try:
        named = json.loads((folder / "config.json").read_text()).get("architectures") or [""]
    except (OSError, ValueError) as error:
        raise NirvanaError(f"{folder / 'config.json'} cannot be read: {error}.") from error
    found = getattr(transformers, str(named[0]), None)
    if found is None:
        raise NirvanaError(
            f"The config of {folder} should name a class of transformers in `architectures`, it "
            f"has {named[0]!r}. Save the model by save_pretrained."
        )
    return found


def _name_task(model: PreTrainedModel, graphs: Iterable[str]) -> str:
    """Name the task as optimum does, whose names the ecosystem reads."""
    from optimum.exporters.tasks import TasksManager

    if "encoder_model" in graphs:  # optimum finds some of these classes under other tasks first
        return "text2text-generation-with-past"
    task = str(TasksManager.infer_task_from_model(find_stock_class(model)))
    return f"{task}-with-past" if task == "text-generation" else task


def _describe_graph(path: Path, part: GraphPart, verified: Verification) -> dict[str, Any]:
    import onnx

    data = sorted(path.parent.glob(f"{path.name}.data"))
    return {
        "file": path.name,
        "sha256": {file.name: hash_file(file) for file in (path, *data)},
        "size_bytes": sum(file.stat().st_size for file in (path, *data)),
        "num_nodes": len(onnx.load(str(path), load_external_data=False).graph.node),
        "inputs": [_describe_tensor(tensor) for tensor in part.inputs],
        "outputs": [_describe_tensor(tensor) for tensor in part.outputs],
        "verification": verified.to_json(),
    }


def _describe_tensor(tensor: GraphTensor) -> dict[str, Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"name": tensor.name, "dtype": dtype, "shape": list(tensor.shape)}


def _sum_up(graphs: list[dict[str, Any]], verified: list[Verification]) -> dict[str, Any]:
    """Return the figures of all graphs together; the hash is the first one's."""
    whole = Verification(
        tolerance=verified[0].tolerance, cases=tuple(case for v in verified for case in v.cases)
    )
    return {
        "sha256": graphs[0]["sha256"][graphs[0]["file"]],
        "size_bytes": sum(graph["size_bytes"] for graph in graphs),
        "num_nodes": sum(graph["num_nodes"] for graph in graphs),
        **whole.to_json(),
    }


def _copy_companions(folder: Path, out_dir: Path) -> None:
    """Copy the files that a runtime wants beside the graphs, but what loads torch weights."""
    for pattern in _COMPANIONS:
        for path in sorted(folder.glob(pattern)):
            if not any(path.match(unwanted) for unwanted in _NOT_COMPANIONS):
                shutil.copyfile(path, out_dir / path.name)
    config = json.loads((out_dir / "config.json").read_text())
    config.pop("auto_map", None)  # its code builds torch modules and is not here
    (out_dir / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
