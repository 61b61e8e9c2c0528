"""Latency of our graph forms against other ways to ONNX, in ONNX Runtime on the CPU.

    pip install --no-deps --target GENAI onnxruntime-genai
    python benchmarks/export_latency.py --genai GENAI [--work FOLDER] [--only encoder decoder]

Dense models: MiniLM-L6 (length 128, batch 1 and 8) against torch's export as it is, a TorchScript
export (what optimum's exporter makes: optimum's own can't be installed beside transformers 5),
transformers' ort_fusions (the rules of onnxscript that it calls) and onnxruntime's optimiser; a
42M Llama of random weights against the model builder of ONNX Runtime GenAI, both in its runtime.
And each half pruned against itself dense. Writes benchmarks/results/export_latency.json.

All are measured in turns, in an order drawn anew each round, by the CPU time of one thread: other
work on the machine then counts for little. Where a session's weights come to lie in memory moves it
by about 3 %, so each file is loaded anew in each of several rounds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from export_latency_models import make_decoders, make_encoders
from figures import describe_hardware, make_bar
from interleaved import measure_latencies

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "export_latency.json"
BATCHES, LENGTH = (1, 8), 128
PACKAGES = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
# Products of weights a token of the decoder: its head, which pruning leaves alone, and its blocks.
HEAD_MACS, BLOCK_MACS = 512 * 32000, 8 * (2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1536)
PEERS = ("torch.onnx as it is", "TorchScript", "transformers ort_fusions", "onnxruntime optimiser")


def main() -> None:
    """Make, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genai", type=Path, help="folder that holds onnxruntime_genai")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "export_latency")
    parser.add_argument("--only", nargs="+", choices=("encoder", "decoder"))
    arguments = parser.parse_args()
    parts = arguments.only or ("encoder", "decoder")
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if "encoder" in parts:
        result["encoder"] = measure_encoder(arguments.work)
        write(result)
    if "decoder" in parts:
        result["decoder"] = measure_decoder(arguments.work, arguments.genai)
    for bar in write(result)["bars"]:
        print(f"{'met   ' if bar['met'] else 'MISSED'} {bar['name']}: {bar['value']:.4g}")


def write(measured: dict[str, Any]) -> dict[str, Any]:
    """Write what is measured so far, with its bars, and return it."""
    result = {
        "benchmark": "export_latency",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {name: version(name) for name in PACKAGES},
        "data": "random token ids",
        "clock": "CPU time of one thread",
        **{part: measured[part] for part in ("encoder", "decoder") if part in measured},
    }
    result["bars"] = [*encoder_bars(result), *decoder_bars(result)]
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return result


def measure_encoder(work: Path) -> dict[str, Any]:
    """Time every way to ONNX of MiniLM, and our half-pruned one."""
    files, mac_ratio = make_encoders(work)
    return {
        "model": "MiniLM-L6 with a classifier, fp32",
        "length": LENGTH,
        "mac_ratio": mac_ratio,
        "latency_ms": {
            str(batch): measure_latencies(files, batch, LENGTH, num_runs=160 if batch == 1 else 32)
            for batch in BATCHES
        },
    }


def measure_decoder(work: Path, genai: Path | None) -> dict[str, Any]:
    """Generate greedily with our files and the builder's, in a process with the GenAI runtime."""
    if genai is None:
        sys.exit("--genai is missing: see the first lines of this file.")
    folders = make_decoders(work, genai)
    path = os.pathsep.join(filter(None, [str(genai), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, str(Path(__file__).parent / "genai_rates.py"), *map(str, folders)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    return {
        "model": "Llama of 8 layers, 512 wide, 8 heads on 4, 1536 neurons, 32000 tokens, tied",
        "mac_ratio_of_half": (HEAD_MACS + BLOCK_MACS) / (HEAD_MACS + BLOCK_MACS / 2),
        "runtime": "ONNX Runtime GenAI, greedy, one row, cache buffer shared",
        **json.loads(done.stdout.splitlines()[-1]),
    }


def encoder_bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold our form against the best of the others, and the half-pruned against its dense."""
    encoder = result.get("encoder")
    if encoder is None:
        return []
    bars = []
    for batch, cases in encoder["latency_ms"].items():
        median = {name: case["median"] for name, case in cases.items()}
        best = min(median[peer] for peer in PEERS)
        bars.append(
            make_bar(
                f"MiniLM, batch {batch}: ort-cpu's latency by that of the best other way",
                median["ort-cpu"] / best,
                1.0,
                "at_most",
            )
        )
        gain = median["ort-cpu"] / median["ort-cpu, half"]
        bars.append(
            make_bar(f"MiniLM, batch {batch}: dense by half pruned, ort-cpu", gain, 1.5, "at_least")
        )
        if batch == "8":
            bars.append(
                make_bar(
                    "MiniLM, batch 8: gain of half pruned by the ideal MAC ratio",
                    gain / encoder["mac_ratio"],
                    0.85,
                    "at_least",
                )
            )
    return bars


def decoder_bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold our tokens a second against the builder's, and the half-pruned against its dense."""
    decoder = result.get("decoder")
    if decoder is None:
        return []
    rate = {name: case["median"] for name, case in decoder["tokens_per_second"].items()}
    bars = [
        make_bar(
            f"Llama 42M, {precision}: our tokens a second by those of GenAI's builder",
            rate[f"ours-dense-{precision}"] / rate[f"builder-dense-{precision}"],
            1.0,
            "at_least",
        )
        for precision in ("fp32", "int8", "int4")
    ]
    bars.append(
        make_bar(
            "Llama 42M, fp32: tokens a second of half pruned by dense",
            rate["ours-half-fp32"] / rate["ours-dense-fp32"],
            1.5,
            "at_least",
        )
    )
    return bars


if __name__ == "__main__":
    main()
