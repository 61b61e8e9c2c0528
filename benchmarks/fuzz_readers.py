"""What is fuzzed: each reader with a file that it takes, and when taking a damaged one is wrong."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_mutations import mutate_bytes, mutate_json, mutate_onnx, mutate_yaml

Mutate = Callable[[bytes, random.Random], bytes]
# Returns what is wrong with an accepted input, None where nothing is.
Read = Callable[[Path], str | None]


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        file: which file of the folder is damaged.
        share: of the inputs.
    """

    name: str
    folder: str
    file: str
    mutate: Mutate
    read: Read
    share: int


def make_folders(base: Path, *, with_graphs: bool = True) -> None:
    """Write whole files for every reader, from tiny random models; an export takes seconds."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from pruning.checkpoints.checkpoint import save_pruned
    from pruning.cutting.repack import plan_for, repack
    from pruning.plans.plan import LayerPlan

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_hidden_layers=2,
        intermediate_size=48,
        vocab_size=99,
        max_position_embeddings=64,
        architectures=["BertForSequenceClassification"],
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(base / "dense", max_shard_size="20KB")
    _save_tokenizer(base / "dense")
    kept = (((0, 2), tuple(range(0, 48, 2))), ((1, 2, 3), (0, 1, 47)))
    layers = [LayerPlan(kept_heads=heads, kept_neurons=neurons) for heads, neurons in kept]
    plan = plan_for(model, layers)
    save_pruned(repack(model, plan), base / "pruned")
    (base / "plan").mkdir()
    plan.save(base / "plan" / "plan.json")
    _write_records(base, plan)
    if with_graphs:
        model.save_pretrained(base / "whole")
        _write_graphs(base, plan)


def _write_graphs(base: Path, plan: Any) -> None:
    """Write an export, its graph beside the plan, and the graph as the plan leaves it."""
    from exporters.export_config import ExportConfig
    from exporters.export_stage import export_checkpoint
    from exporters.surgeon.prune_onnx import prune_onnx

    export_checkpoint(str(base / "whole"), base / "export", ExportConfig())
    graph = base / "graph"
    graph.mkdir()
    shutil.copy(base / "export" / "model.onnx", graph)
    plan.save(graph / "plan.json")
    (base / "reference").mkdir()
    prune_onnx(graph / "model.onnx", plan, base / "reference" / "cut.onnx")


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
    fast.save_pretrained(folder)


def _write_records(base: Path, plan: Any) -> None:
    """Write the files that need no model."""
    from profiles.targets.target import TARGETS_FOLDER

    def write(name: str, document: Any) -> None:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))

    def digest(name: str) -> str:
        return hashlib.sha256((base / name).read_bytes()).hexdigest()

    recipes = Path(__file__).parents[1] / "recipes"
    write("recipe/recipe.yaml", (recipes / "quickstart.yaml").read_text())
    write("oneshot/recipe.yaml", (recipes / "oneshot.yaml").read_text())
    write("run/run.json", {"format": "nirvana-run", "created": "2026"})
    write("run/prune/weights.bin", "weights")
    entry = {"size_bytes": 7, "modified_ns": 0, "sha256": digest("run/prune/weights.bin")}
    parts = {"settings": {"seed": 0}, "versions": {"torch": "2"}}
    stage = {"stage": "prune", "key": "k", "started": "2026", "seconds": 1.0, "num_attempts": 1}
    result = {"method": "gates", "layers": [{"heads": 1}], "kept": 0.5}
    files = {"digest": "d", "files": {"weights.bin": entry}}
    write("run/prune/manifest.json", {**stage, **files, "key_parts": parts, "result": result})
    write("run/.prune.partial/key.json", {**stage, "key_parts": parts})
    write("engine/model.engine", "engine")
    write("engine/build.log", "log")
    built = {
        "flavour": "tensorrt",
        "version": "10",
        "precision_asked": "fp16",
        "precision_found": {"fp16": 3},
        "compute_capabilities": ["sm89"],
        "num_attention_layers": 2,
        "num_fused_attentions": 2,
        "engine_path": "model.engine",
        "engine_size_bytes": 6,
        "build_seconds": 1.0,
        "onnx_sha256": "0",
        "optimisation_profile": {"input_ids": {"min": [1, 1], "opt": [1, 8], "max": [1, 16]}},
        "warnings": [],
    }
    engine = {
        "manifest_version": 1,
        "result": built,
        "engine_sha256": digest("engine/model.engine"),
        "onnx_name": "model.onnx",
        "onnx_data_sha256": {},
        "versions": {"torch": "2"},
    }
    write("engine/engine.json", engine)
    text = {"tokenizer": "t", "classifier": "c", "labels": "l", "max_length": 64, "pad_id": 0}
    write("package/model/1/text.json", {**text, "pad_token": "[PAD]"})
    hashes = {"model/1/text.json": digest("package/model/1/text.json")}
    package = {"stack": "triton", "sha256": hashes, "versions": {"torch": None}, "settings": {}}
    write("package/package.json", {"manifest_version": 1, **package})
    stack = plan.to_json()["dims"]["stacks"][0]
    table = {
        "format": "nirvana-latency-table-1",
        "stack": stack,
        "attention": {"kept": [0, 2, 4], "latency_ms": [0.0, 1.0, 2.0]},
        "mlp": {"kept": [0, 24, 48], "latency_ms": [0.0, 1.0, 2.0]},
        "block_ms": 0.5,
        "dense_ms": 12.0,
        "rest_ms": 1.0,
        "measured": {"cpu": "x"},
        "name": "nanoseconds",
    }
    write("table/table.json", table)
    case = {"batch": 1, "dense": {"p50_ms": 2.0, "samples": 64}, "pruned": {"p50_ms": 1.0}}
    write("profile/profile.json", {"cases": [case], "environment": {"cpu": "x"}})
    scoring = {"format": "nirvana-scoring-1", "finished": False, "settings": {}, "model": "m"}
    write("scoring/manifest.json", {**scoring, "config_hash": "c", "files": {}})
    write("data/data.csv", "text,label\n" + "".join(f"some text {n},{n % 2}\n" for n in range(30)))
    rows = (json.dumps({"text": f"text {n}", "label": str(n % 2)}) for n in range(30))
    write("data/data.jsonl", "\n".join(rows))
    write("data/data.txt", "".join(f"{n % 2}\ttext {n}\n" for n in range(30)))
    write("target/l4.toml", (TARGETS_FOLDER / "l4.toml").read_text())


def _read_recipe(folder: Path) -> str | None:
    from nirvana_deploy.config_reader import to_plain
    from nirvana_deploy.recipe import load_recipe

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


_WHOLE: dict[str, Any] = {}


def _read_pruned(folder: Path) -> str | None:
    from pruning.checkpoints.checkpoint import load_pruned

    found = load_pruned(folder).state_dict()
    if not _WHOLE:
        _WHOLE.update(load_pruned(folder.parent / "base" / "pruned").state_dict())
    same = found.keys() == _WHOLE.keys() and all(found[n].equal(t) for n, t in _WHOLE.items())
    return None if same else "other weights were loaded from a folder with a manifest"


def _read_dense(folder: Path) -> str | None:
    from exporters.compare.token_facts import read_config_facts
    from pruning.checkpoints.checkpoint_source import list_tensors
    from pruning.checkpoints.model_skeleton import build_skeleton

    read_config_facts(folder)
    build_skeleton(str(folder))
    for tensor in list_tensors(folder):
        if tuple(tensor.read().shape) != tensor.shape:
            return f"{tensor.name} has another shape than its header says"
    return None


def _read_tokenizer(folder: Path) -> str | None:
    from transformers import AutoTokenizer

    from pruning.checkpoints.model_source import load_stock_model

    load_stock_model(AutoTokenizer, str(folder))
    return None


def _inspect_graph(folder: Path) -> str | None:
    from exporters.graphs.graph_structure import inspect_onnx

    inspect_onnx(folder / "model.onnx")
    return None


def _check_graph(folder: Path) -> str | None:
    from exporters.graphs.load_graph import load_graph, read_precision

    read_precision(load_graph(folder / "model.onnx"))
    return None


def _cut_graph(folder: Path) -> str | None:
    """Cut a graph; what stays of each weight must be the units that stay of it in the whole one."""
    import numpy as np
    import onnx

    from exporters.surgeon.prune_onnx import prune_onnx
    from pruning.plans.plan import PruningPlan

    plan = PruningPlan.load(folder / "plan.json")
    prune_onnx(folder / "model.onnx", plan, folder / "cut.onnx")
    base = folder.parent / "base"
    whole_paths = (base / "graph" / "model.onnx", base / "reference" / "cut.onnx")
    paths = (*whole_paths, folder / "model.onnx", folder / "cut.onnx")
    models = [onnx.load(path) for path in paths]
    tensors = [
        {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer} for model in models
    ]
    for name in tensors[0].keys() & tensors[1].keys() & tensors[2].keys() & tensors[3].keys():
        whole, kept, other, cut = (each[name] for each in tensors)
        if whole.shape != other.shape or whole.dtype != other.dtype:
            continue  # another graph, cut by its own sizes
        if kept.shape != cut.shape:
            return f"{name} was cut to {cut.shape}, expected {kept.shape}"
        axes = [axis for axis in range(whole.ndim) if whole.shape[axis] != kept.shape[axis]]
        expected = other
        for axis in axes:
            rows, stay = np.moveaxis(whole, axis, 0), np.moveaxis(kept, axis, 0)
            indices = [next(i for i, r in enumerate(rows) if np.array_equal(r, s)) for s in stay]
            expected = expected.take(indices, axis)
        if not np.array_equal(expected, cut, equal_nan=expected.dtype.kind == "f"):
            return f"other units of {name} were kept than the plan's"
    return None


def _load_export(folder: Path) -> str | None:
    from exporters.inspect_export import inspect_export
    from nirvana_deploy.serving.loaded.load_export import load_export

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


def _read_package(folder: Path) -> str | None:
    from nirvana_deploy.serving.package_manifest import check_package

    manifest = check_package(folder)
    text = (folder / "model" / "1" / "text.json").read_bytes()
    hashes = manifest.sha256.get("model/1/text.json")
    same = hashes == hashlib.sha256(text).hexdigest()
    return None if same else "a file was taken that package.json does not vouch for"


def _read_text_model(folder: Path) -> str | None:
    from nirvana_deploy.serving.text_model_file import read_text_model

    found = read_text_model(folder / "model" / "1")
    return None if isinstance(found.tokenizer, str) else "a name that is no text"


def _read_stage(folder: Path) -> str | None:
    from nirvana_deploy.report.results import read_run
    from nirvana_deploy.run_folder import claim_run_folder
    from nirvana_deploy.stage_folder import StageFolder

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


def _read_subject(folder: Path) -> str | None:
    from nirvana_deploy.report.read_subjects import read_subjects

    read_subjects([folder / "profile.json"])
    return None


def _read_scoring(folder: Path) -> str | None:
    from pruning.oneshot.scoring_run import load_run, read_manifest

    read_manifest(folder)
    load_run(folder)
    return "an unfinished run was taken"


def _read_target(folder: Path) -> str | None:
    from profiles.targets.target import read_target

    target = read_target(folder / "l4.toml")
    return None if target.memory_bandwidth_gb_per_s.value < 1e300 else "an endless bandwidth"


def _read_data(suffix: str) -> Read:
    def read(folder: Path) -> str | None:
        from pruning.training.data_config import DataConfig
        from pruning.training.data_splits import load_splits

        source = str(folder / f"data.{suffix}")
        rows = load_splits(
            DataConfig(
                dataset=source, task="classification", text_column="text", label_column="label"
            )
        )
        return None if all(len(split) for split in rows.values()) else "an empty split"

    return read


READERS = (
    Reader("recipe", "recipe", "recipe.yaml", mutate_yaml, _read_recipe, 14),
    Reader("one-shot recipe", "oneshot", "recipe.yaml", mutate_yaml, _read_recipe, 8),
    Reader("plan", "plan", "plan.json", mutate_json, _read_plan, 14),
    Reader("pruned config", "pruned", "config.json", mutate_json, _read_pruned, 1),
    Reader("pruned manifest", "pruned", "manifest.json", mutate_json, _read_pruned, 2),
    Reader("pruned weights", "pruned", "model.safetensors", mutate_bytes, _read_pruned, 1),
    Reader("dense config", "dense", "config.json", mutate_json, _read_dense, 3),
    Reader("dense index", "dense", "model.safetensors.index.json", mutate_json, _read_dense, 3),
    Reader("tokenizer", "dense", "tokenizer.json", mutate_json, _read_tokenizer, 2),
    Reader("inspect graph", "graph", "model.onnx", mutate_onnx, _inspect_graph, 5),
    Reader("verify graph", "graph", "model.onnx", mutate_onnx, _check_graph, 5),
    Reader("surgeon", "graph", "model.onnx", mutate_onnx, _cut_graph, 5),
    Reader("export.json", "export", "export.json", mutate_json, _load_export, 2),
    Reader("exported config", "export", "config.json", mutate_json, _load_export, 2),
    Reader("exported graph", "export", "model.onnx", mutate_onnx, _load_export, 2),
    Reader("engine.json", "engine", "engine.json", mutate_json, _read_engine, 8),
    Reader("engine", "engine", "model.engine", mutate_bytes, _read_engine, 1),
    Reader("package.json", "package", "package.json", mutate_json, _read_package, 8),
    Reader("packaged file", "package", "model/1/text.json", mutate_json, _read_package, 2),
    Reader("text.json", "package", "model/1/text.json", mutate_json, _read_text_model, 6),
    Reader("run.json", "run", "run.json", mutate_json, _read_stage, 3),
    Reader("stage manifest", "run", "prune/manifest.json", mutate_json, _read_stage, 10),
    Reader("stage file", "run", "prune/weights.bin", mutate_bytes, _read_stage, 2),
    Reader("stage key", "run", ".prune.partial/key.json", mutate_json, _read_stage, 5),
    Reader("latency table", "table", "table.json", mutate_json, _read_table, 10),
    Reader("profile", "profile", "profile.json", mutate_json, _read_subject, 8),
    Reader("scoring run", "scoring", "manifest.json", mutate_json, _read_scoring, 6),
    Reader("target", "target", "l4.toml", mutate_bytes, _read_target, 6),
    Reader("csv", "data", "data.csv", mutate_bytes, _read_data("csv"), 1),
    Reader("jsonl", "data", "data.jsonl", mutate_bytes, _read_data("jsonl"), 1),
    Reader("txt", "data", "data.txt", mutate_bytes, _read_data("txt"), 1),
)
