"""Prunes a 7B-shaped ONNX file with its weights beside it, beside copying the files.

    python benchmarks/surgeon_large.py [--work DIR] [--layers 32] [--rounds 2]

Makes the graph of a Llama (bf16, 13.5 GB at 32 layers) by the TorchScript exporter, beside it a
file of random bytes, and a plan whose layers differ. Then takes turns: copy the files, prune them.
Each runs in a process of its own with the files out of the page cache, and ends when its bytes are
on the disk. Needs about 2.6 times the size on the disk of --work.

Checked: the peak memory of the pruning process, the ratio of the times, and weights of the result
against ones cut here by other means. Writes benchmarks/results/surgeon_large.json.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import shutil
import statistics
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from figures import describe_hardware, make_bar
from repack_large import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    NEURONS,
    VOCAB,
    draw_plan,
    measure,
)
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from profiles.measuring.environment import find_version
from pruning.cutting.wiring_inference import read_model
from pruning.plans.plan import PruningPlan

RESULT = Path(__file__).parent / "results" / "surgeon_large.json"
GRAPH = "model.onnx"
# The graph is exported with the heads of Llama-2-7B, but few channels, neurons and tokens: none of
# these is written in it but in the shapes of the weights, which are then made as wide as they are.
THIN = (96, 160, 224)
WIDE = dict(zip(THIN, (HIDDEN, NEURONS, VOCAB), strict=True))

COPY = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2])"
PRUNE = f"""
import sys
from pathlib import Path
from pruning.plans.plan import PruningPlan
from exporters.surgeon.prune_onnx import prune_onnx
plan = PruningPlan.load(Path(sys.argv[3]))
prune_onnx(Path(sys.argv[1]) / "{GRAPH}", plan, Path(sys.argv[2]) / "{GRAPH}")
"""


def main() -> None:
    """Make, measure in turns, check, write."""
    arguments = _parse_arguments()
    work = arguments.work
    dense, pruned, copy = work / "dense", work / "pruned", work / "copy"
    plan = draw_plan(make_dense(dense, arguments.layers))
    plan.save(work / "plan.json")
    rounds = []
    for number in range(arguments.rounds):
        turns = [("copy", COPY, copy, []), ("prune", PRUNE, pruned, [work / "plan.json"])]
        taken = {}
        for name, code, out, more in turns if number % 2 == 0 else turns[::-1]:
            shutil.rmtree(out, ignore_errors=True)
            taken[name] = measure(code, [dense, out, *more], dense)
            print(f"round {number}: {name} {taken[name]}", flush=True)
            if name == "copy":
                shutil.rmtree(out)
        rounds.append({**taken, "ratio": taken["prune"]["seconds"] / taken["copy"]["seconds"]})
    result = {
        "benchmark": "surgeon_large",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {n: find_version(n) for n in ("torch", "transformers", "onnx", "onnx-ir")},
        "model": f"Llama-shaped, {arguments.layers} layers, random bytes, bf16",
        "source_bytes": folder_bytes(dense),
        "pruned_bytes": folder_bytes(pruned),
        "weights_compared": check_result(dense / GRAPH, pruned / GRAPH, plan),
        "rounds": rounds,
        "not_run": "running the result: 7B parameters; the tests do so for small models",
        "bars": [
            make_bar(
                "peak memory of pruning, highest round (GB)",
                max(r["prune"]["peak_memory_gb"] for r in rounds),
                2,
                "at_most",
            ),
            make_bar(
                "time of pruning over time of copying, median of rounds",
                statistics.median(r["ratio"] for r in rounds),
                2,
                "at_most",
            ),
        ],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for bar in result["bars"]:
        print(f"{'met   ' if bar['met'] else 'MISSED'} {bar['name']}: {bar['value']:.4g}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "surgeon-large")
    parser.add_argument("--layers", type=int, default=32, help="32 make 6.7B parameters")
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


def make_dense(folder: Path, num_layers: int) -> PruningPlan:
    """Write the dense graph and its weights, unless they are there; return the dense plan."""
    with torch.device("meta"):
        model = LlamaForCausalLM(make_config(num_layers, HIDDEN, NEURONS, VOCAB))
    if not (folder / GRAPH).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        thin = LlamaForCausalLM(make_config(num_layers, *THIN)).to(torch.bfloat16).eval()
        _point_to_data(export(thin), folder)
    return read_model(model).current


def make_config(num_layers: int, hidden: int, neurons: int, vocab: int) -> LlamaConfig:
    """Return a Llama of the heads of Llama-2-7B."""
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=neurons,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_DIM,
        num_hidden_layers=num_layers,
        vocab_size=vocab,
        max_position_embeddings=4096,
        dtype="bfloat16",
        use_cache=False,
    )


def export(model: nn.Module) -> ir.Model:
    """Export the graph; its weights are inputs, named as the parameters."""
    tokens = torch.ones((2, 3), dtype=torch.long)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    file = io.BytesIO()
    axes = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(),
            (tokens, tokens),
            file,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes},
            opset_version=17,
            export_params=False,
            do_constant_folding=False,
            dynamo=False,
        )
    import onnx

    proto = onnx.load_from_string(file.getvalue())
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type == "Cast" else ():
            # The exporter writes a complex type where a model asks for its own bfloat16.
            if attribute.i == onnx.TensorProto.COMPLEX128:
                attribute.i = onnx.TensorProto.BFLOAT16
    return ir.from_proto(proto)


def _point_to_data(model: ir.Model, folder: Path) -> None:
    """Make weights of the inputs that are no tokens, and write random bytes for them."""
    weights = [value for value in model.graph.inputs if value.name.startswith("model.")]
    generator = np.random.default_rng(0)
    block = generator.integers(0, 2**8, 64 << 20, np.uint8).tobytes()
    with (folder / f"{GRAPH}.data").open("wb") as file:
        for value in weights:
            model.graph.inputs.remove(value)
            value.shape = ir.Shape([WIDE.get(int(n), int(n)) for n in value.shape])
            start = file.tell()
            value.const_value = ir.ExternalTensor(
                f"{GRAPH}.data", start, None, value.dtype, shape=value.shape, name=value.name
            )
            left = value.const_value.nbytes
            while left:
                file.write(block[: min(left, len(block))])
                left -= min(left, len(block))
            model.graph.register_initializer(value)
    values = (value for node in model.graph for value in node.outputs if value.shape is not None)
    for value in values:
        value.shape = ir.Shape([WIDE.get(n, n) if isinstance(n, int) else n for n in value.shape])
    ir.save(model, folder / GRAPH)


def check_result(dense: Path, pruned: Path, plan: PruningPlan) -> int:
    """Hold weights of the result against slices made here with numpy; return how many."""
    source, result = (ir.load(path).graph.initializers for path in (dense, pruned))
    compared = 0
    for number in (0, 1, 2, 3, len(plan.layers) - 1):
        layer = plan.layers[number]
        heads = np.array(layer.kept_heads or (), int)[:, None] * HEAD_DIM + np.arange(HEAD_DIM)
        neurons = np.array(layer.kept_neurons or (), int)
        cuts = {
            "self_attn.k_proj": (0, heads.ravel()),
            "self_attn.o_proj": (1, heads.ravel()),
            "mlp.up_proj": (0, neurons),
            "mlp.down_proj": (1, neurons),
        }
        for name, (axis, indices) in cuts.items():
            key = f"model.model.layers.{number}.{name}.weight"
            if not len(indices):
                assert key not in result, key
                continue
            whole = source[key].const_value.numpy().view(np.uint16)
            came = result[key].const_value.numpy().view(np.uint16)
            assert np.array_equal(came, np.take(whole, indices, axis)), key
            compared += 1
    return compared


def folder_bytes(folder: Path) -> int:
    """Return the size of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    main()
