"""Tokens a second of ONNX Runtime GenAI: a decoder, dense and with half of it, in turns."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM

import nirvana_deploy
from exporters.export_config import ExportConfig
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_graph, write_graph
from nirvana_deploy.serving.genai import generate, package_genai
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from pruning.cutting.repack import plan_for
from pruning.plans.plan import LayerPlan

CONFIG = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 8000,
    "max_position_embeddings": 512,
    "eos_token_id": None,
    "pad_token_id": 0,
}
PROMPT = list(range(10, 42))
NUM_NEW = 96
ROUNDS = 9


def measure_genai(work: Path) -> dict[str, Any]:
    """Return tokens a second of both, and the median of the ratios of neighbouring runs."""
    import onnxruntime_genai as genai

    torch.manual_seed(0)
    dense = LlamaForCausalLM(LlamaConfig(**CONFIG, attn_implementation="eager")).eval()
    layers = [
        LayerPlan(
            kept_heads=(0, 1, 4, 5) if number % 2 else (2, 3, 6, 7),
            kept_neurons=tuple(range(number % 2, CONFIG["intermediate_size"], 2)),
        )
        for number in range(CONFIG["num_hidden_layers"])
    ]
    pruned = nirvana_deploy.repack(dense, plan_for(dense, layers)).eval()
    loaded = {}
    for name, model in (("dense", dense), ("pruned", pruned)):
        folder = _package(model, work / f"genai-{name}")
        loaded[name] = genai.Model(str(folder))
        _check(model, loaded[name])
    rates: dict[str, list[float]] = {"dense": [], "pruned": []}
    for turn in range(ROUNDS + 1):
        for name, model in loaded.items():
            started = time.perf_counter()
            generate(model, PROMPT, NUM_NEW)
            if turn:  # the first is a warm-up
                rates[name].append(NUM_NEW / (time.perf_counter() - started))
    ratios = [b / a for a, b in zip(rates["dense"], rates["pruned"], strict=True)]
    return {
        "model": f"Llama, {sum(p.numel() for p in dense.parameters()) / 1e6:.0f}M parameters, "
        f"pruned to {sum(p.numel() for p in pruned.parameters()) / 1e6:.0f}M, random weights",
        "prompt_tokens": len(PROMPT),
        "new_tokens": NUM_NEW,
        "rounds": ROUNDS,
        "tokens_per_second": {name: statistics.median(each) for name, each in rates.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def _package(model: Any, folder: Path) -> Path:
    for path in (folder, folder.with_name(f"{folder.name}-export")):
        shutil.rmtree(path, ignore_errors=True)
    export = folder.with_name(f"{folder.name}-export")
    export.mkdir(parents=True)
    (part,) = list_parts(model, ExportConfig())
    write_graph(trace_graph(part, 18), export / "model.onnx")
    (export / "config.json").write_text(json.dumps(model.config.to_dict(), default=str))
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(export / "tokenizer.json"))
    package_genai(OnnxSources(onnx=export / "model.onnx"), folder, PackageConfig(to="genai"))
    return folder


def _check(model: Any, loaded: Any) -> None:
    """Raise RuntimeError unless GenAI goes on as transformers does."""
    ids = torch.tensor([PROMPT])
    made = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False
    )
    if generate(loaded, PROMPT, 32) != made[0].tolist():
        raise RuntimeError("GenAI's tokens are not those of transformers")
