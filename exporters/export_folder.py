"""What lies beside the graphs of an export: the model's config and tokenizer, and `export.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from exporters.compare.comparison import Comparison
from exporters.engines.engine_graph import count_attentions, count_fused_attentions
from exporters.export_config import EXPORT_FILE
from exporters.graphs.read_structure import read_structure
from exporters.trace.graph_part import GraphPart
from exporters.trace.load_source import EXPORTED
from pruning.checkpoints.config_file import read_config_file
from pruning.checkpoints.file_hash import hash_file
from pruning.checkpoints.prunable_model import find_stock_class
from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject

if TYPE_CHECKING:
    import onnx

# What goes with a model besides its weights: configs, tokenizers and image processors, the plan.
_COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja")
_NOT_COMPANIONS = ("manifest.json", "*.index.json", EXPORT_FILE)


def copy_companions(checkpoint: Path, out_dir: Path) -> None:
    """Copy the files that a runtime wants beside the graphs, but what loads torch weights."""
    for pattern in _COMPANIONS:
        for path in sorted(checkpoint.glob(pattern)):
            if not any(path.match(unwanted) for unwanted in _NOT_COMPANIONS):
                shutil.copyfile(path, out_dir / path.name)
    config = read_config_file(out_dir)
    config.pop("auto_map", None)  # its code builds torch modules and is not here
    (out_dir / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def name_task(model: PreTrainedModel, parts: Iterable[GraphPart]) -> str:
    """Name the task as optimum does, whose names the ecosystem reads.

    Raises:
        NirvanaError: none is known for the model's head.
    """
    from optimum.exporters.tasks import TasksManager

    parts = tuple(parts)
    outputs = {tensor.name for part in parts for tensor in part.outputs}
    if any(
        part.name == "encoder_model" for part in parts
    ):  # optimum finds some of these classes under other tasks first
        return "text2text-generation-with-past"
    stock = find_stock_class(model)
    try:
        task = str(TasksManager.infer_task_from_model(stock))
    except (ValueError, KeyError, AttributeError) as error:
        if outputs != {"last_hidden_state"}:
            raise NirvanaError(
                f"{stock.__name__} is not exported: no task is known for its head. {EXPORTED}"
            ) from error
        task = "feature-extraction"
    return f"{task}-with-past" if task == "text-generation" else task


def describe_graph(path: Path, max_length: int | None) -> dict[str, object]:
    """Describe a graph that was written: its files by hash, its size, inputs and outputs.

    `max_length` is that of its part.
    """
    files = (path, *sorted(path.parent.glob(f"{path.name}.data")))
    structure = read_structure(path)
    return {
        "file": path.name,
        "sha256": {file.name: hash_file(file) for file in files},
        "size_bytes": sum(file.stat().st_size for file in files),
        "max_length": max_length,
        "num_nodes": len(structure.graph.node),
        "num_attentions": count_attentions(structure),
        "num_fused_attentions": count_fused_attentions(structure),
        "inputs": [_describe_tensor(value) for value in structure.graph.input],
        "outputs": [_describe_tensor(value) for value in structure.graph.output],
    }


def _describe_tensor(value: onnx.ValueInfoProto) -> dict[str, object]:
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    shape = [dim.dim_param if dim.dim_param else int(dim.dim_value) for dim in tensor.shape.dim]
    dtype = str(tensor_dtype_to_np_dtype(tensor.elem_type))
    return {"name": value.name, "dtype": dtype, "shape": shape}


def sum_up(graphs: Mapping[str, JsonObject], comparison: Comparison) -> JsonObject:
    """Return the figures of all graphs together; `sha256` is the first one's."""
    described = list(graphs.values())
    return {
        "sha256": described[0]["sha256"][described[0]["file"]],
        "size_bytes": sum(graph["size_bytes"] for graph in described),
        "num_nodes": sum(graph["num_nodes"] for graph in described),
        "tolerance": comparison.gates.tolerance,
        "max_abs_difference": comparison.max_abs_difference,
        "cases": [
            {
                "batch": found.case.batch,
                "length": found.case.length,
                "padding": found.case.padding,
                "padded": found.case.padding != "none",
                "what": found.what,
                "max_abs_difference": found.difference.max_abs,
            }
            for found in comparison.cases
        ],
    }
