"""Prunes a 7B-parameter checkpoint from disk to disk, beside copying its files.

    python benchmarks/repack_large.py [--work DIR] [--layers 32] [--rounds 3]

Makes a Llama-shaped checkpoint of random weights (bf16, shards of 5 GB; 13.5 GB at 32 layers) and a
plan whose layers differ, then takes turns: copy the files, repack them. Each runs in a process of
its own with the files out of the page cache, and ends when its bytes are on the disk (fsync). Needs
about 2.6 times the checkpoint's size on the disk of --work; with less, give fewer --layers.

Checked: the peak memory of the repacking process, the ratio of the times, and tensors of the result
against ones cut here by other means. Writes benchmarks/results/repack_large.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from figures import describe_hardware, make_bar
from safetensors import safe_open
from transformers import LlamaConfig

from profiles.measuring.environment import find_version
from pruning.cutting.inspection import read_current_plan
from pruning.cutting.tensor_writer import TensorHeader, write_tensors
from pruning.plans.plan import LayerPlan, PruningPlan

RESULT = Path(__file__).parent / "results" / "repack_large.json"
SHARD_BYTES = 5e9
# Llama-2-7B's dimensions.
HIDDEN, NEURONS, HEADS, HEAD_DIM, VOCAB = 4096, 11008, 32, 128, 32000

COPY = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2])"
REPACK = """
import sys
from pathlib import Path
from pruning.plans.plan import PruningPlan
from pruning.cutting.repack_checkpoint import repack_checkpoint
repack_checkpoint(sys.argv[1], PruningPlan.load(Path(sys.argv[3])), sys.argv[2])
"""
# Runs one of the two, and says how long it took until all was on the disk, and its peak memory.
MEASURE = """
import json, os, sys, time
from pathlib import Path
code = compile(sys.argv.pop(1), "work", "exec")
started = time.monotonic()
exec(code, {"__name__": "work"})
for path in Path(sys.argv[2]).iterdir():
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
seconds = time.monotonic() - started
# Of this program alone: getrusage counts what the process was before it became this.
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"seconds": seconds, "peak_memory_gb": peak / 1e9}))
"""


def main() -> None:
    """Make, measure in turns, check, write."""
    arguments = _parse_arguments()
    work = arguments.work
    dense, pruned, copy = work / "dense", work / "pruned", work / "copy"
    make_checkpoint(dense, arguments.layers)
    plan = draw_plan(read_current_plan(str(dense)))
    plan.save(work / "plan.json")
    rounds = []
    for number in range(arguments.rounds):
        turns = [("copy", COPY, copy, []), ("repack", REPACK, pruned, [work / "plan.json"])]
        taken = {}
        for name, code, out, more in turns if number % 2 == 0 else turns[::-1]:
            shutil.rmtree(out, ignore_errors=True)
            taken[name] = measure(code, [dense, out, *more], dense)
            print(f"round {number}: {name} {taken[name]}", flush=True)
            if name == "copy":
                shutil.rmtree(out)
        rounds.append({**taken, "ratio": taken["repack"]["seconds"] / taken["copy"]["seconds"]})
    compared = check_result(dense, pruned, plan)
    result = {
        "benchmark": "repack_large",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {n: find_version(n) for n in ("torch", "transformers", "safetensors", "numpy")},
        "model": f"Llama-shaped, {arguments.layers} layers, random weights, bf16",
        "parameters": count_parameters(dense),
        "source_bytes": folder_bytes(dense),
        "pruned_bytes": folder_bytes(pruned),
        "num_shards": {
            name: len(list((work / name).glob("*.safetensors"))) for name in ("dense", "pruned")
        },
        "tensors_compared": compared,
        "rounds": rounds,
        "not_run": "loading the result and running it: 7B parameters in torch; the tests do so for "
        "small models of every family",
        "bars": [
            make_bar(
                "peak memory of repacking, highest round (GB)",
                max(r["repack"]["peak_memory_gb"] for r in rounds),
                3,
                "at_most",
            ),
            make_bar(
                "time of repacking over time of copying, median of rounds",
                statistics.median(r["ratio"] for r in rounds),
                2.5,
                "at_most",
            ),
        ],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for bar in result["bars"]:
        print(f"{'met   ' if bar['met'] else 'MISSED'} {bar['name']}: {bar['value']:.4g}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "repack-large")
    parser.add_argument("--layers", type=int, default=32, help="32 make 6.7B parameters")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def make_checkpoint(folder: Path, num_layers: int) -> None:
    """Write the dense checkpoint, unless it is there."""
    if (folder / "config.json").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shards: list[list[TensorHeader]] = [[]]
    for spec in list_tensors(num_layers):
        if sum(s.size_bytes for s in shards[-1]) + spec.size_bytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(spec)
    weight_map = {}
    for number, specs in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / name, specs, (draw(spec) for spec in specs))
        weight_map.update({spec.name: name for spec in specs})
    index = {"metadata": {"total_size": sum(s.size_bytes for ss in shards for s in ss)}}
    index_file = folder / "model.safetensors.index.json"
    index_file.write_text(json.dumps({**index, "weight_map": weight_map}))
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=NEURONS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        num_hidden_layers=num_layers,
        vocab_size=VOCAB,
        max_position_embeddings=4096,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)


def list_tensors(num_layers: int) -> Iterator[TensorHeader]:
    """Yield the tensors of a Llama in the order in which transformers writes them."""
    width = HEADS * HEAD_DIM
    yield TensorHeader("model.embed_tokens.weight", "BF16", (VOCAB, HIDDEN))
    for number in range(num_layers):
        layer = f"model.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj"):
            yield TensorHeader(f"{layer}.self_attn.{name}.weight", "BF16", (width, HIDDEN))
        yield TensorHeader(f"{layer}.self_attn.o_proj.weight", "BF16", (HIDDEN, width))
        for name in ("gate_proj", "up_proj"):
            yield TensorHeader(f"{layer}.mlp.{name}.weight", "BF16", (NEURONS, HIDDEN))
        yield TensorHeader(f"{layer}.mlp.down_proj.weight", "BF16", (HIDDEN, NEURONS))
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield TensorHeader(f"{layer}.{name}.weight", "BF16", (HIDDEN,))
    yield TensorHeader("model.norm.weight", "BF16", (HIDDEN,))
    yield TensorHeader("lm_head.weight", "BF16", (VOCAB, HIDDEN))


def draw(spec: TensorHeader) -> torch.Tensor:
    """Return random weights, seeded by the name."""
    generator = torch.Generator().manual_seed(sum(spec.name.encode()))
    tensor = torch.empty(spec.shape, dtype=torch.bfloat16)
    return tensor.uniform_(-0.05, 0.05, generator=generator)


def draw_plan(dense: PruningPlan) -> PruningPlan:
    """Return a plan with other heads and neurons in each layer, and a dropped part of each kind."""
    rng = random.Random(0)
    layers = []
    for _ in dense.layers:
        heads = rng.sample(range(HEADS), rng.randint(HEADS // 4, HEADS - 1))
        neurons = rng.sample(range(NEURONS), rng.randint(NEURONS // 4, NEURONS - 1))
        layers.append(
            LayerPlan(kept_heads=tuple(sorted(heads)), kept_neurons=tuple(sorted(neurons)))
        )
    if len(layers) > 3:
        layers[1] = LayerPlan.drop_block()
        layers[2] = LayerPlan(kept_heads=None, kept_neurons=layers[2].kept_neurons)
        layers[3] = LayerPlan(kept_heads=layers[3].kept_heads, kept_neurons=None)
    return PruningPlan(
        dims=dense.dims,
        layers=tuple(layers),
        config_hash=dense.config_hash,
        made_by={"method": "random", "seed": 0},
    )


def measure(code: str, arguments: list[Path], source: Path) -> dict[str, float]:
    """Run `code` in a process of its own, with the source out of the page cache."""
    os.sync()
    for path in source.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    time.sleep(1)
    command = [sys.executable, "-c", MEASURE, code, *map(str, arguments)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(finished.stdout.splitlines()[-1])


def check_result(dense: Path, pruned: Path, plan: PruningPlan) -> int:
    """Hold tensors of the result against slices made here with numpy; return how many."""
    source, result = _index(dense), _index(pruned)
    kept = [number for number, layer in enumerate(plan.layers) if not layer.dropped]
    compared = 0
    for position, number in [(p, n) for p, n in enumerate(kept) if p % 5 == 0]:
        layer = plan.layers[number]
        rows = np.array(layer.kept_heads or ())[:, None] * HEAD_DIM + np.arange(HEAD_DIM)
        cuts = {
            "self_attn.k_proj": (0, rows.ravel()),
            "self_attn.o_proj": (1, rows.ravel()),
            "mlp.up_proj": (0, np.array(layer.kept_neurons or ())),
            "mlp.down_proj": (1, np.array(layer.kept_neurons or ())),
        }
        for name, (axis, indices) in cuts.items():
            old, new = (f"model.layers.{n}.{name}.weight" for n in (number, position))
            if not len(indices):
                assert new not in result, new
                continue
            whole = _read(source, old).view(torch.int16).numpy()
            came = _read(result, new).view(torch.int16).numpy()
            assert np.array_equal(came, np.take(whole, indices.astype(int), axis)), new
            compared += 1
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(_read(source, name), _read(result, name)), name
        compared += 1
    return compared


def _index(folder: Path) -> dict[str, Path]:
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as shard:
            found.update(dict.fromkeys(shard.keys(), path))
    return found


def _read(index: dict[str, Path], name: str) -> torch.Tensor:
    with safe_open(index[name], framework="pt") as shard:
        return shard.get_tensor(name)


def count_parameters(folder: Path) -> int:
    """Return the parameters of a bf16 checkpoint."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return int(index["metadata"]["total_size"]) // 2


def folder_bytes(folder: Path) -> int:
    """Return the size of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


if __name__ == "__main__":
    main()
