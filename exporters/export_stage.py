"""Exports checkpoints: load, trace, form, precision, and the comparison with what came in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.compare.checkpoint_artefact import describe_parts
from exporters.compare.compare_config import CompareConfig
from exporters.compare.onnx_artefact import open_onnx
from exporters.compare.verify_artefacts import verify_artefacts
from exporters.export_config import EXPORT_FILE, ExportConfig
from exporters.export_folder import (
    copy_companions,
    describe_graph,
    name_task,
    sum_up,
)
from exporters.graphs.load_graph import load_graph
from exporters.inspect_export import refuse_exported
from exporters.passes.known_forms import apply_form
from exporters.passes.scatter_cache import require_buffers
from exporters.precision.calibration_text import Calibrated, calibrate
from exporters.precision.convert_precision import convert_precision
from exporters.precision.int8_graph import Feeds
from exporters.trace.graph_cache import give_buffers
from exporters.trace.graph_part import GraphPart
from exporters.trace.list_parts import list_parts
from exporters.trace.load_source import load_source
from exporters.trace.trace_part import trace_graph, write_graph
from pruning.checkpoints.file_hash import hash_file
from pruning.checkpoints.model_source import fetch_model
from pruning.checkpoints.remote_code import is_remote_code_allowed
from pruning.errors import NirvanaError
from pruning.progress import Progress, name_progress, show_nothing
from pruning.strict_json import JsonObject

if TYPE_CHECKING:
    import onnx


# Smaller ones may be shapes, which inference reads.
_LARGE = 64


def check_promised(onnx_path: Path, part: GraphPart) -> None:
    """Raise NirvanaError unless the graph is valid and has the inputs of `part`, dims included.

    Valid means besides that the types and shapes of all its values agree with each other.
    """
    model = load_graph(onnx_path)
    expected = {tensor.name: list(tensor.shape) for tensor in part.inputs}
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    found = {value.name: _read_shape(value) for value in inputs}
    if found != expected:
        raise NirvanaError(f"{onnx_path} should have the inputs {expected}, it has {found}.")
    _check_types(onnx_path, model)


def _check_types(onnx_path: Path, model: onnx.ModelProto) -> None:
    """Infer all types and shapes without the weights, of which inference would make copies."""
    from onnx import helper, shape_inference

    large = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) > _LARGE]
    for tensor in large:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)
        model.graph.initializer.remove(tensor)
    try:
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except shape_inference.InferenceError as error:
        first_line = str(error).strip().splitlines()[0]
        raise NirvanaError(f"{onnx_path} is not a valid ONNX file: {first_line}") from error


def _read_shape(value: onnx.ValueInfoProto) -> list[str | int]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_param if dim.dim_param else int(dim.dim_value) for dim in dims]


def run_export(
    dense: Path,
    pruned: Path,
    config: ExportConfig,
    out_dir: Path,
    progress: Progress = show_nothing,
) -> JsonObject:
    """Export both checkpoints to `out_dir/dense` and `out_dir/pruned`."""
    results = {}
    for name, folder in (("dense", dense), ("pruned", pruned)):
        described = export_checkpoint(
            folder, out_dir / name, config, progress=_name_steps(progress, name)
        )
        onnx = next(iter(described["graphs"].values()))["file"]
        results[name] = {"onnx_path": f"{name}/{onnx}", **described}
    return results


def export_checkpoint(
    checkpoint: Path | str,
    out_dir: Path,
    config: ExportConfig,
    progress: Progress | None = None,
) -> JsonObject:
    """Write the graphs of a dense or pruned checkpoint to `out_dir`, and describe them.

    Config and tokenizer go with them, and `export.json`, which holds what is returned. Where the
    comparison fails, the graphs are in `out_dir` without that file.

    Raises:
        NirvanaError: the checkpoint is missing or corrupt, its head or what was asked for is not
            exported, or the graphs differ from the model.
    """
    refuse_exported(str(checkpoint))
    folder = fetch_model(str(checkpoint))
    model = load_source(folder)
    config.check(model)
    parts = list_parts(model, config)
    task = name_task(model, parts)
    source = describe_parts(str(checkpoint), model, parts)
    out_dir.mkdir(parents=True, exist_ok=True)
    copy_companions(folder, out_dir)
    companions = {path.name: hash_file(path) for path in sorted(out_dir.iterdir())}
    calibrated = Calibrated(feeds={}, told={})
    if config.precision == "int8-static":
        calibrated = calibrate(source, model, folder, config.calibration)
        facts = replace(source.facts, text=calibrated.held_out)
        source = replace(source, facts=facts)
    progress = progress or show_nothing
    made = _write_graphs(parts, calibrated.feeds, out_dir, config, progress)
    graphs = {  # read before the comparison holds the weights, too
        part.name: {
            **describe_graph(out_dir / f"{part.name}.onnx", part.max_length),
            **made[part.name],
        }
        for part in parts
    }
    asked = CompareConfig(precision=config.precision, tolerance=config.tolerance)
    comparison = verify_artefacts(
        source,
        open_onnx(out_dir, name="the export"),
        asked,
        progress=name_progress(progress, "compare with torch"),
    )
    described = {
        "task": task,
        "model_type": model.config.model_type,
        "trust_remote_code": is_remote_code_allowed(),
        "form": config.form,
        "precision": config.precision,
        "opset": config.chosen_opset,
        **({} if config.cache_length is None else {"cache_length": config.cache_length}),
        **({"calibration": calibrated.told} if calibrated.told else {}),
        **sum_up(graphs, comparison),
        "graphs": graphs,
        "companions": companions,
        "verification": comparison.to_json(),
    }
    text = json.dumps(described, indent=2) + "\n"
    (out_dir / EXPORT_FILE).write_text(text)
    plain: dict[str, object] = json.loads(text)
    return plain


def _name_steps(progress: Progress, name: str) -> Progress:
    """Return a function that passes on how far a step is, with the model before its name."""
    return lambda what, done, whole: progress(f"{name}: {what}", done, whole)


def _write_graphs(
    parts: Sequence[GraphPart],
    calibration: Mapping[str, Sequence[Feeds]],
    out_dir: Path,
    config: ExportConfig,
    progress: Progress,
) -> dict[str, JsonObject]:
    """Write each part in its form and precision, with its own inputs; say what the passes did."""
    made: dict[str, JsonObject] = {}
    for number, part in enumerate(parts):
        progress("trace", number, len(parts))
        path = out_dir / f"{part.name}.onnx"
        graph = trace_graph(part, config.chosen_opset)
        outcomes = apply_form(graph, config.form, cache_length=config.cache_length)
        if config.cache_length is not None:
            require_buffers(graph, outcomes)
        made[part.name] = {"passes": [outcome.to_json() for outcome in outcomes]}
        if config.precision == "fp32":
            write_graph(graph, path)
            continue
        whole = out_dir / f"{part.name}.fp32.onnx"
        write_graph(graph, whole)
        del graph
        feeds = calibration.get(part.name)
        outcome = convert_precision(
            whole,
            path,
            config.precision,
            calibration=feeds,
            symmetric=config.form == "tensorrt",
        )
        made[part.name] |= {"kept_float": outcome.kept_float}
        for file in out_dir.glob(f"{whole.name}*"):
            file.unlink()
    progress("trace", len(parts), len(parts))
    for part in _promise_parts(parts, config):
        check_promised(out_dir / f"{part.name}.onnx", part)
    return made


def _promise_parts(parts: Sequence[GraphPart], config: ExportConfig) -> tuple[GraphPart, ...]:
    """Return the parts as they are written: with buffers, where these are asked for."""
    if config.cache_length is None:
        return tuple(parts)
    return tuple(give_buffers(part, config.cache_length) for part in parts)
