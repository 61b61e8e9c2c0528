"""The whole files that the fuzz campaign damages: one folder per kind, from tiny random models."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def make_folders(base: Path, *, with_graphs: bool = True) -> None:
    """Write whole files for every reader; those of graphs take two exports, of some seconds."""
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
        pad_token_id=0,
        id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
        architectures=["BertForSequenceClassification"],
    )
    model = BertForSequenceClassification(config).eval()
    _spread(model)
    model.save_pretrained(base / "dense", max_shard_size="20KB")
    model.save_pretrained(base / "whole")
    for folder in ("dense", "whole", "text"):
        _save_tokenizer(base / folder)
    shutil.copy(base / "whole" / "config.json", base / "text")
    kept = (((0, 2), tuple(range(0, 48, 2))), ((1, 2, 3), (0, 1, 47)))
    layers = [LayerPlan(kept_heads=heads, kept_neurons=neurons) for heads, neurons in kept]
    plan = plan_for(model, layers)
    save_pruned(repack(model, plan), base / "pruned")
    (base / "plan").mkdir()
    plan.save(base / "plan" / "plan.json")
    _write_records(base, plan)
    _write_scores(base / "scores", plan)
    _write_data(base / "data")
    if with_graphs:
        _write_graphs(base, plan)


def _spread(model: Any) -> None:
    """Give every parameter values of its own: zeros and equal tensors hide what is mixed up."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=60
    )
    fast.save_pretrained(folder)
    special = {"pad_token": {"content": "[PAD]", "lstrip": False}, "unk_token": "[UNK]"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def _write_graphs(base: Path, plan: Any) -> None:
    """Write exports of an encoder and a decoder, graphs alone, and what is packaged of them."""
    import onnx
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import nirvana_deploy as api
    from exporters.export_config import ExportConfig
    from exporters.export_stage import export_checkpoint
    from exporters.surgeon.prune_onnx import prune_onnx
    from nirvana_deploy.serving.package_config import PackageConfig

    export_checkpoint(str(base / "whole"), base / "export", ExportConfig())
    graph = base / "graph"
    graph.mkdir()
    shutil.copy(base / "export" / "model.onnx", graph)
    shutil.copy(base / "whole" / "config.json", graph)
    plan.save(graph / "plan.json")
    (base / "reference").mkdir()
    prune_onnx(graph / "model.onnx", plan, base / "reference" / "cut.onnx")
    shutil.copytree(graph, base / "beside")
    model = onnx.load(graph / "model.onnx")
    beside = base / "beside" / "model.onnx"
    onnx.save(model, beside, save_as_external_data=True, location="model.data", size_threshold=256)
    config = PackageConfig()
    sources = {"onnx": base / "export" / "model.onnx", "checkpoint": base / "whole"}
    api.package(**sources, config=config, out=base / "triton")
    torch.manual_seed(1)
    llama = LlamaConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        intermediate_size=48,
        vocab_size=99,
        max_position_embeddings=64,
        architectures=["LlamaForCausalLM"],
    )
    decoder = LlamaForCausalLM(llama).eval()
    _spread(decoder)
    decoder.save_pretrained(base / "decoder")
    _save_tokenizer(base / "decoder")
    export_checkpoint(str(base / "decoder"), base / "causal", ExportConfig(graphs="merged"))
    config = PackageConfig(to="genai")
    api.package(base / "causal" / "model.onnx", config, out=base / "genai")


def _write_scores(folder: Path, plan: Any) -> None:
    """Write a finished scoring run, as `nirvana score` leaves it."""
    import torch

    from pruning.allocation.levels import DamageCurve
    from pruning.calibration.calibration import Calibration
    from pruning.oneshot.oneshot_config import ScoringConfig
    from pruning.plans.sub_block import count_units, list_sub_blocks
    from pruning.scoring.scoring_run import save_curves, save_scores, write_manifest
    from pruning.scoring.scoring_settings import describe_scoring

    folder.mkdir()
    units = {part: count_units(part, plan.dims) for part in list_sub_blocks(plan.dims)}
    save_scores(folder / "scores.safetensors", {part: torch.rand(n) for part, n in units.items()})
    curves = {part: DamageCurve((0, n // 2, n), (1.0, 0.25, 0.0)) for part, n in units.items()}
    save_curves(folder / "curves.json", curves)
    ids = torch.randint(1, 99, (2, 8))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
    calibration = Calibration(batches=(batch,), labels="given")
    calibration.save(folder / "calibration.safetensors")
    manifest = {
        "finished": True,
        "settings": describe_scoring(ScoringConfig()),
        "model": "model",
        "config_hash": plan.config_hash,
        "weights_hash": "w",
        "dims": plan.to_json()["dims"],
        "figures": {"num_sequences": 2, "num_tokens": 16, "draw": 0, "seconds": 1.0},
    }
    write_manifest(folder, manifest)


def _write_data(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    rows = [{"text": f"some text {n}", "label": str(n % 2)} for n in range(30)]
    lines = "".join(f"{row['text']},{row['label']}\n" for row in rows)
    (folder / "data.csv").write_text(f"text,label\n{lines}")
    (folder / "data.tsv").write_text(f"text,label\n{lines}".replace(",", "\t"))
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "data.json").write_text(json.dumps(rows))
    (folder / "data.txt").write_text("".join(f"{r['label']}\t{r['text']}\n" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")


def _write_records(base: Path, plan: Any) -> None:
    """Write the files that need no model."""
    import numpy as np

    from profiles.targets.target import TARGETS_FOLDER

    def write(name: str, document: Any) -> None:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))

    def digest(name: str) -> str:
        return hashlib.sha256((base / name).read_bytes()).hexdigest()

    for name in ("quickstart", "oneshot"):
        write(f"{name}/recipe.yaml", (ROOT / "recipes" / f"{name}.yaml").read_text())
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
    write("engine/build.log", _LOG)
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
    layer = {"Name": "a", "LayerType": "gemm", "Outputs": [{"Format/Datatype": "Half"}]}
    write("engine/layers.json", {"Layers": [{**layer, "Metadata": "[ONNX Layer: n]"}, "b"]})
    np.savez(base / "engine" / "inputs.npz", input_ids=np.ones((1, 8), "int64"))
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
    write("target/l4.toml", (TARGETS_FOLDER / "l4.toml").read_text())
    ids = {"name": "input_ids", "datatype": "INT64", "shape": [2, 3]}
    mask = {"name": "attention_mask", "datatype": "INT64", "shape": [2, 3]}
    given = [{**ids, "data": [[1, 2, 3], [4, 5, 6]]}, {**mask, "data": [1, 1, 1, 1, 1, 0]}]
    write("http/body.json", {"id": "a", "inputs": given, "outputs": [{"name": "logits"}]})
    size = {"parameters": {"binary_data_size": 48}}
    head = json.dumps({"inputs": [{**ids, **size}, {**mask, **size}]}).encode()
    tail = np.arange(6, dtype="int64").tobytes() + np.ones(6, "int64").tobytes()
    (base / "http" / "body.bin").write_bytes(head + tail)
    _write_reports(base, write)


def _write_reports(base: Path, write: Any) -> None:
    """Write what `nirvana report` draws: whole runs and budgets, as its tests have them."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    from tests.nirvana_deploy.stored_runs import (
        make_profile,
        make_results,
        write_budgets,
        write_run,
    )

    write_run(base / "stored", make_results())
    write_budgets(base / "budgets", [0.5])
    write("profile/profile.json", make_profile())
    point = {"batch": 1, "median_ms": 22.1, "rows_per_s": 45.2, "num_samples": 32}
    callers = {"num_callers": 2, "achieved_per_s": 61.0, "median_ms": 32.5}
    sweep = {"model": "pruned", "length": 128, "batches": [point], "callers": [callers]}
    write("profile/sweep.json", sweep)


_LOG = """[V] Engine Layer Information:
[V] Layer(Myelin): __myl_Move_myl0_0, Tactic: 0x0
[V] Name: gemm_myl0_1, LayerType: gemm, Inputs: [ { Name: x, Datatype: Half } ], Outputs: \
[ { Name: y, Datatype: Half } ], TacticName: t, Metadata: [ONNX Layer: node_MatMul_1]
"""
