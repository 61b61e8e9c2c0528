"""What is fuzzed: each reader with a file that it takes, and when taking a damaged one is wrong."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_graphs import (
    apply_plan,
    build_graph,
    cut_graph,
    inspect_graph,
    load_decoder,
    package_graph,
    profile_graph,
    verify_graph,
)
from fuzz_mutations import (
    mutate_bytes,
    mutate_json,
    mutate_onnx,
    mutate_plan,
    mutate_safetensors,
    mutate_yaml,
)

Mutate = Callable[[bytes, random.Random], bytes]
# Returns what is wrong with an accepted input, None where nothing is, or UNJUDGED.
Read = Callable[[Path], str | None]


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        file: which file of the folder is damaged.
        share: of the inputs.
        vouched: a manifest whose hashes are made to fit the damaged file, so that what is behind
            the comparison of hashes is reached.
    """

    name: str
    folder: str
    file: str
    mutate: Mutate
    read: Read
    share: int
    vouched: str = ""


def refit(folder: Path, manifest: str) -> None:
    """Write the hashes of the files as they are into a manifest, in place."""
    path = folder / manifest
    path.write_text(json.dumps(_fit(json.loads(path.read_text()), folder)))


def _fit(value: Any, folder: Path) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if isinstance(item, str) and len(item) == 64 and (folder / name).is_file()
        else _fit(item, folder)
        for name, item in value.items()
    }


def _read_recipe(folder: Path) -> str | None:
    from nirvana_deploy.config_reader import to_plain
    from nirvana_deploy.runs.recipe import load_recipe

    recipe = load_recipe(folder / "recipe.yaml")
    text = json.dumps(to_plain(recipe))
    if "NaN" in text or "Infinity" in text:
        return "a number that is not finite"
    text.encode()
    return None


def _read_plan(folder: Path) -> str | None:
    from pruning.plans.plan import PruningPlan

    plan = PruningPlan.load(folder / "plan.json")
    if PruningPlan.from_json(plan.to_json()) != plan:
        return "does not read back"
    for layer, dims in zip(plan.layers, plan.dims.layers, strict=True):
        limits = ((layer.kept_heads, dims.num_heads), (layer.kept_neurons, dims.intermediate_size))
        for kept, most in limits:
            if any(not 0 <= index < most for index in kept or ()):
                return "an index out of range"
            if list(kept or ()) != sorted(set(kept or ())):
                return "indices that do not ascend"
    return None


@functools.cache
def _load_whole(folder: Path) -> dict[str, Any]:
    from pruning.checkpoints.checkpoint import load_pruned

    return dict(load_pruned(folder).state_dict())


def _read_pruned(folder: Path) -> str | None:
    from pruning.checkpoints.checkpoint import load_pruned

    found, whole = load_pruned(folder).state_dict(), _load_whole(folder.parent / "base" / "pruned")
    same = found.keys() == whole.keys() and all(found[n].equal(t) for n, t in whole.items())
    return None if same else "other weights were loaded from a folder with a manifest"


def _read_vouched_weights(folder: Path) -> str | None:
    """Load weights whose manifest fits: they must be those that safetensors itself reads."""
    from safetensors.torch import load_file

    from pruning.checkpoints.checkpoint import load_pruned

    found, stored = load_pruned(folder).state_dict(), load_file(folder / "model.safetensors")
    differ = [n for n, t in found.items() if n in stored and not _equal(t, stored[n])]
    missing = [name for name in found if name not in stored]
    if differ or missing:
        return f"{(differ or missing)[0]} was loaded with values that its file does not hold"
    return None


def _equal(left: Any, right: Any) -> bool:
    return bool(left.shape == right.shape and (left.eq(right) | (left.ne(left))).all())


def _read_dense(folder: Path) -> str | None:
    from exporters.compare.onnx_artefact import read_config_facts
    from pruning.checkpoints.checkpoint_source import list_tensors
    from pruning.checkpoints.model_skeleton import build_skeleton

    read_config_facts(folder)
    build_skeleton(str(folder))
    for tensor in list_tensors(folder):
        if tuple(tensor.read().shape) != tensor.shape:
            return f"{tensor.name} has another shape than its header says"
    return None


def _load_dense(folder: Path) -> str | None:
    """Load a dense model; every parameter must come from its file."""
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    from pruning.checkpoints.model_source import load_model

    found = load_model(AutoModelForSequenceClassification, str(folder)).state_dict()
    stored = load_file(folder / "model.safetensors")
    for name, tensor in found.items():
        if name not in stored:
            return f"{name} is in no file, and was drawn at random"
        if not _equal(tensor, stored[name].to(tensor.dtype)):
            return f"{name} has other values than its file"
    return None


def _read_text_parts(folder: Path) -> str | None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    from nirvana_deploy.serving.text_parts import read_text_parts
    from pruning.checkpoints.model_source import load_stock_model

    parts = read_text_parts(folder)
    tokenizer = Tokenizer.from_file(str(parts.tokenizer_path))
    load_stock_model(AutoTokenizer, str(folder))
    if tokenizer.id_to_token(parts.pad_id) != parts.pad_token:
        return f"the pad token {parts.pad_token!r} has another id than {parts.pad_id}"
    if parts.max_length < 1 or not parts.labels:
        return f"a length of {parts.max_length} and the labels {parts.labels}"
    return None


def _load_export(folder: Path) -> str | None:
    from exporters.engines.engine_profiles import find_max_length
    from exporters.inspect_export import inspect_export
    from nirvana_deploy.serving.loaded.open_model import load_export

    find_max_length(folder / "model.onnx")
    inspect_export(folder)
    load_export(folder)
    whole = (folder.parent / "base" / "export" / "model.onnx").read_bytes()
    same = (folder / "model.onnx").read_bytes() == whole
    return None if same else "another graph was loaded than export.json vouches for"


def _read_engine(folder: Path) -> str | None:
    from exporters.engines.engine_manifest import check_engine

    check_engine(folder)
    same = (folder / "model.engine").read_text(errors="replace") == "engine"
    return None if same else "another engine was taken than engine.json vouches for"


def _read_layers(name: str) -> Read:
    def read(folder: Path) -> str | None:
        from exporters.engines.engine_audit import read_layer_table

        read_layer_table((folder / name).read_text(errors="replace"))
        return None

    return read


def _read_inputs(folder: Path) -> str | None:
    from nirvana_deploy.api.engines import _read_inputs as read_inputs

    read_inputs(folder / "inputs.npz")
    return None


def _read_package(folder: Path) -> str | None:
    from nirvana_deploy.serving.package_manifest import check_package

    manifest = check_package(folder)
    text = (folder / "model" / "1" / "text.json").read_bytes()
    hashes = manifest.sha256.get("model/1/text.json")
    same = hashes == hashlib.sha256(text).hexdigest()
    return None if same else "a file was taken that package.json does not vouch for"


def _serve_package(folder: Path) -> str | None:
    """Open a package as the server does, and let its text model answer."""
    from nirvana_deploy.serving.server.graph_model import open_model
    from nirvana_deploy.serving.server.served_models import list_served_graphs

    for graph in list_served_graphs(folder):
        if graph.text is not None:
            open_model(graph, 1)
    return None


def _read_text_model(folder: Path) -> str | None:
    from nirvana_deploy.serving.text_model_file import read_text_model

    found = read_text_model(folder / "model" / "1")
    return None if isinstance(found.tokenizer, str) else "a name that is no text"


def _read_stage(folder: Path) -> str | None:
    from nirvana_deploy.report.results import read_run
    from nirvana_deploy.runs.run_folder import claim_run_folder
    from nirvana_deploy.runs.stage_folder import StageFolder

    with claim_run_folder(folder):
        stage = StageFolder(run_dir=folder, name="prune")
        stage.read_interrupted()
        manifest = stage.read_manifest()
        damage = None if manifest is None else stage.find_damage(manifest)
        same = (folder / "prune" / "weights.bin").read_bytes() == b"weights"
        if manifest is not None and manifest["files"] and damage is None and not same:
            return "a changed file counts as whole"
    read_run(folder)
    return None


def _read_table(folder: Path) -> str | None:
    from profiles.latency.latency_table import LatencyTable
    from pruning.plans.plan import PruningPlan

    table = LatencyTable.load(folder / "table.json")
    plan = PruningPlan.load(folder.parent / "base" / "plan" / "plan.json")
    predicted = table.predict_ms(plan)  # refused where the table is of another model
    return None if predicted < 1e12 else f"a latency of {predicted} ms"


def _draw_report(*names: str) -> Read:
    """Draw what is damaged as a page; it holds no number that is none."""

    def read(folder: Path) -> str | None:
        import nirvana_deploy as api

        page = api.draw_report([folder / name for name in names], out=folder / "page.html")
        text = page.read_text(encoding="utf-8")
        found = next((word for word in (">nan", "nan ms", "inf ms", ">inf") if word in text), None)
        return None if found is None else f"{found!r} stands on the page"

    return read


def _read_scores(folder: Path) -> str | None:
    """Load a scoring run and allocate: what is kept lies within the model, and ascends."""
    from pruning.oneshot.oneshot_config import OneShotConfig
    from pruning.oneshot.prune_to_budget import allocate_budget
    from pruning.oneshot.prune_with_scores import check_run
    from pruning.scoring.scoring_run import load_run

    run, config = load_run(folder), OneShotConfig()
    check_run(run, [0.5], config)
    for layer, dims in zip(allocate_budget(run, config, 0.5), run.dims.layers, strict=True):
        for kept, most in (
            (layer.kept_heads or (), dims.num_heads),
            (layer.kept_neurons or (), dims.intermediate_size),
        ):
            if list(kept) != sorted(set(kept)) or not all(0 <= unit < most for unit in kept):
                return f"units {kept} of {most} were chosen"
    whole = folder.parent / "base" / "scores"
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("scores.safetensors", "curves.json", "calibration.safetensors"):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if name not in manifest["files"] or manifest["files"][name] != digest:
            return f"{name} was taken, for which the manifest does not vouch"
    return None if whole.is_dir() else "unreachable"


def _read_target(folder: Path) -> str | None:
    from profiles.targets.target import read_target

    target = read_target(folder / "l4.toml")
    return None if target.memory_bandwidth_gb_per_s.value < 1e300 else "an endless bandwidth"


def _read_data(suffix: str) -> Read:
    def read(folder: Path) -> str | None:
        from pruning.tasks.data_config import DataConfig
        from pruning.tasks.data_splits import load_splits

        source = str(folder / f"data.{suffix}")
        rows = load_splits(
            DataConfig(
                dataset=source, task="classification", text_column="text", label_column="label"
            )
        )
        return None if all(len(split) for split in rows.values()) else "an empty split"

    return read


def _read_request(name: str) -> Read:
    """Read the body of a request: what is accepted fits the model, and is what was sent."""

    def read(folder: Path) -> str | None:
        from nirvana_deploy.serving.onnx_signature import TensorSignature
        from nirvana_deploy.serving.server.http_service import read_body
        from nirvana_deploy.serving.server.inference_request import RequestReader

        names = ("input_ids", "attention_mask")
        tensors = {n: TensorSignature(name=n, data_type="TYPE_INT64", dims=(-1,)) for n in names}
        reader = RequestReader(
            inputs=tensors,
            outputs=("logits",),
            max_batch_size=4,
            max_tokens=64,
            max_text_chars=100,
            max_positions=16,
            id_limits={"input_ids": 99},
        )
        body, headers = (folder / name).read_bytes(), {"content-type": "application/json"}
        if name.endswith(".bin"):
            whole = (folder.parent / "base" / "http" / name).read_bytes()
            headers["inference-header-content-length"] = str(len(whole) - 96)
        request = read_body(body, headers)
        arrays = reader.read(request)
        for each in request.inputs:
            array = arrays[each.name]
            if array.dtype != "int64" or array.shape != each.shape or array.size > 64:
                return f"{each.name} became {array.dtype} {array.shape}"
            if array.min() < 0 or array.max() > (98 if each.name == "input_ids" else 1):
                return f"{each.name} has values from {array.min()} to {array.max()}"
            flat = str(each.data).replace("[", "").replace("]", "")
            if isinstance(each.data, list) and flat != ", ".join(map(str, array.ravel().tolist())):
                return f"{each.name} is not what was sent"
        return None

    return read


_GRAPH = "model.onnx"
READERS = (
    Reader("recipe", "quickstart", "recipe.yaml", mutate_yaml, _read_recipe, 140),
    Reader("one-shot recipe", "oneshot", "recipe.yaml", mutate_yaml, _read_recipe, 80),
    Reader("plan", "plan", "plan.json", mutate_json, _read_plan, 140),
    Reader("applied plan", "graph", "plan.json", mutate_plan, apply_plan, 25),
    Reader("pruned config", "pruned", "config.json", mutate_json, _read_pruned, 6),
    Reader("pruned manifest", "pruned", "manifest.json", mutate_json, _read_pruned, 15),
    Reader("pruned weights", "pruned", "model.safetensors", mutate_bytes, _read_pruned, 6),
    Reader(
        "vouched weights",
        "pruned",
        "model.safetensors",
        mutate_safetensors,
        _read_vouched_weights,
        12,
        "manifest.json",
    ),
    Reader(
        "vouched config",
        "pruned",
        "config.json",
        mutate_json,
        _read_vouched_weights,
        8,
        "manifest.json",
    ),
    Reader("dense config", "dense", "config.json", mutate_json, _read_dense, 25),
    Reader("dense index", "dense", "model.safetensors.index.json", mutate_json, _read_dense, 25),
    Reader("dense weights", "whole", "model.safetensors", mutate_safetensors, _load_dense, 30),
    Reader("tokenizer", "text", "tokenizer.json", mutate_json, _read_text_parts, 20),
    Reader("tokenizer config", "text", "tokenizer_config.json", mutate_json, _read_text_parts, 20),
    Reader("special tokens", "text", "special_tokens_map.json", mutate_json, _read_text_parts, 15),
    Reader("text's config", "text", "config.json", mutate_json, _read_text_parts, 20),
    Reader("inspect", "graph", _GRAPH, mutate_onnx, inspect_graph, 35),
    Reader("inspect, weights beside", "beside", _GRAPH, mutate_onnx, inspect_graph, 12),
    Reader("verify", "graph", _GRAPH, mutate_onnx, verify_graph, 14),
    Reader("verify, weights beside", "beside", _GRAPH, mutate_onnx, verify_graph, 4),
    Reader("surgeon", "graph", _GRAPH, mutate_onnx, cut_graph, 40),
    Reader("surgeon, weights beside", "beside", _GRAPH, mutate_onnx, cut_graph, 15),
    Reader("surgeon, data beside", "beside", "model.data", mutate_bytes, cut_graph, 5),
    Reader("build", "graph", _GRAPH, mutate_onnx, build_graph, 25),
    Reader("package", "graph", _GRAPH, mutate_onnx, package_graph, 8),
    Reader("profile graph", "graph", _GRAPH, mutate_onnx, profile_graph, 12),
    Reader("decoder graph", "causal", _GRAPH, mutate_onnx, load_decoder, 10, "export.json"),
    Reader("export.json", "export", "export.json", mutate_json, _load_export, 12),
    Reader("exported config", "export", "config.json", mutate_json, _load_export, 8),
    Reader("exported graph", "export", _GRAPH, mutate_onnx, _load_export, 6),
    Reader("engine.json", "engine", "engine.json", mutate_json, _read_engine, 80),
    Reader("engine", "engine", "model.engine", mutate_bytes, _read_engine, 6),
    Reader("build log", "engine", "build.log", mutate_bytes, _read_layers("build.log"), 15),
    Reader("layers", "engine", "layers.json", mutate_json, _read_layers("layers.json"), 15),
    Reader("engine's inputs", "engine", "inputs.npz", mutate_bytes, _read_inputs, 15),
    Reader("package.json", "package", "package.json", mutate_json, _read_package, 60),
    Reader("packaged file", "package", "model/1/text.json", mutate_json, _read_package, 12),
    Reader("text.json", "package", "model/1/text.json", mutate_json, _read_text_model, 50),
    Reader(
        "served text.json",
        "triton",
        "model_repository/model_text/1/text.json",
        mutate_json,
        _serve_package,
        12,
        "package.json",
    ),
    Reader(
        "served labels",
        "triton",
        "model_repository/model_label/1/labels.json",
        mutate_json,
        _serve_package,
        8,
        "package.json",
    ),
    Reader(
        "served tokenizer",
        "triton",
        "model_repository/model_tokenizer/1/tokenizer.json",
        mutate_json,
        _serve_package,
        8,
        "package.json",
    ),
    Reader("served package.json", "triton", "package.json", mutate_json, _serve_package, 8),
    Reader("run.json", "run", "run.json", mutate_json, _read_stage, 25),
    Reader("stage manifest", "run", "prune/manifest.json", mutate_json, _read_stage, 60),
    Reader("stage file", "run", "prune/weights.bin", mutate_bytes, _read_stage, 12),
    Reader("stage key", "run", ".prune.partial/key.json", mutate_json, _read_stage, 25),
    Reader(
        "report of a profile",
        "profile",
        "profile.json",
        mutate_json,
        _draw_report("profile.json"),
        15,
    ),
    Reader(
        "report of a sweep",
        "profile",
        "sweep.json",
        mutate_json,
        _draw_report("sweep.json", "profile.json"),
        15,
    ),
    Reader("report of a prune", "stored", "prune/manifest.json", mutate_json, _draw_report(""), 15),
    Reader(
        "report of an export", "stored", "export/manifest.json", mutate_json, _draw_report(""), 8
    ),
    Reader("report of a budget", "budgets", "0.5/figures.json", mutate_json, _draw_report(""), 8),
    Reader("latency table", "table", "table.json", mutate_json, _read_table, 80),
    Reader("scoring run", "scores", "manifest.json", mutate_json, _read_scores, 40),
    Reader(
        "scores",
        "scores",
        "scores.safetensors",
        mutate_safetensors,
        _read_scores,
        30,
        "manifest.json",
    ),
    Reader(
        "damage curves", "scores", "curves.json", mutate_json, _read_scores, 35, "manifest.json"
    ),
    Reader(
        "calibration",
        "scores",
        "calibration.safetensors",
        mutate_safetensors,
        _read_scores,
        25,
        "manifest.json",
    ),
    Reader("target", "target", "l4.toml", mutate_bytes, _read_target, 50),
    Reader("csv", "data", "data.csv", mutate_bytes, _read_data("csv"), 12),
    Reader("tsv", "data", "data.tsv", mutate_bytes, _read_data("tsv"), 6),
    Reader("json", "data", "data.json", mutate_json, _read_data("json"), 12),
    Reader("jsonl", "data", "data.jsonl", mutate_bytes, _read_data("jsonl"), 12),
    Reader("txt", "data", "data.txt", mutate_bytes, _read_data("txt"), 6),
    Reader("parquet", "data", "data.parquet", mutate_bytes, _read_data("parquet"), 12),
    Reader("HTTP body", "http", "body.json", mutate_json, _read_request("body.json"), 80),
    Reader("HTTP body, binary", "http", "body.bin", mutate_bytes, _read_request("body.bin"), 40),
)
